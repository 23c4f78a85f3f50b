"""Where the replicas of a teacher are: addresses as people write them, and what they mean now.

gRPC's own DNS resolver looks again only after a connection failed, so a replica that joins a
healthy fleet would get nothing; names are therefore looked up here, again and again. No gRPC, no
torch.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from teacher_service.errors import TeacherRefused

Lookup = Callable[[str], Awaitable[Sequence[str]]]

# Forms that gRPC knows by a word before a colon.
_SCHEMES = ("dns", "ipv4", "ipv6", "unix", "unix-abstract", "vsock", "xds")


@dataclass(frozen=True)
class Endpoint:
    """One replica.

    Attributes:
        target: what is dialled.
        host: the name that led to ``target``, which a TLS certificate must bear; empty where
            ``target`` was written as it is.
    """

    target: str
    host: str = ""

    def __str__(self) -> str:
        return f"{self.target} ({self.host})" if self.host else self.target


async def look_up(host: str) -> Sequence[str]:
    """The IP addresses of a name, by the system's resolver, in its order.

    Raises:
        OSError: it has none, or no name server answers.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def written_addresses(address: str | Sequence[str]) -> tuple[str, ...]:
    """One address, several with commas between, or a sequence of these, each once.

    Raises:
        TeacherRefused: none, what is no address, or a ``file:`` address with a relative path.
    """
    texts = [address] if isinstance(address, str) else address
    found = tuple(dict.fromkeys(p.strip() for t in texts for p in t.split(",") if p.strip()))
    if not found:
        raise TeacherRefused("no teacher address is given; give HOST:PORT or unix:PATH")
    for one in found:
        if not one.startswith("file:"):
            try:
                _check(one)
            except ValueError as error:
                raise TeacherRefused(str(error)) from error
        elif not Path(one.removeprefix("file:")).is_absolute():
            raise TeacherRefused(f"{one}: a file of addresses needs an absolute path")
    return found


class AddressBook:
    """What the written addresses mean; while a name server or file is away, the last answer holds.

    ============================  ===========================================================
    ``HOST:PORT``                 a literal IP is itself; a name with several addresses of one
                                  family is that many replicas, otherwise gRPC dials the name
    ``dns:///HOST:PORT``          the same
    ``file:/PATH``                one of the other forms a line, ``#`` begins a comment
    ``unix:PATH`` and the rest    given to gRPC as it is
    ============================  ===========================================================

    Attributes:
        written: the addresses as configured.
        trouble: why the last reading failed for some of them; empty where it did not.
    """

    def __init__(self, address: str | Sequence[str], lookup: Lookup = look_up) -> None:
        self.written = written_addresses(address)
        self.trouble = ""
        self._lookup = lookup
        self._last: dict[str, list[Endpoint]] = {}

    def __str__(self) -> str:
        return ", ".join(self.written)

    @property
    def may_change(self) -> bool:
        """Whether another reading can give anything else."""
        return any(a.startswith("file:") or _host_and_port(a) is not None for a in self.written)

    async def read(self) -> list[Endpoint]:
        """The replicas now, each once, in the order written."""
        troubles: list[str] = []
        for address in self.written:
            try:
                self._last[address] = await self._read(address)
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                troubles.append(f"cannot look up {address}: {reason}")
        self.trouble = "; ".join(troubles)
        return list(dict.fromkeys(e for a in self.written for e in self._last.get(a, ())))

    async def _read(self, address: str) -> list[Endpoint]:
        if address.startswith("file:"):
            text = await asyncio.to_thread(Path(address.removeprefix("file:")).read_text)
            lines = (line.partition("#")[0].strip() for line in text.splitlines())
            named = [line for line in lines if line]
            for line in named:
                _check(line)
            return [e for line in named for e in await self._resolve(line)]
        return await self._resolve(address)

    async def _resolve(self, address: str) -> list[Endpoint]:
        pair = _host_and_port(address)
        if pair is None:
            return [Endpoint(address)]
        host, port = pair
        found = await self._lookup(host)
        families = [[ip for ip in found if (":" in ip) is v6] for v6 in (False, True)]
        # A machine with an address in both families must not count twice.
        several = max(families, key=len)
        if len(several) < 2:
            return [Endpoint(f"{host}:{port}")]
        return [Endpoint(f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}", host) for ip in several]


def _check(address: str) -> None:
    """gRPC takes any text for a name, and of a port too large what is left of it.

    Raises:
        ValueError: it is none of the forms.
    """
    scheme, _, rest = address.partition(":")
    if scheme in _SCHEMES and rest:
        return
    host, _, port = address.rpartition(":")
    number = int(port) if port.isascii() and port.isdecimal() else 0
    if not host or set(host) & set("/ ") or not 0 < number < 1 << 16:
        raise ValueError(
            f"{address!r} is no address; give HOST:PORT (port 1 .. 65535), unix:PATH or file:/PATH"
        )


def _host_and_port(address: str) -> tuple[str, str] | None:
    """The parts of a name with a port; None for a literal IP and every other form."""
    host, _, port = address.removeprefix("dns:///").rpartition(":")
    if not host or not port.isdecimal() or ":" in host or "/" in host:
        return None
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host, port
    return None

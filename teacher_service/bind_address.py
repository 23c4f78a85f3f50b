"""``HOST:PORT`` taken apart, and whether other machines can reach it."""

from __future__ import annotations

import ipaddress


def host_and_port(address: str) -> tuple[str, int] | None:
    """Of ``HOST:PORT``; None where the text is none.

    An IPv6 host stands in brackets, which are taken off.
    """
    host, separator, port = address.rpartition(":")
    if not separator or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        return None
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Only this machine can reach the host."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def joined(host: str, port: int) -> str:
    """``HOST:PORT``, an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

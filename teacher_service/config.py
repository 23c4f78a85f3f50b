"""Settings of the server, validated where they are built."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from teacher_service.batching import BatchLimits
from teacher_service.bind_address import host_and_port, is_loopback

_MIB = 1 << 20


class ServerConfig(BaseModel):
    """Frozen; unknown keys and values out of range are refused with the value and the remedy."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model_dir: Path
    # Further model directories; the mean of all distributions is served.
    members: tuple[Path, ...] = ()
    # Pieces that a model of transformers begins every target with, separated by spaces.
    target_prefix: str | None = None
    address: str = "127.0.0.1:50051"
    address_file: Path | None = None

    device: str = "cpu"
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    threads: int | None = Field(None, ge=1)

    batch_tokens: int = Field(4096, ge=2)
    overhead_tokens: int = Field(512, ge=0)
    lookahead: int = Field(256, ge=1)
    max_skips: int = Field(4, ge=1)
    # How long an idle model waits for a fuller batch; None: what suits the device.
    max_delay_ms: float | None = Field(None, ge=0)
    generate_batch_tokens: int = Field(8192, ge=2)
    queue_requests: int = Field(1024, ge=1)
    queue_tokens: int = Field(_MIB, ge=1)
    queue_reply_bytes: int = Field(512 * _MIB, ge=1)
    # Batching by request alone: a score then does not depend on who else was asking, nor on what
    # was asked before.
    deterministic: bool = False
    encoder_cache_mib: int = Field(256, ge=0)
    score_cache_mib: int = Field(256, ge=0)

    max_request_sequences: int = Field(1024, ge=1)
    max_request_tokens: int = Field(65536, ge=2)
    max_request_bytes: int = Field(4 * _MIB, ge=1024)
    # What a generic client takes is 4 MiB a message; the rest is room for the envelope.
    max_unary_reply_bytes: int = Field(4 * _MIB - 64 * 1024, ge=1024)
    max_stream_reply_bytes: int = Field(256 * _MIB, ge=1024)
    chunk_bytes: int = Field(_MIB, ge=1024)

    default_deadline_s: float = Field(60.0, gt=0)
    lame_duck_s: float = Field(0.0, ge=0)
    drain_grace_s: float = Field(30.0, ge=0)
    end_with_stdin: bool = False

    # PORT or HOST:PORT of the metrics, on loopback by default; None: not shown.
    metrics_address: str | None = None
    # None: on for loopback and Unix sockets, off elsewhere.
    reflection: bool | None = None
    token_file: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    allow_insecure: bool = False

    @model_validator(mode="after")
    def _check(self) -> ServerConfig:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("--tls-certificate and --tls-key belong together; give both or none")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("--tls-client-ca needs --tls-certificate and --tls-key")
        if self.tls_certificate is None and not self.allow_insecure:
            self._check_open_binds()
        # Looked at for the faults they raise.
        _ = self.host_and_port, self.metrics_host_and_port
        if self.max_request_tokens > self.queue_tokens:
            raise ValueError(
                f"--max-request-tokens {self.max_request_tokens} is more than --queue-tokens "
                f"{self.queue_tokens}: such a request could never be admitted; change one of them"
            )
        return self

    def _check_open_binds(self) -> None:
        """Without TLS nothing may listen where other machines can reach it."""
        remedy = (
            "give --tls-certificate/--tls-key, bind 127.0.0.1, or accept the risk with "
            "--allow-insecure"
        )
        if not self.is_local:
            fault = (
                "neither TLS nor a token guards it"
                if self.token_file is None
                else "without TLS its token would travel in clear"
            )
            raise ValueError(
                f"address {self.address} is reachable from other machines and {fault}; {remedy}"
            )
        shown = self.metrics_host_and_port
        if shown is not None and not is_loopback(shown[0]):
            raise ValueError(
                f"metrics address {self.metrics_address} is reachable from other machines and "
                f"nothing guards it; {remedy}"
            )

    @property
    def model_dirs(self) -> tuple[Path, ...]:
        """All of an ensemble, or the one."""
        return (self.model_dir, *self.members)

    @property
    def host_and_port(self) -> tuple[str, int] | None:
        """Of a TCP address; None for a Unix socket.

        Raises:
            ValueError: the address is neither ``host:port`` nor ``unix:path``.
        """
        if self.address.removeprefix("unix:").strip("/") and self.address.startswith("unix:"):
            return None
        pair = host_and_port(self.address)
        if pair is None:
            raise ValueError(
                f"address {self.address!r} is not HOST:PORT (port 0 .. 65535) or unix:PATH"
            )
        return pair

    @property
    def metrics_host_and_port(self) -> tuple[str, int] | None:
        """Where metrics are shown; None where they are not.

        Raises:
            ValueError: the address is neither ``port`` nor ``host:port``.
        """
        if self.metrics_address is None:
            return None
        given = self.metrics_address
        pair = host_and_port(given if ":" in given else f"127.0.0.1:{given}")
        if pair is None:
            raise ValueError(f"metrics address {given!r} is neither PORT nor HOST:PORT")
        return pair

    @property
    def is_local(self) -> bool:
        """Only this machine can reach the address."""
        pair = self.host_and_port
        return pair is None or is_loopback(pair[0])

    @property
    def serves_reflection(self) -> bool:
        """The setting, or its default for this address."""
        return self.is_local if self.reflection is None else self.reflection

    @property
    def encoder_cache_bytes(self) -> int:
        """Budget of encoder states; none where answers must repeat bit by bit."""
        return 0 if self.deterministic else self.encoder_cache_mib * _MIB

    @property
    def score_cache_bytes(self) -> int:
        """Budget of scored pairs; none where answers must repeat bit by bit."""
        return 0 if self.deterministic else self.score_cache_mib * _MIB

    @property
    def max_delay_s(self) -> float:
        """The setting, or its default for this device: a GPU gains more by company than a CPU."""
        if self.max_delay_ms is None:
            return 0.0 if self.device.startswith("cpu") else 0.002
        return self.max_delay_ms / 1000

    @property
    def score_limits(self) -> BatchLimits:
        """Of the scoring lane."""
        return BatchLimits(
            batch_tokens=self.batch_tokens,
            overhead_tokens=self.overhead_tokens,
            lookahead=self.lookahead,
            max_skips=self.max_skips,
            max_delay_s=self.max_delay_s,
            queue_requests=self.queue_requests,
            queue_tokens=self.queue_tokens,
            queue_bytes=self.queue_reply_bytes,
            separate_requests=self.deterministic,
        )

    @property
    def generate_limits(self) -> BatchLimits:
        """Of the generation lane; its batches also bound how long scoring waits for one."""
        return BatchLimits(
            batch_tokens=self.generate_batch_tokens,
            overhead_tokens=self.overhead_tokens,
            lookahead=self.lookahead,
            max_skips=self.max_skips,
            queue_requests=self.queue_requests,
            queue_tokens=self.queue_tokens,
            queue_bytes=self.queue_reply_bytes,
            separate_requests=self.deterministic,
        )

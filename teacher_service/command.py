"""The command line of the server, also ``imitkd teacher serve``. Heavy imports come late."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

_Opt = typer.Option


def serve(
    model_dirs: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL_DIR...",
            help="Model directory to serve; of several the mean of their distributions.",
        ),
    ],
    target_prefix: Annotated[
        str | None,
        _Opt(
            help="Models of transformers: pieces every target begins with, such as fra_Latn; "
            "default: what their configuration forces."
        ),
    ] = None,
    address: Annotated[
        str,
        _Opt(help="HOST:PORT or unix:PATH. Port 0 takes a free one. Only loopback is open as is."),
    ] = "127.0.0.1:50051",
    address_file: Annotated[
        Path | None,
        _Opt(help="Write the bound address into this file once listening; removed at the end."),
    ] = None,
    device: Annotated[str, _Opt(help="cpu, cuda or cuda:I.")] = "cpu",
    dtype: Annotated[
        str, _Opt(help="fp32, bf16 or fp16 weights and forward pass; narrower is less exact.")
    ] = "fp32",
    threads: Annotated[
        int | None, _Opt(help="CPU threads of the model; default: all cores.")
    ] = None,
    batch_tokens: Annotated[
        int,
        _Opt(
            help="Padded source+target ids in one forward pass: more is faster until memory ends."
        ),
    ] = 4096,
    max_delay_ms: Annotated[
        float | None,
        _Opt(help="How long an under-full batch waits for company; default: 0 on CPU, 2 on GPU."),
    ] = None,
    generate_batch_tokens: Annotated[
        int,
        _Opt(
            help="The same for generation, times beams; scoring waits for at most one such batch."
        ),
    ] = 8192,
    queue_requests: Annotated[
        int, _Opt(help="Requests that may wait; more are refused with a time to come back.")
    ] = 1024,
    queue_tokens: Annotated[int, _Opt(help="Ids that may wait.")] = 1 << 20,
    deterministic: Annotated[
        bool,
        _Opt(
            "--deterministic",
            help="Never batch two requests together, so that answers repeat bit by bit.",
        ),
    ] = False,
    encoder_cache_mib: Annotated[
        int,
        _Opt(
            help="Encoder states kept, on the model's device, in MiB; 0 or --deterministic: none."
        ),
    ] = 256,
    score_cache_mib: Annotated[
        int, _Opt(help="Scored pairs kept, in MiB; 0 or --deterministic: none.")
    ] = 256,
    max_request_tokens: Annotated[int, _Opt(help="Ids in one request.")] = 65536,
    default_deadline_s: Annotated[float, _Opt(help="Deadline of a call that brings none.")] = 60.0,
    lame_duck_s: Annotated[
        float, _Opt(help="After SIGTERM: how long NOT_SERVING is shown while calls still get in.")
    ] = 0.0,
    drain_grace_s: Annotated[
        float, _Opt(help="After SIGTERM: how long calls under way may take to finish.")
    ] = 30.0,
    end_with_stdin: Annotated[
        bool,
        _Opt(
            "--end-with-stdin",
            help="End, as by SIGTERM, when standard input, a pipe, closes: its parent is gone.",
        ),
    ] = False,
    reflection: Annotated[
        bool | None,
        _Opt("--reflection/--no-reflection", help="Server reflection; default: loopback only."),
    ] = None,
    token_file: Annotated[
        Path | None, _Opt(help="File with a bearer token that every call must bring.")
    ] = None,
    tls_certificate: Annotated[Path | None, _Opt(help="PEM certificate chain.")] = None,
    tls_key: Annotated[Path | None, _Opt(help="PEM private key.")] = None,
    tls_client_ca: Annotated[
        Path | None, _Opt(help="PEM authority; callers must show a certificate of it.")
    ] = None,
    metrics_address: Annotated[
        str | None,
        _Opt(help="Show Prometheus metrics at PORT (loopback) or HOST:PORT; with TLS where given."),
    ] = None,
    allow_insecure: Annotated[
        bool, _Opt("--allow-insecure", help="Accept a non-loopback bind without TLS.")
    ] = False,
) -> None:
    """Serve a model directory, ours or one of transformers, over gRPC until SIGTERM or Ctrl-C.

    Standard output has one JSON object a line: listening (with the bound address), serving,
    draining, stopped. The log goes to standard error.
    """
    settings = dict(locals())
    settings["model_dir"], *settings["members"] = settings.pop("model_dirs")
    run(settings)


def run(settings: dict[str, Any]) -> None:
    """Serve with these ``ServerConfig`` fields until SIGTERM or SIGINT.

    Raises:
        UserError: a setting is wrong, the port taken, the model broken.
        TeacherSecretError: unreadable token, certificate or key.
    """
    # gRPC's C core writes its own lines about every refused connection otherwise.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from pydantic import ValidationError

    from seq2seq.errors import UserError
    from teacher_service.config import ServerConfig
    from teacher_service.server import serve as serve_config

    try:
        config = ServerConfig(**settings)
    except ValidationError as error:
        raise UserError("; ".join(_told(fault) for fault in error.errors())) from error
    serve_config(config)


def _told(fault: Any) -> str:
    """One fault of a validation, with the flag and the value given where it is that flag's own."""
    message = fault["msg"].removeprefix("Value error, ")
    if not fault["loc"]:
        return str(message)
    flag = str(fault["loc"][0]).replace("_", "-")
    return f"--{flag}: {message} (given {fault['input']!r})"

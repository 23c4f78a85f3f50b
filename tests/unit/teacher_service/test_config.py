"""What the server's settings refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from teacher_service.config import ServerConfig


def config(**fields) -> ServerConfig:
    return ServerConfig(model_dir=Path("m"), **fields)


@pytest.mark.parametrize(
    "address", ["127.0.0.1:50051", "localhost:0", "[::1]:5", "unix:/run/t.sock", "127.9.9.9:1"]
)
def test_local_addresses_are_open_as_they_are(address):
    found = config(address=address)
    assert found.is_local
    assert found.serves_reflection


@pytest.mark.parametrize("address", ["0.0.0.0:50051", "[::]:50051", "10.0.0.1:1", "teacher.lan:1"])
def test_an_open_bind_without_tls_or_token_is_refused_unless_accepted(address):
    with pytest.raises(ValidationError, match="neither TLS nor a token guards it"):
        config(address=address)
    accepted = config(address=address, allow_insecure=True)
    assert not accepted.serves_reflection
    assert config(address=address, token_file=Path("t"))
    assert config(address=address, tls_certificate=Path("c"), tls_key=Path("k"))


@pytest.mark.parametrize(
    "address", ["50051", ":50051", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000"]
)
def test_addresses_that_are_none(address):
    with pytest.raises(ValidationError, match="HOST:PORT"):
        config(address=address)


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"batch_token": 5}, "Extra inputs are not permitted"),
        ({"batch_tokens": 0}, "greater than or equal to 2"),
        ({"dtype": "int8"}, "'fp32', 'bf16' or 'fp16'"),
        ({"tls_key": Path("k")}, "belong together"),
        ({"tls_client_ca": Path("k")}, "needs --tls-certificate"),
        ({"queue_tokens": 100}, "could never be admitted"),
    ],
)
def test_unknown_keys_and_values_out_of_range(fields, fault):
    with pytest.raises(ValidationError, match=fault):
        config(**fields)


def test_the_command_line_knows_every_setting_it_offers():
    import inspect

    from teacher_service.command import serve

    offered = set(inspect.signature(serve).parameters)
    assert "model_dirs" in offered
    offered = offered - {"model_dirs"} | {"model_dir", "members"}
    assert offered <= set(ServerConfig.model_fields)
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(serve).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    fields = ServerConfig.model_fields
    assert {name: fields[name].default for name in defaults} == defaults

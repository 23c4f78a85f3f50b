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
def test_an_open_bind_without_tls_is_refused_unless_accepted(address):
    with pytest.raises(ValidationError, match="neither TLS nor a token guards it"):
        config(address=address)
    with pytest.raises(ValidationError, match="its token would travel in clear"):
        config(address=address, token_file=Path("t"))
    accepted = config(address=address, allow_insecure=True, token_file=Path("t"))
    assert not accepted.serves_reflection
    assert config(address=address, tls_certificate=Path("c"), tls_key=Path("k"))


def test_a_token_without_tls_is_enough_where_nobody_listens_in():
    assert config(address="127.0.0.1:1", token_file=Path("t"))
    assert config(address="unix:/run/t.sock", token_file=Path("t"))


@pytest.mark.parametrize(
    ("given", "found"),
    [(None, None), ("9100", ("127.0.0.1", 9100)), ("localhost:0", ("localhost", 0))],
)
def test_metrics_are_shown_on_loopback_or_not_at_all(given, found):
    assert config(metrics_address=given).metrics_host_and_port == found


def test_metrics_for_other_machines_need_tls_or_consent():
    with pytest.raises(ValidationError, match=r"metrics address 0\.0\.0\.0:9 is reachable"):
        config(metrics_address="0.0.0.0:9")
    assert config(metrics_address="0.0.0.0:9", allow_insecure=True)
    files = {"tls_certificate": Path("c"), "tls_key": Path("k")}
    assert config(metrics_address="[::]:9", **files).metrics_host_and_port == ("::", 9)


@pytest.mark.parametrize("given", ["x", "127.0.0.1:", "1:2:x", "-1"])
def test_metrics_addresses_that_are_none(given):
    with pytest.raises(ValidationError, match="neither PORT nor HOST:PORT"):
        config(metrics_address=given)


def test_an_idle_model_waits_for_company_on_a_gpu_alone():
    assert config().score_limits.max_delay_s == config(device="cpu").max_delay_s == 0.0
    assert config(device="cuda:1").score_limits.max_delay_s == 0.002
    assert config(device="cuda", max_delay_ms=0).score_limits.max_delay_s == 0.0


def test_nothing_is_kept_where_answers_must_repeat():
    assert config().encoder_cache_bytes == config().score_cache_bytes == 256 << 20
    assert config(deterministic=True).encoder_cache_bytes == 0
    assert config(deterministic=True).score_cache_bytes == 0


@pytest.mark.parametrize(
    "address",
    ["50051", ":50051", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", "unix:", "unix:///"],
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

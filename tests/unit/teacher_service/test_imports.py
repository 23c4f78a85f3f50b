"""The client side is light: a rollout worker or a notebook must not load a model library."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "ray", "seq2seq", "pydantic", "transformers")


@pytest.mark.parametrize(
    "module",
    [
        "async_client",
        "channel",
        "client",
        "codec",
        "content_key",
        "errors",
        "requests",
        "retrying",
    ],
)
def test_the_client_side_loads_nothing_heavy(module):
    code = (
        f"import sys, teacher_service.{module}\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", ["addresses", "replicas", "replies", "retrying"])
def test_the_policy_of_the_client_loads_no_grpc(module):
    code = f"import sys, teacher_service.{module}\nprint('grpc' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_batcher_and_caches_load_neither_torch_nor_grpc():
    code = (
        "import sys, teacher_service.batching, teacher_service.engine, teacher_service.caches\n"
        "print([m for m in ('torch', 'grpc', 'seq2seq') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_metrics_load_neither_torch_nor_grpc():
    code = (
        "import sys, teacher_service.metrics\n"
        "print([m for m in ('torch', 'grpc') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_server_reads_torch_only_with_a_model():
    code = "import sys, teacher_service.server\nprint('torch' in sys.modules, 'ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"

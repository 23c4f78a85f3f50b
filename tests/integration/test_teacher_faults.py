"""What each fault of a teacher comes to in a run: it goes on as if nothing had been, or stops with
one line, everything saved, and can be resumed.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from seq2seq.checkpoint import load_model_vocabulary
from student_trainer.config import RunConfig, make_config
from student_trainer.ledger_check import check_ledger
from student_trainer.run_directory import RunDirectory
from student_trainer.training import train
from teacher_service.codec import decode_scores
from teacher_service.errors import (
    TeacherError,
    TeacherMismatch,
    TeacherProtocolError,
    TeacherTimeout,
)
from tests.fake_teacher import FakeTeacher, serving

STEPS, FAULT_AT = 6, 7
ATTEMPT_S = 0.25


class Faulty(FakeTeacher):
    """Answers well, but for the ``FAULT_AT``-th call of ``Score`` and ``lasting - 1`` after it.

    Attributes:
        act: what happens then, instead of an answer or before it.
        spoil: changes such an answer.
    """

    act: Callable[[Any], None] = staticmethod(lambda context: None)
    spoil: Callable[[Any], None] = staticmethod(lambda reply: None)
    lasting: int = 1
    scored: int = 0

    def Score(self, request: Any, context: Any) -> Any:
        self.scored += 1
        faulty = FAULT_AT <= self.scored < FAULT_AT + self.lasting
        if faulty:
            self.act(context)
        reply = super().Score(request, context)
        if faulty:
            self.spoil(reply)
        return reply


@pytest.fixture
def teacher(tiny_teacher: Path) -> Faulty:
    vocabulary = load_model_vocabulary(tiny_teacher)
    limits: dict[str, Any] = {
        "fingerprint": vocabulary.fingerprint,
        "vocabulary_size": vocabulary.size,
        "max_source_length": 128,
        "max_target_length": 128,
        "max_request_sequences": 64,
    }
    return Faulty(limits=limits)


@pytest.fixture
def config_of(plain_config: dict[str, Any]) -> Callable[[str, float], RunConfig]:
    """Two shards a step, each one question; the run's deadline for one is ``timeout_s``."""

    def make(address: str, timeout_s: float = 20.0) -> RunConfig:
        settings = {"address": address, "attempt_timeout_s": ATTEMPT_S, "timeout_s": timeout_s}
        optimiser = plain_config["optimiser"] | {"steps": STEPS}
        plain = plain_config | {"method": "imitkd", "teacher": settings, "optimiser": optimiser}
        plain["loss"] = {"teacher_labels_on_data_rows": True}
        return make_config(plain)

    return make


@contextlib.contextmanager
def served(teacher: Faulty) -> Iterator[str]:
    with serving(teacher) as (address,):
        yield address


def losses(run: Path) -> list[float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [r["loss"] for r in lines if r["kind"] == "step"]


@pytest.fixture(scope="module")
def made() -> dict[str, list[float]]:
    return {}


@pytest.fixture
def calm(made, config_of, teacher, tmp_path: Path) -> list[float]:
    """Losses of a run without faults, made once."""
    if not made:
        teacher.lasting = 0
        with served(teacher) as address:
            train(config_of(address), tmp_path / "calm")
        teacher.lasting, teacher.scored, teacher.address = 1, 0, "127.0.0.1:0"
        made["losses"] = losses(tmp_path / "calm")
    assert len(set(made["losses"])) == STEPS
    return made["losses"]


def hang(release: threading.Event) -> Callable[[Any], None]:
    """Keep a call until the test is over, whoever waits for it."""
    return lambda context: release.wait(30) and None


def answer_late(release: threading.Event) -> Callable[[Any], None]:
    """Answer when nobody waits for it any more."""

    def act(context: Any) -> None:
        while context.is_active() and not release.wait(0.01):
            pass

    return act


def refuse(code: grpc.StatusCode, pushback_ms: int | None = None) -> Callable[[Any], None]:
    def act(context: Any) -> None:
        if pushback_ms is not None:
            context.set_trailing_metadata((("grpc-retry-pushback-ms", str(pushback_ms)),))
        context.abort(code, "not now")

    return act


@pytest.mark.parametrize(
    ("fault", "lasting"),
    [
        pytest.param(hang, 1, id="hangs"),
        pytest.param(answer_late, 2, id="answers late, twice"),
        pytest.param(lambda _: refuse(grpc.StatusCode.UNAVAILABLE), 4, id="unavailable"),
        pytest.param(
            lambda _: refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, 20), 10, id="refuses for a while"
        ),
        pytest.param(lambda _: refuse(grpc.StatusCode.INTERNAL), 1, id="model failed once"),
    ],
)
def test_what_passes_leaves_no_trace(config_of, teacher, calm, tmp_path, fault, lasting):
    release = threading.Event()
    teacher.act, teacher.lasting = fault(release), lasting
    with served(teacher) as address:
        try:
            train(config_of(address), tmp_path / "run")
        finally:
            release.set()
    assert teacher.scored >= 2 * STEPS + lasting, "the fault never came"
    assert losses(tmp_path / "run") == calm
    account = check_ledger(RunDirectory(tmp_path / "run"))
    assert account.holds, account.verdict()


def not_a_number(reply: Any) -> None:
    decoded = decode_scores_of(reply)
    decoded[-1] = np.nan
    reply.argmax.log_probs.data = decoded.tobytes()


def decode_scores_of(reply: Any) -> np.ndarray:
    """The arg-max's log-probabilities, in their dtype on the wire."""
    from protos.teacher.v1 import teacher_pb2 as pb

    assert decode_scores(pb.PAYLOAD_KIND_ARGMAX, reply)
    return np.frombuffer(reply.argmax.log_probs.data, np.float32).copy()


def wrong_shape(reply: Any) -> None:
    reply.argmax.ids.shape[0] -= 1
    reply.argmax.ids.data = reply.argmax.ids.data[:-2]


def too_few_positions(reply: Any) -> None:
    for tensor, width in (
        (reply.token_log_probs, 4),
        (reply.argmax.ids, 2),
        (reply.argmax.log_probs, 4),
    ):
        tensor.shape[0] -= 1
        tensor.data = tensor.data[:-width]


def foreign_id(reply: Any) -> None:
    ids = np.frombuffer(reply.argmax.ids.data, np.uint16).copy()
    ids[0] = 60000
    reply.argmax.ids.data = ids.tobytes()


def other_revision(reply: Any) -> None:
    reply.revision = "sha256:other"


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (not_a_number, TeacherProtocolError, "log_probs holds values that are not numbers"),
        (wrong_shape, TeacherProtocolError, "tensors disagree about the number of positions"),
        (too_few_positions, TeacherProtocolError, r"asked for \d+ positions but got \d+"),
        (foreign_id, TeacherProtocolError, "ids outside the 48 of the model"),
        (other_revision, TeacherMismatch, "an answer of revision sha256:other where sha256:one"),
    ],
)
def test_what_is_wrong_is_never_learnt(config_of, teacher, calm, tmp_path, spoil, error, message):
    teacher.spoil = spoil
    with served(teacher) as address:
        stops_and_goes_on(config_of(address), tmp_path / "run", error, message, calm)


def test_another_teacher_in_the_midst_of_a_run(config_of, teacher, calm, tmp_path):
    def exchanged(context: Any) -> None:
        teacher.revision = "sha256:other"
        context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")

    teacher.act = exchanged
    with served(teacher) as address:
        config, run = config_of(address), tmp_path / "run"
        message = "expected revision sha256:one but this teacher is sha256:other"
        with pytest.raises(TeacherMismatch, match=message):
            train(config, run)
        teacher.revision = "sha256:one"
        train(config, run, resume=True)
    assert losses(run) == calm


def test_a_teacher_that_hangs_past_the_deadline(config_of, teacher, calm, tmp_path):
    release = threading.Event()
    teacher.act, teacher.lasting = hang(release), 3
    with served(teacher) as address:
        stops_and_goes_on(
            config_of(address, timeout_s=2 * ATTEMPT_S),
            tmp_path / "run",
            TeacherTimeout,
            "gave up after",
            calm,
            release.set,
        )


def stops_and_goes_on(
    config: RunConfig,
    run: Path,
    error: type[TeacherError],
    message: str,
    calm: list[float],
    mend: Callable[[], None] = lambda: None,
) -> None:
    """One line names the shard; three steps are saved; the rest comes with a resume."""
    with pytest.raises(error, match=rf"^batch 3 shard 0: .*{message}.*--resume$"):
        train(config, run)
    mend()
    assert RunDirectory(run).checkpointed() == 3
    assert losses(run) == calm[:3]
    train(config.model_copy(update={"teacher": patient(config)}), run, resume=True)
    assert losses(run) == calm
    account = check_ledger(RunDirectory(run))
    assert account.holds and account.resumes == 1, account.verdict()


def patient(config: RunConfig) -> Any:
    assert config.teacher is not None
    return config.teacher.model_copy(update={"timeout_s": 20.0})

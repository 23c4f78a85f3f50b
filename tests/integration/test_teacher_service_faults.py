"""What goes wrong over a real connection, and which status and exception it becomes."""

# ruff: noqa: SIM117  (nested blocks show who outlives whom)

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from google.rpc import error_details_pb2, status_pb2

from protos.teacher.v1 import teacher_pb2 as pb
from protos.teacher.v1 import teacher_pb2_grpc
from seq2seq.errors import UserError
from teacher_service import codec, errors
from teacher_service.client import TeacherClient
from teacher_service.config import ServerConfig
from teacher_service.local_model import LocalModel, load_local_model
from teacher_service.server import ServerThread
from teacher_service.work import ScoreChoice, ScoreItem
from tests.unit.teacher_service.support import save_tiny_teacher, tiny_config
from tests.watching import wait_until

Code = grpc.StatusCode
ARGMAX = codec.ArgmaxSpec()


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "model"
    save_tiny_teacher(path)
    return path


@contextmanager
def serving(
    config: ServerConfig, wrap: Callable[[LocalModel], Any] = lambda model: model
) -> Iterator[ServerThread]:
    def load(config: ServerConfig) -> Any:
        return wrap(load_local_model(config.model_dir, "cpu", "fp32", 1))

    with ServerThread(config, load) as server:
        with TeacherClient(server.address) as probe, grpc.insecure_channel(server.address) as c:
            if config.token_file is None:
                probe.wait_ready(30)
            else:
                grpc.channel_ready_future(c).result(30)
        yield server


@pytest.fixture(scope="module")
def server(model_dir) -> Iterator[ServerThread]:
    with serving(tiny_config(model_dir, max_request_bytes=4 << 20)) as server:
        yield server


@pytest.fixture
def client(server) -> Iterator[TeacherClient]:
    with TeacherClient(server.address, timeout_s=20) as client:
        yield client


@pytest.fixture
def stub(server) -> Iterator[teacher_pb2_grpc.TeacherServiceStub]:
    with grpc.insecure_channel(server.address) as channel:
        yield teacher_pb2_grpc.TeacherServiceStub(channel)


def score_request(count: int = 1, length: int = 3) -> pb.ScoreRequest:
    sequence = pb.ScoreSequence(source_ids=[5] * length, target_ids=[6] * length)
    return pb.ScoreRequest(
        sequences=[sequence] * count, payload=pb.PayloadSpec(kind="PAYLOAD_KIND_ARGMAX")
    )


class Gated:
    """A model whose scoring waits for ``open``; counts what it was given."""

    def __init__(self, model: LocalModel) -> None:
        self._model = model
        self.identity = model.identity
        self.artifact, self.generate = model.artifact, model.generate
        self.open, self.entered = threading.Event(), threading.Event()
        self.computed = 0

    def warm_up(self, batch_tokens: int) -> None: ...

    def score(self, choice: ScoreChoice, items: Sequence[ScoreItem]) -> Any:
        self.entered.set()
        assert self.open.wait(30)
        self.computed += len(items)
        return self._model.score(choice, items)


@contextmanager
def gated(config: ServerConfig) -> Iterator[tuple[ServerThread, Gated]]:
    made: list[Gated] = []

    def wrap(model: LocalModel) -> Gated:
        made.append(Gated(model))
        return made[0]

    with serving(config, wrap) as server:
        try:
            yield server, made[0]
        finally:
            made[0].open.set()


@pytest.mark.parametrize(
    ("source", "target", "fault"),
    [
        ([], [6], "empty"),
        ([5, 0], [6], "padding id 0 at 1"),
        ([5, 1], [1, 6], "goes on after the end symbol"),
        ([5, 1], [40], "outside the vocabulary 0 .. 39"),
        ([5] * 13, [6], "13 ids are more than the model's limit of 12"),
        ([5, 1], [6] * 13, "13 ids are more than the model's limit of 12"),
    ],
)
@pytest.mark.parametrize("payload", [ARGMAX, codec.FullSpec()], ids=["Score", "ScoreStream"])
def test_broken_rules_are_refused_in_one_line(client, source, target, fault, payload):
    with pytest.raises(errors.TeacherRefused, match=fault) as caught:
        client.score([[5, 1], source], [[6], target], payload)
    assert "sequences[1]" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bad_request_names_its_field_in_the_details(stub):
    request = score_request()
    request.sequences[0].source_ids.append(99)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Score(request)
    assert caught.value.code() is Code.INVALID_ARGUMENT
    (blob,) = [v for k, v in caught.value.trailing_metadata() if k == "grpc-status-details-bin"]
    detail = error_details_pb2.BadRequest()
    assert status_pb2.Status.FromString(blob).details[0].Unpack(detail)
    assert detail.field_violations[0].field == "sequences[0].source_ids"


@pytest.mark.parametrize("expected", ["expected_fingerprint", "expected_revision"])
def test_a_mismatch_is_refused_by_every_call(server, expected):
    with TeacherClient(server.address, **{expected: "sha256:other"}) as client:
        for call in (
            client.model_info,
            client.wait_ready,
            client.artifact,
            lambda: client.score([[5, 1]], [[6]], ARGMAX),
            lambda: client.generate([[5, 1]], codec.Greedy()),
        ):
            with pytest.raises(errors.TeacherMismatch, match="sha256:other"):
                call()


def test_the_handshake_of_the_right_teacher_passes(client, server):
    info = client.model_info()
    with TeacherClient(
        server.address,
        expected_fingerprint=info.fingerprint,
        expected_revision=info.revision,
    ) as sure:
        assert sure.score([[5, 1]], [[6]], ARGMAX).revision == info.revision


def test_what_a_teacher_does_not_offer_answers_unimplemented(model_dir):
    """As an ensemble has no one state and no one projection."""

    def less(model: LocalModel) -> LocalModel:
        model.identity = replace(
            model.identity,
            payloads=(pb.PAYLOAD_KIND_ARGMAX, pb.PAYLOAD_KIND_CANDIDATES),
            artifacts=(pb.ARTIFACT_KIND_TOKENIZER,),
        )
        return model

    with serving(tiny_config(model_dir), less) as server:
        with TeacherClient(server.address) as client:
            info = client.model_info()
            assert set(info.payloads) == {"argmax", "candidates"}
            assert info.artifacts == ("tokenizer",)
            with pytest.raises(errors.TeacherRefused, match="HIDDEN is not offered"):
                client.score([[5, 1]], [[6]], codec.HiddenSpec())
            with pytest.raises(errors.TeacherRefused, match="OUTPUT_PROJECTION is not offered"):
                client.artifact("output_projection")


def test_an_unknown_method_answers_unimplemented(server):
    with grpc.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/teacher.v1.TeacherService/Nothing")(b"")
    assert caught.value.code() is Code.UNIMPLEMENTED


@pytest.mark.parametrize("method", ["Score", "ScoreStream", "Generate", "GetModelInfo"])
def test_bytes_that_are_no_message_are_the_callers_fault(server, method):
    with grpc.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            list(channel.unary_stream(f"/teacher.v1.TeacherService/{method}")(b"\xff\xff\xff"))
    assert caught.value.code() is Code.INVALID_ARGUMENT
    assert "not a message of this contract" in caught.value.details()


def test_a_message_over_four_mebibytes_is_refused_without_pushback_and_not_retried(server):
    data = b"\x00" * ((4 << 20) + 1)
    with grpc.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/teacher.v1.TeacherService/Score")(data)
    assert caught.value.code() is Code.RESOURCE_EXHAUSTED
    assert "grpc-retry-pushback-ms" not in dict(caught.value.trailing_metadata() or ())


@pytest.mark.parametrize(
    ("count", "length", "fault"),
    [
        (1025, 1, "1025 are more than max_request_sequences of 1024"),
        (1024, 12, "24576 source and target ids, more than max_request_tokens of 20000"),
    ],
)
def test_a_request_too_large_is_refused_at_the_door_and_the_queue_moves_on(
    model_dir, count, length, fault
):
    with serving(tiny_config(model_dir, max_request_tokens=20000)) as server:
        with grpc.insecure_channel(server.address) as channel:
            stub = teacher_pb2_grpc.TeacherServiceStub(channel)
            with pytest.raises(grpc.RpcError, match=fault) as caught:
                stub.Score(score_request(count, length))
            assert caught.value.code() is Code.INVALID_ARGUMENT
            assert stub.Score(score_request()).token_log_probs.shape == [3]


def test_a_sequence_over_the_batch_budget_is_refused_at_the_door(model_dir):
    with serving(tiny_config(model_dir, batch_tokens=10)) as server:
        with TeacherClient(server.address) as client:
            with pytest.raises(errors.TeacherRefused, match="sequence 1 costs 11 ids"):
                client.score([[5, 1], [5] * 6], [[6], [6] * 5], ARGMAX)
            assert client.score([[5] * 5], [[6] * 5], ARGMAX).lengths_B.tolist() == [5]


def test_a_full_queue_pushes_back_and_the_client_comes_again(model_dir):
    with gated(tiny_config(model_dir, queue_requests=1)) as (server, model):
        with grpc.insecure_channel(server.address) as channel:
            stub = teacher_pb2_grpc.TeacherServiceStub(channel)
            first = stub.Score.future(score_request())
            assert model.entered.wait(10)
            second = stub.Score.future(score_request(2))
            wait_until(lambda: server.server.engine.waiting()["score"][0] == 1)
            with pytest.raises(grpc.RpcError) as caught:
                stub.Score(score_request())
            assert caught.value.code() is Code.RESOURCE_EXHAUSTED
            pushback = dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"]
            assert 1 <= int(pushback) <= 5000
            waits: list[float] = []

            async def sleep(seconds: float) -> None:
                waits.append(seconds)
                model.open.set()
                # The server is on this loop as well.
                await asyncio.to_thread(lambda: (first.result(10), second.result(10)))
                await asyncio.sleep(seconds)

            with TeacherClient(server.address, sleep=sleep) as client:
                assert client.score([[5, 1]], [[6, 7]], ARGMAX).lengths_B.tolist() == [2]
            assert int(pushback) / 1000 <= waits[0] <= int(pushback) / 1000 * 1.5
            assert len(waits) == 1
        assert server.server.engine.waiting()["score"] == (0, 0, 0)


def test_cancelled_work_leaves_the_queue_and_is_never_computed(model_dir):
    with gated(tiny_config(model_dir)) as (server, model):
        with grpc.insecure_channel(server.address) as channel:
            stub = teacher_pb2_grpc.TeacherServiceStub(channel)
            first = stub.Score.future(score_request())
            assert model.entered.wait(10)
            waiting = [stub.Score.future(score_request(3)) for _ in range(4)]
            engine = server.server.engine
            wait_until(lambda: engine.waiting()["score"][:2] == (4, 72))
            for call in waiting[1:]:
                call.cancel()
            wait_until(lambda: engine.waiting()["score"][:2] == (1, 18))
            model.open.set()
            first.result(10), waiting[0].result(10)
        assert model.computed == 4
        wait_until(lambda: engine.waiting()["score"] == (0, 0, 0))


@pytest.mark.parametrize("own_deadline", [True, False], ids=["the call's", "the server's default"])
def test_a_deadline_ends_waiting_work(model_dir, own_deadline):
    config = tiny_config(model_dir, default_deadline_s=60.0 if own_deadline else 0.3)
    with gated(config) as (server, model):
        with grpc.insecure_channel(server.address) as channel:
            stub = teacher_pb2_grpc.TeacherServiceStub(channel)
            with pytest.raises(grpc.RpcError) as caught:
                stub.Score(score_request(), timeout=0.3 if own_deadline else None)
            assert caught.value.code() is Code.DEADLINE_EXCEEDED
            wait_until(lambda: server.server.engine.waiting()["score"] == (0, 0, 0))
            model.open.set()
            assert stub.Score(score_request()).token_log_probs.shape == [3]


def whole_vocabulary(sequences: int) -> pb.ScoreStreamRequest:
    """A reply of 2 MB for 1,024 sequences."""
    sequence = pb.ScoreSequence(source_ids=[5, 1], target_ids=[6] * 12)
    payload = pb.PayloadSpec(kind="PAYLOAD_KIND_FULL", dtype="DATA_TYPE_FLOAT32")
    return pb.ScoreStreamRequest(
        request=pb.ScoreRequest(sequences=[sequence] * sequences, payload=payload)
    )


def test_a_reader_that_stalls_does_not_hold_the_queue_for_ever(model_dir):
    """It brings no deadline; its reply's bytes would count against everybody else's."""
    config = tiny_config(model_dir, default_deadline_s=0.5, chunk_bytes=1 << 16)
    # What gRPC takes from a sender that nobody reads.
    window = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1 << 16))
    with serving(config) as server, grpc.insecure_channel(server.address, window) as channel:
        stub = teacher_pb2_grpc.TeacherServiceStub(channel)
        call = stub.ScoreStream(whole_vocabulary(1024))
        engine, gate = server.server.engine, server.server._gate
        wait_until(lambda: engine.waiting()["score"][2] > 0)
        wait_until(lambda: engine.waiting()["score"] == (0, 0, 0) and gate.inside == 0)
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        assert caught.value.code() is Code.DEADLINE_EXCEEDED
        assert "a call that brings no deadline" in caught.value.details()
        # One that has a deadline of its own is not cut short.
        assert len(list(stub.ScoreStream(whole_vocabulary(1024), timeout=30))) > 20


def test_a_call_cancelled_while_its_reply_is_sent_leaves_nothing(model_dir):
    config = tiny_config(model_dir, chunk_bytes=1 << 16)
    window = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1 << 16))
    with serving(config) as server, grpc.insecure_channel(server.address, window) as channel:
        call = teacher_pb2_grpc.TeacherServiceStub(channel).ScoreStream(whole_vocabulary(1024))
        next(call)
        engine, gate = server.server.engine, server.server._gate
        assert engine.waiting()["score"][2] > 0 and gate.inside == 1
        call.cancel()
        wait_until(lambda: engine.waiting()["score"] == (0, 0, 0) and gate.inside == 0)


def test_a_poisoned_sequence_fails_its_own_request_alone(model_dir, caplog):
    def poison(model: LocalModel) -> LocalModel:
        honest = model.score

        def score(choice: ScoreChoice, items: Sequence[ScoreItem]) -> Any:
            if any(39 in item.source for item in items):
                raise RuntimeError("a secret of the model")
            return honest(choice, items)

        model.score = score  # type: ignore[method-assign]
        return model

    with serving(tiny_config(model_dir), poison) as server:
        with TeacherClient(server.address, timeout_s=10) as client, ThreadPoolExecutor(8) as pool:
            calls = [
                pool.submit(client.score, [[5 + i % 2 * 34, 1]], [[6]], ARGMAX) for i in range(8)
            ]
            failures = [call.exception(20) for call in calls]
    assert [type(f).__name__ for f in failures] == ["NoneType", "TeacherFailed"] * 4
    message = str(failures[1])
    assert "secret" not in message
    assert message.rsplit(" ", 1)[1] in caplog.text
    assert "a secret of the model" in caplog.text


def test_non_finite_output_is_internal_never_a_payload(model_dir):
    def damage(model: LocalModel) -> LocalModel:
        honest = model.score

        def score(choice: ScoreChoice, items: Sequence[ScoreItem]) -> Any:
            poisoned = any(39 in item.source for item in items)
            with torch.no_grad():
                model._model.logit_bias[7] = float("nan") if poisoned else 0.0
            return honest(choice, items)

        model.score = score  # type: ignore[method-assign]
        return model

    with serving(tiny_config(model_dir), damage) as server:
        with TeacherClient(server.address) as client:
            with pytest.raises(errors.TeacherFailed, match="1 of 1 distributions are not finite"):
                client.score([[39, 1]], [[6]], ARGMAX)
            assert client.score([[5, 1]], [[6]], ARGMAX).lengths_B.tolist() == [1]


def test_a_model_that_no_longer_computes_ends_its_server_and_costs_no_answer(model_dir):
    """A GPU's fault stays; a replica that fails at once would otherwise draw all requests."""
    broken = threading.Event()

    def breaking(model: LocalModel) -> LocalModel:
        honest = model.score

        def score(*work: Any) -> Any:
            if broken.is_set():
                raise RuntimeError("an illegal memory access")
            return honest(*work)

        model.score = score  # type: ignore[method-assign]
        return model

    ended = pytest.raises(UserError, match=r"no longer computes on cpu \(an illegal memory")
    with serving(tiny_config(model_dir)) as whole, ended:
        with serving(tiny_config(model_dir), breaking) as server:
            with TeacherClient([server.address, whole.address], timeout_s=20) as client:
                client.wait_ready(30)
                expected = client.score([[5, 1]], [[6]], ARGMAX).token_log_probs_P
                broken.set()
                for _ in range(6):
                    found = client.score([[5, 1]], [[6]], ARGMAX).token_log_probs_P
                    np.testing.assert_allclose(found, expected, atol=0.01)
            assert isinstance(server._ended.exception(10), UserError)


def test_states_beyond_half_precision_are_internal_with_the_remedy(model_dir):
    def stretch(model: LocalModel) -> LocalModel:
        decode = model._model.decode_real
        model._model.decode_real = lambda *given: decode(*given) * 1e5  # type: ignore[method-assign]
        return model

    with serving(tiny_config(model_dir), stretch) as server:
        with TeacherClient(server.address) as client:
            with pytest.raises(errors.TeacherFailed, match=r"beyond the 65504 .* ask for FLOAT32"):
                client.score([[5, 1]], [[6, 7]], codec.HiddenSpec("float16"))
            wide = client.score([[5, 1]], [[6, 7]], codec.HiddenSpec("float32"))
            assert np.abs(wide.payload.states_PD).max() > 65504


def test_generation_does_not_keep_scoring_waiting(model_dir):
    """One long generation of many chunks; scores come back between its chunks."""
    order: list[str] = []

    def watch(model: LocalModel) -> LocalModel:
        generate, score = model.generate, model.score

        def slow_generate(choice: Any, items: Any, wanted: Any) -> Any:
            order.append("generate")
            started.set()
            assert release.wait(30)
            return generate(choice, items, wanted)

        def noted_score(choice: Any, items: Any) -> Any:
            order.append("score")
            return score(choice, items)

        model.warm_up = lambda batch_tokens: None  # type: ignore[method-assign, assignment]
        model.generate, model.score = slow_generate, noted_score  # type: ignore[method-assign]
        return model

    started, release = threading.Event(), threading.Event()
    with serving(tiny_config(model_dir, generate_batch_tokens=100), watch) as server:
        with TeacherClient(server.address) as client, ThreadPoolExecutor(2) as pool:
            long = pool.submit(client.generate, [[5, 6, 7, 1]] * 30, codec.Beam(5))
            assert started.wait(10)
            short = pool.submit(client.score, [[5, 1]], [[6]], ARGMAX)
            wait_until(lambda: server.server.engine.waiting()["score"][0] == 1)
            release.set()
            assert short.result(20).lengths_B.tolist() == [1]
            assert len(long.result(30)) == 30
    assert order[:2] == ["generate", "score"]
    assert order.count("generate") == 30


def test_a_generation_whose_caller_gave_up_ends_at_once(model_dir):
    """Its next callers, and a server that is to stop, do not wait for it."""
    asked: list[bool] = []

    def watch(model: LocalModel) -> LocalModel:
        generate = model.generate

        def endless(choice: Any, items: Any, wanted: Any) -> Any:
            if choice.cap != 7:
                return generate(choice, items, wanted)
            pause = threading.Event()
            while wanted():
                asked.append(True)
                pause.wait(0.005)
            raise RuntimeError("nobody waits")

        model.warm_up = lambda batch_tokens: None  # type: ignore[method-assign, assignment]
        model.generate = endless  # type: ignore[method-assign]
        return model

    with serving(tiny_config(model_dir), watch) as server:
        with TeacherClient(server.address) as client:
            client.wait_ready(30)
            with TeacherClient(server.address, timeout_s=0.3) as hasty:
                with pytest.raises(errors.TeacherTimeout):
                    hasty.generate([[5, 1]], codec.Greedy(), limit=codec.LengthLimit(cap=7))
            assert len(client.generate([[5, 1]], codec.Greedy())) == 1
        assert asked


def test_a_bearer_token_is_demanded_and_checked(model_dir, tmp_path):
    (tmp_path / "token").write_text("s3cret\n")
    with serving(tiny_config(model_dir, token_file=tmp_path / "token")) as server:
        with TeacherClient(server.address, token="s3cret") as client:
            client.wait_ready(30)
            assert client.score([[5, 1]], [[6]], ARGMAX).lengths_B.tolist() == [1]
            assert client.score([[5, 1]], [[6]], codec.FullSpec()).lengths_B.tolist() == [1]
        for token, fault in ((None, "no credential"), ("wrong", "wrong bearer token")):
            with TeacherClient(server.address, token=token) as client:
                for call in (client.model_info, client.artifact):
                    with pytest.raises(errors.TeacherDenied, match=fault):
                        call()


def test_an_absent_teacher_is_one_clear_line():
    with TeacherClient("127.0.0.1:9", timeout_s=0.5) as client:
        with pytest.raises(
            errors.TeacherUnavailable, match=r"127\.0\.0\.1:9 .*check that the teacher"
        ):
            client.score([[5, 1]], [[6]], ARGMAX)
        with pytest.raises(errors.TeacherUnavailable, match=r"in 0\.2 s"):
            client.wait_ready(0.2)


def test_a_call_rides_out_a_restart_of_the_teacher(model_dir):
    config = tiny_config(model_dir)
    with serving(config) as server:
        address = server.address
    restarted: list[ServerThread] = []

    async def sleep(seconds: float) -> None:
        if not restarted:
            restarted.append(ServerThread(config.model_copy(update={"address": address})))
            await asyncio.to_thread(restarted[0].__enter__)
        await asyncio.sleep(seconds)

    try:
        with TeacherClient(address, timeout_s=30, sleep=sleep) as client:
            assert client.score([[5, 1]], [[6]], ARGMAX).lengths_B.tolist() == [1]
    finally:
        for server in restarted:
            server.__exit__(None, None, None)

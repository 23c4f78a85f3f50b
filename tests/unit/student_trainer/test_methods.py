"""Each method's batch from a hand-made corpus; which payload feeds which loss."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from seq2seq.errors import UserError
from seq2seq.vocabulary import EOS_ID
from student_trainer.assembly import TrainingBatch, assemble
from student_trainer.config import LossConfig, RunConfig, make_config
from student_trainer.methods import METHODS, Divergence, Method
from student_trainer.rollout_worker import RolloutWorker
from student_trainer.training_data import make_data
from student_trainer.types import ScoredShard, ShardTask
from student_trainer.writers import likeliest
from teacher_service.codec import (
    Argmax,
    ArgmaxSpec,
    Candidates,
    CandidatesSpec,
    Full,
    FullSpec,
    Hidden,
    HiddenSpec,
    PayloadRequest,
    ScoreResult,
    TopK,
    TopKSpec,
)
from tests.builders import tiny_model, tiny_vocabulary

VOCABULARY = tiny_vocabulary()
V = VOCABULARY.size
WRITTEN = [[9, 9, EOS_ID], [8, EOS_ID]]
# Row: source, reference, the teacher's hypotheses best first. The second is nearest the reference.
ROWS = [
    ("ab cd", "ab cd ef gh", ["cd", "ab cd ef gh ab", "gh"]),
    ("ef gh", "ef gh ab cd", ["gh ef", "ef gh ab cd", "cd"]),
]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    records = [
        {
            "source": source,
            "references": [reference],
            "candidates": [{"text": text, "score": -i} for i, text in enumerate(hypotheses)],
        }
        for source, reference, hypotheses in ROWS
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return tmp_path


@pytest.fixture
def config_of(plain_config: dict[str, Any], corpus: Path) -> Any:
    def make(method: str, **changes: Any) -> RunConfig:
        extra = {
            "method": method,
            "teacher": {"address": "nowhere:1"},
            "corpus": {"path": str(corpus)},
            "batch": {"sentences": 2},
            "initialise": {"from": "finished"} if method == "seqinter" else None,
            "loss": {"top_k": 3},
            "mixing": {} if method == "gkd" else plain_config["mixing"],
        }
        return make_config(plain_config | extra | changes)

    return make


class Scribe:
    """A student that writes what it is told to, by row."""

    def load(self, weights: Any) -> None:
        pass

    def write(self, sources: Any, mode: Any, keys: Sequence[int]) -> list[list[int]]:
        return [WRITTEN[key] for key in keys]

    def candidates(self, sources: Any, targets: Any, k: int) -> list[np.ndarray]:
        return [np.tile(np.arange(20, 20 + k), (len(t), 1)) for t in targets]


class Oracle:
    """A teacher whose arg-max behind any prefix is 30, at a probability of its own for each row."""

    def __init__(self, confidence: dict[int, float] | None = None) -> None:
        self.asked: list[list[int]] = []
        self.candidates: Any = None
        self._confidence = confidence or {}

    def score(
        self,
        sources: Any,
        targets: Any,
        payload: PayloadRequest,
        *,
        temperature: float = 1.0,
        candidates: Any = None,
    ) -> ScoreResult:
        self.asked += [t.tolist() for t in targets]
        self.candidates = candidates
        p = np.log([self._confidence.get(len(t), 0.8) for t in targets for _ in t])
        p = p.astype(np.float32)
        count, token = len(p), np.full(len(p), -2.5, np.float32)
        found: Any
        if isinstance(payload, ArgmaxSpec):
            found = Argmax(np.full(count, 30, np.int32), p)
        elif isinstance(payload, TopKSpec):
            rest = np.tile(np.log(np.float32(0.05)), (count, payload.k - 1))
            ids = np.tile(np.arange(30, 30 + payload.k, dtype=np.int32), (count, 1))
            found = TopK(ids, np.c_[p, rest], np.full(count, np.log(0.1), np.float32))
        elif isinstance(payload, CandidatesSpec):
            rows = np.concatenate(candidates)
            found = Candidates(-np.ones(rows.shape, np.float32), token)
        elif isinstance(payload, HiddenSpec):
            found = Hidden(np.ones((count, 4), np.float32))
        else:
            assert isinstance(payload, FullSpec)
            found = Full(np.full((count, V), -np.log(V), np.float32))
        return ScoreResult(np.array([len(t) for t in targets]), token, found, "r")


def batch(config: RunConfig, beta: float, oracle: Oracle | None = None) -> ScoredShard:
    """Batch 0, with both rows; under a mixed method the first coin falls to the student."""
    data = make_data(config, VOCABULARY)
    teacher: Any = oracle or Oracle()
    worker = RolloutWorker(config, data.split, data.plan, Scribe(), teacher)
    worker.load(0, {})
    return worker.run(ShardTask(0, 0, 0, beta))


def ids(text: str) -> list[int]:
    return VOCABULARY.as_target(VOCABULARY.encode_many_targets([text])[0])


def targets(shard: ScoredShard) -> set[tuple[int, ...]]:
    return {tuple(row.tolist()) for row in shard.targets.rows()}


def said(texts: Sequence[str]) -> set[tuple[int, ...]]:
    return {tuple(ids(text)) for text in texts}


REFERENCES = said([reference for _, reference, _ in ROWS])
BEST = said([hypotheses[0] for _, _, hypotheses in ROWS])
CLOSEST = said(["ab cd ef gh ab", "ef gh ab cd"])
DATA = {"reference": REFERENCES, "teacher": BEST, "closest": CLOSEST}


def assembled(shard: ScoredShard) -> TrainingBatch:
    return assemble([shard], VOCABULARY.pad_id, "cpu")


# ------------------------------------------------------------------------------------ the methods


def test_every_method_is_in_the_table() -> None:
    assert get_args(Method) == tuple(METHODS)


EXPECTED = {
    "vanilla": (REFERENCES, "token"),
    "word-kd": (REFERENCES, "distribution"),
    "seqkd": (BEST, "token"),
    "seqkd-full": (BEST, "distribution"),
    "seqinter": (CLOSEST, "token"),
    "imitkd": (REFERENCES, "argmax"),
    "imitkd-full": (REFERENCES, "distribution"),
    "imitkd-star": (BEST, "argmax"),
    "imitkd-star-full": (BEST, "distribution"),
    "gkd": (REFERENCES, "distribution"),
    "aggregation": (REFERENCES, "argmax"),
    "replay": (REFERENCES, "distribution"),
}


@pytest.mark.parametrize("method", METHODS)
def test_data_rows(config_of: Any, method: str) -> None:
    """Beta 1: what rows hold before the student writes, and who labels them."""
    oracle = Oracle()
    shard = batch(config_of(method), 1.0, oracle)
    data, label = EXPECTED[method]
    assert targets(shard) == data and not shard.from_student.any()
    whole = assembled(shard)
    if label == "distribution":
        assert {tuple(t) for t in oracle.asked} == data
        assert whole.scored_positions == whole.positions
        assert whole.ids_QK[0].tolist() == [30, 31, 32]
    else:  # the token of the target, of which nobody is asked
        assert oracle.asked == [] and whole.scored_positions == 0
        assert sorted(whole.target_P.tolist()) == sorted(v for row in data for v in row)


MIXED = [name for name, spec in METHODS.items() if spec.mixed]


@pytest.mark.parametrize("method", MIXED)
def test_student_rows(config_of: Any, method: str) -> None:
    """Beta 0: every row is the student's, every position the teacher's."""
    oracle = Oracle()
    config = config_of(method, pool={"fresh": 1.0})
    shard = batch(config, 0.0, oracle)
    assert targets(shard) == {tuple(row) for row in WRITTEN} and shard.from_student.all()
    assert {tuple(t) for t in oracle.asked} == targets(shard)
    whole = assembled(shard)
    assert whole.scored_positions == whole.positions == 5
    width = 1 if EXPECTED[method][1] == "argmax" else 3
    assert whole.ids_QK.shape == (5, width) and (whole.ids_QK[:, 0] == 30).all()


@pytest.mark.parametrize("method", [m for m in METHODS if m not in MIXED])
def test_under_other_methods_the_student_never_writes(config_of: Any, method: str) -> None:
    assert targets(batch(config_of(method), 0.0)) == EXPECTED[method][0]


@pytest.mark.parametrize("method", ["imitkd", "imitkd-star", "imitkd-full", "imitkd-star-full"])
def test_a_mixed_batch(config_of: Any, method: str) -> None:
    """One row each: who labels the data row tells L_opt from L_full, its text tells the star."""
    for seed in range(30):
        oracle = Oracle()
        shard = batch(config_of(method, seed=seed), 0.5, oracle)
        if shard.from_student.sum() == 1:
            break
    own = int(shard.from_student.argmax())
    rows = shard.targets.rows()
    assert rows[own].tolist() in WRITTEN
    assert tuple(rows[1 - own].tolist()) in EXPECTED[method][0]
    asked = [rows[own].tolist()] if "full" not in method else [r.tolist() for r in rows]
    assert oracle.asked == asked


def test_gkd_mixes_half_and_half_unless_told(config_of: Any) -> None:
    assert config_of("gkd").mixing.lambda_ == 0.5
    assert config_of("gkd", mixing={"lambda": 0.2}).mixing.lambda_ == 0.2
    # A schedule of a file that it extends, taken back.
    config = config_of("gkd", mixing={"schedule": None, "base": 20.0})
    assert (config.mixing.lambda_, config.mixing.schedule) == (0.5, None)
    assert make_config(json.loads(config.model_dump_json(by_alias=True))) == config


@pytest.mark.parametrize("mixing", [{"schedule": "linear"}, {"schedule": "linear", "lambda": None}])
def test_gkd_has_no_schedule(config_of: Any, mixing: dict[str, Any]) -> None:
    fault = r"method gkd has .* \(0.5 where .* mixing.schedule linear .*; set mixing.schedule=null$"
    with pytest.raises(UserError, match=fault):
        config_of("gkd", mixing=mixing)
    with pytest.raises(UserError, match=r"schedule linear would go unused"):
        config_of("gkd", mixing=mixing | {"lambda": 0.3})
    assert config_of("replay", mixing=mixing).mixing.schedule == "linear"


# ----------------------------------------------------------------------------- teacher-written text


def test_seqinter_is_told_what_it_lacks(config_of: Any, corpus: Path) -> None:
    with pytest.raises(UserError, match="goes on from a finished student"):
        config_of("seqinter", initialise=None)
    record = {"source": "ab", "candidates": [{"text": "cd", "score": 0}]}
    (corpus / "train.jsonl").write_text(json.dumps(record) + "\n")
    with pytest.raises(UserError, match=r"1 sources without references.*use method seqkd"):
        make_data(config_of("seqinter"), VOCABULARY)
    assert make_data(config_of("seqkd"), VOCABULARY).split.target(0).tolist() == ids("cd")


@pytest.mark.parametrize(
    "line",
    ['{"source": "a", "references": []}', '{"source": "a", "candidates": []}', "{", "[]",
     '{"source": 3, "candidates": [{"text": "a"}]}'],
)  # fmt: skip
def test_a_corpus_that_the_teacher_did_not_write_for(
    config_of: Any, corpus: Path, line: str
) -> None:
    (corpus / "train.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match=r"train.jsonl:1: no teacher-written.*imitkd data distil"):
        make_data(config_of("seqkd"), VOCABULARY)


def test_teacher_written_text_may_lie_elsewhere(
    config_of: Any, tiny_corpus: Path, corpus: Path
) -> None:
    config = config_of("seqkd", corpus={"path": str(tiny_corpus), "distilled": str(corpus)})
    assert targets(batch(config, 1.0)) == BEST
    (corpus / "train.jsonl").unlink()
    with pytest.raises(UserError, match=r"cannot read .*train.jsonl"):
        make_data(config, VOCABULARY)


@pytest.mark.parametrize(
    ("method", "mixing", "allowed"),
    [
        ("imitkd-full", {"schedule": "constant", "value": 0.0}, True),
        ("gkd", {"lambda": 1.0}, True),
        ("gkd", {"lambda": 0.9}, False),
        ("imitkd-full", {"schedule": "exponential"}, False),
        ("vanilla", {"lambda": 1.0}, False),
    ],
)
def test_source_only_text(
    config_of: Any, corpus: Path, method: str, mixing: dict[str, Any], allowed: bool
) -> None:
    """Sentences without translations do for methods that never look at one."""
    lines = [json.dumps({"source": source, "references": []}) + "\n" for source, _, _ in ROWS]
    (corpus / "train.jsonl").write_text("".join(lines))
    config = config_of(method, mixing=mixing)
    if allowed:
        assert targets(batch(config, 0.0)) == {tuple(row) for row in WRITTEN}
    else:
        with pytest.raises(
            UserError, match=r"have no reference, which method .* needs; have the teacher"
        ):
            make_data(config, VOCABULARY)


# --------------------------------------------------------------------------------- loss and payload

FEEDS = {
    "forward-kl": {"top-k", "hidden", "full"},
    "reverse-kl": {"candidates", "hidden", "full"},
    "jsd": {"top-k", "hidden", "full"},
    "skew-kl": {"top-k", "hidden", "full"},
    "reverse-skew-kl": {"top-k", "hidden", "full"},
    "tvd": {"top-k", "hidden", "full"},
    "policy-gradient": {"argmax", "top-k", "candidates", "hidden", "full"},
}
PAYLOADS = ["argmax", "top-k", "candidates", "hidden", "full"]
SAMPLED = {"decoding": "sample", "top_k": 0}


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("divergence", get_args(Divergence))
def test_a_loss_is_refused_where_its_payload_cannot_feed_it(
    config_of: Any, divergence: str, payload: str
) -> None:
    loss = {"divergence": divergence, "payload": payload}
    if payload in FEEDS[divergence]:
        assert config_of("gkd", loss=loss, rollout=SAMPLED).payload == payload
        return
    with pytest.raises(UserError, match=f"loss.payload {payload} cannot feed {divergence}") as told:
        config_of("gkd", loss=loss, rollout=SAMPLED)
    assert all(name in str(told.value) for name in FEEDS[divergence])


@pytest.mark.parametrize(
    ("loss", "payload"),
    [
        ({}, "top-k"),
        ({"divergence": "reverse-kl"}, "candidates"),
        ({"divergence": "jsd", "jsd_beta": 1.0}, "candidates"),
        ({"divergence": "reverse-skew-kl", "skew_alpha": 0.0}, "candidates"),
        ({"divergence": "jsd"}, "top-k"),
    ],
)
def test_the_cheapest_payload_is_the_default(config_of: Any, loss: Any, payload: str) -> None:
    assert config_of("gkd", loss=loss).payload == payload


def test_l_opt_takes_every_payload_that_knows_the_argmax(config_of: Any) -> None:
    assert config_of("imitkd").payload == "argmax"
    for payload in ("top-k", "hidden", "full"):
        assert config_of("imitkd", loss={"payload": payload}).payload == payload
    with pytest.raises(UserError, match=r"loss.payload candidates cannot feed argmax"):
        config_of("imitkd", loss={"payload": "candidates"})


def test_a_method_that_fixes_its_loss_keeps_it(config_of: Any) -> None:
    with pytest.raises(UserError, match=r"method imitkd-full has a loss of its own.*gkd or replay"):
        config_of("imitkd-full", loss={"divergence": "tvd"})


@pytest.mark.parametrize(
    "rollout",
    [
        {},
        {"decoding": "sample", "top_k": 5},
        {"decoding": "sample", "top_k": 0, "temperature": 2.0},
    ],
)
def test_a_policy_gradient_needs_samples(config_of: Any, rollout: Any) -> None:
    with pytest.raises(UserError, match=r"set rollout.decoding=sample, rollout.top_k=0 and"):
        config_of("gkd", loss={"divergence": "policy-gradient"}, rollout=rollout)


def test_a_policy_gradient_takes_no_older_samples(config_of: Any) -> None:
    with pytest.raises(UserError, match=r"method replay keeps older ones; use method gkd"):
        config_of("replay", loss={"divergence": "policy-gradient"}, rollout=SAMPLED)


REVERSE = {"divergence": "reverse-kl", "tail": "renormalised"}
POLICY = {"divergence": "policy-gradient"}


@pytest.mark.parametrize(
    ("method", "loss", "fault"),
    [
        # Over the student's candidates, where the teacher may have a millionth of its mass.
        ("gkd", REVERSE, r"loss.tail renormalised .*; use loss.tail=bucket"),
        ("replay", REVERSE, r"loss.tail renormalised .*; use loss.tail=bucket"),
        (
            "aggregation",
            {"payload": "hidden"},
            r"payload hidden is too large to keep; use argmax or top-k, or leave it out for argmax",
        ),
        ("aggregation", {"payload": "full"}, r"too large to keep; use argmax or top-k"),
        ("replay", {"payload": "hidden"}, r"too large to keep; use top-k, or leave it out"),
        ("replay", {"payload": "full", "divergence": "reverse-kl"}, r"to keep; use candidates"),
        ("aggregation", {"temperature": 2.0}, r"loss.temperature 2 .* pool.confidence"),
        ("imitkd", {"student_temperature": 2.0}, r"student_temperature 2 .* arg-max here; leave"),
        ("aggregation", {"student_temperature": 0.5}, r"student_temperature 0.5 .* arg-max here"),
        (
            "gkd",
            POLICY | {"student_temperature": 2.0},
            r"temperature 2 .* were sampled here; leave",
        ),
        ("gkd", POLICY | {"temperature": 3.0}, r"loss.temperature 3 .* policy-gradient; leave"),
    ],
)
def test_what_a_loss_would_ignore_or_get_wrong_is_refused(
    config_of: Any, method: str, loss: dict[str, Any], fault: str
) -> None:
    with pytest.raises(UserError, match=fault) as told:
        config_of(method, loss=loss, rollout=SAMPLED)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("method", "loss"),
    [
        ("gkd", {"temperature": 2.0, "student_temperature": 2.0}),
        ("gkd", {"divergence": "reverse-kl", "tail": "bucket"}),
        ("gkd", {"divergence": "reverse-kl", "tail": "renormalised", "payload": "hidden"}),
        ("imitkd", {"temperature": 2.0}),
        ("aggregation", {"payload": "top-k"}),
        ("replay", {"payload": "top-k", "tail": "renormalised", "temperature": 2.0}),
        # Nothing of it is used, and a study's shared settings may have it.
        ("vanilla", {"temperature": 2.0, "student_temperature": 2.0, "tail": "renormalised"}),
    ],
)
def test_what_a_loss_uses_it_takes(config_of: Any, method: str, loss: dict[str, Any]) -> None:
    assert config_of(method, loss=loss).loss == LossConfig(**loss)


@pytest.mark.parametrize(
    ("method", "loss", "fault"),
    [
        ("gkd", {"divergence": "reverse-kl"}, "asks for the student's"),
        ("replay", {}, "has the student write new targets"),
    ],
)
def test_what_a_score_store_cannot_answer(
    config_of: Any, method: str, loss: dict[str, Any], fault: str
) -> None:
    with pytest.raises(UserError, match=rf"{fault}.*give teacher.address instead"):
        config_of(method, loss=loss, teacher={"store": "scores"})


def test_the_policy_gradient_asks_about_student_rows_alone(config_of: Any) -> None:
    config = config_of("gkd", loss={"divergence": "policy-gradient"}, rollout=SAMPLED)
    oracle = Oracle()
    batch(config, 1.0, oracle)
    assert oracle.asked == []
    whole = assembled(batch(config, 0.0, oracle))
    assert {tuple(t) for t in oracle.asked} == {tuple(row) for row in WRITTEN}
    assert whole.token_log_probs_Q.tolist() == [-2.5] * 5


def test_the_reverse_kl_asks_about_the_students_own_candidates(config_of: Any) -> None:
    config = config_of("gkd", loss={"divergence": "reverse-kl", "top_k": 4})
    oracle = Oracle()
    whole = assembled(batch(config, 0.0, oracle))
    assert [c.tolist() for c in oracle.candidates] == [
        [[20, 21, 22, 23]] * len(t) for t in oracle.asked
    ]
    assert (whole.ids_QK == whole.ids_QK.new_tensor([20, 21, 22, 23])).all()
    assert whole.log_probs_QK.unique().tolist() == [-1.0]


def test_the_likeliest_ids_are_those_of_a_full_forward() -> None:
    from tests import oracles

    model = tiny_model(3, vocab_size=12)
    sources = [np.array([5, 6, EOS_ID]), np.array([7, EOS_ID])]
    written = [np.array([4, EOS_ID]), np.array([8, 9, 4, EOS_ID])]
    found = likeliest(model, sources, written, 4, chunk=3)
    for source, target, table in zip(sources, written, found, strict=True):
        rows = oracles.distributions(model, source.tolist(), target.tolist())
        assert table.tolist() == [oracles.best_candidates(row, 4) for row in rows]


def test_hidden_and_full_payloads_travel_to_the_batch(config_of: Any) -> None:
    hidden = assembled(batch(config_of("imitkd-full", loss={"payload": "hidden"}), 0.0))
    assert hidden.states_QD.shape == (5, 4) and hidden.ids_QK.shape == (5, 0)
    full = assembled(batch(config_of("imitkd-full", loss={"payload": "full"}), 0.0))
    assert full.log_probs_QK.shape == (5, V) and full.states_QD.shape[1] == 0


# ------------------------------------------------------------------------------------- aggregation


def test_rows_that_the_teacher_doubts_get_their_data_back(config_of: Any) -> None:
    """Student rows of 3 and 2 ids; the teacher is at 0.5 about the first, 0.7 about the second."""
    shard = batch(config_of("aggregation"), 0.0, Oracle({3: 0.5, 2: 0.7}))
    own = shard.from_student.tolist()
    rows = [row.tolist() for row in shard.targets.rows()]
    assert sorted(own) == [False, True]
    assert rows[own.index(True)] == WRITTEN[1]
    assert rows[own.index(False)] == ids(ROWS[0][1])
    assert shard.labels is not None and len(shard.labels.positions) == 2
    flat = [v for row in rows for v in row]
    assert [flat[i] for i in shard.labels.positions] == WRITTEN[1]
    whole = assembled(shard)
    assert whole.scored_positions == 2 and whole.positions == 2 + len(ids(ROWS[0][1]))


def test_a_teacher_that_doubts_everything_leaves_the_data(config_of: Any) -> None:
    shard = batch(config_of("aggregation", pool={"confidence": 0.9}), 0.0)
    assert targets(shard) == REFERENCES and shard.labels is None and not shard.from_student.any()

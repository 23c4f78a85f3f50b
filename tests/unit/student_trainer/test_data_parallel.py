"""A learner of several processes does what one does. Here they are threads, over real sockets."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seq2seq.errors import UserError
from student_trainer import data_parallel
from student_trainer import update as update_module
from student_trainer.config import RunConfig, make_config
from student_trainer.data_parallel import Group, Place, SummedGradients
from student_trainer.follower import Follower
from student_trainer.learner import Learner
from student_trainer.rollout_worker import RolloutWorker
from student_trainer.run_directory import RunDirectory
from student_trainer.setup import make_learner, make_model
from student_trainer.training_data import make_data
from student_trainer.types import ScoredShard, ShardTask, TeacherLabels
from tests.builders import RECURRENT, tiny_model, tiny_vocabulary

pytestmark = pytest.mark.usefixtures("impatient")
VOCABULARY = tiny_vocabulary()
GONE = r"a process of the learner died, or gave no answer .*--resume"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_parallel, "ANSWER_S", 30)


def as_one(size: int, meeting: Path, act: Callable[[Group], Any]) -> list[Any]:
    """What each process of a group comes to; an exception is a result."""
    found: list[Any] = [None] * size

    def run(rank: int) -> None:
        try:
            found[rank] = act(Group(Place(rank, size, meeting)))
        except UserError as error:
            found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found


def test_what_the_leader_sends_comes_as_it_was_and_in_order(tmp_path):
    sent = {"a": torch.arange(6).view(2, 3), "none": torch.zeros(0, 4), "one": torch.tensor(2.5)}

    def act(group: Group) -> Any:
        if group.rank:
            return [group.receive(), group.receive()]
        group.send(sent, 1, 2)
        group.send({"last": torch.ones(100_000)}, 1, 2)
        # Sending ends with the next sum, and then at the latest all has come.
        return group.sum

    _, *followers = as_one(3, tmp_path / "meeting", act)
    for first, last in followers:
        assert first.keys() == sent.keys()
        assert all(torch.equal(first[k], sent[k]) for k in sent)
        assert torch.equal(last["last"], torch.ones(100_000))


def test_a_sum_is_the_same_bits_everywhere(tmp_path):
    def act(group: Group) -> torch.Tensor:
        generator = torch.Generator().manual_seed(group.rank)
        tensor = torch.randn(10_001, generator=generator)
        group.sum(tensor)
        return tensor

    first, *others = as_one(3, tmp_path / "meeting", act)
    parts = [torch.randn(10_001, generator=torch.Generator().manual_seed(r)) for r in range(3)]
    torch.testing.assert_close(first, sum(parts))
    assert all(torch.equal(first, other) for other in others)


def test_gradients_are_summed_in_place(tmp_path):
    def act(group: Group) -> Any:
        model = torch.nn.Linear(2, 3)
        with torch.no_grad():
            model.weight.fill_(1.0)
        gradients = SummedGradients(model, group)
        kept = model.weight.grad
        for _ in range(2):
            gradients.clear()
            (model(torch.full((1, 2), group.rank + 1.0)).sum()).backward()
            loss = gradients.sum(float(group.rank))
        assert model.weight.grad is kept and model.bias.grad is not None
        return loss, model.weight.grad.tolist(), model.bias.grad.tolist()

    for found in as_one(2, tmp_path / "meeting", act):
        assert found == (1.0, [[3.0] * 2] * 3, [2.0] * 3)


def test_a_process_that_is_gone_is_one_line(tmp_path):
    def act(group: Group) -> Any:
        group.sum(torch.ones(1))  # all have met
        if group.rank:
            group.close()  # what the end of the process does
            return None
        with pytest.raises(UserError, match=GONE) as caught:
            group.sum(torch.ones(3))
        with pytest.raises(UserError, match=GONE):
            group.send({"a": torch.ones(1_000_000)}, 1)
            group.sum(torch.ones(1))
        return str(caught.value)

    said = as_one(2, tmp_path / "meeting", act)[0]
    assert "\n" not in said and ".cc" not in said


def test_a_leader_that_is_gone_lets_its_followers_go(tmp_path):
    def act(group: Group) -> Any:
        group.sum(torch.ones(1))
        if group.rank:
            return group.receive()
        group.close()
        return "gone"

    assert as_one(3, tmp_path / "meeting", act) == ["gone", None, None]


def test_who_never_comes_is_not_waited_for_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(data_parallel, "ANSWER_S", 0.2)
    with pytest.raises(UserError, match=GONE):
        Group(Place(0, 2, tmp_path / "meeting"))


# ------------------------------------------------------------------------------- leader, followers

_NUMBERS = itertools.count()


@pytest.fixture
def config_of(plain_config: dict[str, Any]) -> Callable[..., RunConfig]:
    """``vanilla`` without dropout, with ``section__key`` changes; kernels as they are, for that is
    a switch of the whole process."""

    def make(**changes: Any) -> RunConfig:
        plain = plain_config | {"deterministic": False, "model": plain_config["model"]}
        plain["model"] = plain["model"] | {"dropout": 0.0}
        plain["optimiser"] = plain["optimiser"] | {"weight_decay": 0.01, "average": 0.9}
        for key, value in changes.items():
            section, _, name = key.partition("__")
            plain[section] = plain.get(section, {}) | {name: value} if name else value
        return make_config(plain)

    return make


@contextlib.contextmanager
def led(
    config: RunConfig, path: Path, head: Any = None
) -> Iterator[tuple[Learner, list[Follower]]]:
    """A learner that leads as many followers as are configured."""
    size = config.learner_processes
    path.mkdir(exist_ok=True)
    meeting = path / f"meeting-{next(_NUMBERS)}"
    followers = [Follower(config, VOCABULARY) for _ in range(1, size)]
    threads = [
        threading.Thread(target=follower.follow, args=(Place(rank, size, meeting),))
        for rank, follower in enumerate(followers, 1)
    ]
    for thread in threads:
        thread.start()
    try:
        with contextlib.closing(Group(Place(0, size, meeting))) as group:
            yield make_learner(config, VOCABULARY, RunDirectory(path / "run"), group), followers
    finally:
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()


@pytest.fixture
def batches(config_of) -> Callable[[int], list[ScoredShard]]:
    """The shards of batch i, references only."""
    config = config_of()
    data = make_data(config, VOCABULARY)
    worker = RolloutWorker(config, data.split, data.plan)
    return lambda i: [worker.run(ShardTask(i, j, 0, 1.0)) for j in range(config.batch.shards)]


def labelled(shards: list[ScoredShard]) -> list[ScoredShard]:
    """Every second row as the student's, with three candidates at each position."""
    return [replace(s, **_labels(s)) for s in shards]


def _labels(shard: ScoredShard) -> dict[str, Any]:
    own = np.arange(len(shard.targets)) % 2 == 0
    positions = np.flatnonzero(np.repeat(own, shard.targets.lengths_B))
    ids = shard.targets.ids_P[positions][:, None] + np.arange(3, dtype=np.int32)
    labels = TeacherLabels(
        positions,
        ids % VOCABULARY.size,
        np.log(np.tile(np.array([[0.6, 0.2, 0.1]], np.float32), (len(ids), 1))),
        np.full(len(ids), np.log(0.1), np.float32),
        np.zeros(len(ids), np.float32),
    )
    return {"from_student": own, "labels": labels}


def weights(holder: Any) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in holder._model.state_dict().items()}


ASKED: dict[str, Any] = {"teacher": {"address": "nowhere:1"}, "loss": {"top_k": 3}}


@pytest.mark.parametrize(
    ("changes", "asked", "processes"),
    [
        pytest.param({}, False, 2, id="vanilla"),
        pytest.param({"batch__accumulate": True}, False, 3, id="shard-by-shard"),
        pytest.param(ASKED | {"method": "imitkd-full"}, True, 3, id="imitkd-full"),
        pytest.param(ASKED | {"method": "imitkd"}, True, 2, id="imitkd"),
        pytest.param(ASKED | {"method": "aggregation"}, True, 2, id="aggregation"),
        pytest.param({"precision": "bf16"}, False, 2, id="bf16"),
    ],
)
def test_several_processes_make_the_steps_of_one(
    config_of, batches, tmp_path, changes, asked, processes
):
    config = config_of(learner_processes=processes, **changes)
    given = [labelled(batches(i)) if asked else batches(i) for i in range(5)]
    alone = make_learner(config, VOCABULARY, RunDirectory(tmp_path / "alone"))
    expected = [alone.step(shards) for shards in given]
    with led(config, tmp_path) as (learner, followers):
        found = [learner.step(shards) for shards in given]
        last = weights(learner)
        learner.save_checkpoint({})
    narrow = config.precision == "bf16"
    for one, several in zip(expected, found, strict=True):
        assert several.loss == pytest.approx(one.loss, rel=3e-3 if narrow else 1e-5)
        assert several.gradient_norm == pytest.approx(
            one.gradient_norm, rel=0.05 if narrow else 1e-4
        )
        counts = "positions", "sentences", "scored_positions", "learning_rate", "shards"
        assert [getattr(several, c) for c in counts] == [getattr(one, c) for c in counts]
    # One more step with another weight anywhere would go apart.
    for follower in followers:
        theirs = weights(follower)
        assert all(torch.equal(last[name], theirs[name]) for name in last)


def test_the_teachers_projection_comes_from_the_leader(config_of, batches, tmp_path, monkeypatch):
    """Payload HIDDEN: distributions are made of states, by a head that only the leader fetched."""
    from student_trainer import setup
    from student_trainer.teacher_head import TeacherHead

    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(VOCABULARY.size, 5, generator=generator)
    head = TeacherHead(weight, torch.randn(VOCABULARY.size, generator=generator), 0.7)
    monkeypatch.setattr(setup, "make_teacher_head", lambda *_: head)
    config = config_of(
        learner_processes=2, method="word-kd", teacher=ASKED["teacher"], loss={"payload": "hidden"}
    )

    def with_states(shard: ScoredShard) -> ScoredShard:
        count = shard.positions
        states = np.random.default_rng(shard.shard).standard_normal((count, 5), np.float32)
        none = np.zeros((count, 0), np.int32)
        tail = np.full(count, -np.inf, np.float32)
        labels = TeacherLabels(np.arange(count), none, none.astype(np.float32), tail)
        return replace(shard, labels=replace(labels, states_QD=states))

    given = [[with_states(s) for s in batches(i)] for i in range(2)]
    alone = make_learner(config, VOCABULARY, RunDirectory(tmp_path / "alone"))
    expected = [alone.step(shards).loss for shards in given]
    with led(config, tmp_path) as (learner, _):
        found = [learner.step(shards).loss for shards in given]
    assert found == pytest.approx(expected, rel=1e-5)


def test_every_process_drops_out_what_is_its_own(config_of, batches, tmp_path, monkeypatch):
    """Three rows alike, one a process: equal masks would give equal losses."""
    config = config_of(learner_processes=3, model__dropout=0.3)
    losses: list[float] = []
    backward = update_module.backward

    def watched(*arguments: Any, **settings: Any) -> float:
        losses.append(backward(*arguments, **settings))
        return losses[-1]

    monkeypatch.setattr(update_module, "backward", watched)
    (first, _) = batches(0)
    row = first.only(np.arange(len(first.targets)) == 0)
    alike = [replace(row, shard=j) for j in range(3)]
    with led(config, tmp_path) as (learner, _):
        total = learner.step(alike).loss
    assert len(set(losses)) == 3 and sum(losses) == pytest.approx(total)
    losses.clear()
    with led(config_of(learner_processes=3), tmp_path) as (learner, _):
        learner.step(alike)
    assert len(losses) == 3 and losses == pytest.approx([losses[0]] * 3)


def test_a_restored_group_continues_bit_by_bit(config_of, batches, tmp_path):
    config = config_of(learner_processes=2, model__dropout=0.1)
    with led(config, tmp_path / "whole") as (learner, _):
        expected = [learner.step(batches(i)).loss for i in range(6)]
        last = weights(learner)
    with led(config, tmp_path) as (learner, _):
        assert [learner.step(batches(i)).loss for i in range(3)] == expected[:3]
        learner.save_checkpoint({"of": "mine"})
    with led(config, tmp_path) as (learner, followers):
        assert learner.restore() == {"of": "mine"}
        assert [learner.step(batches(i)).loss for i in range(3, 6)] == expected[3:]
        assert all(torch.equal(last[k], v) for k, v in weights(learner).items())
    assert all(torch.equal(last[k], v) for k, v in weights(followers[0]).items())


def test_a_loss_that_is_not_finite_leaves_the_weights_of_all(config_of, batches, tmp_path):
    """Also where it is another process's rows that it comes from."""
    config = config_of(learner_processes=2, method="word-kd", **ASKED)
    good = labelled(batches(0))
    assert good[0].labels is not None and good[1].labels is not None
    worst = {"log_probs_QK": np.full_like(good[1].labels.log_probs_QK, np.nan)}
    broken = replace(good[1], labels=replace(good[1].labels, **worst))
    with led(config, tmp_path) as (learner, followers):
        before = weights(learner)
        with pytest.raises(UserError, match=r"batch 0: loss nan.*optimiser.learning_rate"):
            learner.step([good[0], broken])
        assert all(torch.equal(before[k], v) for k, v in weights(learner).items())
        assert learner.step(good).step == 1
        last = weights(learner)
    assert all(torch.equal(last[k], v) for k, v in weights(followers[0]).items())


def test_a_follower_that_fails_is_gone_at_once(config_of, batches, tmp_path, monkeypatch):
    """Its process may stay: an actor's does."""
    backward, leader = update_module.backward, threading.current_thread()

    def failing(*arguments: Any, **settings: Any) -> float:
        if threading.current_thread() is not leader:
            raise RuntimeError("CUDA out of memory")
        return backward(*arguments, **settings)

    monkeypatch.setattr(update_module, "backward", failing)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    monkeypatch.setattr(data_parallel, "ANSWER_S", 10_000)
    with (
        led(config_of(learner_processes=2), tmp_path) as (learner, _),
        pytest.raises(UserError, match=GONE),
    ):
        learner.step(batches(0))


def test_fewer_rows_than_processes_and_none_at_all(config_of, batches, tmp_path):
    config = config_of(learner_processes=3)
    shards = batches(0)
    few = [shards[0].only(np.arange(len(shards[0].targets)) == 0)]
    none = [ScoredShard.left_out(ShardTask(1, j, 0, 1.0)) for j in range(2)]
    alone = make_learner(config, VOCABULARY, RunDirectory(tmp_path / "alone"))
    expected = [alone.step(given).loss for given in (few, none, batches(2))]
    with led(config, tmp_path) as (learner, _):
        found = [learner.step(given).loss for given in (few, none, batches(2))]
    assert found == pytest.approx(expected, rel=1e-5) and found[1] == 0.0


@pytest.mark.parametrize("shape", [{}, *RECURRENT.values()])
def test_every_parameter_of_a_student_learns(shape):
    """One without a gradient would stay as it is in one process and decay in several."""
    model = tiny_model(**shape)
    encoded = model.encode(torch.tensor([[4, 5, 1]]), torch.tensor([3]))
    model.decode(encoded, torch.tensor([[2, 4]])).sum().backward()
    weight, bias = model.output_projection()
    missing = {id(p): n for n, p in model.named_parameters() if p.grad is None}
    assert set(missing) <= {id(weight), id(bias)}


def test_a_student_starts_from_the_leaders_weights(config_of, batches, tmp_path, tiny_teacher):
    """``initialise.from`` is a directory that a follower's machine need not have."""
    config = config_of(
        learner_processes=2,
        initialise={"from": str(tiny_teacher)},
        model={**config_of().model, "ffn": 24, "encoder_layers": 2, "decoder_layers": 2},
    )
    with led(config, tmp_path) as (learner, followers):
        begun = make_model(config, VOCABULARY).state_dict()
        learner.step(batches(0))
        last = weights(learner)
    assert not all(torch.equal(begun[k], last[k]) for k in begun)
    assert all(torch.equal(last[k], v) for k, v in weights(followers[0]).items())

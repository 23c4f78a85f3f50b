"""The loop over a fake executor: what is asked of it, in which order, and when it stops."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from seq2seq.errors import UserError
from student_trainer.config import RunConfig
from student_trainer.driver import Driver, Spent
from student_trainer.types import ShardTask, StepReport, ValidationReport
from teacher_service.errors import TeacherUnavailable

RULES = [(1, 0), (1, 3), (4, 0), (4, 4), (4, 6), (3, 5), (2, 1), (8, 2)]


@dataclass
class Watched:
    """An executor that holds the driver to the contract and writes down what it saw.

    Attributes:
        steps: handed over; the reports of the last of them wait in ``waiting``.
        eager: shards are there as soon as they are asked for.
    """

    eager: bool = True
    waiting: deque[StepReport] = field(default_factory=deque)
    bleus: list[float] = field(default_factory=list)
    fail_at: tuple[int, Exception] | None = None
    held: set[int] = field(default_factory=set)
    steps: int = 0
    calls: list[str] = field(default_factory=list)
    tasks: list[ShardTask] = field(default_factory=list)
    ahead: int = 0
    saved: list[tuple[int, set[int], dict[str, Any]]] = field(default_factory=list)
    most_held: int = 0
    best: float = float("-inf")

    def submit(self, task: ShardTask) -> ShardTask:
        assert task.version in self.held, f"{task} needs {task.version}, held are {self.held}"
        reported = self.steps - len(self.waiting)
        assert task.version <= reported, "asked for weights of the future"
        self.tasks.append(task)
        self.ahead = max(self.ahead, task.batch - reported)
        self.calls.append(f"submit {task.batch}.{task.shard}")
        return task

    def ready(self, handles: Sequence[object]) -> bool:
        assert all(isinstance(h, ShardTask) and h.batch == self.steps for h in handles)
        return self.eager

    def hand_over(self, handles: Sequence[object]) -> None:
        assert len(self.waiting) < 2, "one step under way and one at hand are enough"
        tasks = [h for h in handles if isinstance(h, ShardTask)]
        assert [(t.batch, t.shard) for t in tasks] == [(self.steps, j) for j in range(len(tasks))]
        if self.fail_at is not None and self.fail_at[0] == self.steps:
            raise self.fail_at[1]
        self.calls.append(f"learn {self.steps}")
        self.steps += 1
        zeros = dict.fromkeys(
            ("loss", "gradient_norm", "learning_rate", "student_share"), 0.0
        ) | dict.fromkeys(("generate_s", "score_s", "learn_s"), 0.0)
        counts = dict.fromkeys(
            ("sentences", "positions", "scored_sentences", "scored_positions"), 1
        )
        first = tasks[0]
        self.waiting.append(
            StepReport(self.steps, version=first.version, beta=first.beta, **zeros, **counts)
        )

    def finished(self) -> StepReport:
        report = self.waiting.popleft()
        self.calls.append(f"report {report.step}")
        return report

    def publish(self, version: int) -> None:
        assert version == self.steps and version not in self.held
        self.held.add(version)
        self.most_held = max(self.most_held, len(self.held))
        self.calls.append(f"publish {version}")

    def published(self) -> list[int]:
        return sorted(self.held)

    def retire(self, before: int) -> None:
        self.held = {v for v in self.held if v >= before}

    def validate(self) -> ValidationReport:
        assert not self.waiting, "it would be of later weights"
        self.calls.append(f"validate {self.steps}")
        bleu = self.bleus.pop(0) if self.bleus else 1.0
        report = ValidationReport(self.steps, bleu, bleu, 1.0, 5.0, best=bleu > self.best)
        self.best = max(self.best, bleu)
        return report

    def checkpoint(self, extra: dict[str, Any]) -> None:
        assert not self.waiting, "it would be of later weights"
        self.calls.append(f"checkpoint {self.steps}")
        self.saved.append((self.steps, set(self.held), extra))

    def restore(self) -> tuple[int, dict[str, Any] | None]:
        raise AssertionError("the driver does not restore")

    def close(self) -> None:
        raise AssertionError("the driver does not close")


class Ticking:
    """A clock that moves one second at every look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def config_of(plain: dict[str, Any], **changes: Any) -> RunConfig:
    """A configuration with ``section__key`` changes."""
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            plain = plain | {section: plain.get(section, {}) | {name: value}}
        else:
            plain = plain | {section: value}
    return RunConfig(**plain)


def version(batch: int, pool: int, lag: int) -> int:
    """The rule of docs/architecture.md, from its words."""
    return max(0, pool * (batch // pool) - lag)


@pytest.mark.parametrize(("pool", "lag"), RULES)
def test_every_batch_is_written_by_its_version(plain_config, pool, lag):
    executor = Watched()
    config = config_of(
        plain_config, optimiser__steps=23, rollout__pool=pool, rollout__lag=lag, batch__shards=3
    )
    result = Driver(config, executor).run()
    assert result.steps == executor.steps == 23
    assert [(t.batch, t.shard, t.version) for t in executor.tasks] == [
        (i, j, version(i, pool, lag)) for i in range(23) for j in range(3)
    ]


@pytest.mark.parametrize(("pool", "lag"), RULES)
def test_what_runs_ahead_is_bounded_and_the_bound_is_used(plain_config, pool, lag):
    executor = Watched()
    config = config_of(
        plain_config, optimiser__steps=64, rollout__pool=pool, rollout__lag=lag, batch__shards=1
    )
    Driver(config, executor).run()
    # Before step d the batches of all pools that begin by d + lag may be under way.
    allowed = max(pool * ((d + lag) // pool) + pool - 1 - d for d in range(64 - pool - lag))
    assert executor.ahead == allowed < pool + lag


@pytest.mark.parametrize(("pool", "lag"), RULES)
def test_only_versions_that_are_needed_are_held(plain_config, pool, lag):
    executor = Watched()
    config = config_of(plain_config, optimiser__steps=40, rollout__pool=pool, rollout__lag=lag)
    Driver(config, executor).run()
    # Those of a longer run that goes on from the last checkpoint are among them.
    needed = {v for i in range(40 + pool + lag) if (v := version(i, pool, lag)) <= 40}
    published = [int(c.split()[1]) for c in executor.calls if c.startswith("publish")]
    assert published == sorted(needed)
    assert executor.most_held <= lag // pool + 3


def test_the_learner_has_its_next_step_at_hand_while_one_is_under_way(plain_config):
    executor = Watched()
    config = config_of(plain_config, optimiser__steps=6, validation__every=4, rollout__lag=2)
    Driver(config, executor).run()
    kinds = ("learn", "publish", "report", "validate")
    assert [c for c in executor.calls if c.startswith(kinds)] == [
        *("publish 0", "learn 0", "publish 1", "learn 1", "publish 2", "report 1"),
        *("learn 2", "publish 3", "report 2", "learn 3", "publish 4", "report 3", "report 4"),
        *("validate 4", "learn 4", "publish 5", "learn 5", "publish 6", "report 5", "report 6"),
        "validate 6",
    ]


def test_shards_that_are_late_hold_up_no_report(plain_config):
    executor = Watched(eager=False)
    Driver(config_of(plain_config, optimiser__steps=6, rollout__lag=2), executor).run()
    done = [c for c in executor.calls if c.startswith(("learn", "report"))]
    assert done == [c for i in range(6) for c in (f"learn {i}", f"report {i + 1}")]


def test_a_teacher_that_stays_away_while_a_shard_is_made_again_costs_nothing_either(plain_config):
    """The step was handed over; a node took its shards with it before it began."""

    class Losing(Watched):
        def finished(self) -> StepReport:
            if self.waiting[0].step == 6:
                self.steps -= len(self.waiting)
                self.held = {v for v in self.held if v <= self.steps}
                self.waiting.clear()
                raise TeacherUnavailable("batch 5 shard 0: no answer")
            return super().finished()

    executor = Losing()
    with pytest.raises(TeacherUnavailable):
        Driver(config_of(plain_config, rollout__lag=2), executor).run()
    ((step, held, _),) = executor.saved
    assert step == 5 and version(6, 1, 2) in held


@pytest.mark.parametrize(("pool", "lag"), RULES)
def test_what_is_asked_for_does_not_depend_on_when_shards_are_there(plain_config, pool, lag):
    config = config_of(
        plain_config,
        optimiser__steps=23,
        rollout__pool=pool,
        rollout__lag=lag,
        validation__every=7,
        checkpoint_every=5,
    )
    early, late = Watched(), Watched(eager=False)
    for executor in (early, late):
        Driver(config, executor).run()
    assert early.tasks == late.tasks

    def learner(executor: Watched) -> list[str]:
        return [c for c in executor.calls if not c.startswith(("submit", "report"))]

    assert learner(early) == learner(late)
    assert [held for _, held, _ in early.saved] == [held for _, held, _ in late.saved]


def test_work_ahead_is_submitted_before_a_validation_holds_the_learner(plain_config):
    executor = Watched()
    config = config_of(plain_config, validation__every=4, rollout__pool=4, batch__shards=1)
    Driver(config, executor).run()
    assert executor.calls.index("submit 7.0") < executor.calls.index("validate 4")


def test_validations_and_checkpoints_come_when_they_are_due(plain_config):
    executor = Watched()
    config = config_of(plain_config, optimiser__steps=10, validation__every=3, checkpoint_every=4)
    Driver(config, executor, extra={"teacher_revision": "r"}).run()
    assert [c for c in executor.calls if c.startswith("validate")] == [
        "validate 3",
        "validate 6",
        "validate 9",
        "validate 10",
    ]
    assert [step for step, _, _ in executor.saved] == [4, 8, 10]
    assert all(extra["teacher_revision"] == "r" for _, _, extra in executor.saved)


@pytest.mark.parametrize(("pool", "lag"), RULES)
def test_a_run_resumed_at_any_checkpoint_asks_for_the_same(plain_config, pool, lag):
    config = config_of(
        plain_config,
        optimiser__steps=17,
        rollout__pool=pool,
        rollout__lag=lag,
        checkpoint_every=1,
    )
    whole = Watched()
    Driver(config, whole).run()
    for step, held, extra in whole.saved[:-1]:
        rest = Watched(held=set(held), steps=step)
        result = Driver(config, rest).run(step)
        assert result.steps == 17
        assert rest.tasks == [t for t in whole.tasks if t.batch >= step]
        assert extra["best"] is None


@pytest.mark.parametrize(("pool", "lag"), RULES)
def test_a_finished_run_goes_on_as_the_longer_one_would_have(plain_config, pool, lag):
    constant = {"schedule": "constant", "value": 0.5}

    def config(steps: int) -> RunConfig:
        return config_of(
            plain_config,
            optimiser__steps=steps,
            rollout__pool=pool,
            rollout__lag=lag,
            mixing=constant,
        )

    whole, first = Watched(), Watched()
    Driver(config(29), whole).run()
    Driver(config(13), first).run()
    step, held, _ = first.saved[-1]
    assert step == 13
    rest = Watched(held=set(held), steps=13)
    assert Driver(config(29), rest).run(13).steps == 29
    assert rest.tasks == [t for t in whole.tasks if t.batch >= 13]


def test_seconds_add_up_over_processes(plain_config):
    config = config_of(plain_config, optimiser__steps=4, validation__every=2, checkpoint_every=2)
    whole, first = Watched(), Watched()
    at_once = Driver(config, whole, clock=Ticking()).run()
    Driver(config, first, clock=Ticking()).run()
    _, held, extra = first.saved[0]
    spent = Spent(**extra["spent"])
    assert 0 < spent.train_s < at_once.train_s and spent.validation_s == 5.0
    rest = Driver(config, Watched(held=set(held), steps=2), clock=Ticking())
    found = rest.run(2, None, spent)
    assert found.validation_s == at_once.validation_s == 10.0
    # The one tick of the checkpoint itself lies between the two processes.
    assert found.train_s == pytest.approx(at_once.train_s, abs=2.0)


def test_what_a_checkpoint_builds_on_is_on_disk_before_it(plain_config):
    executor = Watched()
    config = config_of(plain_config, optimiser__steps=4, checkpoint_every=2)
    Driver(config, executor, before_checkpoint=lambda: executor.calls.append("sync")).run()
    saves = [i for i, call in enumerate(executor.calls) if call.startswith("checkpoint")]
    assert len(saves) == 2
    assert all(executor.calls[i - 1] == "sync" for i in saves)


def test_a_finished_run_resumed_does_nothing_and_still_knows_its_best(plain_config):
    best = ValidationReport(8, 30.0, 50.0, 1.0, 5.0, best=True)
    executor = Watched(held={7}, steps=8)
    result = Driver(config_of(plain_config), executor).run(8, best)
    assert (result.steps, result.best, executor.calls) == (8, best, [])


def test_a_checkpoint_without_the_needed_weights_is_refused(plain_config):
    executor = Watched(held={8}, steps=8)
    config = config_of(plain_config, optimiser__steps=20, rollout__pool=4, rollout__lag=4)
    with pytest.raises(UserError, match=r"no weights of version 4, .*pool 4 .*lag 4"):
        Driver(config, executor).run(8)
    assert executor.calls == []


def test_patience_ends_the_run_with_a_checkpoint(plain_config):
    executor = Watched(bleus=[3.0, 5.0, 5.0, 4.0, 9.0])
    config = config_of(
        plain_config, optimiser__steps=60, validation__every=10, validation__patience=2
    )
    result = Driver(config, executor).run()
    assert result.stopped_early and result.steps == 40
    assert result.best is not None and result.best.step == 20
    assert executor.calls[-2:] == ["validate 40", "checkpoint 40"]


def test_patience_counts_on_through_a_resume(plain_config):
    best = ValidationReport(20, 5.0, 5.0, 1.0, 5.0, best=True)
    executor = Watched(bleus=[4.0, 9.0], held={30}, steps=30, best=5.0)
    config = config_of(
        plain_config, optimiser__steps=60, validation__every=10, validation__patience=2
    )
    result = Driver(config, executor).run(30, best)
    assert result.stopped_early and (result.steps, result.best) == (40, best)


def test_checkpoints_carry_the_best_evaluation(plain_config):
    executor = Watched(bleus=[3.0, 2.0])
    config = config_of(plain_config, validation__every=4)
    Driver(config, executor).run()
    (_, _, extra) = executor.saved[-1]
    assert ValidationReport(**extra["best"]).bleu == 3.0


@pytest.mark.parametrize("error", [UserError("batch 5: loss nan"), ValueError("odd")])
def test_errors_pass_through_as_they_are(plain_config, error):
    executor = Watched(fail_at=(5, error))
    with pytest.raises(type(error)) as caught:
        Driver(config_of(plain_config), executor).run()
    assert caught.value is error
    assert executor.saved == []


def test_a_teacher_that_stays_away_costs_nothing_that_was_learnt(plain_config):
    error = TeacherUnavailable("batch 5 shard 0: no answer")
    executor = Watched(fail_at=(5, error))
    with pytest.raises(TeacherUnavailable):
        Driver(config_of(plain_config), executor).run()
    ((step, held, _),) = executor.saved
    assert step == 5 and version(5, 1, 0) in held


def test_observers_are_told_everything_with_its_time(plain_config):
    class Notebook:
        def __init__(self) -> None:
            self.steps: list[tuple[int, float]] = []
            self.validations: list[int] = []

        def on_step(self, report: StepReport, wall_s: float) -> None:
            self.steps.append((report.step, wall_s))

        def on_validation(self, report: ValidationReport) -> None:
            self.validations.append(report.step)

    notebook = Notebook()
    config = config_of(plain_config, optimiser__steps=4, validation__every=2)
    result = Driver(config, Watched(), [notebook], clock=Ticking()).run()
    assert [step for step, _ in notebook.steps] == [1, 2, 3, 4]
    assert all(wall == 1.0 for _, wall in notebook.steps), "validation is no part of a step"
    assert notebook.validations == [2, 4]
    assert result.validation_s == 10.0 and result.train_s > 0


def test_beta_falls_with_the_batch_it_is_for(plain_config):
    executor = Watched()
    config = config_of(
        plain_config,
        mixing={"schedule": "linear", "final": 0.0},
        optimiser__steps=10,
        rollout__pool=4,
    )
    Driver(config, executor).run()
    assert [t.beta for t in executor.tasks if t.shard == 0] == pytest.approx(
        [1 - i / 10 for i in range(10)]
    )

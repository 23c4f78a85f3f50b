"""A sound ledger holds; whatever is missing, doubled or foreign in it is named."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seq2seq.errors import UserError
from seq2seq.plan import BatchPlan
from student_trainer.config import RunConfig
from student_trainer.ledger import Beginning, Ledger, Toll, note_death, read_toll
from student_trainer.ledger_check import Account, check, check_ledger
from student_trainer.run_directory import RunDirectory
from student_trainer.run_lock import held
from student_trainer.types import LearntShard, ShardTask, StepReport, rows_digest

POOL, LAG, SHARDS, TEACHER = 3, 2, 2, "sha256:t"
PLAN = BatchPlan(np.arange(1, 41) % 7 + 1, seed=3, sentences=6)
Records = list[dict[str, Any]]


def version(batch: int) -> int:
    """The rule of docs/architecture.md, from its words."""
    return max(0, POOL * (batch // POOL) - LAG)


def shards(batch: int, **changes: Any) -> tuple[LearntShard, ...]:
    rows = PLAN.rows(batch)
    return tuple(
        LearntShard(len(rows[j::SHARDS]), rows_digest(rows[j::SHARDS]), TEACHER, **changes)
        for j in range(SHARDS)
    )


def report(batch: int, learnt: tuple[LearntShard, ...]) -> StepReport:
    floats = ("loss", "beta", "gradient_norm", "learning_rate", "student_share")
    numbers: dict[str, Any] = dict.fromkeys((*floats, "generate_s", "score_s", "learn_s"), 0.0)
    numbers |= dict.fromkeys(("sentences", "positions", "scored_sentences", "scored_positions"), 1)
    return StepReport(step=batch + 1, version=version(batch), shards=learnt, **numbers)


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Records]:
    """Records of the real ledger: processes that learn batches ``first .. last - 1`` each."""

    def write(*processes: tuple[int, int]) -> Records:
        run = RunDirectory(tmp_path)
        for token, (first, last) in enumerate(processes, 1):
            ledger = Ledger(run, Beginning(token, first, PLAN.digest, POOL, LAG, SHARDS, TEACHER))
            for batch in range(first, last):
                ledger.on_step(report(batch, shards(batch)), 1.0)
            ledger.sync()
        return list(run.ledger.read())

    return write


@pytest.fixture
def checked(plain_config: dict[str, Any]) -> Callable[..., Account]:
    config = RunConfig(**plain_config)
    return lambda records, checkpointed: check(lambda: iter(records), config, PLAN, checkpointed)


def test_an_undisturbed_run(written, checked):
    records = written((0, 14))
    account = checked(records, 14)
    assert account.holds and account.batches == 14 and account.resumes == 0
    # Two epochs of 40 rows in 7 batches: every row is there exactly twice.
    assert account.sentences == 80
    assert account.verdict() == (
        "the ledger holds: 80 sentences in 14 batches, each learnt exactly once; checkpointed 14; "
        "resumes 0 (0 batches rolled back); shards run again 0; quarantined: none"
    )


def test_batches_behind_the_checkpoint_of_a_resume_count_once(written, checked):
    """It died after 9, went on from 6, died after 11, went on from 6 again, then from 10."""
    account = checked(written((0, 9), (6, 11), (6, 12), (10, 14)), 14)
    assert account.holds, account.verdict()
    assert (account.batches, account.sentences, account.resumes) == (14, 80, 3)
    assert account.rolled_back == 3 + 5 + 2


def test_a_run_that_died_before_its_first_checkpoint_begins_again(written, checked):
    account = checked(written((0, 4), (0, 7)), 7)
    assert account.holds and account.rolled_back == 4 and account.sentences == 40


def test_what_no_checkpoint_holds_yet_is_no_fault(written, checked):
    assert checked(written((0, 9)), 6).holds


def test_shards_run_again_and_quarantined_are_told(written, checked, tmp_path):
    records = written((0, 3))
    records[2]["shards"][1][2] = 3
    records[3]["shards"][0] = [0, "", 2]
    records[3]["quarantined"] = [0]
    account = checked(records, 3)
    assert account.holds, account.verdict()
    assert (account.repeated, account.quarantined) == (2, [(2, 0)])
    assert account.verdict().endswith("run again 2; quarantined: batch 2 shard 0")


def test_who_wrote_the_shards_is_counted_where_it_counts(written, checked):
    """Batches 2 and 3 were rolled back, and made again elsewhere."""
    records = written((0, 4), (2, 5))
    for record in records:
        if record["kind"] == "batch":
            record["hosts"] = ["a", "b"]
    assert checked(records, 5).hosts == {"a": 5, "b": 5}
    for record in records[:5]:
        record["hosts"] = ["a", "a"]
    assert checked(records, 5).hosts == {"a": 2 * 2 + 3, "b": 3}


def test_the_ledger_keeps_hosts_where_there_are_any(tmp_path):
    run = RunDirectory(tmp_path)
    ledger = Ledger(run, Beginning(1, 0, PLAN.digest, POOL, LAG, SHARDS, TEACHER))
    ledger.on_step(report(0, shards(0)), 1.0)
    ledger.on_step(report(1, shards(1, host="a")), 1.0)
    _, first, second = run.ledger.read()
    assert "hosts" not in first and second["hosts"] == ["a", "a"]


def drop(records: Records) -> None:
    del records[5]


def double(records: Records) -> None:
    records.insert(5, copy.deepcopy(records[5]))


def other_rows(records: Records) -> None:
    records[5]["shards"][0], records[5]["shards"][1] = (
        records[5]["shards"][1],
        records[5]["shards"][0],
    )


def stale(records: Records) -> None:
    records[5]["version"] -= 1


def foreign(records: Records) -> None:
    records[5]["teacher"] = ["sha256:other"]


def lost_shard(records: Records) -> None:
    del records[5]["shards"][1]


def lost_sentence(records: Records) -> None:
    records[5]["shards"][1][0] -= 1


def unlisted(records: Records) -> None:
    records[5]["shards"][1] = [0, "", 2]


def learnt_though_quarantined(records: Records) -> None:
    records[5]["quarantined"] = [1]


def other_plan(records: Records) -> None:
    records[0]["plan"] = "0" * 16


def headless(records: Records) -> None:
    del records[0]


def empty(records: Records) -> None:
    records.clear()


def short(records: Records) -> None:
    del records[-2:]


def second_driver(records: Records) -> None:
    records.insert(5, records[0] | {"step": 4})


def resumed_from_nowhere(records: Records) -> None:
    records.append(records[0] | {"step": 12, "token": 2})


@pytest.mark.parametrize(
    ("harm", "first"),
    [
        (drop, "batch 5 comes after a gap, batch 4 was next"),
        (double, "batch 4 comes twice or out of order, batch 5 was next"),
        (other_rows, "batch 4 shard 0 is not made of its 3 sentences"),
        (stale, "batch 4 was written by version 0, not 1"),
        (foreign, "batch 4 was scored by teacher sha256:other"),
        (lost_shard, "batch 4 has 1 shards, not 2"),
        (lost_sentence, "batch 4 shard 1 is not made of its 3 sentences"),
        (unlisted, "batch 4 shard 1 is not made of its 3 sentences"),
        (learnt_though_quarantined, "batch 4 shard 1 is quarantined, and was learnt"),
        (other_plan, "from step 0 on the batches were others"),
        (headless, "batch 0 comes before any beginning"),
        (empty, "nothing is in it"),
        (short, "the checkpoint holds 9 steps, the ledger ends at 7"),
        (second_driver, "token 1 after 1: two drivers at once"),
        (resumed_from_nowhere, "a process began at step 12, the one before it ended at 9"),
    ],
)
def test_what_is_wrong_is_named(written, checked, harm, first):
    records = written((0, 9))
    assert checked(records, 9).holds
    harm(records)
    account = checked(records, 9)
    assert not account.holds and account.faults[0].startswith(first)
    assert account.verdict().startswith("the ledger is broken: ")


def test_a_teacher_for_each_corpus_whatever_they_are_called_now(written, plain_config):
    """The second process has new names for them; rows from 20 on are the second corpus."""
    records = written((0, 4), (4, 7))
    first, second = [record for record in records if record["kind"] == "begin"]
    first["teacher"] = {"old": "sha256:p", "new": "sha256:q"}
    second["teacher"] = {"news": "sha256:p", "mail": "sha256:q"}
    for record in records:
        if record["kind"] == "batch":
            of_second = PLAN.rows(record["batch"]) >= 20
            record["teacher"] = [
                r for r, there in (("sha256:p", ~of_second), ("sha256:q", of_second)) if there.any()
            ]

    def account() -> Account:
        return check(
            lambda: iter(records),
            RunConfig(**plain_config),
            PLAN,
            7,
            lambda rows: set((rows >= 20).astype(int).tolist()),
        )

    assert account().holds, account().verdict()
    first["teacher"] = {"old": "sha256:p"}
    assert "was scored by teacher" in account().faults[0]


def test_deaths_of_workers_are_no_batches(written, checked, tmp_path):
    records = written((0, 5), (3, 9))
    note_death(RunDirectory(tmp_path), [ShardTask(5, 0, 4, 0.5), ShardTask(5, 1, 4, 0.5)])
    death = list(RunDirectory(tmp_path).ledger.read())[-1]
    for place in (10, 6, 1):
        records.insert(place, death)
    account = checked(records, 9)
    assert account.holds and (account.batches, account.rolled_back) == (9, 2)


def test_the_toll_of_earlier_processes(written, tmp_path):
    run = RunDirectory(tmp_path)
    assert read_toll(run, 0) == Toll({}, 0)
    tasks = [ShardTask(batch, j, 0, 0.5) for batch, j in ((3, 0), (4, 0), (4, 1))]
    note_death(run, tasks)
    assert read_toll(run, 0) == Toll({(3, 0): 1, (4, 0): 1, (4, 1): 1}, 0)
    note_death(run, tasks[2:])
    # Batch 3 is learnt after all; of batch 4 one shard is given up.
    ledger = Ledger(run, Beginning(1, 0, PLAN.digest, POOL, LAG, SHARDS, TEACHER))
    sound, lost = shards(3), (shards(4)[0], LearntShard(0, "", quarantined=True))
    ledger.on_step(report(3, sound), 1.0)
    ledger.on_step(report(4, lost), 1.0)
    assert read_toll(run, 5) == Toll({(4, 1): 2}, left_out=1)
    # Rolled back it is not left out yet, and is known.
    assert read_toll(run, 4) == Toll({(4, 1): 2}, left_out=0)
    Ledger(run, Beginning(2, 4, PLAN.digest, POOL, LAG, SHARDS, TEACHER)).on_step(
        report(4, shards(4)), 1.0
    )
    assert read_toll(run, 5) == Toll({}, left_out=0)


def test_a_driver_that_was_cut_off_notes_no_death(tmp_path):
    with held(tmp_path) as fence:
        run = RunDirectory(tmp_path, fence)
    with held(tmp_path), pytest.raises(UserError, match="was taken over"):
        note_death(run, [ShardTask(0, 0, 0, 0.5)])


def test_a_torn_line_is_dropped_and_a_damaged_one_is_named(tmp_path, written):
    written((0, 3))
    run = RunDirectory(tmp_path)
    with open(run.ledger.path, "a") as file:
        file.write('{"kind": "batch", "ba')
    Ledger(run, Beginning(2, 3, PLAN.digest, POOL, LAG, SHARDS, TEACHER))
    assert [r["kind"] for r in run.ledger.read()] == ["begin", *["batch"] * 3, "begin"]
    lines = run.ledger.path.read_text().splitlines()
    run.ledger.path.write_text("\n".join([lines[0], lines[1][:20], *lines[2:]]) + "\n")
    with pytest.raises(UserError, match=r"ledger.jsonl is damaged: .* is no record"):
        list(run.ledger.read())


def test_a_directory_without_a_run_or_a_ledger(tmp_path, plain_config):
    with pytest.raises(UserError, match="holds no run"):
        check_ledger(RunDirectory(tmp_path))
    (tmp_path / "config.yaml").write_text(json.dumps(plain_config))
    with pytest.raises(UserError, match="has no ledger"):
        check_ledger(RunDirectory(tmp_path))

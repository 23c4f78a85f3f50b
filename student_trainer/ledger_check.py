"""Whether the ledger of a run holds: every sentence of its batches learnt exactly once.

Checked against the rule and the plan, both made anew from the run's configuration and corpus: each
batch up to the checkpoint is there once, in order, written by the weights the rule names, scored by
the teacher the run went by (with routes by those of its rows' corpora), and made of the rows that
(seed, i) gives, or of fewer where a shard is listed as quarantined. Batches rolled back by a resume
count for nothing.

A plan is made of the lengths of sentences in ids. Those that lie with the run are taken where their
recipe names the very text, vocabulary and limits that are there now, and their digest is right;
else the corpus is tokenised again.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from seq2seq.errors import UserError
from seq2seq.plan import BatchPlan
from student_trainer.config import RunConfig, load_config
from student_trainer.jsonl import Record
from student_trainer.mixing import version_for
from student_trainer.run_directory import RunDirectory
from student_trainer.setup import prepare_vocabulary
from student_trainer.training_data import TrainingData, is_current, kept_data, make_data
from student_trainer.types import rows_digest

_FAULTS_KEPT = 20


@dataclass
class Account:
    """What the ledger says, and what is wrong with it.

    Attributes:
        batches: learnt, in the history of the final weights.
        checkpointed: steps that the newest checkpoint holds.
        sentences: learnt in these batches.
        rolled_back: batches learnt after a checkpoint that a resume went on from.
        resumes: processes after the first.
        repeated: shards that had to be run more than once.
        quarantined: (batch, shard) left out.
        hosts: by machine, how many of the shards learnt it wrote; empty where all was one process.
        faults: what is wrong, the first so many; ``wrong`` counts all.
    """

    batches: int = 0
    checkpointed: int = 0
    sentences: int = 0
    rolled_back: int = 0
    resumes: int = 0
    repeated: int = 0
    quarantined: list[tuple[int, int]] = field(default_factory=list)
    hosts: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    wrong: int = 0

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        return not self.wrong

    def fault(self, text: str) -> None:
        """Note something wrong."""
        self.wrong += 1
        if len(self.faults) < _FAULTS_KEPT:
            self.faults.append(text)

    def verdict(self) -> str:
        """One line."""
        if not self.holds:
            what = "fault" if self.wrong == 1 else "faults"
            return f"the ledger is broken: {self.wrong} {what}; first: {self.faults[0]}"
        out = ", ".join(f"batch {i} shard {j}" for i, j in self.quarantined) or "none"
        return (
            f"the ledger holds: {self.sentences:,} sentences in {self.batches:,} batches, each "
            f"learnt exactly once; checkpointed {self.checkpointed:,}; resumes {self.resumes} "
            f"({self.rolled_back:,} batches rolled back); shards run again {self.repeated}; "
            f"quarantined: {out}"
        )


def check_ledger(run: RunDirectory, corpus: Path | None = None) -> Account:
    """Check the ledger of a run against its configuration, corpus and checkpoints.

    Args:
        corpus: where the run's corpus lies now; by default where its configuration says.

    Raises:
        UserError: there is no run or no ledger, a file is damaged, or the corpus is not there.
    """
    if not run.config_file.exists():
        raise UserError(f"{run.path} holds no run")
    if not run.ledger.path.exists():
        raise UserError(f"{run.path} has no ledger; it was made by an older version")
    config = load_config(run.config_file)
    if corpus is not None:
        config.corpus.only  # noqa: B018  (raises where there are several)
        config = load_config(run.config_file, [f"corpus.path={corpus}"])
    data = _data(config, run.path)

    def corpora(rows: np.ndarray) -> set[int]:
        return set(data.split.corpus_of(rows).tolist())

    return check(run.ledger.read, config, data.plan, run.checkpointed(), corpora)


def _data(config: RunConfig, run: Path) -> TrainingData:
    """The data of a run that may be under way: nothing is written to it."""
    vocabulary = prepare_vocabulary(config, run)
    if is_current(config, vocabulary, run):
        return kept_data(config, run)
    with tempfile.TemporaryDirectory() as elsewhere:
        return make_data(config, vocabulary, Path(elsewhere))


def check(
    read: Callable[[], Iterator[Record]],
    config: RunConfig,
    plan: BatchPlan,
    checkpointed: int,
    corpora: Callable[[np.ndarray], Collection[int]] = lambda rows: (),
) -> Account:
    """Check records in their order; memory does not grow with them.

    Args:
        read: all records, from the first; called twice.
        corpora: places of those that some rows are of; asked where each has a teacher of its own.
    """
    account = Account(checkpointed=checkpointed)
    begins = [record for record in read() if record["kind"] == "begin"]
    account.resumes = max(0, len(begins) - 1)
    # What a process learnt counts up to where a later one went on from.
    kept = list(itertools.accumulate((b["step"] for b in reversed(begins[1:])), min))[::-1]
    processes = zip(begins, [*kept, None], strict=True) if begins else iter(())
    begun: Record | None = None
    until: int | None = None
    following = 0
    for record in read():
        if record["kind"] == "begin":
            previous, (begun, until) = begun, next(processes)
            _begin(account, previous, begun, following, plan)
            following = begun["step"]
        elif record["kind"] != "batch":
            continue  # a worker's death: what became of its shards their batches tell
        elif begun is None:
            account.fault(f"batch {record['batch']} comes before any beginning")
        else:
            _batch(account, begun, record, following, plan, corpora)
            following = record["batch"] + 1
            if until is not None and record["batch"] >= until:
                account.rolled_back += 1
            else:
                _count(account, record)
    if begun is None:
        account.fault("nothing is in it")
    if following < checkpointed:
        account.fault(f"the checkpoint holds {checkpointed} steps, the ledger ends at {following}")
    return account


def _begin(
    account: Account, previous: Record | None, begun: Record, following: int, plan: BatchPlan
) -> None:
    """A process begins at a step that the one before it had reached."""
    step = begun["step"]
    if previous is not None and begun["token"] <= previous["token"]:
        account.fault(f"token {begun['token']} after {previous['token']}: two drivers at once")
    if step > following:
        account.fault(f"a process began at step {step}, the one before it ended at {following}")
    if begun["plan"] != plan.digest:
        account.fault(
            f"from step {step} on the batches were others than this configuration and corpus give"
        )


def _batch(
    account: Account,
    begun: Record,
    record: Record,
    following: int,
    plan: BatchPlan,
    corpora: Callable[[np.ndarray], Collection[int]],
) -> None:
    """A batch is the next one, of the right weights, teacher and rows."""
    batch = record["batch"]
    if batch != following:
        what = "twice or out of order" if batch < following else "after a gap"
        account.fault(f"batch {batch} comes {what}, batch {following} was next")
    wanted = version_for(batch, begun["pool"], begun["lag"])
    if record["version"] != wanted:
        account.fault(f"batch {batch} was written by version {record['version']}, not {wanted}")
    teachers = [begun["teacher"]]
    if isinstance(begun["teacher"], dict):
        # By place: a resume may call a corpus by another name.
        of_corpus = dict(enumerate(begun["teacher"].values()))
        teachers = [of_corpus.get(place) for place in corpora(plan.rows(batch))]
    if any(revision not in teachers for revision in record["teacher"]):
        account.fault(f"batch {batch} was scored by teacher {', '.join(record['teacher'])}")
    _rows(account, record, begun["shards"], plan)


def _count(account: Account, record: Record) -> None:
    """A batch in the history of the final weights."""
    account.batches += 1
    account.sentences += sum(rows for rows, _, _ in record["shards"])
    account.repeated += sum(attempts > 1 for _, _, attempts in record["shards"])
    account.quarantined += [(record["batch"], j) for j in record.get("quarantined", [])]
    for host in record.get("hosts", []):
        account.hosts[host] = account.hosts.get(host, 0) + 1


def _rows(account: Account, record: Record, shards: int, plan: BatchPlan) -> None:
    """Whether a batch's shards hold the rows that (seed, i) gives."""
    batch, left_out = record["batch"], record.get("quarantined", [])
    if len(record["shards"]) != shards:
        account.fault(f"batch {batch} has {len(record['shards'])} shards, not {shards}")
        return
    rows = plan.rows(batch)
    for j, (count, digest, _) in enumerate(record["shards"]):
        given = rows[j::shards]
        if j in left_out:
            if count:
                account.fault(f"batch {batch} shard {j} is quarantined, and was learnt")
        elif count != len(given) or digest != rows_digest(given):
            account.fault(f"batch {batch} shard {j} is not made of its {len(given)} sentences")

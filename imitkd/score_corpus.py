"""Having a served teacher score a whole split, into a store on disk."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from imitkd.distilling.reading import read_best
from seq2seq.corpus import Example, read_split
from seq2seq.data import TokenizedSplit, tokenise
from seq2seq.errors import UserError
from student_trainer.low_data import some_of
from student_trainer.served_vocabulary import served_vocabulary
from teacher_service.client import TeacherClient
from teacher_service.codec import PayloadRequest, ScoreResult
from teacher_service.score_store.files import ENTRY
from teacher_service.score_store.form import ScoreForm
from teacher_service.score_store.reader import ScoreStore
from teacher_service.score_store.writer import ScoreWriter

# What is asked for in one call and written in one piece: several requests, and a loss of seconds
# where the command is killed.
CALL_BYTES = 8 << 20
# While one call's answer is written the next is computed.
CALLS_UNDER_WAY = 2


@dataclass(frozen=True)
class ScoredCorpus:
    """What a store has of a split, and what it took.

    Attributes:
        pairs, positions: different pairs of the split, and their target positions.
        known: pairs that were in the store before.
        left_out: sentences longer than the teacher takes.
        position_bytes: of a record.
        scored_positions, seconds: of this call.
    """

    pairs: int
    positions: int
    known: int
    left_out: int
    position_bytes: int
    scored_positions: int
    seconds: float

    def line(self) -> str:
        """One line for people."""
        size = self.positions * self.position_bytes + self.pairs * ENTRY.itemsize
        rate = self.scored_positions / self.seconds if self.seconds > 0 else 0.0
        return (
            f"{self.pairs:,} pairs, {self.positions:,} positions, {size:,} bytes "
            f"({self.position_bytes} a position, {ENTRY.itemsize} a pair); {self.known:,} were "
            f"there before, {self.scored_positions:,} positions scored in {self.seconds:.1f} s "
            f"({rate:,.0f}/s)"
        )


def score_corpus(
    client: TeacherClient,
    corpus: Path,
    split: str,
    output: Path,
    payload: PayloadRequest,
    temperature: float,
    *,
    sentences: int | None = None,
    candidates: bool = False,
    console: Console | None = None,
) -> ScoredCorpus:
    """Score every pair of a split that the store does not have yet, longest last.

    Args:
        output: a store, made where it is not there.
        sentences: so many of the split, drawn as ``corpus.sentences`` draws them; all by default.
        candidates: score what a teacher wrote for the sources, its best, not the references.
        console: for a progress bar.

    Raises:
        UserError: no such split, or sentences without references.
        TeacherStoreError: the store is of another teacher or question, or cannot be written.
        TeacherError: the teacher refused or stayed away past its deadline.
    """
    every = (read_best if candidates else read_split)(corpus, split)
    examples = list(some_of(lambda: every, sentences))
    info = client.model_info()
    form = ScoreForm.of(info, payload, temperature)
    pairs = _Pairs.of(examples, client, form)
    with ScoreWriter(output, form, client.artifact) as writer:
        with closing(ScoreStore(output)) as store:
            fresh = pairs.rows[store.find([pairs.keys[row] for row in pairs.rows]) < 0]
        total, begin = pairs.positions(fresh), time.perf_counter()
        with _progress(console) as progress:
            task = progress.add_task(f"{len(fresh):,} pairs", total=total, rate=0.0)
            for rows, result in _answers(client, pairs, fresh, form, payload):
                writer.append([pairs.keys[row] for row in rows], result)
                progress.advance(task, pairs.positions(rows))
                done = progress.tasks[0].completed
                progress.update(task, rate=done / (time.perf_counter() - begin))
    return ScoredCorpus(
        pairs=len(pairs.rows),
        positions=pairs.positions(pairs.rows),
        known=len(pairs.rows) - len(fresh),
        left_out=pairs.left_out,
        position_bytes=form.position_bytes,
        scored_positions=total,
        seconds=time.perf_counter() - begin,
    )


@dataclass(frozen=True)
class _Pairs:
    """A split as the teacher reads it.

    Attributes:
        keys: of every row of ``ids``.
        rows: int64, one row of every different pair that the teacher takes, shortest first.
        left_out: sentences it does not take.
    """

    ids: TokenizedSplit
    keys: list[bytes]
    rows: np.ndarray
    left_out: int

    @classmethod
    def of(cls, examples: Sequence[Example], client: TeacherClient, form: ScoreForm) -> _Pairs:
        info = form.info
        ids = tokenise(
            examples,
            served_vocabulary(client),
            max_source_length=info.max_source_length,
            max_target_length=info.max_target_length,
        )
        if not ids.has_targets:
            raise UserError(
                "the split has sentences without references, which cannot be scored; leave them "
                "out or have the teacher write them (`imitkd data distil`, then --candidates)"
            )
        content = form.keys()
        keys = [content.key(ids.source(row), ids.target(row)) for row in range(len(ids))]
        lengths = ids.source_lengths + ids.target_lengths
        taken = np.flatnonzero(lengths <= info.batch_token_budget)
        different = np.array(list({keys[row]: row for row in taken}.values()), np.int64)
        order = np.argsort(lengths[different], kind="stable")
        left_out = ids.fit.left_out + len(ids) - len(taken)
        return cls(ids, keys, different[order], left_out)

    def positions(self, rows: np.ndarray) -> int:
        """Target positions of some rows."""
        return int(self.ids.target_lengths[rows].sum())


def _answers(
    client: TeacherClient,
    pairs: _Pairs,
    rows: np.ndarray,
    form: ScoreForm,
    payload: PayloadRequest,
) -> Iterator[tuple[np.ndarray, ScoreResult]]:
    """Rows with what the teacher says of them, in order; the next call is always under way."""
    sizes = np.cumsum(pairs.ids.target_lengths[rows]) * form.position_bytes
    cuts = np.flatnonzero(np.diff(sizes // CALL_BYTES)) + 1
    ids = pairs.ids

    def ask(part: np.ndarray) -> ScoreResult:
        sources, targets = [ids.source(row) for row in part], [ids.target(row) for row in part]
        return client.score(sources, targets, payload, temperature=form.temperature)

    with ThreadPoolExecutor(CALLS_UNDER_WAY) as pool:
        waiting: deque[tuple[np.ndarray, Future[ScoreResult]]] = deque()
        try:
            for part in np.split(rows, cuts) if len(rows) else ():
                waiting.append((part, pool.submit(ask, part)))
                if len(waiting) == CALLS_UNDER_WAY:
                    first, answer = waiting.popleft()
                    yield first, answer.result()
            for first, answer in waiting:
                yield first, answer.result()
        except BaseException:
            client.close()  # ends the calls under way, which would be waited for
            raise


def _progress(console: Console | None) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,} of {task.total:,} positions"),
        TextColumn("{task.fields[rate]:,.0f}/s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=console is None,
    )

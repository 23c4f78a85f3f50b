"""Greedy, sampled and beam decoding: the same code serves rollouts, validation and the service.

Sources are decoded longest first, finished sentences leave their batch, and sampling noise is a
function of (seed, key of the sentence, position): a result does not depend on which other sentences
shared the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from seq2seq import inflight
from seq2seq.batch import Ids
from seq2seq.beam import beam_search
from seq2seq.model import Seq2SeqModel
from seq2seq.modes import Beam, Greedy, Job, LengthLimit, Sample, Unwanted

__all__ = ["Beam", "Greedy", "Hypothesis", "LengthLimit", "Sample", "Unwanted", "generate"]


@dataclass(frozen=True)
class Hypothesis:
    """What was written for one source.

    Attributes:
        ids: target ids, a forced prefix included, the start symbol excluded; the end symbol only
            where it was written.
        log_prob: natural-log probability of all ids but a forced prefix, at temperature 1 over the
            whole vocabulary without pad and start.
        finished: whether the end symbol was written before the limit.
    """

    ids: list[int]
    log_prob: float
    finished: bool


def generate(
    model: Seq2SeqModel,
    sources: Sequence[Ids],
    mode: Greedy | Sample | Beam,
    *,
    limit: LengthLimit | None = None,
    batch_tokens: int = 4096,
    batch_rows: int | None = None,
    prefixes: Sequence[Ids] | None = None,
    keys: Sequence[int] | None = None,
    log_probs: bool = True,
    wanted: Callable[[], bool] = lambda: True,
) -> list[list[Hypothesis]]:
    """Decode every source.

    Args:
        model: switched to evaluation mode for the call.
        sources: the encoder's inputs, end symbol included.
        limit: longest target; never more than the model's ``max_target_length``.
        batch_tokens: padded source tokens times beams under way at a time.
        batch_rows: sources under way at a time.
        prefixes: per source, target ids that are forced before the model goes on.
        keys: per source, the identity its sampling noise is drawn from; its index by default.
        log_probs: whether hypotheses need theirs; without, those of greedy and sampled ones are 0.
        wanted: asked before every step whether anybody still waits for the result.

    Raises:
        ValueError: a source without ids, or no rows allowed.
        Unwanted: ``wanted`` said no.

    Returns:
        For each source in input order its hypotheses, best first: ``n_best`` for beam search (fewer
        only where prefix and limit leave no more), one otherwise.
    """
    if batch_rows is not None and batch_rows < 1:
        raise ValueError(f"batch_rows {batch_rows} must be at least 1")
    if any(len(source) == 0 for source in sources):
        raise ValueError("a source has no ids; even an empty text has its end symbol")
    limit = limit or LengthLimit()
    cap = model.config.max_target_length
    results: list[list[Hypothesis]] = [[] for _ in sources]
    order = sorted(range(len(sources)), key=lambda i: -len(sources[i]))

    def job_of(rows: list[int]) -> Job:
        return Job(
            sources=[sources[i] for i in rows],
            limits=[min(limit.of(len(sources[i])), cap) for i in rows],
            prefixes=[prefixes[i] if prefixes is not None else () for i in rows],
            keys=[keys[i] if keys is not None else i for i in rows],
            log_probs=log_probs,
            wanted=wanted,
        )

    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            if isinstance(mode, Beam):
                for rows in _batches(order, sources, batch_tokens // mode.size, batch_rows):
                    for i, best in zip(rows, beam_search(model, job_of(rows), mode), strict=True):
                        results[i] = [Hypothesis(*found) for found in best]
            else:
                rest = inflight.decode(model, job_of(order), mode, batch_tokens, batch_rows)
                for i, found in zip(order, rest, strict=True):
                    results[i] = [Hypothesis(*found)]
    finally:
        model.train(was_training)
    return results


def _batches(
    order: list[int], sources: Sequence[Ids], batch_tokens: int, batch_rows: int | None
) -> list[list[int]]:
    """Longest first: the first of a batch says how many fit."""
    batches: list[list[int]] = []
    rows: list[int] = []
    for i in order:
        count = len(rows) + 1
        if rows and (len(sources[rows[0]]) * count > batch_tokens or count > (batch_rows or count)):
            batches.append(rows)
            rows = []
        rows.append(i)
    return [*batches, rows] if rows else batches

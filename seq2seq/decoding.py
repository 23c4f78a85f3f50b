"""Greedy, sampled and beam decoding: the same code serves rollouts, validation and the service.

Sources are decoded in length-sorted batches, finished sentences leave their batch, and sampling
noise is a function of (seed, key of the sentence, position): a result does not depend on which
other sentences shared the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from seq2seq.batch import Ids, pad_sequences
from seq2seq.beam import beam_search
from seq2seq.model import Seq2SeqModel
from seq2seq.noise import uniform


@dataclass(frozen=True)
class Greedy:
    """The most probable token at every position."""


@dataclass(frozen=True)
class Sample:
    """A token drawn from the ``top_k`` most probable (0: from all), at ``temperature``."""

    top_k: int = 0
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.top_k < 0:
            raise ValueError(f"top_k {self.top_k} must be 0 (all) or positive")
        if not self.temperature > 0:
            raise ValueError(f"temperature {self.temperature} must be positive")


@dataclass(frozen=True)
class Beam:
    """Beam search; hypotheses are ranked by ``log_prob / length ** length_penalty``.

    Attributes:
        exact: search on until no live hypothesis could still win by growing longer; it seldom
            changes the result and costs about 1.4 times as much as judging by present length.
    """

    size: int = 5
    n_best: int = 1
    length_penalty: float = 1.0
    exact: bool = False

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"beam size {self.size} must be at least 1")
        if not 1 <= self.n_best <= self.size:
            raise ValueError(
                f"n_best {self.n_best} must be between 1 and the beam size {self.size}"
            )


@dataclass(frozen=True)
class LengthLimit:
    """At most ``min(floor(ratio * S) + offset, cap)`` target ids, the end symbol included."""

    ratio: float = 2.0
    offset: int = 10
    cap: int = 256

    def of(self, source_length: int) -> int:
        """The limit for one source of ``source_length`` ids."""
        return max(1, min(int(self.ratio * source_length) + self.offset, self.cap))


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


@dataclass(frozen=True)
class Job:
    """One batch of sources on its way through a decoder; ``limits`` and ``prefixes`` by row."""

    sources: list[Ids]
    limits: list[int]
    prefixes: list[Ids]
    keys: list[int] = field(default_factory=list)


def generate(
    model: Seq2SeqModel,
    sources: Sequence[Ids],
    mode: Greedy | Sample | Beam,
    *,
    limit: LengthLimit | None = None,
    batch_tokens: int = 4096,
    prefixes: Sequence[Ids] | None = None,
    keys: Sequence[int] | None = None,
) -> list[list[Hypothesis]]:
    """Decode every source.

    Args:
        model: switched to evaluation mode for the call.
        sources: the encoder's inputs, end symbol included.
        limit: longest target; never more than the model's ``max_target_length``.
        batch_tokens: padded source tokens times beams in one batch.
        prefixes: per source, target ids that are forced before the model goes on.
        keys: per source, the identity its sampling noise is drawn from; its index by default.

    Returns:
        For each source in input order its hypotheses, best first: ``n_best`` for beam search (fewer
        only where prefix and limit leave no more), one otherwise.
    """
    limit = limit or LengthLimit()
    cap = model.config.max_target_length
    results: list[list[Hypothesis]] = [[] for _ in sources]
    order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    beams = mode.size if isinstance(mode, Beam) else 1
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for rows in _batches(order, sources, batch_tokens, beams):
                job = Job(
                    sources=[sources[i] for i in rows],
                    limits=[min(limit.of(len(sources[i])), cap) for i in rows],
                    prefixes=[prefixes[i] if prefixes is not None else () for i in rows],
                    keys=[keys[i] if keys is not None else i for i in rows],
                )
                if isinstance(mode, Beam):
                    found = beam_search(model, job, mode)
                    answers = [[Hypothesis(*h) for h in best] for best in found]
                else:
                    answers = [[h] for h in _decode_rows(model, job, mode)]
                for i, answer in zip(rows, answers, strict=True):
                    results[i] = answer
    finally:
        model.train(was_training)
    return results


def _batches(
    order: list[int], sources: Sequence[Ids], batch_tokens: int, beams: int
) -> list[list[int]]:
    batches: list[list[int]] = []
    rows: list[int] = []
    for i in order:
        if rows and len(sources[i]) * (len(rows) + 1) * beams > batch_tokens:
            batches.append(rows)
            rows = []
        rows.append(i)
    return [*batches, rows] if rows else batches


def _decode_rows(model: Seq2SeqModel, job: Job, mode: Greedy | Sample) -> list[Hypothesis]:
    """Greedy or sampled decoding of one batch, a single hypothesis for each source."""
    config, device = model.config, model.device
    state = model.start(model.encode(*pad_sequences(job.sources, config.pad_id, device)))
    forced, prefix_lengths = pad_sequences(job.prefixes, config.pad_id, device)
    limits = torch.tensor(job.limits, device=device)
    keys = torch.tensor(job.keys, dtype=torch.int64, device=device)
    live = torch.arange(len(job.sources), device=device)
    tokens = torch.full_like(live, config.start_id)
    written = torch.full((len(job.sources), max(job.limits)), config.pad_id, device=device)
    log_probs = torch.zeros(len(job.sources), device=device)
    for position in range(max(job.limits)):
        logits = model.project(model.step(tokens, state)).float()
        forbid_special(logits, config)
        tokens = _choose(logits, mode, keys, position)
        chosen = logits.gather(1, tokens[:, None]).squeeze(1) - logits.logsumexp(1)
        if position < forced.shape[1]:
            is_forced = position < prefix_lengths
            tokens = torch.where(is_forced, forced[:, min(position, forced.shape[1] - 1)], tokens)
            chosen = torch.where(is_forced, 0.0, chosen)
        written[live, position] = tokens
        log_probs[live] += chosen
        going = (tokens != config.eos_id) & (position + 1 < limits)
        if not going.all():
            keep = going.nonzero().squeeze(1)
            if len(keep) == 0:
                break
            live, tokens, limits, keys = live[keep], tokens[keep], limits[keep], keys[keep]
            forced, prefix_lengths = forced[keep], prefix_lengths[keep]
            state.keep_sources(keep)
    return _hypotheses(written, log_probs, job.limits, config.eos_id)


def _hypotheses(
    written: Tensor, log_probs: Tensor, limits: list[int], eos_id: int
) -> list[Hypothesis]:
    results = []
    for ids, log_prob, limit in zip(written.tolist(), log_probs.tolist(), limits, strict=True):
        ids = ids[:limit]
        finished = eos_id in ids
        results.append(
            Hypothesis(ids[: ids.index(eos_id) + 1] if finished else ids, log_prob, finished)
        )
    return results


def forbid_special(scores: Tensor, config: object) -> None:
    """Make pad and start impossible, in place: neither is ever a target."""
    scores[:, config.pad_id] = -torch.inf  # type: ignore[attr-defined]
    scores[:, config.start_id] = -torch.inf  # type: ignore[attr-defined]


def _choose(logits: Tensor, mode: Greedy | Sample, keys: Tensor, position: int) -> Tensor:
    """Next tokens ``[N]``; sampling inverts the cumulative distribution at a keyed uniform."""
    if isinstance(mode, Greedy):
        return logits.argmax(1)
    k = min(mode.top_k or logits.shape[1], logits.shape[1])
    top, ids = logits.topk(k, dim=1)
    cumulative = (top / mode.temperature).double().softmax(1).cumsum(1)
    u = uniform(mode.seed, keys, position)[:, None] * cumulative[:, -1:]
    rank = torch.searchsorted(cumulative, u, right=True).clamp_(max=k - 1)
    return ids.gather(1, rank).squeeze(1)

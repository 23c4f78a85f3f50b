"""Beam search over the shared model interface."""

from __future__ import annotations

import torch
from torch import Tensor

from seq2seq.encoding import encode_sources
from seq2seq.model import Seq2SeqModel, forbid_special
from seq2seq.modes import Beam, Found, Job


class _Row:
    """The finished hypotheses of one source and what it takes to stop."""

    def __init__(self, mode: Beam, limit: int) -> None:
        self._mode, self.limit = mode, limit
        self.done: list[tuple[float, Found]] = []

    def normalised(self, log_prob: float, length: int) -> float:
        return log_prob / max(1, length) ** self._mode.length_penalty

    def add(self, ids: list[int], log_prob: float, finished: bool) -> None:
        self.done.append((self.normalised(log_prob, len(ids)), (ids, log_prob, finished)))
        self.done.sort(key=lambda entry: -entry[0])
        del self.done[self._mode.size :]

    def is_settled(self, best_live: float, length: int) -> bool:
        """The list is full and no live beam, now of ``length`` ids, would enter it.

        Judged at its present length; under ``exact`` at the length that would suit it best.
        """
        if len(self.done) < self._mode.size:
            return False
        if self._mode.size == 1:
            return True  # a beam of one is greedy: it ends where the best token is the end
        if self._mode.exact:
            length = self.limit if self._mode.length_penalty > 0 else 1
        return self.done[-1][0] >= self.normalised(best_live, length)


def beam_search(model: Seq2SeqModel, job: Job, mode: Beam) -> list[list[Found]]:
    """Decode one batch; for each source ``mode.n_best`` hypotheses, best first.

    Every step takes the ``2 * size`` best continuations of a source, so that ``size`` unfinished
    ones remain even where ``size`` of them end. A source leaves the batch when ``size`` are
    finished and no live beam, at its present length, beats the worst of them (``mode.exact``: could
    beat it at any length). At the length limit live beams count as unfinished
    hypotheses.
    """
    config, device, size = model.config, model.device, mode.size
    state = model.start(encode_sources(model, job.sources), size)
    rows = [_Row(mode, limit) for limit in job.limits]
    live = list(range(len(rows)))
    count = len(rows)
    tokens = torch.full((count * size,), config.start_id, device=device)
    history = torch.empty((count, size, 0), dtype=torch.int64, device=device)
    # Only beam 0 is alive before the first word, else all beams would hold the same hypothesis.
    scores = torch.full((count, size), -torch.inf, device=device)
    scores[:, 0] = 0.0
    for position in range(max(job.limits)):
        job.require_wanted()
        log_probs = _log_probs(model, state, tokens, job, live, position)
        total = scores[:, :, None] + log_probs.view(len(live), size, -1)
        width = total.shape[2]
        top, flat = total.view(len(live), -1).topk(min(2 * size, size * width), dim=1)
        beam, token = flat // width, flat % width
        top, beam, token = _settle(
            rows, live, history, top, beam, token, size, position, config.eos_id
        )
        scores = top
        history = torch.cat(
            [history.gather(1, beam[:, :, None].expand(-1, -1, position)), token[:, :, None]], dim=2
        )
        base = torch.arange(len(live), device=device)[:, None] * size
        state.reorder((base + beam).flatten())
        keep = _unfinished(rows, live, scores, history, position)
        if not keep:
            break
        if len(keep) < len(live):
            index = torch.tensor(keep, device=device)
            state.keep_sources(index)
            history, scores, token = history[index], scores[index], token[index]
            live = [live[i] for i in keep]
        tokens = token.flatten()
    return [[found for _, found in row.done[: mode.n_best]] for row in rows]


def _log_probs(
    model: Seq2SeqModel, state: object, tokens: Tensor, job: Job, live: list[int], position: int
) -> Tensor:
    """``[N, V]`` next-token log-probabilities; a forced prefix is certain and costs nothing."""
    logits = model.project(model.step(tokens, state)).float()  # type: ignore[arg-type]
    forbid_special(logits, model.config)
    log_probs = logits.log_softmax(1)
    size = len(tokens) // len(live)
    for place, row in enumerate(live):
        prefix = job.prefixes[row]
        if position < len(prefix):
            log_probs[place * size : (place + 1) * size] = -torch.inf
            log_probs[place * size : (place + 1) * size, prefix[position]] = 0.0
    return log_probs


def _settle(
    rows: list[_Row],
    live: list[int],
    history: Tensor,
    top: Tensor,
    beam: Tensor,
    token: Tensor,
    size: int,
    position: int,
    eos_id: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Move finished candidates to their rows; the best ``size`` others go on, in order."""
    ends = token == eos_id
    # An end counts only among the best `size`: a worse one would not have been on the beam.
    rank = torch.arange(top.shape[1], device=top.device)
    for place, column in (ends & (rank < size) & top.isfinite()).nonzero().tolist():
        ids = [*history[place, beam[place, column]].tolist(), eos_id]
        rows[live[place]].add(ids, float(top[place, column]), True)
    order = (ends.long() * top.shape[1] + rank).argsort(dim=1)[:, :size]
    top = top.masked_fill(ends, -torch.inf).gather(1, order)
    return top, beam.gather(1, order), token.gather(1, order)


def _unfinished(
    rows: list[_Row], live: list[int], scores: Tensor, history: Tensor, position: int
) -> list[int]:
    """Places in ``live`` that go on; rows at their limit collect what is left on the beam."""
    keep = []
    best = scores.max(1).values.tolist()
    for place, number in enumerate(live):
        row = rows[number]
        if position + 1 >= row.limit:
            for ids, score in zip(history[place].tolist(), scores[place].tolist(), strict=True):
                if score != float("-inf"):
                    row.add(ids, score, False)
        elif best[place] != float("-inf") and not row.is_settled(best[place], position + 1):
            keep.append(place)
    return keep

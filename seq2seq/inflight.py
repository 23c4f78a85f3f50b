"""Greedy and sampled decoding with in-flight batching.

Sources wait longest first. Rows that are finished leave the batch and waiting ones take their
places, each row at a position of its own, so that the batch stays full until the queue is empty.
Rows change places only when a quarter of them is finished: moving caches costs more than a few
idle rows do.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from seq2seq.batch import pad_sequences
from seq2seq.encoding import encode_sources
from seq2seq.model import DecoderState, Seq2SeqModel, forbid_special
from seq2seq.modes import Found, Greedy, Job, Sample
from seq2seq.noise import uniform_array

# Finished rows that are put up with before the others move together.
IDLE_SHARE = 0.25
# Whether rows are finished is known on the device; asking there makes the host wait.
STEPS_BETWEEN_LOOKS = {"cpu": 1}
STEPS_BETWEEN_LOOKS_ELSEWHERE = 4
# Columns of logits searched at once.
_BLOCK = 128


def decode(
    model: Seq2SeqModel,
    job: Job,
    mode: Greedy | Sample,
    batch_tokens: int,
    batch_rows: int | None = None,
) -> list[Found]:
    """One hypothesis for every source of ``job``, in its order; sources come longest first.

    Args:
        batch_tokens: bound on rows times longest source among them; one row is always taken.
        batch_rows: bound on rows.
    """
    results: list[Found] = [([], 0.0, False)] * len(job.sources)
    queue = deque(range(len(job.sources)))
    batch = _Batch(model, job, mode)
    while True:
        if batch.is_stale():
            for row, found in batch.collect():
                results[row] = found
            batch.admit(_admitted(batch.rows, queue, job, batch_tokens, batch_rows))
            if not batch.rows:
                return results
        job.require_wanted()
        batch.step()


def _admitted(
    live: list[int], queue: deque[int], job: Job, batch_tokens: int, batch_rows: int | None
) -> list[int]:
    """Take from the queue what fits beside the live rows."""
    lengths = [len(job.sources[row]) for row in live]
    longest, count = max(lengths, default=0), len(live)
    taken: list[int] = []
    while queue:
        longest = max(longest, len(job.sources[queue[0]]))
        count += 1
        if count > 1 and (longest * count > batch_tokens or count > (batch_rows or count)):
            break
        taken.append(queue.popleft())
    return taken


class _Batch:
    """Rows under way: what each has written, and its place in the decoder's state."""

    def __init__(self, model: Seq2SeqModel, job: Job, mode: Greedy | Sample) -> None:
        self._model, self._job, self._mode = model, job, mode
        self._device = model.device
        self._width = max(job.limits, default=0)
        self._prefix_width = max(map(len, job.prefixes), default=0)
        every = STEPS_BETWEEN_LOOKS.get(self._device.type, STEPS_BETWEEN_LOOKS_ELSEWHERE)
        self._every, self._steps = every, 0
        self.rows: list[int] = []
        # Known here as well as on the device, which need not be asked for them.
        self._keys = self._positions = np.zeros(0, dtype=np.int64)
        self._state: DecoderState | None = None
        self._tensors: dict[str, Tensor] = {}

    def is_stale(self) -> bool:
        """Whether so many rows are finished that the others should move together."""
        if not self.rows:
            return True
        if self._steps % self._every:
            return False
        going = int(self._tensors["going"].sum())
        return len(self.rows) - going >= IDLE_SHARE * len(self.rows)

    def collect(self) -> list[tuple[int, Found]]:
        """Take finished rows out."""
        if not self.rows:
            return []
        held = self._tensors
        going = held["going"].tolist()
        written, log_probs = held["written"].tolist(), held["log_probs"].tolist()
        found = [
            (row, self._found(row, written[n], log_probs[n]))
            for n, row in enumerate(self.rows)
            if not going[n]
        ]
        keep = [n for n, goes in enumerate(going) if goes]
        self.rows = [self.rows[n] for n in keep]
        self._keys, self._positions = self._keys[keep], self._positions[keep]
        if keep:
            index = torch.tensor(keep, device=self._device)
            self._tensors = {name: tensor[index] for name, tensor in held.items()}
            assert self._state is not None
            self._state.keep_sources(index)
        else:
            self._tensors, self._state = {}, None
        return found

    def _found(self, row: int, written: list[int], log_prob: float) -> Found:
        ids = written[: self._job.limits[row]]
        end = self._model.config.eos_id
        finished = end in ids
        return (ids[: ids.index(end) + 1] if finished else ids), log_prob, finished

    def admit(self, rows: list[int]) -> None:
        """Encode more sources and let them join."""
        if not rows:
            return
        fresh = self._fresh(rows)
        sources = [self._job.sources[row] for row in rows]
        state = self._model.start(encode_sources(self._model, sources))
        if self._state is None:
            self._tensors, self._state = fresh, state
        else:
            self._tensors = {k: torch.cat([v, fresh[k]]) for k, v in self._tensors.items()}
            self._state.extend(state)
        self.rows = self.rows + rows
        keys = np.array([self._job.keys[row] for row in rows], dtype=np.int64)
        self._keys = np.concatenate([self._keys, keys])
        self._positions = np.concatenate([self._positions, np.zeros_like(keys)])

    def _fresh(self, rows: list[int]) -> dict[str, Tensor]:
        job, config, device, count = self._job, self._model.config, self._device, len(rows)
        forced, prefix_lengths = pad_sequences([job.prefixes[row] for row in rows], config.pad_id)
        forced = functional.pad(forced, (0, max(1, self._prefix_width) - forced.shape[1]))
        tensors = {
            "tokens": torch.full((count,), config.start_id),
            "positions": torch.zeros(count, dtype=torch.int64),
            "limits": torch.tensor([job.limits[row] for row in rows]),
            "forced": forced,
            "prefix_lengths": prefix_lengths,
            # The last column takes what finished rows go on writing.
            "written": torch.full((count, self._width + 1), config.pad_id),
            "log_probs": torch.zeros(count),
            "going": torch.ones(count, dtype=torch.bool),
        }
        return {name: tensor.to(device) for name, tensor in tensors.items()}

    def step(self) -> None:
        """Every row writes one token."""
        held, config = self._tensors, self._model.config
        going, positions = held["going"], held["positions"]
        assert self._state is not None
        logits = self._model.project(self._model.step(held["tokens"], self._state)).float()
        forbid_special(logits, config)
        tokens = choose(logits, self._mode, self._noise())
        is_forced = None
        if self._prefix_width:
            is_forced = positions < held["prefix_lengths"]
            column = positions.clamp(max=self._prefix_width - 1)[:, None]
            prefix = held["forced"].gather(1, column).squeeze(1)
        if self._job.log_probs:
            chosen = logits.gather(1, tokens[:, None]).squeeze(1) - logits.logsumexp(1)
            counts = going if is_forced is None else going & ~is_forced
            held["log_probs"] += torch.where(counts, chosen, 0.0)
        if is_forced is not None:
            tokens = torch.where(is_forced, prefix, tokens)
        column = torch.where(going, positions, self._width)
        held["written"].scatter_(1, column[:, None], tokens[:, None])
        positions += 1
        going &= (tokens != config.eos_id) & (positions < held["limits"])
        held["tokens"] = tokens
        self._positions += 1
        self._steps += 1

    def _noise(self) -> Tensor | None:
        """float64 ``[N]`` in [0, 1), by seed, key and position."""
        if isinstance(self._mode, Greedy):
            return None
        numbers = uniform_array(self._mode.seed, self._keys, self._positions)
        return torch.from_numpy(numbers).to(self._device)


def choose(logits: Tensor, mode: Greedy | Sample, u: Tensor | None) -> Tensor:
    """Next tokens ``[N]``; sampling inverts the cumulative distribution at ``u [N]`` in [0, 1)."""
    if isinstance(mode, Greedy):
        return likeliest(logits)
    assert u is not None
    ids = None
    if 0 < mode.top_k < logits.shape[1]:
        logits, ids = logits.topk(mode.top_k, dim=1)
    cumulative = (logits / mode.temperature).double().softmax(1).cumsum(1)
    place = torch.searchsorted(cumulative, u[:, None] * cumulative[:, -1:], right=True)
    place.clamp_(max=logits.shape[1] - 1)
    # Without a top-k all ids stay in their own order: nothing needs to be sorted.
    return (place if ids is None else ids.gather(1, place)).squeeze(1)


def likeliest(logits: Tensor) -> Tensor:
    """``argmax(1)`` of ``[N, V]``, the first among equals.

    On a CPU by way of the largest of each block of columns: a plain maximum is vectorised there,
    the search for its place is not.
    """
    blocks = logits.shape[1] // _BLOCK
    if logits.device.type != "cpu" or blocks < 2:
        return logits.argmax(1)
    even = blocks * _BLOCK
    tops = logits[:, :even].unflatten(1, (blocks, _BLOCK)).amax(2)
    if even < logits.shape[1]:
        tops = torch.cat([tops, logits[:, even:].amax(1, keepdim=True)], dim=1)
    # The last block reaches back into the one before, whose largest is smaller if it is chosen.
    begin = (tops.argmax(1) * _BLOCK).clamp(max=logits.shape[1] - _BLOCK)
    window = logits.gather(1, begin[:, None] + torch.arange(_BLOCK))
    return begin + window.argmax(1)

"""Slow references, written like the paper and in plain loops: what the fast code must agree with.

Notation of Lin et al. 2020: pi is the student, pi* the teacher, the state is (y_<t, x). A
distribution is a list of natural-log probabilities over the vocabulary. Everything is float64.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch

from seq2seq.model import Seq2SeqModel
from seq2seq.noise import uniform_array
from seq2seq.stacked import Stacked
from seq2seq.transformer import Transformer
from tests.recurrent_oracles import CELLS, sru

LogProbs = list[float]
INFINITY = math.inf

# ---------------------------------------------------------------------------------------------
# losses at one position


def log_softmax(logits: Sequence[float]) -> LogProbs:
    """``l_v - log sum_u exp(l_u)``."""
    top = max(logits)
    total = top + math.log(math.fsum(math.exp(x - top) for x in logits))
    return [x - total for x in logits]


def reference_loss(student: LogProbs, target: int, smoothing: float = 0.0) -> float:
    """``-sum_v q(v) log pi(v)`` with ``q = (1 - eps) onehot(target) + eps / V``."""
    size = len(student)
    loss = 0.0
    for v in range(size):
        q = smoothing / size + (1.0 - smoothing if v == target else 0.0)
        if q > 0:
            loss -= q * student[v]
    return loss


def l_opt(student: LogProbs, teacher: LogProbs) -> float:
    """``-log pi(v*)``, ``v* = argmax_v pi*(v)``."""
    best = max(range(len(teacher)), key=lambda v: (teacher[v], -v))
    return -student[best]


def l_full(student: LogProbs, teacher: LogProbs) -> float:
    """``-sum_v pi*(v) log pi(v)``."""
    loss = 0.0
    for p, q in zip(teacher, student, strict=True):
        if p > -INFINITY:
            loss -= math.exp(p) * q
    return loss


def best_candidates(teacher: LogProbs, k: int) -> list[int]:
    """The teacher's k most probable ids, ties by id."""
    return sorted(range(len(teacher)), key=lambda v: (-teacher[v], v))[:k]


def l_full_bucket(student: LogProbs, teacher: LogProbs, k: int) -> float:
    """L_full over the k candidates and one class for all the rest."""
    chosen = best_candidates(teacher, k)
    rest = [v for v in range(len(teacher)) if v not in chosen]
    loss = -sum(math.exp(teacher[v]) * student[v] for v in chosen)
    teacher_rest = math.fsum(math.exp(teacher[v]) for v in rest)
    if teacher_rest > 0:
        loss -= teacher_rest * math.log(math.fsum(math.exp(student[v]) for v in rest))
    return loss


def l_full_renormalised(student: LogProbs, teacher: LogProbs, k: int) -> float:
    """L_full over the k candidates alone, their probabilities scaled to sum to one."""
    chosen = best_candidates(teacher, k)
    mass = math.fsum(math.exp(teacher[v]) for v in chosen)
    return -sum(math.exp(teacher[v]) / mass * student[v] for v in chosen)


# ---------------------------------------------------------------------------------------------
# losses of a batch


def mean_loss(
    rows: Sequence[tuple[Sequence[int], Sequence[int]]],
    position_loss: Callable[[int, int], float],
) -> float:
    """Mean of ``position_loss(row, t)`` over every target position of every (source, target) row.

    Targets hold no padding and stop at their end symbol, so neither can carry loss.
    """
    losses = []
    for number, (_, target) in enumerate(rows):
        for t in range(len(target)):
            losses.append(position_loss(number, t))
    return math.fsum(losses) / len(losses)


def distributions(
    model: Seq2SeqModel, source: Sequence[int], target: Sequence[int], temperature: float = 1.0
) -> list[LogProbs]:
    """``pi(. | target[:t], source)`` for t = 0 .. T - 1: one full-prefix forward for each t."""
    return [next_log_probs(model, source, target[:t], temperature) for t in range(len(target))]


# ---------------------------------------------------------------------------------------------
# mixing


def beta(schedule: str, t: int, n: int, *, base: float = 200.0, final: float = 0.005) -> float:
    """Rate of references at step t of N."""
    if schedule == "exponential":
        r = 1.0 / base
        return r ** (t / n)
    if schedule == "linear":
        return 1.0 - (1.0 - final) * t / n
    assert schedule == "reverse-sigmoid"
    return 1.0 / (1.0 + math.exp(20.0 * (t / n - 0.5)))


# ---------------------------------------------------------------------------------------------
# decoding: the whole prefix is read again for every token


def next_logits(model: Seq2SeqModel, source: Sequence[int], prefix: Sequence[int]) -> list[float]:
    """Logits behind a prefix, for one sentence alone, without cache or padding."""
    with torch.no_grad():
        ids = torch.tensor([list(source)])
        inputs = torch.tensor([[model.config.start_id, *prefix]])
        logits = model(ids, torch.tensor([len(source)]), inputs)
    return logits[0, -1].double().tolist()


def next_log_probs(
    model: Seq2SeqModel, source: Sequence[int], prefix: Sequence[int], temperature: float = 1.0
) -> LogProbs:
    """``log pi(. | prefix, source)`` over the whole vocabulary."""
    return log_softmax([x / temperature for x in next_logits(model, source, prefix)])


def writable(model: Seq2SeqModel, source: Sequence[int], prefix: Sequence[int]) -> LogProbs:
    """Log-probabilities of what a decoder may write: neither pad nor a start that is no end."""
    logits = next_logits(model, source, prefix)
    for forbidden in {model.config.pad_id, model.config.start_id} - {model.config.eos_id}:
        logits[forbidden] = -INFINITY
    return log_softmax(logits)


def sequence_log_prob(
    model: Seq2SeqModel, source: Sequence[int], ids: Sequence[int], forced: int = 0
) -> float:
    """Sum of the log-probabilities of ``ids`` behind their first ``forced`` ones."""
    return math.fsum(writable(model, source, ids[:t])[ids[t]] for t in range(forced, len(ids)))


def greedy(
    model: Seq2SeqModel, source: Sequence[int], limit: int, prefix: Sequence[int] = ()
) -> list[int]:
    """The most probable token at every position."""
    ids: list[int] = []
    while len(ids) < limit:
        if len(ids) < len(prefix):
            token = prefix[len(ids)]
        else:
            scores = writable(model, source, ids)
            token = max(range(len(scores)), key=lambda v: scores[v])
        ids.append(token)
        if token == model.config.eos_id:
            break
    return ids


def beam(
    model: Seq2SeqModel,
    source: Sequence[int],
    *,
    size: int,
    limit: int,
    length_penalty: float = 1.0,
    prefix: Sequence[int] = (),
) -> list[tuple[list[int], float, bool]]:
    """Beam search without any early stop: (ids, log-probability, finished), best first."""
    live: list[tuple[float, list[int]]] = [(0.0, [])]
    done: list[tuple[float, list[int], bool]] = []
    for position in range(limit):
        candidates = []
        for score, ids in live:
            if position < len(prefix):
                candidates.append((score, [*ids, prefix[position]]))
                continue
            for token, log_prob in enumerate(writable(model, source, ids)):
                if log_prob > -INFINITY:
                    candidates.append((score + log_prob, [*ids, token]))
        candidates.sort(key=lambda c: -c[0])
        end = model.config.eos_id
        done += [(s, ids, True) for s, ids in candidates[:size] if ids[-1] == end]
        live = [c for c in candidates if c[1][-1] != end][:size]
        if size == 1 and done:
            live = []
    done += [(s, ids, False) for s, ids in live]
    done.sort(key=lambda d: -d[0] / len(d[1]) ** length_penalty)
    return [(ids, score, finished) for score, ids, finished in done[:size]]


def all_targets(
    model: Seq2SeqModel, source: Sequence[int], limit: int
) -> list[tuple[list[int], float, bool]]:
    """Every target of up to ``limit`` ids: finished ones, and unfinished ones at the limit."""
    config = model.config
    words = [v for v in range(config.vocab_size) if v not in (config.pad_id, config.start_id)]
    words.remove(config.eos_id)
    found = []
    for length in range(limit + 1):
        for body in itertools.product(words, repeat=length):
            ids, finished = ([*body, config.eos_id], True) if length < limit else ([*body], False)
            found.append((ids, sequence_log_prob(model, source, ids), finished))
    return found


def top_k_distribution(log_probs: LogProbs, k: int, temperature: float) -> dict[int, float]:
    """Softmax at a temperature over the k most probable ids (all for k = 0)."""
    chosen = best_candidates(log_probs, k or len(log_probs))
    weights = {v: math.exp(log_probs[v] / temperature) for v in chosen}
    total = math.fsum(weights.values())
    return {v: w / total for v, w in weights.items()}


def divergence(
    kind: str, p: Sequence[float], q: Sequence[float], beta: float = 0.5, alpha: float = 0.1
) -> float:
    """The formulae of GKD, DistiLLM and f-distill over probabilities."""

    def kl(a: Sequence[float], b: Sequence[float]) -> float:
        return math.fsum(x * math.log(x / y) for x, y in zip(a, b, strict=True) if x > 0)

    def mix(share: float) -> list[float]:
        return [share * x + (1 - share) * y for x, y in zip(p, q, strict=True)]

    if kind == "jsd" and beta not in (0.0, 1.0):
        return beta * kl(p, mix(beta)) + (1 - beta) * kl(q, mix(beta))
    if kind == "forward-kl" or (kind == "jsd" and beta == 0.0):
        return kl(p, q)
    if kind == "reverse-kl" or kind == "jsd":
        return kl(q, p)
    if kind == "skew-kl":
        return kl(p, mix(alpha))
    if kind == "reverse-skew-kl":
        return kl(q, mix(1 - alpha))
    assert kind == "tvd"
    return 0.5 * math.fsum(abs(x - y) for x, y in zip(p, q, strict=True))


def classes(probabilities: Sequence[float], ids: Sequence[int] | None) -> list[float]:
    """Probabilities of some ids and of all others together; of every id where ``ids`` is None."""
    if ids is None:
        return list(probabilities)
    rest = [x for v, x in enumerate(probabilities) if v not in set(ids)]
    return [*(probabilities[v] for v in ids), math.fsum(rest)]


# ---------------------------------------------------------------------------------------------
# the Transformer, position by position


class NaiveTransformer:
    """Vaswani et al. 2017 over the weights of a :class:`Transformer`, one vector at a time."""

    def __init__(self, model: Transformer) -> None:
        self.config: Any = model.config
        self.weights = {k: v.double().numpy() for k, v in model.state_dict().items()}

    def logits(self, source: Sequence[int], inputs: Sequence[int]) -> np.ndarray:
        """``[T, V]``: row t is read behind ``inputs[: t + 1]``."""
        memory = self._stack("encoder", source, None)
        hidden = self._stack("decoder", inputs, memory)
        table, bias = self.weights["embedding.weight"], self.weights["logit_bias"]
        return np.stack([table @ h + bias for h in hidden])

    def position(self, index: int) -> np.ndarray:
        """Sines in the first half, cosines in the second."""
        d = self.config.d_model
        if self.config.positions == "none":
            return np.zeros(d)
        steps = d if self.config.positions == "vaswani" else d - 2
        angles = [index / 10000 ** (2 * i / steps) for i in range(d // 2)]
        return np.array([math.sin(a) for a in angles] + [math.cos(a) for a in angles])

    def _stack(
        self, side: str, ids: Sequence[int], memory: list[np.ndarray] | None
    ) -> list[np.ndarray]:
        table, scale = self.weights["embedding.weight"], math.sqrt(self.config.d_model)
        x = [table[token] * scale + self.position(i) for i, token in enumerate(ids)]
        for number in range(getattr(self.config, f"{side}_layers")):
            name = f"{side}_layers.{number}"
            if side == "encoder":
                recurrent = getattr(self.config, "encoder", "transformer") == "recurrent"
                block = "block" if recurrent else "attention_block"
                x = self._sublayer(x, f"{name}.{block}.norm", lambda y, n=name: self._encode(y, n))
            else:
                x = self._sublayer(x, f"{name}.self_block.norm", lambda y, n=name: self._read(y, n))
                x = self._sublayer(
                    x, f"{name}.cross_block.norm", lambda y, n=name: self._cross(y, memory, n)
                )
            if self.config.ffn:
                x = self._sublayer(
                    x, f"{name}.feed_forward_block.norm", lambda y, n=name: self._feed_forward(y, n)
                )
        return self._norm(x, f"{side}_norm") if self.config.norm == "pre" else x

    def _sublayer(self, x: list[np.ndarray], norm: str, change: Any) -> list[np.ndarray]:
        if self.config.norm == "pre":
            return [a + b for a, b in zip(x, change(self._norm(x, norm)), strict=True)]
        return self._norm([a + b for a, b in zip(x, change(x), strict=True)], norm)

    def _norm(self, x: list[np.ndarray], name: str) -> list[np.ndarray]:
        gain, shift = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return [(v - v.mean()) / math.sqrt(v.var() + 1e-5) * gain + shift for v in x]

    def _read(self, x: list[np.ndarray], layer: str) -> list[np.ndarray]:
        """How a decoder's layer takes in what was written."""
        if self.config.kind == "recurrent":
            return self._cell(x, f"{layer}.cell")
        return self._own(x, layer, True)

    def _cell(self, x: list[np.ndarray], name: str) -> list[np.ndarray]:
        own = {k.removeprefix(f"{name}."): v for k, v in self.weights.items() if name + "." in k}
        return CELLS[self.config.cell](x, own)

    def _encode(self, x: list[np.ndarray], layer: str) -> list[np.ndarray]:
        """How an encoder's layer lets positions look at each other."""
        if getattr(self.config, "encoder", "transformer") == "transformer":
            return self._own(x, layer, False)
        right = self._cell(x, f"{layer}.rightwards")
        left = self._cell(x[::-1], f"{layer}.leftwards")[::-1]
        return [np.concatenate(pair) for pair in zip(right, left, strict=True)]

    def _own(self, x: list[np.ndarray], layer: str, causal: bool) -> list[np.ndarray]:
        name = f"{layer}.self_attention" if causal else f"{layer}.attention"
        weight, bias = self.weights[f"{name}.packed.weight"], self.weights[f"{name}.packed.bias"]
        q, k, v = (
            [
                weight[part * len(y) : (part + 1) * len(y)] @ y + bias[part * len(y) :][: len(y)]
                for y in x
            ]
            for part in range(3)
        )
        return self._attend(q, k, v, name, causal)

    def _cross(self, x: list[np.ndarray], memory: Any, layer: str) -> list[np.ndarray]:
        name = f"{layer}.cross_attention"
        q = [self._linear(y, f"{name}.query") for y in x]
        packed = [self._linear(m, f"{name}.packed") for m in memory]
        d = self.config.d_model
        return self._attend(q, [p[:d] for p in packed], [p[d:] for p in packed], name, False)

    def _attend(
        self,
        queries: list[np.ndarray],
        keys: list[np.ndarray],
        values: list[np.ndarray],
        name: str,
        causal: bool,
    ) -> list[np.ndarray]:
        width = self.config.d_model // self.config.heads
        results = []
        for i, query in enumerate(queries):
            heads = []
            for h in range(self.config.heads):
                part = slice(h * width, (h + 1) * width)
                seen = range(i + 1) if causal else range(len(keys))
                scores = [query[part] @ keys[j][part] / math.sqrt(width) for j in seen]
                shares = [math.exp(s) for s in log_softmax(scores)]
                heads.append(sum(s * values[j][part] for s, j in zip(shares, seen, strict=True)))
            results.append(self._linear(np.concatenate(heads), f"{name}.out"))
        return results

    def _feed_forward(self, x: list[np.ndarray], layer: str) -> list[np.ndarray]:
        activation = np.vectorize(_ACTIVATIONS[self.config.activation])
        inner = [activation(self._linear(y, f"{layer}.feed_forward.inner")) for y in x]
        return [self._linear(y, f"{layer}.feed_forward.outer") for y in inner]

    def _linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return self.weights[f"{name}.weight"] @ x + self.weights[f"{name}.bias"]


class NaiveStacked:
    """Luong et al. 2015 over the weights of a :class:`Stacked`, one vector at a time."""

    def __init__(self, model: Stacked) -> None:
        self.config: Any = model.config
        self.weights = {k: v.double().numpy() for k, v in model.state_dict().items()}

    def logits(self, source: Sequence[int], inputs: Sequence[int]) -> np.ndarray:
        """``[T, V]``: row t is read behind ``inputs[: t + 1]``."""
        w, each = self.weights, self.config.encoder_width
        table = w["embedding.weight"]
        states = self._rows(w.get("source_embedding.weight", table), source)
        for number in range(self.config.encoder_layers):
            name = f"encoder_layers.{number}"
            halves = ([], []) if len(states[0]) != 2 * each else np.split(np.arange(2 * each), 2)
            right = self._cell(states, f"{name}.rightwards", halves[0])
            left = self._cell(states[::-1], f"{name}.leftwards", halves[1])[::-1]
            states = [np.concatenate(pair) for pair in zip(right, left, strict=True)]
        if "bridge.weight" in w:
            states = [w["bridge.weight"] @ state for state in states]
        said = self._rows(table, inputs)
        for number in range(self.config.decoder_layers):
            said = self._cell(said, f"decoder_layers.{number}", None)
        return np.stack([table @ self._hidden(h, states) + w["logit_bias"] for h in said])

    def _hidden(self, h: np.ndarray, states: list[np.ndarray]) -> np.ndarray:
        shares = log_softmax([float(h @ state) / math.sqrt(len(h)) for state in states])
        found = sum(math.exp(share) * state for share, state in zip(shares, states, strict=True))
        w = self.weights
        together = w["combined.weight"] @ np.concatenate([found, h]) + w["combined.bias"]
        return w["narrowed.weight"] @ np.tanh(together) + w["narrowed.bias"]

    def _rows(self, table: np.ndarray, ids: Sequence[int]) -> list[np.ndarray]:
        return [table[token] * math.sqrt(self.config.d_model) for token in ids]

    def _cell(self, x: list[np.ndarray], name: str, carried: Any) -> list[np.ndarray]:
        own = {k.removeprefix(f"{name}."): v for k, v in self.weights.items() if name + "." in k}
        if self.config.cell == "sru":
            return sru(x, own, carried)
        return CELLS[self.config.cell](x, own)


def naive(model: Seq2SeqModel) -> NaiveTransformer | NaiveStacked:
    """The slow form of a model of ours."""
    if isinstance(model, Stacked):
        return NaiveStacked(model)
    return NaiveTransformer(cast(Any, model))


_ACTIVATIONS: dict[str, Callable[[float], float]] = {
    "relu": lambda x: max(0.0, x),
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    "swish": lambda x: x / (1 + math.exp(-x)),
}


# ---------------------------------------------------------------------------------------------
# training


def weight_average(weights: Sequence[Sequence[float]], decay: float) -> list[float]:
    """Moving average over ``weights[0]`` (the start), ``weights[1]`` (after step 1), ..."""
    average = list(weights[0])
    for t, present in enumerate(weights[1:], 1):
        d = min(decay, (1 + t) / (10 + t))
        average = [d * a + (1 - d) * w for a, w in zip(average, present, strict=True)]
    return average


def mean_nll(model: Seq2SeqModel, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> float:
    """Mean ``-log pi(y_t | y_<t, x)`` over all target positions of all (source, target) rows."""
    losses = []
    for source, target in rows:
        for t, log_probs in enumerate(distributions(model, source, target)):
            losses.append(-log_probs[target[t]])
    return math.fsum(losses) / len(losses)


def chi_square(observed: Sequence[int], probabilities: Sequence[float]) -> float:
    """Standardised goodness of fit: about N(0, 1) where the counts follow the probabilities."""
    total = sum(observed)
    statistic = sum(
        (o - total * p) ** 2 / (total * p) for o, p in zip(observed, probabilities, strict=True)
    )
    freedom = len(observed) - 1
    return (statistic - freedom) / math.sqrt(2 * freedom)


# ---------------------------------------------------------------------------------------------
# batches


def planned_epoch(
    lengths: np.ndarray, seed: int, epoch: int, sentences: int | None, tokens: int | None
) -> list[np.ndarray]:
    """Sort all rows by length and lot, fill one batch after the other, shuffle the batches."""
    sentences = sentences or len(lengths)
    tokens = tokens or int(lengths.max()) * len(lengths)
    lots = uniform_array(seed, epoch, np.arange(len(lengths)))
    order = np.argsort(lengths + lots, kind="stable")
    batches: list[list[int]] = [[]]
    for row in order:
        batch = batches[-1]
        if batch and (len(batch) >= sentences or lengths[row] * (len(batch) + 1) > tokens):
            batches.append(batch := [])
        batch.append(int(row))
    shuffle = np.argsort(uniform_array(seed, epoch, -1 - np.arange(len(batches))))
    return [np.array(batches[i]) for i in shuffle]

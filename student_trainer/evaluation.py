"""Evaluation of a model on a split: scores of its output, and its loss on references."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from seq2seq.batch import decoder_inputs, packed_index, pad_sequences
from seq2seq.corpus import Example
from seq2seq.decoding import Beam, Greedy, LengthLimit
from seq2seq.metrics import Metric, Scores, score_translations
from seq2seq.model import Seq2SeqModel
from seq2seq.rouge import Rouge, score_summaries
from seq2seq.translation import encode_sources, encode_targets, translate
from seq2seq.vocabulary import Vocabulary
from student_trainer.losses import reference_loss


@dataclass(frozen=True)
class Evaluation:
    """Scores of one model on one split.

    Attributes:
        loss: mean ``-log pi(y_t)`` of the first references, in nats a target id.
        seconds: spent in translating alone; the median where it was repeated.
        cpu_seconds: the same of this process's threads, whatever else the machine does.
        rouge: where it is the metric.
    """

    scores: Scores
    loss: float
    translations: list[str]
    seconds: float
    cpu_seconds: float
    rouge: Rouge | None = None

    @property
    def quality(self) -> float:
        """By the metric, in percent; more is better."""
        return self.scores.bleu if self.rouge is None else self.rouge.mean

    @property
    def summary(self) -> str:
        """The scores of the metric in words."""
        if self.rouge is None:
            return f"BLEU {self.scores.bleu:.2f} ({self.scores.bleu_signature})"
        r = self.rouge
        return (
            f"ROUGE-1 {r.rouge1:.2f}, ROUGE-2 {r.rouge2:.2f}, ROUGE-L {r.rougeL:.2f} "
            f"({r.rouge_signature})"
        )

    def as_dict(self) -> dict[str, float | str]:
        """All scores as plain values for JSON."""
        return self.scores.as_dict() | (self.rouge.as_dict() if self.rouge is not None else {})

    @property
    def sentences_per_s(self) -> float:
        """Sentences translated in a second, tokenising included."""
        return len(self.translations) / self.seconds


def evaluate(
    model: Seq2SeqModel,
    vocabulary: Vocabulary,
    examples: Sequence[Example],
    mode: Greedy | Beam | None = None,
    *,
    metric: Metric = "bleu",
    limit: LengthLimit | None = None,
    repeats: int = 1,
) -> Evaluation:
    """Translate and score ``examples`` (all with references); ``repeats`` times for the speed.

    Raises:
        UserError: a source has no reference, or ROUGE is asked for and its library is not there.
    """
    sources, texts = [e.source for e in examples], []
    times, cpu_times = [], []
    for _ in range(repeats):
        begin, cpu_begin = time.perf_counter(), time.process_time()
        texts = translate(model, vocabulary, sources, mode, limit=limit)
        times.append(time.perf_counter() - begin)
        cpu_times.append(time.process_time() - cpu_begin)
    seconds, cpu_seconds = statistics.median(times), statistics.median(cpu_times)
    references = [e.references for e in examples]
    scores = score_translations(texts, references)
    rouge = score_summaries(texts, references) if metric == "rouge" else None
    loss = validation_loss(model, vocabulary, examples)
    return Evaluation(scores, loss, texts, seconds, cpu_seconds, rouge)


def validation_loss(
    model: Seq2SeqModel, vocabulary: Vocabulary, examples: Sequence[Example], batch: int = 64
) -> float:
    """Mean negative log-likelihood of the first references, nats a target id, end included."""
    config = model.config
    sources = encode_sources(vocabulary, [e.source for e in examples], config.max_source_length)
    references = [e.references[0] for e in examples]
    targets = encode_targets(vocabulary, references, config.max_target_length)
    order = sorted(range(len(targets)), key=lambda i: len(targets[i]))
    total, count = 0.0, 0
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for begin in range(0, len(order), batch):
            rows = order[begin : begin + batch]
            source = pad_sequences([sources[i] for i in rows], config.pad_id, model.device)
            target, lengths = pad_sequences([targets[i] for i in rows], config.pad_id, model.device)
            hidden = model.decode(model.encode(*source), decoder_inputs(target, config.start_id))
            index = packed_index(lengths, target.shape[1])
            logits = model.project(hidden.flatten(0, 1).index_select(0, index))
            losses = reference_loss(logits, target.flatten().index_select(0, index))
            total += float(losses.double().sum())
            count += len(index)
    model.train(was_training)
    return total / count

"""The exposure-bias picture: what a student's own mistakes lead to.

Trained on references alone, a student has never seen a prefix that holds a mistake. Three views of
it, all against a served teacher: quality by length of the source; how far the student's next token
is from the teacher's, position by position, behind references and behind its own text; and what
the teacher makes of texts that the student began.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seq2seq.batch import decoder_inputs, pad_sequences
from seq2seq.checkpoint import ModelDirectory, load_model_directory
from seq2seq.corpus import Example
from seq2seq.decoding import Greedy, LengthLimit, generate
from seq2seq.errors import UserError
from seq2seq.metrics import Metric, score_translations
from seq2seq.model import Seq2SeqModel
from seq2seq.rouge import score_summaries
from seq2seq.translation import encode_sources, encode_targets
from teacher_service import codec
from teacher_service.client import TeacherClient

# Of what the student wrote, the shares that the teacher goes on from.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
LENGTH_BINS = 5
# A position that fewer sentences reach says little.
LEAST_SENTENCES = 10
_BATCH = 16

Ids = list[int]


@dataclass(frozen=True)
class Position:
    """Divergence at one target position.

    Attributes:
        position: from 0.
        sentences: that reach it.
        kl: mean over them of KL(teacher || student) in nats, over the whole vocabulary.
    """

    position: int
    sentences: int
    kl: float


@dataclass(frozen=True)
class Bin:
    """Quality on sources of some lengths, ``low`` to ``high`` ids, ends included."""

    low: int
    high: int
    sentences: int
    student: float
    teacher: float


class Exposure:
    """Analyses of students of one teacher on the same sentences.

    Args:
        teacher: asked for scores and for texts.
        beam: of the teacher's texts; the student writes greedily.
        metric: what quality is; ``rouge`` is the mean of ROUGE-1, -2 and -L.
    """

    def __init__(
        self,
        teacher: TeacherClient,
        examples: Sequence[Example],
        *,
        metric: Metric = "bleu",
        beam: int = 1,
        limit: LengthLimit | None = None,
    ) -> None:
        self._teacher, self._examples, self._metric = teacher, examples, metric
        self._references = [e.references for e in examples]
        self._mode = codec.Beam(beam) if beam > 1 else codec.Greedy()
        self._beam, self._limit = beam, limit or LengthLimit()

    def analyse(self, student: Path) -> dict[str, Any]:
        """All three views of a model directory, as plain values.

        Raises:
            UserError: no model directory, or one of another vocabulary than the teacher's.
            TeacherError: the teacher does not answer.
        """
        directory = load_model_directory(student)
        info = self._teacher.model_info()
        if info.fingerprint != directory.vocabulary.fingerprint:
            raise UserError(
                f"{student} has another vocabulary than teacher {info.name}; their distributions "
                "cannot be compared: serve the teacher that it learnt from"
            )
        sources = self._sources(directory, info)
        model, limit = directory.model, self._limit
        found = generate(model, sources, Greedy(), limit=limit, log_probs=False)
        own = [hypotheses[0].ids[: info.max_target_length] for hypotheses in found]
        texts = [directory.vocabulary.decode(ids) for ids in own]
        handover = self._handover(directory, sources, own)
        references = encode_targets(
            directory.vocabulary,
            [r[0] for r in self._references],
            min(model.config.max_target_length, info.max_target_length),
        )
        return {
            "student": {"name": directory.name, "revision": directory.revision},
            "teacher": {"name": info.name, "revision": info.revision, "beam": self._beam},
            "metric": self._metric,
            "sentences": len(sources),
            "quality": self._quality(texts, range(len(texts))),
            "by_length": [asdict(b) for b in self._by_length(sources, texts, handover[0][1])],
            "kl_reference_prefixes": self._divergence(model, sources, references),
            "kl_own_prefixes": self._divergence(model, sources, own),
            "teacher_finishes": [
                {"share": share, "quality": self._quality(written, range(len(written)))}
                for share, written in handover
            ],
        }

    def _sources(self, directory: ModelDirectory, info: codec.ModelInfo) -> list[Ids]:
        longest = min(directory.model.config.max_source_length, info.max_source_length)
        return encode_sources(directory.vocabulary, [e.source for e in self._examples], longest)

    def _quality(self, texts: Sequence[str], rows: Sequence[int]) -> float:
        chosen = [texts[i] for i in rows], [self._references[i] for i in rows]
        if self._metric == "rouge":
            return score_summaries(*chosen).mean
        return score_translations(*chosen).bleu

    def _by_length(
        self, sources: Sequence[Ids], student: Sequence[str], teacher: Sequence[str]
    ) -> list[Bin]:
        lengths = [len(ids) for ids in sources]
        return [
            Bin(
                min(lengths[i] for i in rows),
                max(lengths[i] for i in rows),
                len(rows),
                self._quality(student, rows),
                self._quality(teacher, rows),
            )
            for rows in length_bins(lengths, LENGTH_BINS)
        ]

    def _divergence(
        self, model: Seq2SeqModel, sources: Sequence[Ids], targets: Sequence[Ids]
    ) -> list[dict[str, Any]]:
        """Mean KL at each position along ``targets``."""
        order = sorted(range(len(targets)), key=lambda i: len(targets[i]))
        found: list[list[float]] = [[] for _ in range(max(map(len, targets)))]
        for begin in range(0, len(order), _BATCH):
            rows = order[begin : begin + _BATCH]
            some = [sources[i] for i in rows], [targets[i] for i in rows]
            scores = self._teacher.score(*some, codec.FullSpec("float32"))
            assert isinstance(scores.payload, codec.Full)
            end = 0
            kl_P = divergence(model, *some, torch.from_numpy(scores.payload.log_probs_PV.copy()))
            for target in some[1]:
                for position, kl in enumerate(kl_P[end : end + len(target)].tolist()):
                    found[position].append(kl)
                end += len(target)
        return [
            asdict(Position(position, len(values), float(np.mean(values))))
            for position, values in enumerate(found)
            if len(values) >= min(LEAST_SENTENCES, len(targets))
        ]

    def _handover(
        self, directory: ModelDirectory, sources: Sequence[Ids], own: Sequence[Ids]
    ) -> list[tuple[float, list[str]]]:
        """For each of ``SHARES`` what the teacher makes of that much of the student's texts."""
        limit = codec.LengthLimit(self._limit.ratio, self._limit.offset, self._limit.cap)
        cap = directory.model.config.max_target_length
        room = [min(self._limit.of(len(source)), cap) - 1 for source in sources]
        found = []
        for share in SHARES:
            prefixes = [
                begun(ids, share, directory.vocabulary.eos_id)[:most]
                for ids, most in zip(own, room, strict=True)
            ]
            written = self._teacher.generate(sources, self._mode, limit=limit, prefixes=prefixes)
            found.append((share, [directory.vocabulary.decode(best[0].ids) for best in written]))
        return found


def begun(ids: Ids, share: float, eos_id: int) -> Ids:
    """The first ``share`` of a target, its end symbol not counted: whether to end is open again."""
    words = ids[:-1] if ids and ids[-1] == eos_id else ids
    return words[: round(share * len(words))]


def length_bins(lengths: Sequence[int], count: int) -> list[list[int]]:
    """Rows in at most ``count`` bins of ascending length and about equal size.

    Rows of one length are never parted, so there may be fewer bins.
    """
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    enough = -(-len(order) // count)
    bins: list[list[int]] = []
    for row in order:
        if not bins or (len(bins[-1]) >= enough and lengths[row] > lengths[bins[-1][-1]]):
            bins.append([])
        bins[-1].append(row)
    return bins


@torch.inference_mode()
def divergence(
    model: Seq2SeqModel,
    sources: Sequence[Ids],
    targets: Sequence[Ids],
    teacher_log_probs_PV: torch.Tensor,
) -> torch.Tensor:
    """``KL(teacher || student)`` in nats, float32 ``[P]``, at all positions of ``targets``."""
    config = model.config
    target_BT, lengths_B = pad_sequences(targets, config.pad_id, model.device)
    encoded = model.encode(*pad_sequences(sources, config.pad_id, model.device))
    inputs_BT = decoder_inputs(target_BT, config.start_id)
    log_probs_PV = model.project(model.decode_real(encoded, inputs_BT, lengths_B)).log_softmax(1)
    teacher_PV = teacher_log_probs_PV.to(log_probs_PV)
    # What the teacher rules out (log 0) adds nothing, whatever the student gives it.
    terms_PV = torch.where(
        teacher_PV.isfinite(), teacher_PV.exp() * (teacher_PV - log_probs_PV), 0.0
    )
    return terms_PV.sum(1)

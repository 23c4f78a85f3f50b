"""A model directory behind the service."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save

from protos.teacher.v1 import teacher_pb2 as pb
from seq2seq import decoding
from seq2seq.checkpoint import ModelDirectory, load_model_directory
from seq2seq.ensemble import join
from seq2seq.vocabulary import Vocabulary
from teacher_service import codec
from teacher_service.payloads import TENSORS
from teacher_service.projection import PROJECTION_FILE
from teacher_service.scorer import Scorer
from teacher_service.work import GenerateChoice, GenerateItem, Identity, ScoreChoice, ScoreItem

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_ARTIFACTS = (pb.ARTIFACT_KIND_TOKENIZER, pb.ARTIFACT_KIND_OUTPUT_PROJECTION)


class LocalModel:
    """Implements ``work.Backend`` over one loaded model directory."""

    def __init__(self, directory: ModelDirectory, encoder_cache_bytes: int = 0) -> None:
        self._model = model = directory.model
        # What is handed out is what was loaded, whatever becomes of the directory.
        self._tokenizer = _files(directory.vocabulary)
        self._scorer = Scorer(model, encoder_cache_bytes=encoder_cache_bytes)
        self.encoder_cache = self._scorer.encoder.cache
        vocabulary, config = directory.vocabulary, model.config
        # A mixture of distributions has no state to recompute it from.
        projects = model.has_output_projection
        self.identity = Identity(
            name=directory.name,
            revision=directory.revision,
            fingerprint=vocabulary.fingerprint,
            vocabulary_size=config.vocab_size,
            pad_id=config.pad_id,
            eos_id=config.eos_id,
            unk_id=vocabulary.unk_id,
            start_ids=model.start_ids,
            max_source_length=config.max_source_length,
            max_target_length=config.max_target_length,
            hidden_size=config.d_model if projects else 0,
            parameters=model.parameter_count(),
            source_tail=vocabulary.source_tail,
            payloads=tuple(k for k in TENSORS if projects or k != pb.PAYLOAD_KIND_HIDDEN),
            artifacts=_ARTIFACTS if projects else _ARTIFACTS[:1],
        )

    def score(self, choice: ScoreChoice, items: Sequence[ScoreItem]) -> list[codec.Arrays]:
        """See :class:`teacher_service.work.Backend`."""
        return self._scorer.score(choice, items)

    def generate(
        self,
        choice: GenerateChoice,
        items: Sequence[GenerateItem],
        wanted: Callable[[], bool] = lambda: True,
    ) -> list[list[codec.GeneratedHypothesis]]:
        """See :class:`teacher_service.work.Backend`."""
        found = decoding.generate(
            self._model,
            [item.source for item in items],
            _mode(choice.mode),
            limit=decoding.LengthLimit(choice.ratio, choice.offset, choice.cap),
            batch_tokens=1 << 60,  # the batch was made by the batcher
            prefixes=[item.prefix for item in items],
            keys=[item.key for item in items],
            wanted=wanted,
        )
        return [
            [codec.GeneratedHypothesis(h.ids, h.log_prob, h.finished) for h in hypotheses]
            for hypotheses in found
        ]

    def artifact(self, kind: int) -> Mapping[str, bytes]:
        """See :class:`teacher_service.work.Backend`."""
        if kind == pb.ARTIFACT_KIND_OUTPUT_PROJECTION:
            weight_VD, bias_V = self._model.output_projection()
            tensors = {"weight": weight_VD, "bias": bias_V, "logit_scale": torch.ones(())}
            plain = {n: t.detach().to("cpu", torch.float32) for n, t in tensors.items()}
            return {PROJECTION_FILE: save(plain)}
        return self._tokenizer

    def warm_up(self, batch_tokens: int) -> None:
        """A batch of one sequence and one of full budget, and a short generation.

        Raises:
            NonFiniteOutput: the weights give no distribution.
        """
        what = self.identity
        length = max(1, min(32, what.max_source_length, what.max_target_length, batch_tokens // 2))
        draw = random.Random(0)
        choice = ScoreChoice(pb.PAYLOAD_KIND_TOP_K, pb.DATA_TYPE_FLOAT16, k=64)
        for count in (1, max(1, batch_tokens // (2 * length))):
            # Sources of their own: the encoder runs once on equal ones.
            ids = [draw.choices((what.unk_id, what.eos_id), k=length) for _ in range(count)]
            self.score(choice, [ScoreItem(row, row) for row in ids])
        self.generate(GenerateChoice(codec.Greedy(), 0.0, 4, 4), [GenerateItem(ids[0], (), 0)])
        self.encoder_cache.clear()


def _files(vocabulary: Vocabulary) -> dict[str, bytes]:
    """What a vocabulary writes, by relative names."""
    with tempfile.TemporaryDirectory(prefix="teacher-tokenizer-") as name:
        root = Path(name)
        vocabulary.save(root)
        paths = sorted(path for path in root.rglob("*") if path.is_file())
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def load_local_model(
    paths: Path | Sequence[Path],
    device: str,
    dtype: str,
    threads: int | None,
    *,
    target_prefix: str | None = None,
    encoder_cache_bytes: int = 0,
) -> LocalModel:
    """Read a model directory onto a device, or several of one vocabulary as an ensemble.

    Args:
        target_prefix: see ``load_model_directory``.
        dtype: of the weights and the forward pass: fp32, bf16 or fp16.
        threads: of torch within this process; None leaves torch's choice.
        encoder_cache_bytes: of encoder states kept for sources that come again.

    Raises:
        UserError: a directory is broken, they do not fit together, or the device is not there.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    paths = [paths] if isinstance(paths, Path) else paths
    members = [load_model_directory(p, device, _DTYPES[dtype], target_prefix) for p in paths]
    return LocalModel(join(members), encoder_cache_bytes)


def _mode(
    mode: codec.Greedy | codec.Sample | codec.Beam,
) -> decoding.Greedy | decoding.Sample | decoding.Beam:
    if isinstance(mode, codec.Sample):
        return decoding.Sample(mode.top_k, mode.temperature, mode.seed)
    if isinstance(mode, codec.Beam):
        return decoding.Beam(mode.size, mode.n_best, mode.length_penalty)
    return decoding.Greedy()

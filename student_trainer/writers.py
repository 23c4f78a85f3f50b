"""What a rollout worker writes with: the student in our own engine, or in CTranslate2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from seq2seq import ctranslate2_form
from seq2seq.batch import decoder_inputs, packed_index, pad_sequences
from seq2seq.decoding import Greedy, LengthLimit, Sample, generate
from seq2seq.errors import UserError
from seq2seq.model import Seq2SeqModel
from seq2seq.transformer import Transformer
from student_trainer.config import RunConfig
from student_trainer.determinism import compute
from student_trainer.types import Weights


class Writer(Protocol):
    """A student that writes."""

    def load(self, weights: Weights) -> None:
        """Write with these weights from now on."""

    def write(
        self, sources: Sequence[np.ndarray], mode: Greedy | Sample, keys: Sequence[int]
    ) -> list[list[int]]:
        """One target for every source, the end symbol included where it was written.

        Args:
            keys: per source, the identity its sampling noise is drawn from.
        """

    def candidates(
        self, sources: Sequence[np.ndarray], targets: Sequence[np.ndarray], k: int
    ) -> list[np.ndarray]:
        """The student's own k likeliest ids at each position of ``targets``, ``[T, K]`` each."""


class OwnWriter:
    """Our decoder: every mode, every model, every device; noise by key."""

    def __init__(self, config: RunConfig, model: Seq2SeqModel) -> None:
        self._config, self._model = config, model
        self._limit = LengthLimit(**config.rollout.limit.model_dump())

    def load(self, weights: Weights) -> None:
        """See :class:`Writer`."""
        self._model.load_state_dict(weights)

    def write(
        self, sources: Sequence[np.ndarray], mode: Greedy | Sample, keys: Sequence[int]
    ) -> list[list[int]]:
        """See :class:`Writer`."""
        with compute(self._config.worker_threads, self._config.deterministic):
            found = generate(
                self._model, sources, mode, limit=self._limit, keys=keys, log_probs=False
            )
        return [hypotheses[0].ids for hypotheses in found]

    def candidates(
        self, sources: Sequence[np.ndarray], targets: Sequence[np.ndarray], k: int
    ) -> list[np.ndarray]:
        """See :class:`Writer`."""
        with compute(self._config.worker_threads, self._config.deterministic):
            return likeliest(self._model, sources, targets, k)


class CTranslate2Writer:
    """CTranslate2 on a CPU, greedy: the same targets but where two tokens are as good as equal.

    Raises:
        UserError: sampling is asked for, the student is no Transformer, or CTranslate2 is not
            installed.
    """

    def __init__(self, config: RunConfig, model: Seq2SeqModel) -> None:
        if not isinstance(model, Transformer):
            raise UserError("rollout.engine ctranslate2 takes a Transformer; use engine own")
        self._model, self._threads = model, config.worker_threads
        self._limit = LengthLimit(**config.rollout.limit.model_dump())
        self._translator = ctranslate2_form.translator(model, self._threads)
        barred = (model.config.pad_id, model.config.start_id)
        self._options = {
            "beam_size": 1,
            "min_decoding_length": 0,
            "return_end_token": True,
            "suppress_sequences": [[str(token)] for token in barred],
        }

    def load(self, weights: Weights) -> None:
        """See :class:`Writer`."""
        self._model.load_state_dict(weights)
        self._translator = ctranslate2_form.translator(self._model, self._threads)

    def write(
        self, sources: Sequence[np.ndarray], mode: Greedy | Sample, keys: Sequence[int]
    ) -> list[list[int]]:
        """See :class:`Writer`."""
        assert isinstance(mode, Greedy)
        cap = self._model.config.max_target_length
        limits = [min(self._limit.of(len(source)), cap) for source in sources]
        texts = [[str(token) for token in source.tolist()] for source in sources]
        # One limit for all: what is written beyond a row's own is cut.
        found = self._translator.translate_batch(
            texts, max_decoding_length=max(limits), **self._options
        )
        return [
            [int(token) for token in result.hypotheses[0]][:limit]
            for result, limit in zip(found, limits, strict=True)
        ]

    def candidates(
        self, sources: Sequence[np.ndarray], targets: Sequence[np.ndarray], k: int
    ) -> list[np.ndarray]:
        """See :class:`Writer`."""
        return likeliest(self._model, sources, targets, k)


@torch.inference_mode()
def likeliest(
    model: Seq2SeqModel,
    sources: Sequence[np.ndarray],
    targets: Sequence[np.ndarray],
    k: int,
    chunk: int = 1024,
) -> list[np.ndarray]:
    """Per target the model's k likeliest ids at each position, int32 ``[T, K]``, likeliest first.

    Args:
        chunk: positions projected at once.
    """
    config = model.config
    source = pad_sequences(sources, config.pad_id, model.device)
    target_BT, lengths_B = pad_sequences(targets, config.pad_id, model.device)
    hidden = model.decode(model.encode(*source), decoder_inputs(target_BT, config.start_id))
    index = packed_index(lengths_B, target_BT.shape[1])
    hidden_PD = hidden.flatten(0, 1).index_select(0, index)
    count = min(k, config.vocab_size)
    best = [model.project(part).topk(count, dim=1).indices for part in hidden_PD.split(chunk)]
    ids = torch.cat(best).cpu().numpy().astype(np.int32)
    return np.split(ids, np.cumsum([len(t) for t in targets])[:-1])


def make_writer(config: RunConfig, model: Seq2SeqModel) -> Writer:
    """The engine of ``rollout.engine``, holding ``model``.

    Raises:
        UserError: see :class:`CTranslate2Writer`.
    """
    if config.rollout.engine == "ctranslate2":
        return CTranslate2Writer(config, model)
    return OwnWriter(config, model)

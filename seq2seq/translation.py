"""Texts in, texts out."""

from __future__ import annotations

from collections.abc import Sequence

from seq2seq.decoding import Beam, Greedy, LengthLimit, Sample, generate
from seq2seq.model import Seq2SeqModel
from seq2seq.vocabulary import Vocabulary


def encode_sources(vocabulary: Vocabulary, texts: Sequence[str], limit: int) -> list[list[int]]:
    """Encoder inputs of texts; one longer than ``limit`` ids loses its end, not its end symbol."""
    return [vocabulary.as_source(ids, limit) for ids in vocabulary.encode_many(texts)]


def encode_targets(vocabulary: Vocabulary, texts: Sequence[str], limit: int) -> list[list[int]]:
    """Finished targets of texts, cut likewise."""
    return [vocabulary.as_target(ids, limit) for ids in vocabulary.encode_many_targets(texts)]


def translate(
    model: Seq2SeqModel,
    vocabulary: Vocabulary,
    texts: Sequence[str],
    mode: Greedy | Sample | Beam | None = None,
    *,
    limit: LengthLimit | None = None,
    batch_tokens: int = 4096,
) -> list[str]:
    """Best hypothesis of each text, greedy by default, in input order."""
    sources = encode_sources(vocabulary, texts, model.config.max_source_length)
    found = generate(
        model, sources, mode or Greedy(), limit=limit, batch_tokens=batch_tokens, log_probs=False
    )
    return [vocabulary.decode(hypotheses[0].ids) for hypotheses in found]

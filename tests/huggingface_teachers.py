"""Directories of ``transformers`` with tiny random models, as its ``save_pretrained`` writes them.

Import this only behind ``pytest.importorskip("transformers")``.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

PAD, EOS, UNK, BOS, GERMAN = 1, 2, 3, 0, 4
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "de_DE")
LONGEST = 24
V = 40

_SHAPE = {
    "vocab_size": V,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": LONGEST,
    "pad_token_id": PAD,
    "eos_token_id": EOS,
    "bos_token_id": BOS,
    "forced_eos_token_id": None,
}
_T5 = {
    "vocab_size": V,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 24,
    "num_layers": 2,
    "num_heads": 2,
    "pad_token_id": PAD,
    "eos_token_id": EOS,
    "decoder_start_token_id": PAD,
}
# Each family with what it starts its targets with.
FAMILIES: dict[str, dict[str, Any]] = {
    "marian": _SHAPE | {"decoder_start_token_id": PAD, "scale_embedding": True},
    "t5": _T5,
    "t5-untied": _T5 | {"tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"},
    "mt5": _T5,
    "bart": _SHAPE | {"decoder_start_token_id": EOS, "forced_bos_token_id": BOS},
    "mbart": _SHAPE | {"decoder_start_token_id": GERMAN},
    "m2m_100": _SHAPE | {"decoder_start_token_id": EOS, "forced_bos_token_id": GERMAN},
    "pegasus": _SHAPE | {"decoder_start_token_id": PAD},
}


def random_library(family: str, seed: int = 0, **changes: Any) -> Any:
    """A model of a family whose every parameter and bias matters."""
    values = FAMILIES[family] | changes
    forced = values.pop("forced_bos_token_id", None)
    config = transformers.AutoConfig.for_model(family.split("-")[0], **values)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        library = transformers.AutoModelForSeq2SeqLM.from_config(config).eval()
        with torch.no_grad():
            for parameter in library.parameters():
                if parameter.requires_grad:  # not a table of sinusoids
                    parameter.add_(0.3 * torch.randn_like(parameter))
            bias = getattr(library, "final_logits_bias", None)
            if bias is not None:
                bias.add_(torch.randn_like(bias))
                bias[:, EOS] += 1.0
    library.generation_config.forced_bos_token_id = forced
    return library


def word_tokenizer(words: Iterable[str], template: str = "$A </s>") -> Tokenizer:
    """One id a word, behind the special ones."""
    table = {piece: i for i, piece in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordLevel(table, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([*SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(piece, i) for i, piece in enumerate(SPECIAL)]
    )
    return tokenizer


def save_teacher(path: Path, library: Any, tokenizer: Tokenizer | None = None) -> Path:
    """Write a directory; the tokenizer has all the model's ids but a few by default."""
    library.save_pretrained(path)
    tokenizer = tokenizer or word_tokenizer(f"w{i}" for i in range(V - len(SPECIAL) - 2))
    tokenizer.save(str(path / "tokenizer.json"))
    return path

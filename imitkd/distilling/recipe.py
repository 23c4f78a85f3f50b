"""What a distilled corpus is made of; equal recipes give equal corpora."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from imitkd.corpora.store import file_sha256
from seq2seq.errors import UserError
from teacher_service.codec import Beam, Greedy, LengthLimit, ModelInfo, Sample

RECIPE = 1
# Beside corpus.json: the recipe in full, for people and for what differs.
RECIPE_FILE = "distillation.json"
Recipe = Mapping[str, Any]


def make_recipe(
    corpus: Path,
    splits: Sequence[str],
    sentences: int | None,
    teacher: ModelInfo,
    mode: Greedy | Sample | Beam,
    limit: LengthLimit,
) -> dict[str, Any]:
    """The digests of all splits, which of them the teacher writes, the teacher, the decoding."""
    return {
        "recipe": RECIPE,
        "corpus": {file.name: file_sha256(file) for file in sorted(corpus.glob("*.jsonl"))},
        "splits": sorted(splits),
        # Earlier versions took the first so many, and said so by the bare number.
        "sentences": sentences and {"drawn": sentences},
        "teacher": {"revision": teacher.revision, "fingerprint": teacher.fingerprint},
        "decoding": {"mode": type(mode).__name__.lower()} | asdict(mode),
        "limit": asdict(limit),
    }


def require_same(place: Path, begun: Recipe, asked: Recipe) -> None:
    """Whether what lies at ``place`` is what is asked for.

    Raises:
        UserError: it is not; names what differs first.
    """
    for key, wanted in asked.items():
        found = begun.get(key)
        if found == wanted:
            continue
        if key == "teacher":
            difference = (
                f"teacher {found['revision']}, and {wanted['revision']} answers"
                if isinstance(found, dict) and "revision" in found
                else f"teacher {found}"
            )
        elif key == "corpus":
            difference = "another text than the corpus holds now"
        else:
            difference = f"{key} {_shown(found)}, and {_shown(wanted)} is asked for"
        raise UserError(
            f"'{place}' was made with {difference}; choose another --out, or delete it to begin "
            "again"
        )


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{k}={v}" for k, v in value.items())
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)

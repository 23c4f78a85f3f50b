"""The content address of what a teacher says about one (source, target) pair.

The SHA-256 of everything that determines the answer, laid end to end, little-endian and without
padding; equal bytes mean an equal question:

====================  ==========================================================================
``imitkd-score\\x001``  12 + 1 + 1 bytes: what this is, and the number of this form
u32, bytes            length of the revision, the revision in UTF-8
u32, u32, u32         payload kind and dtype as numbered by the contract; k, 0 where it has none
f32                   temperature, as it travels in a request
u32, u32 each         number of source ids, the ids
u32, u32 each         number of target ids, the ids
u32, u32 each         candidates a position, 0 where it has none; their ids, position by position
====================  ==========================================================================

Every part is of fixed size or preceded by its length, so that no two questions share an encoding.
No torch, no gRPC.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

import numpy as np

_FORM = b"imitkd-score\x001"
_U32 = np.dtype("<u4")


class ContentKeys:
    """Keys of pairs that are asked about in one way.

    Args:
        kind, dtype: enum values of the contract.
        k: TOP_K only, cut to the vocabulary; otherwise 0.
    """

    def __init__(self, revision: str, kind: int, dtype: int, k: int, temperature: float) -> None:
        name = revision.encode()
        self._start = hashlib.sha256(_FORM)
        self._start.update(struct.pack("<I", len(name)) + name)
        self._start.update(struct.pack("<IIIf", kind, dtype, k, temperature))

    def key(
        self,
        source: Sequence[int] | np.ndarray,
        target: Sequence[int] | np.ndarray,
        candidates_TK: np.ndarray | None = None,
    ) -> bytes:
        """32 bytes.

        Args:
            candidates_TK: ids whose log-probabilities are asked for at each target position.
        """
        digest = self._start.copy()
        digest.update(_counted(source))
        digest.update(_counted(target))
        if candidates_TK is None:
            digest.update(struct.pack("<I", 0))
        else:
            digest.update(struct.pack("<I", candidates_TK.shape[1]))
            digest.update(np.ascontiguousarray(candidates_TK, _U32).tobytes())
        return digest.digest()


def _counted(ids: Sequence[int] | np.ndarray) -> bytes:
    return struct.pack("<I", len(ids)) + np.asarray(ids, _U32).tobytes()

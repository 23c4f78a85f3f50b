"""Published weights by version, kept while a batch may still need them."""

from __future__ import annotations

from seq2seq.model import Seq2SeqModel
from student_trainer.types import Weights


def snapshot(model: Seq2SeqModel) -> Weights:
    """A copy of the model's weights on the CPU."""
    return {k: v.detach().to("cpu", copy=True) for k, v in model.state_dict().items()}


class WeightStore:
    """Weights that workers may still be asked to write with, by optimiser step."""

    def __init__(self) -> None:
        self._weights: dict[int, Weights] = {}

    def put(self, version: int, weights: Weights) -> None:
        """Publish a version."""
        self._weights[version] = weights

    def get(self, version: int) -> Weights:
        """Weights of a version.

        Raises:
            KeyError: it was never published or is already retired; the message names those held.
        """
        if version not in self._weights:
            raise KeyError(f"weights of version {version} are not held (held: {self.versions()})")
        return self._weights[version]

    def retire(self, before: int) -> None:
        """Forget all versions below ``before``."""
        for version in [v for v in self._weights if v < before]:
            del self._weights[version]

    def versions(self) -> list[int]:
        """Versions held, ascending."""
        return sorted(self._weights)

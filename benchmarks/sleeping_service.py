"""The real teacher service around a model that sleeps in proportion to what it is asked."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from protos.teacher.v1 import teacher_pb2 as pb
from teacher_service import codec
from teacher_service.config import ServerConfig
from teacher_service.payloads import id_dtype
from teacher_service.server import ServerThread
from teacher_service.work import GenerateChoice, GenerateItem, Identity, ScoreChoice, ScoreItem

_VOCABULARY, _LONGEST = 4000, 64


class SleepingModel:
    """Implements ``work.Backend``: TOP_K of nothing in particular, after a while.

    Args:
        sequence_s: seconds for each sequence of a batch.
    """

    def __init__(self, sequence_s: float) -> None:
        self._sequence_s = sequence_s
        self.identity = Identity(
            name="sleeping",
            revision="sha256:sleeping",
            fingerprint="sha256:none",
            vocabulary_size=_VOCABULARY,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            start_ids=(3,),
            max_source_length=_LONGEST,
            max_target_length=_LONGEST,
            hidden_size=0,
            parameters=0,
            payloads=(pb.PAYLOAD_KIND_TOP_K,),
        )

    def score(self, choice: ScoreChoice, items: Sequence[ScoreItem]) -> list[codec.Arrays]:
        """See :class:`teacher_service.work.Backend`."""
        time.sleep(self._sequence_s * len(items))
        return [_scores(len(item.target), choice.k) for item in items]

    def generate(
        self,
        choice: GenerateChoice,
        items: Sequence[GenerateItem],
        wanted: Callable[[], bool] = lambda: True,
    ) -> list[list[codec.GeneratedHypothesis]]:
        """It writes nothing."""
        return [[codec.GeneratedHypothesis([1], 0.0, True)] for _ in items]

    def artifact(self, kind: int) -> Mapping[str, bytes]:
        """It has none."""
        return {}

    def warm_up(self, batch_tokens: int) -> None:
        """It is awake enough."""


def _scores(positions: int, k: int) -> codec.Arrays:
    ids = np.tile(np.arange(k, dtype=id_dtype(_VOCABULARY)), (positions, 1))
    log_probs = np.full((positions, k), -5.0, np.float16)
    return {
        "token_log_probs": log_probs[:, 0].copy(),
        "ids": ids,
        "log_probs": log_probs,
        "tail_log_mass": log_probs[:, 0].copy(),
    }


@contextlib.contextmanager
def sleeping_replicas(count: int, sequence_s: float, folder: Path) -> Iterator[list[str]]:
    """Replicas on sockets in a folder, for as long as the block lasts; their addresses."""
    with contextlib.ExitStack() as stack:
        servers = []
        for number in range(count):
            config = ServerConfig(
                model_dir=folder,
                address=f"unix:{folder}/{number}.socket",
                score_cache_mib=0,
                encoder_cache_mib=0,
            )
            serve = ServerThread(config, lambda _: SleepingModel(sequence_s))
            servers.append(stack.enter_context(serve))
        yield [server.address for server in servers]

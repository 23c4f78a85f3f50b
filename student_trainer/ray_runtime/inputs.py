"""What rollout workers need of corpus and vocabulary, and how they come by it.

It lies with the run, and workers on the driver's machine map it there. In a cluster of several
machines it goes through the object store: nothing of the driver's disk is needed on one that joins.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import ray

from seq2seq.data import TokenizedSplit
from seq2seq.vocabulary import Vocabulary
from student_trainer.config import RunConfig
from student_trainer.ray_runtime import cluster
from student_trainer.setup import prepare_vocabulary
from student_trainer.training_data import TrainingData, kept_data, make_data

# A list of one (see ``actors.WeightsRef``); empty where the run directory is at hand.
InputsRef: TypeAlias = "list[cluster.Ref]"


@dataclass(frozen=True)
class WorkerInputs:
    """Vocabulary and tokenised training split, as they travel: each machine holds them once."""

    vocabulary: Vocabulary
    split: TokenizedSplit


def offer_inputs(
    config: RunConfig, vocabulary: Vocabulary, run: Path, travel: bool | None = None
) -> InputsRef:
    """Have them lie in the run directory, and in the object store where workers may need that.

    Args:
        travel: whether there may be workers on other machines; None: in a cluster that was joined.

    Raises:
        UserError: see :func:`student_trainer.training_data.make_data`.
    """
    data = make_data(config, vocabulary, run)
    travel = cluster.is_joined() if travel is None else travel
    return [ray.put(WorkerInputs(vocabulary, data.split))] if travel else []


def take_inputs(
    config: RunConfig, run: Path, offered: InputsRef
) -> tuple[Vocabulary, TrainingData]:
    """Take what :func:`offer_inputs` offered, in a worker's process.

    Raises:
        UserError: it is not in the run directory, or damaged.
    """
    if not offered:
        return prepare_vocabulary(config, run), kept_data(config, run)
    inputs: WorkerInputs = ray.get(offered[0])
    return inputs.vocabulary, TrainingData.of(config, inputs.split)

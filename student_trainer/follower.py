"""A learner's process that is not the leader: it makes each update along with it, no more.

It needs nothing of any disk: weights, moments and the teacher's projection come from the leader, as
the portions do.
"""

from __future__ import annotations

import contextlib

from torch import Tensor

from seq2seq.errors import UserError
from seq2seq.vocabulary import Vocabulary
from student_trainer.config import RunConfig
from student_trainer.data_parallel import Group, Place
from student_trainer.determinism import compute, prepare_process
from student_trainer.portions import Portion
from student_trainer.setup import make_model
from student_trainer.teacher_head import TeacherHead
from student_trainer.update import Update, in_parts


class Follower:
    """Makes the model; then follows."""

    def __init__(self, config: RunConfig, vocabulary: Vocabulary) -> None:
        """Build what takes time before the processes meet.

        Raises:
            UserError: the model section is not valid.
        """
        prepare_process(config.deterministic)
        blank = config.model_copy(update={"initialise": None})
        self._config, self._pad_id = config, vocabulary.pad_id
        self._model = make_model(blank, vocabulary)

    def follow(self, place: Place) -> None:
        """Meet the others, then update until the leader is gone.

        Raises:
            UserError: they do not meet.
        """
        config = self._config
        group = Group(place, config.device)
        state = group.receive()
        if state is None:
            return
        update = self._updates(group, in_parts(state))
        while (message := group.receive()) is not None:
            if "step" not in message:
                update.restore(in_parts(message))
                continue
            # What comes of a step, the leader says.
            told = contextlib.suppress(UserError)
            with told, compute(config.learner_threads, config.deterministic):
                update(Portion.of_tensors(message))

    def _updates(self, group: Group, parts: dict[str, dict[str, Tensor]]) -> Update:
        """Begin with the leader's state."""
        head, device = parts.get("head"), self._config.device
        made = TeacherHead.of_tensors(head, device) if head is not None else None
        update = Update(self._config, self._model, self._pad_id, made, group)
        update.restore(parts)
        return update

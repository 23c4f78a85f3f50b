"""A learner's group on one machine without Ray: the followers are children of this process."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import tempfile
from collections.abc import Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from seq2seq.checkpoint import check_device
from seq2seq.errors import UserError
from seq2seq.vocabulary import Vocabulary
from student_trainer.config import RunConfig
from student_trainer.data_parallel import Group, Place, devices
from student_trainer.follower import Follower


@contextlib.contextmanager
def local_group(config: RunConfig, vocabulary: Vocabulary) -> Iterator[Group | None]:
    """The group of this process and its followers, which end with the block; None where the learner
    is one process.

    Raises:
        UserError: a device is not there, or a follower does not start.
    """
    size = config.learner_processes
    if size == 1:
        yield None
        return
    mine, *others = devices(config)
    for device in others:
        check_device(device)
    children: list[_Child] = []
    # Its owner alone may enter: who can write the file can join.
    with tempfile.TemporaryDirectory(prefix="learner-") as directory:
        places = [Place(rank, size, Path(directory) / "meeting") for rank in range(size)]
        try:
            for place, device in zip(places[1:], others, strict=True):
                theirs = config.model_copy(update={"device": device})
                children.append(_Child(place, theirs, vocabulary))
            for child in children:
                child.wait_ready()
            yield Group(places[0], mine)
        finally:
            for child in children:
                child.end()


class _Child:
    """A follower's process."""

    def __init__(self, place: Place, config: RunConfig, vocabulary: Vocabulary) -> None:
        """Start it, deaf to Ctrl-C: what that ends is the leader's to say."""
        context = multiprocessing.get_context("spawn")
        self._rank = place.rank
        self._said, says = context.Pipe(duplex=False)
        self._process: Any = context.Process(
            target=_follow, args=(place, config, vocabulary, says), daemon=True
        )
        # Started along with the first child, this would take the block off again.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        says.close()

    def wait_ready(self) -> None:
        """Return when it is about to join the group.

        Raises:
            UserError: it ended instead.
        """
        try:
            self._said.recv_bytes()
        except EOFError:
            self._process.join()
            raise UserError(
                f"process {self._rank} of the learner ended while starting (exit code "
                f"{self._process.exitcode}); look at the machine's memory, or set "
                "learner_processes=1"
            ) from None

    def end(self) -> None:
        """End it: it holds nothing that the leader does not."""
        self._process.kill()
        self._process.join()
        self._process.close()
        self._said.close()


def _follow(place: Place, config: RunConfig, vocabulary: Vocabulary, says: Connection) -> None:
    follower = Follower(config, vocabulary)
    says.send_bytes(b"ready")
    says.close()
    follower.follow(place)

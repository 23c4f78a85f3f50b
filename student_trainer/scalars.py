"""TensorBoard's file of scalars, written in this thread: a full disk is a fault like any other.

The writers that come with TensorBoard and torch write in a thread of their own, whose faults reach
standard error as a traceback and the caller at some later call.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from seq2seq.errors import UserError


class ScalarFile:
    """One ``events.out.tfevents...`` file; a resumed run adds another."""

    def __init__(self, directory: Path, after: int = 0) -> None:
        """Begin a file in ``directory``, which is made where it is not there.

        Args:
            after: steps done; readers drop what earlier files say of later ones.

        Raises:
            UserError: the disk is full or not writable.
        """
        parts = time.time_ns(), socket.gethostname(), os.getpid()
        self._path = directory / "events.out.tfevents.{}.{}.{}".format(*parts)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            # Unbuffered: a record is in the file, or the call that wrote it has failed.
            self._file = open(self._path, "xb", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise self._fault(error) from error
        self._writer = RecordWriter(self._file)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        begun = SessionLog(status=SessionLog.START)
        self._write(Event(wall_time=time.time(), step=after + 1, session_log=begun))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Write one value for each tag.

        Raises:
            UserError: the disk is full.
        """
        summary = Summary(value=[Summary.Value(tag=k, simple_value=v) for k, v in values.items()])
        self._write(Event(wall_time=time.time(), step=step, summary=summary))

    def close(self) -> None:
        """End the file."""
        self._file.close()

    def _write(self, event: Event) -> None:
        try:
            self._writer.write(event.SerializeToString())
        except OSError as error:
            raise self._fault(error) from error

    def _fault(self, error: OSError) -> UserError:
        return UserError(f"cannot write {self._path}: {error.strerror}; free disk space")

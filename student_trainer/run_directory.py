"""The files of a run: configuration, metrics, checkpoints, the best student, the summary."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from seq2seq.checkpoint import atomic_directory, atomic_file, load_weights
from seq2seq.errors import UserError
from student_trainer.jsonl import JsonLines
from student_trainer.run_lock import HOLDER_FILE, LOCK_FILE, Fence

_KEPT_CHECKPOINTS = 2


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run continues from: named tensors and plain values."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


class RunDirectory:
    """``config.yaml``, ``metrics.jsonl``, ``ledger.jsonl``, ``tensorboard/``, ``checkpoints/``,
    ``initial/``, ``student/``, ``summary.json``; every file is written whole or not at all.
    """

    def __init__(self, path: Path, fence: Fence | None = None) -> None:
        """Name the files of a run.

        Args:
            fence: lets this process write while it holds the run; None: nobody else is there.
        """
        self.path = Path(path)
        self.fence = fence
        self.config_file = self.path / "config.yaml"
        self.metrics = JsonLines(self.path / "metrics.jsonl")
        self.ledger = JsonLines(self.path / "ledger.jsonl")
        self.tensorboard = self.path / "tensorboard"
        self.initial = self.path / "initial"
        self.student = self.path / "student"
        self.vocabulary = self.path / "vocabulary"
        self.summary_file = self.path / "summary.json"
        self.tokens = self.path / "tokens"
        self._checkpoints = self.path / "checkpoints"
        self._new: list[Path] = []

    def absolute(self) -> RunDirectory:
        """The same run for a process with another working directory."""
        path = self.path.resolve()
        fence = Fence(path, self.fence.token) if self.fence is not None else None
        return RunDirectory(path, fence)

    def create(self, config_yaml: str, *, resume: bool) -> None:
        """Begin a run, or make sure that there is one to go on with.

        Raises:
            UserError: a run is there and ``resume`` is false, or none is and it is true; the disk
                is not writable.
        """
        if self.config_file.exists() and not resume:
            raise UserError(
                f"{self.path} already holds a run; continue it with --resume or choose another "
                "--output"
            )
        if resume and not self.config_file.exists():
            raise UserError(f"{self.path} holds no run to resume; leave --resume out")
        if resume:
            return
        locks = (self.path / LOCK_FILE, self.path / HOLDER_FILE)
        made = (self.config_file, self.vocabulary, self.tokens, self.initial)
        parts = (*made, *locks, self.path)
        self._new = [part for part in parts if not part.exists()]
        try:
            self.write_config(config_yaml)
        except UserError:
            self.discard()
            raise

    def check_fence(self) -> None:
        """Return where this process may write.

        Raises:
            UserError: another one took the run over.
        """
        if self.fence is not None:
            self.fence.check()

    def write_config(self, config_yaml: str) -> None:
        """Write ``config.yaml``.

        Raises:
            UserError: the disk is not writable.
        """
        with atomic_file(self.config_file) as file:
            file.write_text(config_yaml)

    def discard(self) -> None:
        """Undo :meth:`create` and what was prepared since; what lay there before stays."""
        for part in self._new:
            with contextlib.suppress(OSError):
                if part == self.path:
                    part.rmdir()
                elif part.is_dir():
                    shutil.rmtree(part)
                else:
                    part.unlink(missing_ok=True)

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint atomically, then drop all but the newest two.

        Raises:
            UserError: the disk is full; earlier checkpoints stay.
        """
        with atomic_directory(self._checkpoints / f"step-{checkpoint.step:09d}") as fresh:
            tensors = {k: v.detach().cpu().contiguous() for k, v in checkpoint.tensors.items()}
            save_file(tensors, str(fresh / "tensors.safetensors"))
            state = {"step": checkpoint.step} | checkpoint.state
            (fresh / "state.json").write_text(json.dumps(state, indent=2) + "\n")
            self.check_fence()
        for old in self._found()[:-_KEPT_CHECKPOINTS]:
            shutil.rmtree(old, ignore_errors=True)

    def load_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint, None where there is none yet."""
        state = self.checkpoint_state()
        if state is None:
            return None
        tensors = load_weights(self._found()[-1] / "tensors.safetensors")
        return Checkpoint(state["step"], tensors, state)

    def checkpoint_state(self) -> dict[str, Any] | None:
        """Plain values of the newest checkpoint, None where there is none yet."""
        found = self._found()
        if not found:
            return None
        state: dict[str, Any] = json.loads((found[-1] / "state.json").read_text())
        return state

    def checkpointed(self) -> int:
        """Steps that the newest checkpoint holds, 0 where there is none."""
        found = self._found()
        return int(found[-1].name.removeprefix("step-")) if found else 0

    def _found(self) -> list[Path]:
        return sorted(self._checkpoints.glob("step-*"))

    def append_metrics(self, record: dict[str, Any]) -> None:
        """One JSON line.

        Raises:
            UserError: the disk is full (the file ends with the last whole line), or another
                process took the run over.
        """
        self.check_fence()
        self.metrics.append(record)

    def rewind_metrics(self, step: int) -> None:
        """Drop the records of steps after ``step``: they will be run again.

        A last line torn by a crash is dropped too.
        """
        self.metrics.cut(lambda record: record.get("step", 0) <= step)

    def totals(self) -> dict[str, float]:
        """Sums over all steps in the metrics file: work done and seconds in each stage."""
        keys = {
            "sentences": "sentences",
            "positions": "positions",
            "scored_sentences": "sentences_scored",
            "scored_positions": "positions_scored",
            "generate_s": "generate_seconds",
            "score_s": "score_seconds",
            "learn_s": "learn_seconds",
            "idle_s": "learner_idle_seconds",
            "teacher_s": "teacher_seconds",
            "wall_s": "step_seconds",
            "worker_s": "worker_seconds",
        }
        sums: dict[str, float] = dict.fromkeys(keys.values(), 0)
        for record in self.metrics.read():
            if record["kind"] == "step":
                for key, name in keys.items():
                    sums[name] += record.get(key, 0)
        return sums

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write ``summary.json``."""
        self.check_fence()
        with atomic_file(self.summary_file) as file:
            file.write_text(json.dumps(summary, indent=2) + "\n")

"""The learner: consumes scored shards in batch order, updates the student, keeps the best one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from seq2seq.checkpoint import save_model_directory
from seq2seq.corpus import Example
from seq2seq.decoding import LengthLimit
from seq2seq.errors import UserError
from seq2seq.model import Seq2SeqModel
from seq2seq.vocabulary import Vocabulary
from student_trainer.config import RunConfig
from student_trainer.data_parallel import Group
from student_trainer.determinism import compute
from student_trainer.evaluation import evaluate
from student_trainer.optimiser import WeightAverage
from student_trainer.portions import Portion
from student_trainer.row_pool import RowPool
from student_trainer.run_directory import Checkpoint, RunDirectory
from student_trainer.teacher_head import TeacherHead
from student_trainer.types import (
    LearntShard,
    ScoredShard,
    StepReport,
    ValidationReport,
    Weights,
)
from student_trainer.update import Update, in_parts
from student_trainer.weight_store import WeightStore, snapshot


class Learner:
    """One student, on one device, or leading a group of processes with a device each.

    ``step`` consumes batch ``steps_done`` and nothing else; ``publish`` makes the weights after
    the last step a version that workers may be asked to write with.
    """

    def __init__(
        self,
        config: RunConfig,
        model: Seq2SeqModel,
        vocabulary: Vocabulary,
        validation: Sequence[Example],
        run: RunDirectory,
        clock: Callable[[], float] = time.perf_counter,
        head: TeacherHead | None = None,
        group: Group | None = None,
    ) -> None:
        self._config, self._vocabulary, self._run, self._clock = config, vocabulary, run, clock
        self._head, self._group = head, group
        kind = config.spec.pool
        self._pool = RowPool(kind, config.pool.rows, config.seed) if kind else None
        self._validation = validation
        self._update = Update(config, model, vocabulary.pad_id, head, group)
        self._model = model
        decay = config.optimiser.average
        self._average = WeightAverage(model, decay) if decay else None
        self.store = WeightStore()
        self.steps_done = 0
        self.best_quality = float("-inf")
        self.best_step = 0
        self.evaluations_since_best = 0
        self._tell_followers()

    def step(self, shards: Sequence[ScoredShard]) -> StepReport:
        """One optimiser step on one batch.

        Raises:
            ValueError: the shards are not those of the next batch.
            UserError: the loss is not finite; the weights are left as they were.
        """
        begin = self._clock()
        if shards[0].batch != self.steps_done:
            raise ValueError(f"batch {shards[0].batch} came, batch {self.steps_done} is next")
        came = shards
        if self._pool is not None:
            shards = self._pool.exchange(shards)
        if not any(len(s.targets) for s in shards):
            return self._skip(came)
        config, step = self._config, self.steps_done + 1
        whole = Portion.whole(step, shards)
        with compute(config.learner_threads, config.deterministic):
            updated = self._update(self._own(whole))
            if self._average is not None:
                self._average.update(step)
        self.steps_done = step
        sentences = sum(len(s.targets) for s in shards)
        labels = [s.labels for s in shards if s.labels is not None]
        return StepReport(
            step=step,
            version=shards[0].version,
            beta=shards[0].beta,
            loss=updated.loss,
            gradient_norm=updated.gradient_norm,
            learning_rate=updated.learning_rate,
            sentences=sentences,
            positions=whole.positions,
            scored_sentences=sum(s.scored_sentences for s in shards if s.labels is not None),
            scored_positions=sum(len(found.positions) for found in labels),
            student_share=sum(int(s.from_student.sum()) for s in shards) / max(1, sentences),
            generate_s=sum(s.generate_s for s in shards),
            score_s=sum(s.score_s for s in shards),
            learn_s=self._clock() - begin,
            teacher_s=sum(s.teacher_s for s in shards),
            shards=tuple(map(_learnt, came)),
        )

    def _own(self, whole: Portion) -> Portion:
        """Send the followers their portions of a batch; this process's own."""
        if self._group is None:
            return whole
        own, *others = whole.divided(self._group.size)
        for rank, portion in enumerate(others, 1):
            self._group.send(portion.tensors(), rank)
        return own

    def _tell_followers(self) -> None:
        """Have them hold the weights, moments and head that are here."""
        if self._group is None:
            return
        head = self._head.tensors() if self._head is not None else {}
        state = self._update.tensors() | {f"head/{k}": v for k, v in head.items()}
        self._group.send(state, *range(1, self._group.size))

    def _skip(self, shards: Sequence[ScoredShard]) -> StepReport:
        """A batch of which nothing is left: it counts as a step, the weights stay."""
        self.steps_done += 1
        return StepReport(
            step=self.steps_done,
            version=shards[0].version,
            beta=shards[0].beta,
            loss=0.0,
            gradient_norm=0.0,
            learning_rate=0.0,
            sentences=0,
            positions=0,
            scored_sentences=0,
            scored_positions=0,
            student_share=0.0,
            generate_s=0.0,
            score_s=0.0,
            learn_s=0.0,
            shards=tuple(map(_learnt, shards)),
        )

    def publish(self, version: int) -> Weights:
        """Hold the present weights as ``version`` and return them.

        Raises:
            ValueError: ``version`` is not the number of steps done.
        """
        if version != self.steps_done:
            raise ValueError(f"version {version} asked for after {self.steps_done} steps")
        self.store.put(version, snapshot(self._model))
        return self.store.get(version)

    def validate(self) -> ValidationReport:
        """Evaluate the (averaged) student; a new best becomes ``student/`` of the run."""
        begin = self._clock()
        if self._average is None:
            return self._validate(begin)
        with self._average.applied():
            return self._validate(begin)

    def _validate(self, begin: float) -> ValidationReport:
        limit = LengthLimit(**self._config.rollout.limit.model_dump())
        with compute(self._config.learner_threads, self._config.deterministic):
            found = evaluate(
                self._model,
                self._vocabulary,
                self._validation,
                metric=self._config.validation.metric,
                limit=limit,
            )
        best = found.quality > self.best_quality
        if best:
            self.best_quality, self.best_step = found.quality, self.steps_done
            self.evaluations_since_best = 0
            self._save_student(found.summary)
        else:
            self.evaluations_since_best += 1
        return ValidationReport(
            step=self.steps_done,
            bleu=found.scores.bleu,
            chrf=found.scores.chrf,
            loss=found.loss,
            seconds=self._clock() - begin,
            best=best,
            rouge1=found.rouge.rouge1 if found.rouge else None,
            rouge2=found.rouge.rouge2 if found.rouge else None,
            rougeL=found.rouge.rougeL if found.rouge else None,
            examples=[
                (e.source, text, e.references[0])
                for e, text in zip(self._validation[:3], found.translations[:3], strict=True)
            ],
        )

    def _save_student(self, scores: str) -> None:
        self._run.check_fence()
        config = self._config
        card = (
            f"# {config.name}\n\nWritten by `imitkd train` (method {config.method}), step "
            f"{self.steps_done} of {config.optimiser.steps}.\n\n"
            f"- corpus: `{', '.join(config.corpus.directories)}`\n"
            f"- parameters: {self._model.parameter_count():,}\n"
            f"- validation, greedy: {scores}\n"
        )
        save_model_directory(
            self._run.student, self._model, self._vocabulary, name=config.name, card=card
        )

    def save_checkpoint(self, extra: dict[str, Any]) -> None:
        """Write weights, average, optimiser, published versions and counters atomically.

        Args:
            extra: plain values to come back from :meth:`restore` (the teacher's revision, say).
        """
        tensors = self._update.tensors()
        if self._average is not None:
            tensors |= {f"average/{k}": v for k, v in self._average.tensors.items()}
        if self._pool is not None:
            tensors |= {f"pool/{k}": v for k, v in self._pool.export().items()}
        for version in self.store.versions():
            held = self.store.get(version)
            tensors |= {f"version/{version}/{k}": v for k, v in held.items()}
        state = {
            "best_quality": self.best_quality if self.best_quality > float("-inf") else None,
            "best_step": self.best_step,
            "evaluations_since_best": self.evaluations_since_best,
            "extra": extra,
        }
        self._run.save_checkpoint(Checkpoint(self.steps_done, tensors, state))

    def restore(self) -> dict[str, Any] | None:
        """Continue from the newest checkpoint; its ``extra``, or None where there is none.

        Raises:
            UserError: the checkpoint does not fit the configuration.
        """
        checkpoint = self._run.load_checkpoint()
        if checkpoint is None:
            return None
        parts = in_parts(checkpoint.tensors)
        try:
            self._update.restore(parts)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"the checkpoint after {checkpoint.step} steps does not fit the model section "
                f"({reason}); resume with the model the run began with"
            ) from error
        if self._average is not None:
            # Where averaging begins with this resume, it begins with these weights.
            kept = parts.get("average", parts["model"])
            for name, tensor in self._average.tensors.items():
                tensor.copy_(kept[name])
        if self._pool is not None:
            self._pool.restore(parts.get("pool", {}))
        for version, weights in in_parts(parts.get("version", {})).items():
            self.store.put(int(version), weights)
        state = checkpoint.state
        self.steps_done = checkpoint.step
        best = state["best_quality"]
        self.best_quality = float("-inf") if best is None else best
        self.best_step = state["best_step"]
        self.evaluations_since_best = state["evaluations_since_best"]
        self._tell_followers()
        return state["extra"]


def _learnt(shard: ScoredShard) -> LearntShard:
    return LearntShard(len(shard.targets), shard.digest, shard.revision, shard.quarantined)

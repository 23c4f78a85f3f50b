"""Served scores against the teacher's own weights, loaded here.

Two questions. Does the service say what the weights say? And does the trainer's whole way, from
writing to labels, line up: with the teacher's weights as student the divergence must be 0 but for
rounding, whoever wrote the prefixes?
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from imitkd.doctor.examination import CannotRun, Examination
from imitkd.doctor.findings import Finding, error, ok, skipped, warning
from seq2seq.batch import decoder_inputs, packed_index, pad_sequences
from seq2seq.corpus import Example
from seq2seq.data import TokenizedSplit, tokenise
from seq2seq.model import Seq2SeqModel
from seq2seq.plan import BatchPlan
from student_trainer.config import LossConfig, MixingConfig, RunConfig
from student_trainer.rollout_worker import RolloutWorker
from student_trainer.teachers import RoutedTeachers
from student_trainer.types import ScoredShard, ShardTask, TeacherLabels
from student_trainer.writers import OwnWriter
from teacher_service.codec import TopK, TopKSpec
from teacher_service.score_store.stored_teacher import StoredTeacher

ROWS = 16
# Same weights, same dtype: other company in a batch moves a log-probability by about 2e-6.
SAME, NEAR = 1e-3, 0.1
LARGEST_KL = 1e-3
# Prefixes by who writes them: (share of references, how the student decodes).
PREFIXES = {
    "reference": (1.0, "greedy"),
    "greedy": (0.0, "greedy"),
    "sampled": (0.0, "sample"),
    "mixed": (0.5, "greedy"),
}


def scores(it: Examination) -> list[Finding]:
    """The service gives references the probabilities that its directory gives them."""
    it.need("directory", "lines")
    if isinstance(it.teacher, StoredTeacher):
        return [skipped("a store keeps what a service said; score a part of it anew to compare")]
    assert not isinstance(it.teacher, RoutedTeachers), "their directory is not looked for"
    split = _pairs(it, lambda e: bool(e.references))
    sources = [split.source(row) for row in range(len(split))]
    targets = [split.target(row) for row in range(len(split))]
    served = it.teacher.score(sources, targets, TopKSpec(8, "float32"))
    assert isinstance(served.payload, TopK)
    local_PV = log_probs_along(it.local.model, sources, targets)
    ids_PK = torch.from_numpy(served.payload.ids_PK.astype(np.int64))
    tokens_P = torch.from_numpy(np.concatenate(targets).astype(np.int64))
    differences = np.concatenate(
        [
            served.payload.log_probs_PK - local_PV.gather(1, ids_PK).numpy(),
            (served.token_log_probs_P - local_PV.gather(1, tokens_P[:, None])[:, 0].numpy())[
                :, None
            ],
        ],
        axis=1,
    )
    largest = float(np.abs(differences).max())
    facts = {"largest_difference": largest, "positions": len(tokens_P)}
    told = f"log-probabilities at {len(tokens_P)} positions differ by at most {largest:.2g}"
    if largest <= SAME:
        return [ok(f"{told} from those computed here", **facts)]
    if largest <= NEAR:
        remedy = "expected of --dtype bf16 or fp16 and of GPUs; else serve with --dtype fp32"
        return [warning(told, remedy, **facts)]
    return [
        error(
            told,
            "the service does not compute what its weights say: look at its dtype, its "
            "--target-prefix, and whether it is one model or an ensemble",
            **facts,
        )
    ]


def divergence(it: Examination) -> list[Finding]:
    """With the teacher's weights as student KL(teacher || student) is 0 but for rounding."""
    it.need("directory", "lines", "scores")
    return [_of_prefixes(it, name, *how) for name, how in PREFIXES.items()]


def _of_prefixes(it: Examination, name: str, share: float, decoding: str) -> Finding:
    try:
        split = _pairs(it, lambda e: share == 0 or bool(e.references))
    except CannotRun:
        return skipped(f"{name} prefixes: the corpus has no references")
    shard = _written_and_scored(it, split, share, decoding)
    assert shard.labels is not None
    along_PV = log_probs_along(it.local.model, shard.sources.rows(), shard.targets.rows())
    own_QV = along_PV[torch.from_numpy(shard.labels.positions)]
    mean = float(kl_of_labels(shard.labels, own_QV).mean())
    told = f"{name} prefixes: KL {abs(mean):.1g} nats a position over {len(own_QV)}"
    facts = {"prefixes": name, "kl": mean, "positions": len(own_QV)}
    if mean < LARGEST_KL:
        return ok(told, **facts)
    return error(
        f"{told}, with the teacher's own weights as student",
        "labels and student do not line up; look at what the service is started with (--dtype, "
        "--target-prefix)",
        **facts,
    )


def _written_and_scored(
    it: Examination, split: TokenizedSplit, share: float, decoding: str
) -> ScoredShard:
    """One batch by the trainer's own worker, which holds the teacher's weights as its student."""
    config = _as_student(it.config, share, decoding, len(split))
    plan = BatchPlan(split.source_lengths, seed=config.seed, sentences=len(split))
    worker = RolloutWorker(config, split, plan, OwnWriter(config, it.local.model), it.teacher)
    worker.load(0, it.local.model.state_dict())
    return worker.run(ShardTask(batch=0, shard=0, version=0, beta=share))


def _as_student(config: RunConfig, share: float, decoding: str, rows: int) -> RunConfig:
    """The run with everything scored at temperature 1, one batch of one shard."""
    top_k, rollout = config.loss.top_k, config.rollout
    return config.model_copy(
        update={
            "method": "imitkd-full",
            "loss": LossConfig(top_k=top_k),
            "mixing": MixingConfig(schedule="constant", value=share),
            "rollout": rollout.model_copy(update={"decoding": decoding, "engine": "own"}),
            "batch": config.batch.model_copy(update={"sentences": rows, "shards": 1}),
        }
    )


def _pairs(it: Examination, fit: Callable[[Example], bool]) -> TokenizedSplit:
    """Some of the training sentences that fit, spread over the corpus, in the teacher's own ids.

    Raises:
        CannotRun: there are none.
    """
    examples: Iterable[Example] = it.examples["train"]
    total = sum(map(fit, examples))
    if not total:
        raise CannotRun("cannot run: the corpus has no references")
    chosen = set(np.linspace(0, total - 1, min(ROWS, total), dtype=int).tolist())
    return tokenise(
        [e for i, e in enumerate(filter(fit, examples)) if i in chosen],
        it.local.vocabulary,
        max_source_length=it.info.max_source_length,
        max_target_length=it.info.max_target_length,
    )


@torch.inference_mode()
def log_probs_along(
    model: Seq2SeqModel, sources: Sequence[np.ndarray], targets: Sequence[np.ndarray]
) -> Tensor:
    """float32 ``[P, V]``: the model's distribution at every target position, rows end to end."""
    config = model.config
    source_BS, source_lengths_B = pad_sequences(sources, config.pad_id, model.device)
    target_BT, lengths_B = pad_sequences(targets, config.pad_id, model.device)
    encoded = model.encode(source_BS, source_lengths_B)
    hidden_BTD = model.decode(encoded, decoder_inputs(target_BT, config.start_id))
    index_P = packed_index(lengths_B, target_BT.shape[1])
    logits_PV = model.project(hidden_BTD.flatten(0, 1).index_select(0, index_P))
    return logits_PV.float().log_softmax(1).cpu()


def kl_of_labels(labels: TeacherLabels, student_QV: Tensor) -> Tensor:
    """float64 ``[Q]``: KL(teacher || student) over the candidates and one class for the rest.

    Args:
        student_QV: log-probabilities.
    """
    ids_QK = torch.from_numpy(labels.ids_QK.astype(np.int64))
    tail_Q = torch.from_numpy(labels.tail_log_mass_Q).double()
    teacher = torch.cat([torch.from_numpy(labels.log_probs_QK).double(), tail_Q[:, None]], dim=1)
    teacher = teacher.log_softmax(1)  # rounded on the wire: make it sum to one again
    student_QV = student_QV.double()
    rest_Q = student_QV.scatter(1, ids_QK, -torch.inf).logsumexp(1)
    student = torch.cat([student_QV.gather(1, ids_QK), rest_Q[:, None]], dim=1)
    terms = teacher.exp() * (teacher - student)
    # Where the teacher has nothing the student's share does not matter (0 * inf otherwise).
    return torch.where(teacher > -torch.inf, terms, torch.zeros_like(terms)).sum(1)

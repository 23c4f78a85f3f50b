"""The teacher: there, well, the right one, and able to answer what the run will ask."""

from __future__ import annotations

import time

import numpy as np

from imitkd.asking import connect
from imitkd.doctor.directory import at_hand
from imitkd.doctor.examination import Examination
from imitkd.doctor.findings import Finding, error, ok, skipped, warning
from student_trainer.config import TeacherConfig
from student_trainer.labels import asked_payload
from student_trainer.setup import make_vocabulary
from student_trainer.stored_scores import require_pairs
from student_trainer.training_data import build_limits
from teacher_service.codec import CandidatesSpec, PayloadRequest, TopKSpec
from teacher_service.errors import TeacherMismatch, TeacherUnavailable
from teacher_service.replies import ReplicaReport, check_agreement
from teacher_service.score_store.stored_teacher import StoredTeacher

# What is asked of the teacher to see that it answers.
_PAIRS = 8


def reachable(it: Examination) -> list[Finding]:
    """Somebody answers at the address, or the store can be read."""
    settings = it.config.teacher
    if not it.meets_teacher or settings is None:
        return [skipped(f"method {it.config.method} asks no teacher")]
    if settings.store is not None:
        it.teacher = store = StoredTeacher(settings.store)
        it.open.callback(store.close)
        it.info, it.reports = store.model_info(), []
        return [ok(f"store {settings.store}: scores of {it.info.name}, {it.info.revision}")]
    return [_connect(it, settings)]


def _connect(it: Examination, settings: TeacherConfig) -> Finding:
    assert settings.address is not None
    client = it.open.enter_context(
        connect(
            settings.address,
            settings.token_file,
            settings.root_certificates,
            settings.client_certificate,
            settings.client_key,
            patience_s=settings.timeout_s,
        )
    )
    try:
        client.wait_ready(it.patience_s)
    except TeacherMismatch:
        pass  # between replicas: a check of its own
    except TeacherUnavailable as fault:
        message = str(fault).rpartition("; ")[0] or str(fault)
        return error(message, _how_to_serve(it, settings.address[0]))
    it.teacher, it.reports = client, client.replicas()
    answering = [report.info for report in it.reports if report.info is not None]
    if not answering:
        return error("it answered once and no more", "look at its log", replicas=len(it.reports))
    it.info = answering[0]
    return ok(
        f"{it.info.name} answers at {client.address}: {it.info.parameters:,} parameters, "
        f"{it.info.vocabulary_size:,} ids",
        name=it.info.name,
        revision=it.info.revision,
        replicas=len(it.reports),
    )


def _how_to_serve(it: Examination, address: str) -> str:
    directory = at_hand(it)[0] if at_hand(it) else "DIR"
    return (
        f"start it: imitkd teacher serve {directory} --address {address}; or have one served "
        f"for the examination alone: --serve {directory}"
    )


def healthy(it: Examination) -> list[Finding]:
    """Every replica says of itself that it serves."""
    it.need("teacher")
    if not it.reports:
        return [skipped("a store is read, nobody serves")]
    findings = [_health_of(report) for report in it.reports if not _well(report)]
    return findings or [ok(f"{_replicas(len(it.reports))} serving", replicas=len(it.reports))]


def _well(report: ReplicaReport) -> bool:
    return report.error is None and report.serving is not False


def _health_of(report: ReplicaReport) -> Finding:
    if report.error is not None:
        return warning(
            f"{report.address} does not answer: {report.error}",
            "start it, or take it out of teacher.address; the others carry its load",
            address=report.address,
        )
    return error(
        f"{report.address} is not serving: it loads or drains",
        "wait until it has loaded, or start it again",
        address=report.address,
    )


def agree(it: Examination) -> list[Finding]:
    """All replicas serve one model."""
    it.need("teacher")
    answering = [report for report in it.reports if report.info is not None]
    if len(answering) < 2:
        return [ok("one replica answers" if it.reports else "a store is one model")]
    first, *others = answering
    assert first.info is not None
    for other in others:
        assert other.info is not None
        try:
            check_agreement(first.address, first.info, other.address, other.info)
        except TeacherMismatch as fault:
            message, _, remedy = str(fault).rpartition("; ")
            return [error(message, remedy)]
    return [ok(f"{_replicas(len(answering))} of one revision", revision=it.info.revision)]


def _replicas(count: int) -> str:
    return "1 replica" if count == 1 else f"{count} replicas"


def vocabulary(it: Examination) -> list[Finding]:
    """The student's vocabulary can be had."""
    if it.config.vocabulary.served:
        it.need("teacher", "replicas")
    it.vocabulary = make_vocabulary(it.config)
    facts = {"size": it.vocabulary.size, "fingerprint": it.vocabulary.fingerprint}
    return [ok(f"{it.vocabulary.size:,} ids", **facts)]


def identity(it: Examination) -> list[Finding]:
    """The teacher is the one named, and speaks the student's vocabulary."""
    it.need("teacher", "replicas")
    wanted = it.config.teacher.revision if it.config.teacher is not None else None
    findings = []
    if wanted is not None and wanted != it.info.revision:
        findings.append(
            error(
                f"teacher.revision is {wanted}, and {it.info.revision} answers",
                "serve the one that is named, or name the one that answers",
                expected=wanted,
                found=it.info.revision,
            )
        )
    if it.scores:
        it.need("vocabulary")
        if it.vocabulary.fingerprint != it.info.fingerprint:
            findings.append(
                error(
                    f"the student's vocabulary ({it.vocabulary.size:,} ids, "
                    f"{it.vocabulary.fingerprint}) is not the teacher's "
                    f"({it.info.vocabulary_size:,} ids, {it.info.fingerprint})",
                    "take the teacher's: vocabulary='{served: true}'",
                )
            )
    pinned = "as named" if wanted is not None else "not named in teacher.revision"
    return findings or [ok(f"{it.info.revision} ({pinned}), of the student's vocabulary")]


def limits(it: Examination) -> list[Finding]:
    """The teacher takes whatever the student may read and write, and offers what is asked."""
    it.need("teacher", "replicas")
    findings = []
    for what, ours in zip(("source", "target"), build_limits(it.config), strict=True):
        theirs = getattr(it.info, f"max_{what}_length")
        if ours > theirs:
            findings.append(
                error(
                    f"the student takes {what}s of {ours} ids, the teacher scores {theirs}",
                    f"set model.max_{what}_length={theirs}",
                )
            )
    offered = {name.replace("_", "-") for name in it.info.payloads}
    asked = _payload_name(asked_payload(it.config))
    if it.scores and offered and asked not in offered:
        findings.append(
            error(
                f"method {it.config.method} asks for payload {asked}, the teacher offers "
                f"{', '.join(sorted(offered))}",
                "choose another method, or serve another teacher",
            )
        )
    most = f"{it.info.max_source_length} source and {it.info.max_target_length} target ids"
    return findings or [ok(f"it scores up to {most}")]


def _payload_name(payload: PayloadRequest) -> str:
    """``TopKSpec`` -> ``top-k``."""
    name = type(payload).__name__.removesuffix("Spec")
    return "".join(f"-{c.lower()}" if c.isupper() else c for c in name).removeprefix("-")


def answers(it: Examination) -> list[Finding]:
    """It scores training pairs, with finite numbers; a store has all of them."""
    it.need("teacher", "replicas", "identity", "lengths")
    if not it.scores:
        return [skipped(f"method {it.config.method} has nothing scored")]
    payload, split = asked_payload(it.config), it.data.split
    temperature = it.config.loss.temperature
    if isinstance(it.teacher, StoredTeacher):
        it.teacher.check_question(payload, temperature)
        require_pairs(it.teacher, split, it.config.corpus.path)
    if isinstance(payload, CandidatesSpec):  # those of a student; any ids would do here
        payload = TopKSpec(it.config.loss.top_k)
    rows = np.linspace(0, len(split) - 1, min(_PAIRS, len(split)), dtype=int).tolist()
    begin = time.perf_counter()
    result = it.teacher.score(
        [split.source(r) for r in rows],
        [split.target(r) for r in rows],
        payload,
        temperature=temperature,
    )
    seconds = time.perf_counter() - begin
    if not np.isfinite(result.token_log_probs_P).all():
        unlikely = "some references have probability 0 under the teacher, or none at all"
        return [warning(unlikely, "look at the corpus: is it the teacher's direction?")]
    mean = float(result.token_log_probs_P.mean()) if len(result.token_log_probs_P) else 0.0
    facts = {"mean_log_prob": mean, "seconds": seconds, "pairs": len(rows)}
    if mean < -np.log(it.info.vocabulary_size):
        return [
            warning(
                f"references have a mean log-probability of {mean:.2f} under the teacher, less "
                "than any id drawn by lot",
                "look at the corpus: are source and target the right way round?",
                **facts,
            )
        ]
    return [
        ok(
            f"{len(rows)} training pairs scored in {seconds * 1000:.0f} ms, mean log-probability "
            f"{mean:.2f} an id",
            **facts,
        )
    ]

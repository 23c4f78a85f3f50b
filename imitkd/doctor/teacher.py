"""The teacher: there, well, the right one, and able to answer what the run will ask."""

from __future__ import annotations

import time

import numpy as np

from imitkd.asking import connect
from imitkd.doctor.directory import at_hand
from imitkd.doctor.examination import Examination, Met
from imitkd.doctor.findings import Finding, error, ok, skipped, warning
from student_trainer.config import TeacherConfig
from student_trainer.labels import asked_payload
from student_trainer.setup import make_vocabulary
from student_trainer.source_config import TeacherRevision
from student_trainer.stored_scores import require_pairs
from student_trainer.teachers import RoutedTeachers
from student_trainer.training_data import build_limits
from teacher_service.client import TeacherClient
from teacher_service.codec import CandidatesSpec, ModelInfo, PayloadRequest, TopKSpec
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
        it.met = [Met("", store, store.model_info(), [])]
        return [ok(f"store {settings.store}: scores of {it.info.name}, {it.info.revision}")]
    if not settings.routes:
        finding, it.met = _connect(it, settings, "")
        if it.met:
            it.teacher = it.met[0].teacher
        return [finding]
    found = {name: _connect(it, settings, name) for name in it.config.corpus.directories}
    it.met = [met for _, some in found.values() for met in some]
    clients = {met.corpus: met.teacher for met in it.met if isinstance(met.teacher, TeacherClient)}
    if len(clients) == len(found):
        it.teacher = RoutedTeachers(clients)
        it.open.callback(it.teacher.close)
    return [finding for finding, _ in found.values()]


def _connect(it: Examination, settings: TeacherConfig, name: str) -> tuple[Finding, list[Met]]:
    """The teacher of a corpus, or of all: a finding, and whom was met, if anybody."""
    address, _ = settings.of_corpus(name)
    client = it.open.enter_context(
        connect(
            address,
            settings.token_file,
            settings.root_certificates,
            settings.client_certificate,
            settings.client_key,
            patience_s=settings.timeout_s,
        )
    )
    who = f"{name}: " if name else ""
    try:
        client.wait_ready(it.patience_s)
    except TeacherMismatch:
        pass  # between replicas: a check of its own
    except TeacherUnavailable as fault:
        message = str(fault).rpartition("; ")[0] or str(fault)
        return error(who + message, _how_to_serve(it, address[0])), []
    reports = client.replicas()
    answering = [report.info for report in reports if report.info is not None]
    if not answering:
        told = f"{who}it answered once and no more"
        return error(told, "look at its log", replicas=len(reports)), []
    met = Met(name, client, answering[0], reports)
    finding = ok(
        f"{met.info.name} answers at {client.address}: {met.info.parameters:,} parameters, "
        f"{met.info.vocabulary_size:,} ids",
        name=met.info.name,
        revision=met.info.revision,
        replicas=len(reports),
    )
    return met.named(finding), [met]


def _how_to_serve(it: Examination, address: str) -> str:
    directory = at_hand(it)[0] if at_hand(it) else "DIR"
    return (
        f"start it: imitkd teacher serve {directory} --address {address}; or have one served "
        f"for the examination alone: --serve {directory}"
    )


def healthy(it: Examination) -> list[Finding]:
    """Every replica says of itself that it serves."""
    it.need("teacher")
    reports = [report for met in it.met for report in met.reports]
    if not reports:
        return [skipped("a store is read, nobody serves")]
    findings = [_health_of(report) for report in reports if not _well(report)]
    return findings or [ok(f"{_replicas(len(reports))} serving", replicas=len(reports))]


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
    """All replicas of a teacher serve one model."""
    it.need("teacher")
    return [met.named(_agreeing(met)) for met in it.met]


def _agreeing(met: Met) -> Finding:
    answering = [report for report in met.reports if report.info is not None]
    if len(answering) < 2:
        return ok("one replica answers" if met.reports else "a store is one model")
    first, *others = answering
    assert first.info is not None
    for other in others:
        assert other.info is not None
        try:
            check_agreement(first.address, first.info, other.address, other.info)
        except TeacherMismatch as fault:
            message, _, remedy = str(fault).rpartition("; ")
            return error(message, remedy)
    return ok(f"{_replicas(len(answering))} of one revision", revision=met.info.revision)


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
    if it.scores:
        it.need("vocabulary")
    return [met.named(finding) for met in it.met for finding in _identity(it, met)]


def _identity(it: Examination, met: Met) -> list[Finding]:
    info = met.info
    wanted: TeacherRevision = None
    if it.config.teacher is not None and isinstance(met.teacher, TeacherClient):
        _, wanted = it.config.teacher.of_corpus(met.corpus)
    elif it.config.teacher is not None:
        wanted = it.config.teacher.revision
    findings = []
    if wanted is not None and wanted != info.revision:
        findings.append(
            error(
                f"teacher.revision is {wanted}, and {info.revision} answers",
                "serve the one that is named, or name the one that answers",
                expected=wanted,
                found=info.revision,
            )
        )
    if it.scores and it.vocabulary.fingerprint != info.fingerprint:
        findings.append(
            error(
                f"the student's vocabulary ({it.vocabulary.size:,} ids, "
                f"{it.vocabulary.fingerprint}) is not the teacher's "
                f"({info.vocabulary_size:,} ids, {info.fingerprint})",
                "serve teachers of one vocabulary for all corpora"
                if met.corpus
                else "take the teacher's: vocabulary='{served: true}'",
            )
        )
    pinned = "as named" if wanted is not None else "not named in teacher.revision"
    return findings or [ok(f"{info.revision} ({pinned}), of the student's vocabulary")]


def limits(it: Examination) -> list[Finding]:
    """The teacher takes whatever the student may read and write, and offers what is asked."""
    it.need("teacher", "replicas")
    return [met.named(finding) for met in it.met for finding in _limits(it, met.info)]


def _limits(it: Examination, info: ModelInfo) -> list[Finding]:
    findings = []
    for what, ours in zip(("source", "target"), build_limits(it.config), strict=True):
        theirs = getattr(info, f"max_{what}_length")
        if ours > theirs:
            findings.append(
                error(
                    f"the student takes {what}s of {ours} ids, the teacher scores {theirs}",
                    f"set model.max_{what}_length={theirs}",
                )
            )
    offered = {name.replace("_", "-") for name in info.payloads}
    asked = _payload_name(asked_payload(it.config))
    if it.scores and offered and asked not in offered:
        findings.append(
            error(
                f"method {it.config.method} asks for payload {asked}, the teacher offers "
                f"{', '.join(sorted(offered))}",
                "choose another method, or serve another teacher",
            )
        )
    most = f"{info.max_source_length} source and {info.max_target_length} target ids"
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
    return [met.named(_answering(it, met)) for met in it.met]


def _answering(it: Examination, met: Met) -> Finding:
    payload, split = asked_payload(it.config), it.data.split
    temperature = it.config.loss.temperature
    if isinstance(met.teacher, StoredTeacher):
        met.teacher.check_question(payload, temperature)
        require_pairs(met.teacher, split, it.config.corpus.only)
    if isinstance(payload, CandidatesSpec):  # those of a student; any ids would do here
        payload = TopKSpec(it.config.loss.top_k)
    theirs = _rows_of(it, met.corpus)
    if not len(theirs):
        return warning("none of its sentences is within the limits", "look at the corpus")
    rows = theirs[np.linspace(0, len(theirs) - 1, min(_PAIRS, len(theirs)), dtype=int)].tolist()
    begin = time.perf_counter()
    result = met.teacher.score(
        [split.source(r) for r in rows],
        [split.target(r) for r in rows],
        payload,
        temperature=temperature,
    )
    seconds = time.perf_counter() - begin
    if not np.isfinite(result.token_log_probs_P).all():
        unlikely = "some references have probability 0 under the teacher, or none at all"
        return warning(unlikely, "look at the corpus: is it the teacher's direction?")
    mean = float(result.token_log_probs_P.mean()) if len(result.token_log_probs_P) else 0.0
    facts = {"mean_log_prob": mean, "seconds": seconds, "pairs": len(rows)}
    if mean < -np.log(met.info.vocabulary_size):
        return warning(
            f"references have a mean log-probability of {mean:.2f} under the teacher, less than "
            "any id drawn by lot",
            "look at the corpus: are source and target the right way round?",
            **facts,
        )
    return ok(
        f"{len(rows)} training pairs scored in {seconds * 1000:.0f} ms, mean log-probability "
        f"{mean:.2f} an id",
        **facts,
    )


def _rows_of(it: Examination, corpus: str) -> np.ndarray:
    """Rows of the training split that a teacher scores."""
    rows = np.arange(len(it.data.split))
    if not corpus:
        return rows
    place = list(it.config.corpus.directories).index(corpus)
    return rows[it.data.split.corpus_of(rows) == place]

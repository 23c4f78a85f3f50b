"""Asking a served teacher in text: its own tokenizer comes from the service."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from imitkd.text_lines import encode_lines, read_lines
from seq2seq.errors import UserError
from student_trainer.served_vocabulary import served_vocabulary
from teacher_service import codec
from teacher_service.channel import Credentials
from teacher_service.client import TeacherClient
from teacher_service.replies import check_agreement

# Interactive use: a teacher that is not there is told after seconds, not minutes.
PATIENCE_S = 20.0
# Work of hours: a teacher that loads is waited for; one that goes away, or is busy with others, is
# given longer than the rest of the work can be lost for.
START_PATIENCE_S = 300.0
WORK_PATIENCE_S = 3600.0


@dataclass(frozen=True)
class ScoredPosition:
    """One target position: the piece written, its log-probability, and the candidates."""

    piece: str
    log_prob: float
    candidates: list[tuple[str, float]]
    tail_log_mass: float


@contextmanager
def connect(
    address: Sequence[str] | str,
    token_file: Path | None = None,
    roots: Path | None = None,
    client_certificate: Path | None = None,
    client_key: Path | None = None,
    *,
    patience_s: float | None = None,
) -> Iterator[TeacherClient]:
    """A client for interactive use.

    Args:
        patience_s: when it gives up; :data:`PATIENCE_S` by default.

    Raises:
        TeacherSecretError: a token, certificate or key cannot be read.
    """
    patience_s = PATIENCE_S if patience_s is None else patience_s
    shown = Credentials.read(token_file, roots, client_certificate, client_key)
    client = TeacherClient(
        address,
        timeout_s=patience_s,
        attempt_timeout_s=min(patience_s, 60.0),
        token=shown.token,
        root_certificates=shown.root_certificates,
        client_certificate=shown.client_certificate,
        client_key=shown.client_key,
    )
    try:
        yield client
    finally:
        client.close()


def print_replicas(client: TeacherClient) -> None:
    """A JSON object a replica: its address with what it says of itself, or with its error.

    Raises:
        TeacherError: one does not answer, or they do not serve one model; all are printed before.
    """
    client.model_info()  # has patience; what follows has less
    reports = client.replicas()
    for report in reports:
        told = {"error": str(report.error)} if report.info is None else asdict(report.info)
        print(json.dumps({"address": report.address, **told}, indent=2, default=list))
    first, *others = reports
    for report in reports:
        if report.error is not None:
            raise report.error
    for other in others:
        if first.info is not None and other.info is not None:
            check_agreement(first.address, first.info, other.address, other.info)


def score_text(
    client: TeacherClient, source: str, target: str, top_k: int, temperature: float
) -> list[ScoredPosition]:
    """Score one finished target, the end symbol included."""
    for what, text in (("source", source), ("target", target)):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"the {what} is not UTF-8 ({error.reason}); convert it") from error
    vocabulary = served_vocabulary(client)
    ids = vocabulary.encode_target(target)
    result = client.score(
        [vocabulary.encode_source(source)],
        [ids],
        codec.TopKSpec(min(top_k, vocabulary.size)),
        temperature=temperature,
    )
    payload = result.payload
    assert isinstance(payload, codec.TopK)
    return [
        ScoredPosition(
            vocabulary.piece(token),
            float(result.token_log_probs_P[t]),
            [
                (vocabulary.piece(i), float(p))
                for i, p in zip(payload.ids_PK[t], payload.log_probs_PK[t], strict=True)
            ],
            float(payload.tail_log_mass_P[t]),
        )
        for t, token in enumerate(ids)
    ]


def print_scores(positions: list[ScoredPosition], as_json: bool) -> None:
    """A line a position, or JSON; then the total."""
    total = float(np.sum([p.log_prob for p in positions]))
    if as_json:
        rows = [
            {
                "piece": p.piece,
                "log_prob": p.log_prob,
                "candidates": [{"piece": c, "log_prob": x} for c, x in p.candidates],
                "tail_log_mass": p.tail_log_mass if math.isfinite(p.tail_log_mass) else None,
            }
            for p in positions
        ]
        print(json.dumps({"log_prob": total, "positions": rows}, ensure_ascii=False, indent=2))
        return
    for p in positions:
        shown = "  ".join(f"{c} {math.exp(x):.3f}" for c, x in p.candidates)
        print(f"{p.piece:<16} {p.log_prob:8.3f}   {shown}")
    print(f"{'total':<16} {total:8.3f}")


def mode_of(
    beam: int, n_best: int, sample: bool, top_k: int, temperature: float, seed: int
) -> codec.Greedy | codec.Sample | codec.Beam:
    """The decoding that a set of flags means.

    Raises:
        UserError: flags that exclude each other.
    """
    if sample and beam > 1:
        raise UserError("--sample and --beam exclude each other; give one of them")
    if n_best > beam:
        raise UserError(f"--n-best {n_best} needs --beam {n_best} or more")
    if sample:
        return codec.Sample(top_k, temperature, seed)
    return codec.Beam(beam, n_best) if beam > 1 else codec.Greedy()


def generate_lines(
    client: TeacherClient, mode: codec.Greedy | codec.Sample | codec.Beam, batch: int = 64
) -> None:
    """Standard input to standard output, a batch of lines at a time."""
    vocabulary = served_vocabulary(client)
    longest = client.model_info().max_source_length
    for begin, texts in read_lines(sys.stdin.buffer, batch):
        sources = encode_lines(vocabulary, texts, begin, longest)
        found = client.generate(sources, mode, keys=range(begin, begin + len(texts)))
        for hypotheses in found:
            print("\t".join(vocabulary.decode(h.ids) for h in hypotheses), flush=False)
        sys.stdout.flush()

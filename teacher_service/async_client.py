"""The asyncio client of one teacher, served by one address or by many replicas. No torch.

A call is cut into requests the server takes (its limits come with ``GetModelInfo``). They travel
side by side, each is retried and fails over within the overall deadline, and their answers are put
together in order.
"""

from __future__ import annotations

import asyncio
import random as random_module
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TypeVar

import numpy as np

from protos.teacher.v1 import teacher_pb2 as pb
from teacher_service import attempts, codec, replies, requests
from teacher_service.addresses import AddressBook, Lookup, look_up
from teacher_service.candidates import TokenTable, pack_candidates
from teacher_service.channel import Credentials
from teacher_service.errors import TeacherDenied, TeacherError, TeacherMismatch, TeacherRefused
from teacher_service.fleet import REPORT_S, Fleet, Line, Send
from teacher_service.payloads import position_bytes, row_shapes
from teacher_service.replies import PartScores, ReplicaReport
from teacher_service.requests import Ids
from teacher_service.side_by_side import side_by_side

T = TypeVar("T")

# Requests of one call under way at once, for each replica: one computed, one on its way.
_PARTS_A_REPLICA = 2


@dataclass(frozen=True)
class _Known:
    """The model this client talks to, and the replica that said so first."""

    address: str
    info: codec.ModelInfo


class AsyncTeacherClient:
    """Asks one teacher from one event loop; cheap to build, connects on first use.

    Everything it is told comes from one model: the revision and vocabulary of the first answer are
    expected in every later one, at whatever replica. A replica is asked who it is before it is
    asked anything else; one that serves another model is not used, and a line in the log says so.

    Args:
        address: ``HOST:PORT``, ``unix:PATH`` or ``file:/PATH`` (:class:`AddressBook`), or several.
        attempt_timeout_s: deadline of one attempt of one request.
        generate_attempt_timeout_s: the same for ``Generate``, which takes longer.
        timeout_s: deadline of one request with its retries and waits.
        expected_fingerprint, expected_revision: ride in every request; another teacher refuses.
        token: bearer token.
        root_certificates: PEM; makes the channels TLS.
        client_certificate, client_key: PEM, for a teacher that asks for a certificate.
        refresh_s: how often names and files of addresses are read again.
        lookup, clock, sleep, random: injected in tests.

    Raises:
        TeacherRefused: no address.
    """

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        attempt_timeout_s: float = 30.0,
        generate_attempt_timeout_s: float = 120.0,
        timeout_s: float = 300.0,
        expected_fingerprint: str | None = None,
        expected_revision: str | None = None,
        token: str | None = None,
        root_certificates: bytes | None = None,
        client_certificate: bytes | None = None,
        client_key: bytes | None = None,
        refresh_s: float = 30.0,
        lookup: Lookup = look_up,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        book = AddressBook(address, lookup)
        self.address = str(book)
        self._attempt_timeout_s = attempt_timeout_s
        self._generate_attempt_timeout_s = generate_attempt_timeout_s
        self._timeout_s = timeout_s
        self._wanted = pb.ModelExpectation(
            fingerprint=expected_fingerprint or "", revision=expected_revision or ""
        )
        self._expect = self._wanted
        self._known: _Known | None = None
        self._fleet = Fleet(
            book,
            Credentials(token, root_certificates, client_certificate, client_key),
            self._meet,
            refresh_s=refresh_s,
            clock=clock,
            sleep=sleep,
            random=random,
        )

    async def model_info(self) -> codec.ModelInfo:
        """What the teacher is, asked anew at every call, of one replica.

        Raises:
            TeacherError: see :meth:`score`.
        """
        return await self._call("GetModelInfo", self._meet, meets=True)

    async def replicas(self) -> list[ReplicaReport]:
        """What every replica says of itself now, or why it does not within five seconds."""
        patience_s = min(REPORT_S, self._timeout_s)
        asked, well = await asyncio.gather(
            self._fleet.ask_each("GetModelInfo", self._who(self._wanted), patience_s),
            self._fleet.ask_each("Health.Check", attempts.serving(), patience_s),
        )
        health = {a: None if isinstance(told, TeacherError) else told for a, told in well.items()}
        return [
            ReplicaReport(address, error=answer)
            if isinstance(answer, TeacherError)
            else ReplicaReport(address, info=answer[1], serving=health.get(address))
            for address, answer in asked.items()
        ]

    async def score(
        self,
        sources: Sequence[Ids],
        targets: Sequence[Ids],
        payload: codec.PayloadRequest,
        *,
        temperature: float = 1.0,
        candidates: Sequence[TokenTable] | None = None,
    ) -> codec.ScoreResult:
        """The teacher's distributions along ``targets``.

        Args:
            sources: encoder inputs, end symbol included.
            targets: target ids without the start symbol; the end symbol where it was written.
            payload: what to send about each position; FULL travels as a stream.
            candidates: CANDIDATES only: per target its ids [T, K], one K throughout, those of one
                position distinct.

        Returns:
            Arrays over P = sum of target lengths, in order.

        Raises:
            TeacherRefused: the ids break a rule of the contract, or one sequence is too long.
            TeacherMismatch: another vocabulary or revision than expected, replicas of different
                models, or another model than this client met first.
            TeacherUnavailable, TeacherTimeout, TeacherFailed, TeacherDenied, TeacherProtocolError
        """
        if len(sources) != len(targets):
            raise TeacherRefused(
                f"{len(sources)} sources but {len(targets)} targets; give one for each"
            )
        info = await self._limits()
        spec = requests.payload_spec(payload)
        lengths = np.fromiter((len(t) for t in targets), np.int32, len(targets))
        given = pack_candidates(payload, candidates, lengths, info.vocabulary_size)
        shapes = row_shapes(spec.kind, given.k or spec.k, info.vocabulary_size, info.hidden_size)
        width = position_bytes(shapes, spec.dtype, info.vocabulary_size)
        streamed = spec.kind == pb.PAYLOAD_KIND_FULL
        bound = info.max_stream_reply_bytes if streamed else info.max_unary_reply_bytes

        async def part(rows: slice) -> PartScores:
            request = requests.score_request(
                self._expect, spec, temperature, sources[rows], targets[rows], given.tensors[rows]
            )
            positions = int(lengths[rows].sum())
            tokens = positions + sum(len(source) for source in sources[rows])
            if streamed or positions * width > info.max_unary_reply_bytes:
                attempt = attempts.score_stream(request, positions)
                return await self._call("ScoreStream", attempt, tokens)
            return await self._call("Score", attempts.score(request, positions), tokens)

        runs = requests.split(sources, targets, width, bound, info, given.row_bytes)
        parts = await self._parts(part, runs)
        return replies.whole_result(parts, spec.kind, shapes, lengths, info, self.address)

    async def generate(
        self,
        sources: Sequence[Ids],
        mode: codec.Greedy | codec.Sample | codec.Beam,
        *,
        limit: codec.LengthLimit | None = None,
        prefixes: Sequence[Ids] | None = None,
        keys: Sequence[int] | None = None,
        request_size: int = 32,
    ) -> list[list[codec.GeneratedHypothesis]]:
        """Targets written by the teacher.

        Args:
            sources: encoder inputs, end symbol included.
            prefixes: per source, target ids that every hypothesis begins with.
            keys: per source, the stream of random numbers for sampling; its index by default.
            request_size: sources in one request.

        Returns:
            Per source its hypotheses, best first.

        Raises:
            TeacherError: see :meth:`score`.
        """
        info = await self._limits()
        size = max(1, min(request_size, info.max_request_sequences))
        given = [()] * len(sources) if prefixes is None else prefixes
        if len(given) != len(sources):
            raise TeacherRefused(
                f"{len(sources)} sources but {len(given)} prefixes; give one for each"
            )

        async def part(rows: slice) -> list[list[codec.GeneratedHypothesis]]:
            request = requests.generate_request(
                self._expect,
                mode,
                limit,
                sources[rows],
                given[rows],
                range(rows.start, rows.stop) if keys is None else keys[rows],
            )
            tokens = sum(len(source) for source in sources[rows])
            return await self._call(
                "Generate",
                attempts.generate(request),
                tokens,
                attempt_timeout_s=self._generate_attempt_timeout_s,
            )

        runs = requests.split(sources, given, 0, 0, replace(info, max_request_sequences=size))
        return [found for some in await self._parts(part, runs) for found in some]

    async def artifact(self, kind: str = "tokenizer") -> dict[str, bytes]:
        """Files of the teacher by their relative names, checked against their hashes.

        Raises:
            TeacherRefused: this teacher does not offer ``kind``.
            TeacherProtocolError: a piece is missing, a hash differs, or a name leaves its folder.
        """
        request = pb.GetArtifactRequest(expect=self._expect, kind=requests.artifact_kind(kind))
        return await self._call("GetArtifact", attempts.artifact(request))

    async def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Return when a replica has loaded its model and answers, and no other says otherwise.

        Raises:
            TeacherUnavailable: none does within ``timeout_s``.
            TeacherMismatch, TeacherDenied: one answers, and is the wrong one, disagrees with
                another, or refuses us.
        """
        await self._call(
            "GetModelInfo",
            self._meet,
            attempt_timeout_s=REPORT_S,
            timeout_s=timeout_s,
            meets=True,
        )
        for report in await self.replicas() if len(self._fleet.replicas) > 1 else ():
            if report.info is not None:
                self._recognise(report.address, report.info)
            elif isinstance(report.error, TeacherMismatch | TeacherDenied):
                raise report.error

    async def close(self) -> None:
        """Close the channels; calls under way end with TeacherUnavailable."""
        await self._fleet.close()

    async def __aenter__(self) -> AsyncTeacherClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _limits(self) -> codec.ModelInfo:
        return self._known.info if self._known is not None else await self.model_info()

    def _recognise(self, address: str, info: codec.ModelInfo) -> None:
        """Hold every later answer to the first one's model."""
        if self._known is not None:
            replies.check_agreement(self._known.address, self._known.info, address, info)
        self._known = _Known(address, info)
        self._expect = pb.ModelExpectation(fingerprint=info.fingerprint, revision=info.revision)

    def _who(self, expect: pb.ModelExpectation) -> Send[tuple[str, codec.ModelInfo]]:
        return attempts.model_info(pb.GetModelInfoRequest(expect=expect))

    async def _meet(self, line: Line, timeout_s: float) -> codec.ModelInfo:
        """Ask a replica who it is. Raises TeacherMismatch where it serves another model."""
        address, info = await self._who(self._expect)(line, timeout_s)
        self._recognise(address, info)
        return info

    async def _call(
        self,
        method: str,
        send: Send[T],
        tokens: int = 1,
        *,
        attempt_timeout_s: float | None = None,
        timeout_s: float | None = None,
        meets: bool = False,
    ) -> T:
        try:
            return await self._fleet.call(
                method,
                send,
                tokens=tokens,
                attempt_timeout_s=attempt_timeout_s or self._attempt_timeout_s,
                timeout_s=timeout_s or self._timeout_s,
                meets=meets,
            )
        except TeacherMismatch as error:
            if self._known is None or self._wanted.revision:
                raise
            raise TeacherMismatch(
                f"{error}; expected is what {self._known.address} answered before: all replicas of "
                "a teacher must serve one model, and a client keeps to one"
            ) from error

    async def _parts(self, part: Callable[[slice], Awaitable[T]], runs: Iterable[slice]) -> list[T]:
        most = _PARTS_A_REPLICA * max(1, len(self._fleet.replicas))
        return await side_by_side(part, runs, most)

"""Requests to checked work: the alignment rules, limits, the handshake. No torch, no gRPC."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from protos.teacher.v1 import teacher_pb2 as pb
from teacher_service import codec
from teacher_service.batching import Entry, Request
from teacher_service.candidate_validation import read_candidates
from teacher_service.config import ServerConfig
from teacher_service.payloads import FLOATS, position_bytes, row_shapes
from teacher_service.refusals import InvalidRequest, Mismatch, NotOffered, TooLarge
from teacher_service.work import (
    GenerateChoice,
    GenerateItem,
    Identity,
    ScoreChoice,
    ScoreItem,
)

_LOWEST_TEMPERATURE, _HIGHEST_TEMPERATURE = 0.01, 100.0
_LARGEST_BEAM = 64


class Validator:
    """Checks requests against one teacher and one configuration."""

    def __init__(self, identity: Identity, config: ServerConfig) -> None:
        self._identity = identity
        self._config = config

    def expectation(self, expect: pb.ModelExpectation) -> None:
        """The handshake.

        Raises:
            Mismatch: the caller believes it is talking to another teacher.
        """
        identity = self._identity
        if expect.fingerprint and expect.fingerprint != identity.fingerprint:
            raise Mismatch(
                f"expected vocabulary {expect.fingerprint} but this teacher ({identity.name}) has "
                f"{identity.fingerprint}; use this teacher's tokenizer (GetArtifact) or another "
                "teacher"
            )
        if expect.revision and expect.revision != identity.revision:
            raise Mismatch(
                f"expected revision {expect.revision} but this teacher ({identity.name}) is "
                f"{identity.revision}; serve the expected weights or start a new run"
            )

    def score(self, request: pb.ScoreRequest, streamed: bool) -> Request:
        """A request for the scoring lane.

        Raises:
            InvalidRequest, TooLarge, Mismatch, NotOffered
        """
        self.expectation(request.expect)
        self._count("sequences", len(request.sequences))
        choice = self._score_choice(request)
        candidates: Sequence[np.ndarray | None] = [None] * len(request.sequences)
        if choice.kind == pb.PAYLOAD_KIND_CANDIDATES:
            candidates, k = read_candidates(request.sequences, self._identity.vocabulary_size)
            choice = replace(choice, k=k)
        entries = []
        for index, sequence in enumerate(request.sequences):
            where = f"sequences[{index}]"
            source, target = list(sequence.source_ids), list(sequence.target_ids)
            self._source(where, source)
            self._ids(f"{where}.target_ids", target, self._identity.max_target_length)
            if sequence.HasField("candidate_ids") and candidates[index] is None:
                raise InvalidRequest(
                    f"{where}.candidate_ids", "set, but only payload CANDIDATES takes them"
                )
            item = ScoreItem(source, target, candidates[index])
            entries.append(Entry(len(source), len(target), item, index))
        self._tokens(sum(entry.tokens for entry in entries))
        positions = sum(entry.target_length for entry in entries)
        vocabulary_size = self._identity.vocabulary_size
        rows = row_shapes(choice.kind, choice.k, vocabulary_size, self._identity.hidden_size)
        size = positions * position_bytes(rows, choice.dtype, vocabulary_size)
        self._reply(size, streamed)
        return Request(entries, choice, reply_bytes=size)

    def generate(self, request: pb.GenerateRequest) -> Request:
        """A request for the generation lane.

        Raises:
            InvalidRequest, TooLarge, Mismatch
        """
        self.expectation(request.expect)
        self._count("inputs", len(request.inputs))
        choice = self._generate_choice(request)
        entries, tokens = [], 0
        for index, given in enumerate(request.inputs):
            where = f"inputs[{index}]"
            source, prefix = list(given.source_ids), list(given.prefix_ids)
            self._source(where, source)
            limit = choice.limit(len(source))
            self._ids(f"{where}.prefix_ids", prefix, limit, "the input's length limit")
            if self._identity.eos_id in prefix:
                raise InvalidRequest(
                    f"{where}.prefix_ids",
                    f"holds the end symbol {self._identity.eos_id}; a finished target leaves "
                    "nothing to write",
                )
            key = given.key if given.HasField("key") else index
            item = GenerateItem(source, prefix, key)
            entries.append(Entry(len(source) * choice.beams, limit * choice.beams, item, index))
            tokens += len(source) + len(prefix)
        self._tokens(tokens)
        return Request(entries, choice)

    def _score_choice(self, request: pb.ScoreRequest) -> ScoreChoice:
        spec = request.payload
        if spec.kind == pb.PAYLOAD_KIND_UNSPECIFIED:
            raise InvalidRequest("payload.kind", "not set; choose one of GetModelInfo.payloads")
        if spec.kind not in pb.PayloadKind.values():
            raise InvalidRequest("payload.kind", f"unknown value {spec.kind}; see GetModelInfo")
        if spec.kind not in self._identity.payloads:
            name = pb.PayloadKind.Name(spec.kind)
            raise NotOffered(f"{name} is not offered by this server; see GetModelInfo.payloads")
        dtype = spec.dtype or pb.DATA_TYPE_FLOAT16
        if dtype not in FLOATS.values():
            raise InvalidRequest("payload.dtype", f"{dtype} is neither FLOAT16 nor FLOAT32")
        k = 0
        if spec.kind == pb.PAYLOAD_KIND_TOP_K:
            if spec.k < 1:
                raise InvalidRequest("payload.k", f"{spec.k} is less than 1")
            k = min(spec.k, self._identity.vocabulary_size)
        elif spec.k:
            raise InvalidRequest("payload.k", f"{spec.k} is set, but only TOP_K takes it")
        temperature = request.temperature if request.HasField("temperature") else 1.0
        _check_temperature("temperature", temperature)
        return ScoreChoice(spec.kind, dtype, temperature, k)

    def _generate_choice(self, request: pb.GenerateRequest) -> GenerateChoice:
        limit, longest = request.limit, self._identity.max_target_length
        ratio = limit.ratio if limit.HasField("ratio") else 2.0
        offset = limit.offset if limit.HasField("offset") else 10
        cap = min(limit.cap, longest) if limit.HasField("cap") else longest
        if not (math.isfinite(ratio) and 0 <= ratio <= 1000):
            raise InvalidRequest("limit.ratio", f"{ratio:g} is outside 0 .. 1000")
        if cap < 1:
            raise InvalidRequest("limit.cap", "0 leaves no room for a target; give at least 1")
        return GenerateChoice(_mode(request), ratio, min(offset, longest), cap)

    def _source(self, where: str, ids: Sequence[int]) -> None:
        if not ids:
            raise InvalidRequest(
                f"{where}.source_ids",
                "empty; a source holds at least its end symbol",
            )
        identity = self._identity
        self._ids(f"{where}.source_ids", ids, identity.max_source_length, tail=identity.source_tail)

    def _ids(
        self,
        where: str,
        ids: Sequence[int],
        longest: int,
        bound: str = "the model's limit",
        tail: int = 0,
    ) -> None:
        identity = self._identity
        if len(ids) > longest:
            raise InvalidRequest(
                where, f"{len(ids)} ids are more than {bound} of {longest}; cut the sequence"
            )
        if not ids:
            return
        if max(ids) >= identity.vocabulary_size:
            raise InvalidRequest(
                where,
                f"id {max(ids)} is outside the vocabulary 0 .. {identity.vocabulary_size - 1}; "
                "encode with this teacher's tokenizer",
            )
        if identity.pad_id in ids:
            raise InvalidRequest(
                where,
                f"holds the padding id {identity.pad_id} at {ids.index(identity.pad_id)}; send "
                "sequences without padding",
            )
        if identity.eos_id in ids[: -1 - tail]:
            raise InvalidRequest(
                where,
                f"goes on after the end symbol {identity.eos_id} at {ids.index(identity.eos_id)}; "
                "cut it there",
            )

    def _count(self, name: str, count: int) -> None:
        if count == 0:
            raise InvalidRequest(name, "empty; send at least one")
        if count > self._config.max_request_sequences:
            raise InvalidRequest(
                name,
                f"{count} are more than max_request_sequences of "
                f"{self._config.max_request_sequences}; send several requests",
            )

    def _tokens(self, tokens: int) -> None:
        bound = self._config.max_request_tokens
        if tokens > bound:
            raise TooLarge(
                f"the request has {tokens} source and target ids, more than max_request_tokens of "
                f"{bound}; send several requests"
            )

    def _reply(self, size: int, streamed: bool) -> None:
        config = self._config
        bound = config.max_stream_reply_bytes if streamed else config.max_unary_reply_bytes
        if size > bound:
            remedy = "send several requests" if streamed else "use ScoreStream or several requests"
            raise TooLarge(f"the reply would have {size} bytes, more than {bound}; {remedy}")


def _mode(request: pb.GenerateRequest) -> codec.Greedy | codec.Sample | codec.Beam:
    chosen = request.WhichOneof("mode")
    if chosen is None:
        raise InvalidRequest("mode", "not set; choose greedy, sampling or beam")
    if chosen == "greedy":
        return codec.Greedy()
    if chosen == "sampling":
        sampling = request.sampling
        temperature = sampling.temperature if sampling.HasField("temperature") else 1.0
        _check_temperature("sampling.temperature", temperature)
        return codec.Sample(sampling.top_k, temperature, sampling.seed)
    beam = request.beam
    size = beam.size if beam.HasField("size") else 5
    n_best = beam.n_best if beam.HasField("n_best") else 1
    penalty = beam.length_penalty if beam.HasField("length_penalty") else 1.0
    if not 1 <= size <= _LARGEST_BEAM:
        raise InvalidRequest("beam.size", f"{size} is outside 1 .. {_LARGEST_BEAM}")
    if not 1 <= n_best <= size:
        raise InvalidRequest("beam.n_best", f"{n_best} is outside 1 .. beam.size {size}")
    if not -10 <= penalty <= 10:
        raise InvalidRequest("beam.length_penalty", f"{penalty:g} is outside -10 .. 10")
    return codec.Beam(size, n_best, penalty)


def _check_temperature(where: str, value: float) -> None:
    if not _LOWEST_TEMPERATURE * 0.999 <= value <= _HIGHEST_TEMPERATURE:
        raise InvalidRequest(
            where, f"{value:g} is outside {_LOWEST_TEMPERATURE} .. {_HIGHEST_TEMPERATURE:g}"
        )

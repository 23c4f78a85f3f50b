"""What a store holds: whose scores, of which payload, and how a record is laid out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import json_format

from protos.teacher.v1 import teacher_pb2 as pb
from teacher_service.codec import (
    Arrays,
    ModelInfo,
    PayloadRequest,
    ScoreResult,
    decode_model_info,
)
from teacher_service.content_key import ContentKeys
from teacher_service.errors import TeacherStoreError
from teacher_service.payloads import (
    FLOATS,
    TENSORS,
    RowShapes,
    decoded_dtype,
    id_dtype,
    position_bytes,
    row_shapes,
)
from teacher_service.requests import payload_spec

DESCRIPTION = "store.json"
_FORMAT = "imitkd-scores/1"


@dataclass(frozen=True)
class ScoreForm:
    """Everything that the scores of one store have in common.

    A record is the tensors of one pair, little-endian and without padding: the log-probability of
    each target id, then those of the payload in the order of :data:`TENSORS`, each over all T
    positions, ids as uint16 where V <= 65,536. Its size follows from T.

    Attributes:
        info: the teacher as it answered.
        spec: payload kind, dtype and k; CANDIDATES, whose ids are the caller's, cannot be stored.
        temperature: of the distributions.
    """

    info: ModelInfo
    spec: pb.PayloadSpec
    temperature: float

    @classmethod
    def of(cls, info: ModelInfo, payload: PayloadRequest, temperature: float) -> ScoreForm:
        """The form of a teacher's answers to one payload choice.

        Raises:
            TeacherRefused: the payload is not expressible in the contract.
            TeacherStoreError: it cannot be stored.
        """
        spec = payload_spec(payload)
        if spec.kind == pb.PAYLOAD_KIND_TOP_K:
            spec.k = min(spec.k, info.vocabulary_size)
        return cls(info, _storable(spec), temperature)

    @cached_property
    def rows(self) -> RowShapes:
        """What one position has of each tensor."""
        info = self.info
        return row_shapes(self.spec.kind, self.spec.k, info.vocabulary_size, info.hidden_size)

    @cached_property
    def position_bytes(self) -> int:
        """Bytes of a record that one target position takes."""
        return position_bytes(self.rows, self.spec.dtype, self.info.vocabulary_size)

    def keys(self) -> ContentKeys:
        """The content keys of pairs in this form."""
        spec = self.spec
        return ContentKeys(
            self.info.revision, spec.kind, spec.dtype, spec.k, float(self.temperature)
        )

    def asked(self) -> str:
        """Payload and temperature, for messages."""
        name = pb.PayloadKind.Name(self.spec.kind).removeprefix("PAYLOAD_KIND_")
        k = f" {self.spec.k}" if self.spec.k else ""
        dtype = pb.DataType.Name(self.spec.dtype).removeprefix("DATA_TYPE_").lower()
        return f"{name}{k} in {dtype} at temperature {self.temperature:g}"

    def same_question(self, other: ScoreForm) -> bool:
        """Whether payload and temperature are equal as they travel, the temperature as f32."""
        equal = np.float32(self.temperature) == np.float32(other.temperature)
        return bool(equal) and self.spec == other.spec

    def pack(self, result: ScoreResult) -> list[bytes]:
        """The record of every sequence of a result; exact, for it travelled in this form."""
        kind = self.spec.kind
        suffix = {"": "_P", "K": "_PK", "D": "_PD", "V": "_PV"}
        arrays = {"token_log_probs": result.token_log_probs_P}
        for name, of in TENSORS[kind][1].items():
            arrays[name] = getattr(result.payload, name + suffix[of])
        wire = [array.astype(self._dtype(name)) for name, array in arrays.items()]
        ends = np.cumsum(result.lengths_B).tolist()
        return [
            b"".join(tensor[end - length : end].tobytes() for tensor in wire)
            for end, length in zip(ends, result.lengths_B.tolist(), strict=True)
        ]

    def unpack(self, record: bytes, positions: int) -> Arrays:
        """The decoded arrays of a record: int32 ids, the rest float32.

        Raises:
            ValueError: its size is not that of ``positions``, an id lies outside the vocabulary, or
                a number is not one.
        """
        if len(record) != positions * self.position_bytes:
            raise ValueError(f"{len(record)} bytes are not {positions} positions")
        arrays: Arrays = {}
        offset = 0
        for name, row in self.rows.items():
            dtype, shape = self._dtype(name), (positions, *row)
            count = int(np.prod(shape))
            found = np.frombuffer(record, dtype, count, offset).reshape(shape)
            offset += found.nbytes
            if name == "ids":
                if found.size and int(found.max()) >= self.info.vocabulary_size:
                    raise ValueError(f"id {found.max()} lies outside the vocabulary")
            elif np.isnan(found).any():
                raise ValueError(f"{name} is not a number")
            arrays[name] = found.astype(decoded_dtype(name))
        return arrays

    def to_json(self) -> str:
        """What :data:`DESCRIPTION` holds: messages of the contract in their JSON form."""
        return json.dumps(
            {
                "format": _FORMAT,
                "teacher": _as_json(self._offer()),
                "payload": _as_json(self.spec),
                "temperature": self.temperature,
                "bytes_a_position": self.position_bytes,
            },
            indent=2,
        )

    @classmethod
    def read(cls, directory: Path) -> ScoreForm:
        """The form of a store.

        Raises:
            TeacherStoreError: no store there, or its description is damaged.
        """
        file = directory / DESCRIPTION
        try:
            found = json.loads(file.read_bytes())
            if found["format"] != _FORMAT:
                raise ValueError(f"format {found['format']!r} is unknown here, not {_FORMAT!r}")
            info = json_format.ParseDict(found["teacher"], pb.ModelInfo())
            spec = _storable(json_format.ParseDict(found["payload"], pb.PayloadSpec()))
            form = cls(decode_model_info(info), spec, float(found["temperature"]))
            if found["bytes_a_position"] != form.position_bytes or not form.position_bytes:
                raise ValueError(
                    f"{found['bytes_a_position']} bytes a position, {form.position_bytes} expected"
                )
        except OSError as error:
            raise TeacherStoreError(
                f"{directory} is not a score store ({file.name}: {error.strerror}); write one with "
                "`imitkd teacher score-corpus`"
            ) from error
        except (ValueError, KeyError, TypeError, json_format.ParseError) as error:
            raise TeacherStoreError(
                f"{file} is damaged or of another version ({error!r}); write the store again"
            ) from error
        return form

    def _offer(self) -> pb.ModelInfo:
        """The teacher's message, offering what the store can answer."""
        plain = {
            field.name: getattr(self.info, field.name)
            for field in pb.ModelInfo.DESCRIPTOR.fields
            if field.name not in ("payloads", "artifacts")
        }
        offer = pb.PayloadOffer(kind=self.spec.kind, dtypes=[self.spec.dtype])
        kinds = [pb.ARTIFACT_KIND_TOKENIZER]
        return pb.ModelInfo(**plain, payloads=[offer], artifacts=kinds)

    def _dtype(self, name: str) -> np.dtype:
        if name == "ids":
            return id_dtype(self.info.vocabulary_size)
        return np.dtype("<f2" if self.spec.dtype == pb.DATA_TYPE_FLOAT16 else "<f4")


def _storable(spec: pb.PayloadSpec) -> pb.PayloadSpec:
    name = pb.PayloadKind.Name(spec.kind)
    if spec.kind not in TENSORS or spec.kind == pb.PAYLOAD_KIND_CANDIDATES:
        raise TeacherStoreError(f"payload {name} cannot be stored; TOP_K can")
    if spec.dtype not in FLOATS.values():
        raise TeacherStoreError(f"payload dtype {spec.dtype} is unknown")
    return spec


def _as_json(message: Any) -> dict[str, Any]:
    found: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return found

from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DataType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DATA_TYPE_UNSPECIFIED: _ClassVar[DataType]
    DATA_TYPE_FLOAT16: _ClassVar[DataType]
    DATA_TYPE_FLOAT32: _ClassVar[DataType]
    DATA_TYPE_UINT16: _ClassVar[DataType]
    DATA_TYPE_UINT32: _ClassVar[DataType]
    DATA_TYPE_INT32: _ClassVar[DataType]

class PayloadKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PAYLOAD_KIND_UNSPECIFIED: _ClassVar[PayloadKind]
    PAYLOAD_KIND_ARGMAX: _ClassVar[PayloadKind]
    PAYLOAD_KIND_TOP_K: _ClassVar[PayloadKind]
    PAYLOAD_KIND_CANDIDATES: _ClassVar[PayloadKind]
    PAYLOAD_KIND_HIDDEN: _ClassVar[PayloadKind]
    PAYLOAD_KIND_FULL: _ClassVar[PayloadKind]

class ArtifactKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ARTIFACT_KIND_UNSPECIFIED: _ClassVar[ArtifactKind]
    ARTIFACT_KIND_TOKENIZER: _ClassVar[ArtifactKind]
    ARTIFACT_KIND_OUTPUT_PROJECTION: _ClassVar[ArtifactKind]
DATA_TYPE_UNSPECIFIED: DataType
DATA_TYPE_FLOAT16: DataType
DATA_TYPE_FLOAT32: DataType
DATA_TYPE_UINT16: DataType
DATA_TYPE_UINT32: DataType
DATA_TYPE_INT32: DataType
PAYLOAD_KIND_UNSPECIFIED: PayloadKind
PAYLOAD_KIND_ARGMAX: PayloadKind
PAYLOAD_KIND_TOP_K: PayloadKind
PAYLOAD_KIND_CANDIDATES: PayloadKind
PAYLOAD_KIND_HIDDEN: PayloadKind
PAYLOAD_KIND_FULL: PayloadKind
ARTIFACT_KIND_UNSPECIFIED: ArtifactKind
ARTIFACT_KIND_TOKENIZER: ArtifactKind
ARTIFACT_KIND_OUTPUT_PROJECTION: ArtifactKind

class Tensor(_message.Message):
    __slots__ = ("dtype", "shape", "data")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    dtype: DataType
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    def __init__(self, dtype: _Optional[_Union[DataType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class PayloadSpec(_message.Message):
    __slots__ = ("kind", "k", "dtype")
    KIND_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    kind: PayloadKind
    k: int
    dtype: DataType
    def __init__(self, kind: _Optional[_Union[PayloadKind, str]] = ..., k: _Optional[int] = ..., dtype: _Optional[_Union[DataType, str]] = ...) -> None: ...

class ModelExpectation(_message.Message):
    __slots__ = ("fingerprint", "revision")
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    fingerprint: str
    revision: str
    def __init__(self, fingerprint: _Optional[str] = ..., revision: _Optional[str] = ...) -> None: ...

class GetModelInfoRequest(_message.Message):
    __slots__ = ("expect",)
    EXPECT_FIELD_NUMBER: _ClassVar[int]
    expect: ModelExpectation
    def __init__(self, expect: _Optional[_Union[ModelExpectation, _Mapping]] = ...) -> None: ...

class GetModelInfoResponse(_message.Message):
    __slots__ = ("info",)
    INFO_FIELD_NUMBER: _ClassVar[int]
    info: ModelInfo
    def __init__(self, info: _Optional[_Union[ModelInfo, _Mapping]] = ...) -> None: ...

class PayloadOffer(_message.Message):
    __slots__ = ("kind", "dtypes")
    KIND_FIELD_NUMBER: _ClassVar[int]
    DTYPES_FIELD_NUMBER: _ClassVar[int]
    kind: PayloadKind
    dtypes: _containers.RepeatedScalarFieldContainer[DataType]
    def __init__(self, kind: _Optional[_Union[PayloadKind, str]] = ..., dtypes: _Optional[_Iterable[_Union[DataType, str]]] = ...) -> None: ...

class ModelInfo(_message.Message):
    __slots__ = ("name", "revision", "vocabulary_size", "fingerprint", "pad_id", "eos_id", "unk_id", "start_ids", "max_source_length", "max_target_length", "payloads", "batch_token_budget", "max_request_sequences", "max_request_tokens", "max_request_bytes", "max_unary_reply_bytes", "max_stream_reply_bytes", "hidden_size", "parameters", "artifacts")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_SIZE_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    PAD_ID_FIELD_NUMBER: _ClassVar[int]
    EOS_ID_FIELD_NUMBER: _ClassVar[int]
    UNK_ID_FIELD_NUMBER: _ClassVar[int]
    START_IDS_FIELD_NUMBER: _ClassVar[int]
    MAX_SOURCE_LENGTH_FIELD_NUMBER: _ClassVar[int]
    MAX_TARGET_LENGTH_FIELD_NUMBER: _ClassVar[int]
    PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    BATCH_TOKEN_BUDGET_FIELD_NUMBER: _ClassVar[int]
    MAX_REQUEST_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    MAX_REQUEST_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_REQUEST_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_UNARY_REPLY_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_STREAM_REPLY_BYTES_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_SIZE_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    ARTIFACTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    revision: str
    vocabulary_size: int
    fingerprint: str
    pad_id: int
    eos_id: int
    unk_id: int
    start_ids: _containers.RepeatedScalarFieldContainer[int]
    max_source_length: int
    max_target_length: int
    payloads: _containers.RepeatedCompositeFieldContainer[PayloadOffer]
    batch_token_budget: int
    max_request_sequences: int
    max_request_tokens: int
    max_request_bytes: int
    max_unary_reply_bytes: int
    max_stream_reply_bytes: int
    hidden_size: int
    parameters: int
    artifacts: _containers.RepeatedScalarFieldContainer[ArtifactKind]
    def __init__(self, name: _Optional[str] = ..., revision: _Optional[str] = ..., vocabulary_size: _Optional[int] = ..., fingerprint: _Optional[str] = ..., pad_id: _Optional[int] = ..., eos_id: _Optional[int] = ..., unk_id: _Optional[int] = ..., start_ids: _Optional[_Iterable[int]] = ..., max_source_length: _Optional[int] = ..., max_target_length: _Optional[int] = ..., payloads: _Optional[_Iterable[_Union[PayloadOffer, _Mapping]]] = ..., batch_token_budget: _Optional[int] = ..., max_request_sequences: _Optional[int] = ..., max_request_tokens: _Optional[int] = ..., max_request_bytes: _Optional[int] = ..., max_unary_reply_bytes: _Optional[int] = ..., max_stream_reply_bytes: _Optional[int] = ..., hidden_size: _Optional[int] = ..., parameters: _Optional[int] = ..., artifacts: _Optional[_Iterable[_Union[ArtifactKind, str]]] = ...) -> None: ...

class GetArtifactRequest(_message.Message):
    __slots__ = ("expect", "kind")
    EXPECT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    expect: ModelExpectation
    kind: ArtifactKind
    def __init__(self, expect: _Optional[_Union[ModelExpectation, _Mapping]] = ..., kind: _Optional[_Union[ArtifactKind, str]] = ...) -> None: ...

class GetArtifactResponse(_message.Message):
    __slots__ = ("file_name", "file_bytes", "offset", "data", "file_sha256", "revision")
    FILE_NAME_FIELD_NUMBER: _ClassVar[int]
    FILE_BYTES_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    FILE_SHA256_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    file_name: str
    file_bytes: int
    offset: int
    data: bytes
    file_sha256: str
    revision: str
    def __init__(self, file_name: _Optional[str] = ..., file_bytes: _Optional[int] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ..., file_sha256: _Optional[str] = ..., revision: _Optional[str] = ...) -> None: ...

class ScoreSequence(_message.Message):
    __slots__ = ("source_ids", "target_ids", "candidate_ids")
    SOURCE_IDS_FIELD_NUMBER: _ClassVar[int]
    TARGET_IDS_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_IDS_FIELD_NUMBER: _ClassVar[int]
    source_ids: _containers.RepeatedScalarFieldContainer[int]
    target_ids: _containers.RepeatedScalarFieldContainer[int]
    candidate_ids: Tensor
    def __init__(self, source_ids: _Optional[_Iterable[int]] = ..., target_ids: _Optional[_Iterable[int]] = ..., candidate_ids: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class ScoreRequest(_message.Message):
    __slots__ = ("expect", "sequences", "payload", "temperature")
    EXPECT_FIELD_NUMBER: _ClassVar[int]
    SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    expect: ModelExpectation
    sequences: _containers.RepeatedCompositeFieldContainer[ScoreSequence]
    payload: PayloadSpec
    temperature: float
    def __init__(self, expect: _Optional[_Union[ModelExpectation, _Mapping]] = ..., sequences: _Optional[_Iterable[_Union[ScoreSequence, _Mapping]]] = ..., payload: _Optional[_Union[PayloadSpec, _Mapping]] = ..., temperature: _Optional[float] = ...) -> None: ...

class ScoreResponse(_message.Message):
    __slots__ = ("revision", "token_log_probs", "argmax", "top_k", "candidates", "hidden", "full", "timing")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    TOKEN_LOG_PROBS_FIELD_NUMBER: _ClassVar[int]
    ARGMAX_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_FIELD_NUMBER: _ClassVar[int]
    FULL_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    revision: str
    token_log_probs: Tensor
    argmax: ArgmaxPayload
    top_k: TopKPayload
    candidates: CandidatesPayload
    hidden: HiddenPayload
    full: FullPayload
    timing: ServerTiming
    def __init__(self, revision: _Optional[str] = ..., token_log_probs: _Optional[_Union[Tensor, _Mapping]] = ..., argmax: _Optional[_Union[ArgmaxPayload, _Mapping]] = ..., top_k: _Optional[_Union[TopKPayload, _Mapping]] = ..., candidates: _Optional[_Union[CandidatesPayload, _Mapping]] = ..., hidden: _Optional[_Union[HiddenPayload, _Mapping]] = ..., full: _Optional[_Union[FullPayload, _Mapping]] = ..., timing: _Optional[_Union[ServerTiming, _Mapping]] = ...) -> None: ...

class ArgmaxPayload(_message.Message):
    __slots__ = ("ids", "log_probs")
    IDS_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBS_FIELD_NUMBER: _ClassVar[int]
    ids: Tensor
    log_probs: Tensor
    def __init__(self, ids: _Optional[_Union[Tensor, _Mapping]] = ..., log_probs: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class TopKPayload(_message.Message):
    __slots__ = ("ids", "log_probs", "tail_log_mass")
    IDS_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBS_FIELD_NUMBER: _ClassVar[int]
    TAIL_LOG_MASS_FIELD_NUMBER: _ClassVar[int]
    ids: Tensor
    log_probs: Tensor
    tail_log_mass: Tensor
    def __init__(self, ids: _Optional[_Union[Tensor, _Mapping]] = ..., log_probs: _Optional[_Union[Tensor, _Mapping]] = ..., tail_log_mass: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class CandidatesPayload(_message.Message):
    __slots__ = ("log_probs", "tail_log_mass")
    LOG_PROBS_FIELD_NUMBER: _ClassVar[int]
    TAIL_LOG_MASS_FIELD_NUMBER: _ClassVar[int]
    log_probs: Tensor
    tail_log_mass: Tensor
    def __init__(self, log_probs: _Optional[_Union[Tensor, _Mapping]] = ..., tail_log_mass: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class HiddenPayload(_message.Message):
    __slots__ = ("states",)
    STATES_FIELD_NUMBER: _ClassVar[int]
    states: Tensor
    def __init__(self, states: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class FullPayload(_message.Message):
    __slots__ = ("log_probs",)
    LOG_PROBS_FIELD_NUMBER: _ClassVar[int]
    log_probs: Tensor
    def __init__(self, log_probs: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class ServerTiming(_message.Message):
    __slots__ = ("queue_seconds", "compute_seconds")
    QUEUE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    queue_seconds: float
    compute_seconds: float
    def __init__(self, queue_seconds: _Optional[float] = ..., compute_seconds: _Optional[float] = ...) -> None: ...

class ScoreStreamRequest(_message.Message):
    __slots__ = ("request",)
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    request: ScoreRequest
    def __init__(self, request: _Optional[_Union[ScoreRequest, _Mapping]] = ...) -> None: ...

class ScoreStreamResponse(_message.Message):
    __slots__ = ("first_position", "total_positions", "scores")
    FIRST_POSITION_FIELD_NUMBER: _ClassVar[int]
    TOTAL_POSITIONS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    first_position: int
    total_positions: int
    scores: ScoreResponse
    def __init__(self, first_position: _Optional[int] = ..., total_positions: _Optional[int] = ..., scores: _Optional[_Union[ScoreResponse, _Mapping]] = ...) -> None: ...

class GenerateInput(_message.Message):
    __slots__ = ("source_ids", "prefix_ids", "key")
    SOURCE_IDS_FIELD_NUMBER: _ClassVar[int]
    PREFIX_IDS_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    source_ids: _containers.RepeatedScalarFieldContainer[int]
    prefix_ids: _containers.RepeatedScalarFieldContainer[int]
    key: int
    def __init__(self, source_ids: _Optional[_Iterable[int]] = ..., prefix_ids: _Optional[_Iterable[int]] = ..., key: _Optional[int] = ...) -> None: ...

class GreedySearch(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Sampling(_message.Message):
    __slots__ = ("top_k", "temperature", "seed")
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    top_k: int
    temperature: float
    seed: int
    def __init__(self, top_k: _Optional[int] = ..., temperature: _Optional[float] = ..., seed: _Optional[int] = ...) -> None: ...

class BeamSearch(_message.Message):
    __slots__ = ("size", "n_best", "length_penalty")
    SIZE_FIELD_NUMBER: _ClassVar[int]
    N_BEST_FIELD_NUMBER: _ClassVar[int]
    LENGTH_PENALTY_FIELD_NUMBER: _ClassVar[int]
    size: int
    n_best: int
    length_penalty: float
    def __init__(self, size: _Optional[int] = ..., n_best: _Optional[int] = ..., length_penalty: _Optional[float] = ...) -> None: ...

class LengthLimit(_message.Message):
    __slots__ = ("ratio", "offset", "cap")
    RATIO_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    CAP_FIELD_NUMBER: _ClassVar[int]
    ratio: float
    offset: int
    cap: int
    def __init__(self, ratio: _Optional[float] = ..., offset: _Optional[int] = ..., cap: _Optional[int] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("expect", "inputs", "greedy", "sampling", "beam", "limit")
    EXPECT_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    GREEDY_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    BEAM_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    expect: ModelExpectation
    inputs: _containers.RepeatedCompositeFieldContainer[GenerateInput]
    greedy: GreedySearch
    sampling: Sampling
    beam: BeamSearch
    limit: LengthLimit
    def __init__(self, expect: _Optional[_Union[ModelExpectation, _Mapping]] = ..., inputs: _Optional[_Iterable[_Union[GenerateInput, _Mapping]]] = ..., greedy: _Optional[_Union[GreedySearch, _Mapping]] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., beam: _Optional[_Union[BeamSearch, _Mapping]] = ..., limit: _Optional[_Union[LengthLimit, _Mapping]] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("revision", "outputs", "timing")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    revision: str
    outputs: _containers.RepeatedCompositeFieldContainer[GenerateOutput]
    timing: ServerTiming
    def __init__(self, revision: _Optional[str] = ..., outputs: _Optional[_Iterable[_Union[GenerateOutput, _Mapping]]] = ..., timing: _Optional[_Union[ServerTiming, _Mapping]] = ...) -> None: ...

class GenerateOutput(_message.Message):
    __slots__ = ("hypotheses",)
    HYPOTHESES_FIELD_NUMBER: _ClassVar[int]
    hypotheses: _containers.RepeatedCompositeFieldContainer[Hypothesis]
    def __init__(self, hypotheses: _Optional[_Iterable[_Union[Hypothesis, _Mapping]]] = ...) -> None: ...

class Hypothesis(_message.Message):
    __slots__ = ("ids", "log_prob", "finished")
    IDS_FIELD_NUMBER: _ClassVar[int]
    LOG_PROB_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    log_prob: float
    finished: bool
    def __init__(self, ids: _Optional[_Iterable[int]] = ..., log_prob: _Optional[float] = ..., finished: bool = ...) -> None: ...

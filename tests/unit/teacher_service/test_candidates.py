"""Candidates on their way from the caller's tables to checked ids."""

from __future__ import annotations

import numpy as np
import pytest

from protos.teacher.v1 import teacher_pb2 as pb
from teacher_service import codec
from teacher_service.candidate_validation import read_candidates
from teacher_service.candidates import pack_candidates
from teacher_service.errors import TeacherRefused
from teacher_service.refusals import InvalidRequest

SPEC = codec.CandidatesSpec()


def sequence(table, length: int | None = None, dtype: str = "u2", **change) -> pb.ScoreSequence:
    tensor = codec.encode_tensor(np.array(table, dtype))
    for name, value in change.items():
        if name == "shape":
            del tensor.shape[:]
            tensor.shape.extend(value)
        else:
            setattr(tensor, name, value)
    rows = len(table) if length is None else length
    return pb.ScoreSequence(source_ids=[5], target_ids=[6] * rows, candidate_ids=tensor)


# ------------------------------------------------------------------------------------- the client's


@pytest.mark.parametrize(("size", "name"), [(65536, "UINT16"), (65537, "UINT32")])
def test_tables_arrive_as_they_were_given_as_narrow_as_the_vocabulary_allows(size, name):
    given = [[[4, 5, 65535], [7, 0, 1]], np.zeros((0, 3)), [], np.array([[9, 8, 7]], ">i8")]
    packed = pack_candidates(SPEC, given, [2, 0, 0, 1], size)
    assert packed.k == 3
    assert {t.dtype for t in packed.tensors} == {pb.DataType.Value(f"DATA_TYPE_{name}")}
    assert packed.row_bytes == 3 * (2 if name == "UINT16" else 4)
    sequences = [
        pb.ScoreSequence(source_ids=[5], target_ids=[6] * length, candidate_ids=tensor)
        for length, tensor in zip([2, 0, 0, 1], packed.tensors, strict=True)
    ]
    tables, k = read_candidates(sequences, size)
    assert [t.tolist() for t in tables] == [[[4, 5, 65535], [7, 0, 1]], [], [], [[9, 8, 7]]]
    assert [t.shape for t in tables] == [(2, 3), (0, 3), (0, 3), (1, 3)]
    assert k == 3


def test_without_any_position_one_candidate_is_assumed():
    packed = pack_candidates(SPEC, [[], []], [0, 0], 40)
    assert [list(t.shape) for t in packed.tensors] == [[0, 1], [0, 1]]


@pytest.mark.parametrize("spec", [codec.ArgmaxSpec(), codec.TopKSpec(3), codec.HiddenSpec()])
def test_other_payloads_take_no_candidates(spec):
    assert pack_candidates(spec, None, [2], 40).tensors == ()
    with pytest.raises(TeacherRefused, match="only payload CANDIDATES takes them"):
        pack_candidates(spec, [[[4]] * 2], [2], 40)


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (None, "tables of ids for 2 targets, got none"),
        ([[[4, 5]]], "tables of ids for 2 targets, got 1"),
        ([[[4, 5]], [[4, 5]]], r"candidates\[1\] has shape \(1, 2\), expected \(2, K\)"),
        ([[4], [[4, 5]] * 2], r"candidates\[0\] has shape \(1,\), expected \(1, K\)"),
        ([[[4, 5]], [[4], [5, 6]]], r"candidates\[1\] is no table: its rows differ"),
        ([[[4, 5]], [[4, 5, 6]] * 2], r"candidates\[1\] has 3 ids a position, the first 2"),
        ([[[]], [[], []]], r"shape \(1, 0\), expected \(1, K\), K at least 1"),
        ([[[4, 40]], [[4, 5]] * 2], r"candidates\[0\] holds ids 4 .. 40, outside .* 0 .. 39"),
        ([[[4, 5]], [[4, -1]] * 2], r"candidates\[1\] holds ids -1 .. 4, outside"),
        ([[[4, 5]], [[4, 65540]] * 2], r"candidates\[1\] holds ids 4 .. 65540, outside"),
        ([[[4, 0.5]], [[4, 5]] * 2], r"candidates\[0\] holds float64, not integers"),
        ([[[4, 1 << 70]], [[4, 5]] * 2], r"candidates\[0\] holds object, not integers"),
    ],
)
def test_what_is_no_table_of_ids_is_refused_before_it_could_wrap_around(given, fault):
    with pytest.raises(TeacherRefused, match=fault):
        pack_candidates(SPEC, given, [1, 2], 40)


# ------------------------------------------------------------------------------------- the server's


@pytest.mark.parametrize("dtype", ["u2", "u4", "i4"])
def test_each_dtype_of_ids_is_read(dtype):
    tables, k = read_candidates([sequence([[4, 39], [0, 7]], dtype=dtype)], 40)
    assert (tables[0].tolist(), k) == ([[4, 39], [0, 7]], 2)


def test_sequences_may_differ_in_dtype():
    tables, _ = read_candidates([sequence([[4]], dtype=d) for d in ("u2", "u4", "i4")], 40)
    assert [t.tolist() for t in tables] == [[[4]]] * 3


def test_as_many_candidates_as_ids_are_the_whole_vocabulary():
    assert read_candidates([sequence([list(range(40))])], 40)[1] == 40


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        (pb.ScoreSequence(source_ids=[5]), "missing; payload CANDIDATES needs ids"),
        (sequence([[4, 5]], dtype="f4"), "dtype 2 is none of UINT16, UINT32, INT32"),
        (sequence([[4, 5]], shape=[2]), r"shape \[2\]"),
        (sequence([[4, 5]], length=2), r"shape \[1, 2\], expected \[2, K\]"),
        (sequence([[4, 5]], length=0), r"shape \[1, 2\], expected \[0, K\]"),
        (sequence([[4, 5]], shape=[1, 1, 2]), r"shape \[1, 1, 2\]"),
        (sequence([[]]), "K of 0 is outside 1 .. 40"),
        (sequence(np.zeros((0, 2)), shape=[0, 1 << 63]), "is outside 1 .. 40"),
        (sequence([list(range(41))]), "K of 41 is outside 1 .. 40"),
        (sequence([[4, 5, 6]]), r"K of 3 is not that of sequences\[0\], 2"),
        (sequence([[4, 5]], data=b"123"), "has 3 bytes, expected 4"),
        (sequence([[4, 5], [4, 40]]), "row 1 holds an id outside the vocabulary 0 .. 39"),
        (sequence([[4, 5], [-1, 4]], dtype="i4"), "row 1 holds an id outside"),
        (sequence([[4, 1 << 31]], dtype="u4"), "row 0 holds an id outside"),
        (sequence([[4, 5], [6, 5], [7, 7]]), "row 2 holds an id twice"),
    ],
)
def test_each_broken_rule_names_the_sequence(bad, fault):
    with pytest.raises(InvalidRequest, match=fault) as caught:
        read_candidates([sequence([[4, 5], [6, 7]]), bad, sequence([[4, 5]])], 40)
    assert caught.value.field == "sequences[1].candidate_ids"


def test_the_sequence_at_fault_is_found_behind_empty_ones():
    empty = sequence(np.zeros((0, 2)))
    with pytest.raises(InvalidRequest, match=r"\[3\].candidate_ids: row 0 holds an id twice"):
        read_candidates([empty, sequence([[4, 5]]), empty, sequence([[4, 4]]), empty], 40)

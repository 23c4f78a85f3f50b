"""Scores on disk: exact records, damage that is noticed, writers that end at any moment."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from protos.teacher.v1 import teacher_pb2 as pb
from teacher_service import codec
from teacher_service.content_key import ContentKeys
from teacher_service.errors import TeacherMismatch, TeacherRefused, TeacherStoreError
from teacher_service.payloads import TENSORS, Arrays, decoded_dtype, id_dtype, result_payload
from teacher_service.score_store import writer as writer_module
from teacher_service.score_store.files import ENTRY
from teacher_service.score_store.form import ScoreForm
from teacher_service.score_store.reader import ScoreStore
from teacher_service.score_store.stored_teacher import StoredTeacher
from teacher_service.score_store.writer import ScoreWriter

ROOT = Path(__file__).parents[3]
TOP = codec.TopKSpec(3)
PAYLOADS = [
    codec.ArgmaxSpec(),
    TOP,
    codec.TopKSpec(99, "float32"),
    codec.HiddenSpec(),
    codec.FullSpec("float32"),
]
LENGTHS = [3, 0, 5, 1]
SOURCES = [[7, 8, 1], [9, 1], [1], [5, 6, 7, 1]]
TARGETS = [[4, 5, 1], [], [4, 4, 4, 4, 1], [1]]


def model_info(vocabulary_size: int = 40, revision: str = "sha256:aa") -> codec.ModelInfo:
    message = pb.ModelInfo(
        name="a test's",
        revision=revision,
        vocabulary_size=vocabulary_size,
        fingerprint="sha256:ff",
        eos_id=1,
        start_ids=[2, 9],
        hidden_size=6,
        max_request_bytes=1 << 40,
    )
    return codec.decode_model_info(message)


def answer(form: ScoreForm, lengths: list[int], seed: int = 0) -> codec.ScoreResult:
    """Random numbers as a client decodes them: of the dtype that travelled."""
    draw = np.random.default_rng(seed)
    positions = sum(lengths)
    narrow = np.float16 if form.spec.dtype == pb.DATA_TYPE_FLOAT16 else np.float32
    arrays: Arrays = {}
    for name, row in form.rows.items():
        if name == "ids":
            found = draw.integers(0, form.info.vocabulary_size, (positions, *row))
        else:
            found = -draw.exponential(3, (positions, *row)).astype(narrow)
        arrays[name] = found.astype(decoded_dtype(name))
    if "tail_log_mass" in arrays:
        arrays["tail_log_mass"][:1] = -np.inf
    return codec.ScoreResult(
        np.array(lengths, np.int32),
        arrays["token_log_probs"],
        result_payload(form.spec.kind, arrays, form.rows),
        form.info.revision,
    )


def keys_of(form: ScoreForm) -> list[bytes]:
    return [form.keys().key(s, t) for s, t in zip(SOURCES, TARGETS, strict=True)]


def same(first: codec.ScoreResult, second: codec.ScoreResult) -> bool:
    """Bit by bit."""

    def parts(result: codec.ScoreResult) -> list[np.ndarray]:
        numbers = [result.lengths_B, result.token_log_probs_P, *vars(result.payload).values()]
        return [np.asarray(x) for x in numbers]

    pairs = list(zip(parts(first), parts(second), strict=True))
    return all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in pairs)


@pytest.fixture
def form() -> ScoreForm:
    return ScoreForm.of(model_info(), TOP, 1.0)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "scores"


@pytest.fixture
def whole(place: Path, form: ScoreForm) -> codec.ScoreResult:
    """The four pairs, written to ``place``."""
    result = answer(form, LENGTHS)
    with ScoreWriter(place, form, lambda: {"a/tokens": b"abc"}) as writer:
        writer.append(keys_of(form), result)
    return result


# ------------------------------------------------------------------------------- what comes back


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda p: f"{type(p).__name__}-{p.dtype}")
@pytest.mark.parametrize("vocabulary_size", [40, 70000])
def test_a_store_answers_bit_by_bit_what_the_teacher_said(place, payload, vocabulary_size):
    if vocabulary_size == 70000 and isinstance(payload, codec.FullSpec):
        vocabulary_size = 65537
    form = ScoreForm.of(model_info(vocabulary_size), payload, 0.7)
    said = answer(form, LENGTHS)
    with ScoreWriter(place, form, dict) as writer:
        writer.append(keys_of(form), said)
    teacher = StoredTeacher(place)
    assert same(teacher.score(SOURCES, TARGETS, payload, temperature=0.7), said)
    order = [2, 0, 2]
    part = teacher.score(
        [np.array(SOURCES[i], np.int32) for i in order],
        [np.array(TARGETS[i], np.uint16) for i in order],
        payload,
        temperature=np.float32(0.7),
    )
    assert part.lengths_B.tolist() == [5, 3, 5]
    begin = {0: 0, 2: 3}
    rows = np.concatenate([np.arange(begin[i], begin[i] + LENGTHS[i]) for i in order])
    assert np.array_equal(part.token_log_probs_P, said.token_log_probs_P[rows])
    assert len(teacher.score([], [], payload, temperature=0.7).token_log_probs_P) == 0


def test_a_record_is_the_tensors_as_they_travel(form):
    said = answer(form, [3])
    wire = {
        "token_log_probs": said.token_log_probs_P.astype("<f2"),
        "ids": said.payload.ids_PK.astype(id_dtype(40)),
        "log_probs": said.payload.log_probs_PK.astype("<f2"),
        "tail_log_mass": said.payload.tail_log_mass_P.astype("<f2"),
    }
    reply = codec.encode_scores(form.spec.kind, wire, "r")
    names = TENSORS[form.spec.kind][1]
    travelling = reply.token_log_probs.data + b"".join(
        getattr(reply.top_k, name).data for name in names
    )
    assert form.pack(said) == [travelling]
    assert len(travelling) == 3 * form.position_bytes == 3 * (2 + 3 * (2 + 2) + 2)


def test_keys_are_those_of_the_servers_cache(place, whole):
    keys = ContentKeys("sha256:aa", pb.PAYLOAD_KIND_TOP_K, pb.DATA_TYPE_FLOAT16, 3, 1.0)
    found = ScoreStore(place).find([keys.key(SOURCES[0], TARGETS[0]), keys.key([1], [1])])
    assert found[0] >= 0 and found[1] == -1


def test_what_a_store_was_made_of_survives(place, whole, form):
    read = ScoreForm.read(place)
    assert read.spec == form.spec and read.temperature == 1.0
    offers = {"top_k": ("float16",)}
    assert read.info == replace(form.info, payloads=offers, artifacts=("tokenizer",))
    teacher = StoredTeacher(place, expected_fingerprint="sha256:ff", expected_revision="sha256:aa")
    assert teacher.model_info() == read.info
    assert teacher.artifact() == {"a/tokens": b"abc"}
    with pytest.raises(TeacherRefused, match="output_projection"):
        teacher.artifact("output_projection")
    described = json.loads((place / "store.json").read_text())
    assert described["bytes_a_position"] == 16
    assert described["payload"] == {
        "kind": "PAYLOAD_KIND_TOP_K",
        "k": 3,
        "dtype": "DATA_TYPE_FLOAT16",
    }


def test_an_empty_store_has_nothing(place, form):
    ScoreWriter(place, form, dict).close()
    store = ScoreStore(place)
    assert len(store) == store.positions == 0
    assert store.find(keys_of(form)).tolist() == [-1] * 4 and store.find([]).tolist() == []


def test_many_keys_are_found_whatever_their_bytes(place, form):
    """Zeros at either end of a key, which a fixed-width string could lose."""
    draw = np.random.default_rng(1)
    keys = [draw.bytes(32) for _ in range(200)]
    keys += [keys[0][:31] + b"\0", b"\0" + keys[1][1:], b"\0" * 31 + b"\1", b"\1" + b"\0" * 31]
    with ScoreWriter(place, form, dict) as writer:
        writer.append(keys, answer(form, [1] * len(keys)))
    store = ScoreStore(place)
    places = store.find(keys)
    assert sorted(places.tolist()) == list(range(len(keys)))
    assert store.find([keys[0][:30] + b"\0\0", b"\0" * 32]).tolist() == [-1, -1]


# ------------------------------------------------------------------------------- writers that end


def test_a_later_writer_adds_files_of_its_own(place, whole, form):
    before = {file.name: file.read_bytes() for file in place.glob("0*")}
    more = answer(form, [2, 2], seed=1)
    with ScoreWriter(place, form, lambda: pytest.fail("the tokenizer is there")) as writer:
        writer.append([b"x" * 32, b"y" * 32], more)
    after = {file.name: file.read_bytes() for file in place.glob("0*")}
    assert sorted(after.keys() - before.keys()) == ["00001.index", "00001.records"]
    assert before.items() <= after.items()
    store = ScoreStore(place)
    assert len(store) == 6 and store.positions == 13
    found = store.read(int(store.find([b"y" * 32])[0]))
    assert np.array_equal(found["token_log_probs"], more.token_log_probs_P[2:])


def test_a_full_file_is_followed_by_another(place, form):
    with ScoreWriter(place, form, dict, file_bytes=40) as writer:
        for index in range(5):
            writer.append([bytes([65 + index]) * 32], answer(form, [2], index))
    sizes = [file.stat().st_size for file in sorted(place.glob("*.records"))]
    assert sizes == [64, 64, 32]
    assert np.all(ScoreStore(place).find([bytes([65 + i]) * 32 for i in range(5)]) >= 0)


@pytest.mark.parametrize("suffix", ["index", "records"])
def test_a_torn_end_costs_the_pairs_in_it_alone(place, whole, form, suffix):
    keys = keys_of(form)
    content = (place / f"00000.{suffix}").read_bytes()
    ends = np.cumsum([ENTRY.itemsize] * 4 if suffix == "index" else [16 * n for n in LENGTHS])
    for kept in range(len(content)):
        (place / f"00000.{suffix}").write_bytes(content[:kept])
        store = ScoreStore(place)
        found = store.find(keys)
        assert (found >= 0).tolist() == [end <= kept for end in ends], kept
        for index in np.flatnonzero(found >= 0):
            assert len(store.read(int(found[index]))["ids"]) == LENGTHS[index]
        store.close()


@pytest.mark.parametrize("suffix", ["index", "records"])
def test_no_damaged_byte_is_ever_answered_from(place, whole, form, suffix):
    file = place / f"00000.{suffix}"
    content = file.read_bytes()
    noticed = 0
    for at in range(len(content)):
        file.write_bytes(content[:at] + bytes([content[at] ^ 0x41]) + content[at + 1 :])
        teacher = StoredTeacher(place)
        for source, target in zip(SOURCES, TARGETS, strict=True):
            try:
                teacher.score([source], [target], TOP)
            except TeacherStoreError as error:
                assert "score-corpus" in str(error) and "\n" not in str(error)
                noticed += 1
        teacher.close()
    assert noticed == len(content)


def test_a_writer_killed_in_the_middle_leaves_what_it_finished(place, form):
    """SIGKILL halfway through an index entry, and in a second life halfway through a record."""
    code = """
import os, signal, sys
from pathlib import Path
from teacher_service.score_store import writer
from tests.unit.teacher_service.test_score_store import TOP, ScoreForm, answer, model_info
count, form = 0, ScoreForm.of(model_info(), TOP, 1.0)
def torn(descriptor, content):
    global count
    count += 1
    if count == int(sys.argv[2]):
        os.write(descriptor, content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    whole(descriptor, content)
with writer.ScoreWriter(Path(sys.argv[1]), form, dict) as open_writer:
    whole, writer._write = writer._write, torn
    for index in range(4):
        key = (sys.argv[3] + str(index)).encode() * 16
        open_writer.append([key], answer(form, [3], index))
"""
    for name, killed_at, kept in [("a", 6, 2), ("b", 3, 1)]:
        done = subprocess.run(
            [sys.executable, "-c", code, str(place), str(killed_at), name], cwd=ROOT, check=False
        )
        assert done.returncode == -signal.SIGKILL
        store = ScoreStore(place)
        keys = [f"{name}{index}".encode() * 16 for index in range(4)]
        assert (store.find(keys) >= 0).tolist() == [index < kept for index in range(4)]
        found = store.read(int(store.find(keys)[0]))
        assert np.array_equal(found["token_log_probs"], answer(form, [3], 0).token_log_probs_P)
    with ScoreWriter(place, form, dict) as writer:
        writer.append([b"c" * 32], answer(form, [3]))
    assert len(ScoreStore(place)) == 4


def test_a_full_disk_is_one_line_and_costs_no_finished_pair(place, whole, form, monkeypatch):
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with ScoreWriter(place, form, dict) as writer:
        monkeypatch.setattr(writer_module.os, "write", full)
        with pytest.raises(TeacherStoreError, match="No space left"):
            writer.append([b"x" * 32], answer(form, [2]))
    assert same(StoredTeacher(place).score(SOURCES, TARGETS, TOP), whole)


def test_a_store_that_cannot_be_begun_leaves_nothing(place, form):
    def away() -> dict[str, bytes]:
        raise TeacherRefused("no tokenizer")

    with pytest.raises(TeacherRefused):
        ScoreWriter(place, form, away)
    assert not place.exists()
    (place.parent / "file").parent.mkdir(parents=True)
    (place.parent / "file").touch()
    with pytest.raises(TeacherStoreError, match="cannot be written"):
        ScoreWriter(place.parent / "file" / "scores", form, dict)
    assert [file.name for file in place.parent.iterdir()] == ["file"]


def test_one_writer_at_a_time(place, whole, form):
    with (
        ScoreWriter(place, form, dict),
        pytest.raises(TeacherStoreError, match="another process writes"),
    ):
        ScoreWriter(place, form, dict)
    ScoreWriter(place, form, dict).close()


# ------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (ScoreForm.of(model_info(revision="sha256:bb"), TOP, 1.0), "sha256:bb answers"),
        (ScoreForm.of(model_info(), codec.TopKSpec(4), 1.0), "TOP_K 3 in float16.*not TOP_K 4"),
        (ScoreForm.of(model_info(), codec.TopKSpec(3, "float32"), 1.0), "not TOP_K 3 in float32"),
        (ScoreForm.of(model_info(), TOP, 2.0), "temperature 1, not TOP_K.*temperature 2"),
    ],
)
def test_a_store_takes_scores_of_one_form_alone(place, whole, other, message):
    with pytest.raises(TeacherStoreError, match=message):
        ScoreWriter(place, other, dict)


def test_a_writer_takes_scores_of_its_revision_alone(place, form):
    with (
        ScoreWriter(place, form, dict) as writer,
        pytest.raises(TeacherStoreError, match="sha256:zz"),
    ):
        writer.append([b"x" * 32], replace(answer(form, [2]), revision="sha256:zz"))


def test_candidates_of_the_callers_own_are_not_stored():
    with pytest.raises(TeacherStoreError, match="CANDIDATES"):
        ScoreForm.of(model_info(), codec.CandidatesSpec(), 1.0)


@pytest.mark.parametrize(
    ("payload", "temperature", "message"),
    [
        (codec.TopKSpec(2), 1.0, "holds TOP_K 3 .* and TOP_K 2"),
        (codec.ArgmaxSpec(), 1.0, "ARGMAX in float16"),
        (codec.TopKSpec(3, "float32"), 1.0, "TOP_K 3 in float32"),
        (TOP, 1.1, "at temperature 1.1"),
    ],
)
def test_another_question_is_refused(place, whole, payload, temperature, message):
    with pytest.raises(TeacherMismatch, match=message):
        StoredTeacher(place).score(SOURCES, TARGETS, payload, temperature=temperature)


def test_more_candidates_than_the_vocabulary_has_are_all_of_it(place):
    form = ScoreForm.of(model_info(), codec.TopKSpec(64), 1.0)
    with ScoreWriter(place, form, dict) as writer:
        writer.append(keys_of(form), answer(form, LENGTHS))
    assert len(StoredTeacher(place).score(SOURCES, TARGETS, codec.TopKSpec(50)).lengths_B) == 4


def test_a_missing_pair_is_counted_with_the_remedy(place, whole):
    with pytest.raises(TeacherStoreError, match=r"lacks 1 of 2 pairs.*score-corpus"):
        StoredTeacher(place).score([SOURCES[0], [8, 1]], [TARGETS[0], [1]], TOP)


@pytest.mark.parametrize("what", ["fingerprint", "revision"])
def test_another_teachers_scores_are_refused(place, whole, what):
    with pytest.raises(TeacherMismatch, match=f"of {what} sha256:.*expected is sha256:other"):
        StoredTeacher(place, **{f"expected_{what}": "sha256:other"})


def test_what_is_no_store_is_said_to_be_none(tmp_path):
    with pytest.raises(TeacherStoreError, match="is not a score store"):
        StoredTeacher(tmp_path)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(TeacherStoreError, match="is not a score store"):
        ScoreWriter(tmp_path, ScoreForm.of(model_info(), TOP, 1.0), dict)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "imitkd-scores/2"},
        {"teacher": {"revision": 7}},
        {"teacher": {"unheard_of": 1}},
        {"teacher": "x"},
        {"payload": {"kind": "PAYLOAD_KIND_CANDIDATES", "dtype": "DATA_TYPE_FLOAT16"}},
        {"payload": {"kind": "PAYLOAD_KIND_UNSPECIFIED", "dtype": "DATA_TYPE_FLOAT16"}},
        {"payload": {"kind": "PAYLOAD_KIND_TOP_K", "k": 3, "dtype": "DATA_TYPE_INT32"}},
        {"payload": {}},
        {"temperature": "warm"},
        {"bytes_a_position": 17},
        {"bytes_a_position": None},
    ],
)
def test_a_damaged_description_is_one_line(place, whole, change):
    file = place / "store.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(TeacherStoreError) as caught:
        StoredTeacher(place)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\xff", '{"format": "imitkd-scores/1"}'])
def test_a_description_that_is_none_is_one_line(place, whole, text):
    (place / "store.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(TeacherStoreError, match="damaged"):
        StoredTeacher(place)


def test_records_that_are_gone_are_told(place, whole):
    (place / "00000.records").unlink()
    with pytest.raises(TeacherStoreError, match=r"00000\.records.*No such file"):
        StoredTeacher(place)


def test_a_store_whose_tokenizer_is_gone_still_scores(place, whole):
    shutil.rmtree(place / "tokenizer")
    teacher = StoredTeacher(place)
    assert same(teacher.score(SOURCES, TARGETS, TOP), whole)
    with pytest.raises(TeacherStoreError, match=r"vocabulary\.from"):
        teacher.artifact()

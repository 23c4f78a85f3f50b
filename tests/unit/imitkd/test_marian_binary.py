"""Marian's files: what is in them comes out, and nothing that is damaged gets through."""

from __future__ import annotations

import random
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from imitkd.importing.marian_binary import is_binary_model, read_binary
from imitkd.importing.marian_npz import read_npz
from imitkd.importing.marian_options import OPTIONS_ITEM, read_options
from seq2seq.errors import UserError
from tests import marian

OPTIONS = marian.TINY | marian.SSRU | {"enc-depth": 1, "dec-depth": 1}
ITEMS = marian.random_items(OPTIONS, 7)


def saved(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    return path


def test_float32_comes_out_as_it_went_in(tmp_path: Path) -> None:
    found = read_binary(saved(tmp_path, marian.binary(ITEMS, OPTIONS, int8=False)))
    assert read_options(found, "it") == OPTIONS
    assert found.keys() == {*ITEMS, OPTIONS_ITEM}
    for name, array in ITEMS.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], array)


def test_int8_comes_out_multiplied_and_turned(tmp_path: Path) -> None:
    found = read_binary(saved(tmp_path, marian.binary(ITEMS, OPTIONS, int8=True)))
    for name, array in marian.dequantised(ITEMS).items():
        assert found[name].shape == array.shape
        np.testing.assert_allclose(found[name], array, rtol=1e-6)
    step = np.abs(ITEMS["encoder_l1_ffn_W1"]).max() / 127
    error = np.abs(found["encoder_l1_ffn_W1"] - ITEMS["encoder_l1_ffn_W1"]).max()
    assert 0 < error <= step / 2 * 1.001


def test_npz_comes_out_as_it_went_in(tmp_path: Path) -> None:
    found = read_npz(marian.write_npz(tmp_path / "model.npz", ITEMS, OPTIONS))
    assert read_options(found, "it") == OPTIONS
    for name, array in ITEMS.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_short_list_is_no_model(tmp_path: Path) -> None:
    model = saved(tmp_path, marian.binary(ITEMS, OPTIONS, int8=True))
    short_list = tmp_path / "lex.bin"
    short_list.write_bytes(struct.pack("<6Q", 0xF11A48D5013417F5, 0, 50, 50, 8, 0))
    assert is_binary_model(model) and not is_binary_model(short_list)
    with pytest.raises(UserError, match=r"is no Marian model \(binary version"):
        read_binary(short_list)


def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    content = marian.binary(ITEMS, OPTIONS, int8=True)
    cuts = [*range(0, 4000, 37), *range(4000, len(content), 997), len(content) - 1]
    for cut in cuts:
        with pytest.raises(UserError, match="is no whole Marian model") as caught:
            read_binary(saved(tmp_path, content[:cut]))
        assert "\n" not in str(caught.value)


def test_any_damage_is_refused_or_harmless(tmp_path: Path) -> None:
    """Bytes of the headers changed at random, large and negative numbers among them."""
    content = marian.binary(ITEMS, OPTIONS, int8=True)
    rng, refused = random.Random(5), 0
    for _ in range(250):
        broken = bytearray(content)
        place = rng.randrange(0, 4000)
        width = rng.choice([1, 4, 8])
        broken[place : place + width] = rng.choice([b"\xff" * width, rng.randbytes(width)])
        try:
            read_binary(saved(tmp_path, bytes(broken)))
        except UserError:
            refused += 1
    assert refused > 120


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, 2, "binary version 2, expected 1"),
        (8, 1 << 62, "headers of 4611686018427387904 items need"),
        (16, 1 << 62, "a name need"),
        (16, 0, "an item has no name"),
        (24, 0x1811, "is of type 0x1811, packed for one processor"),
        (32, 0, "has 0 dimensions"),
        (32, 99, "has 99 dimensions"),
        (40, 1 << 62, "the data of Wemb need"),
        (40, 8, "Wemb has 8 bytes for int8 of shape"),
    ],
)
def test_a_lie_in_the_headers_is_named(
    tmp_path: Path, place: int, value: int, message: str
) -> None:
    content = bytearray(marian.binary(ITEMS, OPTIONS, int8=True))
    content[place : place + 8] = struct.pack("<Q", value)
    with pytest.raises(UserError, match=message):
        read_binary(saved(tmp_path, bytes(content)))


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf")])
def test_a_factor_that_is_none_is_refused(tmp_path: Path, factor: float) -> None:
    content = marian.binary({"Wemb": ITEMS["Wemb"]}, OPTIONS, int8=True)
    good = struct.pack("<f", 127.0 / float(np.abs(ITEMS["Wemb"]).max()))
    assert content.count(good) == 1
    with pytest.raises(UserError, match="Wemb was multiplied by"):
        read_binary(saved(tmp_path, content.replace(good, struct.pack("<f", factor))))


def test_two_items_of_one_name_are_refused(tmp_path: Path) -> None:
    content = marian.binary(ITEMS, OPTIONS, int8=False)
    doubled = content.replace(b"encoder_l1_self_bk\0", b"encoder_l1_self_bq\0")
    with pytest.raises(UserError, match="two items have one name"):
        read_binary(saved(tmp_path, doubled))


@pytest.mark.parametrize("content", [b"", b"PK\3\4 and then nothing", b"\x93NUMPY no zip"])
def test_what_is_no_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is no whole Marian model"):
        read_npz(path)


def test_an_npz_with_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    np.savez(path, Wemb=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError, match=r"is no whole Marian model .*allow_pickle"):
        read_npz(path)


def test_an_npz_that_claims_more_than_there_is_is_refused(tmp_path: Path) -> None:
    path = marian.write_npz(tmp_path / "model.npz", {"Wemb": np.zeros((2, 2), np.float32)}, OPTIONS)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    stated, lie = b"(2, 2), }", b"(2000000, 2000000), }"
    stated += b" " * (len(lie) - len(stated))
    assert stated in entries["Wemb.npy"]
    entries["Wemb.npy"] = entries["Wemb.npy"].replace(stated, lie)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    with pytest.raises(UserError, match="is no whole Marian model"):
        read_npz(path)


def test_an_npz_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    np.savez_compressed(path, Wemb=np.zeros((1000, 1000), np.float32))
    with pytest.raises(UserError, match="it would unpack to 4000128 bytes"):
        read_npz(path)


def test_an_npz_of_other_values_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    np.savez(path, Wemb=np.zeros((2, 2), np.int64))
    with pytest.raises(UserError, match="Wemb holds int64, not floating-point numbers"):
        read_npz(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "has no special:model.yml"),
        (b"a: [", "special:model.yml is not readable"),
        (b"- a", "special:model.yml is not readable .no mapping"),
        (b"a: \xff", "special:model.yml is not readable"),
        (b"!!python/object/apply:os.getcwd []", "special:model.yml is not readable"),
        (b"[" * 700, "special:model.yml is not readable"),
        (b"#" * 70000, "special:model.yml is not readable .it has 70000 bytes"),
    ],
)
def test_options_that_cannot_be_read_are_refused(text: bytes | None, message: str) -> None:
    items = {} if text is None else {OPTIONS_ITEM: np.frombuffer(text, np.int8)}
    with pytest.raises(UserError, match=message) as caught:
        read_options(items, "it")
    assert "\n" not in str(caught.value)

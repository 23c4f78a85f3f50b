"""An imported model computes what Marian computes, and what ours cannot be is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from imitkd.importing.marian import import_marian, read_marian
from imitkd.importing.marian_files import MarianFiles, find_files
from imitkd.importing.marian_options import model_section
from imitkd.importing.marian_vocabulary import read_table
from imitkd.importing.marian_weights import NEVER
from seq2seq.batch import decoder_inputs, pad_sequences
from seq2seq.checkpoint import load_model_directory
from seq2seq.decoding import Beam, Greedy, LengthLimit, generate
from seq2seq.encoder_decoder import EncoderDecoder
from seq2seq.errors import UserError
from seq2seq.transformer import sinusoidal_positions
from tests import marian

PIECES = 48
FORMS = [
    pytest.param(marian.TINY | marian.SSRU, id="ssru"),
    pytest.param(marian.TINY | marian.SSRU | marian.SWISH, id="ssru-swish"),
    pytest.param(marian.TINY, id="attention"),
    pytest.param(marian.TINY | marian.SWISH | marian.PRE_NORM, id="attention-swish-pre-norm"),
]
SSRU = marian.TINY | marian.SSRU
PAIRS = [([7, 20, 3, 0], [9, 4, 31, 0]), ([5, 0], [12, 8]), ([40, 41, 6, 6, 9, 0], [])]


def saved(
    folder: Path, options: dict[str, Any], form: str = "npz", **changes: np.ndarray | None
) -> MarianFiles:
    """A model with its vocabulary; ``changes`` are parameters replaced, or left out for None."""
    items = marian.random_items(options, PIECES) | changes
    items = {name: array for name, array in items.items() if array is not None}
    folder.mkdir(exist_ok=True)
    if form == "npz":
        model = marian.write_npz(folder / "model.npz", items, options)
    else:
        model = folder / "model.bin"
        model.write_bytes(marian.binary(items, options, int8=form == "int8"))
    (folder / "vocab.spm").write_bytes(marian.sentencepiece_model(PIECES))
    return MarianFiles(model, folder / "vocab.spm")


@pytest.mark.parametrize("form", ["npz", "float32", "int8"])
@pytest.mark.parametrize("options", FORMS)
def test_computes_what_marian_computes(tmp_path: Path, options: dict[str, Any], form: str) -> None:
    model = read_marian(saved(tmp_path, options, form), 64).model
    items = marian.random_items(options, PIECES)
    oracle = marian.NaiveMarian(marian.dequantised(items) if form == "int8" else items, options)
    assert model.config.kind == ("recurrent" if "dec-cell" in options else "transformer")
    for source, target in PAIRS:
        expected = torch.from_numpy(oracle.logits(source, target)).float()
        target_BT, _ = pad_sequences([[*target, 1]], model.config.pad_id)
        inputs = decoder_inputs(target_BT, model.config.start_id)
        with torch.no_grad():
            found = model(*pad_sequences([source], model.config.pad_id), inputs)[0]
        torch.testing.assert_close(found[:, :PIECES], expected, atol=3e-4, rtol=1e-4)
        assert (found[:, PIECES:] == NEVER).all()


@pytest.mark.parametrize("options", FORMS[2:])
def test_ctranslate2_reads_the_same_model_in_the_same_file(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    """An engine not written here; of SSRU decoders it knows nothing.

    It takes the paper's positions for those of Marian, so for once ours do as well.
    """
    ctranslate2 = pytest.importorskip("ctranslate2")
    options = options | {"transformer-no-projection": False, "dim-emb": 16}
    options |= {"transformer-guided-alignment-layer": "last"}
    files = saved(tmp_path, options)
    tokens = ["</s>", "<unk>", *(f"w{i}" for i in range(2, PIECES))]
    table = tmp_path / "vocab.yml"
    table.write_text("".join(f'"{token}": {i}\n' for i, token in enumerate(tokens)))
    converter = ctranslate2.converters.MarianConverter(str(files.model), [str(table)] * 2)
    peer = ctranslate2.Translator(converter.convert(str(tmp_path / "peer")), intra_threads=1)
    model = read_marian(files, 64).model
    assert isinstance(model, EncoderDecoder) and model.config.positions == "tensor2tensor"
    model.positions = sinusoidal_positions(64, 16, "vaswani")
    for source, target in PAIRS:
        target = [*target, 0] if 0 not in target else target
        (scored,) = peer.score_batch(
            [[tokens[i] for i in source if i]], [[tokens[i] for i in target if i]]
        )
        inputs = torch.tensor([[model.config.start_id, *target[:-1]]])
        with torch.no_grad():
            log_probs = model(*pad_sequences([source], 0), inputs)[0].log_softmax(-1)
        ours = log_probs[torch.arange(len(target)), torch.tensor(target)]
        np.testing.assert_allclose(scored.log_probs, ours.numpy(), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("options", FORMS)
def test_greedy_writes_what_marian_would(tmp_path: Path, options: dict[str, Any]) -> None:
    model = read_marian(saved(tmp_path, options), 64).model
    oracle = marian.NaiveMarian(marian.random_items(options, PIECES), options)
    sources = [source for source, _ in PAIRS]
    found = generate(model, sources, Greedy(), limit=LengthLimit(0, 8, 8))
    for source, (hypothesis,) in zip(sources, found, strict=True):
        written: list[int] = []
        while len(written) < 8 and 0 not in written:
            written.append(int(oracle.logits(source, written)[-1].argmax()))
        assert hypothesis.ids == written


def test_a_directory_holds_the_model_and_its_vocabulary(tmp_path: Path) -> None:
    files = saved(tmp_path / "download", SSRU, "int8")
    made = import_marian(files, tmp_path / "out", name="tiny", max_length=64)
    found = load_model_directory(tmp_path / "out")
    assert found.name == "tiny" and found.vocabulary.fingerprint == made.vocabulary.fingerprint
    assert found.vocabulary.size == PIECES + 2 == found.model.config.vocab_size
    for name, tensor in found.model.state_dict().items():
        assert torch.equal(tensor, made.model.state_dict()[name].half().float()), name
    source = found.vocabulary.encode_source("abc de")
    assert source[-1] == 0 and found.vocabulary.decode(source) == "abc de"
    found_beam = generate(found.model, [source], Beam(3, 3), limit=LengthLimit(0, 6, 6))
    assert all(i < PIECES for h in found_beam[0] for i in h.ids)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "2 layers, SSRU" in card and "`model.bin`" in card and "v1.9.0 of a test" in card
    assert str(tmp_path) not in card


def test_what_lies_where_it_would_be_written_is_never_replaced(tmp_path: Path) -> None:
    """Not even the download itself, which is where an import is easily sent by mistake."""
    download = tmp_path / "download"
    files = saved(download, SSRU, "int8")
    before = {path.name: path.read_bytes() for path in download.iterdir()}
    for taken in (download, files.model):
        with pytest.raises(UserError, match=f"{taken} is there already; choose another --output"):
            import_marian(files, taken, name="tiny", max_length=64)
    assert {path.name: path.read_bytes() for path in download.iterdir()} == before
    (tmp_path / "empty").mkdir()
    import_marian(files, tmp_path / "empty", name="tiny", max_length=64)
    assert load_model_directory(tmp_path / "empty").name == "tiny"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "s2s"}, "it has type: 's2s', and only Transformers"),
        ({"transformer-decoder-autoreg": "average-attention"}, "only self-attention and SSRU"),
        (marian.SSRU | {"dec-cell": "gru"}, "dec-cell: 'gru', and no other recurrent cell"),
        (marian.SSRU | {"layer-normalization": True}, "layer-normalization: True"),
        ({"tied-embeddings-all": False}, "tied-embeddings-all: False, and our models have one"),
        ({"transformer-ffn-activation": "gelu"}, "transformer-ffn-activation: 'gelu'"),
        ({"transformer-train-position-embeddings": True}, "our positions are sinusoidal"),
        ({"transformer-tied-layers": [1, 1]}, "our layers have weights of their own"),
        ({"transformer-decoder-dim-ffn": 9}, "transformer-decoder-dim-ffn: 9, .* width is 12"),
        ({"lemma-dim-emb": 4}, "lemma-dim-emb: 4"),
        ({"dim-emb": "wide"}, "dim-emb: 'wide', and a positive number is expected"),
        ({"enc-depth": 0}, "enc-depth: 0"),
        ({"transformer-heads": True}, "transformer-heads: True"),
        ({"transformer-postprocess": "da"}, "transformer-postprocess: 'da'.* or 'n', 'da', 'n'"),
        (marian.SSRU | marian.PRE_NORM, "transformer-preprocess: 'n'.*known are '', 'dan', ''$"),
    ],
)
def test_what_ours_cannot_be_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        model_section(marian.TINY | change, "model.npz", 64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_l2_self_bq": None}, "has no parameter encoder_l2_self_bq"),
        ({"Wemb": None}, "has no embedding table Wemb"),
        ({"decoder_l1_rnn_bf": np.zeros((1, 9), np.float32)}, r"decoder_l1_rnn_bf is .*\(1, 9\)"),
        ({"encoder_l1_ffn_W2": np.full((12, 8), np.nan, np.float32)}, "W2 has values that are not"),
        (
            {"decoder_l1_rnn_Wp": np.zeros((8, 8), np.float32)},
            r"1 parameters .*\(decoder_l1_rnn_Wp",
        ),
        ({"Wemb": np.zeros((40, 8), np.float32)}, "vocab.spm has 48 pieces but .*model.npz 40"),
    ],
)
def test_parameters_that_do_not_fit_are_named(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read_marian(saved(tmp_path, SSRU, **changes), 64)


def test_a_table_with_two_cutters_is_a_vocabulary_too(tmp_path: Path) -> None:
    """As OPUS-MT has it: the ids of pieces are in a file of their own."""
    files = saved(tmp_path / "download", marian.TINY)
    folder = tmp_path / "download"
    table = marian.table_of(marian.sentencepiece_model(PIECES))
    (folder / "vocab.spm").unlink()
    (folder / "opus.vocab.yml").write_text(yaml.safe_dump(table, allow_unicode=True))
    for name in ("source.spm", "target.spm"):
        (folder / name).write_bytes(marian.sentencepiece_model(PIECES))
    decoder = {"models": ["model.npz"], "vocabs": ["opus.vocab.yml"] * 2, "beam-size": 6}
    (folder / "decoder.yml").write_text(yaml.safe_dump(decoder))
    found = find_files(folder)
    assert found.all() == [
        folder / n for n in ("model.npz", "opus.vocab.yml", "source.spm", "target.spm")
    ]
    assert found.model == files.model
    import_marian(found, tmp_path / "out", name="pair", max_length=64)
    vocabulary = load_model_directory(tmp_path / "out").vocabulary
    ids = vocabulary.encode_source("abc de")
    assert ids[-1] == table["</s>"] and vocabulary.decode(ids) == "abc de"
    assert [vocabulary.piece(i) for i in ids[:-1]] == [
        next(p for p, n in table.items() if n == i) for i in ids[:-1]
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a\n", "no mapping"),
        ("a: [", "is no table"),
        ("</s>: 0\n<unk>: 2\n", "its 2 pieces do not have the ids 0 to 1"),
        ("</s>: 0\nx: 1\n", "it has no <unk>"),
        ("</s>: 0\n<unk>: one\n", "is no table"),
        ("</s>: 0\n<unk>: [1]\n", "a mapping of pieces to numbers"),
        ("a: " + "[" * 200_000, "a mapping of pieces to numbers"),
        ("[" * 200_000, "no mapping"),
    ],
)
def test_a_broken_table_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "vocab.yml"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_table(path)


def test_pieces_that_yaml_takes_for_something_else_are_texts(tmp_path: Path) -> None:
    path = tmp_path / "vocab.yml"
    path.write_text('</s>: 0\n<unk>: 1\nno: 2\n~: 3\n1.5: 4\n"\\xe9": 5\n"\\"": 6\n')
    pieces = ["</s>", "<unk>", "no", "~", "1.5", "é", '"']
    assert list(read_table(path)) == pieces
    other = tmp_path / "vocab.json"
    other.write_text(json.dumps({piece: n for n, piece in enumerate([*pieces, "\U0001f600"])}))
    assert list(read_table(other)) == [*pieces, "\U0001f600"]


def test_the_files_of_a_directory_are_found_or_asked_for(tmp_path: Path) -> None:
    files = saved(tmp_path, SSRU, "int8")
    assert find_files(tmp_path) == files == find_files(files.model)
    (tmp_path / "lex.s2t.bin").write_bytes(b"\xf5\x17\x34\x01 a short-list")
    assert find_files(tmp_path) == files
    marian.write_npz(tmp_path / "other.npz", {}, SSRU)
    with pytest.raises(UserError, match=r"has 2 models \(model.bin, other.npz\); give the path"):
        find_files(tmp_path)
    assert find_files(files.model) == files
    (tmp_path / "second.spm").write_bytes(b"")
    with pytest.raises(UserError, match=r"has 2 vocabularies .*; give one with --vocab"):
        find_files(files.model)
    assert find_files(files.model, files.vocabulary) == files


@pytest.mark.parametrize(
    ("decoder", "message"),
    [
        ({"models": ["a.npz", "b.npz"], "vocabs": ["v.spm"]}, "2 models of one ensemble"),
        ({"models": ["a.npz"], "vocabs": ["v.spm", "w.spm"]}, "2 vocabularies .*for both sides"),
        ({"models": ["gone.npz"], "vocabs": ["v.spm"]}, "names gone.npz, which is not there"),
    ],
)
def test_a_decoder_configuration_is_believed(
    tmp_path: Path, decoder: dict[str, Any], message: str
) -> None:
    for name in ("a.npz", "b.npz", "v.spm", "w.spm"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "config.yml").write_text(json.dumps(decoder))
    with pytest.raises(UserError, match=message):
        find_files(tmp_path)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        find_files(tmp_path / "gone")
    with pytest.raises(UserError, match=r"has 0 models \(none\)"):
        find_files(tmp_path)
    files = saved(tmp_path, SSRU)
    with pytest.raises(UserError, match=r"gone.spm is no file"):
        find_files(files.model, tmp_path / "gone.spm")
    (tmp_path / "v.yml").write_text("</s>: 0\n")
    with pytest.raises(UserError, match=r"source.spm is not there; .*--source-spm"):
        find_files(files.model, tmp_path / "v.yml")
    with pytest.raises(UserError, match="leave --source-spm, --target-spm out"):
        find_files(files.model, files.vocabulary, files.vocabulary)
    with pytest.raises(UserError, match="is no vocabulary known here"):
        find_files(files.model, files.model)

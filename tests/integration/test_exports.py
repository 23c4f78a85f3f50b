"""Exports of every form, loaded by the real engines, from the command line to the text."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from imitkd import Translator
from imitkd.cli.main import main
from imitkd.engines.manifest import MANIFEST_FILE
from imitkd.export import forms
from imitkd.shipped import shipped
from seq2seq.checkpoint import load_model_directory, save_model_directory
from tests.builders import STACKED, tiny_model, tiny_text, tiny_vocabulary

NEEDS = {
    "ctranslate2": ["ctranslate2"],
    "huggingface": ["transformers", "tokenizers", "google.protobuf"],
    "onnx": ["onnx", "onnxruntime"],
}
TEXTS = [*tiny_text(40, seed=9), "a  b   c", " ab", "unseen Wörds!", "abc " * 60]
TRAINED = "teachers/ui-strings-en-de"
SENTENCES = (
    "Select the device you want to configure.\nTurn off\n"
    'The "{name}" integration (v2) is  not set up — retry?\nFailed to connect: 100% of ½ “ok”…\n'
    "Ünïcödé ﬁle\u00a0name\tand\u200btabs 日本語\n"
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random models by name."""
    root, vocabulary = tmp_path_factory.mktemp("models"), tiny_vocabulary()
    shapes: dict[str, dict[str, Any]] = {
        "pre": {},
        "post": {"norm": "post", "activation": "swish"},
        "ssru": {"kind": "recurrent", "cell": "ssru", "positions": "tensor2tensor"},
        "stacked": STACKED["stacked-sru"],
    }
    for name, shape in shapes.items():
        model = tiny_model(7, vocab_size=vocabulary.size, spread=0.4, **shape)
        save_model_directory(
            root / name, model, vocabulary, name=name, card="A test's.\n", dtype=torch.float32
        )
    return {name: root / name for name in shapes}


@pytest.fixture(scope="module")
def exported(
    models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Path]:
    """An export by form and model, made once and not to be changed."""
    root = tmp_path_factory.mktemp("exports")
    file = root / "sentences.txt"
    file.write_text("\n".join(TEXTS) + "\n")

    @cache
    def made(form: str, model: str) -> Path:
        need(form)
        out = root / f"{form}-{model}"
        imitkd("export", models[model], "--to", form, "--out", out, "--sentences", file)
        return out

    return made


@pytest.fixture
def sentences(tmp_path: Path) -> Path:
    path = tmp_path / "sentences.txt"
    path.write_text("\n".join(TEXTS) + "\n")
    return path


def imitkd(*arguments: object) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    assert not ended.value.code


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a command ends with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def need(form: str) -> None:
    for module in NEEDS[form]:
        pytest.importorskip(module)


@pytest.mark.parametrize(
    ("form", "model"),
    [
        ("ctranslate2", "pre"),
        ("ctranslate2", "post"),
        ("huggingface", "pre"),
        ("huggingface", "post"),
        ("onnx", "pre"),
        ("onnx", "ssru"),
        ("onnx", "stacked"),
    ],
)
def test_an_export_of_a_random_model_writes_what_its_source_writes(
    form: str, model: str, models: dict[str, Path], exported: Callable[[str, str], Path]
) -> None:
    out = exported(form, model)
    expected = Translator(models[model]).translate([*TEXTS, ""])
    assert len(set(expected)) > 10 and expected[-1] == ""
    assert Translator(out).translate([*TEXTS, ""]) == expected
    card = (out / "README.md").read_text()
    assert f"Greedy output on {len(TEXTS)} sentences (sentences.txt): all equal." in card
    assert load_model_directory(models[model]).revision in card and "> A test's." in card
    if model == "stacked":
        assert (
            "2 encoder layers of 7 in each direction and 2 decoder layers of 14, embeddings of 10"
            in card
        )
    else:
        assert "2 encoder and 2 decoder layers of 16" in card


@pytest.mark.parametrize("form", NEEDS)
def test_an_export_of_a_trained_model(form: str, tmp_path: Path) -> None:
    """With the real tokenizer, on texts that try its normalisation."""
    need(form)
    out, file = tmp_path / "export", tmp_path / "sentences.txt"
    file.write_text(SENTENCES)
    imitkd("export", shipped(TRAINED), "--to", form, "--out", out, "--sentences", file)
    texts = SENTENCES.splitlines()
    found = Translator(out).translate(texts)
    assert found == Translator(shipped(TRAINED)).translate(texts)
    assert found[0] == "Wähle das zu konfigurierenden Gerät aus."


def test_a_run_is_exported_with_its_history(
    plain_config: dict[str, Any], tiny_corpus: Path, tmp_path: Path
) -> None:
    """In int8: what differs and what it costs is in the card."""
    need("ctranslate2")
    config, run, out = tmp_path / "config.yaml", tmp_path / "run", tmp_path / "export"
    config.write_text(json.dumps(plain_config))
    imitkd("train", config, "--output", run)
    arguments = ["--to", "ctranslate2", "--out", out, "--quantization", "int8"]
    imitkd("export", run, *arguments, "--max-bleu-loss", 100, "--licence", "CC0-1.0")
    card = (out / "README.md").read_text()
    for part in ("**Method**: vanilla", "int8", "**Licence**: CC0-1.0", "8 sentences", "nrefs:1"):
        assert part in card, part
    assert tiny_corpus.name in card
    model = out / "model.bin"
    plain = tmp_path / "float32"
    imitkd("export", run, "--to", "ctranslate2", "--out", plain)
    assert model.stat().st_size < 0.6 * (plain / "model.bin").stat().st_size


@pytest.mark.parametrize("form", ["ctranslate2", "huggingface"])
def test_a_recurrent_decoder_is_refused_by_name(
    form: str, models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "export"
    line = refusal(capsys, "export", models["ssru"], "--to", form, "--out", out)
    assert f"{form} has no decoder with ssru cells" in line and line.endswith("--to onnx")
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--to", "tflite"], "unknown form 'tflite'"),
        (["--to", "ctranslate2", "--quantization", "int3"], "unknown quantisation 'int3'"),
        (["--to", "onnx", "--quantization", "int8"], "onnx is exported in float32 alone"),
        (["--to", "ctranslate2"], "give --corpus DIR or --sentences FILE"),
        (["--to", "ctranslate2", "--corpus", "nowhere"], "there is no corpus at nowhere"),
    ],
)
def test_a_wrong_command_is_told(
    arguments: list[str],
    fault: str,
    models: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "export"
    assert fault in refusal(capsys, "export", models["pre"], "--out", out, *arguments)
    assert not out.exists()


def test_what_is_no_export_is_not_replaced(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").touch()
    arguments = ["--to", "ctranslate2", "--out", tmp_path]
    assert "is no export" in refusal(capsys, "export", models["pre"], *arguments)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("form", NEEDS)
def test_a_mismatch_is_never_written(
    form: str,
    models: dict[str, Path],
    sentences: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One weight is written wrongly; an older export stays as it was."""
    need(form)
    out = tmp_path / "export"
    command = ["export", models["pre"], "--to", form, "--out", out, "--sentences", sentences]
    imitkd(*command)
    before = (out / MANIFEST_FILE).read_bytes()
    write = forms.write_files

    def spoil(source: Any, *rest: Any) -> None:
        bias = source.model.logit_bias
        held = bias.detach().clone()
        with torch.no_grad():
            bias[10:] += torch.linspace(-2, 2, len(bias) - 10)
        write(source, *rest)
        with torch.no_grad():
            bias.copy_(held)

    monkeypatch.setattr("imitkd.export.exporting.write_files", spoil)
    line = refusal(capsys, *command)
    assert "nothing was written: the export is not what its source is" in line
    assert (out / MANIFEST_FILE).read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"export", "sentences.txt"}


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        ("flip", "model.bin is not the file that was exported"),
        ("remove", "model.bin is missing; copy the export again"),
        ("tokenizer", "is not the file that was exported"),
        ("version", "is of version 99, this program reads 1"),
        ("manifest", "export.json is broken"),
    ],
)
def test_a_damaged_export_is_refused(
    damage: str,
    fault: str,
    exported: Callable[[str, str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "export"
    shutil.copytree(exported("ctranslate2", "pre"), out)
    model, manifest = out / "model.bin", out / MANIFEST_FILE
    if damage == "flip":
        content = bytearray(model.read_bytes())
        content[len(content) // 2] ^= 1
        model.write_bytes(content)
    elif damage == "remove":
        model.unlink()
    elif damage == "tokenizer":
        tiny_vocabulary(40).save(out / "tokenizer")
    elif damage == "version":
        values = json.loads(manifest.read_text()) | {"version": 99}
        manifest.write_text(json.dumps(values))
    else:
        manifest.write_text("{}")
    assert fault in refusal(capsys, "translate", out)


def test_files_are_translated_in_order(
    models: dict[str, Path], sentences: Path, tmp_path: Path
) -> None:
    """By a model of ours, named as an option; batches of few lines, blank ones among them."""
    lines = ["", *TEXTS[:11], "", TEXTS[11]]
    sentences.write_text("\n".join(lines) + "\n")
    output = tmp_path / "out.txt"
    arguments = ["--model", models["pre"], "--input", sentences, "--output", output, "--batch", 4]
    imitkd("translate", *arguments)
    assert output.read_text().splitlines() == Translator(models["pre"]).translate(lines)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ([], "name one model"),
        (["pre", "--model", "pre"], "name one model"),
        (["pre", "--input", "nowhere.txt"], "cannot read nowhere.txt"),
    ],
)
def test_a_wrong_translate_command_is_told(
    arguments: list[str],
    fault: str,
    models: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(models["pre"].parent)
    assert fault in refusal(capsys, "translate", *arguments)


def test_what_an_export_cannot_do_is_told(
    exported: Callable[[str, str], Path], sentences: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sentences.write_text("ab\n")
    command = ["translate", exported("onnx", "pre"), "--input", sentences]
    assert "decoded greedily" in refusal(capsys, *command, "--beam", 2)
    assert "runs on CPUs, not on 'cuda'" in refusal(capsys, *command, "--device", "cuda")


@pytest.mark.parametrize("form", ["ctranslate2", "onnx"])
def test_an_export_runs_without_torch(
    form: str, models: dict[str, Path], exported: Callable[[str, str], Path]
) -> None:
    out = exported(form, "pre")
    program = (
        "import sys\nsys.modules['torch'] = None\nfrom imitkd import Translator\n"
        f"print(*Translator({str(out)!r}).translate({TEXTS[:3]!r}), sep='\\n')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == Translator(models["pre"]).translate(TEXTS[:3])

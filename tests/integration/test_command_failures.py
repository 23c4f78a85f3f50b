"""What a user can get wrong: one clear line, a non-zero exit, nothing half-written.

Most commands run in this process, which is where their time is; those whose surroundings matter
(a limit on file sizes, a missing package, another entry point) run as processes of their own.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from imitkd import asking
from imitkd.cli.main import main
from seq2seq.checkpoint import load_model_directory
from seq2seq.corpus import read_split
from seq2seq.errors import UserError
from student_trainer.config import make_config
from student_trainer.learner import Learner
from student_trainer.run_lock import HOLDER_FILE
from student_trainer.training import train
from teacher_service.local_model import LocalModel, load_local_model
from teacher_service.server import ServerThread
from tests.unit.teacher_service.support import save_tiny_teacher, tiny_config

ROOT = Path(__file__).resolve().parents[2]
Config = dict[str, Any]


class Commands:
    """Runs ``imitkd`` here or as a process; keeps to what a user sees of a failure."""

    def __init__(self, capture: pytest.CaptureFixture[str], directory: Path) -> None:
        self._capture, self._directory = capture, directory

    def fails(self, *arguments: object) -> str:
        """The one line on standard error of a command that must fail."""
        self._capture.readouterr()
        code = self._exit_code(arguments)
        out, err = self._capture.readouterr()
        return _one_line(code, out, err)

    def works(self, *arguments: object) -> tuple[str, str]:
        """Standard output and standard error of a command that must not fail."""
        self._capture.readouterr()
        code = self._exit_code(arguments)
        out, err = self._capture.readouterr()
        assert code in (0, None), err
        return out, err

    def process_fails(
        self, command: Sequence[object], *, python_path: Sequence[Path] = (), blocks: int = 0
    ) -> str:
        """The same of ``python -m ...``, with files of at most so many blocks of 512 bytes."""
        paths = os.pathsep.join(map(str, [*python_path, ROOT]))
        full = [sys.executable, "-m", *map(str, command)]
        if blocks:
            full = ["sh", "-c", f'ulimit -f {blocks} && exec "$@"', "sh", *full]
        done = subprocess.run(
            full,
            cwd=self._directory,
            env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=240,
        )
        return _one_line(done.returncode, done.stdout, done.stderr)

    def _exit_code(self, arguments: Sequence[object]) -> Any:
        with pytest.raises(SystemExit) as caught:
            main([str(a) for a in arguments])
        return caught.value.code


def _one_line(code: Any, out: str, err: str) -> str:
    assert code == 2
    assert "Traceback" not in out + err
    lines = err.splitlines()
    assert len(lines) == 1, err
    prefix, _, message = lines[0].partition(": ")
    assert prefix in ("imitkd", "error")
    return message


@pytest.fixture
def imitkd(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Commands:
    """``imitkd`` in an empty directory."""
    monkeypatch.chdir(tmp_path)
    return Commands(capfd, tmp_path)


@pytest.fixture(scope="module")
def address(tiny_teacher: Path) -> Iterator[str]:
    """A serving teacher of the runs' vocabulary."""
    with ServerThread(tiny_config(tiny_teacher, batch_tokens=1024)) as server:
        yield server.address


@pytest.fixture
def distil(plain_config: Config, address: str) -> Config:
    """A configuration whose rows are all scored by the teacher."""
    settings = {"address": address, "timeout_s": 10.0}
    return plain_config | {"method": "imitkd-full", "teacher": settings}


def write(config: Config, name: str = "config.yaml") -> str:
    """The configuration as a file in the working directory."""
    Path(name).write_text(yaml.safe_dump(config))
    return name


def everything(directory: Path) -> dict[str, bytes]:
    """All files below a directory with their content, but for who looked at a run last."""
    found = sorted(p for p in directory.rglob("*") if p.is_file() and p.name != HOLDER_FILE)
    return {str(p.relative_to(directory)): p.read_bytes() for p in found}


# --- text


@pytest.mark.parametrize(
    ("english", "german", "fault"),
    [
        (b"", b"ein\n", "'text.en' is empty; give a file with at least one line"),
        (b"a\nb\n", b"ein\n", "'text.en' has 2 lines and 'text.de' has 1; line n of one must"),
        (b"a\n\xff\n", b"ein\nzwei\n", "'text.en' line 2 is not UTF-8 (byte 0xff at byte 1"),
        (None, b"ein\n", "'text.en' does not exist; check the path"),
    ],
    ids=["empty", "unequal", "not UTF-8", "absent"],
)
def test_faulty_text_files(
    imitkd: Commands, english: bytes | None, german: bytes, fault: str
) -> None:
    for name, content in {"text.en": english, "text.de": german}.items():
        if content is not None:
            Path(name).write_bytes(content)
    command = ["data", "prepare", "mine", "--source-file", "text.en", "--target-file", "text.de"]
    assert fault in imitkd.fails(*command)
    assert not list(Path("data").rglob("*"))


def test_a_fault_ends_the_process_with_one_line(imitkd: Commands) -> None:
    Path("empty.tsv").touch()
    line = imitkd.process_fails(["imitkd", "data", "prepare", "mine", "--file", "empty.tsv"])
    assert line == "'empty.tsv' is empty; give a file with at least one line"


def feed(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Let a command in this process read ``content`` from standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_translate_refuses_a_line_that_is_not_utf8(
    imitkd: Commands, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed(monkeypatch, b"abc\nd\xe4\n")
    assert imitkd.fails("translate", tiny_teacher).startswith("line 2 is not UTF-8")


def test_translate_cuts_an_over_long_line_and_says_so(
    imitkd: Commands, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed(monkeypatch, b"ab\n" + b"ab " * 200 + b"\ncd\n")
    out, err = imitkd.works("translate", tiny_teacher)
    assert len(out.splitlines()) == 3
    (line,) = err.splitlines()
    assert line.startswith("imitkd: line 2 has ") and "more than the model's 128" in line


def test_teacher_score_refuses_what_no_terminal_ought_to_give(
    imitkd: Commands, address: str
) -> None:
    for flags in (
        ["--source", "a\udcff", "--target", "b"],
        ["--source", "a", "--target", "\udcff"],
    ):
        line = imitkd.fails("teacher", "score", "--address", address, *flags)
        assert "is not UTF-8 (surrogates not allowed); convert it" in line


def test_teacher_score_refuses_an_over_long_sentence(imitkd: Commands, address: str) -> None:
    texts = ["--source", "ab " * 200, "--target", "ab"]
    line = imitkd.fails("teacher", "score", *texts, "--address", address)
    assert "sequences[0].source_ids" in line
    assert "ids are more than the model's limit of 128; cut the sequence" in line


# --- configuration


@pytest.mark.parametrize(
    ("changes", "overrides", "fault"),
    [
        ({"stepz": 3}, [], "config.yaml: unknown key 'stepz'"),
        ({}, ["optimiser.stepz=3"], "unknown key 'optimiser.stepz'"),
        ({}, ["model.widht=3"], "unknown key 'widht'"),
        ({}, ["model.kind=lstm"], "unknown model kind 'lstm'"),
        ({}, ["optimiser.steps"], "override 'optimiser.steps' is not of the form key=value"),
        ({}, ["name.first=x"], "override 'name.first=x': 'name' is a value, not a section"),
        ({}, ["seed=[1"], "override 'seed=[1': the value is not valid YAML"),
        ({}, ["seed=-1"], "seed: Input should be greater than or equal to 0 (given -1)"),
        ({}, ["method=imitkd"], "method imitkd needs a 'teacher' section"),
        ({}, ["corpus.path=nowhere"], "nowhere/train.jsonl does not exist (splits there: none)"),
        ({}, ["vocabulary.from=nowhere"], "no tokenizer at nowhere/tokenizer"),
        ({}, ["device=quantum"], "device 'quantum' is not usable"),
    ],
)
def test_faulty_configurations(
    imitkd: Commands, plain_config: Config, changes: Config, overrides: list[str], fault: str
) -> None:
    config = write(plain_config | changes)
    assert fault in imitkd.fails("train", config, *overrides, "--output", "run")
    assert os.listdir() == ["config.yaml"]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"name: [unclosed\n", "config.yaml is not valid YAML: while parsing a flow sequence"),
        (b"name: \xff\n", "cannot read configuration config.yaml: "),
        (b"- a\n- b\n", "config.yaml holds no configuration: a mapping of sections is expected"),
        (None, "cannot read configuration config.yaml: No such file or directory"),
    ],
    ids=["broken", "not UTF-8", "a list", "absent"],
)
def test_faulty_configuration_files(imitkd: Commands, content: bytes | None, fault: str) -> None:
    if content is not None:
        Path("config.yaml").write_bytes(content)
    assert fault in imitkd.fails("train", "config.yaml", "--output", "run")
    assert not Path("run").exists()


def test_the_trainers_own_entry_point_says_it_too(imitkd: Commands, plain_config: Config) -> None:
    config = write(plain_config)
    line = imitkd.process_fails(["student_trainer", config, "stepz=3", "--output", "run"])
    assert line.startswith("config.yaml: unknown key 'stepz'")
    assert not Path("run").exists()


def test_ray_that_cannot_be_imported(imitkd: Commands, plain_config: Config) -> None:
    stub = Path("without/ray")
    stub.mkdir(parents=True)
    (stub / "__init__.py").write_text("raise ImportError('Ray is not here')\n")
    command = ["imitkd", "train", write(plain_config), "--runtime", "ray", "--output", "run"]
    line = imitkd.process_fails(command, python_path=[Path.cwd() / "without"])
    assert line == (
        "runtime ray needs Ray (Ray is not here); pip install 'imitkd[trainer]' or use "
        "--runtime inline"
    )
    assert not Path("run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="the fault is a missing GPU")
@pytest.mark.parametrize("command", ["train", "evaluate", "translate", "serve"])
def test_cuda_where_there_is_none(
    imitkd: Commands, plain_config: Config, tiny_teacher: Path, tiny_corpus: Path, command: str
) -> None:
    arguments = {
        "train": ["train", write(plain_config), "device=cuda", "--output", "run"],
        "evaluate": ["evaluate", tiny_teacher, tiny_corpus, "--device", "cuda"],
        "translate": ["translate", tiny_teacher, "--device", "cuda"],
        "serve": ["teacher", "serve", tiny_teacher, "--address", "127.0.0.1:0", "--device", "cuda"],
    }[command]
    line = imitkd.fails(*arguments)
    assert "device 'cuda' is not usable" in line and line.endswith("cpu")
    assert not Path("run").exists()


def test_validation_without_references(
    imitkd: Commands, plain_config: Config, tiny_corpus: Path
) -> None:
    shutil.copytree(tiny_corpus, "corpus")
    Path("corpus/validation.jsonl").write_text('{"source": "ab", "references": []}\n')
    line = imitkd.fails("train", write(plain_config), "corpus.path=corpus", "--output", "run")
    assert "corpus validation has 1 sentences without references" in line
    assert not Path("run").exists()


def test_training_sentences_that_are_too_long_are_counted(
    plain_config: Config,
    tiny_corpus: Path,
    tiny_teacher: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shorter = {"model": plain_config["model"] | {"max_source_length": 12}}
    vocabulary = load_model_directory(tiny_teacher).vocabulary
    sources = [e.source for e in read_split(tiny_corpus, "train")]
    long = sum(len(vocabulary.encode_source(s)) > 12 for s in sources)
    assert long > 0
    for name, changes, expected in [("all", {}, 0), ("some", shorter, long)]:
        caplog.clear()
        path = tmp_path / name
        train(make_config(plain_config | {"optimiser": {"steps": 1, "warmup": 0}} | changes), path)
        summary = json.loads((path / "summary.json").read_text())
        assert summary["sentences_left_out"] == expected
        told = [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]
        assert len(told) == (expected > 0)
    assert told[0].startswith(f"{expected} training sentences are longer than the student's")
    assert "(12 source and 128 target ids, end symbol included)" in told[0]


# --- run directories


def test_a_run_is_neither_overwritten_nor_made_up(imitkd: Commands, plain_config: Config) -> None:
    config = write(plain_config | {"optimiser": {"steps": 1, "warmup": 0}})
    line = imitkd.fails("train", config, "--output", "run", "--resume")
    assert line == "run holds no run to resume; leave --resume out"
    assert not Path("run").exists()
    imitkd.works("train", config, "--output", "run")
    before = everything(Path("run"))
    line = imitkd.fails("train", config, "--output", "run")
    assert line == "run already holds a run; continue it with --resume or choose another --output"
    line = imitkd.fails("train", config, "model.d_model=32", "--output", "run", "--resume")
    assert "does not fit the model section" in line
    assert everything(Path("run")) == before


def test_what_lay_in_the_directory_survives_a_start_that_fails(
    imitkd: Commands, plain_config: Config
) -> None:
    Path("run/vocabulary").mkdir(parents=True)
    Path("run/notes").write_text("mine")
    Path("run/vocabulary/mine").write_text("too")
    imitkd.fails("train", write(plain_config), "--output", "run")
    assert everything(Path("run")) == {"notes": b"mine", "vocabulary/mine": b"too"}


# --- the teacher


def test_a_teacher_of_another_vocabulary(imitkd: Commands, distil: Config, tmp_path: Path) -> None:
    other = tmp_path / "other"
    save_tiny_teacher(other)
    with ServerThread(tiny_config(other)) as server:
        config = write(distil | {"teacher": {"address": server.address}})
        line = imitkd.fails("train", config, "--output", "run")
    assert "expected vocabulary sha256:" in line and "use this teacher's tokenizer" in line
    assert not Path("run").exists()


def test_a_teacher_of_another_revision(imitkd: Commands, distil: Config) -> None:
    config = write(distil)
    line = imitkd.fails("train", config, "teacher.revision=sha256:other", "--output", "run")
    assert "sha256:other" in line
    assert not Path("run").exists()


def test_a_student_that_takes_longer_sentences_than_its_teacher(
    imitkd: Commands, distil: Config
) -> None:
    longer = ["model.max_source_length=300", "model.max_target_length=128"]
    line = imitkd.fails("train", write(distil), *longer, "--output", "run")
    assert line == (
        "the student takes longer sentences than teacher tiny can score; set "
        "model.max_source_length=128"
    )
    assert not Path("run").exists()


def unused_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def test_an_absent_teacher(imitkd: Commands, distil: Config) -> None:
    nobody = unused_address()
    overrides = [f"teacher.address={nobody}", "teacher.timeout_s=0.3"]
    line = imitkd.fails("train", write(distil), *overrides, "--output", "run")
    assert line.startswith(f"{nobody} GetModelInfo: gave up after ")
    assert line.endswith("check that the teacher runs and is reachable, or raise the timeout")
    assert not Path("run").exists()


def test_an_absent_teacher_that_is_only_asked(
    imitkd: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "PATIENCE_S", 0.3)
    line = imitkd.fails("teacher", "info", "--address", unused_address())
    assert line.endswith("check that the teacher runs and is reachable, or raise the timeout")


class _Web(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def web_server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Web) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def grpc_server() -> Iterator[str]:
    """gRPC without the teacher's service."""
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        ("web_server", "check that the teacher runs and is reachable, or raise the timeout"),
        ("grpc_server", "what answers there is no teacher of this contract"),
    ],
)
def test_an_address_where_something_else_answers(
    imitkd: Commands, distil: Config, request: pytest.FixtureRequest, kind: str, remedy: str
) -> None:
    elsewhere = request.getfixturevalue(kind)
    overrides = [f"teacher.address={elsewhere}", "teacher.timeout_s=0.3"]
    line = imitkd.fails("train", write(distil), *overrides, "--output", "run")
    assert line.startswith(f"{elsewhere} GetModelInfo: ") and remedy in line
    assert not Path("run").exists()


@pytest.mark.parametrize("key", ["token_file", "root_certificates"])
def test_secrets_that_cannot_be_read(imitkd: Commands, distil: Config, key: str) -> None:
    line = imitkd.fails("train", write(distil), f"teacher.{key}=gone", "--output", "run")
    assert line == f"cannot read teacher.{key} gone: No such file or directory; check the path"
    assert not Path("run").exists()


def test_a_teacher_that_goes_away_leaves_a_run_to_be_resumed(
    imitkd: Commands, distil: Config, address: str, tiny_teacher: Path
) -> None:
    def breaking(config: Any) -> LocalModel:
        """Computes nothing from its seventh batch on: three steps of two shards are done."""
        model = load_local_model(config.model_dir, "cpu", "fp32", 1)
        model.warm_up = lambda batch_tokens: None  # type: ignore[method-assign]
        score, calls = model.score, iter(range(7))

        def counted(*work: Any) -> Any:
            if next(calls, 6) == 6:
                raise RuntimeError("fallen off the bus")
            return score(*work)

        model.score = counted  # type: ignore[method-assign, assignment]
        return model

    with (
        pytest.raises(UserError, match="no longer computes on cpu"),
        ServerThread(tiny_config(tiny_teacher, batch_tokens=1024), breaking) as server,
    ):
        overrides = [f"teacher.address={server.address}", "teacher.timeout_s=2"]
        line = imitkd.fails("train", write(distil), *overrides, "--output", "run")
    assert line.startswith("batch 3 shard 0: ")
    assert line.endswith("or raise the timeout; then continue with --resume")
    assert [p.name for p in Path("run/checkpoints").iterdir()] == ["step-000000003"]
    assert not Path("run/summary.json").exists()
    imitkd.works("train", "config.yaml", "--output", "run", "--resume")
    assert json.loads(Path("run/summary.json").read_text())["batches"] == 8


def test_a_port_in_use(imitkd: Commands, tiny_teacher: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        line = imitkd.fails("teacher", "serve", tiny_teacher, "--address", where)
    assert line == (
        f"cannot listen on {where}: Address already in use; stop whatever uses it or choose "
        "another --address (port 0 picks a free one)"
    )


# --- model directories


def _truncate(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def _rename_a_tensor(model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    tensors["other"] = tensors.pop("logit_bias")
    save_file(tensors, model / "model.safetensors")


def _spoil(model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    tensors["logit_bias"][5] = float("nan")
    save_file(tensors, model / "model.safetensors")


def _swap_tokenizer(model: Path) -> None:
    save_tiny_teacher(model.parent / "other", vocab_size=48)
    shutil.copytree(model.parent / "other/tokenizer", model / "tokenizer", dirs_exist_ok=True)


Damage = Callable[[Path], None]
_DAMAGES: dict[str, tuple[Damage, str]] = {
    "absent": (shutil.rmtree, "model is no model directory (config.json is missing)"),
    "no weights": (lambda m: (m / "model.safetensors").unlink(), "model.safetensors is missing"),
    "cut weights": (_truncate, "model.safetensors is not readable"),
    "other weights": (_rename_a_tensor, "model.safetensors does not fit its config.json"),
    "broken config": (lambda m: (m / "config.json").write_text("{"), "is not valid JSON"),
    "no tokenizer": (lambda m: shutil.rmtree(m / "tokenizer"), "no tokenizer at model/tokenizer"),
    "other tokenizer": (_swap_tokenizer, "copy the directory again"),
}


@pytest.mark.parametrize("damage", _DAMAGES)
def test_damaged_model_directories(
    imitkd: Commands, tiny_teacher: Path, tiny_corpus: Path, damage: str
) -> None:
    shutil.copytree(tiny_teacher, "model")
    change, fault = _DAMAGES[damage]
    change(Path("model"))
    for command in (
        ["translate", "model"],
        ["evaluate", "model", tiny_corpus, "--json", "scores.json"],
        ["teacher", "serve", "model", "--address", "127.0.0.1:0", "--address-file", "address"],
    ):
        assert fault in imitkd.fails(*command)
    assert not Path("scores.json").exists()
    assert not Path("address").exists()


def test_weights_that_are_no_numbers_are_not_served(imitkd: Commands, tiny_teacher: Path) -> None:
    shutil.copytree(tiny_teacher, "model")
    _spoil(Path("model"))
    line = imitkd.fails("teacher", "serve", "model", "--address", "127.0.0.1:0")
    assert "model: the weights give no finite scores" in line


# --- a full disk: files that may not grow beyond a limit fail in the same place as on a full one


def checkpoints(run: Path) -> list[str]:
    """All that lies in the folder of checkpoints, hidden names too."""
    return sorted(os.listdir(run / "checkpoints"))


def begin(config: str, run: Path) -> None:
    """A run that is interrupted at its first validation."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Learner, "validate", lambda self: sys.exit(9))
        with pytest.raises(SystemExit, match="9"):
            main(["train", config, "--output", str(run)])


def test_a_full_disk_on_checkpoint(imitkd: Commands, plain_config: Config) -> None:
    wide = {"model": plain_config["model"] | {"d_model": 64, "ffn": 128}}
    rhythm = {"checkpoint_every": 2, "validation": {"every": 5, "sentences": 4}}
    config, run = write(plain_config | wide | rhythm), Path("run")
    begin(config, run)
    command = ["train", config, "validation.every=1000", "--output", run, "--resume"]
    line = imitkd.process_fails(["imitkd", *command], blocks=600)
    assert line.startswith("cannot write run/checkpoints/step-000000006: ")
    assert line.endswith("or choose another directory; then continue with --resume")
    assert checkpoints(run) == ["step-000000002", "step-000000004"]
    imitkd.works(*command)
    assert checkpoints(run) == ["step-000000006", "step-000000008"]
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    assert [r["step"] for r in records if r["kind"] == "step"] == list(range(1, 9))


def test_a_full_disk_on_saving_the_student(imitkd: Commands, plain_config: Config) -> None:
    rhythm = {"checkpoint_every": 2, "validation": {"every": 3, "sentences": 4}}
    config, run = write(plain_config | rhythm), Path("run")
    begin(config, run)
    command = ["train", config, "--output", run, "--resume"]
    line = imitkd.process_fails(["imitkd", *command], blocks=200)
    assert line.startswith("cannot write run/student: File too large; free disk space")
    assert line.endswith("then continue with --resume")
    assert checkpoints(run) == ["step-000000002"]
    assert not [name for name in os.listdir(run) if "student" in name]
    imitkd.works(*command)
    assert (run / "student/model.safetensors").is_file()


def test_a_full_disk_at_the_start(imitkd: Commands, plain_config: Config) -> None:
    command = ["imitkd", "train", write(plain_config), "--output", "run"]
    line = imitkd.process_fails(command, blocks=20)
    assert "free disk space or choose another directory" in line
    assert os.listdir() == ["config.yaml"]

"""`imitkd teacher score-corpus`, and training from what it wrote with no teacher running."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from imitkd import score_corpus as command
from imitkd.cli.main import main
from imitkd.score_corpus import ScoredCorpus, score_corpus
from seq2seq.errors import UserError
from student_trainer.config import make_config
from student_trainer.training import train
from teacher_service.client import TeacherClient
from teacher_service.codec import TopKSpec
from teacher_service.errors import TeacherError, TeacherStoreError
from teacher_service.score_store.reader import ScoreStore
from teacher_service.score_store.writer import ScoreWriter
from teacher_service.server import ServerThread
from tests.unit.teacher_service.support import save_tiny_teacher, tiny_config

Config = dict[str, Any]
TOP_K, TEMPERATURE = 8, 1.5


@pytest.fixture(scope="module")
def served(tiny_corpus: Path, tiny_teacher: Path, tmp_path_factory: Any) -> tuple[Path, Path]:
    """A store, and the run of a student whose teacher was served; it serves no more."""
    directory = tmp_path_factory.mktemp("scores")
    store, run = directory / "store", directory / "served"
    with ServerThread(tiny_config(tiny_teacher, deterministic=True)) as server:
        score_with(server.address, tiny_corpus, store)
        train(make_config(word_kd(tiny_corpus, address=server.address)), run)
    return store, run


def score_with(address: str, corpus: Path, store: Path, **change: Any) -> ScoredCorpus:
    with TeacherClient(address) as client:
        payload = TopKSpec(TOP_K)
        return score_corpus(client, corpus, "train", store, payload, TEMPERATURE, **change)


def word_kd(corpus: Path, **teacher: Any) -> Config:
    """A short run whose vocabulary comes from the teacher."""
    from tests.conftest import SMALL_MODEL

    return {
        "name": "tiny",
        "method": "word-kd",
        "runtime": "inline",
        "deterministic": True,
        "checkpoint_every": 4,
        "corpus": {"path": str(corpus)},
        "vocabulary": {"served": True},
        "model": SMALL_MODEL,
        "loss": {"top_k": TOP_K, "temperature": TEMPERATURE},
        "batch": {"sentences": 16, "shards": 2},
        "optimiser": {"steps": 8, "learning_rate": 0.01, "warmup": 2},
        "teacher": {"timeout_s": 30.0} | teacher,
        "validation": {"every": 1000, "sentences": 4},
    }


def outcome(run: Path) -> tuple[list[float], dict[str, bytes]]:
    """Losses of all steps, and the weights after the last."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    newest = max((run / "checkpoints").iterdir())
    tensors = load_file(newest / "tensors.safetensors")
    return (
        [r["loss"] for r in records if r["kind"] == "step"],
        {name: tensor.numpy().tobytes() for name, tensor in tensors.items()},
    )


def refused(config: Config, run: Path) -> str:
    """The one line with which a run is refused; it leaves nothing behind."""
    with pytest.raises((TeacherError, UserError)) as caught:
        train(make_config(config), run)
    assert not run.exists() and "\n" not in str(caught.value)
    return str(caught.value)


def test_a_run_from_a_store_is_the_run_from_the_served_teacher(served, tiny_corpus, tmp_path):
    store, run = served
    train(make_config(word_kd(tiny_corpus, store=str(store))), tmp_path / "stored")
    (losses, weights), (stored_losses, stored_weights) = outcome(run), outcome(tmp_path / "stored")
    assert len(losses) == 8 and losses == stored_losses
    assert weights == stored_weights
    revisions = [
        json.loads((path / "summary.json").read_text())["teacher_revision"]
        for path in (run, tmp_path / "stored")
    ]
    assert revisions[0] is not None and revisions[0] == revisions[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": {"top_k": 4, "temperature": TEMPERATURE}}, "TOP_K 4"),
        ({"loss": {"top_k": TOP_K}}, "at temperature 1 is asked for"),
        ({"vocabulary": {"size": 50}}, "fingerprint"),
    ],
)
def test_another_question_is_refused_before_the_run_begins(
    served, tiny_corpus, tmp_path, change, message
):
    config = word_kd(tiny_corpus, store=str(served[0])) | change
    assert message in refused(config, tmp_path / "run")


def test_scores_of_another_revision_are_refused(served, tiny_corpus, tmp_path):
    config = word_kd(tiny_corpus, store=str(served[0]), revision="sha256:other")
    assert "expected is sha256:other" in refused(config, tmp_path / "run")


def test_pairs_that_the_store_lacks_are_refused_before_the_run_begins(
    served, tiny_corpus, tmp_path
):
    corpus = tmp_path / "corpus"
    shutil.copytree(tiny_corpus, corpus)
    record = {"source": "abba", "references": ["ha ha"]}
    with open(corpus / "train.jsonl", "a") as file:
        file.write(json.dumps(record) + "\n")
    line = refused(word_kd(corpus, store=str(served[0])), tmp_path / "run")
    assert "lacks 1 of the 97 training pairs" in line
    assert "score-corpus" in line and "--top-k 8 --temperature 1.5`" in line


def test_a_part_of_a_corpus_is_scored_and_learnt(served, address, tiny_corpus, tmp_path):
    """What score-corpus draws is what a run draws."""
    score_with(address, tiny_corpus, tmp_path / "part", sentences=20)
    config = word_kd(tiny_corpus, store=str(tmp_path / "part"))
    part = {"path": str(tiny_corpus), "sentences": 20}
    more = config | {"corpus": part | {"sentences": 21}}
    assert "lacks 1 of the 21 training pairs" in refused(more, tmp_path / "run")
    train(make_config(config | {"corpus": part}), tmp_path / "run")
    assert len(outcome(tmp_path / "run")[0]) == 8


def test_a_record_damaged_later_stops_the_run_naming_the_shard(served, tiny_corpus, tmp_path):
    store = tmp_path / "store"
    shutil.copytree(served[0], store)
    file = store / "00000.records"
    file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(TeacherStoreError, match=r"batch 0 shard 0: .*damaged.*--resume"):
        train(make_config(word_kd(tiny_corpus, store=str(store))), tmp_path / "run")


def test_a_run_begun_with_the_teacher_goes_on_with_the_store(served, tiny_corpus, tmp_path):
    store, run = served
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(max((tmp_path / "run" / "checkpoints").iterdir()))
    train(make_config(word_kd(tiny_corpus, store=str(store))), tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == outcome(run)


# --------------------------------------------------------------------------------- the command


class Asked:
    """Counts the pairs a client was asked about."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pairs = 0
        score = TeacherClient.score

        def counted(client: Any, sources: Any, targets: Any, *rest: Any, **more: Any) -> Any:
            self.pairs += len(sources)
            return score(client, sources, targets, *rest, **more)

        monkeypatch.setattr(TeacherClient, "score", counted)


@contextlib.contextmanager
def ending_after(calls: int) -> Any:
    """The command is ended when so many of its answers were written."""
    append, written = ScoreWriter.append, 0

    def ended(writer: ScoreWriter, *rest: Any) -> None:
        nonlocal written
        if written == calls:
            raise KeyboardInterrupt
        written += 1
        append(writer, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScoreWriter, "append", ended)
        with pytest.raises(KeyboardInterrupt):
            yield


@pytest.fixture(scope="module")
def address(tiny_teacher: Path) -> Any:
    with ServerThread(tiny_config(tiny_teacher)) as server:
        yield server.address


def test_an_ended_command_goes_on_where_it_was(address, tiny_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "CALL_BYTES", 4096)
    store, asked = tmp_path / "store", Asked(monkeypatch)
    with ending_after(2):
        score_with(address, tiny_corpus, store)
    kept = len(ScoreStore(store))
    assert 0 < kept < 90
    asked.pairs = 0
    done = score_with(address, tiny_corpus, store)
    assert done.known == kept and asked.pairs == done.pairs - kept
    assert len(ScoreStore(store)) == done.pairs <= 96
    assert ScoreStore(store).positions == done.positions
    asked.pairs = 0
    assert score_with(address, tiny_corpus, store).scored_positions == asked.pairs == 0


def test_the_command_tells_what_it_wrote(address, tiny_corpus, tmp_path, capfd):
    out = tmp_path / "store"
    arguments = ["teacher", "score-corpus", tiny_corpus, "--out", out, "--top-k", 8]
    with pytest.raises(SystemExit) as caught:
        main([str(a) for a in [*arguments, "--sentences", 20, "--address", address]])
    told, progress = capfd.readouterr()
    assert caught.value.code in (0, None)
    store = ScoreStore(out)
    size = (out / "00000.records").stat().st_size
    assert size == store.positions * 36
    total = size + (out / "00000.index").stat().st_size
    assert f"{len(store)} pairs, {store.positions:,} positions, {total:,} bytes (36 a" in told
    assert "positions" in progress


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "nowhere"], "does not exist"),
        (["--temperature", "0.7"], "choose another directory"),
    ],
)
def test_a_command_that_cannot_be_done_is_one_line(
    address, tiny_corpus, tmp_path, capfd, arguments, message
):
    out = tmp_path / "store"
    score_with(address, tiny_corpus, out, sentences=2)
    capfd.readouterr()
    fixed = ["teacher", "score-corpus", tiny_corpus, "--out", out, "--address", address]
    with pytest.raises(SystemExit) as caught:
        main([str(a) for a in [*fixed, *arguments]])
    lines = capfd.readouterr().err.splitlines()
    assert caught.value.code == 2 and len(lines) == 1 and message in lines[0]


def test_sentences_longer_than_the_teacher_takes_are_left_out(tiny_corpus, tmp_path):
    save_tiny_teacher(tmp_path / "model")
    with ServerThread(tiny_config(tmp_path / "model", batch_tokens=20)) as server:
        done = score_with(server.address, tiny_corpus, tmp_path / "store")
    assert done.left_out > 0 and done.pairs > 0
    assert done.pairs + done.left_out <= 96
    assert len(ScoreStore(tmp_path / "store")) == done.pairs


def test_sentences_without_references_are_refused(address, tmp_path):
    (tmp_path / "train.jsonl").write_text('{"source": "abba", "references": []}\n')
    with pytest.raises(UserError, match="without references"):
        score_with(address, tmp_path, tmp_path / "store")
    assert not (tmp_path / "store").exists()

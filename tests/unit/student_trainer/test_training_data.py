"""Ids kept with a run: made once, taken while they are of the same text, made anew where not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seq2seq.errors import UserError
from student_trainer import training_data
from student_trainer.config import RunConfig
from student_trainer.ledger_check import check_ledger
from student_trainer.run_directory import Checkpoint, RunDirectory
from student_trainer.training import train
from student_trainer.training_data import is_current, kept_data, make_data
from tests.builders import tiny_vocabulary

VOCABULARY = tiny_vocabulary()
OFFER = {"method": "imitkd", "teacher": {"address": "x:1"}}


@pytest.fixture
def config_of(
    plain_config: dict[str, Any], tiny_corpus: Path, tmp_path: Path
) -> Callable[..., RunConfig]:
    corpus = tmp_path / "corpus"
    shutil.copytree(tiny_corpus, corpus)

    def make(**changes: Any) -> RunConfig:
        found = plain_config | {"corpus": {"path": corpus} | changes.pop("corpus", {})}
        return RunConfig(**(found | changes))

    return make


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def rows(config: RunConfig, run: Path | None) -> list[tuple[list[int], list[int]]]:
    """All batches of two epochs, as ids."""
    found = make_data(config, VOCABULARY, run)
    split = found.split
    return [
        (split.source(row).tolist(), split.target(row).tolist())
        for batch in range(24)
        for row in found.plan.rows(batch)
    ]


@pytest.fixture
def tokenised(monkeypatch: pytest.MonkeyPatch) -> list[Path | None]:
    """Where a corpus was tokenised to, each time that it was."""
    places: list[Path | None] = []
    real = training_data.tokenise

    def counted(*arguments: Any, directory: Path | None, **more: Any) -> Any:
        places.append(directory)
        return real(*arguments, directory=directory, **more)

    monkeypatch.setattr(training_data, "tokenise", counted)
    return places


def test_a_run_of_kept_ids_learns_what_one_in_memory_learns(config_of, run):
    assert rows(config_of(), run) == rows(config_of(), None)


def test_a_corpus_is_tokenised_once(config_of, run, tokenised):
    first = make_data(config_of(), VOCABULARY, run)
    again = make_data(config_of(workers=3, optimiser={"steps": 99}), VOCABULARY, run)
    kept = kept_data(config_of(), run)
    assert len(tokenised) == 1
    assert first.plan.digest == again.plan.digest == kept.plan.digest
    assert not (run / "tokens").is_symlink() and [p.name for p in run.iterdir()] == ["tokens"]


def test_workers_need_no_corpus(config_of, run):
    config = config_of()
    expected = make_data(config, VOCABULARY, run).plan.digest
    shutil.rmtree(config.corpus.path)
    assert kept_data(config, run).plan.digest == expected
    assert not is_current(config, VOCABULARY, run)
    with pytest.raises(UserError, match=r"train\.jsonl does not exist"):
        make_data(config, VOCABULARY, run)


@pytest.mark.parametrize(
    "changes",
    [
        {"corpus": {"sentences": 50}},
        {"corpus": {"long_sources": "cut"}},
        {"corpus": {"source_candidates": 3}},
        {"model": {"max_source_length": 9}},
        {"model": {"max_target_length": 9}},
    ],
)
def test_ids_made_otherwise_are_made_anew(config_of, plain_config, run, tokenised, changes):
    make_data(config_of(), VOCABULARY, run)
    if "model" in changes:
        changes = {"model": plain_config["model"] | changes["model"]}
    other = config_of(**changes)
    assert not is_current(other, VOCABULARY, run)
    assert rows(other, run) == rows(other, None)
    assert len(tokenised) == 3 and is_current(other, VOCABULARY, run)


def test_ids_of_the_first_so_many_rows_are_made_anew(config_of, run, tokenised):
    """As earlier versions kept them."""
    config = config_of(corpus={"sentences": 50})
    make_data(config, VOCABULARY, run)
    recipe = run / "tokens" / "recipe.json"
    kept = json.loads(recipe.read_text())
    recipe.write_text(json.dumps(kept | {"sentences": 50}))
    assert not is_current(config, VOCABULARY, run)


def test_a_part_follows_from_the_corpus_that_the_teacher_wrote_for(config_of, run, tmp_path):
    """Another corpus draws another part of the same teacher-written text."""
    config = config_of(method="seqkd", corpus={"sentences": 50, "distilled": tmp_path / "written"})
    file = config.corpus.path / "train.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    (tmp_path / "written").mkdir()
    (tmp_path / "written/train.jsonl").write_text(
        "".join(
            json.dumps(json.loads(line) | {"candidates": [{"text": "ab"}]}) + "\n"
            for line in lines[:-1]
        )
    )
    make_data(config, VOCABULARY, run)
    assert is_current(config, VOCABULARY, run)
    file.write_text("".join(lines[:-1]))
    assert not is_current(config, VOCABULARY, run)


def test_another_text_of_the_same_size_is_noticed(config_of, run):
    config = config_of()
    make_data(config, VOCABULARY, run)
    file = config.corpus.path / "train.jsonl"
    text = file.read_bytes()
    file.write_bytes(text.replace(b"a", b"b", 1))
    assert not is_current(config, VOCABULARY, run)
    file.write_bytes(text)
    assert is_current(config, VOCABULARY, run)


def test_another_vocabulary_is_noticed(config_of, run):
    make_data(config_of(), VOCABULARY, run)
    assert not is_current(config_of(), tiny_vocabulary(40), run)


def test_damaged_ids_are_made_anew(config_of, run, tokenised):
    expected = rows(config_of(), run)
    (run / "tokens" / "source.lengths").write_bytes(b"\1\0\0\0" * 96)
    assert rows(config_of(), run) == expected and len(tokenised) == 2


def test_sentences_without_references_count_where_they_come_to_be_needed(config_of, run):
    sources = config_of(**OFFER, mixing={"schedule": "constant", "value": 0.0})
    file = sources.corpus.path / "train.jsonl"
    lines = [json.loads(line) | {"references": []} for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    make_data(sources, VOCABULARY, run)
    assert is_current(sources, VOCABULARY, run)
    with pytest.raises(UserError, match=r"96 of the 96 training sentences of .* have no reference"):
        make_data(config_of(), VOCABULARY, run)
    assert is_current(sources, VOCABULARY, run), "what was there is not touched"


def test_a_run_with_a_checkpoint_keeps_its_ids_where_others_are_refused(config_of, run):
    plan = make_data(config_of(), VOCABULARY, run).plan.digest
    RunDirectory(run).save_checkpoint(Checkpoint(5, {}, {"extra": {"plan": plan}}))
    with pytest.raises(UserError, match="the batches of this configuration are others"):
        make_data(config_of(corpus={"sentences": 50}), VOCABULARY, run)
    assert is_current(config_of(), VOCABULARY, run)
    # The same batches of other ids, or ids that were lost, are no other batches.
    make_data(config_of(corpus={"source_candidates": 2}), VOCABULARY, run)
    shutil.rmtree(run / "tokens")
    make_data(config_of(), VOCABULARY, run)


def test_a_ledger_is_checked_without_tokenising_and_without_a_trace(config_of, run, tokenised):
    config = config_of(optimiser={"steps": 3, "warmup": 0})
    train(config, run)
    assert len(tokenised) == 1
    assert check_ledger(RunDirectory(run)).holds and len(tokenised) == 1
    # A run of an older version, or one whose ids were removed: elsewhere, and nothing stays.
    shutil.rmtree(run / "tokens")
    left = sorted(run.rglob("*"))
    account = check_ledger(RunDirectory(run))
    assert account.holds and account.batches == 3
    assert len(tokenised) == 2 and sorted(run.rglob("*")) == left


def test_a_ledger_is_not_checked_against_ids_of_another_text(config_of, run, tokenised):
    """What lies with the run says what was planned; what is there now is what counts."""
    config = config_of(optimiser={"steps": 3, "warmup": 0})
    train(config, run)
    file = config.corpus.path / "train.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    account = check_ledger(RunDirectory(run))
    assert account.faults[0].startswith("from step 0 on the batches were others")
    assert len(tokenised) == 2

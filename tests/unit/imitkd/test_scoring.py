"""What `imitkd evaluate` reports, against sacreBLEU and a slow forward pass."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import sacrebleu
import torch

from imitkd.scoring import evaluate_directory, print_evaluation, write_evaluation
from seq2seq.checkpoint import load_model_directory
from seq2seq.corpus import Example, read_split
from seq2seq.decoding import Beam, Greedy
from seq2seq.errors import UserError
from seq2seq.translation import translate
from tests.unit.teacher_service.support import slow_log_probs


@pytest.fixture(scope="module")
def examples(tiny_corpus: Path) -> list[Example]:
    return read_split(tiny_corpus, "validation")


@pytest.mark.parametrize("beam", [1, 3])
def test_scores_are_those_of_the_translations(
    tiny_teacher: Path, tiny_corpus: Path, examples: list[Example], beam: int
) -> None:
    found = evaluate_directory(tiny_teacher, tiny_corpus, "validation", beam=beam, threads=1)
    directory = load_model_directory(tiny_teacher)
    sources = [e.source for e in examples]
    mode = Beam(beam) if beam > 1 else Greedy()
    assert found["translations"] == translate(directory.model, directory.vocabulary, sources, mode)
    references = [[e.references[0] for e in examples]]
    bleu = sacrebleu.corpus_bleu(found["translations"], references).score
    chrf = sacrebleu.corpus_chrf(found["translations"], references).score
    assert found["bleu"] == pytest.approx(bleu)
    assert found["chrf"] == pytest.approx(chrf)
    assert found["beam"] == beam
    assert "nrefs:1" in found["bleu_signature"]


def test_loss_is_the_mean_over_all_target_ids(
    tiny_teacher: Path, tiny_corpus: Path, examples: list[Example]
) -> None:
    found = evaluate_directory(tiny_teacher, tiny_corpus, "validation", threads=1)
    directory = load_model_directory(tiny_teacher)
    losses = []
    for example in examples:
        source = directory.vocabulary.encode_source(example.source)
        target = directory.vocabulary.encode_target(example.references[0])
        rows = slow_log_probs(directory.model, source, target)
        losses += [-rows[t][token] for t, token in enumerate(target)]
    assert found["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_what_else_is_told(tiny_teacher: Path, tiny_corpus: Path) -> None:
    before = torch.get_num_threads()
    found = evaluate_directory(tiny_teacher, tiny_corpus, "validation", sentences=3, threads=1)
    directory = load_model_directory(tiny_teacher)
    assert found["sentences"] == len(found["translations"]) == 3
    assert found["parameters"] == sum(p.numel() for p in directory.model.parameters())
    size = (tiny_teacher / "model.safetensors").stat().st_size
    assert found["megabytes"] == size / 1e6
    assert found["revision"] == directory.revision
    assert found["sentences_per_s"] == pytest.approx(3 / found["seconds"])
    assert math.isfinite(found["loss"])
    assert (found["threads"], torch.get_num_threads()) == (1, before)


def test_an_ensemble_is_scored_as_one(tiny_teacher: Path, tiny_corpus: Path) -> None:
    single = evaluate_directory(tiny_teacher, tiny_corpus, "validation", threads=1)
    twice = evaluate_directory([tiny_teacher] * 2, tiny_corpus, "validation", threads=1)
    assert twice["loss"] == pytest.approx(single["loss"], rel=1e-5)
    assert twice["parameters"] == 2 * single["parameters"]
    assert twice["megabytes"] == 2 * single["megabytes"]
    assert twice["name"] == f"{single['name']} + {single['name']}"


def test_sentences_without_references_are_refused(tiny_teacher: Path, tmp_path: Path) -> None:
    rows = [{"source": "ab", "references": ["cd"]}, {"source": "ef", "references": []}]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    with pytest.raises(UserError, match="test has sentences without references"):
        evaluate_directory(tiny_teacher, tmp_path)


def test_the_form_for_people_and_the_form_for_programs(
    tiny_teacher: Path, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluate_directory(
        tiny_teacher, tiny_corpus, "validation", beam=2, sentences=2, threads=1
    )
    print_evaluation(found)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"tiny on {tiny_corpus} validation, 2 sentences, beam 2"
    assert lines[1] == f"BLEU {found['bleu']:.2f}   {found['bleu_signature']}"
    assert lines[2] == f"chrF {found['chrf']:.2f}   {found['chrf_signature']}"
    assert f"{found['parameters']:,} parameters" in lines[3]
    write_evaluation(found, tmp_path / "new" / "scores.json")
    assert json.loads((tmp_path / "new" / "scores.json").read_text()) == found

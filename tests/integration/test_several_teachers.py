"""Several corpora, each with a teacher of its own: who is asked about what, and what holds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from imitkd.analysing import _address_of_run
from imitkd.doctor.checks import CHECKS
from imitkd.doctor.examination import Examination, examine
from seq2seq.checkpoint import load_model_vocabulary
from seq2seq.corpus import read_split
from seq2seq.errors import UserError
from student_trainer.config import RunConfig, make_config
from student_trainer.ledger_check import check_ledger
from student_trainer.run_directory import RunDirectory
from student_trainer.setup import validation_examples
from student_trainer.training import train
from teacher_service.errors import TeacherMismatch
from tests.builders import tiny_text
from tests.fake_teacher import FakeTeacher, serving

STEPS = 6
NAMES = ("left", "right")


class Recording(FakeTeacher):
    """Keeps the sources it is asked about."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.sources: set[tuple[int, ...]] = set()

    def Score(self, request: Any, context: Any) -> Any:
        self.sources |= {tuple(s.source_ids) for s in request.sequences}
        return super().Score(request, context)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two corpora of 40 training and 6 validation pairs without a sentence in common."""
    lines = list(dict.fromkeys(tiny_text(200, seed=5)))
    found = {}
    for place, name in enumerate(NAMES):
        found[name] = tmp_path_factory.mktemp("corpora") / name
        found[name].mkdir()
        own = lines[place * 46 : (place + 1) * 46]
        for split, part in {"train": own[:40], "validation": own[40:]}.items():
            records = [{"source": x, "references": [" ".join(x.split()[::-1])]} for x in part]
            text = "".join(json.dumps(r) + "\n" for r in records)
            (found[name] / f"{split}.jsonl").write_text(text)
    return found


@pytest.fixture
def teachers(tiny_teacher: Path) -> Callable[..., Recording]:
    vocabulary = load_model_vocabulary(tiny_teacher)

    def make(revision: str = "sha256:one", **changes: Any) -> Recording:
        limits: dict[str, Any] = {
            "fingerprint": vocabulary.fingerprint,
            "vocabulary_size": vocabulary.size,
            "max_source_length": 128,
            "max_target_length": 128,
            "max_request_sequences": 64,
        }
        return Recording(revision=revision, limits=limits | changes)

    return make


@pytest.fixture
def config_of(plain_config: dict[str, Any], corpora: dict[str, Path]) -> Callable[..., RunConfig]:
    """Both corpora, every row scored by a teacher."""

    def make(teacher: dict[str, Any], **changes: Any) -> RunConfig:
        paths = {name: str(path) for name, path in corpora.items()}
        named = {
            "method": "imitkd",
            "corpus": {"paths": paths},
            "teacher": {"timeout_s": 20.0} | teacher,
            "loss": {"teacher_labels_on_data_rows": True},
            "optimiser": plain_config["optimiser"] | {"steps": STEPS},
        }
        return make_config(plain_config | named | changes)

    return make


@pytest.fixture
def pair(teachers: Callable[..., Recording]) -> Iterator[tuple[Recording, Recording, list[str]]]:
    """A teacher for each corpus, of one vocabulary, and their addresses."""
    both = teachers("sha256:one"), teachers("sha256:two")
    with serving(*both) as addresses:
        yield *both, addresses


def losses(run: Path) -> list[float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [r["loss"] for r in lines if r["kind"] == "step"]


def test_each_corpus_is_scored_by_its_own_teacher_and_learnt_as_by_one(
    pair, teachers, config_of, corpora, tiny_teacher, tmp_path
):
    """Both teachers say the same, so who is asked must not show in what is learnt."""
    left, right, (first, second) = pair
    run, routed = tmp_path / "routed", {"routes": dict(zip(NAMES, (first, second), strict=True))}
    train(config_of(routed), run)
    vocabulary = load_model_vocabulary(tiny_teacher)
    for name, teacher in zip(NAMES, (left, right), strict=True):
        texts = [e.source for e in read_split(corpora[name], "train")]
        own = {tuple(vocabulary.as_source(ids)) for ids in vocabulary.encode_many(texts)}
        assert teacher.sources and teacher.sources <= own

    with serving(teachers()) as (address,):
        train(config_of({"address": address}), tmp_path / "one")
    assert losses(run) == losses(tmp_path / "one")

    account = check_ledger(RunDirectory(run))
    assert account.holds and account.sentences == 8 * STEPS, account.verdict()
    revisions = {"left": "sha256:one", "right": "sha256:two"}
    begin, *batches = map(json.loads, (run / "ledger.jsonl").read_text().splitlines())
    assert begin["teacher"] == revisions
    assert {tuple(b["teacher"]) for b in batches} <= {tuple(revisions.values())} | {
        (revision,) for revision in revisions.values()
    }
    assert json.loads((run / "summary.json").read_text())["teacher_revision"] == revisions


def test_a_batch_scored_by_a_teacher_of_other_rows_breaks_the_ledger(pair, config_of, tmp_path):
    _, _, (first, second) = pair
    config = config_of({"routes": {"left": first, "right": second}})
    train(config, tmp_path / "run")
    file = tmp_path / "run" / "ledger.jsonl"
    begin, *rest = file.read_text().splitlines()
    exchanged = json.loads(begin)
    exchanged["teacher"]["left"] = "sha256:other"
    file.write_text("\n".join([json.dumps(exchanged), *rest]) + "\n")
    account = check_ledger(RunDirectory(tmp_path / "run"))
    assert not account.holds and "was scored by teacher" in account.faults[0]


def test_a_corpus_without_a_route_goes_to_the_teacher_of_all_others(pair, config_of, tmp_path):
    left, right, (first, second) = pair
    train(config_of({"address": first, "routes": {"right": second}}), tmp_path / "run")
    assert left.sources and right.sources and not left.sources & right.sources


def test_going_on_wants_each_of_the_teachers_again(pair, config_of, tmp_path):
    _, right, (first, second) = pair
    config, run = config_of({"routes": {"left": first, "right": second}}), tmp_path / "run"
    train(config, run)
    longer = config.model_copy(
        update={"optimiser": config.optimiser.model_copy(update={"steps": STEPS + 2})}
    )
    right.revision = "sha256:three"
    with pytest.raises(UserError, match=r"began with teacher .*sha256:two.*sha256:three"):
        train(longer, run, resume=True)
    right.revision = "sha256:two"
    train(longer, run, resume=True)
    assert check_ledger(RunDirectory(run)).holds and len(losses(run)) == STEPS + 2


def test_a_teacher_of_another_vocabulary_is_one_line_with_its_corpus(teachers, config_of, tmp_path):
    def refuse(method: str, request: Any, context: Any) -> None:
        if request.expect.fingerprint != "sha256:strange":
            message = "another vocabulary is expected, this teacher has sha256:strange"
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, message)

    strange = teachers(fingerprint="sha256:strange")
    strange.before = refuse
    with serving(teachers(), strange) as (first, second):
        config = config_of({"routes": {"left": first, "right": second}})
        with pytest.raises(TeacherMismatch, match=r"^teacher of right: .*sha256:strange") as caught:
            train(config, tmp_path / "run")
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_replicas_that_disagree_when_a_run_begins_are_refused(teachers, config_of, tmp_path):
    """Which of the two is meant nobody can say, unless the configuration does."""
    one, two = teachers("sha256:one"), teachers("sha256:two")
    with serving(one, two) as addresses:
        with pytest.raises(TeacherMismatch, match="sha256:"):
            train(config_of({"address": addresses}), tmp_path / "run")
        pinned = {"address": addresses, "revision": "sha256:two"}
        train(config_of(pinned), tmp_path / "run")
    assert two.sources and not one.sources


def test_validation_takes_from_each_corpus_in_turn(config_of, corpora):
    config = config_of({"address": "a:1"}, validation={"every": 1000, "sentences": 5})
    found = [e.source for e in validation_examples(config)]
    left, right = ([e.source for e in read_split(corpora[n], "validation")] for n in NAMES)
    assert found == [left[0], right[0], left[1], right[1], left[2]]


def test_an_analysis_asks_the_teacher_of_its_corpus(config_of, corpora):
    config = config_of({"address": "a:1", "routes": {"right": "b:2"}})
    asked = [_address_of_run(config, p) for p in (*corpora.values(), Path("elsewhere"))]
    assert asked == [("a:1",), ("b:2",), ("a:1",)]
    with pytest.raises(UserError, match=r"corpus.paths names left, right"):
        config.corpus.only  # noqa: B018


def test_the_doctor_examines_each_teacher(pair, config_of, tmp_path):
    _, right, (first, second) = pair
    right.limits["max_target_length"] = 20
    config = config_of(
        {"routes": {"left": first, "right": second}, "revision": {"left": "sha256:other"}}
    )
    skip = ["duration", "disk", "overlap", "pieces"]
    found = list(examine(Examination(config, tmp_path / "run"), CHECKS, skip))
    told = {(f.check, str(f.severity), f.message.partition(":")[0]) for f in found}
    for name in NAMES:
        assert {("teacher", "ok", name), ("replicas", "ok", name)} <= told
    assert {("identity", "error", "left"), ("identity", "ok", "right")} <= told
    assert {("limits", "ok", "left"), ("limits", "error", "right")} <= told
    (lines,) = [f.message for f in found if f.check == "lines" and f.severity == "ok"]
    assert lines == "80 train, 6 left/validation, 6 right/validation"
    (directory,) = [f for f in found if f.check == "directory"]
    assert directory.severity == "skipped" and "several teachers" in directory.message


def test_the_doctor_has_every_teacher_score_rows_of_its_corpus(pair, config_of, tmp_path):
    left, right, (first, second) = pair
    config = config_of({"routes": {"left": first, "right": second}})
    found = list(examine(Examination(config, tmp_path / "run"), CHECKS, ["disk"]))
    scored = [f for f in found if f.check == "answers"]
    assert [f.message.partition(":")[0] for f in scored] == list(NAMES)
    assert left.sources and right.sources and not left.sources & right.sources
    (duration,) = [f for f in found if f.check == "duration"]
    assert duration.severity == "ok", duration.message


@pytest.mark.parametrize(
    ("teacher", "changes", "message"),
    [
        ({"routes": {"left": "a:1"}}, {}, "corpus 'right' has no teacher"),
        (
            {"address": "a:1", "routes": {"up": "b:2"}},
            {},
            r"names 'up', which is no corpus of corpus.paths \(left, right\)",
        ),
        ({"routes": {"left": "a:1", "right": "b"}}, {}, "'b' is no address"),
        (
            {"routes": {"left": "a:1", "right": "b:2"}, "revision": "sha256:one"},
            {},
            "'revision' is by corpus",
        ),
        ({"address": "a:1", "revision": {"left": "x"}}, {}, "goes with 'routes'"),
        (
            {"address": "a:1", "routes": {"left": "b:2"}, "revision": {"up": "x"}},
            {},
            "teacher.revision names 'up'",
        ),
        (
            {"address": "a:1", "routes": {"left": "b:2"}},
            {"method": "imitkd-full", "loss": {"payload": "hidden"}},
            "hidden goes with one teacher",
        ),
        ({"address": "a:1"}, {"corpus": {"paths": {}}}, "corpus.paths"),
        ({"address": "a:1"}, {"corpus": {}}, "give either 'path'"),
        ({"routes": {"left": "b:2"}}, {"corpus": {"path": "x"}}, "'left', which is no corpus"),
    ],
)
def test_routes_that_lead_nowhere(config_of, teacher, changes, message):
    with pytest.raises(UserError, match=message):
        config_of(teacher, **changes)

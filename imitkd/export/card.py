"""The model card of an export."""

from __future__ import annotations

from pathlib import Path

from imitkd.engines.manifest import Manifest
from imitkd.export.checking import Check
from imitkd.export.source import Source, corpus_facts

_USE = {
    "ctranslate2": "Any program with CTranslate2 opens this directory. Sources are the pieces of "
    "`tokenizer/` with the end symbol behind them; `export.json` names the limits and the ids that "
    "are never written.",
    "huggingface": "`AutoTokenizer` and `AutoModelForSeq2SeqLM` of `transformers` open this "
    "directory, with no code of its own. What `generate` writes is bound by `max_length` alone, "
    "whatever the length of the source.",
    "onnx": "`encoder.onnx` runs once a batch, `decoder.onnx` once a token, from states of zeros: "
    "what it gives as `next.X` it takes as `state.X` in the step after. `export.json` names the "
    "limits and the ids that are never written.",
}


def card(
    source: Source,
    manifest: Manifest,
    check: Check,
    *,
    licence: str | None = None,
    corpus: Path | None = None,
) -> str:
    """Markdown: what it is, how it was checked, how it is used, and the source's own card.

    Args:
        licence: of the model; None says that it is not stated.
        corpus: the directory that the check was on, where one was given.
    """
    model = source.model
    facts = {
        "Model": f"`{manifest.name}`, {model.parameter_count():,} parameters, "
        + model.config.in_words(),
        "Source revision": f"`{manifest.revision}`",
        "Form": f"{manifest.form}, weights in {manifest.quantization}",
        "Method": source.method or "not known here; see the source's card below",
    }
    if source.teacher_revision:
        facts["Teacher revision"] = f"`{source.teacher_revision}`"
    facts |= corpus_facts(source, corpus)
    facts["Licence"] = licence or "not stated"
    limit = manifest.limit
    facts["Generation"] = (
        f"greedy, at most min({limit.ratio:g} x source + {limit.offset}, {limit.cap}) ids, never "
        f"the ids {', '.join(map(str, manifest.suppressed))}"
    )
    lines = [f"# {manifest.name}, exported for {manifest.form}", ""]
    lines += [f"- **{name}**: {value}" for name, value in facts.items()]
    lines += ["", "## Checked against its source", "", *_checked(check)]
    lines += ["", "## Use", "", _USE[manifest.form], "", *_example()]
    if source.card:
        quoted = [f"> {line}".rstrip() for line in source.card.strip().splitlines()]
        lines += ["", "## Card of the source", "", *quoted]
    return "\n".join(lines) + "\n"


def _checked(check: Check) -> list[str]:
    share = 100 * check.differing / check.sentences
    told = f"Greedy output on {check.sentences} sentences ({check.where}): "
    if check.differing:
        told += f"{check.differing} differ ({share:.1f} %)"
        if check.ties:
            told += f", {check.ties} of them where two tokens are as good as equal"
    else:
        told += "all equal"
    lines = [f"{told}."]
    if check.before is not None and check.after is not None:
        lines += ["", "| model | BLEU | chrF |", "|---|---|---|"]
        for name, scores in (("source", check.before), ("export", check.after)):
            lines.append(f"| {name} | {scores.bleu:.2f} | {scores.chrf:.2f} |")
        before = check.before
        lines += ["", f"BLEU: `{before.bleu_signature}`, chrF: `{before.chrf_signature}`"]
    return lines


def _example() -> list[str]:
    return [
        "```python",
        "from imitkd import Translator",
        "",
        'Translator("this-directory").translate(["Close the door."])',
        "```",
    ]

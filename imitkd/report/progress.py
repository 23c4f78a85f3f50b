"""How far a study is: which of its cells are finished, and which are not."""

from __future__ import annotations

from imitkd.report.reading import Study


def progress(study: Study) -> str:
    """One line; empty where the results do not say what is missing."""
    if "unfinished" not in study.results:
        return ""
    done = {(r["student"], r["method"], r["seed"]) for r in study.rows if r["student"]}
    unfinished = [key.split("/") for key in study.results["unfinished"]]
    if not unfinished:
        return f"{study.name}: all {len(done)} cells are finished."
    begun = {(student, method) for student, method, _ in done}
    missing: dict[str, dict[str, list[str]]] = {}
    for student, method, seed in unfinished:
        seeds = missing.setdefault(student, {}).setdefault(method, [])
        seeds.append(seed.removeprefix("seed"))
    parts = []
    for student, methods in missing.items():
        variants = [_variant(m, seeds, (student, m) in begun) for m, seeds in methods.items()]
        parts.append(f"for {student}: {', '.join(variants)}")
    count = f"{len(done)} of {len(done) + len(unfinished)} cells are finished"
    return f"{study.name}: {count}. Missing {'; '.join(parts)}."


def _variant(method: str, seeds: list[str], begun: bool) -> str:
    """With its seeds where others of them are there."""
    return f"{method} (seed {', '.join(seeds)})" if begun else method

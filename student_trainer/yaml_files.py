"""Plain values from YAML files: one may extend others, ``key=value`` overrides come last."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from seq2seq.errors import UserError

EXTENDS = "extends"


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a file, on top of the files it extends.

    ``extends`` names a file, or several of which later ones win, relative to the file that says so.
    Sections are merged key by key; a value, or a list, takes the place of the one below it.

    Raises:
        UserError: a file cannot be read, is no mapping, or extends itself.
    """
    return _read(Path(path), ())


def _read(path: Path, behind: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in behind:
        raise UserError(f"{path} extends itself; break the circle")
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        by = f", which {behind[-1]} extends" if behind else ""
        raise UserError(f"cannot read configuration {path}{by}: {reason}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} holds no configuration: a mapping of sections is expected")
    named = data.pop(EXTENDS, [])
    bases = [named] if isinstance(named, str) else named
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise UserError(f"{path}: extends {named!r} is neither a file nor a list of files")
    merged: dict[str, Any] = {}
    for base in bases:
        merged = merge(merged, _read(path.parent / base, (*behind, path.resolve())))
    return merge(merged, data)


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both, section by section; where they disagree, ``above``."""
    merged = dict(below)
    for key, value in above.items():
        held = merged.get(key)
        both = isinstance(held, dict) and isinstance(value, dict)
        merged[key] = merge(held, value) if both and held else value
    return merged


def apply_override(data: dict[str, Any], override: str) -> None:
    """Write the YAML value of ``a.b=value`` into plain values.

    Raises:
        UserError: it is not of that form, or its way leads through a value.
    """
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise UserError(f"override {override!r} is not of the form key=value (optimiser.steps=100)")
    *parents, last = key.split(".")
    section = data
    for parent in parents:
        if section.get(parent) is None:
            section[parent] = {}
        section = section[parent]
        if not isinstance(section, dict):
            raise UserError(f"override {override!r}: {parent!r} is a value, not a section")
    try:
        section[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"override {override!r}: the value is not valid YAML") from error

"""Configurations and teachers are found in a checkout and in an installed package."""

from __future__ import annotations

from pathlib import Path

import pytest

from imitkd import demo
from imitkd import shipped as module
from imitkd.shipped import shipped
from seq2seq.errors import UserError
from student_trainer.config import load_config

ROOT = Path(__file__).resolve().parents[3]
# Runs: what others extend begins with an underscore, studies have a test of their own.
CONFIGS = sorted(
    p.relative_to(ROOT).as_posix()
    for p in (ROOT / "configs").rglob("[!_]*.yaml")
    if p.parent.name != "studies"
)


def test_a_checkout_has_them_at_its_root() -> None:
    assert shipped(demo.CONFIG).resolve() == ROOT / demo.CONFIG
    assert demo.CONFIG in CONFIGS


@pytest.mark.parametrize("config", CONFIGS)
def test_every_shipped_configuration_loads(config: str) -> None:
    assert load_config(shipped(config)).name


@pytest.mark.parametrize("folder", ["configs", "teachers"])
def test_the_package_reaches_them_too(folder: str) -> None:
    assert (ROOT / "imitkd" / folder).resolve() == ROOT / folder


def test_an_installed_package_has_them_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site-packages" / "imitkd"
    (package / "configs").mkdir(parents=True)
    (package / "configs" / "x.yaml").touch()
    monkeypatch.setattr(module, "__file__", str(package / "shipped.py"))
    assert shipped("configs/x.yaml") == package / "configs" / "x.yaml"
    with pytest.raises(UserError, match=r"^configs/y\.yaml is not in this installation"):
        shipped("configs/y.yaml")

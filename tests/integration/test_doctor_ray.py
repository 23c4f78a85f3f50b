"""The doctor's look at a real Ray: it sees what is there, and leaves it running."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from imitkd.doctor import machine
from imitkd.doctor.examination import Check, Examination, examine
from student_trainer.config import make_config
from student_trainer.ray_runtime import cluster

pytestmark = pytest.mark.usefixtures("ray_cluster")


def looked_at(plain: dict[str, Any], output: Path) -> tuple[str, str]:
    it = Examination(make_config(plain | {"runtime": "ray"}), output)
    (finding,) = examine(it, [Check("ray", machine.ray)])
    return str(finding.severity), finding.message


def test_a_cluster_with_room_and_one_without_a_gpu(plain_config, tmp_path):
    severity, message = looked_at(plain_config, tmp_path)
    assert severity == "ok" and "1 node, 2 CPUs, 0 GPUs" in message
    severity, message = looked_at(plain_config | {"device": "cuda"}, tmp_path)
    assert severity == "error" and "no GPU" in message
    assert cluster.resources()[0] == 1, "somebody else's cluster goes on"

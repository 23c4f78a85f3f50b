"""A run that begins on a head without CPUs, and nodes that join it: a real Ray of several nodes.

In a process of its own, since one process is in one cluster.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]

# Arguments: configuration, run directory. Prints where workers were, by step.
GROWING = """
import contextlib
import json
import logging
import os
import sys
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from student_trainer.config import load_config
from student_trainer.driver import Driver
from student_trainer.ray_runtime.executor import RayExecutor
from student_trainer.run_directory import RunDirectory

small = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=small | {"num_cpus": 0})
os.environ["RAY_ADDRESS"] = cluster.address
told = []

class Said(logging.Handler):
    def emit(self, record):
        told.append(record.getMessage())
        if len(told) == 1:
            cluster.add_node(**small)

room = logging.getLogger("student_trainer.ray_runtime.room")
room.addHandler(Said())
room.propagate = False

class Enough(Exception):
    pass

class Observer:
    def __init__(self, pool):
        self.pool, self.with_two, self.places = pool, 0, []

    def on_step(self, report, wall_s):
        if report.step == 3:
            cluster.add_node(**small)
        held = {w.ready.node: len(w.shards) for w in self.pool._workers if w.ready}
        self.places.append(held)
        self.with_two += report.workers == 2 and min(held.values()) > 0
        if self.with_two == 5:
            raise Enough

config = load_config(Path(sys.argv[1]))
executor = RayExecutor(config, RunDirectory(Path(sys.argv[2])))
observer = Observer(executor._workers)
with contextlib.closing(executor), contextlib.suppress(Enough):
    head = cluster.head_node.node_id
    Driver(config, executor, [observer]).run()
print(json.dumps({"told": told, "places": observer.places, "head": head}))
cluster.shutdown()
sys.stdout.flush()
os._exit(0)  # all is ended; Ray would wait for it once more
"""


@pytest.mark.timeout(180)
def test_nodes_that_join_a_head_without_cpus_get_the_workers(
    plain_config: dict[str, Any], tmp_path: Path
) -> None:
    """Nothing runs on the head, and the run begins when the first node has joined."""
    plain = plain_config | {
        "runtime": "ray",
        "workers": 2,
        "workers_at_start": 1,
        "optimiser": {"steps": 100_000, "warmup": 0},
        "rollout": {"pool": 4, "lag": 4, "limit": {"cap": 16}},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(plain))
    # A short path, as sockets have; what Ray leaves there would be found by others.
    with tempfile.TemporaryDirectory(prefix="ray-") as place:
        changed = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_TMPDIR": place}
        done = subprocess.run(
            [sys.executable, "-c", GROWING, str(tmp_path / "config.yaml"), str(tmp_path / "run")],
            env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | changed,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["told"][0].startswith(
        "waiting for room: 1 workers of 1 threads and a learner of 0 need 1 CPUs, the Ray cluster "
        "has 0"
    )
    first, last = found["places"][0], found["places"][-1]
    assert len(first) == 1 and len(last) == 2 and set(first) < set(last)
    assert found["head"] not in last

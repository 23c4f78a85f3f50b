"""A local Ray as a run starts it: where it listens, and what it exports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

LISTENING = """
import os
from pathlib import Path
from benchmarks.chaos import descendants
from student_trainer.ray_runtime import cluster
import ray

here = cluster.connect()
ray.get(ray.remote(lambda: None).remote())
owners = {}
for process in [os.getpid(), *descendants(os.getpid())]:
    for entry in Path(f"/proc/{process}/fd").iterdir():
        try:
            owners[os.readlink(entry)] = process
        except OSError:
            pass
for table in ("tcp", "tcp6"):
    for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in owners:
            print(fields[1].split(":")[0])
here.close()
"""
# 127.0.0.1, the same within IPv6, and ::1, as the kernel writes them.
LOOPBACK = {
    "0100007F",
    "0000000000000000FFFF00000100007F",
    "00000000000000000000000001000000",
}

EXPORTED = """
import time
import urllib.request
from student_trainer.ray_runtime import cluster
from student_trainer.ray_runtime.metrics import RunMetrics
import ray

@ray.remote
class Actor:
    def publish(self):
        self.metrics = RunMetrics("mine")
        self.metrics.published(7)

here = cluster.connect()
actor = Actor.remote()
ray.get(actor.publish.remote())
(node,) = ray.nodes()
url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
deadline = time.monotonic() + 60
lines = []
while not lines and time.monotonic() < deadline:
    time.sleep(0.5)
    try:
        text = urllib.request.urlopen(url, timeout=5).read().decode()
    except OSError:
        continue
    lines = [x for x in text.splitlines() if x.startswith("ray_imitkd_version{")]
print(*lines, sep="\\n")
here.close()
"""


def printed(code: str, **environment: str) -> list[str]:
    """Lines a fresh process prints: what Ray does is settled when it is imported."""
    changed = {"PYTHONPATH": str(ROOT), "RAY_metrics_report_interval_ms": "1000"} | environment
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | changed,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux's tables")
def test_a_local_ray_listens_on_loopback_alone() -> None:
    found = printed(LISTENING)
    assert found, "Ray listens somewhere: the test looks in the wrong place"
    assert set(found) <= LOOPBACK


def test_ray_exports_what_actors_count() -> None:
    pytest.importorskip("opentelemetry.exporter.prometheus", reason="needs ray[default]")
    (line,) = printed(EXPORTED)
    assert 'run="mine"' in line and line.endswith(" 7.0")

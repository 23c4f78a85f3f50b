"""The distributed executor: rollout workers and learner as Ray actors. Ray is imported only here.

``executor`` answers the driver, ``pool`` gives shards to workers and survives their deaths,
``actors`` wrap worker and learner, ``placement`` says where they run, ``cluster`` starts or joins
Ray.
"""

from __future__ import annotations

import os

# Read by Ray when it is imported or started: no reports to its makers, no long notices about dead
# workers on standard output (the pool says it in one line), today's handling of actors without GPU.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died or was killed")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# A Ray of this machine alone listens on loopback. Elsewhere than on Linux that is what Ray does by
# itself, and this is its switch; one that joins a cluster is to be reached from other machines.
if not os.environ.get("RAY_ADDRESS"):
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")

"""What the run computes on: devices, cores, Ray."""

from __future__ import annotations

import os

import torch

from imitkd.doctor.examination import Examination
from imitkd.doctor.findings import Finding, error, ok, skipped, warning
from seq2seq.checkpoint import check_device
from student_trainer.data_parallel import devices

# Threads of a core beyond which stages, that wait for each other in turn, are in each other's way.
CROWDED = 2


def device(it: Examination) -> list[Finding]:
    """The learner's device is there, and threads fit the cores."""
    config = it.config
    findings = []
    if config.runtime == "inline" or config.device == "cpu":
        for needed in devices(config):
            check_device(needed)
    if config.device == "cpu" and torch.cuda.is_available():
        findings.append(warning("the learner is on the CPU, and a GPU is there", "set device=cuda"))
    if config.device == "cpu" and config.precision == "bf16":
        findings.append(
            warning("bf16 on a CPU is slower than fp32 at these sizes", "set precision=fp32")
        )
    cores, threads = cores_here(), threads_of(it)
    if threads > CROWDED * cores and not os.environ.get("RAY_ADDRESS"):
        findings.append(
            warning(
                f"workers and learner run {threads} threads, this machine has {cores} cores; a "
                "teacher on it needs its own besides",
                "lower workers, worker_threads, learner_threads or learner_processes",
                threads=threads,
                cores=cores,
            )
        )
    workers = "the one worker" if config.runtime == "inline" else f"{config.workers} workers"
    learner = f"{config.learner_processes} learner processes"
    if config.learner_processes == 1:
        learner = "learner"
    told = f"{learner} on {config.device}, {workers} on the CPU; {threads} threads, {cores} cores"
    return findings or [ok(told, device=config.device, threads=threads, cores=cores)]


def cores_here() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def cores_of(it: Examination) -> int:
    """Cores the run may use; as many as it has threads where a cluster gives them."""
    return threads_of(it) if os.environ.get("RAY_ADDRESS") else cores_here()


def threads_of(it: Examination) -> int:
    """Threads at work at the same time, the teacher's not counted."""
    config = it.config
    learner = config.learner_threads * config.learner_processes
    if config.runtime == "inline":
        return max(config.worker_threads, learner)
    return config.workers * config.worker_threads + learner


def ray(it: Examination) -> list[Finding]:
    """Ray starts or can be joined, and has room for the actors; it is left at once."""
    config = it.config
    if config.runtime != "ray":
        return [skipped("runtime inline runs without Ray")]
    try:
        from student_trainer.ray_runtime import cluster, placement
    except ImportError as fault:
        return [
            error(
                f"Ray is not installed ({fault})",
                "pip install 'imitkd[trainer]', or runtime=inline",
            )
        ]
    joined = cluster.connect()
    try:
        nodes, resources = cluster.resources()
        demand = placement.plan(config, nodes, resources, cluster.home()).demand
    finally:
        joined.close()
    where = os.environ.get("RAY_ADDRESS", "a local one")
    lacking = demand.lacks(resources.get("CPU", 0)) if demand is not None else ""
    if demand is not None and lacking:
        waits = f"the run waits {config.room_timeout_s:.0f} s for more (room_timeout_s)"
        return [warning(f"{lacking}; {waits}", demand.remedy)]
    shown = f"{resources.get('CPU', 0):.0f} CPUs, {resources.get('GPU', 0):.0f} GPUs"
    return [
        ok(
            f"{where}: {nodes} node{'s' * (nodes != 1)}, {shown}; {config.workers} workers and the "
            "learner fit",
            nodes=nodes,
            cpus=resources.get("CPU", 0),
            gpus=resources.get("GPU", 0),
        )
    ]

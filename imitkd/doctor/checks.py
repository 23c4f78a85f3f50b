"""The checks in their order: what is quick and what others need comes first."""

from __future__ import annotations

from imitkd.doctor import agreement, data, directory, duration, files, machine, sizing, teacher
from imitkd.doctor.examination import Check

CHECKS = (
    Check("output", files.place),
    Check("device", machine.device),
    # Before the first connection: Ray starts processes, which gRPC's threads remark upon.
    Check("ray", machine.ray),
    Check("teacher", teacher.reachable),
    Check("health", teacher.healthy),
    Check("replicas", teacher.agree),
    Check("vocabulary", teacher.vocabulary),
    Check("identity", teacher.identity),
    Check("limits", teacher.limits),
    Check("disk", files.space),
    Check("lines", data.lines),
    Check("overlap", data.overlap),
    Check("lengths", data.lengths),
    Check("pieces", data.pieces),
    Check("answers", teacher.answers),
    Check("directory", directory.find),
    Check("scores", agreement.scores),
    Check("divergence", agreement.divergence),
    Check("duration", duration.duration),
    Check("sizing", sizing.sizing),
)

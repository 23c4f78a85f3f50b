"""The learner's other processes as Ray actors, and the room that all of them reserve.

They are actors, not children of the learner's process, since Ray alone gives out devices of several
machines. They meet over torch's own sockets: on loopback where Ray is of this machine alone, else
at the addresses by which Ray knows the nodes.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from seq2seq.errors import UserError
from seq2seq.vocabulary import Vocabulary
from student_trainer.config import RunConfig
from student_trainer.data_parallel import Place
from student_trainer.follower import Follower
from student_trainer.ray_runtime import cluster
from student_trainer.ray_runtime.outcomes import value_of
from student_trainer.ray_runtime.placement import Placement
from student_trainer.ray_runtime.room import LOOK_S, Room

_log = logging.getLogger(__name__)


class FollowerActor:
    """A :class:`~student_trainer.follower.Follower` in a process of its own, on its own device."""

    def __init__(self, config: RunConfig, vocabulary: Vocabulary) -> None:
        self._config, self._vocabulary = config, vocabulary

    def prepare(self) -> int:
        """Build the model; this process's id."""
        self._follower = Follower(self._config, self._vocabulary)
        return os.getpid()

    def follow(self, place: Place) -> None:
        """Take part until the leader is gone."""
        if not isinstance(place.meeting, Path):
            place = replace(place, address=ray.util.get_node_ip_address())
        self._follower.follow(place)


class Followers:
    """All processes of a learner but the leader.

    Attributes:
        leader_options: with which the leader is started, so that it takes its part of the room.
    """

    def __init__(
        self, config: RunConfig, vocabulary: Vocabulary, place: Placement, room: Room
    ) -> None:
        """Reserve room for all processes, and start these.

        Raises:
            UserError: no nodes have had the room free for as long as may be waited for it.
        """
        self._size = config.learner_processes
        self._room = _reserve(place.bundles, room)
        self.leader_options = place.learner | _within(self._room, 0)
        self._actors: list[Any] = [
            ray.remote(FollowerActor)
            .options(**place.follower | _within(self._room, rank))
            .remote(config, vocabulary)
            for rank in range(1, self._size)
        ]
        self._preparing = [actor.prepare.remote() for actor in self._actors]
        self._following: list[cluster.Ref] = []
        # Its owner alone may enter: who can write the file can join.
        self._directory = tempfile.TemporaryDirectory(prefix="learner-")

    def sent_to(self, leader: Any) -> Place:
        """Have them wait for the leader; its own place among them."""
        mine = Place(0, self._size, Path(self._directory.name) / "meeting")
        if cluster.is_joined():
            host, port = value_of(leader.free_port.remote())
            mine = replace(mine, meeting=(host, port), address=host)
        for rank, actor in enumerate(self._actors, 1):
            self._following.append(actor.follow.remote(replace(mine, rank=rank)))
        return mine

    def wait_ready(self) -> None:
        """Return when all are about to join.

        Raises:
            UserError: one died while starting.
        """
        try:
            for preparing in self._preparing:
                value_of(preparing)
        except RayActorError as error:
            raise UserError(
                f"a process of the learner died while starting ({cluster.first_line(error)}); look "
                "at the machines' memory, or lower learner_processes"
            ) from error

    def processes(self) -> list[int]:
        """Their process ids, by rank."""
        return [value_of(preparing) for preparing in self._preparing]

    def close(self) -> None:
        """End them, and say which ended by themselves."""
        for rank, following in enumerate(self._following, 1):
            try:
                if ray.wait([following], timeout=0)[0]:
                    value_of(following)
            except Exception as error:
                _log.error("process %d of the learner: %s", rank, cluster.first_line(error))
        for actor in self._actors:
            ray.kill(actor)
        if self._room is not None:
            remove_placement_group(self._room)
        self._directory.cleanup()


def _reserve(bundles: list[dict[str, float]], room: Room) -> PlacementGroup | None:
    """Room for all, on as few nodes as can be."""
    if not bundles:
        return None
    group = placement_group(bundles, strategy="PACK")
    end = time.monotonic() + room.patience_s
    try:
        while not group.wait(LOOK_S):
            room.look()
            if time.monotonic() > end:
                raise UserError(
                    f"the Ray cluster had no room for the learner's {len(bundles)} processes for "
                    f"{room.patience_s:.0f} s ({bundles[-1]} each); lower learner_processes or add "
                    "nodes"
                )
    except BaseException:
        remove_placement_group(group)
        raise
    return group


def _within(room: PlacementGroup | None, rank: int) -> dict[str, Any]:
    """Options of the process with this rank."""
    if room is None:
        return {}
    inside = PlacementGroupSchedulingStrategy(room, placement_group_bundle_index=rank)
    return {"scheduling_strategy": inside}

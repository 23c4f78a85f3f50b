"""The processes of one learner: how they meet, what goes between them, how gradients are summed.

::

    leader, rank 0 --- portion of each batch --> followers       named tensors, over gloo
    all            <-- sum of the gradients  --> all             gloo on CPUs, NCCL on CUDA

The leader is the learner that the rest of the program knows: it alone takes batches, reports,
publishes, evaluates and writes files. What followers hold they were sent, so one that is gone takes
nothing with it: the run ends as if the learner had died, and goes on from its checkpoint.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors.torch import load, save
from torch import Tensor, distributed, nn

from seq2seq.errors import UserError
from student_trainer.config import RunConfig

LOOPBACK = "127.0.0.1"
# All start together and have about equal work: one that is this late is dead or out of reach.
ANSWER_S = 300
# The next batch may take its time: shards are written, the student is evaluated.
_NEVER = timedelta(days=365)
_SIZE, _DATA = range(2)

# A file that all processes see, on one machine; or a free port of the leader's.
Meeting: TypeAlias = "Path | tuple[str, int]"


@dataclass(frozen=True)
class Place:
    """A process's place in the group.

    Attributes:
        rank: from 0, the leader.
        size: processes of the group.
        meeting: where they find each other.
        address: of this process's machine, where it listens for the others.
    """

    rank: int
    size: int
    meeting: Meeting
    address: str = LOOPBACK


def devices(config: RunConfig) -> list[str]:
    """The device of each process on one machine, by rank."""
    count = config.learner_processes
    if config.device == "cpu" or count == 1:
        return [config.device] * count
    return [f"{config.device}:{rank}" for rank in range(count)]


class Group:
    """This process among those of its learner.

    Every method raises UserError where another process is gone, or late by ``ANSWER_S``.
    """

    def __init__(self, place: Place, device: str = "cpu") -> None:
        """Meet the others; returns when all are there.

        Args:
            device: of this process's gradients; the group owns it for its collectives.
        """
        if not distributed.is_available():
            raise UserError("torch is built without torch.distributed; set learner_processes=1")
        self.rank, self.size = place.rank, place.size
        self._under_way: list[tuple[Any, Tensor]] = []
        with _reached():
            store = _store(place)
            self._gloo = _gloo(store, place)
            self._nccl: Any = _nccl(store, place, device) if device != "cpu" else None

    def send(self, tensors: dict[str, Tensor], *ranks: int) -> None:
        """Send named tensors to followers; returns before they have arrived."""
        data = torch.frombuffer(bytearray(save(tensors)), dtype=torch.uint8)
        size = torch.tensor([len(data)])
        with _reached():
            for rank in ranks:
                for tag, tensor in ((_SIZE, size), (_DATA, data)):
                    sending = self._gloo.send([tensor], rank, tag)
                    self._under_way.append((sending, tensor))

    def receive(self) -> dict[str, Tensor] | None:
        """What the leader sends next, however long that takes; None where it is gone."""
        size = torch.zeros(1, dtype=torch.int64)
        try:
            self._gloo.recv([size], 0, _SIZE).wait(_NEVER)
            data = torch.empty(int(size), dtype=torch.uint8)
            self._gloo.recv([data], 0, _DATA).wait()
        except RuntimeError:
            return None
        found: dict[str, Tensor] = load(data.numpy().tobytes())
        return found

    def sum(self, tensor: Tensor) -> None:
        """Put the sum over all processes in the tensor's place, the same bits in each."""
        with _reached():
            while self._under_way:
                self._under_way.pop()[0].wait()
            on_cpu = tensor.device.type == "cpu"
            (self._gloo if on_cpu else self._nccl).allreduce([tensor]).wait()


class SummedGradients:
    """The gradients of all parameters in one buffer, which one call sums over the group."""

    def __init__(self, model: nn.Module, group: Group) -> None:
        """Have the parameters' gradients lie in the buffer; they must not be set to None."""
        self._group = group
        parameters = list(model.parameters())
        sizes = [parameter.numel() for parameter in parameters]
        self._flat = torch.zeros(sum(sizes), device=parameters[0].device)
        for parameter, part in zip(parameters, self._flat.split(sizes), strict=True):
            parameter.grad = part.view_as(parameter)

    def clear(self) -> None:
        """Begin a step."""
        self._flat.zero_()

    def sum(self, loss: float) -> float:
        """Sum the gradients over all processes; the sum of the losses.

        The losses go first, over gloo, which tells of a dead process at once.
        """
        total = torch.tensor([loss], dtype=torch.float64)
        self._group.sum(total)
        self._group.sum(self._flat)
        return float(total)


def _store(place: Place) -> Any:
    if isinstance(place.meeting, Path):
        store: Any = distributed.FileStore(str(place.meeting), place.size)
        store.set_timeout(timedelta(seconds=ANSWER_S))
        return store
    host, port = place.meeting
    return distributed.TCPStore(
        host,
        port,
        place.size,
        is_master=place.rank == 0,
        timeout=timedelta(seconds=ANSWER_S),
        wait_for_workers=False,
    )


def _gloo(store: Any, place: Place) -> Any:
    """A group of its own, not the process's default one: that listens where the host's name leads,
    and there can be one alone."""
    gloo: Any = distributed.ProcessGroupGloo
    options = gloo._Options()
    options._devices = [gloo.create_device(hostname=place.address)]
    options._timeout = timedelta(seconds=ANSWER_S)
    return gloo(distributed.PrefixStore("gloo", store), place.rank, place.size, options)


def _nccl(store: Any, place: Place, device: str) -> Any:
    if not distributed.is_nccl_available():
        raise UserError("torch is built without NCCL; set learner_processes=1 or device=cpu")
    if torch.device(device).index is not None:
        torch.cuda.set_device(device)
    options = distributed.ProcessGroupNCCL.Options()
    options._timeout = timedelta(seconds=ANSWER_S)
    store = distributed.PrefixStore("nccl", store)
    return distributed.ProcessGroupNCCL(store, place.rank, place.size, options)


@contextlib.contextmanager
def _reached() -> Iterator[None]:
    """A fault of torch.distributed inside the block is that of a process out of reach."""
    try:
        yield
    except RuntimeError as error:
        told = str(error).strip().splitlines()[0].partition(". ")[0].rpartition("] ")[2]
        raise UserError(
            f"a process of the learner died, or gave no answer for {ANSWER_S} s ({told}); look at "
            "the machines' memory, then continue with --resume"
        ) from error

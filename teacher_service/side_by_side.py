"""A bounded number of things at once on an event loop, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

A = TypeVar("A")
T = TypeVar("T")


async def side_by_side(
    work: Callable[[A], Awaitable[T]], arguments: Iterable[A], most: int
) -> list[T]:
    """``work`` of every argument, ``most`` at once, results in order; the first fault ends all."""
    waiting = list(arguments)
    if len(waiting) == 1:  # what most calls are: no task of its own
        return [await work(waiting[0])]
    slots = asyncio.Semaphore(most)

    async def bounded(argument: A) -> T:
        async with slots:
            return await work(argument)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(bounded(argument)) for argument in waiting]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]

"""Trigger: a source of events from outside, and what it can tell a job.

A trigger is an object with one method, `watch`. Yours and the built-in ones are alike:

    class Maintenance:
        async def watch(self, job):
            while not Path("/run/maintenance").exists():
                await asyncio.sleep(1)
            await job.migrate(time_remaining=30)

    Shop(triggers=[Maintenance()]).run()
"""

from __future__ import annotations

from typing import Literal, Protocol

from ..events import Event

Preemption = Literal["aws", "aws-rebalance", "gcp", "azure"]
"""The clouds whose notices are understood; ``aws-rebalance`` also heeds recommendations."""


class Watched(Protocol):
    """What a trigger can tell a job: the part of `Job` that it is meant to use."""

    async def migrate(self, time_remaining: float | None = None) -> None:
        """The machine is about to go, in so many seconds where that is known."""

    async def abort(self) -> None:
        """A graceful stop was asked for."""

    async def try_checkpoint(self) -> None:
        """Save now what has changed."""

    async def emit(self, event: Event) -> None:
        """Bring an event to its listeners."""


class Trigger(Protocol):
    """A source of events from outside."""

    async def watch(self, job: Watched) -> None:
        """Tell `job` what is coming. It runs beside the work, and is cancelled when the job ends.

        It may return when there is nothing more to tell. Where it raises, that is in the log, and
        the work goes on without it.
        """

"""Feeder: keeps the queue's window filled from the store, and sees when the crawl is finished."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from ..clock import Clock
from ..errors import StoreError
from ..job import Job
from ..queue import RequestQueue
from ..stores.base import Claim
from .allowance import Allowance

STORE_REST = 0.05
"""Seconds between two looks at a store that is in trouble."""
SOON = 0.05
"""Seconds in which requests may end that keep a share of a host from being given away."""
LOOK_AGAIN = 5.0
"""Seconds after which a worker of several looks into the store, whatever it was told or not."""
IDLE_REST = 0.02
"""Seconds between two claims, of which the first brought nothing, where other workers are busy."""


class Feeder:
    """Brings requests from the store into the queue until there is nothing left anywhere.

    Args:
        clock: The run's clock.
        job: The life of the run.
        queue: What is to be fed.
        allowance: How many more pages may be begun.
        arrived: Called with each host that comes to this worker, where there are several.

    Attributes:
        is_seeded: All that the crawl begins with is enqueued.
        is_finished: There is nothing left, neither here nor in the store nor with other workers.
    """

    def __init__(
        self,
        clock: Clock,
        job: Job,
        queue: RequestQueue,
        allowance: Allowance,
        arrived: Callable[[str], None],
    ) -> None:
        self._clock = clock
        self._job = job
        self._queue = queue
        self._allowance = allowance
        self._arrived = arrived
        self._brought_nothing = False
        self._hastening: asyncio.Task[None] | None = None
        self.is_seeded = False
        self.is_finished = False

    def seeded(self) -> None:
        """All that the crawl begins with is enqueued."""
        self.is_seeded = True
        self._queue.hungry.set()

    def hasten(self) -> None:
        """Another worker waits for what the next checkpoint says: take it soon.

        Not after the end: the last checkpoint comes at once by itself.
        """
        if self._queue.is_closed:
            return
        if self._hastening is None or self._hastening.done():
            self._hastening = asyncio.create_task(self._checkpoint_soon())

    async def _checkpoint_soon(self) -> None:
        await asyncio.sleep(SOON)
        if self._job.can_save and not self._job.is_stopping:
            await self._job.try_checkpoint()

    async def feed(self) -> None:
        """Do it, until the crawl is finished or stopped; then the queue is closed."""
        listening = None
        if self._job.store.is_shared:
            listening = asyncio.create_task(self._listen())
        try:
            while not (self._job.is_stopping or self.is_finished):
                await self._hunger()
                await self._feed_once()
            # Before anything else can run: what is put back after the end is refused, not left.
            self._queue.close()
        finally:
            for beside in (listening, self._hastening):
                if beside is not None:
                    beside.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await beside

    async def _hunger(self) -> None:
        """Wait until there is a reason to look into the store.

        What other workers do is no event of this process. Should their news not come through, a
        worker that has nothing would otherwise wait for them for ever.
        """
        hungry = self._queue.hungry
        if not self._job.store.is_shared:
            await hungry.wait()
        else:
            try:
                async with asyncio.timeout(LOOK_AGAIN):
                    await hungry.wait()
            except TimeoutError:
                self._queue.look_again()
        hungry.clear()

    async def _feed_once(self) -> None:
        queue, job = self._queue, self._job
        if queue.is_starving and job.can_save:
            await job.try_checkpoint()
        changes = queue.changes
        claim = await self._claim()
        if claim is None:
            await asyncio.sleep(STORE_REST)
            queue.hungry.set()
            return
        if job.store.is_shared:
            for host in {lease.host for lease in claim.leases}:
                if not queue.has(host):
                    self._arrived(host)
        queue.fill(claim)
        self._brought_nothing = not claim.leases
        is_done = claim.is_exhausted and queue.is_settled and changes == queue.changes
        self.is_finished = self.is_seeded and (is_done or self._allowance.is_spent)
        if self._brought_nothing and job.store.is_shared and not self.is_finished:
            await self._give_back()
            await asyncio.sleep(IDLE_REST)

    async def _give_back(self) -> None:
        """Let others do what this worker has nothing for.

        Only once what the claim has said is used: a commit may come before this is done, and then
        there is more in the store than the claim has seen. And not while the next commit brings
        work, since without an allowance nobody is in a hurry for that commit.
        """
        if not self._queue.is_settled:
            return
        try:
            await self._allowance.give_back()
        except StoreError as error:
            self._job.trouble(error)

    async def _claim(self) -> Claim | None:
        """Requests from the store; `None` while the store is in trouble."""
        if not self._job.can_save:
            # What is done cannot be written down, so nothing more is begun.
            return None
        try:
            await self._allowance.refill()
            limit, window = self._queue.wants()
            return await self._job.store.claim(limit, window, self._clock.now())
        except StoreError as error:
            self._job.trouble(error)
            return None

    async def _listen(self) -> None:
        """Look again when other workers have brought work, or have done the last of it."""
        while True:
            try:
                await self._job.store.news()
            except StoreError as error:
                self._job.trouble(error)
                await asyncio.sleep(STORE_REST)
            if self._brought_nothing:
                self._queue.look_again()

"""Saving: the checkpoints of a job, and the way back from them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from ..checkpoint import Checkpoint, Loader
from ..clock import Clock
from ..errors import StoreFencedError, StoreStaleError, StoreWriteError
from ..events import EventBus, Persistent, PersistState
from ..output import append
from ..stores.base import Receipt, Store
from ..workers.merging import Merges
from .stopping import Stopping
from .trouble import REST, Trouble

LAST_ATTEMPTS = 3
"""How often the last checkpoint is tried."""


class Saving:
    """Takes checkpoints of the parts on the bus, and restores the parts from the last one.

    A checkpoint that cannot be written is kept, and is written before the next one is taken.

    Args:
        bus: Where the parts are registered.
        store: Where checkpoints go.
        clock: The run's clock.
        stopping: Whether the job was told to stop.
        trouble: What is known of the store's trouble.
    """

    def __init__(
        self, bus: EventBus, store: Store, clock: Clock, stopping: Stopping, trouble: Trouble
    ) -> None:
        self._bus = bus
        self._store = store
        self._clock = clock
        self._stopping = stopping
        self._trouble = trouble
        self._loader: Loader | None = None
        self._merges = Merges(lambda: bus.parts)
        self._listeners: list[Callable[[Checkpoint, Receipt], None]] = []
        self._turn = asyncio.Lock()
        self._unwritten: Checkpoint | None = None
        self._uncollected: Exception | None = None

    # -- the way back -----------------------------------------------------------------------------

    async def begin(self) -> None:
        """Restore every part that is registered. Before that, nothing has changed."""
        self._loader = Loader(await self._store.load())
        for name, part in self._bus.parts.items():
            self._restore(self._loader, name, part)

    def add(self, name: str, part: Persistent) -> None:
        """Save `part` under `name`, and restore it: when the job begins, or at once after that."""
        self._bus.register(name, part)
        if self._loader is not None:
            self._restore(self._loader, name, part)

    def _restore(self, loader: Loader, name: str, part: Persistent) -> None:
        loader.restore(name, part)
        if self._store.is_shared:
            self._merges.restore(name, loader.snapshot)

    # -- one checkpoint ---------------------------------------------------------------------------

    def on_commit(self, listener: Callable[[Checkpoint, Receipt], None]) -> None:
        """Call `listener` with each checkpoint that was committed, and its receipt."""
        self._listeners.append(listener)

    async def checkpoint(self, *, is_migrating: bool, deadline: float | None = None) -> None:
        """Commit everything that changed since the last checkpoint; see `Job.checkpoint`."""
        # In a task of its own: a commit that was begun ends, even if the one who asked is gone.
        saving = asyncio.create_task(self._checkpoint(is_migrating, deadline))
        saving.add_done_callback(_take_note)
        await asyncio.shield(saving)

    async def _checkpoint(self, is_migrating: bool, deadline: float | None) -> None:
        async with self._turn:
            if self._uncollected is not None:
                raise self._uncollected
            await self._write_what_is_left()
            await self._bus.emit(PersistState(is_migrating), deadline=deadline)
            checkpoint = Checkpoint(at=self._clock.now(), is_migrating=is_migrating)
            # What the parts hand over without the one that failed is no instant of the run. It goes
            # with this process, and the next one starts from the last checkpoint.
            self._uncollected = self._bus.collect(checkpoint)
            if self._uncollected is not None:
                raise self._uncollected
            # In trouble, also one with nothing in it: a store works again when it takes something.
            if checkpoint or not self._trouble.is_over:
                await self._write(checkpoint)

    async def commit_apart(self, checkpoint: Checkpoint) -> None:
        """Commit a checkpoint that no part has collected; see `Job.commit_apart`."""
        saving = asyncio.create_task(self._commit_apart(checkpoint))
        saving.add_done_callback(_take_note)
        await asyncio.shield(saving)

    async def _commit_apart(self, checkpoint: Checkpoint) -> None:
        async with self._turn:
            await self._write_what_is_left()
            await self._write(checkpoint)

    async def _write_what_is_left(self) -> None:
        if self._unwritten is not None:
            # Who has asked for one that is refused was told that it could not be written.
            with contextlib.suppress(StoreStaleError):
                await self._write(self._unwritten)

    async def _write(self, checkpoint: Checkpoint) -> None:
        if self._store.is_shared and self._unwritten is None:
            self._merges.prepare(checkpoint)
        self._unwritten = checkpoint
        if checkpoint.appends:
            await asyncio.to_thread(append, checkpoint.appends)
        try:
            receipt = await self._store.commit(checkpoint)
        except StoreStaleError:
            self._unwritten = None
            for listener in self._listeners:
                listener(checkpoint, Receipt())
            raise
        self._unwritten = None
        try:
            if checkpoint.merges:
                self._merges.settle(checkpoint, receipt)
        finally:
            # Also where a user's part cannot take what was merged: it is committed all the same.
            for listener in self._listeners:
                listener(checkpoint, receipt)

    # -- when it is taken -------------------------------------------------------------------------

    async def attempt(self, *, is_migrating: bool = False) -> None:
        """Take a checkpoint; a failure is the store's trouble."""
        if self._loader is None:
            return  # nothing is open yet, so nothing has changed
        try:
            await self.checkpoint(is_migrating=is_migrating)
        except Exception as error:
            self._trouble.report(error)
        else:
            self._trouble.end()

    async def every(self, interval: float) -> None:
        """Take a checkpoint every so many seconds, for as long as this is let run."""
        while True:
            await asyncio.sleep(interval)
            await self.attempt()

    async def settle(self) -> None:
        """Take a checkpoint, and come back once one was taken: for those who would fill memory."""
        await self.attempt()
        # A commit that works sets nothing that could be awaited, and this is a rare sight.
        while not (self._trouble.is_over or self._stopping.is_told):  # noqa: ASYNC110
            await asyncio.sleep(REST)

    async def at_last(self) -> None:
        """The last checkpoint. It has a few attempts, as nobody comes after it.

        Raises:
            StoreError: It could not be written.
        """
        if isinstance(self._stopping.failure, StoreFencedError):
            return  # what it would hold is another worker's to do
        for attempt in range(LAST_ATTEMPTS):
            try:
                await self.checkpoint(
                    is_migrating=self._stopping.is_told, deadline=self._stopping.last_patience
                )
                return
            except StoreWriteError:
                if attempt + 1 == LAST_ATTEMPTS or self._stopping.failure is not None:
                    raise
                await asyncio.sleep(0.1 * 4**attempt)


def _take_note(saving: asyncio.Task[None]) -> None:
    # Where the one who asked is gone, asyncio would print a traceback of what the next checkpoint
    # reports anyway.
    if not saving.cancelled():
        saving.exception()

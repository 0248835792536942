"""Job: the life of a run.

It opens the store, restores the parts, takes a checkpoint every second, listens to what is coming
from outside, and ends with an exit code that tells the truth. A crawler runs inside one; so can any
other asyncio program.

Nothing here depends on an orderly end. What a killed process has committed is there, and what it
has not is done again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any, Self, TypeVar

from .checkpoint import Checkpoint
from .clock import Clock
from .events import Aborting, Event, EventBus, Exit, Listener, Migrating, Persistent
from .running.measuring import Pulse, measure
from .running.presence import Presence
from .running.saving import Saving
from .running.stopping import Stopping
from .running.trouble import Trouble
from .stores import open_store
from .stores.base import Receipt, Store
from .triggers.base import Preemption, Trigger
from .triggers.lastmoment import EXIT_UNFINISHED
from .triggers.usual import usual_triggers
from .triggers.watching import Watching
from .values import State, Values

P = TypeVar("P", bound=Persistent)
T = TypeVar("T")

EXIT_FINISHED = 0


class Job:
    """A run in progress: events, checkpoints, and state that outlives the process.

        async with crawlkit.Job("runs/import") as job:
            done = job.state.setdefault("done", 0)
            for line in lines[done:]:
                await load(line)
                job.state["done"] += 1

    Leaving the block commits the last checkpoint. A job that was told to stop meanwhile (SIGTERM,
    Ctrl-C, a platform) cancels the block once the grace is over, and then raises `SystemExit` with
    code 75, so that the process is started again. A block that would rather stop by itself looks at
    `is_stopping`.

    Args:
        store: A directory, another address that `open_store` knows, or a `Store`.
        persist_interval: Seconds between checkpoints.
        grace: Seconds until the process is to be gone after the job was told to stop. Running work
            has them but for a reserve for saving, as `Options.grace` says.
        fresh: Throw away what the run held.
        store_patience: Seconds for which a checkpoint that cannot be written is tried again before
            the job gives up. Nothing is lost either way.
        durability: ``normal`` or ``full``, see `SqliteStore`.
        clock: The run's clock.
        signals: Whether to listen to SIGTERM and Ctrl-C.
        triggers: Further sources of events from outside, see `Trigger`.
        preemption: The cloud whose notices of preemption are heeded: ``aws``, ``aws-rebalance``
            (its recommendations, too), ``gcp`` or ``azure``.
        mirror: Where a copy of an embedded run is kept, from which another machine can go on: a
            directory, or ``s3://bucket/path``.
        mirror_interval: Seconds between two shipments to the mirror.
        worker: The name of this worker, where several write one run.
        lease: Seconds for which what the worker has stays its own without a sign of life from it.

    Attributes:
        bus: Where events go through.
        state: A dict of JSON-like values that is restored at the start.
        clock: The run's clock.
        store: The open store.
        pulse: When the event loop was last seen to go on.
    """

    def __init__(
        self,
        store: str | os.PathLike[str] | Store = "runs/job",
        *,
        persist_interval: float = 1.0,
        grace: float = 10.0,
        fresh: bool = False,
        store_patience: float = 30.0,
        durability: Any = "normal",
        clock: Clock | None = None,
        signals: bool = True,
        triggers: Iterable[Trigger] = (),
        preemption: Preemption | None = None,
        mirror: str | None = None,
        mirror_interval: float = 5.0,
        worker: str = "",
        lease: float | None = None,
    ) -> None:
        self.clock = clock or Clock()
        self.bus = EventBus()
        self.pulse = Pulse()
        self.store = (
            store
            if isinstance(store, Store)
            else open_store(
                str(store),
                durability=durability,
                worker=worker,
                lease=lease,
                mirror=mirror,
                mirror_interval=mirror_interval,
            )
        )
        self.state = State()
        self._values = Values(self.store.document)
        self._persist_interval = persist_interval
        self._grace = grace
        self._fresh = fresh
        self._listens = signals
        self._watching = Watching([*usual_triggers(preemption), *triggers])
        self._stopping = Stopping(self.bus)
        self._trouble = Trouble(self._stopping, store_patience)
        self._saving = Saving(self.bus, self.store, self.clock, self._stopping, self._trouble)
        self._presence = Presence(self.store, self._stopping, self._trouble)
        self._is_migrating = False
        self._background: list[asyncio.Task[None]] = []
        self._notices: set[asyncio.Task[None]] = set()
        self.persist("state", self.state)
        self.persist("values", self._values)
        if self.store.is_shared:  # else what was saved last is known also once it is closed
            self.on_commit(lambda checkpoint, receipt: self._values.settle())

    # -- for the user -------------------------------------------------------------------------

    def on(self, event: str, listener: Listener) -> None:
        """Call `listener`, plain or async, with or without the event, at every `event`."""
        self.bus.on(event, listener)

    def off(self, event: str, listener: Listener | None = None) -> None:
        """Stop calling `listener`, or every listener of the event where none is named."""
        self.bus.off(event, listener)

    def persist(self, name: str, part: P) -> P:
        """Save `part` with every checkpoint under `name`, and restore it; returns it.

        It is restored when the job opens, or at once where it is open already.
        """
        self._saving.add(name, part)
        return part

    async def get_value(self, key: str, default: Any = None) -> Any:
        """The value that was kept under `key`, in this life or an earlier one."""
        return await self._values.get(key, default)

    async def set_value(self, key: str, value: Any) -> None:
        """Keep a JSON-like value under `key`: durable with the next checkpoint. `None` removes it.

        Raises:
            UsageError: JSON cannot hold it.
        """
        self._values.set(key, value)

    @property
    def is_stopping(self) -> bool:
        """Whether the job was told to stop: begin nothing new."""
        return self._stopping.is_told

    @property
    def is_migrating(self) -> bool:
        """Whether the machine is about to go: there is no time for what can be done later."""
        return self._is_migrating

    async def stopping(self) -> None:
        """Wait until the job is told to stop."""
        await self._stopping.told()

    # -- opening and closing ------------------------------------------------------------------

    async def open(self, *, fresh: bool = False, signals: bool = True) -> None:
        """Open the store and restore every part that is registered.

        Args:
            fresh: Throw away what the run held.
            signals: Whether to listen to SIGTERM and Ctrl-C.

        Raises:
            StoreError: The run cannot be opened; nothing was changed.
        """
        # First, as it may take long to open a large run: what comes meanwhile is heard, and the end
        # of the grace is kept.
        await self._watching.begin(self, grace=self._grace if signals else None)
        try:
            await self.store.open(fresh=fresh)
            try:
                await self._saving.begin()
            except BaseException:
                await self.store.close()
                raise
        except BaseException:
            await self._watching.end(self._stopping.last_patience)
            self._watching.let_go()
            raise
        for work in (
            self._saving.every(self._persist_interval),
            measure(self.emit, self.pulse),
            self._presence.keep(),
        ):
            self._background.append(asyncio.create_task(work))

    async def close(self, *, finished: bool) -> int:
        """Commit the last checkpoint and close the store; the exit code.

        Args:
            finished: Whether the work is done.

        Raises:
            StoreError: The last checkpoint could not be written.
        """
        # Who was told of something may finish reacting to it; the rest has no end of its own.
        if self._notices:
            await asyncio.wait(self._notices, timeout=self._stopping.last_patience)
        for task in (*self._background, *self._notices):
            task.cancel()
        await asyncio.gather(*self._background, *self._notices, return_exceptions=True)
        code = EXIT_FINISHED if finished else EXIT_UNFINISHED
        try:
            await self._saving.at_last()
            await self.store.ship(self._stopping.time_to_ship)
            await self.bus.emit(Exit(code), deadline=self._stopping.last_patience)
        finally:
            await self._watching.end(self._stopping.last_patience)
            try:
                await self.store.close()
            finally:
                self._watching.let_go()
        return code

    async def __aenter__(self) -> Self:
        await self.open(fresh=self._fresh, signals=self._listens)
        self._stopping.will_interrupt(asyncio.current_task())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        body = self._stopping.let_go()
        is_told_to_stop = self.is_stopping and (
            error is None or isinstance(error, asyncio.CancelledError)
        )
        if is_told_to_stop and body is not None and error is not None:
            body.uncancel()
        code = await self.close(finished=error is None and not self.is_stopping)
        if self.failure is not None:
            raise self.failure
        if is_told_to_stop:
            raise SystemExit(code)

    # -- stopping -----------------------------------------------------------------------------

    def stop(self, grace: float | None = None) -> None:
        """Tell the job to stop: begin nothing new, finish what runs within `grace` seconds."""
        self._stopping.within(self._grace if grace is None else grace)

    async def migrate(self, time_remaining: float | None = None) -> None:
        """The machine is about to go: tell everyone, commit, and stop.

        Args:
            time_remaining: Seconds that are left, where the trigger says it.
        """
        self._is_migrating = True
        grace = self._grace if time_remaining is None else min(self._grace, time_remaining)
        self._stop_within(grace)
        # In a task of its own, for which the end of the job waits, and not for the trigger.
        await asyncio.shield(self._notify(self._leave(time_remaining)))

    async def _leave(self, time_remaining: float | None) -> None:
        await self.bus.emit(Migrating(time_remaining))
        await self.try_checkpoint(is_migrating=True)

    async def abort(self) -> None:
        """A graceful stop was asked for: tell everyone, and stop."""
        self._stop_within(self._grace)
        await asyncio.shield(self._notify(self.bus.emit(Aborting())))

    def _stop_within(self, grace: float) -> None:
        self._stopping.within_grace(grace)
        self._watching.end_within(grace)

    @property
    def grace_left(self) -> float:
        """Seconds that running work still has; infinite while nobody has asked to stop."""
        return self._stopping.grace_left

    @property
    def failure(self) -> Exception | None:
        """Why the job cannot go on, if it cannot."""
        return self._stopping.failure

    # -- checkpoints --------------------------------------------------------------------------

    def on_commit(self, listener: Callable[[Checkpoint, Receipt], None]) -> None:
        """Call `listener` with each checkpoint that was committed, and its receipt. For parts."""
        self._saving.on_commit(listener)

    @property
    def can_save(self) -> bool:
        """Whether the store works, as far as is known. Claim no new work while it does not."""
        return self._trouble.is_over

    async def checkpoint(
        self, *, is_migrating: bool = False, deadline: float | None = None
    ) -> None:
        """Commit everything that changed since the last checkpoint.

        A checkpoint that cannot be written is kept, and is written before the next one is taken.

        Args:
            is_migrating: Whether the machine is about to go.
            deadline: Seconds that each listener of `persistState` has.

        Raises:
            StoreWriteError: It could not be written. Nothing is lost; it is tried again.
            StoreError: The store is beyond repair.
            Exception: What a part raised that could not be collected. There is no checkpoint after
                that: the run stays at its last one.
        """
        await self._saving.checkpoint(is_migrating=is_migrating, deadline=deadline)

    async def commit_apart(self, checkpoint: Checkpoint) -> None:
        """Commit a checkpoint that no part has collected, after what was kept of earlier ones.

        One that cannot be written is kept, as every other one.

        Raises:
            StoreWriteError: It could not be written; it comes before the next one.
            StoreStaleError: It was refused, and is forgotten.
            StoreError: The store is beyond repair.
        """
        await self._saving.commit_apart(checkpoint)

    async def try_checkpoint(self, *, is_migrating: bool = False) -> None:
        """Take a checkpoint; a failure is left to `trouble`."""
        await self._saving.attempt(is_migrating=is_migrating)

    async def settle(self) -> None:
        """Take a checkpoint, and come back once one was taken: for those who would fill memory."""
        await self._saving.settle()

    # -- the store, in trouble or silent ------------------------------------------------------

    def trouble(self, error: Exception) -> None:
        """Something could not be saved or read: stop the job, with patience where that may help."""
        self._trouble.report(error)

    async def patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What the store answers; it is asked again while it is in trouble.

        Raises:
            StoreError: The store is beyond repair, or was in trouble for too long.
        """
        return await self._trouble.patiently(ask)

    @property
    def is_overdue(self) -> bool:
        """Whether what this worker has may be another one's by now, as far as this one knows."""
        return self._presence.is_overdue

    async def be_heard(self) -> None:
        """Have the store confirm that this worker still has what it had, or be told to stop.

        A process that was frozen, or whose store was away, begins nothing new before that: its
        hosts may be asked by another worker, and must not be asked by both.
        """
        await self._presence.confirm()

    # -- events -------------------------------------------------------------------------------

    async def emit(self, event: Event) -> None:
        """Bring an event to its listeners, if there are any."""
        if self.bus.listens(event.name):
            await self.bus.emit(event)

    def tell(self, event: Event) -> None:
        """Bring an event to its listeners, if there are any, without waiting for them."""
        if self.bus.listens(event.name):
            self._notify(self.bus.emit(event))

    def _notify(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._notices.add(task)
        task.add_done_callback(self._notices.discard)
        return task

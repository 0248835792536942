"""Job: the life of a run.

It opens the store, restores the parts, takes a checkpoint every second, listens to what is coming
from outside, and ends with an exit code that tells the truth. A crawler runs inside one; so can any
other asyncio program.

Nothing here depends on an orderly end. What a killed process has committed is there, and what it
has not is done again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from math import inf
from types import TracebackType
from typing import Any, Self, TypeVar

from .checkpoint import Checkpoint, Loader
from .clock import Clock
from .errors import StoreError, StoreFencedError, StoreStaleError, StoreWriteError, one_line
from .events import (
    Aborting,
    Event,
    EventBus,
    Exit,
    Listener,
    Migrating,
    Persistent,
    PersistState,
    SystemInfo,
)
from .machine import Machine
from .output import append
from .stores import open_store
from .stores.base import Receipt, Store
from .triggers.base import Preemption, Trigger
from .triggers.signals import EXIT_UNFINISHED
from .triggers.usual import usual_triggers
from .triggers.watching import Watching
from .values import State, Values
from .workers.merging import Merges

log = logging.getLogger("crawlkit.job")

P = TypeVar("P", bound=Persistent)
T = TypeVar("T")

EXIT_FINISHED = 0
RESERVE = 0.25
"""Share of the grace that is kept for the last checkpoint and the end of the process."""
LEAST_RESERVE = 0.5
"""Seconds that are kept of a short grace, but never more than half of it."""
PROBE = 0.1
"""Seconds between two looks at whether the event loop is late. The worst of a second counts."""


SETTLE_REST = 0.1
"""Seconds between two looks at a store that is in trouble."""


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
        store: A directory, or a `Store`.
        persist_interval: Seconds between checkpoints.
        grace: Seconds that running work has to finish after the job was told to stop.
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

    Attributes:
        bus: Where events go through.
        state: A dict of JSON-like values that is restored at the start.
        clock: The run's clock.
        store: The open store.
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
        self._patience = store_patience
        self._loader: Loader | None = None
        self._merges = Merges(lambda: self.bus.parts)
        self._listens = signals
        self._watching = Watching([*usual_triggers(preemption), *triggers])
        self._on_commit: list[Callable[[Checkpoint, Receipt], None]] = []
        self._saving = asyncio.Lock()
        self._unwritten: Checkpoint | None = None
        self._uncollected: Exception | None = None
        self._failing_since: float | None = None
        self._stopping = asyncio.Event()
        self._is_migrating = False
        self._deadline: float | None = None
        self._reserve = inf
        self._failure: Exception | None = None
        self._body: asyncio.Task[Any] | None = None
        self._background: list[asyncio.Task[None]] = []
        self._notices: set[asyncio.Task[None]] = set()
        self.persist("state", self.state)
        self.persist("values", self._values)

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
        self.bus.register(name, part)
        if self._loader is not None:
            self._restore(self._loader, name, part)
        return part

    def _restore(self, loader: Loader, name: str, part: Persistent) -> None:
        loader.restore(name, part)
        if self.store.is_shared:
            self._merges.restore(name, loader.snapshot)

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
        return self._stopping.is_set()

    @property
    def is_migrating(self) -> bool:
        """Whether the machine is about to go: there is no time for what can be done later."""
        return self._is_migrating

    async def stopping(self) -> None:
        """Wait until the job is told to stop."""
        await self._stopping.wait()

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
        await self._watching.begin(self, signals=signals)
        try:
            await self.store.open(fresh=fresh)
            try:
                self._loader = Loader(await self.store.load())
                for name, part in self.bus.parts.items():
                    self._restore(self._loader, name, part)
            except BaseException:
                await self.store.close()
                raise
        except BaseException:
            await self._watching.end(self._last_patience)
            raise
        for work in (self._keep_saving(), self._keep_measuring(), self._keep_lease()):
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
            await asyncio.wait(self._notices, timeout=self._last_patience)
        for task in (*self._background, *self._notices):
            task.cancel()
        await asyncio.gather(*self._background, *self._notices, return_exceptions=True)
        code = EXIT_FINISHED if finished else EXIT_UNFINISHED
        try:
            await self._save_at_last()
            await self.store.ship(self._time_to_ship)
            await self.bus.emit(Exit(code), deadline=self._last_patience)
        finally:
            await self._watching.end(self._last_patience)
            await self.store.close()
        return code

    async def __aenter__(self) -> Self:
        await self.open(fresh=self._fresh, signals=self._listens)
        self._body = asyncio.current_task()
        if self._deadline is not None:  # it was told to stop while it opened
            asyncio.get_running_loop().call_at(self._deadline, self._cancel_body)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        body, self._body = self._body, None
        is_told_to_stop = self.is_stopping and (
            error is None or isinstance(error, asyncio.CancelledError)
        )
        if is_told_to_stop and body is not None and error is not None:
            body.uncancel()
        code = await self.close(finished=error is None and not self.is_stopping)
        if self._failure is not None:
            raise self._failure
        if is_told_to_stop:
            raise SystemExit(code)

    # -- stopping -----------------------------------------------------------------------------

    def stop(self, grace: float | None = None) -> None:
        """Tell the job to stop: begin nothing new, finish what runs within `grace` seconds."""
        seconds = self._grace if grace is None else grace
        deadline = asyncio.get_running_loop().time() + max(0.0, seconds)
        self._deadline = deadline if self._deadline is None else min(deadline, self._deadline)
        self._stopping.set()
        if self._body is not None:
            asyncio.get_running_loop().call_at(self._deadline, self._cancel_body)

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
        """Stop, and have something of the grace left for the last checkpoint.

        A listener that hangs may take some of the grace, not all of it: one that is called while
        pages finish may take the time of the reserve, one that is called in the reserve a part.
        """
        reserve = reserve_of(grace)
        self.stop(grace - reserve)
        self.bus.hurry(reserve)
        self._reserve = min(self._reserve, reserve)
        self._watching.end_within(grace)

    @property
    def _last_patience(self) -> float:
        """Seconds that listeners have once the work has ended."""
        return min(self.bus.deadline, self._reserve / 4)

    @property
    def _time_to_ship(self) -> float | None:
        """Seconds that the last checkpoint has to get elsewhere; `None` where nobody waits."""
        return None if self._reserve == inf else self.grace_left + self._reserve / 2

    @property
    def grace_left(self) -> float:
        """Seconds that running work still has; infinite while nobody has asked to stop."""
        if self._deadline is None:
            return inf
        return max(0.0, self._deadline - asyncio.get_running_loop().time())

    def _cancel_body(self) -> None:
        if self._body is not None:
            self._body.cancel()

    # -- checkpoints --------------------------------------------------------------------------

    def on_commit(self, listener: Callable[[Checkpoint, Receipt], None]) -> None:
        """Call `listener` with each checkpoint that was committed, and its receipt. For parts."""
        self._on_commit.append(listener)

    @property
    def can_save(self) -> bool:
        """Whether the store works, as far as is known. Claim no new work while it does not."""
        return self._failing_since is None

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
        # In a task of its own: a commit that was begun ends, even if the one who asked is gone.
        saving = asyncio.create_task(self._save(is_migrating, deadline))
        saving.add_done_callback(_take_note)
        await asyncio.shield(saving)

    async def _save(self, is_migrating: bool, deadline: float | None) -> None:
        async with self._saving:
            if self._uncollected is not None:
                raise self._uncollected
            await self._write_what_is_left()
            await self.bus.emit(PersistState(is_migrating), deadline=deadline)
            checkpoint = Checkpoint(at=self.clock.now(), is_migrating=is_migrating)
            # What the parts hand over without the one that failed is no instant of the run. It goes
            # with this process, and the next one starts from the last checkpoint.
            self._uncollected = self.bus.collect(checkpoint)
            if self._uncollected is not None:
                raise self._uncollected
            if checkpoint:
                await self._write(checkpoint)

    async def commit_apart(self, checkpoint: Checkpoint) -> None:
        """Commit a checkpoint that no part has collected, after what was kept of earlier ones.

        One that cannot be written is kept, as every other one.

        Raises:
            StoreWriteError: It could not be written; it comes before the next one.
            StoreStaleError: It was refused, and is forgotten.
            StoreError: The store is beyond repair.
        """
        saving = asyncio.create_task(self._save_apart(checkpoint))
        saving.add_done_callback(_take_note)
        await asyncio.shield(saving)

    async def _save_apart(self, checkpoint: Checkpoint) -> None:
        async with self._saving:
            await self._write_what_is_left()
            await self._write(checkpoint)

    async def _write_what_is_left(self) -> None:
        if self._unwritten is not None:
            # Who has asked for one that is refused was told that it could not be written.
            with contextlib.suppress(StoreStaleError):
                await self._write(self._unwritten)

    async def _write(self, checkpoint: Checkpoint) -> None:
        if self.store.is_shared and self._unwritten is None:
            self._merges.prepare(checkpoint)
        self._unwritten = checkpoint
        if checkpoint.appends:
            await asyncio.to_thread(append, checkpoint.appends)
        try:
            receipt = await self.store.commit(checkpoint)
        except StoreStaleError:
            self._unwritten = None
            for listener in self._on_commit:
                listener(checkpoint, Receipt())
            raise
        self._unwritten = None
        if checkpoint.merges:
            self._merges.settle(checkpoint, receipt)
        for listener in self._on_commit:
            listener(checkpoint, receipt)

    async def try_checkpoint(self, *, is_migrating: bool = False) -> None:
        """Take a checkpoint; a failure is left to `trouble`."""
        if self._loader is None:
            return  # nothing is open yet, so nothing has changed
        try:
            await self.checkpoint(is_migrating=is_migrating)
        except Exception as error:
            self.trouble(error)
        else:
            if self._failing_since is not None:
                log.info("the store works again, and nothing was lost")
            self._failing_since = None

    async def settle(self) -> None:
        """Take a checkpoint, and come back once one was taken: for those who would fill memory."""
        await self.try_checkpoint()
        # A commit that works sets nothing that could be awaited, and this is a rare sight.
        while not (self.can_save or self.is_stopping):  # noqa: ASYNC110
            await asyncio.sleep(SETTLE_REST)

    async def patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What the store answers; it is asked again while it is in trouble.

        Raises:
            StoreError: The store is beyond repair, or was in trouble for too long.
        """
        while True:
            try:
                return await ask()
            except StoreWriteError as error:
                self.trouble(error)
                if self._failure is not None or self.is_stopping:
                    raise
            await asyncio.sleep(SETTLE_REST)

    def trouble(self, error: Exception) -> None:
        """Something could not be saved or read: stop the job, with patience where that may help."""
        now = asyncio.get_running_loop().time()
        if not isinstance(error, StoreWriteError):
            self._fail(error)
        elif self._failing_since is None:
            self._failing_since = now
            log.error("%s; nothing is lost, trying again", one_line(error))
        elif now - self._failing_since >= self._patience:
            self._fail(error)

    async def _save_at_last(self) -> None:
        """The last checkpoint. It has a few attempts, as nobody comes after it."""
        if isinstance(self._failure, StoreFencedError):
            return  # what it would hold is another worker's to do
        for attempt in range(3):
            try:
                await self.checkpoint(is_migrating=self.is_stopping, deadline=self._last_patience)
                return
            except StoreWriteError:
                if attempt == 2 or self._failure is not None:
                    raise
                await asyncio.sleep(0.1 * 4**attempt)

    def _fail(self, error: Exception) -> None:
        if self._failure is None:
            self._failure = error
            self.stop(0.0)

    @property
    def failure(self) -> Exception | None:
        """Why the job cannot go on, if it cannot."""
        return self._failure

    # -- in the background --------------------------------------------------------------------

    async def _keep_saving(self) -> None:
        while True:
            await asyncio.sleep(self._persist_interval)
            await self.try_checkpoint()

    @property
    def is_overdue(self) -> bool:
        """Whether what this worker has may be another one's by now, as far as this one knows."""
        return time.monotonic() - self.store.heard >= self.store.lease

    async def be_heard(self) -> None:
        """Have the store confirm that this worker still has what it had, or be told to stop.

        A process that was frozen, or whose store was away, begins nothing new before that: its
        hosts may be asked by another worker, and must not be asked by both.
        """
        while self.is_overdue and not self.is_stopping:
            try:
                await self.store.extend()
            except StoreError as error:
                self.trouble(error)
                await asyncio.sleep(SETTLE_REST)

    async def _keep_lease(self) -> None:
        """Be heard of, however long it takes until there is something to save."""
        if not self.store.is_shared:
            return
        while True:
            await asyncio.sleep(self.store.lease / 3)
            try:
                await self.store.extend()
            except StoreError as error:
                self.trouble(error)

    async def _keep_measuring(self) -> None:
        loop = asyncio.get_running_loop()
        machine = Machine()
        used, at = time.process_time(), loop.time()
        while True:
            now, delay = at, 0.0
            while now < at + 1.0:
                due = now + PROBE
                await asyncio.sleep(PROBE)
                now = loop.time()
                delay = max(delay, now - due)
            used_before, used = used, time.process_time()
            share = (used - used_before) / (now - at)
            at = now
            memory = machine.memory()
            await self.emit(
                SystemInfo(
                    share,
                    machine.resident(),
                    delay,
                    machine.cores(),
                    None if memory is None else memory.limit,
                    None if memory is None else memory.used,
                )
            )

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


def reserve_of(grace: float) -> float:
    """Seconds of the grace that are not for running work: the last checkpoint has to be written."""
    return max(grace * RESERVE, min(LEAST_RESERVE, grace / 2))


def _take_note(saving: asyncio.Task[None]) -> None:
    # Where the one who asked is gone, asyncio would print a traceback of what the next checkpoint
    # reports anyway.
    if not saving.cancelled():
        saving.exception()

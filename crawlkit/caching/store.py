"""CacheStore: the page cache's writes beside the event loop, and its reads in it.

A read takes ten microseconds, which is less than a thread would cost. Writes may have to wait, for
other processes and for the disk, so a thread of their own makes them: it takes whatever has queued
up and writes it as one transaction, while those who wait for it wait together. What is written then
outlives the process; a loss of power it outlives once the store is closed (`BytesCache.settle`).
Nothing that goes wrong here ends a crawl: what cannot be read is not there, and where nothing can
be written, nothing is, after one warning.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from ..clock import Clock
from ..errors import StoreError
from .disk import MAX_ROWS, BytesCache, Found, Row
from .folder import locked, open_cache, set_aside
from .known import KnownKeys

log = logging.getLogger("crawlkit.cache")

TOUCH_AFTER = 3600.0
"""Seconds for which a value counts as just used, so that a hit costs a write once an hour."""
MAX_TOUCHED = 256
"""Values whose use is noted in memory before it is written down."""
EVICT_EVERY = 1.0
"""Seconds between two looks at the size."""

Job: TypeAlias = Callable[[BytesCache], object]
"""What the thread does for somebody, in its transaction."""


class CacheStore:
    """Bytes under keys of bytes, on disk, shared with other processes.

    Args:
        directory: Where; it is made when something is first needed from it.
        size_limit: Bytes that it may use. What was used least recently goes first.
        clock: What use is timed by.
    """

    def __init__(self, directory: str | os.PathLike[str], *, size_limit: int, clock: Clock) -> None:
        self.directory = Path(directory)
        self._size_limit = size_limit
        self._clock = clock
        self._cache: BytesCache | None = None
        self._known = KnownKeys(self.directory)
        self._last_key = b""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._queue: queue.SimpleQueue[list[_Task] | None] = queue.SimpleQueue()
        self._outbox: list[_Task] = []
        self._opening: asyncio.Future[None] | None = None
        self._ending: asyncio.Future[None] | None = None
        self._touched: list[int] = []
        self._reader: sqlite3.Connection | None = None
        self._evicted_at = 0.0
        self._is_readable = False
        self._is_writable = False

    @property
    def is_open(self) -> bool:
        """Whether `open` has come to its end, and `close` was not called."""
        return self._opening is not None and self._opening.done()

    @property
    def is_writable(self) -> bool:
        """Whether what is written is kept: not before `open`, nor once the disk has failed."""
        return self._is_writable

    async def open(self) -> None:
        """Open the directory, and start the thread. More than one call is as good as one."""
        if self._opening is None:
            self._loop = asyncio.get_running_loop()
            self._opening = self._loop.create_future()
            self._ending = self._loop.create_future()
            self._thread = threading.Thread(target=self._run, name="crawlkit-cache", daemon=True)
            self._thread.start()
        # A caller that is cancelled must not cancel the others.
        await asyncio.shield(self._opening)

    async def close(self) -> None:
        """Write what is left, and end the thread."""
        thread, self._thread = self._thread, None
        if thread is None or self._ending is None:
            return
        self._flush_touched()
        self._hand_over()
        self._queue.put(None)
        try:
            await asyncio.shield(self._ending)
        finally:
            self._is_readable = self._is_writable = False
            self._known.leave()
            self._opening = None
            if self._cache is not None:
                self._stop_reading(self._cache)
        thread.join()

    # -- reading: in the event loop -----------------------------------------------------------

    def look_up(self, key: bytes) -> Found | None:
        """What is stored under a key, but its value where that is large; see `read_whole`."""
        if not self._is_readable or self._cache is None or self._known.lack(key):
            return None
        try:
            if self._reader is None:
                self._reader = self._cache.connection()
            found = self._cache.look_up(self._reader, key)
        except sqlite3.OperationalError as error:
            # Another process is changing more than rows. It is a miss, not a damage.
            log.debug("the page cache in %s: %s", self.directory, error)
            return None
        except (sqlite3.Error, OSError) as error:
            self._is_readable = False
            self._stop_reading(self._cache)
            self._put(_Task(lambda cache: None, damage=str(error)))
            return None
        if found is not None and self._clock.now() - found.accessed > TOUCH_AFTER:
            self._touched.append(found.rowid)
            if len(self._touched) >= MAX_TOUCHED:
                self._flush_touched()
        return found

    async def read_whole(self, key: bytes) -> bytes | None:
        """What is stored under a key, of any size, without holding up the loop."""
        result: list[bytes | None] = [None]

        def read(cache: BytesCache) -> None:
            result[0] = cache.read_whole(key)

        await self._do(read, is_reading=True)
        return result[0]

    def _stop_reading(self, cache: BytesCache) -> None:
        """Close the connection of the event loop; the thread closes its own."""
        self._reader = None
        cache.close()

    def _flush_touched(self) -> None:
        if self._touched and self._is_writable:
            rowids, now = self._touched, self._clock.now()
            self._put(_Task(lambda cache: cache.touch_rows(rowids, now)))
        self._touched = []

    # -- writing: in the thread ---------------------------------------------------------------

    async def write(self, key: bytes, make: Callable[[], bytes], expires: float | None) -> bool:
        """Keep a value; returns when it outlives the process, or never will.

        Args:
            key: Its first byte says of which kind it is.
            make: Gives the value, in the thread.
            expires: Unix time after which it may go, or ``None``.

        Returns:
            Whether it is kept.
        """
        self._known.add(key)
        return await self._do(_Write(key, make, expires))

    async def delete_prefix(self, prefix: bytes) -> bool:
        """Remove every value whose key begins so."""
        return await self._do(lambda cache: cache.delete_prefix(prefix))

    async def clear(self) -> bool:
        """Remove everything."""
        return await self._do(lambda cache: cache.delete_rows())

    async def measure(self) -> dict[bytes, tuple[int, int]]:
        """Number and bytes of the values of each kind."""
        result: dict[bytes, tuple[int, int]] = {}
        await self._do(lambda cache: result.update(cache.kinds()), is_reading=True)
        return result

    async def _do(self, job: Job | _Write, *, is_reading: bool = False) -> bool:
        is_possible = self._is_readable if is_reading else self._is_writable
        if not is_possible or self._loop is None:
            return False
        done: asyncio.Future[bool] = self._loop.create_future()
        self._put(_Task(job, done, is_reading=is_reading))
        return await done

    def _put(self, task: _Task) -> None:
        """Give it to the thread, with all that comes in this turn of the loop: waking is dear."""
        self._outbox.append(task)
        if len(self._outbox) == 1 and self._loop is not None:
            self._loop.call_soon(self._hand_over)

    def _hand_over(self) -> None:
        tasks, self._outbox = self._outbox, []
        if tasks:
            self._queue.put(tasks)

    def _run(self) -> None:
        """The thread."""
        try:
            self._cache, told = open_cache(self.directory, self._size_limit)
            if told:
                log.warning(
                    "the page cache in %s was damaged (%s); it was put aside there as "
                    "cache.db.damaged, and begins empty",
                    self.directory,
                    told,
                )
            with locked(self.directory):
                self._known.join()
            self._is_readable = self._is_writable = True
        except StoreError as error:
            log.warning("%s; the crawl goes on without it", error)
        except Exception:  # a bug here must not leave those who wait for it waiting
            log.exception("the page cache in %s is off", self.directory)
        self._tell(_reach, self._opening)
        try:
            while self._serve():
                pass
        finally:
            if self._cache is not None:
                self._end(self._cache)
            self._tell(_reach, self._ending)

    def _wait(self) -> list[_Task] | None:
        """The next tasks; until there are any, more of the keys that are there become known."""
        while self._cache is not None and self._known.is_wanting and self._queue.empty():
            try:
                keys = self._cache.keys_after(self._last_key)
            except sqlite3.Error as error:  # whoever looks something up will see what it is
                log.debug("the page cache in %s: %s", self.directory, error)
                break
            self._last_key = keys[-1] if keys else b""
            self._known.take(keys)
        return self._queue.get()

    def _end(self, cache: BytesCache) -> None:
        if self._is_writable:
            try:
                cache.settle()
            except sqlite3.Error as error:
                log.debug("the page cache in %s: %s", self.directory, error)
        cache.close()

    def _serve(self) -> bool:
        """Wait for tasks, and do all that there are; whether there will be more."""
        tasks: list[_Task] = []
        more = self._wait()
        while more is not None:
            tasks += more
            try:
                more = self._queue.get_nowait()
            except queue.Empty:
                break
        if self._cache is not None and any(task.is_reading for task in tasks):
            self._read(self._cache, [task for task in tasks if task.is_reading])
            tasks = [task for task in tasks if not task.is_reading]
        is_done = self._cache is not None and self._try(self._cache, tasks)
        waiting = [(task.done, is_done and task.is_kept) for task in tasks if task.done is not None]
        if waiting:
            self._tell(_settle, waiting)
        return more is not None

    def _read(self, cache: BytesCache, tasks: list[_Task]) -> None:
        """Do what writes nothing, also where nothing can be written."""
        for task in tasks:
            try:
                task.job(cache)  # type: ignore[operator]
            except sqlite3.Error as error:
                log.debug("the page cache in %s: %s", self.directory, error)
        self._tell(_settle, [(task.done, True) for task in tasks])

    def _try(self, cache: BytesCache, tasks: list[_Task]) -> bool:
        """Do the tasks; whether that outlives the process."""
        if not self._is_writable or not tasks:
            return False
        try:
            damage = next((task.damage for task in tasks if task.damage), "")
            if damage:
                raise sqlite3.DatabaseError(damage)
            self._transact(cache, tasks)
            if time.monotonic() - self._evicted_at > EVICT_EVERY:
                cache.evict(self._size_limit)
                self._evicted_at = time.monotonic()
            return True
        except sqlite3.OperationalError as error:
            if "locked" in str(error) or "busy" in str(error):
                log.debug("the page cache in %s is busy, and misses a page", self.directory)
            else:
                self._give_up(error)
        except sqlite3.DatabaseError as error:
            self._renew(cache, error)
        except Exception as error:
            self._give_up(error)
        return False

    def _transact(self, cache: BytesCache, tasks: list[_Task]) -> None:
        now = self._clock.now()
        # Large bodies are compressed here, before other processes are kept from writing.
        steps = [self._made(task) if isinstance(task.job, _Write) else task.job for task in tasks]
        rows: dict[bytes, Row] = {}
        if len(steps) <= MAX_ROWS and all(isinstance(step, Row) for step in steps):
            # One statement is a transaction by itself, and all that a crawl does most of the time.
            rows = {step.key: step for step in steps if isinstance(step, Row)}
            cache.write(list(rows.values()), now)
            return
        with cache.writing():
            for step in steps:
                if isinstance(step, Row):
                    rows[step.key] = step
                elif step is not None:
                    cache.write(list(rows.values()), now)
                    rows.clear()
                    step(cache)
            cache.write(list(rows.values()), now)

    def _made(self, task: _Task) -> Row | None:
        """What to write for a task, or ``None`` where it is not kept."""
        write = task.job
        assert isinstance(write, _Write)
        try:
            value = write.make()
        except Exception:
            log.exception("a page is not kept in the page cache in %s", self.directory)
            task.is_kept = False
            return None
        if len(value) > self._size_limit // 4:
            task.is_kept = False
            return None
        return Row(write.key, value, write.expires)

    def _give_up(self, error: Exception) -> None:
        self._is_writable = False
        log.warning(
            "nothing more is written to the page cache in %s (%s); the crawl goes on without it",
            self.directory,
            error,
        )

    def _renew(self, cache: BytesCache, error: Exception) -> None:
        """Begin anew in place of a database that is damaged."""
        self._is_readable = False
        cache.close()
        try:
            set_aside(self.directory, cache.file)
            self._cache, _ = open_cache(self.directory, self._size_limit)
        except (StoreError, OSError) as failure:
            self._give_up(failure)
            return
        log.warning(
            "the page cache in %s is damaged (%s); it was put aside as cache.db.damaged, and is "
            "empty",
            self.directory,
            error,
        )
        self._tell(self._reopened, cache)

    def _reopened(self, damaged: BytesCache) -> None:
        """Read from the new database, in the event loop."""
        self._stop_reading(damaged)
        self._is_readable = self._is_writable

    def _tell(self, function: Callable[..., object], *values: object) -> None:
        """Call a function in the event loop."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it is closed, and nobody waits any more
                self._loop.call_soon_threadsafe(function, *values)


class _Write:
    """A value to be kept."""

    __slots__ = ("expires", "key", "make")

    def __init__(self, key: bytes, make: Callable[[], bytes], expires: float | None) -> None:
        self.key = key
        self.make = make
        self.expires = expires


class _Task:
    """A job, and who waits for it."""

    __slots__ = ("damage", "done", "is_kept", "is_reading", "job")

    def __init__(
        self,
        job: Job | _Write,
        done: asyncio.Future[bool] | None = None,
        *,
        damage: str = "",
        is_reading: bool = False,
    ) -> None:
        self.job = job
        self.done = done
        self.damage = damage
        self.is_kept = True
        self.is_reading = is_reading


def _settle(waiting: list[tuple[asyncio.Future[bool] | None, bool]]) -> None:
    for future, is_done in waiting:
        if future is not None and not future.done():
            future.set_result(is_done)


def _reach(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)

"""MirroredStore: an embedded run that is shipped elsewhere while it goes on.

Every few seconds the store's thread reads from the database's log what came since the last time,
which takes a few milliseconds, and another thread ships it as a segment. A snapshot, which is a
copy of the whole, goes first, and where there is a gap.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from ...checkpoint import Checkpoint
from ...clock import isoformat
from ...errors import MirrorTakenError, StoreError, UsageError, one_line
from ..base import Claim, Receipt
from ..bundle import Bundle
from ..directory import Record
from ..sqlite import SqliteStore
from .backlog import Backlog
from .note import MirrorNote, read_note
from .places import Directory, place_of
from .records import Changes, Header
from .restoring import restore
from .shipping import Shipping

log = logging.getLogger("crawlkit.mirror")

T = TypeVar("T")

MOST_REST = 60.0
"""Seconds between two attempts to reach it."""
SNAPSHOT = "mirror-snapshot.new"
"""A copy of the database in the run's directory, while a snapshot is shipped."""
PATIENCE = 30.0
"""Seconds for the last shipment of a run that is not told to go."""
ATTEMPTS = 3
"""How often a start tries to reach the mirror, with a second in between."""
TAKEOVERS = 10
"""How often a start tries to become the mirror's writer where others are quicker."""


class MirroredStore(SqliteStore):
    """A run in a directory, and a mirror of it.

    Args:
        path: The run's directory.
        mirror: The mirror's address: a directory, ``file://``, or ``s3://bucket/path``.
        interval: Seconds between two shipments; what a machine that is lost without notice costs.
        durability: As for `SqliteStore`.
    """

    def __init__(
        self,
        path: str,
        *,
        mirror: str,
        interval: float = 5.0,
        durability: Literal["normal", "full"] = "normal",
    ) -> None:
        super().__init__(path, durability=durability)
        place = place_of(mirror)
        if isinstance(place, Directory) and place.path.resolve() == Path(path).resolve():
            raise UsageError(
                f"the mirror {mirror} is the directory of the run itself; name another one, on a "
                "disk that outlives this machine"
            )
        self._shipping = Shipping(place)
        self._interval = interval
        self._shipper: ThreadPoolExecutor | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._background: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()
        self._taken: MirrorTakenError | None = None
        self._turn = asyncio.Lock()
        self._is_ending = False
        self._failures = 0
        self._mirrored = MirrorNote(self._shipping.place.address, "", [])
        self._backlog = Backlog(self.directory.log, self._commits, self._database.merge_log)

    # -- the contract -----------------------------------------------------------------------------

    async def open(self, *, fresh: bool = False) -> None:  # noqa: D102 - documented in Store
        await super().open(fresh=fresh)
        self._shipper = ThreadPoolExecutor(1, "crawlkit-mirror")
        self._loop = asyncio.get_running_loop()
        self._background = asyncio.create_task(self._keep_shipping())

    def claim_into(self, *args: Any, **given: Any) -> Claim:  # noqa: D102 - in SqliteStore
        self._refuse_if_taken()
        return super().claim_into(*args, **given)

    def commit_from(self, claimed: dict[int, Bundle], checkpoint: Checkpoint) -> Receipt:  # noqa: D102
        self._refuse_if_taken()
        try:
            receipt = super().commit_from(claimed, checkpoint)
        except BaseException:
            self._backlog.failed()
            raise
        if checkpoint.is_migrating and self._loop is not None:
            # So that little is left to be shipped at the end.
            self._loop.call_soon_threadsafe(self._wanted.set)
        return receipt

    async def ship(self, within: float | None = None) -> None:  # noqa: D102
        if self._shipper is None or self._background is None:
            return
        self._is_ending = True
        self._wanted.set()
        try:
            async with asyncio.timeout(PATIENCE if within is None else within):
                # It is not cancelled: what it has in hand would be lost.
                await asyncio.wait({self._background})
                self._refuse_if_taken()
                while not await self._ship():  # noqa: ASYNC110 - there is nothing to wait for
                    await asyncio.sleep(0.2)
        except TimeoutError:
            pass
        behind = await self.do(self._behind)
        if behind:
            log.warning(
                "the mirror %s is %d checkpoints behind: they are in %s only; start there, and "
                "they are shipped",
                self._shipping.place.address,
                behind,
                self.address,
            )

    async def close(self) -> None:  # noqa: D102
        if self._background is not None:
            self._background.cancel()
            await asyncio.wait({self._background})
            self._background = None
        if self._shipper is not None:
            # What still waits for an answer has nobody to tell it to.
            self._shipper.shutdown(wait=False, cancel_futures=True)
            self._shipper = None
        await super().close()

    def _refuse_if_taken(self) -> None:
        if self._taken is not None:
            raise self._taken

    # -- opening, in the store's thread -----------------------------------------------------------

    def _prepare(self, fresh: bool) -> None:
        """Become the mirror's writer; and restore the run from it where that is to be."""
        shipping, directory = self._shipping, self.directory
        address = shipping.place.address
        note = read_note(directory.path)
        (directory.path / SNAPSHOT).unlink(missing_ok=True)
        has_run = directory.database.exists() and not fresh
        self._reached(shipping.confirm)
        for _ in range(TAKEOVERS):
            last = self._reached(shipping.survey)
            is_own = bool(note and last and last.writer in note.writers and not note.is_restoring)
            if last and has_run and not (note and note.lineage == last.lineage):
                raise StoreError(
                    f"the run in {self.address} is not the one in the mirror {address}; choose "
                    "another --mirror or --store, or start both anew with --fresh"
                )
            own = MirrorNote(
                address=address,
                lineage=uuid.uuid4().hex if fresh or last is None else last.lineage,
                writers=[*([last.writer] if last and is_own else []), shipping.writer],
                commits=note.commits if note else 0,
                # A mirror without a whole run in it is no reason to throw away a local one.
                is_restoring=bool(last and not fresh)
                and not (has_run and (is_own or not (last and last.snapshot))),
                ended=note.ended if note and is_own else "",
            )
            # First, so that a process that is killed right after the takeover is known as ours.
            own.write(directory.path, sync=True)
            if self._reached(partial(shipping.take_over, last, own.lineage)):
                break
        else:
            raise StoreError(
                f"other machines begin to write the mirror {address} right now; let one of them "
                "do it, or choose another --mirror"
            )
        self._backlog.is_gap = True
        if last and own.is_restoring:
            self._restore(last, "was superseded" if has_run else "is not here")
        own.writers, own.is_restoring = [shipping.writer], False
        own.write(directory.path, sync=True)
        self._mirrored = own

    def _restore(self, last: Header, why: str) -> None:
        address = self._shipping.place.address
        if self._reached(partial(restore, self._shipping.place, last, self.directory)):
            log.info(
                "restored %s, which %s, from the mirror %s: %d checkpoints, the last shipped at %s "
                "by %s",
                self.address,
                why,
                address,
                last.commits,
                isoformat(last.at),
                last.where,
            )
            self._backlog.is_gap = False
        else:
            log.info("the mirror %s does not hold a whole run yet: starting anew", address)

    def _reached(self, work: Callable[[], T]) -> T:
        """Do something with the mirror, which may not be reached at the first attempt."""
        for attempt in range(ATTEMPTS):
            try:
                return work()
            except OSError as error:
                if attempt + 1 == ATTEMPTS:
                    reason = str(error) if error.errno is None else one_line(error)
                    raise StoreError(
                        f"the mirror {self._shipping.place.address} cannot be reached: "
                        f"{reason}; mend that, or start without --mirror"
                    ) from None
                time.sleep(1.0)
        raise AssertionError

    def _open(self, fresh: bool) -> None:
        before = self.directory.noted()
        super()._open(fresh)
        shipping = self._shipping
        commits = self._commits()
        if commits < shipping.commits:
            # A loss of power has taken some checkpoints from the disk, and not from the mirror.
            super()._close()
            self.directory.acquire()
            try:
                last = self._reached(shipping.survey)
                assert last is not None
                self._restore(last, "has lost checkpoints")
            finally:
                self.directory.release()
            super()._open(False)
        elif before and commits == shipping.commits and shipping.has_snapshot:
            # It is known to be what the mirror holds only where it was closed in good order.
            ended = self._mirrored.ended
            self._backlog.is_gap &= not ended or ended != _ending(before)
        self._mirrored.ended = ""
        self._backlog.begin(self._database.merge_log())

    def _close(self) -> None:
        has_shipped = self._database.is_open and not self._backlog.is_gap and not self._behind()
        self._backlog.end()
        super()._close()
        if has_shipped and not self._taken:
            self._mirrored.ended = _ending(self._database.record)
            with contextlib.suppress(OSError):
                self._mirrored.write(self.directory.path)

    # -- what there is to ship, in the store's thread ---------------------------------------------

    def _on_merge(self, frames: int) -> None:
        self._backlog.merged(frames)

    def _commits(self) -> int:
        ((commits,),) = self._db.execute("SELECT commits FROM progress")
        return int(commits)

    def _take(self) -> Changes | None:
        with self._database.reading():
            return self._backlog.take()

    def _behind(self) -> int:
        return self._commits() - self._shipping.commits

    def _begin_snapshot(self) -> tuple[sqlite3.Connection, int]:
        """A connection that sees the run as of now, for as long as it is open."""
        with self._database.reading():
            self._backlog.gather()
            uri = f"{self.directory.database.absolute().as_uri()}?mode=ro"
            connection = sqlite3.connect(
                uri, uri=True, isolation_level=None, check_same_thread=False
            )
            connection.execute("BEGIN")
            ((commits,),) = connection.execute("SELECT commits FROM progress")
            self._backlog.snapshot_begins(commits)
            return connection, commits

    # -- shipping ---------------------------------------------------------------------------------

    async def _keep_shipping(self) -> None:
        while not self._is_ending:
            try:
                await self._ship()
            except MirrorTakenError as error:
                log.error("%s", one_line(error))
                self._taken = error
                return
            rest = self._interval * 2 ** min(self._failures, 10)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(rest, max(self._interval, MOST_REST))):
                    await self._wanted.wait()
            self._wanted.clear()

    async def _ship(self) -> bool:
        """Ship what there is; whether the mirror holds it all.

        Raises:
            MirrorTakenError: Another machine goes on with the run.
        """
        async with self._turn:
            return await self._ship_now()

    async def _ship_now(self) -> bool:
        shipping = self._shipping
        try:
            await self._in_shipper(shipping.retry)
            if self._backlog.is_gap:
                await self._ship_snapshot()
            await self._ship_changes()
            if shipping.wants_snapshot:
                await self._ship_snapshot()
        except MirrorTakenError:
            raise
        except Exception as error:
            if not isinstance(error, OSError | StoreError):
                log.exception("shipping to the mirror %s", shipping.place.address)
                self._backlog.is_gap = True  # whatever has happened, a snapshot mends it
            self._failures += 1
            if self._failures == 1:
                log.warning(
                    "the mirror %s cannot be written: %s; the crawl goes on, and the mirror "
                    "catches up later",
                    shipping.place.address,
                    one_line(error),
                )
            return False
        if self._failures:
            log.info("the mirror %s is written again, and holds everything", shipping.place.address)
        self._failures = 0
        return not self._backlog.is_gap

    async def _ship_changes(self) -> None:
        changes = await self.do(self._take)
        if changes:
            await self._in_shipper(self._shipping.ship, changes)
        elif changes is None:
            return
        await self._in_shipper(self._say_how_far)

    async def _ship_snapshot(self) -> None:
        shipping = self._shipping
        await self._in_shipper(shipping.probe)
        copy = self.directory.path / SNAPSHOT
        connection, commits = await self.do(self._begin_snapshot)
        is_gap = self._backlog.is_gap
        try:
            await self._in_shipper(_copy, connection, copy)
            header, steps = await self._in_shipper(shipping.parts, copy, commits)
            for step in steps:
                await self._in_shipper(step)
                if not is_gap:
                    if self._is_ending:
                        return  # it is not needed, and the end of the run is
                    await self._ship_changes()
            if not is_gap:
                await self._ship_changes()
            await self._in_shipper(shipping.complete, header)
        finally:
            copy.unlink(missing_ok=True)
        if is_gap:
            await self.do(self._backlog.snapshot_ended)
        try:
            await self._in_shipper(shipping.prune)
        except OSError as error:
            # It is whole all the same; the next snapshot tries again.
            log.warning(
                "old records of the mirror %s cannot be removed: %s",
                shipping.place.address,
                one_line(error),
            )

    def _say_how_far(self) -> None:
        self._mirrored.commits, self._mirrored.at = self._shipping.commits, time.time()
        self._mirrored.write(self.directory.path)

    async def _in_shipper(self, work: Callable[..., T], *args: Any) -> T:
        assert self._shipper is not None
        return await asyncio.get_running_loop().run_in_executor(self._shipper, work, *args)


def _copy(connection: sqlite3.Connection, path: Path) -> None:
    """Copy what `connection` sees, page by page; it sees nothing else any more."""
    path.unlink(missing_ok=True)
    target = sqlite3.connect(path, isolation_level=None)
    try:
        target.execute("PRAGMA journal_mode = OFF").fetchone()
        target.execute("PRAGMA synchronous = OFF")
        connection.backup(target, pages=2048, sleep=0.0)
    finally:
        target.close()
        connection.close()


def _ending(record: Record) -> str:
    """How a run stands on the disk that was closed in good order; no two of them are alike."""
    return f"{record.log} {record.commits}" if record.state == "closed" else ""

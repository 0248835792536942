"""SqliteStore: a run in a directory, on SQLite.

All work happens in one thread, beside the event loop. Python's sqlite3 gives up the GIL at every
row that it steps over, and waits to get it back from a busy loop; so rows travel as JSON, and every
table is written by one statement, whatever the number of rows.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from ..checkpoint import (
    MAX_DELAY,
    READ_SINGLY,
    Checkpoint,
    Document,
    ErrorGroup,
    Lease,
    Snapshot,
    Ticket,
)
from ..errors import StoreDamagedError, StoreError, StoreWriteError
from ..request import Request, fingerprint
from .base import BUNDLE, Claim, Reader, Receipt, Store
from .bundle import with_host
from .directory import Record, RunDirectory
from .inspection import Inspection
from .reader import open_directory
from .records import RunRecord
from .schema import (
    APPLICATION_ID,
    SQLITE_ERRORS,
    crc,
    create,
    is_unfinished,
    refuse_version,
    unfinished,
)
from .seen import SeenSet
from .sweep import QUEUED
from .transaction import CLAIM_BEST, CLAIM_DUE, UNCLAIMED, Bundle, take_in, write

log = logging.getLogger("crawlkit.store")

T = TypeVar("T")

SYNC = {"normal": "NORMAL", "full": "FULL"}
MERGE_LOG_AT = 16 * 2**20
"""Bytes of write-ahead log after which it is merged into the database."""

_LOADED = " AND ".join(f"name NOT GLOB '{prefix}*'" for prefix in READ_SINGLY)
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_bundles = msgspec.json.Decoder(list[tuple[int, int, str, int, int, int, str]])
_requests = msgspec.json.Decoder(list[Request])


class SqliteStore(Store):
    """A run in a directory: the embedded default.

    Args:
        path: The run's directory.
        durability: ``normal`` survives the death of the process; ``full`` also waits for the disk
            at each commit and so survives a loss of power without going back a few checkpoints.
    """

    def __init__(self, path: str, *, durability: Literal["normal", "full"] = "normal") -> None:
        self.address = str(path)
        self.directory = RunDirectory(path)
        self._durability = durability
        self._thread: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection | None = None
        self._claimed: dict[int, Bundle] = {}
        self._seen = SeenSet()
        self._record = Record()
        self._merged_size = 0

    # -- the contract -----------------------------------------------------------------------------

    async def open(self, *, fresh: bool = False) -> None:  # noqa: D102 - documented in Store
        self._thread = self._thread or ThreadPoolExecutor(1, "crawlkit-store")
        try:
            await self._run(self._open, fresh)
        except BaseException:
            self._end_thread()
            raise

    async def load(self) -> Snapshot:  # noqa: D102
        return await self._run(self._load)

    async def document(self, name: str) -> Document | None:  # noqa: D102
        return await self._run(self._document, name)

    async def claim(self, limit: int, window: Mapping[str, int], now: float) -> Claim:  # noqa: D102
        return await self._run(self._claim, limit, dict(window), now)

    async def commit(self, checkpoint: Checkpoint) -> Receipt:  # noqa: D102
        return await self._run(self._commit, checkpoint)

    async def take_in(self, records: Sequence[RunRecord], *, is_last: bool) -> None:  # noqa: D102
        await self._run(self._take_in, records, is_last)

    def reader(self) -> Reader:  # noqa: D102
        return open_directory(self.address)

    async def release(self) -> None:  # noqa: D102
        await self._run(self._claimed.clear)

    async def close(self) -> None:  # noqa: D102
        if self._thread is not None:
            await self._run(self._close)
            self._end_thread()

    async def _run(self, work: Callable[..., T], *args: Any) -> T:
        if self._thread is None:
            raise StoreError(f"the run in {self.address} is not open")
        # Shielded: the thread cannot be stopped half-way, and what it did must not go unnoticed.
        future = asyncio.get_running_loop().run_in_executor(self._thread, work, *args)
        # And asyncio is not to print what went wrong where nobody waits for it any more.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(future)

    def _end_thread(self) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=True)
            self._thread = None

    # -- opening ----------------------------------------------------------------------------------

    def _open(self, fresh: bool) -> None:
        directory = self.directory
        directory.acquire()
        try:
            if fresh:
                directory.clear()
            self._prepare(fresh)
            if not fresh:
                directory.refuse_if_set_aside()
            if directory.database.exists():
                self._record = self._noted()
            else:
                self._record = Record()
                self._note(pid=os.getpid(), state="open")
                create(directory.database, directory.checksums)
            self._connection = self._connect()
        except BaseException as error:
            directory.release()
            if isinstance(error, sqlite3.Error | OSError):
                raise StoreError(
                    f"cannot open {directory.database}: {error}; check the disk and its permissions"
                ) from None
            raise

    def _prepare(self, fresh: bool) -> None:
        """What has to happen before the run is opened, and in nobody else's way."""

    def _noted(self) -> Record:
        record = self.directory.noted()
        if record is None:
            log.warning(
                "%s/run.lock is missing, damaged or from elsewhere; if the run has lost "
                "checkpoints, that cannot be seen",
                self.address,
            )
        return record or Record(state="unknown")

    def _connect(self) -> sqlite3.Connection:
        connection = None
        try:
            # All that can be known is found out before SQLite touches anything.
            inspection = Inspection(self.directory, self._record)
            inspection.look()
            connection = sqlite3.connect(
                self.directory.database,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=64,
            )
            inspection.confirm(connection)
            self._check_version(connection)
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            connection.execute(f"PRAGMA synchronous = {SYNC[self._durability]}")
            # The log is merged in `_merge_log`, together with the checksums, and never in passing.
            connection.execute("PRAGMA wal_autocheckpoint = 0").fetchone()
            connection.execute("PRAGMA journal_size_limit = 0").fetchone()
            connection.execute("PRAGMA cache_size = -32000")
            connection.execute("PRAGMA temp_store = MEMORY")
            # What was deleted is to be written over when its page is needed, and not at once.
            connection.execute("PRAGMA secure_delete = OFF").fetchone()
            connection.execute("PRAGMA trusted_schema = OFF")
            # Where SQLite could not open a file for writing, it reads on without a word.
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("UPDATE progress SET commits = commits")
            connection.execute("ROLLBACK")
            self._check_progress(connection)
            if is_unfinished(connection):
                raise unfinished(self.address)
            QUEUED.restore(connection)
            self._seen = SeenSet()
        except BaseException as error:
            if connection is not None:
                _close_as_it_is(connection, self.directory.database)
            if isinstance(error, SQLITE_ERRORS) and _is_damage(error):
                raise self.directory.set_aside(str(error)) from None
            raise
        return connection

    def _check_version(self, connection: sqlite3.Connection) -> None:
        if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise sqlite3.DatabaseError("it is not a run of crawlkit")
        refuse_version(self.address, connection)

    def _check_progress(self, connection: sqlite3.Connection) -> None:
        ((commits,),) = connection.execute("SELECT commits FROM progress")
        lost = self._record.commits - commits
        if lost > 0 and commits == 0:
            raise sqlite3.DatabaseError("all of its checkpoints are gone")
        if lost > 0:
            log.warning(
                "%s has lost its last %d checkpoints (a damaged disk, or a loss of power); "
                "the crawl goes on from the one before, and fetches again what came after",
                self.directory.database,
                lost,
            )
        self._merged_size = 0
        self._note(pid=os.getpid(), commits=commits, state="open")

    def _note(self, *, sync: bool = False, **changes: Any) -> None:
        self._record = self._record._replace(**changes)
        self.directory.note(self._record, sync=sync)

    def _close(self) -> None:
        if self._connection is not None:
            state = self._record.state
            try:
                self._merge_log()
            except (*SQLITE_ERRORS, OSError) as error:
                log.warning("merging the log of %s: %s; nothing is lost", self.address, error)
            try:
                if self._record.merge == "done" and self._record.merged == self._record.commits:
                    self._connection.close()  # it removes the log, which is not needed any more
                    state = "closed" if state == "open" else state
                else:
                    _close_as_it_is(self._connection, self.directory.database)
                self._note(state=state)
            except (*SQLITE_ERRORS, OSError) as error:
                log.warning("closing %s: %s; nothing is lost", self.address, error)
            self._connection = None
        self._claimed.clear()
        self.directory.release()

    @property
    def _db(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreError(f"the run in {self.address} is not open")
        return self._connection

    # -- reading back -----------------------------------------------------------------------------

    def _load(self) -> Snapshot:
        with self._reporting():
            documents = {
                name: self._verified(name, version, stored_crc, data)
                for name, version, stored_crc, data in self._db.execute(
                    f"SELECT name, version, crc, data FROM documents WHERE {_LOADED} ORDER BY name"
                )
            }
            counters = dict(
                self._db.execute("SELECT name, value FROM counters WHERE name NOT GLOB 'host/*'")
            )
            errors = tuple(
                ErrorGroup(kind, message, place, count, first_at, last_at, _decode(examples))
                for kind, place, message, count, first_at, last_at, examples in self._db.execute(
                    "SELECT kind, place, message, count, first_at, last_at, examples FROM errors"
                )
            )
            return Snapshot(documents, counters, errors)

    def _document(self, name: str) -> Document | None:
        with self._reporting():
            row = self._db.execute(
                "SELECT name, version, crc, data FROM documents WHERE name = ?", (name,)
            ).fetchone()
            return None if row is None else self._verified(*row)

    def _verified(self, name: str, version: int, stored_crc: int, data: str) -> Document:
        if crc(data) != stored_crc:
            raise sqlite3.DatabaseError(f"the document {name!r} is not what was saved")
        return Document(version, data.encode())

    # -- claiming ---------------------------------------------------------------------------------

    def _claim(self, limit: int, window: dict[str, int], now: float) -> Claim:
        with self._reporting():
            values = {
                "claimed": _encode(list(self._claimed)).decode(),
                "now": now,
                "hosts": _encode({bundle.host for bundle in self._claimed.values()}).decode(),
                "full": _encode([host for host, room in window.items() if room <= 0]).decode(),
                "limit": limit,
                "bundles": -(-limit // BUNDLE),
            }
            leases: list[Lease] = []
            for query, after, until in (
                (CLAIM_DUE, 0.0, now),
                (CLAIM_DUE, now + MAX_DELAY, sys.float_info.max),
                (CLAIM_BEST, None, None),
            ):
                if len(leases) < limit:
                    values |= {"after": after, "until": until}
                    leases += self._leases(self._db.execute(query, values).fetchone()[0])
                    values["claimed"] = _encode(list(self._claimed)).decode()
            leases.sort(key=lambda lease: -lease.request.priority)
            unclaimed, next_due = self._db.execute(UNCLAIMED, values).fetchone()
            return Claim(leases, next_due, not unclaimed)

    def _leases(self, bundles: str) -> list[Lease]:
        leases = []
        for bundle, host_id, host, size, gone, stored_crc, text in _bundles.decode(bundles):
            requests = _requests.decode(text) if crc(text) == stored_crc else []
            if len(requests) != size:
                raise sqlite3.DatabaseError(f"bundle {bundle} is not what was saved")
            self._claimed[bundle] = Bundle(host_id, size, gone)
            for place, request in enumerate(with_host(requests, host)):
                if not gone >> place & 1:
                    ticket = Ticket(bundle, place)
                    leases.append(Lease(request, fingerprint(request), host, ticket))
        return leases

    # -- committing -------------------------------------------------------------------------------

    def _commit(self, checkpoint: Checkpoint) -> Receipt:
        with self._reporting(writing=True):
            self._refuse_if_gone()
            self._roll_back()
            if self._record.merge == "begun":
                # Until it is done, the log has to stay as it is.
                self._merge_log()
            if checkpoint.fresh:
                self._seen.open(self._db)
            self._db.execute("BEGIN IMMEDIATE")
            written = write(self._db, checkpoint, self._claimed, self._seen)
            self._db.execute("COMMIT")
        # It is committed; only now may memory follow.
        self._claimed.update(written.partly)
        for bundle in written.emptied:
            del self._claimed[bundle]
        with contextlib.suppress(OSError):
            # After the commit, so that it is never ahead of a run that is whole. SQLite forgets the
            # end of a log that is damaged, and says nothing; this number shows it.
            self._note(commits=written.commits)
        self._merge_log_if_long()
        return written.receipt

    def _take_in(self, records: Sequence[RunRecord], is_last: bool) -> None:
        with self._reporting(writing=True):
            self._roll_back()
            if not is_unfinished(self._db) and self._record.commits:
                raise StoreError(
                    f"there is a run in {self.address} already; import into another one"
                )
            if self._record.merge == "begun":
                self._merge_log()
            self._seen.open(self._db)
            self._db.execute("BEGIN IMMEDIATE")
            commits = take_in(self._db, records, self._seen, is_last=is_last)
            self._db.execute("COMMIT")
        with contextlib.suppress(OSError):
            self._note(commits=commits)
        self._merge_log_if_long()

    def _refuse_if_gone(self) -> None:
        # SQLite would go on in files that have no name any more.
        if not self.directory.log.path.exists():
            raise sqlite3.OperationalError("it was moved or removed while it was being written")

    def _merge_log_if_long(self) -> None:
        try:
            size = self.directory.log.size()
            if size < self._merged_size:
                self._merged_size = 0  # SQLite began it anew
            if size - self._merged_size >= MERGE_LOG_AT:
                self._merged_size = size
                self._merge_log()
        except (*SQLITE_ERRORS, OSError) as error:
            # The log holds everything. The next commit tries again.
            log.warning("merging the log of %s: %s; nothing is lost", self.address, error)

    def _merge_log(self) -> int:
        """Move what is in the log into the database, as far as no reader looks at an older state.

        Returns how many frames the log has, of which all belong to checkpoints.

        A process may be killed anywhere in here, and a disk may be full. So it is noted first what
        the log has to be until this is done: a part of it would turn some pages back and others
        not. The checksums follow before SQLite can begin the log anew.
        """
        its_log = self.directory.log
        size = its_log.size()
        merged = self._record.commits
        frames = 0
        if size:
            its_log.sync()
            contents = its_log.read(size)
            if self._record.merge == "done":
                self._note(
                    merge="begun", log=its_log.name(), size=size, crc=contents.crc, sync=True
                )
            is_busy, frames, done = self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if is_busy:
                raise sqlite3.OperationalError("another program is merging it")
            size = its_log.size_of(done)
            self.directory.checksums.update(contents.checksums(frames, done))
            if done < frames:
                merged = self._record.merged
            crc = self._record.crc if size == self._record.size else its_log.crc(size)
            self._note(merge="done", size=size, crc=crc, merged=merged, sync=True)
        else:
            self._note(merged=merged)
        return int(frames)

    @contextmanager
    def _reporting(self, *, writing: bool = False) -> Iterator[None]:
        """Turn SQLite's errors into ours, with nothing half-written left behind."""
        try:
            yield
        except (*SQLITE_ERRORS, OSError, msgspec.DecodeError) as error:
            self._roll_back()
            if _is_damage(error):
                with contextlib.suppress(OSError):
                    self._note(state="suspect")
                raise StoreDamagedError(
                    f"{self.directory.database} is damaged ({error}); start again, and it is "
                    "checked whole and put aside"
                ) from None
            what = "write" if writing else "read"
            raise StoreWriteError(
                f"cannot {what} {self.directory.database}: {error}; free or mend the disk"
            ) from None
        except BaseException:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        try:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        except SQLITE_ERRORS:
            log.debug("rolling back", exc_info=True)


def _close_as_it_is(connection: sqlite3.Connection, database: Path) -> None:
    """Close a connection and leave the log alone.

    SQLite merges it, without our checksums, when the last connection is closed. So the last one is
    another, which may only read and therefore cannot.
    """
    last = None
    try:
        last = sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)
        last.execute("PRAGMA user_version").fetchone()
    except SQLITE_ERRORS:
        log.debug("opening %s to close it", database, exc_info=True)
    finally:
        connection.close()
        if last is not None:
            last.close()


_DAMAGE = (
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_ERROR,  # no such table, or a value that is no JSON
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_SCHEMA,
    sqlite3.SQLITE_TOOBIG,
)


def _is_damage(error: Exception) -> bool:
    """Whether the data is wrong, rather than the disk or its permissions."""
    if isinstance(error, OSError):
        return False
    code: int | None = getattr(error, "sqlite_errorcode", None)
    if code is None:  # raised here, or by a decoder
        return not isinstance(error, sqlite3.OperationalError) or "decode" in str(error)
    return code & 0xFF in _DAMAGE

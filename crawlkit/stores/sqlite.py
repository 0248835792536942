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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
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
    Number,
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
from .seen import SMALL_CACHE, SeenSet
from .sweep import QUEUED
from .transaction import (
    CLAIM_BEST,
    CLAIM_DUE,
    FREE_HOSTS,
    UNCLAIMED,
    UNCLAIMED_HOSTS,
    Bundle,
    take_in,
    write,
)

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

    async def do(self, work: Callable[..., T], *args: Any) -> T:
        """Have something done in the store's thread, where all that touches it is done in turn."""
        return await self._run(work, *args)

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
            connection.execute(f"PRAGMA cache_size = -{SMALL_CACHE}")
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

    def load_now(self) -> Snapshot:
        """What the parts saved, in the store's thread."""
        return self._load()

    def document_now(self, name: str) -> Document | None:
        """One document, in the store's thread."""
        return self._document(name)

    def document_names_now(self, start: str) -> list[str]:
        """The names of the documents that begin so, in the store's thread."""
        with self._reporting():
            query = "SELECT name FROM documents WHERE substr(name, 1, length(?1)) = ?1"
            return [name for (name,) in self._db.execute(query, (start,))]

    def counters_now(self, names: Iterable[str] | None = None) -> dict[str, Number]:
        """Counters, in the store's thread: those of these names, or all without a slash."""
        with self._reporting():
            if names is None:
                query = "SELECT name, value FROM counters WHERE name NOT GLOB '*/*'"
                return dict(self._db.execute(query))
            query = (
                "SELECT name, value FROM counters WHERE name IN (SELECT value FROM json_each(?))"
            )
            return dict(self._db.execute(query, (_encode(list(names)).decode(),)))

    def unclaimed_hosts(
        self, hosts: Collection[int], claimed: Collection[int], limit: int
    ) -> list[int]:
        """Of these hosts those with requests that nobody has claimed, in the store's thread."""
        with self._reporting():
            values = (_encode(list(hosts)).decode(), _encode(list(claimed)).decode(), limit)
            return [host for (host,) in self._db.execute(UNCLAIMED_HOSTS, values)]

    # -- claiming ---------------------------------------------------------------------------------

    def _claim(self, limit: int, window: dict[str, int], now: float) -> Claim:
        return self.claim_into(self._claimed, limit, window, now)

    def claim_into(
        self,
        claimed: dict[int, Bundle],
        limit: int,
        window: Mapping[str, int],
        now: float,
        *,
        others: Collection[int] = (),
        foreign: Collection[int] = (),
        workers: int = 1,
    ) -> Claim:
        """Claim in the store's thread, for one of several workers; see `claim`.

        Args:
            claimed: The bundles of the worker; what it claims is added.
            limit: How many requests are wanted.
            window: Hosts and how many more requests of each there is room for.
            now: Unix time.
            others: Bundles of other workers.
            foreign: Hosts, by number, of which other workers have all.
            workers: How many there are. One takes its part of the hosts that nobody has, so that
                the first to come leaves some for the others.
        """
        with self._reporting():
            values = {
                "own": _encode(list(claimed)).decode(),
                "claimed": _encode([*claimed, *others]).decode(),
                "now": now,
                "hosts": _encode({bundle.host for bundle in claimed.values()}).decode(),
                "foreign": _encode(list(foreign)).decode(),
                "full": _encode([host for host, room in window.items() if room <= 0]).decode(),
                "limit": limit,
                "new_hosts": limit,
                "bundles": -(-limit // BUNDLE),
            }
            if workers > 1:
                most = limit * workers
                ((free,),) = self._db.execute(FREE_HOSTS, {**values, "most": most})
                values["new_hosts"] = -(-free // workers)
            leases: list[Lease] = []
            for query, after, until in (
                (CLAIM_DUE, 0.0, now),
                (CLAIM_DUE, now + MAX_DELAY, sys.float_info.max),
                (CLAIM_BEST, None, None),
            ):
                if len(leases) < limit:
                    values |= {"after": after, "until": until}
                    found = self._db.execute(query, values).fetchone()[0]
                    leases += self._leases(claimed, found)
                    values["claimed"] = _encode([*claimed, *others]).decode()
            values["own"] = _encode(list(claimed)).decode()
            leases.sort(key=lambda lease: -lease.request.priority)
            unclaimed, next_due = self._db.execute(UNCLAIMED, values).fetchone()
            return Claim(leases, next_due, not unclaimed)

    def _leases(self, claimed: dict[int, Bundle], bundles: str) -> list[Lease]:
        leases = []
        for bundle, host_id, host, size, gone, stored_crc, text in _bundles.decode(bundles):
            requests = _requests.decode(text) if crc(text) == stored_crc else []
            if len(requests) != size:
                raise sqlite3.DatabaseError(f"bundle {bundle} is not what was saved")
            claimed[bundle] = Bundle(host_id, size, gone)
            for place, request in enumerate(with_host(requests, host)):
                if not gone >> place & 1:
                    ticket = Ticket(bundle, place)
                    leases.append(Lease(request, fingerprint(request), host, ticket))
        return leases

    # -- committing -------------------------------------------------------------------------------

    def _commit(self, checkpoint: Checkpoint) -> Receipt:
        return self.commit_from(self._claimed, checkpoint)

    def commit_from(self, claimed: dict[int, Bundle], checkpoint: Checkpoint) -> Receipt:
        """Commit in the store's thread, for one of several workers; see `commit`.

        Args:
            claimed: The bundles of the worker; those that are done are taken out.
            checkpoint: What it has done.
        """
        with self._reporting(writing=True):
            self._refuse_if_gone()
            self._roll_back()
            if self._record.merge == "begun":
                # Until it is done, the log has to stay as it is.
                self._merge_log()
            if checkpoint.fresh:
                self._seen.open(self._db)
            self._db.execute("BEGIN IMMEDIATE")
            written = write(self._db, checkpoint, claimed, self._seen)
            self._db.execute("COMMIT")
        # It is committed; only now may memory follow.
        claimed.update(written.partly)
        for bundle in written.emptied:
            del claimed[bundle]
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

"""SqliteStore: a run in a directory, on SQLite.

All work happens in one thread, beside the event loop. Python's sqlite3 gives up the GIL at every
row that it steps over, and waits to get it back from a busy loop; so rows travel as JSON, and every
table is written by one statement, whatever the number of rows.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from ..checkpoint import Checkpoint, Document, ErrorGroup, Lease, Snapshot, Ticket
from ..errors import StoreDamagedError, StoreError, StoreVersionError, StoreWriteError
from ..request import Request, fingerprint
from .base import BUNDLE, Claim, Reader, Receipt, Store
from .directory import RunDirectory
from .reader import open_directory
from .schema import APPLICATION_ID, VERSION, crc, create
from .transaction import CLAIM_BEST, CLAIM_DUE, UNCLAIMED, Bundle, write

log = logging.getLogger("crawlkit.store")

T = TypeVar("T")

SYNC = {"normal": "NORMAL", "full": "FULL"}
MERGE_LOG_AT = 16 * 2**20
"""Bytes of write-ahead log after which it is merged into the database."""
CHECK_WHOLE_UP_TO = 64 * 2**20
CHECK_QUICKLY_UP_TO = 512 * 2**20
"""Database sizes in bytes up to which opening checks it, index by index or only page by page."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
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
        self._thread = ThreadPoolExecutor(1, "crawlkit-store")
        self._connection: sqlite3.Connection | None = None
        self._claimed: dict[int, Bundle] = {}
        self._commits = 0
        self._merge_log_at = MERGE_LOG_AT

    # -- the contract -----------------------------------------------------------------------------

    async def open(self, *, fresh: bool = False) -> None:  # noqa: D102 - documented in Store
        await self._run(self._open, fresh)

    async def load(self) -> Snapshot:  # noqa: D102
        return await self._run(self._load)

    async def document(self, name: str) -> Document | None:  # noqa: D102
        return await self._run(self._document, name)

    async def claim(self, limit: int, window: Mapping[str, int], now: float) -> Claim:  # noqa: D102
        return await self._run(self._claim, limit, dict(window), now)

    async def commit(self, checkpoint: Checkpoint) -> Receipt:  # noqa: D102
        return await self._run(self._commit, checkpoint)

    def reader(self) -> Reader:  # noqa: D102
        return open_directory(self.address)

    async def release(self) -> None:  # noqa: D102
        self._claimed.clear()

    async def close(self) -> None:  # noqa: D102
        await self._run(self._close)
        self._thread.shutdown(wait=True)

    async def _run(self, work: Callable[..., T], *args: Any) -> T:
        # Shielded: the thread cannot be stopped half-way, and what it did must not go unnoticed.
        future = asyncio.get_running_loop().run_in_executor(self._thread, work, *args)
        return await asyncio.shield(future)

    # -- opening ----------------------------------------------------------------------------------

    def _open(self, fresh: bool) -> None:
        self.directory.acquire()
        try:
            if fresh:
                self.directory.clear()
            self.directory.refuse_if_set_aside()
            if not self.directory.database.exists():
                create(self.directory.database)
            self._connection = self._connect()
        except BaseException as error:
            self.directory.release()
            if isinstance(error, sqlite3.Error | OSError):
                raise StoreError(
                    f"cannot open {self.directory.database}: {error}; "
                    "check the disk and its permissions"
                ) from None
            raise

    def _connect(self) -> sqlite3.Connection:
        path = self.directory.database
        connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, cached_statements=64
        )
        try:
            size = path.stat().st_size
            if size == 0:
                raise sqlite3.DatabaseError("the file is empty")
            self._check_version(connection)
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            connection.execute(f"PRAGMA synchronous = {SYNC[self._durability]}")
            # The log is merged whole, in `_merge_log`, and never in passing: as long as it exists
            # it is all there, so that a damaged end of it leaves an earlier checkpoint, not a mix.
            connection.execute("PRAGMA wal_autocheckpoint = 0").fetchone()
            connection.execute("PRAGMA cache_size = -32000")
            connection.execute("PRAGMA temp_store = MEMORY")
            if size <= CHECK_QUICKLY_UP_TO:
                check = "integrity_check" if size <= CHECK_WHOLE_UP_TO else "quick_check"
                finding = connection.execute(f"PRAGMA {check}(1)").fetchone()[0]
                if finding != "ok":
                    raise sqlite3.DatabaseError(" ".join(finding.split()))
            self._check_progress(connection)
        except sqlite3.DatabaseError as error:
            connection.close()
            if _is_damage(error):
                raise self.directory.set_aside(str(error)) from None
            raise
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_version(self, connection: sqlite3.Connection) -> None:
        if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise sqlite3.DatabaseError("it is not a run of crawlkit")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise StoreVersionError(
                f"the run in {self.address} was written by a newer crawlkit (format {version}, "
                f"this one reads up to {VERSION}); upgrade crawlkit, or choose another --store"
            )
        if version != VERSION:
            raise sqlite3.DatabaseError(f"there is no format {version}")

    def _check_progress(self, connection: sqlite3.Connection) -> None:
        self._commits = connection.execute("SELECT commits FROM progress").fetchone()[0]
        lost = self.directory.witnessed() - self._commits
        if lost > 0 and self._commits == 0:
            raise sqlite3.DatabaseError("all of its checkpoints are gone")
        if lost > 0:
            log.warning(
                "%s has lost its last %d checkpoints (a damaged disk, or a loss of power); "
                "the crawl goes on from the one before, and fetches again what came after",
                self.directory.database,
                lost,
            )
        self.directory.witness(self._commits)

    def _close(self) -> None:
        if self._connection is not None:
            try:
                self._merge_log()
                self._connection.close()
            except sqlite3.Error as error:
                log.warning("closing %s: %s; nothing is lost", self.directory.database, error)
            self._connection = None
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
                    "SELECT name, version, crc, data FROM documents "
                    "WHERE name NOT GLOB 'values/*' ORDER BY name"
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
            for query in (CLAIM_DUE, CLAIM_BEST):
                if len(leases) < limit:
                    leases += self._leases(self._db.execute(query, values).fetchone()[0])
                    values["claimed"] = _encode(list(self._claimed)).decode()
            unclaimed, next_due = self._db.execute(UNCLAIMED, values).fetchone()
            return Claim(leases, next_due, not unclaimed)

    def _leases(self, bundles: str) -> list[Lease]:
        leases = []
        for bundle, host_id, host, size, gone, stored_crc, text in _decode(bundles):
            if crc(text) != stored_crc:
                raise sqlite3.DatabaseError(f"bundle {bundle} is not what was saved")
            self._claimed[bundle] = Bundle(host_id, size, gone)
            for place, request in enumerate(_requests.decode(text)):
                if not gone >> place & 1:
                    ticket = Ticket(bundle, place)
                    leases.append(Lease(request, fingerprint(request), host, ticket))
        return leases

    # -- committing -------------------------------------------------------------------------------

    def _commit(self, checkpoint: Checkpoint) -> Receipt:
        with self._reporting(writing=True):
            self._db.execute("BEGIN IMMEDIATE")
            written = write(self._db, checkpoint, self._claimed)
            self._db.execute("COMMIT")
        # It is committed; only now may memory follow.
        self._commits = written.commits
        self.directory.witness(written.commits)
        self._claimed.update(written.partly)
        for bundle in written.emptied:
            del self._claimed[bundle]
        self._merge_log_if_long()
        return written.receipt

    def _merge_log_if_long(self) -> None:
        try:
            if Path(f"{self.directory.database}-wal").stat().st_size >= self._merge_log_at:
                self._merge_log()
        except (OSError, sqlite3.Error) as error:
            # The log holds everything; it only grows until the disk is well again.
            log.warning("merging the log of %s: %s; nothing is lost", self.address, error)

    def _merge_log(self) -> None:
        is_busy, _, _ = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        # A reader that holds an old view keeps the log from being emptied: it grows meanwhile, and
        # the next attempt waits for twice its length.
        size = Path(f"{self.directory.database}-wal").stat().st_size
        self._merge_log_at = 2 * size if is_busy else MERGE_LOG_AT

    @contextmanager
    def _reporting(self, *, writing: bool = False) -> Iterator[None]:
        """Turn SQLite's errors into ours, with nothing half-written left behind."""
        try:
            yield
        except (sqlite3.Error, msgspec.DecodeError) as error:
            self._roll_back()
            if _is_damage(error):
                raise StoreDamagedError(
                    f"{self.directory.database} is damaged ({error}); stop, and start again to "
                    "see what can be saved"
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
        except sqlite3.Error:
            log.debug("rolling back", exc_info=True)


def _is_damage(error: Exception) -> bool:
    """Whether the data is wrong, rather than the disk or its permissions."""
    if isinstance(error, sqlite3.OperationalError):
        return str(error).startswith("no such")
    return True

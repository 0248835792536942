"""The database of an embedded run, opened for writing.

SQLite has a write-ahead log, and checksums are kept of the database's pages; so the log is merged
here, together with them, and never by SQLite in passing. `run.lock` says how far that was.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from ..errors import StoreDamagedError, StoreError, StoreWriteError
from .directory import Record, RunDirectory
from .inspection import Inspection
from .schema import (
    APPLICATION_ID,
    SQLITE_ERRORS,
    create,
    is_unfinished,
    refuse_version,
    unfinished,
)
from .sweep import QUEUED

log = logging.getLogger("crawlkit.store")

SYNC = {"normal": "NORMAL", "full": "FULL"}
MERGE_LOG_AT = 16 * 2**20
"""Bytes of write-ahead log after which it is merged into the database."""
CACHE = 6_000
"""KiB of the database that are held in memory. What is searched lies all over large tables: with
five times as much it is not found faster."""


class Database:
    """The database in a run's directory, for the process that has the right to write it.

    All of it is used in one thread.

    Args:
        address: The run, as its user calls it.
        directory: The run's directory.
        durability: ``normal`` or ``full``, see `SqliteStore`.
        on_merge: Called when the log was merged, before SQLite begins it anew, with how many frames
            it has, of which all belong to checkpoints.
    """

    def __init__(
        self,
        address: str,
        directory: RunDirectory,
        durability: str = "normal",
        on_merge: Callable[[int], None] = lambda frames: None,
    ) -> None:
        self._address = address
        self._directory = directory
        self._durability = durability
        self._on_merge = on_merge
        self._connection: sqlite3.Connection | None = None
        self._record = Record()
        self._merged_size = 0

    @property
    def connection(self) -> sqlite3.Connection:
        """The open connection.

        Raises:
            StoreError: There is none.
        """
        if self._connection is None:
            raise StoreError(f"the run in {self._address} is not open")
        return self._connection

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._connection is not None

    @property
    def record(self) -> Record:
        """What is noted in ``run.lock``."""
        return self._record

    # -- opening ----------------------------------------------------------------------------------

    def open(self) -> None:
        """Open the database, or make one, once the directory was acquired.

        Raises:
            StoreError: It cannot be written, or must not be; what is damaged was put aside.
        """
        directory = self._directory
        if directory.database.exists():
            self._record = self._noted()
        else:
            self._record = Record()
            self._note(pid=os.getpid(), state="open")
            create(directory.database, directory.checksums)
        self._connection = self._connect()

    def _noted(self) -> Record:
        record = self._directory.noted()
        if record is None:
            log.warning(
                "%s/run.lock is missing, damaged or from elsewhere; if the run has lost "
                "checkpoints, that cannot be seen",
                self._address,
            )
        return record or Record(state="unknown")

    def _connect(self) -> sqlite3.Connection:
        connection = None
        try:
            # All that can be known is found out before SQLite touches anything.
            inspection = Inspection(self._directory, self._record)
            inspection.look()
            connection = sqlite3.connect(
                self._directory.database,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=64,
            )
            inspection.confirm(connection)
            self._check_version(connection)
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            connection.execute(f"PRAGMA synchronous = {SYNC[self._durability]}")
            # The log is merged in `merge_log`, together with the checksums, and never in passing.
            connection.execute("PRAGMA wal_autocheckpoint = 0").fetchone()
            connection.execute("PRAGMA journal_size_limit = 0").fetchone()
            connection.execute(f"PRAGMA cache_size = -{CACHE}")
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
                raise unfinished(self._address)
            QUEUED.restore(connection)
        except BaseException as error:
            if connection is not None:
                _close_as_it_is(connection, self._directory.database)
            if isinstance(error, SQLITE_ERRORS) and _is_damage(error):
                raise self._directory.set_aside(str(error)) from None
            raise
        return connection

    def _check_version(self, connection: sqlite3.Connection) -> None:
        if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise sqlite3.DatabaseError("it is not a run of crawlkit")
        refuse_version(self._address, connection)

    def _check_progress(self, connection: sqlite3.Connection) -> None:
        ((commits,),) = connection.execute("SELECT commits FROM progress")
        lost = self._record.commits - commits
        if lost > 0 and commits == 0:
            raise sqlite3.DatabaseError("all of its checkpoints are gone")
        if lost > 0:
            log.warning(
                "%s has lost its last %d checkpoints (a damaged disk, or a loss of power); "
                "the crawl goes on from the one before, and fetches again what came after",
                self._directory.shown,
                lost,
            )
        self._merged_size = 0
        self._note(pid=os.getpid(), commits=commits, state="open")

    # -- writing ----------------------------------------------------------------------------------

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, for queries.

        Raises:
            StoreDamagedError: It does not hold what was written.
            StoreWriteError: It cannot be read.
        """
        with self._reporting("read"):
            yield self.connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """The connection, for one transaction, of which nothing half-written is left behind.

        Raises:
            StoreDamagedError: It does not hold what was written.
            StoreWriteError: It cannot be written.
        """
        with self._reporting("write"):
            self._refuse_if_gone()
            self._roll_back()
            if self._record.merge == "begun":
                # Until it is done, the log has to stay as it is.
                self.merge_log()
            yield self.connection

    def committed(self, commits: int) -> None:
        """A transaction was committed, after which the run has so many checkpoints."""
        with contextlib.suppress(OSError):
            # After the commit, so that it is never ahead of a run that is whole. SQLite forgets the
            # end of a log that is damaged, and says nothing; this number shows it.
            self._note(commits=commits)
        self._merge_log_if_long()

    def _refuse_if_gone(self) -> None:
        # SQLite would go on in files that have no name any more.
        if not self._directory.log.path.exists():
            raise sqlite3.OperationalError("it was moved or removed while it was being written")

    @contextmanager
    def _reporting(self, what: str) -> Iterator[None]:
        """Turn SQLite's errors into ours, with nothing half-written left behind."""
        try:
            yield
        except (*SQLITE_ERRORS, OSError, msgspec.DecodeError) as error:
            self._roll_back()
            if _is_damage(error):
                with contextlib.suppress(OSError):
                    self._note(state="suspect")
                raise StoreDamagedError(
                    f"{self._directory.shown} is damaged ({error}); start again, and it is "
                    "checked whole and put aside"
                ) from None
            raise StoreWriteError(
                f"cannot {what} {self._directory.shown}: {error}; free or mend the disk"
            ) from None
        except BaseException:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        try:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
        except SQLITE_ERRORS:
            log.debug("rolling back", exc_info=True)

    def _note(self, *, sync: bool = False, **changes: Any) -> None:
        self._record = self._record._replace(**changes)
        self._directory.note(self._record, sync=sync)

    # -- the log ----------------------------------------------------------------------------------

    def _merge_log_if_long(self) -> None:
        try:
            size = self._directory.log.size()
            if size < self._merged_size:
                self._merged_size = 0  # SQLite began it anew
            if size - self._merged_size >= MERGE_LOG_AT:
                self._merged_size = size
                self.merge_log()
        except (*SQLITE_ERRORS, OSError) as error:
            # The log holds everything. The next commit tries again.
            log.warning("merging the log of %s: %s; nothing is lost", self._address, error)

    def merge_log(self) -> int:
        """Move what is in the log into the database, as far as no reader looks at an older state.

        Returns how many frames the log has, of which all belong to checkpoints.

        A process may be killed anywhere in here, and a disk may be full. So it is noted first what
        the log has to be until this is done: a part of it would turn some pages back and others
        not. The checksums follow before SQLite can begin the log anew.
        """
        self._refuse_if_gone()  # which is no log with nothing in it
        its_log = self._directory.log
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
            is_busy, frames, done = self.connection.execute(
                "PRAGMA wal_checkpoint(PASSIVE)"
            ).fetchone()
            if is_busy:
                raise sqlite3.OperationalError("another program is merging it")
            size = its_log.size_of(done)
            self._directory.checksums.update(contents.checksums(frames, done))
            if done < frames:
                merged = self._record.merged
            crc = self._record.crc if size == self._record.size else its_log.crc(size)
            self._note(merge="done", size=size, crc=crc, merged=merged, sync=True)
        else:
            self._note(merged=merged)
        self._on_merge(int(frames))
        return int(frames)

    # -- closing ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Merge the log and close the database. What goes wrong is only said: nothing is lost."""
        if self._connection is None:
            return
        state = self._record.state
        try:
            if self._directory.log.path.exists():  # else whoever wrote was told
                self.merge_log()
        except (*SQLITE_ERRORS, OSError) as error:
            log.warning("merging the log of %s: %s; nothing is lost", self._address, error)
        try:
            if self._record.merge == "done" and self._record.merged == self._record.commits:
                self._connection.close()  # it removes the log, which is not needed any more
                state = "closed" if state == "open" else state
            else:
                _close_as_it_is(self._connection, self._directory.database)
            self._note(state=state)
        except (*SQLITE_ERRORS, OSError) as error:
            log.warning("closing %s: %s; nothing is lost", self._address, error)
        self._connection = None


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

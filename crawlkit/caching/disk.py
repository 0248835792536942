"""The page cache on disk: diskcache, kept to bytes, in a directory that nobody is trusted with.

diskcache stores any Python object, and for that it unpickles what it finds: its files and its
database are code. Here they are data. Keys and values are bytes inside of the database and nothing
else; a row that says otherwise (pickled, text, a number, in a file) is not there, whoever wrote it.
No file is opened, written or removed because a row names it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import diskcache

RAW = 1
"""diskcache's mode of a value that is what it is, inside of the database."""
INLINE = 256 * 1024
"""Bytes of a value up to which reading it holds up the event loop for less than a millisecond."""
_SETTINGS = {
    "statistics": 0,
    "tag_index": 0,
    "eviction_policy": "least-recently-used",
    "cull_limit": 0,  # `BytesCache.evict` does it, in a transaction of its own
    "sqlite_auto_vacuum": 0,
    "sqlite_cache_size": 2**11,  # pages of 4 KiB, for each connection
    "sqlite_journal_mode": "wal",
    # A database that is truncated while it is mapped ends the process, and reads are no slower.
    "sqlite_mmap_size": 0,
    # Waiting for the disk would take a tenth of a crawl's time, see `BytesCache.settle`.
    "sqlite_synchronous": 0,
    "disk_min_file_size": 2**62,
    "disk_pickle_protocol": 0,
}
MERGE_AT = 4000
"""Pages of the log after which it is merged into the database, 16 MB. Pages of the indexes are in
it many times over, and merged once."""
READ_CACHE = 256
"""Pages of the database that are held in memory for reading: those on the way to an entry."""
MAX_ROWS = 64
"""Rows of a statement that writes. SQLite keeps a hundred and more of them prepared."""

_ROW = 200
"""Bytes that a row takes besides its value, roughly, with its places in the indexes."""

_READ = (
    "SELECT rowid, access_time, mode, filename, length(value),"
    f" CASE WHEN length(value) <= {INLINE} THEN value END"
    " FROM Cache WHERE key = ? AND raw = 1"
)


class Row(NamedTuple):
    """A value to write.

    Attributes:
        key: Its first byte says of which kind it is.
        value: What is written.
        expires: Unix time after which it may go, or ``None``.
    """

    key: bytes
    value: bytes
    expires: float | None = None


class Found(NamedTuple):
    """A value that was read; ``value`` is ``None`` where it is larger than `INLINE`."""

    rowid: int
    accessed: float
    value: bytes | None


class BytesDisk(diskcache.Disk):  # type: ignore[misc]
    """What diskcache may keep: bytes, in the database."""

    def put(self, key: Any) -> tuple[Any, bool]:
        """The key as it is."""
        if type(key) is not bytes:
            raise TypeError(f"the page cache has keys of bytes, not {type(key).__name__}")
        return key, True

    def get(self, key: Any, raw: Any) -> bytes:
        """The key of a row, empty where it is none of ours."""
        return key if raw == 1 and type(key) is bytes else b""

    def store(self, value: Any, read: bool, key: Any = None) -> tuple[int, int, None, bytes]:
        """The columns of a value."""
        if read or type(value) is not bytes:
            raise TypeError("the page cache has values of bytes")
        return len(value), RAW, None, value

    def fetch(self, mode: Any, filename: Any, value: Any, read: bool) -> bytes:
        """The value of a row.

        Raises:
            OSError: It is none of ours; diskcache takes that for a miss.
        """
        if read or mode != RAW or filename is not None or type(value) is not bytes:
            raise OSError("a row of the page cache was changed")
        return value

    def filename(self, key: Any = None, value: Any = None) -> tuple[str, str]:
        """There are no files."""
        raise TypeError("the page cache has no files but its database")

    def remove(self, file_path: Any) -> None:
        """Leave every file where it is: no row of ours has one."""


class BytesCache(diskcache.Cache):  # type: ignore[misc]
    """diskcache's database, with reads and writes of our own that are fast enough for a crawl.

    Each thread has a connection of its own, which it must close.
    """

    def __init__(self, directory: str, size_limit: int, timeout: float = 10.0) -> None:
        super().__init__(
            directory, timeout=timeout, disk=BytesDisk, size_limit=size_limit, **_SETTINGS
        )
        self.file = file_id(Path(directory))

    @property
    def _con(self) -> sqlite3.Connection:
        known = getattr(self._local, "con", None)
        connection: sqlite3.Connection = super()._con
        if connection is not known:
            harden(connection)
            connection.execute(f"PRAGMA wal_autocheckpoint = {MERGE_AT}").fetchone()
        return connection

    def __getstate__(self) -> Any:
        raise TypeError("a page cache cannot be pickled")

    def check(self, fix: bool = False, retry: bool = False) -> Any:
        """Refused: diskcache's would remove every file of the directory that it does not know."""
        raise TypeError("the page cache has no files to check; every entry has a checksum")

    def volume(self) -> int:
        """Bytes that are in use. diskcache counts free pages too, and would evict for ever."""
        pages = self._number("page_count") - self._number("freelist_count")
        return pages * int(self._page_size)

    def _number(self, pragma: str) -> int:
        return int(self._sql(f"PRAGMA {pragma}").fetchone()[0])

    # -- reading ------------------------------------------------------------------------------

    def connection(self) -> sqlite3.Connection:
        """This thread's connection; asking diskcache for it each time takes longer than a read.

        It is for reading. What it holds in memory is of use until somebody writes.
        """
        connection = self._con
        connection.execute(f"PRAGMA cache_size = {READ_CACHE}")
        return connection

    @staticmethod
    def look_up(connection: sqlite3.Connection, key: bytes) -> Found | None:
        """A value, where there is one.

        Raises:
            sqlite3.Error: The database cannot be read.
        """
        rows = connection.execute(_READ, (key,)).fetchall()
        if not rows:
            return None
        rowid, accessed, mode, filename, length, value = rows[0]
        if mode != RAW or filename is not None or type(accessed) is not float:
            return None
        if type(value) is not bytes and not (value is None and type(length) is int):
            return None
        return Found(rowid, accessed, value)

    def read_whole(self, key: bytes) -> bytes | None:
        """A value of any size."""
        rows = self._con.execute(
            "SELECT mode, filename, value FROM Cache WHERE key = ? AND raw = 1", (key,)
        ).fetchall()
        for mode, filename, value in rows:
            if mode == RAW and filename is None and type(value) is bytes:
                return value
        return None

    def keys_after(self, last: bytes) -> list[bytes]:
        """Some thousand keys that follow another one, in their order."""
        rows = self._con.execute(
            "SELECT key FROM Cache WHERE raw = 1 AND typeof(key) = 'blob' AND key > ?"
            " ORDER BY key LIMIT 2000",
            (last,),
        ).fetchall()
        return [key for (key,) in rows]

    # -- writing ------------------------------------------------------------------------------

    def execute(self, statement: str, values: Sequence[Any] = ()) -> Any:
        """Every statement that writes goes through here."""
        return self._con.execute(statement, values)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """A transaction."""
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            # A disk that is full has ended it already.
            with contextlib.suppress(sqlite3.Error):
                self._con.execute("ROLLBACK")
            raise

    def write(self, rows: Sequence[Row], now: float) -> None:
        """Put values in, in a statement for up to 64: the GIL changes hands at each statement."""
        for start in range(0, len(rows), MAX_ROWS):
            part = rows[start : start + MAX_ROWS]
            self.execute(_insert(len(part)), [now, *chain.from_iterable(part)])

    def settle(self) -> None:
        """Have the disk keep all that was written, so that a power cut does no harm from here on.

        Until then the system has it: a process that is killed loses nothing, but where the power
        fails in the middle of a crawl, the database may be damaged. Damage is found, it is put
        aside, and pages are fetched again: no more than that is lost with a cache, and the run has
        a store of its own.
        """
        self.execute("PRAGMA synchronous = FULL")
        # SQLite waits for the disk only with something to write; nobody reads this counter.
        self.execute("UPDATE Settings SET value = value + 1 WHERE key = 'hits'")
        self.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def touch_rows(self, rowids: Sequence[int], now: float) -> None:
        """Note that these were used."""
        for start in range(0, len(rowids), 500):
            part = ",".join(map(str, rowids[start : start + 500]))
            self.execute(f"UPDATE Cache SET access_time = ? WHERE rowid IN ({part})", (now,))

    def delete_prefix(self, prefix: bytes) -> None:
        """Remove every value whose key begins so; a prefix is not of 255s alone."""
        head = prefix.rstrip(b"\xff")  # these have no next one
        end = head[:-1] + bytes([head[-1] + 1])
        self.execute("DELETE FROM Cache WHERE raw = 1 AND key >= ? AND key < ?", (prefix, end))

    def evict(self, size_limit: int) -> int:
        """Remove what was used least recently until a twentieth of the limit is free again.

        Returns:
            How many values went.
        """
        removed = 0
        excess = self.volume() - size_limit
        if excess <= 0:
            return 0
        excess += size_limit // 20
        while excess > 0:
            with self.writing():
                oldest = self.execute(
                    "SELECT rowid, length(value) FROM Cache ORDER BY access_time LIMIT 64"
                ).fetchall()
                gone = []
                for rowid, length in oldest:
                    if excess > 0:
                        gone.append(rowid)
                        excess -= (length or 0) + _ROW
                self.execute(f"DELETE FROM Cache WHERE rowid IN ({','.join(map(str, gone))})")
            if not gone:
                break
            removed += len(gone)
        return removed

    def delete_rows(self) -> int:
        """Remove everything, also what is none of ours; how many rows there were."""
        removed: int = self.execute("DELETE FROM Cache").rowcount
        self.execute("UPDATE Settings SET value = 0 WHERE key IN ('count', 'size')")
        return removed

    def delete_all(self) -> int:
        """`delete_rows` in a transaction, and give the space back where nobody is reading."""
        with self.writing():
            removed = self.delete_rows()
        # Where another process is reading, the file keeps its size, and the next writes fill it.
        with contextlib.suppress(sqlite3.OperationalError):
            self.execute("VACUUM")
            self.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return removed

    def kinds(self) -> dict[bytes, tuple[int, int]]:
        """Number and bytes of the values of each kind, the first byte of their keys."""
        rows = self._con.execute(
            "SELECT substr(key, 1, 1), count(*), total(length(value)) FROM Cache"
            " WHERE raw = 1 AND typeof(key) = 'blob' AND mode = 1 GROUP BY 1"
        ).fetchall()
        return {kind: (count, int(size)) for kind, count, size in rows}


@lru_cache(maxsize=MAX_ROWS)
def _insert(count: int) -> str:
    rows = ", ".join(
        f"(?{at}, 1, ?1, ?{at + 2}, ?1, 0, length(?{at + 1}), 1, ?{at + 1})"
        for at in range(2, 2 + 3 * count, 3)
    )
    return (
        "INSERT INTO Cache (key, raw, store_time, expire_time, access_time, access_count, size,"
        f" mode, value) VALUES {rows} ON CONFLICT (key, raw) DO UPDATE SET"
        " store_time = excluded.store_time, expire_time = excluded.expire_time,"
        " access_time = excluded.access_time, access_count = 0, tag = NULL,"
        " size = excluded.size, mode = 1, filename = NULL, value = excluded.value"
    )


def file_id(path: Path) -> tuple[int, int] | None:
    """Which file the database in a directory is."""
    try:
        found = os.stat(path / "cache.db")
    except OSError:
        return None
    return found.st_dev, found.st_ino


def harden(connection: sqlite3.Connection) -> None:
    """Do not let what stands in a database do more than be data."""
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")


class _InMemory(BytesCache):
    """The same tables, without a file."""

    def __init__(self) -> None:
        self.memory = sqlite3.connect(":memory:", isolation_level=None)
        super().__init__(os.curdir, 2**30)

    @property
    def _con(self) -> sqlite3.Connection:
        return self.memory

    def close(self) -> None:
        """Keep the tables; diskcache closes once it has made them."""


@lru_cache(maxsize=1)
def schema() -> frozenset[tuple[str, str, str, str | None]]:
    """The tables, indexes and triggers as the installed diskcache makes them."""
    reference = _InMemory()
    try:
        rows = reference.memory.execute("SELECT type, name, tbl_name, sql FROM sqlite_master")
        return frozenset(rows.fetchall())
    finally:
        reference.memory.close()

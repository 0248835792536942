"""The directory of the page cache: opening it, whoever wrote what is in it, measuring, clearing.

Before diskcache sees a database that exists, its schema is compared with the one that diskcache
makes, and its settings are replaced by ours: they would become attributes and PRAGMAs.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diskcache

from ..errors import StoreDamagedError, StoreError
from .disk import BytesCache, file_id, harden, schema

try:
    import fcntl
except ImportError:  # pragma: no cover - only where there is no POSIX
    fcntl = None  # type: ignore[assignment]

APPLICATION_ID = 0x636B7069
"""What SQLite notes in the file's head, so that no other program's cache is taken for ours."""

_COUNTERS = ("count", "size", "hits", "misses")


def open_cache(
    directory: str | os.PathLike[str], size_limit: int, *, repair: bool = True
) -> tuple[BytesCache, str]:
    """Open the cache in a directory; make it, for its owner only, where there is none.

    Args:
        directory: Where.
        size_limit: Bytes that it may use.
        repair: Whether a damaged database is put aside.

    Returns:
        The cache, and what has to be told: why an earlier database was put aside, or ``""``.

    Raises:
        StoreError: It cannot be had: no directory can be made, the disk is full, or what is there
            is not a page cache.
    """
    path = Path(directory)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(path):
            return _open_locked(path, size_limit, repair)
    except OSError as error:
        raise StoreError(
            f"the page cache in {path} cannot be opened: {error.strerror or error}"
        ) from None
    except (sqlite3.Error, diskcache.Timeout) as error:
        raise StoreError(f"the page cache in {path} cannot be opened: {error}") from None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time makes, checks or puts aside the database."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(path / "cache.lock", flags, 0o600)
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _open_locked(path: Path, size_limit: int, repair: bool) -> tuple[BytesCache, str]:
    told = ""
    try:
        _prepare(path)
        return BytesCache(str(path), size_limit), told
    except sqlite3.OperationalError:
        raise  # it is locked, or the disk is full: nothing is wrong with it
    except (StoreDamagedError, sqlite3.DatabaseError) as error:
        if not repair:
            raise
        told = str(error)
    set_aside(path)
    _prepare(path)
    return BytesCache(str(path), size_limit), told


def set_aside(path: Path, file: tuple[int, int] | None = None) -> None:
    """Move a damaged database out of the way. One is kept, so that damage fills no disk.

    Args:
        path: Its directory.
        file: Which file it was; another process may have done this already.
    """
    if file is not None and file != file_id(path):
        return
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.replace(path / f"cache.db{suffix}", path / f"cache.db.damaged{suffix}")


def _prepare(path: Path) -> None:
    """See to it that diskcache finds nothing but what it would have written itself.

    Raises:
        StoreError: It is the database of another program, or no file.
        StoreDamagedError: It is ours, and was changed.
    """
    database = path / "cache.db"
    for suffix in ("", "-wal", "-shm"):
        file = path / f"cache.db{suffix}"
        if os.path.lexists(file) and not stat.S_ISREG(file.lstat().st_mode):
            raise StoreError(
                f"{file} is a link or no file, so that it is not used; remove it, or choose "
                "another directory for the page cache"
            )
    descriptor = os.open(database, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    is_new = os.fstat(descriptor).st_size == 0
    os.close(descriptor)
    connection = sqlite3.connect(database, timeout=10, isolation_level=None)
    try:
        harden(connection)
        if is_new:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise StoreError(
                f"{database} belongs to another program; choose another directory for the page "
                "cache"
            )
        found = set(connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master"))
        if not found <= schema():
            raise StoreDamagedError(f"the tables of {database} were changed")
        if any(name == "Settings" for _, name, *_ in found):
            _clean(connection)
    finally:
        connection.close()


def _clean(connection: sqlite3.Connection) -> None:
    """Remove all settings but counters, which must be numbers: diskcache would believe them."""
    marks = ",".join("?" * len(_COUNTERS))
    connection.execute(
        f"DELETE FROM Settings WHERE typeof(key) != 'text' OR key NOT IN ({marks})"
        " OR typeof(value) != 'integer'",
        _COUNTERS,
    )


def measure(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """What a cache holds, for people and programs.

    Raises:
        StoreError: There is none in that directory, or it cannot be read.
    """
    with _existing(directory, repair=False) as (cache, _):
        kinds = cache.kinds()
        return {
            "directory": os.fspath(directory),
            "size": cache.volume(),
            **{
                name: dict(zip(("entries", "bytes"), kinds.get(kind, (0, 0)), strict=True))
                for name, kind in (("pages", b"p"), ("derived", b"d"))
            },
        }


def clear(directory: str | os.PathLike[str]) -> tuple[int, str]:
    """Remove everything from a cache, also while crawls use it.

    Returns:
        How many values there were, and why the whole was put aside instead, or ``""``.

    Raises:
        StoreError: There is none in that directory, or it cannot be written.
    """
    with _existing(directory, repair=True) as (cache, told):
        return cache.delete_all(), told


@contextlib.contextmanager
def _existing(
    directory: str | os.PathLike[str], *, repair: bool
) -> Iterator[tuple[BytesCache, str]]:
    if not os.path.isfile(os.path.join(directory, "cache.db")):
        raise StoreError(
            f"there is no page cache in {os.fspath(directory)}; name the directory that the option "
            "cache_dir says, which is runs/.cache where it says none"
        )
    cache, told = open_cache(directory, 2**30, repair=repair)
    try:
        yield cache, told
    except sqlite3.Error as error:
        raise StoreError(f"the page cache in {os.fspath(directory)}: {error}") from None
    finally:
        cache.close()

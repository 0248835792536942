"""MemoryStore: a run that ends with the process, for tests.

It is SQLite without a disk: the same statements, so that what a test sees is what a crawl does.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any

from ..checkpoint import Checkpoint, Snapshot
from .base import Reader, Receipt
from .bundle import Bundle
from .database import Database
from .directory import Record
from .intake import Part
from .reader import SqliteReader
from .schema import is_unfinished, prepare, unfinished
from .seen import SeenSet
from .sqlite import SqliteStore
from .sweep import QUEUED


class _InMemory(Database):
    """A database without files, which stays as it is when it is closed."""

    def open(self) -> None:
        self._connection = sqlite3.connect(
            ":memory:", isolation_level=None, check_same_thread=False
        )
        prepare(self._connection)
        QUEUED.restore(self._connection)
        self._record = Record()

    def close(self) -> None:
        pass

    def _refuse_if_gone(self) -> None:
        pass

    def _merge_log_if_long(self) -> None:
        pass


class MemoryStore(SqliteStore):
    """A run in memory. It outlives `close`, so that a test can look at it, and open it again."""

    def __init__(self) -> None:
        super().__init__("memory:")
        self._database = _InMemory(self.address, self.directory)
        self._lock = RLock()

    def reader(self) -> Reader:
        """The run, for reading."""
        if is_unfinished(self._db):
            raise unfinished(self.address)
        return _MemoryReader(self._db, self.address, self._lock)

    def _open(self, fresh: bool) -> None:
        if fresh or not self._database.is_open:
            self._database.open()
            self._seen = SeenSet()
            self._seen.open(self._db)
        elif is_unfinished(self._db):
            raise unfinished(self.address)

    def commit_from(self, claimed: dict[int, Bundle], checkpoint: Checkpoint) -> Receipt:
        """Commit, while nobody reads in the same connection."""
        with self._lock:
            return super().commit_from(claimed, checkpoint)

    def _take_in(self, part: Part) -> None:
        with self._lock:
            super()._take_in(part)


class _MemoryReader(SqliteReader):
    """A reader that shares the store's connection, and so has to wait for its commits."""

    def __init__(self, connection: sqlite3.Connection, address: str, lock: RLock) -> None:
        super().__init__(connection, address)
        self._lock = lock

    @contextmanager
    def instant(self) -> Iterator[None]:
        yield  # it shares the connection, in which a transaction would be everybody's

    def snapshot(self) -> Snapshot:
        with self._lock:
            return Reader.snapshot(self)

    def check(self) -> Iterator[str]:
        with self._lock:
            return iter(list(super().check()))

    def close(self) -> None:
        pass

    def _gather(self) -> None:
        pass  # the store has it, in the same connection

    def _rows(self, query: str, *values: Any) -> Iterator[Any]:
        with self._lock:
            return iter(list(super()._rows(query, *values)))

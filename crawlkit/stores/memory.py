"""MemoryStore: a run that ends with the process, for tests.

It is SQLite without a disk: the same statements, so that what a test sees is what a crawl does.
"""

from __future__ import annotations

import sqlite3

from .reader import SqliteReader
from .schema import prepare
from .sqlite import SqliteStore


class MemoryStore(SqliteStore):
    """A run in memory. It outlives `close`, so that a test can look at it, and open it again."""

    def __init__(self) -> None:
        super().__init__("memory:")

    def reader(self) -> SqliteReader:
        """The run, for reading."""
        return SqliteReader(self._db, self.address)

    def _open(self, fresh: bool) -> None:
        if fresh or self._connection is None:
            self._claimed.clear()
            self._connection = sqlite3.connect(
                ":memory:", isolation_level=None, check_same_thread=False
            )
            prepare(self._connection)

    def _merge_log_if_long(self) -> None:
        pass

    def _close(self) -> None:
        self._claimed.clear()

"""Inspection: whether a run is what was written, found out before anything is written to it."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator

from .directory import Record, RunDirectory
from .pages import Blocks, ChecksumsLostError, scan
from .schema import damaged_values

log = logging.getLogger("crawlkit.store")

CHECK_UP_TO = 2**30
"""Bytes of a database up to which it is read whole when it is opened, half a second for these."""
CHECK_WHOLE_UP_TO = 64 * 2**20
CHECK_QUICKLY_UP_TO = 256 * 2**20
"""The same where the checksums are lost, and SQLite checks it with or without the indexes."""


class Inspection:
    """What is found out about a run when it is opened.

    For one that is to be written there are two steps, `look` and `confirm`. Both raise
    `sqlite3.DatabaseError`, which says what is wrong.

    Args:
        directory: The run's directory, which no other process writes.
        record: What its lock says.
    """

    def __init__(self, directory: RunDirectory, record: Record) -> None:
        self._directory = directory
        self._record = record
        self._is_suspect = record.state == "suspect"
        self._size = directory.database.stat().st_size
        self._has_log = directory.log.size() > 0
        self._blocks: Blocks = []
        self._lost: str | None = None
        self._wrong_page: int | None = None

    def look(self) -> None:
        """Look at the files, before SQLite does: it would throw away the log of an empty file."""
        if self._size == 0:
            raise sqlite3.DatabaseError("the file is empty")
        self._look_at_log()
        if self._size <= CHECK_UP_TO or self._is_suspect:
            self._look_at_pages()

    def _look_at_log(self) -> None:
        """What was merged, or was being merged, has to be there for as long as the log is."""
        record, its_log = self._record, self._directory.log
        if record.log == its_log.name():
            is_whole = its_log.crc(record.size) == record.crc
        else:
            is_whole = record.merge == "done"
        if not is_whole:
            # SQLite would take what is left of it, and turn some pages back and others not.
            raise sqlite3.DatabaseError(f"{its_log.path.name} is not what was being merged")

    def _look_at_pages(self) -> None:
        directory, record = self._directory, self._record
        self._blocks = scan(directory.database)
        try:
            pages = directory.checksums.mismatches(self._blocks)
        except ChecksumsLostError as error:
            self._lost = str(error)
            return
        if pages and record.merge == "begun":
            # Those in the log are merged again, whether they were merged already or not.
            in_log = directory.log.pages(record.size)
            pages = [page for page in pages if page not in in_log]
        self._wrong_page = pages[0] if pages else None

    def confirm(self, connection: sqlite3.Connection) -> None:
        """Decide, now that SQLite can be asked; and make checksums where there are none."""
        if self._wrong_page is not None and not self._was_merged_by_another(connection):
            is_noted = self._record.state != "unknown"
            doubt = "" if is_noted else ", or it is run.lock that does not tell why"
            raise sqlite3.DatabaseError(f"page {self._wrong_page} is not what was written{doubt}")
        if self._lost is not None:
            log.warning("%s; SQLite checks the run instead, and it is made anew", self._lost)
        has_checksums = self._lost is None and self._wrong_page is None
        if self._is_suspect or not has_checksums:
            self._have_it_checked(connection)
        if not has_checksums:
            self._directory.checksums.write(self._blocks)

    def findings(self, connection: sqlite3.Connection) -> Iterator[str]:
        """What is wrong with the files, for a reader, whatever their size."""
        try:
            self._look_at_log()
            self._look_at_pages()
        except sqlite3.DatabaseError as error:
            yield str(error)
        if self._lost is not None:
            yield f"{self._lost}; the next start makes it anew"
        if self._wrong_page is not None and not self._was_merged_by_another(connection):
            yield f"page {self._wrong_page} is not what was written"

    def _was_merged_by_another(self, connection: sqlite3.Connection) -> bool:
        """Whether the log of a killed process was merged without us.

        Any program that opens the run and closes it does that, such as SQLite's own shell. Then the
        log is gone, and the checkpoints that were in it are there.
        """
        record = self._record
        if self._has_log or record.state != "open":
            return False
        ((commits,),) = connection.execute("SELECT commits FROM progress")
        return bool(commits >= record.commits > record.merged)

    def _have_it_checked(self, connection: sqlite3.Connection) -> None:
        """SQLite checks what no checksums vouch for; and all of it, where damage was met with."""
        if self._size <= CHECK_QUICKLY_UP_TO or self._is_suspect:
            is_whole = self._size <= CHECK_WHOLE_UP_TO or self._is_suspect
            check = "integrity_check" if is_whole else "quick_check"
            finding = connection.execute(f"PRAGMA {check}(1)").fetchone()[0]
            if finding != "ok":
                raise sqlite3.DatabaseError(" ".join(finding.split()))
        if self._is_suspect:
            for finding in damaged_values(connection):
                raise sqlite3.DatabaseError(finding)

"""Backlog: what checkpoints have changed that the mirror does not have yet, read from the log.

The database's write-ahead log has, after each checkpoint, every page that the checkpoint changed.
What is read of it before it begins anew is gathered in memory, the last content of each page once.
Where that becomes too much, as the mirror cannot be reached, it is thrown away: there is a gap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..pages import PAGE, WriteAheadLog
from .records import Changes

MOST_BACKLOG = 2**25 // PAGE
"""Changed pages that are kept in memory for a mirror that cannot be reached: 32 MB."""


class Backlog:
    """The changes of one writer. It is used in the store's thread.

    Args:
        log: The database's log.
        commits: How many checkpoints the run has.
        merge: Has the log merged into the database, and calls `merged`.

    Attributes:
        is_gap: What the mirror lacks is not known any more: a snapshot has to follow.
    """

    def __init__(
        self, log: WriteAheadLog, commits: Callable[[], int], merge: Callable[[], object]
    ) -> None:
        self.is_gap = False
        self._log = log
        self._commits = commits
        self._merge = merge
        self._name = "-"
        self._read = 0  # bytes of the log that goes by that name
        self._is_reading = False
        self._is_in_doubt = False
        self._changes: Changes | None = None

    @property
    def pages(self) -> Mapping[int, bytes]:
        """The pages that are kept in memory."""
        return self._changes.pages if self._changes else {}

    # -- reading the log --------------------------------------------------------------------------

    def begin(self, frames: int) -> None:
        """The log was merged, and has so many frames: what comes after them is to be read."""
        self._name, self._read = self._log.name(), self._log.size_of(frames)
        self._begin_anew(self._commits())
        self._is_reading = True

    def end(self) -> None:
        """Nothing is read any more."""
        self._is_reading = False

    def merged(self, frames: int) -> None:
        """The log was merged, and begins anew with the next commit."""
        if self._is_reading:
            self._read_up_to(self._log.size_of(frames))
            self._is_in_doubt = False

    def failed(self) -> None:
        """A commit failed: the log may have frames behind its end that belong to no checkpoint."""
        self._is_in_doubt = True

    def gather(self) -> None:
        """Read what has come."""
        if self._is_in_doubt:
            self._merge()
        else:
            self._read_up_to(self._log.size())

    def _read_up_to(self, size: int) -> None:
        name = self._log.name()
        if name != self._name:
            self._name, self._read = name, self._log.size_of(0)
        if name == "-" or size <= self._read:
            return
        pages, count, self._read = self._log.committed(self._read, size)
        changes = self._changes
        if count and changes is not None:
            changes.add(Changes(changes.commits, self._commits(), count, pages))
            if len(changes.pages) > MOST_BACKLOG:
                self._changes, self.is_gap = None, True

    # -- shipping it ------------------------------------------------------------------------------

    def take(self) -> Changes | None:
        """What came since the last time; `None` where only a snapshot can go on."""
        self.gather()
        if self.is_gap or self._changes is None:
            return None
        taken = self._changes
        self._changes = Changes(taken.commits, taken.commits, taken.size, {})
        return taken

    def snapshot_begins(self, commits: int) -> None:
        """A snapshot of the run with so many checkpoints is to close the gap, if there is one."""
        if self.is_gap:
            self._begin_anew(commits)

    def snapshot_ended(self) -> None:
        """The mirror has it. Unless there was too much in the meantime, the gap is closed."""
        self.is_gap = self._changes is None

    def _begin_anew(self, commits: int) -> None:
        self._changes = Changes(commits, commits, 0, {})

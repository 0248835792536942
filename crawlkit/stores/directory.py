"""RunDirectory: the directory of an embedded run, its lock, and what is done about damage.

run.sqlite3        the run (and SQLite's own -wal and -shm beside it)
run.sqlite3-sums   the checksums of its pages
run.lock           held by the process that writes; its text says who, and how far the run was
*.damaged-TIME     files that did not hold what was written, put aside
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
import zlib
from pathlib import Path
from typing import NamedTuple

from ..errors import StoreDamagedError, StoreError, StoreLockedError
from .pages import PageChecksums, WriteAheadLog

try:
    import fcntl
except ImportError:  # pragma: no cover - only where there is no POSIX
    fcntl = None  # type: ignore[assignment]


class Record(NamedTuple):
    """What ``run.lock`` says, from which damage can be told.

    Attributes:
        pid: The process that wrote it.
        commits: Checkpoints that the run holds, at least.
        state: ``open`` while a process is writing the run, and after it was killed; ``closed``;
            ``suspect`` where it met with damage; ``unknown`` where the record is lost.
        merge: Whether a merge of the log was ``begun`` or is ``done``.
        merged: Checkpoints that the database holds without its log.
        log: The log that was merged; the next one has another name.
        size: How much of it: bytes from its start.
        crc: Their CRC-32.
    """

    pid: int = 0
    commits: int = 0
    state: str = "closed"
    merge: str = "done"
    merged: int = 0
    log: str = "-"
    size: int = 0
    crc: int = 0


MIRROR_NOTE = "mirror.json"
"""How far the mirror of the run is, where it has one."""

_RECORD = 120
"""Bytes of the record, without its checksum."""


class RunDirectory:
    """A directory that holds one run, and the right to write it.

    Args:
        path: The directory; it is made, for its owner only, where there is none.

    Attributes:
        path: The directory, wherever the process may go.
        database: The database.
        shown: The same as it was given, for messages.
        log: Its write-ahead log.
        checksums: Those of its pages.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        # A handler may change the working directory of the process, and the run stays where it is.
        self.path = Path(path).absolute()
        self.shown = Path(path) / "run.sqlite3"
        self.database = self.path / "run.sqlite3"
        self.log = WriteAheadLog(self.database)
        self.checksums = PageChecksums(self.database)
        self._lock = self.path / "run.lock"
        self._descriptor: int | None = None

    # -- who writes -------------------------------------------------------------------------------

    def acquire(self) -> None:
        """Make the directory and take the lock.

        The kernel gives the lock back when its holder dies, however it dies, so that there is no
        stale lock to wait for.

        Raises:
            StoreLockedError: Another process holds it.
            StoreError: The directory cannot be made or written.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            is_file = isinstance(error, FileExistsError | NotADirectoryError)
            reason = "it is a file, not a directory" if is_file else error.strerror
            is_forbidden = isinstance(error, PermissionError)
            remedy = "see who may write it, or choose another --store"
            raise StoreError(
                f"cannot write the run in {self.shown.parent}: {reason}; "
                f"{remedy if is_forbidden else 'choose another --store'}"
            ) from None
        if fcntl is not None and not _locked(descriptor):
            os.close(descriptor)
            pid = self.holder()
            who = f"process {pid}" if pid else "another process"
            raise StoreLockedError(
                f"the run in {self.shown.parent} is being written by {who}; wait for it, stop it, "
                "or choose another --store",
                pid,
            ) from None
        self._descriptor = descriptor
        if record := self.noted():
            with contextlib.suppress(OSError):
                self.note(record._replace(pid=os.getpid()))

    def release(self) -> None:
        """Give the lock back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def holder(self) -> int | None:
        """The process that holds the lock, if one does."""
        try:
            descriptor = os.open(self._lock, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            if fcntl is not None:
                try:
                    # Shared: two readers that ask at once are not taken for writers.
                    fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except OSError:
                    record = _parse(os.pread(descriptor, _RECORD + 8, 0))
                    return record.pid if record else None
            return None
        finally:
            os.close(descriptor)

    # -- how far it was ---------------------------------------------------------------------------

    def note(self, record: Record, *, sync: bool = False) -> None:
        """Write the record, in place of the one before.

        Args:
            record: The record.
            sync: Wait until the disk has it.

        Raises:
            OSError: It cannot be written.
        """
        if self._descriptor is not None:
            data = _format(record)
            if os.pwrite(self._descriptor, data, 0) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._lock))
            if sync:
                os.fsync(self._descriptor)

    def noted(self) -> Record | None:
        """The record, if there is one and it is what was written."""
        try:
            return _parse(self._lock.read_bytes())
        except OSError:
            return None

    # -- damage -----------------------------------------------------------------------------------

    def set_aside(self, reason: str) -> StoreDamagedError:
        """Move the damaged database out of the way; the error that says so."""
        stamp = time.strftime("%Y%m%d-%H%M%S")
        target = self.database.with_name(f"{self.database.name}.damaged-{stamp}")
        try:
            # The database first: as long as it stands there, the rest must stand beside it.
            for suffix in ("", "-wal", "-shm", "-sums"):
                with contextlib.suppress(FileNotFoundError):
                    os.replace(f"{self.database}{suffix}", f"{target}{suffix}")
        except OSError as error:
            return StoreDamagedError(
                f"{self.shown} is damaged ({reason}) and cannot be put aside "
                f"({error.strerror}); mend the disk, and put back a copy of it"
            )
        return StoreDamagedError(
            f"{self.shown} is damaged ({reason}) and was put aside as {target.name}; "
            "put back a copy of it, or start anew with --fresh"
        )

    def refuse_if_set_aside(self) -> None:
        """Raise where a damaged run was put aside: going on would silently start from zero.

        Raises:
            StoreDamagedError: The run was damaged, and nothing has been decided yet.
        """
        if self.database.exists():
            return
        damaged = sorted(self.path.glob(f"{self.database.name}.damaged-*[0-9]"))
        if damaged:
            raise StoreDamagedError(
                f"the run in {self.shown.parent} was damaged and put aside as {damaged[-1].name}; "
                f"put back a copy as {self.database.name}, or start anew with --fresh"
            )
        record = self.noted()
        if (record and record.commits) or self.log.path.exists():
            raise StoreDamagedError(
                f"{self.shown} is missing although the run had begun; put back a copy of it, "
                "or start anew with --fresh"
            )

    def clear(self, *, for_mirror: bool = False) -> None:
        """Throw away the run. What was put aside stays: it may be all that is left of something.

        Args:
            for_mirror: Whether what its mirror holds is about to take its place.

        Raises:
            OSError: It cannot be removed.
        """
        # The database first: without it, a start that finds the rest refuses to go on.
        for suffix in ("", "-wal", "-shm", "-sums"):
            Path(f"{self.database}{suffix}").unlink(missing_ok=True)
        if not for_mirror:
            # What follows is another run than the one of which there is a mirror.
            (self.path / MIRROR_NOTE).unlink(missing_ok=True)
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)


def _locked(descriptor: int) -> bool:
    # More than one attempt, as a reader that asks who writes holds the lock for a moment.
    for attempt in range(5):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(0.05 * (attempt < 4))
        else:
            return True
    return False


def _format(record: Record) -> bytes:
    text = " ".join(map(str, record)).encode()
    return b"%-*b%08x\n" % (_RECORD, text, zlib.crc32(text))


def _parse(data: bytes) -> Record | None:
    text = data[:_RECORD].rstrip()
    if data[_RECORD : _RECORD + 8] != b"%08x" % zlib.crc32(text):
        return None
    pid, commits, state, merge, merged, log, size, crc = text.decode().split()
    return Record(int(pid), int(commits), state, merge, int(merged), log, int(size), int(crc))

"""RunDirectory: the directory of an embedded run, its lock, and what is done about damage.

run.sqlite3        the run (and SQLite's own -wal and -shm beside it)
run.lock           held by the process that writes; its text says who, and how far the run was
*.damaged-TIME     files that did not hold what was written, put aside
"""

from __future__ import annotations

import contextlib
import os
import time
import zlib
from pathlib import Path

from ..errors import StoreDamagedError, StoreError, StoreLockedError

try:
    import fcntl
except ImportError:  # pragma: no cover - only where there is no POSIX
    fcntl = None  # type: ignore[assignment]


class RunDirectory:
    """A directory that holds one run, and the right to write it.

    Args:
        path: The directory; it is made, for its owner only, where there is none.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.database = self.path / "run.sqlite3"
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
            raise StoreError(
                f"cannot write the run in {self.path}: {error.strerror}; choose another --store"
            ) from None
        if fcntl is not None and not _locked(descriptor):
            os.close(descriptor)
            pid = self.holder()
            who = f"process {pid}" if pid else "another process"
            raise StoreLockedError(
                f"the run in {self.path} is being written by {who}; wait for it, stop it, "
                "or choose another --store",
                pid,
            ) from None
        self._descriptor = descriptor

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
                    return _parse(os.pread(descriptor, 100, 0))[0]
            return None
        finally:
            os.close(descriptor)

    # -- how far it was ---------------------------------------------------------------------------

    def witness(self, commits: int) -> None:
        """Note beside the database how many checkpoints it holds.

        SQLite forgets the end of a write-ahead log that is damaged, and says nothing. The number
        shows it. It is written after the commit, so it is never ahead of an intact database.
        """
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.pwrite(self._descriptor, _format(os.getpid(), commits), 0)

    def witnessed(self) -> int:
        """The number of checkpoints that the database should hold at least; 0 if unknown."""
        try:
            return _parse(self._lock.read_bytes())[1]
        except OSError:
            return 0

    # -- damage -----------------------------------------------------------------------------------

    def set_aside(self, reason: str) -> StoreDamagedError:
        """Move the damaged database out of the way; the error that says so."""
        stamp = time.strftime("%Y%m%d-%H%M%S")
        target = self.database.with_name(f"{self.database.name}.damaged-{stamp}")
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(OSError):
                os.replace(f"{self.database}{suffix}", f"{target}{suffix}")
        return StoreDamagedError(
            f"{self.database} is damaged ({reason}) and was put aside as {target.name}; "
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
                f"the run in {self.path} was damaged and put aside as {damaged[-1].name}; "
                f"put back a copy as {self.database.name}, or start anew with --fresh"
            )
        if self.witnessed() or Path(f"{self.database}-wal").exists():
            raise StoreDamagedError(
                f"{self.database} is missing although the run had begun; put back a copy of it, "
                "or start anew with --fresh"
            )

    def clear(self) -> None:
        """Throw away the run: the database, its log and what was put aside."""
        for path in self.path.glob(f"{self.database.name}*"):
            path.unlink(missing_ok=True)
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


def _format(pid: int, commits: int) -> bytes:
    text = b"%d %d" % (pid, commits)
    return b"%-32b%08x\n" % (text, zlib.crc32(text))


def _parse(data: bytes) -> tuple[int | None, int]:
    text = data[:32].rstrip()
    if data[32:40] != b"%08x" % zlib.crc32(text):
        return None, 0
    pid, commits = text.split()
    return int(pid), int(commits)

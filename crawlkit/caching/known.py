"""KnownKeys: which keys are surely not in the page cache, so that nobody has to look.

Whoever writes makes SQLite forget the pages that a reader holds in memory. So a crawl that fills
its cache would read its way through the index for every page, only to find nothing there: 27 µs
where a hit in a cache at rest takes ten. As long as one process is alone with the directory, it
knows what it has put there, and what was there before.
"""

from __future__ import annotations

import os
from pathlib import Path
from time import monotonic

try:
    import fcntl
except ImportError:  # pragma: no cover - only where there is no POSIX
    fcntl = None  # type: ignore[assignment]

BITS = 21
"""There are ``2 ** BITS`` slots of a byte: 2 MB, of which a cache in use touches what it needs."""
LOOK_EVERY = 0.02
"""Seconds between two looks at whether somebody has come. What he has put in meanwhile may be taken
for missing, and is then fetched once more."""

_MASK = (1 << BITS) - 1


class KnownKeys:
    """The keys of a page cache, as slots that are taken.

    A slot that is free says for certain that a key is not there. That holds while nobody else has
    the cache open to write; each who opens it adds a byte to a file, where the others see it.

    Args:
        directory: That of the page cache.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / "cache.users"
        self._descriptor = -1
        self._users = 0
        self._looked_at = 0.0
        self._slots: bytearray | None = None
        self._is_complete = False

    def join(self) -> None:
        """Find out whether anybody else is there, and be seen. The directory must be locked."""
        if fcntl is None:
            return
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
        try:
            self._descriptor = os.open(self._path, flags, 0o600)
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                self._slots = bytearray(_MASK + 1)
                os.ftruncate(self._descriptor, 0)
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)
            os.write(self._descriptor, b".")
            self._users = os.fstat(self._descriptor).st_size
        except OSError:
            self._slots = None

    @property
    def is_wanting(self) -> bool:
        """Whether there are keys in the cache that it does not know of yet."""
        return self._slots is not None and not self._is_complete

    def take(self, keys: list[bytes]) -> None:
        """Take in keys that are there; none of them says that these were all."""
        if (slots := self._slots) is not None:
            for key in keys:
                slots[hash(key) & _MASK] = 1
        self._is_complete = not keys

    def add(self, key: bytes) -> None:
        """A key is about to be written."""
        if (slots := self._slots) is not None:
            slots[hash(key) & _MASK] = 1

    def lack(self, key: bytes) -> bool:
        """Whether a key is surely not there."""
        slots = self._slots
        if slots is None or not self._is_complete or slots[hash(key) & _MASK]:
            return False
        now = monotonic()
        if now - self._looked_at > LOOK_EVERY:
            self._looked_at = now
            if os.fstat(self._descriptor).st_size != self._users:
                self._slots = None  # somebody else has come, and may write what we do not know of
                return False
        return True

    def leave(self) -> None:
        """Nothing is looked up any more."""
        self._slots = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

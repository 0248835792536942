"""ItemWriter: items on their way into the store, and into the file that a user watches.

The file is a copy. Its length is part of every checkpoint, and whatever a killed process wrote
behind it is cut off at the next start: there is no torn line, and no item twice.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from zlib import crc32

from .checkpoint import Append, Checkpoint, Item, Saved
from .errors import StoreWriteError, UsageError
from .stores.files import check_replaceable

LINES = (".jsonl", ".ndjson")

CHECK_UP_TO = 2**30
"""Bytes of a file up to which it is compared with its checksum, at about 1 GB a second."""
CHUNK = 2**20


def is_live(address: str) -> bool:
    """Whether items can be written to a file as they come; else it is made of them at the end."""
    return "://" not in address and Path(address).suffix.lower() in LINES


class ItemWriter:
    """A persisted part: gathers items, and appends them to a file of JSON lines if one is wanted.

    Args:
        path: The file. Only one that can grow is written (`is_live`); `None` for the store alone.
        stored: Gives the items in the store as JSON, to write a file anew that is not as it was.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        stored: Callable[[], Iterator[bytes]] = lambda: iter(()),
    ) -> None:
        is_wanted = path is not None and is_live(os.fspath(path))
        self.path = Path(path).absolute() if path is not None and is_wanted else None
        self._stored = stored
        self._items: list[Item] = []
        self._length = 0
        self._crc = 0  # of all that was written
        self._is_outdated = False  # a file of an earlier life is about to miss items

    def add(self, data: bytes, url: str, handler: str, at: float) -> None:
        """Keep an item."""
        self._items.append(Item(data, url, handler, at))

    def restore(self, saved: Saved) -> None:
        """Bring the file to the length that it had at the last checkpoint.

        A file that does not hold what was written, or another one than before, is written anew
        from the store.

        Raises:
            UsageError: It cannot be written.
        """
        known = saved.load({})
        if self.path is None:
            self._is_outdated = bool(known)
            return
        length, crc = known.get("length", 0), known.get("crc", 0)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if known.get("path") == str(self.path) and _holds(self.path, length, crc):
                with open(self.path, "ab") as file:
                    file.truncate(length)
                self._length, self._crc = length, crc
            else:
                self._write_anew()
        except OSError as error:
            raise UsageError(
                f"cannot write the items to {self.path}: {error.strerror}; choose another --output"
            ) from None

    def _write_anew(self) -> None:
        assert self.path is not None
        # Under one name, so that the next start writes over what a killed process has left.
        draft = self.path.with_name(f".{self.path.name}.new")
        check_replaceable(self.path)
        try:
            with open(draft, "wb") as file:
                self._length = self._crc = 0
                for data in self._stored():
                    self._count(data + b"\n")
                    file.write(data + b"\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, self.path)
        finally:
            with contextlib.suppress(OSError):
                draft.unlink()

    def _count(self, data: bytes) -> None:
        self._length += len(data)
        self._crc = crc32(data, self._crc)

    def mark(self) -> tuple[int, int, bool]:
        """How far the file is, to `rewind` to if what was collected since is not committed."""
        return (self._length, self._crc, self._is_outdated)

    def rewind(self, mark: tuple[int, int, bool]) -> None:
        """Go back to a mark; what was collected since will be handed in once more."""
        self._length, self._crc, self._is_outdated = mark

    def collect(self, checkpoint: Checkpoint) -> None:
        """Hand over the items, the lines to append, and the length that the file then has."""
        items, self._items = self._items, []
        checkpoint.items.extend(items)
        if not items:
            return
        if self._is_outdated:
            checkpoint.drop()
            self._is_outdated = False
        if self.path is not None:
            lines = b"".join(item.data + b"\n" for item in items)
            checkpoint.appends.append(Append(str(self.path), self._length, lines))
            self._count(lines)
            checkpoint.save({"path": str(self.path), "length": self._length, "crc": self._crc})


def _holds(path: Path, length: int, crc: int) -> bool:
    """Whether a file begins with what was written; of a long one only the length is looked at."""
    if not path.exists() or path.stat().st_size < length:
        return False
    if length > CHECK_UP_TO:
        return True
    found = 0
    with open(path, "rb") as file:
        for start in range(0, length, CHUNK):
            found = crc32(file.read(min(CHUNK, length - start)), found)
    return found == crc


def append(appends: list[Append]) -> None:
    """Write each piece at its place; what stood behind it belonged to no checkpoint.

    Writing a piece twice is the same as once, so that a commit that fails can be tried again.

    Raises:
        StoreWriteError: A file could not be written.
    """
    try:
        _append(appends)
    except OSError as error:
        raise StoreWriteError(
            f"cannot write {error.filename or appends[0].path}: {error.strerror}; "
            "free or mend the disk"
        ) from None


def _append(appends: list[Append]) -> None:
    for path, offset, data in appends:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(descriptor, data[written:], offset + written)
            os.ftruncate(descriptor, offset + len(data))
        finally:
            os.close(descriptor)

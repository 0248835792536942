"""What is under the tables: the pages of a database, its write-ahead log, and their checksums.

SQLite puts a checksum on every frame of its log, and none on the pages of the database: a bit that
flips on the disk changes a number, a URL or a fingerprint, and nobody notices. So every page has
its CRC-32 in a file beside the database, which follows when pages are merged into it. A run that is
opened is thus known to be what was written, to the last bit, in half a second for a gigabyte;
SQLite's own check takes ten times as long and looks at the structure only.

The format of the log is that of https://sqlite.org/walformat.html.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

PAGE = 4096
"""Bytes of a page, of every run."""

_SUMS = PAGE // 4 - 1
"""Checksums in a block of their file."""
_BLOCK = struct.Struct(f"<{PAGE // 4}I")

_LOG_HEADER = 32
_FRAME_HEADER = 24
_FRAME = _FRAME_HEADER + PAGE
_READ = 256 * _FRAME


class Contents(NamedTuple):
    """What was read of a log.

    Attributes:
        crc: The CRC-32 of all of it.
        frames: The number and the checksum of the page in each frame.
    """

    crc: int
    frames: list[tuple[int, int]]

    def checksums(self, frames: int, merged: int) -> dict[int, int]:
        """The checksums of the pages in its first `frames` frames that were merged.

        SQLite merges the last content of a page only: one that comes again behind the first
        `merged` frames is left as it was.
        """
        last = {number: place for place, (number, _) in enumerate(self.frames[:frames])}
        return {number: self.frames[place][1] for number, place in last.items() if place < merged}


class WriteAheadLog:
    """The log beside a database, read while nobody writes it.

    Args:
        database: The database.
    """

    def __init__(self, database: Path) -> None:
        self.path = Path(f"{database}-wal")

    def size(self) -> int:
        """Bytes of the file; 0 where there is none."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def name(self) -> str:
        """What tells this log from those before it in the same file: its salts."""
        try:
            with _opened(self.path, os.O_RDONLY) as descriptor:
                return os.pread(descriptor, 8, 16).hex() or "-"
        except FileNotFoundError:
            return "-"

    def sync(self) -> None:
        """Wait until the disk has it."""
        with _opened(self.path, os.O_RDONLY) as descriptor:
            os.fsync(descriptor)

    def crc(self, size: int) -> int:
        """The CRC-32 of its first `size` bytes, or of all where it is shorter."""
        return self.read(size).crc

    def read(self, size: int) -> Contents:
        """Its first `size` bytes, or all where it is shorter, read once for all checksums."""
        crc = 0
        frames = []
        try:
            with open(self.path, "rb") as file:
                crc = zlib.crc32(file.read(min(size, _LOG_HEADER)))
                size -= _LOG_HEADER
                while size > 0 and (data := file.read(min(size, _READ))):
                    crc = zlib.crc32(data, crc)
                    size -= len(data)
                    view = memoryview(data)
                    for start in range(0, len(data), _FRAME):
                        number = int.from_bytes(view[start : start + 4], "big")
                        page = view[start + _FRAME_HEADER : start + _FRAME]
                        frames.append((number, _checksum(page)))
        except FileNotFoundError:
            pass
        return Contents(crc, frames)

    def pages(self, size: int) -> dict[int, int]:
        """The pages in its first `size` bytes, each with the offset of its last content."""
        found = {}
        with _opened(self.path, os.O_RDONLY) as descriptor:
            for offset in range(_LOG_HEADER, size - _FRAME + 1, _FRAME):
                number = int.from_bytes(os.pread(descriptor, 4, offset), "big")
                found[number] = offset + _FRAME_HEADER
        return found

    def committed(self, start: int, size: int) -> tuple[dict[int, bytes], int, int]:
        """What transactions have written between two offsets, of which all were committed.

        Returns:
            The last content of each page, how many pages the database has after them, and the
            offset behind the last transaction: `start` where there is none.
        """
        pages: dict[int, bytes] = {}
        since: dict[int, bytes] = {}
        end, count = start, 0
        with _opened(self.path, os.O_RDONLY) as descriptor:
            salts = os.pread(descriptor, 8, 16)
            for offset in range(start, size - _FRAME + 1, _FRAME):
                frame = os.pread(descriptor, _FRAME, offset)
                if frame[8:16] != salts:
                    break
                since[int.from_bytes(frame[:4], "big")] = frame[_FRAME_HEADER:]
                if commit := int.from_bytes(frame[4:8], "big"):
                    pages |= since
                    since.clear()
                    end, count = offset + _FRAME, commit
        return pages, count, end

    @staticmethod
    def size_of(frames: int) -> int:
        """Bytes of a log with so many frames."""
        return _LOG_HEADER + frames * _FRAME


class ChecksumsLostError(Exception):
    """The file of checksums is missing, or damaged itself."""


Blocks = list[list[int]]
"""Checksums of all pages of a database, in blocks as they are in the file."""


class PageChecksums:
    """A file with the checksum of every page of a database.

    It consists of blocks as large as a page: 1023 checksums, and one of the block itself.

    Args:
        database: The database.
    """

    def __init__(self, database: Path) -> None:
        self.path = Path(f"{database}-sums")

    def write(self, blocks: Blocks) -> None:
        """Write the file anew.

        Raises:
            OSError: It cannot be written.
        """
        draft = Path(f"{self.path}.new")
        with open(draft, "wb") as file:
            for number, sums in enumerate(blocks):
                file.write(_sealed(number, sums))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path)

    def update(self, sums: Mapping[int, int]) -> None:
        """Note new checksums by page number, and wait until the disk has them.

        Raises:
            OSError: They cannot be written.
        """
        blocks: dict[int, list[int]] = {}
        for page in sums:
            blocks.setdefault((page - 1) // _SUMS, []).append(page)
        with _opened(self.path, os.O_RDWR | os.O_CREAT) as descriptor:
            for number, pages in sorted(blocks.items()):
                try:
                    block = self._unsealed(number, os.pread(descriptor, PAGE, number * PAGE))
                except ChecksumsLostError:  # a new one; or a damaged one, which vouches for nothing
                    block = [0] * _SUMS
                for page in pages:
                    block[(page - 1) % _SUMS] = sums[page]
                if os.pwrite(descriptor, _sealed(number, block), number * PAGE) != PAGE:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            os.fsync(descriptor)

    def mismatches(self, blocks: Blocks) -> list[int]:
        """The pages that are not what was written.

        Args:
            blocks: What `scan` has found.

        Raises:
            ChecksumsLostError: The checksums themselves cannot be read.
        """
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise ChecksumsLostError(f"{self.path}: {error.strerror}") from None
        if len(data) % PAGE or len(data) // PAGE < len(blocks):
            raise ChecksumsLostError(f"{self.path} is cut short")
        pages = []
        for number in range(len(data) // PAGE):
            sums = self._unsealed(number, data[number * PAGE :][:PAGE])
            found = blocks[number] if number < len(blocks) else []
            if found != sums:
                for place, (was, now) in enumerate(zip_longest(sums, found, fillvalue=0)):
                    # What has no checksum was never merged, and belongs to no checkpoint.
                    if was not in (0, now):
                        pages.append(number * _SUMS + place + 1)
        return pages

    def _unsealed(self, number: int, data: bytes) -> list[int]:
        *sums, seal = _BLOCK.unpack(data.ljust(PAGE, b"\0"))
        if seal != _seal(number, data):
            raise ChecksumsLostError(f"{self.path} is damaged")
        return sums


def scan(database: Path) -> Blocks:
    """The checksums of the pages that a database has now.

    Only where this process has no connection to it: SQLite's locks are those of POSIX, which a
    process loses as soon as it closes the file, however often it has it open.

    Raises:
        OSError: It cannot be read.
    """
    blocks = []
    with open(database, "rb") as file:
        while data := file.read(_SUMS * PAGE):
            view = memoryview(data)
            blocks.append([_checksum(view[i : i + PAGE]) for i in range(0, len(data), PAGE)])
    return blocks


def _checksum(page: bytes | memoryview) -> int:
    return zlib.crc32(page) or 1  # 0 says that there is none


def _sealed(number: int, sums: Sequence[int]) -> bytes:
    data = struct.pack(f"<{len(sums)}I", *sums).ljust(PAGE - 4, b"\0")
    return data + struct.pack("<I", _seal(number, data))


def _seal(number: int, data: bytes) -> int:
    # Of its place too, so that a block that went astray is not taken for another.
    return zlib.crc32(data[: PAGE - 4], number + 1)


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)

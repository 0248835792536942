"""Records: what a mirror consists of.

``log/000000000001`` and so on are numbered without a gap from the first to the last, and each was
created where there was none. What the mirror holds after a record follows from the one before it:

- a *takeover*: from here on another writer goes on; it changes nothing,
- a *segment*: pages of the database that a few checkpoints have changed,
- a *snapshot*: all pages, in parts under ``snapshots/`` that were put there before it, as of the
  record that is its base; segments since then are applied on top.

Records before the base of the last snapshot are removed, but not takeovers: a writer that was
taken over meets the takeover when it puts its next record, however late that is.

A record is a line with the version, a line with the header as JSON, the payload, and 16 bytes of
BLAKE2b of all that.
"""

from __future__ import annotations

import hashlib
import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

from ...errors import StoreDamagedError, StoreVersionError
from ..pages import PAGE

if sys.version_info >= (3, 14):  # pragma: no cover
    from compression import zstd
else:
    from backports import zstd

LOG = "log/"
SNAPSHOTS = "snapshots/"
FENCE = "fence"
"""A name that is there for ever, to see what happens where something is created twice."""
MAGIC = b"crawlkit mirror "
VERSION = 1
LEVEL = 3
DIGEST = 16


class Header(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a record says of itself.

    Attributes:
        kind: What it is.
        number: Its number.
        lineage: The run's identity; another one after ``--fresh``.
        writer: The life of a process that has put it.
        where: That process, for people.
        at: Unix time.
        takeover: The number of the takeover with which the writer began.
        takeovers: Of a takeover, the numbers of all of them, itself included.
        snapshot: The number of the last complete snapshot, itself included; 0 if there is none.
        commits: Checkpoints that the run has after it.
        since: Of a segment, checkpoints that it had before.
        size: Pages of the database after it.
        base: Of a snapshot, the number of the last record that is contained in it.
        parts: Of a snapshot, how many there are.
        prefix: Of a snapshot, what their names begin with.
        pages: Of a segment or a part, how many pages it has.
    """

    kind: Literal["takeover", "segment", "snapshot", "part"]
    number: int
    lineage: str
    writer: str
    where: str = ""
    at: float = 0.0
    takeover: int = 0
    takeovers: tuple[int, ...] = ()
    snapshot: int = 0
    commits: int = 0
    since: int = 0
    size: int = 0
    base: int = 0
    parts: int = 0
    prefix: str = ""
    pages: int = 0


@dataclass(slots=True)
class Changes:
    """Pages of a database that checkpoints have changed.

    Attributes:
        since: Checkpoints before them.
        commits: Checkpoints after them.
        size: Pages of the database after them.
        pages: The last content of each page.
    """

    since: int
    commits: int
    size: int
    pages: dict[int, bytes]

    def __bool__(self) -> bool:
        return bool(self.pages) or self.commits > self.since

    def add(self, later: Changes) -> None:
        """Take in what came right after them."""
        self.pages.update(later.pages)
        self.commits, self.size = later.commits, later.size


def name_of(number: int) -> str:
    """Under which name a record is."""
    return f"{LOG}{number:012d}"


def number_of(name: str) -> int:
    """The number of a record, by its name; of a part, that of the record before its snapshot."""
    digits = name.partition("/")[2][:12]
    return int(digits) if digits.isdecimal() else 0


def encode(header: Header, pages: Mapping[int, bytes] | None = None) -> bytes:
    """A record as bytes."""
    payload = b""
    if pages:
        numbers = sorted(pages)
        table = struct.pack(f">{len(numbers)}I", *numbers)
        payload = zstd.compress(table + b"".join(map(pages.__getitem__, numbers)), LEVEL)
    body = b"%s%d\n%s\n" % (MAGIC, VERSION, msgspec.json.encode(header)) + payload
    return body + hashlib.blake2b(body, digest_size=DIGEST).digest()


def decode(data: bytes, where: str) -> tuple[Header, bytes]:
    """The header and the payload of a record.

    Raises:
        StoreDamagedError: It is not what was put there.
        StoreVersionError: A newer crawlkit has put it there.
    """
    body, digest = data[:-DIGEST], data[-DIGEST:]
    first, _, rest = body.partition(b"\n")
    version = first.removeprefix(MAGIC)
    is_whole = hashlib.blake2b(body, digest_size=DIGEST).digest() == digest
    if not is_whole or not first.startswith(MAGIC) or not version.isdigit():
        raise damaged(where)
    if int(version) != VERSION:
        raise StoreVersionError(
            f"{where} was written by another crawlkit (format {int(version)}, this one reads "
            f"{VERSION}); go on with that one, or choose another --mirror"
        )
    line, _, payload = rest.partition(b"\n")
    try:
        return msgspec.json.decode(line, type=Header), payload
    except msgspec.DecodeError:
        raise damaged(where) from None


def pages_of(header: Header, payload: bytes, where: str) -> Iterator[tuple[int, bytes]]:
    """The pages of a segment or a part.

    Raises:
        StoreDamagedError: They are not what was put there.
    """
    count = header.pages
    if not count:
        return
    size = count * (4 + PAGE)
    try:
        # No more than it is to be, whatever it would become.
        data = zstd.ZstdDecompressor().decompress(payload, size + 1)
    except zstd.ZstdError:
        raise damaged(where) from None
    if len(data) != size:
        raise damaged(where)
    view = memoryview(data)[4 * count :]
    for place, number in enumerate(struct.unpack_from(f">{count}I", data)):
        yield number, view[place * PAGE : (place + 1) * PAGE]  # type: ignore[misc]


def damaged(where: str) -> StoreDamagedError:
    """The error for a record that is not what was put there."""
    return StoreDamagedError(
        f"{where} is not what was written; put back a copy of it, or go on from a local run with "
        "another --mirror"
    )

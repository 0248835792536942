"""Portable runs: a whole run as one file, from any store to any store.

The file is a zstd frame (RFC 8878) of lines of JSON. The first one names the format and its
version; then comes a line for each record (`stores/records.py`), an array that begins with its
kind; the last one has the number of records of each kind and BLAKE2b-128 of all bytes before it. So
a file that was cut short or changed is found out, and what it would bring is not used. Reading one
runs no code.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from . import __version__
from .clock import Clock, isoformat
from .errors import (
    CrawlkitError,
    StoreDamagedError,
    StoreUnfinishedError,
    StoreVersionError,
    UsageError,
)
from .stores.base import Reader, Store
from .stores.files import check_replaceable
from .stores.records import RunRecord, records_of

if sys.version_info >= (3, 14):  # pragma: no cover
    from compression import zstd
else:
    from backports import zstd

FORMAT = "crawlkit run"
VERSION = 1
LEVEL = 6
BATCH = 10_000
"""Records that are taken in as one transaction, at most."""
BATCH_BYTES = 16 * 2**20
"""Bytes of records that are taken in as one transaction, but for the last of them."""
MAX_LINE = 256 * 2**20
"""Bytes of a record; the largest are documents that a part saves whole."""

_encoder = msgspec.json.Encoder()
_decode = msgspec.json.Decoder(RunRecord).decode

Tell = Callable[[int], object]
"""Called with how many records were read so far."""


class _Head(msgspec.Struct):
    format: str
    version: int
    by: str
    at: str | None


class _End(msgspec.Struct, forbid_unknown_fields=True):
    records: dict[str, int]
    blake2b: str


def export_run(
    reader: Reader, path: str | os.PathLike[str], *, tell: Tell | None = None
) -> dict[str, int]:
    """Write a run to a file, which appears whole or not at all.

    Args:
        reader: The run, which may be going on: it is exported as of one checkpoint.
        path: The file; what was there is replaced.
        tell: Called from time to time.

    Returns:
        How many records of each kind there are.

    Raises:
        StoreError: The run cannot be read.
        CrawlkitError: The file cannot be written.
    """
    target = Path(path)
    draft = target.parent / f".{target.name}.{os.getpid()}.part"
    try:
        check_replaceable(target)
        with _written(draft) as write:
            counts = _write(reader, write, tell)
        os.replace(draft, target)
    except OSError as error:
        raise CrawlkitError(
            f"{target} cannot be written: {error.strerror or error}; choose another file"
        ) from None
    finally:
        with suppress(OSError):
            draft.unlink()
    return counts


@contextmanager
def _written(path: Path) -> Iterator[Callable[[bytes], object]]:
    with open(path, "wb") as file:
        # With a checksum in the frame, too: `zstd --test` finds damage as well.
        options: dict[int, int] = {
            zstd.CompressionParameter.compression_level: LEVEL,
            zstd.CompressionParameter.checksum_flag: 1,
        }
        with zstd.ZstdFile(file, "wb", options=options) as compressed:
            yield compressed.write
        file.flush()
        os.fsync(file.fileno())


def _write(reader: Reader, write: Callable[[bytes], object], tell: Tell | None) -> dict[str, int]:
    digest = hashlib.blake2b(digest_size=16)
    counts: Counter[str] = Counter()
    head = _Head(FORMAT, VERSION, __version__, isoformat(Clock().now()))
    data = _encoder.encode(head) + b"\n"
    records = records_of(reader)
    while data:
        digest.update(data)
        write(data)
        batch = list(islice(records, BATCH))
        counts.update(_kind(record) for record in batch)
        data = _encoder.encode_lines(batch)
        if tell is not None:
            tell(counts.total())
    write(_encoder.encode(_End(dict(counts), digest.hexdigest())) + b"\n")
    return dict(counts)


def _kind(record: RunRecord) -> str:
    return str(record.__struct_config__.tag)


async def import_run(
    path: str | os.PathLike[str], store: Store, *, tell: Tell | None = None
) -> dict[str, int]:
    """Make a run of what `export_run` has written; whole, or it cannot be used.

    Args:
        path: The file.
        store: Where the run is to be; not open. There may be no run yet, or one whose import was
            not finished.
        tell: Called from time to time.

    Returns:
        How many records of each kind there were.

    Raises:
        UsageError: There is no such file, or it is no exported run.
        StoreError: There is a run already, or it cannot be written.
        StoreDamagedError: The file does not hold what was written. The run refuses to be used until
            an import into it is finished.
        StoreVersionError: A newer crawlkit has written the file.
    """
    with _Source(Path(path)) as source:
        try:
            await store.open()
        except StoreUnfinishedError:
            await store.open(fresh=True)
        try:
            await store.take_in([], is_last=False)  # from now on it is unfinished
            done = 0
            for batch, is_last in source.batches():
                await store.take_in(batch, is_last=is_last)
                done += len(batch)
                if tell is not None:
                    tell(done)
        finally:
            await store.close()
        return dict(source.counts)


class _Source:
    """An exported run, read line by line."""

    def __init__(self, path: Path) -> None:
        self.counts: Counter[str] = Counter()
        self._path = path
        self._digest = hashlib.blake2b(digest_size=16)
        self._number = 0

    def __enter__(self) -> _Source:
        self._open()
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()

    def _open(self) -> None:
        try:
            self._file = zstd.ZstdFile(self._path, "rb")
        except OSError as error:
            raise UsageError(
                f"{self._path} cannot be read: {error.strerror}; name a file that 'crawlkit "
                "export' has written"
            ) from None
        try:
            line = self._line()
            self._digest.update(line)
            head = msgspec.json.decode(line, type=_Head)
        except (StoreDamagedError, msgspec.DecodeError, UnicodeDecodeError):
            head = _Head("", 0, "", None)
        if head.format != FORMAT:
            self._file.close()
            raise UsageError(
                f"{self._path} is no exported run; name a file that 'crawlkit export' has written"
            )
        if head.version != VERSION:
            self._file.close()
            raise StoreVersionError(
                f"{self._path} was written by crawlkit {head.by} (format {head.version}, this one "
                f"reads {VERSION}); import it with that one"
            )

    def _line(self) -> bytes:
        try:
            line = self._file.readline(MAX_LINE)
        except (zstd.ZstdError, EOFError, OSError) as error:
            raise self._damaged(str(error)) from None
        self._number += 1
        if not line.endswith(b"\n"):
            raise self._damaged("it is cut short" if len(line) < MAX_LINE else "a line is too long")
        return line

    def batches(self) -> Iterator[tuple[list[RunRecord], bool]]:
        """Records, and whether they are the last ones: then all that came is known to be whole."""
        batch: list[RunRecord] = []
        size = 0
        while True:
            line = self._line()
            if line.startswith(b"{"):
                self._confirm(line)
                yield batch, True
                return
            self._digest.update(line)
            try:
                record = _decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise self._damaged(f"line {self._number}: {error}") from None
            self.counts[_kind(record)] += 1
            batch.append(record)
            size += len(line)
            if len(batch) == BATCH or size > BATCH_BYTES:
                yield batch, False
                batch, size = [], 0

    def _confirm(self, line: bytes) -> None:
        try:
            end = msgspec.json.decode(line, type=_End)
        except msgspec.DecodeError as error:
            raise self._damaged(f"line {self._number}: {error}") from None
        if end.records != dict(self.counts) or end.blake2b != self._digest.hexdigest():
            raise self._damaged("its checksum is another")
        try:
            rest = self._file.read(1)
        except (zstd.ZstdError, EOFError, OSError) as error:
            raise self._damaged(str(error)) from None
        if rest:
            raise self._damaged("there is something after its end")

    def _damaged(self, reason: str) -> StoreDamagedError:
        return StoreDamagedError(
            f"{self._path} is not what was exported ({reason}); export the run again, or copy the "
            "file again"
        )

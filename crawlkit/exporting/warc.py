"""WARC: what was fetched, as it was on the wire, in the format of web archives.

WARC 1.1 (ISO 28500:2017), a gzip member for each record, as readers expect it. Records are
compressed in a thread and become part of the next checkpoint (`checkpoint.Append`): they are in the
file when the pages that they belong to are in the store. What a killed process has written behind
its last checkpoint is cut off at the next start, so there is no torn record.
"""

from __future__ import annotations

import asyncio
import logging
import os
import zlib
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import IO

import msgspec

from .. import __version__
from ..checkpoint import Append, Checkpoint, Saved
from ..clock import Clock
from ..errors import OptionError, UsageError, one_line
from ..http.recording import Document, Exchange, Recorded

try:
    import fcntl
except ImportError:  # where it does not exist, a run must not be crawled by two processes
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("crawlkit.warc")

MAX_SIZE = 10**9
"""Bytes after which the next file is begun: the size that the standard recommends (1 GB)."""
MAX_HELD = 64 * 2**20
"""Bytes that wait to be compressed or to be written, above which whoever fetches waits, too."""
ELSEWHERE = 100
"""Files of other machines that are remembered, so that those go on with them."""
LEVEL = 6
"""How hard gzip tries."""

_ENDINGS = (".warc.gz", ".warc")


class _Place(msgspec.Struct):
    """How far the files of one process were written."""

    start: str  # of their names
    serial: int = 0
    length: int = 0

    @property
    def file(self) -> Path:
        return Path(f"{self.start}-{self.serial:05}.warc.gz")


class WarcWriter:
    """A persisted part, and a `Recorder`: keeps each exchange in files of one path.

    Of ``archive/shop`` the names are ``archive/shop-20261126191500-3f2a-00000.warc.gz``, with the
    time at which the first of them was begun, a few digits by chance, and a number that counts up.
    So no process ever writes to a file of another run, of another machine or of another process.

    Args:
        path: The path, with or without ``.warc.gz``.
        save: Takes a checkpoint, where more waits to be written than is good.
        clock: The run's clock.
        max_size: Bytes after which the next file is begun.

    Raises:
        OptionError: warcio is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        save: Callable[[], Awaitable[None]],
        clock: Clock,
        max_size: int = MAX_SIZE,
    ) -> None:
        if find_spec("warcio") is None:
            raise OptionError("WARC needs warcio; install it with pip install 'crawlkit[warc]'")
        base = Path(path).absolute()
        for ending in _ENDINGS:
            base = base.with_name(base.name.removesuffix(ending))
        self._base = base
        self._save = save
        self._clock = clock
        self._max_size = max_size
        self._lock: IO[bytes] | None = None
        self._place = _Place("")
        self._left: list[str] = []  # what is to be said no more of
        self._waiting: list[Recorded] = []
        self._batch: list[Recorded] = []  # in the thread
        self._ready: list[bytes] = []
        self._held = 0  # bytes of all of these
        self._compressing: asyncio.Task[None] | None = None
        self._saving: asyncio.Future[None] | None = None
        self._is_taken = False  # a checkpoint could not wait for the thread
        self._drained = asyncio.Event()

    # -- while the crawl runs -----------------------------------------------------------------

    async def keep(self, recorded: Recorded) -> None:
        """Keep one. Waits only where more has come in than can be kept in memory."""
        self._waiting.append(recorded)
        self._held += len(recorded.body)
        if self._compressing is None:
            self._compressing = asyncio.create_task(self._compress())
        while self._held > MAX_HELD:
            self._drained.clear()
            await self._drained.wait()

    async def settle(self) -> None:
        """Wait until all that has come so far is compressed. A listener of `persistState`."""
        task = self._compressing
        if task is not None:
            await asyncio.wait({task})

    async def _compress(self) -> None:
        try:
            while self._waiting:
                self._batch, self._waiting = self._waiting, []
                members = await asyncio.to_thread(members_of, self._batch)
                if self._is_taken:
                    self._is_taken = False
                    continue
                self._done(self._batch, members)
                self._batch = []
                if self._held > MAX_HELD and (self._saving is None or self._saving.done()):
                    # Beside this, which a checkpoint waits for.
                    self._saving = asyncio.ensure_future(self._save())
        finally:
            self._compressing = None

    def _done(self, batch: list[Recorded], members: list[bytes]) -> None:
        self._ready += members
        self._held += sum(map(len, members)) - sum(len(exchange.body) for exchange in batch)
        if self._held <= MAX_HELD:
            self._drained.set()

    # -- a persisted part ---------------------------------------------------------------------

    def restore(self, saved: Saved) -> None:
        """Cut what was written to what it was at the last checkpoint, and go on from there.

        Raises:
            UsageError: It cannot be written.
        """
        try:
            self._base.parent.mkdir(parents=True, exist_ok=True)
            self.close()
            elsewhere = []
            for key in sorted(saved.keys()):
                place = saved.load(key=key, type=_Place)
                if not place.file.exists():
                    elsewhere.append(key)  # on another machine, where it may be written right now
                elif self._lock is None and self._goes_on(place):
                    self._place = place
                elif not _is_held(place.file):
                    # Of a process that is gone; its file is complete.
                    _cut(place)
                    self._left.append(key)
            self._left += elsewhere[:-ELSEWHERE]
            if self._lock is None:
                now = datetime.fromtimestamp(self._clock.now(), UTC)
                start = f"{self._base}-{now:%Y%m%d%H%M%S}-{os.urandom(2).hex()}"
                self._place = _Place(start)
                self._lock = _locked(self._place.file)
        except OSError as error:
            raise UsageError(
                f"cannot write to {self._base}: {error.strerror}; choose another path for warc"
            ) from None

    def _goes_on(self, place: _Place) -> bool:
        """Whether this process goes on with a file, which is then cut and its own."""
        start = Path(place.start)
        if start.parent != self._base.parent or not start.name.startswith(f"{self._base.name}-"):
            return False
        lock = _locked(place.file)
        if lock is None:
            return False
        if not _cut(place):
            lock.close()
            log.warning("%s is not as it was left; another file is begun", place.file)
            return False
        self._lock = lock
        return True

    def collect(self, checkpoint: Checkpoint) -> None:
        """Hand over the records of all exchanges so far."""
        for batch in (self._batch, self._waiting):
            # A few, that have come since `settle`: the page of any may be in this checkpoint.
            self._done(batch, members_of(batch))
        self._is_taken = bool(self._batch)
        self._batch, self._waiting = [], []
        members, self._ready, self._held = self._ready, [], 0
        self._drained.set()
        if not members:
            return
        place = self._place
        for member in members:
            if place.length >= self._max_size:
                place.serial, place.length = place.serial + 1, 0
                self.close()
                self._lock = _locked(place.file)
            if not place.length:
                member = info_of(place.file.name) + member
            checkpoint.appends.append(Append(str(place.file), place.length, member))
            place.length += len(member)
        checkpoint.save(place, key=_key(place))
        for key in self._left:
            if key != _key(place):
                checkpoint.drop(key)
        self._left = []

    def close(self) -> None:
        """Let other processes go on with the file."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
            if not self._place.length:
                self._place.file.unlink(missing_ok=True)  # nothing was fetched


# -- files ----------------------------------------------------------------------------------------


def _key(place: _Place) -> str:
    return Path(place.start).name


def _locked(path: Path) -> IO[bytes] | None:
    """The file, for this process alone as long as it is open; `None` where another has it."""
    file = open(path, "ab")  # noqa: SIM115 - it is the lock
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _is_held(path: Path) -> bool:
    """Whether a process that lives writes to the file."""
    if not path.exists():
        return False
    file = _locked(path)
    if file is None:
        return True
    file.close()
    return False


def _cut(place: _Place) -> bool:
    """Cut a file to its length at the last checkpoint; whether it was that long."""
    path = place.file
    if not path.exists() or path.stat().st_size < place.length:
        return False
    os.truncate(path, place.length)
    # Those that were begun in a checkpoint that was never committed.
    following = place.serial + 1
    while (path := msgspec.structs.replace(place, serial=following).file).exists():
        path.unlink()
        following += 1
    return True


# -- records ------------------------------------------------------------------------------------


def info_of(name: str) -> bytes:
    """The record that heads a file."""
    from warcio.warcwriter import WARCWriter  # here, as it is an extra

    out = BytesIO()
    writer = WARCWriter(out, gzip=False, warc_version="1.1")
    info = {"software": f"crawlkit/{__version__}", "format": "WARC File Format 1.1"}
    writer.write_record(writer.create_warcinfo_record(name, info))
    return _member(out)


def members_of(recorded: Iterable[Recorded]) -> list[bytes]:
    """The records of each, compressed: a response and its request, or a page as a resource."""
    members = []
    for each in recorded:
        try:
            members.append(_records(each) if isinstance(each, Exchange) else _resource(each))
        except Exception as error:  # what nobody has thought of must not end the crawl
            log.warning("%s is not archived: %s", each.url, one_line(error))
    return members


def _records(exchange: Exchange) -> bytes:
    from warcio.warcwriter import WARCWriter

    body = exchange.body
    if exchange.is_chunked:
        # The headers say that it is in chunks, so it is in one.
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
    common = {"WARC-Date": _date(exchange.at)}
    if exchange.address:
        common["WARC-IP-Address"] = exchange.address
    parts = []
    concurrent: dict[str, str] = {}
    for kind, head, payload in (
        ("response", exchange.response, body),
        ("request", exchange.request, exchange.request_body),
    ):
        fields = common | concurrent
        if kind == "response" and exchange.truncated:
            fields["WARC-Truncated"] = exchange.truncated
        out = BytesIO()
        writer = WARCWriter(out, gzip=False, warc_version="1.1")
        record = writer.create_warc_record(
            exchange.url,
            kind,
            payload=BytesIO(payload),
            length=len(payload),
            warc_headers_dict=fields,
            http_headers=_Head(head),
        )
        concurrent = {"WARC-Concurrent-To": record.rec_headers.get_header("WARC-Record-ID")}
        writer.write_record(record)
        parts.append(_member(out))
    return b"".join(parts)


def _resource(document: Document) -> bytes:
    from warcio.warcwriter import WARCWriter

    out = BytesIO()
    writer = WARCWriter(out, gzip=False, warc_version="1.1")
    record = writer.create_warc_record(
        document.url,
        "resource",
        payload=BytesIO(document.body),
        length=len(document.body),
        warc_content_type=document.content_type,
        warc_headers_dict={"WARC-Date": _date(document.at)},
    )
    writer.write_record(record)
    return _member(out)


def _date(at: float) -> str:
    moment = datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds")
    return moment.replace("+00:00", "Z")


class _Head:
    """The head of a message as it was, in place of what warcio would write anew."""

    def __init__(self, head: bytes) -> None:
        self.headers_buff = head

    def compute_headers_buffer(self, header_filter: object = None) -> None:
        pass


def _member(out: BytesIO) -> bytes:
    compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    return compressor.compress(out.getbuffer()) + compressor.flush()

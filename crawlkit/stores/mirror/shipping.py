"""Shipping: putting records into a mirror, one after the other, as long as nobody else does.

All of it is plain and waits for the place, so it runs in a thread of its own.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from ...errors import MirrorTakenError, StoreError
from ..pages import PAGE
from .places import Place
from .records import FENCE, LOG, SNAPSHOTS, Changes, Header, decode, encode, name_of, number_of

PART = 2048
"""Pages in a part of a snapshot: 8 MB."""
LEAST = 2**17
"""Bytes that a segment counts for at least, as a restore has to ask for each of them."""
SNAPSHOT_AT = 2**26
"""Bytes of segments after which there is a new snapshot; or as many as the last one had."""


class Shipping:
    """The writer's side of a mirror.

    Args:
        place: Where the mirror is.

    Attributes:
        writer: The name of this life.
        lineage: The run's identity.
        commits: Checkpoints that the mirror holds.
        since_snapshot: Bytes that were shipped since the last snapshot.
        snapshot_size: Bytes of the last snapshot.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.writer = uuid.uuid4().hex
        self.lineage = ""
        self.commits = 0
        self.since_snapshot = 0
        self.snapshot_size = 0
        self._number = 0
        self._takeover = 0
        self._takeovers: tuple[int, ...] = ()
        self._snapshot = 0
        self._completed: Header | None = None
        self._unsure: tuple[Header, bytes] | None = None

    # -- beginning --------------------------------------------------------------------------------

    def survey(self) -> Header | None:
        """The last record of the mirror, or `None` where there is none.

        Raises:
            OSError: The place cannot be reached.
            StoreDamagedError: The record is not what was put there.
        """
        names = self.place.names(LOG)
        return self.header(number_of(names[-1])) if names else None

    def confirm(self) -> None:
        """Make sure that the place creates nothing where something is, as all depends on that.

        Raises:
            OSError: The place cannot be reached.
            StoreError: It replaces what is there, as some object stores do.
        """
        for _ in range(2):
            is_new = self.place.create(FENCE, b"created where there was none\n")
        if is_new:
            raise StoreError(
                f"{self.place.address} does not know conditional puts (If-None-Match), so two "
                "machines could go on with one run; choose another --mirror"
            )

    def header(self, number: int) -> Header:
        """The header of a record."""
        name = name_of(number)
        return decode(self.place.get(name), f"{self.place.address}/{name}")[0]

    def take_over(self, last: Header | None, lineage: str) -> bool:
        """Become the writer, right after the record `last`; `False` where somebody else was first.

        Args:
            last: What `survey` has found.
            lineage: The run's identity. Where it is another than that of `last`, what the mirror
                holds does not count any more.
        """
        earlier = self.header(last.takeover).takeovers if last else ()
        number = last.number + 1 if last else 1
        is_same = last is not None and last.lineage == lineage
        self.lineage = lineage
        self._takeover, self._takeovers = number, (*earlier, number)
        self._snapshot = last.snapshot if last and is_same else 0
        self.commits = last.commits if last and is_same else 0
        self._number = number - 1
        header = self._header("takeover", takeovers=self._takeovers, commits=self.commits)
        try:
            self._put(header, encode(header))
        except MirrorTakenError:
            return False
        return True

    # -- going on ---------------------------------------------------------------------------------

    def ship(self, changes: Changes) -> None:
        """Put a segment.

        Raises:
            OSError: The place cannot be reached. The segment is kept, and is to be put with `retry`
                before the next one.
            MirrorTakenError: Another machine goes on with the run.
        """
        header = self._header(
            "segment",
            since=changes.since,
            commits=changes.commits,
            size=changes.size,
            pages=len(changes.pages),
        )
        data = encode(header, changes.pages)
        self._put(header, data)

    def retry(self) -> None:
        """Put what could not be put for sure, exactly as it was.

        It may be there already: a put can be done although its answer was lost.
        """
        if self._unsure is not None:
            self._put(*self._unsure)

    def probe(self) -> None:
        """Find out whether the place can be reached, before there is much work.

        Raises:
            OSError: It cannot.
            MirrorTakenError: Another machine goes on with the run.
        """
        self.retry()
        last = self.survey()
        if last is None or last.number != self._number or last.writer != self.writer:
            raise self._taken(last)

    def parts(self, file: Path, commits: int) -> tuple[Header, Iterator[Callable[[], None]]]:
        """A snapshot of the database in `file`: its record, and the steps that come before it."""
        size = file.stat().st_size // PAGE
        header = self._header(
            "snapshot",
            base=self._number,
            commits=commits,
            size=size,
            parts=-(-size // PART),
            # Of this attempt only: what an earlier one has left behind is of another moment.
            prefix=f"{SNAPSHOTS}{self._number:012d}-{uuid.uuid4().hex}/",
        )

        def put(part: int) -> None:
            first = part * PART
            with open(file, "rb") as source:
                source.seek(first * PAGE)
                data = source.read(PART * PAGE)
            pages = {
                first + place + 1: data[place * PAGE : (place + 1) * PAGE]
                for place in range(len(data) // PAGE)
            }
            own = self._header("part", commits=commits, size=size, pages=len(pages))
            encoded = encode(own, pages)
            self.snapshot_size = len(encoded) + (self.snapshot_size if part else 0)
            self.place.create(f"{header.prefix}{part:06d}", encoded)

        return header, ((lambda part=part: put(part)) for part in range(header.parts))

    def complete(self, snapshot: Header) -> None:
        """Put the record of a snapshot whose parts are all there."""
        self.retry()
        header = self._header(
            "snapshot",
            base=snapshot.base,
            commits=max(snapshot.commits, self.commits),
            since=snapshot.commits,
            size=snapshot.size,
            parts=snapshot.parts,
            prefix=snapshot.prefix,
            snapshot=self._number + 1,
        )
        self._put(header, encode(header))
        self.since_snapshot = 0
        self._completed = header

    def prune(self) -> None:
        """Remove what no restore needs any more, now that there is another snapshot.

        Only what is older than that, by its number: another machine may take over now, and begin a
        snapshot of its own.
        """
        snapshot = self._completed
        if snapshot is None:
            return
        keep = set(self._takeovers)
        old = [
            name
            for name in self.place.names(LOG)
            if number_of(name) <= snapshot.base and number_of(name) not in keep
        ]
        old += [
            name
            for name in self.place.names(SNAPSHOTS)
            if number_of(name) < snapshot.base
            or (number_of(name) == snapshot.base and not name.startswith(snapshot.prefix))
        ]
        self.place.delete(old)

    @property
    def has_snapshot(self) -> bool:
        """Whether the mirror holds a whole run, to which segments can be added."""
        return self._snapshot > 0

    @property
    def wants_snapshot(self) -> bool:
        """Whether a restore would have to read more segments than is reasonable."""
        return self.since_snapshot >= max(SNAPSHOT_AT, self.snapshot_size)

    # -- one record -------------------------------------------------------------------------------

    def _header(self, kind: str, **fields: object) -> Header:
        known = {
            "number": self._number + 1,
            "lineage": self.lineage,
            "writer": self.writer,
            "where": f"{socket.gethostname()}, process {os.getpid()}",
            "at": time.time(),
            "takeover": self._takeover,
            "snapshot": self._snapshot,
        }
        return Header(kind, **(known | fields))  # type: ignore[arg-type]

    def _put(self, header: Header, data: bytes) -> None:
        self._unsure = (header, data)
        name = name_of(header.number)
        if not self.place.create(name, data) and self.place.get(name) != data:
            self._unsure = None
            raise self._taken(self.survey())
        self._unsure = None
        self._number = header.number
        self._snapshot = header.snapshot
        self.commits = header.commits
        self.since_snapshot += max(len(data), LEAST)

    def _taken(self, last: Header | None) -> MirrorTakenError:
        who = f"{last.where} goes on with it" if last else "it was removed"
        return MirrorTakenError(
            f"the run is no longer this machine's: {who}, in the mirror {self.place.address}; "
            "nothing after the last shipment counts"
        )

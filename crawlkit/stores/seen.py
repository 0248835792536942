"""SeenSet: the exact set of what was ever enqueued, on the side of the store.

The rows are swept into their table (see `sweep.py`). A filter in memory spares most new URLs the
search for what is not there, which is a read from all over the table: bits that are not set say for
certain that there is no such fingerprint. Each sets two bits of one byte, a blocked Bloom filter
(Putze, Sanders, Singler 2007): two bytes would be two places in memory, each far from the last one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

import msgspec

from .sweep import END, SEEN

BITS = 27
"""The filter has ``2 ** BITS`` bits, 16 MB. Where ten million were enqueued, it suspects one in 28
of those that were not."""
FILL = 50_000
"""How many rows a checkpoint reads into the filter of a run that was opened again."""

_MASK = (1 << BITS - 3) - 1
_PAIRS = [1 << high | 1 << low for high in range(8) for low in range(high)]
_MARKS = tuple((3 * _PAIRS)[:64])
"""The two bits of its byte that a fingerprint sets, by its last six bits: 28 pairs, 8 of them in
three places, the others in two."""

_GIVEN = f"""
SELECT json_group_array(json_array(host, fingerprint)) FROM (
    SELECT {SEEN.values[0]} host, {SEEN.values[1]} fingerprint FROM {SEEN.source.format("?")}
) one
"""
_IS_IN = "EXISTS (SELECT 1 FROM {} x WHERE x.host = one.host AND x.fingerprint = one.fingerprint)"
_IN_MEMORY = f"{_GIVEN} WHERE {_IS_IN.format('recent_seen')}"
# What is suspected is known for the most part, and for long: one search is enough for that.
_ANYWHERE = f"{_GIVEN} WHERE {_IS_IN.format('seen')} OR {_IS_IN.format('recent_seen')}"

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode

Numbers = dict[int, list[int]]
"""Fingerprints by the id of their host."""
Place = tuple[int, int]
"""Of a row: its host and its fingerprint."""
Known = dict[int, set[int]]
"""Those of them that were there."""


class SeenSet:
    """What was ever enqueued, for the process that writes the run.

    Only what is in the database decides. What is here is never behind it, whether a transaction is
    committed or rolled back.
    """

    def __init__(self) -> None:
        self._is_open = False
        # There is none as long as all rows are in memory. It holds all of these, all that arrive,
        # and the rows of the table as far as it was filled; or all, where that is None.
        self._filter: bytearray | None = None
        self._filled: Place | None = None

    def open(self, db: sqlite3.Connection) -> None:
        """Take into memory what is not in the table yet, unless that was done.

        Outside of a transaction. It takes half a second where there is much, and so is left until
        there is something to enter.
        """
        if self._is_open:
            return
        db.execute("BEGIN")
        SEEN.restore(db)
        db.execute("COMMIT")
        if db.execute("SELECT EXISTS (SELECT 1 FROM seen)").fetchone()[0]:
            self._make_filter(db)
            self._filled = (0, 0)
        self._is_open = True

    def enter(self, db: sqlite3.Connection, numbers: Numbers) -> Known:
        """Enter fingerprints, each host's sorted; those that were in it already, of some hosts."""
        self._fill(db)
        known: Known = {}
        if suspects := self._suspects(numbers):
            query = _IN_MEMORY if self._filter is None else _ANYWHERE
            ((rows,),) = db.execute(query, (_encode(suspects).decode(),))
            for host, number in _decode(rows):
                known.setdefault(host, set()).add(number)
        fresh = numbers
        if known:
            fresh = dict(numbers)
            for host, old in known.items():
                fresh[host] = [number for number in fresh[host] if number not in old]
                if not fresh[host]:
                    del fresh[host]
        if fresh:
            SEEN.add(db, _encode(fresh).decode())
            if self._filter is None and SEEN.surplus(db) > 0:
                # Before anything is moved, as that may be rolled back.
                self._make_filter(db)
            SEEN.advance(db)
        return known

    def _suspects(self, numbers: Numbers) -> Numbers:
        """Those that may be in it. In the filter all of them are from now on."""
        bits, mask, marks = self._filter, _MASK, _MARKS
        if bits is None:
            return numbers
        end = END if self._filled is None else self._filled[0]
        suspects = {}
        for host, found in numbers.items():
            maybe = []
            # Looked up and marked in one go: each is a place of its own in memory, far from the
            # last one, and that takes longer than all that is done there. Where the transaction is
            # rolled back the filter knows too much, which is no harm.
            for n in found:
                place = n >> 6 & mask
                byte = bits[place]
                mark = marks[n & 63]
                if byte & mark == mark:
                    maybe.append(n)
                else:
                    bits[place] = byte | mark
            if host >= end:
                maybe = found
            if maybe:
                suspects[host] = maybe
        return suspects

    def _take_in(self, numbers: Iterable[int]) -> None:
        if (bits := self._filter) is not None:
            for n in numbers:
                bits[n >> 6 & _MASK] |= _MARKS[n & 63]

    def _make_filter(self, db: sqlite3.Connection) -> None:
        self._filter = bytearray(_MASK + 1)
        place: Place | None = (0, 0)
        while place is not None:
            place = self._read(db, "recent_seen", place)

    def _fill(self, db: sqlite3.Connection) -> None:
        """Read some more of the table into the filter.

        What is moved into a part that was read is in the filter already.
        """
        if self._filter is not None and self._filled is not None:
            self._filled = self._read(db, "seen", self._filled)

    def _read(self, db: sqlite3.Connection, table: str, after: Place) -> Place | None:
        """Read a few rows of a table into the filter; where the next ones are, if there are any."""
        ((last, rows),) = db.execute(
            f"""
            SELECT max(host), json_group_array(fingerprint) FROM (
                SELECT host, fingerprint FROM {table} WHERE (host, fingerprint) > (?, ?)
                ORDER BY host, fingerprint LIMIT ?
            )
            """,
            (*after, FILL),
        )
        numbers = _decode(rows)
        self._take_in(numbers)
        return (last, numbers[-1]) if len(numbers) == FILL else None

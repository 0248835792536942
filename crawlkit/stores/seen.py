"""SeenSet: the exact set of what was ever enqueued, on the side of the store.

The rows are swept into their table (see `sweep.py`). A filter in memory spares most new URLs the
search for what is not there, which is a read from all over the table: bits that are not set say for
certain that there is no such number. Each sets two bits of one byte, a blocked Bloom filter
(Putze, Sanders, Singler 2007): two bytes would be two places in memory, each far from the last one.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_right
from collections.abc import Iterable

import msgspec

from ..hugepages import zeros
from .sweep import LOWEST, SEEN

BITS = 27
"""The filter has ``2 ** BITS`` bits, 16 MB. Where ten million were enqueued, it suspects one in 28
of those that were not."""
FILL = 50_000
"""How many rows a checkpoint reads into the filter of a run that was opened again."""

_MASK = (1 << BITS - 3) - 1
_SHIFT = 64 - (BITS - 3)
"""A number's byte is that of its highest bits, so that sorted ones go through memory in one
direction."""
_PAIRS = [1 << high | 1 << low for high in range(8) for low in range(high)]
_MARKS = tuple((3 * _PAIRS)[:64])
"""The two bits of its byte that a number sets, by its last six bits: 28 pairs, 8 of them in
three places, the others in two."""

_SPREAD = 2654435769
"""2 ** 32 divided by the golden ratio: so the ids of hosts are far apart (Knuth 1973, 6.4)."""

NUMBER = f"((one.fingerprint | one.host * {_SPREAD}) - (one.fingerprint & one.host * {_SPREAD}))"
"""`number_of` for `one`, in SQL, which has no exclusive or."""

_GIVEN = "SELECT json_group_array(one.value) FROM json_each(?) one"
_IS_IN = "EXISTS (SELECT 1 FROM {} x WHERE x.number = one.value)"
_IN_MEMORY = f"{_GIVEN} WHERE {_IS_IN.format('recent_seen')}"
# What is suspected is known for the most part, and for long: one search is enough for that.
_ANYWHERE = f"{_GIVEN} WHERE {_IS_IN.format('seen')} OR {_IS_IN.format('recent_seen')}"

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[int]).decode


def number_of(host: int, fingerprint: int) -> int:
    """A request in one number of 64 bits: its fingerprint, and the id of its host.

    Ten million requests of a run collide with a probability of 3 in a million. Two hosts never do
    by having the same fingerprint, as a `unique_key` has on all of them.
    """
    return fingerprint ^ host * _SPREAD


class SeenSet:
    """What was ever enqueued, for the process that writes the run.

    Only what is in the database decides. What is here is never behind it, whether a transaction is
    committed or rolled back.
    """

    def __init__(self) -> None:
        self._is_open = False
        # There is none as long as all rows are in memory. It holds all of these, all that arrive,
        # and the rows of the table as far as it was filled; or all, where that is None.
        self._filter: memoryview | None = None
        self._filled: float | None = None

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
            self._filled = LOWEST
        self._is_open = True

    def enter(self, db: sqlite3.Connection, numbers: list[int]) -> set[int]:
        """Enter numbers, which are sorted; those that were in it already."""
        self._fill(db)
        known: set[int] = set()
        if suspects := self._suspects(numbers):
            query = _IN_MEMORY if self._filter is None else _ANYWHERE
            ((found,),) = db.execute(query, (_encode(suspects).decode(),))
            known = set(_decode(found))
        fresh = [number for number in numbers if number not in known] if known else numbers
        if fresh:
            SEEN.add(db, _encode(fresh).decode())
            if self._filter is None and SEEN.surplus(db) > 0:
                # Before anything is moved, as that may be rolled back.
                self._make_filter(db)
            SEEN.advance(db)
        return known

    def _suspects(self, numbers: list[int]) -> list[int]:
        """Those that may be in it. In the filter all of them are from now on."""
        bits, shift, mask, marks = self._filter, _SHIFT, _MASK, _MARKS
        if bits is None:
            return numbers
        end = len(numbers) if self._filled is None else bisect_right(numbers, self._filled)
        suspects = []
        # Looked up and marked in one go: each is a place of its own in memory, far from the last
        # one, and that takes longer than all that is done there. Where the transaction is rolled
        # back the filter knows too much, which is no harm.
        for n in numbers[:end]:
            place = n >> shift & mask
            byte = bits[place]
            mark = marks[n & 63]
            if byte & mark == mark:
                suspects.append(n)
            else:
                bits[place] = byte | mark
        self._take_in(numbers[end:])
        return suspects + numbers[end:]

    def _take_in(self, numbers: Iterable[int]) -> None:
        if (bits := self._filter) is not None:
            for n in numbers:
                bits[n >> _SHIFT & _MASK] |= _MARKS[n & 63]

    def _make_filter(self, db: sqlite3.Connection) -> None:
        self._filter = zeros(_MASK + 1)
        place: float | None = LOWEST
        while place is not None:
            place = self._read(db, "recent_seen", place)

    def _fill(self, db: sqlite3.Connection) -> None:
        """Read some more of the table into the filter.

        What is moved into a part that was read is in the filter already.
        """
        if self._filter is not None and self._filled is not None:
            self._filled = self._read(db, "seen", self._filled)

    def _read(self, db: sqlite3.Connection, table: str, after: float) -> float | None:
        """Read some of a table into the filter; where the next ones are, if there are any."""
        query = f"SELECT number FROM {table} WHERE number > ? ORDER BY number LIMIT ?"
        ((found,),) = db.execute(f"SELECT json_group_array(number) FROM ({query})", (after, FILL))
        numbers = _decode(found)
        self._take_in(numbers)
        return numbers[-1] if len(numbers) == FILL else None

"""Sweep: rows that fall all over a large table are gathered, and written in the table's order.

A fingerprint lies where its hash falls. Among ten million, each row that is put in its place at
once costs a page of its own: to be written to the log, to be merged, to have its checksum made.
So rows that arrive are appended to a list in the database, a row for each checkpoint, where they
are durable; and they are kept in a temporary table in memory, where they can be found. The sweep
goes through the keys from the lowest to the highest, round and round. Once memory holds enough,
each checkpoint moves the rows of the next stretch into the table, many to a page.

All of it happens in the transaction of the checkpoint. When a run is opened, the temporary table is
made anew from the list.
"""

from __future__ import annotations

import math
import sqlite3
from typing import NamedTuple

LOWEST, HIGHEST = -math.inf, math.inf
"""Below and above every place."""


class Sweep(NamedTuple):
    """How one table is filled.

    A row's place is its first column, a number, and the sweep goes by that.

    Attributes:
        table: Its name. ``TABLE_arrivals`` is the list, and ``recent_TABLE`` what is in memory.
        columns: Its columns, which are its primary key.
        values: The columns' values in ``one.value``, an element of a row of the list.
        capacity: Rows that are kept in memory. While they come in, twice as many are written in
            each round, as those that lie far ahead of the sweep are gathered for longest.
        valid: A condition for what is taken back into memory when a run is opened.
    """

    table: str
    columns: tuple[str, ...]
    values: tuple[str, ...]
    capacity: int
    valid: str = "true"

    @property
    def definition(self) -> str:
        """The columns, as they are defined: those of a number alone are the fastest to find."""
        if len(self.columns) == 1:
            return f"({self.columns[0]} INTEGER PRIMARY KEY)"
        columns = ", ".join(f"{column} INTEGER" for column in self.columns)
        return f"({columns}, PRIMARY KEY ({', '.join(self.columns)})) WITHOUT ROWID"

    def restore(self, db: sqlite3.Connection) -> None:
        """Take into memory what the list holds and the sweep has not moved yet."""
        db.execute(f"CREATE TEMP TABLE recent_{self.table} {self.definition}")
        db.execute(f"INSERT OR IGNORE INTO recent_{self.table} {self.unswept} AND {self.valid}")

    @property
    def unswept(self) -> str:
        """A query for what is in the list, but not in the table."""
        place = self.values[0]
        # What lies ahead of the sweep when it arrives is moved in that round, the rest in the next.
        return (
            f"SELECT {', '.join(self.values)} "
            f"FROM {self.table}_arrivals arrived, json_each(arrived.rows) one, sweeps "
            f"WHERE sweeps.name = '{self.table}' AND "
            f"(arrived.round + ({place} <= arrived.place), {place}) > (sweeps.round, sweeps.place)"
        )

    def add(self, db: sqlite3.Connection, rows: str) -> None:
        """Add rows, as JSON, none of which is there."""
        db.execute(
            f"INSERT INTO {self.table}_arrivals (round, place, rows) "
            f"SELECT round, place, ? FROM sweeps WHERE name = '{self.table}'",
            (rows,),
        )
        values = ", ".join(self.values)
        db.execute(
            f"INSERT INTO recent_{self.table} SELECT {values} FROM json_each(?) one", (rows,)
        )

    def surplus(self, db: sqlite3.Connection) -> int:
        """How many rows more there are in memory than it is to hold; negative if it is not full."""
        ((count,),) = db.execute(f"SELECT count(*) FROM recent_{self.table}")
        return int(count) - self.capacity

    def advance(self, db: sqlite3.Connection) -> None:
        """Move what is more than memory is to hold, and all that is in the same place."""
        name, recent, key = self.table, f"recent_{self.table}", self.columns[0]
        columns = ", ".join(self.columns)
        surplus = self.surplus(db)
        if surplus <= 0:
            return
        ((turn, start),) = db.execute("SELECT round, place FROM sweeps WHERE name = ?", (name,))
        while surplus > 0:
            stop = db.execute(
                f"SELECT {key} FROM {recent} WHERE {key} > ? ORDER BY {key} LIMIT 1 OFFSET ?",
                (start, surplus - 1),
            ).fetchone()
            end = HIGHEST if stop is None else stop[0]
            stretch = f"FROM {recent} WHERE {key} > ? AND {key} <= ?"
            db.execute(f"INSERT INTO {name} SELECT {columns} {stretch}", (start, end))
            surplus -= db.execute(f"DELETE {stretch}", (start, end)).rowcount
            turn, start = (turn + 1, LOWEST) if stop is None else (turn, end)
        db.execute("UPDATE sweeps SET round = ?, place = ? WHERE name = ?", (turn, start, name))
        # What was in the list when the sweep was here last has been moved since then.
        db.execute(
            f"DELETE FROM {name}_arrivals WHERE id < coalesce(("
            f"SELECT id FROM {name}_arrivals WHERE (round, place) > (?, ?) "
            "ORDER BY id LIMIT 1), 9e18)",
            (turn - 1, start),
        )


SEEN = Sweep("seen", ("number",), ("one.value",), capacity=600_000)
"""What was ever enqueued. The JSON is an array of numbers."""

QUEUED = Sweep(
    "queued",
    ("host", "rank", "bundle"),
    ("one.value ->> 0", "one.value ->> 1", "one.value ->> 2"),
    capacity=40_000,
    # It may be gone, and its number may be that of another.
    valid=(
        "EXISTS (SELECT 1 FROM bundles WHERE id = one.value ->> 2 AND host = one.value ->> 0 "
        "AND priority = -(one.value ->> 1) AND due = 0)"
    ),
)
"""Where to find the bundles of a host, the best first. The JSON is an array of rows."""

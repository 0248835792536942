"""Rows: many of them written with few statements.

Python's sqlite3 gives up the GIL at each statement, and waits to get it back from a busy loop. So
there must not be one for each row. JSON that one statement takes apart with `json_each` does for
narrow rows; for wide ones, that takes twice the time of a statement with a placeholder for each
value of a hundred rows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

from .encoding import without_surrogates

ROWS = 128
"""Rows of a statement. What is left over has one of its own size, which is seldom needed again."""


def insert(db: sqlite3.Connection, into: str, rows: Sequence[Sequence[Any]]) -> None:
    """Write rows, in their order.

    Args:
        db: The database, with a transaction that is open.
        into: All of the statement up to ``VALUES``.
        rows: Their values, as many in each.
    """
    for start in range(0, len(rows), ROWS):
        part = rows[start : start + ROWS]
        statement = _statement(into, len(part[0]), len(part))
        try:
            db.execute(statement, list(chain.from_iterable(part)))
        except UnicodeEncodeError:
            # Half a surrogate pair, as in an error's message about bytes that are no text. It must
            # not keep a checkpoint from being written, now and at every later try.
            db.execute(statement, without_surrogates(list(chain.from_iterable(part))))


@lru_cache(maxsize=32)
def _statement(into: str, width: int, size: int) -> str:
    row = f"({', '.join('?' * width)})"
    return f"{into} VALUES {', '.join([row] * size)}"

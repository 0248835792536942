"""Rows are written as they are, however many there are."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from crawlkit.stores.rows import ROWS, insert

VALUES = [
    (1, "a", 1.5, None),
    (-(2**63), "", 1e-300, b"\x00\xff"),
    (2**63 - 1, "\U0001f600 \x00 '\"?", -0.0, '{"a": "\\u0000"}'),
]


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    made = sqlite3.connect(":memory:", isolation_level=None)
    made.execute("CREATE TABLE one (number INTEGER PRIMARY KEY, a, b, c, d)")
    made.execute("CREATE TABLE two (a PRIMARY KEY, b)")
    yield made
    made.close()


def written(db: sqlite3.Connection) -> list[tuple[object, ...]]:
    return db.execute("SELECT a, b, c, d FROM one ORDER BY number").fetchall()


@pytest.mark.parametrize("count", [0, 1, 2, ROWS - 1, ROWS, ROWS + 1, 3 * ROWS + 5])
def test_any_number_of_rows_is_written_in_its_order(db: sqlite3.Connection, count: int) -> None:
    rows = [VALUES[n % len(VALUES)] for n in range(count)]
    insert(db, "INSERT INTO one (a, b, c, d)", rows)
    assert written(db) == rows


def test_what_is_no_text_does_not_keep_the_others_from_being_written(
    db: sqlite3.Connection,
) -> None:
    rows = [(n, "\ud800x" if n == 7 else "x", None, 1) for n in range(ROWS + 9)]
    insert(db, "INSERT INTO one (a, b, c, d)", rows)
    assert [row[1] for row in written(db)] == ["?x" if n == 7 else "x" for n in range(ROWS + 9)]


def test_of_two_rows_with_one_key_the_last_is_kept_or_the_first(db: sqlite3.Connection) -> None:
    rows = [(n % 100, n) for n in range(3 * ROWS)]
    insert(db, "INSERT OR IGNORE INTO two (a, b)", rows)
    assert db.execute("SELECT a, b FROM two ORDER BY a").fetchall() == [(n, n) for n in range(100)]
    insert(db, "INSERT OR REPLACE INTO two (a, b)", rows)
    last = dict(rows)
    assert dict(db.execute("SELECT a, b FROM two").fetchall()) == last

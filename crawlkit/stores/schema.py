"""The tables of an embedded run.

They are plain columns and JSON, so that any SQLite client can read a run. Whatever steers the crawl
(documents, bundles) and whatever the user came for (items) carries a CRC-32, as SQLite itself does
not notice a flipped bit in a value.
"""

from __future__ import annotations

import sqlite3
import zlib
from pathlib import Path

APPLICATION_ID = 0x63726B74  # "crkt"
VERSION = 1

SCHEMA = """
-- How many checkpoints were committed.
CREATE TABLE progress (id INTEGER PRIMARY KEY CHECK (id = 1), commits INTEGER NOT NULL);
INSERT INTO progress VALUES (1, 0);

-- What the parts save under their names.
CREATE TABLE documents (
    name TEXT PRIMARY KEY, version INTEGER NOT NULL, crc INTEGER NOT NULL, data TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE counters (name TEXT PRIMARY KEY, value NUMERIC NOT NULL) WITHOUT ROWID;
CREATE TABLE errors (
    kind TEXT, place TEXT, message TEXT, count INTEGER NOT NULL,
    first_at REAL NOT NULL, last_at REAL NOT NULL, examples TEXT NOT NULL,
    PRIMARY KEY (kind, place, message)
) WITHOUT ROWID;

-- `best` is the highest priority among the host's bundles that need not wait.
CREATE TABLE hosts (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, best INTEGER);
CREATE INDEX hosts_best ON hosts (best DESC) WHERE best IS NOT NULL;

-- What was ever enqueued.
CREATE TABLE seen (host INTEGER, fingerprint INTEGER, PRIMARY KEY (host, fingerprint))
    WITHOUT ROWID;

-- What is still to do: up to 50 requests of one host and priority in a row, which costs a third of
-- a row for each. Bit i of `gone` is set once request i has left; the row goes with the last one.
CREATE TABLE bundles (
    id INTEGER PRIMARY KEY, host INTEGER NOT NULL, priority INTEGER NOT NULL,
    due REAL NOT NULL, size INTEGER NOT NULL, gone INTEGER NOT NULL DEFAULT 0,
    crc INTEGER NOT NULL, requests TEXT NOT NULL
);
CREATE INDEX bundles_next ON bundles (host, priority DESC, id) WHERE due = 0;
CREATE INDEX bundles_due ON bundles (due) WHERE due > 0;

-- What became of them; and of links that were not enqueued.
CREATE TABLE outcomes (
    host INTEGER, fingerprint INTEGER, outcome TEXT NOT NULL, at REAL NOT NULL, url TEXT NOT NULL,
    handler TEXT, status INTEGER, duration REAL, retries INTEGER NOT NULL,
    error TEXT, detail TEXT, request TEXT, PRIMARY KEY (host, fingerprint)
) WITHOUT ROWID;
CREATE INDEX outcomes_not_handled ON outcomes (outcome) WHERE outcome <> 'handled';

CREATE TABLE items (
    number INTEGER PRIMARY KEY, at REAL NOT NULL, url TEXT NOT NULL, handler TEXT NOT NULL,
    crc INTEGER NOT NULL, data TEXT NOT NULL
);
"""


def create(path: Path) -> None:
    """Make an empty run at `path`, whole or not at all.

    It is built under another name: an existing file is a run, even if it was cut to no length.
    """
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    connection = sqlite3.connect(draft)
    try:
        prepare(connection)
    finally:
        connection.close()
    draft.replace(path)


def prepare(connection: sqlite3.Connection) -> None:
    """Make the tables in an empty database."""
    connection.executescript(
        f"PRAGMA page_size = 4096; PRAGMA application_id = {APPLICATION_ID};"
        f"PRAGMA user_version = {VERSION}; BEGIN; {SCHEMA} COMMIT;"
    )


def crc(data: bytes | str) -> int:
    """The checksum of a stored value."""
    return zlib.crc32(data.encode() if isinstance(data, str) else data)

"""The tables of an embedded run.

They are plain columns and JSON, so that any SQLite client can read a run. Whatever steers the crawl
(documents, bundles) and whatever the user came for (items) carries a CRC-32, as SQLite itself does
not notice a flipped bit in a value.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path

from ..errors import StoreUnfinishedError, StoreVersionError
from .files import sync_names
from .pages import PAGE, PageChecksums, scan

APPLICATION_ID = 0x63726B74  # "crkt"
VERSION = 3

SQLITE_ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""What `sqlite3` raises: the latter where an error's own text is no UTF-8, as it is where SQLite
quotes a schema that is damaged."""

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

-- What was ever enqueued, as `number_of` in seen.py has it: this, and the numbers of
-- `seen_arrivals` that the sweep has not moved here.
CREATE TABLE seen (number INTEGER PRIMARY KEY);

-- What is still to do: up to 50 requests of one host and priority in a row, which costs a third of
-- a row for each. Bit i of `gone` is set once request i has left; the row goes with the last one.
CREATE TABLE bundles (
    id INTEGER PRIMARY KEY, host INTEGER NOT NULL, priority INTEGER NOT NULL,
    due REAL NOT NULL, size INTEGER NOT NULL, gone INTEGER NOT NULL DEFAULT 0,
    crc INTEGER NOT NULL, requests TEXT NOT NULL
);
CREATE INDEX bundles_due ON bundles (due) WHERE due > 0;

-- Where those that need not wait are found, the best of a host first: `rank` is the priority,
-- negated. The rows of `queued_arrivals` belong to it, too.
CREATE TABLE queued (
    host INTEGER, rank INTEGER, bundle INTEGER, PRIMARY KEY (host, rank, bundle)
) WITHOUT ROWID;

-- What each checkpoint adds to these two, as JSON, until the sweep has moved it; with the place of
-- the sweep at that time. The sweep goes by the first column.
CREATE TABLE seen_arrivals (
    id INTEGER PRIMARY KEY, round INTEGER NOT NULL, place NUMERIC NOT NULL, rows TEXT NOT NULL
);
CREATE TABLE queued_arrivals (
    id INTEGER PRIMARY KEY, round INTEGER NOT NULL, place NUMERIC NOT NULL, rows TEXT NOT NULL
);
CREATE TABLE sweeps (
    name TEXT PRIMARY KEY, round INTEGER NOT NULL, place NUMERIC NOT NULL
) WITHOUT ROWID;
INSERT INTO sweeps VALUES ('seen', 0, -9e999), ('queued', 0, -9e999);

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


def create(path: Path, checksums: PageChecksums) -> None:
    """Make an empty run at `path`, whole or not at all.

    It is built under another name: an existing file is a run, even if it was cut to no length.

    Raises:
        OSError, sqlite3.Error: It cannot be written.
    """
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    connection = sqlite3.connect(draft)
    try:
        prepare(connection)
        connection.execute("PRAGMA journal_mode = WAL").fetchone()  # it is noted in the database
    finally:
        connection.close()
    checksums.write(scan(draft))
    draft.replace(path)
    sync_names(path.parent)


def prepare(connection: sqlite3.Connection) -> None:
    """Make the tables in an empty database."""
    connection.executescript(
        f"PRAGMA page_size = {PAGE}; PRAGMA application_id = {APPLICATION_ID};"
        f"PRAGMA user_version = {VERSION}; BEGIN; {SCHEMA} COMMIT;"
    )


def refuse_version(address: str, connection: sqlite3.Connection) -> None:
    """Raise where the run is not of this version of the tables.

    Raises:
        StoreVersionError: Another crawlkit has written it.
        sqlite3.DatabaseError: No crawlkit has.
    """
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise StoreVersionError(
            f"the run in {address} was written by a newer crawlkit (format {version}, "
            f"this one reads up to {VERSION}); upgrade crawlkit, or choose another --store"
        )
    if version < 1:
        raise sqlite3.DatabaseError(f"there is no format {version}")
    if version < VERSION:
        raise StoreVersionError(
            f"the run in {address} was written by an older crawlkit (format {version}, this one "
            f"reads {VERSION}); finish it with that one, or start anew with 'run --fresh'"
        )


IMPORT = "/import"
"""The document that is there while a run is taken in; no part can have this name."""


def is_unfinished(connection: sqlite3.Connection) -> bool:
    """Whether the run was being taken in, and that was not finished."""
    query = "SELECT 1 FROM documents WHERE name = ?"
    return connection.execute(query, (IMPORT,)).fetchone() is not None


def unfinished(address: str) -> StoreUnfinishedError:
    """The error for such a run."""
    return StoreUnfinishedError(
        f"the run in {address} was being imported, and that was not finished; do it again with "
        f"'crawlkit import FILE {address}', or start anew with 'run --fresh'"
    )


def crc(data: object) -> int:
    """The checksum of a stored value; -1, which is none, of what is neither text nor bytes."""
    if isinstance(data, str):
        return zlib.crc32(data.encode())
    return zlib.crc32(data) if isinstance(data, bytes) else -1


def damaged_values(connection: sqlite3.Connection) -> Iterator[str]:
    """Documents, items and bundles whose checksum is not that of what they hold."""
    for what, name, stored_crc, data in connection.execute(
        "SELECT 'document', name, crc, data FROM documents "
        "UNION ALL SELECT 'item', number, crc, data FROM items "
        "UNION ALL SELECT 'bundle', id, crc, requests FROM bundles"
    ):
        if crc(data) != stored_crc:
            yield f"{what} {name} is not what was saved"

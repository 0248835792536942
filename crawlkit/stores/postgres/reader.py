"""PostgresReader: a run in PostgreSQL, opened for reading from any machine."""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections.abc import Generator, Iterator, Sequence
from typing import Any, TypeVar
from zlib import crc32

import msgspec
import psycopg
from psycopg import Connection

from ...checkpoint import Document, ErrorGroup, Number, Outcome, Snapshot
from ...errors import StoreDamagedError, StoreError
from ...request import Request
from ..base import Reader, StoredItem
from ..bundle import with_host
from ..reading import OUTCOME, left_of, outcome_of, outcomes_after, skipped_with
from ..schema import unfinished
from .address import Address
from .checking import check
from .claims import decoded
from .columns import utf8
from .commit import key_of, whole
from .connection import connect, run_names, translated
from .intake import is_unfinished
from .schema import look

T = TypeVar("T")

BATCH = 500
"""Rows that a stream holds in memory."""

_decode = msgspec.json.Decoder().decode

_COUNTERS = """
SELECT name, CASE max(kind) WHEN 0 THEN sum(value) WHEN 1 THEN min(value) ELSE max(value) END
FROM counters {where} GROUP BY name
"""
_ERRORS = "SELECT kind, place, message, count, first_at, last_at, examples FROM errors"
_SNAPSHOT = f"""
SELECT
    (SELECT coalesce(json_agg(json_build_array(name, version, crc, data)), '[]')::text
     FROM documents WHERE NOT is_single),
    (SELECT coalesce(json_agg(json_build_array(name, value)), '[]')::text
     FROM ({_COUNTERS.format(where="WHERE name NOT LIKE 'host/%'")}) c (name, value)),
    (SELECT coalesce(json_agg(json_build_array(
        kind, place, message, count, first_at, last_at, examples)), '[]')::text
     FROM ({_ERRORS}) e)
"""


def open_run(address: Address) -> PostgresReader:
    """Open a run for reading; where the address names none, the only one of the database.

    Raises:
        StoreError: There is no run, or it cannot be read; or there are several to choose from.
        StoreVersionError: Another version of crawlkit has written it.
    """
    connection = connect(address, application="crawlkit reader")
    try:
        if address.run is None:
            address = address.named(_only_run(connection, address))
            connection.close()
            connection = connect(address, application="crawlkit reader")
        if not look(connection, address):
            names = run_names(connection)
            there = f"; there is {', '.join(names[:10])}" if names else ""
            raise StoreError(f"there is no run {address.run} in {address.shown}{there}")
        if is_unfinished(connection):
            raise unfinished(address.shown)
    except psycopg.Error as error:
        connection.close()
        raise translated(error, address, writing=False) from None
    except BaseException:
        connection.close()
        raise
    return PostgresReader(connection, address)


def _only_run(connection: Connection[Any], address: Address) -> str:
    names = run_names(connection)
    if not names:
        raise StoreError(
            f"there is no run in {address.shown}; start one with 'crawlkit run --store', or "
            "correct the address"
        )
    if len(names) > 1:
        raise StoreError(
            f"there are several runs in {address.shown} ({', '.join(names[:10])}); say which: "
            f"{address.named(names[0]).shown}"
        )
    return names[0]


# -- what the store reads as well ---------------------------------------------------------------


def read_snapshot(connection: Connection[Any]) -> Snapshot:
    """What the parts saved, as of one checkpoint: one statement sees one state."""
    documents, counters, errors = connection.execute(_SNAPSHOT).fetchone() or ("[]", "[]", "[]")
    return Snapshot(
        {name: _verified(name, *rest) for name, *rest in sorted(_decode(documents))},
        {name: whole(value) for name, value in _decode(counters)},
        tuple(merged_errors(_decode(errors))),
    )


def read_document(connection: Connection[Any], name: str) -> Document | None:
    """One document."""
    row = connection.execute(
        "SELECT name, version, crc, data FROM documents WHERE key = %s", (key_of(name),)
    ).fetchone()
    return None if row is None else _verified(*row)


def _verified(name: str, version: int, crc: int, text: str) -> Document:
    data = text.encode()
    if crc32(data) != crc:
        raise StoreDamagedError(
            f"the document {name!r} is not what was saved; see 'crawlkit check', put back a "
            "backup, or start anew with 'run --fresh'"
        )
    return Document(version, data)


def merged_errors(rows: Iterator[Sequence[Any]]) -> list[ErrorGroup]:
    """Groups of errors, of all workers together, the most frequent first."""
    groups: dict[tuple[str, str, str], ErrorGroup] = {}
    for kind, place, message, count, first_at, last_at, examples in rows:
        group = groups.setdefault(
            (kind, place, message), ErrorGroup(kind, message, place, 0, first_at, last_at)
        )
        group.count += count
        group.first_at = min(group.first_at, first_at)
        group.last_at = max(group.last_at, last_at)
        group.examples = list(dict.fromkeys([*group.examples, *_decode(examples)]))[:5]
    return sorted(groups.values(), key=lambda group: (-group.count, group.kind, group.message))


# -- the reader -----------------------------------------------------------------------------------


class PostgresReader(Reader):
    """A run in PostgreSQL, for reading; see `Reader`.

    What may be long is read through a cursor on the server, which keeps to the state at its begin.
    As long as one is open there is a transaction, which keeps the server from clearing away what
    is deleted meanwhile.
    """

    def __init__(self, connection: Connection[Any], address: Address) -> None:
        self.address = str(address)
        self._where = address
        self._db = connection
        self._streams = 0
        self._names = itertools.count(1)
        # Who forgets to close it need not hear of that from psycopg.
        weakref.finalize(self, connection.close)

    def documents(self, prefix: str = "") -> Iterator[tuple[str, Document]]:  # noqa: D102
        for name, version, crc, text in self._stream(
            "SELECT name, version, crc, data FROM documents "
            'WHERE starts_with(name, %s) ORDER BY name COLLATE "C"',
            utf8(prefix).decode(),
        ):
            yield name, _verified(name, version, crc, text)

    def counters(self, prefix: str = "") -> dict[str, Number]:  # noqa: D102
        rows = self._rows(
            _COUNTERS.format(where="WHERE starts_with(name, %s)"), utf8(prefix).decode()
        )
        return {name: whole(value) for name, value in rows}

    def busiest_hosts(self, limit: int) -> dict[str, Number]:  # noqa: D102
        rows = self._rows(
            """
            WITH numbers AS (
                SELECT name, sum(value) AS value, regexp_replace(name, '/[^/]*$', '') AS host
                FROM counters WHERE name > 'host/' AND name < 'host0' GROUP BY name
            ),
            busiest AS (
                SELECT host FROM numbers GROUP BY host
                ORDER BY sum(value) FILTER (WHERE name = host || '/responses_received') DESC
                    NULLS LAST,
                    sum(value) FILTER (WHERE name = host || '/requests_failed') DESC NULLS LAST,
                    host
                LIMIT %s
            )
            SELECT name, value FROM numbers JOIN busiest USING (host)
            """,
            limit,
        )
        return {name: whole(value) for name, value in rows}

    def errors(self) -> list[ErrorGroup]:  # noqa: D102
        return merged_errors(iter(self._rows(_ERRORS)))

    def items(  # noqa: D102
        self, *, after: int = 0, handler: str | None = None
    ) -> Iterator[StoredItem]:
        for number, text, url, item_handler, at, crc in self._stream(
            "SELECT number, data, url, handler, at, crc FROM items "
            "WHERE number > %s AND (%s::text IS NULL OR handler = %s) ORDER BY number",
            after,
            handler,
            handler,
        ):
            data = text.encode()
            if crc32(data) != crc:
                raise self._damaged(f"item {number}")
            yield StoredItem(number, data, url, item_handler, at)

    def settled(self) -> int | None:
        """The number up to which no item will come any more; ``None`` where nobody writes."""
        return self._rows("SELECT min(items_after) FROM workers")[0][0]  # type: ignore[no-any-return]

    def outcomes(self, outcome: str, *, host: str | None = None) -> Iterator[Outcome]:  # noqa: D102
        rows = self._stream(
            f"{OUTCOME} WHERE o.outcome = %s AND (%s::text IS NULL OR h.name = %s)",
            outcome,
            host,
            host,
        )
        for row in rows:
            yield outcome_of(row)

    def outcomes_after(  # noqa: D102
        self, outcome: str, after: tuple[str, int] | None = None, *, host: str | None = None
    ) -> Iterator[Outcome]:
        statement, values = outcomes_after(outcome, after, host, mark="%s")
        for row in self._stream(statement, *values):
            yield outcome_of(row)

    def pending(self, *, host: str | None = None) -> Iterator[tuple[Request, float]]:  # noqa: D102
        for bundle, name, due, size, gone, crc, text in self._stream(
            "SELECT b.id, h.name, b.due, b.size, coalesce(c.gone, b.gone), b.crc, b.requests "
            "FROM bundles b JOIN hosts h ON h.id = b.host LEFT JOIN claims c ON c.bundle = b.id "
            "WHERE %s::text IS NULL OR h.name = %s ORDER BY b.priority DESC, b.id",
            host,
            host,
        ):
            requests = with_host(decoded(bundle, size, crc, text), name)
            yield from ((request, due) for request in left_of(requests, gone))

    def skipped(self) -> Iterator[tuple[Outcome, bool]]:  # noqa: D102
        is_seen = (
            "EXISTS (SELECT FROM seen s WHERE s.host = o.host AND s.fingerprint = o.fingerprint)"
        )
        for row in self._stream(skipped_with(is_seen)):
            yield outcome_of(row[:-1]), row[-1]

    def each_counter(self) -> Iterator[tuple[str, Number]]:  # noqa: D102
        statement = _COUNTERS.format(where="")
        for name, value in self._stream(f"{statement} ORDER BY name"):
            yield name, whole(value)

    @contextlib.contextmanager
    def instant(self) -> Iterator[None]:  # noqa: D102
        with self._reporting():
            # A transaction that is open already sees each of its statements' own instant.
            self._end()
            self._db.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1
            self._end()

    def outcome(self, host: str, fingerprint: int) -> Outcome | None:  # noqa: D102
        rows = self._rows(
            f"{OUTCOME} WHERE h.name = %s AND o.fingerprint = %s",
            utf8(host).decode(),
            fingerprint,
        )
        return outcome_of(rows[0]) if rows else None

    def seen(self, host: str, fingerprint: int) -> bool:  # noqa: D102
        return bool(
            self._rows(
                "SELECT FROM seen s JOIN hosts h ON h.id = s.host "
                "WHERE h.name = %s AND s.fingerprint = %s",
                utf8(host).decode(),
                fingerprint,
            )
        )

    def snapshot(self) -> Snapshot:  # noqa: D102
        with self._reporting():
            return read_snapshot(self._db)

    def holder(self) -> int | None:
        """The process of the worker that has been writing for longest, if any is."""
        rows = self._rows(
            "SELECT pid FROM workers WHERE until > clock_timestamp() ORDER BY since LIMIT 1"
        )
        return rows[0][0] if rows else None

    def check(self) -> Iterator[str]:  # noqa: D102
        # On a connection of its own, in one transaction that sees one state.
        try:
            with connect(self._where, application="crawlkit check") as connection:
                yield from check(connection)
        except psycopg.Error as error:
            yield str(translated(error, self._where, writing=False))
        except StoreError as error:
            yield str(error)

    def close(self) -> None:  # noqa: D102
        self._db.close()

    # -- queries ----------------------------------------------------------------------------------

    def _rows(self, statement: str, *values: Any) -> list[Any]:
        with self._reporting():
            return self._db.execute(statement, values).fetchall()

    def _stream(self, statement: str, *values: Any) -> Generator[Any, None, None]:
        with self._reporting():
            if self._streams == 0:
                self._db.execute("BEGIN READ ONLY")
            self._streams += 1
            cursor = self._db.cursor(f"crawlkit_{next(self._names)}")
        try:
            with self._reporting():
                cursor.itersize = BATCH
                cursor.execute(statement, values)
            while True:
                with self._reporting():
                    rows = cursor.fetchmany(BATCH)
                if not rows:
                    return
                yield from rows
        finally:
            self._streams -= 1
            with contextlib.suppress(psycopg.Error):
                if not self._db.closed:
                    cursor.close()
            self._end()

    def _end(self) -> None:
        """End the transaction that nobody reads from any more."""
        with contextlib.suppress(psycopg.Error):
            if self._streams == 0 and not self._db.closed and self._db.info.transaction_status:
                self._db.execute("COMMIT")

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise translated(error, self._where, writing=False) from None

    def _damaged(self, what: str) -> StoreDamagedError:
        return StoreDamagedError(
            f"{what} of {self._where.shown} is not what was saved; see 'crawlkit check', put back "
            "a backup, or start anew with 'run --fresh'"
        )

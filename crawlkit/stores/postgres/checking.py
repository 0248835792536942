"""Whether a run in PostgreSQL is what was written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from zlib import crc32

from psycopg import Connection

from ...errors import StoreDamagedError
from ...request import fingerprint
from ..bundle import with_host
from .claims import decoded
from .columns import Ints, Longs, Texts
from .tables import BEST_OF, DUE_OF

BATCH = 200
"""Rows that are held in memory."""

_WRONG = (
    # Every bundle can be found, and whoever has claimed one is there.
    """
    SELECT 'host ' || name || ' has work of priority ' || coalesce(found::text, 'none')
        || ', but the queue says ' || coalesce(best::text, 'none')
    FROM (SELECT h.name, h.best, {best} AS found FROM hosts h) h
    WHERE best IS DISTINCT FROM found
    """.format(best=BEST_OF.format(host="h.id")),
    """
    SELECT 'host ' || name || ' has work that waits until ' || coalesce(found::text, 'never')
        || ', but the queue says ' || coalesce(due::text, 'never')
    FROM (SELECT h.name, h.due, {due} AS found FROM hosts h) h
    WHERE due IS DISTINCT FROM found
    """.format(due=DUE_OF.format(host="h.id")),
    "SELECT 'bundle ' || c.bundle || ' is claimed, but it is not there' FROM claims c "
    "WHERE NOT EXISTS (SELECT FROM bundles b WHERE b.id = c.bundle AND b.host = c.host)",
    "SELECT 'bundle ' || c.bundle || ' is claimed by a worker that has no share of its host' "
    "FROM claims c WHERE NOT EXISTS "
    "(SELECT FROM shares s WHERE s.host = c.host AND s.worker = c.worker)",
    "SELECT 'worker ' || c.worker || ' has claimed something, and is not there' FROM "
    "(SELECT worker FROM claims UNION SELECT worker FROM shares UNION SELECT worker FROM locks) c "
    "WHERE NOT EXISTS (SELECT FROM workers w WHERE w.epoch = c.worker)",
    "SELECT 'host ' || h.name || ' has ' || h.free + coalesce(sum(s.shares), 0) || ' shares of 16' "
    "FROM hosts h LEFT JOIN shares s ON s.host = h.id GROUP BY h.id "
    "HAVING h.free + coalesce(sum(s.shares), 0) <> 16 OR h.free < 0",
    "SELECT 'bundle ' || b.id || ' belongs to no host' FROM bundles b "
    "WHERE NOT EXISTS (SELECT FROM hosts h WHERE h.id = b.host)",
)


def check(connection: Connection[Any]) -> Iterator[str]:
    """Everything that is wrong with a run, a line each, as of one checkpoint."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield from _damaged_values(connection)
        for statement in _WRONG:
            for (finding,) in connection.execute(statement):
                yield finding
        yield from _books(connection)


def _damaged_values(connection: Connection[Any]) -> Iterator[str]:
    for what, statement in (
        ("document", "SELECT name, crc, data FROM documents"),
        ("item", "SELECT number, crc, data FROM items"),
    ):
        for name, crc, text in _stream(connection, statement):
            if crc32(text.encode()) != crc:
                yield f"{what} {name} is not what was saved"


def _books(connection: Connection[Any]) -> Iterator[str]:
    """Every request that was enqueued is pending or has an outcome, and is counted."""
    pending = 0
    for rows in _batches(
        connection,
        "SELECT b.id, b.host, h.name, b.size, coalesce(c.gone, b.gone), b.crc, b.requests "
        "FROM bundles b JOIN hosts h ON h.id = b.host LEFT JOIN claims c ON c.bundle = b.id",
    ):
        found: list[tuple[int, int, str]] = []
        for bundle, host, name, size, gone, crc, text in rows:
            try:
                requests = with_host(decoded(bundle, size, crc, text), name)
            except StoreDamagedError:
                yield f"bundle {bundle} is not what was saved"
                continue
            if gone == (1 << size) - 1:
                yield f"bundle {bundle} is empty, but it is there"
            found += [
                (host, fingerprint(request), request.url)
                for place, request in enumerate(requests)
                if not gone >> place & 1
            ]
        pending += len(found)
        hosts, numbers, urls = zip(*found, strict=True) if found else ((), (), ())
        for (url,) in connection.execute(
            "SELECT url FROM unnest(%s, %s, %s) AS n (host, fingerprint, url) WHERE NOT EXISTS "
            "(SELECT FROM seen s WHERE s.host = n.host AND s.fingerprint = n.fingerprint)",
            (Ints(hosts), Longs(numbers), Texts(urls)),
        ):
            yield f"{url} is pending although it was never enqueued"
    outcomes = dict(
        connection.execute(
            "SELECT outcome, count(*) FROM outcomes JOIN seen USING (host, fingerprint) "
            "GROUP BY outcome"
        ).fetchall()
    )
    seen, items = connection.execute(
        "SELECT (SELECT count(*) FROM seen), (SELECT count(*) FROM items)"
    ).fetchone() or (0, 0)
    # A link may be skipped first and enqueued later; then both are there until it is handled.
    skipped = outcomes.pop("skipped", 0)
    known = sum(outcomes.values())
    if not known + pending <= seen <= known + pending + skipped:
        yield (
            f"{seen} requests were enqueued, but {pending} are pending and {known} have an outcome"
        )
    counters = dict(
        connection.execute(
            "SELECT name, sum(value)::bigint FROM counters WHERE kind = 0 AND name !~ '/' "
            "GROUP BY name"
        ).fetchall()
    )
    for name, number in (
        ("requests_total", seen),
        ("requests_finished", outcomes.get("handled", 0)),
        ("requests_failed", outcomes.get("failed", 0)),
        ("items_saved", items),
    ):
        if counters.get(name, 0) != number:
            yield f"the counter {name} says {counters.get(name, 0)}, the run holds {number}"


def _batches(connection: Connection[Any], statement: str) -> Iterator[list[Any]]:
    with connection.cursor("crawlkit_check") as cursor:
        cursor.execute(statement)
        while rows := cursor.fetchmany(BATCH):
            yield rows


def _stream(connection: Connection[Any], statement: str) -> Iterator[Any]:
    for rows in _batches(connection, statement):
        yield from rows

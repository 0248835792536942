"""SqliteReader: an embedded run, opened for reading while it goes on or after it has ended."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from ..checkpoint import Document, ErrorGroup, Number, Outcome, Snapshot
from ..errors import StoreDamagedError, StoreError
from ..request import Request, fingerprint
from .base import Reader, StoredItem
from .bundle import with_host
from .directory import RunDirectory
from .inspection import Inspection
from .pages import WriteAheadLog
from .reading import OUTCOME, left_of, outcome_of, outcomes_after, skipped_with
from .schema import (
    APPLICATION_ID,
    SQLITE_ERRORS,
    crc,
    damaged_values,
    is_unfinished,
    refuse_version,
    unfinished,
)
from .seen import NUMBER, number_of
from .sweep import QUEUED, SEEN

_decode = msgspec.json.Decoder().decode
_requests = msgspec.json.Decoder(list[Request])

_IS_SEEN = f"""(
    EXISTS (SELECT 1 FROM seen WHERE seen.number = {NUMBER})
    OR EXISTS (SELECT 1 FROM recent_seen recent WHERE recent.number = {NUMBER})
)"""
"""Whether `one` was ever enqueued; see `SqliteReader._gather`."""


def open_directory(path: str, directory: RunDirectory | None = None) -> SqliteReader:
    """Open the run in a directory for reading.

    Args:
        path: The directory.
        directory: The same, where it is at hand, wherever the process has gone since.

    Raises:
        StoreError: There is none, or it cannot be read.
        StoreVersionError: Another version of crawlkit has written it.
    """
    directory = directory or RunDirectory(path)
    database = directory.database
    try:
        if not database.exists():
            directory.refuse_if_set_aside()
            raise StoreError(
                f"there is no run in {path}; name the directory that 'run --store' used"
            )
        if database.stat().st_size == 0:
            # To be said before SQLite looks at it, which would then throw away the log.
            raise sqlite3.DatabaseError("the file is empty")
        if not os.access(database, os.R_OK):
            # SQLite does not say why it cannot open it. To open it here, and close it again, would
            # take away the locks that this process may have on it.
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        connection = _connect(database)
        if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise sqlite3.DatabaseError("it is not a run of crawlkit")
        refuse_version(path, connection)
        connection.execute("SELECT commits FROM progress").fetchone()
        if is_unfinished(connection):
            connection.close()
            raise unfinished(path)
    except SQLITE_ERRORS as error:
        raise _damaged(str(directory.shown), error) from None
    except OSError as error:
        raise StoreError(
            f"cannot read the run in {path}: {error.strerror}; see who may read it, or copy it"
        ) from None
    return SqliteReader(connection, path, directory)


def _connect(database: Path) -> sqlite3.Connection:
    uri = f"{database.absolute().as_uri()}?mode=ro"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=5)
    try:
        connection.execute("SELECT 1 FROM sqlite_schema").fetchone()
    except sqlite3.OperationalError as error:
        connection.close()
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            raise
        # Not even the index of the log may be written beside the database, as where a run was
        # copied to a read-only place; then nobody writes the database either.
        if WriteAheadLog(database).size():
            raise sqlite3.OperationalError(
                "its log can be read only where something can be written; copy it to such a place"
            ) from None
        connection = sqlite3.connect(f"{uri}&immutable=1", uri=True, isolation_level=None)
    connection.execute("PRAGMA temp_store = MEMORY")
    return connection


class SqliteReader(Reader):
    """An embedded run, for reading; see `Reader`."""

    def __init__(
        self, connection: sqlite3.Connection, address: str, directory: RunDirectory | None = None
    ) -> None:
        self.address = address
        self._db = connection
        self._directory = directory

    def documents(self, prefix: str = "") -> Iterator[tuple[str, Document]]:  # noqa: D102
        for name, version, stored_crc, data in self._rows(
            "SELECT name, version, crc, data FROM documents "
            "WHERE substr(name, 1, length(?1)) = ?1 ORDER BY name",
            prefix,
        ):
            if crc(data) != stored_crc:
                raise _damaged(self.address, f"the document {name!r} is not what was saved")
            yield name, Document(version, data.encode())

    def counters(self, prefix: str = "") -> dict[str, Number]:  # noqa: D102
        return dict(
            self._rows(
                "SELECT name, value FROM counters WHERE substr(name, 1, length(?1)) = ?1", prefix
            )
        )

    def busiest_hosts(self, limit: int) -> dict[str, Number]:  # noqa: D102
        hosts: dict[str, None] = {}
        for field in ("responses_received", "requests_failed"):
            if len(hosts) < limit:
                hosts |= dict.fromkeys(
                    host
                    for (host,) in self._rows(
                        # From host/ to host0, the next after it: a range of the primary key.
                        """
                        SELECT substr(name, 1, length(name) - length(?1)) FROM counters
                        WHERE name > 'host/' AND name < 'host0' AND substr(name, -length(?1)) = ?1
                            AND value > 0
                        ORDER BY value DESC, name LIMIT ?2
                        """,
                        f"/{field}",
                        limit,
                    )
                )
        return dict(
            self._rows(
                """
                SELECT c.name, c.value FROM json_each(?) host CROSS JOIN counters c
                ON c.name > host.value || '/' AND c.name < host.value || '0'
                """,
                msgspec.json.encode(list(hosts)[:limit]).decode(),
            )
        )

    def errors(self) -> list[ErrorGroup]:  # noqa: D102
        return [
            ErrorGroup(kind, message, place, count, first_at, last_at, _decode(examples))
            for kind, message, place, count, first_at, last_at, examples in self._rows(
                "SELECT kind, message, place, count, first_at, last_at, examples FROM errors "
                "ORDER BY count DESC, kind, message"
            )
        ]

    def items(  # noqa: D102
        self, *, after: int = 0, handler: str | None = None
    ) -> Iterator[StoredItem]:
        for number, data, url, item_handler, at, stored_crc in self._rows(
            "SELECT number, data, url, handler, at, crc FROM items "
            "WHERE number > ? AND (?2 IS NULL OR handler = ?2) ORDER BY number",
            after,
            handler,
        ):
            if crc(data) != stored_crc:
                raise _damaged(self.address, f"item {number} is not what was saved")
            yield StoredItem(number, data.encode(), url, item_handler, at)

    def outcomes(self, outcome: str, *, host: str | None = None) -> Iterator[Outcome]:  # noqa: D102
        return self.outcomes_after(outcome, host=host)

    def outcomes_after(  # noqa: D102
        self, outcome: str, after: tuple[str, int] | None = None, *, host: str | None = None
    ) -> Iterator[Outcome]:
        query, values = outcomes_after(outcome, after, host, mark="?")
        for row in self._rows(query, *values):
            yield outcome_of(row)

    def pending(self, *, host: str | None = None) -> Iterator[tuple[Request, float]]:  # noqa: D102
        for name, due, size, gone, stored_crc, text in self._rows(
            # Sorted without the requests: of those there may be more than memory holds.
            """
            SELECT h.name, b.due, b.size, b.gone, b.crc, b.requests
            FROM (
                SELECT id FROM bundles
                WHERE ?1 IS NULL OR host = (SELECT id FROM hosts WHERE name = ?1)
                ORDER BY priority DESC, id LIMIT -1
            ) best
            CROSS JOIN bundles b ON b.id = best.id CROSS JOIN hosts h ON h.id = b.host
            """,
            host,
        ):
            requests = _requests.decode(text) if crc(text) == stored_crc else []
            if len(requests) != size:
                raise _damaged(self.address, "a bundle of requests is not what was saved")
            yield from ((request, due) for request in left_of(with_host(requests, name), gone))

    def outcome(self, host: str, fingerprint: int) -> Outcome | None:  # noqa: D102
        for row in self._rows(
            f"{OUTCOME} WHERE h.name = ? AND o.fingerprint = ?", host, fingerprint
        ):
            return outcome_of(row)
        return None

    def seen(self, host: str, fingerprint: int) -> bool:  # noqa: D102
        for (host_id,) in self._rows("SELECT id FROM hosts WHERE name = ?", host):
            found = self._rows(
                # Where its digits are is found in no time, and what they are part of is not.
                """
                SELECT 1 FROM seen WHERE number = ?1 UNION ALL
                SELECT 1 FROM seen_arrivals a, json_each(a.rows) one
                WHERE instr(a.rows, ?1) AND one.value = ?1
                """,
                number_of(host_id, fingerprint),
            )
            return any(found)
        return False

    def skipped(self) -> Iterator[tuple[Outcome, bool]]:  # noqa: D102
        self._gather()
        for row in self._rows(skipped_with(_IS_SEEN.replace("one.", "o."))):
            yield outcome_of(row[:-1]), bool(row[-1])

    def each_counter(self) -> Iterator[tuple[str, Number]]:  # noqa: D102
        yield from self._rows("SELECT name, value FROM counters ORDER BY name")

    @contextlib.contextmanager
    def instant(self) -> Iterator[None]:  # noqa: D102
        # One transaction is one checkpoint, however many come while it is read.
        list(self._rows("BEGIN"))
        try:
            yield
        finally:
            with contextlib.suppress(*SQLITE_ERRORS):
                self._db.execute("COMMIT")

    def snapshot(self) -> Snapshot:  # noqa: D102
        with self.instant():
            return super().snapshot()

    def holder(self) -> int | None:  # noqa: D102
        return self._directory.holder() if self._directory else None

    def check(self) -> Iterator[str]:  # noqa: D102
        try:
            if self._directory is not None:
                yield from self._check_pages(self._directory)
            for (finding,) in self._db.execute("PRAGMA integrity_check(20)"):
                if finding != "ok":
                    yield " ".join(finding.split())
            yield from damaged_values(self._db)
            # As of one checkpoint, however many come meanwhile.
            self._db.execute("BEGIN")
            try:
                self._gather()
                yield from self._check_books()
                yield from self._check_queue()
            finally:
                with contextlib.suppress(*SQLITE_ERRORS):
                    self._db.execute("COMMIT")
        except SQLITE_ERRORS as error:
            yield str(error)

    def close(self) -> None:  # noqa: D102
        self._db.close()

    # -- checks -----------------------------------------------------------------------------------

    def _check_pages(self, directory: RunDirectory) -> Iterator[str]:
        # A process that writes changes them while they are looked at; and it has checked them.
        record = directory.noted()
        if record is None or directory.holder() is not None:
            return
        findings = list(Inspection(directory, record).findings(self._db))
        ((commits,),) = self._db.execute("SELECT commits FROM progress")
        if commits < record.commits:
            findings.append(f"its last {record.commits - commits} checkpoints are gone")
        if directory.holder() is None:
            yield from findings

    def _check_books(self) -> Iterator[str]:
        """Every request that was enqueued is pending or has an outcome, and is counted."""
        outcomes = dict(
            self._db.execute(
                f"SELECT outcome, count(*) FROM outcomes one WHERE {_IS_SEEN} GROUP BY outcome"
            )
        )
        pending = 0
        for request, _ in self.pending():
            pending += 1
            if not self._db.execute(
                "SELECT 1 FROM (SELECT id host, ? fingerprint FROM hosts WHERE name = ?) one "
                f"WHERE {_IS_SEEN}",
                (fingerprint(request), request.host),
            ).fetchone():
                yield f"{request.url} is pending although it was never enqueued"
        (seen,) = self._db.execute(
            "SELECT (SELECT count(*) FROM seen) + (SELECT count(*) FROM recent_seen)"
        ).fetchone()
        # A link may be skipped first and enqueued later; then both rows exist until it is handled.
        skipped = outcomes.pop("skipped", 0)
        if (
            not sum(outcomes.values()) + pending
            <= seen
            <= sum(outcomes.values()) + pending + skipped
        ):
            yield (
                f"{seen} requests were enqueued, but {pending} are pending and "
                f"{sum(outcomes.values())} have an outcome"
            )
        counters = self.counters()
        for name, number in (
            ("requests_total", seen),
            ("requests_finished", outcomes.get("handled", 0)),
            ("requests_failed", outcomes.get("failed", 0)),
            ("items_saved", self._db.execute("SELECT count(*) FROM items").fetchone()[0]),
        ):
            if counters.get(name, 0) != number:
                yield f"the counter {name} says {counters.get(name, 0)}, the run holds {number}"

    def _check_queue(self) -> Iterator[str]:
        """Every bundle that need not wait can be found, and there is one wherever one is found."""
        for (bundle,) in self._db.execute(
            """
            SELECT id FROM bundles b WHERE due = 0 AND NOT EXISTS (
                SELECT 1 FROM queued WHERE host = b.host AND rank = -b.priority AND bundle = b.id
            ) AND NOT EXISTS (
                SELECT 1 FROM recent_queued
                WHERE host = b.host AND rank = -b.priority AND bundle = b.id
            )
            """
        ):
            yield f"bundle {bundle} is pending, but would never be claimed"
        for (bundle,) in self._db.execute(
            """
            SELECT bundle FROM queued q WHERE NOT EXISTS (
                SELECT 1 FROM bundles b
                WHERE b.id = q.bundle AND b.host = q.host AND b.priority = -q.rank AND b.due = 0
            )
            """
        ):
            yield f"bundle {bundle} is queued, but it is not there"

    def _gather(self) -> None:
        """Have at hand what is not in its table yet, as the process that writes the run has it."""
        for sweep in (SEEN, QUEUED):
            self._db.execute(f"DROP TABLE IF EXISTS temp.recent_{sweep.table}")
            sweep.restore(self._db)

    def _rows(self, query: str, *values: Any) -> Iterator[Any]:
        try:
            # Not "yield from", which would hand the end of the reading to the cursor as well.
            for row in self._db.execute(query, values):  # noqa: UP028
                yield row
        except SQLITE_ERRORS as error:
            raise _damaged(self.address, error) from None


def _damaged(address: str, reason: object) -> StoreDamagedError:
    return StoreDamagedError(
        f"{address} cannot be read ({reason}); see 'crawlkit check', put back a copy, or start "
        "anew with 'run --fresh'"
    )

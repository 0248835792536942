"""What a commit writes into an embedded run.

Every table is read or written by one statement with its rows as JSON, for the reason that is given
in `sqlite.py`, or by a few for wide rows (`rows.py`). Values that are JSON themselves travel as
strings, so that they are stored to the letter.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec

from ..checkpoint import Checkpoint, Document, ErrorGroup, Number, Outcome, Pending
from .base import BUNDLE, Receipt, stale
from .bundle import Bundle, Left, bundled, left_by
from .encoding import encode
from .intake import Part
from .rows import insert
from .schema import crc
from .seen import SeenSet, number_of
from .sweep import QUEUED

_decode = msgspec.json.Decoder().decode


class Written(NamedTuple):
    """What a transaction has done, for memory to follow once it is committed."""

    receipt: Receipt
    commits: int
    left: Left


def write(
    db: sqlite3.Connection, checkpoint: Checkpoint, claimed: Mapping[int, Bundle], seen: SeenSet
) -> Written:
    """Write `checkpoint` inside the transaction that is open."""
    hosts = _name_hosts(db, checkpoint)
    fresh = _new_ones(db, checkpoint.fresh, hosts, seen)
    _add_bundles(db, [*fresh, *checkpoint.again], hosts)
    left = left_by(checkpoint.left, claimed)
    _leave(db, left, claimed)
    _add_outcomes(db, checkpoint, hosts)
    _add_items(db, checkpoint)
    _put_documents(db, checkpoint.documents)
    known = len(checkpoint.fresh) - len(fresh) + checkpoint.duplicates
    receipt = Receipt(len(fresh), known)
    _count(db, checkpoint, receipt)
    _add_errors(db, checkpoint.errors)
    ((commits,),) = db.execute("UPDATE progress SET commits = commits + 1 RETURNING commits")
    return Written(receipt, commits, left)


def _rows(rows: Iterable[Any]) -> tuple[str]:
    return (encode(list(rows)).decode(),)


def _name_hosts(db: sqlite3.Connection, checkpoint: Checkpoint) -> dict[str, int]:
    names = {pending.host for pending in checkpoint.fresh}
    names.update(pending.host for pending in checkpoint.again)
    names.update(outcome.host for outcome in checkpoint.outcomes)
    names.update(outcome.host for outcome in checkpoint.skipped)
    names.update(host for host, *_ in checkpoint.forget)
    if not names:
        return {}
    # One after the other in the order of the index, which SQLite would sort them into otherwise.
    ((found,),) = db.execute(
        "SELECT json_group_object(hosts.name, hosts.id) "
        "FROM json_each(?) one CROSS JOIN hosts ON hosts.name = one.value",
        _rows(sorted(names)),
    )
    ids: dict[str, int] = _decode(found)
    if new := sorted(names - ids.keys()):
        query = "INSERT INTO hosts (name) SELECT value FROM json_each(?) RETURNING name, id"
        ids.update(db.execute(query, _rows(new)))
    return ids


def _new_ones(
    db: sqlite3.Connection, fresh: list[Pending], hosts: Mapping[str, int], seen: SeenSet
) -> list[Pending]:
    """Enter the fresh requests into the exact set; those that were not in it."""
    if not fresh:
        return []
    found: dict[int, Pending] = {}
    for pending in fresh:
        found.setdefault(number_of(hosts[pending.host], pending.fingerprint), pending)
    known = seen.enter(db, sorted(found))
    # In the order in which they came.
    return [pending for number, pending in found.items() if number not in known]


def _add_bundles(db: sqlite3.Connection, pendings: list[Pending], hosts: Mapping[str, int]) -> None:
    if not pendings:
        return
    groups: dict[tuple[str, int, float], list[Any]] = {}
    for pending in pendings:
        key = (pending.host, pending.request.priority, pending.due)
        groups.setdefault(key, []).append(pending.request)
    ((number,),) = db.execute("SELECT coalesce(max(id), 0) FROM bundles")
    bundles = []
    queued = []
    best: dict[int, int] = {}
    for (host, priority, due), requests in groups.items():
        host_id = hosts[host]
        if due == 0:
            best[host_id] = max(priority, best.get(host_id, priority))
        for start in range(0, len(requests), BUNDLE):
            part = requests[start : start + BUNDLE]
            text = bundled(part, host)
            number += 1
            bundles.append([number, host_id, priority, due, len(part), crc(text), text.decode()])
            if due == 0:
                queued.append((host_id, -priority, number))
    insert(db, "INSERT INTO bundles (id, host, priority, due, size, crc, requests)", bundles)
    if queued:
        # In the order of their tables, as with all that goes all over a large one.
        QUEUED.add(db, *_rows(sorted(queued)))
        QUEUED.advance(db)
        db.execute(
            """
            UPDATE hosts SET best = new.value ->> 1 FROM json_each(?) new
            WHERE hosts.id = new.value ->> 0 AND (best IS NULL OR best < new.value ->> 1)
            """,
            _rows(sorted(best.items())),
        )


def _leave(db: sqlite3.Connection, left: Left, claimed: Mapping[int, Bundle]) -> None:
    """Take requests out of their bundles, and out of the queue the bundles that are empty."""
    partly, emptied = left
    if partly:
        db.execute(
            """
            UPDATE bundles SET gone = new.value ->> 1 FROM json_each(?) new
            WHERE bundles.id = new.value ->> 0
            """,
            _rows((bundle, state.gone) for bundle, state in partly.items()),
        )
    if emptied:
        for table in ("queued", "recent_queued"):
            db.execute(
                f"""
                DELETE FROM {table} WHERE (host, rank, bundle) IN (
                    SELECT host, -priority, id FROM bundles
                    WHERE due = 0 AND id IN (SELECT value FROM json_each(?))
                )
                """,
                _rows(emptied),
            )
        db.execute(
            "DELETE FROM bundles WHERE id IN (SELECT value FROM json_each(?))", _rows(emptied)
        )
        db.execute(
            """
            UPDATE hosts SET best = -(
                SELECT min(rank) FROM (
                    SELECT min(rank) rank FROM queued WHERE host = hosts.id
                    UNION ALL SELECT min(rank) FROM recent_queued WHERE host = hosts.id
                )
            )
            WHERE id IN (SELECT value FROM json_each(?))
            """,
            _rows({claimed[bundle].host for bundle in emptied}),
        )


_OUTCOMES = """
INSERT OR {conflict} INTO outcomes (
    host, fingerprint, outcome, at, url, handler, status, duration, retries, error, detail, request
)
"""


def _add_outcomes(db: sqlite3.Connection, checkpoint: Checkpoint, hosts: Mapping[str, int]) -> None:
    for host, number, at in checkpoint.forget:
        # Bound, as a time that went through JSON may be another one by a bit.
        found = db.execute(
            "DELETE FROM outcomes "
            "WHERE host = ? AND fingerprint = ? AND outcome = 'failed' AND at = ?",
            (hosts[host], number, at),
        )
        if not found.rowcount:
            raise stale()
    for outcomes, conflict in ((checkpoint.skipped, "IGNORE"), (checkpoint.outcomes, "REPLACE")):
        rows = [_outcome(outcome, hosts[outcome.host]) for outcome in outcomes]
        # As they lie in the table. Of two that are for one request, the order is kept.
        rows.sort(key=itemgetter(0, 1))
        insert(db, _OUTCOMES.format(conflict=conflict), rows)


def _outcome(outcome: Outcome, host: int) -> tuple[Any, ...]:
    return (
        host,
        outcome.fingerprint,
        outcome.outcome,
        outcome.at,
        outcome.url,
        outcome.handler,
        outcome.status,
        outcome.duration,
        outcome.retries,
        outcome.error,
        outcome.detail,
        outcome.request and encode(outcome.request).decode(),
    )


def _add_items(db: sqlite3.Connection, checkpoint: Checkpoint) -> None:
    insert(
        db,
        "INSERT INTO items (at, url, handler, crc, data)",
        [
            (item.at, item.url, item.handler, crc(item.data), item.data.decode())
            for item in checkpoint.items
        ],
    )


def _put_documents(db: sqlite3.Connection, documents: Mapping[str, Document | None]) -> None:
    if not documents:
        return
    db.execute(
        """
        INSERT OR REPLACE INTO documents (name, version, crc, data)
        SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each(?)
        """,
        _rows(
            (name, document.version, crc(document.data), document.data.decode())
            for name, document in documents.items()
            if document is not None
        ),
    )
    db.execute(
        "DELETE FROM documents WHERE name IN (SELECT value FROM json_each(?))",
        _rows(name for name, document in documents.items() if document is None),
    )


def _count(db: sqlite3.Connection, checkpoint: Checkpoint, receipt: Receipt) -> None:
    add = dict(checkpoint.add)
    for name, number in (
        ("requests_total", receipt.enqueued),
        ("requests_duplicate", receipt.duplicates),
    ):
        if number:
            add[name] = add.get(name, 0) + number
    for counters, merged in (
        (add, "value + excluded.value"),
        (checkpoint.least, "min(value, excluded.value)"),
        (checkpoint.most, "max(value, excluded.value)"),
    ):
        if counters:
            _merge_counters(db, counters, merged)


def _merge_counters(db: sqlite3.Connection, counters: Mapping[str, Number], merged: str) -> None:
    # "WHERE true" tells SQLite's parser that ON belongs to the insert and not to a join.
    db.execute(
        f"""
        INSERT INTO counters (name, value) SELECT key, value FROM json_each(?) WHERE true
        ON CONFLICT (name) DO UPDATE SET value = {merged}
        """,
        (encode(counters).decode(),),
    )


def _add_errors(db: sqlite3.Connection, errors: list[ErrorGroup]) -> None:
    if errors:
        db.execute(
            """
            INSERT INTO errors (kind, place, message, count, first_at, last_at, examples)
            SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5,
                value -> 6
            FROM json_each(?) WHERE true
            ON CONFLICT (kind, place, message) DO UPDATE SET
                count = count + excluded.count,
                first_at = min(first_at, excluded.first_at),
                last_at = max(last_at, excluded.last_at),
                examples = (
                    SELECT json_group_array(value) FROM (
                        SELECT value FROM json_each(errors.examples)
                        UNION SELECT value FROM json_each(excluded.examples) LIMIT 5
                    )
                )
            """,
            _rows(
                (g.kind, g.place, g.message, g.count, g.first_at, g.last_at, g.examples)
                for g in errors
            ),
        )


# -- taking in ------------------------------------------------------------------------------------


def take_in(db: sqlite3.Connection, part: Part, seen: SeenSet) -> int:
    """Write records inside the transaction that is open; how many checkpoints the run has then."""
    checkpoint = part.checkpoint
    hosts = _name_hosts(db, checkpoint)
    seen.enter(db, sorted({number_of(hosts[host], number) for host, number in part.enqueued}))
    _add_bundles(db, checkpoint.again, hosts)
    _add_outcomes(db, checkpoint, hosts)
    _add_items(db, checkpoint)
    _put_documents(db, checkpoint.documents)
    _count(db, checkpoint, Receipt())
    _add_errors(db, checkpoint.errors)
    ((commits,),) = db.execute("UPDATE progress SET commits = commits + 1 RETURNING commits")
    return int(commits)

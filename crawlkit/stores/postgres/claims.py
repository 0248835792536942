"""Claims: requests that a worker takes from the queue.

A host belongs to one worker at a time, or is divided among several by shares. A worker that claims
takes more of the hosts that it has, and of those that nobody has the ones with the best or the
earliest bundles. Where there are several workers, it takes its part of the latter.

`hosts.best` and `hosts.due` lead there, and are exact: who lowers them has locked the host first
and looked at its bundles after that; who adds bundles locks the host before the end of the same
transaction, and raises them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from zlib import crc32

import msgspec
from psycopg import Connection

from ...checkpoint import MAX_DELAY, Lease, Ticket
from ...errors import StoreDamagedError
from ...request import Request, fingerprint
from ..base import BUNDLE, WHOLE, Claim
from ..bundle import Bundle, with_host
from .columns import Longs, Texts
from .tables import BEST_OF, DUE_OF
from .workers import FENCE

_WAITING = f"(due <= _now OR due > _now + {MAX_DELAY:g})"
"""Whose time has come; the latter were to wait from a time before the clock was set back."""

_TAKE = """ARRAY(
        SELECT id FROM hosts
        WHERE free > 0 AND {condition} AND id <> ALL (_hosts) AND name <> ALL (_full)
        ORDER BY {order} LIMIT least(_limit, _part) FOR NO KEY UPDATE SKIP LOCKED
    )"""

ROUTINES = f"""
CREATE OR REPLACE FUNCTION claim(
    _me bigint, _lease float8, _limit int, _full text[], _now float8, _is_needy boolean
) RETURNS TABLE (
    bundle bigint, host int, name text, size int, gone bigint, crc bigint, requests text,
    shares int, rest_at float8, rest_delay float8
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    _part int := _limit;
    _hosts int[];
    _bundles bigint[];
    _taken int[];
    _workers int;
BEGIN
    {FENCE}
    -- Its own hosts first: it may have to wait for one, and must keep none from others meanwhile.
    _hosts := ARRAY(
        SELECT h.id FROM hosts h
        WHERE h.id IN (SELECT s.host FROM shares s WHERE s.worker = _me)
            AND h.name <> ALL (_full) AND (h.best IS NOT NULL OR {_WAITING})
        ORDER BY h.id LIMIT CASE WHEN _limit > 0 THEN NULL ELSE 0 END FOR NO KEY UPDATE
    );
    SELECT count(*) INTO _workers FROM workers;
    IF _workers > 1 THEN
        -- Its part of what is free, so that the first to come does not take all.
        SELECT greatest(1, ceil(count(*)::float8 / _workers)) INTO _part FROM (
            SELECT FROM hosts WHERE free > 0 AND (best IS NOT NULL OR due <= _now)
            LIMIT _limit * _workers
        ) h;
    END IF;
    _hosts := _hosts || {_TAKE.format(condition="due <= _now", order="due")};
    _hosts := _hosts || {_TAKE.format(condition=f"due > _now + {MAX_DELAY:g}", order="due DESC")};
    _hosts := _hosts || {_TAKE.format(condition="best IS NOT NULL", order="best DESC, id")};
    -- What has waited is claimed first, a request each, and then whole bundles by priority.
    WITH waiting AS MATERIALIZED (
        SELECT b.id, b.host, b.gone, b.size FROM unnest(_hosts) h (id) CROSS JOIN LATERAL (
            SELECT id, host, gone, size, due FROM bundles
            WHERE host = h.id AND due > 0 AND {_WAITING}
                AND NOT EXISTS (SELECT FROM claims c WHERE c.bundle = id)
            ORDER BY due LIMIT _limit
        ) b
        ORDER BY b.due LIMIT _limit
    ),
    ready AS (
        SELECT b.id, b.host, b.gone FROM unnest(_hosts) h (id) CROSS JOIN LATERAL (
            SELECT id, host, gone, priority FROM bundles
            WHERE host = h.id AND due = 0
                AND NOT EXISTS (SELECT FROM claims c WHERE c.bundle = id)
            ORDER BY priority DESC, id LIMIT ceil(_limit / {BUNDLE}.0)
        ) b
        ORDER BY b.priority DESC, b.id
        LIMIT CASE WHEN (SELECT coalesce(sum(size), 0) FROM waiting) < _limit
            THEN _limit ELSE 0 END
    ),
    claimed AS (
        INSERT INTO claims (bundle, worker, host, gone)
        SELECT id, _me, host, gone FROM waiting UNION ALL SELECT id, _me, host, gone FROM ready
        RETURNING bundle, host
    )
    SELECT array_agg(bundle), array_agg(DISTINCT host) INTO _bundles, _taken FROM claimed;
    -- All that is free of a host comes along with its first bundle.
    INSERT INTO shares AS s (host, worker, shares)
    SELECT id, _me, free FROM hosts WHERE id = ANY (_taken) AND free > 0
    ON CONFLICT (host, worker) DO UPDATE SET shares = s.shares + excluded.shares;
    UPDATE hosts SET free = 0, is_orphan = false,
        best = {BEST_OF.format(host="hosts.id")}, due = {DUE_OF.format(host="hosts.id")},
        -- By this worker's clock, too, which may differ from the server's.
        rest_at = CASE WHEN is_orphan THEN greatest(rest_at, _now + rest_delay) ELSE rest_at END
    WHERE id = ANY (_taken);
    UPDATE workers SET is_idle = (_bundles IS NULL AND _is_needy),
        until = clock_timestamp() + make_interval(secs => _lease), items_after = items_so_far()
    WHERE epoch = _me;
    RETURN QUERY
    SELECT b.id, b.host, h.name, b.size, b.gone, b.crc, b.requests,
        s.shares, h.rest_at, h.rest_delay
    FROM unnest(_bundles) x (id)
    JOIN bundles b ON b.id = x.id
    JOIN hosts h ON h.id = b.host
    JOIN shares s ON s.host = b.host AND s.worker = _me
    ORDER BY b.priority DESC, b.id;
END $$;

-- What is left for a worker that has claimed what it could.
CREATE OR REPLACE FUNCTION outlook(
    _me bigint, _now float8,
    OUT next_due float8, OUT is_exhausted boolean, OUT expired bigint[]
) STABLE LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    next_due := least(
        (SELECT min(due) FROM hosts WHERE free > 0 AND due > _now),
        (SELECT min(h.due) FROM shares s JOIN hosts h ON h.id = s.host
         WHERE s.worker = _me AND h.due > _now)
    );
    is_exhausted := NOT (
        EXISTS (SELECT FROM hosts WHERE free > 0 AND best IS NOT NULL)
        OR EXISTS (SELECT FROM hosts WHERE free > 0 AND due IS NOT NULL)
        OR EXISTS (
            SELECT FROM shares s JOIN hosts h ON h.id = s.host
            WHERE h.best IS NOT NULL OR h.due IS NOT NULL
        )
        OR EXISTS (SELECT FROM claims WHERE worker <> _me)
    );
    expired := ARRAY(
        SELECT epoch FROM workers WHERE epoch <> _me AND until < clock_timestamp()
    );
END $$;
"""

_requests = msgspec.json.Decoder(list[Request])
_parts = msgspec.json.Decoder(list[msgspec.Raw])


class Claimed(NamedTuple):
    """What a claim has brought, and what memory has to know of it.

    Attributes:
        claim: What the worker gets.
        bundles: The bundles, by their id.
        expired: Epochs of workers that were not heard of for too long.
    """

    claim: Claim
    bundles: dict[int, Bundle]
    expired: list[int]


def claim(
    connection: Connection[Any],
    epoch: int,
    lease: float,
    limit: int,
    window: Mapping[str, int],
    now: float,
    *,
    is_needy: bool,
) -> Claimed:
    """Claim requests for a worker; see `Store.claim`.

    Where it is needy and the claim brings nothing, others are asked to share their hosts.
    """
    full = Texts(host for host, room in window.items() if room <= 0)
    rows = connection.execute(
        "SELECT * FROM claim(%s, %s, %s, %s, %s, %s)",
        (epoch, lease, limit, full, now, is_needy),
        prepare=True,
    ).fetchall()
    leases: list[Lease] = []
    bundles: dict[int, Bundle] = {}
    shares: dict[str, int] = {}
    rests: dict[str, tuple[float, float]] = {}
    for bundle, host_id, host, size, gone, crc, text, share, rest_at, rest_delay in rows:
        requests = with_host(decoded(bundle, size, crc, text), host)
        bundles[bundle] = Bundle(host_id, size, gone)
        leases += [
            Lease(request, fingerprint(request), host, Ticket(bundle, place))
            for place, request in enumerate(requests)
            if not gone >> place & 1
        ]
        if share < WHOLE:
            shares[host] = share
        if rest_at >= now or rest_delay > 0:
            rests[host] = (rest_at, rest_delay)
    next_due, is_exhausted, expired = connection.execute(
        "SELECT next_due, is_exhausted, expired FROM outlook(%s, %s)", (epoch, now), prepare=True
    ).fetchone() or (None, True, [])
    leases.sort(key=lambda lease: -lease.request.priority)
    return Claimed(Claim(leases, next_due, is_exhausted, shares, rests), bundles, expired)


def decoded(bundle: int, size: int, crc: int, text: str) -> list[Request]:
    """The requests of a bundle, as they were stored.

    Raises:
        StoreDamagedError: They are not what was stored.
    """
    try:
        requests = _requests.decode(text)
        is_whole = sum(crc32(part) for part in _parts.decode(text)) == crc
    except (msgspec.DecodeError, ValueError):
        is_whole = False
    if not is_whole or len(requests) != size:
        raise StoreDamagedError(
            f"bundle {bundle} is not what was saved; see 'crawlkit check', put back a backup, or "
            "start anew with 'run --fresh'"
        )
    return requests


def reconcile(connection: Connection[Any], epoch: int, kept: Mapping[int, Bundle]) -> set[int]:
    """Give back all that the worker has claimed, but for what it knows of.

    After the answer to a claim was lost with the connection.

    Returns:
        What it has of that.
    """
    connection.execute("SELECT release(%s, %s)", (epoch, Longs(kept)))
    rows = connection.execute("SELECT bundle FROM claims WHERE worker = %s", (epoch,))
    return {bundle for (bundle,) in rows}

"""Claims: requests that a worker takes from the queue of an embedded run."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import msgspec

from ..checkpoint import MAX_DELAY, Lease, Ticket
from ..request import Request, fingerprint
from .base import BUNDLE, Claim
from .bundle import Bundle, with_host
from .schema import crc

_encode = msgspec.json.Encoder().encode
_bundles = msgspec.json.Decoder(list[tuple[int, int, str, int, int, int, str]])
_requests = msgspec.json.Decoder(list[Request])


@dataclass(frozen=True, slots=True)
class Others:
    """What a worker has to leave to the other workers of a run.

    Attributes:
        bundles: Bundles that they have claimed.
        hosts: Hosts, by number, of which they have all.
        count: How many of them there are. Each takes its part of the hosts that nobody has, so that
            the first to come leaves some for the others.
    """

    bundles: Collection[int] = ()
    hosts: Collection[int] = ()
    count: int = 0


NOBODY = Others()

_BUNDLES = """
SELECT json_group_array(json_array(b.id, b.host, h.name, b.size, b.gone, b.crc, b.requests))
"""

_DUE = (
    _BUNDLES
    + """
FROM (
    SELECT * FROM bundles
    WHERE due > 0 AND due > :after AND due <= :until
        AND id NOT IN (SELECT value FROM json_each(:claimed))
        AND host NOT IN (
            SELECT id FROM hosts WHERE name IN (SELECT value FROM json_each(:full))
        )
        AND host NOT IN (SELECT value FROM json_each(:foreign))
    ORDER BY due LIMIT :limit
) b JOIN hosts h ON h.id = b.host
"""
)
"""Requests whose time lies in a period, of hosts that there is room for."""

_BEST = (
    _BUNDLES
    + """
FROM (
    SELECT bundles.* FROM (
        SELECT id FROM hosts
        WHERE id IN (SELECT value FROM json_each(:hosts))
            AND name NOT IN (SELECT value FROM json_each(:full))
        UNION ALL
        SELECT id FROM (
            SELECT id FROM hosts
            WHERE best IS NOT NULL AND id NOT IN (SELECT value FROM json_each(:hosts))
                AND id NOT IN (SELECT value FROM json_each(:foreign))
            ORDER BY best DESC LIMIT :new_hosts
        )
    ) host
    JOIN bundles ON bundles.id IN (
        SELECT bundle FROM (
            SELECT * FROM (
                SELECT rank, bundle FROM queued
                WHERE host = host.id AND bundle NOT IN (SELECT value FROM json_each(:claimed))
                ORDER BY rank, bundle LIMIT :bundles
            )
            UNION ALL
            SELECT * FROM (
                SELECT rank, bundle FROM recent_queued
                WHERE host = host.id AND bundle NOT IN (SELECT value FROM json_each(:claimed))
                ORDER BY rank, bundle LIMIT :bundles
            )
        )
        ORDER BY rank, bundle LIMIT :bundles
    )
    ORDER BY bundles.priority DESC, bundles.id
    LIMIT :limit
) b JOIN hosts h ON h.id = b.host
"""
)
"""The best bundles: of hosts that are being worked on and have room for more, and of others.

A host is among `:hosts` as long as one of its bundles is claimed, that is until the commit after
its last page; so hosts that are done, but not yet in the store, do not crowd out the others."""

_UNCLAIMED = """
SELECT
    EXISTS (SELECT 1 FROM bundles WHERE id NOT IN (SELECT value FROM json_each(:own))),
    (SELECT due FROM bundles
     WHERE due > 0 AND due > :now AND id NOT IN (SELECT value FROM json_each(:claimed))
     ORDER BY due LIMIT 1)
"""

_FREE_HOSTS = """
SELECT count(*) FROM (
    SELECT 1 FROM hosts
    WHERE best IS NOT NULL AND id NOT IN (SELECT value FROM json_each(:hosts))
        AND id NOT IN (SELECT value FROM json_each(:foreign))
    LIMIT :most
)
"""
"""How many hosts with requests there are that the worker may claim and does not have; at most as
many as make a difference."""

_UNCLAIMED_HOSTS = """
SELECT mine.value FROM json_each(?1) mine
WHERE EXISTS (
    SELECT 1 FROM queued
    WHERE host = mine.value AND bundle NOT IN (SELECT value FROM json_each(?2))
) OR EXISTS (
    SELECT 1 FROM recent_queued
    WHERE host = mine.value AND bundle NOT IN (SELECT value FROM json_each(?2))
)
LIMIT ?3
"""


def claim(
    db: sqlite3.Connection,
    claimed: dict[int, Bundle],
    limit: int,
    window: Mapping[str, int],
    now: float,
    others: Others = NOBODY,
) -> Claim:
    """Claim requests for a worker; see `Store.claim`.

    Args:
        db: The database.
        claimed: The bundles of the worker; what it claims is added.
        limit: How many requests are wanted.
        window: Hosts and how many more requests of each there is room for.
        now: Unix time.
        others: The other workers.
    """
    values = {
        "own": _encode(list(claimed)).decode(),
        "claimed": _encode([*claimed, *others.bundles]).decode(),
        "now": now,
        "hosts": _encode({bundle.host for bundle in claimed.values()}).decode(),
        "foreign": _encode(list(others.hosts)).decode(),
        "full": _encode([host for host, room in window.items() if room <= 0]).decode(),
        "limit": limit,
        "new_hosts": limit,
        "bundles": -(-limit // BUNDLE),
    }
    if others.count:
        workers = others.count + 1
        ((free,),) = db.execute(_FREE_HOSTS, {**values, "most": limit * workers})
        values["new_hosts"] = -(-free // workers)
    leases: list[Lease] = []
    taken: dict[int, Bundle] = {}
    for query, after, until in (
        (_DUE, 0.0, now),
        (_DUE, now + MAX_DELAY, sys.float_info.max),
        (_BEST, None, None),
    ):
        if len(leases) < limit:
            values |= {"after": after, "until": until}
            found = db.execute(query, values).fetchone()[0]
            leases += _leases(taken, found)
            values["claimed"] = _encode([*claimed, *taken, *others.bundles]).decode()
    values["own"] = _encode([*claimed, *taken]).decode()
    leases.sort(key=lambda lease: -lease.request.priority)
    unclaimed, next_due = db.execute(_UNCLAIMED, values).fetchone()
    # Only now: what the worker is never told of, as one of these failed, it would never do.
    claimed |= taken
    return Claim(leases, next_due, not unclaimed)


def _leases(taken: dict[int, Bundle], bundles: str) -> list[Lease]:
    leases = []
    for bundle, host_id, host, size, gone, stored_crc, text in _bundles.decode(bundles):
        requests = _requests.decode(text) if crc(text) == stored_crc else []
        if len(requests) != size:
            raise sqlite3.DatabaseError(f"bundle {bundle} is not what was saved")
        taken[bundle] = Bundle(host_id, size, gone)
        for place, request in enumerate(with_host(requests, host)):
            if not gone >> place & 1:
                ticket = Ticket(bundle, place)
                leases.append(Lease(request, fingerprint(request), host, ticket))
    return leases


def unclaimed_hosts(
    db: sqlite3.Connection, hosts: Collection[int], claimed: Collection[int], limit: int
) -> list[int]:
    """Of these hosts those with requests that are in none of these bundles, at most `limit`."""
    values = (_encode(list(hosts)).decode(), _encode(list(claimed)).decode(), limit)
    return [host for (host,) in db.execute(_UNCLAIMED_HOSTS, values)]

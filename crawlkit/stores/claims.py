"""Claims: requests that a worker takes from the queue of an embedded run."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Collection, Mapping

import msgspec

from ..checkpoint import MAX_DELAY, Lease, Ticket
from ..request import Request, fingerprint
from .base import BUNDLE, Claim
from .bundle import with_host
from .schema import crc
from .transaction import CLAIM_BEST, CLAIM_DUE, FREE_HOSTS, UNCLAIMED, Bundle

_encode = msgspec.json.Encoder().encode
_bundles = msgspec.json.Decoder(list[tuple[int, int, str, int, int, int, str]])
_requests = msgspec.json.Decoder(list[Request])


def claim(
    db: sqlite3.Connection,
    claimed: dict[int, Bundle],
    limit: int,
    window: Mapping[str, int],
    now: float,
    *,
    others: Collection[int] = (),
    foreign: Collection[int] = (),
    workers: int = 1,
) -> Claim:
    """Claim requests; see `SqliteStore.claim_into`."""
    values = {
        "own": _encode(list(claimed)).decode(),
        "claimed": _encode([*claimed, *others]).decode(),
        "now": now,
        "hosts": _encode({bundle.host for bundle in claimed.values()}).decode(),
        "foreign": _encode(list(foreign)).decode(),
        "full": _encode([host for host, room in window.items() if room <= 0]).decode(),
        "limit": limit,
        "new_hosts": limit,
        "bundles": -(-limit // BUNDLE),
    }
    if workers > 1:
        most = limit * workers
        ((free,),) = db.execute(FREE_HOSTS, {**values, "most": most})
        values["new_hosts"] = -(-free // workers)
    leases: list[Lease] = []
    for query, after, until in (
        (CLAIM_DUE, 0.0, now),
        (CLAIM_DUE, now + MAX_DELAY, sys.float_info.max),
        (CLAIM_BEST, None, None),
    ):
        if len(leases) < limit:
            values |= {"after": after, "until": until}
            found = db.execute(query, values).fetchone()[0]
            leases += _leases(claimed, found)
            values["claimed"] = _encode([*claimed, *others]).decode()
    values["own"] = _encode(list(claimed)).decode()
    leases.sort(key=lambda lease: -lease.request.priority)
    unclaimed, next_due = db.execute(UNCLAIMED, values).fetchone()
    return Claim(leases, next_due, not unclaimed)


def _leases(claimed: dict[int, Bundle], bundles: str) -> list[Lease]:
    leases = []
    for bundle, host_id, host, size, gone, stored_crc, text in _bundles.decode(bundles):
        requests = _requests.decode(text) if crc(text) == stored_crc else []
        if len(requests) != size:
            raise sqlite3.DatabaseError(f"bundle {bundle} is not what was saved")
        claimed[bundle] = Bundle(host_id, size, gone)
        for place, request in enumerate(with_host(requests, host)):
            if not gone >> place & 1:
                ticket = Ticket(bundle, place)
                leases.append(Lease(request, fingerprint(request), host, ticket))
    return leases

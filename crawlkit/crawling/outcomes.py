"""What became of a request, as it is written down: one function for each way to end."""

from __future__ import annotations

from ..checkpoint import Lease, Outcome
from ..counting.errorgroups import GroupKey, group_id, kind_of, with_group
from ..errors import BlockedError, StatusError, one_line
from ..request import Request, fingerprint


def handled(lease: Lease, status: int, now: float, duration: float) -> Outcome:
    """Its handler has succeeded."""
    request = lease.request
    return Outcome(
        "handled",
        request.url,
        lease.fingerprint,
        lease.host,
        now,
        request.handler,
        status,
        duration,
        request.retry_count,
    )


def failed(lease: Lease, error: Exception, group: GroupKey, now: float, duration: float) -> Outcome:
    """It was given up; it is kept whole, so that it can be tried again later."""
    request = lease.request
    return Outcome(
        "failed",
        request.url,
        lease.fingerprint,
        lease.host,
        now,
        request.handler,
        error.status if isinstance(error, StatusError | BlockedError) else None,
        duration,
        request.retry_count,
        error=kind_of(error),
        detail=with_group(one_line(error), group_id(group)),
        request=request,
    )


def dropped(lease: Lease, reason: str, detail: str, now: float) -> Outcome:
    """It was enqueued, and is not fetched after all."""
    request = lease.request
    return Outcome(
        "skipped",
        request.url,
        lease.fingerprint,
        lease.host,
        now,
        request.handler,
        retries=request.retry_count,
        detail=f"{reason}: {detail}" if detail else reason,
    )


def skipped(request: Request, reason: str, page_url: str, now: float, rule: str = "") -> Outcome:
    """A link that was not enqueued, with what the rule says and the page that held it."""
    return Outcome(
        "skipped",
        request.url,
        fingerprint(request),
        request.host,
        now,
        request.handler,
        detail=f"{reason}: {rule}, on {page_url}" if rule else f"{reason}: on {page_url}",
    )

"""Reading: what rows of a run are, whichever database they come from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from ..checkpoint import Outcome
from ..request import Request

_request = msgspec.json.Decoder(Request)

OUTCOME = """
SELECT o.outcome, o.url, o.fingerprint, h.name, o.at, o.handler, o.status, o.duration, o.retries,
    o.error, o.detail, o.request
FROM outcomes o JOIN hosts h ON h.id = o.host
"""
"""Rows for `outcome_of`."""


def outcome_of(row: Sequence[Any]) -> Outcome:
    """The outcome in a row of `OUTCOME`."""
    outcome, url, number, host, at, handler, status, duration, retries, error, detail, request = row
    return Outcome(
        outcome=outcome,
        url=url,
        fingerprint=number,
        host=host,
        at=at,
        handler=handler,
        status=status,
        duration=duration,
        retries=retries,
        error=error,
        detail=detail,
        request=_request.decode(request) if request else None,
    )


def outcomes_after(
    outcome: str, after: tuple[str, int] | None, host: str | None, *, mark: str
) -> tuple[str, list[Any]]:
    """The query of `Reader.outcomes_after`, in the order of the table's key, and its values.

    Args:
        outcome: Which outcome.
        after: The last one that is known.
        host: Only those of this host.
        mark: How the database writes the place of a value.
    """
    id_of_host = f"(SELECT id FROM hosts WHERE name = {mark})"
    query = f"{OUTCOME} WHERE o.outcome = {mark}"
    values: list[Any] = [outcome]
    if host is not None:
        query += f" AND o.host = {id_of_host}"
        values.append(host)
    if after is not None:
        query += f" AND (o.host, o.fingerprint) > ({id_of_host}, {mark})"
        values += after
    return f"{query} ORDER BY o.host, o.fingerprint", values


def skipped_with(is_seen: str) -> str:
    """The query of `Reader.skipped`, with a condition on ``o`` that says what was enqueued."""
    columns = OUTCOME.replace("o.request", f"o.request, {is_seen}")
    return f"{columns} WHERE o.outcome = 'skipped'"


def left_of(requests: Sequence[Request], gone: int) -> Iterator[Request]:
    """Requests of a bundle that have not left it: those whose bit in `gone` is not set."""
    return (request for place, request in enumerate(requests) if not gone >> place & 1)

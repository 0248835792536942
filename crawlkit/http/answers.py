"""Answers: what a response says by its status and its ``Retry-After``."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from ..errors import BlockedError, FetchError, StatusError
from ..request import host_of
from ..response import Response, http_date

MAX_RETRY_AFTER = 3600.0
"""Seconds that a server may ask us to wait."""


def failure_of(response: Response) -> FetchError | None:
    """The error that a response's status stands for, or ``None`` where it is a page.

    401, 403 and 429 say that the session is blocked; other statuses from 400 on, and below 200,
    are failures, of which 408 and those from 500 on are worth another try.
    """
    status = response.status
    if 200 <= status < 400:
        return None
    try:
        text = f"HTTP {status} {HTTPStatus(status).phrase}"
    except ValueError:
        text = f"HTTP {status}"
    message = f"{text} from {host_of(response.url)}"
    if status in (401, 403, 429):
        return BlockedError(message, status)
    return StatusError(message, status)


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that a server asks us to wait, or ``None`` where it does not, or not clearly.

    ``Retry-After`` is a number of seconds or a date (RFC 9110, section 10.2.3). A date is compared
    with the server's own ``Date`` where there is one, since its clock need not agree with ours.

    Args:
        headers: The response's headers, in any case.
        now: Unix time.

    Returns:
        From 0 to an hour (`MAX_RETRY_AFTER`).
    """
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdecimal():
        # Twelve digits are more than an hour, whatever follows; int() refuses some thousands.
        return min(float(value[:12]), MAX_RETRY_AFTER)
    date = http_date(value)
    if date is None:
        return None
    server = http_date(headers.get("Date", ""))
    return min(max(date - (now if server is None else server), 0.0), MAX_RETRY_AFTER)

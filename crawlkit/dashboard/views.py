"""What the live page and the report show, as JSON-like values: plain functions, without I/O.

Whatever a site wrote (URLs, messages, items) stays text here, and everything that grows with the
run is cut off: a view is a page of rows, not the run.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import msgspec

from ..checkpoint import Outcome
from ..clock import isoformat
from ..counting.errorgroups import ErrorStatistics, without_group
from ..counting.samples import Sample
from ..errors import UsageError, printable
from ..politeness.host import HeldBack
from ..run import Run
from ..sessions import Session
from ..statistics import HandlerStatistics, HostStatistics, Statistics
from ..stores.base import StoredItem

PAGE = 50
"""Rows of a page of requests or items."""
SCAN = 20_000
"""Requests that are looked through for one page, at most; the next page goes on from there."""
REST_AFTER, REST = 250, 0.002
"""After so many of them the thread that looks rests for so many seconds: the crawl has the same
interpreter, and comes first."""
ERRORS = 100
"""Groups of errors that are shown."""
URLS = 500
"""Characters of a URL or a message that are shown."""
TEXT = 300
"""Characters of a text in an item that are shown."""
ENTRIES = 30
"""Entries of an object or a list in an item that are shown."""


def numbers(s: Statistics) -> dict[str, Any]:
    """Where a run stands."""
    return {
        "finished": s.requests_finished,
        "failed": s.requests_failed,
        "retried": s.requests_retried,
        "skipped": s.requests_skipped,
        "dropped": s.requests_dropped,
        "total": s.requests_total,
        "duplicate": s.requests_duplicate,
        "pending": s.pending,
        "in_flight": s.in_flight,
        "items": s.items_saved,
        "bytes": s.bytes_received,
        "cache_hits": s.cache_hits,
        "cache_misses": s.cache_misses,
        "runtime": s.runtime_seconds,
        "lives": s.lives,
        "started_at": s.started_at,
        "last_started_at": s.last_started_at,
        "finished_at": s.finished_at,
    }


def breakdown(s: Statistics) -> dict[str, Any]:
    """What a run did, in tables."""
    return {
        "handlers": [
            handler(name, row)
            for name, row in sorted(
                s.by_handler.items(), key=lambda entry: -entry[1].requests_finished
            )
        ],
        "statuses": [[status, n] for status, n in sorted(s.status_codes.items()) if n],
        "retries": [[retries, n] for retries, n in sorted(s.retry_histogram.items()) if n],
        "skipped_by": [
            [printable(reason), n]
            for reason, n in sorted(s.skipped_by_reason.items(), key=lambda entry: -entry[1])
        ],
        "durations": {
            "finished": msgspec.to_builtins(s.duration_finished),
            "failed": msgspec.to_builtins(s.duration_failed),
        },
    }


def handler(name: str, row: HandlerStatistics) -> dict[str, Any]:
    """What one handler did."""
    ended = row.requests_finished + row.requests_failed
    return {
        "name": printable(name),
        "finished": row.requests_finished,
        "failed": row.requests_failed,
        "retried": row.requests_retried,
        "items": row.items_saved,
        "mean": row.duration_sum / ended if ended else None,
        "cache_hits": row.cache_hits,
    }


def host(name: str, row: HostStatistics) -> dict[str, Any]:
    """What was fetched from one host."""
    ended = row.requests_finished + row.requests_failed
    return {
        "name": printable(name),
        "finished": row.requests_finished,
        "failed": row.requests_failed,
        "retried": row.requests_retried,
        "responses": row.responses_received,
        "bytes": row.bytes_received,
        "mean": row.duration_sum / ended if ended else None,
    }


def samples(found: Iterable[Sample]) -> dict[str, list[Any]]:
    """Where the run stood over time: a list for each field, as charts take them."""
    names = Sample.__struct_fields__
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for sample in found:
        for name in names:
            columns[name].append(getattr(sample, name))
    return columns


def errors(groups: Iterable[ErrorStatistics], specimens: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Groups of errors, the most frequent first.

    Args:
        groups: The groups.
        specimens: Those of which a response was kept, by id, and whether with a screenshot.
    """
    return [
        {
            "id": group.id,
            "kind": shown(group.kind),
            "message": shown(group.message),
            "place": shown(group.place),
            "count": group.count,
            "first_at": group.first_at,
            "last_at": group.last_at,
            "examples": [shown(url) for url in group.examples],
            "specimen": group.id in specimens,
            "picture": specimens.get(group.id) is True,
        }
        for group in islice(groups, ERRORS)
    ]


def request(outcome: Outcome) -> dict[str, Any]:
    """What became of one request, or why it waits."""
    is_done = outcome.outcome not in ("pending", "in_flight")
    is_failed = outcome.outcome == "failed"
    detail = without_group(outcome.detail)[0] if is_failed else outcome.detail or ""
    return {
        "outcome": outcome.outcome,
        "url": shown(outcome.url),
        "host": shown(outcome.host),
        "handler": shown(outcome.handler or ""),
        "status": outcome.status,
        "retries": outcome.retries,
        "duration": outcome.duration,
        "at": isoformat(outcome.at) if is_done or outcome.at else None,
        "error": shown(outcome.error or ""),
        "detail": shown(detail),
    }


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Which requests are looked for, and from where on.

    Attributes:
        outcome: ``handled``, ``failed``, ``skipped``, ``pending`` or ``in_flight``.
        host: Only those of this ``host[:port]``.
        handler: Only those for this handler.
        text: Only those with this in their URL or in what is told of them, in any case.
        after: Where the page before has ended.
    """

    outcome: str = "failed"
    host: str | None = None
    handler: str | None = None
    text: str | None = None
    after: str | None = None

    def fits(self, outcome: Outcome) -> bool:
        """Whether a request is looked for; the host is left to the store."""
        if outcome.outcome != self.outcome or (self.handler and outcome.handler != self.handler):
            return False
        text = (self.text or "").casefold()
        return text in outcome.url.casefold() or text in (outcome.detail or "").casefold()


def requests(run: Run, query: Query, *, rest: float = REST) -> dict[str, Any]:
    """A page of requests: ``rows``, how many were ``looked`` through, and where to go on, if so.

    Args:
        run: The run.
        query: What is looked for.
        rest: Seconds of each rest.

    Raises:
        UsageError: There is no such outcome, or no such place to go on from.
    """
    is_done = query.outcome not in ("pending", "in_flight")
    after = _place(query.after) if is_done and query.after else None
    passed = _number(query.after) if not is_done and query.after else 0
    if is_done:
        found = run.requests(query.outcome, host=query.host, after=after)  # type: ignore[arg-type]
    else:
        found = run.to_do(host=query.host)  # filtered here, so that each that is passed is counted
    rows: list[dict[str, Any]] = []
    looked, last = 0, None
    for number, outcome in enumerate(found):
        if number % REST_AFTER == REST_AFTER - 1:
            time.sleep(rest)
        if number < passed:
            continue
        looked, last = looked + 1, outcome
        if query.fits(outcome):
            rows.append(request(outcome))
        if len(rows) >= PAGE or looked >= SCAN:
            break
    else:
        return {"rows": rows, "looked": looked, "next": None}
    place = f"{last.fingerprint}@{last.host}" if is_done else str(passed + looked)
    return {"rows": rows, "looked": looked, "next": place}


def _place(text: str) -> tuple[str, int]:
    number, _, host = text.partition("@")
    return host, _number(number)


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"there is no place {text!r} to go on from; begin anew") from None


def items(run: Run, *, handler: str | None = None, after: int = 0) -> dict[str, Any]:
    """A page of items: ``rows``, and the number to go on from, if there may be more."""
    rows = [item(found) for found in islice(run.stored_items(handler or None, after=after), PAGE)]
    return {"rows": rows, "next": rows[-1]["number"] if len(rows) == PAGE else None}


def item(stored: StoredItem) -> dict[str, Any]:
    """One item, with what is long in it cut off."""
    return {
        "number": stored.number,
        "url": shown(stored.url),
        "handler": shown(stored.handler),
        "at": isoformat(stored.at),
        "data": shortened(msgspec.json.decode(stored.data)),
    }


def shortened(value: Any, depth: int = 4) -> Any:
    """A JSON value with its long texts, lists and objects cut off, and its depth."""
    if isinstance(value, str):
        return value if len(value) <= TEXT else f"{value[:TEXT]}… ({len(value):,} characters)"
    if isinstance(value, dict):
        if not depth:
            return "{…}"
        kept = {
            shown(name): shortened(inner, depth - 1)
            for name, inner in islice(value.items(), ENTRIES)
        }
        if len(value) > ENTRIES:
            kept["…"] = f"{len(value) - ENTRIES:,} more"
        return kept
    if isinstance(value, list):
        if not depth:
            return "[…]"
        some = [shortened(inner, depth - 1) for inner in value[:ENTRIES]]
        return some if len(value) <= ENTRIES else [*some, f"… {len(value) - ENTRIES:,} more"]
    if isinstance(value, int) and abs(value) > 2**53:
        return str(value)  # JavaScript would round it
    return value


def shown(text: str) -> str:
    """A text of a site on one line, without what cannot be seen, and not too long."""
    text = printable(text)
    return text if len(text) <= URLS else f"{text[:URLS]}…"


def held_back(hosts: Iterable[HeldBack]) -> list[dict[str, Any]]:
    """Hosts that are asked more slowly than they might be."""
    return [{**found._asdict(), "host": shown(found.host)} for found in hosts]


def sessions(pool: Iterable[Session], now: float, most: int) -> Iterator[dict[str, Any]]:
    """The sessions that were used most: their health, none of their secrets."""
    used = sorted(pool, key=lambda session: -session.usage_count)
    for session in used[:most]:
        yield {
            "id": shown(session.id),
            "requests": session.usage_count,
            "errors": round(session.error_score, 2),
            "blocked": len(session.blocked),
            "cookies": session.has_cookies,
            "proxy": session.proxy is not None or bool(session.proxies),
            "age": max(0.0, now - session.created_at),
        }

"""What a crawl logs, on standard error: lines for people, or objects for machines.

Each part of crawlkit has a logger of its own below ``crawlkit``. What pages wrote may be in any
message, so nothing leaves here but what prints, and a record of a page cannot look like two.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from contextlib import AbstractContextManager
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import msgspec

from ..clock import isoformat
from ..counting.errorgroups import message_of
from ..errors import one_line, printable
from ..request import host_of
from ..stores.postgres.address import masked
from .listening import listening
from .output import harmless

if TYPE_CHECKING:
    from ..crawler import Crawler
    from ..events import Listener, RequestFailed, RequestHandled, RequestRetried, RequestSkipped

log = logging.getLogger("crawlkit.requests")

ALIKE = 3
"""Requests that were given up for the same reason and have a line each; the others are counted."""

KINDS = 500
"""Reasons that are told apart. What pages wrote may be part of a reason, so there is an end."""

_USUAL = {*vars(logging.makeLogRecord({})), "message", "asctime"}


class LineFormatter(logging.Formatter):
    """One line a record: time, level, logger, message. A traceback follows, indented.

    Args:
        dated: Whether the day is told too, as in a file that is read a week later.
    """

    def __init__(self, *, dated: bool) -> None:
        time = "%Y-%m-%d %H:%M:%S" if dated else "%H:%M:%S"
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s", time)

    def format(self, record: logging.LogRecord) -> str:
        """The record as text that steers no terminal."""
        record.message = record.getMessage()
        record.asctime = self.formatTime(record, self.datefmt)
        return "\n    ".join([printable(self.formatMessage(record)), *_trace(self, record)])


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (ISO 8601, UTC), level, logger, message, and further fields.

    What a call gave as ``extra`` is there under its own name, a traceback as ``traceback``.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON, with escapes for all that a terminal would obey."""
        fields = {
            "time": isoformat(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in vars(record).items():
            if name not in _USUAL:
                fields.setdefault(name, value)
        if trace := _trace(self, record):
            fields["traceback"] = "\n".join(trace)
        return _json(fields)


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    told = []
    if record.exc_info:
        told.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        told.append(formatter.formatStack(record.stack_info))
    return [printable(line) for text in told for line in text.splitlines()]


def _json(fields: dict[str, Any]) -> str:
    try:
        return harmless(msgspec.json.encode(fields, enc_hook=repr)).decode()
    except (TypeError, ValueError, RecursionError):
        # Half of a surrogate pair, a cycle, a key that is no text: of what cannot be JSON, all of
        # it as text.
        plain = {name: ascii(value) for name, value in fields.items() if name not in _HEAD}
        plain |= {name: printable(str(fields[name])) for name in _HEAD}
        return json.dumps({name: plain[name] for name in fields})


_HEAD = ("time", "level", "logger", "message")


def set_up(level: str, form: str, *, dated: bool | None = None) -> None:
    """Log on standard error, unless the crawler's file has set up logging by itself.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
        form: ``text`` or ``json``.
        dated: Whether lines of text tell the day; by default where no terminal shows them.
    """
    handler = logging.StreamHandler(sys.stderr)
    lines = LineFormatter(dated=not sys.stderr.isatty() if dated is None else dated)
    handler.setFormatter(JsonFormatter() if form == "json" else lines)
    if not logging.getLogger().handlers:
        logging.captureWarnings(True)  # as what they are about may be what a page wrote
    logging.basicConfig(level=level.upper(), handlers=[handler])


def requests_logged(crawler: Crawler, address: str) -> AbstractContextManager[None]:
    """Log what becomes of requests: those that are given up, and with ``debug`` all of them."""
    listeners: dict[str, Listener] = {"requestFailed": _Failures(address)}
    if log.isEnabledFor(logging.DEBUG):
        listeners |= {
            "requestHandled": _on_handled,
            "requestRetried": _on_retried,
            "requestSkipped": _on_skipped,
        }
    return listening(crawler, listeners)


class _Failures:
    """Writes a line for each request that is given up, as long as the lines say anything new."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._seen: Counter[tuple[str, str]] = Counter()

    def __call__(self, event: RequestFailed) -> None:
        request, error = event.request, event.error
        kind = (type(error).__name__, message_of(error, host_of(request.url)))
        if len(self._seen) < KINDS or kind in self._seen:
            self._seen[kind] += 1
        if self._seen[kind] not in range(1, ALIKE + 1):
            level, more = logging.DEBUG, ""
        else:
            level = logging.WARNING
            more = (
                "; further ones like it are counted, see "
                f"'crawlkit failed {masked(self._address)} ls'"
                if self._seen[kind] == ALIKE
                else ""
            )
        log.log(
            level,
            "gave up %s: %s%s%s",
            printable(request.url),
            one_line(error),
            _hint(error),
            more,
            extra={"url": request.url, "handler": request.handler, "error": type(error).__name__},
        )


def _hint(error: Exception) -> str:
    """What was meant by a name that does not exist, as Python says it below a traceback."""
    if not isinstance(error, AttributeError) or error.obj is None or not error.name:
        return ""
    near = get_close_matches(error.name, dir(error.obj), 1)
    return f"; did you mean {near[0]}?" if near else ""


def _on_handled(event: RequestHandled) -> None:
    request = event.request
    log.debug(
        "%d %s, for %s in %.3f s",
        event.status,
        printable(request.url),
        request.handler,
        event.duration,
        extra={
            "url": request.url,
            "handler": request.handler,
            "status": event.status,
            "duration": event.duration,
        },
    )


def _on_retried(event: RequestRetried) -> None:
    log.debug(
        "again in %.1f s: %s: %s",
        event.delay,
        printable(event.request.url),
        one_line(event.error),
        extra={"url": event.request.url, "handler": event.request.handler, "delay": event.delay},
    )


def _on_skipped(event: RequestSkipped) -> None:
    log.debug(
        "skipped %s: %s",
        printable(event.url),
        event.reason,
        extra={"url": event.url, "reason": event.reason},
    )

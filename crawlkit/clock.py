"""Clock: the time of day, read once, and from then on steady.

A crawl that runs for weeks meets a system clock that is set back, set forward or stepped by NTP.
Everything that crawlkit times (retries, pauses, ages) is read from a clock that takes the time of
day once, at its start, and counts on with the monotonic clock. A jump of the system clock thus
neither stalls a retry nor makes a duration negative.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime


class Clock:
    """Unix seconds that never jump within a process.

    ``wall`` and ``monotonic`` are the two sources, in seconds; tests pass their own.
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monotonic = monotonic
        self._offset = wall() - monotonic()

    def now(self) -> float:
        """Unix time in seconds."""
        return self._offset + self._monotonic()


def isoformat(timestamp: float | None) -> str | None:
    """A Unix time as ISO 8601 in UTC with milliseconds, ``None`` as ``None``."""
    if timestamp is None:
        return None
    moment = datetime.fromtimestamp(timestamp, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

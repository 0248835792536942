"""Times: when a run began and when it was finished."""

from __future__ import annotations

from typing import Any

import msgspec

from ..workers.merging import merge


class Times(msgspec.Struct):
    """What of the statistics does not add up, as it is saved.

    Attributes:
        started_at: Unix time at which the first life began.
        last_started_at: When the last one began.
        finished_at: When the crawl was finished, or ``None`` while it is not.
        in_flight: Requests that were being fetched or handled; 0 where there are several workers.
    """

    started_at: float | None = None
    last_started_at: float | None = None
    finished_at: float | None = None
    in_flight: int = 0

    def begin(self, now: float) -> None:
        """A life begins at the Unix time `now`."""
        if self.started_at is None:
            self.started_at = now
        self.last_started_at = now

    @staticmethod
    def merge(base: Any, mine: Any, theirs: Any) -> Any:
        """The earliest first life, the latest last one, and the end as whoever changed it says."""
        merged = merge(base, mine, theirs)
        for name, pick in (("started_at", min), ("last_started_at", max)):
            times = [time for time in (mine[name], theirs[name]) if time is not None]
            merged[name] = pick(times, default=None)
        changed = base is None or mine["finished_at"] != base["finished_at"]
        merged["finished_at"] = (mine if changed else theirs)["finished_at"]
        return merged

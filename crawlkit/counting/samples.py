"""Samples: where a crawl stood over time, in a bounded number of points."""

from __future__ import annotations

from typing import Any

import msgspec

from ..checkpoint import Checkpoint, Document, Saved, decode
from ..clock import isoformat
from .durations import Sketch

SAMPLES = 512
"""Samples that are kept; when there are more, every second one is dropped."""

INTERVAL = 1.0
"""Seconds between two samples in a young run; doubled each time that samples were dropped."""


class Sample(msgspec.Struct, frozen=True):
    """Where the crawl stood at one time.

    Attributes:
        time: When.
        finished: Requests handled so far.
        failed: Requests given up so far.
        pending: Requests that waited.
        in_flight: Requests that were being fetched or handled.
        items: Items saved so far.
        bytes: Bytes of bodies received so far.
        memory: Bytes of resident memory of the process.
        p50: Seconds that half of the requests which were handled since the sample before took at
            most, fetching included; ``None`` where there were none. When samples are dropped, this
            remains what it was in those that stay.
        p95: The same for 95 in 100.
    """

    time: str | None
    finished: int
    failed: int
    pending: int
    in_flight: int
    items: int
    bytes: int
    memory: int
    p50: float | None = None
    p95: float | None = None


class _Kept(msgspec.Struct):
    """The document: a sample is the fields of `Sample` in their order, its time in Unix seconds."""

    interval: float = INTERVAL
    # In runs of before there was `p50` they end sooner.
    rows: list[tuple[Any, ...]] = msgspec.field(default_factory=list)


class Samples:
    """The samples of a run, evenly spaced over all its lives.

    Attributes:
        buckets: The durations of handled requests as they were counted at the last sample.
    """

    def __init__(self) -> None:
        self.buckets: dict[int, int] = {}
        self._kept = _Kept()
        self._is_changed = False

    def wants(self, now: float) -> bool:
        """Whether it is time for the next one."""
        if not self._kept.rows:
            return True
        # A tick may come a little early. And a clock that was set back between two lives must not
        # silence the samples until it has caught up.
        passed: float = now - self._kept.rows[-1][0]
        return passed < 0 or passed >= self._kept.interval - INTERVAL / 2

    def add(
        self,
        now: float,
        finished: int,
        failed: int,
        pending: int,
        in_flight: int,
        items: int,
        bytes: int,
        memory: int,
        durations: Sketch,
    ) -> None:
        """Keep one; the arguments are those of `Sample`, `now` is Unix time.

        Of the requests that were handled since the one before there are the `durations`.
        """
        kept = self._kept
        if len(kept.rows) >= SAMPLES:
            kept.rows = kept.rows[::2]
            kept.interval *= 2
        counts = (finished, failed, pending, in_flight, items, bytes, memory)
        kept.rows.append((now, *counts, durations.quantile(0.5), durations.quantile(0.95)))
        self._is_changed = True

    def all(self) -> list[Sample]:
        """The samples, the oldest first."""
        return [Sample(isoformat(row[0]), *row[1:]) for row in self._kept.rows]

    def resume(self, document: Document) -> None:
        """Go on from those that another worker has taken, as they are stored."""
        self._kept = decode(document.data, "statistics/samples", _Kept)

    def last(self) -> Sample | None:
        """The latest, if there is one."""
        rows = self._kept.rows
        return Sample(isoformat(rows[-1][0]), *rows[-1][1:]) if rows else None

    def restore(self, saved: Saved) -> None:
        """Take back those of earlier lives."""
        self._kept = saved.load(_Kept(), key="samples", type=_Kept)

    def collect(self, checkpoint: Checkpoint) -> None:
        """Save them, if there is a new one."""
        if self._is_changed:
            checkpoint.save(self._kept, key="samples")
            self._is_changed = False

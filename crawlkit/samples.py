"""Samples: where a crawl stood over time, in a bounded number of points."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat

import msgspec

from .checkpoint import Checkpoint, Saved
from .clock import isoformat

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
        p50: Seconds that half of the requests took at most which were handled in the second before;
            ``None`` where there were none.
        p95: The same of 95 in 100.
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
    """The document: a sample is the fields of `Sample` in their order, its time in Unix seconds.

    `latencies` has `p50` and `p95` of the last rows; rows of an older version have none.
    """

    interval: float = INTERVAL
    rows: list[tuple[float, int, int, int, int, int, int, int]] = msgspec.field(
        default_factory=list
    )
    latencies: list[tuple[float | None, float | None]] = msgspec.field(default_factory=list)


class Samples:
    """The samples of a run, evenly spaced over all its lives."""

    def __init__(self) -> None:
        self._kept = _Kept()
        self._is_changed = False

    def wants(self, now: float) -> bool:
        """Whether it is time for the next one."""
        if not self._kept.rows:
            return True
        # A tick may come a little early. And a clock that was set back between two lives must not
        # silence the samples until it has caught up.
        passed = now - self._kept.rows[-1][0]
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
        p50: float | None = None,
        p95: float | None = None,
    ) -> None:
        """Keep one; the arguments are those of `Sample`, `now` is Unix time."""
        kept = self._kept
        if len(kept.rows) >= SAMPLES:
            kept.latencies = list(self._latencies())[::2]
            kept.rows = kept.rows[::2]
            kept.interval *= 2
        kept.rows.append((now, finished, failed, pending, in_flight, items, bytes, memory))
        kept.latencies.append((p50, p95))
        self._is_changed = True

    def all(self) -> list[Sample]:
        """The samples, the oldest first."""
        return [
            Sample(isoformat(row[0]), *row[1:], *latency)
            for row, latency in zip(self._kept.rows, self._latencies(), strict=True)
        ]

    def _latencies(self) -> Iterator[tuple[float | None, float | None]]:
        kept = self._kept
        yield from repeat((None, None), len(kept.rows) - len(kept.latencies))
        yield from kept.latencies

    def restore(self, saved: Saved) -> None:
        """Take back those of earlier lives."""
        self._kept = saved.load(_Kept(), key="samples", type=_Kept)

    def collect(self, checkpoint: Checkpoint) -> None:
        """Save them, if there is a new one."""
        if self._is_changed:
            checkpoint.save(self._kept, key="samples")
            self._is_changed = False

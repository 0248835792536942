"""Counters: everything in the statistics that can be added up.

A counter goes into a checkpoint as what was added since the last one. A checkpoint's cost thus
follows what changed, the workers of one run can be summed, and after kill -9 the numbers are those
of the last checkpoint, as are the queue and the items.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ..checkpoint import Checkpoint, Number, Outcome, Saved
from ..clock import Clock
from ..errors import StoreDamagedError
from ..response import CacheResult
from .durations import Sketch
from .stopwatch import Stopwatch
from .tallies import HandlerStatistics, HostStatistics, named, set_field

# Counters that bear the name of an attribute, and those that are one for each key of it.
_PLAIN = (
    "requests_finished",
    "requests_failed",
    "requests_retried",
    "requests_dropped",
    "items_saved",
    "bytes_received",
    "cache_hits",
    "cache_misses",
    "cache_revalidated",
    "cache_stored",
    "cache_bytes_saved",
    "lives",
)
_KEYED = ("skipped_by_reason", "status_codes", "retry_histogram")
_CACHE_COUNTERS: dict[CacheResult, str] = {
    "hit": "cache_hits",
    "stale": "cache_hits",
    "miss": "cache_misses",
    "revalidated": "cache_revalidated",
}
_COUNTED_BY_STORE = ("requests_total", "requests_duplicate")
_PROGRESS = ("requests_finished", "requests_failed", "requests_retried")
_RUNTIME = "runtime_seconds"


class _Values(NamedTuple):
    """All counters by name: sums, smallest and largest values."""

    add: dict[str, Number]
    least: dict[str, Number]
    most: dict[str, Number]


class Counters:
    """What a crawl counts, by the names that `Statistics` tells of. It is one of them.

    Args:
        clock: Steady time.
        keeps_time: Whether the time is counted here, and not by another worker.

    Attributes:
        keeps_time: Likewise.
    """

    def __init__(self, clock: Clock, keeps_time: bool) -> None:
        self.keeps_time = keeps_time
        self._stopwatch = Stopwatch(clock)
        self._clear()

    def _clear(self) -> None:
        self.requests_finished = 0
        self.requests_failed = 0
        self.requests_retried = 0
        self.requests_dropped = 0
        self.requests_total = 0
        self.requests_duplicate = 0
        self.items_saved = 0
        self.bytes_received = 0
        self.cache_hits = 0
        self.cache_misses = 0
        self.cache_revalidated = 0
        self.cache_stored = 0
        self.cache_bytes_saved = 0
        self.lives = 0
        self.skipped_by_reason: dict[str, int] = {}
        self.status_codes: dict[int, int] = {}
        self.retry_histogram: dict[int, int] = {}
        self.by_handler: dict[str, HandlerStatistics] = {}
        self._finished = Sketch()
        self._failed = Sketch()
        self._sketches = {"duration_finished": self._finished, "duration_failed": self._failed}
        self._hosts: dict[str, HostStatistics] = {}  # since the last collect only
        self._collected = _Values({}, {}, {})

    # -- recording: called for every page, so each of these takes about a microsecond -------------

    def received(self, host: str, status: int, size: int) -> None:
        """A response arrived, with a body of `size` bytes."""
        self.bytes_received += size
        self.status_codes[status] = self.status_codes.get(status, 0) + 1
        row = self._hosts.get(host) or self._host(host)
        row.responses_received += 1
        row.bytes_received += size

    def finished(self, handler: str, host: str, duration: float, retries: int) -> None:
        """A request was handled, `duration` seconds after its last try began."""
        self.requests_finished += 1
        self.retry_histogram[retries] = self.retry_histogram.get(retries, 0) + 1
        self._finished.record(duration)
        by_handler = self.by_handler.get(handler) or self._handler(handler)
        by_handler.requests_finished += 1
        by_handler.duration_sum += duration
        by_host = self._hosts.get(host) or self._host(host)
        by_host.requests_finished += 1
        by_host.duration_sum += duration

    def failed(self, handler: str, host: str, duration: float, retries: int) -> None:
        """A request was given up, `duration` seconds after its last try began."""
        self.requests_failed += 1
        self.retry_histogram[retries] = self.retry_histogram.get(retries, 0) + 1
        self._failed.record(duration)
        by_handler = self.by_handler.get(handler) or self._handler(handler)
        by_handler.requests_failed += 1
        by_handler.duration_sum += duration
        by_host = self._hosts.get(host) or self._host(host)
        by_host.requests_failed += 1
        by_host.duration_sum += duration

    def retried(self, handler: str, host: str) -> None:
        """A try failed, and the request will be tried again."""
        self.requests_retried += 1
        (self.by_handler.get(handler) or self._handler(handler)).requests_retried += 1
        (self._hosts.get(host) or self._host(host)).requests_retried += 1

    def skipped(self, reason: str, count: int = 1) -> None:
        """A link or a request is not fetched, or several."""
        self.skipped_by_reason[reason] = self.skipped_by_reason.get(reason, 0) + count

    def dropped(self) -> None:
        """A request that was enqueued is left unfetched: no longer pending. Besides `skipped`."""
        self.requests_dropped += 1

    def saved(self, handler: str, items: int = 1) -> None:
        """A page saved some items."""
        self.items_saved += items
        (self.by_handler.get(handler) or self._handler(handler)).items_saved += items

    def cached(self, handler: str, result: CacheResult, size: int, is_stored: bool) -> None:
        """The page cache was asked for a page of `size` bytes (see `Response.cache`)."""
        name = _CACHE_COUNTERS[result]
        row = self.by_handler.get(handler) or self._handler(handler)
        for counted in (name, "cache_stored") if is_stored else (name,):
            setattr(self, counted, getattr(self, counted) + 1)
            setattr(row, counted, getattr(row, counted) + 1)
        if result != "miss":
            self.cache_bytes_saved += size

    # -- failed requests that somebody has looked at ---------------------------------------------

    def _uncount_failure(self, outcome: Outcome) -> None:
        duration = outcome.duration or 0.0
        retries = outcome.retries
        self.requests_failed -= 1
        self.retry_histogram[retries] = self.retry_histogram.get(retries, 0) - 1
        self._failed.take_back(duration)
        by_handler = self._handler(outcome.handler or "")
        by_handler.requests_failed -= 1
        by_handler.duration_sum -= duration
        by_host = self._host(outcome.host)
        by_host.requests_failed -= 1
        by_host.duration_sum -= duration

    def _handler(self, name: str) -> HandlerStatistics:
        return self.by_handler.setdefault(name, HandlerStatistics())

    def _host(self, name: str) -> HostStatistics:
        return self._hosts.setdefault(name, HostStatistics())

    # -- several workers ----------------------------------------------------------------------

    def _take_over(self, totals: Mapping[str, Number]) -> None:
        """Add what other workers have done: the totals of a commit, less what it knew of."""
        known = self._collected.add
        for name in _PLAIN:
            others = int(totals.get(name, 0) - known.get(name, 0))
            if others:
                setattr(self, name, getattr(self, name) + others)
                known[name] = known.get(name, 0) + others
        for name in _COUNTED_BY_STORE:
            setattr(self, name, int(totals.get(name, 0)))
        if not self.keeps_time:
            known[_RUNTIME] = float(totals.get(_RUNTIME, 0.0))
            self._stopwatch.set(known[_RUNTIME])

    # -- as counters in the store -------------------------------------------------------------

    def _restore_counters(self, saved: Saved) -> None:
        """Take back the numbers of earlier lives.

        Raises:
            StoreDamagedError: One of them is not what was saved.
        """
        for name, value in saved.snapshot.counters.items():
            try:
                self._restore_counter(name, value)
            except (TypeError, ValueError):
                raise StoreDamagedError(
                    f"the counter {name!r} is not what was saved; see 'crawlkit check', put back a "
                    "copy of the run, or start anew with --fresh"
                ) from None
        self._collected = self._values()

    def _restore_counter(self, name: str, value: Number) -> None:
        group, _, key = name.partition("/")
        if group in _PLAIN or group in _COUNTED_BY_STORE:
            setattr(self, group, int(value))
        elif group == _RUNTIME:
            self._stopwatch.set(float(value))
        elif group == "skipped_by_reason":
            self.skipped_by_reason[key] = int(value)
        elif group in _KEYED and value:  # one that was put back may have come to nought
            getattr(self, group)[int(key)] = int(value)
        elif group == "handler":
            handler, _, field = key.rpartition("/")
            set_field(self.by_handler.get(handler) or self._handler(handler), field, value)
        elif group in self._sketches:
            self._sketches[group].restore(key, value)

    def _collect_counters(self, checkpoint: Checkpoint) -> bool:
        """Hand over what was added since the last call.

        Returns:
            Whether anything was done with a request meanwhile.
        """
        values, before = self._values(), self._collected
        for name, value in values.add.items():
            if difference := value - before.add.get(name, 0):
                checkpoint.add[name] = checkpoint.add.get(name, 0) + difference
        checkpoint.least.update(values.least.items() - before.least.items())
        checkpoint.most.update(values.most.items() - before.most.items())
        self._collected = values
        for host, row in self._hosts.items():
            for name, value in named(f"host/{host}", row):
                if value:
                    checkpoint.add[name] = checkpoint.add.get(name, 0) + value
        self._hosts = {}
        return any(checkpoint.add.get(name, 0) > 0 for name in _PROGRESS)

    def _values(self) -> _Values:
        """Every counter but those of hosts, and but the two that the store itself counts."""
        add: dict[str, Number] = {name: getattr(self, name) for name in _PLAIN}
        add[_RUNTIME] = self._stopwatch.seconds
        least: dict[str, Number] = {}
        most: dict[str, Number] = {}
        for group in _KEYED:
            add.update((f"{group}/{key}", n) for key, n in getattr(self, group).items())
        for handler, row in self.by_handler.items():
            add.update(named(f"handler/{handler}", row))
        for group, sketch in self._sketches.items():
            add.update((f"{group}/{key}", n) for key, n in sketch.counts().items())
            least.update((f"{group}/{key}", n) for key, n in sketch.least().items())
            most.update((f"{group}/{key}", n) for key, n in sketch.most().items())
        return _Values(add, least, most)

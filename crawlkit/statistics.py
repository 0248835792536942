"""Statistics: what a crawl did, exact over every restart.

Everything that can be added up is a counter, and goes into a checkpoint as what was added since
the last one. A checkpoint's cost thus follows what changed, the workers of one run can be summed,
and after kill -9 the numbers are those of the last checkpoint, as are the queue and the items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from .checkpoint import Checkpoint, Document, Number, Outcome, Saved
from .clock import Clock, isoformat
from .counting.durations import Durations, Sketch
from .counting.errorgroups import ErrorGroups, ErrorStatistics, GroupKey
from .counting.lives import TOTALS, LifeStatistics, Lives
from .counting.samples import Sample, Samples
from .errors import StoreDamagedError
from .observing.overview import html_of, rich_of, tables_of
from .response import CacheResult
from .workers.merging import merge

if TYPE_CHECKING:
    from .stores.base import Receipt


class HandlerStatistics(msgspec.Struct):
    """What one handler did.

    Attributes:
        requests_finished: Requests that it handled.
        requests_failed: Requests that were given up.
        requests_retried: Tries that failed and were made again.
        items_saved: Items.
        duration_sum: Seconds that its finished and failed requests took, fetching included.
        cache_hits: Its pages that came from the page cache.
        cache_misses: Its pages that were not in it.
        cache_revalidated: Its pages that the site confirmed to be unchanged.
        cache_stored: Its pages that were put into it.
    """

    requests_finished: int = 0
    requests_failed: int = 0
    requests_retried: int = 0
    items_saved: int = 0
    duration_sum: float = 0.0
    cache_hits: int = 0
    cache_misses: int = 0
    cache_revalidated: int = 0
    cache_stored: int = 0


class HostStatistics(msgspec.Struct):
    """What was fetched from one host.

    Attributes:
        requests_finished: Requests that were handled.
        requests_failed: Requests that were given up.
        requests_retried: Tries that failed and were made again.
        responses_received: Responses, also those that were tried again.
        bytes_received: Bytes of their bodies.
        duration_sum: Seconds that its finished and failed requests took.
    """

    requests_finished: int = 0
    requests_failed: int = 0
    requests_retried: int = 0
    responses_received: int = 0
    bytes_received: int = 0
    duration_sum: float = 0.0


class _Life(msgspec.Struct):
    """The document of this part: what is not additive, as Unix times."""

    started_at: float | None = None
    last_started_at: float | None = None
    finished_at: float | None = None
    in_flight: int = 0


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

_NAMES = (
    "requests_finished",
    "requests_failed",
    "requests_retried",
    "requests_skipped",
    "skipped_by_reason",
    "requests_dropped",
    "requests_total",
    "requests_duplicate",
    "pending",
    "in_flight",
    "items_saved",
    "bytes_received",
    "status_codes",
    "retry_histogram",
    "duration_finished",
    "duration_failed",
    "cache_hits",
    "cache_misses",
    "cache_revalidated",
    "cache_stored",
    "cache_bytes_saved",
    "by_handler",
    "by_host",
    "errors",
    "started_at",
    "last_started_at",
    "finished_at",
    "runtime_seconds",
    "lives",
    "by_life",
    "samples",
)


class _Counters(NamedTuple):
    add: dict[str, Number]
    least: dict[str, Number]
    most: dict[str, Number]


class Statistics:
    """What a crawl did, over all its lives. The part called ``statistics``.

    A crawler records with the methods; everyone reads the attributes. `to_dict`, and with it
    ``crawlkit stats RUN --json``, has an entry of the same name and value for each of these:

    Attributes:
        requests_finished: Requests that were handled.
        requests_failed: Requests that were given up.
        requests_retried: Tries that failed and were made again.
        requests_skipped: Links and requests that were not fetched, over all reasons.
        skipped_by_reason: The same by the rule that skipped them.
        requests_dropped: Requests that were enqueued and then left unfetched; they are among those
            skipped.
        requests_total: Requests that were enqueued.
        requests_duplicate: Links and requests that had been enqueued already.
        pending: Requests that wait, also those that wait to be tried again.
        in_flight: Requests that are being fetched or handled.
        items_saved: Items.
        bytes_received: Bytes of bodies of responses, after decompression.
        status_codes: Responses by HTTP status, also those that were tried again.
        retry_histogram: How many finished or failed requests were tried again how many times.
        duration_finished: Seconds that finished requests took, see `Durations`.
        duration_failed: Seconds that the last try of failed requests took.
        cache_hits: Pages that came from the page cache.
        cache_misses: Pages that were not in it.
        cache_revalidated: Pages that the site confirmed to be unchanged.
        cache_stored: Pages that were put into it.
        cache_bytes_saved: Bytes of bodies that the page cache spared the sites.
        by_handler: `HandlerStatistics` by the handler's name.
        by_host: `HostStatistics` of the busiest hosts. Only where a run was opened for reading: a
            crawler does not hold it in memory, as there may be millions of hosts.
        errors: `ErrorStatistics`, the most frequent first.
        started_at: When the first life began.
        last_started_at: When the last one began.
        finished_at: When the crawl was finished, or ``None``.
        runtime_seconds: Seconds that it ran, over all lives.
        lives: How often it was started.
        by_life: `LifeStatistics`, the earliest first: of the last 100 lives, and of those before
            them together. They add up to the numbers of the run.
        samples: `Sample`s over time, at most 512, evenly spaced.

    Times are ISO 8601 in UTC.

    Where several workers write the run, the plain numbers are those of all of them as of the last
    checkpoint; what is told by key (handlers, statuses, errors, durations) is what this worker knew
    at its start and has done since. One of them counts the time, see `keep_time`.

    Args:
        clock: Steady time. The default is a clock of its own.
        read_hosts: Reads `by_host`, when it is asked for.
        is_shared: Whether other workers may write the run at the same time.
    """

    def __init__(
        self,
        clock: Clock | None = None,
        *,
        read_hosts: Callable[[], dict[str, HostStatistics]] = dict,
        is_shared: bool = False,
    ) -> None:
        self._is_shared = is_shared
        self.keeps_time = not is_shared
        self._read_hosts = read_hosts
        self._clock = clock or Clock()
        self._life = _Life()
        self._samples = Samples()
        self._lives = Lives()
        self._ran = 0.0  # seconds, up to `_running_since`
        self._running_since: float | None = None
        self._collected_life = _Life()
        self._has_ended = False
        self._clear()

    def _clear(self) -> None:
        self.requests_finished = 0
        self.requests_failed = 0
        self.requests_retried = 0
        self.requests_dropped = 0
        self.requests_total = 0
        self.requests_duplicate = 0
        self.in_flight = 0
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
        self._errors = ErrorGroups()
        self._collected = _Counters({}, {}, {})

    # -- a life -------------------------------------------------------------------------------

    def begin_life(self, now: float, *, joins: bool = False) -> None:
        """The run is started, or goes on; or this worker `joins` those that are at it."""
        self._running_since = None
        self._has_ended = False
        if not joins:
            self._begin_life(now)
        if self.keeps_time:
            self._running_since = self._clock.now()
        self.in_flight = 0  # what a killed life left behind is pending again

    def _begin_life(self, now: float) -> None:
        self.lives += 1
        self._lives.begin(self.lives, now, self._totals())
        life = self._life
        if life.started_at is None:
            life.started_at = now
        life.last_started_at = now

    def _goes_on(self) -> None:
        """There is work: a run that was finished is not, for now.

        Not when a life begins, which may find nothing to do and be killed before it has seen that.
        """
        if not self._has_ended:
            self._life.finished_at = None

    def end_life(self, now: float, finished: bool) -> None:
        """The run stops; `finished` tells whether there is nothing more to do."""
        self._has_ended = True
        self._ran = self.runtime_seconds
        self._running_since = None
        self._lives.end(finished)
        if finished:
            self._life.finished_at = now

    def keep_time(self, samples: Document | None) -> None:
        """This worker counts the time from now on, as no other one does.

        Args:
            samples: Those that were taken so far, as they are stored.
        """
        self.keeps_time = True
        self._running_since = self._clock.now()
        if samples is not None:
            self._samples.resume(samples)

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

    def enqueued(self, receipt: Receipt) -> None:
        """A commit is done, and the store has counted the new requests and the duplicates."""
        if receipt.enqueued:
            self._goes_on()
        if receipt.totals:
            self._take_over(receipt.totals)
        else:
            self.requests_total += receipt.enqueued
            self.requests_duplicate += receipt.duplicates

    def cached(self, handler: str, result: CacheResult, size: int, is_stored: bool) -> None:
        """The page cache was asked for a page of `size` bytes (see `Response.cache`)."""
        name = _CACHE_COUNTERS[result]
        row = self.by_handler.get(handler) or self._handler(handler)
        for counted in (name, "cache_stored") if is_stored else (name,):
            setattr(self, counted, getattr(self, counted) + 1)
            setattr(row, counted, getattr(row, counted) + 1)
        if result != "miss":
            self.cache_bytes_saved += size

    def error(self, error: BaseException, url: str, place: str | None = None) -> GroupKey:
        """Count an error in its group, and say in which.

        Args:
            error: What was raised.
            url: The URL during whose handling it was.
            place: Where it arose; the innermost line of the user's code where it is ``None``.
        """
        return self._errors.record(error, url, place, self._clock.now())

    def sample(self, now: float, memory_bytes: int) -> None:
        """Note where the crawl stands, if it is time to; may be called as often as one likes."""
        if self.keeps_time and self._samples.wants(now):
            self._samples.add(
                now,
                self.requests_finished,
                self.requests_failed,
                self.pending,
                self.in_flight,
                self.items_saved,
                self.bytes_received,
                memory_bytes,
                self._finished.since(self._samples.buckets),
            )
            self._samples.buckets = self._finished.buckets()

    # -- failed requests that somebody has looked at ---------------------------------------------

    def put_back(self, outcome: Outcome) -> None:
        """A failed request is pending again, and the crawl not finished.

        What has happened stays: its retries, its errors, the extremes of the durations.
        """
        self._uncount_failure(outcome)
        self._life.finished_at = None

    def drop(self, outcome: Outcome) -> None:
        """A failed request is skipped, after all."""
        self._uncount_failure(outcome)
        self.dropped()
        self.skipped("dropped")

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
            self._ran = known[_RUNTIME] = float(totals.get(_RUNTIME, 0.0))

    @staticmethod
    def merge(base: Any, mine: Any, theirs: Any) -> Any:
        """The document of when the run began and ended; one worker alone takes samples."""
        if "lives" in mine:
            return Lives.merge(base, mine, theirs)
        if "started_at" not in mine:
            return mine
        merged = merge(base, mine, theirs)
        for name, pick in (("started_at", min), ("last_started_at", max)):
            times = [time for time in (mine[name], theirs[name]) if time is not None]
            merged[name] = pick(times, default=None)
        changed = base is None or mine["finished_at"] != base["finished_at"]
        merged["finished_at"] = (mine if changed else theirs)["finished_at"]
        return merged

    def refresh(self, saved: Saved) -> None:
        """Read everything anew: what all workers have done, as of the last checkpoint."""
        in_flight, is_running = self.in_flight, self._running_since is not None
        self._running_since = None
        self._clear()
        self.restore(saved)
        self.in_flight = in_flight
        self._running_since = self._clock.now() if is_running else None

    # -- a persisted part ---------------------------------------------------------------------

    def restore(self, saved: Saved) -> None:
        """Take back the numbers of earlier lives."""
        for name, value in saved.snapshot.counters.items():
            try:
                self._restore_counter(name, value)
            except (TypeError, ValueError):
                raise StoreDamagedError(
                    f"the counter {name!r} is not what was saved; see 'crawlkit check', put back a "
                    "copy of the run, or start anew with --fresh"
                ) from None
        self._collected = self._counters()
        self._errors.restore(saved.snapshot.errors)
        self._life = saved.load(_Life(), type=_Life)
        self._collected_life = msgspec.structs.replace(self._life)
        self._samples.restore(saved)
        self._samples.buckets = self._finished.buckets()
        self._lives.restore(saved)
        self.in_flight = self._life.in_flight

    def _restore_counter(self, name: str, value: Number) -> None:
        group, _, key = name.partition("/")
        if group in _PLAIN or group in _COUNTED_BY_STORE:
            setattr(self, group, int(value))
        elif group == _RUNTIME:
            self._ran = float(value)
        elif group == "skipped_by_reason":
            self.skipped_by_reason[key] = int(value)
        elif group in _KEYED and value:  # one that was put back may have come to nought
            getattr(self, group)[int(key)] = int(value)
        elif group == "handler":
            handler, _, field = key.rpartition("/")
            _set(self.by_handler.get(handler) or self._handler(handler), field, value)
        elif group in self._sketches:
            self._sketches[group].restore(key, value)

    def collect(self, checkpoint: Checkpoint) -> None:
        """Hand over what was recorded since the last call."""
        counters, before = self._counters(), self._collected
        for name, value in counters.add.items():
            if difference := value - before.add.get(name, 0):
                checkpoint.add[name] = checkpoint.add.get(name, 0) + difference
        if any(checkpoint.add.get(name, 0) > 0 for name in _PROGRESS):
            self._goes_on()
        checkpoint.least.update(counters.least.items() - before.least.items())
        checkpoint.most.update(counters.most.items() - before.most.items())
        self._collected = counters
        for host, row in self._hosts.items():
            for name, value in _named(f"host/{host}", row):
                if value:
                    checkpoint.add[name] = checkpoint.add.get(name, 0) + value
        self._hosts = {}
        self._errors.collect(checkpoint)
        # Of several workers each has a note of its own, by the queue.
        self._life.in_flight = 0 if self._is_shared else self.in_flight
        if self._life != self._collected_life:
            checkpoint.save(self._life)
            self._collected_life = msgspec.structs.replace(self._life)
        if self.keeps_time:
            self._samples.collect(checkpoint)
        self._lives.collect(checkpoint)

    def _totals(self) -> dict[str, Number]:
        return {name: getattr(self, name) for name in TOTALS}

    def _counters(self) -> _Counters:
        """Every counter but those of hosts, and but the two that the store itself counts."""
        add: dict[str, Number] = {name: getattr(self, name) for name in _PLAIN}
        add[_RUNTIME] = self.runtime_seconds
        least: dict[str, Number] = {}
        most: dict[str, Number] = {}
        for group in _KEYED:
            add.update((f"{group}/{key}", n) for key, n in getattr(self, group).items())
        for handler, row in self.by_handler.items():
            add.update(_named(f"handler/{handler}", row))
        for group, sketch in self._sketches.items():
            add.update((f"{group}/{key}", n) for key, n in sketch.counts().items())
            least.update((f"{group}/{key}", n) for key, n in sketch.least().items())
            most.update((f"{group}/{key}", n) for key, n in sketch.most().items())
        return _Counters(add, least, most)

    # -- reading ------------------------------------------------------------------------------

    @property
    def requests_skipped(self) -> int:  # noqa: D102
        return sum(self.skipped_by_reason.values())

    @property
    def pending(self) -> int:  # noqa: D102
        done = self.requests_finished + self.requests_failed + self.requests_dropped
        pending = self.requests_total - done - self.in_flight
        # Of several workers one may have handled what it does not know yet that others enqueued.
        return max(0, pending) if self._is_shared else pending

    @property
    def duration_finished(self) -> Durations:  # noqa: D102
        return self._finished.summary()

    def mark_durations(self) -> dict[int, int]:
        """What `quantile_since` counts from; also from one object to a later one of the run."""
        return self._finished.buckets()

    def quantile_since(self, mark: dict[int, int], share: float) -> float | None:
        """Seconds that `share` of the requests took at most, finished since `mark_durations`."""
        return self._finished.since(mark).quantile(share)

    @property
    def duration_failed(self) -> Durations:  # noqa: D102
        return self._failed.summary()

    @property
    def runtime_seconds(self) -> float:  # noqa: D102
        since = self._running_since
        return self._ran if since is None else self._ran + self._clock.now() - since

    @property
    def started_at(self) -> str | None:  # noqa: D102
        return isoformat(self._life.started_at)

    @property
    def last_started_at(self) -> str | None:  # noqa: D102
        return isoformat(self._life.last_started_at)

    @property
    def finished_at(self) -> str | None:  # noqa: D102
        return isoformat(self._life.finished_at)

    @property
    def errors(self) -> list[ErrorStatistics]:  # noqa: D102
        return self._errors.all()

    def histogram(
        self, outcome: Literal["finished", "failed"], bounds: Sequence[float]
    ) -> tuple[list[int], int, float]:
        """Durations of requests with this outcome: see `Sketch.histogram`."""
        return (self._finished if outcome == "finished" else self._failed).histogram(bounds)

    @property
    def by_life(self) -> list[LifeStatistics]:  # noqa: D102
        life = self._life
        return self._lives.all(self._totals(), life.started_at, life.finished_at is not None)

    @property
    def samples(self) -> list[Sample]:  # noqa: D102
        return self._samples.all()

    @property
    def last_sample(self) -> Sample | None:
        """The latest of the `samples`, if there is one."""
        return self._samples.last()

    @cached_property
    def by_host(self) -> dict[str, HostStatistics]:  # noqa: D102
        return self._read_hosts()

    def __repr__(self) -> str:
        return (
            f"<Statistics: {self.requests_finished:,} finished, {self.requests_failed:,} failed, "
            f"{self.pending:,} pending, {self.items_saved:,} items>"
        )

    def _repr_html_(self) -> str:
        return html_of("", tables_of(self))

    def __rich__(self) -> Any:
        return rich_of("", tables_of(self))

    def to_dict(self) -> dict[str, Any]:
        """The attributes by name, as JSON-like values: what ``stats RUN --json`` prints."""
        values: dict[str, Any] = msgspec.to_builtins(
            {name: getattr(self, name) for name in _NAMES}, str_keys=True
        )
        return values


def tallies(counters: Mapping[str, Number]) -> dict[str, HostStatistics]:
    """What the counters under ``host/`` say, by host, the busiest first."""
    hosts: dict[str, HostStatistics] = {}
    for name, value in counters.items():
        host, _, field = name.removeprefix("host/").rpartition("/")
        row = hosts.get(host)
        if row is None:
            row = hosts[host] = HostStatistics()
        _set(row, field, value)
    return dict(sorted(hosts.items(), key=lambda entry: -entry[1].responses_received))


def _named(prefix: str, row: msgspec.Struct) -> Iterator[tuple[str, Number]]:
    return ((f"{prefix}/{field}", getattr(row, field)) for field in row.__struct_fields__)


def _set(row: msgspec.Struct, field: str, value: Number) -> None:
    # A field that this version does not know was counted by another one, and stays as it is.
    if field in row.__struct_fields__:
        setattr(row, field, float(value) if field == "duration_sum" else int(value))

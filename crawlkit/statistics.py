"""Statistics: what a crawl did, exact over every restart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from .checkpoint import Checkpoint, Document, Number, Outcome, Saved
from .clock import Clock, isoformat
from .counting.counters import Counters
from .counting.durations import Durations
from .counting.errorgroups import ErrorGroups, ErrorStatistics, GroupKey
from .counting.lives import TOTALS, LifeStatistics, Lives
from .counting.samples import Sample, Samples
from .counting.tallies import HandlerStatistics as HandlerStatistics
from .counting.tallies import HostStatistics as HostStatistics
from .counting.tallies import tallies as tallies
from .counting.times import Times
from .observing.overview import html_of, rich_of, tables_of

if TYPE_CHECKING:
    from .stores.base import Receipt


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


class Statistics(Counters):
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
        self._clock = clock or Clock()
        super().__init__(self._clock, keeps_time=not is_shared)
        self._is_shared = is_shared
        self._read_hosts = read_hosts
        self._errors = ErrorGroups()
        self._lives = Lives()
        self._samples = Samples()
        self._times = Times()
        self._collected_times = Times()
        self._has_ended = False
        self.in_flight = 0

    # -- a life -------------------------------------------------------------------------------

    def begin_life(self, now: float, *, joins: bool = False) -> None:
        """The run is started, or goes on; or this worker `joins` those that are at it."""
        self._stopwatch.discard()
        self._has_ended = False
        if not joins:
            self.lives += 1
            self._lives.begin(self.lives, now, self._totals())
            self._times.begin(now)
        if self.keeps_time:
            self._stopwatch.start()
        self.in_flight = 0  # what a killed life left behind is pending again

    def _goes_on(self) -> None:
        """There is work: a run that was finished is not, for now.

        Not when a life begins, which may find nothing to do and be killed before it has seen that.
        """
        if not self._has_ended:
            self._times.finished_at = None

    def end_life(self, now: float, finished: bool) -> None:
        """The run stops; `finished` tells whether there is nothing more to do."""
        self._has_ended = True
        self._stopwatch.stop()
        self._lives.end(finished)
        if finished:
            self._times.finished_at = now

    def keep_time(self, samples: Document | None) -> None:
        """This worker counts the time from now on, as no other one does.

        Args:
            samples: Those that were taken so far, as they are stored.
        """
        self.keeps_time = True
        self._stopwatch.start()
        if samples is not None:
            self._samples.resume(samples)

    # -- recording, beside `Counters` ---------------------------------------------------------

    def enqueued(self, receipt: Receipt) -> None:
        """A commit is done, and the store has counted the new requests and the duplicates."""
        if receipt.enqueued:
            self._goes_on()
        if receipt.totals:
            self._take_over(receipt.totals)
        else:
            self.requests_total += receipt.enqueued
            self.requests_duplicate += receipt.duplicates

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
        self._times.finished_at = None

    def drop(self, outcome: Outcome) -> None:
        """A failed request is skipped, after all."""
        self._uncount_failure(outcome)
        self.dropped()
        self.skipped("dropped")

    # -- several workers ----------------------------------------------------------------------

    @staticmethod
    def merge(base: Any, mine: Any, theirs: Any) -> Any:
        """The document of when the run began and ended; one worker alone takes samples."""
        if "lives" in mine:
            return Lives.merge(base, mine, theirs)
        return Times.merge(base, mine, theirs) if "started_at" in mine else mine

    def refresh(self, saved: Saved) -> None:
        """Read everything anew: what all workers have done, as of the last checkpoint."""
        in_flight, is_running = self.in_flight, self._stopwatch.is_running
        self._stopwatch.discard()
        self._clear()
        self._errors = ErrorGroups()
        self.restore(saved)
        self.in_flight = in_flight
        if is_running:
            self._stopwatch.start()

    # -- a persisted part ---------------------------------------------------------------------

    def restore(self, saved: Saved) -> None:
        """Take back the numbers of earlier lives."""
        self._restore_counters(saved)
        self._errors.restore(saved.snapshot.errors)
        self._times = saved.load(Times(), type=Times)
        self._collected_times = msgspec.structs.replace(self._times)
        self._samples.restore(saved)
        self._samples.buckets = self._finished.buckets()
        self._lives.restore(saved)
        self.in_flight = self._times.in_flight

    def collect(self, checkpoint: Checkpoint) -> None:
        """Hand over what was recorded since the last call."""
        if self._collect_counters(checkpoint):
            self._goes_on()
        self._errors.collect(checkpoint)
        # Of several workers each has a note of its own, by the queue.
        self._times.in_flight = 0 if self._is_shared else self.in_flight
        if self._times != self._collected_times:
            checkpoint.save(self._times)
            self._collected_times = msgspec.structs.replace(self._times)
        if self.keeps_time:
            self._samples.collect(checkpoint)
        self._lives.collect(checkpoint)

    def _totals(self) -> dict[str, Number]:
        return {name: getattr(self, name) for name in TOTALS}

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
        return self._stopwatch.seconds

    @property
    def started_at(self) -> str | None:  # noqa: D102
        return isoformat(self._times.started_at)

    @property
    def last_started_at(self) -> str | None:  # noqa: D102
        return isoformat(self._times.last_started_at)

    @property
    def finished_at(self) -> str | None:  # noqa: D102
        return isoformat(self._times.finished_at)

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
        times = self._times
        return self._lives.all(self._totals(), times.started_at, times.finished_at is not None)

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

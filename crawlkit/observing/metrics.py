"""Metrics: the statistics in the text format of Prometheus.

The format is small and is written by hand (exposition format 0.0.4, https://prometheus.io/docs/
instrumenting/exposition_formats/): a client library would want to count all over again what is
counted already. There is nothing in it that grows with the site, such as hosts or URLs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Literal, TypeAlias

from ..checkpoint import Number
from ..statistics import Statistics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Seconds that divide durations."""

Labels: TypeAlias = Mapping[str, str]

_COUNTERS = (
    ("requests_finished", "requests_finished", "Requests that were handled."),
    ("requests_failed", "requests_failed", "Requests that were given up."),
    ("requests_retried", "requests_retried", "Tries that failed and were made again."),
    ("requests_dropped", "requests_dropped", "Requests that were enqueued and left unfetched."),
    ("requests_enqueued", "requests_total", "Requests that were enqueued."),
    ("requests_duplicate", "requests_duplicate", "Links that had been enqueued already."),
    ("items_saved", "items_saved", "Items."),
    ("received_bytes", "bytes_received", "Bytes of bodies, after decompression."),
    ("cache_stored", "cache_stored", "Pages that were put into the page cache."),
    ("cache_saved_bytes", "cache_bytes_saved", "Bytes that the page cache spared the sites."),
    ("runtime_seconds", "runtime_seconds", "Seconds that the run ran, over all lives."),
    ("lives", "lives", "How often the run was started."),
)
_HANDLER = ("requests_finished", "requests_failed", "requests_retried", "items_saved")


def metrics_text(statistics: Statistics, labels: Labels | None = None) -> str:
    """The statistics of a run in the text format of Prometheus.

    Args:
        statistics: Of a crawl that runs, or of a run that was opened.
        labels: What every sample is labelled with, such as the name of the crawler.
    """
    lines = _Lines(labels or {})
    s = statistics
    for name, attribute, about in _COUNTERS:
        lines.family(f"{name}_total", "counter", about, [({}, getattr(s, attribute))])
    lines.family("requests_pending", "gauge", "Requests that wait.", [({}, s.pending)])
    lines.family("requests_in_flight", "gauge", "Requests on their way.", [({}, s.in_flight)])
    lines.family("finished", "gauge", "Whether the crawl is.", [({}, int(bool(s.finished_at)))])
    if s.last_started_at is not None:
        at = datetime.fromisoformat(s.last_started_at).timestamp()
        lines.family("start_time_seconds", "gauge", "When this life began.", [({}, at)])
    if (sample := s.last_sample) is not None:
        lines.family("memory_bytes", "gauge", "Resident memory.", [({}, sample.memory)])
    lines.family(
        "requests_skipped_total",
        "counter",
        "Links and requests that were not fetched, by the rule.",
        [({"reason": reason}, n) for reason, n in s.skipped_by_reason.items()],
    )
    lines.family(
        "responses_total",
        "counter",
        "Responses of sites by HTTP status.",
        [({"status": str(status)}, n) for status, n in s.status_codes.items()],
    )
    lines.family(
        "cache_requests_total",
        "counter",
        "Pages that the page cache was asked for.",
        [
            ({"result": "hit"}, s.cache_hits),
            ({"result": "miss"}, s.cache_misses),
            ({"result": "revalidated"}, s.cache_revalidated),
        ],
    )
    kinds: Counter[str] = Counter()
    for group in s.errors:
        kinds[group.kind] += group.count
    lines.family(
        "errors_total",
        "counter",
        "Errors by kind, those that were followed by another try included.",
        [({"kind": kind}, n) for kind, n in sorted(kinds.items())],
    )
    for name in _HANDLER:
        rows = [({"handler": h}, getattr(row, name)) for h, row in s.by_handler.items()]
        lines.family(f"handler_{name}_total", "counter", "The same by handler.", rows)
    lines.family(
        "handler_seconds_total",
        "counter",
        "Seconds that requests took, by handler.",
        [({"handler": h}, row.duration_sum) for h, row in s.by_handler.items()],
    )
    _durations(lines, s)
    return lines.text()


def _durations(lines: _Lines, statistics: Statistics) -> None:
    name = "request_duration_seconds"
    lines.head(name, "histogram", "Seconds from the start of a request to its end.")
    outcomes: tuple[Literal["finished", "failed"], ...] = ("finished", "failed")
    for outcome in outcomes:
        counts, total, seconds = statistics.histogram(outcome, BOUNDS)
        labels = {"outcome": outcome}
        for bound, count in zip(BOUNDS, counts, strict=True):
            lines.sample(f"{name}_bucket", {**labels, "le": f"{bound:g}"}, count)
        lines.sample(f"{name}_bucket", {**labels, "le": "+Inf"}, total)
        lines.sample(f"{name}_sum", labels, seconds)
        lines.sample(f"{name}_count", labels, total)


class _Lines:
    def __init__(self, labels: Labels) -> None:
        self._labels = labels
        self._lines: list[str] = []

    def head(self, name: str, kind: str, about: str) -> None:
        self._lines += (f"# HELP crawlkit_{name} {about}", f"# TYPE crawlkit_{name} {kind}")

    def sample(self, name: str, labels: Labels, value: Number) -> None:
        told = {**self._labels, **labels}
        inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in told.items())
        self._lines.append(f"crawlkit_{name}{f'{{{inside}}}' if inside else ''} {value!r}")

    def family(
        self, name: str, kind: str, about: str, samples: Iterable[tuple[Labels, Number]]
    ) -> None:
        self.head(name, kind, about)
        for labels, value in samples:
            self.sample(name, labels, value)

    def text(self) -> str:
        return "\n".join([*self._lines, ""])


def _escaped(text: str) -> str:
    # Of what else there may be in a label, the format says nothing; UTF-8 has no lone surrogates.
    text = text.encode("utf-8", "replace").decode()
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

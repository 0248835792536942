"""Run: a finished or live run, opened for reading."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, get_args

from .checkpoint import Document, Outcome, Saved, decode
from .clock import Clock, isoformat
from .counting.errorgroups import ErrorStatistics, GroupKey, group_id, without_group
from .counting.specimens import Specimen, read_specimen
from .errors import StoreError, UsageError
from .exporting.frames import Library, frame_of
from .figures import span
from .items import decode_item
from .observing.overview import Table, html_of, rich_of, tables_of
from .request import Request, fingerprint
from .statistics import HostStatistics, Statistics, tallies
from .stores import open_reader
from .stores.base import Reader, StoredItem
from .stores.directory import RunDirectory
from .stores.postgres.address import is_postgres, masked
from .urls import canonical

T = TypeVar("T")

OutcomeName = Literal["handled", "failed", "skipped", "pending", "in_flight"]

BUSIEST_HOSTS = 100
"""Hosts in ``by_host`` of a run's statistics."""

_OUTCOMES = get_args(OutcomeName)
_VALUES = "values/"
_IN_FLIGHT = "queue/in_flight"


@dataclass(frozen=True, slots=True)
class Explanation:
    """What became of one URL.

    Attributes:
        url: The URL that was asked about.
        outcome: ``handled``, ``failed``, ``skipped``, ``pending``, ``in_flight``, or ``unknown``
            where it was never seen.
        canonical: The URL as it was enqueued, of which others are duplicates.
        handler: The handler's name.
        status: HTTP status, where there was a response.
        at: When it was handled, failed or skipped, as Unix time.
        due: Unix time before which a pending request waits; ``None`` where it need not wait.
        duration: Seconds that the last try took.
        retries: How many times it was tried again.
        error: The error's kind, for a failed one.
        detail: The error in one line; the rule by which it was skipped, and what it says; why it
            waits, beyond its turn; or, where it was never seen, what was only counted.
        group: The id of the group that the error of a failed one was counted in.
    """

    url: str
    outcome: Literal[OutcomeName, "unknown"]
    canonical: str
    handler: str | None = None
    status: int | None = None
    at: float | None = None
    due: float | None = None
    duration: float | None = None
    retries: int = 0
    error: str | None = None
    detail: str | None = None
    group: str | None = None

    def __str__(self) -> str:
        """The same in one sentence."""
        sentence = {
            "handled": f"handled at {isoformat(self.at)} by {self.handler}",
            "failed": f"failed at {isoformat(self.at)} in {self.handler}: {self.detail}",
            "skipped": f"skipped at {isoformat(self.at)}: {self.detail}",
            "pending": f"pending, for {self.handler}" + (f": {self.detail}" if self.detail else ""),
            "in_flight": f"in flight, for {self.handler}",
            "unknown": "never seen: it was no start URL, and no handler followed a link to it"
            + (f"; or it is one of {self.detail}" if self.detail else ""),
        }[self.outcome]
        if self.status is not None:
            sentence += f", HTTP status {self.status}"
        if self.duration is not None:
            sentence += f", {span(self.duration)}"
        if self.retries:
            sentence += f", tried again {self.retries} time{'s' * (self.retries > 1)}"
        if self.group is not None:
            sentence += f" (group {self.group})"
        if self.due is not None:
            sentence += f", not before {isoformat(self.due)}"
        if self.outcome != "unknown" and self.url != self.canonical:
            return f"{self.url} is a duplicate of {self.canonical}: {sentence}"
        return f"{self.url}: {sentence}"


class Run:
    """A run, opened for reading, also while the crawl goes on.

    Each call sees the last checkpoint at its time. What may be long is streamed.

    Args:
        reader: The run's store; closed with `close`, or at the end of ``with``.
    """

    def __init__(self, reader: Reader) -> None:
        self.address = reader.address
        self._reader = reader
        self._streams: list[Iterator[Any]] = []
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<Run {self.address}{' (closed)' if self._is_closed else ''}>"

    def _repr_html_(self) -> str:
        return html_of(*self._overview())

    def __rich__(self) -> Any:
        return rich_of(*self._overview())

    def _overview(self) -> tuple[str, list[Table]]:
        if self._is_closed:
            return repr(self), []
        return f"{self.address}{', running' if self.is_live else ''}", tables_of(self.statistics)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the run. What is being read from it ends."""
        self._is_closed = True
        for stream in self._streams:
            if isinstance(stream, Generator):
                stream.close()  # as a cursor must not outlive its connection
        self._reader.close()

    def _streamed(self, stream: Iterator[T]) -> Iterator[T]:
        """The stream, which is not taken for complete where the run is closed before its end."""
        self._streams.append(stream)
        try:
            yield from stream
        finally:
            self._streams.remove(stream)
        if self._is_closed:
            raise UsageError(
                f"{masked(self.address)} was closed while it was read; read it before that"
            )

    # -- the whole ----------------------------------------------------------------------------

    @property
    def holder(self) -> int | None:
        """The process that is writing the run, if there is one."""
        return self._reader.holder()

    @property
    def is_live(self) -> bool:
        """Whether a crawl is writing this run now."""
        return self.holder is not None

    @property
    def statistics(self) -> Statistics:
        """The statistics as of the last checkpoint."""
        # In this order: if the crawl ends in between, its last checkpoint is already there.
        is_live = self.is_live
        statistics = Statistics(read_hosts=lambda: self.hosts(BUSIEST_HOSTS))
        snapshot = self._reader.snapshot()
        statistics.restore(Saved("statistics", snapshot))
        # A process that was killed has left some; they are pending.
        statistics.in_flight = len(_in_flight(snapshot.documents.items())) if is_live else 0
        return statistics

    def hosts(self, limit: int | None = None) -> dict[str, HostStatistics]:
        """What was fetched from each host, the busiest first, at most `limit` of them."""
        if limit is None:
            return tallies(self._reader.counters("host/"))
        return tallies(self._reader.busiest_hosts(limit))

    def errors(self) -> list[ErrorStatistics]:
        """The groups of errors, the most frequent first."""
        return [ErrorStatistics.of(group) for group in self._reader.errors()]

    def specimen(self, key: str | GroupKey) -> Specimen | None:
        """The first response of a group of errors, or ``None`` where none was kept.

        Args:
            key: The group's id (`ErrorStatistics.id`), or its kind, place and masked message.

        Raises:
            StoreDamagedError: It is not what was saved.
        """
        name = key if isinstance(key, str) else group_id(key)
        return read_specimen(self.document, name)

    def check(self) -> Iterator[str]:
        """Everything that is wrong with what is stored, a line each; nothing if all is well."""
        return self._streamed(self._reader.check())

    # -- items --------------------------------------------------------------------------------

    def items(self, handler: str | None = None, *, meta: bool = False) -> Iterator[dict[str, Any]]:
        """The items in the order in which they were saved.

        Args:
            handler: Only those that this handler saved.
            meta: Add ``_url``, ``_handler`` and ``_time`` to each.
        """
        return (decode_item(item, meta=meta) for item in self.stored_items(handler))

    def items_frame(
        self,
        library: Library | None = None,
        *,
        handler: str | None = None,
        meta: bool = False,
    ) -> Any:
        """The items as a ``DataFrame``, with columns of the types that fit all of them.

        Whole numbers, numbers, truth values and text have their own types; lists and objects stay
        what they are. A field in which there are several kinds is text, with JSON for what is none.

        Args:
            library: ``polars`` (extra ``[polars]``) or ``pandas`` (extra ``[pandas]``); ``None``
                for polars where it is installed, else pandas.
            handler: Only those that this handler saved.
            meta: Add ``_url``, ``_handler`` and ``_time`` to each.

        Raises:
            OptionError: The library is not installed.
        """
        last: int | None = None

        def read() -> Iterator[dict[str, Any]]:
            # The second time no more of them than the first time: the crawl may go on.
            nonlocal last
            until, seen = last, 0
            for item in self.stored_items(handler):
                if until is not None and item.number > until:
                    break
                seen = item.number
                yield decode_item(item, meta=meta)
            last = seen

        return frame_of(read, library)

    def count_items(self, handler: str | None = None) -> int:
        """How many items there are, of all handlers or of one."""
        if handler is None:
            return int(self._reader.counters("items_saved").get("items_saved", 0))
        name = f"handler/{handler}/items_saved"
        return int(self._reader.counters(name).get(name, 0))

    def stored_items(self, handler: str | None = None, *, after: int = 0) -> Iterator[StoredItem]:
        """The items as they are stored, from number `after` + 1 on: what `export_items` takes."""
        return self._streamed(self._reader.items(after=after, handler=handler))

    # -- requests -----------------------------------------------------------------------------

    def requests(
        self,
        outcome: OutcomeName,
        *,
        host: str | None = None,
        after: tuple[str, int] | None = None,
    ) -> Iterator[Outcome]:
        """The requests with this outcome.

        Args:
            outcome: ``handled``, ``failed`` or ``skipped``; or ``pending`` or ``in_flight``, for
                which ``at`` is the Unix time before which the request waits, or 0.
            host: Only those of this ``host[:port]``.
            after: ``(host, fingerprint)`` of one that was handled, failed or skipped: only those
                that come after it.

        Raises:
            UsageError: There is no such outcome.
        """
        if outcome not in _OUTCOMES:
            raise UsageError(f"no outcome is called {outcome!r}; use one of {', '.join(_OUTCOMES)}")
        if outcome in ("pending", "in_flight"):
            return (request for request in self.to_do(host=host) if request.outcome == outcome)
        return self._streamed(self._reader.outcomes_after(outcome, after, host=host))

    def to_do(self, *, host: str | None = None) -> Iterator[Outcome]:
        """The requests that are pending or in flight, best priority first; see `requests`."""
        return self._streamed(self._to_do(host))

    def why(self, url: str) -> Explanation:
        """What became of a URL.

        It is found by its identity, at once. Only where there is no such request are those of its
        host gone through, for one that was enqueued with a body or a ``unique_key``.

        Raises:
            UrlError: It is no URL that can be fetched.
        """
        request = Request(canonical(url))
        host, number = request.host, fingerprint(request)
        known = self._reader.outcome(host, number)
        if known is None or known.outcome == "skipped":
            # A link may be skipped where it is first found, and enqueued from elsewhere later.
            if self._reader.seen(host, number):
                known = self._find_to_do(host, number) or self._reader.outcome(host, number)
            elif known is None:
                known = self._find_by_url(host, request.url)
        if known is None:
            return Explanation(url, "unknown", request.url, detail=self._uncounted())
        explanation = _explain(url, known)
        if explanation.outcome == "pending" and (until := self._paused_until(host)):
            due = max(until, explanation.due or 0.0)
            detail = f"{host} has asked to be left alone for a while"
            return replace(explanation, due=due, detail=detail)
        return explanation

    def _paused_until(self, host: str) -> float | None:
        """Until when a host is left alone, as Unix time, where it is."""
        until, *_ = self.saved(f"throttle/pauses/{host}") or [0.0]  # see `host.Pause`
        return until if until > Clock().now() else None

    def _uncounted(self) -> str | None:
        """Links of which nothing was written down but how many there were."""
        prefix = "skipped_by_reason/"
        counters = self._reader.counters(prefix)
        told = [
            f"the {counters[prefix + reason]:,} links skipped by {reason}, which are only counted"
            for reason in ("max_links", "max_sitemaps", "malformed")
            if counters.get(prefix + reason)
        ]
        return ", or of ".join(told) or None

    def _find_to_do(self, host: str, number: int) -> Outcome | None:
        return next((found for found in self._to_do(host) if found.fingerprint == number), None)

    def _find_by_url(self, host: str, url: str) -> Outcome | None:
        streams = [self._to_do(host)]
        streams += [self._reader.outcomes(name, host=host) for name in ("failed", "handled")]
        return next((found for stream in streams for found in stream if found.url == url), None)

    def _to_do(self, host: str | None) -> Iterator[Outcome]:
        in_flight = self._in_flight()
        for request, due in self._reader.pending(host=host):
            identity = (request.host, fingerprint(request))
            yield Outcome(
                outcome="in_flight" if identity in in_flight else "pending",
                url=request.url,
                fingerprint=identity[1],
                host=identity[0],
                at=due,
                handler=request.handler,
                retries=request.retry_count,
                request=request,
            )

    def _in_flight(self) -> set[tuple[str, int]]:
        # They are pending as long as they have no outcome; the queue notes which they are.
        return _in_flight(self._reader.documents(_IN_FLIGHT)) if self.is_live else set()

    # -- what the crawler saved -----------------------------------------------------------------

    @property
    def state(self) -> dict[str, Any]:
        """The crawler's ``self.state``."""
        return dict(self.saved("state", {}))

    def value(self, key: str, default: Any = None) -> Any:
        """What the crawler saved with ``set_value(key, ...)``, else `default`."""
        return self.saved(_VALUES + key, default)

    def values(self) -> dict[str, Any]:
        """Everything that the crawler saved with ``set_value``, by key."""
        return {
            name.removeprefix(_VALUES): decode(document.data, name)
            for name, document in self._reader.documents(_VALUES)
        }

    def saved(self, name: str, default: Any = None) -> Any:
        """One document as a JSON value, else `default`: the state of a part, by the part's name."""
        document = self.document(name)
        return default if document is None else decode(document.data, name)

    def documents(self) -> Iterator[tuple[str, Document]]:
        """Every document by name: the state of each part, and under ``values/`` each value."""
        return self._streamed(self._reader.documents())

    def document(self, name: str) -> Document | None:
        """One document as it is stored."""
        return next((found for key, found in self._reader.documents(name) if key == name), None)


def open_run(address: str | os.PathLike[str]) -> Run:
    """Open a run for reading, finished or live.

    Args:
        address: The run's directory, or ``postgresql://user@host/database#RUN``.

    Raises:
        StoreError: There is no run, or it cannot be read.
        UsageError: No store has such an address.
    """
    address = os.fspath(address)
    try:
        return Run(open_reader(address))
    except StoreError as error:
        is_directory = not is_postgres(address)
        if type(error) is StoreError and is_directory and (runs := _runs_near(Path(address))):
            raise StoreError(f"there is no run in {address}; there is {', '.join(runs)}") from None
        raise


def load_statistics(address: str | os.PathLike[str]) -> Statistics:
    """The persisted statistics of a run, in one call.

    Raises:
        StoreError: There is no run, or it cannot be read.
        UsageError: No store has such an address.
    """
    with open_run(address) as run:
        statistics = run.statistics
        statistics.by_host  # noqa: B018 - read now, as the run is about to be closed
        return statistics


def _runs_near(path: Path) -> list[str]:
    """The runs that may have been meant: in it, beside it, and where runs are by default."""
    try:
        if RunDirectory(path).database.exists():
            return []  # there is one, and it cannot be read
        places = dict.fromkeys((path, path.parent, Path("runs")))
        found = (child for place in places for child in sorted(place.glob("*/")))
        runs = (str(child) for child in found if RunDirectory(child).database.exists())
        return list(dict.fromkeys(runs))[:10]
    except OSError:
        return []  # where one may not look, there is nothing to be seen


def _in_flight(documents: Iterable[tuple[str, Document]]) -> set[tuple[str, int]]:
    """Host and fingerprint of what is in flight, from the notes of all workers."""
    found: set[tuple[str, int]] = set()
    for name, document in documents:
        if name == _IN_FLIGHT or name.startswith(f"{_IN_FLIGHT}/"):
            found.update(decode(document.data, name, list[tuple[str, int]]))
    return found


def _explain(url: str, known: Outcome) -> Explanation:
    is_done = known.outcome not in ("pending", "in_flight")
    detail, group = known.detail, None
    if known.outcome == "failed":
        detail, group = without_group(detail)
    return Explanation(
        url=url,
        outcome=known.outcome,  # type: ignore[arg-type]  # what is stored is one of them
        canonical=known.url,
        handler=known.handler,
        status=known.status,
        at=known.at if is_done else None,
        due=known.at if not is_done and known.at else None,
        duration=known.duration,
        retries=known.retries,
        error=known.error,
        detail=detail,
        group=group,
    )

"""Where a live page gets what it shows: a crawl in this process, or a run in a store.

A `CrawlSource` reads what changes every second from the crawler's own memory, and the rest from the
store, in a thread. A `RunSource` has nothing but the store; it serves finished runs, and those that
other processes are writing.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from .. import __version__
from ..errors import UsageError, printable
from ..events import SystemInfo
from ..failures import Which, put_back, resolve
from ..run import Run, open_run
from ..statistics import Statistics
from ..stores.postgres.address import masked
from . import views

if TYPE_CHECKING:
    from ..crawler import Crawler

T = TypeVar("T")

HOSTS = 100
"""Hosts that are shown, the busiest first."""
FEW = 50
"""Sessions, and hosts that are held back, that are shown."""
HOSTS_SHARE = 0.02
"""Share of the time that reading the hosts may take: there may be a million of them."""
LEAST_REST = 5.0
"""Seconds between two readings of the hosts, at least."""
SLOW = 5
"""Every so many seconds that is sent which changes slowly."""
MOST_CONCURRENCY = 10_000
VIEWS = ("overview", "errors", "hosts")
"""Parts of the page that are told more than where the run stands."""
ALL = "all"
"""The view of one who is told everything, as at the end."""

Action = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class Source(ABC):
    """What a page shows, and what can be done there.

    Attributes:
        name: What the page is called.
        address: The run's.
        rest: Seconds between two looks.
        actions: What can be done, by name; each takes the fields of a form and says what it did.
    """

    name: str
    address: str
    rest: float = 1.0
    actions: dict[str, Action]

    def __init__(self) -> None:
        self._hosts: list[dict[str, Any]] = []
        self._hosts_until = 0.0

    @abstractmethod
    def open(self) -> Run:
        """The run, opened for reading. Called in a thread."""

    def ended(self) -> None:  # noqa: B027 - a run that is only read shows its end by itself
        """The crawl that goes on in this process is over."""

    def close(self) -> None:  # noqa: B027 - most have nothing to give back
        """Look no more."""

    @abstractmethod
    async def pulse(self, view: str, *, whole: bool) -> dict[str, Any]:
        """What changes from second to second.

        Args:
            view: Which part of the page is open.
            whole: Whether that is wanted, too, which changes slowly.
        """

    @abstractmethod
    async def start(self) -> dict[str, Any]:
        """What a page begins with."""

    async def do(self, action: str, form: dict[str, Any]) -> dict[str, Any]:
        """Do something; ``{"said": …}``, what was done.

        Raises:
            UsageError: It cannot be done here, or not now.
            CrawlkitError: It failed.
        """
        if action not in self.actions:
            raise UsageError(f"{action} is nothing that can be done with this run")
        return await self.actions[action](form)

    async def read(self, view: Callable[[Run], T]) -> T:
        """What a function makes of the run, in a thread beside the loop."""

        def work() -> T:
            with self.open() as run:
                return view(run)

        return await asyncio.to_thread(work)

    async def hosts(self) -> list[dict[str, Any]]:
        """The busiest hosts, not older than it is cheap to read them."""
        if time.monotonic() >= self._hosts_until:
            self._hosts_until = time.monotonic() + LEAST_REST  # whoever asks meanwhile gets the old

            def look(run: Run) -> tuple[list[dict[str, Any]], float]:
                began = time.thread_time()
                found = [views.host(name, row) for name, row in run.hosts(HOSTS).items()]
                return found, time.thread_time() - began

            self._hosts, took = await self.read(look)
            self._hosts_until = time.monotonic() + max(LEAST_REST, took / HOSTS_SHARE)
        return self._hosts

    def _beginning(self, statistics: Statistics) -> dict[str, Any]:
        return {
            "name": self.name,
            "address": masked(self.address),
            "version": __version__,
            "actions": list(self.actions),
            "samples": views.samples(statistics.samples),
            "handlers": sorted(map(printable, statistics.by_handler)),
        }


def _quantiles(statistics: Statistics, mark: dict[int, int]) -> tuple[float | None, float | None]:
    """Half of the requests since `mark` took at most so many seconds, and 95 of 100."""
    return statistics.quantile_since(mark, 0.5), statistics.quantile_since(mark, 0.95)


def specimens_of(run: Run) -> dict[str, Any]:
    """The groups of errors of which the run keeps a response, by id."""
    known = run.saved("specimens", {})
    return known if isinstance(known, dict) else {}


class CrawlSource(Source):
    """A crawl that goes on in this process.

    Args:
        crawler: The crawler.
    """

    def __init__(self, crawler: Crawler) -> None:
        super().__init__()
        self.crawler = crawler
        self.name = printable(crawler.name)
        self.address = crawler.job.store.address
        self._is_over = False
        self._system: SystemInfo | None = None
        self._mark: dict[int, int] = {}
        self._lately: tuple[float | None, float | None] = (None, None)
        self.actions = {
            "pause": self._pause,
            "resume": self._resume,
            "concurrency": self._set_concurrency,
            "checkpoint": self._checkpoint,
            "stop": self._stop,
            "retry": self._retry,
        }
        crawler.on("systemInfo", self._on_system_info)

    def ended(self) -> None:  # noqa: D102
        self._is_over = True

    def close(self) -> None:  # noqa: D102
        self.crawler.off("systemInfo", self._on_system_info)

    def open(self) -> Run:  # noqa: D102
        return Run(self.crawler.job.store.reader())

    async def start(self) -> dict[str, Any]:  # noqa: D102
        return self._beginning(self.crawler.statistics)

    async def pulse(self, view: str, *, whole: bool) -> dict[str, Any]:  # noqa: D102
        crawler, statistics = self.crawler, self.crawler.statistics
        p50, p95 = self._lately
        found: dict[str, Any] = {
            "at": crawler.clock.now(),
            "state": self._state(),
            **views.numbers(statistics),
            "in_flight": len(crawler.queue.in_flight),
            "limit": crawler.queue.limit,
            "concurrency": crawler.concurrency,
            "p50": p50,
            "p95": p95,
        }
        if self._system is not None:
            found |= {
                "memory": self._system.memory_bytes,
                "cpu": self._system.cpu,
                "loop_delay": self._system.loop_delay,
            }
        if whole and view in ("overview", ALL):
            found |= views.breakdown(statistics)
        if whole and view in ("errors", ALL):
            specimens = await self.read(specimens_of) if statistics.lives else {}
            found["errors"] = views.errors(statistics.errors, specimens)
        if whole and view in ("hosts", ALL):
            found["held_back"] = views.held_back(crawler.throttle.held_back(FEW))
            found["sessions"] = list(views.sessions(crawler.sessions, crawler.clock.now(), FEW))
        return found

    def _state(self) -> str:
        job = self.crawler.job
        if self._is_over:
            return "finished" if self.crawler.exit_code == 0 else "stopped"
        if job.is_stopping:
            return "stopping"
        if not job.can_save:
            return "trouble"
        return "paused" if self.crawler.is_paused else "running"

    def _on_system_info(self, info: SystemInfo) -> None:
        statistics = self.crawler.statistics
        self._lately = _quantiles(statistics, self._mark)
        self._mark = statistics.mark_durations()
        self._system = info

    # -- what can be done ---------------------------------------------------------------------

    async def _pause(self, form: dict[str, Any]) -> dict[str, Any]:
        self.crawler.pause()
        return {"said": "Paused. What is in flight ends as usual."}

    async def _resume(self, form: dict[str, Any]) -> dict[str, Any]:
        self.crawler.resume()
        return {"said": "The crawl goes on."}

    async def _set_concurrency(self, form: dict[str, Any]) -> dict[str, Any]:
        wanted = form.get("value")
        if type(wanted) is not int or not 1 <= wanted <= MOST_CONCURRENCY:
            raise UsageError(f"give a number from 1 to {MOST_CONCURRENCY:,}")
        self.crawler.set_concurrency(wanted)
        return {"said": f"At most {wanted:,} requests in flight from now on."}

    async def _checkpoint(self, form: dict[str, Any]) -> dict[str, Any]:
        began = time.perf_counter()
        await self.crawler.job.checkpoint()
        return {"said": f"Everything is saved; it took {time.perf_counter() - began:.3f} s."}

    async def _stop(self, form: dict[str, Any]) -> dict[str, Any]:
        # Not awaited: the answer is to be on its way before the crawl, and this page, is over.
        self._stopping = asyncio.ensure_future(self.crawler.job.abort())
        return {"said": "Stopping: what is in flight may finish, then everything is saved."}

    async def _retry(self, form: dict[str, Any]) -> dict[str, Any]:
        return _said(await self.crawler.retry_failed(**_wanted(form)), "the queue")


class RunSource(Source):
    """A run in a store, finished or written by another process.

    Args:
        address: The run.
    """

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address = address
        self.name = printable(address.rstrip("/").rpartition("/")[2] or address)
        self.actions = {"retry": self._retry}
        self._marks: dict[str, dict[int, int]] = {}

    def open(self) -> Run:  # noqa: D102
        return open_run(self.address)

    async def start(self) -> dict[str, Any]:  # noqa: D102
        return await self.read(lambda run: self._beginning(run.statistics))

    async def pulse(self, view: str, *, whole: bool) -> dict[str, Any]:  # noqa: D102
        def look(run: Run) -> dict[str, Any]:
            holder = run.holder
            statistics = run.statistics
            mark = statistics.mark_durations()
            p50, p95 = _quantiles(statistics, self._marks.get(view, mark))
            self._marks[view] = mark
            samples = statistics.samples
            found: dict[str, Any] = {
                "at": time.time(),
                "state": _state(statistics, holder),
                "holder": holder,
                **views.numbers(statistics),
                "p50": p50,
                "p95": p95,
                "memory": samples[-1].memory if samples and holder else None,
            }
            if whole and view in ("overview", ALL):
                found |= views.breakdown(statistics)
            if whole and view in ("errors", ALL):
                found["errors"] = views.errors(statistics.errors, specimens_of(run))
            return found

        found = await self.read(look)
        self.rest = 1.0 if found["holder"] else float(SLOW)
        return found

    async def _retry(self, form: dict[str, Any]) -> dict[str, Any]:
        wanted = _wanted(form)
        group = wanted.pop("group", None)
        which = msgspec.convert(wanted, Which)
        if group is not None:
            which = which.of_group(group, await self.read(lambda run: run.errors()))
        return _said(await resolve(self.address, which, put_back), "the queue, for the next run")


def _state(statistics: Statistics, holder: int | None) -> str:
    if holder is not None:
        return "running"
    return "finished" if statistics.finished_at and not statistics.pending else "stopped"


def _wanted(form: dict[str, Any]) -> dict[str, str]:
    """Which failures a form means: those of a group, say.

    Raises:
        UsageError: It says nothing, or something else.
    """
    names = ("group", "error", "host", "handler", "url")
    wanted = {name: form[name] for name in names if isinstance(form.get(name), str) and form[name]}
    if not wanted and form.get("all") is not True:
        raise UsageError("it must be said which failures to try again")
    return wanted


def _said(count: int, where: str) -> dict[str, Any]:
    if not count:
        return {"said": "There is nothing to try again: each was handled at last.", "count": 0}
    requests = "1 request is" if count == 1 else f"{count:,} requests are"
    return {"said": f"{requests} back in {where}.", "count": count}

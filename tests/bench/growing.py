"""What grows: links without an end, and a run that takes them in.

For `frontier.py`, which says what it is for.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from crawlkit import Request
from crawlkit.clock import Clock
from crawlkit.job import Job
from crawlkit.politeness.throttle import Throttle
from crawlkit.queue import RequestQueue

LINKS = 20
"""Links of a page."""
CHECKPOINT = 15_000
"""Links between two checkpoints: what 750 pages a second bring."""
TICK = 0.005


class Links:
    """Pages of a web of many hosts, a few of them large, without an end.

    The hosts of pages follow Zipf's law. Of a page's links four lead to the sections of its site,
    which every page has; of the others a quarter are known, and one in five leads to another site.

    Args:
        hosts: How many there are.
        internal: Share of the links to new and known pages that stay on the page's host.
        path: What the paths begin with; another one makes other URLs.
    """

    def __init__(self, hosts: int, internal: float, path: str = "catalogue") -> None:
        self._hosts = hosts
        self._internal = internal
        self._path = path
        self._random = random.Random(path).random
        self._pages = array("q", bytes(8 * hosts))

    def page(self) -> list[str]:
        """The links of one more page: canonical URLs of 50 to 60 characters."""
        own = self._host()
        links = [f"https://www.shop-{own:05}.example/section-{i}/index.html" for i in range(4)]
        for _ in range(LINKS - len(links)):
            host = own if self._random() < self._internal else self._host()
            number = self._pages[host]
            if number and self._random() < 0.25:
                number = int(number * self._random())
            else:
                self._pages[host] += 1
            # Neighbours in the list of a site's pages are none in their names.
            word = number * 2654435761 % 2**32
            links.append(
                f"https://www.shop-{host:05}.example/{self._path}/{word:08x}-{number}.html"
            )
        return links

    def _host(self) -> int:
        return int(self._hosts ** self._random()) - 1


class Ticker:
    """Wakes up every five milliseconds, and notes by how much it was too late.

    The time in which a thread of this process could have run, but had no processor, is not counted:
    it says how many others wanted one. The system tells it for each thread, and the longest of them
    counts, as one that holds the interpreter lock keeps the others waiting.

    Attributes:
        longest: Seconds of the longest stall, without the wait for a processor.
        busy: CPU seconds of this process during it. Far fewer than it lasted mean that it waited
            for something else, such as the disk.
        waited: Seconds of the longest wait for a processor.
        spent: CPU seconds for the looking itself.
    """

    def __init__(self) -> None:
        self.longest = self.busy = self.waited = self.spent = 0.0

    def report(self) -> dict[str, Any]:
        """What was seen."""
        return {
            "stall": self.longest,
            "stall_busy": self.busy,
            "stall_waited": self.waited,
        }

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Tick while the block runs."""
        task = asyncio.create_task(self._tick())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _tick(self) -> None:
        at, used, waits = time.perf_counter(), time.process_time(), _waits()
        while True:
            await asyncio.sleep(TICK)
            before, at = at, time.perf_counter()
            used_before, used = used, time.process_time()
            began = time.thread_time()
            waits_before, waits = waits, _waits()
            self.spent += time.thread_time() - began
            waited = max(
                (since - waits_before.get(thread, 0.0) for thread, since in waits.items()),
                default=0.0,
            )
            late = at - before - TICK - waited
            self.waited = max(self.waited, waited)
            if late > self.longest:
                self.longest, self.busy = late, used - used_before


def _waits() -> dict[str, float]:
    """Seconds for which each thread was ready to run, and had no processor."""
    found = {}
    # Not those of a system that does not tell, nor of a thread that has just ended.
    with suppress(OSError):
        for thread in os.listdir("/proc/self/task"):
            with suppress(OSError, ValueError, IndexError):
                text = Path(f"/proc/self/task/{thread}/schedstat").read_text()
                found[thread] = int(text.split()[1]) / 1e9
    return found


@dataclass(frozen=True)
class Stretch:
    """What was seen on the way from one stop to the next. Seconds and bytes.

    Attributes:
        pending: URLs at its end.
        urls: How many were enqueued on it.
        links: How many were given: those that were known already are among them.
        seconds: How long it took.
        cpu: CPU, without what making the links and looking at the clock took.
        stall: The longest stall of the event loop, without what it waited for a processor.
        stall_busy: CPU that was used meanwhile.
        stall_waited: The longest wait for a processor.
        memory: Resident memory at its end.
        peak_memory: The most of it.
    """

    pending: int
    urls: int
    links: int
    seconds: float
    cpu: float
    stall: float
    stall_busy: float
    stall_waited: float
    memory: int
    peak_memory: int

    @property
    def each(self) -> float:
        """CPU of a URL that was enqueued."""
        return self.cpu / self.urls

    @property
    def each_link(self) -> float:
        """CPU of a link, whether it was known already or not."""
        return self.cpu / self.links


class Growth:
    """A run that only grows: a queue in a job, fed with links.

    Args:
        directory: Where the run is kept.
        links: What it is fed with.
        stops: How many URLs to stop at.
    """

    def __init__(self, directory: str, links: Links, stops: list[int]) -> None:
        self.exit_code = 0
        self._links = links
        self._stops = stops
        self._clock = Clock()
        self._job = Job(directory, persist_interval=10**6, clock=self._clock, signals=False)
        self._queue = RequestQueue(self._clock, Throttle(self._clock))
        self._job.persist("queue", self._queue)
        self._job.on_commit(self._queue.settle)
        self._job.on_commit(lambda checkpoint, receipt: self._count(receipt.enqueued))
        self._given = 0
        self._generating = 0.0  # CPU seconds that are the benchmark's own
        self.pending = 0

    async def crawl(self, *, fresh: bool = False, signals: bool = False) -> None:
        """Grow from stop to stop; a `Stretch` as JSON at each, and on at a line of input."""
        async with self._job:
            for stop in self._stops:
                forget_peak()
                ticker = Ticker()
                started, cpu = time.perf_counter(), self._cpu()
                urls, links = self.pending, self._given
                async with ticker.running():
                    await self._grow(stop)
                stretch = Stretch(
                    pending=self.pending,
                    urls=self.pending - urls,
                    links=self._given - links,
                    seconds=time.perf_counter() - started,
                    cpu=self._cpu() - cpu - ticker.spent,
                    **ticker.report(),
                    **memory_now(),
                )
                print(json.dumps(asdict(stretch)), flush=True)
                sys.stdin.readline()

    async def _grow(self, size: int) -> None:
        while (missing := size - self.pending) > 0:
            # The links of the next checkpoint arrive while the last one is being written.
            saving = asyncio.create_task(self._job.checkpoint())
            if missing < 2 * CHECKPOINT:
                await saving
                missing = size - self.pending
            for _ in range(0, min(CHECKPOINT, missing * 3 // 2), LINKS):
                self._page()
                await asyncio.sleep(0)
            await saving
        await self._job.checkpoint()

    def _page(self) -> None:
        before = time.thread_time()
        links = self._links.page()
        self._generating += time.thread_time() - before
        self._given += len(links)
        self._queue.add_all(links, Request(links[0], depth=1))

    def _count(self, enqueued: int) -> None:
        self.pending += enqueued

    def _cpu(self) -> float:
        return time.process_time() - self._generating


def forget_peak() -> None:
    """Let the peak of resident memory begin anew, where the system lets us."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def memory_now() -> dict[str, int]:
    """Resident memory of this process in bytes: now, and at most since `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    now, peak = (int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return {"memory": now, "peak_memory": peak}

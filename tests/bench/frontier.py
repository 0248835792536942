"""The frontier: what a URL costs when ten million are pending. ``python -m tests.bench.frontier``.

One process grows the queue and the dedup set of a run as a crawl does: pages come with 20 links,
most of them within their host, some of them known already, and a checkpoint takes 15,000 links
along while the next ones arrive. At each size the run is copied, and a crawl goes on from the copy
in a process of its own, from a cold disk, until it is told to go.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from crawlkit import Crawler, Page, Request
from crawlkit.clock import Clock
from crawlkit.fetching import Fetcher
from crawlkit.job import Job
from crawlkit.politeness.throttle import Throttle
from crawlkit.queue import RequestQueue
from crawlkit.response import Response
from crawlkit.runner import run
from crawlkit.sessions import Session
from crawlkit.statistics import Statistics
from crawlkit.stores.base import Claim
from crawlkit.stores.sqlite import SqliteStore
from crawlkit.triggers.signals import EXIT_UNFINISHED

from .measure import ROOT, BenchError
from .report import circumstances

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
REFERENCE = 100_000
"""The size whose CPU per URL that of the largest is compared with."""
MARGIN = 50_000
"""The last URLs before a size, at least so many of them: what one more costs there."""
LINKS = 20
"""Links of a page."""
CHECKPOINT = 15_000
"""Links between two checkpoints: what 750 pages a second bring."""
TICK = 0.005
FETCH_SECONDS = 0.02
CRAWL_SECONDS = 3.0
LATE = 0.9
"""When the crawl is told to go: seconds after a checkpoint, a tenth before the next."""

LIMITS = {
    "memory": ("MB more than at the smallest size", 100.0),
    "cpu_ratio": (f"times the CPU per URL at {REFERENCE:,}", 1.5),
    "cpu": ("µs CPU per URL", 40.0),
    "disk": ("bytes of disk per URL", 120.0),
    "resume": ("s to resume", 2.0),
    "exit": ("s from migrating to exit", 1.0),
    "stall": ("ms longest stall of the event loop", 50.0),
}


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

    def report(self) -> dict[str, float]:
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


# -- growing ----------------------------------------------------------------------------------


class Growth:
    """A run that only grows: a queue in a job, fed with links.

    Args:
        directory: Where the run is kept.
        links: What it is fed with.
        sizes: How many URLs to stop at.
    """

    def __init__(self, directory: str, links: Links, sizes: list[int]) -> None:
        self.exit_code = 0
        self._links = links
        self._sizes = sizes
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
        """Grow to one size after the other; a line of JSON at each, and on at a line of input."""
        async with self._job:
            for size in self._sizes:
                _forget_peak()
                ticker = Ticker()
                started, before, cpu_before = time.perf_counter(), self.pending, self._cpu()
                async with ticker.running():
                    await self._grow(size - min(max(size // 10, MARGIN), (size + 1) // 2))
                    late, late_cpu = self.pending, self._cpu()
                    await self._grow(size)
                looking = ticker.spent / (self.pending - before)
                report = {
                    "urls": self.pending,
                    "links": self._given,
                    "seconds": time.perf_counter() - started,
                    "cpu": (self._cpu() - cpu_before) / (self.pending - before) - looking,
                    "marginal_cpu": (self._cpu() - late_cpu) / (self.pending - late) - looking,
                    **ticker.report(),
                    **_memory(),
                }
                print(json.dumps(report), flush=True)
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
        for link in links:
            self._queue.add(Request(link, depth=1))

    def _count(self, enqueued: int) -> None:
        self.pending += enqueued

    def _cpu(self) -> float:
        return time.process_time() - self._generating


def _forget_peak() -> None:
    """Let the peak of resident memory begin anew, where the system lets us."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _memory() -> dict[str, int]:
    """Resident memory of this process in bytes: now, and at most since `_forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    now, peak = (int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return {"memory": now, "peak_memory": peak}


# -- going on ---------------------------------------------------------------------------------


class TimedStore(SqliteStore):
    """The store, with a watch."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.claims: list[float] = []

    async def claim(self, limit: int, window: Mapping[str, int], now: float) -> Claim:
        """Claim, and note how long it took, with the wait for a commit that was under way."""
        started = time.perf_counter()
        try:
            return await super().claim(limit, window, now)
        finally:
            self.claims.append(time.perf_counter() - started)


class Sites(Fetcher):
    """A web that answers each request after a while, with a page that has nothing on it."""

    def __init__(self) -> None:
        self.first_at: float | None = None

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close."""

    async def fetch(self, request: Request, session: Session, **how: Any) -> Response:
        """Answer."""
        if self.first_at is None:
            self.first_at = time.perf_counter()
        await asyncio.sleep(FETCH_SECONDS)
        return Response(url=request.url)


class Resumed(Crawler):
    """A crawl that goes on, and is told to go after a few seconds, just before a checkpoint."""

    scope = "all"
    obey_robots = False  # half of what it fetches would be robots.txt

    def __init__(self, directory: str, links: Links) -> None:
        self.timed = TimedStore(directory)
        super().__init__(store=self.timed)
        self.links = links
        self.fetcher = self.sites = Sites()
        self.ticker = Ticker()
        self.told_at: float | None = None
        self._go_after = time.perf_counter() + CRAWL_SECONDS
        self.on("persistState", self._at_checkpoint)

    async def crawl(self, *, fresh: bool = False, signals: bool = False) -> Statistics:
        """Run, and look at the clock meanwhile."""
        async with self.ticker.running():
            return await super().crawl(fresh=fresh, signals=signals)

    def parse(self, page: Page) -> None:
        """Follow the links."""
        page.links += [Request(url, depth=1) for url in self.links.page()]

    def _at_checkpoint(self) -> None:
        if time.perf_counter() > self._go_after:
            self.off("persistState", self._at_checkpoint)
            asyncio.get_running_loop().call_later(LATE, self._go)

    def _go(self) -> None:
        # A clock that the process has in common with the one that waits for its end.
        self.told_at = time.clock_gettime(time.CLOCK_MONOTONIC)
        os.kill(os.getpid(), signal.SIGTERM)


def _resume(directory: str, links: Links) -> int:
    """Go on with the run, and print what was seen of it as a line of JSON; the exit code."""
    _forget_peak()
    started = time.perf_counter()
    crawler = Resumed(directory, links)
    crawler.run()
    assert crawler.sites.first_at is not None
    report = {
        "resume": crawler.sites.first_at - started,
        "claims": crawler.timed.claims,
        "told_at": crawler.told_at,
        "pages": crawler.statistics.requests_finished,
        **crawler.ticker.report(),
        **_memory(),
    }
    print(json.dumps(report), flush=True)
    return crawler.exit_code


# -- the benchmark ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """What was seen at one size. Seconds and bytes.

    Attributes:
        urls: Pending.
        links: How many led to them.
        seconds: Of growing from the size before.
        cpu: CPU per URL that was enqueued on the way.
        marginal_cpu: The same of the last tenth.
        database: Bytes of the database.
        log: Bytes of its write-ahead log.
        memory: Resident memory of the growing process.
        peak_memory: The most of it, on the way.
        stall: The longest stall of its event loop, without what it waited for a processor.
        stall_busy: CPU that it used meanwhile.
        stall_waited: The longest wait for a processor.
        resume: From opening the run, with nothing of it in the page cache, to the first fetch.
        claim: The median claim of the crawl that went on.
        longest_claim: Its longest.
        crawl_pages: How many it handled.
        crawl_memory: Peak of its resident memory.
        crawl_stall: The longest stall of its event loop, as above.
        crawl_stall_busy: CPU that it used meanwhile.
        crawl_stall_waited: The longest wait for a processor.
        exit: From SIGTERM to the end of the process.
    """

    urls: int
    links: int
    seconds: float
    cpu: float
    marginal_cpu: float
    database: int
    log: int
    memory: int
    peak_memory: int
    stall: float
    stall_busy: float
    stall_waited: float
    resume: float
    claim: float
    longest_claim: float
    crawl_pages: int
    crawl_memory: int
    crawl_stall: float
    crawl_stall_busy: float
    crawl_stall_waited: float
    exit: float

    @property
    def disk(self) -> float:
        """Bytes per URL."""
        return (self.database + self.log) / self.urls


def measure(urls: int, hosts: int, internal: float, home: Path) -> Iterator[Measured]:
    """Grow a run in the directory `home`, and look at it at each size."""
    sizes = [size for size in SIZES if size < urls] + [urls]
    directory = home / "run"
    arguments = [str(hosts), str(internal), *map(str, sizes)]
    with _start("grow", str(directory), *arguments) as growth:
        assert growth.stdin is not None
        assert growth.stdout is not None
        try:
            for _ in sizes:
                line = growth.stdout.readline()
                if not line:
                    raise BenchError("the growing process did not live; its words stand above")
                grown = json.loads(line)
                database, log = (_size(directory / f"run.sqlite3{end}") for end in ("", "-wal"))
                gone_on = _go_on(directory, home / "copy", hosts, internal)
                yield Measured(**grown, database=database, log=log, **gone_on)
                growth.stdin.write("\n")
                growth.stdin.flush()
        finally:
            growth.kill()


def _go_on(directory: Path, copy: Path, hosts: int, internal: float) -> dict[str, Any]:
    """What a crawl sees that goes on with a copy of the run."""
    shutil.copytree(directory, copy, ignore=shutil.ignore_patterns("*-shm"))
    try:
        for file in copy.iterdir():
            _evict(file)
        with _start("resume", str(copy), str(hosts), str(internal)) as crawl:
            output, _ = crawl.communicate()
            ended = time.clock_gettime(time.CLOCK_MONOTONIC)
        if crawl.returncode != EXIT_UNFINISHED:
            raise BenchError(f"the crawl ended with {crawl.returncode}; its words stand above")
    finally:
        shutil.rmtree(copy)
    found = json.loads(output)
    return {
        "resume": found["resume"],
        "claim": median(found["claims"]),
        "longest_claim": max(found["claims"]),
        "crawl_pages": found["pages"],
        "crawl_memory": found["peak_memory"],
        "crawl_stall": found["stall"],
        "crawl_stall_busy": found["stall_busy"],
        "crawl_stall_waited": found["stall_waited"],
        "exit": ended - found["told_at"],
    }


def _start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.bench.frontier", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _evict(file: Path) -> None:
    """See to it that the file is on the disk, and not in memory."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def verdict(rows: list[Measured]) -> dict[str, float]:
    """The figures that have a limit, in its unit."""
    last = rows[-1]
    reference = next((row for row in rows if row.urls >= REFERENCE), rows[0])
    return {
        "memory": (max(last.peak_memory, last.memory) - rows[0].memory) / 1e6,
        "cpu_ratio": last.marginal_cpu / reference.cpu,
        "cpu": last.marginal_cpu * 1e6,
        "disk": last.disk,
        "resume": max(row.resume for row in rows),
        "exit": max(row.exit for row in rows),
        "stall": max(max(row.stall, row.crawl_stall) for row in rows) * 1e3,
    }


HEADS = (
    *("URLs", "s", "µs/URL", "last tenth", "B/URL", "(log)", "MB", "peak"),
    *("stall ms (CPU; not run)", "resume s", "claim ms (max)", "pages", "MB"),
    *("stall ms (CPU; not run)", "exit s"),
)


def _cells(row: Measured) -> tuple[str, ...]:
    return (
        f"{row.urls:,}",
        f"{row.seconds:.0f}",
        f"{row.cpu * 1e6:.1f}",
        f"{row.marginal_cpu * 1e6:.1f}",
        f"{row.disk:.0f}",
        f"{row.log / row.urls:.0f}",
        f"{row.memory / 1e6:.0f}",
        f"{row.peak_memory / 1e6:.0f}",
        f"{row.stall * 1e3:.0f} ({row.stall_busy * 1e3:.0f}; {row.stall_waited * 1e3:.0f})",
        f"{row.resume:.2f}",
        f"{row.claim * 1e3:.1f} ({row.longest_claim * 1e3:.0f})",
        f"{row.crawl_pages:,}",
        f"{row.crawl_memory / 1e6:.0f}",
        f"{row.crawl_stall * 1e3:.0f} ({row.crawl_stall_busy * 1e3:.0f}; "
        f"{row.crawl_stall_waited * 1e3:.0f})",
        f"{row.exit:.2f}",
    )


def table(rows: list[Measured]) -> str:
    """The measurements for people: what growing took, and from "resume" on what a crawl saw."""
    cells = [HEADS, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in cells
    )


def main(arguments: list[str] | None = None) -> int:
    """Measure; the exit code: 0 where every limit is kept, 1 where one is not."""
    options = _parser().parse_args(arguments)
    rows = []
    try:
        with tempfile.TemporaryDirectory(prefix="crawlkit-frontier-", dir=options.dir) as home:
            for row in measure(options.urls, options.hosts, options.internal, Path(home)):
                rows.append(row)
                print(table(rows[-1:]), file=sys.stderr, flush=True)
    except (BenchError, OSError) as error:
        print(f"tests.bench.frontier: {error}", file=sys.stderr)
        return 2
    found = verdict(rows)
    print(table(rows))
    for name, (unit, limit) in LIMITS.items():
        mark = "ok  " if found[name] <= limit else "OVER"
        print(f"{mark}  {found[name]:.4g} {unit} (limit: {limit:g})")
    if options.json:
        report = {
            **circumstances(),
            "hosts": options.hosts,
            "internal": options.internal,
            "sizes": [{**asdict(row), "disk": row.disk} for row in rows],
            "verdict": found,
            "limits": {name: limit for name, (_, limit) in LIMITS.items()},
        }
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return int(any(found[name] > limit for name, (_, limit) in LIMITS.items()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.frontier",
        description="Grow a queue to many URLs, and say what one costs at each size. Linux only.",
    )
    parser.add_argument("--urls", type=int, default=SIZES[-1], help="default: 10000000")
    parser.add_argument("--hosts", type=int, default=100_000, help="default: 100000")
    parser.add_argument(
        "--internal",
        type=float,
        default=0.8,
        help="share of a page's links that stay on its host; 0 scatters them all; default: 0.8",
    )
    parser.add_argument("--dir", type=Path, help="where to keep the run; default: for temporaries")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there, too")
    return parser


def child(kind: str, directory: str, hosts: str, internal: str, *sizes: str) -> int:
    """The work of the other processes; the exit code."""
    if kind == "grow":
        links = Links(int(hosts), float(internal))
        return run(Growth(directory, links, [int(size) for size in sizes]))
    return _resume(directory, Links(int(hosts), float(internal), "novelties"))


if __name__ == "__main__":
    if sys.argv[1:2] in (["grow"], ["resume"]):
        sys.exit(child(*sys.argv[1:]))
    sys.exit(main())

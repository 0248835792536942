"""The frontier: what a URL costs when ten million are pending. ``python -m tests.bench.frontier``.

One process grows the queue and the dedup set of a run as a crawl does: pages come with 20 links,
most of them within their host, some of them known already, and a checkpoint takes 15,000 links
along while the next ones arrive. At each size the run is copied, and a crawl goes on from the copy
in a process of its own, from a cold disk, until it is told to go.

What a URL costs at a size is compared with what one costs in a small run, and a machine's speed
changes over minutes. So the last tenth before a size is grown in laps, and before, between and
after them the growing process waits while another one grows a small run, new each time and as large
as a lap. A lap is compared with the two small runs next to it; the ratio is the median of the laps.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

from crawlkit import Crawler, Page, Request
from crawlkit.fetching import Fetcher
from crawlkit.response import Response
from crawlkit.runner import run
from crawlkit.sessions import Session
from crawlkit.statistics import Statistics
from crawlkit.stores.base import Claim
from crawlkit.stores.sqlite import SqliteStore
from crawlkit.triggers.lastmoment import EXIT_UNFINISHED

from .growing import Growth, Links, Stretch, Ticker, forget_peak, memory_now
from .measure import ROOT, BenchError
from .report import circumstances

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
REFERENCE = 100_000
"""The size whose CPU per URL that of the largest is compared with; and URLs of a lap."""
MARGIN = 50_000
"""The last URLs before a size, at least so many of them: what one more costs there."""
FETCH_SECONDS = 0.02
CRAWL_SECONDS = 3.0
LATE = 0.9
"""When the crawl is told to go: seconds after a checkpoint, a tenth before the next."""

LIMITS = {
    "memory": ("MB more than at the smallest size", 100.0),
    "cpu_ratio": (f"times the CPU per URL that is enqueued up to {REFERENCE:,}", 1.5),
    "cpu": ("µs CPU per URL", 40.0),
    "disk": ("bytes of disk per URL", 120.0),
    "resume": ("s to resume", 2.0),
    "exit": ("s from migrating to exit", 1.0),
    "stall": ("ms longest stall of the event loop", 50.0),
}


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
    forget_peak()
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
        **memory_now(),
    }
    print(json.dumps(report), flush=True)
    return crawler.exit_code


# -- the benchmark ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """What was seen at one size. Seconds and bytes.

    Attributes:
        urls: Pending.
        links: How many were given on the way from the size before.
        seconds: Of growing from the size before, without what was done meanwhile.
        cpu: CPU per URL that was enqueued on the way.
        marginal_cpu: The same of the last tenth: the median of its laps.
        link_cpu: CPU per link of the last tenth, also of those that were known.
        ratio: A URL of the last tenth to one of a small run: the median of what each lap is to the
            mean of the two small runs before and after it. None up to the size of a small run.
        link_ratio: The same, per link.
        laps: The laps of the last tenth.
        small: The small runs before, between and after them.
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
    link_cpu: float
    ratio: float | None
    link_ratio: float | None
    laps: list[Stretch]
    small: list[Stretch]
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


def laps_before(size: int) -> list[int]:
    """Where the last part before a size begins, where each of its laps ends, and so the size."""
    part = min(max(size // 10, MARGIN), (size + 1) // 2)
    count = max(1, part // REFERENCE)
    return [size - part + part * lap // count for lap in range(count + 1)]


def measure(urls: int, hosts: int, internal: float, home: Path) -> Iterator[Measured]:
    """Grow a run in the directory `home`, and look at it at each size."""
    sizes = [size for size in SIZES if size < urls] + [urls]
    directory = home / "run"
    stops = [stop for size in sizes for stop in laps_before(size)]
    with _growing(directory, hosts, internal, stops) as stretches:
        for size in sizes:
            way = next(stretches)
            laps: list[Stretch] = []
            small: list[Stretch] = []
            for _ in laps_before(size)[1:]:
                if size > REFERENCE:
                    small.append(_small(home / "small", hosts, internal))
                laps.append(next(stretches))
            if small:
                small.append(_small(home / "small", hosts, internal))
            database, log = (_size(directory / f"run.sqlite3{end}") for end in ("", "-wal"))
            yield Measured(
                **_grown([way, *laps]),
                **compared(laps, small),
                database=database,
                log=log,
                **_go_on(directory, home / "copy", hosts, internal),
            )


@contextmanager
def _growing(
    directory: Path, hosts: int, internal: float, stops: list[int]
) -> Iterator[Iterator[Stretch]]:
    """A process that grows a run; it waits at each stop until the next stretch is asked for."""
    with _start("grow", str(directory), str(hosts), str(internal), *map(str, stops)) as growth:

        def stretches() -> Iterator[Stretch]:
            assert growth.stdin is not None
            assert growth.stdout is not None
            for _ in stops:
                line = growth.stdout.readline()
                if not line:
                    raise BenchError("the growing process did not live; its words stand above")
                yield Stretch(**json.loads(line))
                growth.stdin.write("\n")
                growth.stdin.flush()

        try:
            yield stretches()
        finally:
            growth.kill()


def _small(directory: Path, hosts: int, internal: float) -> Stretch:
    """Grow a small run, and throw it away."""
    with _growing(directory, hosts, internal, [REFERENCE]) as stretches:
        stretch = next(stretches)
    shutil.rmtree(directory)
    return stretch


def _grown(stretches: list[Stretch]) -> dict[str, Any]:
    """What all stretches from one size to the next have in common."""
    stalled = max(stretches, key=lambda stretch: stretch.stall)
    return {
        "urls": stretches[-1].pending,
        "links": sum(stretch.links for stretch in stretches),
        "seconds": sum(stretch.seconds for stretch in stretches),
        "cpu": sum(stretch.cpu for stretch in stretches)
        / sum(stretch.urls for stretch in stretches),
        "stall": stalled.stall,
        "stall_busy": stalled.stall_busy,
        "stall_waited": max(stretch.stall_waited for stretch in stretches),
        "memory": stretches[-1].memory,
        "peak_memory": max(stretch.peak_memory for stretch in stretches),
    }


def compared(laps: list[Stretch], small: list[Stretch]) -> dict[str, Any]:
    """Laps, compared with the small runs before, between and after them, where there are any."""

    def ratio(each: Callable[[Stretch], float]) -> float | None:
        if not small:
            return None
        neighbours = pairwise(small)
        return median(
            each(lap) / mean(map(each, two)) for lap, two in zip(laps, neighbours, strict=True)
        )

    return {
        "marginal_cpu": median(lap.each for lap in laps),
        "link_cpu": median(lap.each_link for lap in laps),
        "ratio": ratio(lambda stretch: stretch.each),
        "link_ratio": ratio(lambda stretch: stretch.each_link),
        "laps": laps,
        "small": small,
    }


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
    return {
        "memory": (max(last.peak_memory, last.memory) - rows[0].memory) / 1e6,
        "cpu_ratio": 1.0 if last.ratio is None else last.ratio,
        "cpu": last.marginal_cpu * 1e6,
        "disk": last.disk,
        "resume": max(row.resume for row in rows),
        "exit": max(row.exit for row in rows),
        "stall": max(max(row.stall, row.crawl_stall) for row in rows) * 1e3,
    }


HEADS = (
    *("URLs", "s", "µs/URL", "last tenth", "small", "ratio", "µs/link", "ratio"),
    *("links/URL", "B/URL", "(log)", "MB", "peak"),
    *("stall ms (CPU; not run)", "resume s", "claim ms (max)", "pages", "MB"),
    *("stall ms (CPU; not run)", "exit s"),
)


def _cells(row: Measured) -> tuple[str, ...]:
    return (
        f"{row.urls:,}",
        f"{row.seconds:.0f}",
        f"{row.cpu * 1e6:.1f}",
        f"{row.marginal_cpu * 1e6:.1f}",
        f"{median(run.each for run in row.small) * 1e6:.1f}" if row.small else "",
        "" if row.ratio is None else f"{row.ratio:.2f}",
        f"{row.link_cpu * 1e6:.1f}",
        "" if row.link_ratio is None else f"{row.link_ratio:.2f}",
        f"{sum(lap.links for lap in row.laps) / sum(lap.urls for lap in row.laps):.2f}",
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
    """The measurements for people: what growing took, and from "resume" on what a crawl saw.

    "Small" is what a URL took in the small runs that took turns with the laps of the last tenth;
    the ratios are to these, per URL that was enqueued and per link.
    """
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


def child(kind: str, directory: str, hosts: str, internal: str, *stops: str) -> int:
    """The work of the other processes; the exit code."""
    if kind == "grow":
        links = Links(int(hosts), float(internal))
        return run(Growth(directory, links, [int(stop) for stop in stops]))
    return _resume(directory, Links(int(hosts), float(internal), "novelties"))


if __name__ == "__main__":
    if sys.argv[1:2] in (["grow"], ["resume"]):
        sys.exit(child(*sys.argv[1:]))
    sys.exit(main())

"""What the live page costs the crawl: ``python -m tests.bench.dashboard``.

First by itself: a crawl is paused, which leaves next to nothing but the page, and the processor
time of its process is taken with and without a viewer of each view, in turns. That is what one
viewer takes of each second.

Then as part of the whole: the same crawl of small pages with its defaults, without a live page,
with one that nobody looks at, and with one viewer, who opens the overview as a browser does and
reads its news to the end. They take turns; the processor time is what the system has counted for
each process, from its start to its end, imports included. On a busy machine this differs from
crawl to crawl by more than the page costs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from crawlkit.dashboard.server import CrawlSource, Dashboard
from crawlkit.dashboard.sources import VIEWS
from crawlkit.runner import loop_factory, run

from .measure import ROOT, BenchError, Cores, Site, serve
from .peers.crawlkit_ import Shop
from .workloads import WORKLOADS

WAYS = ("without", "unwatched", "one viewer")
ASSETS = ("vendor/uPlot.iife.min.js", "vendor/uPlot.min.css", "style.css", "app.js", "overview.js")


def main() -> int:
    """Measure; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.dashboard", description=__doc__)
    parser.add_argument("--pages", type=int, default=20_000, help="pages of each crawl")
    parser.add_argument("--rounds", type=int, default=5, help="crawls in each way")
    parser.add_argument("--seconds", type=float, default=5, help="of each look at a paused crawl")
    parser.add_argument("--crawl", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.crawl:
        return _crawl(json.loads(options.crawl))
    cores = Cores.pick()
    if cores.server is not None:
        os.sched_setaffinity(0, {cores.server})
    taken: dict[str, list[tuple[float, float, int]]] = {way: [] for way in WAYS}
    try:
        with serve(WORKLOADS["small"], options.pages, cores) as site:
            paused = _command(site, "paused", cores, seconds=options.seconds)
            subprocess.run(paused, cwd=ROOT, check=True)
            for number in range(options.rounds):
                for way in WAYS[number % 3 :] + WAYS[: number % 3]:
                    taken[way].append(_measure(way, site, cores))
    except (BenchError, subprocess.CalledProcessError) as error:
        print(f"tests.bench.dashboard: {error}", file=sys.stderr)
        return 1
    print(_table(taken, options.pages))
    return 0


def _table(taken: dict[str, list[tuple[float, float, int]]], pages: int) -> str:
    base = median(cpu for cpu, _, _ in taken["without"])
    lines = [f"{'':<12} {'CPU s':>7} {'µs/page':>8} {'seconds':>8} {'news':>5} {'CPU':>8}"]
    for way, rounds in taken.items():
        cpu, seconds, news = (median(column) for column in zip(*rounds, strict=True))
        more = 100 * (cpu / base - 1)
        numbers = f"{cpu:7.2f} {1e6 * cpu / pages:8.0f} {seconds:8.1f} {news:5.0f} {more:+6.1f}%"
        lines.append(f"{way:<12} {numbers}")
    return "\n".join(lines)


def _command(site: Site, way: str, cores: Cores, **task: Any) -> list[str]:
    """The command that crawls the site in another process."""
    task |= {"url": site.start_url, "way": way, "core": cores.crawler}
    return [sys.executable, "-m", "tests.bench.dashboard", "--crawl", json.dumps(task)]


def _measure(way: str, site: Site, cores: Cores) -> tuple[float, float, int]:
    """CPU seconds, seconds, and how many news the viewer had."""
    with tempfile.TemporaryDirectory(prefix="crawlkit-bench-dashboard-") as home:
        command = _command(site, way, cores, store=home)
        began = perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        news: list[str] = []
        viewer = threading.Thread(target=_view, args=(process, news if way == WAYS[2] else None))
        viewer.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        viewer.join()
        if process.returncode:
            raise BenchError(f"the crawl ended with {process.returncode}; its words stand above")
        if way == WAYS[2] and news[-2:-1] != ["event: end"]:
            raise BenchError("the viewer was not told of the end; what it took does not count")
        return usage.ru_utime + usage.ru_stime, seconds, news.count("event: pulse")


def _view(process: subprocess.Popen[str], news: list[str] | None) -> None:
    """Read what the process prints, and the news at the URL that it names."""
    assert process.stdout is not None
    for line in process.stdout:
        _, found, url = line.strip().partition("live page:   ")
        if not found or news is None:
            continue
        for path in ("", *(f"assets/{name}" for name in ASSETS), "api/start"):
            urllib.request.urlopen(url + path).read()
        with urllib.request.urlopen(f"{url}api/events?view=overview") as stream:
            news += (line.decode().strip() for line in stream if line.strip())


# -- in the crawl's process -----------------------------------------------------------------------


def _crawl(task: dict[str, Any]) -> int:
    if task["core"] is not None:
        os.sched_setaffinity(0, {task["core"]})
    store = Path(task["store"], "run") if "store" in task else "memory:"
    shop = Shop(start_urls=[task["url"]], store=store, concurrency_per_host=16)
    shop.fields = WORKLOADS["small"].fields
    if task["way"] == "paused":
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(_look_at_paused(shop, task["seconds"]))
        return 0
    return run(shop if task["way"] == WAYS[0] else Served(shop))


class Served:
    """A crawl with a live page, as ``crawlkit run --dashboard 0`` has it."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self.exit_code = 0

    async def crawl(self, *, fresh: bool = False, signals: bool = False) -> None:
        """Crawl, and serve the page meanwhile."""
        source = CrawlSource(self._shop)
        async with Dashboard(source) as page:
            print(f"live page:   {page.url}", flush=True)
            await self._shop.crawl(fresh=fresh, signals=signals)
            self.exit_code = self._shop.exit_code
        source.close()


async def _look_at_paused(shop: Shop, seconds: float) -> None:
    source = CrawlSource(shop)
    taken: dict[str, list[float]] = {view: [] for view in ("", *VIEWS)}
    async with Dashboard(source) as page:
        crawl = asyncio.create_task(shop.crawl())
        while shop.statistics.requests_finished < 1000 and not crawl.done():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        shop.pause()
        for view in [*taken] * 4:
            viewer = await _viewer(page.url, view) if view else None
            await asyncio.sleep(1.5)  # until it has all that comes once
            before, began = time.process_time(), perf_counter()
            await asyncio.sleep(seconds)
            taken[view].append((time.process_time() - before) / (perf_counter() - began))
            if viewer is not None:
                viewer.kill()
                await viewer.wait()
        shop.job.stop(0.0)
        await crawl
    source.close()
    nobody = median(taken[""])
    print(f"a paused crawl takes {1000 * nobody:.2f} ms of processor time a second, and more for")
    for view in VIEWS:
        print(f"  a viewer of {view:<9} {1000 * (median(taken[view]) - nobody):5.2f} ms")
    print(flush=True)


async def _viewer(url: str, view: str) -> asyncio.subprocess.Process:
    code = "import sys, urllib.request\nfor line in urllib.request.urlopen(sys.argv[1]): pass"
    address = f"{url}api/events?view={view}"
    return await asyncio.create_subprocess_exec(sys.executable, "-c", code, address)


if __name__ == "__main__":
    sys.exit(main())

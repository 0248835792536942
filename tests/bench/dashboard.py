"""What the live page costs the crawl: ``python -m tests.bench.dashboard``.

The same crawl of small pages with its defaults, in three ways: without a live page, with one that
nobody looks at, and with one viewer, who opens the overview as a browser does and reads its news to
the end. They take turns; the processor time of each process is what the system has counted, from
its start to its end, imports included. The viewer runs on the core of the server.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import urllib.request
from pathlib import Path
from statistics import median
from time import perf_counter

from crawlkit.cli.dashboard import Watched
from crawlkit.runner import run

from .measure import ROOT, BenchError, Cores, Site, serve
from .workloads import WORKLOADS

WAYS = ("without", "unwatched", "one viewer")
ASSETS = ("vendor/uPlot.iife.min.js", "vendor/uPlot.min.css", "style.css", "app.js", "overview.js")


def main() -> int:
    """Measure; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.dashboard", description=__doc__)
    parser.add_argument("--pages", type=int, default=20_000, help="pages of each crawl")
    parser.add_argument("--rounds", type=int, default=5, help="crawls in each way")
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
            for number in range(options.rounds):
                for way in WAYS[number % 3 :] + WAYS[: number % 3]:
                    taken[way].append(_measure(way, site, cores))
    except BenchError as error:
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


def _measure(way: str, site: Site, cores: Cores) -> tuple[float, float, int]:
    """CPU seconds, seconds, and how many news the viewer had."""
    with tempfile.TemporaryDirectory(prefix="crawlkit-bench-dashboard-") as home:
        task = {"url": site.start_url, "store": str(Path(home, "run")), "way": way}
        task["core"] = cores.crawler
        command = [sys.executable, "-m", "tests.bench.dashboard", "--crawl", json.dumps(task)]
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


def _crawl(task: dict[str, str]) -> int:
    from .peers.crawlkit_ import Shop

    if task["core"] is not None:
        os.sched_setaffinity(0, {int(task["core"])})
    shop = Shop(start_urls=[task["url"]], store=task["store"], concurrency_per_host=16)
    shop.fields = WORKLOADS["small"].fields
    return run(shop if task["way"] == WAYS[0] else Watched(shop, "0"))


if __name__ == "__main__":
    sys.exit(main())

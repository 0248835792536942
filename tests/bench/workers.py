"""How crawlkit does with several workers. ``python -m tests.bench --workers 1,2,4``.

The site is a process of its own, and everything runs on all cores of the machine. One worker is
the plain command, without a supervisor. CPU is what the system counted for the command and all that
it has started, and for the site while the crawl lasted. On a machine with few cores the site takes
its share of them from the workers; so besides the speed as it was there is the speed *accounted
for*: what it would be if the cores that the site has kept busy had been there besides.

With ``--store postgresql`` the run is in a PostgreSQL server that is started for it, with fsync on.
Its CPU counts as the site's does: it is somebody else's, and takes its share of the cores.

What starting takes, which is the same for one page and for a million, is measured with a crawl of
one page, and taken off.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any
from uuid import uuid4

from crawlkit import open_run

from ..postgres import Server
from .items import Digest, digest
from .measure import BenchError, Cores, Site, _environment, serve
from .peers.crawlkit_ import Shop as Plain
from .postgres import SETTINGS
from .report import circumstances
from .workloads import PRODUCT_FIELDS, WORKLOADS, Workload

TICKS = os.sysconf("SC_CLK_TCK")


class Shop(Plain):
    """The crawl."""

    fields = PRODUCT_FIELDS
    scope = "all"


@dataclass(frozen=True)
class Taken:
    """What one crawl took.

    Attributes:
        workers: How many.
        pages: How many pages.
        seconds: From the start of the command to its end.
        cpu_seconds: Of the command and all that it has started.
        site_cpu_seconds: Of the site.
        server_cpu_seconds: Of the database server, if the run is in one that was started here.
    """

    workers: int
    pages: int
    seconds: float
    cpu_seconds: float
    site_cpu_seconds: float
    server_cpu_seconds: float

    def __sub__(self, other: Taken) -> Taken:
        return Taken(
            self.workers,
            self.pages,
            self.seconds - other.seconds,
            self.cpu_seconds - other.cpu_seconds,
            self.site_cpu_seconds - other.site_cpu_seconds,
            self.server_cpu_seconds - other.server_cpu_seconds,
        )


@dataclass(frozen=True)
class Row:
    """One number of workers, the medians of all rounds.

    Attributes:
        pages_per_second: While the crawl lasted, what starting takes taken off.
        cpu_ms_per_page: Of the workers and their supervisor.
        site_ms_per_page: Of the site.
        server_ms_per_page: Of the database server.
        others_cores: Cores that the site and the server have kept busy.
        speed: Times the speed of the first row.
        accounted: The same, if the cores that these have kept busy had been there besides.
        cpu_ratio: Times the CPU of the first row.
        possible: Times the speed of the first row that this CPU makes possible on `cores` cores.
    """

    pages_per_second: float
    cpu_ms_per_page: float
    site_ms_per_page: float
    server_ms_per_page: float
    others_cores: float
    speed: float
    accounted: float
    cpu_ratio: float
    possible: float


def workers(options: argparse.Namespace) -> int:
    """Measure; the exit code.

    Raises:
        BenchError: A crawl failed, or did not find what it had to.
    """
    cores = len(os.sched_getaffinity(0))
    results: dict[str, Any] = {}
    for name in options.workloads.split(","):
        workload = WORKLOADS[name]
        with (
            serve(workload, options.pages, Cores(None, None)) as site,
            _server(options.store) as server,
        ):
            rounds = _rounds(workload, site, server, options)
        rows = _rows(rounds, cores)
        results[name] = {
            "rows": {str(count): asdict(row) for count, row in rows.items()},
            "rounds": {str(count): [asdict(run) for run in runs] for count, runs in rounds.items()},
        }
        print(_table(name, rows, cores), end="\n\n", flush=True)
    if options.json:
        store = options.store or "sqlite"
        report = {**circumstances(), "cores": cores, "store": store, "workers": results}
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


@contextlib.contextmanager
def _server(store: str | None) -> Iterator[Server | None]:
    """A database server of its own, where one is asked for."""
    if store != "postgresql":
        yield None
        return
    server = Server(settings=SETTINGS)
    try:
        yield server
    finally:
        server.close()


def _rounds(
    workload: Workload, site: Site, server: Server | None, options: argparse.Namespace
) -> dict[int, list[Taken]]:
    """All rounds, each less what starting takes."""
    rounds: dict[int, list[Taken]] = {count: [] for count in options.workers}
    for number in range(options.rounds):
        first = number % len(rounds)
        for count in options.workers[first:] + options.workers[:first]:
            starting = _crawl(site, server, count, options, max_pages=1)
            run = _crawl(site, server, count, options)
            rounds[count].append(run - starting)
            print(
                f"{workload.name} {number + 1}/{options.rounds} {count} workers: "
                f"{run.pages:,} pages, {run.seconds:.1f} s, {run.cpu_seconds:.1f} s CPU, site "
                f"{run.site_cpu_seconds:.1f}, server {run.server_cpu_seconds:.1f} s CPU; "
                f"starting {starting.seconds:.1f} s, "
                f"{starting.cpu_seconds:.1f} s CPU",
                file=sys.stderr,
            )
    return rounds


def _crawl(
    site: Site,
    server: Server | None,
    count: int,
    options: argparse.Namespace,
    *,
    max_pages: int | None = None,
) -> Taken:
    """Crawl the site once."""
    assert site.pid is not None  # the workloads that are served by us
    with tempfile.TemporaryDirectory(prefix="crawlkit-bench-") as home:
        store = str(Path(home, "run"))
        if server is not None:
            store = server.address()
        elif options.store is not None:
            store = f"{options.store}#bench_{uuid4().hex[:8]}"
        command = [sys.executable, "-m", "crawlkit", "run", "tests.bench.workers:Shop"]
        command += [site.start_url, "--store", store, "--no-progress", "--log-level", "warning"]
        command += ["--concurrency", str(options.concurrency), "--workers", str(count)]
        # One host may have all of them, as in the other benchmarks.
        command += ["--set", f"concurrency_per_host={options.concurrency * count}"]
        if max_pages is not None:
            command += ["--max-pages", str(max_pages)]
        site_before = _cpu_of(site.pid)
        server_before = server.cpu() if server else 0.0
        began = perf_counter()
        process = subprocess.Popen(
            command, env=_environment() | site.environment, stdout=subprocess.DEVNULL
        )
        # With what it has waited for: the workers.
        _, status, usage = os.wait4(process.pid, 0)
        seconds = perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        site_cpu = _cpu_of(site.pid) - site_before
        server_cpu = server.cpu() - server_before if server else 0.0
        if process.returncode:
            raise BenchError(f"{count} workers ended with {process.returncode}; see above")
        with open_run(store) as run:
            found = digest(run.items()) if max_pages is None else Digest(max_pages, "")
    if max_pages is None and found != site.items:
        raise BenchError(f"{count} workers found other items; what they took does not count")
    cpu = usage.ru_utime + usage.ru_stime
    return Taken(count, found.number, seconds, cpu, site_cpu, server_cpu)


def _cpu_of(pid: int) -> float:
    """CPU seconds of a process so far; see proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _rows(rounds: dict[int, list[Taken]], cores: int) -> dict[int, Row]:
    rows = {}
    reference = next(iter(rounds.values()))
    for count, runs in rounds.items():
        pairs = list(zip(runs, reference, strict=True))
        others = median(
            (run.site_cpu_seconds + run.server_cpu_seconds) / run.seconds for run in runs
        )
        speed = median(one.seconds / run.seconds for run, one in pairs)
        cpu = median(run.cpu_seconds for run in runs)
        cpu_ratio = median(run.cpu_seconds / one.cpu_seconds for run, one in pairs)
        # One worker has a core, the others have the rest. Of several, those come on top.
        is_alone = count == 1 or cores == 1
        rows[count] = Row(
            pages_per_second=median(run.pages / run.seconds for run in runs),
            cpu_ms_per_page=cpu / runs[0].pages * 1000,
            site_ms_per_page=median(run.site_cpu_seconds / run.pages for run in runs) * 1000,
            server_ms_per_page=median(run.server_cpu_seconds / run.pages for run in runs) * 1000,
            others_cores=others,
            speed=speed,
            accounted=speed if is_alone else speed * cores / max(cores - others, 0.1),
            cpu_ratio=cpu_ratio,
            possible=min(count, cores) / cpu_ratio,
        )
    return rows


def _table(name: str, rows: dict[int, Row], cores: int) -> str:
    lines = [
        f"{name}, {cores} cores",
        f"{'workers':>8}{'pages/s':>10}{'CPU ms':>9}{'site ms':>9}{'server ms':>11}{'others':>8}"
        f"{'speed':>8}{'accounted':>11}{'CPU':>7}{'possible':>10}",
    ]
    lines += [
        f"{count:>8}{row.pages_per_second:>10.0f}{row.cpu_ms_per_page:>9.3f}"
        f"{row.site_ms_per_page:>9.3f}{row.server_ms_per_page:>11.3f}{row.others_cores:>8.2f}"
        f"{row.speed:>8.2f}{row.accounted:>11.2f}{row.cpu_ratio:>7.2f}{row.possible:>10.2f}"
        for count, row in rows.items()
    ]
    return "\n".join(lines)

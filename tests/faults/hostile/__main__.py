"""Play the table of hostile and broken servers: ``python -m tests.faults.hostile``.

Prints a row for each behaviour: what became of the hostile URL, after how long, how much more
memory than a crawl of nothing hostile, how long the event loop stood still, and how many pages of
the other, healthy host were handled meanwhile. Exits with 1 where a row does not hold.

A row that did not hold only because of time is played once more when all else is done: another
program may have kept the machine busy. It says so.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import click
import msgspec

from .crawl import Found, Task
from .crawl import main as crawl
from .site import HEALTHY_PAGES
from .table import BASELINE, QUICK, ROWS, Row, Wrong, judge

ROOT = Path(__file__).parents[3]
LONGEST = 30.0
"""Seconds after which a crawl has hung."""
# Each crawl is a fork of a process that has imported everything and done nothing else: it takes a
# third of the time of a new one, and its peak of memory is its own.
FORKS = multiprocessing.get_context("forkserver")
TURNS = threading.Lock()
"""Held to start a process and to ask for its exit code: starting one asks for those of all others,
and an exit code can be read only once."""


@contextmanager
def site(kind: str, errors: Any) -> Iterator[dict[str, int]]:
    """The servers of one kind, in a process of their own; their ports by name."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.hostile.site", kind],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def play(row: Row, hostile: dict[str, int], healthy: int, directory: Path) -> tuple[Found, str]:
    """Crawl one row in a process of its own; what came of it, and what it logged."""
    address = row.host or ("127.0.0.2" if row.is_public else "127.0.0.1")
    origin = f"{row.scheme}://{address}:{hostile[row.behaviour or row.name]}"
    around = Path(tempfile.mkdtemp(prefix=re.sub(r"\W+", "-", row.name) + "-", dir=directory))
    home = around / "a/b/c/home"
    home.mkdir(parents=True)
    options = {
        name: [text.format(origin=origin) for text in value] if isinstance(value, list) else value
        for name, value in row.options.items()
    }
    task = Task(
        url=origin + row.path if row.path else "",
        healthy=f"http://127.0.0.1:{healthy}/",
        directory=str(home),
        around=str(around),
        options=options,
    )
    result, log = around / "result", around / "log"
    process = FORKS.Process(target=crawl, args=(task, result, log))
    with TURNS:
        process.start()
    wait([process.sentinel], LONGEST)
    with TURNS:
        code = process.exitcode
        if code is None:
            process.kill()
            process.join()
    if code is None:
        return Found(outcome="hung"), ""
    logged = log.read_bytes().decode(errors="backslashreplace")
    if code != 0:
        return Found(outcome="crashed", detail=logged.strip().rpartition("\n")[2][:200]), logged
    return msgspec.json.decode(result.read_bytes(), type=Found), logged


def complaints(log: str) -> list[str]:
    """What a log must not have."""
    wrong = []
    if any(not (letter.isprintable() or letter == "\n") for letter in log):
        wrong.append("control characters in the log")
    if "Traceback" in log:
        wrong.append("a traceback in the log")
    return wrong


def shown(row: Row, found: Found, baseline: Found, wrong: Sequence[Wrong]) -> str:
    """A line of the table."""
    outcome = found.error or found.outcome
    if found.outcome == "none":
        outcome = ", ".join(found.errors) or f"{found.handled} pages"
    seconds = found.seconds if row.path else found.all_seconds
    return (
        f"{row.name:<38} {outcome:<20} {seconds:5.2f} s {(found.peak - baseline.peak) / 2**20:6.1f}"
        f" MB {found.stall * 1000:5.0f} ms  {found.healthy:>2}/{HEALTHY_PAGES}  "
        + ("OK" if not wrong else f"FAILED: {'; '.join(each.text for each in wrong)}")
        + (f" ({found.detail[:300]})" if wrong and found.detail else "")
    )


class Table:
    """Plays rows against servers that run.

    Args:
        hostile: Ports of the hostile servers, by name.
        healthy: The port of the healthy one.
        directory: Where crawls may write.
    """

    def __init__(self, hostile: dict[str, int], healthy: int, directory: Path) -> None:
        self._hostile = hostile
        self._healthy = healthy
        self._directory = directory
        self._baseline = Found()
        self._baseline, wrong = self.play(BASELINE)
        click.echo(
            f"{'row':<38} {'outcome':<20} {'time':>7} {'memory':>9} {'stall':>8}  healthy\n"
            + shown(BASELINE, self._baseline, self._baseline, wrong)
        )

    def play(self, row: Row) -> tuple[Found, list[Wrong]]:
        """What came of a row, and what is wrong with that."""
        found, log = play(row, self._hostile, self._healthy, self._directory)
        return found, judge(row, found, self._baseline, complaints(log))

    def play_all(self, rows: Sequence[Row], jobs: int) -> int:
        """Play rows, several at a time, and print them; how many do not hold."""
        failed, again = 0, []
        with ThreadPoolExecutor(jobs) as pool:
            for row, (found, wrong) in zip(rows, pool.map(self.play, rows), strict=True):
                if wrong and all(each.may_be_load for each in wrong):
                    again.append(row)
                else:
                    failed += bool(wrong)
                click.echo(shown(row, found, self._baseline, wrong))
        for row in again:
            found, wrong = self.play(row)
            failed += bool(wrong)
            click.echo(f"again, alone:\n{shown(row, found, self._baseline, wrong)}")
        return failed


@click.command(help=__doc__)
@click.argument("names", nargs=-1)
@click.option("--quick", is_flag=True, help="Only a few rows, one of each kind.")
@click.option("--list", "as_list", is_flag=True, help="Only print the names of the rows.")
@click.option("--jobs", default=os.cpu_count() or 2, help="Crawls at a time.", show_default=True)
def main(names: tuple[str, ...], quick: bool, as_list: bool, jobs: int) -> None:
    """Play the rows whose names have one of NAMES in them; all of them by default."""
    rows = [
        row
        for row in ROWS
        if (not quick or row.name in QUICK) and any(name in row.name for name in names or ("",))
    ]
    if as_list:
        click.echo("\n".join(row.name for row in rows))
        return
    if not rows:
        raise click.UsageError("no row has such a name; see --list")
    began = time.perf_counter()
    FORKS.set_forkserver_preload(["tests.faults.hostile.crawl"])
    with (
        tempfile.TemporaryDirectory() as directory,
        open(Path(directory) / "canary", "w+b") as canary,
        site("hostile", canary) as hostile,
        site("healthy", None) as healthy,
    ):
        crawls = Path(directory) / "crawls"
        crawls.mkdir()
        failed = Table(hostile, healthy["healthy"], crawls).play_all(rows, jobs)
        canary.seek(0)
        if reached := canary.read().decode(errors="replace").splitlines():
            failed += 1
            click.echo(f"FAILED: what is private was reached: {sorted(set(reached))[:5]}")
    click.echo(f"{len(rows)} rows, {failed} failed, {time.perf_counter() - began:.0f} s")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

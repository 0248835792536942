"""Disturb a crawl of several workers, and compare what it ends with.

``python -m tests.faults.workers --points 40`` crawls a local site of many hosts over and over, with
three workers. At random moments a worker is killed, or frozen for longer than its lease, the
supervisor is killed, or told to go. In the end items, outcomes, counters and saved state have to
be those of one process that nobody disturbed; and the site must never have been asked for more at
once, or sooner, than it allows.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from ..stopwatch import Stopwatch
from .common import ROOT, Crawl, ended, happens, kill
from .hosts import HOSTS, LIMIT, PAGES
from .results import Result, differences, result_of
from .rough import CONTROL

WORKERS = 3
LEASE = 1.5
MOMENTS = ("worker", "worker", "workers", "freeze", "supervisor", "term")
"""worker: kill -9 of one. workers: of all. freeze: SIGSTOP of one for longer than its lease, then
SIGCONT. supervisor: kill -9 of it. term: SIGTERM to it."""
NEAREST = 0.5
"""Share of a host's delay that two requests may be apart at the site: the machine is busy."""
MELTS = 1.0
"""Seconds after which a process that was frozen has its times in order again."""
ORPHANS = 10.0
"""Seconds in which the workers of a supervisor that was killed are gone."""


class HostsProcess:
    """The site in a process of its own.

    Args:
        arguments: Those of ``python -m tests.faults.hosts``.
    """

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "tests.faults.hosts", *arguments]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        if not self.url:
            raise RuntimeError("the site did not start")

    def seen(self, run: str) -> dict[str, Any]:
        """How the site was asked by a crawl."""
        return self._ask("seen", run)

    def hurry(self, run: str) -> None:
        """Let a crawl wait for nothing from now on."""
        self._ask("hurry", run)

    def _ask(self, what: str, run: str) -> dict[str, Any]:
        connection = HTTPConnection(urlsplit(self.url).netloc, timeout=30)
        try:
            connection.request("GET", f"{CONTROL}{what}?run={run}")
            seen: dict[str, Any] = json.load(connection.getresponse())
            return seen
        finally:
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def normal(result: Result) -> Result:
    """Which of the orders there is a budget for is a matter of chance, and so is their host."""
    parts = {name: Counter[str]() for name in result.parts}
    for name, counts in result.parts.items():
        for text, number in counts.items():
            if "/order/" in text:
                text = re.sub(r"//[0-9.:]+/order/", "//*/order/", text)
            elif name == "hosts":
                text = text.rpartition(".")[2]
            parts[name][text] += number
    return replace(result, parts=parts)


class Freeze(NamedTuple):
    """A process that was frozen, and from when to when, on the monotonic clock."""

    pid: int
    begun: float
    until: float


class HostsRun(Crawl):
    """One run of the crawl of many hosts; see `Crawl`."""

    target = "tests.faults.hosts:HostsCrawl"


def workers_of(pid: int) -> list[int]:
    """The processes of a supervisor's workers.

    Not one that is just being made: while that is stopped its supervisor is, too (vfork(2)).
    """
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [int(child) for child in children if _is_worker(child)]


def _is_worker(pid: str) -> bool:
    try:
        return b"--supervised" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def is_there(pid: int) -> bool:
    """Whether a process runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@dataclass
class Report:
    """What became of one disturbed run.

    Attributes:
        moments: What was done to it.
        times: When, on the monotonic clock.
        wrong: How it differs from the undisturbed one.
        requests: How often the site was asked.
        seconds: How long all of it took.
    """

    moments: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    requests: int = 0
    seconds: float = 0.0


class DisturbedRun:
    """One run of several workers, disturbed some times.

    Args:
        site: The site.
        crawl: The crawl.
        whole: What an undisturbed one ends with.
        rng: Chooses the moments.
    """

    def __init__(self, site: HostsProcess, crawl: Crawl, whole: Result, rng: Random) -> None:
        self._site = site
        self._crawl = crawl
        self._whole = whole
        self._rng = rng
        self._report = Report()
        self._frozen: list[Freeze] = []
        self._thawed: list[Freeze] = []

    def disturb(self, points: int) -> Report:
        """Disturb it `points` times, or until it is finished, and let it finish."""
        began = time.monotonic()
        moments = self._rng.choices(MOMENTS, k=points)
        process = self._start()
        while moments:
            pause = time.monotonic() + self._rng.uniform(0.2, 2.0)
            if not happens(process, lambda end=pause: time.monotonic() > end, every=0.01):  # type: ignore[misc]
                break
            moment = moments.pop()
            self._report.moments.append(moment)
            self._report.times.append(time.monotonic())
            self._do(moment, process)
            self._thaw()
            if process.poll() is not None:
                process = self._start()
        happens(process, lambda: self._thaw(), every=0.05)
        self._judge(ended(process))
        self._report.seconds = time.monotonic() - began
        return self._report

    def _start(self) -> subprocess.Popen[bytes]:
        options = ["--workers", str(WORKERS), "--set", f"lease={LEASE}", "--grace", "8"]
        return self._crawl.start(*options)

    def _do(self, moment: str, process: subprocess.Popen[bytes]) -> None:
        workers = workers_of(process.pid)
        one = self._rng.choice(workers) if workers else None
        if moment == "supervisor":
            kill(process)
            self._see_orphans_end(workers)
        elif moment == "term":
            process.send_signal(signal.SIGTERM)
            code = ended(process)
            # Python itself takes a moment until it listens to signals.
            if code not in (0, 75, -signal.SIGTERM):
                self._report.wrong.append(f"after SIGTERM it ended with {code}")
            self._see_orphans_end(workers)
        elif moment == "freeze" and one is not None:
            _signal(one, signal.SIGSTOP)
            now = time.monotonic()
            self._frozen.append(Freeze(one, now, now + LEASE * self._rng.uniform(0.5, 3)))
        else:
            for worker in workers if moment == "workers" else [one] if one else []:
                _signal(worker, signal.SIGKILL)

    def _thaw(self) -> bool:
        """Let those go on whose time is over; never to be waited for."""
        now = time.monotonic()
        self._see_thaw([freeze for freeze in self._frozen if freeze.until <= now])
        self._frozen = [freeze for freeze in self._frozen if freeze.until > now]
        return False

    def _see_thaw(self, freezes: Iterable[Freeze]) -> None:
        for freeze in freezes:
            self._thawed.append(freeze._replace(until=time.monotonic()))
            _signal(freeze.pid, signal.SIGCONT)

    def _see_orphans_end(self, workers: list[int]) -> None:
        self._see_thaw(self._frozen)
        self._frozen.clear()
        took = Stopwatch(lambda: workers)
        while any(map(is_there, workers)):
            if took.seconds > ORPHANS:
                self._report.wrong.append("workers have outlived their supervisor")
                return
            time.sleep(0.01)

    def _judge(self, code: int) -> None:
        report, crawl = self._report, self._crawl
        if code != 0:
            report.wrong.append(f"the last life ended with {code}; see {crawl.log}")
            return
        report.wrong += differences(self._whole, normal(result_of(crawl))) + crawl.check()
        seen = self._site.seen(crawl.name)
        report.requests = seen["requests"]
        report.wrong += manners(seen, self._thawed).wrong


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


@dataclass
class Manners:
    """How a crawl has asked the site.

    Attributes:
        wrong: Where a host was asked for more at once, or sooner, than it allows.
        excused: How often that was so because of a process that was frozen at that moment or had
            just been let go on.
    """

    wrong: list[str] = field(default_factory=list)
    excused: int = 0


def manners(seen: dict[str, Any], freezes: Sequence[Freeze] = ()) -> Manners:
    """Judge how a crawl has asked.

    Args:
        seen: What the site has seen.
        freezes: The processes that were frozen. One that is cannot take back what it has asked;
            and what it was about to send, it sends at once when it goes on.
    """
    found = Manners()
    for at, host, workers in seen["crowds"]:
        awake = [
            pid
            for pid in workers
            if not any(f.pid == pid and f.begun <= at < f.until + MELTS for f in freezes)
        ]
        if len(awake) <= LIMIT:
            found.excused += 1
        else:
            found.wrong.append(
                f"{host} had {len(workers)} requests at once at {at:.3f}, where {LIMIT} may be: "
                f"of processes {workers}"
            )
    # On a machine that is short of processors a process may be held up between the decision to ask
    # and the asking, and then ask twice in a row. Two workers at one host would be more than that.
    is_busy = os.getloadavg()[0] > (os.cpu_count() or 1)
    span = 3 if is_busy else 1
    pace = seen["pace"]
    for host, starts in seen["starts"].items():
        for place, (after, late, second, _) in enumerate(starts[span:]):
            before, _, first, _ = starts[place]
            if after - before + late >= NEAREST * pace * span:
                continue
            if any(
                f.pid == pid and f.until <= at < f.until + MELTS
                for f in freezes
                for at, _, _, pid in starts[place : place + span + 1]
            ):
                found.excused += 1
            else:
                found.wrong.append(
                    f"{host} was asked for {first} at {before:.3f} and for {second} at "
                    f"{after:.3f}, {span} later, where {pace} s was its delay, and the site "
                    f"{late:.3f} s late; processes "
                    f"{[pid for *_, pid in starts[place : place + span + 1]]}"
                )
    return found


def undisturbed(site: HostsProcess, directory: Path, *, hurry: bool = False) -> Result:
    """What one process ends with that nobody disturbs, and that waits for nothing in a `hurry`."""
    crawl = HostsRun(site, directory, "undisturbed")
    if hurry:
        site.hurry(crawl.name)
    code = crawl.finish()
    if code != 0:
        raise SystemExit(f"the undisturbed run ended with {code}:\n{crawl.log.read_text()}")
    result = result_of(crawl)
    wrong = [*result.wrong, *crawl.check(), *manners(site.seen(crawl.name)).wrong]
    if wrong:
        raise SystemExit("\n".join(["the undisturbed run is wrong:", *wrong]))
    return normal(result)


def check(
    points: int,
    each: int,
    seed: int,
    directory: Path,
    *,
    pages: int = PAGES,
    tell: Callable[[str], None] = print,
) -> list[Report]:
    """Disturb runs `points` times in all, `each` of them so often; what became of them."""
    reports: list[Report] = []
    with HostsProcess("--pages", str(pages)) as site:
        whole = undisturbed(site, directory / "undisturbed")
        tell(f"undisturbed: {whole.parts['items'].total():,} items on {HOSTS} hosts")
        while (left := points - sum(len(r.moments) for r in reports)) > 0:
            number = len(reports)
            with HostsRun(site, directory / str(number), f"run-{number}") as crawl:
                run = DisturbedRun(site, crawl, whole, Random(f"{seed}/{number}"))
                reports.append(report := run.disturb(min(each, left)))
            tell(_line(number, report))
            if not report.moments:
                break
            if not report.wrong:
                shutil.rmtree(directory / str(number))
    return reports


def _line(number: int, report: Report) -> str:
    verdict = "DIFFERENT" if report.wrong else "equal"
    moments = [f"{m} ({at:.1f})" for m, at in zip(report.moments, report.times, strict=True)]
    lines = [
        f"run {number}: {', '.join(moments) or 'nothing'}: {verdict}, "
        f"{report.requests:,} requests, {report.seconds:.1f} s"
    ]
    return "\n".join(lines + [f"    {line}" for line in report.wrong])


def main() -> int:
    """The command; 1 where any run differs from the undisturbed one."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.workers", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("--points", type=int, default=20, help="how many faults (default 20)")
    parser.add_argument("--each", type=int, default=5, help="in a run, at most (default 5)")
    parser.add_argument("--pages", type=int, default=PAGES, help=f"default {PAGES}")
    parser.add_argument("--seed", type=int, help="choose the same moments again")
    given = parser.parse_args()
    seed = random.randrange(10**6) if given.seed is None else given.seed
    directory = Path(tempfile.mkdtemp(prefix="crawlkit-workers-"))
    print(f"seed {seed}, in {directory}", flush=True)
    reports = check(
        given.points,
        given.each,
        seed,
        directory,
        pages=given.pages,
        tell=lambda line: print(line, flush=True),
    )
    moments = Counter(moment for report in reports for moment in report.moments)
    done = ", ".join(f"{number} {moment}" for moment, number in sorted(moments.items()))
    print(f"\n{moments.total()} faults in {len(reports)} runs: {done}")
    if any(report.wrong for report in reports):
        print(f"there are differences; the runs that have them are in {directory}")
        return 1
    shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Chaos: workers on PostgreSQL that are killed, frozen, told to go and started at random.

``python -m tests.faults.chaos`` crawls 20,000 pages on 40 hosts with 8 workers, each a process of
its own that knows nothing of the others. The pages take a second or two each, so that it takes some
minutes and little processor time. The server is restarted in between, in good order and as in a
crash, and the line to it breaks. In the end items, outcomes, counters and saved state have to be
those of one process that nobody disturbed; and the site must never have been asked for more at
once, or sooner, than it allows.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from ..postgres import Line, Server, terminate
from .common import LONGEST_LIFE, ROOT
from .results import Result, differences, result_of
from .workers import Freeze, HostsProcess, manners, normal, undisturbed

WORKERS = 8
PAGES, HOSTS = 20_000, 40
LEASE = 3.0
SLOW = (0.5, 1.2)
"""Seconds that the site takes for an answer: as in life, less than a lease."""
PACE, PACED_PAGES = 0.3, 300
"""Of the hosts that ask for a delay: seconds, and pages that last about as long as the crawl."""
FAULTS, PAUSE = 130, 1.6
MOMENTS = (*3 * ("kill", "freeze", "line"), *2 * ("term", "start", "late"), "restart", "crash")
"""kill: kill -9 of a worker. freeze: SIGSTOP for up to three leases, then SIGCONT. term: SIGTERM to
one. start: one more, for a while. restart, crash: the server is stopped and started, fast or
immediately. line: a connection breaks within the next messages. late: one breaks, and the server
gets what was said last on it a second later."""
PLAIN = "?sslmode=disable&gssencmode=disable"
ENDS = (0, 75, -signal.SIGKILL, -signal.SIGTERM)
"""How a worker may end; the last one as Python takes a moment until it listens to signals."""


@dataclass
class Report:
    """What became of it.

    Attributes:
        moments: What was done.
        history: When, on the monotonic clock, which is also the site's.
        started: How many processes there were.
        requests: How often the site was asked.
        excused: How often a host was asked for too much by a process that was frozen just then.
        seconds: How long it took.
        wrong: How it differs from the undisturbed one.
    """

    moments: Counter[str] = field(default_factory=Counter)
    history: list[tuple[float, str]] = field(default_factory=list)
    started: int = 0
    requests: int = 0
    excused: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


class Chaos:
    """One crawl, and everything that happens to it.

    Args:
        site: The site.
        server: The server, which is restarted.
        directory: Where the workers' logs go.
        workers: How many there are, mostly.
        pause: Seconds between two faults, on average.
        rng: Chooses what happens.
    """

    output = None

    def __init__(
        self,
        site: HostsProcess,
        server: Server,
        directory: Path,
        *,
        workers: int,
        pause: float,
        rng: Random,
    ) -> None:
        self.name = f"chaos-{directory.name}"
        self._line = Line(server.port)
        self.store = server.address(port=self._line.port, options=PLAIN)
        self.report = Report()
        self._site = site
        self._server = server
        self._directory = directory
        self._count = workers
        self._pause = pause
        self._rng = rng
        self._workers: list[subprocess.Popen[bytes]] = []
        self._frozen: list[tuple[Freeze, subprocess.Popen[bytes]]] = []
        self._thawed: list[Freeze] = []
        self._logs: dict[subprocess.Popen[bytes], Path] = {}

    @property
    def lives(self) -> int:
        """How many processes were started."""
        return self.report.started

    def run(self, faults: int, whole: Result) -> Report:
        """Let `faults` happen, then let it finish; compare it with an undisturbed one."""
        began = time.monotonic()
        try:
            if self._disturb(faults):
                self._line.mend()
                self._judge(whole)
        finally:
            for process in self._workers:
                terminate(process)
            self._line.close()
        self.report.seconds = time.monotonic() - began
        return self.report

    def _disturb(self, faults: int) -> bool:
        """Whether it has come to its end."""
        moment_at = last = time.monotonic() + 2.0
        requests, look_at = 0, 0.0
        while True:
            now = time.monotonic()
            if self._look() or self.report.wrong:
                return not self.report.wrong
            if now > moment_at and faults > 0:
                faults -= 1
                self._do(self._rng.choice(MOMENTS))
                moment_at = time.monotonic() + self._rng.uniform(0, 2 * self._pause)
                last = now
            if now > look_at:
                look_at = now + 5.0
                before, requests = requests, self._site.seen(self.name)["requests"]
                last = now if requests > before else last
            if now - last > LONGEST_LIFE:
                self.report.wrong.append(f"nothing was asked for in {LONGEST_LIFE:g} s")
            time.sleep(0.02)

    def _look(self) -> bool:
        """See who has ended, and have others start; `True` once all have, with nothing to do."""
        self._thaw()
        codes = {process: process.poll() for process in self._workers}
        for process, code in codes.items():
            if code is not None and code not in ENDS and not self._has_met_no_server(process):
                self.report.wrong.append(
                    f"a worker has ended with {code}; see {self._logs[process]}"
                )
                return False
        self._workers = [process for process, code in codes.items() if code is None]
        if 0 in codes.values() or self._is_finished:
            self._is_finished = True
            return not self._workers
        while len(self._workers) < self._count:
            self._start()
        return False

    _is_finished = False

    def _start(self) -> None:
        self.report.started += 1
        command = [sys.executable, "-m", "crawlkit", "run", "tests.faults.hosts:HostsCrawl"]
        command += [self._site.url, "--store", self.store, "--no-progress", "--grace", "4"]
        command += ["--set", f"user_agent={self.name}", "--set", f"lease={LEASE}"]
        path = self._directory / f"worker-{self.report.started}"
        with open(path, "wb") as log:
            process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        self._workers.append(process)
        self._logs[process] = path

    def _has_met_no_server(self, process: subprocess.Popen[bytes]) -> bool:
        """It was started while the server was not there, and said so at once."""
        lines = self._logs[process].read_text().splitlines()
        return process.returncode == 1 and len(lines) <= 2 and "cannot connect to" in lines[-1]

    def _do(self, moment: str) -> None:
        self.report.moments[moment] += 1
        awake = [p for p in self._workers if all(p is not frozen for _, frozen in self._frozen)]
        one = self._rng.choice(awake) if awake else None
        is_of_one = one is not None and moment in ("kill", "freeze", "term")
        said = f"{moment} {one.pid}" if is_of_one else moment  # type: ignore[union-attr]
        self.report.history.append((time.monotonic(), said))
        if moment in ("restart", "crash"):
            self._server.restart("fast" if moment == "restart" else "immediate")
        elif moment == "start":
            self._start()
        elif moment == "line":
            self._line.cut(self._rng.choice(("up", "down", "asked")), self._rng.randrange(30))
        elif moment == "late":
            self._line.cut("late", self._rng.randrange(10))
        elif one is not None and moment == "freeze":
            one.send_signal(signal.SIGSTOP)
            now = time.monotonic()
            freeze = Freeze(one.pid, now, now + LEASE * self._rng.uniform(0.5, 3))
            self._frozen.append((freeze, one))
        elif one is not None:
            one.send_signal(signal.SIGKILL if moment == "kill" else signal.SIGTERM)

    def _thaw(self) -> None:
        now = time.monotonic()
        for freeze, process in self._frozen:
            if freeze.until <= now:
                self._thawed.append(freeze._replace(until=time.monotonic()))
                self.report.history.append((now, f"thaw {freeze.pid}"))
                process.send_signal(signal.SIGCONT)
        self._frozen = [(freeze, process) for freeze, process in self._frozen if freeze.until > now]

    def _judge(self, whole: Result) -> None:
        report = self.report
        found = result_of(self)
        report.wrong += [*found.wrong, *differences(whole, normal(found))]
        seen = self._site.seen(self.name)
        report.requests = seen["requests"]
        behaved = manners(seen, self._thawed)
        report.wrong += behaved.wrong
        report.excused = behaved.excused
        done = subprocess.run(
            [sys.executable, "-m", "crawlkit", "check", self.store],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            report.wrong.append(f"check: {done.stdout}{done.stderr}".strip())
        for log in sorted(self._directory.iterdir()):
            if "Traceback" in log.read_text(errors="replace"):
                report.wrong.append(f"{log} has a traceback")


def check(
    server: Server,
    directory: Path,
    *,
    pages: int = PAGES,
    hosts: int = HOSTS,
    workers: int = WORKERS,
    faults: int = FAULTS,
    pause: float = PAUSE,
    slow: tuple[float, float] = SLOW,
    pace: float = PACE,
    paced_pages: int = PACED_PAGES,
    seed: int,
    tell: Callable[[str], None] = print,
) -> Report:
    """Do it once."""
    (directory / "workers").mkdir()
    options = ["--pages", pages, "--hosts", hosts, "--slow", *slow, "--pace", pace]
    options += ["--paced-pages", paced_pages]
    with HostsProcess(*map(str, options)) as site:
        began = time.monotonic()
        whole = undisturbed(site, directory / "undisturbed", hurry=True)
        tell(
            f"undisturbed: {whole.parts['items'].total():,} items on {hosts} hosts, "
            f"{time.monotonic() - began:.0f} s"
        )
        chaos = Chaos(
            site, server, directory / "workers", workers=workers, pause=pause, rng=Random(seed)
        )
        return chaos.run(faults, whole)


def main() -> int:
    """The command; 1 where the run differs from the undisturbed one."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.chaos", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("--pages", type=int, default=PAGES, help=f"default {PAGES}")
    parser.add_argument("--hosts", type=int, default=HOSTS, help=f"default {HOSTS}")
    parser.add_argument("--workers", type=int, default=WORKERS, help=f"default {WORKERS}")
    parser.add_argument("--faults", type=int, default=FAULTS, help=f"default {FAULTS}")
    parser.add_argument(
        "--pause", type=float, default=PAUSE, help=f"seconds between two of them (default {PAUSE})"
    )
    parser.add_argument("--seed", type=int, help="choose the same again")
    given = vars(parser.parse_args())
    if given["seed"] is None:
        given["seed"] = random.randrange(10**6)
    directory = Path(tempfile.mkdtemp(prefix="crawlkit-chaos-"))
    print(f"seed {given['seed']}, in {directory}", flush=True)
    server = Server()
    try:
        report = check(server, directory, **given, tell=lambda line: print(line, flush=True))
    finally:
        server.close()
    print(
        f"{', '.join(f'{n} {moment}' for moment, n in sorted(report.moments.items()))}; "
        f"{report.started} processes, {report.requests:,} requests, {report.excused} excused, "
        f"{report.seconds:.0f} s: {'DIFFERENT' if report.wrong else 'equal'}"
    )
    for line in report.wrong:
        print(f"    {line}")
    if report.wrong:
        print("    " + ", ".join(f"{moment} at {at:.3f}" for at, moment in report.history))
        return 1
    shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Kill a crawl at random moments, go on with it, and compare what it ends with.

``python -m tests.faults.kill --points 200`` crawls a local site of 1,500 pages over and over. Each
run is killed with SIGKILL at up to five moments, each time in another life, and then left alone.
Its items, outcomes, counters and saved state have to be those of an undisturbed run, and what it
asked for again no more than what came after the last checkpoint before each kill.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

from crawlkit import Run

from ..stopwatch import waits_of
from .command import Command, rows, say
from .common import Crawl, SiteProcess, Undisturbed, ended, happens, kill, undisturbed
from .lanes import in_lanes
from .results import differences, result_of
from .rough import BUSY, BUSY_PAUSE, PAGES, RoughCrawl

POINTS_A_RUN = 5
INTERVALS = (1.0, 1.0, 0.2, 0.05)
"""Seconds between checkpoints in one run after the other; 1 s is the default."""
LATE = 2.0
"""Seconds that a checkpoint may take on a busy machine, on top of the interval."""

ON_ITS_WAY = 0.5
"""Seconds after which a 429 has come to the crawl."""

MOMENTS = ("start", "time", "page", "append", "commit", "end")
"""start: while the process starts, until its first request and shortly after.
time: any time in the length of an undisturbed run.
page: when the site was asked for a certain number of further pages.
append: right after the output file has grown, which is right before a commit.
commit: right after SQLite's log has grown, which is within a commit or right after it.
end: after the last page was asked for, until the process ends: the last retries and commit."""


@dataclass(frozen=True)
class Kill:
    """One kill; times are monotonic.

    Attributes:
        moment: One of `MOMENTS`.
        started: When the process was started.
        saved: The instant of the last checkpoint, of this life or an earlier one; 0 if none.
        at: When it was killed.
        starved: For how many seconds until then its threads were kept waiting for a processor.
    """

    moment: str
    started: float
    saved: float
    at: float
    starved: float


@dataclass
class Report:
    """What became of one disturbed run.

    Attributes:
        interval: Seconds between its checkpoints.
        kills: The kills.
        back: Seconds of work that each of them undid.
        uncommitted: Kills that found lines in the output file whose commit had not come.
        again: Requests that were made once more.
        allowed: How many might have been: those in flight at the last checkpoint before a kill, and
            those asked for after it.
        wrong: How it differs from the undisturbed one.
        seconds: How long all of it took.
    """

    interval: float
    kills: list[Kill] = field(default_factory=list)
    back: list[float] = field(default_factory=list)
    uncommitted: int = 0
    again: int = 0
    allowed: int = 0
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0


# -- one run --------------------------------------------------------------------------------------


class KilledRun:
    """One run, killed several times.

    Args:
        crawl: The crawl.
        whole: The undisturbed one.
        interval: Seconds between its checkpoints.
        rng: Chooses the moments.
    """

    def __init__(self, crawl: Crawl, whole: Undisturbed, interval: float, rng: Random) -> None:
        self._crawl = crawl
        self._whole = whole
        self._rng = rng
        self._report = Report(interval)
        self._knew_robots: dict[str, float] = {}  # by its path: since when

    def disturb(self, points: int) -> Report:
        """Kill it `points` times, or until it is finished, and let it finish."""
        began = time.monotonic()
        # After "end" there would be little left to kill, so it comes last, in every second run.
        moments = self._rng.choices(MOMENTS[:-1], k=points - 1)
        moments += self._rng.choices(MOMENTS, (1, 1, 1, 1, 1, 5))
        for moment in moments:
            process = self._crawl.start()
            if not self._wait(moment, process):
                break
            starved = sum(waits_of(process.pid).values())
            self._note(moment, kill(process), starved)
        else:
            process = self._crawl.start()
        self._judge(ended(process))
        self._report.seconds = time.monotonic() - began
        return self._report

    def _wait(self, moment: str, process: subprocess.Popen[bytes]) -> bool:
        """Wait for a moment; `False` if the process ends before it comes."""
        rng, whole = self._rng, self._whole
        if moment == "start":
            return happens(process, _after(rng.uniform(0, whole.startup * 1.3)))
        if moment == "time":
            return happens(process, _after(whole.startup + rng.uniform(0, whole.duration)))
        if moment == "page":
            requests, different = self._crawl.site.count(self._crawl.name)
            target = requests + rng.randrange(1, max(2, whole.requests - different))
            return happens(
                process, lambda: self._crawl.site.count(self._crawl.name)[0] >= target, every=0.01
            )
        if moment == "end":
            if not happens(process, self._is_all_asked_for, every=0.02):
                return False
            return happens(process, _after(rng.uniform(0, whole.tail)))
        path = self._crawl.output if moment == "append" else self._log_of_sqlite
        times = rng.randrange(1, 4 if self._report.interval == 1.0 else 20)
        return happens(process, _Changes(path, times).have_happened)

    @property
    def _log_of_sqlite(self) -> Path:
        return self._crawl.path / "run.sqlite3-wal"

    def _is_all_asked_for(self) -> bool:
        return self._crawl.site.count(self._crawl.name)[1] >= self._whole.requests

    def _note(self, moment: str, at: float, starved: float) -> None:
        """Look at what the killed process has left behind."""
        crawl, report = self._crawl, self._report
        saved = 0.0
        if (crawl.path / "run.sqlite3").exists():
            with crawl.look() as run:
                findings = [*run.check(), *self._compare_output(run)]
                saved = run.saved("tally", {"at": 0.0})["at"]
                for path, document in crawl.site.robots.items():
                    if run.document(document) is not None:
                        self._knew_robots.setdefault(path, at)
            report.wrong += [f"after a kill ({moment}): {finding}" for finding in findings]
        report.kills.append(Kill(moment, crawl.started, saved, at, starved))

    def _compare_output(self, run: Run) -> Iterator[str]:
        """The output file begins with the items of the run; what follows belongs to no commit."""
        length = run.saved("items", {"length": 0})["length"]
        written = self._crawl.output.read_bytes() if self._crawl.output.exists() else b""
        self._report.uncommitted += len(written) > length
        if written[:length] != b"".join(item.data + b"\n" for item in run.stored_items()):
            yield f"{self._crawl.output.name} does not begin with the items of the run"

    def _judge(self, code: int) -> None:
        """Compare it with the undisturbed one."""
        crawl, report, whole = self._crawl, self._report, self._whole
        if code != 0:
            report.wrong.append(f"the last life ended with {code}; see {crawl.log}")
            return
        found, asked = result_of(crawl), crawl.site.asked(crawl.name)
        report.wrong += differences(whole.result, found) + crawl.check()
        if whole.result.statuses - found.statuses or found.bytes < whole.result.bytes:
            report.wrong.append("fewer responses were counted than in an undisturbed run")
        if found.statuses.total() > len(asked):
            report.wrong.append("more responses were counted than the site has sent")
        self._count_again([at for at, _, _ in asked])
        report.wrong += self._impolite(asked)
        report.again = len(asked) - whole.requests
        if not 0 <= report.again <= report.allowed:
            report.wrong.append(f"{report.again} requests again, where {report.allowed} may be")
        for killed, back in zip(report.kills, report.back, strict=True):
            if back > report.interval + LATE + killed.starved:
                report.wrong.append(f"a kill ({killed.moment}) undid {back:.2f} s of work")

    def _impolite(self, asked: Sequence[tuple[float, str, int]]) -> Iterator[str]:
        """What the next lives did not know although a checkpoint had it."""
        for at, path, _ in asked:
            if at > self._knew_robots.get(path, math.inf):
                yield f"{path} was asked for again, and it was known"
        busy = [at for at, path, _ in asked if path.startswith(f"//{BUSY}/busy/")]
        kills = self._report.kills
        for refused in self._crawl.site.refused(self._crawl.name):
            again = min((at for at in busy if at > refused), default=math.inf)
            is_undone = any(
                k.saved < refused + ON_ITS_WAY + k.starved and refused < k.at for k in kills
            )
            if again < refused + BUSY_PAUSE and not is_undone:
                yield f"asked {again - refused:.2f} s after it was told to wait {BUSY_PAUSE} s"

    def _count_again(self, times: list[float]) -> None:
        """How much each kill undid, from the times of all requests."""
        report = self._report
        nexts = [*(killed.started for killed in report.kills), self._crawl.started][1:]
        for killed, next_start in zip(report.kills, nexts, strict=True):
            own = [at for at in times if killed.started <= at < next_start]
            undone = [at for at in own if at > killed.saved]
            report.back.append(killed.at - max(killed.saved, own[0]) if own else 0.0)
            # What was in flight at the checkpoint was asked for before it.
            in_flight = RoughCrawl.concurrency if killed.saved > killed.started else 0
            report.allowed += len(undone) + in_flight


class _Changes:
    """Whether a file has changed a number of times."""

    def __init__(self, path: Path, times: int) -> None:
        self._path = path
        self._left = times
        self._known = self._state()

    def _state(self) -> tuple[int, int]:
        try:
            status = self._path.stat()
        except OSError:
            return (0, 0)
        return (status.st_size, status.st_mtime_ns)

    def have_happened(self) -> bool:
        state = self._state()
        # It becoming shorter is the start of a life, not the end of a commit.
        if state[0] and state != self._known:
            self._left -= 1
        self._known = state
        return self._left <= 0


def _after(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


# -- many runs ------------------------------------------------------------------------------------


class Check:
    """Many runs, some of them side by side.

    Args:
        points: How many kills in all.
        seed: Which moments are chosen; how far a process has come by then is never the same.
        lanes: How many runs go on at once.
        tell: Called with each line of progress.
    """

    def __init__(
        self, points: int, seed: int, *, lanes: int = 2, tell: Callable[[str], None] = print
    ) -> None:
        self._points = points
        self._seed = seed
        self._lanes = lanes
        self._tell = tell
        self._reports: list[Report] = []

    def run(self, directory: Path) -> list[Report]:
        """Do it; what became of each run."""
        with SiteProcess() as site:
            whole = undisturbed(site, directory / "undisturbed", PAGES, site.busy_url)
            self._tell(
                f"undisturbed: {whole.requests:,} requests, "
                f"{whole.result.parts['items'].total():,} items, {whole.duration:.1f} s"
            )
            in_lanes(
                range(self._points),
                lambda number, points: self._disturbed(site, directory, whole, number, len(points)),
                partial(self._done, directory),
                each=POINTS_A_RUN,
                lanes=self._lanes,
            )
        return self._reports

    def _disturbed(
        self, site: SiteProcess, directory: Path, whole: Undisturbed, number: int, points: int
    ) -> Report:
        interval = INTERVALS[number % len(INTERVALS)]
        options = [site.busy_url]
        if interval != 1.0:
            options += ["--set", f"persist_interval={interval}"]
        with Crawl(site, directory / str(number), f"run-{number}", *options) as crawl:
            rng = Random(f"{self._seed}/{number}")
            return KilledRun(crawl, whole, interval, rng).disturb(points)

    def _done(self, directory: Path, number: int, report: Report) -> int:
        self._reports.append(report)
        self._tell(_line(number, report))
        if not report.wrong:
            shutil.rmtree(directory / str(number))
        return len(report.kills)


def _line(number: int, report: Report) -> str:
    verdict = "equal" if not report.wrong else "DIFFERENT"
    lines = [
        f"run {number}: killed at {', '.join(k.moment for k in report.kills) or 'no moment'} "
        f"(checkpoints every {report.interval:g} s): {verdict}, "
        f"{report.again} asked for again of {report.allowed} that may be, {report.seconds:.1f} s"
    ]
    return "\n".join(lines + [f"    {line}" for line in report.wrong])


def table(reports: Sequence[Report]) -> str:
    """All runs in a few lines."""
    moments = Counter(killed.moment for report in reports for killed in report.kills)
    lines = [
        ("kills", f"{moments.total()} ({', '.join(f'{moments[m]} {m}' for m in MOMENTS)})"),
        ("runs", f"{len(reports)}, of which {sum(not r.wrong for r in reports)} equal"),
        ("", f"{sum(r.uncommitted for r in reports)} kills between the output file and the commit"),
    ]
    for interval in sorted({report.interval for report in reports}):
        those = [report for report in reports if report.interval == interval]
        kills = sum(len(report.kills) for report in those)
        back = [seconds for report in those for seconds in report.back]
        if kills:
            lines.append(
                (
                    f"every {interval:g} s",
                    f"{kills} kills undid {max(back):.2f} s at most, {sum(back) / kills:.2f} s on "
                    f"average; {sum(r.again for r in those) / kills:.0f} requests again a kill, "
                    f"{sum(r.allowed for r in those) / kills:.0f} might have been",
                )
            )
    return rows(lines)


def main() -> int:
    """The command; 1 where any run differs from the undisturbed one."""
    command = Command("kill", __doc__)
    command.parser.add_argument("--points", type=int, default=20, help="how many (default 20)")
    command.parser.add_argument("--lanes", type=int, default=2, help="runs at once (default 2)")
    command.begin()
    given = command.given
    reports = Check(given.points, command.seed, lanes=given.lanes, tell=say).run(command.directory)
    say(f"\n{table(reports)}\n{'time':<14}{command.seconds:.0f} s")
    return command.end(is_wrong=any(report.wrong for report in reports))


if __name__ == "__main__":
    sys.exit(main())

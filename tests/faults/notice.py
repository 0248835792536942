"""Tell a crawl of slow pages to go, at random moments, and see what it makes of its notice.

``python -m tests.faults.notice --times 100`` sends SIGTERM a hundred times, and Ctrl-C some times
more. A process has to be gone within its grace and to say with its exit code that it is to be
started again; pages that are answered in time may finish; and in the end nothing is lost and
nothing is there twice. In some lives a listener of `migrating` hangs.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

from crawlkit.running.stopping import reserve_of
from crawlkit.triggers.lastmoment import EXIT_UNFINISHED

from .command import Command, rows, say
from .common import Crawl, SiteProcess, Undisturbed, gone, happens, undisturbed
from .lanes import in_lanes
from .results import differences, result_of
from .rough import RoughCrawl, delay_of

PAGES = 60
SLOW = (0.2, 8.0)
"""Seconds that the fastest and the slowest page take."""
GRACES = (1.0, 3.0, 10.0)
LIVES = 5
"""Notices that one run is given, each in a life of its own."""
LONGEST_WORK = 5.0
"""Seconds after its first request within which a process is told to go."""
AT_ONCE = 1.0
"""Seconds in which a second Ctrl-C ends the process."""

TERMINATE, INTERRUPT, INTERRUPT_TWICE = "SIGTERM", "Ctrl-C", "Ctrl-C twice"
EXIT_INTERRUPTED = 130
TARGETS = ("RoughCrawl", "RoughCrawl", "RoughCrawl", "Hanging", "Stubborn")
"""The crawls that the lives are started as; in the last two a listener hangs."""


@dataclass(frozen=True)
class Notice:
    """One life and its end; times are monotonic.

    Attributes:
        kind: ``SIGTERM``, ``Ctrl-C`` or ``Ctrl-C twice``.
        target: The crawl's class.
        grace: Seconds that it had.
        is_early: Whether it was told to go before its first request.
        started: When the process was started.
        saved: The instant of the last checkpoint, of this life or an earlier one; 0 if none.
        at: When it was told.
        seconds: How long it took to be gone.
        there: For how long the process was seen, before it had ended itself, once it was told;
            after the second Ctrl-C, if it was sent one.
        starved: For how long of it the machine was too busy to let it run.
        late: For how long of it the machine was too busy to let the site answer.
        code: Its exit code.
    """

    kind: str
    target: str
    grace: float
    is_early: bool
    started: float
    saved: float
    at: float
    seconds: float
    there: float
    starved: float
    late: float
    code: int

    def wrong(self) -> str | None:
        """What is wrong with this end, if anything."""
        what = f"{self.kind} in {self.target} with a grace of {self.grace:g} s"
        if self.kind == INTERRUPT_TWICE:
            # It may have obeyed the first one by the time of the second.
            allowed, codes = AT_ONCE, [EXIT_INTERRUPTED, EXIT_UNFINISHED]
        else:
            allowed, codes = self.grace, [EXIT_UNFINISHED]
        if self.is_early:
            # Python itself had not yet started: there was nothing to save, and nobody to ask.
            codes.append(-signal.SIGTERM)
        if self.code not in codes:
            return f"{what}: ended with {self.code}"
        if self.there - self.starved > allowed:
            return (
                f"{what}: gone after {self.seconds:.2f} s, there for {self.there:.2f} s once it "
                f"was told, {self.starved:.2f} s of it starved"
            )
        return None


@dataclass
class Report:
    """What became of one run.

    Attributes:
        notices: How its lives ended, but for the last one.
        again: Requests that were made once more.
        wrong: What is wrong.
        seconds: How long all of it took.
    """

    notices: list[Notice] = field(default_factory=list)
    again: int = 0
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0


# -- one run --------------------------------------------------------------------------------------


class NoticedRun:
    """One run that is told to go again and again.

    Args:
        crawl: The crawl.
        whole: The undisturbed one.
        rng: Chooses the moments.
    """

    def __init__(self, crawl: Crawl, whole: Undisturbed, rng: Random) -> None:
        self._crawl = crawl
        self._whole = whole
        self._rng = rng
        self._report = Report()

    def disturb(self, kinds: Sequence[str]) -> Report:
        """Give it these notices, one a life, and then let it finish."""
        began = time.monotonic()
        for kind in kinds:
            notice = self._life(kind)
            if notice is None:
                break
            self._report.notices.append(notice)
            self._report.wrong += [finding] if (finding := notice.wrong()) else []
        self._crawl.site.hurry(self._crawl.name)
        self._judge(self._crawl.finish())
        self._report.seconds = time.monotonic() - began
        return self._report

    def _life(self, kind: str) -> Notice | None:
        """One life; `None` where it was finished before the notice came."""
        rng, crawl = self._rng, self._crawl
        grace, target = rng.choice(GRACES), rng.choice(TARGETS)
        is_early = kind == TERMINATE and rng.random() < 0.1
        before = crawl.site.count(crawl.name)[0]
        process = crawl.start("--grace", str(grace), target=target)
        if is_early:
            time.sleep(rng.uniform(0, self._whole.startup))
        elif happens(process, lambda: crawl.site.count(crawl.name)[0] > before, every=0.05):
            time.sleep(rng.uniform(0, LONGEST_WORK))
        if process.poll() is not None:
            return None
        at, late = time.monotonic(), crawl.site.starved
        self._tell(kind, process)
        # This process may have been late to send it, on a machine that is as busy as that.
        told = time.monotonic()
        end = gone(process)
        seconds, there = time.monotonic() - at, end.there - told
        is_early = crawl.site.count(crawl.name)[0] == before
        saved = 0.0
        if (crawl.path / "run.sqlite3").exists():
            with crawl.look() as run:
                saved = run.saved("tally", {"at": 0.0})["at"]
        return Notice(
            kind,
            target,
            grace,
            is_early,
            crawl.started,
            saved,
            at,
            seconds,
            there,
            end.starved,
            crawl.site.starved - late,
            end.code,
        )

    def _tell(self, kind: str, process: subprocess.Popen[bytes]) -> None:
        if kind == TERMINATE:
            process.send_signal(signal.SIGTERM)
            return
        process.send_signal(signal.SIGINT)
        if kind == INTERRUPT_TWICE:
            time.sleep(self._rng.uniform(0.05, 0.3))
            process.send_signal(signal.SIGINT)

    def _judge(self, code: int) -> None:
        """Compare it with the undisturbed one."""
        crawl, report, whole = self._crawl, self._report, self._whole
        if code != 0:
            report.wrong.append(f"the last life ended with {code}; see {crawl.log}")
            return
        report.wrong += differences(whole.result, result_of(crawl)) + crawl.check()
        asked = crawl.site.asked(crawl.name)
        report.again = len(asked) - whole.requests
        allowed = RoughCrawl.concurrency * len(report.notices)
        for notice in report.notices:
            if notice.kind == INTERRUPT_TWICE:
                # It ends on the spot and saves nothing: what came after the last checkpoint, also
                # pages that were finished, is asked for again.
                end = notice.at + notice.seconds
                allowed += sum(max(notice.saved, notice.started) < at < end for at, _, _ in asked)
        if not 0 <= report.again <= allowed:
            report.wrong.append(f"{report.again} requests again, where {allowed} may be")
        report.wrong += self._cut_short()

    def _cut_short(self) -> list[str]:
        """Pages that could have finished in their grace, and were asked for again."""
        wrong = []
        asked = self._crawl.site.asked(self._crawl.name)
        for notice in self._report.notices:
            if notice.kind == INTERRUPT_TWICE:
                continue
            # The end of the grace is for saving; and a busy machine answers a little late.
            working = notice.grace - reserve_of(notice.grace) - 0.2
            working -= notice.starved + notice.late
            in_time = notice.at + working
            later = {entry[1:] for entry in asked if entry[0] > notice.at + notice.seconds}
            for at, path, attempt in asked:
                answered = at + delay_of(path, SLOW)
                is_own = notice.started < at < notice.at and not path.startswith("/old/")
                if is_own and notice.at < answered < in_time and (path, attempt) in later:
                    wrong.append(
                        f"{path} was answered {answered - notice.at:.2f} s after the notice, with "
                        f"a grace of {notice.grace:g} s, and asked for again"
                    )
        return wrong


# -- many runs ------------------------------------------------------------------------------------


class Check:
    """Many runs, several side by side: they mostly wait for slow pages.

    Args:
        times: How often to send SIGTERM; Ctrl-C comes on top, a fifth as often.
        seed: Which moments are chosen.
        lanes: How many runs go on at once.
        lives: How many notices each run is given.
        tell: Called with each line of progress.
    """

    def __init__(
        self,
        times: int,
        seed: int,
        *,
        lanes: int = 8,
        lives: int = LIVES,
        tell: Callable[[str], None] = print,
    ) -> None:
        kinds = [TERMINATE] * times
        kinds += [INTERRUPT, INTERRUPT_TWICE] * max(1, times // 10)
        Random(seed).shuffle(kinds)
        self._kinds = kinds
        self._seed = seed
        self._lanes = lanes
        self._lives = lives
        self._tell = tell
        self._reports: list[Report] = []

    def run(self, directory: Path) -> list[Report]:
        """Do it; what became of each run."""
        with SiteProcess("--pages", str(PAGES), "--slow", *map(str, SLOW)) as site:
            whole = undisturbed(site, directory / "undisturbed", PAGES, hurry=True)
            self._tell(f"undisturbed: {whole.requests} requests, without delays")
            in_lanes(
                self._kinds,
                partial(self._noticed, site, directory, whole),
                partial(self._done, directory),
                each=self._lives,
                lanes=self._lanes,
            )
        return self._reports

    def _noticed(
        self, site: SiteProcess, directory: Path, whole: Undisturbed, number: int, kinds: list[str]
    ) -> Report:
        with Crawl(site, directory / str(number), f"run-{number}") as crawl:
            return NoticedRun(crawl, whole, Random(f"{self._seed}/{number}")).disturb(kinds)

    def _done(self, directory: Path, number: int, report: Report) -> int:
        self._reports.append(report)
        self._tell(_line(number, report))
        if not report.wrong:
            shutil.rmtree(directory / str(number))
        return len(report.notices)


def _line(number: int, report: Report) -> str:
    verdict = "equal" if not report.wrong else "WRONG"
    ends = ", ".join(f"{n.seconds:.2f} of {n.grace:g} s" for n in report.notices)
    lines = [
        f"run {number}: gone after {ends}: {verdict}, "
        f"{report.again} asked for again, {report.seconds:.0f} s"
    ]
    return "\n".join(lines + [f"    {line}" for line in report.wrong])


def table(reports: Sequence[Report]) -> str:
    """All runs in a few lines."""
    notices = [notice for report in reports for notice in report.notices]
    kinds = Counter(notice.kind for notice in notices)
    codes = Counter((notice.kind, notice.code) for notice in notices)
    hung = sum(notice.target != "RoughCrawl" and not notice.is_early for notice in notices)
    lines = [
        ("notices", ", ".join(f"{n} x {kind}" for kind, n in sorted(kinds.items()))),
        ("exit codes", ", ".join(f"{n} x {c} ({k})" for (k, c), n in sorted(codes.items()))),
        ("listeners", f"{hung} hung"),
        ("runs", f"{len(reports)}, of which {sum(not r.wrong for r in reports)} equal"),
        ("again", f"{sum(report.again for report in reports)} requests"),
    ]
    for grace in GRACES:
        those = [n.seconds for n in notices if n.grace == grace and n.kind != INTERRUPT_TWICE]
        if those:
            lines.append(
                (
                    f"grace {grace:g} s",
                    f"{len(those)} times: gone after {sum(those) / len(those):.2f} s on average, "
                    f"{max(those):.2f} s at most",
                )
            )
    twice = [n.seconds for n in notices if n.kind == INTERRUPT_TWICE]
    if twice:
        lines.append(("Ctrl-C twice", f"gone after {max(twice):.2f} s at most, from the first on"))
    return rows(lines)


def main() -> int:
    """The command; 1 where anything is wrong."""
    command = Command("notice", __doc__)
    command.parser.add_argument("--times", type=int, default=10, help="SIGTERMs (default 10)")
    command.parser.add_argument("--lanes", type=int, default=8, help="runs at once (default 8)")
    command.begin()
    given = command.given
    reports = Check(given.times, command.seed, lanes=given.lanes, tell=say).run(command.directory)
    say(f"\n{table(reports)}\n{'time':<14}{command.seconds:.0f} s")
    return command.end(is_wrong=any(report.wrong for report in reports))


if __name__ == "__main__":
    sys.exit(main())

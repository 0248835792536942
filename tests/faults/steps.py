"""Every step of I/O goes wrong once: ``python -m tests.faults.steps``.

The N-th system call that changes a file of the run (write, fsync, truncate, rename, unlink, and
creating a file) fails, for N = 1, 2, 3 ... until a run makes no N-th call. Each fails in all the
ways of `KINDS`: once, from then on for good, and by the death of the process before or within it.

However it goes wrong, nothing is lost and nothing is there twice: a run that ends with 0 holds what
an undisturbed one holds; any other says why in one line, and the next start finishes it. A single
failure ends a run only while it is being opened.

The calls are those of the real process, stopped by the kernel, see `syscalls`. It is forked from
one that has everything imported, and waits for retries less long, so that a life takes half a
second. With ``--earlier K`` the life that is disturbed is the second of its run; the first was
killed at its K-th call.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import crawlkit.crawling.endings
import crawlkit.runner
import crawlkit.stores.database
from crawlkit import open_run
from crawlkit.cli import main as crawlkit_main
from crawlkit.cli import run as _  # noqa: F401 - loaded here, and not in each of the processes
from crawlkit.politeness.backoff import backoff

from .command import Command, say
from .common import Crawl, SiteProcess
from .results import Result, differences, missing_from_the_site, result_of
from .rough import RoughCrawl
from .syscalls import CAN_FAIL, Fault, Trace, run

PAGES = 32
LONGEST_LIFE = 60.0
PATIENCE = 0.25
"""Seconds for which a checkpoint that cannot be written is tried again."""
OPTIONS = {"persist_interval": 0.1, "store_patience": PATIENCE, "durability": "full"}
"""``full`` makes all the calls that ``normal`` makes, and more."""
BACKOFF = 0.02
MERGE_AT = 128 * 2**10
"""Bytes of the log after which it is merged: a small run has to come to it, too."""

KINDS: dict[str, Callable[[int], Fault]] = {
    "once ENOSPC": partial(Fault, error=errno.ENOSPC),
    "once EIO": partial(Fault, error=errno.EIO),
    "lasting ENOSPC": partial(Fault, error=errno.ENOSPC, is_lasting=True),
    "lasting EIO": partial(Fault, error=errno.EIO, is_lasting=True),
    "killed": Fault,
    "torn": partial(Fault, is_torn=True),
}
"""What happens at the N-th call."""

RESTORED = "everything is restored"
_LOGGED = re.compile(r"[\d-]+ \d\d:\d\d:\d\d (DEBUG|INFO|WARNING|ERROR) ")


class StepCrawl(RoughCrawl):
    """Says when it is open: from then on a single failure must not end it."""

    def on_start(self) -> None:
        print(RESTORED, flush=True)


# -- one run --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Address:
    """Where the site is, for processes that did not start it."""

    url: str


class ForkedCrawl(Crawl):
    """The crawl, each life of it in a process that is forked from this one and watched."""

    def live(self, fault: Fault | None = None) -> tuple[Trace, str]:
        """A life, with what may go wrong in it; what it did, and what it printed."""
        self.lives += 1
        self.log = self.log.with_name(f"log{self.lives}")
        self.log.write_bytes(b"")
        work = partial(self._work, Path(self.log))
        trace = run(work, self.output.parent, fault, longest=LONGEST_LIFE)
        return trace, self.log.read_text()

    def _work(self, log: Path) -> None:
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.close(descriptor)
        arguments = ["run", "tests.faults.steps:StepCrawl", self.site.url, "--no-progress"]
        arguments += ["--store", str(self.store), "--output", str(self.output)]
        arguments += ["--set", f"user_agent={self.name}"]
        for name, value in OPTIONS.items():
            arguments += ["--set", f"{name}={value}"]
        quick = partial(backoff, base=BACKOFF)
        with (
            mock.patch.object(crawlkit.crawling.endings, "backoff", quick),
            mock.patch.object(crawlkit.stores.database, "MERGE_LOG_AT", MERGE_AT),
        ):
            crawlkit_main(arguments, prog_name="crawlkit")

    def check(self) -> list[str]:
        """What is wrong with the files of a finished run."""
        with open_run(self.store) as finished:
            findings = [f"check: {finding}" for finding in finished.check()]
        ours = {"run", "items.jsonl", *(f"log{life + 1}" for life in range(self.lives))}
        litter = {path.name for path in self.output.parent.iterdir()} - ours
        litter |= {path.name for path in self.path.glob("*.new")}
        litter |= {path.name for path in self.path.glob("*.damaged-*")}
        return findings + [f"{name} was left behind" for name in sorted(litter)]


@dataclass(frozen=True)
class Undisturbed:
    """A run in which nothing goes wrong: what it ends with, and the calls that it makes."""

    result: Result
    calls: list[str]


@dataclass(frozen=True)
class Trial:
    """What became of one disturbed run.

    Attributes:
        number: Which call went wrong.
        kind: How, one of `KINDS`.
        call: The call; `None` where the run made fewer.
        ended: ``went on``, ``stopped`` or ``died``.
        wrong: How it differs from the undisturbed one.
        seconds: How long it took with its second life.
    """

    number: int
    kind: str
    call: str | None
    ended: str
    wrong: list[str]
    seconds: float


def undisturbed(site: str, directory: Path) -> Undisturbed:
    """Crawl without disturbance, and make sure that it is what the site holds."""
    crawl = ForkedCrawl(Address(site), directory, "undisturbed")  # type: ignore[arg-type]
    trace, text = crawl.live()
    if trace.code != 0:
        raise SystemExit(f"the undisturbed run ended with {trace.code}:\n{text}")
    result = result_of(crawl)
    if wrong := [*crawl.check(), *missing_from_the_site(result, PAGES)]:
        raise SystemExit("\n".join(["the undisturbed run is wrong:", *wrong]))
    return Undisturbed(result, trace.calls)


def attempt(
    site: str, directory: Path, whole: Result, number: int, kind: str, earlier: int
) -> Trial:
    """Disturb one run, and let it finish.

    Args:
        site: The address of the site.
        directory: Where to keep the run; it is removed if nothing is wrong.
        whole: What an undisturbed run ends with.
        number: Which call goes wrong.
        kind: How, one of `KINDS`.
        earlier: The call at which a life before it was killed; 0 for none.
    """
    began = time.monotonic()
    crawl = ForkedCrawl(Address(site), directory, directory.name)  # type: ignore[arg-type]
    if earlier:
        crawl.live(Fault(earlier))
    trace, text = crawl.live(KINDS[kind](number))
    wrong = list(_wrong_end(trace, text, kind))
    is_struck = trace.struck > 0
    if trace.code != 0:
        again, after = crawl.live()
        wrong += [f"next start: {line}" for line in _wrong_end(again, after, "")]
        if again.code != 0:
            wrong += [f"the next start ended with {again.code}: {_last_line(after)}"]
    if not wrong or trace.code == 0:
        found = result_of(crawl)
        wrong += differences(whole, found) + crawl.check()
        if whole.statuses - found.statuses or (
            crawl.lives == 1 and whole.statuses != found.statuses
        ):
            wrong.append(f"responses by status are {dict(found.statuses)}")
    if not wrong:
        shutil.rmtree(directory)
    return Trial(
        number,
        kind,
        trace.calls[number - 1] if is_struck else None,
        "died" if trace.code < 0 else "stopped" if trace.code else "went on",
        wrong,
        time.monotonic() - began,
    )


def _wrong_end(trace: Trace, text: str, kind: str) -> Iterator[str]:
    """What is wrong with how a process ended, and with what it said."""
    if "Traceback" in text:
        yield f"it printed a traceback: {_last_line(text)}"
    if trace.code < 0:
        if trace.code != -9 or kind not in ("killed", "torn"):
            yield f"it died of signal {-trace.code}"
        return
    said = [
        line
        for line in text.splitlines()
        if not _LOGGED.match(line) and not line.startswith(("starting ", "resuming ", RESTORED))
    ]
    if trace.code == 0:
        return
    if len(said) != 1:
        yield f"it ended with {trace.code} and {len(said)} lines: {said[:3]}"
    elif not said[0].startswith("crawlkit: "):
        yield f"it ended with {trace.code} and an unclear line: {said[0]}"
    elif "bug" in said[0]:
        yield f"it calls it a bug: {said[0]}"
    if kind.startswith("once") and RESTORED in text:
        yield f"a single failure ended it: {_last_line(text)}"


def _last_line(text: str) -> str:
    return (text.splitlines() or ["(nothing)"])[-1]


# -- all of them ----------------------------------------------------------------------------------


def trials(
    directory: Path,
    *,
    first: int = 1,
    last: int | None = None,
    every: int = 1,
    earlier: int = 0,
    kinds: Sequence[str] = tuple(KINDS),
    lanes: int = 2,
    tell: Callable[[str], None] = print,
) -> Iterator[Trial]:
    """Disturb one run after the other, until none makes as many calls as that.

    Args:
        directory: Where to keep them.
        first: The first call that goes wrong.
        last: The last one; by default that of the longest run.
        every: Take only every so-many-th.
        earlier: The call at which a life before it was killed; 0 for none.
        kinds: How they go wrong.
        lanes: How many runs go on at once.
        tell: Called with a line about the undisturbed run.
    """
    # Forked, before there is any thread: what is imported here needs not be imported again.
    forked = multiprocessing.get_context("fork")
    with SiteProcess("--pages", str(PAGES), "--slow", "0", "0.01") as site:
        whole = undisturbed(site.url, directory / "undisturbed")
        files = Counter(call.partition(" ")[2] for call in whole.calls)
        shown = ", ".join(f"{count} on {name}" for name, count in files.most_common())
        tell(f"undisturbed: {len(whole.calls)} calls ({shown})")
        with ProcessPoolExecutor(lanes, forked) as pool:
            number = first
            while last is None or number <= last:
                numbers = range(number, number + 4 * every, every)
                rows = [
                    pool.submit(
                        attempt,
                        site.url,
                        directory / f"{n}-{kind.replace(' ', '-')}",
                        whole.result,
                        n,
                        kind,
                        earlier,
                    )
                    for n in numbers
                    if last is None or n <= last
                    for kind in kinds
                ]
                done = [row.result() for row in rows]
                yield from done
                if not any(trial.call for trial in done):
                    return  # as many as no run makes
                number += 4 * every


def row_of(trials_of_one: Sequence[Trial]) -> str:
    """The trials of one number, in a line, and a line for each thing that is wrong."""
    call = next((trial.call for trial in trials_of_one if trial.call), "no such call")
    ended = Counter(trial.ended for trial in trials_of_one if trial.call)
    shown = ", ".join(f"{count} {how}" for how, count in sorted(ended.items()))
    lines = [f"{trials_of_one[0].number:>4}  {call:<36} {shown}"]
    lines += [f"      {trial.kind}: {line}" for trial in trials_of_one for line in trial.wrong]
    return "\n".join(lines)


def table_of(done: Sequence[Trial]) -> str:
    """How the runs ended, by kind."""
    lines = [
        f"{'':<16}{'runs':>6}{'went on':>9}{'stopped':>9}{'died':>6}{'unharmed':>10}{'wrong':>7}"
    ]
    for kind in dict.fromkeys(trial.kind for trial in done):
        those = [trial for trial in done if trial.kind == kind]
        ended = Counter(trial.ended for trial in those if trial.call)
        unharmed = sum(trial.call is None for trial in those)
        wrong = sum(bool(trial.wrong) for trial in those)
        lines.append(
            f"{kind:<16}{len(those):>6}{ended['went on']:>9}{ended['stopped']:>9}{ended['died']:>6}"
            f"{unharmed:>10}{wrong:>7}"
        )
    return "\n".join(lines)


def main() -> int:
    """The command; 1 where any run differs from the undisturbed one."""
    command = Command("steps", __doc__, is_random=False)
    add = command.parser.add_argument
    add("--first", type=int, default=1, help="the first call (default 1)")
    add("--last", type=int, help="the last call (default: of the longest run)")
    add("--every", type=int, default=1, help="only every so-many-th (default 1)")
    add("--kind", action="append", choices=KINDS, help="only this kind")
    add("--earlier", type=int, default=0, help="resume a run that was killed at this call")
    add("--lanes", type=int, default=2, help="runs side by side (default 2)")
    command.begin()
    given = command.given
    if not CAN_FAIL:
        print("needs Linux on x86-64", file=sys.stderr)
        command.end(is_wrong=False)
        return 2
    done: list[Trial] = []
    kinds = tuple(given.kind or KINDS)
    for trial in trials(
        command.directory,
        first=given.first,
        last=given.last,
        every=given.every,
        earlier=given.earlier,
        kinds=kinds,
        lanes=given.lanes,
        tell=say,
    ):
        done.append(trial)
        if len(done) % len(kinds) == 0:
            say(row_of(done[-len(kinds) :]))
    seconds = command.seconds
    say(f"\n{table_of(done)}\n{seconds:.0f} s, {seconds / max(1, len(done)):.2f} s a run")
    return command.end(is_wrong=any(trial.wrong for trial in done))


if __name__ == "__main__":
    sys.exit(main())

"""What the checks share: the site in its own process, a crawl with many lives, and comparing."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from crawlkit import open_run
from crawlkit.counting.lives import TOTALS
from crawlkit.run import Run

from ..blocks import Closes
from .rough import BUSY, CONTROL, busy_items, items_of

ROOT = Path(__file__).parents[2]
POLL = 0.0005
LONGEST_LIFE = 120.0
"""Seconds after which a process that should have ended is a failure of the check."""


# -- processes ------------------------------------------------------------------------------------


class SiteProcess(Closes):
    """The rough site in a process of its own, so that it does not take the crawler's time.

    Args:
        arguments: Those of ``python -m tests.faults.rough``.
        on: The command with which something is run on the site's host, if it has one of its own.
    """

    def __init__(self, *arguments: str, on: Sequence[str] = ()) -> None:
        self._process = subprocess.Popen(
            [*on, sys.executable, "-m", "tests.faults.rough", *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        if not self.url:
            raise RuntimeError("the site did not start")

    @property
    def busy_url(self) -> str:
        """Where the site is short of breath, under another name."""
        return f"http://{BUSY}:{urlsplit(self.url).port}/busy/0"

    @property
    def robots(self) -> dict[str, str]:
        """The documents that keep the robots.txt of both names, by the paths in `asked`."""
        busy = self.busy_url.removesuffix("/busy/0")
        return {
            "/robots.txt": f"robots/{self.url.rstrip('/')}",
            f"//{BUSY}/robots.txt": f"robots/{busy}",
        }

    def asked(self, run: str) -> list[tuple[float, str, int]]:
        """What a crawl asked for: monotonic time, path, how often it was tried again before."""
        return [(at, path, attempt) for at, path, attempt in self._ask("asked", run)]

    def count(self, run: str) -> tuple[int, int]:
        """How many requests came, and how many different ones."""
        requests, different = self._ask("count", run)
        return requests, different

    def refused(self, run: str) -> list[float]:
        """When a crawl was told that it asks for too much."""
        times: list[float] = self._ask("refused", run)
        return times

    def hurry(self, run: str) -> None:
        """Answer this crawl without delays from now on."""
        self._ask("hurry", run)

    def _ask(self, what: str, run: str) -> Any:
        connection = HTTPConnection(urlsplit(self.url).netloc, timeout=30)
        try:
            connection.request("GET", f"/{CONTROL.strip('/')}/{what}?run={run}")
            return json.load(connection.getresponse())
        finally:
            connection.close()

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


class Crawl(Closes):
    """One run of the rough crawl, through as many processes as it takes.

    Args:
        site: The site.
        directory: Where the run and its output file are.
        name: Its user agent, by which the site knows it.
        options: Arguments of ``crawlkit run`` for every life, further start URLs among them.
        on: The command with which something is run on the crawl's host, if it has one of its own.

    Attributes:
        lives: How many processes were started.
        started: The monotonic time at which the last one was.
    """

    target = "tests.faults.rough:RoughCrawl"

    def __init__(
        self,
        site: SiteProcess,
        directory: Path,
        name: str,
        *options: str,
        on: Sequence[str] = (),
    ) -> None:
        self.site = site
        self._on = on
        self.name = name
        self.store: Path | str = directory / "run"
        self.output = directory / "items.jsonl"
        self.log = directory / "log"
        self.lives = 0
        self.started = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._options = options
        directory.mkdir(parents=True)

    def start(
        self,
        *options: str,
        target: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a life of it: ``python -m crawlkit run``, as a user does."""
        self.lives += 1
        self.started = time.monotonic()
        command = [*self._on, sys.executable, "-m", "crawlkit", "run"]
        command.append(self.target if target is None else f"tests.faults.rough:{target}")
        command += [self.site.url, "--store", str(self.store), "--output", str(self.output)]
        command += ["--no-progress", "--set", f"user_agent={self.name}", *self._options, *options]
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, stdout=log, stderr=log, env={**os.environ, **(environment or {})}
            )
        return self._process

    def close(self) -> None:
        """Leave no process behind, whatever went wrong."""
        if self._process is not None and self._process.poll() is None:
            kill(self._process)

    def finish(self, *options: str) -> int:
        """A life without disturbance, to its end; the exit code."""
        process = self.start(*options)
        return ended(process)

    def look(self) -> Run:
        """The run as a killed process left it. A copy, so as not to mend what the next one meets.

        Raises:
            StoreError: There is no run yet.
        """
        copy = self.store.with_name("look")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.store, copy)
        return open_run(copy)

    def check(self) -> list[str]:
        """What ``crawlkit check`` finds wrong, and what the processes should not have printed."""
        done = subprocess.run(
            [sys.executable, "-m", "crawlkit", "check", str(self.store)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=LONGEST_LIFE,
            check=False,
        )
        findings = [] if done.returncode == 0 else [f"check: {done.stdout}{done.stderr}".strip()]
        text = self.log.read_text()
        findings += [f"{self.log} has a traceback"] * ("Traceback" in text)
        litter = {path.name for path in self.output.parent.iterdir()}
        litter -= {"run", "look", "log", "items.jsonl"}
        if isinstance(self.store, Path):  # and no server's address
            for ending in ("new", "damaged-*"):
                litter |= {path.name for path in self.store.glob(f"*.{ending}")}
        return findings + [f"{name} was left behind" for name in sorted(litter)]


def ended(process: subprocess.Popen[bytes]) -> int:
    """Wait for the end of a process that was told to end, or has only little to do."""
    try:
        return process.wait(LONGEST_LIFE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


def gone(process: subprocess.Popen[bytes]) -> tuple[int, float]:
    """Wait for the end of a process that was told to end.

    Returns:
        Its exit code, and for how many seconds its threads were kept waiting for a processor. On a
        machine that is too busy, that may be longer than all that they have to do takes.
    """
    deadline = time.monotonic() + LONGEST_LIFE
    waits: dict[str, float] = {}
    before = _waits(process.pid)
    while process.poll() is None and time.monotonic() < deadline:
        waits |= _waits(process.pid)  # a thread that has ended keeps what it had last
        time.sleep(0.01)
    return ended(process), sum(wait - before.get(thread, 0) for thread, wait in waits.items())


def _waits(pid: int) -> dict[str, float]:
    """Seconds for which each thread of a process was ready to run and did not.

    From ``schedstat`` of Linux (Documentation/scheduler/sched-stats.rst); elsewhere there is none.
    """
    waits = {}
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(OSError, IndexError):
            waits[path.parent.name] = int(path.read_text().split()[1]) / 1e9
    return waits


def happens(
    process: subprocess.Popen[bytes], condition: Callable[[], bool], *, every: float = POLL
) -> bool:
    """Wait until the condition holds; `False` where the process ends before that."""
    deadline = time.monotonic() + LONGEST_LIFE
    while process.poll() is None:
        if condition():
            return True
        if time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise TimeoutError(f"process {process.pid} neither came to the moment nor to its end")
        time.sleep(every)
    return False


def kill(process: subprocess.Popen[bytes]) -> float:
    """``kill -9``; the monotonic time of it."""
    at = time.monotonic()
    process.send_signal(signal.SIGKILL)
    process.wait()
    return at


# -- what a crawl ends with -----------------------------------------------------------------------

WITH_RESPONSE = ("StatusError", "BlockedError", "ItemError", "ValueError")
"""Errors of the crawl that come with a response, or after one."""

COUNTERS = (
    "requests_finished",
    "requests_failed",
    "requests_retried",
    "requests_skipped",
    "requests_dropped",
    "requests_total",
    "requests_duplicate",
    "pending",
    "in_flight",
    "items_saved",
    "skipped_by_reason",
    "retry_histogram",
)
"""Counters that are the same however often a crawl was interrupted.

Not so `status_codes` and `bytes_received`: a response that arrived before a checkpoint, and whose
handler ended after it, is received once more after a kill, and counted once more, as it should be;
they lie between those of an undisturbed run and what the site has sent. And not the times, `lives`
and `samples`."""


REFUSED = 429
REFUSAL = f"HTTP {REFUSED}"


@dataclass(frozen=True)
class Result:
    """What a finished crawl holds, in a form that can be compared.

    Attributes:
        parts: What has to be the same as that of an undisturbed run, by what it is. Each is a
            count of things.
        statuses: Responses by status.
        bytes: Bytes of their bodies.
        wrong: What is wrong with it in itself.
    """

    parts: dict[str, Counter[str]]
    statuses: Counter[int]
    bytes: int
    wrong: list[str]


class Finished(Protocol):
    """A crawl that has ended: where its run is, and the file of its items, if it has one."""

    @property
    def store(self) -> Path | str: ...
    @property
    def output(self) -> Path | None: ...
    @property
    def lives(self) -> int: ...


def result_of(crawl: Finished) -> Result:
    """What a finished crawl holds."""
    with open_run(crawl.store) as run:
        statistics = run.statistics.to_dict()
        stored = list(run.stored_items())
        parts = {
            "items": Counter(
                _alike(_text([json.loads(item.data), item.url, item.handler])) for item in stored
            ),
            "outcomes": Counter(map(_alike, _outcomes(run))),
            "counters": _counted({name: statistics[name] for name in COUNTERS}),
            "handlers": _counted(_without(statistics["by_handler"], "duration_sum")),
            "hosts": _counted(
                _without(
                    statistics["by_host"], "duration_sum", "bytes_received", "responses_received"
                )
            ),
            "durations": Counter(
                {
                    name: statistics[name]["count"]
                    for name in ("duration_finished", "duration_failed")
                }
            ),
            "errors": Counter(
                {
                    _text([error["kind"], error["message"], error["place"]]): error["count"]
                    for error in statistics["errors"]
                    # It costs no retry; so one that a kill undid need not come again.
                    if REFUSAL not in error["message"]
                }
            ),
            "state": _counted(run.state),
            "tally": _counted({k: v for k, v in run.saved("tally").items() if k != "at"}),
            "values": Counter(_text(entry) for entry in run.values().items()),
            "login": Counter(_text(c) for c in run.saved("sessions/member", {}).get("cookies", ())),
        }
        wrong = list(_wrong(statistics, crawl.lives))
        for group in run.errors():
            specimen, has_response = run.specimen(group.id), group.kind in WITH_RESPONSE
            if has_response != (specimen is not None):
                wrong.append(f"of {group.message!r} the first response is {specimen}")
    if crawl.output is not None:
        lines = crawl.output.read_bytes().split(b"\n")
        if lines.pop() != b"":
            wrong.append(f"{crawl.output.name} ends with a torn line")
        if lines != [item.data for item in stored]:
            wrong.append(f"{crawl.output.name} does not hold the items of the run, line by line")
    statuses = Counter({int(status): n for status, n in statistics["status_codes"].items()})
    del statuses[REFUSED]
    return Result(parts, statuses, statistics["bytes_received"], wrong)


def _outcomes(run: Run) -> Iterator[str]:
    for name in ("handled", "failed", "pending", "in_flight"):
        for o in run.requests(name):  # type: ignore[arg-type]
            yield _text([name, o.url, o.handler, o.status, o.retries, o.error, o.detail])
    for o in run.requests("skipped"):
        # The page that is named has linked to it first, which is a matter of chance.
        yield _text(["skipped", o.url, (o.detail or "").partition(":")[0]])


def _wrong(statistics: Mapping[str, Any], lives: int) -> Iterator[str]:
    """What does not fit together, whatever the crawl."""
    for name in TOTALS:
        of_lives = sum(life[name] for life in statistics["by_life"])
        if abs(of_lives - statistics[name]) > 1e-6:
            yield f"its lives add up to {of_lives} {name}, but it has {statistics[name]}"
    times = [statistics[name] for name in ("started_at", "last_started_at", "finished_at")]
    if None in times or times != sorted(times):
        yield f"it was started, started again and finished at {times}"
    # One that is killed before its first checkpoint leaves no trace.
    if not 1 <= statistics["lives"] <= lives:
        yield f"{lives} processes were started, and it counted {statistics['lives']} lives"
    for path, number in numbers(statistics):
        if number < 0:
            yield f"{path} is {number}"
    moments = [sample["time"] for sample in statistics["samples"]]
    if moments != sorted(moments):
        yield "the samples are out of order"


def numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every number in JSON-like values, with its path."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from numbers(inner, f"{path}[{place}]")
    elif isinstance(value, int | float):
        yield path, value


def _counted(values: Mapping[str, Any]) -> Counter[str]:
    return Counter({path: int(number) for path, number in numbers(values) if number})


def _without(rows: Mapping[str, Mapping[str, Any]], *names: str) -> dict[str, Any]:
    return {
        key: {name: value for name, value in row.items() if name not in names}
        for key, row in rows.items()
    }


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _alike(text: str) -> str:
    """Which of the orders there is a budget for is a matter of chance."""
    return re.sub(r"/order/\d+", "/order/*", text)


# -- comparing ------------------------------------------------------------------------------------


def differences(expected: Result, found: Result) -> list[str]:
    """How a crawl differs from an undisturbed one, a line each."""
    lines = list(found.wrong)
    for what, counts in expected.parts.items():
        lost, gained = counts - found.parts[what], found.parts[what] - counts
        lines += _described(what, "lost", lost)
        lines += _described(what, "too many", gained)
    return lines


def missing_from_the_site(result: Result, pages: int, *, busy: bool = False) -> list[str]:
    """How an undisturbed crawl differs from what is known of the site, and of the busy one."""
    found = Counter[str]()
    for text, number in result.parts["items"].items():
        found[_text(json.loads(text)[0])] += number
    expected = Counter([*items_of(pages), *(busy_items() if busy else ())])
    return [
        *result.wrong,
        *_described("items", "lost", expected - found),
        *_described("items", "too many", found - expected),
    ]


def _described(what: str, how: str, counts: Counter[str]) -> list[str]:
    shown = [f"{what} {how}: {n} x {text}" for text, n in counts.most_common(5)]
    more = len(counts) - len(shown)
    return shown + [f"{what} {how}: and {more} more"] * (more > 0)


# -- the run that all others are compared with ----------------------------------------------------


@dataclass(frozen=True)
class Undisturbed:
    """A run from the start to the end in one go.

    Attributes:
        result: What it ended with.
        requests: How many requests it took.
        startup: Seconds from the start of the process to its first request.
        duration: Seconds of the whole process.
        tail: Seconds from the last request to the end of the process.
    """

    result: Result
    requests: int
    startup: float
    duration: float
    tail: float


def undisturbed(
    site: SiteProcess, directory: Path, pages: int, *options: str, hurry: bool = False
) -> Undisturbed:
    """Crawl without disturbance, and make sure that it is what the site holds.

    Args:
        site: The site.
        directory: Where to keep the run.
        pages: How many pages the site has.
        options: Arguments of ``crawlkit run``, such as the URL of the busy site.
        hurry: Whether the site is to answer without delays.
    """
    crawl = Crawl(site, directory, "undisturbed", *options)
    if hurry:
        site.hurry(crawl.name)
    code = crawl.finish()
    ended_at = time.monotonic()
    if code != 0:
        raise SystemExit(f"the undisturbed run ended with {code}:\n{crawl.log.read_text()}")
    result = result_of(crawl)
    wrong = crawl.check() + missing_from_the_site(result, pages, busy=site.busy_url in options)
    if wrong:
        raise SystemExit("\n".join(["the undisturbed run is wrong:", *wrong]))
    times = [at for at, _, _ in site.asked(crawl.name)]
    return Undisturbed(
        result,
        len(times),
        startup=times[0] - crawl.started,
        duration=ended_at - crawl.started,
        tail=ended_at - times[-1],
    )

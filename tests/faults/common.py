"""What the checks share: the site in its own process, a crawl with many lives, and comparing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from crawlkit import open_run
from crawlkit.run import Run

from ..blocks import Closes
from ..stopwatch import waits_of
from .results import Result, missing_from_the_site, result_of
from .rough import BUSY, CONTROL

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

    @property
    def starved(self) -> float:
        """For how many seconds of its life it was kept waiting for a processor."""
        return sum(waits_of(self._process.pid).values())

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


class Served(Protocol):
    """A site in a process of its own."""

    url: str


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
        site: Served,
        directory: Path,
        name: str,
        *options: str,
        on: Sequence[str] = (),
    ) -> None:
        self.site: Any = site  # what it tells of a crawl, each kind tells in its way
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

    @property
    def path(self) -> Path:
        """The run's directory, where it is in one and not on a server."""
        assert isinstance(self.store, Path)
        return self.store

    def finish(self, *options: str) -> int:
        """A life without disturbance, to its end; the exit code."""
        process = self.start(*options)
        return ended(process)

    def look(self) -> Run:
        """The run as a killed process left it. A copy, so as not to mend what the next one meets.

        Raises:
            StoreError: There is no run yet.
        """
        copy = self.path.with_name("look")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.path, copy)
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


class Gone(NamedTuple):
    """The end of a process that was told to end.

    Attributes:
        code: Its exit code.
        there: The monotonic time at which it was seen last, before it had ended itself or was being
            ended. What comes after that is the system's: a thread that writes to a disk is waited
            for, and who looks may itself be kept waiting.
        starved: For how many seconds its threads were kept waiting for a processor. On a machine
            that is too busy, that may be longer than all that they have to do takes.
    """

    code: int
    there: float
    starved: float


def gone(process: subprocess.Popen[bytes]) -> Gone:
    """Wait for the end of a process that was told to end."""
    there = time.monotonic()
    deadline = there + LONGEST_LIFE
    waits: dict[str, float] = {}
    before = waits_of(process.pid)
    while (now := time.monotonic()) < deadline and process.poll() is None:
        if not _is_ending(process.pid):
            there = now
        waits |= waits_of(process.pid)  # a thread that has ended keeps what it had last
        time.sleep(0.01)
    starved = sum(wait - before.get(thread, 0) for thread, wait in waits.items())
    return Gone(ended(process), there, starved)


def _is_ending(pid: int) -> bool:
    """Whether a process has called for its end, and only the system has still to do with it.

    Its first thread is a zombie then, or has a SIGKILL that waits for a system call to return.
    """
    with suppress(OSError):
        text = Path(f"/proc/{pid}/status").read_text()
        found = dict(line.split(":", 1) for line in text.splitlines())
        killed = int(found["SigPnd"], 16) >> (signal.SIGKILL - 1) & 1
        return found["State"].strip()[0] in "ZX" or bool(killed)
    return False


def happens(
    process: subprocess.Popen[Any], condition: Callable[[], bool], *, every: float = POLL
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

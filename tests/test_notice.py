"""A process that is told to go saves, and is gone within its grace; see `tests.faults.notice`."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crawlkit import open_run
from crawlkit.running.stopping import reserve_of
from crawlkit.testing import Site
from crawlkit.triggers.lastmoment import last_moment_of

from .faults.common import gone, happens
from .faults.notice import TERMINATE, Check, table

CRAWL = """
import asyncio, threading, time
from crawlkit import Crawler

class Slow(Crawler):
    concurrency = 4

    async def parse(self, page):
        page.save({"url": page.url})
        page.follow("a")
"""


def test_ten_notices_and_two_interrupts_lose_nothing_and_are_obeyed_in_time(tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    # Two lives a run, as ten runs side by side take as long as one.
    reports = Check(10, seed, lanes=6, lives=2).run(tmp_path)
    print(table(reports))
    assert [line for report in reports for line in report.wrong] == [], f"seed {seed}"
    notices = [notice for report in reports for notice in report.notices]
    assert sum(notice.kind == TERMINATE for notice in notices) == 10


# -- what hangs -----------------------------------------------------------------------------------


class Process:
    """A crawl of a site with one fast page and slow ones behind it, in a process of its own."""

    def __init__(self, directory: Path, site: Site) -> None:
        self.store = directory / "run"
        self.file = directory / "crawl.py"
        self.log = directory / "log"
        self.site = site
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def command(self) -> list[str]:
        run = [sys.executable, "-m", "crawlkit", "run", str(self.file), self.site.url("/")]
        return [*run, "--store", str(self.store), "--no-progress"]

    def start(self, text: str, *options: str) -> None:
        """Start it, and wait for the slow pages to be in flight."""
        self.file.write_text(text)
        before = self.site.hits()
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([*self.command, *options], stdout=log, stderr=log)
        assert happens(self.process, lambda: self.site.hits() >= before + 3), self.log.read_text()

    def tell(self, number: signal.Signals = signal.SIGTERM) -> float:
        """Send a signal; the seconds that the process took to be gone, when it could run."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(number)
        end = gone(self.process)
        return end.there - began - end.starved

    @property
    def code(self) -> int | None:
        """What it ended with."""
        return self.process.returncode if self.process else None

    def finish(self) -> list[str]:
        """Let it finish without what hangs; the paths of its items."""
        self.file.write_text(CRAWL)
        for path in ("/slow", "/slower"):
            self.site.add_page(path)
        done = subprocess.run(self.command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        with open_run(self.store) as run:
            return sorted(item["url"].removeprefix(self.site.url("")) for item in run.items())


@pytest.fixture
def crawl(tmp_path: Path, site: Site) -> Iterator[Process]:
    site.add_page("/", links=["/slow", "/slower"])
    site.add_page("/slow", delay=30)
    site.add_page("/slower", delay=30)
    crawl = Process(tmp_path, site)
    yield crawl
    if crawl.process is not None and crawl.process.poll() is None:
        crawl.process.kill()
        crawl.process.wait()


HANGS = {
    "migrating listener that waits": """
    async def on_start(self):
        self.on("migrating", lambda: asyncio.sleep(3600))
""",
    "migrating listener that blocks the event loop": """
    async def on_start(self):
        self.on("migrating", lambda: time.sleep(3600))
""",
    "persistState listener that waits": """
    async def on_start(self):
        self.on("systemInfo", self.hang_from_now_on)

    def hang_from_now_on(self):
        self.on("persistState", lambda: asyncio.sleep(3600))
""",
    "exit listener that waits": """
    async def on_start(self):
        self.on("exit", lambda: asyncio.sleep(3600))
""",
    "task that cannot be cancelled": """
    async def on_start(self):
        self.task = asyncio.create_task(self.stay())

    async def stay(self):
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                pass
""",
    "thread that cannot be stopped": """
    async def on_start(self):
        self.thread = asyncio.create_task(asyncio.to_thread(time.sleep, 3600))
""",
    "handler that cannot be cancelled": """
    async def parse(self, page):
        page.follow("a")
        page.save({"url": page.url})
        if "slow" in page.url:
            while True:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    pass
""",
    "handler that blocks the event loop": """
    async def parse(self, page):
        page.follow("a")
        page.save({"url": page.url})
        if "slow" in page.url:
            await asyncio.sleep(0.3)
            print("blocking", flush=True)
            time.sleep(3600)
""",
    "store that does not close": """
    async def on_start(self):
        self.job.store.close = lambda: asyncio.sleep(3600)
""",
    "async generator that does not end": """
    async def on_start(self):
        self.generator = self.generate()
        await anext(self.generator)

    async def generate(self):
        try:
            yield
        finally:
            await asyncio.sleep(3600)
""",
}


@pytest.mark.parametrize("hanging", HANGS)
def test_whatever_hangs_the_process_is_gone_within_its_grace(crawl: Process, hanging: str) -> None:
    if hanging.startswith("handler"):
        crawl.site.add_page("/slow")
        crawl.site.add_page("/slower")
    crawl.start(CRAWL + HANGS[hanging], "--grace", "3", "--set", "persist_interval=0.1")
    time.sleep(1.2)
    seconds = crawl.tell()
    assert crawl.code == 75, crawl.log.read_text()
    assert seconds < 3, crawl.log.read_text()
    assert crawl.finish() == ["/", "/slow", "/slower"]


def test_what_does_not_end_is_named_by_its_line(crawl: Process) -> None:
    text = CRAWL + HANGS["task that cannot be cancelled"].replace("on_start", "begin")
    text += HANGS["async generator that does not end"].replace("yield", "yield await self.begin()")
    crawl.start(text, "--grace", "3")
    crawl.tell()
    stay, generate = (
        number for number, line in enumerate(text.splitlines(), 1) if "sleep(3600)" in line
    )
    told = re.findall(r"(\S+: \S+) does not end, and is left behind", crawl.log.read_text())
    assert told == [f"crawl.py:{stay}: Slow.stay", f"crawl.py:{generate}: Slow.generate"]


@pytest.mark.parametrize("grace", [0.2, 1.0, 1.5, 2.0, 3.0, 8.0, 30.0, 120.0])
def test_a_grace_has_time_for_pages_for_saving_and_for_the_end(grace: float) -> None:
    end, reserve = last_moment_of(grace), reserve_of(grace)
    assert end >= grace * 0.05
    assert end >= (0.25 if grace >= 2 else grace / 8)
    assert reserve - end >= (0.5 if grace >= 2 else grace / 4)
    assert grace - reserve >= grace / 2


def test_who_hangs_on_a_pipe_that_nobody_reads_is_gone_at_the_end_of_its_grace() -> None:
    text = """
import os, sys, time
from crawlkit.triggers.lastmoment import LastMoment
os.set_blocking(2, False)
try:
    while True:
        os.write(2, bytes(4096))
except BlockingIOError:
    os.set_blocking(2, True)
LastMoment().within(1.0)
sys.stderr.write("this is not read")
sys.stderr.flush()
"""
    with subprocess.Popen([sys.executable, "-c", text], stderr=subprocess.PIPE) as process:
        assert gone(process).code == 75


# -- Ctrl-C ---------------------------------------------------------------------------------------


def test_ctrl_c_lets_pages_in_flight_finish(crawl: Process) -> None:
    crawl.site.add_page("/slow", delay=0.7)
    crawl.start(CRAWL, "--grace", "3")
    seconds = crawl.tell(signal.SIGINT)
    assert (crawl.code, seconds < 3) == (75, True), crawl.log.read_text()
    with open_run(crawl.store) as run:
        assert {item["url"] for item in run.items()} == {
            crawl.site.url("/"),
            crawl.site.url("/slow"),
        }
        assert (run.statistics.pending, run.statistics.in_flight) == (1, 0)
    assert crawl.finish() == ["/", "/slow", "/slower"]


def test_a_second_ctrl_c_ends_the_process_on_the_spot(crawl: Process) -> None:
    crawl.start(CRAWL, "--grace", "30")
    assert crawl.process is not None
    crawl.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert crawl.process.poll() is None
    assert crawl.tell(signal.SIGINT) < 1
    assert crawl.code == 130
    assert "stopped at once" in crawl.log.read_text()
    assert crawl.finish() == ["/", "/slow", "/slower"]


def test_a_second_ctrl_c_ends_a_process_whose_event_loop_is_blocked(crawl: Process) -> None:
    """And the log names what blocks it."""
    crawl.site.add_page("/slow")
    crawl.site.add_page("/slower")
    text = CRAWL + HANGS["handler that blocks the event loop"]
    crawl.start(text, "--grace", "30")
    assert crawl.process is not None
    assert happens(crawl.process, lambda: "blocking" in crawl.log.read_text(), every=0.02)
    crawl.process.send_signal(signal.SIGINT)
    time.sleep(1)  # two that are pending would be one
    assert crawl.process.poll() is None
    assert crawl.tell(signal.SIGINT) < 1
    assert crawl.code == 130
    line = text.splitlines().index("            time.sleep(3600)") + 1
    assert f"stopped at once, in crawl.py:{line};" in crawl.log.read_text()
    assert crawl.finish() == ["/", "/slow", "/slower"]


def test_a_second_sigterm_changes_nothing(crawl: Process) -> None:
    crawl.start(CRAWL, "--grace", "3")
    assert crawl.process is not None
    os.kill(crawl.process.pid, signal.SIGTERM)
    time.sleep(0.2)
    seconds = crawl.tell()
    assert (crawl.code, seconds < 3) == (75, True), crawl.log.read_text()
    assert crawl.finish() == ["/", "/slow", "/slower"]

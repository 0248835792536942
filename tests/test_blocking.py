"""What blocks the event loop is named, once, with its line; nobody is blamed who does not."""

from __future__ import annotations

import asyncio
import io
import logging
import pdb
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from math import inf
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import crawlkit
from crawlkit import Crawler, Page, Request
from crawlkit.counting.errorgroups import Line, line_below_crawlkit
from crawlkit.job import Job
from crawlkit.machine import Starving
from crawlkit.running import blocking
from crawlkit.running.blocking import COMPUTING, LOOK, REST, SLACK, Block, Look, Watch
from crawlkit.running.measuring import PROBE, Pulse
from crawlkit.testing import Site, handle

SLEEP = Line("shop.py", 12, "Shop.parse")
THREAD = "crawlkit-blocking"


# -- what looks say ---------------------------------------------------------------------------


class Looks:
    """Looks at a loop that was last seen to go on at 0.0, the first of them in time."""

    def __init__(self) -> None:
        self.block = Block(0.0)
        self.last = Look(0.0, 0.0, 0.0, 0.0)
        self.wanted = REST + PROBE

    def add(
        self,
        line: Line | None,
        *,
        after: float | None = None,
        computed: float = 0.0,
        starved: float = 0.0,
    ) -> None:
        """One more, on time or `after` so many seconds."""
        before, wanted = self.last, self.wanted
        gap = wanted if after is None else after
        self.last = Look(
            before.at + gap, wanted, before.computed + computed, before.starved + starved
        )
        self.block.add(before, self.last, line)
        self.wanted = LOOK


def test_a_line_that_sleeps_is_blamed_for_as_long_as_it_sleeps() -> None:
    looks = Looks()
    for _ in range(26):
        looks.add(SLEEP)
    assert looks.block.culprit == SLEEP
    looks.block.over(looks.last, looks.last.at + 0.05)
    assert looks.block.seconds == pytest.approx(REST + 25 * LOOK + 0.05)


def test_what_is_over_before_a_second_is_not_told() -> None:
    looks = Looks()
    for _ in range(4):
        looks.add(SLEEP)
    assert looks.block.culprit is None


def test_a_process_that_was_stopped_blames_nobody() -> None:
    """SIGSTOP, a machine that slept: the looks are late, and nothing was computed meanwhile."""
    at_first, later = Looks(), Looks()
    at_first.add(SLEEP, after=3600.0, computed=0.5)
    for _ in range(3):
        at_first.add(SLEEP)
    for after in (None, None, 3600.0, None, 3600.0, None):
        later.add(SLEEP, after=after)
    for looks in (at_first, later):
        assert looks.block.culprit is None
        assert looks.block.seconds < 1.0


def test_what_holds_pythons_lock_is_blamed_although_nobody_could_look() -> None:
    """As `re` does, with a pattern that backtracks."""
    looks = Looks()
    looks.add(SLEEP, after=5.0, computed=4.9)
    assert looks.block.culprit == SLEEP
    assert looks.block.seconds == pytest.approx(5.0 - PROBE)


def test_on_a_busy_machine_only_what_it_computed_counts() -> None:
    """It got a tenth of a processor; the looks are in time, or late as well."""
    in_time, late, long = Looks(), Looks(), Looks()
    for _ in range(20):
        in_time.add(SLEEP, computed=LOOK / 10, starved=LOOK * 0.9)
    late.add(SLEEP, after=3.0, computed=0.3, starved=2.7)
    long.add(SLEEP, after=30.0, computed=3.0, starved=27.0)
    assert in_time.block.culprit is None
    assert late.block.culprit is None
    assert long.block.culprit == SLEEP
    assert long.block.seconds == pytest.approx(3.0 - PROBE)


def test_a_look_that_is_a_little_late_counts_and_one_that_is_later_does_not() -> None:
    little, late = Looks(), Looks()
    for looks, after in ((little, LOOK + 0.9 * SLACK), (late, LOOK + 1.1 * SLACK)):
        looks.add(SLEEP)
        for _ in range(10):
            looks.add(SLEEP, after=after, computed=0.9 * COMPUTING * after)
    assert little.block.culprit == SLEEP
    assert late.block.culprit is None


def test_of_a_function_that_computes_the_line_that_was_seen_most_often_is_told() -> None:
    looks = Looks()
    for number in (7, 8, 9, 8, 10, 8, 7):
        looks.add(SLEEP._replace(number=number))
    assert looks.block.culprit == SLEEP._replace(number=8)


def test_who_has_not_done_half_of_it_is_not_blamed() -> None:
    looks = Looks()
    for number in range(20):
        looks.add(SLEEP if number % 3 == 0 else None)
    assert looks.block.culprit is None


# -- whose line it is -------------------------------------------------------------------------


def frame_of(*calls: tuple[str, str]) -> FrameType:
    """The frame where these modules and files have called each other in turn."""

    def call() -> FrameType:
        return sys._getframe(1)

    for name, file in reversed(calls):
        space: dict[str, Any] = {"__name__": name, "inner": call}
        exec(compile("def call():\n    return inner()", file, "exec"), space)
        call = space["call"]
    return call()


OURS = ("crawlkit.crawler", str(Path(crawlkit.__file__).with_name("crawler.py")))
CLIENT = ("requests.api", "/venv/site-packages/requests/api.py")
DEBUGGER = ("pdb", pdb.__file__)
MINE = ("shop", "/home/me/shop.py")


@pytest.mark.parametrize(
    ("calls", "home", "file"),
    [
        ([MINE, OURS, MINE, CLIENT], "shop", "shop.py"),
        ([OURS, ("big.shop", "/venv/site-packages/big/shop.py"), CLIENT], "big", "big/shop.py"),
        # What crawlkit itself needs is not the user's, nor is what runs beside the crawl.
        ([MINE, OURS, CLIENT], "shop", None),
        ([MINE, CLIENT], "shop", None),
        ([MINE, OURS], "shop", None),
        ([OURS, MINE, OURS], "shop", "shop.py"),
        # Whoever has stopped it in a debugger knows why it stands still.
        ([OURS, MINE, DEBUGGER], "shop", None),
        ([OURS, MINE, DEBUGGER, MINE], "shop", None),
        ([DEBUGGER, OURS, MINE, CLIENT], "shop", "shop.py"),
    ],
)
def test_a_line_is_the_users_where_crawlkit_has_called_it(
    calls: list[tuple[str, str]], home: str, file: str | None
) -> None:
    line = line_below_crawlkit(frame_of(*calls), home, prompts=("pdb",))
    assert line == (None if file is None else Line(file, 2, "call"))


def test_how_long_a_thread_had_no_processor_is_what_the_system_says(tmp_path: Path) -> None:
    file = tmp_path / "proc/self/task/17/schedstat"
    unknown = Starving(17, tmp_path)
    assert unknown.seconds() == 0.0
    unknown.close()
    file.parent.mkdir(parents=True)
    file.write_text("8000000000 2500000000 77\n")
    known = Starving(17, tmp_path)
    assert known.seconds() == 2.5
    file.write_text("8000000000 3500000000 78\n")
    assert known.seconds() == 3.5
    known.close()


def test_of_a_thread_that_has_ended_nothing_is_known() -> None:
    with ThreadPoolExecutor(1) as pool:
        thread = pool.submit(threading.get_native_id).result()
        ended = Starving(thread)
        assert ended.seconds() >= 0.0
    while Path(f"/proc/self/task/{thread}").exists():  # the system takes a moment longer
        time.sleep(0.001)
    assert ended.seconds() == 0.0
    ended.close()


# -- a crawl ----------------------------------------------------------------------------------


class Told(logging.Handler):
    """Keeps what was told, and says so to those who wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.is_there = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        """It is told."""
        assert record.levelno == logging.WARNING
        self.lines.append(record.getMessage())
        self.is_there.set()


@pytest.fixture
def told() -> Iterator[Told]:
    handler = Told()
    blocking.log.addHandler(handler)
    yield handler
    blocking.log.removeHandler(handler)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks that are late count, too: what is blocked here is never the machine's fault."""
    monkeypatch.setattr(blocking, "SLACK", inf)


class Chain(Crawler):
    """Each page leads to the next one, as long as its handler says so."""

    store = "memory:"
    obey_robots = False

    async def parse(self, page: Page) -> None:
        number = int(page.request.user_data.get("number", 0))
        if await self.handle(number):
            page.follow(Request(page.url, unique_key=str(number), user_data={"number": number + 1}))

    async def handle(self, number: int) -> bool:
        return False


def here(function: Callable[..., Any], text: str) -> str:
    """How a line of a function in this file is told."""
    lines = Path(__file__).read_text().splitlines()
    first = function.__code__.co_firstlineno
    number = next(number for number in range(first, len(lines)) if text in lines[number - 1])
    return f"{'/'.join(Path(__file__).parts[-2:])}:{number} in {function.__qualname__}"


@pytest.mark.usefixtures("patient")
def test_what_blocks_is_told_once_with_its_line_and_what_to_do(site: Site, told: Told) -> None:
    """It blocks longer each time until then: it may take long until a thread has woken up."""
    blocked: list[float] = []

    class Blocks(Chain):
        async def handle(self, number: int) -> bool:
            was_told = bool(told.lines)
            blocked.append(1.5 * 2**number if not was_told else blocked[-1])
            time.sleep(blocked[-1])  # noqa: ASYNC251
            await asyncio.sleep(0.5)  # it is told
            return not was_told and number < 5

    site.add_page("/")
    assert Blocks(start_urls=[site.url("/")]).run() == 0
    (line,) = told.lines
    assert len(blocked) >= 2, "it is not told twice"
    place, _, rest = line.partition(": ")
    assert place == here(Blocks.handle, "time.sleep(")
    what, _, remedy = rest.partition("; ")
    found = re.fullmatch(r"the event loop was blocked for ([\d.]+) s, and .*", what)
    assert found is not None, what
    assert 0.8 < float(found[1]) <= blocked[-1] + 0.5
    assert "await asyncio.to_thread(...)" in remedy


@pytest.mark.usefixtures("patient")
def test_what_blocks_the_last_page_is_told_before_the_crawl_is_over(
    site: Site, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next look would come long after that."""
    monkeypatch.setattr(blocking, "REST", 0.1)
    monkeypatch.setattr(blocking, "LOOK", 1.0)
    monkeypatch.setattr(blocking, "LONG", inf)

    class Last(Chain):
        persist_interval = 0.01

        async def handle(self, number: int) -> bool:
            time.sleep(seconds)  # noqa: ASYNC251
            return False

    site.add_page("/")
    for seconds in (2.5, 5, 10, 20):  # noqa: B007 - longer each time, as above
        assert Last(start_urls=[site.url("/")]).run() == 0
        if told.lines:
            break
    assert told.lines


@pytest.mark.usefixtures("patient")
async def test_what_does_not_end_is_told_meanwhile_also_in_a_loop_of_the_users_own(
    site: Site, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocking, "LONG", 1.0)

    class Hangs(Chain):
        async def handle(self, number: int) -> bool:
            assert told.is_there.wait(60)
            return False

    site.add_page("/")
    await Hangs(start_urls=[site.url("/")]).crawl()
    (line,) = told.lines
    assert line.startswith(here(Hangs.handle, "told.is_there.wait") + ": the event loop has been")


async def test_a_crawl_that_waits_is_not_blocked(site: Site, told: Told) -> None:
    """Nor is one whose handler is always at work, and lets others have their turn; nor is the loop
    where somebody who listens to the measuring keeps it waiting.
    """

    class Waits(Chain):
        async def on_start(self) -> None:
            self.measured = asyncio.Event()
            self.on("systemInfo", self.listen)

        async def listen(self) -> None:
            self.measured.set()
            await asyncio.sleep(3)

        async def handle(self, number: int) -> bool:
            await self.measured.wait()
            until = time.monotonic() + 2.5
            while (now := time.monotonic()) < until:
                while time.monotonic() < now + 0.05:
                    pass
                await asyncio.sleep(0)
            return False

    site.add_page("/")
    await Waits(start_urls=[site.url("/")]).crawl()
    assert not told.lines


async def test_what_blocks_beside_the_crawl_is_not_the_crawlers(site: Site, told: Told) -> None:
    """As in a notebook, whose next cell is at work while a crawl goes on; or before the crawl."""
    is_fetched = asyncio.Event()

    class Started(Chain):
        async def on_start(self) -> None:
            time.sleep(1.2)  # noqa: ASYNC251

        async def handle(self, number: int) -> bool:
            is_fetched.set()
            await asyncio.sleep(0.1)
            return False

    async def next_cell() -> None:
        await is_fetched.wait()
        time.sleep(1.5)  # noqa: ASYNC251

    site.add_page("/")
    await asyncio.gather(Started(start_urls=[site.url("/")]).crawl(), next_cell())
    assert not told.lines


async def test_whoever_stops_in_a_debugger_is_not_blamed(site: Site, told: Told) -> None:
    class User(io.StringIO):
        def readline(self, size: int | None = -1, /) -> str:  # type: ignore[override] # of bytes
            time.sleep(1.5)
            return "continue\n"

    answers = io.StringIO()

    class Debugged(Chain):
        async def handle(self, number: int) -> bool:
            pdb.Pdb(stdin=User(), stdout=answers, nosigint=True, readrc=False).set_trace()
            return False

    site.add_page("/")
    await Debugged(start_urls=[site.url("/")]).crawl()
    assert "(Pdb)" in answers.getvalue()
    assert not told.lines


async def test_the_pulse_of_a_job_is_its_loops() -> None:
    async with Job("memory:", signals=False) as job:
        for _ in range(3):
            before = job.pulse.at
            async with asyncio.timeout(60):
                while job.pulse.at == before:  # noqa: ASYNC110 - what is waited for has no event
                    await asyncio.sleep(0.01)


def test_a_loop_that_is_closed_is_looked_at_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a crawl was left behind."""
    monkeypatch.setattr(blocking, "REST", 0.05)

    async def leave() -> None:
        Watch(Pulse(), "shop").__enter__()

    asyncio.run(leave())
    gone()


def gone() -> None:
    until = time.monotonic() + 30
    while threads() and time.monotonic() < until:
        time.sleep(0.01)
    assert threads() == []


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == THREAD]


def test_the_thread_that_looks_is_there_for_the_crawl_alone(site: Site) -> None:
    """Where one handler is tried, nobody looks."""

    class Looked(Chain):
        async def handle(self, number: int) -> bool:
            self.state["threads"] = threads()
            return False

    assert handle(Looked).state == {"threads": []}
    site.add_page("/")
    crawler = Looked(start_urls=[site.url("/")])
    assert crawler.run() == 0
    assert crawler.state["threads"] == [THREAD]
    gone()


STOPPED = """
import time
from crawlkit import Crawler, Request

class Shop(Crawler):
    name = "shop"
    obey_robots = False

    async def parse(self, page):
        until = time.monotonic() + 0.02
        while time.monotonic() < until:
            pass
        number = page.request.user_data.get("number", 0)
        page.follow(Request(page.url, unique_key=str(number), user_data={"number": number + 1}))
"""


def test_a_process_that_is_stopped_and_goes_on_says_nothing(tmp_path: Path, site: Site) -> None:
    site.add_page("/")
    (tmp_path / "shop.py").write_text(STOPPED)
    with subprocess.Popen(
        [sys.executable, "-m", "crawlkit", "run", "shop.py", site.url("/"), "--no-progress"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for _ in range(2):
            before = site.hits()
            while site.hits() < before + 20:
                time.sleep(0.01)
            process.send_signal(signal.SIGSTOP)
            time.sleep(1.5)
            process.send_signal(signal.SIGCONT)
        before = site.hits()
        while site.hits() < before + 20:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate()
    assert process.returncode == 75, said
    assert "event loop" not in said

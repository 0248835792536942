"""The system clock may jump as it likes: nothing waits for it, and nothing counts backwards."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from crawlkit import open_run
from crawlkit.checkpoint import MAX_DELAY, Checkpoint, Loader, Pending, Snapshot
from crawlkit.politeness.throttle import Throttle
from crawlkit.request import Request, fingerprint
from crawlkit.stores.memory import MemoryStore
from crawlkit.testing import ManualClock

from .faults.common import Crawl, SiteProcess, gone, happens, kill
from .faults.results import differences, numbers, result_of
from .stopwatch import waits_of

YEAR = 365 * 86400.0
NOW = 1_700_000_000.0
PAGES = 300
LONGEST_OWN_DELAY = 1.0
"""Seconds that the rough crawl waits at most before it tries a page again."""


class SystemClock:
    """The system clock of the processes that are started with `environment`.

    libfaketime stands between them and the real one. What it adds is read from a file, at every
    call, so that it can be changed while they run. The monotonic clock is not touched.
    """

    def __init__(self, directory: Path) -> None:
        self._file = directory / "clock"
        self.set(0)
        library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # A remedy for an old C library, which with a new one makes threads wait for the GIL.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        }

    def set(self, seconds: float) -> None:
        """Let it be so many seconds ahead of the real one."""
        draft = self._file.with_suffix(".new")
        draft.write_text(f"{seconds:+.0f}\n")
        os.replace(draft, self._file)  # at no moment is there half a file


@pytest.fixture
def clock(tmp_path: Path) -> SystemClock:
    return SystemClock(tmp_path)


@pytest.fixture(scope="module")
def site() -> Iterator[SiteProcess]:
    with SiteProcess("--pages", str(PAGES), "--slow", "0.02", "0.2") as running:
        yield running


@pytest.fixture(scope="module")
def whole(site: SiteProcess, tmp_path_factory: pytest.TempPathFactory) -> Crawl:
    """The crawl that no clock disturbed."""
    crawl = Crawl(site, tmp_path_factory.mktemp("whole") / "crawl", "whole")
    assert crawl.finish() == 0
    return crawl


@pytest.fixture
def crawl(site: SiteProcess, tmp_path: Path) -> Iterator[Crawl]:
    """A crawl that a clock is going to disturb."""
    interval = ("--set", "persist_interval=0.05")
    with Crawl(site, tmp_path / "crawl", tmp_path.name, *interval) as crawl:
        yield crawl


def assert_no_jump_in_the_numbers(crawl: Crawl) -> None:
    """No number was made by a jump of the clock: none is negative, and no duration is a year."""
    with open_run(crawl.store) as run:
        statistics = run.statistics.to_dict()
        requests = [*run.requests("handled"), *run.requests("failed")]
    found = dict(numbers(statistics))
    assert {path: number for path, number in found.items() if number < 0} == {}
    durations = [
        number
        for path, number in found.items()
        if path.startswith(("duration_", "runtime_")) and not path.endswith(".count")
    ]
    durations += [request.duration for request in requests if request.duration is not None]
    assert len(durations) > len(requests) > PAGES
    assert 0 <= min(durations) <= max(durations) < 600


def longest_gap(crawl: Crawl) -> float:
    """The longest time for which the last life of a crawl asked nothing, from its first request."""
    asked = [at for at, _, _ in crawl.site.asked(crawl.name) if at > crawl.started]
    return max(later - earlier for earlier, later in pairwise(asked))


@pytest.mark.needs("faketime")
@pytest.mark.parametrize("jump", [-YEAR, YEAR], ids=["back", "forward"])
def test_a_jump_by_a_year_during_a_run_stalls_nothing_and_gives_no_negative_duration(
    site: SiteProcess, whole: Crawl, crawl: Crawl, clock: SystemClock, jump: float
) -> None:
    requests, late = site.count(whole.name)[0], site.starved
    process = crawl.start(environment=clock.environment)
    # The first retries wait at the first jump already, and the last ones still at the last.
    for number, share in enumerate((0.1, 0.4, 0.7, 0.95), start=1):
        come_so_far = partial(has_asked, crawl, share * requests)
        assert happens(process, come_so_far, every=0.01)
        clock.set(number * jump)
    starved = starved_to_the_end(process) + site.starved - late
    assert process.returncode == 0
    assert differences(result_of(whole), result_of(crawl)) == []
    assert_no_jump_in_the_numbers(crawl)
    assert longest_gap(crawl) < LONGEST_OWN_DELAY + 1 + starved


def starved_to_the_end(process: subprocess.Popen[bytes]) -> float:
    """For how many seconds of its life a process that is about to end got no processor."""
    so_far = sum(waits_of(process.pid).values())
    return so_far + gone(process).starved


def has_asked(crawl: Crawl, requests: float) -> bool:
    return crawl.site.count(crawl.name)[0] >= requests


@pytest.mark.needs("faketime")
@pytest.mark.parametrize("jump", [-YEAR, YEAR], ids=["back", "forward"])
def test_a_jump_between_two_lives_stalls_nothing_either(
    whole: Crawl, crawl: Crawl, clock: SystemClock, jump: float
) -> None:
    process = crawl.start(environment=clock.environment)
    assert happens(process, lambda: is_anything_waiting(crawl), every=0.05)
    kill(process)
    assert is_anything_waiting(crawl)
    clock.set(jump)
    late = crawl.site.starved
    process = crawl.start(environment=clock.environment)
    starved = starved_to_the_end(process) + crawl.site.starved - late
    assert process.returncode == 0
    # Where the clock was set back, the second life has ended before the first one began; that is
    # what the clock said, and all that may be out of order.
    assert differences(result_of(whole), replace(result_of(crawl), wrong=[])) == []
    assert crawl.check() == []
    assert_no_jump_in_the_numbers(crawl)
    assert longest_gap(crawl) < LONGEST_OWN_DELAY + 1 + starved


def is_anything_waiting(crawl: Crawl) -> bool:
    """Whether the store holds a request that is not to be tried again yet."""
    if not (crawl.path / "run.sqlite3").exists():
        return False
    with open_run(crawl.store) as run:
        return any(request.at > 0 for request in run.requests("pending"))


# -- the parts, without a process -----------------------------------------------------------------


async def claimed(due: float, now: float) -> int:
    """How many requests are claimed at `now`, of one that is not to be tried again before `due`."""
    store = MemoryStore()
    await store.open()
    request = Request("https://shop.example/")
    waiting = Pending(request, fingerprint(request), request.host, due)
    await store.commit(Checkpoint(fresh=[waiting]))
    claim = await store.claim(10, {}, now)
    await store.close()
    return len(claim.leases)


@pytest.mark.parametrize("ahead", [MAX_DELAY + 1, YEAR])
async def test_a_retry_that_is_further_away_than_any_delay_is_due(ahead: float) -> None:
    assert await claimed(due=NOW + ahead, now=NOW) == 1


@pytest.mark.parametrize("ahead", [0.01, MAX_DELAY])
async def test_a_retry_within_the_longest_delay_waits(ahead: float) -> None:
    assert await claimed(due=NOW + ahead, now=NOW) == 0


@pytest.mark.parametrize("jump", [-YEAR, -1.0, 1.0, YEAR])
def test_a_pause_of_a_host_gets_no_longer_by_a_jump_between_two_lives(jump: float) -> None:
    throttle = Throttle(ManualClock(NOW))
    throttle.pause("shop.example", 30.0)
    checkpoint = Checkpoint()
    with checkpoint.of("throttle"):
        throttle.collect(checkpoint)
    later = Throttle(ManualClock(NOW + jump))
    documents = {name: saved for name, saved in checkpoint.documents.items() if saved is not None}
    Loader(Snapshot(documents)).restore("throttle", later)
    assert later.ready_at("shop.example") <= NOW + jump + 30

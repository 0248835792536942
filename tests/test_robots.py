"""The robots.txt of each origin: asked for once, kept, and what its answer means."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import process_time, thread_time

import pytest

from crawlkit.checkpoint import Checkpoint, Document
from crawlkit.errors import FetchError, NetworkError, RedirectError, RobotsError
from crawlkit.job import Job
from crawlkit.politeness.robots import (
    MAX_AGE,
    MAX_ORIGINS,
    MAX_RULES,
    MAX_STALE,
    MIN_AGE,
    TROUBLE,
    Robots,
)
from crawlkit.response import Response
from crawlkit.stores import open_store
from crawlkit.testing import ManualClock

URL = "https://shop.example/private/lamp"
FORBIDDEN = "User-agent: *\nDisallow: /private\n"


@dataclass
class Site:
    """Answers for robots.txt files, and counts how often it was asked."""

    answer: Response | Exception | None = None
    asked: list[str] = field(default_factory=list)
    gate: asyncio.Event | None = None

    def serve(self, body: str | bytes = FORBIDDEN, status: int = 200, **headers: str) -> None:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        data = body.encode() if isinstance(body, str) else body
        self.answer = Response(
            url="https://shop.example/robots.txt", status=status, headers=fields, body=data
        )

    async def fetch(self, url: str) -> Response:
        self.asked.append(url)
        if self.gate is not None:
            await self.gate.wait()
        else:
            await asyncio.sleep(0)
        if isinstance(self.answer, Exception):
            raise self.answer
        assert self.answer is not None
        return self.answer


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def site() -> Site:
    site = Site()
    site.serve()
    return site


async def nothing(name: str) -> Document | None:
    return None


@pytest.fixture
def robots(clock: ManualClock) -> Robots:
    return Robots(clock, user_agent="crawlkit", read=nothing)


def collected(robots: Robots) -> dict[str, Document | None]:
    checkpoint = Checkpoint()
    with checkpoint.of("robots"):
        robots.collect(checkpoint)
    return checkpoint.documents


def next_life(robots: Robots, clock: ManualClock, user_agent: str = "crawlkit") -> Robots:
    documents = collected(robots)

    async def read(name: str) -> Document | None:
        return documents.get(name)

    return Robots(clock, user_agent=user_agent, read=read)


# -- asking -----------------------------------------------------------------------------------


async def test_the_rules_of_an_origin_are_fetched_once_and_then_at_hand(
    robots: Robots, site: Site
) -> None:
    assert robots.peek(URL) is None
    rules = await robots.rules(URL, site.fetch)
    assert rules.reason(URL) == "Disallow: /private (line 2)"
    assert await robots.rules("https://shop.example/other?x", site.fetch) is rules
    assert robots.peek("https://shop.example/") is rules
    assert site.asked == ["https://shop.example/robots.txt"]


async def test_scheme_host_and_port_have_each_a_robots_txt_of_their_own(
    robots: Robots, site: Site
) -> None:
    for origin in ("https://a.example", "http://a.example", "https://a.example:8443"):
        await robots.rules(f"{origin}/x", site.fetch)
    assert site.asked == [
        "https://a.example/robots.txt",
        "http://a.example/robots.txt",
        "https://a.example:8443/robots.txt",
    ]


async def test_many_who_ask_at_once_cause_one_fetch(robots: Robots, site: Site) -> None:
    found = await asyncio.gather(*(robots.rules(URL, site.fetch) for _ in range(100)))
    assert len(set(map(id, found))) == 1
    assert len(site.asked) == 1


async def test_who_is_cancelled_takes_nothing_from_the_others(robots: Robots, site: Site) -> None:
    site.gate = asyncio.Event()
    first, second, third = (asyncio.create_task(robots.rules(URL, site.fetch)) for _ in range(3))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    third.cancel()
    await asyncio.sleep(0)
    site.gate.set()
    assert (await second).reason(URL) is not None
    assert first.cancelled()
    assert third.cancelled()
    assert len(site.asked) == 1


async def test_a_fetch_that_nobody_waits_for_any_more_is_given_up_and_can_be_begun_anew(
    robots: Robots, site: Site
) -> None:
    site.gate = asyncio.Event()
    before = asyncio.all_tasks()
    only = asyncio.create_task(robots.rules(URL, site.fetch))
    await asyncio.sleep(0.01)
    only.cancel()
    with pytest.raises(asyncio.CancelledError):
        await only
    site.gate = None
    assert (await robots.rules(URL, site.fetch)).reason(URL) is not None
    assert len(site.asked) == 2
    await asyncio.sleep(0.01)
    assert asyncio.all_tasks() == before


async def test_what_is_at_hand_costs_next_to_nothing(robots: Robots, site: Site) -> None:
    await robots.rules(URL, site.fetch)
    start = thread_time()
    for _ in range(10_000):
        robots.peek(URL)
    assert (thread_time() - start) / 10_000 < 20e-6


async def test_memory_is_bounded_in_origins_and_in_rules(robots: Robots, site: Site) -> None:
    for number in range(MAX_ORIGINS + 10):
        await robots.rules(f"https://{number}.example/", site.fetch)
    assert robots.peek("https://0.example/") is None
    assert robots.peek(f"https://{MAX_ORIGINS + 9}.example/") is not None
    site.serve("User-agent: *\n" + "".join(f"Disallow: /{n}\n" for n in range(25_000)))
    for number in range(MAX_RULES // 25_000 + 2):
        await robots.rules(f"https://large{number}.example/", site.fetch)
    at_hand = [
        number
        for number in range(MAX_RULES // 25_000 + 2)
        if robots.peek(f"https://large{number}.example/") is not None
    ]
    assert at_hand == list(range(2, MAX_RULES // 25_000 + 2))


async def test_what_was_forgotten_is_read_from_the_checkpoint_that_is_under_way(
    robots: Robots, site: Site
) -> None:
    """It is not in the store yet, and is not fetched again all the same."""
    await robots.rules(URL, site.fetch)
    for number in range(MAX_ORIGINS):
        await robots.rules(f"https://{number}.example/", site.fetch)
    count = len(site.asked)
    assert robots.peek(URL) is None
    assert (await robots.rules(URL, site.fetch)).reason(URL) is not None
    collected(robots)
    for number in range(MAX_ORIGINS):
        await robots.rules(f"https://{number}.example/", site.fetch)
    assert robots.peek(URL) is None
    assert (await robots.rules(URL, site.fetch)).reason(URL) is not None
    assert len(site.asked) == count


# -- what the answer means --------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451, 304, 204])
async def test_without_a_robots_txt_everything_is_allowed(
    robots: Robots, site: Site, status: int
) -> None:
    site.serve("" if status == 204 else FORBIDDEN, status)
    assert (await robots.rules(URL, site.fetch)).reason(URL) is None
    assert robots.peek(URL) is not None


async def test_redirects_without_end_are_as_good_as_no_robots_txt(
    robots: Robots, site: Site
) -> None:
    site.answer = RedirectError("more than 20 redirects")
    assert (await robots.rules(URL, site.fetch)).reason(URL) is None
    await robots.rules(URL, site.fetch)
    assert len(site.asked) == 1


@pytest.mark.parametrize("status", [429, 500, 503, 599])
async def test_an_origin_in_trouble_is_left_alone_and_not_asked_again_for_a_while(
    robots: Robots, site: Site, clock: ManualClock, status: int
) -> None:
    site.serve(status=status)
    for _ in range(3):
        with pytest.raises(RobotsError, match=f"shop.example answers with HTTP {status}") as info:
            await robots.rules(URL, site.fetch)
        assert info.value.retry_after == pytest.approx(TROUBLE)
        assert robots.peek(URL) is None
    assert len(site.asked) == 1
    clock.advance(TROUBLE / 2)
    with pytest.raises(RobotsError) as info:
        await robots.rules(URL, site.fetch)
    assert info.value.retry_after == pytest.approx(TROUBLE / 2)
    clock.advance(TROUBLE / 2)
    site.serve()
    assert (await robots.rules(URL, site.fetch)).reason(URL) is not None
    assert len(site.asked) == 2


async def test_an_origin_in_trouble_may_say_for_how_long(
    robots: Robots, site: Site, clock: ManualClock
) -> None:
    site.serve(status=503, Retry_After="300")
    with pytest.raises(RobotsError) as info:
        await robots.rules(URL, site.fetch)
    assert info.value.retry_after == 300
    clock.advance(299)
    with pytest.raises(RobotsError):
        await robots.rules(URL, site.fetch)
    assert len(site.asked) == 1


async def test_an_origin_in_trouble_may_say_that_it_can_be_asked_again_at_once(
    robots: Robots, site: Site
) -> None:
    site.serve(status=503, Retry_After="0")
    with pytest.raises(RobotsError) as info:
        await robots.rules(URL, site.fetch)
    assert info.value.retry_after == 0
    site.serve()
    assert (await robots.rules(URL, site.fetch)).reason(URL) is not None


async def test_everyone_who_waits_hears_of_a_network_error_and_the_next_one_asks_again(
    robots: Robots, site: Site
) -> None:
    site.answer = NetworkError("connection reset")
    found = await asyncio.gather(
        *(robots.rules(URL, site.fetch) for _ in range(5)), return_exceptions=True
    )
    assert {type(error) for error in found} == {NetworkError}
    assert len(site.asked) == 1
    site.serve()
    assert (await robots.rules(URL, site.fetch)).reason(URL) is not None


@pytest.mark.parametrize("trouble", ["503", "network"])
async def test_an_older_copy_holds_while_the_origin_is_in_trouble_but_not_for_ever(
    robots: Robots, site: Site, clock: ManualClock, trouble: str
) -> None:
    await robots.rules(URL, site.fetch)
    if trouble == "network":
        site.answer = NetworkError("no such host")
    else:
        site.serve("", 503)
    clock.advance(MAX_AGE)
    assert robots.peek(URL) is None
    assert (await robots.rules(URL, site.fetch)).reason(URL) is not None
    assert robots.peek(URL) is not None
    assert len(site.asked) == 2
    clock.advance(MAX_STALE - MAX_AGE)
    assert (await robots.rules(URL, site.fetch)).reason(URL) is not None
    clock.advance(MIN_AGE + 1)
    with pytest.raises(FetchError):
        await robots.rules(URL, site.fetch)


# -- how long it holds ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("control", "seconds"),
    [
        ("", MAX_AGE),
        ("max-age=7200", 7200),
        ("public, Max-Age = 7200", 7200),
        ("max-age=99999999", MAX_AGE),
        ("max-age=10", MIN_AGE),
        ("no-cache", MIN_AGE),
        ("private, no-store, max-age=7200", MIN_AGE),
        ("s-maxage=10", MAX_AGE),
        ("max-age=never", MAX_AGE),
    ],
)
async def test_it_is_asked_for_again_when_its_time_is_over(
    robots: Robots, site: Site, clock: ManualClock, control: str, seconds: float
) -> None:
    site.serve(Cache_Control=control)
    await robots.rules(URL, site.fetch)
    clock.advance(seconds - 1)
    assert robots.peek(URL) is not None
    clock.advance(1)
    site.serve("")
    assert robots.peek(URL) is None
    assert (await robots.rules(URL, site.fetch)).reason(URL) is None


# -- restarts ---------------------------------------------------------------------------------


async def test_what_was_fetched_is_there_after_a_restart(
    robots: Robots, site: Site, clock: ManualClock
) -> None:
    site.serve(f"{FORBIDDEN}Crawl-delay: 3\nSitemap: /map.xml\n")
    before = await robots.rules(URL, site.fetch)
    clock.advance(MAX_AGE / 2)
    again = next_life(robots, clock)
    after = await again.rules(URL, site.fetch)
    assert after.reason(URL) == before.reason(URL) is not None
    assert after.crawl_delay == 3.0
    assert after.sitemaps == ("https://shop.example/map.xml",)
    assert len(site.asked) == 1
    clock.advance(MAX_AGE / 2)
    await again.rules(URL, site.fetch)
    assert len(site.asked) == 2


async def test_a_checkpoint_has_only_what_was_fetched_since_the_last_one(
    robots: Robots, site: Site
) -> None:
    await robots.rules(URL, site.fetch)
    assert list(collected(robots)) == ["robots/https://shop.example"]
    assert collected(robots) == {}
    await robots.rules("http://b.example:81/", site.fetch)
    assert list(collected(robots)) == ["robots/http://b.example:81"]


async def test_a_crawler_of_another_name_reads_it_anew(
    robots: Robots, site: Site, clock: ManualClock
) -> None:
    site.serve("User-agent: shopbot\nDisallow: /\n")
    await robots.rules(URL, site.fetch)
    renamed = next_life(robots, clock, user_agent="Shopbot/1.0 (+https://shop.example)")
    assert (await renamed.rules(URL, site.fetch)).reason(URL) is not None
    assert len(site.asked) == 2


async def test_a_clock_that_was_set_back_does_not_make_it_hold_for_longer(
    robots: Robots, site: Site, clock: ManualClock
) -> None:
    await robots.rules(URL, site.fetch)
    clock = ManualClock(clock.now() - 10 * MAX_AGE)
    again = next_life(robots, clock)
    await again.rules(URL, site.fetch)
    assert len(site.asked) == 1
    clock.advance(MAX_AGE)
    assert again.peek(URL) is None


@pytest.mark.parametrize("document", [Document(1, b"{}"), Document(1, b"\xff"), Document(2, b"{}")])
async def test_a_saved_copy_that_cannot_be_read_is_fetched_anew(
    clock: ManualClock, site: Site, document: Document
) -> None:
    async def read(name: str) -> Document | None:
        return document

    robots = Robots(clock, user_agent="crawlkit", read=read)
    assert (await robots.rules(URL, site.fetch)).reason(URL) is not None


async def test_after_a_kill_only_what_was_in_no_checkpoint_is_fetched_again(
    tmp_path: Path, site: Site
) -> None:
    """The run is copied while the first process is at work: what kill -9 leaves behind."""
    large = "User-agent: *\n" + "".join(f"Disallow: /private/{n:05}\n" for n in range(5000))

    async def life(directory: Path, then: Callable[[Job, Robots], Awaitable[None]]) -> None:
        async with Job(directory, persist_interval=3600, signals=False) as job:
            robots = Robots(job.clock, user_agent="crawlkit", read=job.store.document)
            await then(job, job.persist("robots", robots))

    async def first(job: Job, robots: Robots) -> None:
        await robots.rules(URL, site.fetch)
        site.serve(large)
        await robots.rules("https://large.example/", site.fetch)
        await job.checkpoint()
        site.serve()
        await robots.rules("https://late.example/", site.fetch)
        shutil.copytree(tmp_path / "run", tmp_path / "killed")

    async def second(job: Job, robots: Robots) -> None:
        site.asked.clear()
        assert (await robots.rules(URL, site.fetch)).reason(URL) is not None
        rules = await robots.rules("https://large.example/", site.fetch)
        assert rules.reason("https://large.example/private/04999") is not None
        assert site.asked == []
        assert (await robots.rules("https://late.example/private", site.fetch)) is not None
        assert site.asked == ["https://late.example/robots.txt"]

    await life(tmp_path / "run", first)
    await life(tmp_path / "killed", second)


async def test_copies_are_read_one_by_one_not_all_at_the_start(robots: Robots, site: Site) -> None:
    await robots.rules(URL, site.fetch)
    store = open_store("memory:")
    await store.open(fresh=True)
    await store.commit(Checkpoint(documents=collected(robots)))
    assert dict((await store.load()).documents) == {}
    assert await store.document("robots/https://shop.example") is not None
    await store.close()


# -- hostile servers --------------------------------------------------------------------------


async def test_200_000_rules_do_not_stall_the_event_loop(
    robots: Robots, site: Site, clock: ManualClock
) -> None:
    """They are read in a thread. In CPU time of the loop, whatever else the machine does."""
    longest = [0.0]

    async def watch() -> None:
        while True:
            before = thread_time()
            await asyncio.sleep(0.001)
            longest[0] = max(longest[0], thread_time() - before)

    watching = asyncio.create_task(watch())
    lines = "".join(f"Disallow: /*q{number}\n" for number in range(200_000))
    site.serve(f"User-agent: *\n{lines}")
    start = process_time()
    for number in range(3):
        await robots.rules(f"https://{number}.example/", site.fetch)
    await next_life(robots, clock).rules("https://1.example/", site.fetch)
    watching.cancel()
    assert len(site.asked) == 3
    assert longest[0] < (process_time() - start) / 10


async def test_a_file_that_cannot_be_read_in_time_counts_as_trouble(
    robots: Robots, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crawlkit.politeness.robots.PARSE_DEADLINE", 0.0)
    site.serve("User-agent: *\n" + "Disallow: /x\n" * 20_000)
    for _ in range(2):
        with pytest.raises(RobotsError, match="took longer"):
            await robots.rules(URL, site.fetch)
    assert len(site.asked) == 1


async def test_origins_in_trouble_are_bounded_in_memory(robots: Robots, site: Site) -> None:
    site.serve(status=503)
    for number in range(2 * MAX_ORIGINS):
        with pytest.raises(RobotsError):
            await robots.rules(f"https://{number}.example/", site.fetch)
    asked = len(site.asked)
    with pytest.raises(RobotsError):
        await robots.rules(f"https://{2 * MAX_ORIGINS - 1}.example/", site.fetch)
    assert len(site.asked) == asked
    with pytest.raises(RobotsError):
        await robots.rules("https://0.example/", site.fetch)
    assert len(site.asked) == asked + 1

"""How many requests are in flight follows what the machine can bear."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from itertools import pairwise

import pytest

from crawlkit.checkpoint import Lease, Outcome, Ticket
from crawlkit.clock import Clock
from crawlkit.crawling.capacity import Capacity
from crawlkit.events import SystemInfo
from crawlkit.job import Job
from crawlkit.politeness.throttle import Throttle
from crawlkit.queue import RequestQueue
from crawlkit.request import Request, fingerprint
from crawlkit.stores.base import Claim

MB = 2**20


def info(
    *,
    delay: float = 0.005,
    used: int | None = 100 * MB,
    limit: int | None = 1000 * MB,
    cpu: float = 0.5,
    cores: float = 2.0,
) -> SystemInfo:
    return SystemInfo(cpu, 50 * MB, delay, cores, limit, used)


def run(
    capacity: Capacity, seconds: int, machine: Callable[[int], SystemInfo], share: float = 1.0
) -> list[int]:
    """The limits of so many seconds, on a machine that depends on the limit."""
    limits = []
    for _ in range(seconds):
        now = capacity.limit
        limits.append(capacity.adjust(machine(now), busy=int(now * share)))
    return limits


def test_a_usual_crawl_begins_with_all_it_may_have_and_keeps_it() -> None:
    capacity = Capacity(16)
    assert capacity.limit == 16
    # One core is used wholly, since the crawl is fast: that is no overload.
    assert set(run(capacity, 100, lambda n: info(cpu=1.05, cores=1.0, delay=0.02))) == {16}


def test_a_large_crawl_begins_small_and_grows_while_that_is_of_use() -> None:
    capacity = Capacity(500)
    assert capacity.limit == 32
    assert run(capacity, 6, lambda n: info()) == [64, 128, 256, 500, 500, 500]
    idle = Capacity(500)
    assert set(run(idle, 20, lambda n: info(), share=0.3)) == {32}


def test_where_the_loop_gets_later_with_more_requests_it_settles_below_the_bound() -> None:
    """The delay follows the requests in flight: the machine bears about a hundred."""
    capacity = Capacity(500)
    limits = run(capacity, 120, lambda n: info(delay=n / 1000))
    settled = limits[30:]
    assert len(set(settled)) == 1, "it comes to rest"
    assert 50 <= settled[0] <= 100


def test_it_settles_also_where_the_delay_is_noisy() -> None:
    rng = random.Random(5)
    capacity = Capacity(500)
    limits = run(capacity, 300, lambda n: info(delay=n / 1000 * rng.uniform(0.8, 1.2)))
    settled = limits[60:]
    assert max(settled) <= 125
    assert min(settled) >= 40
    changes = sum(one != other for one, other in pairwise(settled))
    assert changes < 24, "it does not swing"


def test_a_machine_that_gets_busy_and_quiet_again_is_followed() -> None:
    capacity = Capacity(100)
    run(capacity, 10, lambda n: info(delay=n / 4000))
    assert capacity.limit == 100
    run(capacity, 30, lambda n: info(delay=n / 200))
    assert 10 <= capacity.limit <= 20
    limits = run(capacity, 30, lambda n: info(delay=n / 4000))
    assert limits[-1] == 100
    assert limits == sorted(limits), "it grows step by step"


def test_one_late_second_is_no_overload() -> None:
    capacity = Capacity(64)
    run(capacity, 5, lambda n: info())
    delays = iter([0.4, 0.005, 0.005, 0.005, 0.6, 0.005, 0.005, 0.005])
    assert set(run(capacity, 8, lambda n: info(delay=next(delays)))) == {64}


def test_where_fewer_requests_do_not_help_their_number_is_left_alone() -> None:
    """A handler that blocks for 300 ms makes the loop late, however few requests there are."""
    capacity = Capacity(32)
    limits = run(capacity, 1000, lambda n: info(delay=0.3))
    assert limits[-1] == 32
    assert sum(limits) / len(limits) > 31


def test_short_memory_brings_it_down_at_once_and_enough_of_it_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    capacity = Capacity(64)
    run(capacity, 3, lambda n: info())
    assert capacity.limit == 64
    with caplog.at_level(logging.INFO, "crawlkit.capacity"):
        assert run(capacity, 7, lambda n: info(used=900 * MB)) == [32, 16, 8, 4, 2, 1, 1]
        assert len(caplog.records) == 1, "it is said once"
        assert "memory is short: 900 of 1000 MB" in caplog.text
        assert set(run(capacity, 10, lambda n: info(used=800 * MB))) == {1}
        limits = run(capacity, 40, lambda n: info(used=700 * MB))
    assert len(caplog.records) == 2
    assert limits[0] > 1
    assert limits[-1] == 64


def test_memory_that_follows_the_requests_is_kept_within_its_limit() -> None:
    capacity = Capacity(200)
    peak = 0

    def machine(n: int) -> SystemInfo:
        nonlocal peak
        used = (100 + 8 * n) * MB
        peak = max(peak, used)
        return info(used=used)

    limits = run(capacity, 200, machine)
    assert peak < 1150 * MB, "one step too far, and not a second one"
    assert min(limits[20:]) >= 20
    assert max(limits[20:]) <= 110


def test_the_share_of_a_very_large_memory_does_not_matter_while_much_is_left() -> None:
    capacity = Capacity(16)
    assert set(run(capacity, 20, lambda n: info(used=58_000 * MB, limit=64_000 * MB))) == {16}
    run(capacity, 10, lambda n: info(used=63_800 * MB, limit=64_000 * MB))
    assert capacity.limit == 1


def test_it_never_goes_below_the_least_nor_above_the_most() -> None:
    rng = random.Random(11)
    capacity = Capacity(50, min_concurrency=4)
    for _ in range(2000):
        limit = capacity.adjust(
            info(
                delay=rng.choice([0.0, 0.04, 0.09, 0.2, 3.0]),
                used=rng.choice([None, 100 * MB, 800 * MB, 990 * MB, 1200 * MB]),
                cpu=rng.random(),
                cores=rng.choice([0.1, 0.5, 4.0]),
            ),
            busy=rng.randrange(60),
        )
        assert 4 <= limit <= 50
        assert limit == capacity.limit
    assert Capacity(2, min_concurrency=8).limit == 2


def test_more_requests_do_not_wait_for_a_quota_that_is_used_up() -> None:
    capacity = Capacity(500)
    assert set(run(capacity, 20, lambda n: info(cpu=0.3, cores=0.3))) == {32}
    assert run(capacity, 5, lambda n: info(cpu=0.1, cores=0.3))[-1] == 500


def test_where_the_system_tells_no_limit_only_the_loop_counts() -> None:
    capacity = Capacity(16)
    assert set(run(capacity, 10, lambda n: info(used=None, limit=None))) == {16}
    run(capacity, 60, lambda n: info(used=None, limit=None, delay=n / 50))
    assert capacity.limit < 8


async def test_handlers_that_block_the_event_loop_get_fewer_requests_at_once() -> None:
    """The real loop, its real delay, the real queue; only the requests are not sent anywhere."""
    clock = Clock()
    queue = RequestQueue(clock, Throttle(clock, concurrency_per_host=64), concurrency=64)
    capacity = Capacity(64)
    limits: list[int] = []

    def adjust(measured: SystemInfo) -> None:
        # Memory of the machine that runs this test is none of its business.
        mine = SystemInfo(measured.cpu, measured.memory_bytes, measured.loop_delay)
        queue.limit = capacity.adjust(mine, busy=len(queue.in_flight))
        limits.append(queue.limit)
        if len(limits) >= 60 or (limits[-1] <= capacity_before // 2):
            queue.close()

    capacity_before = queue.limit = capacity.limit
    assert capacity_before == 32
    turns = iter(range(10**9))

    async def worker() -> None:
        while (lease := await queue.get()) is not None:
            await asyncio.sleep(0)  # the network, which is quick
            sleep_and_block()
            outcome = Outcome("handled", lease.request.url, lease.fingerprint, lease.host, 0.0)
            queue.finish(lease, outcome)
            fill(next(turns))

    def sleep_and_block() -> None:
        end = clock.now() + 0.01
        while clock.now() < end:
            pass

    def fill(number: int) -> None:
        request = Request(f"https://shop.example/{number}")
        lease = Lease(request, fingerprint(request), request.host, Ticket(number, 0))
        queue.fill(Claim([lease]))

    async with Job("memory:", signals=False) as job:
        job.on("systemInfo", adjust)
        for _ in range(64):
            fill(next(turns))
        await asyncio.wait_for(asyncio.gather(*(worker() for _ in range(64))), 60)
    assert limits[-1] <= 16, limits

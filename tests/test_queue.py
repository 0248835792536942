"""The queue's window: which request is given out, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from crawlkit.checkpoint import Checkpoint, Lease, Outcome, Ticket
from crawlkit.clock import Clock
from crawlkit.dedup import DedupSet
from crawlkit.politeness.throttle import Throttle
from crawlkit.queue import MAX_STRETCH, RequestQueue
from crawlkit.request import Request, fingerprint
from crawlkit.stores.base import Claim, Receipt

from .stopwatch import Stopwatch


def leases(*urls: str, priority: int = 0, bundle: int = 1) -> list[Lease]:
    requests = [Request(url, priority=priority) for url in urls]
    return [
        Lease(request, fingerprint(request), request.host, Ticket(bundle, place))
        for place, request in enumerate(requests)
    ]


def handled(lease: Lease) -> Outcome:
    return Outcome("handled", lease.request.url, lease.fingerprint, lease.host, 0.0)


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., RequestQueue]]:
    made = []

    def make(
        *, per_host: int = 8, delay: float = 0.0, concurrency: int = 16, throttle: Any = None
    ) -> RequestQueue:
        clock = Clock()
        if throttle is None:
            throttle = Throttle(clock, concurrency_per_host=per_host, delay=delay)
        made.append(RequestQueue(clock, throttle, concurrency=concurrency))
        return made[-1]

    yield make
    for queue in made:
        queue.close()


async def test_the_best_priority_is_given_out_first_then_the_oldest(
    make: Callable[..., RequestQueue],
) -> None:
    queue = make()
    queue.fill(
        Claim(
            leases("https://a/1", "https://a/2") + leases("https://a/3", priority=5, bundle=2),
        )
    )
    assert [(await queue.get()).request.url for _ in range(3)] == [  # type: ignore[union-attr]
        "https://a/3",
        "https://a/1",
        "https://a/2",
    ]


async def test_a_window_that_runs_empty_while_the_store_has_more_holds_more_from_then_on(
    make: Callable[..., RequestQueue],
) -> None:
    queue = make(per_host=10**6, concurrency=16)
    first, window = queue.wants()
    assert not window
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.fill(Claim(leases(*(f"https://a/{n}" for n in range(first)))))
    await waiting
    assert queue.wants()[0] == 2 * first

    queue.limit = 10**6
    filled = first
    for turn in range(2, 10):
        for _ in range(filled - 1):  # all but the one that was waited for
            await queue.get()
        waiting = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        filled = queue.wants()[0]
        queue.fill(Claim(leases(*(f"https://a/{n}" for n in range(filled)), bundle=turn)))
        await waiting
    assert queue.wants()[0] == MAX_STRETCH * first, "and not without an end"


async def test_a_window_stays_small_where_there_is_nothing_more_to_claim_or_a_host_rests(
    make: Callable[..., RequestQueue],
) -> None:
    queue = make(delay=60.0)
    small, _ = queue.wants()
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.fill(Claim(leases(*(f"https://a/{n}" for n in range(small - 1)))))
    await waiting
    waiting = asyncio.create_task(queue.get())  # for the host's pace, and not for the store
    await asyncio.sleep(0)
    queue.fill(Claim(leases(*(f"https://a/{n}" for n in range(small)), bundle=2)))
    assert queue.wants()[0] == small
    waiting.cancel()


async def test_hosts_take_turns(make: Callable[..., RequestQueue]) -> None:
    queue = make()
    queue.fill(Claim(leases(*(f"https://a/{n}" for n in range(3)))))
    queue.fill(Claim(leases(*(f"https://b/{n}" for n in range(3)), bundle=2)))
    hosts = [(await queue.get()).host for _ in range(6)]  # type: ignore[union-attr]
    assert sorted(hosts[:2]) == sorted(hosts[2:4]) == ["a", "b"]


async def test_a_host_at_its_limit_waits_for_one_of_its_pages_and_no_other_host_does(
    make: Callable[..., RequestQueue],
) -> None:
    queue = make(per_host=1)
    queue.fill(Claim(leases("https://a/1", "https://a/2")))
    queue.fill(Claim(leases("https://b/1", bundle=2)))
    first, second = await queue.get(), await queue.get()
    assert first is not None
    assert second is not None
    assert {first.host, second.host} == {"a", "b"}
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    on_a = first if first.host == "a" else second
    queue.finish(on_a, handled(on_a))
    assert (await queue.get()).request.url == "https://a/2"  # type: ignore[union-attr]
    waiting.cancel()


async def test_a_host_that_rests_is_woken_when_its_delay_is_over(
    make: Callable[..., RequestQueue],
) -> None:
    queue = make(delay=0.05)
    queue.fill(Claim(leases(*(f"https://a/{n}" for n in range(4)))))
    took = Stopwatch()
    got = await asyncio.gather(*(queue.get() for _ in range(4)))
    assert all(got)
    assert took.elapsed > 0.14
    assert took.seconds < 0.6


async def test_a_host_that_rests_is_woken_also_where_a_link_to_another_has_come_to_nothing(
    make: Callable[..., RequestQueue],
) -> None:
    """What a page has enqueued may be another worker's, or known: no claim brings it."""
    queue = make(delay=0.05)
    queue.fill(Claim(leases("https://a/1", "https://a/2"), None, False))
    first = await queue.get()
    assert first is not None
    queue.add(Request("https://elsewhere.example/"))
    queue.finish(first, handled(first))
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.fill(Claim([], None, False))
    lease = await asyncio.wait_for(waiting, 10)
    assert lease is not None
    assert lease.request.url == "https://a/2"


async def test_many_resting_hosts_are_woken_each_in_its_time(
    make: Callable[..., RequestQueue],
) -> None:
    queue = make(delay=0.03, concurrency=40)
    for n in range(20):
        queue.fill(Claim(leases(f"https://h{n}/1", f"https://h{n}/2", bundle=n)))
    got = await asyncio.wait_for(asyncio.gather(*(queue.get() for _ in range(40))), 10)
    assert len({lease.request.url for lease in got if lease}) == 40


async def test_a_closed_queue_gives_out_nothing_more(make: Callable[..., RequestQueue]) -> None:
    queue = make()
    waiting = [asyncio.create_task(queue.get()) for _ in range(3)]
    await asyncio.sleep(0)
    queue.close()
    assert await asyncio.gather(*waiting) == [None] * 3


async def test_what_was_enqueued_goes_out_once_and_duplicates_are_counted(
    make: Callable[..., RequestQueue],
) -> None:
    queue = make()
    assert queue.add(Request("https://a/1"))
    assert not queue.add(Request("https://a/1"))
    first, second = Checkpoint(), Checkpoint()
    queue.collect(first)
    queue.collect(second)
    assert [pending.request.url for pending in first.fresh] == ["https://a/1"]
    assert first.duplicates == 1
    assert not second
    assert not queue.is_settled
    queue.settle(first, Receipt(1, 1))
    assert queue.is_settled


async def test_the_budget_is_never_exceeded_and_a_retry_gives_its_share_back(
    make: Callable[..., RequestQueue],
) -> None:
    queue = make()
    queue.budget = 1
    queue.fill(Claim(leases("https://a/1", "https://a/2")))
    lease = await queue.get()
    assert lease is not None
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    assert not queue.is_spent
    waiting.cancel()
    queue.retry(lease, lease.request.replace(retry_count=1), 5.0)
    second = await queue.get()
    assert second is not None
    queue.finish(second, handled(second))
    assert queue.is_spent


async def test_a_request_that_is_put_back_keeps_its_place_in_the_store(
    make: Callable[..., RequestQueue],
) -> None:
    queue = make()
    queue.fill(Claim(leases("https://a/1")))
    lease = await queue.get()
    assert lease is not None
    queue.put_back(lease)
    checkpoint = Checkpoint()
    queue.collect(checkpoint)
    assert not checkpoint
    assert await queue.get() == lease


async def test_a_queue_that_knows_the_store_is_empty_does_not_ask_again(
    make: Callable[..., RequestQueue],
) -> None:
    queue = make()
    queue.fill(Claim(leases("https://a/1", "https://a/2")))
    queue.fill(Claim(is_exhausted=True))
    queue.hungry.clear()
    await queue.get()
    assert not queue.hungry.is_set()


async def test_no_more_is_in_flight_than_the_limit_of_the_moment(
    make: Callable[..., RequestQueue],
) -> None:
    queue = make(per_host=100)
    queue.limit = 3
    queue.fill(Claim(leases(*(f"https://a/{n}" for n in range(20)))))
    workers = [asyncio.create_task(queue.get()) for _ in range(16)]
    await asyncio.sleep(0)
    assert len(queue.in_flight) == 3
    queue.limit = 10
    await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    assert len(queue.in_flight) == 10
    queue.limit = 2
    running = [lease for worker in workers if worker.done() and (lease := worker.result())]
    for lease in running[:8]:
        queue.finish(lease, handled(lease))
        waiting = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        assert not waiting.done(), "lowered, the limit lets those end that run and begins none"
        waiting.cancel()
    queue.finish(running[8], handled(running[8]))
    assert await asyncio.wait_for(queue.get(), 10) is not None
    assert len(queue.in_flight) == 2
    queue.close()
    await asyncio.gather(*workers)


async def test_workers_that_wait_for_the_limit_ask_for_no_checkpoint_and_no_more_work(
    make: Callable[..., RequestQueue],
) -> None:
    queue = make()
    queue.limit = 1
    queue.fill(Claim(leases("https://a/1", "https://a/2")))
    lease = await queue.get()
    assert lease is not None
    queue.add(Request("https://a/3"))
    queue.hungry.clear()
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    assert not queue.hungry.is_set()
    assert not queue.is_starving
    queue.limit = 2
    assert await asyncio.wait_for(waiting, 10) is not None


async def test_workers_that_wait_for_the_pace_of_hosts_ask_for_no_checkpoint_before_its_time(
    make: Callable[..., RequestQueue],
) -> None:
    queue = make(delay=1.0)
    queue.fill(Claim(leases("https://a/1"), is_exhausted=True))
    first = await queue.get()
    assert first is not None
    began = asyncio.get_running_loop().time()
    queue.fill(Claim([], is_exhausted=True))
    queue.add_all(["https://a/2", "https://a/3"], Request(""))
    queue.hungry.clear()
    workers = [asyncio.create_task(queue.get()) for _ in range(3)]
    await asyncio.sleep(0.02)
    assert not queue.is_starving
    assert not queue.hungry.is_set()
    await asyncio.wait_for(queue.hungry.wait(), 10)
    assert asyncio.get_running_loop().time() - began > 0.9, "the host rests for so long"
    assert queue.is_starving, "now a checkpoint brings something that can begin"
    checkpoint = Checkpoint()
    queue.collect(checkpoint)
    assert len(checkpoint.fresh) == 2
    assert not queue.is_starving
    queue.close()
    await asyncio.gather(*workers)


async def test_a_link_to_a_host_that_is_free_is_worth_a_checkpoint_while_others_rest(
    make: Callable[..., RequestQueue],
) -> None:
    queue = make(delay=30.0)
    queue.fill(Claim(leases("https://a/1", "https://a/2"), is_exhausted=True))
    assert await queue.get() is not None
    queue.fill(Claim([], is_exhausted=True))
    worker = asyncio.create_task(queue.get())
    await asyncio.sleep(0.01)
    queue.add(Request("https://a/3"))
    assert not queue.is_starving
    queue.add(Request("https://b/1"))
    assert queue.is_starving
    queue.close()
    await worker


async def test_a_host_that_may_be_asked_sooner_than_it_seemed_is_worth_a_checkpoint(
    make: Callable[..., RequestQueue],
) -> None:
    throttle = Throttle(Clock(), concurrency_per_host=4, is_shy=True)
    queue = make(throttle=throttle)
    queue.fill(Claim(leases("https://a/1"), is_exhausted=True))
    assert await queue.get() is not None
    queue.fill(Claim([], is_exhausted=True))
    queue.add(Request("https://a/2"))
    worker = asyncio.create_task(queue.get())
    await asyncio.sleep(0.01)
    queue.hungry.clear()
    assert not queue.is_starving, "its robots.txt is not known"
    throttle.meet("a", None)
    queue.rouse("a")
    assert queue.hungry.is_set()
    queue.close()
    await worker


async def test_when_robots_txt_is_known_the_host_is_asked_at_full_speed_at_once(
    make: Callable[..., RequestQueue],
) -> None:
    throttle = Throttle(Clock(), concurrency_per_host=4, is_shy=True)
    queue = make(throttle=throttle)
    queue.fill(Claim(leases(*(f"https://a/{n}" for n in range(9)))))
    workers = [asyncio.create_task(queue.get()) for _ in range(9)]
    await asyncio.sleep(0.01)
    assert len(queue.in_flight) == 1
    assert throttle.meet("a", None)
    queue.rouse("a")
    await asyncio.sleep(0.01)
    assert len(queue.in_flight) == 4
    queue.close()
    await asyncio.gather(*workers)


async def test_what_the_page_cache_answers_does_not_wait_for_the_delay_of_its_host(
    make: Callable[..., RequestQueue],
) -> None:
    throttle = Throttle(Clock(), delay=30.0)
    queue = make(throttle=throttle)
    queue.fill(Claim(leases(*(f"https://a/{n}" for n in range(50)))))

    all_done = asyncio.Event()

    async def worker() -> int:
        done = 0
        while (lease := await queue.get()) is not None:
            await asyncio.sleep(0)
            throttle.refund(lease.host)
            queue.finish(lease, handled(lease))
            done += 1
            if queue.is_settled:
                all_done.set()
        return done

    lease = await asyncio.wait_for(queue.get(), 10)
    assert lease is not None
    workers = [asyncio.create_task(worker()) for _ in range(3)]
    await asyncio.sleep(0.01)
    assert not queue.is_settled, "the others have put the host to rest, and wait"
    assert len(queue.in_flight) == 1
    throttle.refund("a")
    queue.finish(lease, handled(lease))
    workers.append(asyncio.create_task(worker()))
    await asyncio.wait_for(all_done.wait(), 30)
    queue.close()
    assert sum(await asyncio.gather(*workers)) == 49


async def test_a_host_that_only_a_redirect_keeps_busy_is_not_forgotten(
    make: Callable[..., RequestQueue],
) -> None:
    throttle = Throttle(Clock(), concurrency_per_host=1)
    queue = make(throttle=throttle)
    throttle.started("a")
    queue.fill(Claim(leases("https://a/1")))
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    throttle.finished("a")
    assert await asyncio.wait_for(waiting, 10) is not None


async def test_a_host_roused_while_it_rests_rests_its_time_all_the_same_where_it_has_to(
    make: Callable[..., RequestQueue],
) -> None:
    queue = make(delay=0.1)
    queue.fill(Claim(leases(*(f"https://a/{n}" for n in range(3)))))
    loop = asyncio.get_running_loop()
    began = loop.time()
    workers = [asyncio.create_task(queue.get()) for _ in range(3)]
    for _ in range(20):
        queue.rouse("a")
        queue.rouse("unknown.example")
        await asyncio.sleep(0.005)
    assert all(await asyncio.wait_for(asyncio.gather(*workers), 30))
    assert loop.time() - began > 0.19


def test_the_filter_forgets_but_never_takes_the_new_for_known() -> None:
    filter = DedupSet(bits=4, most=4)
    known = set[str]()
    for number in [*range(500), *range(500)]:
        assert filter.add(f"https://a/{number}") or f"https://a/{number}" in known
        known.add(f"https://a/{number}")
    assert not filter.add("https://a/499")


def test_the_filter_grows_with_the_crawl_and_what_it_knew_stays_known() -> None:
    filter = DedupSet(bits=4, most=12)
    forgotten = 0
    for number in range(1000):
        assert filter.add(f"https://a/{number}")
        forgotten += filter.add(f"https://a/{number // 2}")
    # With the slots that it has at first it would know 16 of a thousand.
    assert forgotten < 400
    filter.clear()
    assert filter.add("https://a/1")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Request("https://a/"), Request("https://b/")),
        (Request("https://a/"), Request("https://a/", method="POST")),
        (Request("https://a/", body=b"x"), Request("https://a/", body=b"y")),
        (Request("https://a/"), Request("https://a/", unique_key="again")),
        (Request("https://a/", unique_key="k"), Request("https://b/", unique_key="k")),
    ],
)
def test_requests_that_differ_in_what_makes_them_are_both_enqueued(
    make: Callable[..., RequestQueue], one: Request, other: Request
) -> None:
    queue = make()
    assert queue.add(one)
    assert queue.add(other)
    assert not queue.add(one.replace(priority=5, depth=9, user_data={"n": 1}))
    first, second = fingerprint(one), fingerprint(other)
    assert (one.host, first) != (other.host, second)

"""How fast hosts are asked, and when they are left alone."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from crawlkit.checkpoint import Checkpoint, Document, Loader, Snapshot
from crawlkit.politeness.backoff import backoff
from crawlkit.politeness.host import MAX_PAUSE, STRIKE_MEMORY
from crawlkit.politeness.throttle import Throttle
from crawlkit.stores.base import WHOLE
from crawlkit.testing import ManualClock

HOST = "shop.example"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def checkpoint_of(throttle: Throttle) -> Checkpoint:
    checkpoint = Checkpoint()
    with checkpoint.of("throttle"):
        throttle.collect(checkpoint)
    return checkpoint


class Saves:
    """What a store would hold of a throttle, checkpoint after checkpoint."""

    def __init__(self) -> None:
        self.documents: dict[str, Document] = {}

    def take(self, throttle: Throttle) -> int:
        """Take a checkpoint; how many bytes it had."""
        written = 0
        for name, document in checkpoint_of(throttle).documents.items():
            if document is None:
                del self.documents[name]
            else:
                self.documents[name] = document
                written += len(document.data)
        return written

    def restored(self, clock: ManualClock, **options: Any) -> Throttle:
        throttle = Throttle(clock, **options)
        Loader(Snapshot(documents=self.documents)).restore("throttle", throttle)
        return throttle


def next_life(throttle: Throttle, clock: ManualClock, **options: Any) -> Throttle:
    saves = Saves()
    saves.take(throttle)
    return saves.restored(clock, **options)


def is_ready(throttle: Throttle, clock: ManualClock) -> bool:
    return throttle.ready_at(HOST) <= clock.now()


def test_a_host_gets_no_more_requests_at_once_than_allowed(clock: ManualClock) -> None:
    throttle = Throttle(clock, concurrency_per_host=2)
    throttle.started(HOST)
    assert throttle.ready_at(HOST) == 0.0
    throttle.started(HOST)
    assert throttle.ready_at(HOST) == math.inf
    assert throttle.ready_at("other.example") == 0.0
    throttle.finished(HOST)
    assert throttle.ready_at(HOST) == 0.0


def test_two_requests_start_at_least_the_delay_apart(clock: ManualClock) -> None:
    throttle = Throttle(clock, delay=1.5)
    throttle.started(HOST)
    assert throttle.ready_at(HOST) == clock.now() + 1.5
    throttle.finished(HOST)
    assert throttle.ready_at(HOST) == clock.now() + 1.5
    assert throttle.ready_at("other.example") == 0.0
    clock.advance(1.5)
    assert is_ready(throttle, clock)


def test_a_pause_holds_as_long_as_the_server_says(clock: ManualClock) -> None:
    throttle = Throttle(clock)
    assert throttle.pause(HOST, 30.0) == clock.now() + 30
    assert throttle.ready_at(HOST) == clock.now() + 30
    clock.advance(30)
    assert is_ready(throttle, clock)


def test_no_pause_is_longer_than_an_hour(clock: ManualClock) -> None:
    throttle = Throttle(clock)
    assert throttle.pause(HOST, 1e12) == clock.now() + MAX_PAUSE
    assert throttle.pause("other.example", -5.0) == clock.now() + 0


def test_parallel_refusals_are_one_pause(clock: ManualClock) -> None:
    throttle = Throttle(clock)
    for _ in range(8):
        throttle.started(HOST)
    until = throttle.pause(HOST)
    for _ in range(7):
        clock.advance(0.1)
        assert throttle.pause(HOST) == until
    assert throttle.strikes(HOST) == 1


def test_of_parallel_refusals_the_longest_wait_is_obeyed(clock: ManualClock) -> None:
    throttle = Throttle(clock)
    throttle.pause(HOST, 5.0)
    assert throttle.pause(HOST, 20.0) == clock.now() + 20
    assert throttle.pause(HOST, 10.0) == clock.now() + 20
    assert throttle.strikes(HOST) == 1


def test_a_refusal_slower_than_the_pause_belongs_to_it(clock: ManualClock) -> None:
    throttle = Throttle(clock)
    started = clock.now()
    clock.advance(1)
    throttle.pause(HOST, 2.0, started_at=started)
    clock.advance(10)
    throttle.pause(HOST, started_at=started)
    assert throttle.strikes(HOST) == 1
    assert is_ready(throttle, clock)
    throttle.pause(HOST, started_at=clock.now())
    assert throttle.strikes(HOST) == 2


def test_pauses_in_a_row_grow_until_a_success(clock: ManualClock) -> None:
    throttle = Throttle(clock)
    waits = []
    for _ in range(10):
        waits.append(throttle.pause(HOST) - clock.now())
        clock.advance(waits[-1])
    assert waits == [2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 300.0, 300.0]
    assert throttle.strikes(HOST) == 10
    throttle.succeeded(HOST)
    assert throttle.strikes(HOST) == 0
    assert throttle.pause(HOST) == clock.now() + 2


def test_thousands_of_strikes_overflow_nothing(clock: ManualClock) -> None:
    throttle = Throttle(clock)
    for _ in range(5000):
        clock.advance(throttle.pause(HOST) - clock.now())
    assert throttle.pause(HOST) == clock.now() + 300


def test_a_success_from_before_the_pause_does_not_end_it(clock: ManualClock) -> None:
    throttle = Throttle(clock)
    started = clock.now()
    clock.advance(1)
    until = throttle.pause(HOST)
    throttle.succeeded(HOST)
    assert throttle.ready_at(HOST) == until
    clock.advance(until - clock.now())
    throttle.succeeded(HOST, started_at=started)
    assert throttle.strikes(HOST) == 1
    throttle.succeeded(HOST, started_at=clock.now())
    assert throttle.strikes(HOST) == 0


def test_what_is_idle_takes_no_memory(clock: ManualClock) -> None:
    throttle = Throttle(clock)
    for number in range(1000):
        throttle.started(f"{number}.example")
        throttle.finished(f"{number}.example")
    assert len(throttle) == 0


def test_delays_and_pauses_take_memory_only_while_they_last(clock: ManualClock) -> None:
    throttle = Throttle(clock, delay=1.0)
    saves = Saves()
    for number in range(10_000):
        if number % 10 == 5:
            saves.take(throttle)
        host = f"{number}.example"
        throttle.started(host)
        if number % 10 == 0:
            throttle.pause(host, 5.0)
        throttle.finished(host)
        clock.advance(0.1)
    # A second of hosts, and ten minutes of those that were paused, which keep their strikes.
    assert len(throttle) <= 10 + (STRIKE_MEMORY + 5) + 20
    clock.advance(STRIKE_MEMORY + 10)
    for number in range(1000):
        throttle.started(f"late-{number}.example")
        throttle.finished(f"late-{number}.example")
        clock.advance(2)
    assert len(throttle) <= 2
    saves.take(throttle)
    assert not saves.documents


def test_a_host_with_a_long_request_is_not_forgotten_meanwhile(clock: ManualClock) -> None:
    throttle = Throttle(clock, delay=1.0, concurrency_per_host=1)
    throttle.started(HOST)
    throttle.finished(HOST)
    throttle.started(HOST)
    clock.advance(10)
    for number in range(5):
        throttle.started(f"{number}.example")
    assert throttle.ready_at(HOST) == math.inf
    throttle.finished(HOST)
    assert is_ready(throttle, clock)


def test_a_host_that_recovered_is_forgotten_once(clock: ManualClock) -> None:
    throttle = Throttle(clock)
    throttle.started(HOST)
    throttle.pause(HOST, 1.0)
    throttle.finished(HOST)
    clock.advance(2)
    throttle.started(HOST)
    throttle.succeeded(HOST)
    throttle.finished(HOST)
    clock.advance(2 * STRIKE_MEMORY)
    throttle.started("other.example")
    assert len(throttle) == 1


def test_a_host_that_is_asked_again_and_again_is_counted_right(clock: ManualClock) -> None:
    throttle = Throttle(clock, delay=0.5, concurrency_per_host=3)
    rng = random.Random(7)
    in_flight: list[str] = []
    for _ in range(3000):
        host = rng.choice(["a.example", "b.example", "c.example"])
        if rng.random() < 0.5 and throttle.ready_at(host) <= clock.now():
            throttle.started(host)
            in_flight.append(host)
        elif in_flight:
            done = in_flight.pop(rng.randrange(len(in_flight)))
            match rng.randrange(4):
                case 0:
                    throttle.pause(done)
                case 1:
                    throttle.succeeded(done)
            throttle.finished(done)
        clock.advance(rng.random() * 20)
        for name in ("a.example", "b.example", "c.example"):
            assert (throttle.ready_at(name) == math.inf) == (in_flight.count(name) == 3)
    for host in in_flight:
        throttle.finished(host)


def test_pauses_outlive_the_process(clock: ManualClock) -> None:
    throttle = Throttle(clock)
    throttle.pause(HOST, 60.0)
    restored = next_life(throttle, clock)
    assert restored.ready_at(HOST) == clock.now() + 60
    assert restored.strikes(HOST) == 1
    clock.advance(60)
    restored.pause(HOST)
    assert restored.strikes(HOST) == 2


def test_only_what_changed_is_saved(clock: ManualClock) -> None:
    throttle = Throttle(clock)
    saves = Saves()
    assert not checkpoint_of(throttle)
    throttle.started(HOST)
    assert not checkpoint_of(throttle)
    throttle.pause("other.example", 600.0)
    throttle.pause(HOST, 60.0)
    saves.take(throttle)
    assert sorted(saves.documents) == ["throttle/pauses/other.example", f"throttle/pauses/{HOST}"]
    throttle.pause(HOST, 30.0)
    assert not checkpoint_of(throttle)
    clock.advance(61)
    throttle.succeeded(HOST)
    assert list(checkpoint_of(throttle).documents) == [f"throttle/pauses/{HOST}"]
    throttle.succeeded(HOST)
    assert not checkpoint_of(throttle)


def test_a_clock_set_back_between_two_lives_stalls_nothing(clock: ManualClock) -> None:
    throttle = Throttle(clock)
    throttle.pause(HOST, 60.0)
    earlier = ManualClock(clock.now() - 365 * 86400)
    assert next_life(throttle, earlier).ready_at(HOST) <= earlier.now() + MAX_PAUSE


def test_a_site_that_refuses_is_asked_more_slowly_after_the_pause_than_before(
    clock: ManualClock,
) -> None:
    throttle = Throttle(clock)
    delays = []
    for _ in range(3):
        throttle.started(HOST)
        until = throttle.pause(HOST, 2.0)
        throttle.finished(HOST)
        clock.advance(until - clock.now())
        assert is_ready(throttle, clock)
        throttle.started(HOST)
        delays.append(round(throttle.ready_at(HOST) - clock.now(), 3))
        throttle.finished(HOST)
        clock.advance(delays[-1])
    assert delays == [0.25, 0.5, 1.0]


def test_the_delay_after_a_refusal_goes_away_with_successes(clock: ManualClock) -> None:
    throttle = Throttle(clock)
    throttle.started(HOST)
    clock.advance(throttle.pause(HOST) - clock.now())
    delays = []
    for _ in range(120):
        throttle.started(HOST)
        delays.append(throttle.ready_at(HOST) - clock.now())
        clock.advance(1)
        throttle.succeeded(HOST, started_at=clock.now() - 1)
        throttle.finished(HOST)
    assert delays[0] == pytest.approx(0.25)
    assert delays[22] == pytest.approx(0.125, rel=0.05)
    assert delays == sorted(delays, reverse=True)
    assert throttle.ready_at(HOST) <= clock.now()
    assert delays[-1] < 0


def test_no_delay_is_longer_than_the_longest(clock: ManualClock) -> None:
    throttle = Throttle(clock, max_delay=5.0)
    for _ in range(12):
        clock.advance(throttle.pause(HOST, 1.0) - clock.now())
    throttle.started(HOST)
    assert throttle.ready_at(HOST) == clock.now() + 5
    throttle.meet(HOST, 365 * 86400.0)
    assert throttle.ready_at(HOST) == clock.now() + 5


def test_a_crawl_delay_holds_from_the_first_request_on(clock: ManualClock) -> None:
    throttle = Throttle(clock, is_shy=True)
    throttle.started(HOST)
    assert throttle.ready_at(HOST) == math.inf
    clock.advance(0.3)  # robots.txt is fetched
    assert throttle.meet(HOST, 10.0)
    assert throttle.ready_at(HOST) == clock.now() + 10
    throttle.finished(HOST)
    clock.advance(10)
    assert is_ready(throttle, clock)
    throttle.started(HOST)
    assert not throttle.meet(HOST, 10.0)
    assert throttle.ready_at(HOST) == clock.now() + 10


def test_a_crawl_delay_holds_also_where_it_is_known_before_the_first_request(
    clock: ManualClock,
) -> None:
    throttle = Throttle(clock, is_shy=True)
    throttle.meet(HOST, 10.0)
    assert is_ready(throttle, clock), "nobody has asked the host yet"
    throttle.started(HOST)
    throttle.finished(HOST)
    assert throttle.ready_at(HOST) == clock.now() + 10
    throttle.meet("other.example", None)
    assert len(throttle) == 1
    clock.advance(20)
    for number in range(3):
        throttle.started(f"{number}.example")
    assert HOST not in throttle._hosts


def test_the_longer_of_delay_and_crawl_delay_holds(clock: ManualClock) -> None:
    throttle = Throttle(clock, delay=3.0)
    for host, crawl_delay, wait in (("a", 1.0, 3.0), ("b", 5.0, 5.0), ("c", None, 3.0)):
        throttle.started(host)
        throttle.meet(host, crawl_delay)
        assert throttle.ready_at(host) == clock.now() + wait


@pytest.mark.parametrize("nonsense", [None, 0.0, -3.0, math.nan])
def test_a_crawl_delay_that_is_no_time_is_none(clock: ManualClock, nonsense: float | None) -> None:
    throttle = Throttle(clock, is_shy=True)
    throttle.started(HOST)
    throttle.meet(HOST, nonsense)
    assert is_ready(throttle, clock)


def test_a_host_nothing_is_known_about_is_asked_for_one_thing_at_a_time(
    clock: ManualClock,
) -> None:
    throttle = Throttle(clock, concurrency_per_host=3, is_shy=True)
    throttle.started(HOST)
    assert throttle.ready_at(HOST) == math.inf
    assert throttle.meet(HOST, None)
    throttle.started(HOST)
    assert is_ready(throttle, clock)
    throttle.started(HOST)
    assert throttle.ready_at(HOST) == math.inf
    assert not throttle.meet(HOST, None)


def test_a_host_whose_crawl_delay_was_forgotten_keeps_its_pace(clock: ManualClock) -> None:
    throttle = Throttle(clock, is_shy=True)
    rng = random.Random(3)
    starts: list[float] = []
    for number in range(200):
        clock.advance(rng.choice([0.1, 1.0, 40.0]))
        throttle.started(f"{number}.example")  # others come and go, and idle hosts are forgotten
        throttle.meet(f"{number}.example", None)
        throttle.finished(f"{number}.example")
        if is_ready(throttle, clock):
            throttle.started(HOST)
            starts.append(clock.now())
            throttle.meet(HOST, 10.0)
            throttle.finished(HOST)
    assert len(starts) > 20
    assert min(after - before for before, after in pairwise(starts)) >= 10
    clock.advance(100)
    for number in range(3):
        throttle.started(f"late-{number}.example")
    assert HOST not in throttle._hosts


def test_what_the_page_cache_answered_does_not_count_as_asked(clock: ManualClock) -> None:
    throttle = Throttle(clock, delay=5.0)
    for _ in range(3):
        assert is_ready(throttle, clock)
        throttle.started(HOST)
        throttle.refund(HOST, started_at=clock.now())
        throttle.finished(HOST)
    throttle.started(HOST)
    asked_at = clock.now()
    throttle.finished(HOST)
    assert throttle.ready_at(HOST) == asked_at + 5
    clock.advance(5)
    throttle.started(HOST)
    throttle.refund(HOST)
    assert is_ready(throttle, clock)
    assert throttle.ready_at(HOST) >= asked_at + 5


def test_a_refund_gives_nothing_back_of_a_later_request(clock: ManualClock) -> None:
    throttle = Throttle(clock, delay=2.0)
    throttle.started(HOST)
    first = clock.now()
    clock.advance(2)
    throttle.started(HOST)
    clock.advance(0.5)
    throttle.refund(HOST, started_at=first)
    assert throttle.ready_at(HOST) == first + 4


def test_long_delays_outlive_the_process_and_short_ones_need_not(clock: ManualClock) -> None:
    throttle = Throttle(clock)
    for host, delay in (("slow.example", 30.0), ("quick.example", 0.5)):
        throttle.started(host)
        throttle.meet(host, delay)
        throttle.finished(host)
    saves = Saves()
    saves.take(throttle)
    restored = saves.restored(clock)
    assert restored.ready_at("slow.example") == clock.now() + 30
    assert restored.ready_at("quick.example") <= clock.now()
    clock.advance(30)
    assert restored.ready_at("slow.example") <= clock.now()
    earlier = ManualClock(clock.now() - 365 * 86400)
    assert saves.restored(earlier).ready_at("slow.example") == earlier.now() + 30


def test_the_delay_after_a_refusal_outlives_the_process(clock: ManualClock) -> None:
    throttle = Throttle(clock)
    saves = Saves()
    for _ in range(3):
        clock.advance(throttle.pause(HOST, 1.0) - clock.now())
    throttle.succeeded(HOST)
    saves.take(throttle)
    restored = saves.restored(clock)
    restored.started(HOST)
    assert 0.9 < restored.ready_at(HOST) - clock.now() <= 1.0
    for _ in range(200):
        throttle.succeeded(HOST)
        saves.take(throttle)
    assert not saves.documents


def test_a_checkpoint_costs_what_changed_and_not_how_many_hosts_rest(clock: ManualClock) -> None:
    throttle = Throttle(clock, delay=30.0)
    saves = Saves()
    written = []
    for second in range(90):
        for number in range(300):
            host = f"{(second * 300 + number) % 9000}.example"
            assert throttle.ready_at(host) <= clock.now()
            throttle.started(host)
            throttle.finished(host)
        clock.advance(1)
        written.append(saves.take(throttle))
    assert len(throttle) == 9000
    assert max(written) < 2 * written[0]
    assert len(saves.documents) <= 31
    restored = saves.restored(clock)
    # But for those that may be asked within a second, which nobody has to remember.
    assert (
        sum(restored.ready_at(f"{number}.example") > clock.now() for number in range(9000)) > 8000
    )
    assert not checkpoint_of(restored)
    clock.advance(60)
    later = Saves()
    later.documents = dict(saves.documents)
    later.take(restored)
    assert not later.documents


def test_retries_wait_longer_each_time_and_never_all_alike() -> None:
    assert [backoff(n, rng=lambda: 1.0) for n in range(9)] == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    assert [backoff(n, rng=lambda: 0.0) for n in range(3)] == [0.25, 0.5, 1.0]
    assert backoff(100_000, rng=lambda: 1.0) == 60.0
    waits = {backoff(3) for _ in range(100)}
    assert len(waits) > 50
    assert all(2.0 <= wait <= 4.0 for wait in waits)


# -- several workers ------------------------------------------------------------------------------


def started(throttle: Throttle, host: str = HOST) -> int:
    """How many requests may start now."""
    count = 0
    while throttle.ready_at(host) <= NOW_ENOUGH:
        throttle.started(host)
        count += 1
    return count


NOW_ENOUGH = 1e12


def shared(clock: ManualClock, **options: Any) -> Throttle:
    return Throttle(clock, worker="one", **options)


def test_half_of_a_host_is_half_of_its_limit_and_twice_its_delay(clock: ManualClock) -> None:
    throttle = shared(clock, concurrency_per_host=8, delay=1.0)
    throttle.share(HOST, WHOLE // 2, throttle.shares.gifts)
    throttle.started(HOST)
    assert throttle.ready_at(HOST) == clock.now() + 2.0
    throttle.share(HOST, WHOLE, throttle.shares.gifts)
    throttle.finished(HOST)
    clock.advance(5)
    throttle.started(HOST)
    assert throttle.ready_at(HOST) == clock.now() + 1.0


def test_the_shares_of_a_host_are_remembered_while_it_is_idle(clock: ManualClock) -> None:
    throttle = shared(clock, concurrency_per_host=8)
    throttle.share(HOST, WHOLE // 4, throttle.shares.gifts)
    for _ in range(2):
        assert started(throttle) == 2
        for _ in range(2):
            throttle.finished(HOST)
        clock.advance(1000)


def test_a_share_is_given_away_only_once_no_more_is_in_flight_than_may_be_then(
    clock: ManualClock,
) -> None:
    throttle = shared(clock, concurrency_per_host=4)
    assert started(throttle) == 4
    throttle.split(HOST)
    assert checkpoint_of(throttle).shares == {}
    throttle.finished(HOST)
    assert throttle.ready_at(HOST) == math.inf
    assert checkpoint_of(throttle).shares == {}
    throttle.finished(HOST)
    assert checkpoint_of(throttle).shares == {HOST: WHOLE // 2}
    assert checkpoint_of(throttle).shares == {}
    assert throttle.ready_at(HOST) == math.inf
    throttle.finished(HOST)
    assert throttle.ready_at(HOST) == 0.0


def test_a_share_that_was_offered_is_given_whatever_is_claimed_meanwhile(
    clock: ManualClock,
) -> None:
    throttle = shared(clock, concurrency_per_host=4)
    assert started(throttle) == 4
    throttle.split(HOST)
    throttle.share(HOST, WHOLE, throttle.shares.gifts)
    for _ in range(2):
        throttle.finished(HOST)
    throttle.share(HOST, WHOLE, throttle.shares.gifts)
    assert checkpoint_of(throttle).shares == {HOST: WHOLE // 2}


def test_a_claim_from_before_a_gift_does_not_take_it_back(clock: ManualClock) -> None:
    throttle = shared(clock, concurrency_per_host=4)
    throttle.started(HOST)
    before = throttle.shares.gifts
    throttle.split(HOST)
    assert checkpoint_of(throttle).shares == {HOST: WHOLE // 2}
    throttle.share(HOST, WHOLE, before)
    assert started(throttle) == 1
    during = throttle.shares.gifts
    throttle.shares.given()
    throttle.share(HOST, WHOLE, during)
    assert started(throttle) == 0
    throttle.share(HOST, WHOLE, throttle.shares.gifts)
    assert started(throttle) == 2


@pytest.mark.parametrize(
    "trouble",
    [
        lambda throttle: throttle.pause(HOST, 30),
        lambda throttle: throttle.meet(HOST, 0.5),
    ],
)
def test_a_host_that_rests_is_not_divided(
    clock: ManualClock, trouble: Callable[[Throttle], object]
) -> None:
    throttle = shared(clock, concurrency_per_host=4)
    throttle.started(HOST)
    trouble(throttle)
    throttle.split(HOST)
    throttle.finished(HOST)
    assert checkpoint_of(throttle).shares == {}


@pytest.mark.parametrize(
    "options", [{"concurrency_per_host": 1}, {"delay": 1.0}, {"is_shy": True}, {"may_split": False}]
)
def test_a_host_that_one_worker_is_enough_for_is_not_divided(
    clock: ManualClock, options: dict[str, Any]
) -> None:
    throttle = shared(clock, **options)
    throttle.started(HOST)
    throttle.split(HOST)
    throttle.finished(HOST)
    assert checkpoint_of(throttle).shares == {}


def test_a_hosts_pace_goes_to_the_next_worker(clock: ManualClock) -> None:
    one = shared(clock, delay=0.5)
    one.started(HOST)
    one.meet(HOST, 20.0)
    rests = checkpoint_of(one).rests
    assert rests == {HOST: (clock.now() + 20.0, 20.0)}
    two = shared(clock, delay=0.5)
    clock.advance(5)
    two.rest(HOST, *rests[HOST])
    assert two.ready_at(HOST) == clock.now() + 15.0


def test_a_pause_goes_to_the_next_worker(clock: ManualClock) -> None:
    one = shared(clock)
    one.started(HOST)
    one.pause(HOST, 60)
    one.finished(HOST)
    (start, delay) = checkpoint_of(one).rests[HOST]
    assert start == clock.now() + 60
    two = shared(clock)
    two.rest(HOST, start, delay)
    assert two.ready_at(HOST) == start
    clock.advance(61)
    two.started(HOST)
    assert two.ready_at(HOST) > clock.now()  # it is asked more slowly after that, here as there


def test_a_pace_that_another_worker_has_told_is_saved_and_read_again(clock: ManualClock) -> None:
    throttle, saves = shared(clock), Saves()
    throttle.rest(HOST, clock.now() + 20.0, 20.0)
    for _ in range(30):
        clock.advance(21)
        started_at = clock.now()
        throttle.started(HOST)
        throttle.finished(HOST)
        throttle.succeeded(HOST, started_at=started_at)
        saves.take(throttle)
    assert f"throttle/pauses/{HOST}" in saves.documents
    assert saves.restored(clock, worker="two").ready_at(HOST) <= clock.now() + 20.0


def test_a_dead_workers_host_rests_for_the_delay_of_the_next_one(clock: ManualClock) -> None:
    throttle = shared(clock, delay=3.0)
    throttle.rest(HOST, clock.now(), 0.0)
    assert throttle.ready_at(HOST) == clock.now() + 3.0
    quick = shared(clock)
    quick.rest(HOST, clock.now(), 0.0)
    assert quick.ready_at(HOST) <= clock.now()


def test_nothing_is_said_of_rests_where_one_process_writes_the_run(clock: ManualClock) -> None:
    throttle = Throttle(clock, delay=2.0)
    throttle.started(HOST)
    throttle.pause(HOST, 5)
    assert checkpoint_of(throttle).rests == {}


def test_a_penalty_that_a_host_came_with_from_another_worker_outlives_the_process(
    clock: ManualClock,
) -> None:
    throttle = shared(clock)
    throttle.rest(HOST, clock.now(), 8.0)
    for _ in range(30):  # enough of them to halve it, which is worth saving
        throttle.succeeded(HOST)

    again = next_life(throttle, clock)
    assert is_ready(again, clock)  # the host itself was never paused here
    again.started(HOST)
    assert clock.now() + 2 < again.ready_at(HOST) < clock.now() + 4


def test_a_pause_that_was_saved_without_its_length_is_no_damage(clock: ManualClock) -> None:
    """Earlier versions saved such a penalty so, and then refused to go on with the run."""
    saves = Saves()
    saves.documents[f"throttle/pauses/{HOST}"] = Document(1, b"[0.0,0,null,3.5]")
    throttle = saves.restored(clock)
    assert is_ready(throttle, clock)
    throttle.started(HOST)
    assert throttle.ready_at(HOST) == clock.now() + 3.5

"""How fast hosts are asked, and when they are left alone."""

from __future__ import annotations

import math
import random

import pytest

from crawlkit.checkpoint import Checkpoint, Loader, Snapshot
from crawlkit.testing import ManualClock
from crawlkit.throttle import MAX_PAUSE, STRIKE_MEMORY, Throttle, backoff

HOST = "shop.example"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def checkpoint_of(throttle: Throttle) -> Checkpoint:
    checkpoint = Checkpoint()
    with checkpoint.of("throttle"):
        throttle.collect(checkpoint)
    return checkpoint


def next_life(throttle: Throttle, clock: ManualClock) -> Throttle:
    documents = {name: doc for name, doc in checkpoint_of(throttle).documents.items() if doc}
    restored = Throttle(clock)
    Loader(Snapshot(documents=documents)).restore("throttle", restored)
    return restored


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
    for number in range(10_000):
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
    assert checkpoint_of(throttle).documents["throttle"] is not None
    assert next_life(throttle, clock).strikes("0.example") == 0


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
    assert not checkpoint_of(throttle)
    throttle.started(HOST)
    assert not checkpoint_of(throttle)
    throttle.pause(HOST, 60.0)
    assert checkpoint_of(throttle)
    throttle.pause(HOST, 30.0)
    assert not checkpoint_of(throttle)
    clock.advance(61)
    throttle.succeeded(HOST)
    document = checkpoint_of(throttle).documents["throttle"]
    assert document is not None
    assert document.data == b"{}"
    throttle.succeeded(HOST)
    assert not checkpoint_of(throttle)


def test_a_clock_set_back_between_two_lives_stalls_nothing(clock: ManualClock) -> None:
    throttle = Throttle(clock)
    throttle.pause(HOST, 60.0)
    earlier = ManualClock(clock.now() - 365 * 86400)
    assert next_life(throttle, earlier).ready_at(HOST) <= earlier.now() + MAX_PAUSE


def test_retries_wait_longer_each_time_and_never_all_alike() -> None:
    assert [backoff(n, rng=lambda: 1.0) for n in range(9)] == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    assert [backoff(n, rng=lambda: 0.0) for n in range(3)] == [0.25, 0.5, 1.0]
    assert backoff(100_000, rng=lambda: 1.0) == 60.0
    waits = {backoff(3) for _ in range(100)}
    assert len(waits) > 50
    assert all(2.0 <= wait <= 4.0 for wait in waits)

"""A host that answers more and more slowly is asked more and more slowly, and no other is."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import NamedTuple

import pytest

from crawlkit.politeness.tempo import BEST_MEMORY, LEAST_WINDOW
from crawlkit.politeness.throttle import Throttle
from crawlkit.testing import ManualClock

HOST = "shop.example"
ON_THE_WAY = 0.02
"""Seconds of an answer that are the network's."""


class Answer(NamedTuple):
    at: float
    latency: float
    in_flight: int


class Crawl:
    """A crawl of one host in virtual time, which asks as soon and as much as the throttle allows.

    Args:
        takes: Seconds that the host works for an answer, by the time since the start.
        at_once: Answers that it works on at the same time; the others wait.
    """

    def __init__(
        self,
        takes: Callable[[float], float],
        *,
        at_once: int = 8,
        concurrency: int = 8,
        max_delay: float = 60.0,
    ) -> None:
        self.clock = ManualClock()
        self.throttle = Throttle(
            self.clock, concurrency_per_host=concurrency, max_delay=max_delay, is_shy=True
        )
        self.answers: list[Answer] = []
        self.takes = takes
        self._began = self.clock.now()
        self._free = [self._began] * at_once
        self._coming: list[tuple[float, int, float]] = []

    def run(self, until: float) -> None:
        """Go on until so many seconds after the start."""
        throttle, clock, number = self.throttle, self.clock, 0
        while clock.now() - self._began < until:
            now = clock.now()
            ready_at = throttle.ready_at(HOST)
            if ready_at <= now:
                throttle.started(HOST)
                throttle.meet(HOST, None)
                done = max(heappop(self._free), now) + self.takes(now - self._began)
                heappush(self._free, done)
                number += 1
                heappush(self._coming, (done + ON_THE_WAY, number, now))
                continue
            clock.advance(
                max(0.0, min(ready_at, self._coming[0][0]) - now)
                if self._coming
                else ready_at - now
            )
            if self._coming and self._coming[0][0] <= clock.now():
                _, _, started = heappop(self._coming)
                latency = clock.now() - started
                self.answers.append(
                    Answer(clock.now() - self._began, latency, len(self._coming) + 1)
                )
                throttle.succeeded(HOST, started_at=started, latency=latency)
                throttle.finished(HOST)

    def rate(self, start: float, end: float) -> float:
        """Answers a second between two times."""
        return sum(start <= answer.at < end for answer in self.answers) / (end - start)


def delay(throttle: Throttle) -> float:
    return throttle._hosts[HOST].pace


def test_a_host_that_answers_quickly_is_not_slowed_down() -> None:
    crawl = Crawl(lambda at: 0.005)
    crawl.run(20)
    assert delay(crawl.throttle) == 0
    assert crawl.rate(1, 20) > 0.95 * 8 / (0.005 + ON_THE_WAY)


def test_a_host_that_is_slow_by_nature_is_not_slowed_down() -> None:
    crawl = Crawl(lambda at: 3.0)
    crawl.run(120)
    assert delay(crawl.throttle) == 0
    assert crawl.rate(10, 120) > 0.9 * 8 / 3.02


def test_a_host_that_gets_slower_is_asked_more_slowly_and_faster_again_when_it_recovers() -> None:
    crawl = Crawl(lambda at: 1.5 if 20 < at < 80 else 0.05)
    crawl.run(78)
    assert crawl.rate(10, 20) > 100
    assert crawl.rate(50, 78) < 0.5, "it rests as long as it works"
    assert delay(crawl.throttle) == pytest.approx((1.5 + ON_THE_WAY) / LEAST_WINDOW)
    crawl.run(120)
    assert delay(crawl.throttle) == 0
    assert crawl.rate(105, 120) > 100


def test_a_host_that_cannot_keep_up_is_used_well_and_its_queue_stays_short() -> None:
    crawl = Crawl(lambda at: 0.2, at_once=1)
    crawl.run(200)
    # It answers 5 a second at best, one request alone in 0.22 s, and one of eight in 1.6 s.
    assert crawl.rate(20, 200) > 4
    latencies = sorted(answer.latency for answer in crawl.answers if answer.at > 20)
    assert latencies[len(latencies) // 2] < 1.1
    assert max(answer.in_flight for answer in crawl.answers if answer.at > 20) <= 6


def test_some_pages_that_take_long_do_not_slow_the_others_down() -> None:
    turns = iter(range(10**9))
    crawl = Crawl(lambda at: 2.0 if next(turns) % 5 == 0 else 0.02)
    crawl.run(60)
    assert delay(crawl.throttle) == 0


def test_a_host_that_stays_slow_is_taken_for_a_slow_host_in_the_end() -> None:
    crawl = Crawl(lambda at: 0.02 if at < 10 else 0.8)
    crawl.run(100)
    assert delay(crawl.throttle) > 1
    crawl.run(3 * BEST_MEMORY)
    assert delay(crawl.throttle) == 0


def test_a_crawl_does_not_slow_down_for_its_own_slowness() -> None:
    """A handler that blocks the event loop makes every answer late, at every host."""
    crawl = Crawl(lambda at: 0.005 if at < 5 else 0.8)
    crawl.throttle.local_delay = 0.2
    crawl.run(60)
    assert delay(crawl.throttle) == 0
    crawl.throttle.local_delay = 0.0
    crawl.run(70)
    assert delay(crawl.throttle) > 0


def test_one_hiccup_slows_nothing_down() -> None:
    crawl = Crawl(lambda at: 1.0 if 10.0 < at < 10.5 else 0.01)
    crawl.run(10.4)
    crawl.run(20)
    assert delay(crawl.throttle) == 0
    assert crawl.rate(12, 20) > 0.95 * 8 / (0.01 + ON_THE_WAY)


def test_the_delay_of_a_slow_host_has_an_upper_bound() -> None:
    crawl = Crawl(lambda at: 0.01 if at < 10 else 40.0, max_delay=7.0)
    crawl.run(250)
    assert delay(crawl.throttle) == 7


def test_requests_that_time_out_count_as_slow_answers() -> None:
    clock = ManualClock()
    throttle = Throttle(clock)
    throttle.started(HOST)
    throttle.started(HOST)
    for latency in (0.01,) * 40 + (30.0,) * 40:
        clock.advance(0.1)
        if latency < 1:
            throttle.succeeded(HOST, latency=latency)
        else:
            throttle.measured(HOST, latency)
    assert delay(throttle) > 1


def test_what_is_known_of_an_idle_host_is_kept_for_a_while_and_no_longer() -> None:
    crawl = Crawl(lambda at: 0.01 if at < 10 else 1.0)
    crawl.run(40)
    throttle, clock = crawl.throttle, crawl.clock
    before = delay(throttle)
    assert before > 0
    while throttle._hosts[HOST].in_flight:
        throttle.finished(HOST)
    clock.advance(30)
    throttle.started("one.example")
    assert delay(throttle) == before
    clock.advance(60)
    throttle.started("two.example")
    assert HOST not in throttle._hosts
    assert throttle.ready_at(HOST) == 0.0

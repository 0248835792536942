"""The progress display says where a crawl stands, and of its end only what can be known."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import pytest

from crawlkit.cli.progress import LOG_INTERVAL, LogProgress
from crawlkit.events import CrawlerStatus
from crawlkit.observing.progress import Mark, Pace, fit, line_of, seconds_left, told
from crawlkit.testing import ManualClock


def status(finished: int, **more: int) -> CrawlerStatus:
    return CrawlerStatus(
        finished, **({"failed": 0, "pending": 7, "in_flight": 2, "items": 9} | more)
    )


def marks(*steps: tuple[float, int, int]) -> list[Mark]:
    """One a second from steps of (seconds, pages done a second, pages found a second)."""
    at, done, left = 0.0, 0.0, 1000.0
    seen = [Mark(at, 0, 1000)]
    for seconds, rate, found in steps:
        for _ in range(int(seconds)):
            at, done, left = at + 1, done + rate, left + found - rate
            seen.append(Mark(at, round(done), round(left)))
    return seen


def test_it_says_where_the_crawl_stands_and_how_fast_it_is() -> None:
    clock = ManualClock()
    pace = Pace(clock)
    lines = []
    for second in range(3):
        lines.append(line_of(pace.update(status(1200 + 50 * second, failed=second))))
        clock.advance(1)
    assert lines[0] == "1,200 done, 7 pending, 2 in flight, 9 items, starting, 0:00"
    assert lines[2] == "1,300 done, 2 failed, 7 pending, 2 in flight, 9 items, 51.0 pages/s, 0:02"


def test_pages_from_the_cache_are_told_where_there_are_any() -> None:
    assert "40 from cache" in line_of(Pace(ManualClock()).update(status(100, cache_hits=40)))


def test_the_speed_is_that_of_the_last_seconds() -> None:
    clock = ManualClock()
    pace = Pace(clock)
    done = 0
    for second in range(30):
        done += 100 if second < 15 else 10
        standing = pace.update(status(done))
        clock.advance(1)
    assert standing.rate == 10


# -- the end ------------------------------------------------------------------------------------


def test_the_time_left_is_told_once_discovery_is_over() -> None:
    assert seconds_left(marks((30, 10, 0))) == pytest.approx(70)
    assert seconds_left(marks((30, 10, 1))) == pytest.approx(730 / 9)
    assert seconds_left(marks((20, 10, 10), (20, 10, 0))) == pytest.approx(80)


def test_who_has_watched_for_a_short_time_does_not_see_far() -> None:
    assert seconds_left(marks((20, 1, 0))) is None  # 16 minutes
    assert seconds_left(marks((40, 1, 0))) is None
    assert seconds_left(marks((70, 1, 0))) == pytest.approx(930)


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        ([(9, 10, 0)], "it was observed for too short a time"),
        ([(60, 10, 10)], "each page still leads to a new one"),
        ([(60, 10, 2)], "some pages still lead to new ones"),
        ([(20, 10, 0), (8, 10, 5)], "discovery has begun again"),
        ([(20, 10, 5), (8, 10, 0)], "discovery has only just ended"),
        ([(20, 10, 0), (6, 2, 0)], "it is getting slower"),
        ([(20, 10, 0), (20, 0, 0)], "it stands still"),
    ],
)
def test_nothing_is_said_of_the_end_while_nobody_can_know_it(
    steps: Iterable[tuple[float, int, int]], why: str
) -> None:
    assert seconds_left(marks(*steps)) is None, why


def test_a_limit_of_pages_is_an_end_that_is_known() -> None:
    assert seconds_left(marks((20, 10, 30)), max_pages=400) == pytest.approx(20)
    assert seconds_left(marks((20, 10, 9)), max_pages=10_000) is None  # too few are known yet


def test_the_time_left_of_a_crawl_that_goes_on_evenly_comes_true() -> None:
    clock = ManualClock()
    pace = Pace(clock)
    for second in range(100):
        standing = pace.update(status(20 * second, pending=2000 - 20 * second, in_flight=0))
        if second >= 12:
            assert standing.seconds_left == pytest.approx(100 - second, rel=0.02)
        clock.advance(1)


# -- the room that there is -------------------------------------------------------------------


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_each_line_fits_and_loses_first_what_matters_least(width: int) -> None:
    clock = ManualClock()
    standing = Pace(clock).update(status(123_456, failed=12, pending=1_234_567, cache_hits=99))
    counts, pace = (", ".join(part.text for part in fit(parts, width)) for parts in told(standing))
    assert len(counts) <= width
    assert len(pace) <= width
    assert counts.startswith("123,456 done")
    assert ("12 failed" in counts) == (width >= 40)
    assert ("in flight" in counts) == (width >= 80)


def test_in_a_log_it_is_a_line_every_ten_seconds(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    progress = LogProgress(clock, interval=LOG_INTERVAL)
    with caplog.at_level(logging.INFO, "crawlkit.progress"):
        for second in range(35):
            clock.advance(1)
            progress(status(second))
    assert [line.split()[0] for line in caplog.messages] == ["9", "19", "29"]
    assert [record.__dict__["finished"] for record in caplog.records] == [9, 19, 29]

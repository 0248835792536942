"""Statistics are exact: over restarts, over several workers, and in every number they print."""

from __future__ import annotations

import json
import operator
import random
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from crawlkit.checkpoint import (
    Checkpoint,
    Document,
    ErrorGroup,
    Number,
    Outcome,
    Pending,
    Saved,
    Snapshot,
)
from crawlkit.clock import Clock, isoformat
from crawlkit.counting.durations import ACCURACY, Sketch
from crawlkit.counting.errorgroups import GROUPS, message_of, place_of
from crawlkit.counting.samples import SAMPLES
from crawlkit.errors import StatusError, UrlError
from crawlkit.request import Request
from crawlkit.statistics import Statistics, tallies
from crawlkit.stores.base import Receipt
from crawlkit.stores.memory import MemoryStore
from crawlkit.testing import ManualClock
from crawlkit.urls import canonical

START = 1_700_000_000.0


class Books:
    """What a store does with the checkpoints of one part, in memory."""

    def __init__(self) -> None:
        self.documents: dict[str, Document] = {}
        self.counters: dict[str, Number] = {}
        self.errors: dict[tuple[str, str, str], ErrorGroup] = {}

    def commit(self, statistics: Statistics) -> Checkpoint:
        checkpoint = Checkpoint()
        with checkpoint.of("statistics"):
            statistics.collect(checkpoint)
        merges: tuple[tuple[Callable[[Number, Number], Number], dict[str, Number]], ...] = (
            (operator.add, checkpoint.add),
            (min, checkpoint.least),
            (max, checkpoint.most),
        )
        for merge, values in merges:
            for name, value in values.items():
                old = self.counters.get(name)
                self.counters[name] = value if old is None else merge(old, value)
        for name, document in checkpoint.documents.items():
            assert document is not None
            self.documents[name] = document
        for group in checkpoint.errors:
            known = self.errors.setdefault(
                group.key, ErrorGroup(*group.key[:1], group.message, group.place)
            )
            known.count += group.count
            known.first_at = known.first_at or group.first_at
            known.last_at = group.last_at
            known.examples += group.examples
        return checkpoint

    def enqueue(self, statistics: Statistics, new: int, duplicates: int = 0) -> None:
        """The store counts requests by itself, and tells the statistics."""
        for name, n in (("requests_total", new), ("requests_duplicate", duplicates)):
            self.counters[name] = self.counters.get(name, 0) + n
        statistics.enqueued(Receipt(new, duplicates))

    def load(self, clock: Clock | None = None, *, hosts: bool = False) -> Statistics:
        counters = {n: v for n, v in self.counters.items() if not n.startswith("host/")}
        by_host = {n: v for n, v in self.counters.items() if n.startswith("host/")}
        statistics = Statistics(clock, read_hosts=lambda: tallies(by_host) if hosts else {})
        snapshot = Snapshot(self.documents, counters, tuple(self.errors.values()))
        statistics.restore(Saved("statistics", snapshot))
        return statistics


def busy(statistics: Statistics) -> None:
    """A bit of everything."""
    for status in (200, 200, 503, 404):
        statistics.received("a.example", status, 1000)
    statistics.finished("parse", "a.example", 0.25, 0)
    statistics.finished("parse_item", "b.example", 1.5, 2)
    statistics.failed("parse_item", "b.example", 9.0, 3)
    statistics.retried("parse", "a.example")
    statistics.skipped("scope")
    statistics.dropped()
    statistics.saved("parse_item", 3)
    statistics.cached("parse", "hit", 1000, False)
    statistics.error(ValueError("no price for 'x'"), "https://a.example/1", "parse")
    statistics.in_flight = 2


def numbers(statistics: Statistics) -> dict[str, Any]:
    """All of `to_dict` that does not depend on the hour."""
    values = statistics.to_dict()
    for name in ("by_host", "started_at", "last_started_at", "runtime_seconds", "errors"):
        del values[name]
    return values


# -- restarts ------------------------------------------------------------------------------


def test_a_restart_changes_no_number() -> None:
    books = Books()
    statistics = Statistics(ManualClock())
    statistics.begin_life(START)
    books.enqueue(statistics, 20, 5)
    busy(statistics)
    statistics.sample(START, 50_000_000)
    books.commit(statistics)

    assert books.load(ManualClock()).to_dict() == statistics.to_dict()


Record = Callable[[Statistics], object]
RECORDS: list[Record] = [
    lambda s: s.received("a.example", 200, 17),
    lambda s: s.received("b.example", 503, 0),
    lambda s: s.finished("parse", "a.example", 0.125, 0),
    lambda s: s.finished("parse", "b.example", 8.0, 2),
    lambda s: s.failed("parse_item", "b.example", 0.5, 3),
    lambda s: s.retried("parse", "b.example"),
    lambda s: s.skipped("max_depth"),
    lambda s: s.dropped(),
    lambda s: s.saved("parse_item", 2),
    lambda s: s.cached("parse", "miss", 1000, True),
    lambda s: s.error(OSError("disk 7"), "https://a.example/", "parse"),
]


@given(st.lists(st.sampled_from([*RECORDS, "checkpoint", "restart"])))
def test_where_the_checkpoints_and_restarts_fall_makes_no_difference(steps: list[Any]) -> None:
    clock = ManualClock()
    undisturbed = Statistics(clock)
    statistics, books = Statistics(clock), Books()
    for step in steps:
        if callable(step):
            step(undisturbed)
            step(statistics)
        else:
            books.commit(statistics)
            if step == "restart":
                statistics = books.load(clock)
    books.commit(statistics)

    restored = books.load(clock)
    assert numbers(restored) == numbers(undisturbed)
    assert restored.errors == undisturbed.errors


def test_the_numbers_of_several_workers_are_summed() -> None:
    books, workers = Books(), [Statistics(), Statistics()]
    for _ in range(3):
        for worker in workers:
            busy(worker)
            books.commit(worker)

    both = books.load(hosts=True)
    assert both.requests_finished == 12
    assert both.status_codes == {200: 12, 503: 6, 404: 6}
    assert both.duration_finished.count == 12
    assert (both.duration_finished.min, both.duration_finished.max) == (0.25, 1.5)
    assert both.by_host["a.example"].bytes_received == 24_000
    assert both.errors[0].count == 6


def test_work_after_the_last_checkpoint_is_not_counted_twice_when_it_is_done_again() -> None:
    books = Books()
    statistics = Statistics()
    busy(statistics)
    books.commit(statistics)
    busy(statistics)  # killed before the next checkpoint: the pages are fetched again

    again = books.load()
    busy(again)
    books.commit(again)
    assert books.load().requests_finished == 4


async def test_a_store_brings_back_what_was_collected() -> None:
    store = MemoryStore()
    await store.open()
    statistics = Statistics(ManualClock())
    statistics.begin_life(START)
    for number in (1, 2, 3, 3):
        busy(statistics)
        request = Request(f"https://a.example/{number}")
        checkpoint = Checkpoint(fresh=[Pending(request, request.fingerprint, request.host)])
        with checkpoint.of("statistics"):
            statistics.collect(checkpoint)
        statistics.enqueued(await store.commit(checkpoint))
    restored = Statistics(ManualClock())
    restored.restore(Saved("statistics", await store.load()))
    await store.close()

    assert (restored.requests_total, restored.requests_duplicate) == (3, 1)
    assert restored.to_dict() == statistics.to_dict()


# -- what a checkpoint costs -----------------------------------------------------------------


def test_a_checkpoint_without_changes_is_empty() -> None:
    books, statistics = Books(), Statistics()
    assert not books.commit(statistics)
    busy(statistics)
    assert books.commit(statistics)
    assert not books.commit(statistics)
    assert not books.commit(books.load())


def test_a_checkpoint_carries_what_changed_and_not_what_there_is() -> None:
    books, statistics = Books(), Statistics()
    for number in range(1000):
        statistics.finished(f"handler{number}", f"host{number}.example", 0.001 * number, number)
    books.commit(statistics)
    statistics.skipped("scope")
    assert books.commit(statistics).add == {"skipped_by_reason/scope": 1}


def test_hosts_are_not_held_in_memory() -> None:
    books, statistics = Books(), Statistics()
    for number in range(100):
        statistics.received(f"host{number}.example", 200, 10)
    books.commit(statistics)
    assert statistics.by_host == {}
    assert len(books.load(hosts=True).by_host) == 100


def test_requests_are_counted_by_the_store_alone() -> None:
    """It counts them in the commit that enqueues them; sent again, they would count double."""
    statistics = Statistics()
    statistics.enqueued(Receipt(enqueued=7, duplicates=2))
    assert (statistics.requests_total, statistics.requests_duplicate) == (7, 2)
    assert not Books().commit(statistics)


# -- lives and time ---------------------------------------------------------------------------


def test_runtime_is_summed_over_the_lives_and_a_kill_loses_one_interval() -> None:
    books, clock = Books(), ManualClock(START)
    statistics = Statistics(clock)
    statistics.begin_life(clock.now())
    clock.advance(10)
    books.commit(statistics)
    clock.advance(1)  # killed here

    clock = ManualClock(START + 3600)
    statistics = books.load(clock)
    statistics.begin_life(clock.now())
    clock.advance(5)
    statistics.end_life(clock.now(), True)
    clock.advance(100)
    books.commit(statistics)

    done = books.load()
    assert done.runtime_seconds == 15
    assert done.lives == 2
    assert done.started_at == "2023-11-14T22:13:20.000Z"
    assert done.last_started_at == "2023-11-14T23:13:20.000Z"
    assert done.finished_at == "2023-11-14T23:13:25.000Z"


def test_a_system_clock_that_is_set_back_a_year_gives_no_negative_time() -> None:
    wall, steady = [START], [0.0]
    clock = Clock(wall=lambda: wall[0], monotonic=lambda: steady[0])
    statistics = Statistics(clock)
    statistics.begin_life(clock.now())
    wall[0] -= 365 * 86400
    steady[0] += 3
    assert statistics.runtime_seconds == 3


def test_a_finished_run_that_gets_more_work_is_not_finished() -> None:
    books, statistics = Books(), Statistics()
    statistics.begin_life(START)
    statistics.finished("parse", "a.example", 0.1, 0)
    statistics.end_life(START + 1, True)
    books.commit(statistics)

    again = books.load()
    again.begin_life(START + 2)
    again.enqueued(Receipt(1, 0))
    books.commit(again)
    assert books.load().finished_at is None

    again.end_life(START + 3, True)
    books.commit(again)
    last = books.load()
    last.begin_life(START + 4)
    last.retried("parse", "a.example")
    books.commit(last)
    assert books.load().finished_at is None


def test_a_life_that_is_killed_before_it_has_found_work_leaves_the_run_finished() -> None:
    books, statistics = Books(), Statistics()
    statistics.begin_life(START)
    statistics.finished("parse", "a.example", 0.1, 0)
    statistics.end_life(START + 1, True)
    books.commit(statistics)
    assert books.load().finished_at is not None

    again = books.load()
    again.begin_life(START + 2)
    books.commit(again)
    assert books.load().finished_at == isoformat(START + 1)


def test_what_the_last_checkpoint_brings_makes_no_finished_run_unfinished() -> None:
    """As with `max_pages`: the last page's links are enqueued when the end is known."""
    books, statistics = Books(), Statistics()
    statistics.begin_life(START)
    statistics.finished("parse", "a.example", 0.1, 0)
    statistics.end_life(START + 1, True)
    books.commit(statistics)
    statistics.enqueued(Receipt(3, 0))
    assert statistics.finished_at == isoformat(START + 1)


def test_what_a_killed_life_had_in_flight_is_pending_in_the_next() -> None:
    books, statistics = Books(), Statistics()
    statistics.begin_life(START)
    books.enqueue(statistics, 20)
    busy(statistics)
    books.commit(statistics)
    again = books.load()
    assert (again.in_flight, again.pending) == (2, 14)
    again.begin_life(START + 10)
    assert (again.in_flight, again.pending) == (0, 16)


# -- the numbers ------------------------------------------------------------------------------


def test_what_is_not_finished_failed_dropped_or_in_flight_is_pending() -> None:
    statistics = Statistics()
    Books().enqueue(statistics, 20, 5)
    busy(statistics)
    assert statistics.pending == 20 - 2 - 1 - 1 - 2


def test_retries_are_told_by_how_many_a_request_needed() -> None:
    statistics = Statistics()
    busy(statistics)
    assert statistics.retry_histogram == {0: 1, 2: 1, 3: 1}
    assert statistics.requests_retried == 1


@given(
    st.lists(st.floats(min_value=1e-5, max_value=1e5, allow_nan=False), min_size=1, max_size=200)
)
def test_quantiles_are_within_two_percent(durations: list[float]) -> None:
    sketch = Sketch()
    for seconds in durations:
        sketch.record(seconds)
    summary, ranked = sketch.summary(), sorted(durations)
    assert (summary.count, summary.min, summary.max) == (len(ranked), ranked[0], ranked[-1])
    assert summary.mean == pytest.approx(sum(ranked) / len(ranked))
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)):
        exact = ranked[int(share * (len(ranked) - 1))]
        assert getattr(summary, name) == pytest.approx(exact, rel=ACCURACY + 1e-9), name


def test_a_duration_of_nought_is_a_duration() -> None:
    """A cached page may take less than the clock can tell."""
    sketch = Sketch()
    sketch.record(0.0)
    assert (sketch.summary().count, sketch.summary().max) == (1, 0.0)


def test_durations_that_nobody_had_are_none_and_not_nought() -> None:
    assert Statistics().to_dict()["duration_failed"] == {
        "count": 0,
        **dict.fromkeys(("min", "mean", "max", "p50", "p90", "p95", "p99")),
    }


def test_the_printed_names_are_those_of_the_documented_attributes() -> None:
    documented = re.findall(
        r"^ {8}(\w+): ", (Statistics.__doc__ or "").partition("Args:")[0], re.MULTILINE
    )
    statistics = Statistics()
    assert list(statistics.to_dict()) == documented
    json.dumps(statistics.to_dict())
    busy(statistics)
    values = statistics.to_dict()
    for name in ("requests_finished", "pending", "skipped_by_reason", "items_saved"):
        assert values[name] == getattr(statistics, name)


def test_samples_are_bounded_and_span_the_whole_run() -> None:
    books, statistics = Books(), Statistics()
    for second in range(5000):
        statistics.finished("parse", "a.example", 0.1, 0)
        statistics.sample(START + second, 1)
    books.commit(statistics)
    samples = books.load().samples
    assert SAMPLES / 3 < len(samples) <= SAMPLES
    assert samples == statistics.samples
    assert samples[0].finished == 1
    assert samples[-1].finished > 4900
    gaps = {b.finished - a.finished for a, b in pairwise(samples)}
    assert gaps == {16}


def test_samples_tell_how_long_the_requests_of_their_second_took() -> None:
    books, statistics = Books(), Statistics()
    statistics.sample(START, 1)
    for _ in range(100):
        statistics.finished("parse", "a.example", 0.1, 0)
    statistics.sample(START + 1, 1)
    for _ in range(100):
        statistics.finished("parse", "a.example", 2.0, 0)
    statistics.sample(START + 2, 1)
    books.commit(statistics)
    found = [(sample.p50, sample.p95) for sample in books.load().samples]
    assert found[0] == (None, None)
    assert found[1] == (pytest.approx(0.1, rel=0.02), pytest.approx(0.1, rel=0.02))
    assert found[2] == (pytest.approx(2.0, rel=0.02), pytest.approx(2.0, rel=0.02))


def test_samples_go_on_after_the_clock_was_set_back_between_two_lives() -> None:
    statistics = Statistics()
    statistics.sample(START, 1)
    statistics.sample(START - 86400, 1)
    assert len(statistics.samples) == 2


def test_failed_requests_that_are_put_back_have_not_failed() -> None:
    books, statistics = Books(), Statistics()
    books.enqueue(statistics, 2)
    statistics.failed("parse", "a.example", 2.0, 3)
    statistics.failed("parse", "a.example", 4.0, 3)
    statistics.end_life(START, True)
    books.commit(statistics)

    statistics = books.load()
    statistics.put_back(
        Outcome(
            outcome="failed",
            url="https://a.example/",
            fingerprint=1,
            host="a.example",
            at=START,
            handler="parse",
            duration=2.0,
            retries=3,
        )
    )
    books.commit(statistics)

    left = books.load(hosts=True)
    assert (left.requests_failed, left.pending, left.finished_at) == (1, 1, None)
    assert left.retry_histogram == {3: 1}
    assert (left.duration_failed.count, left.duration_failed.mean) == (1, 4.0)
    assert left.by_handler["parse"].requests_failed == 1
    assert left.by_host["a.example"].requests_failed == 1


# -- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "masked"),
    [
        ("page 12 of 340 has no price", "page <n> of <n> has no price"),
        ("took 1.5 s at 12:30:45", "took <n> s at <n>"),
        ("GET https://a.example/x?y=1 gave nothing", "GET <url> gave nothing"),
        ("no price in 'Blue lamp, 3 W'", "no price in '…'"),
        ('no price in "Blue lamp"', "no price in '…'"),
        ("job 6f9619ff-8b86-d011-b42d-00c04fc964ff is gone", "job <uuid> is gone"),
        ("<Page at 0x7f00a1b2>", "<Page at <hex>>"),
        ("digest 9f86d081884c7d65", "digest <hex>"),
        ("cannot open /srv/data/4.json: gone", "cannot open <path>: gone"),
        ("it's the shop's own", "it's the shop's own"),
        ("HTTP2 is off, text/html expected", "HTTP2 is off, text/html expected"),
        ("two\n  lines", "two lines"),
    ],
)
def test_messages_that_differ_in_their_data_are_alike(message: str, masked: str) -> None:
    assert message_of(ValueError(message)) == masked


def test_the_status_of_a_response_and_names_of_the_program_are_not_data() -> None:
    assert (
        message_of(StatusError("HTTP status 503 after 17 s", 503)) == "HTTP status 503 after <n> s"
    )
    error = AttributeError("'NoneType' object has no attribute 'get'")
    assert message_of(error) == str(error)
    assert message_of(KeyError("price")) == "'price'"
    assert message_of(KeyError("FF-0017")) == "'…'"


def test_the_same_error_of_many_hosts_is_one_group() -> None:
    statistics = Statistics()
    for number in range(3):
        error = StatusError(f"HTTP 404 Not Found from host{number}.example", 404)
        statistics.error(error, f"https://host{number}.example/", "")
    (group,) = statistics.errors
    assert (group.message, group.count) == ("HTTP 404 Not Found from <host>", 3)


def test_a_url_of_the_host_itself_is_masked_whole() -> None:
    told = "GET http://a.example:8000/lamp?id=7 is not in the page cache"
    assert message_of(ValueError(told), "a.example:8000") == "GET <url> is not in the page cache"


def test_an_error_whose_text_cannot_be_had_is_counted_all_the_same() -> None:
    class BrokenError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    statistics = Statistics()
    statistics.error(BrokenError(), "https://a.example/")
    assert (statistics.errors[0].kind, statistics.errors[0].message) == ("BrokenError", "")


def test_the_place_of_an_error_is_the_innermost_line_of_the_users_code() -> None:
    def helper() -> None:
        json.loads("{")  # raised in the standard library, on behalf of this line

    line = helper.__code__.co_firstlineno + 1
    with pytest.raises(ValueError, match="Expecting") as caught:
        helper()
    assert place_of(caught.value) == f"tests/test_statistics.py:{line}"


def test_a_compiled_library_is_not_the_users_code() -> None:
    def helper() -> None:
        etree.fromstring("<a/>").xpath("//[")  # raised in a file that lxml calls src/lxml/xpath.pxi

    with pytest.raises(etree.XPathError) as caught:
        helper()
    line = helper.__code__.co_firstlineno + 1
    assert place_of(caught.value) == f"tests/test_statistics.py:{line}"


def test_an_error_of_crawlkit_itself_has_no_place_in_the_users_code() -> None:
    with pytest.raises(UrlError) as caught:
        canonical("shop.example")
    assert caught.value.__traceback__ is not None
    without_this_test = caught.value.with_traceback(caught.value.__traceback__.tb_next)
    assert place_of(without_this_test) == ""


def test_a_group_keeps_five_urls_its_count_and_its_times() -> None:
    books, clock = Books(), ManualClock(START)
    statistics = Statistics(clock)
    for number in range(20):
        statistics.error(ValueError(f"no {number}"), f"https://a.example/{number % 10}", "parse")
        if number % 3 == 0:
            books.commit(statistics)
        clock.advance(1)
    books.commit(statistics)
    (group,) = books.load().errors
    assert (group.kind, group.message, group.place, group.count) == (
        "ValueError",
        "no <n>",
        "parse",
        20,
    )
    assert group.examples == [f"https://a.example/{number}" for number in range(5)]
    assert group.first_at == "2023-11-14T22:13:20.000Z"
    assert group.last_at == "2023-11-14T22:13:39.000Z"


def test_errors_of_a_thousand_kinds_are_counted_in_a_bounded_number_of_groups() -> None:
    books, statistics = Books(), Statistics()
    words = ["".join(random.Random(n).choices("abcdefgh", k=12)) for n in range(2 * GROUPS)]
    for word in words:
        statistics.error(ValueError(word), "https://a.example/", "parse")
    books.commit(statistics)
    again = books.load()
    again.error(ValueError("yet another"), "https://a.example/", "parse")
    assert len(again.errors) == GROUPS + 1
    assert (again.errors[0].kind, again.errors[0].count) == ("other", GROUPS + 1)


def test_the_most_frequent_errors_come_first() -> None:
    statistics = Statistics()
    for place in ("a", "b", "b", "c", "c", "c"):
        statistics.error(ValueError("x"), Request("https://a.example/").url, place)
    assert [error.place for error in statistics.errors] == ["c", "b", "a"]

"""A run can be opened and asked about everything, finished or live."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from crawlkit.checkpoint import Checkpoint, Item, Lease, Outcome, Pending, Saved
from crawlkit.counting.errorgroups import group_id, with_group
from crawlkit.errors import CrawlkitError, StoreError, UrlError, UsageError
from crawlkit.request import Request
from crawlkit.run import load_statistics, open_run
from crawlkit.statistics import Statistics
from crawlkit.stores.sqlite import SqliteStore
from crawlkit.testing import ManualClock

SITE = "https://shop.example"
START = 1_700_000_000.0


def pending(url: str, **fields: Any) -> Pending:
    request = Request(url, **fields)
    return Pending(request, request.fingerprint, request.host)


def outcome(lease: Lease, name: str, **fields: Any) -> Outcome:
    return Outcome(
        outcome=name,
        url=lease.request.url,
        fingerprint=lease.fingerprint,
        host=lease.host,
        at=START,
        handler=lease.request.handler,
        **fields,
    )


async def write_run(address: Path) -> None:
    """A run that was stopped: one page each that was handled, failed, skipped, is to be retried."""
    store = SqliteStore(str(address))
    await store.open()
    clock = ManualClock(START)
    statistics = Statistics(clock)
    statistics.begin_life(START)
    first = Checkpoint(
        fresh=[
            pending(f"{SITE}/"),
            pending(f"{SITE}/broken", handler="parse_item"),
            pending(f"{SITE}/again"),
            pending(f"{SITE}/later"),
            pending(f"{SITE}/search", method="POST", body=b"q=lamp"),
        ]
    )
    statistics.enqueued(await store.commit(first))
    leases = {
        lease.request.url.removeprefix(SITE): lease
        for lease in (await store.claim(10, {}, START)).leases
    }
    top, broken, again = leases["/"], leases["/broken"], leases["/again"]
    statistics.received(top.host, 200, 5000)
    statistics.finished("parse", top.host, 0.25, 0)
    statistics.saved("parse", 2)
    statistics.failed("parse_item", top.host, 1.0, 3)
    group = statistics.error(ValueError("no price"), broken.request.url, "shop.py:7")
    statistics.retried("parse", top.host)
    statistics.skipped("scope")
    statistics.in_flight = 1
    elsewhere = Request("https://elsewhere.example/")
    second = Checkpoint(
        outcomes=[
            outcome(top, "handled", status=200, duration=0.25),
            outcome(
                broken,
                "failed",
                status=200,
                duration=1.0,
                retries=3,
                error="ValueError",
                detail=with_group("ValueError: no price", group_id(group)),
                request=broken.request.replace(retry_count=3),
            ),
        ],
        left=[top.ticket, broken.ticket, again.ticket],
        again=[
            Pending(again.request.replace(retry_count=1), again.fingerprint, again.host, START + 60)
        ],
        skipped=[
            Outcome(
                "skipped",
                elsewhere.url,
                elsewhere.fingerprint,
                elsewhere.host,
                START,
                detail="scope",
            )
        ],
        items=[
            Item(b'{"title":"Lamp"}', f"{SITE}/", "parse", START),
            Item(b'{"title":"Rug"}', f"{SITE}/", "parse_item", START),
        ],
    )
    with second.of("statistics"):
        statistics.collect(second)
    with second.of("state"):
        second.save({"page": 3})
    with second.of("values"):
        second.save({"EUR": 1.1}, key="rates")
        second.save([1], key="rates/old")
    with second.of("queue"):
        later = leases["/later"]
        second.save([(later.host, later.fingerprint)], key="in_flight")
    await store.commit(second)
    await store.close()


@pytest.fixture
def address(tmp_path: Path) -> Path:
    asyncio.run(write_run(tmp_path / "runs" / "shop"))
    return tmp_path / "runs" / "shop"


@contextmanager
def live(address: Path) -> Iterator[None]:
    """Somebody is writing the run."""
    opened, done = threading.Event(), threading.Event()

    async def hold() -> None:
        store = SqliteStore(str(address))
        await store.open()
        opened.set()
        await asyncio.to_thread(done.wait)
        await store.close()

    holder = threading.Thread(target=asyncio.run, args=(hold(),))
    holder.start()
    try:
        assert opened.wait(10)
        yield
    finally:
        done.set()
        holder.join()


# -- the whole ------------------------------------------------------------------------------------


def test_the_statistics_of_a_run_are_one_call(address: Path) -> None:
    statistics = load_statistics(address)
    assert (statistics.requests_total, statistics.requests_finished) == (5, 1)
    assert statistics.by_handler["parse_item"].requests_failed == 1
    assert statistics.by_host["shop.example"].bytes_received == 5000
    assert statistics.errors[0].place == "shop.py:7"


def test_what_a_killed_process_had_in_flight_is_pending(address: Path) -> None:
    with open_run(address) as run:
        assert not run.is_live
        assert (run.statistics.in_flight, run.statistics.pending) == (0, 3)
        assert {r.url for r in run.requests("pending")} == {
            f"{SITE}/again",
            f"{SITE}/later",
            f"{SITE}/search",
        }
        assert list(run.requests("in_flight")) == []


def test_a_run_can_be_read_while_the_crawl_goes_on(address: Path) -> None:
    with live(address), open_run(str(address)) as run:
        assert run.is_live
        assert run.holder is not None
        assert (run.statistics.in_flight, run.statistics.pending) == (1, 2)
        assert [r.url for r in run.requests("in_flight")] == [f"{SITE}/later"]
        assert run.why(f"{SITE}/later").outcome == "in_flight"


def test_the_busiest_hosts_come_first_and_are_as_many_as_one_wants(tmp_path: Path) -> None:
    async def write() -> None:
        store = SqliteStore(str(tmp_path))
        await store.open()
        statistics = Statistics()
        for number in range(20):
            for _ in range(number):
                statistics.received(f"host{number}.example:8080", 200, 10)
        checkpoint = Checkpoint()
        with checkpoint.of("statistics"):
            statistics.collect(checkpoint)
        await store.commit(checkpoint)
        await store.close()

    asyncio.run(write())
    with open_run(tmp_path) as run:
        hosts = run.hosts(2)
        assert list(hosts) == ["host19.example:8080", "host18.example:8080"]
        assert hosts["host19.example:8080"].bytes_received == 190
        assert len(run.hosts()) == 19


# -- what it holds --------------------------------------------------------------------------------


def test_items_are_what_was_saved_in_that_order(address: Path) -> None:
    with open_run(address) as run:
        assert list(run.items()) == [{"title": "Lamp"}, {"title": "Rug"}]
        assert list(run.items("parse_item")) == [{"title": "Rug"}]
        assert next(run.items(meta=True)) == {
            "title": "Lamp",
            "_url": f"{SITE}/",
            "_handler": "parse",
            "_time": "2023-11-14T22:13:20.000Z",
        }


@pytest.mark.parametrize(
    ("name", "paths"),
    [("handled", ["/"]), ("failed", ["/broken"]), ("pending", ["/again", "/later", "/search"])],
)
def test_requests_can_be_asked_for_by_outcome(address: Path, name: Any, paths: list[str]) -> None:
    with open_run(address) as run:
        found = sorted(run.requests(name, host="shop.example"), key=lambda request: request.url)
        assert [request.url for request in found] == [SITE + path for path in paths]
        assert list(run.requests(name, host="elsewhere.example")) == []


def test_skipped_links_can_be_asked_for(address: Path) -> None:
    with open_run(address) as run:
        assert [(s.url, s.detail) for s in run.requests("skipped")] == [
            ("https://elsewhere.example/", "scope")
        ]


def test_an_outcome_that_does_not_exist_is_refused_with_those_that_do(address: Path) -> None:
    with open_run(address) as run, pytest.raises(UsageError, match="handled, failed, skipped"):
        run.requests("lost")  # type: ignore[arg-type]


def test_errors_come_in_groups(address: Path) -> None:
    with open_run(address) as run:
        (group,) = run.errors()
        assert (group.kind, group.count, group.examples) == ("ValueError", 1, [f"{SITE}/broken"])


def test_state_and_values_are_what_the_crawler_kept(address: Path) -> None:
    with open_run(address) as run:
        assert run.state == {"page": 3}
        assert run.value("rates") == {"EUR": 1.1}
        assert run.value("rates/old") == [1]
        assert run.value("rate") is None
        assert run.value("rate", 7) == 7
        assert run.values() == {"rates": {"EUR": 1.1}, "rates/old": [1]}


def test_a_run_that_kept_nothing_has_an_empty_state(tmp_path: Path) -> None:
    async def write() -> None:
        store = SqliteStore(str(tmp_path))
        await store.open()
        await store.close()

    asyncio.run(write())
    with open_run(tmp_path) as run:
        assert (run.state, run.values(), run.errors(), list(run.items())) == ({}, {}, [], [])
        assert run.statistics.requests_total == 0
        assert run.statistics.started_at is None


def test_a_stream_ends_with_its_run_and_does_not_pretend_to_be_complete(address: Path) -> None:
    with open_run(address) as run:
        items, requests = run.items(), run.requests("pending")
        assert next(items) == {"title": "Lamp"}
    for stream in (items, requests):
        with pytest.raises(CrawlkitError, match="closed"):
            list(stream)


# -- why ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        (
            f"{SITE}/",
            f"{SITE}/: handled at 2023-11-14T22:13:20.000Z by parse, HTTP status 200, 250 ms",
        ),
        (
            f"{SITE}/broken",
            f"{SITE}/broken: failed at 2023-11-14T22:13:20.000Z in parse_item: "
            "ValueError: no price, HTTP status 200, 1.00 s, tried again 3 times (group 8ff55329)",
        ),
        (
            f"{SITE}/again",
            f"{SITE}/again: pending, for parse, tried again 1 time, "
            "not before 2023-11-14T22:14:20.000Z",
        ),
        (f"{SITE}/later", f"{SITE}/later: pending, for parse"),
        (f"{SITE}/search", f"{SITE}/search: pending, for parse"),
        (
            "https://elsewhere.example/",
            "https://elsewhere.example/: skipped at 2023-11-14T22:13:20.000Z: scope",
        ),
        (
            "HTTPS://Shop.example:443/later#part",
            f"HTTPS://Shop.example:443/later#part is a duplicate of {SITE}/later: "
            "pending, for parse",
        ),
        (
            f"{SITE}/never",
            f"{SITE}/never: never seen: it was no start URL, and no handler followed a link to it",
        ),
    ],
)
def test_why_says_what_became_of_a_url(address: Path, url: str, sentence: str) -> None:
    with open_run(address) as run:
        assert str(run.why(url)) == sentence


def test_a_link_that_was_skipped_first_and_enqueued_later_is_pending(address: Path) -> None:
    async def enqueue() -> None:
        store = SqliteStore(str(address))
        await store.open()
        await store.commit(Checkpoint(fresh=[pending("https://elsewhere.example/")]))
        await store.close()

    asyncio.run(enqueue())
    with open_run(address) as run:
        assert run.why("https://elsewhere.example/").outcome == "pending"


def test_why_of_what_is_no_url_says_so(address: Path) -> None:
    with open_run(address) as run, pytest.raises(UrlError, match="no scheme"):
        run.why("shop.example")


# -- no run ---------------------------------------------------------------------------------------


def test_a_path_without_a_run_is_refused_with_the_runs_that_there_are(address: Path) -> None:
    for wrong in (address.parent / "shpo", address.parent):
        with pytest.raises(StoreError) as caught:
            open_run(wrong)
        assert str(caught.value) == f"there is no run in {wrong}; there is {address}"


def test_a_path_without_a_run_and_no_runs_around_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match=r"there is no run in runs/shop; .*--store"):
        open_run("runs/shop")


def test_looking_at_a_run_changes_none_of_its_statistics(address: Path) -> None:
    before = load_statistics(address).to_dict()
    statistics = load_statistics(address)
    checkpoint = Checkpoint()
    statistics.collect(checkpoint)
    assert not checkpoint.add
    assert load_statistics(address).to_dict() == before


def test_saved_statistics_are_found_by_a_crawler_too(address: Path) -> None:
    """The reader and the loader see the same snapshot."""

    async def load() -> Statistics:
        store = SqliteStore(str(address))
        await store.open()
        statistics = Statistics()
        statistics.restore(Saved("statistics", await store.load()))
        statistics.in_flight = 0
        await store.close()
        return statistics

    ours, theirs = asyncio.run(load()).to_dict(), load_statistics(address).to_dict()
    assert ours | {"by_host": 0} == theirs | {"by_host": 0}

"""What every store promises: the contract of `crawlkit.stores.base`, in executable form.

What happens when something goes wrong is in `test_stores_durability.py`.
"""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice
from typing import Any

import pytest

from crawlkit.checkpoint import Checkpoint, Document, ErrorGroup, Item, Pending
from crawlkit.errors import StoreError, StoreStaleError
from crawlkit.request import Request
from crawlkit.stores.base import BUNDLE, Claim, Reader, Store

from .backends import (
    NOW,
    A,
    B,
    Backend,
    C,
    claim,
    claim_all,
    commit,
    content,
    done,
    findings,
    item,
    outcome,
    pages,
    pending,
    skipped,
    urls,
)

# -- the dedup set --------------------------------------------------------------------------------


async def test_a_request_is_enqueued_once(store: Store) -> None:
    receipt = await commit(store, fresh=[pending(f"{A}/1"), pending(f"{A}/2")])
    assert (receipt.enqueued, receipt.duplicates) == (2, 0)
    receipt = await commit(store, fresh=[pending(f"{A}/2"), pending(f"{A}/3")])
    assert (receipt.enqueued, receipt.duplicates) == (1, 1)
    assert sorted(urls(await claim_all(store))) == [f"{A}/1", f"{A}/2", f"{A}/3"]
    assert store.reader().counters() == {"requests_total": 3, "requests_duplicate": 1}


async def test_duplicates_within_one_checkpoint_are_found_and_the_first_one_counts(
    store: Store,
) -> None:
    fresh = [pending(f"{A}/1", depth=1), pending(f"{A}/1", depth=2), pending(f"{A}/1")]
    receipt = await commit(store, fresh=fresh, duplicates=4)
    assert (receipt.enqueued, receipt.duplicates) == (1, 6)
    (lease,) = await claim_all(store)
    assert lease.request.depth == 1


async def test_a_fingerprint_counts_within_its_host(store: Store) -> None:
    fresh = [
        Pending(Request(f"{site}/{number}"), number, site.removeprefix("https://"))
        for site in (A, B)
        for number in (-(2**63), -1, 0, 1, 2**63 - 1)
    ]
    assert (await commit(store, fresh=fresh)).enqueued == 10
    assert (await commit(store, fresh=fresh)).enqueued == 0
    reader = store.reader()
    assert reader.seen("a.example", -(2**63))
    assert reader.seen("b.example", 2**63 - 1)
    assert not reader.seen("a.example", 2)
    assert not reader.seen("c.example", 1)
    reader.close()


async def test_what_was_handled_is_not_enqueued_again(store: Store) -> None:
    await commit(store, fresh=[pending(f"{A}/1")])
    await store.commit(done(await claim_all(store)))
    assert (await commit(store, fresh=[pending(f"{A}/1")])).enqueued == 0
    assert (await claim(store)).is_exhausted


# -- the queue ------------------------------------------------------------------------------------


async def test_a_request_comes_back_as_it_was(store: Store) -> None:
    request = Request(
        f"{A}/search",
        "parse_search",
        priority=-3,
        depth=7,
        method="POST",
        headers={"X-Token": "ü\u2028"},
        body=b"\x00\xff",
        user_data={"list": [1, 2.5, None, {"deep": "\u0000 'quoted\" \\ 😀"}]},
        unique_key="a key",
        retry_count=2,
        session="member",
    )
    await commit(store, fresh=[Pending(request, request.fingerprint, request.host)])
    (lease,) = await claim_all(store)
    assert lease.request == request
    assert (lease.fingerprint, lease.host) == (request.fingerprint, "a.example")


async def test_many_requests_of_a_host_are_all_there(store: Store) -> None:
    fresh = pages(A, 3 * BUNDLE + 1)
    await commit(store, fresh=fresh)
    leases = await claim_all(store)
    assert Counter(urls(leases)) == Counter(given.request.url for given in fresh)
    assert len({lease.ticket for lease in leases}) == len(fresh)


async def test_requests_leave_their_bundle_one_by_one_and_in_any_order(store: Store) -> None:
    await commit(store, fresh=pages(A, BUNDLE))
    leases = await claim_all(store)
    random.Random(5).shuffle(leases)
    left = set(urls(leases))
    for lease in leases:
        await store.commit(done([lease]))
        left.discard(lease.request.url)
        reader = store.reader()
        assert {request.url for request, _ in reader.pending()} == left
        reader.close()
    assert (await claim(store)).is_exhausted


async def test_the_best_priority_comes_first(store: Store) -> None:
    for priority in (0, 5, -5, 10):
        await commit(store, fresh=pages(A, 2, first=priority * 10 + 100, priority=priority))
        await commit(store, fresh=pages(B, 2, first=priority * 10 + 100, priority=priority))
    leases = await claim_all(store)
    priorities = [lease.request.priority for lease in leases]
    assert priorities == sorted(priorities, reverse=True)
    assert len(leases) == 16


async def test_a_small_claim_takes_the_best_of_each_host(store: Store) -> None:
    await commit(store, fresh=pages(A, 2 * BUNDLE) + pages(A, 3, first=500, priority=1))
    await commit(store, fresh=pages(B, 2 * BUNDLE, priority=2))
    best = (await claim(store, 1)).leases
    assert {lease.host for lease in best} == {"b.example"}
    assert {lease.request.priority for lease in best} == {2}


async def test_what_is_claimed_is_not_claimed_twice(store: Store) -> None:
    await commit(store, fresh=pages(A, 2 * BUNDLE) + pages(B, 10))
    first, second = await claim_all(store), await claim_all(store)
    assert len(first) == 2 * BUNDLE + 10
    assert second == []
    assert (await claim(store)).is_exhausted


async def test_requests_of_a_host_that_is_full_are_left_in_the_store(store: Store) -> None:
    await commit(store, fresh=pages(A, 5 * BUNDLE, priority=9) + pages(B, 5))
    assert {lease.host for lease in (await claim(store, 10)).leases} >= {"a.example"}
    found = await claim(store, 1000, {"a.example": 0})
    assert {lease.host for lease in found.leases} <= {"b.example"}
    assert not found.is_exhausted
    more = await claim(store, 10, {"a.example": 50})
    assert {lease.host for lease in more.leases} == {"a.example"}


async def test_retries_of_a_host_that_is_full_are_left_in_the_store_too(store: Store) -> None:
    again = [pending(f"{A}/{number}", due=NOW - number) for number in range(1, 200)]
    await commit(store, fresh=[*again, pending(f"{B}/")])
    found = await claim(store, 50, {"a.example": 0})
    assert urls(found.leases) == [f"{B}/"]
    assert not found.is_exhausted


async def test_a_large_host_does_not_starve_the_others(store: Store) -> None:
    await commit(store, fresh=pages(A, 40 * BUNDLE, priority=1))
    await commit(store, fresh=pages(B, 3) + pages(C, 3))
    window: dict[str, int] = {}
    hosts: set[str] = set()
    for _ in range(4):  # as the queue asks while nobody is done with anything
        for lease in (await claim(store, 82, window)).leases:
            hosts.add(lease.host)
            window[lease.host] = window.get(lease.host, 2 * BUNDLE) - 1
    assert hosts == {"a.example", "b.example", "c.example"}


async def test_many_hosts_are_claimed_at_once(store: Store) -> None:
    sites = [f"https://h{number}.example" for number in range(300)]
    await commit(store, fresh=[given for site in sites for given in pages(site, 2)])
    found: set[str] = set()
    for _ in range(300 // 50):
        found |= {lease.host for lease in (await claim(store, 50)).leases}
    assert len(found) == 300


async def test_hosts_whose_pages_are_done_but_not_committed_do_not_crowd_out_others(
    store: Store,
) -> None:
    await commit(store, fresh=[given for n in range(60) for given in pages(f"https://h{n}.x", 1)])
    await commit(store, fresh=pages(A, 1, priority=-1))
    hosts: set[str] = set()
    for _ in range(7):
        hosts |= {lease.host for lease in (await claim(store, 10)).leases}
    assert len(hosts) == 61


async def test_a_request_is_not_claimed_before_its_time(store: Store) -> None:
    await commit(store, fresh=[pending(f"{A}/later", due=NOW + 10), pending(f"{A}/now")])
    found = await claim(store)
    assert urls(found.leases) == [f"{A}/now"]
    assert found.next_due == NOW + 10
    assert not found.is_exhausted
    assert (await claim(store, now=NOW + 9.99)).leases == []
    found = await claim(store, now=NOW + 10)
    assert urls(found.leases) == [f"{A}/later"]
    assert found.next_due is None
    assert found.is_exhausted


async def test_the_next_time_is_that_of_the_first_of_those_that_wait(store: Store) -> None:
    await commit(store, fresh=[pending(f"{A}/{n}", due=NOW + n) for n in (30, 10, 20)])
    assert (await claim(store)).next_due == NOW + 10
    assert urls((await claim(store, now=NOW + 10)).leases) == [f"{A}/10"]
    assert (await claim(store, now=NOW + 10)).next_due == NOW + 20


async def test_a_request_that_is_tried_again_is_pending_once_more_and_not_new(
    store: Store,
) -> None:
    await commit(store, fresh=[pending(f"{A}/1"), pending(f"{A}/2")])
    lease = next(lease for lease in await claim_all(store) if lease.request.url == f"{A}/1")
    again = lease.request.replace(retry_count=1)
    receipt = await commit(
        store,
        again=[Pending(again, lease.fingerprint, lease.host, NOW + 5)],
        left=[lease.ticket],
    )
    assert (receipt.enqueued, receipt.duplicates) == (0, 0)
    found = (await claim(store, now=NOW + 5)).leases
    assert [lease.request for lease in found] == [again]
    reader = store.reader()
    assert sorted((r.url, due) for r, due in reader.pending()) == [
        (f"{A}/1", NOW + 5),
        (f"{A}/2", 0),
    ]
    reader.close()


async def test_what_was_claimed_and_is_not_done_is_claimed_by_the_next_process(
    store: Store, backend: Backend
) -> None:
    await commit(store, fresh=pages(A, BUNDLE + 10))
    leases = await claim_all(store)
    await store.commit(done(leases[5:25]))
    await store.close()
    store = backend.again(store)
    await store.open()
    assert Counter(urls(await claim_all(store))) == Counter(urls(leases[:5] + leases[25:]))
    await store.close()


async def test_what_is_given_back_is_claimed_again_at_once(store: Store) -> None:
    await commit(store, fresh=pages(A, 3))
    first = await claim_all(store)
    await store.release()
    assert urls(await claim_all(store)) == urls(first)


async def test_what_was_given_back_can_no_longer_be_finished(store: Store) -> None:
    await commit(store, fresh=pages(A, 3))
    leases = await claim_all(store)
    await store.release()
    before = content(store)
    with pytest.raises(StoreError, match="given back"):
        await store.commit(done(leases, items=[item(1)]))
    assert content(store) == before


async def test_an_empty_store_is_exhausted(store: Store) -> None:
    assert await claim(store) == Claim([], None, True)


async def test_a_claim_of_nothing_brings_nothing(store: Store) -> None:
    await commit(store, fresh=[pending(f"{A}/"), pending(f"{A}/due", due=NOW - 1)])
    found = await claim(store, 0)
    assert found.leases == []
    assert not found.is_exhausted


# -- outcomes -------------------------------------------------------------------------------------


async def test_the_busiest_hosts_are_told_without_the_others(store: Store) -> None:
    counters = {
        **{f"host/{n}.example/responses_received": n for n in range(1, 8)},
        **{f"host/{n}.example/bytes_received": 10 * n for n in range(1, 8)},
        "host/dead.example/requests_failed": 3,
        "host/7.example:80/requests_failed": 1,
        "host/x/y/requests_failed": 2,
        "hosts/7.example/responses_received": 100,
        "responses_received": 100,
    }
    await commit(store, add=counters)
    reader = store.reader()
    assert reader.busiest_hosts(2) == {
        "host/7.example/responses_received": 7,
        "host/7.example/bytes_received": 70,
        "host/6.example/responses_received": 6,
        "host/6.example/bytes_received": 60,
    }
    assert reader.busiest_hosts(8).keys() == (
        {name for name in counters if name.endswith("_received") and name.startswith("host/")}
        | {"host/dead.example/requests_failed"}
    )
    assert reader.busiest_hosts(100) == reader.counters("host/")
    assert reader.busiest_hosts(0) == {}
    for limit in (0, 2, 8, 100):
        assert Reader.busiest_hosts(reader, limit) == reader.busiest_hosts(limit)


async def test_outcomes_can_be_read_page_by_page(store: Store) -> None:
    await commit(store, fresh=[*pages(A, 7), *pages(B, 7), *pages(C, 7)])
    leases = await claim_all(store)
    await commit(
        store,
        outcomes=[outcome(lease, ("handled", "failed")[n % 2]) for n, lease in enumerate(leases)],
        left=[lease.ticket for lease in leases],
    )
    reader = store.reader()
    for name in ("handled", "failed"):
        for host in (None, "a.example", "c.example"):
            found, after = [], None
            while page := list(islice(reader.outcomes_after(name, after, host=host), 2)):
                found += page
                after = (page[-1].host, page[-1].fingerprint)
            assert found == list(reader.outcomes_after(name, host=host))
            assert Counter(map(repr, found)) == Counter(map(repr, reader.outcomes(name, host=host)))
            # The way that every store has.
            passing = Reader.outcomes_after(reader, name, after, host=host)
            assert list(passing) == list(reader.outcomes_after(name, after, host=host)) == []


async def test_every_outcome_can_be_asked_for(store: Store) -> None:
    await commit(store, fresh=pages(A, 2))
    handled, failed = await claim_all(store)
    known = [
        outcome(handled, status=200, duration=0.25, retries=1),
        outcome(
            failed,
            "failed",
            status=503,
            duration=1.5,
            retries=3,
            error="StatusError",
            detail="HTTP 503",
            request=failed.request.replace(retry_count=3),
        ),
    ]
    link = skipped(f"{A}/elsewhere", "scope: on /")
    await commit(store, outcomes=known, left=[handled.ticket, failed.ticket], skipped=[link])
    reader = store.reader()
    assert list(reader.outcomes("handled")) == known[:1]
    assert list(reader.outcomes("failed")) == known[1:]
    assert list(reader.outcomes("skipped")) == [link]
    assert reader.outcome("a.example", failed.fingerprint) == known[1]
    assert reader.outcome("b.example", failed.fingerprint) is None
    assert list(reader.outcomes("failed", host="b.example")) == []
    assert list(reader.outcomes("failed", host="a.example")) == known[1:]
    reader.close()


async def test_the_first_reason_for_a_skipped_link_stays(store: Store) -> None:
    await commit(store, skipped=[skipped(f"{A}/1", "first"), skipped(f"{A}/1", "second")])
    await commit(store, skipped=[skipped(f"{A}/1", "third")])
    reader = store.reader()
    assert [found.detail for found in reader.outcomes("skipped")] == ["first"]
    reader.close()


async def test_what_was_fetched_counts_more_than_a_skipped_link_to_it(store: Store) -> None:
    await commit(store, skipped=[skipped(f"{A}/0", "early")], fresh=pages(A, 2))
    leases = await claim_all(store)
    late = [skipped(lease.request.url, "late") for lease in leases]
    await store.commit(done(leases, skipped=late))
    await commit(store, skipped=late)
    reader = store.reader()
    assert len(list(reader.outcomes("handled"))) == 2
    assert list(reader.outcomes("skipped")) == []
    reader.close()


async def test_a_failed_request_can_be_put_back(store: Store) -> None:
    await commit(store, fresh=[pending(f"{A}/1")])
    (lease,) = await claim_all(store)
    failed = outcome(lease, "failed", request=lease.request, error="E", detail="e")
    await commit(store, outcomes=[failed], left=[lease.ticket])
    identity = (lease.host, lease.fingerprint)
    again = [Pending(lease.request, lease.fingerprint, lease.host)]
    await commit(store, forget=[(*identity, failed.at)], again=again)
    reader = store.reader()
    assert reader.outcome(*identity) is None
    assert reader.seen(*identity)
    reader.close()
    assert urls(await claim_all(store)) == [f"{A}/1"]


async def test_only_the_failure_that_was_read_is_put_back_and_else_nothing_is_changed(
    store: Store,
) -> None:
    await commit(store, fresh=pages(A, 3))
    first, second, third = await claim_all(store)
    failed = [outcome(lease, "failed", request=lease.request) for lease in (first, second)]
    await commit(
        store,
        outcomes=[*failed, outcome(third)],
        left=[lease.ticket for lease in (first, second, third)],
    )
    before = content(store)
    good, late = (first.host, first.fingerprint, NOW), (second.host, second.fingerprint, NOW + 1)
    handled, unknown = (third.host, third.fingerprint, NOW), (third.host, 12345, NOW)
    again = [Pending(first.request, first.fingerprint, first.host)]
    for wrong in (late, handled, unknown):
        with pytest.raises(StoreStaleError):
            await commit(store, forget=[good, wrong], again=again, items=[item(1)], add={"n": 1})
        assert content(store) == before
    await commit(store, forget=[good], again=again)
    with pytest.raises(StoreStaleError):
        await commit(store, forget=[good], again=again)
    assert urls(await claim_all(store)) == [first.request.url]


# -- items, documents, counters, errors -----------------------------------------------------------


async def test_items_come_back_in_their_order_with_where_they_came_from(store: Store) -> None:
    await commit(store, items=[item(2), item(1, "other")])
    await commit(store, items=[item(0)])
    reader = store.reader()
    found = list(reader.items())
    assert [stored.data for stored in found] == [b'{"number":2}', b'{"number":1}', b'{"number":0}']
    assert [stored.handler for stored in found] == ["parse", "other", "parse"]
    assert [stored.url for stored in found] == [f"{A}/2", f"{A}/1", f"{A}/0"]
    assert [stored.at for stored in found] == [NOW + 2, NOW + 1, NOW]
    numbers = [stored.number for stored in found]
    assert numbers == sorted(set(numbers))
    assert list(reader.items(after=numbers[0])) == found[1:]
    assert list(reader.items(handler="other")) == found[1:2]
    assert list(reader.items(after=numbers[1], handler="other")) == []
    reader.close()


async def test_an_item_is_stored_to_the_letter(store: Store) -> None:
    data = (
        '{"text": "a\\u0000b \\ud83d\\ude00 😀 \\" \\\\ \u2028", "n": 1.0, "big": 1e400}'.encode()
    )
    await commit(store, items=[Item(data, f"{A}/?q='\"", "parse", NOW)])
    reader = store.reader()
    assert [stored.data for stored in reader.items()] == [data]
    reader.close()


async def test_documents_are_saved_replaced_and_removed(store: Store, backend: Backend) -> None:
    await commit(store, documents={"a": Document(1, b"[1]"), "b/x": Document(2, b'"b"')})
    await commit(store, documents={"a": Document(3, b'{"n": 1.0}'), "b/x": None, "none": None})
    assert await store.document("a") == Document(3, b'{"n": 1.0}')
    assert await store.document("b/x") is None
    await store.close()
    store = backend.again(store)
    await store.open()
    assert (await store.load()).documents == {"a": Document(3, b'{"n": 1.0}')}
    await store.close()


async def test_documents_are_found_by_the_beginning_of_their_name(store: Store) -> None:
    names = ["s", "s/1", "s/2", "s%", "t/1"]
    await commit(store, documents={name: Document(1, b"0") for name in names})
    reader = store.reader()
    assert [name for name, _ in reader.documents("s/")] == ["s/1", "s/2"]
    assert [name for name, _ in reader.documents("s%")] == ["s%"]
    assert [name for name, _ in reader.documents()] == sorted(names)
    reader.close()


async def test_values_are_left_out_at_the_start_and_read_one_by_one(store: Store) -> None:
    await commit(store, documents={"values/k": Document(1, b"1"), "values": Document(1, b"2")})
    snapshot = await store.load()
    assert set(snapshot.documents) == {"values"}
    assert await store.document("values/k") == Document(1, b"1")
    reader = store.reader()
    assert set(reader.snapshot().documents) == {"values"}
    assert dict(reader.documents("values/")) == {"values/k": Document(1, b"1")}
    reader.close()


async def test_counters_are_added_up_and_keep_their_extremes(store: Store) -> None:
    await commit(store, add={"n": 1, "f": 0.5}, least={"low": 5}, most={"high": 5})
    await commit(store, add={"n": 2**40, "f": 0.25}, least={"low": 7}, most={"high": 7.5})
    await commit(store, add={"n": -1}, least={"low": 2}, most={"high": 1})
    reader = store.reader()
    assert reader.counters() == {"n": 2**40, "f": 0.75, "low": 2, "high": 7.5}
    assert isinstance(reader.counters()["n"], int)
    reader.close()


async def test_counters_of_hosts_are_not_read_at_the_start(store: Store) -> None:
    await commit(store, add={"host/a.example/bytes": 5, "hosts": 1})
    assert (await store.load()).counters == {"hosts": 1}
    reader = store.reader()
    assert reader.counters("host/") == {"host/a.example/bytes": 5}
    reader.close()


async def test_errors_that_are_alike_are_merged(store: Store) -> None:
    def group(number: int, count: int = 1, **fields: Any) -> ErrorGroup:
        known = {"kind": "E", "message": "m", "place": "p"} | fields
        return ErrorGroup(
            **known, count=count, first_at=NOW + number, last_at=NOW + number,
            examples=[f"{A}/{number}"],
        )  # fmt: skip

    await commit(store, errors=[group(5), group(1, 2, message="other")])
    for _ in range(2):
        await commit(store, errors=[ErrorGroup("F", "m", "p", 1, NOW, NOW, [])])
    for number in (7, 3, 3, 9, 8, 1, 6):
        await commit(store, errors=[group(number, 2)])
    reader = store.reader()
    first, second, third = reader.errors()
    reader.close()
    assert (first.kind, first.message, first.place, first.count) == ("E", "m", "p", 15)
    assert (first.first_at, first.last_at) == (NOW + 1, NOW + 9)
    assert len(first.examples) == 5 == len(set(first.examples))
    assert (second.message, second.count, second.examples) == ("other", 2, [f"{A}/1"])
    assert (third.kind, third.count, third.examples) == ("F", 2, [])


async def test_text_that_is_no_unicode_keeps_no_checkpoint_from_being_written(
    store: Store,
) -> None:
    await commit(store, fresh=pages(A, 1))
    (lease,) = await claim_all(store)
    half = "bytes that are no text: \udcff"
    await commit(
        store,
        outcomes=[outcome(lease, "failed", error="E", detail=half, request=lease.request)],
        left=[lease.ticket],
        errors=[ErrorGroup("E", half, "p", 1, NOW, NOW, [f"{A}/\ud800"])],
        documents={f"values/{half}": Document(1, b"1")},
        add={half: 1, "requests_failed": 1},
    )
    assert findings(store) == []
    reader = store.reader()
    assert [found.detail for found in reader.outcomes("failed")] == ["bytes that are no text: ?"]
    reader.close()


async def test_a_checkpoint_with_nothing_in_it_is_no_trouble(store: Store) -> None:
    receipt = await store.commit(Checkpoint())
    assert (receipt.enqueued, receipt.duplicates) == (0, 0)

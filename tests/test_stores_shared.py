"""What a store promises where several workers write one run at the same time."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from crawlkit.checkpoint import Checkpoint, Document, Merge, Outcome, Saved
from crawlkit.errors import StoreError, StoreFencedError, StoreStaleError
from crawlkit.failures import EVERY, decided, drop, put_back, read_batch
from crawlkit.statistics import Statistics
from crawlkit.stores.base import WHOLE, Store
from crawlkit.workers.merging import merge

from .backends import (
    NOW,
    A,
    B,
    C,
    claim,
    claim_all,
    commit,
    content,
    done,
    outcome,
    pages,
    urls,
)
from .fleets import FLEETS, Fleet, fleets

HOST_A, HOST_B = A.removeprefix("https://"), B.removeprefix("https://")
BOTH = ("requests_finished", "requests_failed")


@pytest.fixture(params=fleets())
async def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Fleet]:
    """Each kind of store that workers share."""
    async with FLEETS[request.param](tmp_path) as fleet:
        yield fleet


@pytest.fixture
async def one(fleet: Fleet) -> Store:
    return await fleet.worker("one")


@pytest.fixture
async def two(fleet: Fleet) -> Store:
    return await fleet.worker("two")


# -- failures -------------------------------------------------------------------------------------


async def fail(store: Store, count: int) -> list[Outcome]:
    """So many requests that have failed, as they are read."""
    await commit(store, fresh=pages(A, count))
    leases = await claim_all(store)
    statistics = Statistics(is_shared=True)
    statistics.restore(Saved("statistics", await store.load()))
    checkpoint = Checkpoint(at=NOW)
    for lease in leases:
        failed = outcome(lease, "failed", request=lease.request, duration=0.5)
        checkpoint.outcomes.append(failed)
        checkpoint.left.append(lease.ticket)
        statistics.failed("parse", lease.host, 0.5, 0)
    with checkpoint.of("statistics"):
        statistics.collect(checkpoint)
    await store.commit(checkpoint)
    return read_batch(store, EVERY, None)


async def test_of_two_who_put_the_same_failures_back_one_does(one: Store, two: Store) -> None:
    failures = await fail(one, 20)
    decisions = [await decided(store, failures, put_back) for store in (one, two)]
    done = await asyncio.gather(
        one.commit(decisions[0]), two.commit(decisions[1]), return_exceptions=True
    )
    assert [type(answer) for answer in done].count(StoreStaleError) == 1
    after = content(one)
    assert after["pending"].total() == 20
    assert after["outcomes"] == []
    assert after["counters"]["requests_failed"] == 0


async def test_what_is_put_back_is_not_dropped_as_well(one: Store, two: Store) -> None:
    failures = await fail(one, 3)
    dropped = await decided(two, failures[1:], drop)
    await one.commit(await decided(one, failures[:2], put_back))
    before = content(one)
    with pytest.raises(StoreStaleError):
        await two.commit(dropped)
    assert content(one) == before
    left = read_batch(two, EVERY, None)
    assert [failure.url for failure in left] == [failures[2].url]
    await two.commit(await decided(two, left, drop))
    assert content(two)["counters"]["requests_failed"] == 0


# -- leases ---------------------------------------------------------------------------------------


async def test_no_request_is_claimed_by_two_workers(one: Store, two: Store) -> None:
    await commit(one, fresh=[p for n in range(40) for p in pages(f"https://{n}.example", 3)])
    found = [await claim(store, 10) for store in (one, two) * 30]
    claimed = Counter(url for c in found for url in urls(c.leases))
    assert len(claimed) == 120
    assert set(claimed.values()) == {1}


async def test_a_host_is_one_workers_until_the_commit_of_its_last_request(
    one: Store, two: Store
) -> None:
    await commit(one, fresh=pages(A, 60))
    first = await claim(one, 50)
    assert len(first.leases) == 50
    assert first.shares == {}
    assert (await claim(two)).leases == []
    await one.commit(done(first.leases[:30]))
    assert (await claim(two)).leases == []
    await one.commit(done(first.leases[30:]))
    assert len((await claim(two)).leases) == 10


async def test_other_hosts_are_not_held_up_by_a_host_that_somebody_has(
    one: Store, two: Store
) -> None:
    await commit(one, fresh=[*pages(A, 200, priority=9), *pages(B, 2)])
    assert {lease.host for lease in (await claim(one, 50)).leases} >= {HOST_A}
    assert {lease.host for lease in await claim_all(two)} <= {HOST_B}


async def test_the_first_worker_to_claim_leaves_hosts_for_the_others(
    one: Store, two: Store
) -> None:
    await commit(one, fresh=[p for n in range(10) for p in pages(f"https://{n}.example", 3)])
    for store in (one, two):
        assert len({lease.host for lease in (await claim(store)).leases}) in (3, 5)


async def test_a_worker_sees_the_end_only_when_nobody_has_anything_left(
    one: Store, two: Store
) -> None:
    await commit(one, fresh=pages(A, 2))
    leases = (await claim(one)).leases
    assert (await claim(one)).is_exhausted
    assert not (await claim(two)).is_exhausted
    await one.commit(done(leases))
    assert (await claim(two)).is_exhausted


async def test_what_a_dead_worker_had_is_free_at_once(fleet: Fleet, one: Store, two: Store) -> None:
    await commit(one, fresh=pages(A, 70))
    leases = (await claim(one)).leases
    await one.commit(done(leases[:20]))
    await fleet.die(one)
    back = await claim_all(two)
    assert sorted(urls(back)) == sorted(urls(leases[20:]))
    await two.commit(done(back))
    counts = content(two)
    assert len(counts["outcomes"]) == 70
    assert not counts["pending"]


async def test_a_worker_that_comes_back_under_its_name_takes_what_it_had_at_once(
    fleet: Fleet, one: Store
) -> None:
    await commit(one, fresh=pages(A, 5))
    leases = (await claim(one)).leases
    again = await fleet.worker("one")
    assert urls(await claim_all(again)) == urls(leases)
    with pytest.raises(StoreFencedError):
        await one.commit(done(leases))


async def test_what_a_worker_gives_back_is_free(one: Store, two: Store) -> None:
    await commit(one, fresh=pages(A, 5))
    leases = (await claim(one)).leases
    await one.release()
    assert urls(await claim_all(two)) == urls(leases)
    with pytest.raises(StoreError):
        await one.commit(done(leases))


async def test_a_worker_that_closes_leaves_nothing_behind(one: Store, two: Store) -> None:
    await commit(one, fresh=pages(A, 5))
    await claim(one)
    assert await one.try_lock("seeds")
    await one.close()
    assert len(await claim_all(two)) == 5
    assert await two.try_lock("seeds")


# -- fences ---------------------------------------------------------------------------------------


async def test_the_commit_of_a_silent_worker_is_refused_whole(
    fleet: Fleet, one: Store, two: Store
) -> None:
    await commit(one, fresh=pages(A, 5))
    leases = (await claim(one)).leases
    await fleet.silence(one)
    before = content(two)
    late = done(
        leases, fresh=pages(B, 5), add={"items_saved": 3}, documents={"x": Document(1, b"1")}
    )
    with pytest.raises(StoreFencedError):
        await one.commit(late)
    assert content(two) == before
    assert sorted(urls(await claim_all(two))) == sorted(urls(leases))


async def test_a_silent_worker_may_do_nothing_any_more(
    fleet: Fleet, one: Store, two: Store
) -> None:
    await fleet.silence(one)
    for call in (
        one.extend(),
        one.try_lock("seeds"),
        one.finish(),
        claim(one),
        commit(one, documents={"x": Document(1, b"1")}),
    ):
        with pytest.raises(StoreFencedError):
            await call


async def test_a_worker_that_says_that_it_is_alive_keeps_what_it_has(
    one: Store, two: Store
) -> None:
    await commit(one, fresh=pages(A, 5))
    leases = (await claim(one)).leases
    await one.extend()
    assert (await claim(two)).leases == []
    await one.commit(done(leases))


async def test_a_dead_workers_note_of_what_is_in_flight_is_gone(
    fleet: Fleet, one: Store, two: Store
) -> None:
    for store in (one, two):
        note = {f"queue/in_flight/{store.worker}": Document(1, b'[["a.example",1]]')}
        await commit(store, documents=note)
    await fleet.die(one)
    notes = [name for name in content(two)["documents"] if name.startswith("queue/")]
    assert notes == ["queue/in_flight/two"]


# -- locks and the end ----------------------------------------------------------------------------


async def test_a_lock_is_one_workers_until_it_gives_it_back_or_dies(
    fleet: Fleet, one: Store, two: Store
) -> None:
    assert await one.try_lock("seeds")
    assert await one.try_lock("seeds")
    assert not await two.try_lock("seeds")
    assert await two.try_lock("clock")
    await two.unlock("seeds")  # which is not its own
    assert not await two.try_lock("seeds")
    await one.unlock("seeds")
    assert await two.try_lock("seeds")
    assert not await one.try_lock("seeds")
    await fleet.die(two)
    assert await one.try_lock("seeds")
    assert await one.try_lock("clock")


async def test_one_worker_is_told_that_it_was_the_first_to_finish(one: Store, two: Store) -> None:
    assert await one.finish()
    assert not await two.finish()
    assert not await one.finish()


async def test_a_run_to_which_something_was_added_can_be_finished_again(
    one: Store, two: Store
) -> None:
    assert await one.finish()
    await commit(one, fresh=pages(A, 1))
    await two.commit(done(await claim_all(two)))
    assert await two.finish()
    assert not await one.finish()


async def test_a_run_that_was_gone_on_with_can_be_finished_again(one: Store, two: Store) -> None:
    """As one that had come to its ``max_pages``, and now may have more."""
    await commit(one, fresh=pages(A, 2))
    first, second = await claim_all(one)
    assert await one.finish()
    # That it is not fetched after all may be committed by a worker after the end was told.
    dropped = outcome(first, "skipped")
    await one.commit(Checkpoint(outcomes=[dropped], left=[first.ticket]))
    assert not await two.finish()
    await one.commit(done([second]))
    assert await two.finish()
    assert not await one.finish()


async def test_a_worker_that_found_nothing_is_told_of_new_work(one: Store, two: Store) -> None:
    assert not (await claim(two)).leases
    waiting = asyncio.create_task(two.news())
    await asyncio.sleep(0)
    await commit(one, fresh=pages(A, 1))
    async with asyncio.timeout(30):
        await waiting
        assert (await claim(two)).leases


async def test_a_worker_that_waits_is_told_of_the_end(one: Store, two: Store) -> None:
    await commit(one, fresh=pages(A, 1))
    leases = (await claim(one)).leases
    assert not (await claim(two)).is_exhausted
    await one.commit(done(leases))
    async with asyncio.timeout(3):
        while not (await claim(two)).is_exhausted:
            await two.news()


# -- documents ------------------------------------------------------------------------------------


def combine(base: bytes | None, mine: bytes, theirs: bytes) -> bytes:
    values = (None if data is None else json.loads(data) for data in (base, mine, theirs))
    return json.dumps(merge(*values)).encode()


def change(base: Any, mine: Any, name: str = "state") -> Checkpoint:
    data = None if base is None else json.dumps(base).encode()
    document = Document(1, json.dumps(mine).encode())
    return Checkpoint(at=NOW, documents={name: document}, merges={name: Merge(data, combine)})


async def value(store: Store, name: str = "state") -> Any:
    document = await store.document(name)
    return None if document is None else json.loads(document.data)


async def test_what_two_workers_count_adds_up(one: Store, two: Store) -> None:
    assert (await one.commit(change(None, {"pages": 3, "by": {"one": 1}}))).merged == {}
    receipt = await two.commit(change(None, {"pages": 2, "by": {"two": 1}}))
    both = {"pages": 5, "by": {"one": 1, "two": 1}}
    assert json.loads(receipt.merged["state"].data) == both
    assert await value(one) == both
    # The first goes on from what it has itself.
    receipt = await one.commit(
        change({"pages": 3, "by": {"one": 1}}, {"pages": 7, "by": {"one": 4}})
    )
    assert json.loads(receipt.merged["state"].data) == {"pages": 9, "by": {"one": 4, "two": 1}}


async def test_a_document_that_nobody_else_has_changed_is_stored_as_it_is(one: Store) -> None:
    await one.commit(change(None, {"pages": 1}))
    assert (await one.commit(change({"pages": 1}, {"pages": 2}))).merged == {}
    assert await value(one) == {"pages": 2}


async def test_without_a_rule_the_last_writer_wins(one: Store, two: Store) -> None:
    await commit(one, documents={"values/x": Document(1, b"1")})
    receipt = await commit(two, documents={"values/x": Document(1, b"2")})
    assert receipt.merged == {}
    assert await value(one, "values/x") == 2


async def test_a_hundred_commits_at_the_same_time_lose_no_count(fleet: Fleet) -> None:
    stores = [await fleet.worker(str(number)) for number in range(5)]

    async def count(store: Store) -> None:
        known: Any = None
        for number in range(1, 21):
            await store.commit(change(known, known := {"n": number}))

    await asyncio.gather(*map(count, stores))
    assert await value(stores[0]) == {"n": 100}


async def test_several_documents_are_merged_in_one_commit(one: Store, two: Store) -> None:
    for store, number in ((one, 1), (two, 2), (one, 3)):
        checkpoint = change(None, {"n": number}, "state")
        for name in ("tally", "third"):
            more = change(None, {name: number}, name)
            checkpoint.documents |= more.documents
            checkpoint.merges |= more.merges
        async with asyncio.timeout(30):
            await store.commit(checkpoint)
    assert [await value(one, name) for name in ("state", "tally", "third")] == [
        {"n": 6},
        {"tally": 6},
        {"third": 6},
    ]


async def test_a_rule_that_fails_leaves_nothing_behind(one: Store, two: Store) -> None:
    def fail(base: bytes | None, mine: bytes, theirs: bytes) -> bytes:
        raise ZeroDivisionError

    await one.commit(change(None, {"pages": 1}))
    checkpoint = change(None, {"pages": 1})
    checkpoint.merges["state"] = Merge(b"0", fail)
    checkpoint.fresh = pages(A, 3)
    with pytest.raises(ZeroDivisionError):
        await two.commit(checkpoint)
    assert not await claim_all(two)
    await commit(two, fresh=pages(A, 3))
    assert len(await claim_all(two)) == 3


# -- totals and budgets ---------------------------------------------------------------------------


async def test_a_receipt_has_the_counters_of_all_workers(one: Store, two: Store) -> None:
    await commit(one, add={"requests_finished": 2, "host/a/requests_finished": 2})
    await commit(one, fresh=pages(A, 3))
    receipt = await commit(two, add={"requests_finished": 1}, fresh=pages(A, 5))
    assert receipt.totals["requests_finished"] == 3
    assert receipt.totals["requests_total"] == 5
    assert receipt.totals["requests_duplicate"] == 3
    assert not [name for name in receipt.totals if "/" in name]


async def test_no_more_is_granted_than_there_is(one: Store, two: Store) -> None:
    assert (await one.allot(BOTH, 10, 6)).granted == 6
    assert (await two.allot(BOTH, 10, 6)).granted == 4
    nothing = await two.allot(BOTH, 10, 6)
    assert (nothing.granted, nothing.is_spent) == (0, False)
    await commit(one, add={"requests_finished": 4, "requests_failed": 1})
    assert (await one.allot(BOTH, 10, 6)).granted == 0
    assert (await one.allot(BOTH, 10, -1)).granted == -1
    assert (await two.allot(BOTH, 10, 6)).granted == 1
    await commit(two, add={"requests_failed": 5})
    assert await one.allot(BOTH, 10, 6) == await two.allot(BOTH, 10, 1)
    assert (await one.allot(BOTH, 10, 6)).is_spent
    assert (await one.allot(("budget/**",), 3, 2)).granted == 2


async def test_what_a_dead_worker_was_granted_is_there_for_others(
    fleet: Fleet, one: Store, two: Store
) -> None:
    await one.allot(BOTH, 10, 10)
    await commit(one, add={"requests_finished": 3})
    await fleet.die(one)
    assert (await two.allot(BOTH, 10, 10)).granted == 7


async def test_a_budget_counts_what_earlier_lives_have_done(one: Store) -> None:
    await commit(one, add={"budget/x": 7, "requests_finished": 9})
    assert (await one.allot(("budget/x",), 10, 10)).granted == 3
    assert (await one.allot(BOTH, 10, 10)).granted == 1


# -- hosts that rest, and hosts that are shared ---------------------------------------------------


async def test_a_hosts_rest_goes_to_whoever_has_it_next(one: Store, two: Store) -> None:
    await commit(one, fresh=pages(A, 2))
    leases = (await claim(one, 1)).leases
    await one.commit(done(leases, again=pages(A, 1), rests={HOST_A: (NOW + 20, 5.0)}))
    found = await claim(two)
    assert found.rests == {HOST_A: (NOW + 20, 5.0)}


async def test_a_dead_workers_hosts_rest_for_at_least_their_delay(
    fleet: Fleet, one: Store, two: Store
) -> None:
    await commit(one, fresh=[*pages(A, 2), *pages(B, 2)])
    leases = await claim_all(one)
    await one.commit(done(leases[:1], rests={HOST_A: (NOW, 5.0)}))
    died = time.time()
    await fleet.die(one)
    rests = (await claim(two)).rests
    assert rests[HOST_A][1] == 5.0
    assert rests[HOST_A][0] >= died + 5.0 - 0.1
    start, delay = rests[HOST_B]
    assert delay == 0.0
    assert start == pytest.approx(died, abs=2.0)  # for a delay that only the next worker knows


async def give_away(one: Store, two: Store, count: int = 400) -> None:
    """The first worker gives half of a host to the second, which is idle."""
    await commit(one, fresh=pages(A, count))
    await claim(one, 50)
    assert not (await claim(two)).leases
    assert (await commit(one, add={"x": 1})).wanted == (HOST_A,)
    await commit(one, shares={HOST_A: WHOLE // 2})


async def test_a_host_that_an_idle_worker_wants_is_named_to_its_holder(
    one: Store, two: Store
) -> None:
    await commit(one, fresh=pages(A, 100))
    await claim(one, 50)
    assert (await commit(one, add={"x": 1})).wanted == ()
    assert not (await claim(two)).leases
    assert (await commit(one, add={"x": 1})).wanted == (HOST_A,)
    await claim(one, 50)  # nothing is left for the other
    assert (await commit(one, add={"x": 1})).wanted == ()


async def test_an_idle_worker_gets_the_share_that_was_given_away(one: Store, two: Store) -> None:
    await give_away(one, two)
    found = await claim(two, 50)
    assert len(found.leases) == 50
    assert found.shares == {HOST_A: WHOLE // 2}
    again = await claim(one, 50, {HOST_A: 50})
    assert again.shares == {HOST_A: WHOLE // 2}


async def test_shares_come_back_when_their_holder_has_nothing_left(
    fleet: Fleet, one: Store, two: Store
) -> None:
    await give_away(one, two)
    leases = (await claim(two, 50)).leases
    await two.commit(done(leases))
    found = await claim(one, 50, {HOST_A: 50})
    assert found.leases
    assert found.shares == {}


async def test_the_shares_of_all_workers_are_never_more_than_the_whole(fleet: Fleet) -> None:
    stores = [await fleet.worker(str(number)) for number in range(4)]
    held = dict.fromkeys(stores, 0)
    await commit(stores[0], fresh=pages(A, 2000))
    for turn in range(60):
        store = stores[turn * 7 % 4]
        found = await claim(store, 50)
        if found.leases:
            held[store] = found.shares.get(HOST_A, WHOLE)
        assert sum(held.values()) <= WHOLE, held
        receipt = await commit(store, add={"x": 1})
        if receipt.wanted and held[store] > 1:
            await commit(store, shares={HOST_A: held[store] // 2})
            held[store] //= 2
    assert min(held.values()) >= 1


async def test_what_one_says_of_a_shared_host_the_other_hears(one: Store, two: Store) -> None:
    await give_away(one, two)
    await claim(two, 50)
    assert (await commit(one, add={"x": 1}, rests={HOST_A: (NOW + 60, 0.5)})).rests == {}
    assert (await commit(two, add={"x": 1})).rests == {HOST_A: (NOW + 60, 0.5)}
    assert (await commit(two, add={"x": 1})).rests == {}


async def test_nothing_is_wanted_of_a_host_that_is_another_ones(one: Store, two: Store) -> None:
    await commit(one, fresh=[*pages(A, 300), *pages(C, 1)])
    await claim(one, 1)
    receipt = await commit(two, add={"x": 1})
    assert receipt.wanted == ()

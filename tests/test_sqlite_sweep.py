"""The embedded store keeps its promises while rows are on their way into its large tables.

Memory holds a few rows here instead of hundreds of thousands, so that the sweep is always busy.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawlkit.checkpoint import Lease, Pending
from crawlkit.errors import StoreVersionError, StoreWriteError
from crawlkit.request import Request
from crawlkit.stores import open_reader, schema, seen, transaction
from crawlkit.stores.sqlite import SqliteStore
from crawlkit.stores.sweep import QUEUED, SEEN

from .backends import NOW, A, commit, done, findings, pages, pending, urls
from .killed import copied


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen, "SEEN", SEEN._replace(capacity=40))
    monkeypatch.setattr(transaction, "QUEUED", QUEUED._replace(capacity=7))
    monkeypatch.setattr(seen, "FILL", 9)


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Path]:
    """Names of directories, one after the other."""
    return (tmp_path / str(number) for number in range(10**6))


def link(chance: Random) -> Pending:
    """A link to one of 600 pages of 30 hosts, which has one of five priorities."""
    host = int(30 ** chance.random())
    url = f"https://host-{host}.example/{int(chance.random() * 20)}"
    return pending(url, priority=hash(url) % 5 - 2)


async def opened(path: Path) -> SqliteStore:
    store = SqliteStore(str(path))
    await store.open()
    return store


async def killed(store: SqliteStore, runs: Iterator[Path]) -> SqliteStore:
    """The run in the next process, after this one was killed."""
    path = next(runs)
    copied(store, path)
    await store.close()
    return await opened(path)


def rows(store: SqliteStore, table: str) -> int:
    ((count,),) = store._db.execute(f"SELECT count(*) FROM {table}")
    return int(count)


@pytest.mark.parametrize("seed", range(6))
async def test_every_url_is_enqueued_and_claimed_once_over_all_kills_and_failures(
    seed: int, runs: Iterator[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = Random(seed)
    store = await opened(next(runs))
    enqueued: set[str] = set()
    handled: list[str] = []
    claimed: list[Lease] = []
    for _ in range(60):
        fresh = [link(chance) for _ in range(chance.randrange(40))]
        leaving = [claimed.pop() for _ in range(chance.randrange(len(claimed) + 1))]
        checkpoint = done(leaving, fresh=fresh, add={"requests_finished": len(leaving)})
        if chance.random() < 0.2:
            with monkeypatch.context() as full, pytest.raises(StoreWriteError):
                full.setattr(transaction, "_count", fail)
                await store.commit(checkpoint)
        receipt = await store.commit(checkpoint)
        new = {found.request.url for found in fresh} - enqueued
        assert receipt.enqueued == len(new)
        assert receipt.duplicates == len(fresh) - len(new)
        enqueued |= new
        handled += urls(leaving)
        if chance.random() < 0.1:
            store = await killed(store, runs)
            claimed.clear()
        elif chance.random() < 0.1:
            await store.release()
            claimed.clear()
        if chance.random() < 0.7:
            claimed += (await store.claim(chance.randrange(1, 60), {}, NOW)).leases
        assert len(set(urls(claimed))) == len(claimed)
    assert findings(store) == []
    assert rows(store, "seen") > 100
    reader = store.reader()
    for number in range(600):
        url = f"https://host-{number % 30}.example/{number // 30}"
        request = Request(url)
        assert reader.seen(request.host, request.fingerprint) == (url in enqueued)
    while leases := (await store.claim(1000, {}, NOW)).leases:
        await store.commit(done(leases, add={"requests_finished": len(leases)}))
        handled += urls(leases)
    await store.commit(done(claimed, add={"requests_finished": len(claimed)}))
    handled += urls(claimed)
    assert sorted(handled) == sorted(enqueued)
    assert (await store.claim(1, {}, NOW)).is_exhausted
    assert findings(store) == []
    assert rows(store, "queued") == rows(store, "recent_queued") == 0
    await store.close()


def fail(*_: object) -> None:
    raise sqlite3.OperationalError("database or disk is full")


async def test_the_best_bundles_come_first_whether_the_sweep_has_moved_them_or_not(
    runs: Iterator[Path],
) -> None:
    store = await opened(next(runs))
    for first in range(0, 400, 20):
        await commit(
            store,
            fresh=[
                pending(f"https://host-{n % 3}.example/{n}", priority=n * 7 % 11)
                for n in range(first, first + 20)
            ],
        )
    assert rows(store, "queued") > 20
    assert 0 < rows(store, "recent_queued") <= 7
    store = await killed(store, runs)
    best: dict[str, list[tuple[int, int]]] = {}
    while leases := (await store.claim(1, {}, NOW)).leases:
        await store.commit(done(leases))
        for lease in leases:
            number = int(lease.request.url.rpartition("/")[2])
            best.setdefault(lease.host, []).append((-lease.request.priority, number))
    assert sum(map(len, best.values())) == 400
    for order in best.values():
        assert order == sorted(order)
    await store.close()


async def test_memory_and_the_list_of_arrivals_stay_small_while_the_run_grows(
    runs: Iterator[Path],
) -> None:
    store = await opened(next(runs))
    for first in range(0, 2000, 10):
        await commit(
            store, fresh=[pending(f"https://{n % 7}.example/{n}") for n in range(first, first + 10)]
        )
        assert rows(store, "recent_seen") <= 40
        assert rows(store, "recent_queued") <= 7
    # What one round of the sweep moves, and not what was ever enqueued.
    assert rows(store, "seen_arrivals") < 20
    assert rows(store, "queued_arrivals") < 20
    assert rows(store, "seen") >= 1960
    assert findings(store) == []
    await store.close()


async def test_a_url_of_an_earlier_life_is_a_duplicate_before_and_after_the_filter_is_full(
    runs: Iterator[Path],
) -> None:
    store = await opened(next(runs))
    for first in range(0, 300, 30):
        await commit(store, fresh=pages(A, 30, first=first))
    store = await killed(store, runs)
    for number in range(300):
        receipt = await commit(store, fresh=pages(A, 1, first=299 - number))
        assert (receipt.enqueued, receipt.duplicates) == (0, 1)
    assert store._seen._filled is None
    await store.close()


async def test_the_lowest_and_the_highest_number_there_is_are_swept_and_known_like_any(
    runs: Iterator[Path],
) -> None:
    store = await opened(next(runs))
    extremes = [
        Pending(Request(f"{A}/{number}"), seen.number_of(1, number), "a.example")
        for number in (-(2**63), 2**63 - 1)
    ]
    assert (await commit(store, fresh=extremes)).enqueued == 2
    for first in range(0, 600, 30):
        await commit(store, fresh=pages(A, 30, first=first))
    ((least, most),) = store._db.execute("SELECT min(number), max(number) FROM seen")
    assert (least, most) == (-(2**63), 2**63 - 1)
    assert (await commit(store, fresh=extremes)).enqueued == 0
    store = await killed(store, runs)
    assert (await commit(store, fresh=extremes)).enqueued == 0
    reader = store.reader()
    assert all(reader.seen("a.example", extreme.fingerprint) for extreme in extremes)
    reader.close()
    assert rows(store, "seen") + rows(store, "recent_seen") == 602
    await store.close()


@given(st.integers(1, 2**31 - 1), st.integers(-(2**63), 2**63 - 1))
def test_a_request_has_the_same_number_for_who_writes_the_run_and_for_who_checks_it(
    host: int, fingerprint: int
) -> None:
    number = seen.number_of(host, fingerprint)
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        query = f"SELECT {seen.NUMBER} FROM (SELECT ? host, ? fingerprint) one"
        assert db.execute(query, (host, fingerprint)).fetchall() == [(number,)]
    assert -(2**63) <= number < 2**63


async def test_check_finds_a_bundle_that_would_never_be_claimed_and_one_that_is_not_there(
    runs: Iterator[Path],
) -> None:
    store = await opened(next(runs))
    for first in range(0, 300, 10):
        await commit(store, fresh=pages(A, 10, first=first, priority=first))
    assert findings(store) == []
    ((bundle,),) = store._db.execute("SELECT bundle FROM queued LIMIT 1")
    store._db.execute("UPDATE queued SET bundle = 999 WHERE bundle = ?", (bundle,))
    assert findings(store) == [
        f"bundle {bundle} is pending, but would never be claimed",
        "bundle 999 is queued, but it is not there",
    ]
    await store.close()


async def test_a_run_of_an_older_version_is_refused_with_the_remedy_and_left_as_it_is(
    runs: Iterator[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = next(runs)
    with monkeypatch.context() as older:
        older.setattr(schema, "VERSION", schema.VERSION - 1)
        await (await opened(path)).close()
    before = (path / "run.sqlite3").read_bytes()
    remedy = r"older crawlkit \(format 2, this one reads 3\); finish it with that one, or .*--fresh"
    for _ in range(2):
        with pytest.raises(StoreVersionError, match=remedy):
            await opened(path)
        with pytest.raises(StoreVersionError, match=remedy):
            open_reader(str(path))
    assert (path / "run.sqlite3").read_bytes() == before
    store = SqliteStore(str(path))
    await store.open(fresh=True)
    await store.close()

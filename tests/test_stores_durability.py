"""What every store promises when something goes wrong: all or nothing, now and after kill -9."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crawlkit.checkpoint import Append, Checkpoint, Document, ErrorGroup, Item, Lease, Pending
from crawlkit.errors import StoreError, StoreWriteError, UsageError
from crawlkit.stores import open_reader, open_store
from crawlkit.stores.base import Store
from crawlkit.stores.sqlite import SqliteStore
from crawlkit.testing import FaultyStore

from .backends import (
    BACKENDS,
    NOW,
    A,
    B,
    Backend,
    C,
    claim,
    commit,
    content,
    findings,
    item,
    names,
    outcome,
    pages,
    pending,
    skipped,
)

# -- all or nothing -------------------------------------------------------------------------------


def a_bit_of_everything(leases: list[Lease]) -> Checkpoint:
    first, second, third, *_ = leases
    return Checkpoint(
        at=NOW,
        documents={"part": Document(1, b"[2]"), "gone": None},
        fresh=pages(C, 60) + pages(B, 5),
        duplicates=3,
        again=[
            Pending(second.request.replace(retry_count=1), second.fingerprint, second.host, NOW)
        ],
        left=[first.ticket, second.ticket, third.ticket],
        outcomes=[
            outcome(first),
            outcome(third, "failed", error="E", detail="e", request=third.request),
        ],
        skipped=[skipped(f"{B}/x", "scope")],
        items=[item(1), item(2)],
        errors=[ErrorGroup("E", "m", "p", 1, NOW, NOW, [f"{A}/1"])],
        add={"requests_finished": 1, "requests_failed": 1, "items_saved": 2},
        least={"low": 1},
        most={"high": 1},
    )


async def prepared(store: Store) -> list[Lease]:
    await commit(
        store,
        fresh=pages(A, 100),
        documents={"part": Document(1, b"[1]"), "gone": Document(1, b"")},
    )
    return (await claim(store)).leases


async def test_a_commit_that_fails_anywhere_changes_nothing_and_can_be_tried_again(
    embedded: SqliteStore,
) -> None:
    """SQLite is interrupted after n steps of its virtual machine, for n from 1 to the end."""
    store = embedded
    checkpoint = a_bit_of_everything(await prepared(store))
    before = content(store)
    connection = store._db
    failures = 0
    steps = 1
    while True:
        # Called at every step; it interrupts the n-th.
        budget = itertools.chain(itertools.repeat(False, steps), [True], itertools.repeat(False))
        connection.set_progress_handler(budget.__next__, 1)
        try:
            receipt = await store.commit(checkpoint)
            break
        except StoreWriteError:
            failures += 1
        finally:
            connection.set_progress_handler(None, 1)
        assert content(store) == before
        steps += 1 + steps // 8
    assert failures > 20
    assert (receipt.enqueued, receipt.duplicates) == (65, 3)
    assert findings(store) == []
    assert len(content(store)["items"]) == 2


async def test_a_commit_that_finds_the_disk_full_is_written_once_there_is_room(
    embedded: SqliteStore,
) -> None:
    store = embedded
    checkpoint = a_bit_of_everything(await prepared(store))
    checkpoint.items += [Item(b'"%s"' % (b"x" * 5000), A, "parse", NOW) for _ in range(20)]
    checkpoint.add["items_saved"] = len(checkpoint.items)
    before = content(store)
    ((count,),) = store._db.execute("PRAGMA page_count")
    store._db.execute(f"PRAGMA max_page_count = {count + 1}").fetchone()
    for _ in range(2):
        with pytest.raises(StoreWriteError, match="full; free or mend the disk"):
            await store.commit(checkpoint)
        assert content(store) == before
    store._db.execute("PRAGMA max_page_count = 1000000").fetchone()
    await store.commit(checkpoint)
    assert len(content(store)["items"]) == 22
    assert findings(store) == []


@pytest.mark.parametrize("method", ["commit", "claim", "load", "document"])
async def test_a_faulty_store_fails_as_the_contract_says(store: Store, method: str) -> None:
    faulty = FaultyStore(store, method)
    leases = await prepared(store)
    calls: dict[str, Callable[[], Any]] = {
        "commit": lambda: faulty.commit(a_bit_of_everything(leases)),
        "claim": lambda: claim(faulty),
        "load": faulty.load,
        "document": lambda: faulty.document("part"),
    }
    before = content(store)
    with pytest.raises(StoreWriteError):
        await calls[method]()
    assert content(store) == before
    await calls[method]()
    assert (content(store) == before) == (method != "commit")


async def test_a_cancelled_commit_is_done_whole_all_the_same(store: Store) -> None:
    task = asyncio.create_task(store.commit(Checkpoint(fresh=pages(A, 2000), items=[item(1)])))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await commit(store, fresh=pages(A, 2000))).enqueued == 0
    assert len(content(store)["items"]) == 1


async def test_the_store_leaves_files_beside_it_to_the_job(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    await commit(store, appends=[Append(str(path), 0, b"{}\n")])
    assert not path.exists()


# -- reading while it is written ------------------------------------------------------------------


async def test_a_reader_sees_whole_checkpoints_while_they_are_written(store: Store) -> None:
    is_over = threading.Event()

    looks = 0

    def watch() -> set[int]:
        nonlocal looks
        reader = store.reader()
        seen = set()
        while not is_over.is_set():
            snapshot = reader.snapshot()
            if counters := snapshot.counters:
                assert counters["requests_total"] == counters["items_saved"]
                assert snapshot.documents["part"].data == b"%d" % counters["items_saved"]
            seen.add(len(list(reader.items())))
            looks += 1
        seen.add(len(list(reader.items())))
        reader.close()
        return seen

    watching = asyncio.create_task(asyncio.to_thread(watch))
    for number in range(60):
        await commit(
            store,
            fresh=pages(A, 20, first=20 * number),
            items=[item(number)] * 20,
            add={"items_saved": 20, "host/a/n": 20},
            documents={"part": Document(1, b"%d" % (20 * (number + 1)))},
        )
        if number in (20, 40):  # it may be slow, and is to see something in between
            enough = looks + 2
            while looks < enough and not watching.done():  # noqa: ASYNC110 - it is a thread
                await asyncio.sleep(0.001)
    is_over.set()
    seen = await watching
    assert max(seen) == 1200
    assert {count % 20 for count in seen} == {0}
    assert len(seen) > 2


async def test_a_stream_that_is_read_slowly_is_the_state_at_its_beginning(store: Store) -> None:
    await commit(store, items=[item(number) for number in range(10)])
    reader = store.reader()
    stream = reader.items()
    first = next(stream)
    await commit(store, items=[item(number) for number in range(10, 5000)])
    assert len([first, *stream]) == 10
    assert len(list(reader.items())) == 5000
    reader.close()


async def test_a_run_in_which_everything_adds_up_passes_the_check(store: Store) -> None:
    assert findings(store) == []
    await store.commit(a_bit_of_everything(await prepared(store)))
    assert findings(store) == []


@pytest.mark.parametrize(
    ("fields", "finding"),
    [
        ({"add": {"requests_finished": 1}}, "the counter requests_finished says 1"),
        ({"items": [item(1)]}, "the counter items_saved says 0, the run holds 1"),
        ({"again": [pending(f"{C}/")]}, f"{C}/ is pending although it was never enqueued"),
    ],
)
async def test_the_check_says_what_does_not_add_up(
    store: Store, fields: dict[str, Any], finding: str
) -> None:
    await commit(store, **fields)
    assert any(line.startswith(finding) for line in findings(store)), findings(store)


# -- opening --------------------------------------------------------------------------------------


async def test_what_was_committed_is_there_in_the_next_process(
    store: Store, backend: Backend
) -> None:
    await store.commit(a_bit_of_everything(await prepared(store)))
    before = content(store)
    await store.close()
    store = backend.again(store)
    await store.open()
    assert content(store) == before
    assert findings(store) == []
    await store.close()


async def test_a_fresh_start_throws_away_what_there_was(store: Store, backend: Backend) -> None:
    await store.commit(a_bit_of_everything(await prepared(store)))
    await store.close()
    store = backend.again(store)
    await store.open(fresh=True)
    assert not any(content(store).values())
    assert (await commit(store, fresh=pages(A, 1))).enqueued == 1
    await store.close()


async def test_a_store_can_be_opened_again_after_it_was_closed(store: Store) -> None:
    await commit(store, items=[item(1)])
    await store.close()
    await store.open()
    await commit(store, items=[item(2)])
    assert len(content(store)["items"]) == 2


async def test_closing_twice_is_no_trouble_and_a_closed_store_says_that_it_is(
    store: Store,
) -> None:
    await store.close()
    await store.close()
    with pytest.raises(StoreError, match="is not open"):
        await commit(store, items=[item(1)])


def test_an_address_of_no_store_is_refused() -> None:
    for opened in (open_store, open_reader):
        with pytest.raises(UsageError, match="no store has the address 'ftp://x'"):
            opened("ftp://x")


# -- kill -9 --------------------------------------------------------------------------------------

WRITER = """
import asyncio, sys
from crawlkit.checkpoint import Checkpoint, Document, Item, Outcome, Pending
from crawlkit.request import Request
from crawlkit.stores import open_store
from crawlkit.stores import database

database.MERGE_LOG_AT = 200_000  # so that merges, too, are interrupted

async def main():
    store = open_store(sys.argv[1])
    await store.open()
    n = (await store.load()).counters.get("n", 0)
    while True:
        leases = (await store.claim(20, {}, 0.0)).leases[:20]
        urls = [lease.request.url for lease in leases]
        fresh = [Request(f"https://a.example/{n}/{i}") for i in range(20)]
        await store.commit(Checkpoint(
            fresh=[Pending(r, r.fingerprint, r.host) for r in fresh],
            outcomes=[Outcome("handled", l.request.url, l.fingerprint, l.host, 0) for l in leases],
            left=[lease.ticket for lease in leases],
            items=[Item(b'{"page": "%s"}' % url.encode(), url, "parse", 0.0) for url in urls],
            add={"n": 1, "requests_finished": len(leases), "items_saved": len(leases)},
            documents={"part": Document(1, str(n + 1).encode())},
        ))
        n += 1
        print(n, flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("name", names(durable=True))
def test_after_kill_9_in_the_middle_of_commits_the_run_is_at_its_last_checkpoint(
    name: str, tmp_path: Path
) -> None:
    backend = BACKENDS[name]
    store = backend.make(tmp_path)
    rng = random.Random(9)
    committed = 0
    for _ in range(8):
        told = [committed, *killed_after(rng.uniform(0, 0.15), store.address)]
        store = backend.again(store)
        committed = asyncio.run(looked_at(store))
        assert committed in (told[-1], told[-1] + 1)
    assert committed > 5


def killed_after(seconds: float, address: str) -> list[int]:
    """The checkpoints that a process has committed before it was killed."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, address], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()  # it is at work
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        return [int(line) for line in [first, *process.stdout] if line.endswith("\n")]


async def looked_at(store: Store) -> int:
    """How many checkpoints the run has; they are whole."""
    await store.open()
    snapshot = await store.load()
    committed = int(snapshot.counters["n"])
    assert snapshot.documents["part"].data == b"%d" % committed
    assert snapshot.counters["requests_total"] == 20 * committed
    assert findings(store) == []
    reader = store.reader()
    found = Counter(stored.url for stored in reader.items())
    found.update(request.url for request, _ in reader.pending())
    reader.close()
    await store.close()
    assert found == Counter(
        f"https://a.example/{n}/{i}" for n in range(committed) for i in range(20)
    )
    return committed

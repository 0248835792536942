"""A whole run as one file: from any store to any store, and never half of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from crawlkit import Crawler, Page, open_run
from crawlkit.checkpoint import Document, ErrorGroup
from crawlkit.cli import main
from crawlkit.errors import (
    CrawlkitError,
    StoreDamagedError,
    StoreError,
    StoreUnfinishedError,
    StoreVersionError,
    StoreWriteError,
    UsageError,
)
from crawlkit.portable import export_run, import_run
from crawlkit.stores.base import Store, StoredItem
from crawlkit.stores.memory import MemoryStore
from crawlkit.stores.records import RunRecord, records_of
from crawlkit.stores.sqlite import SqliteStore
from crawlkit.testing import FaultyStore
from crawlkit.testing.shop import ShopSite

from .backends import (
    BACKENDS,
    NOW,
    A,
    B,
    Backend,
    C,
    claim_all,
    commit,
    content,
    done,
    everything,
    findings,
    item,
    outcome,
    pages,
    pending,
    skipped,
    urls,
)
from .backends import names as kinds
from .killed import copied, names

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TAKING_IN = [kind for kind in kinds() if kind.values != ("served",)]
"""Stores that runs are imported into. A worker of a run that is served to it takes in none."""


@pytest.fixture(params=TAKING_IN)
def backend(request: pytest.FixtureRequest) -> Backend:
    return BACKENDS[request.param]


async def fill(store: Store) -> None:
    """A run with everything that there can be in one."""
    await commit(
        store,
        fresh=[
            *pages(A, 130),
            *pages(B, 7, priority=5),
            pending(f"{C}/form", method="POST", body=b"\x00\xff", headers={"X": "ü\u2028"}),
            pending(f"{C}/later", due=NOW + 30, user_data={"deep": [1, {"x": None}]}),
            pending(f"{C}/keyed", unique_key="k", priority=-1),
        ],
        duplicates=3,
        documents={
            "part": Document(3, b'{"n": 1.0}'),
            "part/key": Document(1, b'"\\ud83d\\ude00 \xf0\x9f\x98\x80"'),
            "values/v": Document(2, b"[1,\n 2]"),
            "robots/https://a.example": Document(1, b"{}"),
        },
        add={"requests_duplicate": 0, "f": 0.25, "host/a.example/bytes": 2**40},
        least={"low": 0.5},
        most={"high": 7},
        errors=[ErrorGroup("E", "m", "p", 3, NOW, NOW + 1, [f"{A}/2", f"{A}/1"])],
        skipped=[skipped(f"{A}/elsewhere", "scope: on /"), skipped(f"{A}/1", "depth: on /")],
    )
    leases = await claim_all(store)
    failed, retried, *rest = [lease for lease in leases if lease.host == "a.example"][-60:]
    await store.commit(
        done(
            rest,
            items=[item(2), item(1, "other"), item(0)],
            add={"items_saved": 3, "requests_finished": len(rest), "requests_failed": 1},
        )
    )
    given_up = outcome(
        failed, "failed", status=503, duration=1.5, retries=3, error="E", detail="e",
        request=failed.request.replace(retry_count=3),
    )  # fmt: skip
    await commit(store, outcomes=[given_up], left=[failed.ticket])
    again = pending(retried.request.url, retry_count=1, due=NOW + 5)
    await commit(store, again=[again], left=[retried.ticket])
    await store.release()


def whole(store: Store) -> dict[str, Any]:
    """All that a run holds; a store may number items as it likes."""
    found = content(store)
    found["items"] = [(i.data, i.url, i.handler, i.at) for i in found["items"]]
    reader = store.reader()
    found["seen"] = {
        request.url: reader.seen(request.host, request.fingerprint)
        for request in [p.request for p in (*pages(A, 131), pending(f"{A}/elsewhere"))]
    }
    found["skipped"] = sorted((repr(o), is_enqueued) for o, is_enqueued in reader.skipped())
    reader.close()
    return found


def exported(store: Store, path: Path) -> dict[str, int]:
    reader = store.reader()
    try:
        return export_run(reader, path)
    finally:
        reader.close()


def target_of(kind: str, directory: Path) -> Store:
    directory.mkdir(exist_ok=True)
    return BACKENDS[kind].make(directory)


# A worker at a hub is no place to import into: its directory is.
@pytest.mark.parametrize("to", TAKING_IN)
async def test_a_run_is_the_same_in_another_store(store: Store, tmp_path: Path, to: str) -> None:
    await fill(store)
    before = whole(store)
    counts = exported(store, tmp_path / "run.crawl")
    assert counts["item"] == 3
    assert counts["pending"] == len(list(store.reader().pending()))
    target = target_of(to, tmp_path / "target")
    assert await import_run(tmp_path / "run.crawl", target) == counts
    target = BACKENDS[to].again(target)
    await target.open()
    assert whole(target) == before
    assert findings(target) == []
    # What is in it is claimed in the same order, and what was enqueued is not enqueued again.
    assert urls(await claim_all(target)) == urls(await claim_all(store))
    receipt = await commit(target, fresh=[*pages(A, 131), pending(f"{A}/elsewhere")])
    assert (receipt.enqueued, receipt.duplicates) == (2, 130)
    await target.close()


async def test_there_and_back_again_is_the_same_file_but_for_its_date(
    store: Store, tmp_path: Path
) -> None:
    await fill(store)
    exported(store, tmp_path / "there")
    target = SqliteStore(str(tmp_path / "target"))
    await import_run(tmp_path / "there", target)
    await target.open()
    exported(target, tmp_path / "back")
    await target.close()
    lines = [
        zstd.decompress((tmp_path / name).read_bytes()).splitlines() for name in ("there", "back")
    ]
    assert Counter(lines[0][1:-1]) == Counter(lines[1][1:-1])


async def test_an_empty_run_can_be_moved_too(store: Store, tmp_path: Path) -> None:
    exported(store, tmp_path / "file")
    target = SqliteStore(str(tmp_path / "target"))
    await import_run(tmp_path / "file", target)
    await target.open()
    assert (await commit(target, fresh=pages(A, 2))).enqueued == 2
    await target.close()


async def parts(store: Store, size: int = 40) -> list[list[RunRecord]]:
    reader = store.reader()
    records = list(records_of(reader))
    reader.close()
    return [records[start : start + size] for start in range(0, len(records), size)]


async def test_a_run_whose_import_was_not_finished_refuses_to_be_used(
    backend: Backend, store: Store, tmp_path: Path
) -> None:
    source = MemoryStore()
    await source.open()
    await fill(source)
    first, *others = await parts(source)
    await store.take_in(first, is_last=False)
    with pytest.raises(StoreUnfinishedError, match="do it again with 'crawlkit import FILE"):
        store.reader()
    await store.close()
    store = backend.again(store)
    for _ in range(2):
        with pytest.raises(StoreUnfinishedError) as caught:
            await store.open()
        assert "\n" not in str(caught.value)
    await store.open(fresh=True)
    for number, records in enumerate([first, *others]):
        await store.take_in(records, is_last=number == len(others))
    assert whole(store) == whole(source)
    assert findings(store) == []
    await store.close()


async def test_a_part_that_cannot_be_written_changes_nothing_and_can_be_taken_in_again(
    store: Store,
) -> None:
    source = MemoryStore()
    await source.open()
    await fill(source)
    all_parts = await parts(source)
    faulty = FaultyStore(store, "take_in", at=2)
    for number, records in enumerate(all_parts):
        is_last = number + 1 == len(all_parts)
        try:
            await faulty.take_in(records, is_last=is_last)
        except StoreWriteError:
            await faulty.take_in(records, is_last=is_last)
    assert faulty.failures == 1
    assert whole(store) == whole(source)


async def test_an_import_into_a_run_is_refused_and_changes_nothing(
    backend: Backend, store: Store, tmp_path: Path
) -> None:
    await fill(store)
    before = whole(store)
    exported(store, tmp_path / "file")
    await store.close()
    store = backend.again(store)
    with pytest.raises(StoreError, match=r"there is a run in .* already; import into another one"):
        await import_run(tmp_path / "file", store)
    store = backend.again(store)
    await store.open()
    assert whole(store) == before
    await store.close()


async def test_an_import_that_is_killed_at_any_moment_can_be_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crawlkit.portable.BATCH", 25)
    source = MemoryStore()
    await source.open()
    await fill(source)
    exported(source, tmp_path / "file")
    target = SqliteStore(str(tmp_path / "target"))
    moments: list[Path] = []

    def tell(count: int) -> None:
        moments.append(tmp_path / f"killed-{count}")
        copied(target, moments[-1])

    await import_run(tmp_path / "file", target, tell=tell)
    *unfinished, finished = moments
    assert len(unfinished) > 5
    for moment in unfinished:
        with pytest.raises(StoreUnfinishedError):
            open_run(moment)
        again = SqliteStore(str(moment))
        with pytest.raises(StoreUnfinishedError):
            await again.open()
        await import_run(tmp_path / "file", again)
    for moment in moments:
        store = SqliteStore(str(moment))
        await store.open()
        assert whole(store) == whole(source)
        assert findings(store) == []
        await store.close()
    assert finished in moments


# -- the file -------------------------------------------------------------------------------------


async def test_a_file_that_is_cut_or_changed_anywhere_is_found_out(tmp_path: Path) -> None:
    source = MemoryStore()
    await source.open()
    await fill(source)
    exported(source, tmp_path / "file")
    data = (tmp_path / "file").read_bytes()
    damaged = [data[:length] for length in range(0, len(data), len(data) // 40)]
    for place in range(0, len(data), len(data) // 40):
        changed = bytearray(data)
        changed[place] ^= 0x04
        damaged.append(bytes(changed))
    # And where the compression is right, but not what was compressed.
    lines = zstd.decompress(data).splitlines(keepends=True)
    damaged.append(zstd.compress(b"".join(lines[:-1])))
    damaged.append(zstd.compress(b"".join([*lines[:5], *lines[6:]])))
    damaged.append(zstd.compress(b"".join([*lines[:5], lines[6], lines[5], *lines[7:]])))
    damaged.append(zstd.compress(b"".join([*lines, lines[5]])))
    damaged.append(data + data)
    for number, wrong in enumerate(damaged):
        (tmp_path / "wrong").write_bytes(wrong)
        target = tmp_path / f"target-{number}"
        with pytest.raises((StoreDamagedError, UsageError)) as caught:
            await import_run(tmp_path / "wrong", SqliteStore(str(target)))
        assert "\n" not in str(caught.value)
        with pytest.raises(StoreError):
            open_run(target)


async def test_a_file_of_a_newer_version_is_refused_with_the_remedy(tmp_path: Path) -> None:
    head = {"format": "crawlkit run", "version": 2, "by": "9.9", "at": None}
    (tmp_path / "file").write_bytes(zstd.compress(json.dumps(head).encode() + b"\n"))
    with pytest.raises(StoreVersionError, match=r"crawlkit 9\.9 \(format 2, this one reads 1\)"):
        await import_run(tmp_path / "file", SqliteStore(str(tmp_path / "target")))
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("what", [b"", b"no zstd", zstd.compress(b'{"a": 1}\n'), None])
async def test_what_is_no_exported_run_is_refused_and_makes_none(
    tmp_path: Path, what: bytes | None
) -> None:
    if what is not None:
        (tmp_path / "file").write_bytes(what)
    with pytest.raises(UsageError, match="name a file that 'crawlkit export' has written"):
        await import_run(tmp_path / "file", SqliteStore(str(tmp_path / "target")))
    assert not (tmp_path / "target").exists()


async def test_an_export_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    source = MemoryStore()
    await source.open()
    await fill(source)
    (tmp_path / "file").write_bytes(b"precious")
    with pytest.raises(CrawlkitError, match="cannot be written"):
        exported(source, tmp_path / "nowhere" / "file")

    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise StoreDamagedError("broken")

    with pytest.raises(StoreDamagedError):
        export_run(Broken(), tmp_path / "file")  # type: ignore[arg-type]
    assert names(tmp_path) == {"file"}
    assert (tmp_path / "file").read_bytes() == b"precious"


async def test_a_run_that_goes_on_is_exported_as_of_one_checkpoint(tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "run"))
    await store.open()
    await fill(store)
    reader = store.reader()
    before = everything(reader)
    records = records_of(reader)
    found = [next(records) for _ in range(3)]
    await commit(store, fresh=pages(B, 500, first=100), items=[item(7)] * 50)
    found += records
    reader.close()
    kinds = Counter(type(record).__name__ for record in found)
    assert kinds["ItemRecord"] == len(before["items"])
    assert kinds["PendingRecord"] == before["pending"].total()
    await store.close()


# -- a crawl --------------------------------------------------------------------------------------


class Shop(Crawler):
    persist_interval = 0.05
    obey_robots = False

    async def parse(self, page: Page) -> None:
        page.follow("nav a, article h3 a, li.next a")
        page.update_state(lambda state: state.update(pages=state.get("pages", 0) + 1))
        page.save({"url": page.url})


def result(directory: Path) -> dict[str, Any]:
    with open_run(directory) as run:
        assert list(run.check()) == []
        statistics = run.statistics.to_dict()
        return {
            "items": Counter(json.dumps(i, sort_keys=True) for i in run.items(meta=False)),
            "handled": Counter(o.url for o in run.requests("handled")),
            "failed": Counter(o.url for o in run.requests("failed")),
            "state": run.state,
            "counters": {
                name: statistics[name]
                for name in ("requests_finished", "requests_failed", "requests_total", "pending",
                             "items_saved", "requests_duplicate", "status_codes", "lives")
            },
        }  # fmt: skip


def test_an_imported_crawl_goes_on_to_the_end_of_an_undisturbed_one(
    tmp_path: Path, shop: ShopSite
) -> None:
    class Leaving(Shop):
        async def parse(self, page: Page) -> None:
            await super().parse(page)
            if self.statistics.requests_finished == 60:
                self.job.stop(5.0)

    start = [shop.url("/")]
    assert Shop(start_urls=start, store=tmp_path / "undisturbed").run() == 0
    assert Leaving(start_urls=start, store=tmp_path / "first").run() == 75
    runner = CliRunner()
    file, second = str(tmp_path / "shop.run"), str(tmp_path / "second")
    shown = runner.invoke(main, ["export", str(tmp_path / "first"), file])
    assert shown.exit_code == 0
    assert "exported to" in shown.output
    shutil.rmtree(tmp_path / "first")
    shown = runner.invoke(main, ["import", file, second])
    assert shown.exit_code == 0
    assert f"run TARGET --store {second}" in shown.output
    assert Shop(start_urls=start, store=second).run() == 0
    undisturbed, moved = result(tmp_path / "undisturbed"), result(tmp_path / "second")
    assert moved["counters"].pop("lives") == 2
    assert undisturbed["counters"].pop("lives") == 1
    assert moved == undisturbed


def test_the_commands_say_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    def fails(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "crawlkit", *words], capture_output=True, text=True, check=False
        )
        assert done.returncode in (1, 2)
        assert done.stderr.count("\n") == 1
        return done.stderr

    assert "there is no run in" in fails("export", str(tmp_path / "none"), str(tmp_path / "f"))
    assert "cannot be read" in fails("import", str(tmp_path / "none"), str(tmp_path / "run"))


class Endless(MemoryStore):
    """A run with very many items, none of which is kept."""

    def reader(self) -> Any:
        reader = super().reader()
        reader.items = lambda **_: (  # type: ignore[method-assign]
            StoredItem(n, b'{"text":"%01000d"}' % n, A, "parse", NOW) for n in range(60_000)
        )
        return reader

    async def take_in(self, records: Any, *, is_last: bool) -> None:
        await super().take_in([], is_last=is_last)


async def test_a_large_run_takes_no_more_memory_than_a_small_one(tmp_path: Path) -> None:
    """60 MB of items pass through less than 40 MB; what a store keeps in memory is its own."""
    store = Endless()
    await store.open()
    tracemalloc.start()
    exported(store, tmp_path / "file")
    await import_run(tmp_path / "file", Endless())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6

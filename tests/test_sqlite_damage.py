"""Damage to the files of a run is found, told in one line, and never taken for a run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crawlkit import Crawler, Page
from crawlkit.errors import StoreDamagedError
from crawlkit.stores import open_reader
from crawlkit.stores.pages import PAGE
from crawlkit.stores.sqlite import SqliteStore
from crawlkit.testing import FakeFetcher

from .backends import A, claim_all, commit, content, item, pages
from .killed import asides, filled, flip, opened, put_back, refused


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


async def test_a_log_that_lost_its_end_leaves_an_earlier_checkpoint_and_says_so(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    states = await filled(run)
    log = run / "run.sqlite3-wal"
    size = log.stat().st_size
    for cut in range(size - 1, size // 3, -size // 23):
        again = run.with_name("again")
        shutil.copytree(run, again)
        os.truncate(again / "run.sqlite3-wal", cut)
        caplog.clear()
        assert await opened(again) in states[1:-1]
        assert "has lost its last" in caplog.text
        shutil.rmtree(again)


@pytest.mark.parametrize("size", [0, 20, 32, 3000])
async def test_a_log_that_is_all_gone_is_not_taken_for_an_empty_run(run: Path, size: int) -> None:
    await filled(run)
    os.truncate(run / "run.sqlite3-wal", size)
    await refused(run, "is damaged .all of its checkpoints are gone")


async def test_a_bit_that_flipped_in_any_page_is_found(run: Path) -> None:
    states = await filled(run)
    await opened(run)
    whole = (run / "run.sqlite3").read_bytes()
    for number, start in enumerate(range(0, len(whole), PAGE)):
        (run / "run.sqlite3").write_bytes(whole)
        flip(run / "run.sqlite3", start + number * 331 % PAGE)
        with pytest.raises(StoreDamagedError, match=f"page {number + 1} is not what was written"):
            await SqliteStore(str(run)).open()
        put_back(run)
    (run / "run.sqlite3").write_bytes(whole)
    assert await opened(run) == states[-1]


async def test_an_empty_database_does_not_cost_its_log(run: Path) -> None:
    """SQLite would throw it away as soon as it looks, also for a reader."""
    await filled(run)
    log = (run / "run.sqlite3-wal").read_bytes()
    os.truncate(run / "run.sqlite3", 0)
    with pytest.raises(StoreDamagedError, match="the file is empty"):
        open_reader(str(run))
    await refused(run, "the file is empty")
    (aside,) = (path for path in asides(run) if path.name.endswith("-wal"))
    assert aside.read_bytes() == log


async def test_a_run_that_was_put_back_goes_on(run: Path) -> None:
    states = await filled(run)
    await opened(run)
    copy = (run / "run.sqlite3").read_bytes()
    flip(run / "run.sqlite3", 5 * PAGE + 7)
    await refused(run, "page 6 is not what was written")
    (run / "run.sqlite3").write_bytes(copy)
    assert await opened(run) == states[-1]


async def test_what_was_put_aside_outlives_a_fresh_start(run: Path) -> None:
    await filled(run)
    os.truncate(run / "run.sqlite3", 5000)
    with pytest.raises(StoreDamagedError):
        await SqliteStore(str(run)).open()
    aside = asides(run)
    store = SqliteStore(str(run))
    await store.open(fresh=True)
    assert not any(content(store).values())
    await store.close()
    assert asides(run) == aside
    await opened(run)


async def test_a_database_that_went_missing_is_not_replaced_by_an_empty_one(run: Path) -> None:
    await filled(run)
    (run / "run.sqlite3").unlink()
    for _ in range(2):
        with pytest.raises(StoreDamagedError, match="missing although the run had begun"):
            await SqliteStore(str(run)).open()
    (run / "run.sqlite3-wal").unlink()
    with pytest.raises(StoreDamagedError, match="missing although the run had begun"):
        await SqliteStore(str(run)).open()


@pytest.mark.parametrize("damage", [lambda path: flip(path, 3), lambda path: os.truncate(path, 0)])
async def test_a_damaged_lock_costs_no_more_than_a_warning(
    run: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    states = await filled(run)
    damage(run / "run.lock")
    assert await opened(run) == states[-1]
    (record,) = caplog.records
    assert "run.lock is missing, damaged or from elsewhere" in record.getMessage()
    await opened(run)
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "damage",
    [lambda path: flip(path, 3), lambda path: os.truncate(path, 100), lambda path: path.unlink()],
)
async def test_lost_checksums_are_made_anew(
    run: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    states = await filled(run)
    sums = (run / "run.sqlite3-sums").read_bytes()
    damage(run / "run.sqlite3-sums")
    store = SqliteStore(str(run))
    await store.open()
    assert (run / "run.sqlite3-sums").read_bytes() == sums
    await store.close()
    assert "run.sqlite3-sums" in caplog.text
    assert await opened(run) == states[-1]


async def test_damage_that_is_met_while_it_runs_is_looked_for_at_the_next_start(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = SqliteStore(str(run))
    await store.open()
    await commit(store, fresh=pages(A, 10), items=[item(1)])
    store._db.execute("UPDATE bundles SET requests = replace(requests, '7', '8')")
    with pytest.raises(StoreDamagedError, match=r"bundle 1 is not what was saved\); start again"):
        await claim_all(store)
    await commit(store, items=[item(2)])  # what can be saved is saved
    await store.close()
    await refused(run, "bundle 1 is not what was saved")


async def test_a_suspicion_that_does_not_prove_true_ends(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = SqliteStore(str(run))
    await store.open()
    await commit(store, fresh=pages(A, 10))
    requests = store._db.execute("SELECT requests FROM bundles").fetchone()
    store._db.execute("UPDATE bundles SET requests = 'gone'")
    with pytest.raises(StoreDamagedError):
        await claim_all(store)
    store._db.execute("UPDATE bundles SET requests = ?", requests)
    await store.close()
    record = store.directory.noted()
    assert record is not None
    assert record.state == "suspect"
    await opened(run)
    record = store.directory.noted()
    assert record is not None
    assert record.state == "closed"


async def test_a_page_that_is_damaged_under_a_running_crawl_is_told(run: Path) -> None:
    await filled(run)
    await opened(run)
    store = SqliteStore(str(run))
    await store.open()
    descriptor = os.open(run / "run.sqlite3", os.O_RDWR)
    os.pwrite(descriptor, b"\xff" * 30 * PAGE, PAGE)
    store._db.execute("PRAGMA shrink_memory")  # what SQLite still remembers was not damaged
    with pytest.raises(StoreDamagedError, match=r"malformed.*start again"):
        await commit(store, items=[item(1)])
    os.close(descriptor)
    await store.close()
    await refused(run, "page 2 is not what was written")


class Shop(Crawler):
    start_urls = ("http://shop.example/",)
    concurrency = 2
    store_patience = 0.1

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        links = "".join(f"<a href='/{number}'>{number}</a>" for number in range(30))
        self.fetcher = FakeFetcher({f"http://shop.example/{n}": links for n in ["", *range(30)]})

    def parse(self, page: Page) -> None:
        page.follow("a")
        page.save({"url": page.url})


async def test_a_crawl_that_meets_with_damage_ends_with_an_error_and_is_put_aside_at_the_next_start(
    run: Path,
) -> None:
    await Shop(store=run, max_pages=5).crawl()
    store = SqliteStore(str(run))
    await store.open()
    with store._db:
        store._db.execute("UPDATE bundles SET crc = crc + 1")
    await store.close()

    crawl = Shop(store=run)
    with pytest.raises(StoreDamagedError, match=r"is not what was saved\); start again"):
        await crawl.crawl()
    for reason in ("is damaged .bundle", "was damaged and put aside"):
        with pytest.raises(StoreDamagedError, match=reason):
            await Shop(store=run).crawl()
    crawl = Shop(store=run)
    await crawl.crawl(fresh=True)
    assert crawl.statistics.items_saved == 31

"""Another crawler that goes on with the run of one is noticed, in one line, and not refused."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from crawlkit import Crawler, Page, open_run
from crawlkit.checkpoint import Checkpoint, Document
from crawlkit.portable import export_run, import_run
from crawlkit.stores import open_reader, open_store
from crawlkit.stores.base import Store
from crawlkit.testing import Site

from .backends import Backend

WARNING = "is a run of Shop, and News goes on with what is pending there; unless that is its new "


class Shop(Crawler):
    max_pages = 1

    def parse(self, page: Page) -> None:
        page.follow("a")


class News(Shop):
    max_pages = 2


@pytest.fixture
def url(site: Site) -> str:
    site.add_page("/", links=["/lamp", "/rug"])
    site.add_page("/lamp")
    site.add_page("/rug")
    return site.url("/")


async def warnings(
    caplog: pytest.LogCaptureFixture,
    kind: type[Crawler],
    store: Store | Path,
    url: str,
    *,
    fresh: bool = False,
) -> list[str]:
    """What a life of the run warns of."""
    caplog.clear()
    await kind(store=store, start_urls=[url]).crawl(fresh=fresh)
    return [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.WARNING]


async def test_another_crawler_on_a_run_is_told_once(
    backend: Backend, tmp_path: Path, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = backend.make(tmp_path)
    assert await warnings(caplog, Shop, store, url) == []
    assert await warnings(caplog, Shop, backend.again(store), url) == []
    (line,) = await warnings(caplog, News, backend.again(store), url)
    assert WARNING in line
    assert line.endswith("name, stop it and give it a --store of its own, or --fresh")
    assert await warnings(caplog, News, backend.again(store), url) == []
    assert len(await warnings(caplog, Shop, backend.again(store), url)) == 1


async def test_a_fresh_run_is_nobodys(
    backend: Backend, tmp_path: Path, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = backend.make(tmp_path)
    assert await warnings(caplog, Shop, store, url) == []
    assert await warnings(caplog, News, backend.again(store), url, fresh=True) == []


async def test_a_run_that_does_not_know_whose_it_is_is_anybodys(
    tmp_path: Path, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert await warnings(caplog, Shop, tmp_path / "run", url) == []
    for value in (b"null", b'{"mine": 1}'):
        store = open_store(str(tmp_path / "run"))
        await store.open()
        await store.commit(Checkpoint(documents={"crawler": Document(1, value)}))
        await store.close()
        assert await warnings(caplog, News, tmp_path / "run", url) == []


async def test_a_run_that_was_moved_knows_whose_it_is(
    tmp_path: Path, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    await warnings(caplog, Shop, tmp_path / "run", url)
    reader = open_reader(str(tmp_path / "run"))
    export_run(reader, tmp_path / "shop.run")
    reader.close()
    await import_run(tmp_path / "shop.run", open_store(str(tmp_path / "moved")))
    assert len(await warnings(caplog, News, tmp_path / "moved", url)) == 1


async def test_a_worker_that_joins_a_life_neither_tells_it_nor_keeps_others_from_telling(
    tmp_path: Path, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    await warnings(caplog, Shop, tmp_path / "run", url)
    joining = News(store=tmp_path / "run", start_urls=[url])
    joining.joins = True
    await joining.crawl()
    assert "is a run of Shop" not in caplog.text
    with open_run(tmp_path / "run") as run:
        assert run.saved("crawler") == "Shop"


CRAWLERS = """
import os
from crawlkit import Crawler

class Shop(Crawler):
    persist_interval = 0.05

    async def parse(self, page):
        await self.job.checkpoint()
        os.kill(os.getpid(), 9)

class News(Crawler):
    def parse(self, page):
        page.save({"url": page.url})
"""


def run(directory: Path, name: str, url: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "crawlkit", "run", f"crawlers.py:{name}", url),
            *("--store", "run", "--no-progress", *options),
        ],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_it_is_known_from_the_first_checkpoint_on_and_told_by_one_worker(
    tmp_path: Path, url: str, workers: int
) -> None:
    (tmp_path / "crawlers.py").write_text(CRAWLERS)
    assert run(tmp_path, "Shop", url).returncode == -9
    with open_run(tmp_path / "run") as found:
        assert (found.saved("crawler"), found.statistics.pending) == ("Shop", 1)
    done = run(tmp_path, "News", url, "--workers", str(workers))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("run is a run of Shop, and News goes on") == 1
    with open_run(tmp_path / "run") as found:
        assert found.saved("crawler") == "News"
        assert list(found.check()) == []

"""What can be imported from crawlkit is documented, in the reference, and typed."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any, assert_type

import pytest

import crawlkit
from crawlkit import (
    Checkpoint,
    Crawler,
    Job,
    Page,
    Persistent,
    Request,
    Response,
    Run,
    Saved,
    Session,
    Statistics,
    load_statistics,
    open_run,
)

ROOT = Path(__file__).parent.parent


def test_every_public_name_exists_and_no_other_is_promised() -> None:
    assert crawlkit.__all__ == sorted(crawlkit.__all__)
    assert all(hasattr(crawlkit, name) for name in crawlkit.__all__)
    assert set(crawlkit.__all__) <= set(dir(crawlkit))
    with pytest.raises(AttributeError, match="no attribute 'Crawlers'"):
        _ = crawlkit.Crawlers


@pytest.mark.parametrize("name", crawlkit.__all__)
def test_a_public_name_and_all_its_members_are_documented(name: str) -> None:
    public = getattr(crawlkit, name)
    assert inspect.getdoc(public), f"crawlkit.{name} has no docstring"
    if inspect.isclass(public):
        for attribute, member in vars(public).items():
            if not attribute.startswith("_") and isinstance(member, FunctionType | property):
                documented = inspect.getdoc(member) or f"{attribute}:" in (public.__doc__ or "")
                assert documented, f"{name}.{attribute} has no docstring"


@pytest.mark.parametrize("name", crawlkit.__all__)
def test_a_public_name_is_in_the_reference(name: str) -> None:
    pages = (ROOT / "docs" / "reference").glob("*.md")
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    assert f"::: crawlkit.{name}" in text.splitlines()


def test_importing_crawlkit_alone_is_quick_and_brings_no_network_stack() -> None:
    code = "import sys, crawlkit; print(sorted({'aiohttp', 'lxml'} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "[]\n"


def test_the_examples_and_the_types_below_pass_a_strict_type_checker() -> None:
    files = [str(path) for path in sorted((ROOT / "examples").glob("*.py"))]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", __file__, *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# -- read by the type checker, never run --------------------------------------------------------


@dataclass
class Product:
    title: str | None


class PriceIndex:
    def restore(self, saved: Saved) -> None:
        self.prices: dict[str, float] = saved.load({}, version=2, type=dict[str, float])

    def collect(self, checkpoint: Checkpoint) -> None:
        checkpoint.save(self.prices, version=2)


class Shop(Crawler):
    start_urls = ["https://shop.example/"]
    item_type = Product
    exclude = ("**/basket", re.compile("sort="))
    headers = {"Accept-Language": "en"}
    proxies = {"*://api.shop.example/**": None, re.compile("."): ["http://one:1", "http://two:1"]}
    budgets = {"**/offers/*": 100, re.compile("page="): 20}
    cache_rules = {"**/*.pdf": "forever", re.compile("/live/"): 60}

    async def on_start(self) -> None:
        self.prices = assert_type(self.persist("prices", PriceIndex()), PriceIndex)
        self.on("migrating", self.plain_listener)
        self.on("exit", self.async_listener)
        assert_type(self.state, dict[str, Any])
        await self.set_value("key", [1])
        assert_type(await self.get_value("key"), Any)

    def start_requests(self) -> Iterator[Request | str]:
        yield "https://shop.example/"
        yield Request("https://shop.example/", handler="parse_product", user_data={"a": 1})

    def plain_listener(self) -> None: ...

    async def async_listener(self, event: object) -> None: ...

    async def parse(self, page: Page) -> None:
        assert_type(page.request, Request)
        assert_type(page.response, Response)
        assert_type(page.session, Session)
        assert_type(page.url, str)
        assert_type(page.css("h1::text").get(), str | None)
        assert_type(page.follow("a", handler=self.parse_product), int)
        page.follow([Request("/a"), "/b"], priority=1, user_data={})
        page.save(Product(page.css("h1::text").get()))
        page.update_state(lambda state: state.update(seen=1))
        assert_type(await self.cached("rate", self.rate), float)
        assert_type(await self.cached("rate", lambda: 1.5), float)
        assert_type(await self.page_cache.cached("rate", self.rate, ttl=60), float)

    async def rate(self) -> float:
        return 1.5

    def parse_product(self, page: Page) -> None:
        """Handlers may be plain functions."""

    async def on_failed(self, request: Request, error: Exception) -> None: ...

    def on_finish(self, statistics: Statistics) -> None: ...


class Endless(Crawler):
    async def start_requests(self) -> AsyncIterator[str]:
        yield "https://shop.example/"


async def check_types() -> None:
    part: Persistent = PriceIndex()
    async with Job("runs/job") as job:
        assert_type(job, Job)
        assert_type(job.is_stopping, bool)
        job.persist("part", part)
    assert_type(Shop(store="runs/shop").run(), int)
    assert_type(await Shop(max_pages=3).crawl(), Statistics)
    with open_run("runs/shop") as run:
        assert_type(run, Run)
        assert_type(run.items(), Iterator[dict[str, Any]])
    assert_type(load_statistics(Path("runs/shop")).requests_finished, int)

"""Handlers can be tried on saved pages, without a network and without a trace on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict

import pytest

from crawlkit import Crawler, Page, Request
from crawlkit.errors import HandlerError, ItemError, UsageError
from crawlkit.testing import handle

PRODUCT = """\
<h1>Lamp</h1> <a class=offer href="/offer/1">A</a> <a class=offer href="/offer/2">B</a>
<a href="https://elsewhere.example/">Elsewhere</a>
"""


class Shop(Crawler):
    exclude = ["**/offer/2"]

    async def on_start(self) -> None:
        self.seen = await self.get_value("seen", 0)

    async def parse(self, page: Page) -> None:
        page.save({"title": page.css("h1::text").get(), **page.request.user_data})
        page.follow("a", handler=self.parse_offer, priority=2, user_data={"from": page.url})
        page.update_state(lambda state: state.update(pages=state.get("pages", 0) + 1))
        await self.set_value("seen", self.seen + 1)

    def parse_offer(self, page: Page) -> None:
        page.save({"status": page.status, "kind": page.headers["Content-Type"]})

    async def derive(self, page: Page) -> None:
        page.save({"derived": await self.cached("key", lambda: "computed")})

    async def wrong(self, page: Page) -> None:
        page.save({"title": page.json()})


class Item(TypedDict):
    title: int


class Typed(Crawler):
    item_type = Item

    async def parse(self, page: Page) -> None:
        page.save({"title": "text"})
        page.save({"title": 1})


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_what_a_handler_does_is_told() -> None:
    done = handle(
        Shop,
        "parse",
        PRODUCT,
        url="https://shop.example/lamp",
        user_data={"sku": 7},
        state={"pages": 4},
        values={"seen": 41},
    )
    assert done.items == [{"title": "Lamp", "sku": 7}]
    (link,) = done.links
    assert (link.url, link.handler, link.priority, link.depth) == (
        "https://shop.example/offer/1",
        "parse_offer",
        2,
        1,
    )
    assert link.user_data == {"from": "https://shop.example/lamp"}
    assert done.skipped == {
        "https://shop.example/offer/2": "exclude",
        "https://elsewhere.example/": "scope",
    }
    assert done.state == {"pages": 5}
    assert done.values == {"seen": 42}
    assert done.page.css("h1::text").get() == "Lamp"


def test_a_handler_may_be_plain_and_named_by_its_method() -> None:
    done = handle(Shop, Shop.parse_offer, b"\xe4", status=404, headers={"content-type": "text/x"})
    assert done.items == [{"status": 404, "kind": "text/x"}]


def test_a_page_may_come_from_a_file_and_a_request_be_given_whole() -> None:
    Path("lamp.html").write_text(PRODUCT)
    request = Request("https://shop.example/p", depth=100, user_data={"sku": 8}, retry_count=1)
    done = handle(Shop, "parse", Path("lamp.html"), request=request)
    assert done.items == [{"title": "Lamp", "sku": 8}]
    assert done.page.request.retry_count == 1
    assert set(done.skipped.values()) == {"max_depth"}


def test_a_bare_name_of_a_file_is_a_mistake_that_is_told() -> None:
    Path("lamp.html").write_text(PRODUCT)
    with pytest.raises(UsageError, match=r"pass Path\('lamp.html'\)"):
        handle(Shop, "parse", "lamp.html")


def test_what_a_handler_raises_reaches_the_test() -> None:
    with pytest.raises(Exception, match="is not JSON"):
        handle(Shop, "wrong", PRODUCT)
    with pytest.raises(
        HandlerError, match="Shop has no handler 'parse_ofer'; did you mean parse_off"
    ):
        handle(Shop, "parse_ofer", PRODUCT)


def test_items_of_the_wrong_type_are_told_as_errors() -> None:
    done = handle(Typed)
    assert done.items == [{"title": 1}]
    assert [type(error) for error in done.errors] == [ItemError]


def test_nothing_is_left_on_the_disk_and_each_call_begins_anew() -> None:
    for _ in range(2):
        assert handle(Shop, "derive").items == [{"derived": "computed"}]
    assert handle(Shop(store="memory:", max_depth=0), "parse", PRODUCT).links == []
    assert list(Path().iterdir()) == []


def test_a_crawler_that_would_write_something_is_refused() -> None:
    with pytest.raises(UsageError, match="store='memory:'"):
        handle(Shop(), "parse", PRODUCT)
    with pytest.raises(UsageError, match="output=None"):
        handle(Shop(store="memory:", output="items.jsonl"), "parse", PRODUCT)


def test_the_items_of_a_real_crawl_are_not_touched() -> None:
    class Writing(Shop):
        output = "items.jsonl"

    Path("items.jsonl").write_text('{"real":1}\n')
    handle(Writing, "parse", PRODUCT)
    assert Path("items.jsonl").read_text() == '{"real":1}\n'


async def test_it_works_inside_of_an_event_loop_too() -> None:
    assert handle(Shop, "parse", PRODUCT).items[0]["title"] == "Lamp"


def test_nothing_is_fetched() -> None:
    class Fetching(Crawler):
        async def parse(self, page: Page) -> None:
            answer: Any = await self.fetcher.fetch(Request("http://192.0.2.1/"), page.session)
            page.save({"status": answer.status})

    assert handle(Fetching).items == [{"status": 404}]

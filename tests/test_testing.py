"""Promises of `crawlkit.testing`, on which other people's tests stand."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from parsel import Selector

from crawlkit.checkpoint import Checkpoint, Document
from crawlkit.errors import NetworkError, StoreWriteError
from crawlkit.fetching import Fetcher
from crawlkit.request import Request
from crawlkit.response import Response
from crawlkit.sessions import Session
from crawlkit.stores.memory import MemoryStore
from crawlkit.testing import (
    FakeFetcher,
    FaultyStore,
    ManualClock,
    Site,
    expected_items,
    generated_site,
)
from crawlkit.testing.shop import ShopSite


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


# -- Site -------------------------------------------------------------------------------------


def test_a_site_runs_in_its_own_thread_for_tests_that_are_not_async() -> None:
    with Site() as site:
        site.add_page("/", "<h1>Hello</h1>")
        assert get(site.url("/")) == (200, "<h1>Hello</h1>")


async def test_a_site_runs_in_the_event_loop_of_an_async_test() -> None:
    async with Site() as site, aiohttp.ClientSession() as client:
        site.add_page("/data", b"{}", headers={"Content-Type": "application/json"}, status=201)
        async with client.get(site.url("/data")) as response:
            assert response.status == 201
            assert await response.json() == {}


def test_a_page_without_content_has_its_path_as_title_and_the_links_given(site: Site) -> None:
    site.add_page("/a&b", links=["/c?x=1&y=2"])
    page = Selector(get(site.url("/a&b"))[1])
    assert page.css("h1::text").get() == "/a&b"
    assert page.css("a::attr(href)").getall() == ["/c?x=1&y=2"]


def test_a_page_can_fail_a_number_of_times_before_it_works(site: Site) -> None:
    site.add_page("/flaky", fail_times=2, fail_status=503)
    assert [get(site.url("/flaky"))[0] for _ in range(4)] == [503, 503, 200, 200]


def test_a_failing_page_can_say_when_to_come_back(site: Site) -> None:
    site.add_page("/busy", fail_times=1, fail_status=503, retry_after=7)
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(site.url("/busy"), timeout=60)
    with raised.value as error:
        assert (error.code, error.headers["Retry-After"]) == (503, "7")


def test_a_page_can_take_its_time(site: Site) -> None:
    site.add_page("/slow", delay=0.2)
    started = time.monotonic()
    get(site.url("/slow"))
    assert time.monotonic() - started >= 0.2


async def plain_async(request: web.BaseRequest) -> str:
    await asyncio.sleep(0)
    return f"asked by {request.method}"


@pytest.mark.parametrize(
    "handler",
    [
        lambda request: f"asked by {request.method}",
        plain_async,
        lambda request: web.Response(text=f"asked by {request.method}"),
    ],
)
def test_a_page_can_be_made_by_a_function(
    site: Site, handler: Callable[[web.BaseRequest], str]
) -> None:
    site.add_page("/", handler)
    assert get(site.url("/")) == (200, "asked by GET")


def test_a_path_that_was_not_added_is_not_found(site: Site) -> None:
    assert get(site.url("/nowhere"))[0] == 404


def test_the_log_tells_what_was_asked_when_and_how_much_at_once(site: Site) -> None:
    site.add_page("/", delay=0.1)
    before = time.monotonic()

    async def ask_twice() -> None:
        async with aiohttp.ClientSession(headers={"X-Who": "me"}) as client:
            await asyncio.gather(client.get(site.url("/?a=b")), client.get(site.url("/")))

    asyncio.run(ask_twice())
    assert {hit.path for hit in site.requests} == {"/", "/?a=b"}
    assert {hit.method for hit in site.requests} == {"GET"}
    assert {hit.headers["x-who"] for hit in site.requests} == {"me"}
    assert all(before <= hit.at <= time.monotonic() for hit in site.requests)
    assert site.hits("/") == 1
    assert site.hits() == 2
    site.forget()
    assert (site.hits(), site.requests) == (0, [])


def test_the_log_counts_requests_that_are_open_at_once(site: Site) -> None:
    for path in ("/1", "/2", "/3"):
        site.add_page(path, delay=1)

    async def ask_at_once() -> None:
        async with aiohttp.ClientSession() as client:
            await asyncio.gather(*(client.get(site.url(path)) for path in ("/1", "/2", "/3")))

    asyncio.run(ask_at_once())
    assert max(hit.open for hit in site.requests) == 3
    assert site.open == 0


def test_a_site_that_is_started_again_has_the_same_urls() -> None:
    site = Site()
    with site:
        first = site.url("/")
    with site:
        assert site.url("/") == first


def test_a_port_that_is_taken_is_an_error_at_once(site: Site) -> None:
    with pytest.raises(OSError, match="in use"), Site(port=site.port):
        pass


# -- generated sites --------------------------------------------------------------------------


def crawl_by_hand(site: Site) -> dict[str, Selector]:
    pages: dict[str, Selector] = {}
    todo = ["/"]
    while todo:
        path = todo.pop()
        if path not in pages:
            status, text = get(site.url(path))
            assert status == 200, path
            pages[path] = Selector(text)
            todo += pages[path].css("a::attr(href)").getall()
    return pages


@pytest.mark.parametrize(("pages", "links"), [(1, 2), (60, 2), (60, 20), (60, 100)])
def test_every_page_of_a_generated_site_is_reachable_and_the_items_are_known(
    pages: int, links: int
) -> None:
    with generated_site(pages, links=links, size=1000, seed=3) as site:
        found = crawl_by_hand(site)
    items = [
        {name: page.css(f"{rule}::text").get() for name, rule in rules.items()}
        for page in found.values()
        for rules in [{"title": "h1", "price": ".price", "sku": ".sku"}]
    ]
    expected = list(expected_items(pages, seed=3))
    assert sorted(items, key=lambda item: str(item["sku"])) == expected
    assert {len(page.css("a")) for page in found.values()} == {links}


def test_a_generated_page_is_the_same_each_time_and_of_the_size_asked_for() -> None:
    with generated_site(20_000) as site:
        texts = {get(site.url("/page/19999")) for _ in range(3)}
    ((status, text),) = texts
    assert status == 200
    assert len(text) == pytest.approx(10_000, rel=0.01)


@pytest.mark.parametrize("path", ["/page/0", "/page/10", "/page/01", "/page/x", "/other"])
def test_a_generated_site_has_one_url_for_each_page_and_no_others(path: str) -> None:
    with generated_site(10) as site:
        assert get(site.url(path))[0] == 404


# -- the shop ---------------------------------------------------------------------------------


def test_the_shop_has_the_size_that_the_docs_say() -> None:
    shop = ShopSite()
    assert len({product.category for product in shop.products}) == 12
    assert len(shop.products) == 120
    assert 380 <= len(shop.offers) <= 420
    assert len(shop.broken) == 4


def test_links_of_the_shop_lead_to_every_product_and_offer() -> None:
    with ShopSite(slow=False, faults=False) as shop:
        pages = crawl_by_hand(shop)
    assert {product.path for product in shop.products} <= pages.keys()
    assert {offer.path for offer in shop.offers} <= pages.keys()
    for offer in shop.offers[::25]:
        page = pages[offer.path]
        assert page.css(".price::text").get() == f"€ {offer.price}"
        assert page.css(".seller::text").get() == offer.seller
        assert page.css("a.product::attr(href)").get() == offer.product.path
        assert pages[offer.product.path].css("h1::text").get() == offer.product.title


def test_every_page_of_the_shop_works_at_the_third_try_or_never() -> None:
    with ShopSite(slow=False) as shop:
        for offer in shop.offers:
            statuses = [get(shop.url(offer.path))[0] for _ in range(3)]
            assert (statuses[-1] == 200) is (offer.path not in shop.broken)
            assert (offer in shop.offers_to_find) is (statuses[-1] == 200)


def test_the_shop_is_the_same_shop_each_time() -> None:
    assert ShopSite().offers == ShopSite().offers
    assert ShopSite().offers != ShopSite(seed=2).offers


@pytest.mark.parametrize(
    "command", [["crawlkit.testing.shop", "--calm"], ["crawlkit.testing", "--pages", "5"]]
)
def test_sites_are_served_alone_from_the_command_line(command: list[str]) -> None:
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-m", *command], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            assert get(url)[0] == 200
        finally:
            process.terminate()
        assert process.wait(timeout=60) == 0


# -- fakes ------------------------------------------------------------------------------------


def test_a_manual_clock_stands_still_until_it_is_moved() -> None:
    clock = ManualClock(1000.0)
    assert clock.now() == 1000.0
    clock.advance(2.5)
    assert clock.now() == 1002.5
    with pytest.raises(ValueError, match="never goes back"):
        clock.advance(-1)


async def commit_one(store: FaultyStore) -> None:
    await store.commit(Checkpoint(documents={"part": Document(1, b"1")}))


async def test_a_faulty_store_fails_the_call_it_was_told_to_and_only_that() -> None:
    store = FaultyStore(MemoryStore(), "commit", at=2)
    await store.open()
    await commit_one(store)
    with pytest.raises(StoreWriteError, match="no space left"):
        await commit_one(store)
    await commit_one(store)
    assert store.failures == 1
    assert store.calls["commit"] == 3
    await store.close()


async def test_a_faulty_store_can_fail_from_a_call_on_until_it_is_healed() -> None:
    store = FaultyStore(MemoryStore(), "commit", at=1, lasting=True)
    await store.open()
    for _ in range(3):
        with pytest.raises(StoreWriteError):
            await commit_one(store)
    assert (await store.load()).documents == {}
    store.heal()
    await commit_one(store)
    assert (await store.load()).documents == {"part": Document(1, b"1")}
    await store.close()


@pytest.mark.parametrize("method", ["open", "load", "document", "claim", "release", "close"])
async def test_a_faulty_store_can_fail_any_of_its_methods(method: str) -> None:
    store = FaultyStore(MemoryStore(), method, error=OSError("gone"))
    arguments: tuple[object, ...] = ()
    if method in ("document", "claim"):
        arguments = ("part",) if method == "document" else (1, {}, 0.0)
    if method != "open":
        await store.open()
    with pytest.raises(OSError, match="gone"):
        await getattr(store, method)(*arguments)
    store.heal()
    await getattr(store, method)(*arguments)
    if method != "close":
        await store.close()


def test_a_faulty_store_refuses_a_method_that_stores_do_not_have() -> None:
    with pytest.raises(ValueError, match="no method 'comit'; it has: claim, close, commit"):
        FaultyStore(MemoryStore(), "comit")


async def test_a_fake_fetcher_answers_from_a_dict_and_keeps_the_requests() -> None:
    teapot = Response(url="http://shop.example/tea", status=418)
    fetcher: Fetcher = FakeFetcher(
        {
            "http://shop.example/": "<h1>Grüße</h1>",
            "http://shop.example/tea": teapot,
            "http://shop.example/b": [NetworkError("reset"), b"once", b"again"],
        }
    )
    session = Session("one", ManualClock())

    async def fetch(path: str) -> Response:
        return await fetcher.fetch(Request(f"http://shop.example{path}"), session)

    front = await fetch("/")
    assert (front.status, front.text, front.content_type) == (200, "<h1>Grüße</h1>", "text/html")
    assert await fetch("/tea") is teapot
    with pytest.raises(NetworkError, match="reset"):
        await fetch("/b")
    assert [(await fetch("/b")).text for _ in range(3)] == ["once", "again", "again"]
    assert (await fetch("/nowhere")).status == 404
    assert isinstance(fetcher, FakeFetcher)
    asked = [request.url.rpartition("/")[2] for request in fetcher.requests]
    assert asked == ["", "tea", "b", "b", "b", "b", "nowhere"]


# -- the options of this test suite -----------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"), [([], "2 skipped"), (["--no-skips"], "1 failed, 1 error")]
)
def test_a_missing_program_skips_a_test_but_never_in_ci(
    tmp_path: Path, options: list[str], expected: str
) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "@pytest.mark.needs('no-such-program')\n"
        "def test_with_a_program(): pass\n"
        "def test_with_something_else(): pytest.skip('another reason')\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-rsf", *options]
    done = subprocess.run(
        [*command, f"--rootdir={tmp_path}", str(tmp_path)],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert expected in done.stdout
    assert (done.returncode == 0) is (options == [])
    assert "needs no-such-program: apt-get install no-such-program" in done.stdout


def test_a_site_whose_port_is_taken_says_so_in_one_line(site: Site) -> None:
    words = ["-m", "crawlkit.testing.shop", "--port", str(site.port)]
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"127.0.0.1:{site.port} cannot be had: Address already in use; choose another --port, or 0 "
        "for one that is free\n"
    )

"""A request is rendered or not, as it asks, and what was rendered is kept as such."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from crawlkit.cache import PageCache
from crawlkit.clock import Clock
from crawlkit.errors import (
    FetchError,
    NetworkError,
    OfflineError,
    PrivateAddressError,
    RedirectError,
)
from crawlkit.rendering.picking import RenderingFetcher
from crawlkit.request import CacheMode, Request
from crawlkit.response import Response
from crawlkit.sessions import Session
from crawlkit.testing import FakeFetcher

URL = "http://site.test/"
END = "http://site.test/end"


class Crawl:
    """A fetcher of each kind, with a cache between."""

    def __init__(self, cache: PageCache, **options: Any) -> None:
        self.plain = FakeFetcher({URL: "plain"})
        self.browser = FakeFetcher({URL: "rendered"})
        self.browsers = 0
        self._fetcher = RenderingFetcher(self.plain, self._browser, cache=cache, **options)

    def _browser(self) -> FakeFetcher:
        self.browsers += 1
        return self.browser

    async def fetch(self, url: str = URL, **fields: Any) -> Response:
        more = {"render": True, **fields}
        return await self._fetcher.fetch(Request(url, **more), Session("s", Clock()))

    async def fetch_from(self, url: str, refused: str = "") -> tuple[list[str], Response]:
        asked: list[str] = []

        async def may_follow(source: str, target: str, is_private: bool) -> str | None:
            asked.append(target)
            return "robots" if target == refused else None

        request, session = Request(url, render=True), Session("s", Clock())
        response = await self._fetcher.fetch(request, session, may_follow=may_follow)
        return asked, response


@pytest.fixture
async def cache(tmp_path: Path) -> AsyncIterator[PageCache]:
    async with PageCache(tmp_path / "pages", mode="forever") as opened:
        yield opened


async def test_only_what_is_to_be_rendered_goes_to_the_browser(cache: PageCache) -> None:
    for is_default in (False, True):
        crawl = Crawl(cache, render=is_default)
        for render, body in ((None, is_default), (True, True), (False, False), (".price", True)):
            response = await crawl.fetch(render=render, cache="off")
            assert response.body == (b"rendered" if body else b"plain")


async def test_a_rendered_page_is_kept_and_comes_back_as_it_was(cache: PageCache) -> None:
    first = await Crawl(cache).fetch()
    assert (first.cache, first.is_stored) == ("miss", True)
    again = Crawl(cache)
    response = await again.fetch()
    assert (response.cache, response.body) == ("hit", b"rendered")
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert again.browsers == 0


async def test_a_rendered_page_and_a_plain_one_are_two_and_so_is_what_was_waited_for(
    cache: PageCache,
) -> None:
    await Crawl(cache).fetch()
    crawl = Crawl(cache)
    assert (await crawl.fetch(render=False)).body == b"plain"
    assert (await crawl.fetch(render=".price")).cache == "miss"
    assert (await crawl.fetch(render=".price")).cache == "hit"
    assert (await Crawl(cache, wait=".price").fetch()).cache == "hit"


@pytest.mark.parametrize("mode", ["off", "http"])
async def test_where_nothing_says_for_how_long_it_is_good_a_page_is_rendered_each_time(
    cache: PageCache, mode: CacheMode
) -> None:
    crawl = Crawl(cache)
    for _ in range(2):
        response = await crawl.fetch(cache=mode)
        assert (response.cache, response.is_stored) == ("", False)
    assert len(crawl.browser.requests) == 2


async def test_offline_what_was_rendered_is_there_and_nothing_is_rendered(cache: PageCache) -> None:
    await Crawl(cache).fetch()
    crawl = Crawl(cache)
    assert (await crawl.fetch(cache="offline")).body == b"rendered"
    for other in ({"url": END}, {"method": "POST"}):
        with pytest.raises(OfflineError):
            await crawl.fetch(cache="offline", **other)
    assert crawl.browsers == 0


async def test_a_page_that_is_tried_again_is_rendered_again(cache: PageCache) -> None:
    await Crawl(cache).fetch()
    assert (await Crawl(cache).fetch(retry_count=1)).cache == "miss"


@pytest.mark.parametrize("answer", [Response(url=URL, status=503), NetworkError("reset")])
async def test_a_failure_is_not_kept(cache: PageCache, answer: Response | FetchError) -> None:
    crawl = Crawl(cache)
    crawl.browser = FakeFetcher({URL: [answer, "rendered"]})
    try:
        assert (await crawl.fetch()).status == 503
    except NetworkError:
        assert answer.__class__ is NetworkError
    assert (await crawl.fetch()).body == b"rendered"


async def test_where_a_page_was_led_is_asked_about_again(cache: PageCache) -> None:
    step = "http://site.test/step"
    crawl = Crawl(cache)
    crawl.browser = FakeFetcher({URL: Response(url=END, redirects=(URL, step), body=b"end")})
    await crawl.fetch()
    asked, response = await Crawl(cache).fetch_from(URL)
    assert asked == [step, END]
    assert (response.url, response.redirects, response.cache) == (END, (URL, step), "hit")
    with pytest.raises(RedirectError, match="robots"):
        await Crawl(cache).fetch_from(URL, refused=step)


async def test_what_a_private_site_said_is_not_for_pages_of_the_web(cache: PageCache) -> None:
    url = "http://127.0.0.1/"
    for page, secret in (
        (url, Response(url=url, body=b"secret", is_private=True)),
        (URL, Response(url=URL, body=b"secret", is_private=True)),
    ):
        crawl = Crawl(cache)
        crawl.browser = FakeFetcher({page: [secret, "public"]})
        assert (await crawl.fetch(page, private=True)).body == b"secret"
        assert (await crawl.fetch(page, private=True)).cache == "hit"
    with pytest.raises(PrivateAddressError):
        await crawl.fetch(url, cache="offline")
    assert (await crawl.fetch(URL)).body == b"public"
    allowed = Crawl(cache, allow_private=True)
    assert (await allowed.fetch(url)).body == b"secret"


async def test_a_key_of_the_users_own_names_rendered_pages_too(tmp_path: Path) -> None:
    async with PageCache(tmp_path / "own", mode="forever", key=lambda request: "one") as cache:
        await Crawl(cache).fetch()
        assert (await Crawl(cache).fetch(END)).cache == "hit"
        assert (await Crawl(cache).fetch(render=False)).cache == ""

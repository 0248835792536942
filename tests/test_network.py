"""Where a whole crawl may go, and by which way: private addresses, redirects, proxies, logins."""

from __future__ import annotations

import base64
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from crawlkit import Crawler, Page
from crawlkit.http import proxies as proxies_module
from crawlkit.testing import Site

from .proxy_servers import HttpProxy, Socks5Proxy
from .stopwatch import Stopwatch, assert_apart

SHOP = "http://shop.example/"
"""A site of the web: what is behind a proxy has no address that could be private."""
DEAD = "http://me:secret@127.0.0.1:1"


class Titles(Crawler):
    """Follows every link, wherever it leads, and saves every title."""

    store = "memory:"
    persist_interval = 0.05
    max_retries = 0
    scope = "all"
    start_urls = (SHOP,)

    def parse(self, page: Page) -> None:
        page.save({"title": page.css("h1::text").get()})
        page.follow("a")


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with Site() as site:
        yield site


@pytest.fixture
async def other() -> AsyncIterator[Site]:
    async with Site() as site:
        yield site


@pytest.fixture
async def web_proxy(site: Site) -> AsyncIterator[HttpProxy]:
    """Brings the `site` to those who ask for http://shop.example/."""
    async with HttpProxy(routes={"shop.example:80": site.port}) as proxy:
        yield proxy


def by_proxy(proxy: HttpProxy | Socks5Proxy) -> dict[str, str]:
    return {f"{SHOP}**": proxy.url}


def moved(to: str) -> web.Response:
    return web.Response(status=302, headers={"Location": to})


def moving(to: str, request: web.BaseRequest) -> web.Response:
    return moved(to)


def paths(site: Site) -> list[str]:
    return [hit.path for hit in site.requests]


def kinds(crawler: Crawler) -> Counter[str]:
    count = Counter[str]()
    for error in crawler.statistics.errors:
        count[error.kind] += error.count
    return count


# -- private addresses ----------------------------------------------------------------------------

SPELLINGS = (
    "127.0.0.1",
    "localhost",
    "2130706433",
    "0x7f.1",
    "0177.0.0.1",
    "127.1",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "0.0.0.0",
    "LOCALHOST.",
)


async def test_no_link_of_the_web_reaches_this_machine_however_it_is_spelled(
    site: Site, other: Site, web_proxy: HttpProxy
) -> None:
    hrefs = [f"http://{host}:{other.port}/{n}" for n, host in enumerate(SPELLINGS)]
    site.add_page("/", links=[*hrefs, "/end"])
    site.add_page("/end")
    crawler = Titles(proxies=by_proxy(web_proxy))
    statistics = await crawler.crawl()
    assert paths(other) == []
    assert (statistics.requests_finished, statistics.items_saved) == (2, 2)
    assert statistics.requests_failed == len(SPELLINGS)
    assert kinds(crawler) == {"PrivateAddressError": len(SPELLINGS)}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:7f00:1]"])
async def test_no_redirect_of_the_web_reaches_this_machine(
    site: Site, other: Site, web_proxy: HttpProxy, host: str
) -> None:
    """Nor does that of a start URL, of a robots.txt, or the second one in a row."""
    target = f"http://{host}:{other.port}/"
    site.add_page("/", lambda request: moved("/again"))
    site.add_page("/again", lambda request: moved(target))
    site.add_page("/robots.txt", lambda request: moved(f"{target}robots.txt"))
    crawler = Titles(proxies=by_proxy(web_proxy))
    statistics = await crawler.crawl()
    assert paths(other) == []
    assert statistics.requests_failed == 1
    assert kinds(crawler) == {"PrivateAddressError": 1}
    crawler = Titles(proxies=by_proxy(web_proxy), obey_robots=False)
    statistics = await crawler.crawl()
    assert paths(other) == []
    assert site.hits("/again") == 1
    assert kinds(crawler) == {"PrivateAddressError": 1}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_redirect_of_the_web_does_not_even_reach_the_robots_txt_of_this_machine(
    site: Site, other: Site, web_proxy: HttpProxy, host: str
) -> None:
    """Although the start URL itself might have been a private one."""
    site.add_page("/", lambda request: moved(f"http://{host}:{other.port}/"))
    crawler = Titles(proxies=by_proxy(web_proxy))
    await crawler.crawl()
    assert paths(other) == []
    assert kinds(crawler) == {"PrivateAddressError": 1}


async def test_links_and_redirects_of_the_web_reach_this_machine_where_that_is_allowed(
    site: Site, other: Site, web_proxy: HttpProxy
) -> None:
    site.add_page("/", links=[other.url("/a"), "/moved"])
    site.add_page("/moved", lambda request: moved(other.url("/b")))
    for path in ("/a", "/b"):
        other.add_page(path)
    statistics = await Titles(proxies=by_proxy(web_proxy), allow_private=True).crawl()
    assert statistics.requests_finished == 3
    assert set(paths(other)) == {"/robots.txt", "/a", "/b"}


async def test_a_crawl_of_private_pages_reaches_what_they_lead_to(site: Site, other: Site) -> None:
    """Start URLs may be private, and what private pages say of others is as good."""
    site.add_page("/", links=[f"http://localhost:{other.port}/a", "/moved"])
    site.add_page("/moved", lambda request: moved(other.url("/b")))
    for path in ("/a", "/b"):
        other.add_page(path, links=[f"http://127.0.0.1:{other.port}/c"])
    other.add_page("/c")
    statistics = await Titles(start_urls=[site.url("/")]).crawl()
    assert (statistics.requests_finished, statistics.requests_failed) == (4, 0)


async def test_a_private_start_url_is_fetched_and_the_web_gets_no_further_by_it(
    site: Site, other: Site, web_proxy: HttpProxy
) -> None:
    other.add_page("/")
    site.add_page("/", links=[other.url("/admin")])
    crawler = Titles(start_urls=[SHOP, other.url("/")], proxies=by_proxy(web_proxy))
    statistics = await crawler.crawl()
    assert statistics.requests_finished == 2
    assert other.hits("/admin") == 0
    assert kinds(crawler) == {"PrivateAddressError": 1}


async def test_a_sitemap_of_the_web_leads_to_no_private_address(
    site: Site, other: Site, web_proxy: HttpProxy
) -> None:
    """Neither what it lists, nor what a robots.txt of the web calls a sitemap on another host."""
    plain = {"Content-Type": "text/plain"}
    named = f"Sitemap: {SHOP}list.txt\nSitemap: {other.url('/list.txt')}\n"
    site.add_page("/robots.txt", named.encode(), headers=plain)
    site.add_page("/list.txt", f"{SHOP}a\n{other.url('/b')}\n".encode(), headers=plain)
    site.add_page("/")
    site.add_page("/a")
    crawler = Titles(proxies=by_proxy(web_proxy), sitemaps_from_robots=True)
    statistics = await crawler.crawl()
    assert paths(other) == []
    assert statistics.requests_finished == 3
    assert kinds(crawler) == {"PrivateAddressError": 2}


# -- redirects ------------------------------------------------------------------------------------


async def test_a_start_url_may_be_redirected_anywhere_and_the_crawl_goes_on_from_there(
    site: Site, other: Site
) -> None:
    site.add_page("/", lambda request: moved(other.url("/home")))
    other.add_page("/home", links=["/a", site.url("/elsewhere")])
    other.add_page("/a")
    crawler = Titles(start_urls=[site.url("/")], scope="same-host")
    statistics = await crawler.crawl()
    assert set(paths(other)) == {"/robots.txt", "/home", "/a"}
    assert statistics.requests_finished == 2
    assert statistics.skipped_by_reason == {"scope": 1}


async def test_a_link_may_not_be_redirected_out_of_the_scope(site: Site, other: Site) -> None:
    site.add_page("/", links=["/a", "/b"])
    site.add_page("/a", lambda request: moved(other.url("/")))
    site.add_page("/b", lambda request: moved("/secret/b"))
    other.add_page("/")
    crawler = Titles(start_urls=[site.url("/")], scope="same-host", exclude="**/secret/**")
    statistics = await crawler.crawl()
    assert paths(other) == []
    assert site.hits("/secret/b") == 0
    assert (statistics.requests_finished, statistics.requests_failed) == (1, 2)
    assert kinds(crawler) == {"RedirectError": 2}


async def test_each_hop_is_checked_against_the_robots_txt_of_its_own_origin(
    site: Site, other: Site
) -> None:
    text = {"Content-Type": "text/plain"}
    site.add_page("/robots.txt", b"User-agent: *\nDisallow: /own\n", headers=text)
    other.add_page("/robots.txt", b"User-agent: *\nDisallow: /theirs\n", headers=text)
    targets = {
        "/1": "/own",
        "/2": other.url("/theirs"),
        "/3": other.url("/own"),
        "/4": "/5",
        "/5": other.url("/theirs/too"),
    }
    for path, target in targets.items():
        site.add_page(path, partial(moving, target))
    other.add_page("/own")
    crawler = Titles(start_urls=[site.url(path) for path in ("/1", "/2", "/3", "/4")])
    statistics = await crawler.crawl()
    assert paths(other).count("/robots.txt") == 1
    assert set(paths(other)) == {"/robots.txt", "/own"}
    assert site.hits("/own") == 0
    assert (statistics.requests_finished, statistics.requests_failed) == (1, 3)
    messages = [error.message for error in statistics.errors]
    assert all("robots: Disallow: " in message for message in messages)


async def test_redirects_to_another_host_keep_its_crawl_delay(site: Site, other: Site) -> None:
    delay = b"User-agent: *\nCrawl-delay: 0.2\n"
    other.add_page("/robots.txt", delay, headers={"Content-Type": "text/plain"})
    for number in range(4):
        site.add_page(f"/{number}", partial(moving, other.url(f"/{number}")))
        other.add_page(f"/{number}")
    took = Stopwatch()
    statistics = await Titles(start_urls=[site.url(f"/{n}") for n in range(4)]).crawl()
    assert statistics.requests_finished == 4
    pages = [hit.at for hit in other.requests if hit.path != "/robots.txt"]
    assert_apart(pages, 0.2, took)


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/", "http://127.0.0.1:22/", "javascript:x()"]
)
async def test_a_redirect_to_what_is_no_web_page_is_a_failure_of_its_own_page_only(
    site: Site, target: str
) -> None:
    site.add_page("/", links=["/a", "/b"])
    site.add_page("/a", lambda request: moved(target))
    site.add_page("/b")
    crawler = Titles(start_urls=[site.url("/")])
    statistics = await crawler.crawl()
    assert (statistics.requests_finished, statistics.requests_failed) == (2, 1)
    assert kinds(crawler) == {"RedirectError": 1}


# -- proxies --------------------------------------------------------------------------------------


@contextmanager
def a_shop(site: Site, pages: int = 12) -> Iterator[dict[str, int]]:
    """What is behind the proxies; where they have to lead."""
    site.add_page("/", links=[f"/{number}" for number in range(pages)])
    for number in range(pages):
        site.add_page(f"/{number}")
    yield {"shop.example:80": site.port}


async def test_proxies_that_fail_in_every_way_cost_no_page_and_no_retry(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And nowhere is a password: not in the log, nor in what was saved."""
    auth = ("me", "secret")
    caplog.set_level(logging.DEBUG)
    with a_shop(site) as routes:
        async with (
            HttpProxy(routes=routes, auth=auth) as good,
            Socks5Proxy(routes=routes, auth=auth) as hanging_up,
            HttpProxy(routes=routes, auth=auth) as refusing,
            Socks5Proxy(routes=routes, auth=auth) as broken,
            Socks5Proxy(routes=routes, auth=auth) as sound,
        ):
            hanging_up.fault, refusing.fault, broken.fault = "reset", "407 No", "1"
            urls = [DEAD, hanging_up.url, refusing.url, broken.url, good.url, sound.url]
            run_at = tmp_path / "run"
            crawler = Titles(proxies=urls, store=run_at, concurrency_per_host=4)
            statistics = await crawler.crawl()
    assert (statistics.requests_finished, statistics.requests_failed) == (13, 0)
    assert statistics.requests_retried == 0
    assert statistics.items_saved == 13
    assert site.hits() == 13
    assert set(kinds(crawler)) == {"ProxyError"}
    assert good.hits or sound.hits
    assert "secret" not in caplog.text
    for path in run_at.rglob("*"):
        assert not path.is_file() or b"secret" not in path.read_bytes(), path


async def test_a_proxy_that_breaks_off_what_it_has_begun_costs_one_retry_and_no_page(
    site: Site,
) -> None:
    """The first one may as well be the site's fault."""
    with a_shop(site) as routes:
        async with HttpProxy(routes=routes) as good, HttpProxy(routes=routes) as breaking:
            breaking.fault = "later"
            crawler = Titles(
                proxies=[breaking.url, good.url], concurrency_per_host=4, max_retries=3
            )
            statistics = await crawler.crawl()
    assert (statistics.requests_finished, statistics.requests_failed) == (13, 0)
    assert statistics.requests_retried == 1
    assert kinds(crawler) == {"NetworkError": 1}


async def test_a_site_that_breaks_off_sends_no_proxy_to_rest(site: Site) -> None:
    async def broken(request: web.BaseRequest) -> str:
        assert request.transport is not None
        request.transport.abort()
        return ""

    with a_shop(site, 4) as routes:
        site.add_page("/0", broken)
        async with HttpProxy(routes=routes) as first, HttpProxy(routes=routes) as second:
            crawler = Titles(proxies=[first.url, second.url], concurrency_per_host=1, max_retries=3)
            statistics = await crawler.crawl()
    assert (statistics.requests_finished, statistics.requests_failed) == (4, 1)
    assert statistics.requests_retried == 3
    assert set(kinds(crawler)) == {"NetworkError"}


async def test_a_proxy_that_comes_back_is_used_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxies_module, "FIRST_REST", 0.1)
    with a_shop(site, 30) as routes:
        async with HttpProxy(routes=routes) as first, HttpProxy(routes=routes) as second:
            first.fault = "407 Proxy Authentication Required"

            class Watching(Titles):
                def parse(self, page: Page) -> None:
                    super().parse(page)
                    if len(second.hits) > 3:
                        first.fault = None

            crawler = Watching(proxies=[first.url, second.url], delay=0.03)
            statistics = await crawler.crawl()
    assert (statistics.requests_finished, statistics.requests_failed) == (31, 0)
    assert first.hits
    assert second.hits


async def test_where_no_proxy_ever_works_the_crawl_ends_and_says_so(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxies_module, "FIRST_REST", 0.02)
    crawler = Titles(proxies=[DEAD], max_pauses=2, max_retries=1)
    statistics = await crawler.crawl()
    assert (statistics.requests_failed, statistics.requests_retried) == (1, 1)
    assert statistics.pending == 0
    # Two pauses that are free and a third that is not, both times.
    assert kinds(crawler) == {"ProxyError": 6}
    assert "secret" not in statistics.errors[0].message


async def test_only_what_matches_the_pattern_goes_through_the_proxy(
    site: Site, other: Site
) -> None:
    site.add_page("/", links=[other.url("/direct")])
    other.add_page("/direct")
    async with HttpProxy(routes={"shop.example:80": site.port}) as proxy:
        crawler = Titles(proxies=by_proxy(proxy), allow_private=True)
        statistics = await crawler.crawl()
        hits = list(proxy.hits)
    assert statistics.requests_finished == 2
    assert hits == [f"GET {SHOP}robots.txt", f"GET {SHOP}"]
    assert other.hits("/direct") == 1


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
async def test_a_crawl_goes_through_a_socks_proxy(site: Site, scheme: str) -> None:
    """With socks5h the proxy looks names up; an address is an address for both."""
    with a_shop(site) as routes:
        async with Socks5Proxy(routes=routes, auth=("me", "secret")) as proxy:
            url = proxy.url.replace("socks5", scheme)
            start = SHOP if scheme == "socks5h" else site.url("/")
            crawler = Titles(start_urls=[start], proxies=[url])
            statistics = await crawler.crawl()
            hits, users = set(proxy.hits), set(proxy.users)
    assert (statistics.requests_finished, statistics.requests_failed) == (13, 0)
    place = "shop.example:80" if scheme == "socks5h" else f"127.0.0.1:{site.port}"
    assert hits == {f"CONNECT {place}"}
    assert users == {"me"}


# -- users and passwords --------------------------------------------------------------------------


def guarded(site: Site, path: str, **page: Any) -> None:
    """A page for those who give a user and a password."""
    expected = "Basic " + base64.b64encode(b"me:secret").decode()
    title = f"<h1>{path}</h1>" + "".join(f'<a href="{link}">.</a>' for link in page["links"])

    def answer(request: web.BaseRequest) -> web.Response:
        if request.headers.get("Authorization") != expected:
            realm = {"WWW-Authenticate": 'Basic realm="staff"'}
            return web.Response(status=401, headers=realm)
        return web.Response(text=title, content_type="text/html")

    site.add_page(path, answer)


async def test_a_password_is_sent_to_its_own_origin_and_nowhere_else(
    site: Site, other: Site, tmp_path: Path
) -> None:
    """Not to another port, by a link or by a redirect, nor to the same address by another name."""
    by_name = f"http://localhost:{site.port}"
    links = ["/in", other.url("/a"), "/moved", f"{by_name}/public", f"{by_name}/in"]
    guarded(site, "/", links=links)
    guarded(site, "/in", links=[])
    site.add_page("/public")
    site.add_page("/moved", lambda request: moved(other.url("/b")))
    guarded(other, "/a", links=[])
    other.add_page("/b")
    auth = {site.url("").rstrip("/"): ("me", "secret")}
    run_at = tmp_path / "run"
    crawler = Titles(start_urls=[site.url("/")], auth=auth, store=run_at)
    statistics = await crawler.crawl()
    assert statistics.requests_finished == 4  # /, /in, /b and the public page
    assert statistics.requests_failed == 2  # /a, and /in by the other name
    assert not any("Authorization" in hit.headers for hit in other.requests)
    strange = [hit for hit in site.requests if hit.headers["Host"].startswith("localhost")]
    assert {hit.path for hit in strange} == {"/robots.txt", "/public", "/in"}
    assert not any("Authorization" in hit.headers for hit in strange)
    for path in run_at.rglob("*"):
        assert not path.is_file() or b"secret" not in path.read_bytes(), path

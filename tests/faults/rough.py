"""A site with every kind of trouble, and the crawl of it that the checks interrupt.

What goes wrong follows from the page and from how often its request was tried again, which the
crawl tells the site. It never follows from what the site was asked before. So a crawl that is
killed and resumed has to end with what an undisturbed one ends with, to the last retry.

``python -m tests.faults.rough`` serves the site.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from random import Random
from typing import Any
from urllib.parse import parse_qs, urlsplit

from aiohttp import web

from crawlkit import Checkpoint, Crawler, Page, Request, Response, Saved, Session
from crawlkit.discovery.sitemaps import Entry
from crawlkit.fetching import Fetcher
from crawlkit.testing import Site, expected_items, generated_site

PAGES = 1500
MEMBERS = 40
ORDERS = 24
"""Pages that are all alike, and more of them than their budget allows."""
ORDER_BUDGET = 9
DAY_BUDGET = 5
"""Pages of a calendar without end, each of which leads to the next."""
TRY = "X-Try"
CONTROL = "/-/"
BUSY = "localhost"
"""The same site under another name, where it is short of breath: see `RoughSite`."""
BUSY_PAGES = 4
BUSY_DELAY = 0.2
BUSY_PAUSE = 2
"""Seconds that it asks for, between two requests and after one too many."""
ARRIVED = "?arrived"
"""Ends the URL that a redirect leads to. The log leaves it out: it was not asked for by itself."""


# -- what goes wrong ------------------------------------------------------------------------------


def status_of(number: int, attempt: int) -> int:
    """What the site answers to the request for a page that was tried again `attempt` times."""
    if number % 125 == 31:
        return 404
    if number % 250 == 57 or (number % 50 == 7 and attempt < 1):
        return 500
    return 502 if number % 100 == 13 and attempt < 2 else 200


def is_handler_broken(number: int, attempt: int) -> bool:
    """Whether the handler of a page raises, after half of its work."""
    return number % 300 == 17 or (number % 60 == 11 and attempt < 1)


def is_lost(number: int) -> bool:
    """Whether a page fails for good."""
    last = RoughCrawl.max_retries
    return status_of(number, last) != 200 or is_handler_broken(number, last)


def delay_of(path: str, slow: tuple[float, float] | None = None) -> float:
    """Seconds until the site answers; by default up to a quarter, and only for some pages."""
    if path.endswith((".txt", ".xml")):
        return 0.0
    share = Random(path.removesuffix(ARRIVED)).random()
    if slow is None:
        return share * 5 if share < 0.05 else 0.0
    fastest, slowest = slow
    return fastest + (slowest - fastest) * share**2


def items_of(pages: int) -> Iterator[str]:
    """The items of an undisturbed crawl, as JSON, from what is known of the site."""
    fields = list(expected_items(pages))
    for number in range(pages):
        if not is_lost(number):
            paths = [_path(number)]
            if number and (number - 1) % 40 == 0:
                paths.append(f"/old/{number}")
            for path in paths:
                yield _json({"path": path, **fields[number]})
                if number % 10 == 0:
                    yield _json({"offer": number, "of": path})
    for member in range(MEMBERS):
        yield _json({"member": f"/member/{member}"})
    for lone in _lone(pages):
        yield _json({"lone": lone})
    for day in range(DAY_BUDGET):
        yield _json({"lone": f"/day/{day}"})
    yield from [_json({"order": True})] * ORDER_BUDGET


def busy_items() -> Iterator[str]:
    """The items of the other host, where the crawl begins there, too."""
    for number in range(BUSY_PAGES):
        yield _json({"lone": f"/busy/{number}"})


def _lone(pages: int) -> Iterator[str]:
    """Pages that nothing but the sitemap leads to."""
    return (f"/lone/{number}" for number in range(0, pages, 15))


def _sitemap(pages: int) -> Iterator[str]:
    """All that the sitemap lists: what is linked to, what is not, and what is left out."""
    yield from _lone(pages)
    for number in range(pages):
        if number % 3 == 0:
            yield _path(number)
        if number % 4 == 0:
            yield f"/secret/{number}"
        if number % 80 == 0:
            yield f"/private/{number}"


def _path(number: int) -> str:
    return f"/page/{number}" if number else "/"


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True)


# -- the site -------------------------------------------------------------------------------------


class RoughSite(Site):
    """The generated site with failures, redirects, a login, a robots.txt, sitemaps and slow pages.

    A crawl says which one it is by its user agent. Of each the site keeps what it was asked, and
    tells it under ``/-/``, to those who check.

    As `BUSY` it has a few pages that are asked for with too little patience: the second one is
    refused once with a 429. As that costs no retry, it follows from nothing but what was asked
    before; so those refusals are kept apart.

    Args:
        pages: How many pages there are, besides those behind the login.
        slow: Seconds that the fastest and the slowest page take, see `delay_of`.
        host: The address to listen on.
    """

    def __init__(
        self,
        pages: int = PAGES,
        slow: tuple[float, float] | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        super().__init__(host=host, log=False)
        self._pages_count = pages
        self._slow = slow
        self._plain = generated_site(pages, size=6000)
        self._asked: defaultdict[str, list[tuple[float, str, int]]] = defaultdict(list)
        self._refused: defaultdict[str, list[float]] = defaultdict(list)
        self._hurried: set[str] = set()

    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.raw_path
        if path.startswith(CONTROL):
            return self._control(path.removeprefix(CONTROL))
        run = request.headers["User-Agent"]
        attempt = int(request.headers[TRY])
        if request.host.startswith(BUSY):
            if path == "/busy/1" and not self._refused[run]:
                self._refused[run].append(time.monotonic())
                return web.Response(status=429, headers={"Retry-After": str(BUSY_PAUSE)})
            self._asked[run].append((time.monotonic(), f"//{BUSY}{path}", attempt))
            return self._busy(path)
        if not path.endswith(ARRIVED):
            self._asked[run].append((time.monotonic(), path, attempt))
        if run not in self._hurried:
            await asyncio.sleep(delay_of(path, self._slow))
        if path.startswith("/old/"):
            target = f"/page/{path.removeprefix('/old/')}{ARRIVED}"
            return web.Response(status=302, headers={"Location": target})
        if path == "/login":
            return self._html("login", headers={"Set-Cookie": "member=yes; Path=/"})
        if path.startswith("/member/"):
            is_member = request.cookies.get("member") == "yes"
            return self._html(path, status=200 if is_member else 403)
        if path.endswith((".txt", ".xml")):
            return self._text(path, attempt)
        if path.startswith(("/lone/", "/day/", "/order/")):
            kind, number = path[1:].split("/")
            # What fails among pages that are alike would use up the budget of others.
            is_trouble = kind != "order" and int(number) % 4 == 3 and attempt < 1
            link = f"/day/{int(number) + 1}" if kind == "day" else None
            return self._html(path, status=500 if is_trouble else 200, link=link)
        return await self._page(path.removesuffix(ARRIVED), attempt, request)

    def _busy(self, path: str) -> web.Response:
        if path == "/robots.txt":
            return web.Response(text=f"User-agent: *\nCrawl-delay: {BUSY_DELAY}\n")
        number = int(path.removeprefix("/busy/"))
        return self._html(path, link=f"/busy/{number + 1}" if number + 1 < BUSY_PAGES else None)

    def _text(self, path: str, attempt: int) -> web.Response:
        """robots.txt, an index of sitemaps, and these."""
        if path == "/robots.txt":
            return web.Response(
                text="User-agent: *\nDisallow: /secret/\nCrawl-delay: 0.001\nSitemap: /index.xml\n"
            )
        urls = list(_sitemap(self._pages_count))
        if path == "/index.xml":
            kind, urls = "sitemap", ["/0.xml", "/1.xml"]
        else:
            # The second one is small, and not to be had at once.
            kind, urls = "url", urls[:-20] if path == "/0.xml" else urls[-20:]
        if path == "/1.xml" and attempt < 1:
            return self._html("trouble", status=500)
        place = "".join(f"<{kind}><loc>{self.url(url)}</loc></{kind}>" for url in urls)
        space = 'xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"'
        name = "sitemapindex" if kind == "sitemap" else "urlset"
        text = f'<?xml version="1.0"?><{name} {space}>{place}</{name}>'
        return web.Response(text=text, content_type="application/xml")

    async def _page(self, path: str, attempt: int, request: web.BaseRequest) -> web.StreamResponse:
        number = int(path.removeprefix("/page/") or 0) if path != "/" else 0
        if (status := status_of(number, attempt)) != 200:
            return self._html("trouble", status=status)
        response = await self._plain.respond(request.clone(rel_url=path))
        assert isinstance(response, web.Response)
        assert isinstance(response.body, bytes)
        extra = "".join(f'<a class="more" href="{link}">more</a>' for link in self._more(number))
        response.body = response.body.replace(b"</body>", extra.encode() + b"</body>")
        if "visitor" not in request.cookies:
            response.set_cookie("visitor", f"{len(self._asked)}-{number}")
        return response

    def _more(self, number: int) -> Iterator[str]:
        if number == 0:
            yield from ("/login", "/secret/0")
        if number % 40 == 0:
            if number + 1 < self._pages_count:
                yield f"/old/{number + 1}"
            yield f"/private/{number}"
            yield f"http://elsewhere.example/{number}"

    def _html(
        self,
        title: str,
        *,
        status: int = 200,
        headers: dict[str, str] | None = None,
        link: str | None = None,
    ) -> web.Response:
        html = f"<!doctype html><title>{title}</title><h1>{title}</h1>"
        html += f'<a href="{link}">next</a>' if link else ""
        return web.Response(text=html, content_type="text/html", status=status, headers=headers)

    def _control(self, wish: str) -> web.Response:
        """For those who check: what a crawl has asked, or to answer it without delays from now."""
        parts = urlsplit(wish)
        run = parse_qs(parts.query)["run"][0]
        if parts.path == "hurry":
            self._hurried.add(run)
        asked = self._asked[run]
        if parts.path == "refused":
            return web.json_response(self._refused[run])
        if parts.path == "count":
            return web.json_response([len(asked), len({entry[1:] for entry in asked})])
        return web.json_response(asked)


# -- the crawl ------------------------------------------------------------------------------------


class Tally:
    """A user's own part: pages and prices by section. It also notes when it was collected."""

    def __init__(self) -> None:
        self.pages = Counter[str]()
        self.cents = 0

    def add(self, section: str, cents: int) -> None:
        self.pages[section] += 1
        self.cents += cents

    def restore(self, saved: Saved) -> None:
        known = saved.load({"pages": {}, "cents": 0})
        self.pages.update(known["pages"])
        self.cents = known["cents"]

    def collect(self, checkpoint: Checkpoint) -> None:
        # The monotonic clock is the same in all processes of a machine. So the check knows to
        # which moment a killed crawl goes back.
        checkpoint.save({"pages": self.pages, "cents": self.cents, "at": time.monotonic()})


class TellsTry:
    """A fetcher that tells the site how often a request was tried again."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher
        self.open, self.close = fetcher.open, fetcher.close

    async def fetch(self, request: Request, session: Session, **given: Any) -> Response:
        headers = {**request.headers, TRY: str(request.retry_count)}
        return await self._fetcher.fetch(request.replace(headers=headers), session, **given)


class RoughCrawl(Crawler):
    """Uses everything that a checkpoint has to hold together."""

    name = "rough"
    concurrency = 16
    concurrency_per_host = 16
    max_retries = 2
    exclude = ("**/private/**",)
    sitemaps_from_robots = True
    budgets = {"**/order/*": ORDER_BUDGET, "**/day/*": DAY_BUDGET}

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.tally = self.persist("tally", Tally())
        self.fetcher = TellsTry(self.fetcher)

    async def parse(self, page: Page) -> None:
        if "/busy/" in page.url:
            await self.parse_lone(page)
            return
        fields = {name: page.css(f"{name}::text").get("") for name in ("h1", ".price", ".sku")}
        number = int(fields[".sku"].removeprefix("SKU-"))
        path = urlsplit(page.request.url).path
        page.save(
            {
                "path": path,
                "title": fields["h1"],
                "price": fields[".price"],
                "sku": fields[".sku"],
            }
        )
        page.update_state(lambda state: state.update(pages=state.get("pages", 0) + 1))
        section, cents = f"section {number % 7}", int(fields[".price"].replace(".", ""))
        page.update(lambda: self.tally.add(section, cents))
        page.follow("ul.links a")
        if is_handler_broken(number, page.request.retry_count):
            raise ValueError(f"page {number} is not what it should be")
        if number % 10 == 0:
            page.save({"offer": number, "of": path})
        if number % 100 == 0:
            await self.set_value(f"page/{number}", {"title": fields["h1"], "cents": cents})
        if number % 15 == 0:
            # A checkpoint may come between the response and the end of its handler.
            await asyncio.sleep(0.02)
        if number == 0:
            page.follow("/login", handler=self.parse_login, session="member")
            page.follow("/day/0", handler=self.parse_lone)
            for order in range(ORDERS):
                page.follow(f"/order/{order}", handler=self.parse_order)
        page.follow("a.more")

    def sitemap_request(self, entry: Entry) -> Request:
        is_lone = urlsplit(entry.url).path.startswith("/lone/")
        return Request(entry.url, handler="parse_lone" if is_lone else "parse")

    async def parse_lone(self, page: Page) -> None:
        page.save({"lone": urlsplit(page.request.url).path})
        page.follow("a", handler=self.parse_lone)

    async def parse_order(self, page: Page) -> None:
        page.save({"order": True})

    async def parse_login(self, page: Page) -> None:
        for member in range(MEMBERS):
            # They come last: what the login has brought must last until then.
            page.follow(
                f"/member/{member}", handler=self.parse_member, session="member", priority=-1
            )

    async def parse_member(self, page: Page) -> None:
        page.save({"member": urlsplit(page.url).path})
        page.update_state(lambda state: state.update(members=state.get("members", 0) + 1))


class Hanging(RoughCrawl):
    """A listener of `migrating` does not come back."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.on("migrating", self.hang)

    async def hang(self) -> None:
        await asyncio.sleep(3600)


class Stubborn(Hanging):
    """It does not even let itself be cancelled."""

    async def hang(self) -> None:
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                continue


def main() -> None:
    """Serve the site in this process."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.rough")
    parser.add_argument("--pages", type=int, default=PAGES)
    parser.add_argument("--slow", type=float, nargs=2, metavar="SECONDS")
    parser.add_argument("--host", default="127.0.0.1")
    given = parser.parse_args()
    asyncio.run(RoughSite(given.pages, given.slow and tuple(given.slow), given.host).serve())


if __name__ == "__main__":
    main()

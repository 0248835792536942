"""A site on many hosts, and the crawl of it that several workers share.

What goes wrong follows from the page and from how often its request was tried again, as in
`rough.py`. Beside that the site watches how it is asked: how many requests each host has at once,
how far the starts at a host lie apart that asks for that, and which process was it.

``python -m tests.faults.hosts`` serves it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

from aiohttp import web

from crawlkit import Checkpoint, Crawler, Page, Request, Response, Saved, Session
from crawlkit.workers.merging import merge

from .rough import CONTROL, TRY, TellsTry

PAGES = 1200
HOSTS = 12
LIMIT = 4
"""Requests that a host may have at once."""
PACED, PACED_PAGES = 6, 20
"""One host in so many asks for a delay between two requests, and has so few pages."""
PACE = 0.15
HURRIED_PACE = 0.01
"""The delay that such a host asks of a crawl that need not wait."""
WORKER = "X-Worker"
BUDGET = 7
"""Pages of one kind, of which there are more, on all hosts together."""
TICK, RECENT = 0.01, 50
"""Seconds between two looks at whether the site itself is late, and how many of them count."""
LATE = 0.05
"""Seconds after which the end of a connection has come to the site."""


def host_of(number: int, hosts: int, paced_pages: int = PACED_PAGES) -> int:
    """The host of a page: the paced ones have few, and the others share the rest evenly."""
    host, row = number % hosts, number // hosts
    if host % PACED or row < paced_pages:
        return host
    plain = [other for other in range(hosts) if other % PACED]
    return plain[(row * (hosts - len(plain)) + host // PACED) % len(plain)]


def status_of(number: int, attempt: int) -> int:
    """What is answered to the request for a page that was tried again `attempt` times."""
    if number % 125 == 31:
        return 404
    if number % 250 == 57 or (number % 50 == 7 and attempt < 1):
        return 500
    return 200


def is_handler_broken(number: int, attempt: int) -> bool:
    """Whether the handler of a page raises, after half of its work."""
    return number % 300 == 17 or (number % 60 == 11 and attempt < 1)


def links_of(number: int, pages: int) -> Iterator[int]:
    """Where a page leads: to its children in a tree, and anywhere."""
    yield from range(8 * number + 1, min(8 * number + 9, pages))
    for i in range(6):
        yield (number * 7919 + i * 104729 + 13) % pages


class HostsSite:
    """Serves the pages, on addresses of loopback that differ, and keeps a log.

    Args:
        pages: How many.
        hosts: On how many hosts.
        slow: Seconds until an answer, at least and at most.
        pace: Seconds between two requests, as the paced hosts ask for.
        paced_pages: How many pages these have.
    """

    def __init__(
        self,
        pages: int,
        hosts: int,
        slow: tuple[float, float],
        pace: float = PACE,
        paced_pages: int = PACED_PAGES,
    ) -> None:
        self._pages = pages
        self._hosts = hosts
        self._slow = slow
        self._pace = pace
        self._paced_pages = paced_pages
        self._port = 0
        self._hurried: set[str] = set()
        self._active: defaultdict[str, dict[int, web.BaseRequest]] = defaultdict(dict)
        self._most: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._crowds: defaultdict[str, list[tuple[float, str, list[int]]]] = defaultdict(list)
        self._starts: defaultdict[str, defaultdict[str, list[tuple[float, float, str, int]]]] = (
            defaultdict(lambda: defaultdict(list))
        )
        self._late = 0.0
        self._checks: set[asyncio.Task[None]] = set()

    def address(self, host: int) -> str:
        return f"127.0.3.{host + 1}"

    def url(self, number: int) -> str:
        host = self.address(host_of(number, self._hosts, self._paced_pages))
        return f"http://{host}:{self._port}{f'/page/{number}' if number else '/'}"

    async def serve(self) -> None:
        """Print the URL, and answer until the process is killed."""
        server = web.ServerRunner(web.Server(self._respond))
        await server.setup()
        for host in range(self._hosts):
            site = web.TCPSite(server, self.address(host), self._port)
            await site.start()
            if not self._port:
                assert site._server is not None
                self._port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        print(self.url(0), flush=True)
        await self._watch_loop()

    async def _watch_loop(self) -> None:
        """Note by how much this process itself was held up, of late."""
        lates = [0.0] * RECENT
        while True:
            due = time.monotonic() + TICK
            await asyncio.sleep(TICK)
            lates = [*lates[1:], time.monotonic() - due]
            self._late = max(lates)

    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.raw_path
        if path.startswith(CONTROL):
            return self._control(path.removeprefix(CONTROL))
        run, host = request.headers["User-Agent"], request.host
        key = f"{run} {host}"
        active = self._active[key]
        active[id(request)] = request
        if len(active) > LIMIT:
            check = asyncio.create_task(self._look_again(run, key))
            self._checks.add(check)
            check.add_done_callback(self._checks.discard)
        else:
            self._most[run][host] = max(self._most[run][host], len(active))
        if path != "/robots.txt":
            start = (time.monotonic(), self._late, path, _worker(request))
            self._starts[run][host].append(start)
        try:
            return await self._answer(run, path, host, int(request.headers.get(TRY, 0)))
        finally:
            del active[id(request)]

    async def _look_again(self, run: str, key: str) -> None:
        """A worker that was killed has asked for nothing, once that has come to the site."""
        requests = tuple(self._active[key].values())
        await asyncio.sleep(LATE)
        there = [r for r in requests if r.transport is not None and not r.transport.is_closing()]
        host = key.partition(" ")[2]
        self._most[run][host] = max(self._most[run][host], len(there))
        if len(there) > LIMIT:
            self._crowds[run].append((time.monotonic(), host, [_worker(r) for r in there]))

    async def _answer(self, run: str, path: str, host: str, attempt: int) -> web.Response:
        if path == "/robots.txt":
            pace = HURRIED_PACE if run in self._hurried else self._pace
            delay = f"Crawl-delay: {pace}\n" if _is_paced(host) else ""
            return web.Response(text=f"User-agent: *\n{delay}Disallow: /secret/\n")
        number = int(path.rpartition("/")[2] or 0)
        if run not in self._hurried:
            least, most = self._slow
            await asyncio.sleep(least + (most - least) * (number * 7919 % 100 / 100) ** 3)
        if path.startswith("/order/"):
            return self._html("order", [])
        if (status := status_of(number, attempt)) != 200:
            return self._html("trouble", [], status=status)
        links = [self.url(target) for target in links_of(number, self._pages)]
        if number % 20 == 0:
            base = self.url(number).rpartition("/page/")[0].removesuffix("/")
            links += [f"{base}/secret/{number}", f"http://elsewhere.example/{number}"]
        return self._html(str(number), links)

    def _html(self, title: str, links: list[str], *, status: int = 200) -> web.Response:
        anchors = "".join(f'<a href="{link}">link</a>' for link in links)
        html = f"<!doctype html><title>{title}</title><h1>{title}</h1>{anchors}"
        return web.Response(text=html, content_type="text/html", status=status)

    def _control(self, wish: str) -> web.Response:
        """For those who check: how a crawl has asked, or to let it wait for nothing from now on."""
        parts = urlsplit(wish)
        run = parse_qs(parts.query)["run"][0]
        if parts.path == "hurry":
            self._hurried.add(run)
        starts = self._starts[run]
        return web.json_response(
            {
                "requests": sum(map(len, starts.values())),
                "most": self._most[run],
                # When a host had more at once than it may, and of which processes.
                "crowds": self._crowds[run],
                "pace": HURRIED_PACE if run in self._hurried else self._pace,
                # When each paced host was asked, how late the site itself was then, and by whom.
                "starts": {host: times for host, times in starts.items() if _is_paced(host)},
            }
        )


def _is_paced(host: str) -> bool:
    return (int(host.split(":")[0].rpartition(".")[2]) - 1) % PACED == 0


def _worker(request: web.BaseRequest) -> int:
    """The process that has asked."""
    return int(request.headers.get(WORKER, 0))


# -- the crawl ------------------------------------------------------------------------------------


class Tally:
    """A user's own part that several workers change."""

    merge = staticmethod(merge)

    def __init__(self) -> None:
        self.pages = Counter[str]()

    def restore(self, saved: Saved) -> None:
        self.pages = Counter(saved.load({"pages": {}})["pages"])

    def collect(self, checkpoint: Checkpoint) -> None:
        checkpoint.save({"pages": self.pages})


class TellsWho(TellsTry):
    """A fetcher that also tells the site which process asks."""

    async def fetch(self, request: Request, session: Session, **given: Any) -> Response:
        headers = {**request.headers, WORKER: str(os.getpid())}
        return await super().fetch(request.replace(headers=headers), session, **given)


class HostsCrawl(Crawler):
    """Uses what several workers have to bring together."""

    name = "hosts"
    concurrency = 16
    concurrency_per_host = LIMIT
    max_retries = 2
    scope = "all"
    exclude = ("http://elsewhere.example/**",)
    budgets = {"**/order/*": BUDGET}

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.tally = self.persist("tally", Tally())
        self.fetcher = TellsWho(self.fetcher)

    async def parse(self, page: Page) -> None:
        number = int(page.css("h1::text").get() or 0)
        page.save({"page": number})
        page.update_state(lambda state: state.update(pages=state.get("pages", 0) + 1))
        page.update(lambda: self.tally.pages.update([f"section {number % 7}"]))
        page.follow("a")
        if is_handler_broken(number, page.request.retry_count):
            raise ValueError(f"page {number} is not what it should be")
        if number % 10 == 0:
            page.save({"offer": number})
            page.follow(f"/order/{number}", handler=self.parse_order)
        if number % 100 == 0:
            await self.set_value(f"page/{number}", number)
        if number % 15 == 0:
            # A checkpoint may come between the response and the end of its handler.
            await asyncio.sleep(0.02)

    async def parse_order(self, page: Page) -> None:
        page.save({"order": True})


def main() -> None:
    """Serve the site in this process."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.hosts")
    parser.add_argument("--pages", type=int, default=PAGES)
    parser.add_argument("--hosts", type=int, default=HOSTS)
    parser.add_argument("--slow", type=float, nargs=2, default=(0.0, 0.1), metavar="SECONDS")
    parser.add_argument("--pace", type=float, default=PACE, metavar="SECONDS")
    parser.add_argument("--paced-pages", type=int, default=PACED_PAGES)
    given = parser.parse_args()
    site = HostsSite(given.pages, given.hosts, tuple(given.slow), given.pace, given.paced_pages)
    asyncio.run(site.serve())


if __name__ == "__main__":
    main()

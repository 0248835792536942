"""Site: a small web site on loopback, for tests that want a real server and no network."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from html import escape
from types import TracebackType
from typing import Self

from aiohttp import web

from ..listening import listen
from ..loopthread import LoopThread

PATIENCE = 10.0
"""Seconds that the thread has to start the site, and to stop it."""

Content = str | bytes | web.StreamResponse
"""What a page consists of: HTML, bytes, or a response with all that aiohttp can say."""

Handler = Callable[[web.BaseRequest], Content | Awaitable[Content]]
"""A function, plain or async, that makes the content of a page from its request."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One request as the site saw it.

    Attributes:
        at: Seconds on the monotonic clock.
        method: HTTP method.
        path: Path and query, as they were sent.
        headers: Headers by name, of which upper and lower case are the same.
        open: How many requests were being answered at that moment, this one included.
    """

    at: float
    method: str
    path: str
    headers: Mapping[str, str]
    open: int


@dataclass(frozen=True, slots=True)
class _Page:
    content: Content | Handler
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    fail_times: int = 0
    fail_status: int = 500
    retry_after: int | None = None


class Site:
    """A web site of a few pages on loopback.

    In a test that is async, the site runs in the test's own event loop::

        async with Site() as site:
            site.add_page("/", links=["/a", "/b"])
            await Crawl(start_urls=[site.url("/")]).crawl()

    With a plain ``with`` it runs in a thread of its own, for tests that are not async and for
    crawls in other processes. Pages can be added before and while it runs.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one, which `port` then names.
        log: Whether `requests` keeps every request; `hits` counts them in any case.

    Attributes:
        port: The port that it listens on, the same when it is started again.
        requests: Every request so far, in the order in which they came.
        open: How many requests are being answered right now.
    """

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, log: bool = True) -> None:
        self.host = host
        self.port = port
        self.requests: list[Hit] = []
        self.open = 0
        self._log = log
        self._pages: dict[str, _Page] = {}
        self._hits: Counter[str] = Counter()
        self._runner: web.ServerRunner | None = None
        self._thread: LoopThread | None = None

    # -- pages --------------------------------------------------------------------------------

    def add_page(
        self,
        path: str,
        content: Content | Handler | None = None,
        *,
        links: Iterable[str] = (),
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        delay: float = 0.0,
        fail_times: int = 0,
        fail_status: int = 500,
        retry_after: int | None = None,
    ) -> None:
        """Serve a page under `path`, in place of the one that was there.

        Args:
            path: Path and query, as they are in the URL.
            content: HTML or bytes, or a function that gets the request and makes them. Without
                any, the page has its path as its title.
            links: Where the page links to, where no content is given.
            status: HTTP status.
            headers: Headers of the response. HTML is the content type where they name none.
            delay: Seconds until the answer.
            fail_times: How many requests get `fail_status` before the page works.
            fail_status: The status of such a failure.
            retry_after: Seconds in its ``Retry-After`` header.
        """
        if content is None:
            content = simple_page(path, links)
        self._pages[path] = _Page(
            content=content,
            status=status,
            headers=dict(headers or {}),
            delay=delay,
            fail_times=fail_times,
            fail_status=fail_status,
            retry_after=retry_after,
        )

    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request. A site whose pages are computed overrides this."""
        path = request.raw_path
        page = self._pages.get(path)
        if page is None:
            return html_response(simple_page("Not found", ()), 404)
        failing = self._hits[path] <= page.fail_times
        if page.delay:
            await asyncio.sleep(page.delay)
        if failing:
            wait = {} if page.retry_after is None else {"Retry-After": str(page.retry_after)}
            return html_response(simple_page("Please try again", ()), page.fail_status, wait)
        content = page.content
        if callable(content):
            made = content(request)
            content = await made if inspect.isawaitable(made) else made
        if isinstance(content, web.StreamResponse):
            return content
        return html_response(content, page.status, page.headers)

    # -- what happened ------------------------------------------------------------------------

    def url(self, path: str = "/") -> str:
        """The absolute URL of `path`.

        Raises:
            RuntimeError: The site was not started, so it has none.
        """
        if not self.port:
            raise RuntimeError(
                "the site has no URL before it is started: use 'with Site() as site'"
            )
        return f"http://{self.host}:{self.port}{path}"

    def hits(self, path: str | None = None) -> int:
        """How often `path` was asked for, or anything at all but the robots.txt."""
        if path is None:
            return self._hits.total() - self._hits["/robots.txt"]
        return self._hits[path]

    def forget(self) -> None:
        """Begin to count anew, failures of pages that fail a number of times included."""
        self.requests.clear()
        self._hits.clear()

    # -- running ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen, in the running event loop.

        Raises:
            OSError: The port is in use.
        """
        runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=0.1)
        self.port = await listen(runner, self.host, self.port)
        self._runner = runner

    async def stop(self) -> None:
        """Close every connection and listen no more. Harmless where it does not run."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    def __enter__(self) -> Self:
        self._thread = LoopThread("crawlkit-testing-site")
        try:
            self._thread.run(self.start(), timeout=PATIENCE)
        except BaseException:
            self._thread.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.run(self.stop(), timeout=PATIENCE)
            thread.close()

    async def serve(self) -> None:
        """Print the URL and run until the process is asked to stop (SIGINT or SIGTERM)."""
        stopping = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        async with self:
            print(self.url("/"), flush=True)
            await stopping.wait()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.raw_path
        self.open += 1
        self._hits[path] += 1
        if self._log:
            headers = request.headers
            self.requests.append(Hit(time.monotonic(), request.method, path, headers, self.open))
        try:
            return await self.respond(request)
        finally:
            self.open -= 1


def serve(site: Site) -> None:
    """Serve a site in this process until it is stopped, for a command of its own.

    Raises:
        SystemExit: Its port is taken; the message says what to do.
    """
    try:
        asyncio.run(site.serve())
    except OSError as error:
        sys.exit(
            f"{site.host}:{site.port} cannot be had: {os.strerror(error.errno or 0)}; "
            "choose another --port, or 0 for one that is free"
        )


def html_response(
    content: str | bytes, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """A response with HTML, or with what `headers` say it is."""
    body = content.encode() if isinstance(content, str) else content
    response = web.Response(body=body, status=status, headers=headers)
    if "Content-Type" not in (headers or {}):
        response.content_type = "text/html"
        response.charset = "utf-8"
    return response


def simple_page(title: str, links: Iterable[str]) -> str:
    """A page with a title and links."""
    anchors = "".join(f'<li><a href="{escape(link)}">{escape(link)}</a></li>' for link in links)
    title = escape(title)
    return f"<!doctype html><title>{title}</title><h1>{title}</h1><ul>{anchors}</ul>"

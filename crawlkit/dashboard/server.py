"""Dashboard: the live page, served by aiohttp in the loop of the crawl.

Nothing happens here while nobody watches. Those who do are told once a second by server-sent events
(HTML standard, 9.2), all from one look at the crawl; whoever reads slowly holds up nobody but
itself, and is let go in the end.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
from collections.abc import Awaitable, Callable
from html import escape
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
from aiohttp import web

from ..errors import CrawlkitError, StoreError, UsageError, one_line, printable
from ..listening import listen
from ..observing.metrics import CONTENT_TYPE, metrics_text
from ..run import Run
from .access import HEADERS, SANDBOX, Access, Refused, parse_where
from .sources import ALL, SLOW, VIEWS, CrawlSource, RunSource, Source
from .views import Query, items, requests, shown

log = logging.getLogger("crawlkit.dashboard")

VIEWERS = 32
"""Connections of viewers that are served at once."""
PATIENCE = 20.0
"""Seconds that a viewer may take to read a second's news, before it is let go."""
FAREWELL = 0.3
"""Seconds that the viewers have to hear of the end: the process is about to go."""
MAX_FORM = 16 * 1024
"""Bytes of a form."""

ASSETS = Path(__file__).parent / "assets"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Dashboard:
    """A live page.

        async with Dashboard(CrawlSource(crawler), "8080") as page:
            print(page.url)
            await crawler.crawl()

    Args:
        source: What it shows.
        where: ``[HOST:]PORT``. Without a host it is this machine alone that gets there; with
            another one, the URL has a token. Port 0 takes a free one.

    Attributes:
        url: What to open.
    """

    def __init__(self, source: Source, where: str = "0") -> None:
        self._source = source
        self._host, self._port = parse_where(where)
        self._access = Access(self._host)
        self._assets = {
            path.relative_to(ASSETS).as_posix(): path.read_bytes()
            for path in ASSETS.rglob("*")
            if path.suffix in _TYPES
        }
        self._runner: web.AppRunner | None = None
        self._ending = asyncio.Event()
        self._viewers: set[asyncio.Task[Any]] = set()
        self._looks: dict[str, tuple[object, asyncio.Task[bytes]]] = {}

    @property
    def url(self) -> str:  # noqa: D102
        return self._access.url

    async def __aenter__(self) -> Self:
        app = web.Application(middlewares=[self._guard], client_max_size=MAX_FORM)
        app.add_routes(
            [
                web.get("/", self._page),
                web.get("/assets/{path:.+}", self._asset),
                web.get("/{path:favicon.ico}", self._asset),
                web.get("/api/start", self._start),
                web.get("/api/events", self._events, allow_head=False),
                web.get("/api/requests", self._requests),
                web.get("/api/items", self._items),
                web.get("/api/hosts", self._hosts),
                web.get("/specimen/{group}", self._specimen),
                web.get("/metrics", self._metrics),
                web.post("/api/do/{action}", self._do),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=FAREWELL / 2)
        try:
            self._access.at(await listen(self._runner, self._host, self._port))
        except (OSError, OverflowError) as error:
            is_taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            reason = "it is taken" if is_taken else getattr(error, "strerror", None) or str(error)
            raise UsageError(
                f"the live page cannot be served at {self._host}:{self._port}: {reason}; "
                "choose another port, or 0 for a free one"
            ) from None
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ending.set()
        if self._viewers:
            await asyncio.wait(self._viewers, timeout=FAREWELL)
        for viewer in self._viewers:
            viewer.cancel()
        if self._runner is not None:
            await self._runner.cleanup()

    # -- who may ------------------------------------------------------------------------------

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            token = request.query.get("token")
            if self._access.check(request.method, request.headers, token=token):
                return self._welcome()
            response = await handler(request)
        except Refused as refusal:
            response = _text(str(refusal), refusal.status)
        except web.HTTPException as error:
            response = _text(error.reason, error.status)
        except UsageError as error:
            response = _text(one_line(error), 409)
        except CrawlkitError as error:
            response = _text(one_line(error), 503)
        if not response.prepared:
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
        return response

    def _welcome(self) -> web.Response:
        """The cookie, and on to the page without the token.

        Not by a redirect: a browser that comes from another site would go on without the cookie,
        which is for requests of the same site.
        """
        response = _text(
            '<!doctype html><meta http-equiv="refresh" content="0; url=/"><title>crawlkit</title>'
            '<a href="/">Go on</a>'
        )
        response.content_type = "text/html"
        response.headers["Set-Cookie"] = self._access.cookie
        response.headers.update(HEADERS)
        return response

    # -- the page -----------------------------------------------------------------------------

    async def _page(self, request: web.Request) -> web.Response:
        text = self._assets["index.html"].decode()
        text = text.replace("{{csrf}}", escape(self._access.csrf))
        text = text.replace("{{name}}", escape(self._source.name))
        return web.Response(text=text, content_type="text/html")

    async def _asset(self, request: web.Request) -> web.Response:
        path = request.match_info["path"].replace("favicon.ico", "icon.svg")
        body = self._assets.get(path)
        if body is None or path == "index.html":
            raise web.HTTPNotFound
        kind = _TYPES[f".{path.rpartition('.')[2]}"]
        # The page of the next crawl at this port may be of another version.
        return web.Response(
            body=body, headers={"Content-Type": kind, "Cache-Control": "private, no-cache"}
        )

    async def _start(self, request: web.Request) -> web.Response:
        return _json(await self._source.start())

    async def _metrics(self, request: web.Request) -> web.Response:
        text = metrics_text(await self._source.statistics(), {"crawler": self._source.name})
        return web.Response(text=text, headers={"Content-Type": CONTENT_TYPE})

    async def _requests(self, request: web.Request) -> web.Response:
        fields = Query.__struct_fields__
        given = {name: value for name in fields if (value := request.query.get(name))}
        query = Query(**given)
        return _json(await self._source.read(lambda run: requests(run, query)))

    async def _items(self, request: web.Request) -> web.Response:
        handler, after = request.query.get("handler"), request.query.get("after", "0")
        if not (after.isascii() and after.isdigit() and len(after) < 19):
            raise UsageError(f"there is no item {after!r} to go on from; begin anew")
        found = await self._source.read(lambda run: items(run, handler=handler, after=int(after)))
        return _json(found)

    async def _hosts(self, request: web.Request) -> web.Response:
        return _json({"rows": await self._source.hosts()})

    async def _specimen(self, request: web.Request) -> web.Response:
        """What a site wrote: as text, or as a page that can do nothing, or a picture of it."""
        group, kind = request.match_info["group"], request.query.get("as", "text")

        def look(run: Run) -> web.Response:
            specimen = run.specimen(group)
            if specimen is None or (kind == "picture" and not specimen.screenshot):
                raise web.HTTPNotFound(reason="No response was kept for that")
            if kind == "picture":
                return web.Response(body=specimen.screenshot, content_type="image/jpeg")
            if kind == "page":
                return web.Response(text=specimen.text, content_type="text/html")
            lines = [f"{specimen.status} {shown(specimen.url)}"]
            lines += [f"{shown(name)}: {shown(value)}" for name, value in specimen.headers]
            cut = ["", "(The rest was not kept.)"] if specimen.is_cut else []
            return _text("\n".join([*lines, "", specimen.text, *cut]))

        response = await self._source.read(look)
        response.headers["Content-Security-Policy"] = SANDBOX
        return response

    async def _do(self, request: web.Request) -> web.Response:
        try:
            form = json.loads(await request.text() or "{}")
        except ValueError:
            form = None
        if not isinstance(form, dict):
            raise UsageError("a form is a JSON object")
        action = request.match_info["action"]
        log.info("asked for on the live page: %s", printable(action))
        return _json(await self._source.do(action, form))

    # -- news ---------------------------------------------------------------------------------

    async def _events(self, request: web.Request) -> web.StreamResponse:
        if len(self._viewers) >= VIEWERS:
            raise Refused(503, "too many are watching; close another page")
        response = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
        task = asyncio.current_task()
        assert task is not None
        self._viewers.add(task)
        try:
            await response.prepare(request)
            view = request.query.get("view", "")
            await self._tell(request, response, view if view in VIEWS else "")
        except (ConnectionError, TimeoutError):
            pass  # it has gone, or does not read
        finally:
            self._viewers.discard(task)
        return response

    async def _tell(self, request: web.Request, response: web.StreamResponse, view: str) -> None:
        turn = 0
        while request.transport is not None:  # or the viewer has gone
            is_last = self._ending.is_set()
            is_due = turn % SLOW == 0 or self._source.rest >= SLOW
            news = await self._news(ALL if is_last else view, whole=is_last or is_due)
            async with asyncio.timeout(PATIENCE):
                await response.write(news)
            if is_last:
                await response.write(b"event: end\ndata: {}\n\n")
                return
            turn += 1
            rest = self._source.rest
            now = asyncio.get_running_loop().time()
            try:
                # All of them at the same moments, so that one look is enough.
                async with asyncio.timeout(rest - now % rest):
                    await self._ending.wait()
            except TimeoutError:
                pass

    async def _news(self, view: str, *, whole: bool) -> bytes:
        now = asyncio.get_running_loop().time()
        moment = (int(now / self._source.rest), whole, self._ending.is_set())
        known = self._looks.get(view)
        if known is None or known[0] != moment:
            task = asyncio.create_task(self._look(view, whole))
            known = self._looks[view] = (moment, task)
        # One who goes does not take the look away from the others.
        return await asyncio.shield(known[1])

    async def _look(self, view: str, whole: bool) -> bytes:
        try:
            found = await self._source.pulse(view, whole=whole)
        except StoreError as error:
            return _event("trouble", {"said": one_line(error)})
        return _event("pulse", found)


def _event(name: str, value: dict[str, Any]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), _encoded(value))


def _json(value: dict[str, Any]) -> web.Response:
    return web.Response(body=_encoded(value), content_type="application/json", charset="utf-8")


def _encoded(value: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(value).encode()  # half a surrogate pair, escaped


def _text(text: str, status: int = 200) -> web.Response:
    return web.Response(text=text, status=status, content_type="text/plain")


__all__ = ["CrawlSource", "Dashboard", "RunSource"]

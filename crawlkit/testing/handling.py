"""handle: a handler run over a saved page, without a network."""

from __future__ import annotations

import asyncio
import inspect
import json
import tempfile
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..cache import PageCache
from ..crawler import Crawler
from ..discovery.scope import Scope
from ..errors import UsageError
from ..hooks import no_handler
from ..page import Page
from ..request import Request
from ..response import Response
from ..urls import canonical
from .fakes import FakeFetcher

T = TypeVar("T")

SITE = "https://site.example/"
"""Where a page is from that is given without a URL."""


@dataclass(frozen=True)
class Handled:
    """What a handler did with a page.

    Attributes:
        page: The page, as the handler got it.
        items: What it saved, as JSON gives it back.
        links: What it follows, as requests: the handler, the priority and the user data are there.
        skipped: What it would follow if no rule forbade it: URLs, each with the rule (``scope``,
            ``exclude``, ``include``, ``max_depth``).
        errors: Why items that it saved are none.
        state: The crawler's state afterwards.
        values: What it kept with `set_value` while the page was handled, by key.
        crawler: The crawler, for parts of its own.
    """

    page: Page
    items: list[Any]
    links: list[Request]
    skipped: dict[str, str]
    errors: list[Exception]
    state: dict[str, Any]
    values: dict[str, Any]
    crawler: Crawler = field(repr=False)


def handle(
    crawler: type[Crawler] | Crawler,
    handler: str | Callable[..., Any] = "parse",
    html: str | bytes | Path = "",
    *,
    url: str = SITE,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    request: Request | None = None,
    user_data: dict[str, Any] | None = None,
    state: dict[str, Any] | None = None,
    values: Mapping[str, Any] | None = None,
    start: bool = True,
) -> Handled:
    """Run a handler over a page, and tell what it did. Nothing is fetched, nothing is saved.

        done = handle(Shop, "parse_product", "<h1>Lamp</h1>", url="https://shop.example/lamp")
        assert done.items == [{"title": "Lamp"}]

    The handler's effects happen as in a crawl: when it has succeeded, and not at all if it fails.

    Args:
        crawler: The class, or a crawler that was made with ``store="memory:"``, for this call.
        handler: The handler, or its name.
        html: The page: HTML, bytes, or the `Path` of a file that holds it.
        url: Where it is from.
        status: The HTTP status.
        headers: Headers of the response; HTML in UTF-8 where they name no content type, and bytes
            in whatever encoding they are.
        request: The request that led to it, where the handler looks at more of it than its URL and
            its user data.
        user_data: What travelled with that request.
        state: The crawler's state before.
        values: What was kept with `set_value` before.
        start: Whether `on_start` is called first, as in a crawl.

    Raises:
        HandlerError: The crawler has no such handler.
        UsageError: The crawler would write something (a run, items); or the URL is none.
        Exception: What the handler raises.
    """
    name = handler if isinstance(handler, str) else handler.__name__
    made = _made(crawler)
    if not callable(getattr(made, name, None)):
        raise no_handler(type(made), name)
    asked = (request or Request(canonical(url), name, user_data=user_data or {})).replace(
        handler=name
    )
    response = _response(html, asked.url if request else canonical(url), status, headers)
    return _run(_handled(made, name, asked, response, state or {}, values or {}, start))


def _made(crawler: type[Crawler] | Crawler) -> Crawler:
    if isinstance(crawler, type):
        return crawler(**crawler.traceless())
    for name, value in crawler.traceless().items():
        if getattr(crawler, name) != value:
            given = f"{name}={value!r}"
            raise UsageError(
                "a test of a handler must leave nothing behind; give handle() the class, or a "
                f"crawler made with {given}"
            )
    return crawler


def _response(
    html: str | bytes | Path, url: str, status: int, headers: Mapping[str, str] | None
) -> Response:
    if isinstance(html, str) and html and "<" not in html and Path(html).is_file():
        raise UsageError(f"{html!r} is the name of a file, not HTML; pass Path({html!r})")
    body = html.read_bytes() if isinstance(html, Path) else html
    fields = dict(headers or {})
    if "content-type" not in {name.lower() for name in fields}:
        fields["Content-Type"] = (
            "text/html; charset=utf-8" if isinstance(body, str) else "text/html"
        )
    body = body.encode() if isinstance(body, str) else body
    # As in a crawl that starts there: a test's pages may lead to a site on loopback.
    return Response(url=url, status=status, headers=fields, body=body, is_private=True)


async def _handled(
    crawler: Crawler,
    name: str,
    request: Request,
    response: Response,
    state: dict[str, Any],
    values: Mapping[str, Any],
    start: bool,
) -> Handled:
    crawler.fetcher = FakeFetcher({})
    with tempfile.TemporaryDirectory(prefix="crawlkit-") as directory:
        crawler.page_cache = PageCache(directory, clock=crawler.clock)
        await crawler.job.open(signals=False)
        try:
            for key, value in values.items():
                await crawler.set_value(key, value)
            crawler.state.update(deepcopy(state))
            if start:
                await _done(crawler.on_start())
            kept = _listen(crawler)
            session = crawler.sessions.pick(request.host, request.session, request.url)
            page = crawler.page_of(request, response, session)
            await _done(getattr(crawler, name)(page))
            for update in page.updates:
                update()
            links, skipped = _sorted(crawler, page)
            return Handled(
                page=page,
                items=[json.loads(item) for item in page.items],
                links=links,
                skipped=skipped,
                errors=list(page.rejected),
                state=deepcopy(dict(crawler.state)),
                values=kept,
                crawler=crawler,
            )
        finally:
            await crawler.page_cache.close()
            await crawler.job.close(finished=False)


def _listen(crawler: Crawler) -> dict[str, Any]:
    """Notes what is set from now on."""
    kept: dict[str, Any] = {}
    keep = crawler.job.set_value

    async def set_value(key: str, value: Any) -> None:
        await keep(key, value)
        kept[key] = value

    crawler.job.set_value = set_value  # type: ignore[method-assign]
    return kept


def _sorted(crawler: Crawler, page: Page) -> tuple[list[Request], dict[str, str]]:
    scope = Scope(crawler.scope, include=crawler.include, exclude=crawler.exclude)
    links: list[Request] = []
    skipped: dict[str, str] = {}
    for link in page.links:
        is_deep = link.depth > crawler.max_depth
        reason = "max_depth" if is_deep else scope.reason(link.url, page.url)
        if reason is None:
            links.append(link)
        else:
            skipped[link.url] = reason
    return links, skipped


async def _done(result: Any) -> None:
    if inspect.isawaitable(result):
        await result


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end, also where an event loop is running already: in an async test."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()

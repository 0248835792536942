"""run --show: what each page gave, for somebody who is writing a handler."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size

from ..discovery.scope import Scope
from ..errors import one_line, printable
from ..request import Identity, identity
from .listening import listening
from .output import columns, harmless, plural, say, span, styled

if TYPE_CHECKING:
    from ..crawler import Crawler
    from ..events import RequestFailed, RequestHandled, RequestRetried
    from ..page import Page

ITEMS = 10
"""Items of a page that are shown."""
LINKS = 5
"""Links for each handler, and for each reason to skip some, that are shown."""
WIDTH = 200
"""Columns where there is no terminal that has any."""


def pages_shown(crawler: Crawler) -> AbstractContextManager[None]:
    """Print each page's items and links while the crawl lasts, on standard output."""

    def on_handled(event: RequestHandled) -> None:
        if event.page is not None:
            took = f"{event.request.handler}, {span(event.duration)}"
            say("\n".join(page_lines(crawler, event.page, took)))

    def on_retried(event: RequestRetried) -> None:
        why = f"{one_line(event.error)}; again in {span(event.delay)}"
        say(_headline("retry", event.request.url, why, "yellow"))

    def on_failed(event: RequestFailed) -> None:
        say(_headline("failed", event.request.url, one_line(event.error), "red"))

    return listening(
        crawler,
        {"requestHandled": on_handled, "requestRetried": on_retried, "requestFailed": on_failed},
    )


def _headline(what: str, url: str, detail: str, colour: str) -> str:
    return f"{styled(what, colour)} {styled(printable(url), 'bold')}  {detail}"


def page_lines(crawler: Crawler, page: Page, detail: str) -> Iterator[str]:
    """What a handler did with a page.

    Args:
        crawler: The crawler, whose rules say which links are followed.
        page: The page, handled.
        detail: What else to say in the first line.
    """
    if page.response.cache:
        detail += f", {page.response.cache} in the page cache"
    yield _headline(str(page.status), page.url, detail, "green" if page.status < 400 else "red")
    for data in page.items[:ITEMS]:
        yield "  item"
        yield from _item(data)
    if len(page.items) > ITEMS:
        yield f"  and {plural(len(page.items) - ITEMS, 'item')} more"
    for error in page.rejected:
        yield _cut(f"  error   {one_line(error)}")
    if page.updates:
        yield f"  state   {plural(len(page.updates), 'change')}"
    yield from _links(crawler, page)
    if not (page.items or page.links or page.rejected or page.updates):
        yield "  nothing: no item was saved and no link followed"


def _item(data: bytes) -> Iterator[str]:
    item = json.loads(data)
    if not isinstance(item, dict) or not item:
        yield _cut(f"    {_value(item)}")
        return
    width = min(max(cell_len(printable(name)) for name in item), 30)
    for name, value in item.items():
        label = printable(name)
        padding = " " * max(width - cell_len(label), 0)
        yield _cut(f"    {label}{padding}  {_value(value)}")


def _value(value: object) -> str:
    return harmless(json.dumps(value, ensure_ascii=False).encode()).decode()


def _links(crawler: Crawler, page: Page) -> Iterator[str]:
    """Where the page leads to, by handler; and what of it is left out, by reason."""
    scope = Scope(crawler.scope, include=crawler.include, exclude=crawler.exclude)
    followed: dict[str, list[str]] = {}
    skipped: dict[str, list[str]] = {}
    seen: set[Identity] = set()
    is_nofollow = crawler.obey_robots and page.links and page.says_nofollow(crawler.robots.token)
    for urls, like in page.links.groups:
        if not urls:
            followed.setdefault(like.handler, [])
        elif is_nofollow:
            skipped.setdefault("nofollow", []).extend(urls)
        elif like.depth > crawler.max_depth:
            skipped.setdefault("max_depth", []).extend(urls)
        else:
            inside, outside = scope.sort(urls, page.url)
            for url in dict.fromkeys(inside):
                # The first that follows it says which handler it is for.
                key = identity(like.replace(url=url))
                if key in seen:
                    skipped.setdefault("duplicate", []).append(url)
                else:
                    seen.add(key)
                    followed.setdefault(like.handler, []).append(url)
            for url, reason in outside:
                skipped.setdefault(reason, []).append(url)
    for what, groups in (("follow", followed), ("skip", skipped)):
        for name, urls in groups.items():
            unique = list(dict.fromkeys(urls))
            if not unique:
                yield f"  {what:<6}  no link for {name}: what was to be followed is not there"
                continue
            yield f"  {what:<6}  {plural(len(unique), 'link')} {_ARROW[what]} {name}"
            yield from (_cut(f"    {printable(url)}") for url in unique[:LINKS])
            if len(unique) > LINKS:
                yield f"    and {len(unique) - LINKS:,} more"
    if page.links_over:
        yield f"  skip    {plural(page.links_over, 'link')} over max_links"


_ARROW = {"follow": "for", "skip": "by"}


def _cut(line: str) -> str:
    width = columns() or WIDTH
    return line if cell_len(line) <= width else set_cell_size(line, max(width - 3, 10)) + "..."

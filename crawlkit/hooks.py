"""Hooks: what a subclass of Crawler may override, with plain functions or with async ones."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Iterable
from typing import TYPE_CHECKING

from .errors import HandlerError

if TYPE_CHECKING:
    from .page import Page
    from .request import Request
    from .sitemaps import Entry
    from .statistics import Statistics


class Hooks:
    """Called by the crawler at the right moment; each does nothing, or the usual, by default."""

    def parse(self, page: Page) -> Awaitable[None] | None:
        """Handle a page: the default handler."""
        raise HandlerError(
            f"{type(self).__name__} has no parse; write 'async def parse(self, page)'"
        )

    def start_requests(self) -> Iterable[Request | str] | AsyncIterable[Request | str]:
        """Further start requests, besides `start_urls`; may be a generator, plain or async.

        After a restart it is begun again and what was enqueued is skipped, so it has to give the
        same sequence each time. It is not called any more once it has come to its end.
        """
        return ()

    def sitemap_request(self, entry: Entry) -> Request | str | None:
        """What is enqueued for a page that a sitemap lists; `None` leaves it out.

        A plain function, and the same answer each time: a sitemap that was being read when the
        process died is read again up to where it was.

        Args:
            entry: The page's URL, and what the sitemap says of it.
        """
        return entry.url

    def cache_key(self, request: Request) -> str | None:
        """Under what the page cache keeps a response; `None` for method, URL and body.

        Two requests with one key are one page to the cache: leave out of it what does not matter,
        such as a session's id in the query.
        """
        return None

    def on_start(self) -> Awaitable[None] | None:
        """Called in every life, when everything is restored and before the first request."""

    def on_error(self, request: Request, error: Exception) -> Awaitable[None] | None:
        """Called at every failure, before it is decided whether the request is tried again."""

    def on_failed(self, request: Request, error: Exception) -> Awaitable[None] | None:
        """Called when a request is given up.

        Like `on_error`, it is called again if the process dies before the next checkpoint.
        """

    def on_finish(self, statistics: Statistics) -> Awaitable[None] | None:
        """Called when the crawl is finished, not when it is stopped."""

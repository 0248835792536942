"""Hooks: what a subclass of Crawler may override, with plain functions or with async ones."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, Awaitable, Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING

from .errors import HandlerError, UsageError

if TYPE_CHECKING:
    from .discovery.sitemaps import Entry
    from .page import Page
    from .request import Request
    from .statistics import Statistics


def no_handler(kind: type, name: str, *, is_saved: bool = False) -> HandlerError:
    """The error for a handler that does not exist, with what to write.

    Args:
        kind: The crawler's class.
        name: The handler.
        is_saved: Whether a request that was saved asks for it: the method may have been renamed.
    """
    own = [
        key
        for base in kind.__mro__
        if not base.__module__.startswith("crawlkit.")
        for key, value in vars(base).items()
        if inspect.isfunction(value) and not key.startswith(("_", "on_"))
    ]
    near = get_close_matches(name, own, 1)
    if is_saved:
        remedy = f"rename {near[0]} back" if near else "give the method its old name back"
        return HandlerError(
            f"{kind.__name__} has no handler '{name}', which a saved request asks for; {remedy}, "
            "or start anew with --fresh"
        )
    remedy = f"did you mean {near[0]}?" if near else f"write: async def {name}(self, page)"
    return HandlerError(f"{kind.__name__} has no handler '{name}'; {remedy}")


def yielding(kind: type, name: str) -> HandlerError:
    """The error for a handler that is a generator, as those of other frameworks are."""
    return HandlerError(
        f"{kind.__name__}.{name} has a yield, and would do nothing; call page.save(item) and "
        "page.follow(links) in its place"
    )


def check_hooks(hooks: Hooks) -> None:
    """Refuse a hook that cannot be called, before a crawl of hours finds it out at its end.

    Raises:
        UsageError: It does not take what it is called with, or is no method.
    """
    for name, usual in vars(Hooks).items():
        if not inspect.isfunction(usual):
            continue
        takes = list(inspect.signature(usual).parameters)  # with self
        try:
            # What a decorator takes, and not what the method that it wraps does.
            inspect.signature(getattr(hooks, name), follow_wrapped=False).bind(*takes[1:])
        except ValueError:
            continue  # it is none of Python's, and does not say what it takes
        except TypeError as error:
            raise UsageError(
                f"{type(hooks).__name__}.{name} cannot be called as it has to be ({error}); write: "
                f"def {name}({', '.join(takes)})"
            ) from None


class Hooks:
    """Called by the crawler at the right moment; each does nothing, or the usual, by default."""

    def parse(self, page: Page) -> Awaitable[None] | None:
        """Handle a page: the default handler."""
        raise no_handler(type(self), "parse")

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

"""RenderingFetcher: whether a request goes to the browser or to a plain fetcher."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from itertools import pairwise
from typing import Any

from ..cache import PageCache
from ..clock import Clock
from ..errors import PrivateAddressError, RedirectError
from ..fetching import Fetcher, MayFollow
from ..http.addresses import is_private_host
from ..http.clients import private_address
from ..http.limits import Limits
from ..http.recording import Recorder
from ..request import Request
from ..response import Response
from ..sessions import Session
from .recorded import RecordedFetcher


class RenderingFetcher(Fetcher):
    """Sends a request to the browser where that is asked for, and to a plain fetcher otherwise.

    Args:
        plain: Fetches without rendering.
        browser: Makes the fetcher that renders, for the first request that wants it. A crawl that
            renders nothing need not have a browser, nor wait for what one needs.
        render: Whether requests are rendered that do not say (`Request.render` is ``None``).
        wait: When a page is done whose request does not say it; see `BrowserFetcher`.
        allow_private: Whether every page may come from a private address.
        cache: The page cache.
    """

    def __init__(
        self,
        plain: Fetcher,
        browser: Callable[[], Fetcher],
        *,
        render: bool = False,
        wait: str = "networkidle",
        allow_private: bool = False,
        cache: PageCache | None = None,
    ) -> None:
        self._plain = plain
        self._wait = wait
        self._allow_private = allow_private
        self._cache = cache
        self._make_browser = browser
        self._browser: Fetcher | None = None
        self._render = render

    def record(self, recorder: Recorder, clock: Clock) -> None:
        """Have rendered pages kept, too: plain ones are kept by who fetches them."""
        make = self._make_browser
        self._make_browser = lambda: RecordedFetcher(make(), recorder, clock)

    async def open(self) -> None:
        """Open the plain one."""
        await self._plain.open()

    async def close(self) -> None:
        """Close both."""
        try:
            if self._browser is not None:
                await self._browser.close()
                self._browser = None
        finally:
            await self._plain.close()

    def fetch(
        self,
        request: Request,
        session: Session,
        *,
        limits: Limits | None = None,
        may_follow: MayFollow | None = None,
    ) -> Coroutine[Any, Any, Response]:
        """Fetch one request with the one or the other; see `Fetcher.fetch`."""
        is_rendered = self._render if request.render is None else request.render
        fetch = self._fetch_rendered if is_rendered else self._plain.fetch
        return fetch(request, session, limits=limits, may_follow=may_follow)

    async def _fetch_rendered(
        self,
        request: Request,
        session: Session,
        *,
        limits: Limits | None = None,
        may_follow: MayFollow | None = None,
    ) -> Response:
        render = partial(self._rendered, request, session, limits, may_follow)
        if self._cache is None:
            return await render()
        is_private = request.private or self._allow_private
        # Before the cache is asked: what a private site once said is not for pages of the web.
        if not is_private and is_private_host(request.host):
            raise PrivateAddressError(private_address(request.host))
        wait = request.render if isinstance(request.render, str) else self._wait
        response = await self._cache.rendered(request, render, wait=wait, is_private=is_private)
        if response.cache == "hit" and may_follow is not None:
            # The browser has asked then; what is allowed may have changed.
            is_private = response.is_private or self._allow_private
            for step, target in pairwise((*response.redirects, response.url)):
                if step != target and (reason := await may_follow(step, target, is_private)):
                    raise RedirectError(f"redirected to {target}, which is not followed: {reason}")
        return response

    async def _rendered(
        self,
        request: Request,
        session: Session,
        limits: Limits | None,
        may_follow: MayFollow | None,
    ) -> Response:
        if self._browser is None:
            browser = self._make_browser()
            await browser.open()
            # Another request may have been quicker.
            if self._browser is None:
                self._browser = browser
            else:
                await browser.close()
        return await self._browser.fetch(request, session, limits=limits, may_follow=may_follow)

"""PageCache: responses kept on disk, so that repeated data is not fetched again.

It stands between the fetcher and the site, one exchange at a time: a redirect is a response like
any other. What HTTP allows is decided in `freshness`, bytes are kept in `cachestore`.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from hashlib import blake2b
from typing import Any, TypeVar, overload

from multidict import CIMultiDict

from .caching.derived import DerivedData
from .caching.entry import CacheEntry
from .caching.exchange import HttpExchange, Send
from .caching.flights import Flights
from .caching.freshness import is_for_part
from .caching.parts import part_of
from .caching.responses import CachedResponses, Place
from .caching.store import CacheStore
from .clock import Clock
from .discovery.scope import Scope, UrlPattern
from .errors import OfflineError, OptionError
from .http.hops import Hop
from .request import CacheMode, Request
from .response import Response

T = TypeVar("T")

SIZE_LIMIT = 2**30
"""Bytes that a page cache may use where nothing else is said."""
KEPT_STATUSES = frozenset(range(200, 300)) - {206} | {301, 302, 303, 307, 308, 404, 410}
"""Statuses that are kept in the modes that do not ask HTTP: pages, redirects, and what is gone."""


class PageCache:
    """Responses on disk, by the rules of HTTP or by simpler ones.

    The mode of a request is its own `Request.cache`, else that of the first pattern that its URL
    matches, else the crawl's:

    - ``off``: it is neither looked up nor kept;
    - ``http``: as a private cache by RFC 9111 and RFC 5861, such as a browser has, does it;
    - a number: it is good for so many seconds, whatever its headers say;
    - ``forever``: it is good at any age;
    - ``offline``: as ``forever``, and what is not there is an `OfflineError`.

    In the last three, pages (2xx), redirects, 404 and 410 are kept, never other failures; of the
    fields in ``Vary`` those count that the request brings itself.

    A request that is tried again is not answered with the response that it failed with: a response
    answers requests that were tried no more often than the one that brought it.

    Nothing that goes wrong with the directory ends a crawl. What is damaged is not there; a disk
    that is full or cannot be read turns the cache off, with one warning.

    Args:
        directory: Where; made at the first use, for its owner only. Other processes may use it at
            the same time.
        mode: The mode of requests that say nothing else.
        rules: Modes by patterns of URLs (see `Scope`).
        size_limit: Bytes of the directory; what was used least recently goes first.
        key: Gives a request's own key, in place of method, URL and body; ``None`` for these. With
            a key, methods other than GET and HEAD are kept, too.
        headers: Headers that every request has besides its own, which ``Vary`` may speak of.
        clock: What ages are measured by.

    Raises:
        OptionError: A mode or a pattern is none.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        mode: CacheMode = "off",
        rules: Mapping[UrlPattern, CacheMode] | None = None,
        size_limit: int = SIZE_LIMIT,
        key: Callable[[Request], str | None] | None = None,
        headers: Mapping[str, str] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._mode = checked_mode(mode)
        self._rules = [(_pattern(p), checked_mode(m)) for p, m in (rules or {}).items()]
        self._key = key
        self._headers = CIMultiDict(headers or {})
        self._clock = clock or Clock()
        self._store = CacheStore(directory, size_limit=size_limit, clock=self._clock)
        self._responses = CachedResponses(self._store, self._clock)
        self._flights = Flights()
        self._http = HttpExchange(self._responses, self._flights, self._place_of, self._clock)
        self._derived = DerivedData(self._store, self._clock)

    async def open(self) -> None:
        """Open the directory now, where it is going to be used; else the first use does."""
        if self._mode != "off" or self._rules:
            await self._store.open()

    async def close(self) -> None:
        """Write what is left."""
        await self._derived.close()
        await self._store.close()

    async def __aenter__(self) -> PageCache:
        await self.open()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    # -- pages ----------------------------------------------------------------------------------

    def exchange(
        self,
        request: Request,
        hop: Hop,
        send: Send,
        *,
        cookies: Callable[[str], str] | None = None,
    ) -> Awaitable[Response]:
        """The response to one hop of a request: from the cache, or from the site and then kept.

        It returns when a response that is kept outlives the process, so that a page whose handler
        has begun is there after a crash. Where the power fails, the whole cache may be damaged: it
        is then found so, put aside, and begun anew.

        Args:
            request: The request, as it was enqueued.
            hop: Where it has come to.
            send: Asks the site.
            cookies: Gives the ``Cookie`` header that `send` adds, by URL; ``Vary`` may speak of it.

        Returns:
            The response; `Response.cache` says where from, `Response.is_stored` whether it was
            kept.

        Raises:
            OfflineError: It is not there, and nothing may be fetched.
            OptionError: The request has a mode that does not exist.
            FetchError: As `send` does.
        """
        mode = self.mode_of(request, hop.url)
        # No coroutine of its own around a page that is not kept.
        return send(hop) if mode == "off" else self._exchange(request, hop, send, cookies, mode)

    async def _exchange(
        self,
        request: Request,
        hop: Hop,
        send: Send,
        cookies: Callable[[str], str] | None,
        mode: CacheMode,
    ) -> Response:
        if not self._store.is_open:
            await self._store.open()
        place = self._place_of(request, hop)
        if mode == "http":
            if place is None:
                response = await send(hop)
                await self._http.invalidate(request, hop, response)
                return response
            # As it is sent: the answer may set others.
            cookie = "" if cookies is None else cookies(hop.url)
            place.view = lambda: self._view(hop, cookie)
            return await self._http.exchange(place, send)
        if place is not None:
            return await self._exchange_by_age(place, send, mode)
        if mode == "offline":
            raise _offline(hop)
        return await send(hop)

    def rendered(
        self,
        request: Request,
        render: Callable[[], Awaitable[Response]],
        *,
        wait: str,
        is_private: bool,
    ) -> Awaitable[Response]:
        """The document that a browser makes of a request: kept, or rendered and then kept.

        It is kept as a whole, redirects included, apart from the plain page. The ``http`` mode
        keeps none, as nothing says for how long what scripts have made is good.

        Args:
            request: The request.
            render: Renders it.
            wait: When it is done; what was done under another condition is another document.
            is_private: Whether it may come from a private address.

        Raises:
            OfflineError: It is not there, and nothing may be fetched.
            OptionError: The request has a mode that does not exist.
            FetchError: As `render` does.
        """
        mode = self.mode_of(request, request.url)
        if mode in ("off", "http"):
            return render()
        hop = Hop(
            request.url,
            request.method.upper(),
            request.body,
            CIMultiDict(request.headers) or None,
            is_private,
        )
        return self._rendered(request, hop, render, wait, mode)

    async def _rendered(
        self,
        request: Request,
        hop: Hop,
        render: Callable[[], Awaitable[Response]],
        wait: str,
        mode: CacheMode,
    ) -> Response:
        if not self._store.is_open:
            await self._store.open()
        name = self._name_of(request, hop)
        if name is not None:
            prefix = f"rendered {wait}\0".encode("utf-8", "surrogatepass")
            place = Place(prefix + name, request, hop)
            return await self._exchange_by_age(place, lambda hop: render(), mode)
        if mode == "offline":
            raise _offline(hop)
        return await render()

    def mode_of(self, request: Request, url: str) -> CacheMode:
        """The mode for one hop of a request.

        Raises:
            OptionError: The request has one that does not exist.
        """
        if request.cache is not None:
            return checked_mode(request.cache)
        for scope, mode in self._rules:
            if scope.reason(url, url) is None:
                return mode
        return self._mode

    def _place_of(self, request: Request, hop: Hop) -> Place | None:
        """Where the response to one hop is kept; ``None`` where such a request is not kept."""
        name = self._name_of(request, hop)
        return None if name is None else Place(name, request, hop)

    def _name_of(self, request: Request, hop: Hop) -> bytes | None:
        """The key in full."""
        if self._key is not None:
            here = request
            if hop.url != request.url:
                here = request.replace(url=hop.url, method=hop.method, body=hop.body)
            own = self._key(here)
            if own is not None:
                if here is not request and own == self._key(request):
                    # A redirect and what it leads to must not be one entry: it would lead there
                    # for ever.
                    own = f"{own}\0{hop.url}"
                return f"{hop.method} key {own}".encode("utf-8", "surrogatepass")
        if hop.method not in ("GET", "HEAD"):
            return None
        name = f"{hop.method} {hop.url}".encode("utf-8", "surrogatepass")
        return name if hop.body is None else name + b" " + blake2b(hop.body).digest()

    def _view(self, hop: Hop, cookie: str) -> CIMultiDict[str]:
        """All fields that the site will see, for ``Vary``."""
        view = CIMultiDict(self._headers)
        if hop.headers is not None:
            for name in set(hop.headers):
                view.popall(name, None)
            view.extend(hop.headers)
        if cookie:
            view.add("Cookie", cookie)
        return view

    # -- modes that do not ask HTTP ---------------------------------------------------------------

    async def _exchange_by_age(self, place: Place, send: Send, mode: CacheMode) -> Response:
        response = await self._kept(place, mode)
        if response is not None:
            return response
        if mode == "offline":
            raise _offline(place.hop)
        if await self._flights.landed(place.row):
            response = await self._kept(place, mode)
            if response is not None:
                return response
        with self._flights.flying(place.row):
            requested = self._clock.now()
            response = await send(place.hop)
            response.cache = "miss"
            is_part = response.status == 206 and is_for_part(place.hop.headers)
            if response.status in KEPT_STATUSES or is_part:
                await self._responses.keep(place, response, requested)
            return response

    async def _kept(self, place: Place, mode: CacheMode) -> Response | None:
        """What is kept for a request in a mode that does not ask HTTP."""
        stored = await self._responses.look_up(place)
        if stored is not None and self._is_good(stored.entry, place.request, mode):
            return await self._responses.response_of(stored, "hit")
        asked, whole = place.hop.headers, place.whole()
        if asked is None or whole is place:
            return None
        page = await self._kept(whole, mode)
        return None if page is None else part_of(page, asked)

    def _is_good(self, entry: CacheEntry, request: Request, mode: CacheMode) -> bool:
        """Whether an entry answers a request in a mode that does not ask HTTP."""
        if mode == "offline":
            return True
        if entry.tries < request.retry_count:
            return False
        return isinstance(mode, str) or self._clock.now() - entry.received <= mode

    # -- derived data, and the whole ----------------------------------------------------------

    @overload
    async def cached(
        self, key: str, compute: Callable[[], Awaitable[T]], ttl: float | None = None
    ) -> T: ...

    @overload
    async def cached(self, key: str, compute: Callable[[], T], ttl: float | None = None) -> T: ...

    async def cached(
        self, key: str, compute: Callable[[], Any], ttl: float | None = None
    ) -> object:
        """Data derived from pages, computed once, also across runs and in every mode.

        Callers that ask at the same time wait for one computation. What it raises reaches all of
        them, and is not kept.

        Args:
            key: What it is kept under. Keys of derived data and of pages never meet.
            compute: Gives the value: JSON-like data. Plain or async.
            ttl: Seconds for which it is good; ``None`` for ever.

        Returns:
            The value as JSON gives it back (tuples are lists), also the first time. Every caller
            has its own.

        Raises:
            UsageError: It cannot be JSON, or its computation asks for itself.
        """
        return await self._derived.get(key, compute, ttl)

    async def clear(self) -> None:
        """Remove everything, derived data too."""
        await self._store.open()
        await self._store.clear()

    async def measure(self) -> dict[str, tuple[int, int]]:
        """Number and bytes of ``pages`` and ``derived`` data, as they are on disk."""
        await self._store.open()
        kinds = await self._store.measure()
        return {"pages": kinds.get(b"p", (0, 0)), "derived": kinds.get(b"d", (0, 0))}


def checked_mode(mode: Any) -> CacheMode:
    """A mode that there is.

    Raises:
        OptionError: There is no such mode.
    """
    if mode in ("off", "http", "forever", "offline"):
        return mode  # type: ignore[no-any-return]
    if isinstance(mode, int | float) and not isinstance(mode, bool) and mode >= 0:
        return float(mode)
    raise OptionError(
        f"cache cannot be {mode!r}; choose off, http, forever, offline or a number of seconds"
    )


def _pattern(pattern: UrlPattern) -> Scope:
    try:
        return Scope("all", include=(pattern,))
    except OptionError as error:
        raise OptionError(str(error).replace("include", "cache_rules", 1)) from None


def _offline(hop: Hop) -> OfflineError:
    return OfflineError(
        f"{hop.method} {hop.url} is not in the page cache; crawl it once with another cache mode"
    )

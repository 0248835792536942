"""HttpExchange: one exchange by the rules of HTTP for a private cache (RFC 9111, RFC 5861).

What may be kept and used is decided in `freshness`; here is the order in which that is asked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeAlias

import msgspec
from multidict import CIMultiDict, CIMultiDictProxy

from ..clock import Clock
from ..errors import FetchTimeoutError, NetworkError
from ..http.hops import Hop, origin_of
from ..request import Request
from ..response import Response
from ..urls import Base
from .entry import fields_of
from .flights import Flights
from .freshness import (
    SAFE_METHODS,
    Wishes,
    agrees,
    freshened,
    is_conditional,
    is_for_part,
    is_not_modified,
    is_storable,
    may_use,
    may_use_on_error,
    terms_of,
    validators,
    wishes_of,
)
from .parts import part_of
from .responses import CachedResponses, Place, Stored

Send: TypeAlias = Callable[[Hop], Awaitable[Response]]
"""One exchange with the site, without redirects."""

_NOT_MODIFIED = frozenset(
    {"cache-control", "content-location", "date", "etag", "expires", "last-modified", "vary"}
)


class HttpExchange:
    """A private cache's way from a request to its response.

    Args:
        responses: What is there.
        flights: What is being asked for.
        place_of: Where the response to a request is, ``None`` where such are not kept.
        clock: What ages are measured by.
    """

    def __init__(
        self,
        responses: CachedResponses,
        flights: Flights,
        place_of: Callable[[Request, Hop], Place | None],
        clock: Clock,
    ) -> None:
        self._responses = responses
        self._flights = flights
        self._place_of = place_of
        self._clock = clock

    async def exchange(self, place: Place, send: Send, *, may_wait: bool = True) -> Response:
        """The response to a request: a fresh one, a confirmed one, or the site's."""
        hop = place.hop
        asked = hop.headers
        wishes = wishes_of(asked)
        stored = None
        if not is_conditional(asked):
            fresh = await self._from_another(place, wishes)
            if fresh is not None:
                return fresh
            stored = await self._responses.look_up(place)
        if stored is not None and stored.entry.tries < place.request.retry_count:
            stored = None
        age = 0.0
        if stored is not None:
            age = stored.entry.terms.age_at(stored.entry.received, self._clock.now())
            if may_use(stored.entry.terms, age, wishes):
                response = await self._fresh(stored, age, hop)
                if response is not None:
                    return response
                stored = None
        if wishes.only_if_cached:
            return Response(url=hop.url, status=504)  # RFC 9111, section 5.2.1.7
        if may_wait and hop.method in SAFE_METHODS and await self._flights.landed(place.row):
            return await self.exchange(place, send, may_wait=False)
        with self._flights.flying(place.row):
            return await self._ask(place, send, stored, age, wishes)

    async def _ask(
        self, place: Place, send: Send, stored: Stored | None, age: float, wishes: Wishes
    ) -> Response:
        """The site's response, or what is stored where that says so or fails."""
        hop = place.hop
        asked = hop.headers
        conditions = [] if stored is None or _has_condition(asked) else validators(stored.headers)
        requested = self._clock.now()
        try:
            response = await send(_with(hop, conditions))
        except (NetworkError, FetchTimeoutError):
            if stored is None or not may_use_on_error(stored.entry.terms, age, wishes):
                raise
            stale = await self._responses.response_of(stored, "stale", age)
            if stale is None:
                raise
            return stale
        if response.status == 304 and stored is not None and conditions:
            confirmed = await self._confirmed(place, stored, response, requested)
            if confirmed is not None:
                return confirmed
            # What it confirmed is damaged.
            requested = self._clock.now()
            response = await send(hop)
        elif (
            response.status in (500, 502, 503, 504)
            and stored is not None
            and may_use_on_error(stored.entry.terms, age, wishes)
        ):
            stale = await self._responses.response_of(stored, "stale", age)
            if stale is not None:
                return stale
        response.cache = "miss"
        if is_storable(hop.method, asked, response.status, response.headers):
            await self._responses.keep(place, response, requested)
        elif hop.method not in SAFE_METHODS:
            await self.invalidate(place.request, hop, response)
        if hop.method == "HEAD" and response.status == 200:
            await self._learn(place, response, requested)
        return response

    async def _fresh(self, stored: Stored, age: float, hop: Hop) -> Response | None:
        """A hit; a 304 where the request's own condition asks for one."""
        response = await self._responses.response_of(stored, "hit", age)
        if (
            response is not None
            and response.status == 200
            and hop.headers is not None
            and is_not_modified(hop.headers, response.headers)
        ):
            headers = [
                (name, value)
                for name, value in response.headers.items()
                if name.lower() in _NOT_MODIFIED
            ]
            response = Response(url=response.url, status=304, headers=headers)
            response.cache = "hit"
        return response

    async def _from_another(self, place: Place, wishes: Wishes) -> Response | None:
        """The answer to a HEAD from a fresh page (RFC 9110, section 9.3.2); a part of one."""
        hop = place.hop
        is_part = hop.method == "GET" and is_for_part(hop.headers)
        if not is_part and hop.method != "HEAD":
            return None
        _, page = await self._page(place)
        if page is None or page.entry.tries < place.request.retry_count:
            return None
        age = page.entry.terms.age_at(page.entry.received, self._clock.now())
        if not may_use(page.entry.terms, age, wishes):
            return None
        response = await self._responses.response_of(page, "hit", age)
        if response is None:
            return None
        if is_part:
            assert hop.headers is not None
            return part_of(response, hop.headers)
        response.body = b""
        return response

    async def _page(self, place: Place) -> tuple[Place, Stored | None]:
        """What is stored for the GET of the whole page, where a request is for less of it."""
        whole = place.whole()
        if whole.hop.method == "HEAD":
            get = replace(whole.hop, method="GET")
            page = self._place_of(place.request.replace(method="GET"), get)
            if page is None:
                return whole, None
            page.view = place.view
            whole = page
        return whole, await self._responses.look_up(whole)

    async def _learn(self, place: Place, head: Response, requested: float) -> None:
        """What a HEAD says about the page that is stored (RFC 9111, section 4.3.5)."""
        whole, page = await self._page(place)
        if page is None or page.entry.status != 200:
            return
        entry = page.entry
        if agrees(page.headers, head.headers):
            headers = freshened(page.headers, head.headers)
            now = self._clock.now()
            entry.terms = terms_of(entry.status, headers, requested, now)
            entry.fields = fields_of(list(headers.items()))
            entry.requested, entry.received = requested, now
        else:
            entry.terms = msgspec.structs.replace(entry.terms, lifetime=0.0)
        await self._responses.keep_again(whole, page)

    async def _confirmed(
        self, place: Place, stored: Stored, answer: Response, requested: float
    ) -> Response | None:
        """What is stored, with the fields that a 304 has brought (RFC 9111, section 4.3.4)."""
        headers = CIMultiDictProxy(freshened(stored.headers, answer.headers))
        response = await self._responses.response_of(stored, "revalidated")
        if response is None:
            return None
        response.headers = headers
        response.is_private = answer.is_private
        now = self._clock.now()
        entry = stored.entry
        entry.terms = terms_of(entry.status, headers, requested, now)
        entry.fields = fields_of(list(headers.items()))
        entry.requested, entry.received = requested, now
        entry.is_private = answer.is_private
        entry.tries = max(entry.tries, place.request.retry_count)
        response.is_stored = await self._responses.keep_again(place, stored)
        return response

    async def invalidate(self, request: Request, hop: Hop, response: Response) -> None:
        """Forget what an unsafe request has changed (RFC 9111, section 4.4)."""
        if hop.method in SAFE_METHODS or not 200 <= response.status < 400:
            return
        base, origin = Base(hop.url), origin_of(hop.url)
        urls = {hop.url}
        for field in ("Location", "Content-Location"):
            target = base.join(response.headers.get(field, ""))
            if target is not None and origin_of(target) == origin:
                urls.add(target)
        for url in urls:
            for method in ("GET", "HEAD"):
                safe = request.replace(url=url, method=method, body=None)
                place = self._place_of(safe, Hop(url, method))
                if place is not None:
                    await self._responses.forget(place)


def _has_condition(asked: CIMultiDict[str] | None) -> bool:
    return asked is not None and ("If-None-Match" in asked or "If-Modified-Since" in asked)


def _with(hop: Hop, fields: list[tuple[str, str]]) -> Hop:
    if not fields:
        return hop
    headers = CIMultiDict(hop.headers or ())
    headers.extend(fields)
    return replace(hop, headers=headers)

"""Fetcher: from a request to its response. The protocol, and the fetcher on aiohttp.

Redirects are in our own hands, for each hop has to be asked about: may the crawl go there, and what
of the request's headers may go along.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from itertools import chain
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from .clock import Clock
from .errors import (
    FetchTimeoutError,
    PrivateAddressError,
    ProxyError,
    RedirectError,
    UrlError,
    UsageError,
    one_line,
)
from .http.addresses import is_bad_port, is_private_host
from .http.bodies import read_body
from .http.clients import Attempt, Clients, is_reachable, private_address, timeout_of
from .http.deadlines import Deadline, Deadlines
from .http.failures import failure, is_break, too_many_headers
from .http.hops import Hop, may_travel, short
from .http.lean import Answer, Lean
from .http.limits import Limits as Limits
from .http.proxies import place_of
from .http.recording import Recorder, Tap
from .request import Request, host_of
from .response import Response
from .sessions import Session
from .urls import knows_suffixes, read_suffixes

if TYPE_CHECKING:
    from .cache import PageCache
    from .http.credentials import Credentials
    from .http.proxies import ProxyPool

ACCEPT = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
"""The ``Accept`` header where nobody gives another."""

MayFollow: TypeAlias = Callable[[str, str, bool], Awaitable[str | None]]
"""Asked at a redirect with the URL that redirects, the one that it leads to, and whether the latter
may be at a private address; answers why it is not to be followed, or ``None``."""

_LIMITS = Limits()
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Fetcher(Protocol):
    """What turns requests into responses. Give a crawler another one to change how it fetches."""

    async def open(self) -> None:
        """Get ready. Called once, in the event loop in which `fetch` will be called."""

    async def close(self) -> None:
        """Give everything back. Nothing is being fetched any more."""

    async def fetch(
        self,
        request: Request,
        session: Session,
        *,
        limits: Limits | None = None,
        may_follow: MayFollow | None = None,
    ) -> Response:
        """Fetch one request.

        A status is no error here: the crawler decides what a 404 means to it. Cookies that the
        server sets belong into `session`.

        Args:
            request: What to fetch.
            session: Whose cookies, headers and proxy it has.
            limits: Other limits than the fetcher's own.
            may_follow: Asked at each redirect. What it raises is raised as it is.

        Raises:
            FetchError: There is no response, or none that we may have.
        """
        ...


class AiohttpFetcher(Fetcher):
    """The fetcher for plain HTTP, on aiohttp.

    Private addresses (this machine, its network, a cloud's metadata) are reached only by requests
    that may (`Request.private`), and by redirects of what came from one. That is decided when a
    connection is made, after the name was looked up, at every hop. A proxy looks names up by
    itself: there only addresses and ``localhost`` are refused, and it has to keep its own network
    from the web. Its own address may be private.

    Args:
        limits: What a server may cost us.
        user_agent: The ``User-Agent`` header.
        headers: Headers of every request. Those of the session and of the request go over them.
        concurrency: Connections in use at once, at most; 0 for as many as there are calls of
            `fetch`, which the crawler bounds already.
        tls: An `ssl.SSLContext`, where the system's certificate authorities are not the right
            ones; ``False`` checks no certificate.
        allow_private: Whether every request and redirect may lead to a private address.
        proxies: What picks the proxy of each exchange. Without it, that is the session's own.
        credentials: What answers a site that asks who is there.
        cache: Where responses are kept.
        recorder: What keeps each exchange as it was on the wire.
        clock: What the rests of proxies are measured by.
    """

    def __init__(
        self,
        *,
        limits: Limits = _LIMITS,
        user_agent: str = "crawlkit",
        headers: Mapping[str, str] | None = None,
        concurrency: int = 0,
        tls: ssl.SSLContext | bool = True,
        allow_private: bool = False,
        proxies: ProxyPool | None = None,
        credentials: Credentials | None = None,
        cache: PageCache | None = None,
        recorder: Recorder | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._limits = limits
        self._recorder = recorder
        self._allow_private = allow_private
        self._proxies = proxies
        self._credentials = credentials
        self._cache = cache
        self._clock = clock or Clock()
        # aiohttp adds the Accept-Encoding that we can decode, for it can, too.
        own = CIMultiDict({"Accept": ACCEPT, "User-Agent": user_agent})
        own.update(headers or {})
        # What may go anywhere is left to aiohttp, which is the fastest. The rest is added by us.
        common = {name: value for name, value in own.items() if may_travel(name)}
        self._secrets = {name: value for name, value in own.items() if not may_travel(name)}
        self._clients = Clients(limits=limits, headers=common, concurrency=concurrency, tls=tls)
        self._lean = Lean(limits, common)
        # By their seconds, which are few: those of pages, of robots.txt, of sitemaps.
        self._deadlines: dict[float, Deadlines] = {limits.total: Deadlines(limits.total)}

    async def open(self) -> None:
        """Make the connection pool."""
        await self._clients.open()

    async def close(self) -> None:
        """Close all connections."""
        for deadlines in self._deadlines.values():
            deadlines.close()
        await self._clients.close()

    async def fetch(
        self,
        request: Request,
        session: Session,
        *,
        limits: Limits | None = None,
        may_follow: MayFollow | None = None,
    ) -> Response:
        """Fetch one request, and follow where it is redirected to (see `Hop.follow`).

        Args:
            request: What to fetch.
            session: Whose cookies, headers and proxy it has.
            limits: Other limits than the fetcher's own.
            may_follow: Asked at each redirect. What it raises is raised as it is.

        Raises:
            NetworkError: No connection, no such host, a reset, bad TLS or malformed HTTP.
            ProxyError: The proxy is why there is no response.
            FetchTimeoutError: A limit of time was met.
            LimitError: A limit of size was met.
            PrivateAddressError: It leads to a private address, and may not.
            RedirectError: Too many redirects, or one that may not be followed.
            UrlError: A link to a port that is not for the web.
            UsageError: A header or method that HTTP cannot express.
        """
        started = perf_counter()
        limits = limits or self._limits
        hop = Hop(
            request.url,
            request.method.upper(),
            request.body,
            self._merge(request, session),
            request.private or self._allow_private,
        )
        if request.depth and is_bad_port(host_of(hop.url)):
            raise UrlError(f"{short(hop.url)} is not fetched: its port is not for the web")
        redirects: list[str] = []
        deadlines = self._deadlines.get(limits.total)
        if deadlines is None:
            deadlines = self._deadlines[limits.total] = Deadlines(limits.total)
        deadline = Deadline(deadlines)
        try:
            with deadline:
                while True:
                    response = await self._exchange(request, hop, session, limits)
                    location = None
                    if response.status in _REDIRECTS:
                        location = response.headers.get("Location")
                    if location is None:
                        response.redirects = tuple(redirects)
                        response.elapsed = perf_counter() - started
                        return response
                    target = hop.target(location)
                    redirects.append(hop.url)
                    if len(redirects) > limits.redirects:
                        raise RedirectError(
                            f"more than {limits.redirects} redirects, the last to {short(target)}"
                        )
                    is_private = response.is_private or self._allow_private
                    if may_follow is not None and (
                        reason := await may_follow(hop.url, target, is_private)
                    ):
                        raise RedirectError(
                            f"redirected to {short(target)}, which is not followed: {reason}"
                        )
                    hop = hop.follow(target, response.status, is_private=is_private)
        except TimeoutError as error:
            if not deadline.is_missed:
                raise
            message = f"{host_of(hop.url)} took longer than {limits.total:g} s"
            raise FetchTimeoutError(message) from error

    def _exchange(
        self, request: Request, hop: Hop, session: Session, limits: Limits
    ) -> Awaitable[Response]:
        """The response to one hop, from the cache or the site. One that redirects has no body."""
        # Before the cache is asked: what a private site once said is not for pages of the web.
        if not hop.is_private and is_private_host(host_of(hop.url)):
            raise PrivateAddressError(private_address(host_of(hop.url)))
        # No coroutines but those that wait for something: each costs every page a microsecond.
        if self._credentials is None:
            ask = self._send
        else:
            ask = partial(self._authorized, self._credentials)
        if self._cache is None:
            return ask(hop, session, limits)
        return self._cache.exchange(
            request,
            hop,
            lambda hop: ask(hop, session, limits),
            cookies=session.cookie_header,
        )

    async def _authorized(
        self, credentials: Credentials, hop: Hop, session: Session, limits: Limits
    ) -> Response:
        """The site's response, asked a second time where it wants to know who is there."""
        if hop.headers is not None and "Authorization" in hop.headers:
            return await self._send(hop, session, limits)
        known = credentials.authorize(hop.method, hop.url)
        response = await self._send(hop, session, limits, known)
        if response.status == 401:
            challenges = response.headers.getall("WWW-Authenticate", ())
            answer = credentials.answer(hop.method, hop.url, hop.body, challenges, sent=known)
            if answer is not None:
                return await self._send(hop, session, limits, answer)
        return response

    async def _send(
        self, hop: Hop, session: Session, limits: Limits, authorization: str | None = None
    ) -> Response:
        """One request and its response, through the proxy whose turn it is."""
        headers = hop.headers
        cookies = session.cookie_header(hop.url)
        if cookies or authorization is not None:
            headers = _with(headers, cookies, authorization)
        pool = self._proxies
        started_at = 0.0 if pool is None else self._clock.now()
        proxy = session.proxy if pool is None else pool.pick(hop.url, session)
        try:
            if proxy is None:
                client = self._clients.direct(is_private=hop.is_private)
                return await self._talk(client, hop, headers, session, limits)
            attempt = Attempt()
            response = await self._talk_through(proxy, attempt, hop, headers, session, limits)
        except Exception as error:
            ours = failure(error, hop.url, proxy, limits)
            if proxy is not None:
                ours = await _blamed(ours, error, proxy, attempt, limits)
                if pool is not None and attempt.is_connected and is_break(error):
                    host = host_of(hop.url)
                    if pool.broke(proxy, host):
                        place = place_of(proxy)
                        message = f"the proxy {place} breaks connections off, as that to {host}"
                        ours = ProxyError(message, proxy=place)
                if pool is not None and isinstance(ours, ProxyError):
                    pool.failed(proxy, started_at=started_at)
            if ours is error:
                raise
            raise ours from error
        if pool is not None:
            pool.worked(proxy, host_of(hop.url))
        return response

    async def _talk_through(
        self,
        proxy: str,
        attempt: Attempt,
        hop: Hop,
        headers: CIMultiDict[str] | None,
        session: Session,
        limits: Limits,
    ) -> Response:
        options: dict[str, Any] = {"trace_request_ctx": attempt}
        if proxy.startswith("socks"):
            async with self._clients.socks(proxy, host_of(hop.url)) as client:
                return await self._talk(client, hop, headers, session, limits, **options)
        options["proxy"] = proxy
        client = self._clients.proxied()
        response = await self._talk(client, hop, headers, session, limits, **options)
        if response.status == 407:
            place = place_of(proxy)
            raise ProxyError(f"the proxy {place} refuses: 407, it wants a password", proxy=place)
        return response

    async def _talk(
        self,
        client: aiohttp.ClientSession,
        hop: Hop,
        headers: CIMultiDict[str] | None,
        session: Session,
        limits: Limits,
        **options: Any,
    ) -> Response:
        url = hop.url
        answer: Answer | aiohttp.ClientResponse
        if limits is not self._limits:
            options["timeout"] = timeout_of(limits)
            options["max_line_size"] = options["max_field_size"] = limits.headers
        plain = None if options else self._lean.plain(hop, headers)
        recorder = self._recorder
        tap = None if recorder is None else Tap(hop, self._clock.now(), plain)
        if plain is not None:
            answer = await self._lean.ask(client, plain)
        else:
            try:
                answer = await client.request(
                    hop.method,
                    URL(url, encoded=True),
                    headers=headers,
                    data=hop.body,
                    allow_redirects=False,
                    **options,
                )
            except aiohttp.ClientError:
                raise  # some of them are a ValueError, too
            except (ValueError, TypeError) as error:
                raise UsageError(f"{short(url)} cannot be asked for: {one_line(error)}") from error
        host = host_of(url)
        try:
            # aiohttp has bounded the number of headers and the size of each.
            if sum(map(len, chain.from_iterable(answer.raw_headers))) > limits.headers:
                raise too_many_headers(url, limits)
            if "Set-Cookie" in answer.headers:
                cookies = answer.headers.getall("Set-Cookie")
                if not knows_suffixes() and any("domain" in one.lower() for one in cookies):
                    await asyncio.to_thread(read_suffixes)
                session.store_cookies(url, cookies)
            body = b""
            is_page = answer.status not in _REDIRECTS or "Location" not in answer.headers
            if tap is not None:
                tap.connected(answer, is_proxied="trace_request_ctx" in options)
            if is_page:
                body = await read_body(answer, host, limits, None if tap is None else tap.blocks)
            if tap is not None and recorder is not None:
                await recorder.keep(tap.exchange(answer, is_read=is_page))
        finally:
            # Where the body was read to its end, this has happened; where it was not, the
            # connection is closed.
            answer.release()
        return Response(
            url=url,
            status=answer.status,
            headers=answer.headers,
            body=body,
            is_private=hop.is_private and self._clients.is_private(host),
        )

    def _merge(self, request: Request, session: Session) -> CIMultiDict[str] | None:
        """The headers of the request, its session and the crawl, or ``None`` where there are none.

        Those that aiohttp adds are not among them.
        """
        if not (request.headers or session.headers or self._secrets):
            return None
        headers = CIMultiDict(self._secrets)
        headers.update(session.headers)
        headers.update(request.headers)
        return headers


def _with(
    headers: CIMultiDict[str] | None, cookies: str, authorization: str | None
) -> CIMultiDict[str]:
    """The headers of a hop, and what the session and the credentials add to one exchange."""
    headers = CIMultiDict(headers or ())
    if cookies:
        own = headers.get("Cookie")
        headers["Cookie"] = f"{cookies}; {own}" if own else cookies
    if authorization is not None:
        headers["Authorization"] = authorization
    return headers


async def _blamed(
    ours: Exception, error: Exception, proxy: str, attempt: Attempt, limits: Limits
) -> Exception:
    """The error, or a `ProxyError` where the proxy did not so much as give a connection.

    A dead site must not send one proxy after the other to rest. Where nobody says which of them was
    silent, the proxy is tried.
    """
    place = place_of(proxy)
    match error:
        case aiohttp.ConnectionTimeoutError():
            if not await is_reachable(proxy, limits.idle / 10):
                message = f"no connection to the proxy {place} within {limits.idle:g} s"
                return ProxyError(message, proxy=place)
        case aiohttp.ClientConnectorError():
            pass  # it has come as far as the site
        case aiohttp.ClientOSError() | aiohttp.ServerDisconnectedError():
            if not attempt.is_connected:
                return ProxyError(f"the proxy {place} closed the connection", proxy=place)
    return ours

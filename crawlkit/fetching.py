"""Fetcher: from a request to its response. The protocol, and the fetcher on aiohttp.

Redirects are in our own hands, for each hop has to be asked about: may the crawl go there, and what
of the request's headers may go along.
"""

from __future__ import annotations

import asyncio
import ssl
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from itertools import chain
from time import perf_counter
from types import TracebackType
from typing import Protocol
from urllib.parse import quote

import aiohttp
from aiohttp.http_exceptions import LineTooLong
from multidict import CIMultiDict
from yarl import URL

from .errors import (
    BlockedError,
    FetchError,
    FetchTimeoutError,
    LimitError,
    NetworkError,
    RedirectError,
    StatusError,
    UsageError,
    one_line,
)
from .request import Request, host_of
from .response import Response, http_date
from .sessions import Session
from .urls import Base

MAX_RETRY_AFTER = 3600.0
"""Seconds that a server may ask us to wait."""
MAX_HEADERS = 256
"""Header fields of a response; `Limits.headers` bounds their bytes."""
ACCEPT = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
"""The ``Accept`` header where nobody gives another."""
TRAVELLING_HEADERS = frozenset(
    {"accept", "accept-encoding", "accept-language", "content-type", "user-agent"}
)
"""Headers that a redirect to another origin may take along, besides those of ``Sec-``."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BODY_HEADERS = ("Content-Encoding", "Content-Language", "Content-Location", "Content-Type")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server may cost us.

    Attributes:
        idle: Seconds without a byte, also while connecting.
        total: Seconds for a whole request, redirects included.
        body: Bytes of a decoded body.
        headers: Bytes of a response's header fields.
        redirects: Redirects that are followed for one request.
    """

    idle: float = 30.0
    total: float = 60.0
    body: int = 16 * 1024 * 1024
    headers: int = 64 * 1024
    redirects: int = 20


class Fetcher(Protocol):
    """What turns requests into responses. Give a crawler another one to change how it fetches."""

    async def open(self) -> None:
        """Get ready. Called once, in the event loop in which `fetch` will be called."""

    async def close(self) -> None:
        """Give everything back. Nothing is being fetched any more."""

    async def fetch(self, request: Request, session: Session) -> Response:
        """Fetch one request.

        A status is no error here: the crawler decides what a 404 means to it. Cookies that the
        server sets belong into `session`.

        Raises:
            FetchError: There is no response, or none that we may have.
        """
        ...


class AiohttpFetcher(Fetcher):
    """The fetcher for plain HTTP, on aiohttp.

    Args:
        limits: What a server may cost us.
        user_agent: The ``User-Agent`` header.
        headers: Headers of every request. Those of the session and of the request go over them.
        concurrency: Connections in use at once, at most; 0 for as many as there are calls of
            `fetch`, which the crawler bounds already.
        may_follow: Asked at each redirect with the URL that redirects and the one that it leads
            to; answers why not, or ``None``.
        tls: An `ssl.SSLContext`, where the system's certificate authorities are not the right
            ones; ``False`` checks no certificate.
    """

    def __init__(
        self,
        *,
        limits: Limits = Limits(),
        user_agent: str = "crawlkit",
        headers: Mapping[str, str] | None = None,
        concurrency: int = 0,
        may_follow: Callable[[str, str], str | None] | None = None,
        tls: ssl.SSLContext | bool = True,
    ) -> None:
        self._limits = limits
        self._concurrency = concurrency
        self._may_follow = may_follow
        self._tls = tls
        own = CIMultiDict({"Accept": ACCEPT, "User-Agent": user_agent})
        own.update(headers or {})
        # What may go anywhere is left to aiohttp, which is the fastest. The rest is added by us.
        self._headers = {name: value for name, value in own.items() if _may_travel(name)}
        self._secrets = {name: value for name, value in own.items() if not _may_travel(name)}
        self._client: aiohttp.ClientSession | None = None
        self._deadlines = _Deadlines(limits.total)

    async def open(self) -> None:
        """Make the connection pool."""
        self._client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._concurrency, ssl=self._tls, ttl_dns_cache=300, dns_cache_max_size=10_000
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
            # The time for all of it is kept by `_Deadlines`.
            timeout=aiohttp.ClientTimeout(
                total=None, connect=self._limits.idle, sock_read=self._limits.idle
            ),
            max_line_size=self._limits.headers,
            max_field_size=self._limits.headers,
            max_headers=MAX_HEADERS,
        )

    async def close(self) -> None:
        """Close all connections."""
        self._deadlines.close()
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def fetch(self, request: Request, session: Session) -> Response:
        """Fetch one request, and follow where it is redirected to.

        Methods, bodies and headers change at a redirect as in the Fetch Standard ("HTTP-redirect
        fetch"), but for one thing: where the origin changes, not only credentials are left behind
        but every header that may be secret, which is all but a few (`TRAVELLING_HEADERS`).

        Raises:
            NetworkError: No connection, no such host, a reset, bad TLS or malformed HTTP.
            FetchTimeoutError: A limit of time was met.
            LimitError: A limit of size was met.
            RedirectError: Too many redirects, or one that may not be followed.
            UsageError: A header or method that HTTP cannot express.
        """
        if self._client is None:
            raise UsageError("the fetcher is not open; await its open() first")
        started = perf_counter()
        hop = _Hop(request.url, request.method.upper(), request.body, self._merge(request, session))
        redirects: list[str] = []
        try:
            with _Deadline(self._deadlines):
                while True:
                    response, target = await self._exchange(self._client, hop, session)
                    if target is None:
                        response.redirects = tuple(redirects)
                        response.elapsed = perf_counter() - started
                        return response
                    redirects.append(hop.url)
                    if len(redirects) > self._limits.redirects:
                        raise RedirectError(
                            f"more than {self._limits.redirects} redirects, the last to "
                            f"{_short(target)}"
                        )
                    hop = hop.follow(target, response.status)
        except Exception as error:
            failure = _failure(error, hop.url, session.proxy, self._limits)
            if failure is error:
                raise
            raise failure from error

    async def _exchange(
        self, client: aiohttp.ClientSession, hop: _Hop, session: Session
    ) -> tuple[Response, str | None]:
        """One request and its response, and the URL that it redirects to, if it does."""
        headers = hop.headers
        cookies = session.cookie_header(hop.url)
        if cookies:
            headers = CIMultiDict(headers or ())
            own = headers.get("Cookie")
            headers["Cookie"] = f"{cookies}; {own}" if own else cookies
        try:
            answer = await client.request(
                hop.method,
                URL(hop.url, encoded=True),
                headers=headers,
                data=hop.body,
                proxy=session.proxy,
                allow_redirects=False,
            )
        except aiohttp.ClientError:
            raise  # some of them are a ValueError, too
        except (ValueError, TypeError) as error:
            raise UsageError(f"{_short(hop.url)} cannot be asked for: {one_line(error)}") from error
        try:
            # aiohttp has bounded the number of headers and the size of each.
            if sum(map(len, chain.from_iterable(answer.raw_headers))) > self._limits.headers:
                raise _too_many_headers(hop.url, self._limits)
            if "Set-Cookie" in answer.headers:
                session.store_cookies(hop.url, answer.headers.getall("Set-Cookie"))
            target = None
            body = b""
            if answer.status in _REDIRECTS and "Location" in answer.headers:
                target = self._target(hop.url, answer.headers["Location"])
            else:
                body = await self._read(answer, hop.url)
        finally:
            # Where the body was read to its end, this has happened; where it was not, the
            # connection is closed.
            answer.release()
        return (
            Response(url=hop.url, status=answer.status, headers=answer.headers, body=body),
            target,
        )

    async def _read(self, answer: aiohttp.ClientResponse, url: str) -> bytes:
        """The decoded body, no longer than the limit."""
        content = answer.content
        limit = self._limits.body
        body = await content.readany()
        size = len(body)
        if not content.at_eof():
            blocks = [body]
            while size <= limit and (block := await content.readany()):
                size += len(block)
                blocks.append(block)
            body = b"".join(blocks)
        if size > limit:
            raise LimitError(f"the body from {host_of(url)} is longer than {limit} bytes")
        return body

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

    def _target(self, url: str, location: str) -> str:
        """Where a redirect leads, in canonical form.

        Raises:
            RedirectError: To where we may not go.
        """
        target = Base(url).join(_as_text(location))
        if target is None:
            raise RedirectError(f"redirected to {_short(location)!r}, which cannot be crawled")
        if self._may_follow is not None and (reason := self._may_follow(url, target)):
            raise RedirectError(f"redirected to {_short(target)}, which is not followed: {reason}")
        return target


@dataclass(slots=True)
class _Hop:
    """One request on the way to a response."""

    url: str
    method: str
    body: bytes | None
    headers: CIMultiDict[str] | None

    def follow(self, url: str, status: int) -> _Hop:
        """The request that a redirect asks for."""
        method, body = self.method, self.body
        headers = CIMultiDict(self.headers or ())
        if (status in (301, 302) and method == "POST") or (
            status == 303 and method not in ("GET", "HEAD")
        ):
            method, body = "GET", None
            for name in _BODY_HEADERS:
                headers.popall(name, None)
        if _origin(url) != _origin(self.url):
            for name in [name for name in headers if not _may_travel(name)]:
                headers.popall(name, None)
        return _Hop(url, method, body, headers or None)


class _Deadlines:
    """Ends every fetch that takes longer than the limit, with one timer for all of them.

    All have the same limit, so they are over in the order in which they began. A timer for each,
    as `asyncio.timeout` makes it, takes longer than all else that this file adds to a fetch.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._running: dict[_Deadline, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, deadline: _Deadline, loop: asyncio.AbstractEventLoop) -> None:
        """It begins."""
        end = loop.time() + self._seconds
        self._running[deadline] = end
        if self._timer is None:
            self._timer = loop.call_at(end, self._look, loop)

    def remove(self, deadline: _Deadline) -> None:
        """It was met."""
        self._running.pop(deadline, None)

    def close(self) -> None:
        """Let the timer go."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        for deadline, end in tuple(self._running.items()):
            if end > now:
                self._timer = loop.call_at(end, self._look, loop)
                break
            del self._running[deadline]
            deadline.miss()


class _Deadline:
    """A context manager that raises `TimeoutError`; see `asyncio.Timeout`, whose ways it has."""

    __slots__ = ("_cancelling", "_deadlines", "_is_missed", "_task")

    _task: asyncio.Task[object]

    def __init__(self, deadlines: _Deadlines) -> None:
        self._deadlines = deadlines
        self._is_missed = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a fetch must run in a task")
        self._task = task
        self._cancelling = task.cancelling()
        self._deadlines.add(self, task.get_loop())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._deadlines.remove(self)
        # A task that was cancelled from outside, too, goes on being cancelled.
        if (
            self._is_missed
            and self._task.uncancel() <= self._cancelling
            and kind is asyncio.CancelledError
        ):
            raise TimeoutError from error

    def miss(self) -> None:
        """The time is over."""
        self._is_missed = True
        self._task.cancel()


def _may_travel(name: str) -> bool:
    name = name.lower()
    return name in TRAVELLING_HEADERS or name.startswith("sec-")


def _origin(url: str) -> tuple[str, str]:
    return url.partition(":")[0], host_of(url)


def _short(url: str) -> str:
    return url if len(url) <= 200 else f"{url[:200]}..."


def _as_text(location: str) -> str:
    """A Location header whose bytes are no UTF-8, percent-encoded byte by byte, as browsers do.

    aiohttp reads such bytes as lone surrogates.
    """
    if location.isascii() or location.isprintable():
        return location
    return quote(location.encode("utf-8", "surrogateescape"), safe=string.printable)


def _failure(error: Exception, url: str, proxy: str | None, limits: Limits) -> Exception:
    """What went wrong, as an error of ours."""
    host = host_of(url)
    match error:
        case FetchError() | UsageError():
            return error
        case aiohttp.ConnectionTimeoutError():
            return FetchTimeoutError(f"no connection to {host} within {limits.idle:g} s")
        case aiohttp.SocketTimeoutError():
            return FetchTimeoutError(f"{host} sent nothing for {limits.idle:g} s")
        case aiohttp.ClientProxyConnectionError():
            return NetworkError(f"no connection to the proxy {_place(proxy)}: {_reason(error)}")
        case aiohttp.ClientHttpProxyError():
            return NetworkError(
                f"the proxy {_place(proxy)} refuses: {error.status} {error.message}"
            )
        case aiohttp.ClientConnectorDNSError():
            return NetworkError(f"no address for {host}: {_reason(error)}")
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return NetworkError(f"no TLS with {host}: {_reason(error)}")
        case aiohttp.ClientConnectorError():
            return NetworkError(f"no connection to {host}: {_reason(error)}")
        case aiohttp.ServerDisconnectedError():
            return NetworkError(f"{host} closed the connection without a response")
        case aiohttp.ClientPayloadError():
            return NetworkError(f"the body from {host} broke off: {_reason(error)}")
        case aiohttp.ClientResponseError():
            cause = error.__cause__ and error.__cause__.__cause__
            if isinstance(cause, LineTooLong) or error.message.startswith("Too many headers"):
                return _too_many_headers(url, limits)
            return NetworkError(f"{host} sent malformed HTTP: {_reason(error)}")
        # OSError comes after its subclasses; TimeoutError is one of them.
        case TimeoutError():
            return FetchTimeoutError(f"{host} took longer than {limits.total:g} s")
        case OSError() | aiohttp.ClientError():
            return NetworkError(f"the connection to {host} failed: {_reason(error)}")
    return error


def _too_many_headers(url: str, limits: Limits) -> LimitError:
    return LimitError(
        f"{host_of(url)} sent more than {limits.headers} bytes or {MAX_HEADERS} fields of headers"
    )


def _reason(error: BaseException) -> str:
    """The first line of what the libraries below say."""
    cause = getattr(error, "os_error", None) or error.__cause__ or error
    text = getattr(cause, "strerror", None) or getattr(cause, "message", None) or one_line(cause)
    return str(text).strip().partition("\n")[0].rstrip(":.")[:200]


def _place(proxy: str | None) -> str:
    """A proxy's address without its credentials."""
    return host_of(proxy or "").rpartition("@")[2]


# -- what a response means --------------------------------------------------------------------


def failure_of(response: Response) -> FetchError | None:
    """The error that a response's status stands for, or ``None`` where it is a page.

    401, 403 and 429 say that the session is blocked; other statuses from 400 on, and below 200,
    are failures, of which 408 and those from 500 on are worth another try.
    """
    status = response.status
    if 200 <= status < 400:
        return None
    try:
        text = f"HTTP {status} {HTTPStatus(status).phrase}"
    except ValueError:
        text = f"HTTP {status}"
    message = f"{text} from {host_of(response.url)}"
    if status in (401, 403, 429):
        return BlockedError(message, status)
    return StatusError(message, status)


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that a server asks us to wait, or ``None`` where it does not, or not clearly.

    ``Retry-After`` is a number of seconds or a date (RFC 9110, section 10.2.3). A date is compared
    with the server's own ``Date`` where there is one, since its clock need not agree with ours.

    Args:
        headers: The response's headers, in any case.
        now: Unix time.

    Returns:
        From 0 to an hour (`MAX_RETRY_AFTER`).
    """
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdecimal():
        # Twelve digits are more than an hour, whatever follows; int() refuses some thousands.
        return min(float(value[:12]), MAX_RETRY_AFTER)
    date = http_date(value)
    if date is None:
        return None
    server = http_date(headers.get("Date", ""))
    return min(max(date - (now if server is None else server), 0.0), MAX_RETRY_AFTER)

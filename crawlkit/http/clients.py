"""Clients: the connections of a fetcher, and which of them a hop may use.

Connections are pooled by host, so whether one may lead to a private address is decided when it is
made, and pages of the web have other connections than those that may go anywhere.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from ..errors import MissingError, NetworkError, PrivateAddressError, ProxyError, UsageError
from ..importing import load
from .addresses import is_private_host, is_public
from .cookies import hostname
from .failures import MAX_HEADERS
from .lean import READ_BUFFER
from .limits import Limits
from .protocol import Connector, guarded
from .proxies import place_of

MAX_NAMES = 10_000
"""Names whose addresses are remembered."""
MAX_SOCKS_PROXIES = 256
"""SOCKS proxies that connections are kept for while nobody uses them."""

# Replies of a SOCKS5 proxy (RFC 1928, section 6) that say that the site cannot be reached: network
# or host unreachable, connection refused, time to live expired. The proxy is not to blame.
_SITE_UNREACHABLE = frozenset({3, 4, 5, 6})


class Clients:
    """The aiohttp clients of a fetcher.

    Args:
        limits: What a server may cost us.
        headers: Headers that every request has, unless it has its own.
        concurrency: Connections in use at once, at most, of each client; 0 for any number.
        tls: As in `AiohttpFetcher`.
    """

    def __init__(
        self,
        *,
        limits: Limits,
        headers: Mapping[str, str],
        concurrency: int,
        tls: ssl.SSLContext | bool,
    ) -> None:
        self._limits = limits
        self._headers = headers
        self._concurrency = concurrency
        self._tls = tls
        self._resolver: Resolver | None = None
        self._anywhere: aiohttp.ClientSession | None = None
        self._public: aiohttp.ClientSession | None = None
        self._proxied: aiohttp.ClientSession | None = None
        self._socks: OrderedDict[str, _Socks] = OrderedDict()

    async def open(self) -> None:
        """Make the client that may connect to any address; the others are made when needed."""
        self._resolver = Resolver(aiohttp.DefaultResolver())
        self._anywhere = self._client(Connector(resolver=self._resolver, **self._options))

    async def close(self) -> None:
        """Close all connections."""
        socks = (one.client for one in self._socks.values())
        for client in (self._anywhere, self._public, self._proxied, *socks):
            if client is not None:
                await client.close()
        if self._resolver is not None:
            await self._resolver.close()
        self._resolver = self._anywhere = self._public = self._proxied = None
        self._socks.clear()

    def direct(self, *, is_private: bool) -> aiohttp.ClientSession:
        """The client for a hop that goes to its site.

        Args:
            is_private: Whether it may connect to a private address.

        Raises:
            UsageError: The fetcher is not open.
        """
        if is_private and self._anywhere is not None:
            return self._anywhere
        if self._public is None:
            self._public = self._client(
                Connector(
                    resolver=PublicResolver(self._opened()),
                    socket_factory=public_socket,
                    **self._options,
                )
            )
        return self._public

    def proxied(self) -> aiohttp.ClientSession:
        """The client for a hop that goes through an HTTP proxy, whose address may be private.

        Its requests have an `Attempt` as ``trace_request_ctx``.

        Raises:
            UsageError: The fetcher is not open.
        """
        if self._proxied is None:
            connector = Connector(resolver=self._opened(), **self._options)
            self._proxied = self._client(connector, [_trace()])
        return self._proxied

    @asynccontextmanager
    async def socks(self, proxy: str, host: str) -> AsyncIterator[aiohttp.ClientSession]:
        """The client for a hop that goes through a SOCKS proxy, which looks up the site's name.

        Its requests have an `Attempt` as ``trace_request_ctx``.

        Args:
            proxy: Its URL, ``socks5://[user:password@]host:port``; ``socks5h`` is the same.
            host: The hop's host, for messages.

        Raises:
            MissingError: aiohttp-socks is not installed.
            UsageError: The fetcher is not open.
            ProxyError: The proxy cannot be reached, or refuses.
            NetworkError: The proxy says that it cannot reach the host.
        """
        self._opened()
        try:
            # Imported here because it comes with the extra, and few crawls have SOCKS proxies.
            await load("aiohttp_socks")
            import aiohttp_socks
        except ImportError:
            raise MissingError(
                "SOCKS proxies need aiohttp-socks; install it with: pip install 'crawlkit[socks]'"
            ) from None
        known = self._socks.get(proxy)
        if known is None:
            url = "socks5" + proxy[proxy.index(":") :]
            connector = aiohttp_socks.ProxyConnector.from_url(url, rdns=True, **self._options)
            known = self._socks[proxy] = _Socks(self._client(guarded(connector), [_trace()]))
        self._socks.move_to_end(proxy)
        known.users += 1
        place = place_of(proxy)
        try:
            yield known.client
        except aiohttp_socks.ProxyConnectionError as error:
            raise ProxyError(f"no connection to the proxy {place}: {error}", proxy=place) from error
        except aiohttp_socks.ProxyTimeoutError as error:
            raise ProxyError(f"the proxy {place} is silent", proxy=place) from error
        except aiohttp_socks.ProxyError as error:
            if error.error_code in _SITE_UNREACHABLE:
                raise NetworkError(
                    f"no connection to {host}: the proxy {place} says {error}"
                ) from error
            raise ProxyError(f"the proxy {place} refuses: {error}", proxy=place) from error
        finally:
            known.users -= 1
            await self._forget_idle()

    def is_private(self, host: str) -> bool:
        """Whether a host's addresses are all private, as far as is known.

        Args:
            host: ``host[:port]`` of a canonical URL.
        """
        return is_private_host(host) or (
            self._resolver is not None and self._resolver.is_private(hostname(host))
        )

    def _opened(self) -> Resolver:
        if self._resolver is None:
            raise UsageError("the fetcher is not open; await its open() first")
        return self._resolver

    async def _forget_idle(self) -> None:
        """Close the connections to proxies that were unused for longest, where they are many."""
        while len(self._socks) > MAX_SOCKS_PROXIES:
            idle = next((proxy for proxy, one in self._socks.items() if not one.users), None)
            if idle is None:
                return
            await self._socks.pop(idle).client.close()

    @property
    def _options(self) -> dict[str, Any]:
        return {
            "limit": self._concurrency,
            "ssl": self._tls,
            "ttl_dns_cache": 300,
            "dns_cache_max_size": MAX_NAMES,
        }

    def _client(
        self, connector: aiohttp.TCPConnector, traces: list[aiohttp.TraceConfig] | None = None
    ) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
            auto_decompress=False,
            timeout=timeout_of(self._limits),
            max_line_size=self._limits.headers,
            max_field_size=self._limits.headers,
            max_headers=MAX_HEADERS,
            read_bufsize=READ_BUFFER,
            trace_configs=traces,
        )


@dataclass(slots=True)
class _Socks:
    """The client of one SOCKS proxy, and how many hops are using it."""

    client: aiohttp.ClientSession
    users: int = 0


@dataclass(slots=True)
class Attempt:
    """One request through a proxy.

    Attributes:
        is_connected: Whether the proxy has given a connection. Before that, it is the proxy who
            hangs up; from then on it is more likely the site.
    """

    is_connected: bool = False


def _trace() -> aiohttp.TraceConfig:
    """What tells an `Attempt` of its connection. It costs time, so only proxies have it."""

    async def connected(session: object, context: SimpleNamespace, event: object) -> None:
        context.trace_request_ctx.is_connected = True

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(connected)
    trace.on_connection_reuseconn.append(connected)
    return trace


def timeout_of(limits: Limits) -> aiohttp.ClientTimeout:
    """The limits of time that aiohttp keeps; that of a whole request is kept by `Deadlines`."""
    return aiohttp.ClientTimeout(total=None, connect=limits.idle, sock_read=limits.idle)


def public_socket(info: aiohttp.AddrInfoType) -> socket.socket:
    """A socket for a connection to an address that must be public.

    Raises:
        PrivateAddressError: It is not. This is the last place before the connection is made.
    """
    family, kind, protocol, _, address = info
    if not is_public(str(address[0])):
        raise PrivateAddressError(private_address(str(address[0])))
    return socket.socket(family, kind, protocol)


def private_address(where: str) -> str:
    """The message for a link or a redirect to a private address."""
    return (
        f"{where} is private, and a link or redirect of a public page led there; "
        "set allow_private if that is meant"
    )


class Resolver(AbstractResolver):
    """Looks names up, and remembers those whose addresses are all private.

    Args:
        resolver: What does the looking up.
    """

    def __init__(self, resolver: AbstractResolver) -> None:
        self._resolver = resolver
        self._private: OrderedDict[str, None] = OrderedDict()

    def is_private(self, name: str) -> bool:
        """Whether all addresses were private when `name` was last looked up."""
        return name in self._private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of a name."""
        found = await self._resolver.resolve(host, port, family)
        self._private.pop(host, None)
        if not any(is_public(address["host"]) for address in found):
            self._private[host] = None
            if len(self._private) > MAX_NAMES:
                self._private.popitem(last=False)
        return found

    async def close(self) -> None:
        """Give everything back."""
        await self._resolver.close()


class PublicResolver(AbstractResolver):
    """Looks names up, and tells their public addresses only.

    Args:
        resolver: What does the looking up. It is not closed with this one.
    """

    def __init__(self, resolver: AbstractResolver) -> None:
        self._resolver = resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The public addresses of a name.

        Raises:
            PrivateAddressError: It has none.
        """
        found = await self._resolver.resolve(host, port, family)
        public = [address for address in found if is_public(address["host"])]
        if found and not public:
            raise PrivateAddressError(private_address(f"{host} ({found[0]['host']})"))
        return public

    async def close(self) -> None:
        """Nothing to do."""


async def is_reachable(proxy: str, seconds: float) -> bool:
    """Whether something accepts connections at a proxy's address."""
    parts = urlsplit(proxy)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(parts.hostname, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True

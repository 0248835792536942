"""Tunnels: connections to an address, or through a proxy, that carry whatever is written to them.

They are for those who speak for themselves once they are connected, as a browser does.
"""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
from collections.abc import Iterable
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

from ..errors import MissingError, NetworkError, ProxyError
from ..http.failures import reason
from ..http.proxies import place_of
from ..importing import load
from ..streams import send

Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]

MAX_HEAD = 64 * 1024
"""Bytes of a header; also how much is read ahead."""

# What a proxy says of a site that it cannot reach, and is not to blame for: by HTTP status, and
# by the replies of SOCKS5 (RFC 1928, section 6).
_SITE_UNREACHABLE = frozenset({b"502", b"503", b"504"})
_SITE_UNREACHABLE_BY_SOCKS = frozenset({3, 4, 5, 6})


async def connect(host: str, port: int, addresses: Iterable[str]) -> Streams:
    """A connection to the first of a host's addresses that takes one.

    Raises:
        NetworkError: None does.
    """
    said = "it has no address"
    for address in addresses:
        try:
            return await asyncio.open_connection(address, port, limit=MAX_HEAD)
        except OSError as error:
            said = _why(error)
    raise NetworkError(f"no connection to {host}: {said}")


async def connect_to_proxy(proxy: str) -> Streams:
    """A connection to an HTTP proxy itself.

    Raises:
        ProxyError: It cannot be reached.
    """
    parts = urlsplit(proxy)
    is_tls = parts.scheme == "https"
    try:
        return await asyncio.open_connection(
            parts.hostname,
            parts.port or (443 if is_tls else 80),
            limit=MAX_HEAD,
            ssl=ssl.create_default_context() if is_tls else None,
        )
    except OSError as error:
        if isinstance(error, TimeoutError):
            raise
        place = place_of(proxy)
        raise ProxyError(
            f"no connection to the proxy {place}: {_why(error)}", proxy=place
        ) from error


async def connect_through(proxy: str, name: str, port: int) -> Streams:
    """A connection to a host through a proxy, which looks its name up.

    Args:
        proxy: URL of the proxy: http, https, socks5 or socks5h, of which the last two are the same.
        name: The host's name or address.
        port: Its port.

    Raises:
        ProxyError: The proxy cannot be reached, or refuses.
        NetworkError: The proxy says that it cannot reach the host.
        MissingError: A SOCKS proxy, and aiohttp-socks is not installed.
    """
    if proxy.startswith("socks"):
        return await _through_socks(proxy, name, port)
    reader, writer = await connect_to_proxy(proxy)
    try:
        await _ask(reader, writer, proxy, f"[{name}]:{port}" if ":" in name else f"{name}:{port}")
    except BaseException:
        writer.transport.abort()
        raise
    return reader, writer


async def _ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, proxy: str, host: str
) -> None:
    """Ask an HTTP proxy for a tunnel (RFC 9110, section 9.3.6)."""
    place = place_of(proxy)
    request = f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n".encode() + credentials(proxy) + b"\r\n"
    try:
        send(writer, request)
        head = await reader.readuntil(b"\r\n\r\n")
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        if isinstance(error, TimeoutError):
            raise
        raise ProxyError(f"the proxy {place} does not answer as one", proxy=place) from error
    answer = head.partition(b"\r\n")[0].split(None, 1)[1:]
    status = answer[0][:3] if answer else b""
    said = answer[0].decode("latin-1") if answer else "nothing"
    if status in _SITE_UNREACHABLE:
        raise NetworkError(f"no connection to {host}: the proxy {place} says {said}")
    if not status.startswith(b"2"):
        raise ProxyError(f"the proxy {place} refuses: {said}", proxy=place)


async def _through_socks(proxy: str, name: str, port: int) -> Streams:
    try:
        # Imported here because it comes with the extra, and few crawls have SOCKS proxies.
        await load("python_socks.async_.asyncio")
        from python_socks import ProxyConnectionError, ProxyTimeoutError
        from python_socks import ProxyError as Refusal
        from python_socks.async_.asyncio import Proxy
    except ImportError:
        raise MissingError(
            "SOCKS proxies need aiohttp-socks; install it with: pip install 'crawlkit[socks]'"
        ) from None
    place = place_of(proxy)
    client = Proxy.from_url("socks5" + proxy[proxy.index(":") :], rdns=True)
    try:
        connection = await client.connect(name, port)
    except (ProxyConnectionError, ProxyTimeoutError) as error:
        raise ProxyError(f"no connection to the proxy {place}: {error}", proxy=place) from error
    except Refusal as error:
        if error.error_code in _SITE_UNREACHABLE_BY_SOCKS:
            raise NetworkError(
                f"no connection to {name}:{port}: the proxy {place} says {error}"
            ) from error
        raise ProxyError(f"the proxy {place} refuses: {error}", proxy=place) from error
    return await asyncio.open_connection(sock=connection, limit=MAX_HEAD)


def _why(error: OSError) -> str:
    # asyncio's own text ("Connect call failed") does not say why.
    return os.strerror(error.errno) if error.errno and error.errno > 0 else reason(error)


def credentials(proxy: str) -> bytes:
    """The header field with the credentials that stand in the URL of a proxy, if any do."""
    parts = urlsplit(proxy)
    if parts.username is None:
        return b""
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
    return b"Proxy-Authorization: Basic " + base64.b64encode(pair) + b"\r\n"

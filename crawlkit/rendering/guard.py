"""Guard: the forward proxy on loopback that a browser has to go through.

What runs in a page can reach for any address: by an image, ``fetch()``, a WebSocket, a redirect, or
a name whose address changes between two look-ups. A browser can be asked about the URLs, but it
resolves the names by itself, later. So it is given no way to the network but this proxy, which
looks each name up once, asks about the addresses, and connects to those it has asked about.

It speaks as much HTTP as browsers speak to a proxy: CONNECT for https and WebSockets (RFC 9110,
section 9.3.6), and requests with the whole URL for http (RFC 9112, section 3.2.2).
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import logging
import secrets
import socket
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import TypeAlias

from ..errors import FetchTimeoutError, NetworkError, PrivateAddressError, ProxyError, one_line
from ..http.addresses import is_private_host, is_public
from ..http.clients import private_address
from ..http.cookies import hostname
from ..http.failures import reason
from ..http.proxies import place_of
from ..streams import send
from .tunnels import MAX_HEAD, Streams, connect, connect_through, connect_to_proxy, credentials

Resolve: TypeAlias = Callable[[str, int], Awaitable[list[str]]]
"""From a name and a port to its addresses. Raises an `OSError` where it has none."""
Fields: TypeAlias = list[tuple[bytes, bytes]]

MAX_REFUSALS = 256
"""Hosts of one access for which it is remembered why they cannot be reached."""
HEAD_TIMEOUT = 10.0
"""Seconds in which a browser, which is on the same machine, has to say where it wants to go."""

_BLOCK = 64 * 1024
# Between two neighbours only (RFC 9110, section 7.6.1).
_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-authorization", b"proxy-connection", b"te", b"upgrade"}
)

log = logging.getLogger("crawlkit.rendering.guard")


class Access:
    """What a visitor may do behind the guard, and the credentials that it is known by.

    Attributes:
        may_be_private: Whether private addresses may be reached, too.
        proxy: URL of the proxy that is next on the way (http, https, socks5 or socks5h), or
            ``None``. It looks the names up, so that only addresses and ``localhost`` are checked.
        username: User for the guard.
        password: Password for the guard.
    """

    __slots__ = ("_refusals", "may_be_private", "password", "proxy", "username")

    def __init__(self, *, may_be_private: bool = False, proxy: str | None = None) -> None:
        self.may_be_private = may_be_private
        self.proxy = proxy
        self.username = secrets.token_hex(8)
        self.password = secrets.token_urlsafe(24)
        self._refusals: OrderedDict[str, Exception] = OrderedDict()

    def refusal(self, host: str) -> Exception | None:
        """Why the last connection to ``host:port`` was not made, where it was not."""
        return self._refusals.get(host)

    def note(self, host: str, error: Exception | None) -> None:
        """Remember why ``host:port`` cannot be reached; ``None``: it can."""
        self._refusals.pop(host, None)
        if error is not None:
            self._refusals[host] = error
            if len(self._refusals) > MAX_REFUSALS:
                self._refusals.popitem(last=False)


class Guard:
    """A forward proxy on loopback for those who have an `Access`.

    Args:
        resolve: How names are looked up; by default as the system does it.
        is_public: Whether an address may be reached from everywhere.
        connect_timeout: Seconds in which a connection has to be made.
        idle_timeout: Seconds without a byte in either direction, after which one is closed.
    """

    def __init__(
        self,
        *,
        resolve: Resolve | None = None,
        is_public: Callable[[str], bool] = is_public,
        connect_timeout: float = 30.0,
        idle_timeout: float = 30.0,
    ) -> None:
        self._resolve = resolve or system_addresses
        self._is_public = is_public
        self._connect_timeout = connect_timeout
        self._idle_timeout = idle_timeout
        self._accesses: dict[str, Access] = {}
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Listen on a free port of 127.0.0.1."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=MAX_HEAD)

    async def close(self) -> None:
        """Listen no more, and close every connection."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._accesses.clear()

    @property
    def url(self) -> str:
        """The URL of this proxy, without credentials."""
        if self._server is None:
            raise RuntimeError("the guard is not open; await its open() first")
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @property
    def connections(self) -> int:
        """Connections of browsers that are open."""
        return len(self._tasks)

    def grant(self, access: Access) -> None:
        """Let those through who have the credentials of `access`."""
        self._accesses[access.username] = access

    def revoke(self, access: Access) -> None:
        """Begin nothing new for `access`. What is open ends with the browser's connections."""
        self._accesses.pop(access.username, None)

    async def is_private(self, host: str, proxy: str | None) -> bool:
        """Whether all addresses of ``host:port`` are private, as far as can be known here.

        Raises:
            NetworkError: It has no address.
        """
        name, port = _split(host)
        if proxy is not None:
            return not self._looks_public(name)
        return not any(map(self._is_public, await self._look_up(name, port)))

    # -- the browser's side -------------------------------------------------------------------

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of our own: those that asyncio makes from a coroutine complain when cancelled.
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._answer(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the browser sees a connection that ends
        except ValueError as error:
            log.debug("a request to the guard makes no sense: %s", one_line(error))
            send(writer, _status(400, "Bad Request"))
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(HEAD_TIMEOUT):
            line, fields = _parsed(await reader.readuntil(b"\r\n\r\n"))
        method, target, _ = line.split(b" ")
        access = self._authorized(fields)
        if access is None:
            challenge = 'Proxy-Authenticate: Basic realm="crawlkit"'
            send(writer, _status(407, "Proxy Authentication Required", challenge))
            return
        url = target.decode("ascii")
        is_tunnel = method == b"CONNECT"
        host, path = (url, "") if is_tunnel else _absolute(url)
        # An HTTP proxy is asked for http as we are: many make no tunnel to port 80.
        is_forwarded = not is_tunnel and (access.proxy or "").startswith("http")
        try:
            inward, outward = await self._connect(host, access, is_forwarded=is_forwarded)
        except Exception as error:
            # A page must not take an answer of ours for one of the server: http gets none.
            access.note(host, error)
            log.debug("refused: %s", one_line(error))
            if is_tunnel:
                send(writer, _status(502, "Bad Gateway"))
            return
        access.note(host, None)
        try:
            if is_tunnel:
                send(writer, b"HTTP/1.1 200 Connection established\r\n\r\n")
            elif is_forwarded:
                send(outward, _request(method, url, fields, credentials(access.proxy or "")))
            else:
                send(outward, _request(method, path, fields, b""))
            await self._relay(reader, writer, inward, outward, is_http=not is_tunnel)
        except TimeoutError:
            message = f"{host} sent nothing for {self._idle_timeout:g} s"
            access.note(host, FetchTimeoutError(message))
        finally:
            outward.transport.abort()

    def _authorized(self, fields: Fields) -> Access | None:
        for name, value in fields:
            if name.lower() == b"proxy-authorization" and value[:6].lower() == b"basic ":
                try:
                    user, _, password = base64.b64decode(value[6:]).decode().partition(":")
                except ValueError:
                    return None
                access = self._accesses.get(user)
                if access and hmac.compare_digest(password.encode(), access.password.encode()):
                    return access
        return None

    async def _relay(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        inward: asyncio.StreamReader,
        outward: asyncio.StreamWriter,
        *,
        is_http: bool,
    ) -> None:
        """Pass bytes on in both directions, until one of them ends.

        Raises:
            TimeoutError: There were none for too long.
        """
        loop = asyncio.get_running_loop()

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(_BLOCK):
                timer.reschedule(loop.time() + self._idle_timeout)
                send(sink, data)
                await sink.drain()

        async def answer() -> None:
            if is_http:
                send(writer, await _last_head(inward))
            await pump(inward, writer)

        tasks: list[asyncio.Task[None]] = []
        try:
            async with asyncio.timeout(self._idle_timeout) as timer:
                tasks = [loop.create_task(pump(reader, outward)), loop.create_task(answer())]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            # What broke one of them off ends the connection, which is all that there is to do.
            await asyncio.gather(*tasks, return_exceptions=True)

    # -- the other side -----------------------------------------------------------------------

    async def _connect(self, host: str, access: Access, *, is_forwarded: bool) -> Streams:
        """A connection to ``host:port``, or to the next proxy where the request is forwarded.

        Raises:
            FetchError: There is none, or there may be none.
        """
        name, port = _split(host)
        proxy = access.proxy
        try:
            async with asyncio.timeout(self._connect_timeout):
                if proxy is None:
                    return await connect(host, port, await self._allowed(name, port, access))
                if not (access.may_be_private or self._looks_public(name)):
                    raise PrivateAddressError(private_address(host))
                if is_forwarded:
                    return await connect_to_proxy(proxy)
                return await connect_through(proxy, name, port)
        except TimeoutError:
            message = f"no connection to {host} within {self._connect_timeout:g} s"
            if proxy is None:
                raise FetchTimeoutError(message) from None
            place = place_of(proxy)
            raise ProxyError(f"{message} through the proxy {place}", proxy=place) from None

    async def _allowed(self, name: str, port: int, access: Access) -> list[str]:
        """The addresses of `name` that may be connected to."""
        addresses = await self._look_up(name, port)
        if access.may_be_private:
            return addresses
        public = [address for address in addresses if self._is_public(address)]
        if not public:
            where = name if name == addresses[0] else f"{name} ({addresses[0]})"
            raise PrivateAddressError(private_address(where))
        return public

    async def _look_up(self, name: str, port: int) -> list[str]:
        try:
            addresses = await self._resolve(name, port)
        except (OSError, UnicodeError) as error:
            raise NetworkError(f"no address for {name}: {reason(error)}") from error
        if not addresses:
            raise NetworkError(f"no address for {name}")
        return addresses

    def _looks_public(self, name: str) -> bool:
        try:
            return self._is_public(str(ip_address(name)))
        except ValueError:
            return not is_private_host(name)


async def system_addresses(name: str, port: int) -> list[str]:
    """The addresses of a name, as the system looks them up."""
    found = await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def _last_head(reader: asyncio.StreamReader) -> bytes:
    """The header of a response, which says that nothing comes after it on the connection.

    A browser that read otherwise would send the next request, to whatever host, after this one.
    Interim responses (1xx) are dropped. What is odd is left to the browser, which may take it.

    Raises:
        ConnectionError: It is no header of HTTP/1, or too long.
    """
    while True:
        lines: list[bytes] = []
        size = 0
        try:
            while (line := await reader.readline()).strip(b"\r\n"):
                size += len(line)
                if size > MAX_HEAD:
                    raise ConnectionError("the header is too long")
                lines.append(line.rstrip(b"\r\n"))
        except ValueError as error:  # one line alone
            raise ConnectionError("the header is too long") from error
        status = lines[0].split(None, 2)[1:2] if lines else []
        if not line or not status or not lines[0].startswith(b"HTTP/1."):
            raise ConnectionError("the answer is no HTTP/1")
        if not status[0].startswith(b"1"):
            kept = [
                line
                for line in lines[1:]
                if line.partition(b":")[0].strip().lower() not in _HOP_BY_HOP
            ]
            return b"\r\n".join((lines[0], *kept, b"Connection: close", b"", b""))


def _request(method: bytes, target: str, fields: Fields, more: bytes) -> bytes:
    """The header of a request, as it goes on from here."""
    kept = b"".join(
        name + b": " + value + b"\r\n" for name, value in fields if name.lower() not in _HOP_BY_HOP
    )
    line = method + b" " + target.encode() + b" HTTP/1.1\r\n"
    return line + kept + more + b"Connection: close\r\n\r\n"


def _parsed(head: bytes) -> tuple[bytes, Fields]:
    """The first line and the fields of a header.

    Raises:
        ValueError: It is none.
    """
    line, *rest = head[:-4].split(b"\r\n")
    fields = []
    for field in rest:
        name, colon, value = field.partition(b":")
        # Folded lines are obsolete (RFC 9112, section 5.2), and no browser sends them.
        if not colon or not name or name != name.strip():
            raise ValueError("a malformed header")
        fields.append((name, value.strip()))
    return line, fields


def _absolute(url: str) -> tuple[str, str]:
    """Of ``http://host/path``: ``host:port`` and the path with its query.

    Raises:
        ValueError: It is no such URL.
    """
    scheme, separator, rest = url.partition("://")
    if scheme != "http" or not separator:
        raise ValueError("neither CONNECT nor the whole URL of a page")
    host, slash, path = rest.partition("/")
    if "?" in host or "@" in host:
        raise ValueError("a URL that no browser sends")
    if not host.rpartition(":")[2].isdecimal():
        host += ":80"
    return host, slash + path or "/"


def _split(host: str) -> tuple[str, int]:
    """``host:port`` as name and port, an IPv6 address without brackets.

    Raises:
        ValueError: There is no port.
    """
    port = host.rpartition(":")[2]
    if not port.isdecimal() or not 0 < int(port[:6]) < 65536:
        raise ValueError("no port")
    return hostname(host), int(port)


def _status(status: int, phrase: str, *fields: str) -> bytes:
    lines = (f"HTTP/1.1 {status} {phrase}", *fields, "Content-Length: 0", "Connection: close")
    return "\r\n".join((*lines, "", "")).encode()

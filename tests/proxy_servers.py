"""Proxies on the loopback: HTTP (CONNECT and absolute-form) and SOCKS5, with passwords and faults.

    async with HttpProxy(auth=("user", "secret")) as proxy:
        session.proxy = proxy.url
        ...
        assert proxy.hits == ["GET http://shop.example/"]

Names are not looked up: every connection goes where `routes` says by ``host:port``, by default to
the address that was asked for. So ``shop.example:80`` may be a server on the loopback.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
from collections.abc import Mapping
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

REFUSED = (ConnectionError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)


class _ProxyServer:
    """What both kinds have in common.

    Args:
        auth: User and password that it asks for.
        routes: Where a connection to ``host:port`` goes instead, as a port of the loopback.
        port: Port that it listens on, free by default.

    Attributes:
        hits: What it was asked for, one line each.
        users: The user that each was asked for by, or ``None``.
        fault: What it does wrong, until it is set to ``None``; see the subclasses.
        port: Its port.
    """

    scheme = ""

    def __init__(
        self,
        *,
        auth: tuple[str, str] | None = None,
        routes: Mapping[str, int] | None = None,
        port: int = 0,
    ) -> None:
        self.auth = auth
        self.routes = dict(routes or {})
        self.port = port
        self.hits: list[str] = []
        self.users: list[str | None] = []
        self.fault: str | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Its URL, with the credentials that it asks for."""
        credentials = f"{self.auth[0]}:{self.auth[1]}@" if self.auth else ""
        return f"{self.scheme}://{credentials}127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._run(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self.fault == "silent":
                await reader.read()
            elif self.fault != "reset":
                await self.serve(reader, writer)
        except REFUSED:
            pass
        finally:
            writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError

    async def connect(
        self, host: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        place = self.routes.get(f"{host}:{port}")
        if place is not None:
            return await asyncio.open_connection("127.0.0.1", place)
        # Nothing but the loopback, whatever a test has got wrong.
        if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
            raise ConnectionRefusedError(host)
        return await asyncio.open_connection(host, port)


class HttpProxy(_ProxyServer):
    """An HTTP proxy: ``CONNECT host:port`` for https, the whole URL in the request line for http.

    Its `fault` is ``reset`` (it hangs up), ``later`` (it does so once it was asked), ``silent``, or
    a status line such as ``502 Bad Gateway`` that it answers everything with.
    """

    scheme = "http"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, _, rest = head.partition("\r\n")
        method, target, _ = line.split(" ")
        fields = [field for field in rest.split("\r\n") if field]
        headers = {
            name.lower(): value.strip()
            for name, _, value in (field.partition(":") for field in fields)
        }
        self.hits.append(f"{method} {target}")
        user = self._user(headers.get("proxy-authorization", ""))
        self.users.append(user)
        if self.fault == "later":
            return
        if self.fault is not None:
            _answer(writer, self.fault)
            return
        if self.auth is not None and user is None:
            _answer(writer, "407 Proxy Authentication Required")
            return
        url = urlsplit(f"//{target}" if method == "CONNECT" else target)
        try:
            there = await self.connect(url.hostname or "", url.port or 80)
        except (OSError, ValueError):
            _answer(writer, "502 Bad Gateway")
            return
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            # One request a connection, so that all that follows is its body, or its answer.
            path = url._replace(scheme="", netloc="").geturl() or "/"
            own = [f for f in fields if not f.lower().startswith(("proxy-", "connection:"))]
            lines = [f"{method} {path} HTTP/1.1", *own, "Connection: close", "", ""]
            there[1].write("\r\n".join(lines).encode("latin-1"))
        await _pump((reader, writer), there)

    def _user(self, given: str) -> str | None:
        """The user of the credentials, where they are the right ones."""
        scheme, _, token = given.partition(" ")
        if scheme.lower() != "basic":
            return None
        user, _, password = base64.b64decode(token).decode().partition(":")
        return user if self.auth in (None, (user, password)) else None


class Socks5Proxy(_ProxyServer):
    """A SOCKS5 proxy (RFC 1928), with user and password (RFC 1929) or without.

    Its `fault` is ``reset`` (it hangs up), ``silent``, or the number of a reply (RFC 1928, section
    6) that it answers everything with: ``"1"`` is a general failure, ``"5"`` a refused connection.
    """

    scheme = "socks5"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, count = await reader.readexactly(2)
        methods = await reader.readexactly(count)
        method = 2 if self.auth is not None else 0
        if method not in methods:
            writer.write(b"\x05\xff")
            return
        writer.write(bytes((5, method)))
        user = None
        if method == 2:
            await reader.readexactly(1)
            user = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
            password = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
            is_right = (user, password) == self.auth
            writer.write(b"\x01\x00" if is_right else b"\x01\x01")
            if not is_right:
                return
        _, command, _, kind = await reader.readexactly(4)
        if kind == 3:
            host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        else:
            host = str(ipaddress.ip_address(await reader.readexactly(4 if kind == 1 else 16)))
        port = int.from_bytes(await reader.readexactly(2), "big")
        self.hits.append(f"CONNECT {host}:{port}")
        self.users.append(user)
        there = None
        reply = 7 if command != 1 else int(self.fault or 0)
        if not reply:
            try:
                there = await self.connect(host, port)
            except (OSError, ValueError):
                reply = 5
        writer.write(bytes((5, reply, 0, 1)) + bytes(6))
        if there is not None:
            await _pump((reader, writer), there)


def _answer(writer: asyncio.StreamWriter, status: str) -> None:
    fields = "Connection: close\r\nContent-Length: 0\r\n"
    if status.startswith("407"):
        fields += 'Proxy-Authenticate: Basic realm="proxy"\r\n'
    writer.write(f"HTTP/1.1 {status}\r\n{fields}\r\n".encode())


async def _pump(
    here: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    there: tuple[asyncio.StreamReader, asyncio.StreamWriter],
) -> None:
    """Bytes in both directions until either side ends."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while block := await reader.read(65536):
                writer.write(block)
                await writer.drain()
        except REFUSED:
            pass

    ways = [
        asyncio.ensure_future(copy(here[0], there[1])),
        asyncio.ensure_future(copy(there[0], here[1])),
    ]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        there[1].close()
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)

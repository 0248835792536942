"""Lean: the plain GET of an ordinary page, over aiohttp's connections, without its ceremony.

Most pages are asked for with a GET that has the same headers as every other one. aiohttp's client
makes three objects and a hundred decisions for each. Here the bytes of a request are made once for
an origin, but for its target. Connections are aiohttp's own all the same, with their pool, their
addresses, TLS and parser, and whatever is not plain goes to its client.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import aiohttp
from aiohttp import HttpVersion
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from .failures import MAX_HEADERS
from .hops import Hop
from .limits import Limits

READ_BUFFER = 64 * 1024
"""Bytes of a body that wait to be read. With more, a body of tiny chunks holds the event loop up
for a tenth of a second."""
MAX_ORIGINS = 1000
"""Origins whose requests are kept ready."""

# Of URLs in canonical form it takes all, of others those that are surely sent as they stand.
_PLAIN = re.compile(r"(https?://[a-z0-9._\-:\[\]]+)(/[!-\"$-~]*)").fullmatch
# What a header cannot hold, nor UTF-8.
_FORBIDDEN = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]").search


class _Request(aiohttp.ClientRequest):
    """A request that is never sent, but whose connections are asked for time and again."""

    @cached_property
    def connection_key(self) -> ConnectionKey:
        return super().connection_key


class _Origin(NamedTuple):
    """What the requests for one origin have in common."""

    request: _Request
    head: bytes  # all that follows the target, up to the empty line


class Plain(NamedTuple):
    """A request that is ready to be sent."""

    origin: _Origin
    data: bytes


@dataclass(slots=True)
class Answer:
    """A response whose body was not read yet: as much of an `aiohttp.ClientResponse` as is used.

    Attributes:
        status: HTTP status.
        headers: Header fields.
        raw_headers: The same as they came.
        content: What the body is read from.
        connection: Where it comes from.
        reason: The reason phrase.
        version: The version of HTTP.
    """

    status: int
    headers: CIMultiDictProxy[str]
    raw_headers: tuple[tuple[bytes, bytes], ...]
    content: aiohttp.StreamReader
    connection: Connection
    reason: str | None
    version: HttpVersion | None

    def release(self) -> None:
        """Give the connection back. It is closed where the body was not read to its end."""
        self.connection.release()


class Lean:
    """Sends plain requests.

    Args:
        limits: What a server may cost us.
        headers: Headers that every request has; such as may travel (`hops.may_travel`).
    """

    def __init__(self, limits: Limits, headers: Mapping[str, str]) -> None:
        self._limits = limits
        self._headers = headers
        self._origins: OrderedDict[str, _Origin] = OrderedDict()

    def plain(self, hop: Hop, headers: CIMultiDict[str] | None) -> Plain | None:
        """The request for a hop; ``None`` where it is for aiohttp's client.

        Args:
            hop: What to ask for.
            headers: Headers besides those that every request has.
        """
        if hop.method != "GET" or hop.body is not None:
            return None
        match = _PLAIN(hop.url)
        if match is None:
            return None
        name, target = match.groups()
        origin = self._origins.get(name)
        if origin is None:
            origin = self._origin(name)
            if origin is None:
                return None
        own = b""
        if headers:
            cookie = headers.get("Cookie")
            if len(headers) != 1 or cookie is None or _FORBIDDEN(cookie):
                return None
            own = f"Cookie: {cookie}\r\n".encode()
        return Plain(origin, b"GET %b HTTP/1.1\r\n%b%b\r\n" % (target.encode(), origin.head, own))

    async def ask(self, client: aiohttp.ClientSession, plain: Plain) -> Answer:
        """The response to a request, up to its body. Raises what aiohttp's client would raise.

        A connection that was used before may have been closed by the server just now, so there is
        another try (RFC 9112, section 9.3.1), as with aiohttp.

        Args:
            client: Whose connections it takes.
            plain: The request.
        """
        request = plain.origin.request
        try:
            return await self._exchange(client, request, plain.data)
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
            return await self._exchange(client, request, plain.data)

    async def _exchange(
        self, client: aiohttp.ClientSession, request: aiohttp.ClientRequest, data: bytes
    ) -> Answer:
        connector = client.connector
        assert connector is not None
        try:
            connection = await connector.connect(request, [], client.timeout)
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError("no connection") from error
        protocol = connection.protocol
        assert protocol is not None
        try:
            protocol.set_response_params(
                read_until_eof=True,
                auto_decompress=False,
                read_timeout=self._limits.idle,
                read_bufsize=READ_BUFFER,
                max_line_size=self._limits.headers,
                max_field_size=self._limits.headers,
                max_headers=MAX_HEADERS,
            )
            transport = protocol.transport
            if transport is None or transport.is_closing():
                raise aiohttp.ServerDisconnectedError
            transport.write(data)
            protocol.start_timeout()
            status = 100
            # 101 is the end of HTTP on this connection; all other interim responses are passed by.
            while 100 <= status < 200 and status != 101:
                message, content = await protocol.read()
                status = message.code
        except HttpProcessingError as error:
            connection.close()
            raise aiohttp.ClientResponseError(
                request.request_info, (), status=error.code, message=error.message
            ) from error
        except BaseException:
            connection.close()
            raise
        return Answer(
            status,
            message.headers,
            message.raw_headers,
            content,
            connection,
            message.reason,
            message.version,
        )

    def _origin(self, name: str) -> _Origin | None:
        try:
            url = URL(f"{name}/", encoded=True)
            request = _Request("GET", url, headers=self._headers)
        except (ValueError, aiohttp.InvalidURL):
            return None
        fields = [f"{field}: {value}" for field, value in request.headers.items()]
        if any(map(_FORBIDDEN, fields)):
            return None
        origin = _Origin(request, "\r\n".join([*fields, ""]).encode())
        self._origins[name] = origin
        if len(self._origins) > MAX_ORIGINS:
            self._origins.popitem(last=False)
        return origin

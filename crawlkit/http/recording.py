"""Recording: one exchange with a site as it was on the wire, for those who keep it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import aiohttp

    from .hops import Hop
    from .lean import Answer, Plain


_PASSWORDS = frozenset({"authorization", "proxy-authorization"})
"""Header fields that nobody keeps: what is archived is passed on."""


class Exchange(NamedTuple):
    """A request and its response.

    Attributes:
        url: What was asked for, without a fragment.
        at: Unix time at which the request was sent.
        address: The address that answered, where no proxy stood in between.
        request: The head of the request, as it was sent but for passwords, up to the empty line
            and with it.
        request_body: What followed it.
        response: The head of the response, as it came, up to the empty line and with it.
        body: The body as it came: in its content encoding, without the framing of chunks.
        is_chunked: Whether it came in chunks.
        truncated: Why the body is not whole, as WARC calls it; empty where it is.
    """

    url: str
    at: float
    address: str
    request: bytes
    request_body: bytes
    response: bytes
    body: bytes
    is_chunked: bool
    truncated: str = ""


class Document(NamedTuple):
    """A page as a browser has made it: no message that was ever on the wire.

    Attributes:
        url: The URL of the page.
        at: Unix time.
        content_type: Its media type, with its encoding.
        body: The document.
    """

    url: str
    at: float
    content_type: str
    body: bytes


Recorded: TypeAlias = Exchange | Document


class Recorder(Protocol):
    """What keeps exchanges, and pages that a browser has made."""

    async def keep(self, recorded: Recorded) -> None:
        """Keep one. Waits only where more has come in than can be kept in memory."""


class Tap:
    """Gathers one exchange while it happens.

    Args:
        hop: What is asked for.
        at: Unix time.
        plain: The request, where it was written by `lean`.
    """

    def __init__(self, hop: Hop, at: float, plain: Plain | None) -> None:
        self._hop = hop
        self._at = at
        self._plain = plain
        self._address = ""
        self._is_whole = False
        self.blocks: list[bytes] = []

    def connected(self, answer: Answer | aiohttp.ClientResponse, *, is_proxied: bool) -> None:
        """The head of the response has come. Its connection goes back with the end of the body."""
        connection = answer.connection
        transport = None if connection is None else connection.transport
        if transport is not None and not is_proxied:
            peer = transport.get_extra_info("peername")
            self._address = str(peer[0]) if peer else ""

    def exchange(self, answer: Answer | aiohttp.ClientResponse, *, is_read: bool) -> Exchange:
        """What there was.

        Args:
            answer: The response.
            is_read: Whether its body was read, up to a limit of its length.
        """
        truncated = ""
        if not is_read and answer.content.is_eof():
            self.blocks.append(answer.content.read_nowait())  # it has come all the same
        if not answer.content.at_eof():
            truncated = "length" if is_read else "unspecified"
        version = answer.version
        major, minor = (version.major, version.minor) if version is not None else (1, 1)
        return Exchange(
            self._hop.url,
            self._at,
            self._address,
            self._plain.data if self._plain is not None else _head_of(answer, self._hop),
            self._hop.body or b"",
            b"HTTP/%d.%d %d %b\r\n" % (major, minor, answer.status, _bytes(answer.reason or ""))
            + _fields(answer.raw_headers),
            b"".join(self.blocks),
            "chunked" in answer.headers.get("Transfer-Encoding", "").lower(),
            truncated,
        )


def _head_of(answer: Any, hop: Hop) -> bytes:
    """The head of a request that aiohttp has sent, of what it says of it."""
    parts = urlsplit(hop.url)
    target = parts.path or "/"
    if parts.query or hop.url.partition("#")[0].endswith("?"):
        target += f"?{parts.query}"
    fields = [
        (_bytes(name), _bytes(value))
        for name, value in answer.request_info.headers.items()
        if name.lower() not in _PASSWORDS
    ]
    return b"%b %b HTTP/1.1\r\n" % (hop.method.encode(), target.encode()) + _fields(fields)


def _fields(fields: Any) -> bytes:
    return b"".join(b"%b: %b\r\n" % field for field in fields) + b"\r\n"


def _bytes(text: str) -> bytes:
    # aiohttp reads bytes that are no UTF-8 as lone surrogates, and this is the way back.
    return text.encode("utf-8", "surrogateescape")

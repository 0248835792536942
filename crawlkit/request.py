"""Request: one URL to fetch, and the fingerprint that makes it the same URL tomorrow."""

from __future__ import annotations

from hashlib import blake2b
from struct import Struct
from typing import Any, Literal, TypeAlias

import msgspec

from .errors import UsageError

CacheMode: TypeAlias = Literal["off", "http", "forever", "offline"] | float
"""How the page cache is used: not at all; by the rules of HTTP; a response is good for ever; only
the cache is asked and a miss is an error; or a response is good for so many seconds."""


_EMPTY = blake2b(digest_size=8)
_NUMBER = Struct(">q")


class Request(
    msgspec.Struct,
    frozen=True,
    # JSON-like values hold no cycles, and ten thousand requests are not to be searched for them.
    gc=False,
    omit_defaults=True,
    rename={
        "url": "u",
        "handler": "h",
        "priority": "p",
        "depth": "d",
        "method": "m",
        "headers": "hd",
        "body": "b",
        "user_data": "ud",
        "unique_key": "k",
        "retry_count": "r",
        "session": "s",
        "private": "pr",
        "render": "rn",
        "cache": "c",
    },
):
    """One URL to fetch. Immutable; `replace` makes a changed copy.

    Attributes:
        url: Absolute http or https URL, in canonical form once it is enqueued.
        handler: Name of the crawler's method that handles the page.
        priority: Higher is fetched earlier; default 0.
        depth: Links followed from a start request, which has depth 0.
        method: HTTP method.
        headers: Extra headers of this request.
        body: Body to send.
        user_data: JSON-like values that travel with the request to its handler.
        unique_key: Identity in place of method, URL and body. Two requests with one key are one;
            give another key to fetch a URL again.
        retry_count: How many times it was tried again. Counted by crawlkit.
        session: Id of the session to use, where it must be a certain one.
        private: Whether it may lead to a private address: start requests may, and links of pages
            that came from one.
        render: Whether a browser makes the page, or when it is done (see `render_wait`); ``None``
            as the crawler's options say.
        cache: How the page cache is used for it (see `CacheMode`); ``None`` as the crawler's
            options say.
    """

    # The short names are those on disk, where tens of millions of requests may wait.
    url: str
    handler: str = "parse"
    priority: int = 0
    depth: int = 0
    method: str = "GET"
    headers: dict[str, str] = {}
    body: bytes | None = None
    user_data: dict[str, Any] = {}
    unique_key: str | None = None
    retry_count: int = 0
    session: str | None = None
    private: bool = False
    render: bool | str | None = None
    cache: CacheMode | None = None

    def replace(self, **changes: Any) -> Request:
        """A copy with some fields changed."""
        return msgspec.structs.replace(self, **changes)

    @property
    def fingerprint(self) -> int:
        """A signed 64-bit number that is the same for the same request in every process."""
        return fingerprint(self)

    @property
    def host(self) -> str:
        """The URL's ``host[:port]``: what politeness and leases are counted by."""
        return host_of(self.url)


Identity: TypeAlias = str | tuple[str, ...] | tuple[str, str, bytes | None]
"""What makes a request the same request: text, or texts. Its hash is as good as a fingerprint."""


def identity(request: Request) -> Identity:
    """What makes two requests of one host the same: key, or URL, or method, URL and body."""
    if request.unique_key is not None:
        return (host_of(request.url), request.unique_key)
    if request.method == "GET" and request.body is None:
        return request.url
    return (request.method, request.url, request.body)


def fingerprint(request: Request) -> int:
    """The identity of a request within its host: BLAKE2b of it in 64 bits, signed.

    Ten million URLs on a single host collide with a probability of 3 in a million; URLs of
    different hosts never meet.
    """
    if request.unique_key is not None:
        data = b"\x00key\x00" + request.unique_key.encode()
    elif request.method == "GET" and request.body is None:
        data = request.url.encode()
    else:
        data = f"{request.method} {request.url}\x00".encode() + (request.body or b"")
    # To copy one that is made already takes less than to make another.
    digest = _EMPTY.copy()
    digest.update(data)
    number: int = _NUMBER.unpack(digest.digest())[0]
    return number


def checked(request: Request) -> Request:
    """The request, which can be saved.

    Raises:
        UsageError: It holds something that JSON cannot.
    """
    try:
        msgspec.json.encode(request)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"the request for {request.url!r} cannot be saved: {error}; give JSON-like user_data"
        ) from None
    return request


def host_of(url: str) -> str:
    """``host[:port]`` of a canonical URL."""
    return url.partition("://")[2].partition("/")[0]

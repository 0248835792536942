"""Request: one URL to fetch, and the fingerprint that makes it the same URL tomorrow."""

from __future__ import annotations

import re
from hashlib import blake2b
from struct import Struct
from typing import Any, Literal, TypeAlias

import msgspec

from .errors import UsageError
from .finite import refuse_infinite

CacheMode: TypeAlias = Literal["off", "http", "forever", "offline"] | float
"""How the page cache is used: not at all; by the rules of HTTP; a response is good for ever; only
the cache is asked and a miss is an error; or a response is good for so many seconds."""

MAX_PRIORITY = 10**15
"""The highest priority, and below 0 the lowest: databases have no numbers without an end."""


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
    """A copy of the request, which can be saved and read back.

    What its maker does with its ``user_data`` or ``headers`` after that is not meant.

    Raises:
        UsageError: It holds something that JSON cannot.
    """
    try:
        data = msgspec.json.encode(request)
        refuse_infinite(data, {"user_data": request.user_data, "cache": request.cache})
    except (TypeError, ValueError, RecursionError) as error:
        what = f"the request for {request.url!r}" if request.url else "what is to be followed"
        raise UsageError(f"{what} cannot be saved: {error}; give JSON-like user_data") from None
    return _as_read(request)


def copied(request: Request) -> Request:
    """A copy of a request that was `checked`, whose dicts nobody else has."""
    headers = dict(request.headers)
    return request.replace(user_data=msgspec.to_builtins(request.user_data), headers=headers)


def _as_read(request: Request) -> Request:
    """A request as it will be read back, its body still bytes.

    Raises:
        UsageError: It will not: one of its fields is not of its type.
    """
    plain = msgspec.to_builtins(request, builtin_types=(bytes,), str_keys=True)
    try:
        read = msgspec.convert(plain, Request, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        what, _, place = str(error).partition(" - at `$.")
        name = _NAMES.get(re.split(r"\W", place)[0], "something")
        raise _wrong(request, f"{name}: {what.lower()}") from None
    if abs(read.priority) > MAX_PRIORITY:
        raise _wrong(request, f"priority: {read.priority} is beyond {MAX_PRIORITY}")
    return read


def _wrong(request: Request, what: str) -> UsageError:
    where = f"the request for {request.url!r}" if request.url else "a request"
    return UsageError(f"{where} has the wrong {what}")


_NAMES = dict(zip(Request.__struct_encode_fields__, Request.__struct_fields__, strict=True))


def host_of(url: str) -> str:
    """``host[:port]`` of a canonical URL."""
    return url.partition("://")[2].partition("/")[0]

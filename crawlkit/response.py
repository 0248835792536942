"""Response: what a server answered, and its text whatever the server says about it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_tz
from typing import Any, Literal, TypeAlias

from multidict import CIMultiDict, CIMultiDictProxy

from .errors import PageTypeError
from .http.charset import certain_encoding, decode, find_encoding, parse_content_type

CacheResult: TypeAlias = Literal["", "hit", "miss", "revalidated", "stale"]

_NO_HEADERS: CIMultiDictProxy[str] = CIMultiDictProxy(CIMultiDict())


class Response:
    """What a server answered. Any fetcher makes it; handlers read it.

    Args:
        url: The URL that answered, after redirects, in canonical form.
        status: HTTP status.
        headers: Header fields: a mapping, or pairs where a name comes more than once.
        body: The body, decoded from its content encoding (gzip and the like).
        redirects: The URLs that led here, in order, `url` not among them.
        elapsed: Seconds from the request to the last byte.
        is_private: Whether it came from a private address; its links may lead to others.

    Attributes:
        headers: Header fields by name in any case; ``headers.getall(name)`` gives all of one name.
        cache: What the page cache did: ``hit``, ``miss``, ``revalidated`` (the site confirmed what
            was in it), ``stale`` (the site could not be asked), or ``""`` where it was not used.
        is_stored: Whether it was put into the page cache.
        screenshot: What a browser showed, as JPEG, where it rendered a page that is a failure, or
            one that is tried again after a failure; else ``None``.
    """

    __slots__ = (
        "_encoding",
        "_text",
        "body",
        "cache",
        "elapsed",
        "headers",
        "is_private",
        "is_stored",
        "redirects",
        "screenshot",
        "status",
        "url",
    )

    def __init__(
        self,
        *,
        url: str,
        status: int = 200,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
        body: bytes = b"",
        redirects: tuple[str, ...] = (),
        elapsed: float = 0.0,
        is_private: bool = False,
    ) -> None:
        self.url = url
        self.status = status
        self.headers: CIMultiDictProxy[str]
        if isinstance(headers, CIMultiDictProxy):
            self.headers = headers
        else:
            self.headers = CIMultiDictProxy(CIMultiDict(headers)) if headers else _NO_HEADERS
        self.body = body
        self.redirects = redirects
        self.elapsed = elapsed
        self.is_private = is_private
        self.cache: CacheResult = ""
        self.is_stored = False
        self.screenshot: bytes | None = None
        self._encoding: str | None = None
        self._text: str | None = None

    def __repr__(self) -> str:
        return f"<Response {self.status} {self.url} ({len(self.body)} bytes)>"

    @property
    def content_type(self) -> str:
        """The media type in lower case without parameters, such as ``text/html``, or ``""``."""
        return parse_content_type(self.headers.get("Content-Type", ""))[0]

    @property
    def encoding(self) -> str:
        """The character encoding, as Python calls it, found as browsers find it.

        From the byte order mark, else the header, else a ``meta`` tag or XML declaration, else
        UTF-8 where the body is valid UTF-8, else a detector's guess at the legacy encodings of the
        web, and windows-1252 where it cannot tell. A label that names no encoding of the web is
        ignored. ``replacement`` is what stands for encodings that browsers refuse.
        """
        if self._encoding is None:
            self._encoding = find_encoding(self.body, self.headers.get("Content-Type", ""))
        return self._encoding

    @property
    def needs_guess(self) -> bool:
        """Whether nothing but a guess tells the encoding."""
        if self._encoding is None:
            content_type = self.headers.get("Content-Type", "")
            self._encoding = certain_encoding(self.body, content_type)
        return self._encoding is None

    @property
    def text(self) -> str:
        """The body as text. Never raises: what cannot be decoded becomes U+FFFD."""
        if self._text is None:
            self._text = decode(self.body, self.encoding)
        return self._text

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            PageTypeError: It is not JSON.
        """
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError) as error:
            kind = self.content_type or "no content type"
            raise PageTypeError(
                f"{self.url} is not JSON ({kind}, {len(self.body)} bytes): {error}"
            ) from None


def http_date(value: str) -> float | None:
    """A date of an HTTP header as Unix seconds, or ``None`` where it is no date.

    Takes the three forms of RFC 9110 (section 5.6.7) and most others that servers send. All of
    them are in UTC, whatever they say (RFC 6265, section 5.1.1).
    """
    try:
        parts = parsedate_tz(value)
        return None if parts is None else datetime(*parts[:6], tzinfo=UTC).timestamp()
    except (ValueError, OverflowError):
        return None

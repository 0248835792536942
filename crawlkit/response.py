"""Response: what a server answered, and its text whatever the server says about it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_tz
from functools import lru_cache
from typing import Any

from multidict import CIMultiDict, CIMultiDictProxy
from w3lib.encoding import (
    html_body_declared_encoding,
    http_content_type_encoding,
    read_bom,
    to_unicode,
)

from .errors import PageTypeError

# The encodings of the WHATWG Encoding Standard, as Python calls them. What a label leads to outside
# of them is ignored: Python also has codecs that are no text (hex, zlib) and some that read markup
# out of harmless bytes (unicode_escape, idna).
_ENCODINGS = frozenset(
    {"utf-8", "utf-16-le", "utf-16-be", "gb18030", "big5hkscs", "euc_jp", "iso2022_jp"}
    | {"koi8-r", "koi8-u", "mac-roman", "mac-cyrillic"}
    | {f"iso8859-{part}" for part in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16)}
    | {f"cp{page}" for page in (866, 874, 932, 949, *range(1250, 1259))}
)

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

    Attributes:
        headers: Header fields by name in any case; ``headers.getall(name)`` gives all of one name.
    """

    __slots__ = (
        "_encoding",
        "_text",
        "body",
        "elapsed",
        "headers",
        "redirects",
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
        self._encoding: str | None = None
        self._text: str | None = None

    def __repr__(self) -> str:
        return f"<Response {self.status} {self.url} ({len(self.body)} bytes)>"

    @property
    def content_type(self) -> str:
        """The media type in lower case without parameters, such as ``text/html``, or ``""``."""
        return _media_type(self.headers.get("Content-Type", ""))[0]

    @property
    def encoding(self) -> str:
        """The character encoding, as Python calls it.

        From the byte order mark, else the header, else a ``meta`` tag or XML declaration, else
        UTF-8 where the body is valid UTF-8, else windows-1252, as browsers do it (WHATWG HTML,
        "determining the character encoding"). A label that names no encoding of the web is
        ignored.
        """
        if self._encoding is None:
            self._encoding = self._find_encoding()
        return self._encoding

    @property
    def text(self) -> str:
        """The body as text. Never raises: what cannot be decoded becomes U+FFFD."""
        if self._text is None:
            encoding = self.encoding  # may set the text, where it has to try
            if self._text is None:
                _, mark = read_bom(self.body)
                self._text = to_unicode(self.body[len(mark) :] if mark else self.body, encoding)
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

    def _find_encoding(self) -> str:
        body = self.body
        marked, _ = read_bom(body)
        if marked is not None:
            return marked
        media_type, encoding = _media_type(self.headers.get("Content-Type", ""))
        if encoding is not None:
            return encoding
        if not media_type or "html" in media_type or "xml" in media_type:
            declared = html_body_declared_encoding(body)
            if declared in _ENCODINGS:
                # The tag could be read, so the text is no UTF-16 (WHATWG HTML, prescan).
                return "utf-8" if declared.startswith("utf-") else declared
        try:
            self._text = body.decode()
        except UnicodeDecodeError:
            return "cp1252"
        return "utf-8"


@lru_cache(maxsize=512)
def _media_type(header: str) -> tuple[str, str | None]:
    """Media type and encoding of a Content-Type header. There are few of them in a crawl."""
    encoding = http_content_type_encoding(header)
    if encoding == "utf-16":
        encoding = "utf-16-le"  # what the label means on the web; Python would ask the machine
    return header.partition(";")[0].strip().lower(), encoding if encoding in _ENCODINGS else None


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

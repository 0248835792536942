"""Hop: one request on the way to a response, and what a redirect makes of it.

Redirects are in our own hands, for each hop has to be asked about: may the crawl go there, and what
of the request's headers may go along. Decisions only: nothing here waits or sends.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from urllib.parse import quote

from multidict import CIMultiDict

from ..errors import RedirectError
from ..request import host_of
from ..urls import Base
from .addresses import is_bad_port

TRAVELLING_HEADERS = frozenset(
    {"accept", "accept-encoding", "accept-language", "content-type", "user-agent"}
)
"""Headers that a redirect to another origin may take along, besides those of ``Sec-``."""

_BODY_HEADERS = ("Content-Encoding", "Content-Language", "Content-Location", "Content-Type")


@dataclass(slots=True)
class Hop:
    """One request on the way to a response.

    Attributes:
        url: Where it goes, in canonical form.
        method: HTTP method, in capitals.
        body: What it sends.
        headers: Its headers, but for those that every request has; ``None`` where there are none.
        is_private: Whether it may lead to a private address.
    """

    url: str
    method: str = "GET"
    body: bytes | None = None
    headers: CIMultiDict[str] | None = None
    is_private: bool = False

    def follow(self, url: str, status: int, *, is_private: bool = False) -> Hop:
        """The request that a redirect asks for (Fetch Standard, "HTTP-redirect fetch").

        But for one thing: where the origin changes, not only credentials are left behind but every
        header that may be secret, which is all but a few (`TRAVELLING_HEADERS`).
        """
        method, body = self.method, self.body
        headers = CIMultiDict(self.headers or ())
        if (status in (301, 302) and method == "POST") or (
            status == 303 and method not in ("GET", "HEAD")
        ):
            method, body = "GET", None
            for name in _BODY_HEADERS:
                headers.popall(name, None)
        if origin_of(url) != origin_of(self.url):
            for name in [name for name in headers if not may_travel(name)]:
                headers.popall(name, None)
        return Hop(url, method, body, headers or None, is_private)

    def target(self, location: str) -> str:
        """Where its ``Location`` header leads, in canonical form.

        Raises:
            RedirectError: To where nobody may go.
        """
        target = Base(self.url).join(_as_text(location))
        if target is None:
            raise RedirectError(f"redirected to {short(location)!r}, which cannot be crawled")
        if is_bad_port(host_of(target)):
            raise RedirectError(f"redirected to {short(target)}, whose port is not for the web")
        return target


def may_travel(name: str) -> bool:
    """Whether a header may go along to another origin."""
    name = name.lower()
    return name in TRAVELLING_HEADERS or name.startswith("sec-")


def origin_of(url: str) -> str:
    """``scheme://host[:port]`` of a canonical URL."""
    return f"{url.partition(':')[0]}://{host_of(url)}"


def short(url: str) -> str:
    """A URL for a message, where it would be too long for one."""
    return url if len(url) <= 200 else f"{url[:200]}..."


def _as_text(location: str) -> str:
    """A Location header whose bytes are no UTF-8, percent-encoded byte by byte, as browsers do.

    aiohttp reads such bytes as lone surrogates.
    """
    if location.isascii() or location.isprintable():
        return location
    return quote(location.encode("utf-8", "surrogateescape"), safe=string.printable)

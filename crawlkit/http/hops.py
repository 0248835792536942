"""Hop: one request on the way to a response, and what a redirect makes of it.

Redirects are in our own hands, for each hop has to be asked about: may the crawl go there, and what
of the request's headers may go along. Decisions only: nothing here waits or sends.
"""

from __future__ import annotations

from dataclasses import dataclass

from multidict import CIMultiDict

from ..request import host_of

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


def may_travel(name: str) -> bool:
    """Whether a header may go along to another origin."""
    name = name.lower()
    return name in TRAVELLING_HEADERS or name.startswith("sec-")


def origin_of(url: str) -> str:
    """``scheme://host[:port]`` of a canonical URL."""
    return f"{url.partition(':')[0]}://{host_of(url)}"

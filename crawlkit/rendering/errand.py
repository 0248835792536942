"""Errand: what a visit of a page is to do, and what it means when that fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from copy import copy
from dataclasses import dataclass, replace

from ..errors import FetchTimeoutError, NetworkError, RedirectError, UrlError
from ..fetching import MayFollow
from ..http.failures import too_many_headers
from ..http.limits import Limits
from ..request import host_of
from ..urls import canonical
from .guard import Access


class Elsewhere(Exception):
    """A private page leads to a public one, which has to be visited without its rights."""

    def __init__(self, url: str, redirects: list[str]) -> None:
        super().__init__(url)
        self.url = url
        self.redirects = redirects


@dataclass(frozen=True, slots=True)
class Errand:
    """What a visit is to do.

    Attributes:
        url: Where it goes, in canonical form.
        method: ``GET`` or ``POST``.
        body: What it sends.
        headers: Headers of the document, as long as the window has not left the origin.
        secrets: Those of them that what the document loads from its own origin gets, too.
        redirects: The URLs that led here.
        wait: When the page is done: ``load``, ``networkidle`` or a CSS selector.
        load_resources: Whether media and the like are loaded.
        limits: What it may cost.
        may_follow: Asked wherever the window is led.
        wants_screenshot: Asked with the status whether to take a picture of the page.
        is_private: Whether ``host:port`` is at private addresses only; given where the page is, so
            that a way out is noticed.
    """

    url: str
    method: str
    body: bytes | None
    headers: Mapping[str, str]
    secrets: Mapping[str, str]
    redirects: list[str]
    wait: str
    load_resources: bool
    limits: Limits
    may_follow: MayFollow | None
    wants_screenshot: Callable[[int], bool]
    is_private: Callable[[str], Awaitable[bool]] | None

    def inside(self, is_private: Callable[[str], Awaitable[bool]]) -> Errand:
        """The errand, for a private page."""
        return replace(self, is_private=is_private)

    def outside(self, url: str, redirects: list[str]) -> Errand:
        """How it goes on at a public page that a private one led to."""
        return replace(
            self,
            url=url,
            method="GET",
            body=None,
            headers={},
            secrets={},
            redirects=redirects,
            is_private=None,
        )


def failure_of(problem: str, url: str, access: Access, limits: Limits) -> Exception:
    """What the browser's name for a problem with `url` stands for.

    The guard knows more than the browser, where it was it that made no connection.
    """
    host = host_of(url)
    if refusal := access.refusal(with_port(url)):
        return copy(refusal)  # it may be raised several times, each with its own traceback
    name = problem.removeprefix("net::")
    if "TIMED_OUT" in name or name == "TimedOut":
        return FetchTimeoutError(f"{host} was silent for too long ({name})")
    if "TOO_MANY_REDIRECTS" in name:
        return RedirectError(f"{host} redirects without end")
    if "HEADERS_TOO_BIG" in name or "HEADERS_TRUNCATED" in name:
        return too_many_headers(url, limits)
    if "CERT" in name or "SSL" in name:
        return NetworkError(f"no TLS with {host}: {name}")
    return NetworkError(f"the connection to {host} failed: {name}")


def own_url(url: str, host: str) -> str | None:
    """A URL in canonical form, where it is one of this ``host[:port]``."""
    if not url.startswith(("http:", "https:")):
        return None
    try:
        found = canonical(url)
    except UrlError:
        return None
    return found if host_of(found) == host else None


def with_port(url: str) -> str:
    """``host:port`` of a canonical URL, also where the port is the usual one."""
    host = host_of(url)
    if host.rpartition(":")[2].isdecimal():
        return host
    return f"{host}:{443 if url.startswith('https:') else 80}"


def merged(headers: Mapping[str, str], own: Mapping[str, str]) -> list[dict[str, str]]:
    """The headers that the browser would send, with ours over them."""
    names = {name.lower() for name in own}
    kept = {name: value for name, value in headers.items() if name.lower() not in names}
    return [{"name": name, "value": value} for name, value in (kept | dict(own)).items()]

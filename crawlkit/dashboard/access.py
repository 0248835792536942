"""Access: who may look at a live page, and who may steer there.

A page on a port of this machine is within reach of every web site that its user visits: their
scripts can send requests to it, and a name of theirs can be made to mean its address ("DNS
rebinding"). So whatever a browser would not do for the page itself is refused:

- The ``Host`` must be one under which the page is served. A site that has its own name lead here
  sends that name.
- Whoever changes something sends a POST whose ``Origin`` is the page's, and a token that only the
  page knows; no other origin can read it.
- Where the page is served to other machines, every request needs a cookie, and that is had with the
  token in the printed URL. It is ``HttpOnly``, and ``SameSite=Strict``: no request that another
  site causes has it.

What the page itself may do is bounded by its ``Content-Security-Policy``: scripts, styles and
connections of this server only, none of them inline, no text that becomes markup (trusted types).
So text of a hostile site that were ever taken for markup would still not run.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from urllib.parse import urlsplit

from ..errors import UsageError

LOOPBACK = "127.0.0.1"

HEADERS = {
    "Server": "crawlkit",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of every answer."""

SANDBOX = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
)
"""The policy of what a site wrote: no script, no form, no origin, nothing that is loaded."""


class Refused(Exception):
    """A request that is not answered; ``status`` and the message say why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def parse_where(text: str) -> tuple[str, int]:
    """``[HOST:]PORT`` as host and port; loopback where no host is named.

    Raises:
        UsageError: It is neither.
    """
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not (port.isascii() and port.isdigit() and len(port) < 6 and int(port) < 65536):
        raise UsageError(
            f"no page can be served at {text!r}; give a port such as 8080, or an address and a port"
        )
    return host or LOOPBACK, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine gets there."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Access:
    """Decides about each request.

    Args:
        host: Where the page is served.

    Attributes:
        token: What the printed URL has where the page is served to other machines, else ``None``.
        csrf: What the page sends along with whatever changes something.
    """

    def __init__(self, host: str) -> None:
        self._host = host.lower()
        self._is_local = is_loopback(host)
        self._key = secrets.token_urlsafe(32)
        self._port = 0
        self.csrf = secrets.token_urlsafe(32)
        self.token = None if self._is_local else secrets.token_urlsafe(24)

    def at(self, port: int) -> None:
        """The page is served at this port."""
        self._port = port

    @property
    def url(self) -> str:
        """What the user opens."""
        host = self._host
        if host in ("0.0.0.0", "::"):
            host = socket.gethostname()
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self._port}/" + (f"?token={self.token}" if self.token else "")

    @property
    def cookie(self) -> str:
        """``Set-Cookie`` for one who has the token.

        Cookies do not know of ports, so that its name has to: two crawls on one machine.
        """
        return f"{self._cookie_name}={self._key}; Path=/; HttpOnly; SameSite=Strict"

    @property
    def _cookie_name(self) -> str:
        return f"crawlkit-{self._port}"

    def check(self, method: str, headers: Mapping[str, str], *, token: str | None = None) -> bool:
        """Let a request through.

        Args:
            method: Its method.
            headers: Its headers.
            token: The token in its URL.

        Returns:
            Whether it has the token and is to be given the cookie.

        Raises:
            Refused: It is not answered.
        """
        if not self._is_our_name(headers.get("Host", "")):
            raise Refused(403, "this page is not served under that name; open the printed URL")
        if method not in ("GET", "HEAD", "POST"):
            raise Refused(405, "only GET and POST are answered")
        is_welcome = self._is_welcome(token)
        if not (is_welcome or self._has_cookie(headers)):
            raise Refused(401, "open the URL that the crawl has printed: it has a token")
        if method == "POST":
            self._check_origin(headers)
        return is_welcome and self.token is not None

    def _check_origin(self, headers: Mapping[str, str]) -> None:
        origin = urlsplit(headers.get("Origin", ""))
        if origin.scheme not in ("http", "https") or origin.netloc != headers.get("Host"):
            raise Refused(403, "another site has asked for that")
        if headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
            raise Refused(403, "another site has asked for that")
        if not secrets.compare_digest(_bytes(headers.get("X-CSRF-Token", "")), _bytes(self.csrf)):
            raise Refused(403, "the page is of an earlier crawl; load it again")

    def _is_our_name(self, host: str) -> bool:
        try:
            parts = urlsplit(f"//{host}")
            name, port = (parts.hostname or "").rstrip("."), parts.port
        except ValueError:
            return False
        if parts.netloc != host or "@" in host or (port or 80) != self._port:
            return False
        if self._is_local:
            return name == "localhost" or is_loopback(name)
        if name in (self._host, "localhost", socket.gethostname().lower(), _full_name()):
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True  # an address is no name that somebody else could have lead here

    def _is_welcome(self, token: str | None) -> bool:
        if self.token is None:
            return True
        return token is not None and secrets.compare_digest(_bytes(token), _bytes(self.token))

    def _has_cookie(self, headers: Mapping[str, str]) -> bool:
        try:
            cookies = SimpleCookie(headers.get("Cookie", ""))
        except CookieError:
            return False
        found = cookies.get(self._cookie_name)
        return found is not None and secrets.compare_digest(_bytes(found.value), _bytes(self._key))


def _full_name() -> str:
    return socket.getfqdn().lower()


def _bytes(text: str) -> bytes:
    # Not every str that comes in a header is ASCII, which `compare_digest` wants.
    return text.encode("utf-8", "surrogateescape")

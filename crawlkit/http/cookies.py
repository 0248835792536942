"""CookieJar: the cookies of one session (RFC 6265), on crawlkit's clock and kept as plain data.

The jars of aiohttp and of the standard library are not used: they read the system clock, which
may jump within a run and would log a session out; they know no public suffixes; and they are saved
to a file of their own rather than with a checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from ..clock import Clock
from ..request import host_of
from ..response import http_date
from ..urls import registrable_domain

MAX_PER_DOMAIN = 50
"""Cookies of one domain: what RFC 6265 (section 6.1) asks for. The oldest makes room."""
MAX_COOKIES = 1000
"""Cookies of one jar. A cookie of the domain that was silent for longest makes room."""
MAX_SIZE = 4096
"""Characters of a cookie's name and value together; a longer one is ignored (RFC 6265bis)."""
MAX_HEADER = 8190
"""Characters of a Cookie header, as many as servers usually take; the most specific come first."""


class Cookie(msgspec.Struct, array_like=True):
    """A cookie as it is kept and saved.

    Attributes:
        name: Name.
        value: Value, as the server wrote it.
        domain: Host that it is for, without a leading dot.
        path: Path that it is for.
        expires: Unix time after which it is gone; ``None`` lasts as long as the session.
        is_host_only: For the host alone and not for the hosts below it.
        is_secure: For https alone.
    """

    name: str
    value: str
    domain: str
    path: str = "/"
    expires: float | None = None
    is_host_only: bool = True
    is_secure: bool = False


class CookieJar:
    """The cookies of one session.

    Args:
        clock: What their age is measured by.

    Attributes:
        changes: Counts up at every change.
    """

    __slots__ = ("_clock", "_count", "_domains", "changes")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._domains: dict[str, dict[tuple[str, str], Cookie]] = {}
        self._count = 0
        self.changes = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Cookie]:
        now = self._clock.now()
        for cookies in self._domains.values():
            for cookie in cookies.values():
                if cookie.expires is None or cookie.expires > now:
                    yield cookie

    def saved(self) -> list[Cookie]:
        """The cookies that are worth keeping, for a checkpoint."""
        return list(self)

    def load(self, cookies: Iterable[Cookie]) -> None:
        """Put in what `saved` gave, but for what has expired since."""
        now = self._clock.now()
        for cookie in cookies:
            if cookie.expires is None or cookie.expires > now:
                self._put(cookie)

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains that it holds cookies of."""
        return tuple(self._domains)

    def set(
        self,
        name: str,
        value: str,
        *,
        domain: str,
        path: str = "/",
        expires: float | None = None,
        secure: bool = False,
    ) -> None:
        """Put in a cookie by hand, for `domain` and the hosts below it.

        Args:
            name: Its name.
            value: Its value.
            domain: A host name without port.
            path: Where on the host it is sent to.
            expires: Unix time after which it is gone; ``None`` for never.
            secure: Whether it is sent over https only.
        """
        self._put(Cookie(name, value, domain.lower().lstrip("."), path, expires, False, secure))

    def clear(self) -> None:
        """Forget all cookies."""
        self._domains.clear()
        self._count = 0
        self.changes += 1

    def store(self, url: str, set_cookie: Iterable[str]) -> None:
        """Take in the ``Set-Cookie`` headers of a response from `url` (RFC 6265, section 5.3)."""
        is_secure, host, path = _place(url)
        now = self._clock.now()
        for header in set_cookie:
            cookie = _parse(header, host, path, now)
            # A site that is not encrypted cannot plant what is sent to the one that is.
            if cookie is None or (cookie.is_secure and not is_secure):
                continue
            if cookie.expires is not None and cookie.expires <= now:
                self._remove(cookie.domain, (cookie.name, cookie.path))
            else:
                self._put(cookie)

    def header(self, url: str) -> str:
        """The ``Cookie`` header for a request to `url` (RFC 6265, section 5.4), or ``""``."""
        is_secure, host, path = _place(url)
        now = self._clock.now()
        found: list[Cookie] = []
        for domain in self_and_parents(host):
            for cookie in tuple(self._domains.get(domain, {}).values()):
                if cookie.expires is not None and cookie.expires <= now:
                    self._remove(domain, (cookie.name, cookie.path))
                elif (
                    (domain == host or not cookie.is_host_only)
                    and (is_secure or not cookie.is_secure)
                    and _path_matches(path, cookie.path)
                ):
                    found.append(cookie)
        found.sort(key=lambda cookie: -len(cookie.path))  # stable: the older stays in front
        pairs: list[str] = []
        length = -2
        for cookie in found:
            length += len(cookie.name) + len(cookie.value) + 3
            if length > MAX_HEADER:
                break
            pairs.append(f"{cookie.name}={cookie.value}")
        return "; ".join(pairs)

    def _put(self, cookie: Cookie) -> None:
        # Taken out and put back, a domain moves to the end: the first is the one that was silent
        # for longest. A cookie that is set anew keeps its place, as the RFC has it.
        cookies = self._domains.pop(cookie.domain, {})
        self._domains[cookie.domain] = cookies
        key = (cookie.name, cookie.path)
        known = cookies.get(key)
        if known == cookie:
            return
        self.changes += 1
        cookies[key] = cookie
        if known is not None:
            return
        self._count += 1
        if len(cookies) > MAX_PER_DOMAIN:
            self._remove(cookie.domain, next(iter(cookies)))
        elif self._count > MAX_COOKIES:
            domain = next(iter(self._domains))
            self._remove(domain, next(iter(self._domains[domain])))

    def _remove(self, domain: str, key: tuple[str, str]) -> None:
        cookies = self._domains.get(domain)
        if cookies is None or cookies.pop(key, None) is None:
            return
        if not cookies:
            del self._domains[domain]
        self._count -= 1
        self.changes += 1


def _parse(header: str, host: str, path: str, now: float) -> Cookie | None:
    """A ``Set-Cookie`` header as a cookie, or ``None`` where it is to be ignored."""
    pair, *attributes = header.split(";")
    name, equals, value = pair.partition("=")
    name, value = name.strip(" \t"), value.strip(" \t")
    if not name or not equals or len(name) + len(value) > MAX_SIZE:
        return None
    if not (name.isprintable() and value.replace("\t", " ").isprintable()):
        return None
    cookie = Cookie(name, value, host, _directory(path))
    max_age: float | None = None
    domain = ""
    for attribute in attributes:
        key, _, text = attribute.partition("=")
        key, text = key.strip(" \t").lower(), text.strip(" \t")
        if key == "expires":
            date = http_date(text)
            cookie.expires = cookie.expires if date is None else date
        elif key == "max-age":
            digits = text.removeprefix("-")
            if digits.isascii() and digits.isdecimal():
                # Beyond nine digits, which is thirty years, the number is as good as any.
                max_age = 0.0 if text != digits else float(digits[:9])
        elif key == "domain":
            domain = text.removeprefix(".").lower()
        elif key == "path":
            cookie.path = text if text.startswith("/") else _directory(path)
        elif key == "secure":
            cookie.is_secure = True
    if max_age is not None:
        cookie.expires = now + max_age if max_age > 0 else 0.0
    if domain and not (domain == host and _is_alone(host)):
        if domain != host and (not host.endswith("." + domain) or _is_alone(domain)):
            return None
        cookie.domain = domain
        cookie.is_host_only = False
    return cookie if _keeps_its_prefix(cookie) else None


def _keeps_its_prefix(cookie: Cookie) -> bool:
    """Whether a name that begins with ``__Secure-`` or ``__Host-`` is what it says (6265bis)."""
    name = cookie.name.lower()
    if name.startswith("__host-"):
        return cookie.is_secure and cookie.is_host_only and cookie.path == "/"
    return cookie.is_secure or not name.startswith("__secure-")


def _place(url: str) -> tuple[bool, str, str]:
    """Of a canonical URL: whether it is https, its host without the port, its path."""
    host = host_of(url)
    start = url.find("://") + 3 + len(host)
    end = url.find("?", start)
    path = url[start:] if end < 0 else url[start:end]
    return url.startswith("https:"), hostname(host), path or "/"


def hostname(host: str) -> str:
    """``host[:port]`` of a canonical URL without the port, an IPv6 address without brackets."""
    if host.startswith("["):
        return host[1 : host.find("]")]
    return host.partition(":")[0]


def _directory(path: str) -> str:
    """The path that a cookie is for where its header does not say (RFC 6265, section 5.1.4)."""
    return path[: path.rfind("/")] or "/"


def _path_matches(path: str, prefix: str) -> bool:
    return path.startswith(prefix) and (
        len(path) == len(prefix) or prefix.endswith("/") or path[len(prefix)] == "/"
    )


def self_and_parents(host: str) -> Iterator[str]:
    """A host name and every name above it: ``a.b.c``, ``b.c``, ``c``. An address is alone."""
    yield host
    if _is_address(host):
        return
    dot = host.find(".")
    while dot >= 0:
        yield host[dot + 1 :]
        dot = host.find(".", dot + 1)


def _is_address(host: str) -> bool:
    # In a canonical URL nothing but an address has a number for its last label.
    return ":" in host or host.rpartition(".")[2].isdigit()


def _is_alone(host: str) -> bool:
    """Whether cookies for the hosts below it make no sense: an address, or a public suffix."""
    return _is_address(host) or registrable_domain(f"x.{host}") == f"x.{host}"

"""RobotsText: what a robots.txt says to one crawler (RFC 9309).

Reading and matching are our own, since both must be bounded whatever a server sends. With 500 KiB
of rules, protego 0.7 takes 270 ms to read them, and it takes a group for a name that only begins
alike for ours. What the rules come to is in `rules`.

Where sites write what the RFC does not know, this is the answer:
- ``Crawl-delay``, ``Request-rate``, ``Sitemap`` and unknown lines do not end a list of
  ``User-agent`` lines (section 2.2.4: they "MUST NOT interfere"). A delay belongs to the
  ``User-agent`` lines right above it.
- A ``User-agent`` counts up to its first space or slash: ``crawlkit/2.0`` is crawlkit.
- A missing colon and the common misspellings of ``Disallow`` are understood.
- A path that begins with neither ``/`` nor ``*`` is no rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote

import msgspec

from ..errors import UrlError
from ..urls import Base

MAX_BODY = 500 * 1024
"""Bytes of a robots.txt that are read (RFC 9309, section 2.5: at least these)."""
MAX_CRAWL_DELAY = 60.0
"""Seconds between two requests that a site can ask for."""
MAX_SITEMAPS = 1000
"""Sitemaps that are taken from one robots.txt."""

SAFE = "-._~:/?@!$&'()*+,;=%"
"""What is not percent-encoded in a path beside letters and digits; wildcards are not, either."""

_USER_AGENT, _ALLOW, _DISALLOW, _SITEMAP, _CRAWL_DELAY, _REQUEST_RATE = range(6)
_FIELDS = (
    dict.fromkeys(("user-agent", "useragent", "user agent"), _USER_AGENT)
    | dict.fromkeys(("allow",), _ALLOW)
    | dict.fromkeys(
        ("disallow", "dissallow", "dissalow", "disalow", "diasllow", "disallaw"), _DISALLOW
    )
    | dict.fromkeys(("sitemap", "sitemaps", "site-map"), _SITEMAP)
    | dict.fromkeys(("crawl-delay", "crawldelay", "crawl delay"), _CRAWL_DELAY)
    | dict.fromkeys(("request-rate", "request rate"), _REQUEST_RATE)
)
_TOKEN_ENDS = re.compile(r"[\s/;,()]")
_COMPATIBLE = re.compile(r"\(compatible;\s*+([^\s/;,()]++)", re.IGNORECASE)
_SECONDS = re.compile(r"[0-9]++(?:\.[0-9]*+)?|\.[0-9]++")
_RATE = re.compile(r"([0-9]{1,9})\s*+/\s*+([0-9]{1,9})\s*+([smhd]?)", re.IGNORECASE)
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


# Tens of thousands of these must not set off the garbage collector, which would stop the event loop
# also where they are made in a thread; so they are not known to it (`gc`).


class Rule(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A line of a robots.txt that allows or disallows.

    Attributes:
        line: Its number, from 1.
        is_allowed: Whether it allows what it matches.
        path: The path as it is written there.
    """

    line: int
    is_allowed: bool
    path: str


class RobotsText(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a robots.txt says to one crawler. Plain data, which is saved as it is.

    Attributes:
        rules: The rules of the groups that are for this crawler, in their order.
        crawl_delay: Seconds between two requests, at most `MAX_CRAWL_DELAY`; ``None`` where
            nothing is said.
        sitemaps: Canonical URLs, each once.
    """

    rules: list[Rule] = []
    crawl_delay: float | None = None
    sitemaps: list[str] = []


def product_token(user_agent: str) -> str:
    """The name by which robots.txt files call a crawler, in lower case.

    It is the first word of its ``User-Agent`` without the version, or the one after
    ``(compatible;`` where the header begins as that of a browser:
    ``Mozilla/5.0 (compatible; Shopbot/1.0)`` is ``shopbot``.
    """
    match = _COMPATIBLE.search(user_agent)
    return _token(match[1] if match else user_agent)


def parse(body: bytes, token: str, url: str) -> RobotsText:
    """Read a robots.txt, in time that is linear in its size.

    What is no robots.txt (an HTML page that a server gives for any address, binary data) says
    nothing.

    Args:
        body: As it was served. No more than `MAX_BODY` is read, up to the end of a line.
        token: The crawler's name, as `product_token` gives it.
        url: Where it was found: what sitemaps may be relative to.
    """
    own, everyone = _Group(), _Group()
    sitemaps: dict[str, None] = {}
    # Which of the two the lines belong to. Delays are told apart from rules; see above.
    is_own = is_everyone = delays_own = delays_everyone = False
    previous_rule = previous = -1
    for number, line in enumerate(_lines(body), 1):
        field, value = _field(line)
        if field == _USER_AGENT:
            name = _token(value)
            if previous_rule != _USER_AGENT:
                is_own = is_everyone = False
            if previous != _USER_AGENT:
                delays_own = delays_everyone = False
            if name and name == token:
                is_own = delays_own = own.is_named = True
            elif name == "*":
                is_everyone = delays_everyone = True
            previous_rule = previous = field
        elif field in (_ALLOW, _DISALLOW):
            previous_rule = previous = field
            if value.startswith(("/", "*")) and (is_own or is_everyone):
                rule = Rule(number, field == _ALLOW, _utf8(value))
                if is_own:
                    own.rules.append(rule)
                if is_everyone:
                    everyone.rules.append(rule)
        elif field in (_CRAWL_DELAY, _REQUEST_RATE):
            previous = field
            seconds = _delay(value) if field == _CRAWL_DELAY else _rate(value)
            if delays_own:
                own.slow_down(seconds)
            if delays_everyone:
                everyone.slow_down(seconds)
        elif field == _SITEMAP and value and len(sitemaps) < MAX_SITEMAPS:
            sitemaps.setdefault(value)
    group = own if own.is_named else everyone
    return RobotsText(group.rules, group.delay, _absolute(sitemaps, url))


class _Group:
    """All groups that are for one token, merged (section 2.2.1)."""

    def __init__(self) -> None:
        self.is_named = False
        self.rules: list[Rule] = []
        self.delay: float | None = None

    def slow_down(self, seconds: float | None) -> None:
        if seconds is not None:
            self.delay = max(seconds, self.delay or 0.0)


def _lines(body: bytes) -> list[str]:
    """The lines of a robots.txt; none where it is something else."""
    if len(body) >= MAX_BODY:
        # The last line may have been cut, and half of a path forbids too much or too little.
        body = body[:MAX_BODY]
        body = body[: max(body.rfind(b"\n"), body.rfind(b"\r")) + 1]
    if body.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = body.decode("utf-16", "replace")
    else:
        # Paths are octets: bytes that are not UTF-8 are those of a URL in another encoding.
        text = body.decode("utf-8-sig", "surrogateescape")
    if text.lstrip()[:1] == "<" or "\0" in text:
        return []
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _field(line: str) -> tuple[int, str]:
    """Field and value of a line; -1 where it is neither known nor needed."""
    line = line.partition("#")[0]
    name, colon, value = line.partition(":")
    field = _FIELDS.get(name.strip().lower(), -1)
    if field < 0 and (words := line.split(None, 1)) and len(words) == 2:
        field, value = _FIELDS.get(words[0].lower(), -1), words[1]
    elif not colon:
        return -1, ""
    return field, value.strip()


def _token(text: str) -> str:
    """A name up to its version, in lower case."""
    name = _TOKEN_ENDS.split(text.strip(), maxsplit=1)[0].lower()
    return name if name == "*" else name.replace("*", "")


def _delay(value: str) -> float | None:
    """Seconds of a ``Crawl-delay``; what is negative or no number says nothing."""
    match = _SECONDS.match(value)
    return _clamped(float(match[0])) if match else None


def _rate(value: str) -> float | None:
    """Seconds between two requests of a ``Request-rate`` (``1/5``, ``30/1m``), at any hour."""
    match = _RATE.match(value)
    if match is None or not int(match[1]):
        return None
    return _clamped(int(match[2]) * _UNITS[match[3].lower()] / int(match[1]))


def _clamped(seconds: float) -> float | None:
    return min(seconds, MAX_CRAWL_DELAY) or None


def _absolute(sitemaps: Iterable[str], url: str) -> list[str]:
    """The canonical URLs, each once, without those that cannot be fetched."""
    try:
        base = Base(url)
    except UrlError:
        return []
    return list(dict.fromkeys(link for text in sitemaps if (link := base.join(text))))


def _utf8(path: str) -> str:
    """A path as it stands, but that bytes which are no UTF-8 are percent-encoded."""
    if not path.isascii():
        try:
            path.encode()
        except UnicodeEncodeError:
            return quote(path, SAFE, errors="surrogateescape")
    return path

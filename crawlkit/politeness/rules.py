"""What a robots.txt says to one crawler: reading it, and the rules that it comes to (RFC 9309).

Reading and matching are our own, since both must be bounded whatever a server sends. With 500 KiB
of rules, protego 0.7 takes 270 ms to read them and, as it tries one rule with wildcards after the
other, 15 to 107 ms for each URL; and it takes a group for a name that only begins alike for ours.
Here a URL is looked up: among the paths without wildcards by bisection, among those with wildcards
by three characters in a row that it must have in common with them.

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
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from urllib.parse import quote

import msgspec

from ..errors import UrlError, printable
from ..urls import Base

MAX_BODY = 500 * 1024
"""Bytes of a robots.txt that are read (RFC 9309, section 2.5: at least these)."""
MAX_CRAWL_DELAY = 60.0
"""Seconds between two requests that a site can ask for."""
MAX_SITEMAPS = 1000
"""Sitemaps that are taken from one robots.txt."""
MAX_TRIED = 5000
"""Rules with wildcards that are tried on one URL; 3 ms."""
MAX_WORK = 20_000_000
"""Characters of a URL and of such rules that may have to be compared; 20 ms at worst."""

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


# -- paths that can be compared -----------------------------------------------------------------


def _utf8(path: str) -> str:
    """A path as it stands, but that bytes which are no UTF-8 are percent-encoded."""
    if not path.isascii():
        try:
            path.encode()
        except UnicodeEncodeError:
            return quote(path, _SAFE, errors="surrogateescape")
    return path


# What compares equal (section 2.2.2): an octet and its percent-encoding, but where the difference
# means something. A "*" or "$" of a URL is encoded, for in a rule it is a wildcard unless it is;
# "/" and "?" of a path are other than "%2F" and "%3F", of a query they are not.
_PATH = {
    f"%{high}{low}": char if char.isalnum() or char in "-._~:@!&'()+,;=" else f"%{code:02X}"
    for high in "0123456789abcdefABCDEF"
    for low in "0123456789abcdefABCDEF"
    for code in (int(high + low, 16),)
    for char in (chr(code) if code < 128 else "%",)
} | {"%": "%25"}
_QUERY = _PATH | dict.fromkeys(("%2F", "%2f"), "/") | dict.fromkeys(("%3F", "%3f"), "?")
_ENCODED = re.compile("%(?:[0-9A-Fa-f]{2})?")
_SAFE = "-._~:/?@!$&'()*+,;=%"
_STARS = re.compile(r"\*{2,}")


def _comparable(path: str) -> str:
    """A path and query in which what is equal by the RFC is spelled alike."""
    if "%" not in path:
        return path
    path, mark, query = path.partition("?")
    path = _ENCODED.sub(lambda match: _PATH[match[0]], path)
    return path + mark + _ENCODED.sub(lambda match: _QUERY[match[0]], query) if mark else path


class _Wild(msgspec.Struct, frozen=True, gc=False):
    """A rule with wildcards, taken apart at them."""

    rule: Rule
    rank: int
    start: str
    middle: tuple[str, ...]
    end: str | None  # what it must end with, where it has to end there

    def matches(self, path: str) -> bool:
        if not path.startswith(self.start):
            return False
        place = len(self.start)
        for piece in self.middle:
            place = path.find(piece, place)
            if place < 0:
                return False
            place += len(piece)
        return self.end is None or (len(path) - place >= len(self.end) and path.endswith(self.end))


class Rules:
    """What may be fetched from one origin.

    The rule with the longest path decides, and where two are as long the one that allows
    (section 2.2.2). A URL that none matches is allowed, and so is robots.txt itself.

    Args:
        text: What the robots.txt says; nothing, if not given.

    Attributes:
        crawl_delay: Seconds between two requests that the site asks for, up to
            `MAX_CRAWL_DELAY`, or ``None``.
        sitemaps: Canonical URLs of the sitemaps that it names.
    """

    __slots__ = (
        "_exact",
        "_index",
        "_is_empty",
        "_parents",
        "_paths",
        "_plain",
        "_wild",
        "crawl_delay",
        "sitemaps",
    )

    def __init__(self, text: RobotsText | None = None) -> None:
        text = text or RobotsText()
        self.crawl_delay = text.crawl_delay
        self.sitemaps = tuple(text.sitemaps)
        plain: dict[str, Rule] = {}
        self._exact: dict[str, Rule] = {}
        wild: dict[str, Rule] = {}
        for rule in text.rules:
            path = _comparable(quote(rule.path, _SAFE))
            ends = path.endswith("$")
            path = path[:-1].replace("$", "%24") + "$" if ends else path.replace("$", "%24")
            if "*" in path:
                _keep(wild, path, rule)
            elif ends:
                _keep(self._exact, path[:-1], rule)
            else:
                _keep(plain, path, rule)
        self._paths = sorted(plain)
        self._plain = [plain[path] for path in self._paths]
        self._parents = _parents(self._paths)
        self._wild = sorted((_wild(*each) for each in wild.items()), key=_rank_of, reverse=True)
        self._index = _Index(self._wild) if len(self._wild) > _Index.PAYS_FROM else None
        self._is_empty = not (plain or self._exact or wild)

    def __len__(self) -> int:
        return len(self._plain) + len(self._exact) + len(self._wild)

    def reason(self, url: str) -> str | None:
        """Why a URL may not be fetched, or ``None`` where it may.

        Takes a microsecond or two, and never more than some 20 ms: a URL that thousands of rules
        with wildcards would have to be tried on, which no honest site has, may not be fetched.

        Args:
            url: In canonical form.

        Returns:
            The rule with its line, such as ``Disallow: /private (line 12)``.
        """
        if self._is_empty:
            return None
        path = url[url.find("/", 8) :]
        if "%" in path or "*" in path or "$" in path:
            path = _comparable(path).replace("*", "%2A").replace("$", "%24")
        # A rule for the whole path is longer than any other without a "*".
        best = self._exact.get(path)
        rank = 1 if best is None else _rank(len(path) + 1, best)
        place = -1 if best else bisect_right(self._paths, path) - 1
        while place >= 0:
            if path.startswith(self._paths[place]):
                best = self._plain[place]
                rank = _rank(len(self._paths[place]), best)
                break
            place = self._parents[place]
        if self._wild:
            wilds = self._wild if self._index is None else self._index.candidates(path)
            if wilds is None:
                return f"robots.txt has too many rules with wildcards ({len(self._wild)}) for it"
            for wild in wilds:
                if wild.rank <= rank:
                    break
                if wild.matches(path):
                    best = wild.rule
                    break
        if best is None or best.is_allowed or path == "/robots.txt":
            return None
        shown = best.path if len(best.path) <= 200 else best.path[:197] + "..."
        # It ends up in logs and on terminals, and a site wrote it.
        shown = printable(shown)
        return f"Disallow: {shown} (line {best.line})"


def _keep(rules: dict[str, Rule], path: str, rule: Rule) -> None:
    """Of rules with the same path, one that allows counts, and the first of its kind."""
    known = rules.get(path)
    if known is None or (rule.is_allowed and not known.is_allowed):
        rules[path] = rule


def _parents(paths: Sequence[str]) -> list[int]:
    """For each of the sorted paths the place of the longest other one that it begins with, or -1.

    The paths that a URL begins with are then a chain, at whose end bisection arrives.
    """
    parents: list[int] = []
    above: list[int] = []
    for place, path in enumerate(paths):
        while above and not path.startswith(paths[above[-1]]):
            above.pop()
        parents.append(above[-1] if above else -1)
        above.append(place)
    return parents


def _wild(path: str, rule: Rule) -> _Wild:
    is_open = not path.endswith("$")
    start, *rest = _STARS.sub("*", path if is_open else path[:-1]).split("*")
    end = None if is_open else rest.pop()
    return _Wild(rule, _rank(len(path), rule), start, tuple(filter(None, rest)), end)


def _rank(length: int, rule: Rule) -> int:
    """What decides between two rules: their length, then whether one allows."""
    return 2 * length + rule.is_allowed


def _rank_of(wild: _Wild) -> int:
    return wild.rank


class _Index:
    """Finds the rules with wildcards that may match a path, where there are many rules.

    Each rule is filed under three characters in a row that are in every path that it matches: of
    all that it has, those under which the fewest others are. A path is looked up with each of its
    own. Rules without three characters in a row are tried on every path.
    """

    PAYS_FROM = 32
    """Rules up to which it is faster to try them all."""

    def __init__(self, wild: Sequence[_Wild]) -> None:
        self._wild = wild
        self._always = array("L")
        self._filed: dict[str, array[int]] = {}
        for place, rule in enumerate(wild):
            self._file(rule).append(place)

    def _file(self, rule: _Wild) -> array[int]:
        best = None
        for piece in (*rule.middle, rule.end or "", rule.start):
            for place in range(len(piece) - 2):
                key = piece[place : place + 3]
                filed = self._filed.get(key)
                if filed is None:
                    filed = self._filed[key] = array("L")
                    return filed
                if best is None or len(filed) < len(best):
                    best = filed
        return self._always if best is None else best

    def candidates(self, path: str) -> list[_Wild] | None:
        """The rules that may match, the longest first; ``None`` where there are too many."""
        if len(self._always) > MAX_TRIED:
            return None
        places = self._always.tolist()
        for key in {path[place : place + 3] for place in range(len(path) - 2)}:
            if (filed := self._filed.get(key)) is not None:
                places += filed
                if len(places) > MAX_TRIED:
                    return None
        places.sort()
        found = list(map(self._wild.__getitem__, places))
        return None if sum(map(_rank_of, found)) * len(path) > 2 * MAX_WORK else found

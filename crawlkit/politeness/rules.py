"""Rules: what may be fetched from one origin, by its robots.txt (RFC 9309).

What the file says is read in `robotstext`. Looking it up must be bounded whatever it says: protego
0.7, which tries one rule with wildcards after the other, takes 15 to 107 ms for each URL where
there are 500 KiB of them. Here a URL is looked up: among the paths without wildcards by bisection,
among those with wildcards by three characters in a row that it must have in common with them.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from urllib.parse import quote

import msgspec

from ..errors import printable
from .robotstext import SAFE, RobotsText, Rule

MAX_TRIED = 5000
"""Rules with wildcards that are tried on one URL; 3 ms."""
MAX_WORK = 20_000_000
"""Characters of a URL and of such rules that may have to be compared; 20 ms at worst."""


# -- paths that can be compared -----------------------------------------------------------------

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
            path = _comparable(quote(rule.path, SAFE))
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

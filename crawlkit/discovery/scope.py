"""Scope: which links of a page are followed.

The answer depends on the link and on the page that holds it, on nothing else. A crawl that is
resumed, or spread over machines, thus decides as it did before.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TypeAlias

from ..errors import OptionError, UrlError
from ..request import host_of
from ..urls import canonical, escape, knows_suffixes, read_suffixes, registrable_domain

UrlPattern: TypeAlias = str | re.Pattern[str]
"""A glob, a regular expression after ``re:``, or a compiled one."""

KINDS = ("same-host", "same-domain", "same-origin", "all")


@dataclass(frozen=True, slots=True)
class Scope:
    """Which links are followed, relative to the page that holds them.

    A **glob** is compared with the whole canonical URL, query included:

    - ``*`` stands for any characters but ``/``, ``?`` for one of them;
    - ``**`` stands for any characters, and ``/**/`` also for a single ``/``;
    - ``{jpg,png}`` stands for either.

    As a URL begins with its scheme, so must a glob: ``https://shop.example/books/**``, or
    ``**/books/**`` for any site. For all else there are **regular expressions**: a string that
    begins with ``re:``, or a compiled pattern, is searched for anywhere in the URL.

    Args:
        kind: How far from its page a link may lead. ``same-host``: the host and port are equal;
            ``same-domain``: the registrable domains are, so that ``www.shop.example`` leads to
            ``blog.shop.example``; ``same-origin``: scheme, host and port are; ``all``: anywhere.
        include: Where there are any, a URL must match one of them, within `kind`.
        exclude: A URL that matches one of them is not followed, even if it is included.

    Raises:
        OptionError: There is no such kind, or a pattern is malformed or can match no URL.
    """

    kind: str = "same-host"
    include: UrlPattern | Iterable[UrlPattern] = ()
    exclude: UrlPattern | Iterable[UrlPattern] = ()
    _includes: tuple[Callable[[str], object], ...] = field(init=False, repr=False, compare=False)
    _excludes: tuple[Callable[[str], object], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            near = get_close_matches(str(self.kind).lower().replace("_", "-"), KINDS, 1)
            remedy = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(KINDS)}"
            raise OptionError(f"scope {self.kind!r} does not exist; {remedy}")
        for name in ("include", "exclude"):
            given = getattr(self, name)
            one = isinstance(given, str) or not isinstance(given, Iterable)
            patterns = (given,) if one else tuple(given)
            object.__setattr__(self, name, patterns)
            object.__setattr__(self, f"_{name}s", tuple(matcher(name, each) for each in patterns))

    async def open(self) -> None:
        """Have at hand what decisions need, so that none of them holds the event loop up."""
        if self.kind == "same-domain" and not knows_suffixes():
            await asyncio.to_thread(read_suffixes)

    def reason(self, url: str, page_url: str) -> str | None:
        """Why a link is not followed; None when it is.

        Args:
            url: Where it leads, in canonical form.
            page_url: The page that holds it, in canonical form.

        Returns:
            ``scope``, ``exclude`` or ``include``: the first rule, in this order, that forbids it.
        """
        root = page_url.find("/", 8) + 1
        if not (root and url.startswith(page_url[:root])) and not self._reaches(url, page_url):
            return "scope"
        if self._excludes and any(matches(url) for matches in self._excludes):
            return "exclude"
        if self._includes and not any(matches(url) for matches in self._includes):
            return "include"
        return None

    def told(self, reason: str, url: str) -> str:
        """What the rule says that a link was not followed by.

        Args:
            reason: What `reason` has given for it.
            url: The link.
        """
        if reason == "scope":
            return self.kind
        if reason == "exclude":
            matching = zip(self.exclude, self._excludes, strict=True)  # type: ignore[arg-type]
            return next((_written(pattern) for pattern, matches in matching if matches(url)), "")
        if reason == "include":
            patterns = list(map(_written, self.include))  # type: ignore[arg-type]
            more = f" and {len(patterns) - 3} more" if len(patterns) > 3 else ""
            return f"it matches none of {', '.join(patterns[:3])}{more}"
        return ""

    def sort(self, urls: list[str], page_url: str) -> tuple[list[str], list[tuple[str, str]]]:
        """The links of a page that are followed, and the others, each with its `reason`."""
        if not (self._includes or self._excludes):
            root = page_url[: page_url.find("/", 8) + 1]
            for url in urls:
                if not (root and url.startswith(root)):
                    break
            else:
                return urls, []  # as on most pages
        followed, others = [], []
        for url in urls:
            reason = self.reason(url, page_url)
            if reason is None:
                followed.append(url)
            else:
                others.append((url, reason))
        return followed, others

    def _reaches(self, url: str, page_url: str) -> bool:
        """Whether `kind` lets a page reach a URL of another origin."""
        if self.kind == "same-origin":
            return False
        if self.kind == "all":
            return True
        host, page_host = host_of(url), host_of(page_url)
        if host == page_host or self.kind == "same-host":
            return host == page_host
        return registrable_domain(host) == registrable_domain(page_host)


def _written(pattern: UrlPattern) -> str:
    """A pattern as it would be written in an option; a very long one is cut."""
    text = pattern if isinstance(pattern, str) else f"re:{pattern.pattern}"
    return text if len(text) <= 200 else f"{text[:197]}..."


def matcher(option: str, pattern: UrlPattern) -> Callable[[str], object]:
    """The function that tells whether a URL, in canonical form, matches a pattern.

    Args:
        option: The option that the pattern was given for, for the message.
        pattern: A glob, or a regular expression; see `Scope`.

    Raises:
        OptionError: The pattern is malformed or can match no URL.
    """
    if isinstance(pattern, re.Pattern) and isinstance(pattern.pattern, str):
        return pattern.search
    if not isinstance(pattern, str):
        raise OptionError(f"{option} {pattern!r} is no pattern; give a glob or 're:...'")
    try:
        if pattern.startswith("re:"):
            return re.compile(pattern[3:]).search
        return re.compile(_glob(pattern)).fullmatch
    except UrlError as error:
        raise OptionError(f"{option} {pattern!r} can match no URL: {error}") from None
    except (re.error, ValueError, OverflowError, RecursionError) as error:
        raise OptionError(f"{option} {pattern!r} is no regular expression: {error}") from None


_LITERAL = re.compile(r"[^*?{}]*")
_SITE = re.compile(r"[^/]*://[^/]*")
_IPV6_HOST = re.compile(r"(?<=://)\[[0-9A-Fa-f:.]+\]")
_NEVER_IN_A_URL = re.compile(r"[#\\\[\]]")
_TOKEN = re.compile(r"(?<=/)\*\*/|\*\*|[*?{},\[\]]|[^*?{},\[\]]+")

_WILD = {"": "", "*": "[^/]*", "**": ".*", "**/": "(?:.*/)?"}
_WILD_SHORTEST = {"": "", "*": "[^/]*?", "**": ".*?", "**/": "(?:.*?/)??"}
# Brackets are those of an IPv6 host here.
_OTHER = {"?": "[^/]", "{": "(?:", "}": ")", ",": "|", "[": r"\[", "]": r"\]"}


def _glob(glob: str) -> str:
    """A glob as a regular expression of a whole URL.

    Raises:
        UrlError: It can match no URL; the message says why and what to write.
    """
    literal = _LITERAL.match(glob)
    start = literal[0].lower() if literal else ""
    if start and not any(start.startswith(s[: len(start)]) for s in ("http://", "https://")):
        raise UrlError(f"it is compared with the whole URL; write {'**' + glob!r}")
    if start == glob.lower():
        return re.escape(canonical(glob))
    site = _SITE.match(glob)
    head, _, rest = glob.partition("/")
    if not ("**" in head or "{" in head or rest.startswith("/")):
        raise UrlError(f"'*' does not stand for '/' in it; write {'**' + glob.lstrip('*')!r}")
    if site is not None:
        if not site[0].isascii():
            raise UrlError("its host is not in ASCII; write it in its form with xn--")
        glob = site[0].lower() + (glob[site.end() :] or ("" if "**" in site[0] else "/"))
    strange = _NEVER_IN_A_URL.search(_IPV6_HOST.sub("", glob, count=1))
    if strange is not None:
        raise UrlError(f"{strange[0]!r} never stands in one; write a regular expression, 're:...'")
    return _translate(re.sub(r"\*{3,}", "**", glob))


def _translate(glob: str) -> str:
    """The tokens of a glob as a regular expression.

    Text of a fixed length between two wildcards is taken at its first place, for good (an atomic
    group), where the second wildcard can make up for any later place. So ``**/a/**/b/**`` is
    matched in linear time; a site could stall a backtracking match with ``/a/a/a/a/a...``.
    """
    done = wild = text = ""
    is_fixed = True
    depth = 0
    for token in _TOKEN.findall(glob):
        if token in _WILD and not depth:
            # Not so "**x*y": where a "/" follows the first x, "*" cannot pass it to a later one.
            if is_fixed and (wild in ("", "*") or token != "*"):
                done += f"(?>{_WILD_SHORTEST[wild]}{text})"
            else:
                done += _WILD[wild] + text
            wild, text, is_fixed = token, "", True
            continue
        depth += (token == "{") - (token == "}")
        if depth < 0:
            break
        if token in _WILD:
            text += _WILD[token]
        elif token in _OTHER and (token != "," or depth):
            text += _OTHER[token]
        else:
            text += re.escape(escape(token))
        is_fixed = is_fixed and token != "{"
    if depth:
        raise UrlError("its braces do not pair; close or remove them")
    return done + _WILD[wild] + text

"""Directives: whether a page asks crawlers not to follow its links.

It may do so in its ``X-Robots-Tag`` headers or in ``meta`` tags called ``robots``, or after one
crawler. There is no standard for either; this is what the search engines document: names and values
in any case, values separated by commas, ``none`` for both ``noindex`` and ``nofollow``, and of what
is said to all and to one crawler everything that forbids.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from lxml import etree
from multidict import istr

from ..response import Response

MAX_HEAD = 512 * 1024
"""Bytes in which ``meta`` tags are looked for, where ``<body`` does not come before."""

_HEADER = istr("X-Robots-Tag")
# Values that have a value of their own, so that what stands before their colon names no crawler.
_WITH_VALUE = frozenset(
    {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"}
)
_NAME = re.compile(r"[A-Za-z0-9_.*\-]++")
_FORBIDS = frozenset({"nofollow", "none"})
_SEPARATORS = re.compile(r"[\s,;]+")
_META = ("meta", "{http://www.w3.org/1999/xhtml}meta")


def nofollow(response: Response, root: Callable[[], etree._Element | None], token: str) -> bool:
    """Whether the links of a page are not to be followed.

    Costs about three microseconds where a page says nothing of the kind: the parser is asked only
    where the bytes before ``<body`` hold the words.

    Args:
        response: The page.
        root: Gives the root of the parsed page, or ``None`` where it is not HTML. Only what is
            really a tag there counts, not what stands in a comment or a script.
        token: The crawler's name in lower case (`product_token`).
    """
    headers = response.headers
    if _HEADER in headers and _in_headers(headers.getall(_HEADER), token):
        return True
    body = response.body
    end = body.find(b"<body")
    if end < 0 and response.content_type.endswith("json"):
        return False
    head = body[: end if 0 <= end < MAX_HEAD else MAX_HEAD].lower()
    is_named = b"robots" in head or token.encode() in head
    # In UTF-16 the words could not be found.
    if not (is_named and (b"nofollow" in head or b"none" in head)) and b"\0" not in head[:4]:
        return False
    tree = root()
    return tree is not None and _in_tags(tree, token)


def _in_headers(values: Iterable[str], token: str) -> bool:
    """``nofollow``, ``shopbot: nofollow, noarchive``, ``unavailable_after: 25 Jun 2030 15:00``."""
    for value in values:
        is_for_us = True
        for part in value.split(","):
            name, colon, rest = part.partition(":")
            name = name.strip().lower()
            if colon and name not in _WITH_VALUE and _NAME.fullmatch(name):
                is_for_us = name in (token, "*", "robots")
                name = rest.strip().lower()
            if is_for_us and name in _FORBIDS:
                return True
    return False


def _in_tags(root: etree._Element, token: str) -> bool:
    for tag in root.iter(*_META):
        if (tag.get("name") or "").strip().lower() in ("robots", token) and not (
            _FORBIDS.isdisjoint(_SEPARATORS.split((tag.get("content") or "").lower()))
        ):
            return True
    return False

"""Parsing: from a response to its tree, whatever the server made of its markup.

libxml2 has three weak spots that a server can aim at. Attributes of one tag take quadratic time:
ten thousand of them 0.1 s, a hundred thousand ten seconds. Elements take some 500 bytes of memory
each, with what hangs on them. And what is nested deeper than 2,048 levels is dropped together with
all that follows, without a word. The first two are refused before there is a tree, the third is
told with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from lxml import etree
from parsel import Selector

from .errors import LimitError
from .http.charset import detector_is_ready
from .response import Response

SMALL = 24 * 1024
"""Bytes of a body whose markup costs little, whatever it is: at most 60 ms."""
LARGE = 256 * 1024
"""Bytes of a body from which on parsing takes too long for the event loop: more than some 10 ms."""
MAX_ELEMENTS = 200_000
"""Elements of a page by default; as many links take 110 MB. Real pages have up to 182,000 (the
manual of Node.js on one page)."""
ATTRIBUTES_PER_ELEMENT = 3
"""Attributes of a page for each element that it may have."""
MAX_ATTRIBUTES = 5_000
"""Attributes of one tag; that many take libxml2 20 ms."""

_GAP = 6 * 1024
_STEP = 512 * 1024
_TRIES = 16
_BLANKS = b" \t\n\r\f"
_BEFORE_ATTRIBUTES = _BLANKS + b"/\"'"
# What a tag is ended with in order to look at its beginning, whichever quote it may be in.
_END = b" '>\">"
# Bytes that windows-1252 leaves undefined. libxml2 takes one for the end of the page.
_UNDEFINED = (b"\x81", b"\x8d", b"\x8f", b"\x90", b"\x9d")
_RESOURCE_LIMIT = etree.ErrorTypes.ERR_RESOURCE_LIMIT
_find_tag = re.compile(rb"<[A-Za-z]").search


class Parsed(NamedTuple):
    """What became of a response.

    Attributes:
        selector: What its parts are selected with.
        is_truncated: Whether the tree lacks what stands deeper than libxml2 goes, and all that
            follows.
    """

    selector: Selector
    is_truncated: bool = False


def is_heavy(response: Response) -> bool:
    """Whether parsing could hold the event loop up, so that it is for a thread.

    libxml2 parses without the interpreter lock. Takes 0.3 µs for up to 24 KB, and 10 µs for 100 KB.
    So is the first page whose encoding has to be guessed, as the detector is slow to begin.
    """
    body = response.body
    size = len(body)
    if size > SMALL and _form_of(response) != "json" and (size > LARGE or any(_crowds(body))):
        return True
    return response.needs_guess and not detector_is_ready()


def parse(
    response: Response, *, max_elements: int = MAX_ELEMENTS, in_thread: bool = False
) -> Parsed:
    """The tree of a response.

    HTML and XML by its content type; what is neither is read as HTML, as browsers show it, and
    JSON becomes a selector with ``jmespath``.

    Args:
        response: What the server answered.
        max_elements: How many elements it may have, with three times as many attributes.
        in_thread: Whether this is not the event loop's thread: parsers are not shared with it, as
            each serves one caller at a time.

    Raises:
        LimitError: It has too many elements or attributes, or a tag with more than 5,000 of them.
    """
    form = _form_of(response)
    if form == "json":
        return Parsed(Selector(text=response.text, type="json"))
    body, encoding = response.body, response.encoding
    if encoding not in ("utf-8", "cp1252") or (
        encoding == "cp1252" and any(byte in body for byte in _UNDEFINED)
    ):
        # libxml2 knows fewer encodings than Python.
        body, encoding = response.text.encode("utf-8", "replace"), "utf-8"
    if b"\0" in body and response.encoding == "utf-8":
        body = body.replace(b"\0", b"").strip()
    else:
        # In this order, as parsel does it where the body is not UTF-8.
        body = body.strip().replace(b"\0", b"")
    if len(body) > SMALL:
        _check(body, form, encoding, response.url, max_elements)
    parser = (_new_parser if in_thread else _parser)(form, encoding)
    root = etree.fromstring(body or b"<html/>", parser)
    # A fatal error is the last one, for nothing is read after it.
    last = parser.error_log.last_error
    if root is None:
        root = etree.fromstring(b"<html/>", parser)
    return Parsed(Selector(root=root, type=form), last is not None and last.type == _RESOURCE_LIMIT)


def _form_of(response: Response) -> str:
    kind = response.content_type
    if kind in ("", "text/html", "application/xhtml+xml"):
        return "html"
    if kind in ("application/json", "text/json") or kind.endswith("+json"):
        return "json"
    return "xml" if kind in ("text/xml", "application/xml") or kind.endswith("+xml") else "html"


def _new_parser(
    form: str, encoding: str, target: _Counter | None = None
) -> etree.HTMLParser | etree.XMLParser:
    """A parser with parsel's settings."""
    if form == "xml":
        return etree.XMLParser(
            recover=True,
            encoding=encoding,
            huge_tree=True,
            resolve_entities=False,
            target=target,
        )
    return etree.HTMLParser(recover=True, encoding=encoding, huge_tree=True, target=target)


_parser = lru_cache(maxsize=8)(_new_parser)


# -- before there is a tree -----------------------------------------------------------------------


def _check(body: bytes, form: str, encoding: str, url: str, max_elements: int) -> None:
    """Refuse markup that would take too much time or memory.

    What could be too much by a bound that is quick to find is then counted exactly, by libxml2
    itself without a tree, which takes linear time: a tag means what the parser takes for one.
    """
    crowds = list(_crowds(body))
    if not crowds and _is_modest(body, max_elements):
        return
    for start, stop in crowds:
        # A large tag would take much memory even without a tree. So it is looked at from its
        # beginning on, and is found to be too much before it is whole.
        for cut in range(start + _STEP, stop, _STEP):
            _count(body[:cut] + _END, form, encoding, url, max_elements)
    _count(body, form, encoding, url, max_elements)


def _is_modest(body: bytes, max_elements: int) -> bool:
    """Whether there are few enough elements and attributes by the characters that they need."""
    if len(body) <= LARGE:
        return True
    elements = body.count(b"<") - body.count(b"</")
    if elements > max_elements:
        return False
    return _most_attributes(body, 0, len(body)) <= max_elements * ATTRIBUTES_PER_ELEMENT


def _most_attributes(body: bytes, start: int, stop: int) -> int:
    """How many attributes there can be at most: before each stands a blank, a slash or a quote."""
    piece = body[start:stop]
    return len(piece) - len(piece.translate(None, _BEFORE_ATTRIBUTES))


def _crowds(body: bytes) -> Iterator[tuple[int, int]]:
    """Where a tag could stand with more attributes than libxml2 can take.

    Such a tag takes more than 12 KB. So a look at one end of a tag in every 6 KB rules it out in
    nearly every page: an end that does not stand in quotes, in which it would be none. Where there
    is no such end for so long, there is a long script, or text, or an image in an attribute; then
    it matters whether a tag begins there, and how many attributes it can have.
    """
    place, size = 0, len(body)
    while size - place > _GAP:
        end = _last_end(body, place, place, place + _GAP)
        if end:
            place = end
            continue
        stop = place + _GAP
        while stop < size and not end:
            end = _last_end(body, place, stop, stop + _GAP)
            stop += _GAP
        stop = end or size
        tag = _find_tag(body, place, stop)
        if tag is not None and _most_attributes(body, tag.start(), stop) > MAX_ATTRIBUTES:
            yield place, stop
        place = stop


def _last_end(body: bytes, outside: int, start: int, stop: int) -> int:
    """Behind the last ``>`` from `start` to `stop` that surely ends a tag, or stands outside.

    `outside` is a place that is in no tag. 0 is for none, also where finding it takes long.
    """
    place = stop
    for _ in range(_TRIES):
        place = body.rfind(b">", start, place)
        if place < 0:
            return 0
        if not (_is_quoted(body, outside, place, b'"') or _is_quoted(body, outside, place, b"'")):
            return place + 1
    return 0


def _is_quoted(body: bytes, outside: int, place: int, quote: bytes) -> bool:
    """Whether `place` may stand in such quotes: the nearest before it follows a ``=``."""
    first = max(outside, place - 4 * _GAP)
    opening = body.rfind(quote, first, place)
    if opening < 0:
        return first > outside
    before = body[max(outside, opening - 64) : opening].rstrip(_BLANKS)
    return before.endswith(b"=") or (not before and opening - 64 > outside)


class _Counter:
    """What libxml2 tells of the tags that it meets; see `etree.HTMLParser(target=...)`."""

    def __init__(self, url: str, max_elements: int) -> None:
        self._url = url
        self._max_elements = max_elements
        self._elements = 0
        self._attributes = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        count = len(attributes)
        self._elements += 1
        self._attributes += count
        if count > MAX_ATTRIBUTES:
            raise LimitError(
                f"a tag of {self._url} has more than {MAX_ATTRIBUTES} attributes "
                f"({count} were counted); the page is not parsed"
            )
        limit = self._max_elements
        if self._elements > limit or self._attributes > limit * ATTRIBUTES_PER_ELEMENT:
            raise LimitError(
                f"{self._url} has more than {limit} elements, or "
                f"{limit * ATTRIBUTES_PER_ELEMENT} attributes; raise max_elements to have it parsed"
            )

    def close(self) -> None:
        pass


def _count(body: bytes, form: str, encoding: str, url: str, max_elements: int) -> None:
    etree.fromstring(body, _new_parser(form, encoding, _Counter(url, max_elements)))

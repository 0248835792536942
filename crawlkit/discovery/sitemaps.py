"""Sitemaps: where a site says that its pages are.

By https://www.sitemaps.org/protocol.html: ``urlset`` and ``sitemapindex`` in XML, one URL a line
in plain text, RSS and Atom feeds, each of them compressed with gzip or not. What a body is, it is
asked itself: the names and content types of sitemaps are wrong too often.

Sites write sitemaps by hand, so much is forgiven (`SitemapParser` says what), but nothing is done
that a document asks for: no entity is expanded, no DTD is read, nothing is fetched, and memory does
not follow what a document claims or inflates to.
"""

from __future__ import annotations

import codecs
import re
import zlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Literal, TypeVar
from xml.parsers import expat

import msgspec

from ..errors import CrawlkitError, LimitError, PageTypeError
from ..http.charset import find_encoding, parse_content_type
from ..response import http_date
from ..urls import MAX_URL_LENGTH, Base

MAX_SIZE = 50 * 1024 * 1024
"""Bytes of a sitemap, decompressed; the protocol has the same limit."""
MAX_LEVELS = 10
"""Sitemap indexes in one another."""
MAX_SITEMAPS = 100_000
"""Sitemaps that one index leads to, on all levels together; the protocol lets it list half as many,
and none of them be an index."""
PIECE = 64 * 1024
"""Bytes that are parsed in one go: 2 to 6 ms of work."""

_MAX_DEPTH = 64
_MAX_TOKEN = 1024 * 1024
"""Bytes of a tag or a comment. They are looked at anew with each piece until they are whole."""
_MAX_ALTERNATES = 500
_MAX_GZIP_LAYERS = 3
_GZIP = b"\x1f\x8b"
_GZIP_INPUT = 16 * 1024
"""Compressed bytes that are looked at in one go. There may be 800 empty members in them."""
_MAX_GZIP_IDLE = 16
"""How many times of that may decompress to nothing."""

# What begins an XML document: also where a broken site wrote a warning of its own before it.
_PREAMBLE = 4096
_XML_DECLARATION = re.compile(r"<\?xml\b[^<>]*\?>", re.IGNORECASE)
_START_OF_XML = re.compile(
    r"<(?:\?xml\b|[a-z]*:?(?:urlset|sitemapindex|rss|feed)\b)", re.IGNORECASE
)
_BLANK = "\ufeff\0 \t\r\n"

# Characters that no XML document may hold, and ampersands that begin no reference of XML's own:
# sites forget to escape them in URLs. Without a reference to it no entity is ever expanded.
_ILLEGAL = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_AMPERSAND = re.compile(r"&(?!(?:amp|lt|gt|quot|apos|#[0-9]{1,7}|#x[0-9A-Fa-f]{1,6});)")
_CUT_REFERENCE = re.compile(r"&[#0-9A-Za-z]{0,9}\Z")
_ESCAPED = re.compile("&(lt|gt|quot|apos|amp);")
_MEANING = {"lt": "<", "gt": ">", "quot": '"', "apos": "'", "amp": "&"}

_LINE_END = re.compile("[\r\n]+")
_IS_URL = re.compile(r"\s*https?:", re.IGNORECASE).match

Kind = Literal["page", "sitemap"]
T = TypeVar("T")

_ROOTS = frozenset({"urlset", "sitemapindex", "rss", "rdf", "feed"})
_CONTAINERS: dict[str, Kind] = {
    "url": "page",
    "sitemap": "sitemap",
    "item": "page",
    "entry": "page",
}
_FIELDS = {
    "loc": "url",
    "lastmod": "lastmod",
    "changefreq": "changefreq",
    "priority": "priority",
    "link": "link",  # RSS; in Atom and in a urlset it has attributes
    "pubdate": "lastmod",
    "date": "lastmod",
    "updated": "lastmod",
    "published": "published",
    "guid": "guid",
}


class Entry(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What a sitemap says of one page, or of another sitemap.

    Attributes:
        url: Its URL, absolute and in canonical form.
        kind: ``page`` or ``sitemap``.
        lastmod: When it was changed, as it stands there; see `modified_at`. In feeds the date of
            the item.
        changefreq: How often it is changed, as it stands there: ``daily``, say.
        priority: From 0.0 to 1.0; ``None`` where it is not said, which the protocol takes for 0.5.
        alternates: Canonical URLs of the same page in other languages, by ``hreflang``.
    """

    url: str
    kind: Kind = "page"
    lastmod: str = ""
    changefreq: str = ""
    priority: float | None = None
    alternates: dict[str, str] = {}

    @property
    def modified_at(self) -> float | None:
        """`lastmod` as Unix time, or ``None`` where there is none or it is no date.

        Reads the W3C's form, from ``2024`` to ``2024-05-01T10:00:00.5+02:00``, and that of feeds.
        A time without a zone is taken for UTC.
        """
        text = self.lastmod
        if not text:
            return None
        if len(text) in (4, 7) and text[:4].isdigit():
            text += "-01-01"[len(text) - 4 :] if len(text) == 4 else "-01"
        try:
            date = datetime.fromisoformat(text)
            return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            return http_date(text)


class SitemapParser:
    """Reads one sitemap.

    Forgiven are: any namespace or none; names in capitals; blanks, a byte order mark or a warning
    of PHP before the document; URLs with bare or twice escaped ampersands; whole documents that are
    escaped; NUL and control characters; wrong encodings; gzip that nobody announced, twice over, in
    several members, or followed by garbage.

    Args:
        url: Where it was found; relative URLs in it are relative to that.
        content_type: The ``Content-Type`` header, for its charset.

    Attributes:
        entries: How many entries there were so far.
        dropped: How many more there were, with a URL that cannot be crawled or with none.

    Raises:
        UrlError: `url` is none.
    """

    def __init__(self, url: str, content_type: str = "") -> None:
        self.url = url
        self.entries = 0
        self.dropped = 0
        self._join = Base(url).join
        self._content_type = content_type

    def parse(self, body: bytes) -> Iterator[list[Entry]]:
        """The entries, as a list for each piece of the body; many are empty.

        No step of the iterator takes longer than a few milliseconds, whatever is in the body. An
        error comes last: what could be read before it has been given then.

        Raises:
            PageTypeError: It is no sitemap, or it is broken, or it declares entities.
            LimitError: It is larger than `MAX_SIZE` when decompressed, nested too deep, or has a
                tag of more than a megabyte.
        """
        texts = self._decode(_inflate(body, self.url))
        head = ""
        for text in texts:
            head = (head + text).lstrip(_BLANK)
            if len(head) >= _PREAMBLE:
                break
            yield []
        if not head:
            raise PageTypeError(f"{self.url} is no sitemap: it is empty")
        if head.startswith("&lt;"):
            texts = _unescape(_chain(head, texts))
            head = next(texts, "")
        start = _START_OF_XML.search(head, 0, _PREAMBLE)
        if start is not None or head.startswith("<"):
            if start is not None and not head.startswith(("<?", "<!")):
                head = head[start.start() :]
            head = _XML_DECLARATION.sub("", head, count=1)  # whatever is wrong with it
            yield from _XmlReader(self).read(_clean(_chain(head, texts)))
        else:
            yield from self._read_lines(_chain(head, texts))

    def _decode(self, pieces: Iterator[bytes]) -> Iterator[str]:
        first = next(pieces, b"")
        # What was cut off in the middle of a character must not look as if it was no UTF-8.
        whole = first[: max(first.rfind(b">"), first.rfind(b"\n")) + 1] or first
        says_charset = parse_content_type(self._content_type)[1] is not None
        encoding = find_encoding(whole, self._content_type if says_charset else "text/xml")
        try:
            decoder = codecs.getincrementaldecoder(encoding)("replace")
        except LookupError:
            raise PageTypeError(
                f"{self.url} is no sitemap: it is in an encoding ({encoding}) that browsers refuse"
            ) from None
        for piece in _chain(first, pieces):
            yield decoder.decode(piece)
        yield decoder.decode(b"", True)

    def _read_lines(self, texts: Iterable[str]) -> Iterator[list[Entry]]:
        rest = ""
        for text in texts:
            *lines, rest = _LINE_END.split(rest + text)
            if len(rest) > 2 * MAX_URL_LENGTH:
                rest = rest[: MAX_URL_LENGTH + 1]  # too long for a URL, and enough to be dropped
            yield self._urls(lines)
            if not self.entries and self.dropped > 100:
                break
        yield self._urls([rest])
        if not self.entries:
            raise PageTypeError(
                f"{self.url} is no sitemap: neither XML nor a list of URLs, one on a line"
            )

    def _urls(self, lines: list[str]) -> list[Entry]:
        found = []
        for line in lines:
            if line.strip():
                entry = self.entry(line if _IS_URL(line) else "", "page", {}, {})
                if entry is not None:
                    found.append(entry)
        return found

    def entry(
        self, url: str, kind: Kind, fields: dict[str, str], alternates: dict[str, str]
    ) -> Entry | None:
        """An entry, if its URL can be crawled; it is counted either way."""
        link = self.link(url)
        if link is None:
            self.dropped += 1
            return None
        self.entries += 1
        lastmod = fields.get("lastmod") or fields.get("published", "")
        priority = _number(fields.get("priority"))
        return Entry(link, kind, lastmod, fields.get("changefreq", ""), priority, alternates)

    def link(self, url: str) -> str | None:
        """The canonical form of a URL in the sitemap."""
        url = url.strip()
        if "&amp;" in url:
            # Escaped twice, or within CDATA: no URL is meant to hold it.
            url = url.replace("&amp;", "&")
        return self._join(url) if url else None


class _XmlReader:
    """Reads the XML kinds of a sitemap, on expat.

    lxml would be a third faster, and in its forgiving mode it makes ``?a=1=2`` out of ``?a=1&b=2``.
    """

    def __init__(self, sitemap: SitemapParser) -> None:
        self._sitemap = sitemap
        self._found: list[Entry] = []
        self._depth = 0
        self._container: str | None = None  # the element that stands for an entry, while open
        self._container_depth = 0
        self._fields: dict[str, str] = {}
        self._alternates: dict[str, str] = {}
        self._field: str | None = None
        self._text: list[str] = []
        self._length = 0
        # The name of an encoding is given, so that expat believes no other.
        self._expat = parser = expat.ParserCreate("utf-8")
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.StartDoctypeDeclHandler = self._doctype

    def read(self, texts: Iterable[str]) -> Iterator[list[Entry]]:
        fed = 0
        try:
            for text in texts:
                data = text.encode()
                self._expat.Parse(data, False)
                fed += len(data)
                if fed - self._expat.CurrentByteIndex > _MAX_TOKEN:
                    raise LimitError(
                        f"{self._sitemap.url} has a tag of more than {_MAX_TOKEN} bytes"
                    )
                yield self._take()
            self._expat.Parse(b"", True)
        except expat.ExpatError as error:
            yield self._take()
            raise PageTypeError(
                f"{self._sitemap.url} is broken XML ({error}); "
                f"the {self._sitemap.entries} entries before that were read"
            ) from None
        except CrawlkitError:
            yield self._take()
            raise
        yield self._take()

    def _take(self) -> list[Entry]:
        found, self._found = self._found, []
        return found

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if name not in _FIELDS:
            name = name.rpartition(":")[2].lower()
        if self._container is not None:
            # Deeper are things of their own: <image:loc>, <source><link>.
            if self._depth == self._container_depth + 1 and name in _FIELDS:
                if name == "link" and attributes:
                    self._link(attributes)
                self._field = _FIELDS[name]
                self._text.clear()
                self._length = 0
                self._expat.CharacterDataHandler = self._data
        elif name in _CONTAINERS and self._depth > 1:
            self._container = name
            self._container_depth = self._depth
            self._fields = {}
            self._alternates = {}
        elif self._depth == 1 and name not in _ROOTS:
            raise PageTypeError(
                f"{self._sitemap.url} is no sitemap: its root is <{name[:50]}>, "
                "not <urlset>, <sitemapindex>, <rss> or <feed>"
            )
        if self._depth > _MAX_DEPTH:
            raise LimitError(f"{self._sitemap.url} has elements nested deeper than {_MAX_DEPTH}")

    def _data(self, text: str) -> None:
        if self._length <= MAX_URL_LENGTH:
            self._text.append(text)
            self._length += len(text)

    def _end(self, name: str) -> None:
        self._depth -= 1
        if self._container is None:
            return
        if self._depth == self._container_depth:
            if self._field is not None:
                text = "".join(self._text).strip()
                if text:
                    self._fields.setdefault(self._field, text)
                self._field = None
                self._expat.CharacterDataHandler = None
        elif self._depth < self._container_depth:
            self._finish(_CONTAINERS[self._container])
            self._container = None

    def _link(self, attributes: dict[str, str]) -> None:
        """``<link>`` of Atom, and ``<xhtml:link>``, which names the page in another language."""
        href = attributes.get("href", "")
        if not href or attributes.get("rel", "alternate").lower() != "alternate":
            return
        if self._container != "url":
            self._fields.setdefault("link", href)
        elif "hreflang" in attributes and len(self._alternates) < _MAX_ALTERNATES:
            url = self._sitemap.link(href)
            if url is not None:
                self._alternates[attributes["hreflang"][:50]] = url

    def _finish(self, kind: Kind) -> None:
        fields = self._fields
        url = fields.pop("url", "") or fields.pop("link", "")
        if not url and _IS_URL(fields.get("guid", "")):
            url = fields["guid"]
        entry = self._sitemap.entry(url, kind, fields, self._alternates)
        if entry is not None:
            self._found.append(entry)

    def _doctype(self, name: str, system: str | None, public: str | None, has_subset: int) -> None:
        if name.lower() == "html":
            raise PageTypeError(f"{self._sitemap.url} is no sitemap: it is an HTML page")
        if has_subset:
            raise PageTypeError(
                f"{self._sitemap.url} declares entities or elements of its own, which is refused"
            )


# -- pieces of bytes and of text -------------------------------------------------------------------


def _inflate(body: bytes, url: str) -> Iterator[bytes]:
    """The body in pieces, none larger than `PIECE`, out of all its layers of gzip."""
    pieces = (body[start : start + PIECE] for start in range(0, len(body), PIECE))
    layered: Iterator[bytes] = iter(pieces)
    for layer in range(_MAX_GZIP_LAYERS + 1):
        first = next(layered, b"")
        layered = _chain(first, layered)
        if not first.startswith(_GZIP):
            break
        if layer == _MAX_GZIP_LAYERS:
            raise LimitError(f"{url} is compressed more than {_MAX_GZIP_LAYERS} times over")
        layered = _gunzip(layered, url)
    size = 0
    for piece in layered:
        size += len(piece)
        if size > MAX_SIZE:
            raise LimitError(f"{url} is a sitemap of more than {MAX_SIZE} bytes")
        yield piece


def _gunzip(pieces: Iterator[bytes], url: str) -> Iterator[bytes]:
    """The members of a gzip file in pieces, none of them empty, without what comes after them."""
    member = None
    idle = 0
    for piece in pieces:
        for start in range(0, len(piece), _GZIP_INPUT):
            data = piece[start : start + _GZIP_INPUT]
            idle += 1
            while data:
                if member is None:
                    if data[0] != _GZIP[0]:
                        return
                    member = zlib.decompressobj(zlib.MAX_WBITS | 16)
                try:
                    inflated = member.decompress(data, PIECE)
                except zlib.error as error:
                    raise PageTypeError(f"{url} is broken gzip ({error})") from None
                data = member.unused_data if member.eof else member.unconsumed_tail
                if member.eof:
                    member = None
                if inflated:
                    idle = 0
                    yield inflated
            if idle > _MAX_GZIP_IDLE:
                raise PageTypeError(f"{url} is no sitemap: it is gzip with nothing in it")
    while member is not None and not member.eof:
        inflated = member.decompress(b"", PIECE)
        if not inflated:
            raise PageTypeError(f"{url} is gzip that was cut off; fetch it again")
        yield inflated


def _clean(texts: Iterable[str]) -> Iterator[str]:
    """The text without what would end the parsing of XML for little reason."""
    for text in _whole_references(texts):
        if "&" in text:
            text = _AMPERSAND.sub("&amp;", text)
        yield _ILLEGAL.sub("", text)


def _unescape(texts: Iterable[str]) -> Iterator[str]:
    """The text of a document that is escaped as a whole."""
    for text in _whole_references(texts):
        yield _ESCAPED.sub(lambda match: _MEANING[match[1]], text)


def _whole_references(texts: Iterable[str]) -> Iterator[str]:
    """The same, with no ``&amp;`` torn in two."""
    rest = ""
    for text in texts:
        text = rest + text
        cut = text.rfind("&", -11)
        if cut >= 0 and _CUT_REFERENCE.match(text, cut):
            text, rest = text[:cut], text[cut:]
        else:
            rest = ""
        yield text
    yield rest


def _chain(first: T, rest: Iterator[T]) -> Iterator[T]:
    yield first
    yield from rest


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else min(1.0, max(0.0, float(text)))
    except ValueError:
        return None

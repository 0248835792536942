"""Charset: which encoding a body is in, and its text, as browsers find and read them.

The order is that of WHATWG HTML ("determining the character encoding"): byte order mark, header,
declaration in the document, and where there is no word about it UTF-8 if the body is valid UTF-8,
else what a detector makes of it. Labels and what they mean are the WHATWG Encoding Standard's, so
that nothing is text here that is none in a browser: UTF-7, ``hex`` and ``unicode_escape``, which
Python knows, would make live markup out of harmless bytes, and so would HZ and ISO-2022-KR, in
whose place the standard puts a single replacement character.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import webencodings
from w3lib.encoding import read_bom, to_unicode

DECLARED_WITHIN = 4096
"""Bytes in which a declaration is looked for. The standard has 1024; many sites need more."""
DETECTED_FROM = 64 * 1024
"""Bytes that the detector looks at, whatever the length of the body."""
LEAST_CONFIDENCE = 0.02
"""Below it the detector has guessed at random, as it has to where there is nearly no text."""

REPLACEMENT = "replacement"
"""The encoding in which any body is one U+FFFD (Encoding Standard, section 14.1)."""

# Where Python has the encoding under another name, or a smaller one under this name.
_CODECS = {
    "gbk": "gb18030",  # one decoder in the standard
    "big5": "big5hkscs",
    "euc-kr": "cp949",
    "shift_jis": "cp932",
    "iso-8859-8-i": "iso8859-8",  # differs in the direction of display only
    "macintosh": "mac-roman",
    "windows-874": "cp874",
    "x-mac-cyrillic": "mac-cyrillic",
    "utf-16le": "utf-16-le",
    "utf-16be": "utf-16-be",
}
_NO_CODECS = ("x-user-defined", REPLACEMENT)

# The legacy encodings that pages without a declaration are in. They are those that Firefox
# detects; more of them would only be more ways to be wrong.
_DETECTED = (
    *("cp932", "shift_jis_2004", "euc_jis_2004", "cp949", "euc_kr", "gb18030", "big5hkscs"),
    *(f"cp{page}" for page in (866, 874, *range(1250, 1259))),
    *("tis-620", "koi8-r", "koi8-u"),
    *(f"iso8859-{part}" for part in (1, 2, 4, 5, 6, 7, 8, 9, 13)),
)
_MEANT = {
    "shift_jis_2004": "cp932",
    "euc_jis_2004": "euc_jp",
    "euc_kr": "cp949",
    "tis-620": "cp874",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
}

# Every repetition is possessive or stops at the next tag: linear, whatever stands there.
_VALUE = rb"""=\s*+(?:"[^"]*+(?:"|\Z)|'[^']*+(?:'|\Z))?+"""
_INSIDE = rb"(?:[^>=]++|" + _VALUE + rb")*+"
_find_metas = re.compile(
    rb"<(?:!(?=--).*?(?:-->|\Z)|meta(?=[\s/])(" + _INSIDE + rb"))", re.IGNORECASE | re.DOTALL
).finditer
_find_attributes = re.compile(
    rb"""([^\s/>][^\s/>=]*+)(?:\s*+=\s*+(?:"([^"]*+)(?:"|\Z)|'([^']*+)(?:'|\Z)|([^\s>]*+)))?+"""
).finditer
_match_declaration = re.compile(
    rb"""\s*+<\?xml\s[^>]*?\bencoding\s*+=\s*+(?:"([^">]*+)"|'([^'>]*+)')""", re.IGNORECASE
).match
_find_charset = re.compile(
    rb"""charset\s*+=\s*+(?:"([^"]*+)"|'([^']*+)'|([^\s;"']++))""", re.IGNORECASE
).search
_find_parameters = re.compile(
    r"""(?:^|;)[ \t]*+([^\s;="]++)=(?:"((?:[^"\\]++|\\.)*+)"|([^;,\s]*+))"""
).finditer
_MARKUP = re.compile(rb"<(script|style)\b(?:[^<]++|<(?!/\1))*+|<[^<>]*+>?+", re.IGNORECASE)


def find_encoding(body: bytes, content_type: str = "") -> str:
    """The encoding of a body, by Python's name for it.

    `decode` knows two besides: ``x-user-defined`` and ``replacement``.

    Args:
        body: The body.
        content_type: The ``Content-Type`` header.
    """
    return certain_encoding(body, content_type) or _detect(body)


def certain_encoding(body: bytes, content_type: str = "") -> str | None:
    """The encoding of a body where nothing has to be guessed; ``None`` elsewhere."""
    marked, _ = read_bom(body)
    if marked is not None:
        return marked
    media_type, encoding = parse_content_type(content_type)
    if encoding is not None:
        return encoding
    is_html = not media_type or "html" in media_type
    if is_html or "xml" in media_type:
        encoding = _declared(body[:DECLARED_WITHIN], is_html)
        if encoding is not None:
            return encoding
    return None if _first_odd(body) is not None else "utf-8"


def _first_odd(body: bytes) -> int | None:
    """Where a body is no UTF-8 for the first time."""
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return error.start
    return None


def detector_is_ready() -> bool:
    """Whether a guess takes about a millisecond; the first one takes a fifth of a second."""
    return _detector.cache_info().currsize > 0


def decode(body: bytes, encoding: str) -> str:
    """The body's text without its byte order mark. What cannot be decoded becomes U+FFFD.

    Args:
        body: The body.
        encoding: An answer of `find_encoding`.
    """
    _, mark = read_bom(body)
    if mark:
        body = body[len(mark) :]
    if encoding == "utf-8":
        return body.decode("utf-8", "replace")
    if encoding == REPLACEMENT:
        return "\ufffd" if body else ""
    if encoding == "x-user-defined":
        return str(webencodings.decode(body, encoding)[0])
    if encoding.startswith("cp12") or encoding == "cp874":
        return body.decode(encoding, "crawlkit.control")
    if encoding == "euc_jp":
        return body.decode(encoding, "crawlkit.euc_jp")
    return to_unicode(body, encoding)


@lru_cache(maxsize=512)
def encoding_of(label: str) -> str | None:
    """What a label means on the web (Encoding Standard, "get an encoding"), or ``None``."""
    if not label.isascii():
        return None
    known = webencodings.lookup(label)
    if known is None:
        return None
    if known.name in _NO_CODECS:
        return str(known.name)
    return codecs.lookup(_CODECS.get(known.name, known.name)).name


@lru_cache(maxsize=512)
def parse_content_type(header: str) -> tuple[str, str | None]:
    """Media type, in lower case, and encoding of a ``Content-Type`` header, or ``None``.

    There are few of them in a crawl, so the answers are kept.
    """
    media_type = header.partition(";")[0].strip().lower()
    for parameter in _find_parameters(header[:1024]):
        name, quoted, token = parameter.groups()
        if name.lower() == "charset":
            return media_type, encoding_of(quoted or token or "")
    return media_type, None


def _declared(head: bytes, is_html: bool) -> str | None:
    """What the document says: in HTML a ``meta`` tag, else the XML declaration.

    WHATWG HTML, "prescan a byte stream to determine its encoding".
    """
    if head.startswith((b"<\0?\0x\0", b"\0<\0?\0x")):
        return "utf-16-le" if head[0] else "utf-16-be"
    label = _meta_label(head) if is_html else None
    if label is None:
        match = _match_declaration(head)
        if match is None:
            return None
        label = encoding_of((match[1] or match[2] or b"").decode("latin-1"))
    # What could be read as ASCII is no UTF-16.
    return "utf-8" if label in ("utf-16-le", "utf-16-be") else label


def _meta_label(head: bytes) -> str | None:
    """The encoding of the first ``meta`` tag outside of comments that names one."""
    if b"charset" not in head and b"charset" not in head.lower():
        return None
    for tag in _find_metas(head):
        inside = tag[1]
        if inside is None or b"charset" not in inside.lower():
            continue
        charset = content = None
        has_pragma = False
        for attribute in _find_attributes(inside):
            value = attribute[2] or attribute[3] or attribute[4] or b""
            match attribute[1].lower():
                case b"charset" if charset is None:
                    charset = value
                case b"content" if content is None:
                    content = value
                case b"http-equiv":
                    has_pragma = has_pragma or value.strip().lower() == b"content-type"
        if charset is None and has_pragma and content is not None:
            named = _find_charset(content)
            if named is not None:
                charset = named[1] or named[2] or named[3]
        if charset is not None:
            encoding = encoding_of(charset.decode("latin-1"))
            if encoding is not None:
                return "cp1252" if encoding == "x-user-defined" else encoding
    return None


@cache
def _detector() -> Callable[..., Any]:
    """The detector, with its models.

    It takes 40 ms to import, then 70 ms and 36 MB to load its models: not for crawls, which are
    most of them, that meet no such page.
    """
    import chardet

    chardet.detect(b"\xe9t\xe9", include_encodings=_DETECTED, compat_names=False)
    return chardet.detect


def _detect(body: bytes) -> str:
    """What the detector makes of a body that is no UTF-8.

    Deterministic: a restarted crawl reads a page as it was read before. Where the detector is not
    sure it is windows-1252, which is what most of such pages are in.
    """
    first, start = _first_odd(body) or 0, 0
    if first > DETECTED_FROM // 2:
        # The text may begin late. A tag's "<" is never the second byte of a character.
        earliest = first - DETECTED_FROM // 2
        start = max(earliest, body.rfind(b"<", earliest, first))
    text = _MARKUP.sub(b" ", body[start : start + DETECTED_FROM])
    found = _detector()(text, include_encodings=_DETECTED, compat_names=False)
    name = found["encoding"]
    if name is None or found["confidence"] < LEAST_CONFIDENCE:
        return "cp1252"
    return codecs.lookup(_MEANT.get(name, name)).name


def _control(error: UnicodeError) -> tuple[str, int]:
    """Bytes 80 to 9F that stand for nothing in a windows code page are C1 controls on the web."""
    assert isinstance(error, UnicodeDecodeError)
    byte = error.object[error.start]
    return chr(byte) if byte < 0xA0 else "\ufffd", error.start + 1


def _euc_jp(error: UnicodeError) -> tuple[str, int]:
    """Rows of NEC and IBM, which EUC-JP has on the web and Python has in Shift_JIS only."""
    assert isinstance(error, UnicodeDecodeError)
    pair = error.object[error.start : error.start + 2]
    if len(pair) == 2 and min(pair) > 0xA0 and max(pair) < 0xFF:
        row, cell = pair[0] - 0xA1, pair[1] - 0xA1
        lead = row // 2 + (0x81 if row < 62 else 0xC1)
        trail = cell + 0x9F if row % 2 else cell + 0x40 + (cell >= 63)
        try:
            return bytes((lead, trail)).decode("cp932"), error.start + 2
        except UnicodeDecodeError:
            pass
    return "\ufffd", error.start + 1


codecs.register_error("crawlkit.control", _control)
codecs.register_error("crawlkit.euc_jp", _euc_jp)

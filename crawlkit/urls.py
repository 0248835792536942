"""URLs: one spelling for each, joined fast.

A URL is written in one canonical form before anything compares, saves or sends it, so that two
spellings of one address are one request. The form follows two texts, each where it is the better:

- how an address is *read* is the WHATWG URL Standard, as in browsers: outer whitespace, tabs and
  newlines are ignored, backslashes are slashes, ``http:/host`` has a host, ``0x7f.1`` is 127.0.0.1;
- how it is *written* is RFC 3986, section 6.2.2: upper-case percent-encodings, none where an
  unreserved character can stand, all characters encoded that the grammar does not allow.

`Base.join` is on the hot path, 20 to 200 times a page. A link that one regular expression knows to
be canonical already is joined by adding strings; every other takes the exact way. Both give the
same answer: the tests hold them against each other.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cache, lru_cache
from ipaddress import IPv6Address
from threading import Lock
from typing import TYPE_CHECKING, TextIO
from urllib.parse import quote, unquote

from yarl import URL

from .errors import UrlError, UsageError

if TYPE_CHECKING:
    from publicsuffixlist import PublicSuffixList

MAX_URL_LENGTH = 8192
"""Characters, of a URL as it is written and of its canonical form."""

MAX_PARENTS = 32
"""Directories above that of a page that are kept for its links."""

_DEFAULT_PORTS = {"http": 80, "https": 443}

# --- the grammar -----------------------------------------------------------------------------

# What may stand unencoded everywhere after the host (RFC 3986: unreserved, sub-delims, "@").
# ":", "/" and "?" are added where they may.
_PLAIN = r"A-Za-z0-9\-._~!$&'()*+,;=@"
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")

# Percent-encodings as they should be, by each of their spellings; a lone "%" stands for itself.
_ENCODINGS = {"%": "%25"} | {
    f"%{high}{low}": chr(code) if chr(code) in _UNRESERVED else f"%{code:02X}"
    for high in "0123456789abcdefABCDEF"
    for low in "0123456789abcdefABCDEF"
    for code in (int(high + low, 16),)
}
_TO_ESCAPE = re.compile(rf"%(?:[0-9A-Fa-f]{{2}})?|[^{_PLAIN}:/?%]+")
_SURROGATES = re.compile("[\ud800-\udfff]")

_C0_OR_SPACE = "".join(map(chr, range(0x21)))
_NO_TABS_OR_NEWLINES = {ord(char): None for char in "\t\r\n"}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*+):")
_HOST_AND_PORT = re.compile(r"(\[[^\]]*\]|[^:]*)(?::([0-9]*))?")
_CREDENTIALS = re.compile(r"^([^/?#]*?:[/\\]*)[^/\\?#]*@")

# Names that DNS can hold, and the underscore that it tolerates. WHATWG and RFC 3986 allow more,
# but what comes of that in links is the debris of templates: http://{{host}}/, http://'+host+'/.
_NAME = re.compile(r"(?=.{1,253}\.?\Z)(?:[a-z0-9_\-]{1,63}\.)*[a-z0-9_\-]{1,63}\.?")
_ENDS_IN_A_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.?")
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+")
_ZEROS = re.compile(r"(?:^|:)0(?::0)+(?::|$)")

# A link that is canonical as it stands, up to its fragment. It may only err by leaving one out:
# ports of the numbers that are surely right, names without a digit at the start of their last
# label (which could be an IPv4 address), percent-encodings of what is not unreserved. A dot
# segment is looked for separately, which costs less than to forbid it here. Repetition is
# possessive, so that the match is linear whatever it meets.
_ENCODED = "%(?:[0189A-F][0-9A-F]|2[0-9A-CF]|3[A-F]|40|5[B-E]|60|7[B-DF])"
_NEAT_NAME = r"(?:[a-z0-9_\-]{1,40}+\.){0,5}+[a-z][a-z0-9_\-]{0,39}+"
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_NEAT_PORT = "(?::(?:[1-9][0-9]{3}|[1-5][0-9]{4}))"
_NEAT_HOST = rf"(?:{_NEAT_NAME}|{_OCTET}(?:\.{_OCTET}){{3}}){_NEAT_PORT}?"
_NEAT_PATH = rf"[{_PLAIN}:/]*+(?:{_ENCODED}[{_PLAIN}:/]*+)*+"
_NEAT_QUERY = rf"\?(?=[^\#])[{_PLAIN}:/?]*+(?:{_ENCODED}[{_PLAIN}:/?]*+)*+"
_match_neat = re.compile(
    rf"""(?:
        /(?!/) () {_NEAT_PATH}                             # 1: /path
      | https?://{_NEAT_HOST}/ () {_NEAT_PATH}             # 2: http://host/path
      | (?=[^./?\#]) [{_PLAIN}]*+ (?!:) () {_NEAT_PATH}    # 3: path
      | ((?:\.\./)++|\./) (?!\.) {_NEAT_PATH}              # 4: ../path, ./path
      | (?=\?) ()                                          # 5: ?query
    ) (?:{_NEAT_QUERY})?+ (?=\#|\Z)""",
    re.VERBOSE,
).match
# What is the same in every canonical URL, wherever it stands behind the host.
_CLEAN = "".join(char for char in map(chr, range(128)) if re.match(f"[{_PLAIN}/]", char)).encode()
_FROM_ROOT, _ABSOLUTE, _FROM_DIRECTORY, _FROM_ABOVE, _FROM_PAGE = range(1, 6)


# --- canonical form --------------------------------------------------------------------------


def canonical(url: str) -> str:
    """The canonical form of an absolute http or https URL.

    Lower-case scheme and host, the host in ASCII (IDNA), no default port, no fragment, no dot
    segments, a path, percent-encoding as in RFC 3986. The query keeps its order, since servers
    may read it; an empty one is dropped, because aiohttp would not send its ``?``. The form is
    stable: ``canonical(canonical(url)) == canonical(url)``.

    A URL with credentials is refused. They would end in the store, in logs and exports and, as
    part of ``host[:port]``, would count as another host, whose limits the crawl would then evade.

    Args:
        url: As a person or a page wrote it.

    Raises:
        UrlError: It is not absolute, has another scheme, a malformed host or port, or is longer
            than `MAX_URL_LENGTH`.
    """
    match = _match_neat(url) if len(url) <= MAX_URL_LENGTH else None
    if match is not None and match.lastindex == _ABSOLUTE and "/." not in url:
        return str(match[0])
    try:
        return _resolve(url, None)
    except UrlError as error:
        raise UrlError(f"{_shown(url)} cannot be crawled: {error}") from None


class Base:
    """What the links of one page are relative to: its URL, or that of its ``<base href>``.

    Args:
        url: Absolute URL, made canonical.

    Raises:
        UrlError: As `canonical`.
    """

    __slots__ = (
        "_directory",
        "_marks",
        "_origin",
        "_own",
        "_parents",
        "_room",
        "_scheme",
        "_without_query",
        "url",
    )

    def __init__(self, url: str) -> None:
        self.url = canonical(url)
        root = self.url.index("/", 8)
        self._scheme = self.url[: self.url.index(":")]
        self._origin = self.url[:root]
        self._own = self.url[: root + 1]
        self._marks = self._own.encode().translate(None, _CLEAN)
        self._without_query = self.url.partition("?")[0]
        self._directory = self._without_query[: self._without_query.rindex("/") + 1]
        self._parents: dict[int, str] = {}
        # A link no longer than this needs no look at the length of what it is joined to.
        self._room = MAX_URL_LENGTH - len(self.url)

    def join(self, href: str) -> str | None:
        """The canonical absolute URL of a link, or None where there is nothing to crawl.

        None is the answer to links of another scheme (``mailto:``, ``javascript:``, ``data:``),
        to this page itself (``#part``, an empty link), and to what is malformed or longer than
        `MAX_URL_LENGTH`. It never raises, whatever stands in the link.

        Args:
            href: The link as it stands in the page.
        """
        match = _match_neat(href) if len(href) <= self._room else None
        if match is not None:
            link: str = match[0]
            place = match.lastindex
            if place == _FROM_ABOVE:
                dots = match.end(_FROM_ABOVE)
                link = link[dots:]
                if "/." not in link:
                    steps = dots // 3
                    return (self._parents.get(steps) or self._above(steps)) + link
            elif "/." not in link:
                if place == _FROM_ROOT:
                    return self._origin + link
                if place == _FROM_DIRECTORY:
                    return self._directory + link
                if place == _ABSOLUTE:
                    return link
                return self._without_query + link
        return self._join_exactly(href)

    def join_all(self, hrefs: list[str]) -> list[str]:
        """`join` for the links of a page, in their order; those to nowhere are left out.

        One look at all of them together tells which hold nothing but characters that stay as they
        are. For most links it is then enough to know what they begin with.

        Args:
            hrefs: The links as they stand in the page.
        """
        text = "\n".join(hrefs)
        odd = text.encode("utf-8", "replace").translate(None, _CLEAN).split(b"\n")
        if len(odd) != len(hrefs) or (
            len(text) > self._room and max(map(len, hrefs)) > self._room
        ):  # a link holds a newline, or is long; or there is none
            return [url for href in hrefs if (url := self.join(href)) is not None]
        origin, directory, own, marks = self._origin, self._directory, self._own, self._marks
        has_dots = "/." in text
        found: list[str] = []
        for href, strange in zip(hrefs, odd, strict=True):
            link: str | None = href
            if strange[:1] == b"#":
                link, strange = href[: href.index("#")], b""
            if strange or not link or (has_dots and "/." in link):
                # All links of this site have the same strange characters in their origin.
                if strange != marks or not href.startswith(own) or (has_dots and "/." in href):
                    link = self.join(href)
            elif link[0] == "/":
                link = self.join(href) if link.startswith("//") else origin + link
            else:
                link = directory + link if link[0] != "." else self.join(href)
            if link is not None:
                found.append(link)
        return found

    def _join_exactly(self, href: str) -> str | None:
        """`join` for every link, in the ten microseconds that it takes."""
        if href.startswith("#"):
            return None
        try:
            return _resolve(href, self)
        except UrlError:
            return None

    def _above(self, steps: int) -> str:
        """The directory so many steps up, or the root; kept for the next link."""
        directory = self._directory
        for _ in range(steps):
            end = directory.rindex("/", 0, -1) + 1
            if end <= len(self._origin):
                break
            directory = directory[:end]
        if len(self._parents) < MAX_PARENTS:
            self._parents[steps] = directory
        return directory

    def _locate(self, path: str, has_query: bool) -> str:
        """The path, not yet normalised, that a relative reference means here."""
        if path.startswith("/"):
            return path
        root = len(self._origin)
        if path:
            return self._directory[root:] + path
        if has_query:
            return self._without_query[root:]
        raise UrlError("it is the page itself")


def _resolve(reference: str, base: Base | None) -> str:
    """The exact way: `reference` as WHATWG reads it, relative to `base`, in canonical form."""
    if len(reference) > MAX_URL_LENGTH:
        raise UrlError(f"it is longer than {MAX_URL_LENGTH} characters")
    text = reference.strip(_C0_OR_SPACE).translate(_NO_TABS_OR_NEWLINES)
    if not text.isascii():
        text = _SURROGATES.sub("\ufffd", text)
    text = text.partition("#")[0]
    text, mark, query = text.partition("?")
    text = text.replace("\\", "/")
    match = _SCHEME.match(text)
    if match is not None:
        scheme = match[1].lower()
        if scheme not in _DEFAULT_PORTS:
            raise UrlError(f"its scheme is {scheme!r}; begin it with https:// or http://")
        text = text[match.end() :]
    elif base is None:
        raise UrlError("it has no scheme; begin it with https:// or http://")
    else:
        scheme = base._scheme
    if base is None or scheme != base._scheme or text.startswith("//"):
        authority, _, path = text.lstrip("/").partition("/")
        origin = f"{scheme}://{_host_and_port(authority, scheme)}"
        path = f"/{path}"
    else:
        origin = base._origin
        path = base._locate(text, bool(mark))
    path = escape(path)
    if "/." in path:
        path = _without_dots(path)
    url = f"{origin}{path}?{escape(query)}" if query else f"{origin}{path}"
    if len(url) > MAX_URL_LENGTH:
        raise UrlError(f"it is longer than {MAX_URL_LENGTH} characters in canonical form")
    return url


def escape(text: str) -> str:
    """A path or query with every percent-encoding as it should be in a canonical URL."""
    return _TO_ESCAPE.sub(_escape_match, text)


def _escape_match(match: re.Match[str]) -> str:
    return _ENCODINGS.get(match[0]) or quote(match[0], safe="")


def _without_dots(path: str) -> str:
    """The path with its ``.`` and ``..`` segments carried out (RFC 3986, section 5.2.4)."""
    kept: list[str] = []
    for segment in path[1:].split("/"):
        if segment == "..":
            if kept:
                kept.pop()
        elif segment != ".":
            kept.append(segment)
    if path.endswith(("/.", "/..")):
        kept.append("")
    return "/" + "/".join(kept)


def _host_and_port(authority: str, scheme: str) -> str:
    """``host[:port]`` in canonical form."""
    credentials, _, address = authority.rpartition("@")
    if credentials not in ("", ":"):
        raise UrlError("it has credentials; send them in an Authorization header or a session")
    match = _HOST_AND_PORT.fullmatch(address)
    if match is None:
        raise UrlError("its port is not a number")
    host = _host(match[1])
    digits = (match[2] or "").lstrip("0")
    if not digits:
        if match[2]:
            raise UrlError("its port is 0")
        return host
    if len(digits) > 5 or int(digits) > 65535:
        raise UrlError("its port is above 65535")
    return host if int(digits) == _DEFAULT_PORTS[scheme] else f"{host}:{digits}"


def _host(text: str) -> str:
    """The host in ASCII: a name in lower case, an IP address in its one usual spelling."""
    if text.startswith("["):
        return f"[{_ipv6(text[1:-1])}]"
    host = unquote(text)
    if not host.isascii():
        try:
            if len(host) > 253:
                raise ValueError
            # IDNA 2008, non-transitional, as in browsers; as 2003 for signs that 2008 left out.
            host = URL.build(scheme="http", host=host).raw_host or ""
        except ValueError:
            raise UrlError("its host is no valid international name") from None
    host = host.lower()
    if _NAME.fullmatch(host) is None:
        raise UrlError("its host is no valid name" if host else "it has no host")
    return _ipv4(host) if _ENDS_IN_A_NUMBER.fullmatch(host) else host


def _ipv4(host: str) -> str:
    """An IPv4 address as four decimals; browsers and resolvers read one to four, in any base."""
    parts = host.removesuffix(".").split(".")
    try:
        if len(parts) > 4 or not all(map(_NUMBER.fullmatch, parts)):
            raise ValueError
        *first, last = (
            int(part[2:] or "0", 16)
            if part.startswith("0x")
            else int(part, 8 if part.startswith("0") else 10)
            for part in parts
        )
        value = int.from_bytes(bytes(first), "big") << 8 * (4 - len(first)) | last
        if last >= 256 ** (4 - len(first)):
            raise ValueError
    except ValueError:
        raise UrlError("its host is no valid IPv4 address") from None
    return ".".join(map(str, value.to_bytes(4, "big")))


def _ipv6(text: str) -> str:
    """An IPv6 address as in RFC 5952, but all hexadecimal.

    `IPv6Address` writes addresses that hold an IPv4 one differently since Python 3.13, and a URL
    must be the same after an upgrade.
    """
    try:
        if "%" in text:
            raise ValueError
        packed = IPv6Address(text).packed
    except ValueError:
        raise UrlError("its host is no valid IPv6 address") from None
    address = ":".join(f"{packed[i] << 8 | packed[i + 1]:x}" for i in range(0, 16, 2))
    runs = list(_ZEROS.finditer(address))
    if not runs:
        return address
    run = max(runs, key=lambda run: run[0].count("0"))
    return f"{address[: run.start()]}::{address[run.end() :]}"


def _shown(url: str) -> str:
    """The URL for a message: on one line, short, without its credentials."""
    text = _CREDENTIALS.sub(r"\1***@", url[:MAX_URL_LENGTH].strip(_C0_OR_SPACE))
    return repr(text if len(text) <= 200 else text[:197] + "...")


# --- registrable domains ---------------------------------------------------------------------


@lru_cache(maxsize=4096)
def registrable_domain(host: str) -> str:
    """The domain that somebody registered and that `host` belongs to.

    By the public suffix list (https://publicsuffix.org), private suffixes included: it is
    ``shop.co.uk`` for ``www.shop.co.uk`` and ``joe.github.io`` for ``joe.github.io``.

    Args:
        host: ``host`` or ``host[:port]`` of a canonical URL.

    Returns:
        The domain, without a port. IP addresses, single labels and public suffixes are their own.
    """
    if host.startswith("["):
        return host[: host.index("]") + 1]
    name = host.partition(":")[0]
    if _ENDS_IN_A_NUMBER.fullmatch(name):
        return name
    domain: str | None = _suffixes().privatesuffix(name.removesuffix("."))
    return domain or name


def knows_suffixes() -> bool:
    """Whether the public suffix list was read, so that nobody has to wait for it."""
    return _suffixes.cache_info().currsize > 0


def read_suffixes() -> None:
    """Read the public suffix list, which takes 70 ms: in a thread, not in the event loop."""
    with _READING:
        _suffixes()


_READING = Lock()


@cache
def _suffixes() -> PublicSuffixList:
    # Imported here because few commands need it, and it takes 20 ms.
    from publicsuffixlist import PublicSuffixList

    return PublicSuffixList()


# --- a file of URLs --------------------------------------------------------------------------

# No line of this many characters can hold a URL that is not too long.
_MAX_LINE = 8 * MAX_URL_LENGTH


def read_urls(path: str | os.PathLike[str]) -> Iterator[tuple[int, str | UrlError]]:
    """The URLs of a text file, one a line, as they are read.

    Blank lines and those that begin with ``#`` are skipped. The file is UTF-8, with or without a
    byte order mark. A bad line ends nothing: it is yielded as an error, to be counted or raised.

    Args:
        path: The file. It is never held in memory, so that it may have any size.

    Yields:
        The number of the line, from 1, with its canonical URL or with the `UrlError` that says
        ``file:line`` and what is wrong.

    Raises:
        UsageError: The file cannot be read. Raised when the first line is asked for.
    """
    name = os.fspath(path)
    try:
        # Bytes that are not UTF-8 become surrogates, so that they spoil their own line only.
        with open(name, encoding="utf-8-sig", errors="surrogateescape") as file:
            for number, line in enumerate(_lines(file), start=1):
                text = line.strip()
                if text and not text.startswith("#"):
                    yield number, _read_url(text, f"{name}:{number}")
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror or error}") from None


def _lines(file: TextIO) -> Iterator[str]:
    """The lines of a file, long ones cut: a file without newlines is not read into memory."""
    while line := file.readline(_MAX_LINE):
        rest = line
        while len(rest) == _MAX_LINE and not rest.endswith("\n"):
            rest = file.readline(_MAX_LINE)
        yield line


def _read_url(text: str, place: str) -> str | UrlError:
    if _SURROGATES.search(text):
        return UrlError(f"{place}: the line is not UTF-8; save the file as UTF-8")
    try:
        return canonical(text)
    except UrlError as error:
        return UrlError(f"{place}: {error}")

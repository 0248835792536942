"""The scripted servers: one port for each behaviour, one for healthy pages, one for a canary.

They are raw asyncio, as no HTTP library would send what they send. Each behaviour is a small
function that gets the request and writes what it likes. ``python -m tests.faults.hostile.site
hostile`` (or ``healthy``) runs them in a process of their own and prints their ports as JSON.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import sys
import zlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache

MB = 2**20
BOMB = 1024 * MB
"""Bytes that a bomb unpacks to."""
HEALTHY_PAGES = 24
HEALTHY_DELAY = 0.03


@dataclass
class Exchange:
    """One request, and the way to answer it.

    Attributes:
        path: What was asked for.
        host: The name in the ``Host`` header, without the port.
        cookies: The ``Cookie`` header.
        ports: The ports of all behaviours, by name.
    """

    path: str
    host: str
    cookies: bytes
    writer: asyncio.StreamWriter
    ports: dict[str, int] = field(default_factory=dict)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self, *fields: str, status: str = "200 OK") -> None:
        lines = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", *fields))
        await self.send(f"{lines}Connection: close\r\n\r\n".encode("utf-8", "surrogateescape"))

    async def page(self, body: bytes, *fields: str, kind: str = "text/html; charset=utf-8") -> None:
        await self.head(f"Content-Type: {kind}", f"Content-Length: {len(body)}", *fields)
        await self.send(body)

    async def redirect(self, location: str) -> None:
        await self.head(f"Location: {location}", "Content-Length: 0", status="302 Found")


Behaviour = Callable[[Exchange], Awaitable[None]]
BEHAVIOURS: dict[str, Behaviour] = {}
RAW = {"silence in the TLS handshake", "TLS, a byte a second"}
"""Behaviours that speak before they are asked, or never listen."""
OWN_ROBOTS = {
    *("robots-rules", "robots-delay", "robots-endless", "robots-silent"),
    *("robots-elsewhere", "robots-private", "robots-loop", "robots-sitemap", "canary"),
    "an answer that nobody asked for",
}
"""Behaviours that answer for robots.txt themselves; the others have none."""


def behaviour(name: str) -> Callable[[Behaviour], Behaviour]:
    """Enter a function into the table of behaviours."""

    def enter(function: Behaviour) -> Behaviour:
        BEHAVIOURS[name] = function
        return function

    return enter


async def until_closed(exchange: Exchange, data: bytes, seconds: float = 0.0) -> None:
    """Send the same again and again, until the other side has had enough."""
    while not exchange.writer.is_closing():
        await exchange.send(data)
        await asyncio.sleep(seconds)


# -- bombs ----------------------------------------------------------------------------------------


@cache
def zeros(encoding: str) -> bytes:
    """A gigabyte of zeros, packed; a quarter of it with Brotli, which takes its time."""
    block = bytes(MB)
    if encoding in ("gzip", "deflate"):
        # A full flush forgets what was before, so that the packed block can be repeated.
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        piece = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
        head = gzip.compress(b"")[:10] if encoding == "gzip" else b"\x78\x9c"
        return head + piece * (BOMB // MB) + b"\x03\x00" + bytes(8)
    if encoding == "br":
        import brotli

        br = brotli.Compressor(quality=1)
        return b"".join([br.process(block) for _ in range(256)]) + br.finish()
    if encoding == "zstd":
        from backports.zstd import compress

        return compress(block * 16) * (BOMB // MB // 16)
    if encoding == "gzip, gzip":
        return gzip.compress(zeros("gzip"))
    assert encoding == "br, gzip"
    return gzip.compress(zeros("br"))


def _bomb(encoding: str) -> Behaviour:
    async def explode(exchange: Exchange) -> None:
        data = await asyncio.to_thread(zeros, encoding)
        await exchange.page(data, f"Content-Encoding: {encoding}")

    return explode


for _encoding in ("gzip", "deflate", "br", "zstd", "gzip, gzip", "br, gzip"):
    BEHAVIOURS[f"bomb {_encoding}"] = _bomb(_encoding)


@behaviour("encodings x 100")
async def many_encodings(exchange: Exchange) -> None:
    await exchange.page(gzip.compress(b"x"), f"Content-Encoding: {', '.join(['gzip'] * 100)}")


@behaviour("encoding that lies")
async def false_encoding(exchange: Exchange) -> None:
    await exchange.page(b"this is no gzip", "Content-Encoding: gzip")


@behaviour("gzip with garbage behind it")
async def trailing_garbage(exchange: Exchange) -> None:
    await exchange.page(gzip.compress(GOOD) + b"garbage" * 99, "Content-Encoding: gzip")


@behaviour("gzip that is cut short")
async def short_gzip(exchange: Exchange) -> None:
    await exchange.page(gzip.compress(GOOD * 999)[:-20], "Content-Encoding: gzip")


@cache
def _packed(times: int) -> bytes:
    return gzip.compress(_packed(times - 1)) if times else GOOD


@behaviour("50 encodings, all of them true")
async def true_encodings(exchange: Exchange) -> None:
    await exchange.page(_packed(50), f"Content-Encoding: {', '.join(['gzip'] * 50)}")


@cache
def _wide() -> bytes:
    from backports.zstd import CompressionParameter, compress

    return compress(bytes(12 * MB), options={CompressionParameter.window_log: 27})


@behaviour("zstd with a window of 128 MB")
async def wide_window(exchange: Exchange) -> None:
    await exchange.page(await asyncio.to_thread(_wide), "Content-Encoding: zstd")


# -- time -----------------------------------------------------------------------------------------


@behaviour("endless body")
async def endless_body(exchange: Exchange) -> None:
    await exchange.head("Content-Type: text/html")
    await until_closed(exchange, b"endless " * 8192)


@behaviour("body, a byte a second")
async def slow_body(exchange: Exchange) -> None:
    await exchange.head("Content-Type: text/html", "Content-Length: 100000")
    await until_closed(exchange, b"x", 1)


@behaviour("headers, a byte a second")
async def slow_headers(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    await until_closed(exchange, b"x", 1)


@behaviour("silence before headers")
async def silence(exchange: Exchange) -> None:
    await asyncio.sleep(60)


@behaviour("silence after headers")
async def silence_after_headers(exchange: Exchange) -> None:
    await exchange.head("Content-Type: text/html", "Content-Length: 100")
    await asyncio.sleep(60)


@behaviour("trailers, a byte a second")
async def slow_trailers(exchange: Exchange) -> None:
    await exchange.head("Transfer-Encoding: chunked")
    await exchange.send(b"5\r\nhello\r\n0\r\nX-Slow: ")
    await until_closed(exchange, b"x", 1)


@behaviour("silence in the TLS handshake")
async def silent_tls(exchange: Exchange) -> None:
    await asyncio.sleep(60)


@behaviour("TLS, a byte a second")
async def slow_tls(exchange: Exchange) -> None:
    """The beginning of a long record of the handshake."""
    await exchange.send(b"\x16\x03\x03\x3f\xff\x02\x00\x3f\xfb")
    await until_closed(exchange, b"\x03", 1)


@behaviour("endless 1xx")
async def endless_informational(exchange: Exchange) -> None:
    await until_closed(exchange, b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 50, 0.001)


# -- headers --------------------------------------------------------------------------------------


@behaviour("100,000 headers")
async def many_headers(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\n")
    for start in range(0, 100_000, 1000):
        await exchange.send(b"".join(b"X-%d: y\r\n" % n for n in range(start, start + 1000)))
    await exchange.send(b"Content-Length: 0\r\n\r\n")


@behaviour("one huge header")
async def huge_header(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nX-Huge: ")
    for _ in range(256):
        await exchange.send(b"x" * 65536)
    await exchange.send(b"\r\nContent-Length: 0\r\n\r\n")


@behaviour("a Set-Cookie of 60 KB")
async def huge_cookie(exchange: Exchange) -> None:
    size = len(exchange.cookies)
    link = b'<a href="/next">x</a>' if exchange.path == "/" else b""
    title = f"<h1>{size}</h1>".encode()
    await exchange.page(title + link, "Set-Cookie: small=1", f"Set-Cookie: huge={'v' * 60_000}")


def _with(*fields: str) -> Behaviour:
    async def answer(exchange: Exchange) -> None:
        await exchange.page(GOOD, *fields)

    return answer


BEHAVIOURS["a Vary of 8,000 names"] = _with("Vary: " + ",".join(f"x{n}" for n in range(8000)))
BEHAVIOURS["Cache-Control of 20,000 directives"] = _with("Cache-Control: " + "a=1," * 20_000)


@behaviour("a Content-Type of 60 KB")
async def long_kind(exchange: Exchange) -> None:
    await exchange.page(GOOD, kind="text/html" + '; x="' * 12_000 + "; charset=utf-8")


@behaviour("escape sequences in the status line")
async def coloured_status(exchange: Exchange) -> None:
    await exchange.head("Content-Length: 0", status="500 \x1b[31mred\x1b]0;title\x07")


@behaviour("escape sequences in Location")
async def coloured_location(exchange: Exchange) -> None:
    await exchange.redirect("gopher:\x1b[2J\x9b31m")


@behaviour("escape sequences in an error")
async def coloured_title(exchange: Exchange) -> None:
    await exchange.page("<h1>\x1b[31m\x9b2J\u202e</h1>".encode())


# -- redirects ------------------------------------------------------------------------------------


@behaviour("redirect loop")
async def redirect_loop(exchange: Exchange) -> None:
    await exchange.redirect("/b" if exchange.path == "/a" else "/a")


@behaviour("redirect to itself")
async def redirect_to_itself(exchange: Exchange) -> None:
    await exchange.redirect(exchange.path)


@behaviour("redirects without end")
async def endless_redirects(exchange: Exchange) -> None:
    await exchange.redirect(f"{exchange.path}x")


def _redirect(location: str) -> Behaviour:
    async def lead(exchange: Exchange) -> None:
        await exchange.redirect(location.format(**exchange.ports))

    return lead


BEHAVIOURS["redirect to file:"] = _redirect("file:///etc/hostname")
BEHAVIOURS["redirect to port 99999"] = _redirect("http://127.0.0.1:99999/")
BEHAVIOURS["redirect to port 25"] = _redirect("http://127.0.0.1:25/")
BEHAVIOURS["redirect to a private address"] = _redirect("http://127.0.0.1:{canary}/secret")
BEHAVIOURS["redirect to localhost"] = _redirect("http://localhost:{canary}/secret")
BEHAVIOURS["redirect to a name of a private address"] = _redirect("http://a.test:{canary}/secret")
BEHAVIOURS["redirect to an octal address"] = _redirect("http://0177.1:{canary}/secret")
BEHAVIOURS["redirect to IPv6-mapped"] = _redirect("http://[::ffff:127.0.0.1]:{canary}/secret")
BEHAVIOURS["redirect to a decimal address"] = _redirect("http://2130706433:{canary}/secret")
BEHAVIOURS["redirect to an address of two parts"] = _redirect("http://127.1:{canary}/secret")
BEHAVIOURS["redirect to an address in wide digits"] = _redirect(
    "http://\uff11\uff12\uff17\u3002\u2460.0.0:{canary}/secret"
)
BEHAVIOURS["redirect to 0.0.0.0"] = _redirect("http://0:{canary}/secret")
BEHAVIOURS["redirect to IPv6 loopback"] = _redirect("http://[::1]:{canary}/secret")
BEHAVIOURS["redirect to IPv6 translated"] = _redirect("http://[64:ff9b::7f00:1]:{canary}/secret")
BEHAVIOURS["redirect to a link-local address"] = _redirect("http://[fe80::1]:{canary}/secret")
BEHAVIOURS["redirect to a scoped address"] = _redirect("http://[fe80::1%25lo]:{canary}/secret")
BEHAVIOURS["redirect to a name of both kinds"] = _redirect("http://both.test:{canary}/secret")
BEHAVIOURS["redirect of 60 KB"] = _redirect("/" + "x" * 60_000)
BEHAVIOURS["redirect to cloud metadata"] = _redirect("http://169.254.169.254/latest/meta-data/")


@behaviour("link to a private address")
async def private_link(exchange: Exchange) -> None:
    port = exchange.ports["canary"]
    await exchange.page(f'<a href="http://127.0.0.1:{port}/secret">x</a>'.encode())


@behaviour("100,000 redirects")
async def many_redirects(exchange: Exchange) -> None:
    """Each page leads to a thousand others, most by redirects, and by refreshes to even more."""
    number = int(exchange.path.rpartition("/")[2] or 0)
    if number % 10:
        await exchange.redirect(f"/{10 * number}")
        return
    links = "".join(f'<a href="/{1000 * number + n}">x</a>' for n in range(1, 1000))
    refresh = f'<meta http-equiv="refresh" content="0; url=/{number + 7}">'
    fields = (f"Refresh: 0; url=/{number + 3}", f"Link: </{number + 9}>; rel=next")
    await exchange.page((refresh + links).encode(), *fields)


# -- messages that are none -----------------------------------------------------------------------


@behaviour("malformed chunks")
async def malformed_chunks(exchange: Exchange) -> None:
    await exchange.head("Transfer-Encoding: chunked")
    # In pieces, so that there is somebody who waits for the rest when the connection breaks.
    for piece in (b"5\r\nhello\r\n", b"zz\r\nworld\r\n"):
        await asyncio.sleep(0.1)
        await exchange.send(piece)
    await asyncio.sleep(60)


@behaviour("chunk without end")
async def huge_chunk(exchange: Exchange) -> None:
    await exchange.head("Transfer-Encoding: chunked")
    await exchange.send(b"FFFFFFFFFFFFFFF\r\n")
    await until_closed(exchange, b"x" * 65536)


@behaviour("chunk extension without end")
async def endless_chunk_extension(exchange: Exchange) -> None:
    await exchange.head("Transfer-Encoding: chunked")
    await exchange.send(b"5;")
    await until_closed(exchange, b"x" * 65536)


@behaviour("trailers without end")
async def endless_trailers(exchange: Exchange) -> None:
    await exchange.head("Transfer-Encoding: chunked")
    await exchange.send(b"5\r\nhello\r\n0\r\n")
    await until_closed(exchange, b"X-Trailer: y\r\n" * 4096)


@behaviour("short body")
async def short_body(exchange: Exchange) -> None:
    await exchange.head("Content-Length: 1000")
    await exchange.send(b"too short")


@behaviour("reset")
async def reset(exchange: Exchange) -> None:
    await exchange.head("Content-Length: 1000")
    await exchange.send(b"half")
    exchange.writer.transport.abort()


@behaviour("Content-Length with Transfer-Encoding")
async def both_lengths(exchange: Exchange) -> None:
    await exchange.head("Content-Length: 3", "Transfer-Encoding: chunked")
    await exchange.send(b"5\r\nhello\r\n0\r\n\r\n")


@behaviour("two Content-Lengths")
async def two_lengths(exchange: Exchange) -> None:
    await exchange.head("Content-Length: 3", "Content-Length: 5")
    await exchange.send(b"hello")


@behaviour("no HTTP at all")
async def no_http(exchange: Exchange) -> None:
    await exchange.send(b"SSH-2.0-OpenSSH_9.2\r\n")


async def _exactly(exchange: Exchange, head: str, body: bytes = b"hello") -> None:
    await exchange.send(head.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n" + body)


def _head(*lines: str, body: bytes = b"hello") -> Behaviour:
    async def answer(exchange: Exchange) -> None:
        await _exactly(exchange, "\n".join(("HTTP/1.1 200 OK", *lines)), body)

    return answer


CHUNKS = b"5\r\nhello\r\n0\r\n\r\n"
BEHAVIOURS["Content-Length with a sign"] = _head("Content-Length: +5")
BEHAVIOURS["Content-Length in hexadecimal"] = _head("Content-Length: 0x5")
BEHAVIOURS["Content-Length twice in one field"] = _head("Content-Length: 5, 6")
BEHAVIOURS["Content-Length beyond all numbers"] = _head("Content-Length: " + "9" * 40)
BEHAVIOURS["a space before the colon"] = _head("Content-Length : 5")
BEHAVIOURS["a folded Transfer-Encoding"] = _head("Transfer-Encoding:\n chunked", body=CHUNKS)
BEHAVIOURS["an unknown Transfer-Encoding"] = _head("Transfer-Encoding: xchunked", body=CHUNKS)
BEHAVIOURS["chunked, and then something"] = _head("Transfer-Encoding: chunked, gzip", body=CHUNKS)
BEHAVIOURS["chunked twice"] = _head("Transfer-Encoding: chunked, chunked", body=CHUNKS)
BEHAVIOURS["a bare CR in a header"] = _head("X: a\rContent-Length: 3")
BEHAVIOURS["a NUL in a header"] = _head("X: a\0b", "Content-Length: 5")
BEHAVIOURS["a chunk's size without end"] = _head("Transfer-Encoding: chunked", body=b"0" * (4 * MB))


@behaviour("HTTP/0.9")
async def http_09(exchange: Exchange) -> None:
    await exchange.send(b"<html>" + GOOD)


@behaviour("HTTP/7.3")
async def http_7(exchange: Exchange) -> None:
    await _exactly(exchange, "HTTP/7.3 200 OK\nContent-Length: 5")


@behaviour("status 1000")
async def status_1000(exchange: Exchange) -> None:
    await _exactly(exchange, "HTTP/1.1 1000 Odd\nContent-Length: 5")


@behaviour("another protocol")
async def upgraded(exchange: Exchange) -> None:
    await _exactly(exchange, "HTTP/1.1 101 Switching Protocols\nUpgrade: x\nConnection: upgrade")


EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n<h1>evil</h1>"


def _surplus(data: bytes, wait: float) -> Behaviour:
    async def answer(exchange: Exchange) -> None:
        if exchange.path == "/robots.txt":  # for a while in which nobody asks
            await exchange.page(b"User-agent: *\nCrawl-delay: 0.2", kind="text/plain")
            return
        # Without Connection: close, so that the connection is kept.
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(GOOD)}"
        start = head.encode() + b"\r\n\r\n" + GOOD
        if wait:
            await exchange.send(start)
            await asyncio.sleep(wait)
            await exchange.send(data)
            await asyncio.sleep(0.3)
        else:
            await exchange.send(start + data)

    return answer


BEHAVIOURS["more than its Content-Length"] = _surplus(b" and more" * 99, 0)
BEHAVIOURS["a second answer with the first"] = _surplus(EVIL, 0)
BEHAVIOURS["an answer that nobody asked for"] = _surplus(EVIL, 0.02)


# -- text -----------------------------------------------------------------------------------------

GOOD = b'<h1>good</h1><a href="/good">good</a>'


BODIES: list[Callable[[], bytes]] = []
"""Bodies that are made before there is a server, so that it is never silent for that long."""


def _page(make: Callable[[], bytes], kind: str = "text/html; charset=utf-8") -> Behaviour:
    body = cache(make)
    BODIES.append(body)

    async def answer(exchange: Exchange) -> None:
        await exchange.page(body() if exchange.path == "/" else b"<h1>leaf</h1>", kind=kind)

    return answer


BEHAVIOURS["bogus charset"] = _page(lambda: GOOD, "text/html; charset=klingon-8859")
BEHAVIOURS["charset that is no text"] = _page(lambda: GOOD, "text/html; charset=zlib_codec")
BEHAVIOURS["charset with a line break"] = _page(lambda: GOOD, 'text/html; charset="utf\t8"; =;;')
BEHAVIOURS["invalid UTF-8"] = _page(lambda: b"<p>\xff\xfe\xc0\x80\xed\xa0\x80</p>" + GOOD)
BEHAVIOURS["bytes that windows-1252 lacks"] = _page(
    lambda: b"<p>\x81\x8d\x8f\x90\x9d</p>" + GOOD, "text/html; charset=windows-1252"
)
BEHAVIOURS["NUL bytes"] = _page(lambda: b"\0<p\0>\0" + GOOD.replace(b"good<", b"go\0od<") + b"\0")
BEHAVIOURS["100,000 nested tags"] = _page(
    lambda: GOOD + b"<div>" * 100_000 + b'<a href="/lost">lost</a>'
)
BEHAVIOURS["100,000 attributes on a tag"] = _page(
    lambda: b"<p " + b" ".join(b"a%d=1" % n for n in range(100_000)) + b">" + GOOD
)
BEHAVIOURS["100,000 attributes, quoted >"] = _page(
    lambda: b"<p " + b" ".join(b"a%d='>'" % n for n in range(100_000)) + b">" + GOOD
)
BEHAVIOURS["2,000,000 attributes on a tag"] = _page(
    lambda: b"<p " + b" ".join(b"%x" % n for n in range(2_000_000)) + b">" + GOOD
)
BEHAVIOURS["5,000,000 elements"] = _page(lambda: b"<b></b>" * 2_300_000)
BEHAVIOURS["half a million links"] = _page(lambda: _links(500_000))
BEHAVIOURS["60,000 links"] = _page(lambda: _links(60_000))


def _links(count: int) -> bytes:
    return b"".join(b'<a href="/p/%d">%d</a>' % (n, n) for n in range(count))


LINKS = [
    "javascript:alert(1)",
    "java\nscript:alert(1)",
    " \x01javascript:alert(1)",
    "data:text/html,x",
    "mailto:a@b.example",
    "file:///etc/passwd",
    "http://[::1",
    "http://user:secret@127.0.0.1/",
    "http://127.0.0.1:99999/",
    "/go\nod\r\n?x=\t1",
    "/esc\x1b[31m",
    "/bidi\u202e\u2028",
    "/crlf%0d%0aSet-Cookie:x=1",
    "//",
    "http://[fe80::1%25lo]/",
    "http://[::1",
    "http://[v1.x]/",
    "http://a b/",
    "x" * 20_000,
]


@behaviour("odd links")
async def odd_links(exchange: Exchange) -> None:
    links = "".join(f'<a href="{link}">x</a>' for link in LINKS)
    title = "<h1>\x1b[31m\u202e</h1>"
    await exchange.page((links + title).encode() if exchange.path == "/" else b"<h1>leaf</h1>")


# -- sitemaps and robots.txt ----------------------------------------------------------------------


def _sitemap(body: Callable[[dict[str, int]], bytes], kind: str = "application/xml") -> Behaviour:
    async def answer(exchange: Exchange) -> None:
        if exchange.path == "/sitemap.xml":
            await exchange.page(await asyncio.to_thread(body, exchange.ports), kind=kind)
        else:
            await exchange.page(b"<h1>leaf</h1>")

    return answer


def _entities(ports: dict[str, int]) -> bytes:
    entities = '<!ENTITY a0 "aaaaaaaaaa">' + "".join(
        f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12)
    )
    return (
        f"<?xml version='1.0'?><!DOCTYPE urlset [{entities}]>"
        "<urlset><url><loc>/&a11;</loc></url></urlset>"
    ).encode()


def _external(ports: dict[str, int]) -> bytes:
    return (
        (
            "<?xml version='1.0'?><!DOCTYPE urlset SYSTEM 'http://127.0.0.1:{canary}/dtd' ["
            "<!ENTITY f SYSTEM 'file:///etc/hostname'>"
            "<!ENTITY h SYSTEM 'http://127.0.0.1:{canary}/entity'>]>"
            "<urlset><url><loc>/&f;&h;</loc></url><url><loc>/leaf</loc></url></urlset>"
        )
        .format(**ports)
        .encode()
    )


BEHAVIOURS["sitemap: entity bomb"] = _sitemap(_entities)
BEHAVIOURS["sitemap: external entities"] = _sitemap(_external)
BEHAVIOURS["sitemap: gzip bomb"] = _sitemap(lambda ports: zeros("gzip"), "application/gzip")


BEHAVIOURS["sitemap: private addresses"] = _sitemap(
    lambda ports: (
        (
            "<urlset><url><loc>http://127.0.0.1:{canary}/secret</loc></url>"
            "<url><loc>http://localhost:{canary}/secret</loc></url>"
            "<url><loc>http://[::ffff:127.0.0.1]:{canary}/secret</loc></url></urlset>"
        )
        .format(**ports)
        .encode()
    )
)


@behaviour("sitemap: index of itself")
async def sitemap_loop(exchange: Exchange) -> None:
    if exchange.path.startswith("/sitemap"):
        entries = "".join(
            f"<sitemap><loc>http://127.0.0.1:{exchange.ports['sitemap: index of itself']}"
            f"{exchange.path}{n}</loc></sitemap>"
            for n in range(3)
        )
        body = f"<sitemapindex>{entries}<sitemap><loc>/sitemap.xml</loc></sitemap></sitemapindex>"
        await exchange.page(body.encode(), kind="application/xml")
    else:
        await exchange.page(b"<h1>leaf</h1>")


FORBIDDEN = "/7axbycz"


async def _leaf_or_links(exchange: Exchange) -> None:
    links = f'<a href="/fine">fine</a><a href="{FORBIDDEN}">forbidden</a>'
    await exchange.page(links.encode() if exchange.path == "/" else b"<h1>leaf</h1>")


def _robots(body: Callable[[], bytes]) -> Behaviour:
    async def answer(exchange: Exchange) -> None:
        if exchange.path == "/robots.txt":
            await exchange.page(body(), kind="text/plain")
        else:
            await _leaf_or_links(exchange)

    return answer


BEHAVIOURS["robots-rules"] = _robots(
    lambda: b"User-agent: *\n" + b"".join(b"Disallow: /%d*x*y*z$\n" % n for n in range(200_000))
)
BEHAVIOURS["robots-delay"] = _robots(
    lambda: f"User-agent: *\nCrawl-delay: 31536000\nDisallow: {FORBIDDEN}\n".encode()
)


@behaviour("robots-endless")
async def robots_endless(exchange: Exchange) -> None:
    if exchange.path == "/robots.txt":
        await exchange.head("Content-Type: text/plain")
        await exchange.send(f"User-agent: *\nDisallow: {FORBIDDEN}\n".encode())
        await until_closed(exchange, b"Disallow: /never\n" * 4096)
    else:
        await _leaf_or_links(exchange)


@behaviour("robots-silent")
async def robots_silent(exchange: Exchange) -> None:
    if exchange.path == "/robots.txt":
        await asyncio.sleep(60)
    await exchange.page(b"<h1>leaf</h1>")


async def _robots_elsewhere(exchange: Exchange, location: str) -> None:
    if exchange.path == "/robots.txt":
        await exchange.redirect(location.format(**exchange.ports))
    elif exchange.path == "/rules":
        await exchange.page(f"User-agent: *\nDisallow: {FORBIDDEN}\n".encode(), kind="text/plain")
    else:
        await _leaf_or_links(exchange)


@behaviour("robots-elsewhere")
async def robots_elsewhere(exchange: Exchange) -> None:
    await _robots_elsewhere(exchange, "http://other.test:{robots-elsewhere}/rules")


@behaviour("robots-private")
async def robots_private(exchange: Exchange) -> None:
    await _robots_elsewhere(exchange, "http://127.0.0.1:{canary}/robots.txt")


@behaviour("robots-loop")
async def robots_loop(exchange: Exchange) -> None:
    await _robots_elsewhere(exchange, "/robots.txt")


@behaviour("robots-sitemap")
async def robots_sitemap(exchange: Exchange) -> None:
    if exchange.path == "/robots.txt":
        line = f"Sitemap: http://127.0.0.1:{exchange.ports['canary']}/sitemap.xml\n"
        await exchange.page(line.encode() * 1000, kind="text/plain")
    else:
        await exchange.page(b"<h1>leaf</h1>")


# -- traps ----------------------------------------------------------------------------------------


@behaviour("calendar")
async def calendar(exchange: Exchange) -> None:
    place = exchange.path.rstrip("/").rpartition("/")[2] or "0"
    month = int(place) if place.isdecimal() else 0
    links = f'<a href="/calendar/{month + 1}">next</a><a href="/calendar/{month + 2}">later</a>'
    await exchange.page(f"<h1>{month}</h1>{links}".encode())


@behaviour("endless query parameters")
async def query_trap(exchange: Exchange) -> None:
    path, _, query = exchange.path.partition("?filter=")
    links = "".join(f'<a href="{path}?filter={query}{n}">x</a>' for n in range(5))
    await exchange.page(links.encode())


@behaviour("cookies")
async def cookies(exchange: Exchange) -> None:
    """Hundreds of cookies a page, for suffixes and for itself; says how many came back."""
    domains = ["", "; Domain=com", "; Domain=co.uk", "; Domain=1", "; Domain=localhost"]
    fields = [
        f"Set-Cookie: c{exchange.path.strip('/')}{n}={'v' * 50}{domains[n % len(domains)]}"
        for n in range(200)
    ]
    number = int(exchange.path.strip("/") or 0)
    link = f'<a href="/{number + 1}">next</a>' if number < 15 else ""
    size = len(exchange.cookies)
    await exchange.page(f"<h1>{size}</h1>{link}".encode(), *fields)


SUFFIX_LINKS = {
    "a.co.uk": ["b.co.uk", "www.a.co.uk", "a.github.io"],
    "a.github.io": ["b.github.io"],
}


@behaviour("cookies for public suffixes")
async def suffix_cookies(exchange: Exchange) -> None:
    """Cookies for all of a suffix, and for a stranger; says which ones came."""
    fields = []
    if exchange.host.startswith("a."):
        suffix = exchange.host.partition(".")[2]
        domains = {"suffix": suffix, "top": suffix.rpartition(".")[2], "other": f"b.{suffix}"}
        if exchange.host == "a.co.uk":
            domains["own"] = exchange.host
        fields = [f"Set-Cookie: {name}=1; Domain={domain}" for name, domain in domains.items()]
    port = exchange.ports["cookies for public suffixes"]
    hosts = SUFFIX_LINKS.get(exchange.host, [])
    links = "".join(f'<a href="http://{host}:{port}/">x</a>' for host in hosts)
    came = " ".join(sorted(c.split("=")[0].strip() for c in exchange.cookies.decode().split(";")))
    await exchange.page(f"<h1>{exchange.host}: {came}</h1>{links}".encode(), *fields)


# -- data -----------------------------------------------------------------------------------------

NAMES = ["../../../evil", "/etc/evil", "..\\..\\evil", "a/../../evil", "evil\0.txt", "." * 300]
FORMULAS = ["=cmd|'/c calc'!A0", "+1+1|x", "-2+3|x", "@SUM(1)", "\t=1", "\r=1", "\n=1", "\uff1d1+1"]


@behaviour("names that lead out of a directory")
async def evil_names(exchange: Exchange) -> None:
    body = "".join(f"<li>{name}</li>" for name in NAMES)
    await exchange.page(body.replace("\0", "&#0;").encode())


@behaviour("formulas for a spreadsheet")
async def formulas(exchange: Exchange) -> None:
    cells = "".join(
        f"<li>{text}</li>".replace("\r", "&#13;").replace("\t", "&#9;").replace("\n", "&#10;")
        for text in FORMULAS
    )
    await exchange.page(cells.encode())


# -- serving --------------------------------------------------------------------------------------


async def _healthy(exchange: Exchange) -> None:
    await asyncio.sleep(HEALTHY_DELAY)
    links = "".join(f'<a href="/{n}">{n}</a>' for n in range(1, HEALTHY_PAGES))
    await exchange.page(f"<h1>healthy</h1>{links}".encode())


async def _canary(exchange: Exchange) -> None:
    """Where nobody should come: it says so on standard error, which the crawl's parent reads."""
    print(f"canary {exchange.path}", file=sys.stderr, flush=True)
    await exchange.page(b"<h1>secret</h1>")


async def _plain(exchange: Exchange) -> None:
    await exchange.page(b"<h1>plain</h1>")


def _server(name: str, act: Behaviour, ports: dict[str, int]) -> Callable[..., object]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            if name in RAW:
                await act(Exchange("", "", b"", writer, ports))
                return
            head = await reader.readuntil(b"\r\n\r\n")
            first, *fields = head.split(b"\r\n")
            path = first.split(b" ")[1].decode("latin-1")
            cookies = b"".join(f[7:] for f in fields if f.lower().startswith(b"cookie:"))
            hosts = [f[5:].strip().decode() for f in fields if f.lower().startswith(b"host:")]
            exchange = Exchange(path, hosts[0].partition(":")[0], cookies, writer, ports)
            if path == "/robots.txt" and name not in OWN_ROBOTS:
                await exchange.head("Content-Length: 0", status="404 Not Found")
            else:
                await act(exchange)
        writer.close()

    return serve


def _ports(kind: str) -> Iterator[tuple[str, Behaviour]]:
    if kind == "healthy":
        yield "healthy", _healthy
    else:
        yield "plain", _plain
        yield "canary", _canary
        yield from BEHAVIOURS.items()


async def main(kind: str) -> None:
    ports: dict[str, int] = {}
    servers = []
    for name, act in _ports(kind):
        # What is public in these tests is another address of this machine.
        address = "127.0.0.1" if name == "canary" else "0.0.0.0"
        server = await asyncio.start_server(_server(name, act, ports), address, 0)
        servers.append(server)
        ports[name] = server.sockets[0].getsockname()[1]
    if kind == "hostile":
        for make in BODIES:
            make()
    print(json.dumps(ports), flush=True)
    # It ends when the parent does, whose end of this pipe then closes.
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main(sys.argv[1]))

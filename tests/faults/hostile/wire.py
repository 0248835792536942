"""What servers do to those who read from a connection: bodies, time, headers, messages."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from functools import cache

from .exchange import BEHAVIOURS, GOOD, MB, Behaviour, Exchange, behaviour, until_closed

BOMB = 1024 * MB
"""Bytes that a bomb unpacks to."""


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

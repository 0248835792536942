"""Decoding: every coding that browsers know, and bombs that stay small."""

from __future__ import annotations

import asyncio
import gzip
import random
import sys
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable

import brotli
import pytest

from crawlkit.errors import FetchError, LimitError, NetworkError
from crawlkit.fetching import AiohttpFetcher
from crawlkit.http.decoding import BLOCK, MAX_CODINGS, MAX_MEMBERS, Decoding, codings_of
from crawlkit.http.limits import Limits
from crawlkit.sessions import Session

from .scripted import Server, error_of, http, opened, private, then_close

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PAGE = b"".join(b"<li>%d</li>" % number for number in range(40_000))


def deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 6, mtime=0),
    "x-gzip": lambda data: gzip.compress(data, 6, mtime=0),
    "deflate": zlib.compress,
    "raw deflate": deflate,
    "br": lambda data: brotli.compress(data, quality=4),
    "zstd": zstd.compress,
}
CODINGS = list(PACK)


def decoded(data: bytes, *codings: str, size: int = 1 << 20, limit: int = 1 << 24) -> bytes:
    """What `data` is, where it comes in pieces of `size`; fails where a step makes too much."""
    decoding = Decoding([coding.removeprefix("raw ") for coding in codings], "a.example", limit)
    out = []
    for start in range(0, len(data), size):
        for piece in decoding.decode(data[start : start + size]):
            assert len(piece) <= 4 * BLOCK
            out.append(piece)
    decoding.finish()
    return b"".join(out)


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("size", [1, 7, 4096, 1 << 20])
def test_a_body_is_decoded_however_it_is_cut(coding: str, size: int) -> None:
    data = PAGE[:3000] if size == 1 else PAGE
    assert decoded(PACK[coding](data), coding, size=size) == data


@pytest.mark.parametrize("coding", CODINGS)
def test_nothing_and_next_to_nothing_are_decoded(coding: str) -> None:
    assert decoded(PACK[coding](b""), coding) == b""
    assert decoded(PACK[coding](b"x"), coding, size=1) == b"x"
    assert decoded(b"", coding) == b""  # as servers send it with an empty page


@pytest.mark.parametrize("outer", CODINGS)
@pytest.mark.parametrize("inner", CODINGS)
def test_codings_on_one_another_are_undone_the_last_one_first(inner: str, outer: str) -> None:
    assert decoded(PACK[outer](PACK[inner](PAGE)), inner, outer, size=1000) == PAGE


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
@pytest.mark.parametrize("size", [1, 5, 1 << 20])
def test_files_that_were_joined_are_one_body(coding: str, size: int) -> None:
    pack = PACK[coding]
    parts = [b"one ", b"", b"two " * 500, b"three"]
    assert decoded(b"".join(map(pack, parts)), coding, size=size) == b"".join(parts)


def test_frames_of_zstd_that_are_to_be_skipped_are() -> None:
    skipped = b"\x5a\x2a\x4d\x18\x04\x00\x00\x00abcd"
    data = skipped + zstd.compress(b"one ") + skipped + zstd.compress(b"two") + skipped
    assert decoded(data, "zstd") == decoded(data, "zstd", size=1) == b"one two"


@pytest.mark.parametrize("coding", ["gzip", "deflate", "raw deflate", "zstd"])
@pytest.mark.parametrize("garbage", [b"\0" * 512, b"\x1f", b"(", b"<!-- server -->"])
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_garbage_behind_the_end_is_ignored(coding: str, garbage: bytes, size: int) -> None:
    assert decoded(PACK[coding](PAGE[:500]) + garbage, coding, size=size) == PAGE[:500]


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("size", [1, 100, 1 << 20])
def test_a_body_that_breaks_off_is_an_error(coding: str, size: int) -> None:
    whole = PACK[coding](PAGE[:5000])
    for length in (1, 2, len(whole) // 2, len(whole) - 1):
        with pytest.raises(
            NetworkError, match=r"^the body from a\.example broke off: the .* has no"
        ):
            decoded(whole[:length], coding, size=size)


@pytest.mark.parametrize("coding", CODINGS)
def test_a_body_that_is_something_else_is_an_error(coding: str) -> None:
    with pytest.raises(NetworkError, match=r"^the body from a\.example is not .*, as it says: "):
        decoded(b"<html>not packed at all</html>" * 10, coding)


@pytest.mark.parametrize("coding", CODINGS)
def test_a_body_that_was_damaged_is_an_error_or_what_it_was(coding: str) -> None:
    luck = random.Random(7)
    whole = PACK[coding](PAGE[:2000])
    for _ in range(200):
        data = bytearray(whole)
        data[luck.randrange(len(data))] ^= 1 << luck.randrange(8)
        try:
            decoded(bytes(data), coding, limit=100_000)
        except FetchError:
            pass


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_bomb_takes_little_memory_and_no_step_of_it_takes_long(coding: str, layers: int) -> None:
    data = bytes(30_000_000)
    for _ in range(layers):
        data = PACK[coding](data)
    limit, size, longest = 1_000_000, 0, 0.0
    decoding = Decoding([coding.removeprefix("raw ")] * layers, "a.example", limit)
    tracemalloc.start()
    before = time.thread_time()
    try:
        for piece in decoding.decode(data):
            longest = max(longest, time.thread_time() - before)
            size += len(piece)
            if size > limit:
                break
            before = time.thread_time()
        _, peak = tracemalloc.get_traced_memory()
    except LimitError:
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size <= limit + 4 * BLOCK
    assert peak < 2_000_000
    assert longest < 0.1


def test_a_body_that_grows_between_two_codings_is_refused() -> None:
    """Nothing comes out in the end, but a gigabyte of empty files in between."""
    bomb = gzip.compress(zstd.compress(b"") * 3_000_000, 1)
    with pytest.raises(LimitError):
        decoded(bomb, "zstd", "gzip", limit=100_000)
    with pytest.raises(LimitError, match=f"more than {MAX_MEMBERS} compressed files"):
        decoded(gzip.compress(b"", mtime=0) * (MAX_MEMBERS + 1), "gzip")
    noise = gzip.compress(random.Random(7).randbytes(30_000))
    with pytest.raises(LimitError, match=r"longer than .* bytes before"):
        decoded(noise, "gzip", limit=1000)


def test_a_window_that_no_browser_has_is_refused() -> None:
    packer = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
    data = packer.compress(bytes(1 << 20)) + packer.flush()
    with pytest.raises(NetworkError, match="too much memory"):
        decoded(data, "zstd")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (["gzip"], ("gzip",)),
        (["GZip , BR"], ("gzip", "br")),
        (["deflate", "zstd"], ("deflate", "zstd")),
        (["identity"], ()),
        (["gzip, identity"], ("gzip",)),
        ([""], ()),
        (["UTF-8"], ()),
        (["none"], ()),
    ],
)
def test_codings_are_read_from_all_headers_and_what_is_none_is_ignored(
    headers: list[str], expected: tuple[str, ...]
) -> None:
    assert codings_of(headers, "a.example") == expected


@pytest.mark.parametrize("header", ["compress", "gzip, lzma", "gzip;q=1", "x" * 10_000])
def test_an_unknown_coding_is_an_error_that_is_not_tried_again(header: str) -> None:
    with pytest.raises(NetworkError, match=r"^the body from a\.example is encoded as '") as caught:
        codings_of([header], "a.example")
    assert not caught.value.retryable
    assert len(str(caught.value)) < 200


def test_a_body_that_is_encoded_too_often_is_refused() -> None:
    with pytest.raises(LimitError, match=f"more than {MAX_CODINGS} times"):
        codings_of(["gzip," * MAX_CODINGS + "gzip"], "a.example")


# -- over the wire ----------------------------------------------------------------------------


@pytest.fixture
async def fetcher() -> AsyncIterator[AiohttpFetcher]:
    async with opened(limits=Limits(idle=5, total=20, body=1_000_000)) as made:
        yield made


async def test_a_request_says_what_can_be_decoded(
    server: Server, fetcher: AiohttpFetcher, session: Session
) -> None:
    await fetcher.fetch(private(server.url("/")), session)
    assert server.hits[0].headers["accept-encoding"] == "gzip, deflate, br, zstd"


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("is_chunked", [False, True])
async def test_a_body_comes_decoded(
    server: Server, fetcher: AiohttpFetcher, session: Session, coding: str, is_chunked: bool
) -> None:
    body = PACK[coding](PAGE)
    headers = [f"Content-Encoding: {coding.removeprefix('raw ')}"]
    if is_chunked:
        headers.append("Transfer-Encoding: chunked")
        body = b"".join(
            b"%x\r\n%s\r\n" % (len(part), part)
            for part in (body[start : start + 777] for start in range(0, len(body), 777))
        )
        body += b"0\r\n\r\n"
    server.answers["/"] = http(body, "200 OK", *headers, length=not is_chunked)
    for _ in range(2):
        assert (await fetcher.fetch(private(server.url("/")), session)).body == PAGE
    assert server.connections == 1


async def test_two_headers_are_two_codings(
    server: Server, fetcher: AiohttpFetcher, session: Session
) -> None:
    body = brotli.compress(gzip.compress(PAGE), quality=1)
    headers = ("Content-Encoding: gzip", "Content-Encoding: br")
    server.answers["/"] = http(body, "200 OK", *headers)
    assert (await fetcher.fetch(private(server.url("/")), session)).body == PAGE


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
async def test_what_has_no_body_is_not_decoded(
    server: Server, fetcher: AiohttpFetcher, session: Session, status: str
) -> None:
    server.answers["/"] = http(b"", status, "Content-Encoding: gzip", length=False)
    server.answers["/page"] = http(gzip.compress(PAGE), "200 OK", "Content-Encoding: gzip")
    assert (await fetcher.fetch(private(server.url("/")), session)).body == b""
    head = private(server.url("/page"), method="HEAD")
    assert (await fetcher.fetch(head, session)).body == b""


async def test_a_connection_that_ends_within_packed_data_is_an_error(
    server: Server, fetcher: AiohttpFetcher, session: Session
) -> None:
    body = gzip.compress(PAGE)[:-9]
    server.answers["/"] = then_close(
        http(body, "200 OK", "Content-Encoding: gzip", "Connection: close", length=False)
    )
    error = await error_of(fetcher, server.url("/"), session)
    assert isinstance(error, NetworkError)
    assert "broke off: the gzip data has no end" in str(error)
    assert error.retryable


@pytest.mark.parametrize(
    "codings", [["gzip"], ["br"], ["zstd"], ["deflate"], ["gzip", "gzip"], ["gzip", "br", "zstd"]]
)
async def test_a_bomb_does_not_stop_the_others(
    server: Server, fetcher: AiohttpFetcher, session: Session, codings: list[str]
) -> None:
    body = bytes(30_000_000)
    for coding in codings:
        body = PACK[coding](body)
    server.answers["/"] = http(body, "200 OK", f"Content-Encoding: {', '.join(codings)}")
    longest = 0.0

    async def others() -> None:
        nonlocal longest
        while True:
            before = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - before)

    watching = asyncio.create_task(others())
    error = await error_of(fetcher, server.url("/"), session)
    watching.cancel()
    assert isinstance(error, LimitError)
    assert longest < 0.1


async def test_a_body_can_be_cut_instead(
    server: Server, fetcher: AiohttpFetcher, session: Session
) -> None:
    limits = Limits(body=1000, truncate=True)
    server.answers["/"] = http(PAGE)
    server.answers["/gz"] = http(gzip.compress(PAGE), "200 OK", "Content-Encoding: gzip")
    server.answers["/short"] = http(b"short")
    for path, body in (("/", PAGE[:1000]), ("/gz", PAGE[:1000]), ("/short", b"short")):
        response = await fetcher.fetch(private(server.url(path)), session, limits=limits)
        assert response.body == body

"""Hostile servers: each ends with a typed error, in time, in little memory, and hurts nobody."""

from __future__ import annotations

import asyncio
import time
import tracemalloc

import pytest

from crawlkit.clock import Clock
from crawlkit.errors import (
    FetchError,
    FetchTimeoutError,
    LimitError,
    NetworkError,
    RedirectError,
)
from crawlkit.http.limits import Limits
from crawlkit.sessions import Session

from .proxy_servers import Socks5Proxy
from .scripted import LIMITS, Answer, Server, error_of, http, opened, private, redirect
from .stopwatch import Stopwatch

Writer = asyncio.StreamWriter


def flood(start: bytes, again: bytes) -> Answer:
    """What begins with `start` and never ends."""

    async def answer(writer: Writer) -> None:
        writer.write(start)
        block = again * (64 * 1024 // len(again))
        while True:
            writer.write(block)
            await writer.drain()

    return answer


def drip(start: bytes, again: bytes, wait: float = 0.1) -> Answer:
    """What comes a little at a time and never ends."""

    async def answer(writer: Writer) -> None:
        writer.write(start)
        while True:
            writer.write(again)
            await writer.drain()
            await asyncio.sleep(wait)

    return answer


def pause(start: bytes, rest: bytes = b"") -> Answer:
    """What comes in two parts and then stays silent with the connection open."""

    async def answer(writer: Writer) -> None:
        writer.write(start)
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(rest)
        await asyncio.sleep(30)

    return answer


TIME, SIZE, WIRE, TO = FetchTimeoutError, LimitError, NetworkError, RedirectError
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"

HOSTILE: dict[str, tuple[Answer, type[FetchError] | tuple[type[FetchError], ...], float]] = {
    "silence before the headers": (pause(b""), TIME, LIMITS.idle),
    "silence within the headers": (pause(OK + b"X: "), TIME, LIMITS.idle),
    "silence after the headers": (pause(OK + b"Content-Length: 9\r\n\r\n"), TIME, LIMITS.idle),
    "silence within a chunk": (pause(CHUNKED + b"9\r\nabc"), TIME, LIMITS.idle),
    "headers by the byte": (drip(OK, b"X"), TIME, LIMITS.total),
    "a body a byte at a time": (
        drip(OK + b"Content-Length: 99\r\n\r\n", b"x"),
        TIME,
        LIMITS.total,
    ),
    "chunks by the byte": (drip(CHUNKED, b"1\r\nx\r\n"), TIME, LIMITS.total),
    "1xx for ever": (drip(b"", b"HTTP/1.1 102 Processing\r\n\r\n"), TIME, LIMITS.total),
    "a flood of 1xx": (flood(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"), SIZE, 0),
    "a flood of chunk extensions": (flood(CHUNKED + b"1;", b"x"), SIZE, 0),
    "chunks that are mostly extension": (flood(CHUNKED, b"1;" + b"x" * 99 + b"\r\nx\r\n"), SIZE, 0),
    "a flood of body": (flood(OK + b"\r\n", b"x"), SIZE, 0),
    "a flood of chunks": (flood(CHUNKED, b"1\r\nx\r\n"), (SIZE, TIME), LIMITS.total),
    "a flood of one status line": (flood(b"HTTP/1.1 200 ", b"x"), SIZE, 0),
    "a flood of one header": (flood(OK + b"X: ", b"x"), SIZE, 0),
    "a flood of one header's name": (flood(OK, b"x"), SIZE, 0),
    "a flood of headers": (flood(OK, b"X: y\r\n"), SIZE, 0),
    "a flood of cookies": (flood(OK, b"Set-Cookie: a=b\r\n"), SIZE, 0),
    "a flood of trailers": (flood(CHUNKED + b"1\r\nx\r\n0\r\n", b"X: y\r\n"), (SIZE, WIRE), 0),
    "no HTTP": (flood(b"", b"\x00\xff\x13\x37"), WIRE, 0),
    "a malformed chunk": (pause(CHUNKED + b"3\r\nabc\r\n", b"zz\r\n"), WIRE, 0),
    "a malformed first chunk": (pause(CHUNKED, b"zz\r\n"), WIRE, 0),
    "a chunk of nonsense size": (pause(CHUNKED, b"ffffffffffffffffff\r\n"), WIRE, 0),
    "a negative length": (pause(OK + b"Content-Length: -1\r\n\r\n"), WIRE, 0),
    "two lengths": (pause(OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"), WIRE, 0),
    "a length and chunks": (
        pause(OK + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"),
        WIRE,
        0,
    ),
    "a redirect to itself": (redirect("/"), TO, 0),
    "a redirect to a file": (redirect("file:///etc/passwd"), TO, 0),
    "a redirect to a mail server": (redirect("http://127.0.0.1:25/"), TO, 0),
}

PATIENT = Limits(
    idle=10, total=30, body=LIMITS.body, headers=LIMITS.headers, redirects=LIMITS.redirects
)
"""For what has no deadline: on a busy machine, even a flood may take a second to be too much."""


class Watch:
    """Measures what the others notice: how long the event loop was busy with one thing.

    In CPU time, for what a busy machine does meanwhile is not the fetcher's fault.
    """

    def __init__(self) -> None:
        self.longest = 0.0

    async def __aenter__(self) -> Watch:
        self._task = asyncio.create_task(self._run())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *args: object) -> None:
        self._task.cancel()

    async def _run(self) -> None:
        while True:
            before = time.thread_time()
            await asyncio.sleep(0.001)
            self.longest = max(self.longest, time.thread_time() - before)


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_server_costs_little_time_and_the_others_nothing(
    server: Server, session: Session, name: str
) -> None:
    answer, kind, deadline = HOSTILE[name]
    server.answers["/"] = answer
    server.answers["/good"] = http(b"good")
    async with opened(limits=LIMITS if deadline else PATIENT) as fetcher:
        await fetcher.fetch(private(server.url("/good")), session)
        stopwatch = Stopwatch()
        async with Watch() as watch:
            error = await error_of(fetcher, server.url("/"), session)
        took = stopwatch.seconds
        assert isinstance(error, kind), f"{type(error).__name__}: {error}"
        assert took < 1.2 * (deadline or LIMITS.idle)
        assert watch.longest < 0.1
        assert (await fetcher.fetch(private(server.url("/good")), session)).body == b"good"


@pytest.mark.parametrize("name", [name for name in HOSTILE if "flood" in name])
async def test_a_flood_does_not_fill_the_memory(
    server: Server, session: Session, name: str
) -> None:
    server.answers["/"] = HOSTILE[name][0]
    async with opened() as fetcher:
        tracemalloc.start()
        await error_of(fetcher, server.url("/"), session)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 8_000_000


async def test_a_flood_through_a_socks_proxy_is_no_worse(server: Server) -> None:
    for name in ("a flood of 1xx", "a flood of chunk extensions"):
        server.answers["/"] = HOSTILE[name][0]
        async with Socks5Proxy() as proxy, opened(limits=PATIENT) as fetcher:
            session = Session("s", Clock())
            session.proxy = proxy.url
            error = await error_of(fetcher, server.url("/"), session)
        assert isinstance(error, LimitError)


async def test_a_body_in_chunks_of_one_byte_is_read_however_much_is_around_it(
    server: Server, session: Session
) -> None:
    server.answers["/"] = CHUNKED + b"1\r\nx\r\n" * 400_000 + b"0\r\n\r\n"
    async with opened(limits=Limits()) as fetcher:
        response = await fetcher.fetch(private(server.url("/")), session)
    assert response.body == b"x" * 400_000


async def test_thousands_of_cookies_in_one_response_are_refused(
    server: Server, session: Session
) -> None:
    cookies = [f"Set-Cookie: c{number}=v" for number in range(10_000)]
    server.answers["/"] = http(b"", "200 OK", *cookies)
    async with opened(limits=Limits(headers=1_000_000)) as fetcher:
        assert isinstance(await error_of(fetcher, server.url("/"), session), LimitError)
    assert not session.has_cookies


@pytest.mark.parametrize("status", ["200 OK", "304 Not Modified"])
async def test_a_connection_that_was_used_well_and_then_breaks_says_nothing_in_the_log(
    server: Server, session: Session, caplog: pytest.LogCaptureFixture, status: str
) -> None:
    """The connection is told to tell of its end, and nobody is listening any more."""

    async def answer(writer: Writer) -> None:
        writer.write(CHUNKED + b"3\r\nabc\r\n")
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def reset(writer: Writer) -> None:
        writer.write(CHUNKED + b"3\r\nabc\r\n")
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.transport.abort()

    server.answers["/"] = answer
    server.answers["/reset"] = reset
    async with opened() as fetcher:
        for _ in range(3):
            assert (await fetcher.fetch(private(server.url("/")), session)).body == b"abc"
        assert server.connections == 1
        await error_of(fetcher, server.url("/reset"), session)
    assert caplog.text == ""


LENGTH = OK + b"Content-Length: 4\r\n\r\n"
SURPLUS: dict[str, Answer] = {
    "with the head": LENGTH + b"page and more",
    "with the end of the body": pause(LENGTH + b"pa", b"ge and more"),
    "after interim responses": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 2 + LENGTH + b"page and more",
    "as another response": LENGTH + b"page" + LENGTH + b"evil",
    "as a flood of others": flood(LENGTH + b"page", LENGTH + b"evil"),
    "after chunks": CHUNKED + b"4\r\npage\r\n0\r\n\r\nand more",
}


@pytest.mark.parametrize("name", SURPLUS)
async def test_what_a_server_sends_behind_a_page_is_no_part_of_any_page(
    server: Server, session: Session, name: str
) -> None:
    server.answers["/"] = SURPLUS[name]
    server.answers["/next"] = http(b"next")
    async with opened() as fetcher:
        for _ in range(2):
            response = await fetcher.fetch(private(server.url("/")), session)
            assert response.body == b"page"
            response = await fetcher.fetch(private(server.url("/next")), session)
            assert response.body == b"next"


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
async def test_a_body_where_none_belongs_is_no_part_of_any_page(
    server: Server, session: Session, status: str
) -> None:
    server.answers["/"] = http(b"evil", status, length=False)
    server.answers["/next"] = http(b"next")
    async with opened() as fetcher:
        for path, body in (("/", b""), ("/next", b"next")):
            assert (await fetcher.fetch(private(server.url(path)), session)).body == body


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("surplus", [LENGTH + b"evil", b" and more"])
async def test_an_answer_that_nobody_asked_for_is_never_the_next_page(
    server: Server, session: Session, surplus: bytes, method: str
) -> None:
    async def two(writer: Writer) -> None:
        writer.write(LENGTH + b"page")
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.write(surplus)

    server.answers["/"] = two
    server.answers["/next"] = http(b"next")
    async with opened() as fetcher:
        await fetcher.fetch(private(server.url("/"), method=method), session)
        await asyncio.sleep(0.1)
        response = await fetcher.fetch(private(server.url("/next"), method=method), session)
    assert response.body == b"next"

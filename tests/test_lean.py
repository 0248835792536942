"""Plain requests go a shorter way, and nobody can tell: neither the server nor the crawl."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from yarl import URL

from crawlkit.errors import FetchError, FetchTimeoutError
from crawlkit.fetching import AiohttpFetcher
from crawlkit.http.hops import Hop
from crawlkit.http.lean import MAX_ORIGINS, Lean
from crawlkit.http.limits import Limits
from crawlkit.http.protocol import Protocol
from crawlkit.request import Request
from crawlkit.response import Response
from crawlkit.sessions import Session
from crawlkit.urls import Base

from .scripted import Answer, Server, error_of, http, opened, private, then_close

HEADERS = {"Accept": "*/*", "User-Agent": "shopbot"}


@pytest.fixture
async def roundabout(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AiohttpFetcher]:
    """A fetcher for which no request is plain."""
    async with opened() as made:
        monkeypatch.setattr(made._lean, "plain", lambda hop, headers: None)
        yield made


def plain(
    hop: Hop, headers: dict[str, str] | None = None, common: dict[str, str] = HEADERS
) -> bytes | None:
    """The bytes of a plain request."""

    async def make() -> bytes | None:
        given = None if headers is None else CIMultiDict(headers)
        made = Lean(Limits(), common).plain(hop, given)
        return None if made is None else made.data

    return asyncio.run(make())


async def then_silence(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nab")
    await writer.drain()
    await asyncio.sleep(30)


hang_up = then_close(b"")


def chunked(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


ANSWERS: dict[str, Answer] = {
    "length": http(b"hello"),
    "empty": http(b""),
    "chunked": chunked(b"hello"),
    "broken chunks": then_close(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "until the end": then_close(b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\nhello"),
    "gzip": http(gzip.compress(b"hello"), "200 OK", "Content-Encoding: gzip"),
    "no gzip": http(b"hello", "200 OK", "Content-Encoding: gzip"),
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "not modified": b"HTTP/1.1 304 Not Modified\r\n\r\n",
    "not found": http(b"no", "404 Not Found"),
    "interim": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + http(b"hello"),
    "interim without end": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000,
    "upgrade": then_close(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
    ),
    "closing": http(b"hello", "200 OK", "Connection: close"),
    "two cookies": http(b"", "200 OK", "Set-Cookie: a=1", "Set-Cookie: b=2"),
    "no http": then_close(b"SSH-2.0-OpenSSH_9.2p1\r\n"),
    "many fields": http(b"", "200 OK", *(f"X-{n}: 1" for n in range(300))),
    "a long field": http(b"", "200 OK", "X: " + "1" * 9_000),
    "too long": http(b"x" * 100_001),
    "hangs up": hang_up,
    "breaks off": then_close(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab"),
    "falls silent": then_silence,
}


async def outcome(fetcher: AiohttpFetcher, url: str) -> tuple[object, ...]:
    """All that a crawl can see of an exchange."""
    session = Session("a", fetcher._clock)
    try:
        response: Response = await fetcher.fetch(private(url), session)
    except FetchError as error:
        return type(error), str(error), error.retryable
    fields = list(response.headers.items())
    cookies = session.cookie_header(url)
    return response.status, fields, response.body, response.is_private, cookies


@pytest.mark.parametrize("name", ANSWERS)
async def test_the_short_way_ends_as_the_long_one(
    name: str, server: Server, fetcher: AiohttpFetcher, roundabout: AiohttpFetcher
) -> None:
    server.answers["/"] = ANSWERS[name]
    url = server.url("/")
    assert await outcome(fetcher, url) == await outcome(roundabout, url)


@pytest.mark.parametrize("headers", [{}, {"Cookie": "a=1; b=2"}, {"X-Mine": "1"}])
async def test_a_server_cannot_tell_the_ways_apart(
    headers: dict[str, str], server: Server, fetcher: AiohttpFetcher, roundabout: AiohttpFetcher
) -> None:
    server.answers["/a?b=c%20d"] = http(b"")
    request = Request(server.url("/a?b=c%20d"), headers=headers, private=True)
    for one in (fetcher, roundabout):
        await one.fetch(request, Session("a", one._clock))
    first, second = server.hits
    assert first == second


async def test_a_connection_is_used_again(server: Server, fetcher: AiohttpFetcher) -> None:
    server.answers["/"] = http(b"hello")
    for _ in range(3):
        await outcome(fetcher, server.url("/"))
    assert (len(server.hits), server.connections) == (3, 1)


async def test_a_connection_that_was_closed_meanwhile_is_replaced(
    server: Server, fetcher: AiohttpFetcher
) -> None:
    """The request is sent once more, and only once."""
    server.answers["/"] = http(b"hello")
    server.answers["/gone"] = hang_up
    assert (await outcome(fetcher, server.url("/")))[0] == 200
    assert "closed the connection" in str(await outcome(fetcher, server.url("/gone")))
    assert [hit.target for hit in server.hits] == ["/", "/gone", "/gone"]
    assert server.connections == 2


async def test_a_fetch_that_is_cancelled_closes_its_connection(
    server: Server, fetcher: AiohttpFetcher
) -> None:
    server.answers["/"] = then_silence
    task = asyncio.create_task(outcome(fetcher, server.url("/")))
    async with asyncio.timeout(10):
        while not server.hits:  # noqa: ASYNC110 - it is a list
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert not fetcher._clients.direct(is_private=True).connector._acquired  # type: ignore[union-attr]
    server.answers["/"] = http(b"hello")
    assert (await outcome(fetcher, server.url("/")))[0] == 200
    assert server.connections == 2


async def test_silence_is_measured_from_the_last_byte(
    server: Server, fetcher: AiohttpFetcher
) -> None:
    async def slow(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
        for _ in range(10):
            await writer.drain()
            await asyncio.sleep(0.06)
            writer.write(b"x")

    server.answers["/slow"] = slow  # longer than the 0.4 s that it may be silent
    assert (await outcome(fetcher, server.url("/slow")))[2] == b"x" * 10
    server.answers["/"] = then_silence
    error = await error_of(fetcher, server.url("/"), Session("a", fetcher._clock))
    assert isinstance(error, FetchTimeoutError)
    assert "sent nothing for 0.4 s" in str(error)


async def test_a_connection_has_one_timer_and_may_rest_for_longer_than_a_server_may_be_silent(
    server: Server, fetcher: AiohttpFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[float] = []

    def set_timer(self: Protocol, seconds: float) -> None:
        made.append(seconds)
        known(self, seconds)

    known = Protocol._set_timer
    monkeypatch.setattr(Protocol, "_set_timer", set_timer)
    server.answers["/"] = http(b"hello")
    for _ in range(10):
        assert (await outcome(fetcher, server.url("/")))[0] == 200
    assert len(made) == 1
    await asyncio.sleep(0.5)
    assert (await outcome(fetcher, server.url("/")))[2] == b"hello"
    assert server.connections == 1, "its time had run out while nobody waited for it"


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_a_body_that_comes_faster_than_it_is_read_is_whole(
    is_chunked: bool, server: Server
) -> None:
    body = bytes(range(256)) * 8 * 1024
    server.answers["/"] = chunked(body) if is_chunked else http(body)
    paused = 0

    def pause(self: Protocol) -> None:
        nonlocal paused
        paused += 1
        known(self)

    known = Protocol.pause_reading
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Protocol, "pause_reading", pause)
        async with opened(limits=Limits()) as fetcher:
            response = await fetcher.fetch(private(server.url("/")), Session("a", fetcher._clock))
    assert response.body == body
    assert paused, "or nothing was shown"


# -- what is plain ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "hop",
    [
        Hop("http://a.example/", method="HEAD"),
        Hop("http://a.example/", method="POST", body=b""),
        Hop("http://a.example/", body=b"x"),
        Hop("http://a.example"),
        Hop("http://a.example/a b"),
        Hop("http://a.example/a\r\nX: 1"),
        Hop("http://a.example/#part"),
        Hop("http://a.example/ü"),
        Hop("http://user:secret@a.example/"),
        Hop("http://A.example/"),
        Hop("http://a.example:99999/"),
        Hop("http://[::1/"),
    ],
)
def test_what_is_not_plain_goes_the_long_way(hop: Hop) -> None:
    assert plain(hop) is None


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Mine": "1"},
        {"Cookie": "a", "X-Mine": "1"},
        {"Cookie": "a\r\nX: 1"},
        {"Cookie": "\udc80"},
    ],
)
def test_headers_that_others_do_not_have_go_the_long_way(headers: dict[str, str]) -> None:
    assert plain(Hop("http://a.example/"), headers) is None


def test_a_header_that_http_cannot_express_goes_the_long_way() -> None:
    assert plain(Hop("http://a.example/"), common={"User-Agent": "shop\r\nbot"}) is None


@given(st.text(max_size=30), st.text(max_size=10))
def test_whatever_a_page_links_to_is_one_request(href: str, cookie: str) -> None:
    """No link and no cookie can add a header, or a request, of its own."""
    url = Base("http://a.example/x").join(href)
    if url is None:
        return
    data = plain(Hop(url), {"Cookie": cookie})
    if data is None:
        assert not cookie.isprintable()
        return
    line, *fields, end, rest = data.split(b"\r\n")
    assert line == b"GET %b HTTP/1.1" % URL(url, encoded=True).raw_path_qs.encode()
    names = [field.partition(b":")[0] for field in fields]
    assert names == [b"Host", b"Accept", b"User-Agent", b"Accept-Encoding", b"Cookie"]
    assert (end, rest) == (b"", b"")


async def test_requests_are_kept_ready_for_a_limited_number_of_origins() -> None:
    lean = Lean(Limits(), HEADERS)
    for number in range(MAX_ORIGINS + 10):
        assert lean.plain(Hop(f"http://{number}.example/"), None) is not None
    assert len(lean._origins) == MAX_ORIGINS

"""Fetching: what becomes of a request, on good, odd and hostile servers."""

from __future__ import annotations

import asyncio
import gzip
import ssl
import sys
import threading
import zlib
from collections.abc import Awaitable, Callable
from functools import lru_cache
from pathlib import Path

import pytest

from crawlkit import importing, urls
from crawlkit.clock import Clock
from crawlkit.errors import (
    BlockedError,
    FetchError,
    FetchTimeoutError,
    LimitError,
    NetworkError,
    PrivateAddressError,
    ProxyError,
    RedirectError,
    RobotsError,
    StatusError,
    UsageError,
)
from crawlkit.fetching import AiohttpFetcher
from crawlkit.http.answers import failure_of, retry_after
from crawlkit.http.credentials import Credentials
from crawlkit.http.hops import Hop
from crawlkit.http.limits import Limits
from crawlkit.request import Request
from crawlkit.response import Response
from crawlkit.sessions import Session

from .scripted import (
    LIMITS,
    Answer,
    Server,
    error_of,
    http,
    opened,
    private,
    redirect,
    running,
    then_close,
)
from .stopwatch import Stopwatch

# Made for these tests with `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1`.
CERTIFICATE = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgTOJXRzPHXwbDjnbH
kpHYSzufIvtv/dwmlSXRMF5l4NahRANCAASs4ItKEfKGAXTe6vj1CLnd9QfUKnPW
IvZBhvlmnHaP3buUvytvkBF3sWC7FgSCXm0XLX/LbRaupwBQQnCQu44F
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBmjCCAUGgAwIBAgIUId2Z5/JaXxbyhwKr4wgQkyBFlpswCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMzA1MzQyNVoYDzIxMjYxMDMw
MDUzNDI1WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAASs4ItKEfKGAXTe6vj1CLnd9QfUKnPWIvZBhvlmnHaP3buUvytvkBF3
sWC7FgSCXm0XLX/LbRaupwBQQnCQu44Fo28wbTAdBgNVHQ4EFgQUx7Xm6MJMWPO5
/fFvpMynKQuiEQowHwYDVR0jBBgwFoAUx7Xm6MJMWPO5/fFvpMynKQuiEQowDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI
zj0EAwIDRwAwRAIgcEiSr1WfxtEdZTlJIqMcySw4IIUbFVOBAlv/u3YBDG0CIA3d
M04z1Z2zO1NE7mgEaGMLnJ+bYZ8HcZcs/c63c/Gg
-----END CERTIFICATE-----
"""


# -- a plain page -----------------------------------------------------------------------------


async def test_a_page_comes_with_all_that_the_server_said(
    server: Server, fetcher: AiohttpFetcher, session: Session
) -> None:
    server.answers["/a?b=%20c"] = http(
        "Grüße".encode(), "200 OK", "Content-Type: text/html; charset=utf-8", "X-A: 1", "X-A: 2"
    )
    url = server.url("/a?b=%20c")
    response = await fetcher.fetch(private(url), session)
    assert (response.url, response.status, response.text) == (url, 200, "Grüße")
    assert response.headers.getall("x-a") == ["1", "2"]
    assert response.redirects == ()
    assert 0 < response.elapsed < 1


async def test_the_url_is_asked_for_byte_by_byte_as_it_is(
    server: Server, fetcher: AiohttpFetcher, session: Session
) -> None:
    target = "/%7Ea/%E2%82%AC;p=1/a+b%2Fc/?q=a%26b+c&&x=%C3%A9&y"
    await fetcher.fetch(private(server.url(target)), session)
    assert server.hits[0].target == target


async def test_a_status_is_no_error_here(
    server: Server, fetcher: AiohttpFetcher, session: Session
) -> None:
    server.answers["/"] = http(b"try later", "503 Service Unavailable")
    response = await fetcher.fetch(private(server.url("/")), session)
    assert (response.status, response.body) == (503, b"try later")


async def test_connections_are_used_again(
    server: Server, fetcher: AiohttpFetcher, session: Session
) -> None:
    server.answers["/"] = redirect("/page")
    server.answers["/page"] = http(b"x" * 50_000)
    for _ in range(3):
        await fetcher.fetch(private(server.url("/")), session)
    assert len(server.hits) == 6
    assert server.connections == 1


async def test_method_body_and_headers_are_sent_those_of_the_request_above_all(
    server: Server, session: Session
) -> None:
    session.headers.update({"Accept-Language": "de", "X-Session": "s", "x-both": "session"})
    async with opened(user_agent="me/1", headers={"X-Own": "f", "X-Both": "own"}) as fetcher:
        request = private(
            server.url("/"), method="POST", body=b"a=1", headers={"X-Both": "request"}
        )
        await fetcher.fetch(request, session)
        await fetcher.fetch(private(server.url("/"), headers={"user-agent": "you"}), session)
    hit = server.hits[0]
    assert (hit.method, hit.body) == ("POST", b"a=1")
    assert hit.headers["user-agent"] == "me/1"
    assert hit.headers["accept"].startswith("text/html,")
    assert "gzip" in hit.headers["accept-encoding"]
    assert hit.headers["accept-language"] == "de"
    assert (hit.headers["x-own"], hit.headers["x-session"]) == ("f", "s")
    assert hit.headers["x-both"] == "request"
    assert server.hits[1].headers["user-agent"] == "you"


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(b"page " * 500, mtime=0)),
        ("deflate", zlib.compress(b"page " * 500)),
        ("identity", b"page " * 500),
    ],
)
async def test_the_body_is_decoded(
    server: Server, fetcher: AiohttpFetcher, session: Session, coding: str, body: bytes
) -> None:
    server.answers["/"] = http(body, "200 OK", f"Content-Encoding: {coding}")
    response = await fetcher.fetch(private(server.url("/")), session)
    assert response.body == b"page " * 500


async def test_bodies_in_every_framing_are_read_whole(
    server: Server, fetcher: AiohttpFetcher, session: Session
) -> None:
    async def dribble(writer: asyncio.StreamWriter) -> None:
        writer.write(http(b"", "200 OK", "Transfer-Encoding: chunked", length=False))
        for _ in range(20):
            writer.write(b"3\r\nabc\r\n")
            await writer.drain()
            await asyncio.sleep(0.001)
        writer.write(b"0\r\n\r\n")

    server.answers["/chunked"] = dribble
    server.answers["/to-the-end"] = then_close(http(b"x" * 60_000, length=False))
    server.answers["/empty"] = http(b"", "204 No Content", length=False)
    for path, body in (("/chunked", b"abc" * 20), ("/to-the-end", b"x" * 60_000), ("/empty", b"")):
        assert (await fetcher.fetch(private(server.url(path)), session)).body == body
    head = await fetcher.fetch(private(server.url("/missing"), method="HEAD"), session)
    assert (head.status, head.body) == (404, b"")


# -- cookies ----------------------------------------------------------------------------------


async def test_cookies_are_kept_by_the_session_over_every_hop(
    server: Server, fetcher: AiohttpFetcher, session: Session
) -> None:
    server.answers["/login"] = redirect("/step", "302 Found", "Set-Cookie: a=1", "Set-Cookie: b=2")
    server.answers["/step"] = redirect("/home", "302 Found", "Set-Cookie: c=3; Path=/")
    server.answers["/home"] = http(b"hi", "200 OK", "Set-Cookie: d=4; Secure")
    await fetcher.fetch(private(server.url("/login")), session)
    assert [hit.headers.get("cookie") for hit in server.hits] == [None, "a=1; b=2", "a=1; b=2; c=3"]
    other = Session("other", Clock())
    await fetcher.fetch(private(server.url("/home")), other)
    assert "cookie" not in server.hits[-1].headers
    await fetcher.fetch(private(server.url("/home"), headers={"cookie": "own=5"}), session)
    assert server.hits[-1].headers["cookie"] == "a=1; b=2; c=3; own=5"


# -- redirects --------------------------------------------------------------------------------


async def test_the_list_that_cookies_need_is_read_beside_the_event_loop(
    server: Server, fetcher: AiohttpFetcher, session: Session
) -> None:
    readers = []
    server.answers["/"] = http(b"", "200 OK", "Set-Cookie: a=b; Domain=127.0.0.1")
    with pytest.MonkeyPatch.context() as patch:
        urls._suffixes.cache_clear()
        read = urls._suffixes

        @lru_cache(maxsize=1)
        def suffixes() -> object:
            readers.append(threading.current_thread())
            return read()

        patch.setattr(urls, "_suffixes", suffixes)
        for _ in range(2):
            await fetcher.fetch(private(server.url("/")), session)
    assert len(readers) == 1
    assert readers[0] is not threading.main_thread()
    assert session.cookie_header(server.url("/")) == "a=b"


async def test_what_takes_long_to_import_is_imported_beside_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "takes_long.py").write_text("import threading\nreader = threading.current_thread()")
    monkeypatch.syspath_prepend(tmp_path)
    await importing.load("takes_long")
    import takes_long  # type: ignore[import-not-found]

    assert takes_long.reader is not threading.main_thread()
    await importing.load("takes_long")
    with pytest.raises(ImportError):
        await importing.load("there_is_no_such_module")


async def test_redirects_are_followed_and_told(
    server: Server, fetcher: AiohttpFetcher, session: Session
) -> None:
    server.answers["/a"] = redirect("b/./c?x#part", "301 Moved Permanently")
    server.answers["/b/c?x"] = redirect(server.url("/d"), "307 Temporary Redirect")
    server.answers["/d"] = redirect("../e", "308 Permanent Redirect")
    server.answers["/e"] = http(b"here")
    response = await fetcher.fetch(private(server.url("/a")), session)
    assert (response.url, response.body) == (server.url("/e"), b"here")
    assert response.redirects == tuple(map(server.url, ("/a", "/b/c?x", "/d")))


@pytest.mark.parametrize("raw", [b"/caf\xc3\xa9", b"/caf\xe9"])
async def test_a_location_in_raw_bytes_is_asked_for_as_browsers_do(
    server: Server, fetcher: AiohttpFetcher, session: Session, raw: bytes
) -> None:
    server.answers["/"] = http(b"", "302 Found", "Location: PLACE").replace(b"PLACE", raw)
    await fetcher.fetch(private(server.url("/")), session)
    assert server.hits[1].target == "/caf%C3%A9" if b"\xc3" in raw else "/caf%E9"


@pytest.mark.parametrize(
    ("status", "method", "becomes"),
    [
        ("301", "GET", "GET"),
        ("301", "POST", "GET"),
        ("302", "POST", "GET"),
        ("302", "PUT", "PUT"),
        ("303", "POST", "GET"),
        ("303", "PUT", "GET"),
        ("303", "HEAD", "HEAD"),
        ("307", "POST", "POST"),
        ("308", "POST", "POST"),
    ],
)
async def test_method_and_body_change_as_the_fetch_standard_has_it(
    server: Server,
    fetcher: AiohttpFetcher,
    session: Session,
    status: str,
    method: str,
    becomes: str,
) -> None:
    server.answers["/a"] = redirect("/b", f"{status} Moved")
    body = b"x=1" if method in ("POST", "PUT") else None
    request = private(
        server.url("/a"), method=method, body=body, headers={"Content-Type": "text/x", "X-K": "1"}
    )
    await fetcher.fetch(request, session)
    hit = server.hits[1]
    is_kept = method == becomes
    assert hit.method == becomes
    assert hit.body == ((body or b"") if is_kept else b"")
    assert ("content-type" in hit.headers) == is_kept
    assert hit.headers["x-k"] == "1"


async def test_nothing_secret_goes_along_to_another_origin_or_back(
    server: Server, session: Session
) -> None:
    other = server.url("/b", host="localhost")
    server.answers["/a"] = redirect(other)
    server.answers["/b"] = redirect(server.url("/c"))
    session.headers.update({"X-Session-Key": "k", "Accept-Language": "de"})
    session.cookies.set("login", "1", domain="127.0.0.1")
    secret = {"Authorization": "Bearer x", "Cookie": "own=1", "X-Api-Key": "k", "Accept": "a/b"}
    async with opened(headers={"X-Crawl-Key": "k"}) as fetcher:
        await fetcher.fetch(private(server.url("/a"), headers=secret), session)
    first, second, third = (hit.headers for hit in server.hits)
    secrets = ("authorization", "x-api-key", "x-session-key", "x-crawl-key")
    assert all(name in first for name in secrets)
    assert first["cookie"] == "login=1; own=1"
    for later in (second, third):
        assert not any(name in later for name in secrets)
        assert (later["accept"], later["accept-language"]) == ("a/b", "de")
    assert "cookie" not in second
    assert third["cookie"] == "login=1"  # the jar knows where its cookies belong


async def test_a_redirect_that_may_not_be_followed_is_not(
    server: Server, fetcher: AiohttpFetcher, session: Session
) -> None:
    asked: list[tuple[str, str]] = []

    async def may_follow(from_url: str, to_url: str, is_private: bool) -> str | None:
        asked.append((from_url, to_url))
        return "scope" if to_url.endswith("/out") else None

    server.answers["/a"] = redirect("/b")
    server.answers["/b"] = redirect("/out")
    error = await error_of(fetcher, server.url("/a"), session, may_follow=may_follow)
    assert isinstance(error, RedirectError)
    assert str(error) == f"redirected to {server.url('/out')}, which is not followed: scope"
    assert not error.retryable
    assert asked == [(server.url(a), server.url(b)) for a, b in (("/a", "/b"), ("/b", "/out"))]
    assert [hit.target for hit in server.hits] == ["/a", "/b"]


@pytest.mark.parametrize("raised", [RobotsError("later"), TimeoutError("mine"), KeyError("bug")])
async def test_what_is_raised_while_a_redirect_is_asked_about_is_raised_as_it_is(
    server: Server, fetcher: AiohttpFetcher, session: Session, raised: Exception
) -> None:
    async def may_follow(from_url: str, to_url: str, is_private: bool) -> str | None:
        raise raised

    server.answers["/"] = redirect("/b")
    with pytest.raises(type(raised)) as caught:
        await fetcher.fetch(private(server.url("/")), session, may_follow=may_follow)
    assert caught.value is raised


@pytest.mark.parametrize(
    "place",
    [
        "file:///etc/passwd",
        "ftp://h/",
        "javascript:alert(1)",
        "http://h:99999/",
        "http://[::1/",
        "//",
    ],
)
async def test_a_redirect_to_what_is_no_web_page_is_an_error(
    server: Server, fetcher: AiohttpFetcher, session: Session, place: str
) -> None:
    server.answers["/"] = redirect(place)
    error = await error_of(fetcher, server.url("/"), session)
    assert isinstance(error, RedirectError)
    assert repr(place) in str(error)


async def test_a_redirect_loop_ends(
    server: Server, fetcher: AiohttpFetcher, session: Session
) -> None:
    server.answers["/"] = redirect("/")
    error = await error_of(fetcher, server.url("/"), session)
    assert isinstance(error, RedirectError)
    assert "more than 5 redirects" in str(error)
    assert len(server.hits) == 6


async def test_a_redirect_status_without_a_place_is_a_page(
    server: Server, fetcher: AiohttpFetcher, session: Session
) -> None:
    server.answers["/"] = http(b"choose", "302 Found")
    response = await fetcher.fetch(private(server.url("/")), session)
    assert (response.status, response.body) == (302, b"choose")
    assert failure_of(response) is None


# -- limits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [99_999, 100_000])
async def test_a_body_up_to_the_limit_is_read(
    server: Server, fetcher: AiohttpFetcher, session: Session, size: int
) -> None:
    server.answers["/"] = http(b"x" * size)
    assert len((await fetcher.fetch(private(server.url("/")), session)).body) == size


@pytest.mark.parametrize("kind", ["one write", "endless", "bomb"])
async def test_a_body_over_the_limit_is_refused_and_not_tried_again(
    server: Server, fetcher: AiohttpFetcher, session: Session, kind: str
) -> None:
    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(http(b"", length=False))
        while True:
            writer.write(b"x" * 10_000)
            await writer.drain()

    answers: dict[str, Answer] = {
        "one write": http(b"x" * 100_001),
        "endless": endless,
        "bomb": http(gzip.compress(bytes(50_000_000)), "200 OK", "Content-Encoding: gzip"),
    }
    server.answers["/"] = answers[kind]
    error = await error_of(fetcher, server.url("/"), session)
    assert isinstance(error, LimitError)
    assert "longer than 100000 bytes" in str(error)
    assert not error.retryable


@pytest.mark.parametrize(
    "headers",
    [
        ["X: " + "a" * 9_000],
        ["X: " + "a" * 3_000, "Y: " + "a" * 3_000, "Z: " + "a" * 3_000],
        [f"X{number}: a" for number in range(100_000)],
    ],
    ids=["long", "together", "many"],
)
async def test_headers_over_the_limit_are_refused(
    server: Server, fetcher: AiohttpFetcher, session: Session, headers: list[str]
) -> None:
    server.answers["/"] = http(b"", "200 OK", *headers)
    error = await error_of(fetcher, server.url("/"), session)
    assert isinstance(error, LimitError)


async def silence(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(30)


async def silence_after_headers(writer: asyncio.StreamWriter) -> None:
    writer.write(http(b"", "200 OK", "Content-Length: 10", length=False))
    await asyncio.sleep(30)


async def drip(writer: asyncio.StreamWriter) -> None:
    writer.write(http(b"", "200 OK", "Content-Length: 1000", length=False))
    while True:
        writer.write(b"x")
        await asyncio.sleep(0.1)


async def endless_1xx(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"HTTP/1.1 102 Processing\r\n\r\n")
        await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("answer", "deadline", "message"),
    [
        (silence, LIMITS.idle, "sent nothing for 0.4 s"),
        (silence_after_headers, LIMITS.idle, "sent nothing for 0.4 s"),
        (drip, LIMITS.total, "took longer than 1 s"),
        (endless_1xx, LIMITS.total, "took longer than 1 s"),
    ],
)
async def test_a_server_that_is_slow_is_left_in_time(
    server: Server,
    fetcher: AiohttpFetcher,
    session: Session,
    answer: Answer,
    deadline: float,
    message: str,
) -> None:
    server.answers["/"] = answer
    took = Stopwatch()
    error = await error_of(fetcher, server.url("/"), session)
    assert isinstance(error, FetchTimeoutError)
    assert message in str(error)
    assert error.retryable
    assert deadline * 0.9 < took.elapsed
    assert took.seconds < deadline * 1.2 + 0.1
    # It was no cancellation: the task goes on as if nothing had been.
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_the_time_for_a_request_counts_over_its_redirects(
    server: Server, fetcher: AiohttpFetcher, session: Session
) -> None:
    async def slow(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.3)
        writer.write(redirect("/"))

    server.answers["/"] = slow
    took = Stopwatch()
    error = await error_of(fetcher, server.url("/"), session)
    assert isinstance(error, FetchTimeoutError)
    assert took.seconds < 1.3


async def test_many_slow_requests_end_each_in_its_time(
    server: Server, fetcher: AiohttpFetcher, session: Session
) -> None:
    server.answers["/"] = drip
    server.answers["/fast"] = http(b"x")

    async def one(wait: float, path: str) -> tuple[str, float, float]:
        await asyncio.sleep(wait)
        took = Stopwatch()
        if path == "/fast":
            await fetcher.fetch(private(server.url(path)), session)
        else:
            await error_of(fetcher, server.url(path), session)
        return path, took.elapsed, took.seconds

    waits = [0.0, 0.2, 0.4]
    times = await asyncio.gather(
        *(one(wait, path) for wait in waits for path in ("/", "/fast", "/"))
    )
    slow = [(elapsed, seconds) for path, elapsed, seconds in times if path == "/"]
    assert len(slow) == 6
    assert all(elapsed > 0.9 and seconds < 1.2 for elapsed, seconds in slow)


async def test_a_cancelled_fetch_is_cancelled_and_no_error(
    server: Server, fetcher: AiohttpFetcher, session: Session
) -> None:
    server.answers["/"] = silence
    task = asyncio.create_task(fetcher.fetch(private(server.url("/")), session))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# -- what goes wrong --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (then_close(b""), "closed the connection without a response"),
        (then_close(b"HTTP/1.1 200 OK\r\nContent-Le"), "closed the connection without a response"),
        (then_close(http(b"abc", "200 OK", "Content-Length: 9", length=False)), "broke off: Not"),
        (
            then_close(http(b"9\r\nabc", "200 OK", "Transfer-Encoding: chunked", length=False)),
            "broke off",
        ),
        (
            http(b"zz\r\nabc", "200 OK", "Transfer-Encoding: chunked", length=False),
            "malformed chunks",
        ),
        (http(b"abc", "200 OK", "Content-Encoding: gzip"), "is not gzip, as it says: Error -3"),
        (
            http(b"abc", "200 OK", "Content-Length: 3", "Transfer-Encoding: chunked"),
            "malformed HTTP",
        ),
        (http(b"abc", "200 OK", "Content-Length: x", length=False), "malformed HTTP"),
        (http(b"", "200 OK", "X: a\x00b"), "malformed HTTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "malformed HTTP: Bad status line"),
    ],
)
async def test_a_broken_answer_is_a_network_error_that_says_what_is_broken(
    server: Server, fetcher: AiohttpFetcher, session: Session, answer: Answer, message: str
) -> None:
    server.answers["/"] = answer
    error = await error_of(fetcher, server.url("/"), session)
    assert isinstance(error, NetworkError)
    assert message in str(error)
    assert f"127.0.0.1:{server.port}" in str(error)
    assert error.retryable


async def test_chunks_that_break_after_a_good_start_end_in_time(
    server: Server, fetcher: AiohttpFetcher, session: Session
) -> None:
    """aiohttp 3.14 leaves the reader of such a body waiting; the limit of time ends it."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(http(b"3\r\nabc\r\n", "200 OK", "Transfer-Encoding: chunked", length=False))
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(b"zz\r\n")
        await asyncio.sleep(30)

    server.answers["/"] = answer
    took = Stopwatch()
    error = await error_of(fetcher, server.url("/"), session)
    assert isinstance(error, NetworkError | FetchTimeoutError)
    assert took.seconds < LIMITS.total * 1.2


async def test_a_reset_is_a_network_error(
    server: Server, fetcher: AiohttpFetcher, session: Session
) -> None:
    async def reset(writer: asyncio.StreamWriter) -> None:
        writer.write(http(b"abc", "200 OK", "Content-Length: 10", length=False))
        await writer.drain()
        writer.transport.abort()

    server.answers["/"] = reset
    assert isinstance(await error_of(fetcher, server.url("/"), session), NetworkError)


async def test_a_closed_port_is_said_in_plain_words(
    fetcher: AiohttpFetcher, session: Session
) -> None:
    error = await error_of(fetcher, "http://127.0.0.1:1/", session)
    assert isinstance(error, NetworkError)
    assert str(error).startswith("no connection to 127.0.0.1:1: Connect")


async def test_a_name_without_an_address_is_said_in_plain_words(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def resolve(*args: object, **options: object) -> list[object]:
        raise OSError(None, "Name or service not known")

    monkeypatch.setattr("aiohttp.resolver.DefaultResolver.resolve", resolve)
    async with opened() as fetcher:
        error = await error_of(fetcher, "http://nowhere.invalid/", session)
    assert isinstance(error, NetworkError)
    assert str(error) == "no address for nowhere.invalid: Name or service not known"


async def test_tls_that_fails_is_said_in_plain_words(
    fetcher: AiohttpFetcher, session: Session
) -> None:
    def talk_plainly(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(http(b"", "400 Bad Request"))
        writer.close()

    listener = await asyncio.start_server(talk_plainly, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    error = await error_of(fetcher, f"https://127.0.0.1:{port}/", session)
    listener.close()
    assert isinstance(error, NetworkError)
    assert str(error).startswith(f"no TLS with 127.0.0.1:{port}: [SSL: WRONG_VERSION_NUMBER]")


async def test_a_certificate_is_checked_unless_it_is_trusted_or_nobody_cares(
    session: Session, tmp_path: Path
) -> None:
    file = tmp_path / "certificate.pem"
    file.write_text(CERTIFICATE)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(file)
    async with running(tls) as server:
        server.answers["/"] = http(b"secret")
        url = server.url("/", scheme="https")
        async with opened() as fetcher:
            error = await error_of(fetcher, url, session)
            assert isinstance(error, NetworkError)
            assert "certificate" in str(error)
        for trust in (ssl.create_default_context(cafile=file), False):
            async with opened(tls=trust) as fetcher:
                assert (await fetcher.fetch(private(url), session)).body == b"secret"


@pytest.mark.parametrize(
    "request_",
    [
        {"headers": {"X-A": "1\r\nX-B: 2"}},
        {"headers": {"X A": "1\n"}},
        {"method": "GET / HTTP/1.1\r\nX: y\r\n\r\nGET"},
        {"headers": {"X-A": 1}},
    ],
)
async def test_a_request_that_http_cannot_express_is_refused_before_it_is_sent(
    server: Server, fetcher: AiohttpFetcher, session: Session, request_: dict[str, object]
) -> None:
    with pytest.raises(UsageError, match="cannot be asked for"):
        await fetcher.fetch(private(server.url("/"), **request_), session)
    assert server.hits == []


async def test_a_fetcher_that_is_not_open_says_so(session: Session) -> None:
    with pytest.raises(UsageError, match="await its open"):
        await AiohttpFetcher().fetch(private("http://127.0.0.1/"), session)


# -- proxies ----------------------------------------------------------------------------------


async def test_a_session_goes_through_its_proxy(
    server: Server, fetcher: AiohttpFetcher, session: Session
) -> None:
    server.answers["http://shop.example/x?y"] = http(b"by proxy")
    session.proxy = f"http://user:secret@127.0.0.1:{server.port}"
    response = await fetcher.fetch(private("http://shop.example/x?y"), session)
    assert response.body == b"by proxy"
    assert server.hits[0].headers["host"] == "shop.example"
    assert server.hits[0].headers["proxy-authorization"] == "Basic dXNlcjpzZWNyZXQ="


async def test_what_a_proxy_does_wrong_is_its_own_and_its_password_is_not_told(
    server: Server, fetcher: AiohttpFetcher, session: Session
) -> None:
    session.proxy = "http://user:secret@127.0.0.1:1"
    error = await error_of(fetcher, "http://shop.example/", session)
    assert isinstance(error, NetworkError)
    assert str(error).startswith("no connection to the proxy 127.0.0.1:1: ")
    server.answers["shop.example:443"] = http(b"", "403 Forbidden")
    session.proxy = f"http://user:secret@127.0.0.1:{server.port}"
    error = await error_of(fetcher, "https://shop.example/", session)
    assert str(error) == f"the proxy 127.0.0.1:{server.port} refuses: 403 Forbidden"


async def test_a_socks_proxy_without_its_extra_says_what_to_install(
    fetcher: AiohttpFetcher, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp_socks", None)
    session.proxy = "socks5://127.0.0.1:1"
    with pytest.raises(UsageError, match=r"pip install 'crawlkit\[socks\]'"):
        await fetcher.fetch(Request("http://shop.example/"), session)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_cannot_be_reached_in_time_is_to_blame_and_one_that_can_is_not(
    session: Session, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def never(*args: object) -> None:
        await asyncio.sleep(30)

    listener = await asyncio.start_server(silence, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    session.proxy = f"http://me:secret@127.0.0.1:{port}"
    async with opened() as fetcher:
        error = await error_of(fetcher, f"{scheme}://shop.example/", session)
        assert type(error) is FetchTimeoutError
        monkeypatch.setattr(type(asyncio.get_running_loop()), "sock_connect", never)
        took = Stopwatch()
        error = await error_of(fetcher, f"{scheme}://shop.example/", session)
    assert type(error) is ProxyError
    assert error.proxy == f"127.0.0.1:{port}"
    assert took.seconds < LIMITS.idle * 1.2 + 0.1
    listener.close()


# -- credentials and the cache ----------------------------------------------------------------


async def test_a_site_that_asks_who_is_there_is_answered_and_not_asked_twice_again(
    server: Server, session: Session
) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        is_known = server.hits[-1].headers.get("authorization") == "Basic bWU6c2VjcmV0"
        refusal = http(b"who?", "401 Unauthorized", 'WWW-Authenticate: Basic realm="r"')
        writer.write(http(b"welcome") if is_known else refusal)

    server.answers["/"] = answer
    credentials = Credentials({server.url(""): ("me", "secret")})
    async with opened(credentials=credentials) as fetcher:
        for _ in range(2):
            response = await fetcher.fetch(private(server.url("/")), session)
            assert (response.status, response.body) == (200, b"welcome")
        assert len(server.hits) == 3
        other = await fetcher.fetch(private(server.url("/", host="localhost")), session)
        assert other.status == 401
        own = private(server.url("/"), headers={"Authorization": "Bearer own"})
        assert (await fetcher.fetch(own, session)).status == 401
    assert server.hits[-1].headers["authorization"] == "Bearer own"


class Cache:
    """A cache that keeps everything, and says what it was asked for."""

    def __init__(self) -> None:
        self.kept: dict[str, Response] = {}
        self.asked: list[tuple[str, str]] = []

    async def exchange(
        self,
        request: Request,
        hop: Hop,
        send: Callable[[Hop], Awaitable[Response]],
        *,
        cookies: Callable[[str], str],
    ) -> Response:
        assert cookies(hop.url) == "a=1"  # as the site would be told
        self.asked.append((request.url, hop.url))
        if hop.url not in self.kept:
            self.kept[hop.url] = await send(hop)
        return self.kept[hop.url]


async def test_every_hop_goes_through_the_cache_and_redirects_from_it_are_followed(
    server: Server, session: Session
) -> None:
    server.answers["/a"] = redirect("/b")
    server.answers["/b"] = http(b"here")
    cache = Cache()
    a, b = map(server.url, ("/a", "/b"))
    session.cookies.set("a", "1", domain="127.0.0.1")
    async with opened(cache=cache) as fetcher:
        for _ in range(2):
            response = await fetcher.fetch(private(a), session)
            assert (response.url, response.body, response.redirects) == (b, b"here", (a,))
        assert cache.asked == [(a, a), (a, b)] * 2
        assert len(server.hits) == 2
        # What a private site once said is not for pages of the web.
        with pytest.raises(PrivateAddressError):
            await fetcher.fetch(Request(b), session)


async def test_a_request_may_have_other_limits(
    server: Server, fetcher: AiohttpFetcher, session: Session
) -> None:
    server.answers["/"] = silence
    server.answers["/large"] = http(b"x" * 200_000)
    server.answers["/headers"] = http(b"", "200 OK", "X: " + "a" * 20_000)
    larger = Limits(idle=0.1, total=0.5, body=300_000, headers=64_000)
    took = Stopwatch()
    error = await error_of(fetcher, server.url("/"), session, limits=larger)
    assert str(error).endswith("sent nothing for 0.1 s")
    assert took.seconds < 0.3
    for path, size in (("/large", 200_000), ("/headers", 0)):
        response = await fetcher.fetch(private(server.url(path)), session, limits=larger)
        assert len(response.body) == size
        assert isinstance(await error_of(fetcher, server.url(path), session), LimitError)


# -- what a response means --------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 204, 206, 300, 304, 302])
def test_a_page_is_no_failure(status: int) -> None:
    assert failure_of(Response(url="http://a.example/", status=status)) is None


@pytest.mark.parametrize(
    ("status", "kind", "retryable", "message"),
    [
        (401, BlockedError, True, "HTTP 401 Unauthorized from a.example"),
        (403, BlockedError, True, "HTTP 403 Forbidden from a.example"),
        (429, BlockedError, True, "HTTP 429 Too Many Requests from a.example"),
        (404, StatusError, False, "HTTP 404 Not Found from a.example"),
        (410, StatusError, False, "HTTP 410 Gone from a.example"),
        (408, StatusError, True, "HTTP 408 Request Timeout from a.example"),
        (500, StatusError, True, "HTTP 500 Internal Server Error from a.example"),
        (503, StatusError, True, "HTTP 503 Service Unavailable from a.example"),
        (999, StatusError, True, "HTTP 999 from a.example"),
        (101, StatusError, False, "HTTP 101 Switching Protocols from a.example"),
    ],
)
def test_a_failure_tells_whether_to_try_again_and_with_whom(
    status: int, kind: type[FetchError], retryable: bool, message: str
) -> None:
    error = failure_of(Response(url="http://a.example/x", status=status))
    assert type(error) is kind
    assert error.retryable is retryable
    assert str(error) == message


NOW = 784111777.0  # Sun, 06 Nov 1994 08:49:37 GMT


@pytest.mark.parametrize(
    ("value", "date", "expected"),
    [
        ("120", None, 120.0),
        (" 0 ", None, 0.0),
        ("3601", None, 3600.0),
        ("9" * 10_000, None, 3600.0),
        ("Sun, 06 Nov 1994 08:50:37 GMT", None, 60.0),
        ("Sunday, 06-Nov-94 08:50:37 GMT", None, 60.0),
        ("Sun Nov  6 08:50:37 1994", None, 60.0),
        ("Sun, 06 Nov 1994 08:49:07 GMT", None, 0.0),
        ("Mon, 06 Nov 2094 08:49:07 GMT", None, 3600.0),
        # The server's clock is an hour behind ours, and means its own.
        ("Sun, 06 Nov 1994 07:50:37 GMT", "Sun, 06 Nov 1994 07:49:37 GMT", 60.0),
        ("Sun, 06 Nov 1994 08:50:37 GMT", "nonsense", 60.0),
        ("-5", None, None),
        ("1.5", None, None),
        ("soon", None, None),
        ("²", None, None),
        ("", None, None),
    ],
)
def test_retry_after_is_read_in_both_forms_and_garbage_is_none(
    value: str, date: str | None, expected: float | None
) -> None:
    headers = {"retry-after": value} | ({"date": date} if date else {})
    response = Response(url="http://a.example/", status=503, headers=headers)
    assert retry_after(response.headers, NOW) == expected
    assert retry_after(Response(url="http://a.example/").headers, NOW) is None

"""httpbin, which others wrote to try HTTP clients with, in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from crawlkit import Crawler, Page, Request, Response
from crawlkit.cache import PageCache
from crawlkit.clock import Clock
from crawlkit.errors import (
    BlockedError,
    FetchError,
    FetchTimeoutError,
    LimitError,
    RedirectError,
    StatusError,
)
from crawlkit.fetching import AiohttpFetcher, Limits
from crawlkit.http.answers import failure_of
from crawlkit.http.credentials import Credentials
from crawlkit.sessions import Session

from .stopwatch import Stopwatch

# It ends with its standard input, so also where the tests are killed.
SERVER = """
import os, sys, threading
from werkzeug.serving import WSGIRequestHandler, make_server
from httpbin import app

WSGIRequestHandler.protocol_version = "HTTP/1.1"
WSGIRequestHandler.log_request = lambda *args, **options: None
server = make_server("127.0.0.1", 0, app, threaded=True)
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
print(server.port, flush=True)
server.serve_forever()
"""

USER, PASSWORD = "ann", "secret"


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    """Where httpbin is."""
    if importlib.util.find_spec("httpbin") is None:
        pytest.skip("needs httpbin: pip install 'crawlkit[test]'")
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdin is not None
        port = process.stdout.readline().strip()
        assert port, "httpbin does not start"
        yield f"http://127.0.0.1:{port}"
        process.stdin.close()


class Client:
    """A fetcher with a session, and where it goes."""

    def __init__(self, origin: str, fetcher: AiohttpFetcher) -> None:
        self.origin = origin
        self.fetcher = fetcher
        self.session = Session("x", Clock())

    async def get(self, path: str, limits: Limits | None = None, **options: Any) -> Response:
        request = Request(self.origin + path, private=True, **options)
        return await self.fetcher.fetch(request, self.session, limits=limits)

    async def json(self, path: str, **options: Any) -> Any:
        response = await self.get(path, **options)
        assert response.status == 200
        return json.loads(response.body)


@pytest.fixture
async def client(origin: str) -> AsyncIterator[Client]:
    fetcher = AiohttpFetcher(credentials=Credentials({origin: (USER, PASSWORD)}))
    await fetcher.open()
    yield Client(origin, fetcher)
    await fetcher.close()


# -- redirects --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["redirect", "relative-redirect", "absolute-redirect"])
async def test_redirects_are_followed_and_told(client: Client, kind: str) -> None:
    response = await client.get(f"/{kind}/5")
    assert response.status == 200
    assert response.url == f"{client.origin}/get"
    assert len(response.redirects) == 5
    assert response.redirects[0] == f"{client.origin}/{kind}/5"


async def test_more_redirects_than_the_limit_are_an_error(client: Client) -> None:
    with pytest.raises(RedirectError, match="more than 20 redirects"):
        await client.get("/redirect/21")


@pytest.mark.parametrize(
    ("status", "method", "then"),
    [
        (301, "GET", "GET"),
        (302, "GET", "GET"),
        (303, "GET", "GET"),
        (307, "GET", "GET"),
        (308, "GET", "GET"),
        (301, "POST", "GET"),
        (302, "POST", "GET"),
        (303, "POST", "GET"),
        (307, "POST", "POST"),
        (308, "POST", "POST"),
        (301, "PUT", "PUT"),
        (302, "PATCH", "PATCH"),
        (303, "PUT", "GET"),
        (303, "DELETE", "GET"),
        (307, "DELETE", "DELETE"),
    ],
)
async def test_method_and_body_after_a_redirect_are_those_of_the_fetch_standard(
    client: Client, status: int, method: str, then: str
) -> None:
    body = None if method == "GET" else b"a=1"
    said = await client.json(
        f"/redirect-to?url=/anything&status_code={status}",
        method=method,
        body=body,
        headers={"Content-Type": "text/plain"} if body else {},
    )
    assert said["method"] == then
    assert said["data"] == ("a=1" if then == method and body else "")
    assert ("Content-Type" in said["headers"]) == bool(body and then == method)


async def test_secrets_do_not_go_along_to_another_origin(client: Client) -> None:
    headers = {"X-Token": "t", "Authorization": "Bearer t", "Accept-Language": "de"}
    said = await client.json("/redirect-to?url=/headers", headers=headers)
    assert headers.items() <= said["headers"].items()
    # The same server by its other name is another origin.
    elsewhere = client.origin.replace("127.0.0.1", "localhost") + "/headers"
    said = await client.json(f"/redirect-to?url={quote(elsewhere, safe='')}", headers=headers)
    assert said["headers"]["Host"].startswith("localhost:")
    assert said["headers"]["Accept-Language"] == "de"
    assert not {"X-Token", "Authorization"} & said["headers"].keys()


@pytest.mark.parametrize("target", ["file:///etc/passwd", "javascript:alert(1)", "http://a:25/"])
async def test_a_redirect_to_what_is_no_web_page_is_an_error(client: Client, target: str) -> None:
    with pytest.raises(RedirectError):
        await client.get(f"/redirect-to?url={quote(target, safe='')}")


# -- cookies ----------------------------------------------------------------------------------


async def test_cookies_belong_to_a_session_and_can_be_deleted(client: Client) -> None:
    said = await client.json("/cookies/set/login/one%20two")
    assert said == {"cookies": {"login": "one two"}}
    said = await client.json("/cookies/set?a=1&b=2")
    assert said == {"cookies": {"login": "one two", "a": "1", "b": "2"}}
    said = await client.json("/cookies/delete?a=&login=")
    assert said == {"cookies": {"b": "2"}}
    client.session = Session("y", Clock())
    assert await client.json("/cookies") == {"cookies": {}}


# -- bodies -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "flag"), [("/gzip", "gzipped"), ("/deflate", "deflated"), ("/brotli", "brotli")]
)
async def test_compressed_bodies_are_decoded(client: Client, path: str, flag: str) -> None:
    response = await client.get(path)
    assert json.loads(response.body)[flag] is True


async def test_text_is_read_in_its_encoding(client: Client) -> None:
    response = await client.get("/encoding/utf8")
    for line in ("∮ E⋅da = Q,  n → ∞", "⎪⎢⎜│a²+b³ ⎟⎥⎪", "the euro symbol: │ 14.95 € │"):
        assert line in response.text
    assert response.encoding == "utf-8"
    assert isinstance((await client.get("/image/png")).text, str)


async def test_a_body_that_is_streamed_arrives_whole(client: Client) -> None:
    bodies = [
        (await client.get(f"/stream-bytes/5000?seed=7&chunk_size={size}")).body
        for size in (11, 1000, 5000)
    ]
    assert len(bodies[0]) == 5000
    assert len(set(bodies)) == 1
    lines = (await client.get("/stream/20")).body.splitlines()
    assert [json.loads(line)["id"] for line in lines] == list(range(20))


async def test_a_body_longer_than_the_limit_is_an_error_or_is_cut(client: Client) -> None:
    for path in ("/range/5000", "/stream-bytes/5000"):
        with pytest.raises(LimitError):
            await client.get(path, Limits(body=4999))
        cut = await client.get(path, Limits(body=4999, truncate=True))
        assert len(cut.body) == 4999
        assert len((await client.get(path, Limits(body=5000))).body) == 5000


async def test_a_part_of_a_body_can_be_asked_for(client: Client) -> None:
    response = await client.get("/range/1000", headers={"Range": "bytes=10-19"})
    assert (response.status, response.body) == (206, b"klmnopqrst")
    assert failure_of(response) is None


async def test_a_header_that_comes_twice_is_there_twice(client: Client) -> None:
    response = await client.get("/response-headers?X-One=a&X-One=b&Link=%3C/next%3E")
    assert response.headers.getall("x-one") == ["a", "b"]
    assert response.headers["LINK"] == "</next>"


async def test_what_has_not_changed_is_not_sent_again(client: Client) -> None:
    first = await client.get("/cache")
    validators = {"If-None-Match": first.headers["ETag"]}
    assert (await client.get("/cache", headers=validators)).status == 304
    assert (await client.get("/etag/abc", headers={"If-None-Match": '"abc"'})).status == 304
    assert (await client.get("/etag/abc", headers={"If-None-Match": '"x"'})).status == 200
    assert (await client.get("/etag/abc", headers={"If-Match": '"x"'})).status == 412


async def test_the_page_cache_asks_only_for_what_may_have_changed(
    origin: str, tmp_path: Path
) -> None:
    cache = PageCache(tmp_path / "cache", mode="http")
    await cache.open()
    fetcher = AiohttpFetcher(cache=cache)
    await fetcher.open()
    client = Client(origin, fetcher)
    try:
        for path, then in (("/cache/60", "hit"), ("/etag/abc", "revalidated"), ("/uuid", "miss")):
            first, second = await client.get(path), await client.get(path)
            assert (first.cache, second.cache) == ("miss", then), path
            assert second.status == 200
            assert (second.body == first.body) == (then != "miss")
    finally:
        await fetcher.close()
        await cache.close()


# -- who is there -----------------------------------------------------------------------------

RIGHT = f"{USER}/{PASSWORD}"
WRONG = f"{USER}/other"


async def test_basic_is_answered_and_then_sent_at_once(client: Client) -> None:
    # This one answers 404 to those whom it does not know, so nobody can know that it asks.
    assert (await client.get(f"/hidden-basic-auth/{RIGHT}")).status == 404
    assert (await client.json(f"/basic-auth/{RIGHT}"))["user"] == USER
    assert (await client.json(f"/hidden-basic-auth/{RIGHT}"))["user"] == USER
    assert "Authorization" in (await client.json("/headers"))["headers"]


@pytest.mark.parametrize("qop", ["auth", "auth-int", "both"])
@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256"])
async def test_digest_is_answered_and_counted(client: Client, qop: str, algorithm: str) -> None:
    for _ in range(3):
        said = await client.json(f"/digest-auth/{qop}/{RIGHT}/{algorithm}")
        assert said == {"authenticated": True, "user": USER}


async def test_a_nonce_that_became_stale_is_replaced(client: Client) -> None:
    for _ in range(6):
        assert (await client.get(f"/digest-auth/auth/{RIGHT}/MD5/1")).status == 200
    # The cookie in which httpbin keeps a nonce that it calls stale.
    assert "last_nonce=" in client.session.cookie_header(client.origin + "/")


@pytest.mark.parametrize(
    "path",
    [
        f"/basic-auth/{WRONG}",
        f"/digest-auth/auth/{WRONG}",
        f"/digest-auth/auth-int/{WRONG}/SHA-256",
    ],
)
async def test_a_wrong_password_is_the_site_refusing_us(client: Client, path: str) -> None:
    for _ in range(2):
        failure = failure_of(await client.get(path))
        assert isinstance(failure, BlockedError)
        assert failure.status == 401


async def test_what_asks_for_something_else_gets_no_password(client: Client) -> None:
    for path in ("/bearer", f"/digest-auth/auth/{RIGHT}/SHA-512"):
        assert (await client.get(path)).status == 401
    assert "Authorization" not in (await client.json("/headers"))["headers"]


async def test_a_header_of_the_request_goes_before_the_credentials(client: Client) -> None:
    said = await client.json("/bearer", headers={"Authorization": "Bearer abc"})
    assert said == {"authenticated": True, "token": "abc"}


# -- statuses and time ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind", "is_retried"),
    [
        (200, None, False),
        (204, None, False),
        (400, StatusError, False),
        (401, BlockedError, True),
        (403, BlockedError, True),
        (404, StatusError, False),
        (408, StatusError, True),
        (410, StatusError, False),
        (418, StatusError, False),
        (429, BlockedError, True),
        (500, StatusError, True),
        (502, StatusError, True),
        (503, StatusError, True),
    ],
)
async def test_a_status_is_a_page_or_an_error_that_says_whether_to_try_again(
    origin: str, client: Client, status: int, kind: type[FetchError] | None, is_retried: bool
) -> None:
    response = await client.get(f"/status/{status}")
    assert response.status == status
    failure = failure_of(response)
    if kind is None:
        assert failure is None
    else:
        assert type(failure) is kind
        assert failure.retryable == is_retried
        assert str(failure).startswith(f"HTTP {status} ")


async def test_a_slow_body_arrives_as_long_as_it_moves(client: Client) -> None:
    response = await client.get("/drip?duration=1&numbytes=10&delay=0", Limits(idle=0.8, total=10))
    assert response.body == b"*" * 10


@pytest.mark.parametrize(
    ("path", "limits", "message"),
    [
        ("/delay/3", Limits(idle=0.3, total=10), "sent nothing for 0.3 s"),
        ("/delay/3", Limits(idle=10, total=0.3), "took longer than 0.3 s"),
        ("/drip?duration=6&numbytes=3", Limits(idle=0.3, total=10), "sent nothing for 0.3 s"),
        ("/drip?duration=3&numbytes=60", Limits(idle=2, total=0.3), "took longer than 0.3 s"),
        ("/redirect-to?url=/delay/3", Limits(idle=10, total=0.3), "took longer than 0.3 s"),
    ],
)
async def test_what_is_too_slow_is_given_up_in_time(
    client: Client, path: str, limits: Limits, message: str
) -> None:
    took = Stopwatch()
    with pytest.raises(FetchTimeoutError, match=message):
        await client.get(path, limits)
    assert took.seconds < 2.0


# -- whole crawls -----------------------------------------------------------------------------


class Links(Crawler):
    async def parse(self, page: Page) -> None:
        page.follow("a")
        page.save({"url": page.url})


async def test_every_page_of_a_site_is_visited_once(origin: str, tmp_path: Path) -> None:
    crawler = Links(start_urls=[f"{origin}/links/20/0"], store=str(tmp_path / "run"))
    statistics = await crawler.crawl()
    assert crawler.exit_code == 0
    assert statistics.requests_finished == statistics.items_saved == 20
    assert statistics.requests_failed == 0


class Mixed(Crawler):
    """Asks for pages that go wrong, and remembers how."""

    max_retries = 1
    concurrency_per_host = 4

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.tries: dict[str, list[str]] = {}
        self.pages: dict[str, str] = {}

    def parse(self, page: Page) -> None:
        self.pages[page.request.url] = page.url

    def on_error(self, request: Request, error: Exception) -> None:
        name = request.url.partition("://")[2].partition("/")[2]
        self.tries.setdefault(name, []).append(type(error).__name__)


async def test_a_crawl_tries_again_what_may_get_better_and_goes_on(
    origin: str, tmp_path: Path
) -> None:
    crawler = Mixed(
        store=str(tmp_path / "run"),
        timeout=1.0,
        start_urls=[
            f"{origin}/{path}"
            for path in (
                "status/404",
                "status/500",
                "status/403",
                "redirect/30",
                "delay/5",
                "redirect/3",
                "gzip",
                "cookies/set/a/b",
            )
        ],
    )
    statistics = await crawler.crawl()
    assert crawler.tries == {
        "status/404": ["StatusError"],
        "status/500": ["StatusError", "StatusError"],
        "status/403": ["BlockedError", "BlockedError"],
        "redirect/30": ["RedirectError"],
        "delay/5": ["FetchTimeoutError", "FetchTimeoutError"],
    }
    assert crawler.pages == {
        f"{origin}/redirect/3": f"{origin}/get",
        f"{origin}/gzip": f"{origin}/gzip",
        f"{origin}/cookies/set/a/b": f"{origin}/cookies",
    }
    assert (statistics.requests_finished, statistics.requests_failed) == (3, 5)
    assert statistics.requests_retried == 3


async def test_a_crawl_logs_in_where_it_is_asked_to(origin: str, tmp_path: Path) -> None:
    crawler = Mixed(
        store=str(tmp_path / "run"),
        auth={origin: (USER, PASSWORD)},
        start_urls=[f"{origin}/basic-auth/{RIGHT}", f"{origin}/digest-auth/auth/{RIGHT}"],
    )
    statistics = await crawler.crawl()
    assert (statistics.requests_finished, crawler.tries) == (2, {})
    # The password is in the URLs of httpbin, so it is the header that must not be kept.
    kept = store_bytes(tmp_path)
    assert b"Authorization" not in kept
    assert b"YW5uOnNlY3JldA" not in kept


def store_bytes(directory: Path) -> bytes:
    return b"".join(file.read_bytes() for file in directory.rglob("*") if file.is_file())

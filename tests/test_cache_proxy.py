"""The cache proxy: a site behind crawlkit's page cache, for outside suites to test."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from crawlkit.cache import PageCache
from crawlkit.listening import listen

from .cache_proxy import CacheProxy


class Origin:
    """A site that answers every request with what was prepared, and counts."""

    def __init__(self) -> None:
        self.asked: list[web.BaseRequest] = []
        self.status = 200
        self.headers: list[tuple[str, str]] = []
        self.is_broken = False
        self.port = 0

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(request)
        if self.is_broken:
            assert request.transport is not None
            request.transport.abort()
        headers = [*self.headers, ("Request-Count", str(len(self.asked)))]
        return web.Response(
            status=self.status, headers=headers, body=b"body" + await request.read()
        )


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    origin = Origin()
    runner = web.ServerRunner(web.Server(origin.answer))
    origin.port = await listen(runner, "127.0.0.1", 0)
    yield origin
    await runner.cleanup()


@pytest.fixture
async def url(origin: Origin, tmp_path: Path) -> AsyncIterator[str]:
    async with PageCache(tmp_path / "cache") as cache:
        proxy = CacheProxy(f"127.0.0.1:{origin.port}", cache)
        port = await proxy.open()
        yield f"http://127.0.0.1:{port}/page?q=1"
        await proxy.close()


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def test_a_fresh_page_is_answered_by_the_cache_with_its_age(
    origin: Origin, url: str, client: aiohttp.ClientSession
) -> None:
    origin.headers = [("Cache-Control", "max-age=60"), ("Age", "5")]
    for expected in ("miss", "hit"):
        async with client.get(url) as response:
            assert (response.status, await response.read()) == (200, b"body")
            assert response.headers["X-Cache"] == expected
            assert response.headers["Request-Count"] == "1"
            assert int(response.headers["Age"]) >= 5
    assert [request.path_qs for request in origin.asked] == ["/page?q=1"]


async def test_a_stale_page_is_confirmed_and_the_client_gets_it_whole(
    origin: Origin, url: str, client: aiohttp.ClientSession
) -> None:
    origin.headers = [("Cache-Control", "no-cache"), ("ETag", '"v1"')]
    async with client.get(url) as response:
        await response.read()
    origin.status = 304
    async with client.get(url) as response:
        assert (response.status, await response.read()) == (200, b"body")
        assert response.headers["X-Cache"] == "revalidated"
    assert origin.asked[-1].headers["If-None-Match"] == '"v1"'


async def test_method_headers_and_body_reach_the_origin_and_a_post_clears_the_page(
    origin: Origin, url: str, client: aiohttp.ClientSession
) -> None:
    origin.headers = [("Cache-Control", "max-age=60")]
    async with client.get(url, headers={"Foo": "1"}) as response:
        await response.read()
    assert origin.asked[-1].headers["Foo"] == "1"
    async with client.post(url, data=b"+more") as response:
        assert await response.read() == b"body+more"
    async with client.get(url) as response:
        assert response.headers["X-Cache"] == "miss"
    assert [request.method for request in origin.asked] == ["GET", "POST", "GET"]


async def test_fields_of_one_connection_stop_at_the_proxy(
    origin: Origin, url: str, client: aiohttp.ClientSession
) -> None:
    origin.headers = [("Connection", "A"), ("A", "1"), ("B", "2"), ("Cache-Control", "max-age=9")]
    for _ in range(2):
        async with client.get(url, headers={"Connection": "X", "X": "1", "Y": "2"}) as response:
            assert "A" not in response.headers
            assert response.headers["B"] == "2"
    assert "X" not in origin.asked[0].headers
    assert origin.asked[0].headers["Y"] == "2"


async def test_an_origin_that_breaks_off_is_a_502_asked_once(
    origin: Origin, url: str, client: aiohttp.ClientSession
) -> None:
    origin.is_broken = True
    async with client.get(url) as response:
        assert response.status == 502
    assert len(origin.asked) == 1


async def test_it_starts_from_the_command_line_and_stops_when_told(
    origin: Origin, client: aiohttp.ClientSession
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.cache_proxy", "--origin", f"127.0.0.1:{origin.port}"),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), 20)).decode()
        async with client.get(line.removeprefix("listening on ").strip()) as response:
            assert await response.read() == b"body"
    finally:
        process.terminate()
    assert await asyncio.wait_for(process.wait(), 20) == 0

"""A loopback proxy in front of a site that answers through crawlkit's page cache, in its HTTP mode.

Any outside suite of tests for HTTP caches can be run against it, as against a private cache::

    python -m tests.cache_proxy --port 8001 --origin 127.0.0.1:8000

It says where it listens on its first line, and ends with Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import tempfile
from pathlib import Path

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from crawlkit.cache import PageCache
from crawlkit.caching.freshness import storable_headers
from crawlkit.errors import NetworkError, one_line
from crawlkit.http.hops import Hop
from crawlkit.http.protocol import Connector
from crawlkit.listening import listen
from crawlkit.request import Request
from crawlkit.response import Response

MAX_BODY = 16 * 2**20
"""Bytes of a request's body."""
_OURS = ("Content-Length", "Host")


class CacheProxy:
    """Answers what it can from the cache, and asks the origin for the rest.

    Args:
        origin: ``host:port`` of the site.
        cache: The page cache, which is open.
    """

    def __init__(self, origin: str, cache: PageCache) -> None:
        self._origin = f"http://{origin}"
        self._cache = cache
        self._client: aiohttp.ClientSession | None = None
        self._runner: web.ServerRunner | None = None

    async def open(self, port: int = 0) -> int:
        """Listen; the port."""
        self._client = aiohttp.ClientSession(
            connector=Connector(force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            # The body goes on as it is, with the Content-Encoding that says what it is.
            auto_decompress=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        )
        # aiohttp asks again where a connection breaks; to the suites that is a fault. There is no
        # public way to tell it not to.
        self._client._retry_connection = False
        self._runner = web.ServerRunner(web.Server(self._answer))
        return await listen(self._runner, "127.0.0.1", port)

    async def close(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()
        if self._client is not None:
            await self._client.close()

    async def _answer(self, asked: web.BaseRequest) -> web.StreamResponse:
        headers = CIMultiDict(storable_headers(asked.headers))
        for name in _OURS:
            headers.popall(name, None)
        url = f"{self._origin}{asked.path_qs}"
        body = await asked.read() or None
        # A body of a GET is no part of what a cache knows a page by.
        request = Request(url, method=asked.method, headers=dict(headers), cache="http")
        hop = Hop(url, asked.method, None, headers, is_private=True)

        async def send(hop: Hop) -> Response:
            return await self._send(hop, body)

        try:
            response = await self._cache.exchange(request, hop, send)
        except NetworkError as error:
            return web.Response(status=502, text=f"{one_line(error)}\n")
        answer = CIMultiDict(storable_headers_of_a_hop(response))
        answer.popall("Content-Length", None)
        answer["X-Cache"] = response.cache or "uncached"
        return web.Response(status=response.status, headers=answer, body=response.body)

    async def _send(self, hop: Hop, body: bytes | None) -> Response:
        assert self._client is not None
        try:
            async with self._client.request(
                hop.method,
                URL(hop.url, encoded=True),
                headers=hop.headers,
                data=body,
                allow_redirects=False,
            ) as answer:
                return Response(
                    url=hop.url,
                    status=answer.status,
                    headers=answer.headers,
                    body=await answer.read(),
                    is_private=True,
                )
        except (aiohttp.ClientError, OSError) as error:
            raise NetworkError(f"the origin failed: {one_line(error)}") from error


def storable_headers_of_a_hop(response: Response) -> list[tuple[str, str]]:
    """A response's fields without those of one connection, and without what that drops besides."""
    fields = CIMultiDict(response.headers)
    control = fields.popall("Cache-Control", [])
    return [*storable_headers(fields), *(("Cache-Control", value) for value in control)]


async def serve(port: int, origin: str, directory: Path) -> None:
    """Listen until told to stop."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with PageCache(directory) as cache:
        proxy = CacheProxy(origin, cache)
        try:
            print(f"listening on http://127.0.0.1:{await proxy.open(port)}", flush=True)
            await stop.wait()
        finally:
            await proxy.close()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.cache_proxy", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="where to listen; 0 for any")
    parser.add_argument("--origin", required=True, metavar="HOST:PORT", help="the site")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="default: a directory for now")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        directory = given.cache or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        asyncio.run(serve(given.port, given.origin, directory))


if __name__ == "__main__":
    main()

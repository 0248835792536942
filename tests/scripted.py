"""A server that answers with the bytes that it is told, right or wrong; a fetcher to meet it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from crawlkit.errors import FetchError
from crawlkit.fetching import AiohttpFetcher
from crawlkit.http.limits import Limits
from crawlkit.request import Request
from crawlkit.sessions import Session

LIMITS = Limits(idle=0.4, total=1.0, body=100_000, headers=8_000, redirects=5)

Answer = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Hit:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Server:
    """A server that answers each path with the bytes that it is told, right or wrong."""

    port: int = 0
    answers: dict[str, Answer] = field(default_factory=dict)
    hits: list[Hit] = field(default_factory=list)
    connections: int = 0

    def url(self, path: str, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                method, target, _ = head[0].split(" ")
                headers = {
                    name.lower(): value
                    for name, _, value in (line.partition(": ") for line in head[1:-2])
                }
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.hits.append(Hit(method, target, headers, body))
                answer = self.answers.get(target, http(b"not here", "404 Not Found"))
                if isinstance(answer, bytes):
                    if method == "HEAD":
                        answer = answer[: answer.index(b"\r\n\r\n") + 4]
                    writer.write(answer)
                    await writer.drain()
                else:
                    await answer(writer)
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


def http(body: bytes = b"", status: str = "200 OK", *headers: str, length: bool = True) -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def redirect(to: str, status: str = "302 Found", *headers: str) -> bytes:
    return http(b"moved", status, f"Location: {to}", *headers)


def then_close(data: bytes) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        writer.close()

    return answer


@asynccontextmanager
async def running(tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    made = Server()
    listener = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=tls)
    made.port = listener.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        listener.close()


@asynccontextmanager
async def opened(**options: object) -> AsyncIterator[AiohttpFetcher]:
    made = AiohttpFetcher(**{"limits": LIMITS, **options})  # type: ignore[arg-type]
    await made.open()
    try:
        yield made
    finally:
        await made.close()


def private(url: str, **fields: Any) -> Request:
    """A request as start requests are: the servers of these tests are on this machine."""
    return Request(url, private=True, **fields)


async def error_of(
    fetcher: AiohttpFetcher, url: str, session: Session, **options: Any
) -> FetchError:
    with pytest.raises(FetchError) as caught:
        await fetcher.fetch(private(url), session, **options)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    assert len(message) < 400
    return caught.value

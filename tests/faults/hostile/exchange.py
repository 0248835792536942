"""Exchange: one request to a hostile server; and the table of how they answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

MB = 2**20
GOOD = b'<h1>good</h1><a href="/good">good</a>'
"""A page that can be read."""


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

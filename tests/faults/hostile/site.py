"""The scripted servers: one port for each behaviour, one for healthy pages, one for a canary.

They are raw asyncio, as no HTTP library would send what they send. Each behaviour is a small
function that gets the request and writes what it likes (`wire`, `pages`). ``python -m
tests.faults.hostile.site hostile`` (or ``healthy``) runs them in a process of their own and prints
their ports as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress

from .exchange import BEHAVIOURS as BEHAVIOURS
from .exchange import OWN_ROBOTS, RAW, Behaviour, Exchange
from .pages import BODIES

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

HEALTHY_PAGES = 24
HEALTHY_DELAY = 0.03


async def _healthy(exchange: Exchange) -> None:
    await asyncio.sleep(HEALTHY_DELAY)
    links = "".join(f'<a href="/{n}">{n}</a>' for n in range(1, HEALTHY_PAGES))
    await exchange.page(f"<h1>healthy</h1>{links}".encode())


async def _canary(exchange: Exchange) -> None:
    """Where nobody should come: it says so on standard error, which the crawl's parent reads."""
    print(f"canary {exchange.path}", file=sys.stderr, flush=True)
    await exchange.page(b"<h1>secret</h1>")


async def _plain(exchange: Exchange) -> None:
    await exchange.page(b"<h1>plain</h1>")


def _server(name: str, act: Behaviour, ports: dict[str, int]) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            if name in RAW:
                await act(Exchange("", "", b"", writer, ports))
                return
            head = await reader.readuntil(b"\r\n\r\n")
            first, *fields = head.split(b"\r\n")
            path = first.split(b" ")[1].decode("latin-1")
            cookies = b"".join(f[7:] for f in fields if f.lower().startswith(b"cookie:"))
            hosts = [f[5:].strip().decode() for f in fields if f.lower().startswith(b"host:")]
            exchange = Exchange(path, hosts[0].partition(":")[0], cookies, writer, ports)
            if path == "/robots.txt" and name not in OWN_ROBOTS:
                await exchange.head("Content-Length: 0", status="404 Not Found")
            else:
                await act(exchange)
        writer.close()

    return serve


def _ports(kind: str) -> Iterator[tuple[str, Behaviour]]:
    if kind == "healthy":
        yield "healthy", _healthy
    else:
        yield "plain", _plain
        yield "canary", _canary
        yield from BEHAVIOURS.items()


async def main(kind: str) -> None:
    ports: dict[str, int] = {}
    servers = []
    for name, act in _ports(kind):
        # What is public in these tests is another address of this machine.
        address = "127.0.0.1" if name == "canary" else "0.0.0.0"
        server = await asyncio.start_server(_server(name, act, ports), address, 0)
        servers.append(server)
        ports[name] = server.sockets[0].getsockname()[1]
    if kind == "hostile":
        for make in BODIES:
            make()
    print(json.dumps(ports), flush=True)
    # It ends when the parent does, whose end of this pipe then closes.
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main(sys.argv[1]))

"""Serves a `Shop` from memory, several times as fast as anybody crawls it.

``python -m tests.bench.server '{"pages": 20000, ...}'`` prints one line of JSON, with what it
serves and what a crawl of it must find, and then answers until it is terminated.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from typing import cast

import uvloop

from .items import digest
from .workloads import Shop

HEADER_END = b"\r\n\r\n"
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


class Connection(asyncio.Protocol):
    """Answers GET requests, one after the other. Whatever else comes, it gets a page, too."""

    def __init__(self, answers: dict[bytes, bytes]) -> None:
        self._answers = answers
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are no subclass of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        data = self._received + data
        while (end := data.find(HEADER_END)) >= 0:
            path = data[data.find(b" ") + 1 : data.find(b" HTTP/1.")]
            self._transport.write(self._answers.get(path, NOT_FOUND))
            data = data[end + len(HEADER_END) :]
        self._received = data


def answer(html: str) -> bytes:
    """A whole HTTP response."""
    body = html.encode()
    head = (
        "HTTP/1.1 200 OK\r\nServer: shop\r\nContent-Type: text/html; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def listen(hosts: int) -> list[socket.socket]:
    """One socket for each host, an address of its own each, all with one port.

    Linux has all of 127.0.0.0/8 on its loopback interface.
    """
    addresses = ["127.0.0.1"] if hosts == 1 else [f"127.0.1.{n}" for n in range(1, hosts + 1)]
    sockets = [socket.create_server((addresses[0], 0), backlog=512)]
    port = sockets[0].getsockname()[1]
    sockets += (socket.create_server((address, port), backlog=512) for address in addresses[1:])
    return sockets


async def serve(shop: Shop, sockets: list[socket.socket]) -> None:
    """Answer until the process is terminated."""
    addresses = [each.getsockname()[0] for each in sockets]
    answers = {shop.path(n).encode(): answer(shop.html(n)) for n in range(shop.pages)}
    loop = asyncio.get_running_loop()
    for each in sockets:
        await loop.create_server(lambda: Connection(answers), sock=each)
    ready = {
        "start_url": shop.url(0),
        "sites": shop.sites,
        "addresses": addresses,
        "items": digest(shop.items()),
    }
    print(json.dumps(ready), flush=True)
    await asyncio.Event().wait()


def name_of(address: str) -> str:
    """What a host is called where hosts have names."""
    return f"shop{address.rpartition('.')[2]}.example"


def main(argument: str) -> None:
    """Serve what `argument` says: pages, size, links, hosts by name or not, the core to run on."""
    wanted = json.loads(argument)
    core, hosts, has_names = wanted.pop("core"), wanted.pop("hosts"), wanted.pop("names")
    if core is not None:
        os.sched_setaffinity(0, {core})
    sockets = listen(hosts)
    places = [each.getsockname() for each in sockets]
    sites = tuple(
        f"http://{name_of(address) if has_names else address}:{port}" for address, port in places
    )
    uvloop.run(serve(Shop(sites=sites, **wanted), sockets))


if __name__ == "__main__":
    main(sys.argv[1])

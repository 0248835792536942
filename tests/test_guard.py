"""The guard lets a browser reach what it may, and nothing else."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from crawlkit.errors import (
    CrawlkitError,
    FetchTimeoutError,
    NetworkError,
    PrivateAddressError,
    ProxyError,
)
from crawlkit.rendering.guard import MAX_REFUSALS, Access, Guard

PUBLIC, PRIVATE = "127.0.0.1", "127.0.0.2"


def is_public(address: str) -> bool:
    """In these tests one address of loopback plays the public internet."""
    return address == PUBLIC


@asynccontextmanager
async def guarding(**options: object) -> AsyncIterator[Guard]:
    guard = Guard(**{"is_public": is_public, **options})  # type: ignore[arg-type]
    await guard.open()
    try:
        yield guard
    finally:
        await guard.close()


@asynccontextmanager
async def serving(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    host: str = PUBLIC,
) -> AsyncIterator[int]:
    """A server that answers each connection as it likes; its port."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, host, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1000):
        writer.write(b"<" + data + b">")
        await writer.drain()


class Page:
    """A server of one page that keeps what it was asked."""

    def __init__(self, answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi") -> None:
        self.answer = answer
        self.heads: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(self.answer)


def granted(guard: Guard, **options: object) -> Access:
    access = Access(**options)  # type: ignore[arg-type]
    guard.grant(access)
    return access


def authorization(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


async def ask(guard: Guard, line: str, access: Access | None = None, *fields: str) -> bytes:
    """What the guard answers to one request, to the end of the connection."""
    reader, writer = await begin(guard, line, access, *fields)
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


async def begin(
    guard: Guard, line: str, access: Access | None = None, *fields: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    port = int(guard.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [line, *fields]
    if access is not None:
        secret = authorization(access.username, access.password)
        lines.append(f"Proxy-Authorization: {secret}")
    writer.write("\r\n".join((*lines, "", "")).encode())
    return reader, writer


async def test_other_programs_on_the_machine_cannot_use_it() -> None:
    page = Page()
    async with serving(page) as port, guarding() as guard:
        access = granted(guard)
        url = f"http://{PUBLIC}:{port}/"
        for field in (
            "X: y",
            "Proxy-Authorization: Basic !",
            f"Proxy-Authorization: {authorization('a', 'b')}",
            f"Proxy-Authorization: {authorization(access.username, 'x')}",
        ):
            for line in (f"CONNECT {PUBLIC}:{port} HTTP/1.1", f"GET {url} HTTP/1.1"):
                assert (await ask(guard, line, None, field)).startswith(b"HTTP/1.1 407 ")
        guard.revoke(access)
        assert (await ask(guard, f"GET {url} HTTP/1.1", access)).startswith(b"HTTP/1.1 407 ")
    assert not page.heads


async def test_a_tunnel_carries_bytes_both_ways() -> None:
    async with serving(echo) as port, guarding() as guard:
        reader, writer = await begin(guard, f"CONNECT {PUBLIC}:{port} HTTP/1.1", granted(guard))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        for _ in range(3):
            writer.write(b"hello")
            assert await reader.readexactly(7) == b"<hello>"
        writer.close()


@pytest.mark.parametrize("name", [PRIVATE, "name.test", "[::ffff:127.0.0.2]"])
async def test_private_addresses_are_for_those_who_may(name: str) -> None:
    async def resolve(name: str, port: int) -> list[str]:
        return [PRIVATE]

    page = Page()
    async with serving(page, PRIVATE) as port, guarding(resolve=resolve) as guard:
        host = f"{name}:{port}"
        access = granted(guard)
        assert (await ask(guard, f"CONNECT {host} HTTP/1.1", access)).startswith(b"HTTP/1.1 502 ")
        assert isinstance(access.refusal(host), PrivateAddressError)
        # A page that asks for http must not take an answer of the guard for one of the site.
        assert await ask(guard, f"GET http://{host}/ HTTP/1.1", access) == b""
        assert not page.heads
        trusted = granted(guard, may_be_private=True)
        answer = await ask(guard, f"GET http://{host}/ HTTP/1.1", trusted)
        assert answer.endswith(b"\r\n\r\nhi")


async def test_a_name_that_changes_its_address_is_asked_about_each_time() -> None:
    answers = iter([PUBLIC, PRIVATE, PUBLIC])

    async def resolve(name: str, port: int) -> list[str]:
        return [next(answers)]

    open_to_all, hidden = Page(), Page()
    async with (
        guarding(resolve=resolve) as guard,
        serving(open_to_all) as port,
    ):
        server = await asyncio.start_server(hidden, PRIVATE, port)
        access = granted(guard)
        line = f"GET http://rebind.test:{port}/ HTTP/1.1"
        assert (await ask(guard, line, access)).endswith(b"hi")
        assert await ask(guard, line, access) == b""
        assert (await ask(guard, line, access)).endswith(b"hi")
        server.close()
    assert (len(open_to_all.heads), len(hidden.heads)) == (2, 0)


async def test_of_a_names_addresses_only_public_ones_are_tried() -> None:
    async def resolve(name: str, port: int) -> list[str]:
        return [PRIVATE, PUBLIC]

    async with serving(Page()) as port, guarding(resolve=resolve) as guard:
        answer = await ask(guard, f"GET http://both.test:{port}/ HTTP/1.1", granted(guard))
        assert answer.endswith(b"hi")
        assert not await guard.is_private(f"both.test:{port}", None)


async def test_what_is_for_the_proxy_does_not_reach_the_site() -> None:
    page = Page()
    async with serving(page) as port, guarding() as guard:
        line = f"GET http://{PUBLIC}:{port}/a?b=c HTTP/1.1"
        await ask(
            guard, line, granted(guard), "Host: x", "Proxy-Connection: keep-alive", "X-Own: 1"
        )
    assert page.heads == [
        b"GET /a?b=c HTTP/1.1\r\nHost: x\r\nX-Own: 1\r\nConnection: close\r\n\r\n"
    ]


async def test_a_connection_carries_one_http_request() -> None:
    """Else the second one, to whatever host, would go to the first one's site."""
    page = Page(b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi")
    async with serving(page) as port, guarding() as guard:
        reader, writer = await begin(
            guard, f"GET http://{PUBLIC}:{port}/ HTTP/1.1", granted(guard), "Host: x"
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Connection: close" in head
        assert b"keep-alive" not in head
        writer.close()


@pytest.mark.parametrize(
    ("answer", "seen"),
    [
        (b"HTTP/1.1 200 OK\nA: b\n\nhi", b"HTTP/1.1 200 OK\r\nA: b\r\nConnection: close\r\n\r\nhi"),
        (
            b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
            b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
        ),
        (b"SSH-2.0-OpenSSH\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20_000 + b"\r\n", b""),
        (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 200_000 + b"\r\n\r\n", b""),
        (b"", b""),
    ],
    ids=["bare newlines", "interim", "no http", "many headers", "long header", "nothing"],
)
async def test_odd_answers_end_well(answer: bytes, seen: bytes) -> None:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)

    async with serving(once) as port, guarding() as guard:
        line = f"GET http://{PUBLIC}:{port}/ HTTP/1.1"
        assert await ask(guard, line, granted(guard)) == seen


@pytest.mark.parametrize(
    "line",
    [
        "GET / HTTP/1.1",
        "GET ftp://x/ HTTP/1.1",
        "GET http://user@x/ HTTP/1.1",
        "GET http://x?/ HTTP/1.1",
        "nonsense",
        "CONNECT x HTTP/1.1 more",
    ],
)
async def test_what_makes_no_sense_is_refused(line: str) -> None:
    async with guarding() as guard:
        assert (await ask(guard, line, granted(guard))).startswith(b"HTTP/1.1 400 ")


async def test_why_there_is_no_connection_is_remembered_until_there_is_one() -> None:
    async def resolve(name: str, port: int) -> list[str]:
        if name == "gone.test":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [PUBLIC]

    with socket.socket() as held:
        held.bind((PUBLIC, 0))
        port = held.getsockname()[1]
        async with guarding(resolve=resolve) as guard:
            access = granted(guard)
            await ask(guard, f"CONNECT gone.test:{port} HTTP/1.1", access)
            await ask(guard, f"CONNECT shut.test:{port} HTTP/1.1", access)
            gone, shut = access.refusal(f"gone.test:{port}"), access.refusal(f"shut.test:{port}")
            assert isinstance(gone, NetworkError)
            assert str(gone) == "no address for gone.test: Name or service not known"
            assert isinstance(shut, NetworkError)
            assert "Connection refused" in str(shut)
            async with serving(echo) as open_port:
                host = f"shut.test:{open_port}"
                access.note(host, shut)
                reader, writer = await begin(guard, f"CONNECT {host} HTTP/1.1", access)
                await reader.readuntil(b"\r\n\r\n")
                assert access.refusal(host) is None
                writer.close()
            for number in range(MAX_REFUSALS):
                access.note(f"{number}.test:80", shut)
            assert access.refusal(f"gone.test:{port}") is None


async def test_a_silent_site_is_given_up() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serving(silent) as port, guarding(idle_timeout=0.2) as guard:
        access = granted(guard)
        host = f"{PUBLIC}:{port}"
        assert await ask(guard, f"GET http://{host}/ HTTP/1.1", access) == b""
        refusal = access.refusal(host)
        assert isinstance(refusal, FetchTimeoutError)
        assert str(refusal) == f"{host} sent nothing for 0.2 s"


async def test_a_connection_that_does_not_come_is_given_up() -> None:
    async def resolve(name: str, port: int) -> list[str]:
        await asyncio.sleep(60)
        return [PUBLIC]

    async with guarding(resolve=resolve, connect_timeout=0.1) as guard:
        access = granted(guard)
        await ask(guard, "CONNECT slow.test:443 HTTP/1.1", access)
        assert isinstance(access.refusal("slow.test:443"), FetchTimeoutError)


async def test_closing_it_ends_all_connections() -> None:
    async with serving(echo) as port:
        async with guarding() as guard:
            reader, writer = await begin(guard, f"CONNECT {PUBLIC}:{port} HTTP/1.1", granted(guard))
            await reader.readuntil(b"\r\n\r\n")
            assert guard.connections == 1
        assert guard.connections == 0
        assert await reader.read() == b""
        writer.close()


# -- through another proxy --------------------------------------------------------------------


class Proxy:
    """An HTTP proxy that makes tunnels, forwards nothing, and keeps what it was asked."""

    def __init__(self, status: bytes = b"200 OK") -> None:
        self.status = status
        self.heads: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        if head.startswith(b"CONNECT"):
            writer.write(b"HTTP/1.1 " + self.status + b"\r\n\r\n")
            if self.status.startswith(b"200"):
                await echo(reader, writer)
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nproxied")


async def test_what_goes_through_a_proxy_is_looked_up_there() -> None:
    proxy = Proxy()
    async with serving(proxy, PRIVATE) as port, guarding() as guard:
        access = granted(guard, proxy=f"http://me:my%20word@{PRIVATE}:{port}")
        reader, writer = await begin(guard, "CONNECT far.test:443 HTTP/1.1", access)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        writer.write(b"hi")
        assert await reader.readexactly(4) == b"<hi>"
        writer.close()
        answer = await ask(guard, "GET http://far.test/a HTTP/1.1", access, "Host: far.test")
        assert answer.endswith(b"\r\n\r\nproxied")
    secret = f"Proxy-Authorization: {authorization('me', 'my word')}\r\n".encode()
    assert proxy.heads == [
        b"CONNECT far.test:443 HTTP/1.1\r\nHost: far.test:443\r\n" + secret + b"\r\n",
        b"GET http://far.test/a HTTP/1.1\r\nHost: far.test\r\n"
        + secret
        + b"Connection: close\r\n\r\n",
    ]


@pytest.mark.parametrize("host", [f"{PRIVATE}:443", "localhost:443", "a.localhost:80"])
async def test_what_says_itself_that_it_is_private_goes_through_no_proxy(host: str) -> None:
    proxy = Proxy()
    async with serving(proxy) as port, guarding() as guard:
        access = granted(guard, proxy=f"http://{PUBLIC}:{port}")
        await ask(guard, f"CONNECT {host} HTTP/1.1", access)
        assert isinstance(access.refusal(host), PrivateAddressError)
        assert await guard.is_private(host, access.proxy)
    assert not proxy.heads


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (b"407 Proxy Authentication Required", ProxyError),
        (b"403 Forbidden", ProxyError),
        (b"502 Bad Gateway", NetworkError),
        (b"", ProxyError),
    ],
)
async def test_it_is_told_whether_the_proxy_or_the_site_is_to_blame(
    status: bytes, kind: type[CrawlkitError]
) -> None:
    async with serving(Proxy(status)) as port, guarding() as guard:
        access = granted(guard, proxy=f"http://me:secret@{PUBLIC}:{port}")
        answer = await ask(guard, "CONNECT far.test:443 HTTP/1.1", access)
        assert answer.startswith(b"HTTP/1.1 502 ")
        refusal = access.refusal("far.test:443")
        assert type(refusal) is kind
        assert f"{PUBLIC}:{port}" in str(refusal)
        assert "secret" not in str(refusal)


async def test_a_proxy_that_is_not_there_is_to_blame() -> None:
    with socket.socket() as held:
        held.bind((PUBLIC, 0))
        place = f"{PUBLIC}:{held.getsockname()[1]}"
        async with guarding() as guard:
            for scheme in ("http", "socks5"):
                access = granted(guard, proxy=f"{scheme}://me:secret@{place}")
                await ask(guard, "CONNECT far.test:443 HTTP/1.1", access)
                refusal = access.refusal("far.test:443")
                assert isinstance(refusal, ProxyError)
                assert refusal.proxy == place


async def test_a_socks_proxy_carries_http_and_tunnels() -> None:
    asked: list[bytes] = []
    page = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"

    async def socks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """RFC 1928 without a password, as far as a test needs it."""
        _, methods = await reader.readexactly(2)
        await reader.readexactly(methods)
        writer.write(b"\x05\x00")
        *_, length = await reader.readexactly(5)
        asked.append(await reader.readexactly(length + 2))
        reply = 4 if b"dead" in asked[-1] else 0
        writer.write(bytes([5, reply, 0, 1, 0, 0, 0, 0, 0, 0]))
        if not reply:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(page)

    async with serving(socks) as port, guarding() as guard:
        access = granted(guard, proxy=f"socks5h://{PUBLIC}:{port}")
        answer = await ask(guard, "GET http://far.test/ HTTP/1.1", access, "Host: far.test")
        assert answer.endswith(b"\r\n\r\nhi")
        reader, writer = await begin(guard, "CONNECT far.test:443 HTTP/1.1", access)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await reader.readexactly(len(page)) == page
        writer.close()
        await ask(guard, "CONNECT dead.test:443 HTTP/1.1", access)
        assert type(access.refusal("dead.test:443")) is NetworkError
    assert asked[:2] == [b"far.test\x00\x50", b"far.test\x01\xbb"]

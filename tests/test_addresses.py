"""Addresses: a page of the web cannot send the crawl to this machine, its network or its cloud."""

from __future__ import annotations

import asyncio
import socket

import pytest

from crawlkit.errors import (
    FetchError,
    NetworkError,
    PrivateAddressError,
    RedirectError,
    UrlError,
)
from crawlkit.http.addresses import is_bad_port, is_private_host, is_public
from crawlkit.request import Request
from crawlkit.sessions import Session
from crawlkit.urls import canonical

from .scripted import LIMITS, Server, error_of, http, opened, private, redirect

PRIVATE = [
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.255",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::8.8.8.8",
    "::ffff:127.0.0.1",
    "::ffff:a00:1",
    "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::8.8.8.8",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "",
    "localhost",
    "1",
    "127.1",
    "0x7f.0.0.1",
]
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "100.63.255.255",
    "100.128.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.1",
    "223.255.255.255",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "2001:4860:4860::8888",
    "2606:4700::1111",
    "2a00:1450::1",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_is_not_of_the_public_internet_is_private(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_public_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.0.0.1:8000", True),
        ("127.0.0.1.", True),
        ("[::1]", True),
        ("[::ffff:7f00:1]:80", True),
        ("localhost", True),
        ("localhost:80", True),
        ("localhost.", True),
        ("db.localhost", True),
        ("8.8.8.8:53", False),
        ("[2606:4700::1111]:443", False),
        ("shop.example", False),
        ("mylocalhost", False),
        ("localhost.shop.example", False),
        ("server1", False),
        ("10.0.0.1.example", False),
    ],
)
def test_a_host_that_says_itself_that_it_is_private_is_known(host: str, expected: bool) -> None:
    assert is_private_host(host) is expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("a.example:25", True),
        ("[::1]:6667", True),
        ("a.example", False),
        ("[::25]", False),
        ("a.example:8080", False),
        ("a.example:2525", False),
    ],
)
def test_a_port_of_another_protocol_is_known(host: str, expected: bool) -> None:
    assert is_bad_port(host) is expected


# -- over the wire ----------------------------------------------------------------------------

FORMS = [
    "http://127.0.0.1:{}/",
    "http://2130706433:{}/",
    "http://0x7f.1:{}/",
    "http://017700000001:{}/",
    "http://127.1:{}/",
    "http://0:{}/",
    "http://[::ffff:127.0.0.1]:{}/",
    "http://[::ffff:7f00:1]:{}/",
    "http://[::127.0.0.1]:{}/",
    "http://[fe80::1]:{}/",
    "http://[::1]:{}/",
    "http://169.254.169.254:{}/",
    "http://localhost:{}/",
    "http://LOCALHOST.:{}/",
    "http://a.localhost:{}/",
    "http://①②⑦.0.0.1:{}/",
]


@pytest.mark.parametrize("form", FORMS)
async def test_no_spelling_of_a_private_address_is_reached_by_a_link(
    server: Server, session: Session, form: str
) -> None:
    server.answers["/"] = http(b"secret")
    async with opened() as fetcher:
        with pytest.raises(PrivateAddressError, match="allow_private") as caught:
            await fetcher.fetch(Request(canonical(form.format(server.port))), session)
    assert server.connections == 0
    assert not caught.value.retryable


@pytest.mark.parametrize("form", FORMS[:-1])
async def test_nor_where_the_url_is_not_in_canonical_form(
    server: Server, session: Session, form: str
) -> None:
    server.answers["/"] = http(b"secret")
    async with opened() as fetcher:
        with pytest.raises(FetchError):
            await fetcher.fetch(Request(form.format(server.port)), session)
    assert server.connections == 0


@pytest.mark.parametrize("form", FORMS)
async def test_nor_by_a_redirect_of_a_public_page(
    server: Server, session: Session, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page that redirects is of this machine, too, but counts as public for the test."""
    server.answers["/"] = redirect(form.format(server.port) + "secret")
    monkeypatch.setattr("crawlkit.http.clients.Clients.is_private", lambda self, host: False)
    async with opened() as fetcher:
        error = await error_of(fetcher, server.url("/"), session)
    assert isinstance(error, PrivateAddressError)
    assert [hit.target for hit in server.hits] == ["/"]


async def test_a_private_page_may_lead_to_private_addresses(
    server: Server, session: Session
) -> None:
    server.answers["/"] = redirect(server.url("/next", host="localhost"))
    server.answers["/next"] = redirect(server.url("/last"))
    server.answers["/last"] = http(b"intranet")
    async with opened() as fetcher:
        response = await fetcher.fetch(private(server.url("/")), session)
    assert response.body == b"intranet"
    assert response.is_private


async def test_with_allow_private_everything_may_be_reached(
    server: Server, session: Session
) -> None:
    server.answers["/"] = http(b"intranet")
    async with opened(allow_private=True) as fetcher:
        response = await fetcher.fetch(Request(server.url("/")), session)
    assert (response.body, response.is_private) == (b"intranet", True)


class Names:
    """A resolver that answers from a dict."""

    def __init__(self, addresses: dict[str, list[str]]) -> None:
        self.addresses = addresses
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[dict[str, object]]:
        self.asked.append(host)
        return [
            {"hostname": host, "host": address, "port": port, "family": 0, "proto": 0, "flags": 0}
            for address in self.addresses[host]
        ]

    async def close(self) -> None:
        pass


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    made = Names({})
    monkeypatch.setattr("aiohttp.DefaultResolver", lambda: made)
    return made


async def test_a_name_of_a_private_address_is_reached_by_those_only_that_may(
    server: Server, session: Session, names: Names
) -> None:
    names.addresses = {"intranet.example": ["127.0.0.1"]}
    server.answers["/"] = http(b"secret")
    url = server.url("/", host="intranet.example")
    async with opened() as fetcher:
        with pytest.raises(PrivateAddressError, match=r"intranet\.example \(127\.0\.0\.1\)"):
            await fetcher.fetch(Request(url), session)
        assert server.connections == 0
        response = await fetcher.fetch(private(url), session)
        assert (response.body, response.is_private) == (b"secret", True)
        # The connection that is open now is not for links of the web.
        with pytest.raises(PrivateAddressError):
            await fetcher.fetch(Request(url), session)
    assert len(server.hits) == 1


async def test_a_name_with_addresses_of_both_kinds_is_reached_at_the_public_ones(
    server: Server, session: Session, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    names.addresses = {"mixed.example": ["127.0.0.1", "::1", "192.0.2.7"]}
    # 192.0.2.7 stands for a public address; nothing answers there.
    monkeypatch.setattr("crawlkit.http.clients.is_public", lambda address: address == "192.0.2.7")
    connected: list[str] = []

    async def connect(self: object, sock: socket.socket, address: tuple[str, int]) -> None:
        connected.append(address[0])
        sock.close()
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(type(asyncio.get_running_loop()), "sock_connect", connect)
    async with opened() as fetcher:
        with pytest.raises(NetworkError, match=r"no connection to mixed\.example"):
            await fetcher.fetch(Request("http://mixed.example/"), session)
    assert connected == ["192.0.2.7"]


async def test_a_name_with_addresses_of_both_kinds_is_no_private_host(
    server: Server, session: Session, names: Names
) -> None:
    names.addresses = {"mixed.example": ["127.0.0.1", "8.8.8.8"]}
    server.answers["/"] = http(b"hi")
    async with opened() as fetcher:
        response = await fetcher.fetch(private(server.url("/", host="mixed.example")), session)
    assert not response.is_private


async def test_an_address_is_checked_again_when_the_connection_is_made(
    server: Server, session: Session, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever resolves, caches or spells: the last word is had by what makes the socket."""
    names.addresses = {"rebound.example": ["127.0.0.1"]}
    monkeypatch.setattr(
        "crawlkit.http.clients.PublicResolver.resolve",
        lambda self, host, port=0, family=0: self._resolver.resolve(host, port, family),
    )
    async with opened() as fetcher:
        with pytest.raises(PrivateAddressError):
            await fetcher.fetch(Request(server.url("/", host="rebound.example")), session)
    assert server.connections == 0


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/", "http://[::1]:8000/", "http://localhost/", "http://10.0.0.1/"]
)
async def test_a_proxy_is_not_asked_for_addresses_that_are_private(
    server: Server, session: Session, url: str
) -> None:
    session.proxy = f"http://127.0.0.1:{server.port}"
    async with opened() as fetcher:
        with pytest.raises(PrivateAddressError):
            await fetcher.fetch(Request(url), session)
        assert server.connections == 0
        server.answers[url] = http(b"by proxy")
        response = await fetcher.fetch(private(url), session)
    assert (response.body, response.is_private) == (b"by proxy", True)


async def test_a_proxy_may_itself_be_private(server: Server, session: Session) -> None:
    session.proxy = f"http://127.0.0.1:{server.port}"
    server.answers["http://shop.example/"] = http(b"by proxy")
    async with opened() as fetcher:
        response = await fetcher.fetch(Request("http://shop.example/"), session)
    assert (response.body, response.is_private) == (b"by proxy", False)


# -- ports ------------------------------------------------------------------------------------


async def test_a_link_to_a_port_of_another_protocol_is_not_fetched(session: Session) -> None:
    async with opened() as fetcher:
        with pytest.raises(UrlError, match="its port is not for the web"):
            await fetcher.fetch(private("http://127.0.0.1:25/", depth=1), session)


async def test_a_start_request_may_go_to_any_port(session: Session) -> None:
    async with opened() as fetcher:
        error = await error_of(fetcher, "http://127.0.0.1:1/", session)
    assert "no connection to 127.0.0.1:1" in str(error)


@pytest.mark.parametrize("place", ["http://127.0.0.1:25/", "http://127.0.0.1:0/", "//h:6667/"])
async def test_a_redirect_to_a_port_of_another_protocol_is_not_followed(
    server: Server, session: Session, place: str
) -> None:
    server.answers["/"] = redirect(place)
    async with opened(limits=LIMITS) as fetcher:
        error = await error_of(fetcher, server.url("/"), session)
    assert isinstance(error, RedirectError)

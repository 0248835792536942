"""Proxies: which one a request goes through, and which one is rested."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from timeit import timeit
from typing import Any

import pytest

from crawlkit import Crawler, Page, Request
from crawlkit.checkpoint import Checkpoint, Document, Loader, Snapshot
from crawlkit.crawling.sessionpool import SessionPool
from crawlkit.errors import FetchTimeoutError, NetworkError, OptionError, ProxyError
from crawlkit.fetching import AiohttpFetcher, Limits
from crawlkit.http.proxies import FIRST_REST, MAX_OTHERS, MAX_REST, ProxyPool, place_of, shown
from crawlkit.sessions import Session
from crawlkit.testing import ManualClock, Site

from .proxy_servers import HttpProxy, Socks5Proxy

HOST = "shop.example"
URL = "https://shop.example/"
ONE, TWO, THREE = "http://one:8001", "http://two:8002", "socks5://three:8003"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def session(clock: ManualClock) -> Session:
    return Session("x", clock)


def sessions(clock: ManualClock, number: int) -> list[Session]:
    return [Session(str(each), clock) for each in range(number)]


# -- which one --------------------------------------------------------------------------------


def test_sessions_take_the_proxies_in_turn_and_each_keeps_its_own(clock: ManualClock) -> None:
    pool = ProxyPool(clock, [ONE, TWO, THREE])
    four = sessions(clock, 4)
    assert [pool.pick(URL, session) for session in four] == [ONE, TWO, THREE, ONE]
    for session, proxy in zip(four, [ONE, TWO, THREE, ONE], strict=True):
        assert {pool.pick(f"https://{n}.example/", session) for n in range(5)} == {proxy}


def test_without_proxies_every_connection_is_direct(clock: ManualClock, session: Session) -> None:
    assert ProxyPool(clock).pick(URL, session) is None
    assert ProxyPool(clock, []).pick(URL, session) is None
    assert ProxyPool(clock, {}).pick(URL, session) is None
    assert session.proxies == {}


def test_the_first_pattern_that_matches_decides_and_without_one_it_is_direct(
    clock: ManualClock, session: Session
) -> None:
    pool = ProxyPool(
        clock,
        {
            "https://shop.example/static/**": None,
            "https://shop.example/**": [ONE, TWO],
            re.compile(r"\.onion/"): THREE,
            "re:^http://": "http://user:pw@four:8004",
        },
    )
    assert pool.pick("https://shop.example/static/a.css", session) is None
    assert pool.pick("https://shop.example/a", session) == ONE
    assert pool.pick("https://abc.onion/", session) == THREE
    assert pool.pick("http://abc.onion/", session) == THREE
    assert pool.pick("http://other.example/", session) == "http://user:pw@four:8004"
    assert pool.pick("https://other.example/", session) is None
    # Each group has its own turn.
    assert pool.pick("https://shop.example/", Session("y", clock)) == TWO
    assert pool.largest == 2


def test_a_proxy_set_by_hand_goes_before_all_others(clock: ManualClock) -> None:
    pool = ProxyPool(clock, {"**": [ONE], "https://direct.example/**": None})
    session = Session("x", clock, proxy="socks5h://me:pw@mine:1080")
    assert pool.pick(URL, session) == "socks5h://me:pw@mine:1080"
    session.proxy = TWO
    assert pool.pick(URL, session) == TWO
    session.proxy = None
    assert pool.pick(URL, session) == ONE


@pytest.mark.parametrize(
    "proxy",
    [
        "host:8080",
        "http://[::1",
        "",
        "ftp://user:secret@host:1",
        "socks5://user:secret@host",
        "http://user:sec/ret@host:1",
        "http://user:secret@host:0",
        "http://user:secret@host:99999",
        "http://user:secret@:80",
        "http://user:secret@host:80/path",
        "http://user:se\ncret@host:80",
        "http://user:se cret@host:80",
        None,
        7,
    ],
)
def test_a_proxy_that_cannot_work_is_refused_without_telling_its_password(
    clock: ManualClock, proxy: Any
) -> None:
    given: list[Any] = [[proxy], {"**": [proxy]}]
    for proxies in given:
        with pytest.raises(OptionError, match=r"give each as http://\[user:password@\]") as caught:
            ProxyPool(clock, proxies)
        assert "sec" not in str(caught.value)
    if proxy is not None:
        with pytest.raises(OptionError) as caught:
            ProxyPool(clock).pick(URL, Session("x", clock, proxy=proxy))
        assert "sec" not in str(caught.value)


@pytest.mark.parametrize("proxies", [7, {"**": 7}])
def test_what_is_no_list_of_proxies_is_refused(clock: ManualClock, proxies: Any) -> None:
    with pytest.raises(OptionError, match="neither URLs nor a mapping"):
        ProxyPool(clock, proxies)


def test_a_pattern_that_can_match_nothing_or_has_no_proxy_is_refused(clock: ManualClock) -> None:
    with pytest.raises(OptionError, match=r"proxies 'shop\.example' can match no URL"):
        ProxyPool(clock, {"shop.example": ONE})
    with pytest.raises(OptionError, match="give one, or None for a direct connection"):
        ProxyPool(clock, {"**": []})


def test_one_proxy_alone_needs_no_list(clock: ManualClock, session: Session) -> None:
    assert ProxyPool(clock, ONE).pick(URL, session) == ONE


# -- rests ------------------------------------------------------------------------------------


def test_a_proxy_that_failed_is_rested_longer_each_time_until_it_works(
    clock: ManualClock, session: Session
) -> None:
    pool = ProxyPool(clock, [ONE])
    rests = []
    for _ in range(9):
        pool.failed(ONE)
        rests.append(pool.ready_in(URL, session))
        clock.advance(rests[-1] - 0.001)
        with pytest.raises(ProxyError):
            pool.pick(URL, session)
        clock.advance(0.002)
        assert pool.pick(URL, session) == ONE
        assert pool.ready_in(URL, session) == 0.0
    assert rests[0] == pytest.approx(FIRST_REST)
    assert all(b == pytest.approx(min(2 * a, MAX_REST)) for a, b in pairwise(rests))
    assert rests[-1] == pytest.approx(MAX_REST)
    assert pool.strikes(URL, session) == 9
    pool.worked(ONE, HOST)
    assert pool.strikes(URL, session) == 0
    pool.failed(ONE)
    assert pool.ready_in(URL, session) == pytest.approx(FIRST_REST)


def test_a_break_is_the_proxys_fault_where_the_site_is_well_through_another(
    clock: ManualClock,
) -> None:
    pool = ProxyPool(clock, [ONE, TWO])
    pool.worked(TWO, HOST)
    assert [pool.broke(ONE, HOST) for _ in range(3)] == [False, True, True]
    pool.worked(ONE, HOST)
    assert not pool.broke(ONE, HOST)
    clock.advance(100)  # by now the site may be down
    pool.worked(ONE, "other.example")
    assert not any(pool.broke(proxy, HOST) for proxy in (ONE, TWO, ONE, TWO))


def test_after_a_break_other_proxies_go_first_for_a_while(clock: ManualClock) -> None:
    pool = ProxyPool(clock, [ONE, TWO])
    first, second, third = sessions(clock, 3)
    assert (pool.pick(URL, first), pool.pick(URL, second)) == (ONE, TWO)
    pool.broke(ONE, HOST)
    assert not pool.suits(URL, first)
    assert pool.suits(URL, second)
    assert pool.pick(URL, first) == ONE  # a visitor has one address
    assert pool.pick(URL, third) == TWO
    pool.broke(TWO, HOST)
    assert pool.suits(URL, first)
    pool.worked(TWO, HOST)
    assert not pool.suits(URL, first)
    clock.advance(61)
    assert pool.suits(URL, first)


def test_a_break_is_the_proxys_fault_where_several_sites_in_a_row_would_be_to_blame(
    clock: ManualClock,
) -> None:
    pool = ProxyPool(clock, [ONE])
    assert not any(pool.broke(ONE, HOST) for _ in range(5))
    assert not pool.broke(ONE, "b.example")
    assert pool.broke(ONE, "c.example")


def test_what_is_remembered_of_breaks_is_bounded(clock: ManualClock) -> None:
    pool = ProxyPool(clock)
    for number in range(MAX_OTHERS + 10):
        pool.broke(f"http://p:{number}", f"{number}.example")
        pool.worked(ONE, f"{number}.example")
    assert len(pool._breaks) == len(pool._answered) == MAX_OTHERS


def test_failures_in_flight_at_once_count_as_one(clock: ManualClock, session: Session) -> None:
    pool = ProxyPool(clock, [ONE])
    started_at = clock.now()
    clock.advance(30)
    for _ in range(20):
        pool.failed(ONE, started_at=started_at)
        clock.advance(0.1)
    assert pool.strikes(URL, session) == 1
    # One that began before the failure and took longer than the rest.
    clock.advance(FIRST_REST)
    pool.failed(ONE, started_at=started_at + 29)
    assert pool.strikes(URL, session) == 1
    assert pool.ready_in(URL, session) == 0.0
    pool.failed(ONE, started_at=clock.now() - 1)
    assert pool.strikes(URL, session) == 2


def test_while_a_proxy_rests_new_sessions_get_the_others(clock: ManualClock) -> None:
    pool = ProxyPool(clock, [ONE, TWO, THREE])
    pool.failed(TWO)
    assert [pool.pick(URL, session) for session in sessions(clock, 4)] == [ONE, THREE, ONE, THREE]
    clock.advance(FIRST_REST)
    assert TWO in [pool.pick(URL, session) for session in sessions(clock, 3)]


def test_where_all_rest_the_error_says_which_one_until_when(
    clock: ManualClock, session: Session
) -> None:
    one = "http://user:secret@one:8001"
    pool = ProxyPool(clock, [one, TWO])
    assert pool.pick(URL, session) == one
    pool.failed(TWO)
    clock.advance(4)
    pool.failed(TWO)  # in flight: it does not rest longer
    pool.failed(one)
    with pytest.raises(ProxyError) as caught:
        pool.pick(URL, session)
    assert re.fullmatch(
        r"every proxy for shop\.example has failed and rests, http://two:8002 until "
        r"[-0-9]+T[0-9:.]+Z; see that they run, or give others",
        str(caught.value),
    )
    assert caught.value.proxy == "http://two:8002"
    assert caught.value.retry_after == pytest.approx(FIRST_REST - 4)
    assert pool.ready_in(URL, session) == pytest.approx(FIRST_REST - 4)
    assert pool.ready_in("https://elsewhere.example/", session) == pytest.approx(FIRST_REST - 4)
    # It is still the visitor that it was.
    clock.advance(FIRST_REST)
    assert pool.pick(URL, session) == one


def test_a_proxy_set_by_hand_is_rested_too_and_never_replaced(clock: ManualClock) -> None:
    pool = ProxyPool(clock, [ONE])
    session = Session("x", clock, proxy="http://me:secret@mine:1")
    pool.failed("http://me:secret@mine:1")
    with pytest.raises(ProxyError, match="http://mine:1 until") as caught:
        pool.pick(URL, session)
    assert "secret" not in str(caught.value)
    assert pool.ready_in(URL, session) == pytest.approx(FIRST_REST)
    assert pool.strikes(URL, session) == 1
    assert pool.pick(URL, Session("y", clock)) == ONE
    clock.advance(FIRST_REST)
    assert pool.pick(URL, session) == "http://me:secret@mine:1"


def test_rested_proxies_take_a_bounded_amount_of_memory(clock: ManualClock) -> None:
    pool = ProxyPool(clock, [ONE, TWO])
    for number in range(MAX_OTHERS + 50):
        pool.failed(f"http://h{number}:1")
    assert repr(pool) == f"<ProxyPool of 2, {MAX_OTHERS + 2} rested>"


def test_passwords_are_in_no_message_log_or_repr(
    clock: ManualClock, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    proxies = ["http://user:secret@one:1", "socks5://user:secret@two:2"]
    pool = ProxyPool(clock, proxies)
    with caplog.at_level(logging.DEBUG):
        pool.pick(URL, session)
        for proxy in proxies:
            pool.failed(proxy)
        with pytest.raises(ProxyError) as caught:
            pool.pick(URL, session)
    said = [str(caught.value), caught.value.proxy, repr(pool), repr(session), caplog.text]
    assert "proxy socks5://two:2 failed, 1 in a row; it is rested for 10 s" in caplog.text
    assert not any("secret" in text or "user" in text for text in said)
    assert "secret" not in str(session.proxies)


@pytest.mark.parametrize(
    ("proxy", "text"),
    [
        ("http://user:pa@ss@host:1/", "http://host:1"),
        ("socks5h://user:pa/ss@host:1", "socks5h://host:1"),
        ("user:pa/ss@host:1", "host:1"),
        ("https://[::1]:8080", "https://[::1]:8080"),
        ("", ""),
        (None, ""),
    ],
)
def test_a_proxy_is_shown_without_its_credentials(proxy: str | None, text: str) -> None:
    assert shown(proxy) == text
    assert place_of(proxy) == text.rpartition("/")[2]


def test_without_proxies_a_pick_costs_less_than_a_microsecond(
    clock: ManualClock, session: Session
) -> None:
    pool = ProxyPool(clock)
    seconds = min(timeit(lambda: pool.pick(URL, session), number=2000) for _ in range(20))
    assert seconds / 2000 < 1e-6


# -- sessions and their proxies ---------------------------------------------------------------


def test_one_visitor_has_one_address_and_others_take_over_while_that_rests(
    clock: ManualClock,
) -> None:
    proxies = ProxyPool(clock, [ONE, TWO])
    pool = SessionPool(clock, size=2, proxies=proxies)
    first = pool.pick(HOST, url=URL)
    assert proxies.pick(URL, first) == ONE
    proxies.failed(ONE)
    second = pool.pick(HOST, url=URL)
    assert second is not first
    assert proxies.pick(URL, second) == TWO
    assert pool.pick(HOST, url=URL) is second
    # Nobody was replaced, and when it has rested the first one is there with its old address.
    clock.advance(FIRST_REST)
    proxies.failed(TWO)
    assert pool.pick(HOST, url=URL) is first
    assert proxies.pick(URL, first) == ONE
    assert len(pool) == 2


def test_where_every_proxy_rests_no_session_is_replaced(clock: ManualClock) -> None:
    proxies = ProxyPool(clock, [ONE, TWO])
    pool = SessionPool(clock, size=2, proxies=proxies)
    before = [pool.pick(f"{n}.example", url=URL) for n in range(2)]
    for session, proxy in zip(before, (ONE, TWO), strict=True):
        assert proxies.pick(URL, session) == proxy
        proxies.failed(proxy)
    for _ in range(20):
        session = pool.pick(HOST, url=URL)
        with pytest.raises(ProxyError):
            proxies.pick(URL, session)
    assert list(pool) == before


def test_where_all_sessions_rest_with_their_proxies_a_new_one_takes_a_proxy_that_works(
    clock: ManualClock,
) -> None:
    retired: list[str] = []
    proxies = ProxyPool(clock, [ONE, TWO])
    pool = SessionPool(
        clock, size=2, proxies=proxies, on_retired=lambda id, reason: retired.append(reason)
    )
    proxies.failed(TWO)
    for number in range(2):
        assert proxies.pick(URL, pool.pick(f"{number}.example", url=URL)) == ONE
    clock.advance(FIRST_REST)
    proxies.failed(ONE)
    assert proxies.pick(URL, pool.pick(HOST, url=URL)) == TWO
    assert retired == ["proxy"]
    assert len(pool) == 2


def test_a_session_rests_only_for_the_urls_of_the_proxy_that_failed(clock: ManualClock) -> None:
    proxies = ProxyPool(clock, {"https://shop.example/**": [ONE, TWO]})
    pool = SessionPool(clock, size=1, proxies=proxies)
    session = pool.pick("other.example", url="https://other.example/")
    pool.pick("third.example", url="https://third.example/")
    assert pool.pick(HOST, url=URL) is session
    assert proxies.pick(URL, session) == ONE
    proxies.failed(ONE)
    assert pool.pick("other.example", url="https://other.example/") is session
    assert pool.pick(HOST, url=URL) is not session


def test_a_session_that_is_asked_for_by_id_moves_with_its_cookies_and_stays_there(
    clock: ManualClock,
) -> None:
    proxies = ProxyPool(clock, [ONE, TWO])
    pool = SessionPool(clock, proxies=proxies)
    alice = pool.pick(HOST, "alice", URL)
    alice.store_cookies(URL, ["login=1"])
    assert proxies.pick(URL, alice) == ONE
    proxies.failed(ONE)
    assert pool.pick(HOST, "alice", URL) is alice
    assert proxies.pick(URL, alice) == TWO
    clock.advance(MAX_REST)
    assert proxies.pick(URL, alice) == TWO


def test_there_are_sessions_enough_to_use_every_proxy(clock: ManualClock) -> None:
    proxies = ProxyPool(clock, [f"http://p{number}:80" for number in range(30)])
    pool = SessionPool(clock, size=2, proxies=proxies)
    used = set()
    for number in range(30):
        url = f"https://{number}.example/"
        used.add(proxies.pick(url, pool.pick(f"{number}.example", url=url)))
    assert len(used) == 30


# -- restarts ---------------------------------------------------------------------------------


class Life:
    """Sessions and proxies of a life, which can be followed by another."""

    def __init__(self, clock: ManualClock, proxies: Any, documents: Any = None) -> None:
        self.clock = clock
        self.documents: dict[str, Document] = documents or {}
        self.proxies = ProxyPool(clock, proxies)
        self.pool = SessionPool(clock, proxies=self.proxies)
        Loader(Snapshot(documents=dict(self.documents))).restore("sessions", self.pool)

    def visit(self, host: str, id: str | None = None) -> tuple[Session, str | None]:
        url = f"https://{host}/"
        session = self.pool.pick(host, id, url)
        proxy = self.proxies.pick(url, session)
        session.store_cookies(url, [f"known={session.id}"])
        return session, proxy

    def next(self, proxies: Any) -> Life:
        checkpoint = Checkpoint()
        with checkpoint.of("sessions"):
            self.pool.collect(checkpoint)
        for name, document in checkpoint.documents.items():
            if document is None:
                self.documents.pop(name, None)
            else:
                self.documents[name] = document
        return Life(self.clock, proxies, self.documents)


def test_a_session_has_the_address_that_its_cookies_belong_to_after_a_restart(
    clock: ManualClock,
) -> None:
    life = Life(clock, [ONE, TWO, THREE])
    before = {host: life.visit(host) for host in ("a.example", "b.example", "c.example")}
    # Also where there are more of them now, in another order.
    life = life.next([THREE, "http://new:1", TWO, ONE])
    for host, (session, proxy) in before.items():
        again, proxy_now = life.visit(host)
        assert (again.id, proxy_now) == (session.id, proxy)


def test_a_session_whose_proxy_is_not_there_any_more_is_dropped(clock: ManualClock) -> None:
    life = Life(clock, [ONE, TWO])
    one, two = life.visit("a.example")[0], life.visit("b.example")[0]
    life = life.next([TWO])
    assert [session.id for session in life.pool] == [two.id]
    life = life.next([])
    assert list(life.pool) == []
    life.next([])
    assert life.documents == {}
    assert one.id != two.id


def test_cookies_that_were_got_directly_are_not_taken_behind_a_proxy(clock: ManualClock) -> None:
    life = Life(clock, {"https://b.example/**": [ONE]})
    direct = life.visit("a.example")[0]
    proxied = life.visit("b.example")[0]
    assert direct is not proxied
    life = life.next({"https://b.example/**": [ONE, TWO], "https://c.example/**": [TWO]})
    assert {session.id for session in life.pool} == {direct.id, proxied.id}
    life = life.next({"https://b.example/**": [ONE], "https://a.example/**": [TWO]})
    assert {session.id for session in life.pool} == {proxied.id}


def test_a_named_session_outlives_its_proxy_and_gets_another(clock: ManualClock) -> None:
    life = Life(clock, [ONE])
    assert life.visit(HOST, "alice")[1] == ONE
    life = life.next([TWO])
    alice, proxy = life.visit(HOST, "alice")
    assert alice.cookie_header(URL) == "known=alice"
    assert proxy == TWO


def test_a_proxy_set_by_hand_is_kept_over_a_restart(clock: ManualClock) -> None:
    life = Life(clock, [ONE])
    session = life.visit(HOST)[0]
    session.proxy = "http://me:pw@mine:1"
    life = life.next([ONE])
    assert life.visit(HOST)[1] == "http://me:pw@mine:1"


def test_the_store_knows_no_password_and_a_new_one_makes_no_new_visitor(
    clock: ManualClock,
) -> None:
    life = Life(clock, ["http://user:secret@one:1"])
    session = life.visit(HOST)[0]
    life = life.next(["http://user:changed@one:1"])
    assert b"one:1" in b"".join(document.data for document in life.documents.values())
    assert not any(b"secret" in document.data for document in life.documents.values())
    again, proxy = life.visit(HOST)
    assert again.id == session.id
    assert proxy == "http://user:changed@one:1"


def test_proxies_that_differ_in_their_password_alone_are_different_ones(
    clock: ManualClock,
) -> None:
    gateway = [f"http://user:session-{number}@gate:1" for number in range(3)]
    life = Life(clock, gateway)
    before = {f"{n}.example": life.visit(f"{n}.example") for n in range(3)}
    assert [proxy for _, proxy in before.values()] == gateway
    life = life.next(gateway)
    for host, (session, proxy) in before.items():
        again, proxy_now = life.visit(host)
        assert (again.id, proxy_now) == (session.id, proxy)


# -- on the wire ------------------------------------------------------------------------------

SHOP = "http://shop.example/"
DEAD = "http://user:secret@127.0.0.1:1"


@pytest.fixture
async def shop_site() -> AsyncIterator[Site]:
    """What is at http://shop.example/ for those who come through a proxy."""
    async with Site() as site:
        site.add_page("/", links=[f"/{number}" for number in range(10)])
        for number in range(10):
            site.add_page(f"/{number}")
        yield site


def routes(site: Site) -> dict[str, int]:
    return {"shop.example:80": site.port, "shop.example:443": site.port}


class Visit:
    """A fetcher with proxies, and a session that goes through them."""

    def __init__(self, proxies: Any, **options: Any) -> None:
        self.clock = ManualClock()
        self.proxies = ProxyPool(self.clock, proxies)
        self.session = Session("x", self.clock)
        self.fetcher = AiohttpFetcher(proxies=self.proxies, clock=self.clock, **options)

    async def __aenter__(self) -> Visit:
        await self.fetcher.open()
        return self

    async def __aexit__(self, *args: object) -> None:
        await self.fetcher.close()

    async def get(self, url: str = SHOP) -> Any:
        return await self.fetcher.fetch(Request(url), self.session)

    @property
    def is_rested(self) -> bool:
        return self.proxies.ready_in(SHOP, self.session) > 0


@pytest.mark.parametrize("kind", [HttpProxy, Socks5Proxy])
@pytest.mark.parametrize("auth", [None, ("me", "secret")])
async def test_a_page_comes_through_the_proxy_which_looks_its_name_up(
    shop_site: Site, kind: type[HttpProxy | Socks5Proxy], auth: tuple[str, str] | None
) -> None:
    async with kind(auth=auth, routes=routes(shop_site)) as proxy, Visit([proxy.url]) as visit:
        for _ in range(2):
            response = await visit.get(SHOP + "3")
            assert (response.status, response.url) == (200, SHOP + "3")
    hit = "GET http://shop.example/3" if kind is HttpProxy else "CONNECT shop.example:80"
    assert set(proxy.hits) == {hit}
    assert set(proxy.users) == {auth[0] if auth else None}
    assert "Proxy-Authorization" not in shop_site.requests[0].headers


async def test_a_tunnel_is_asked_for_where_the_site_speaks_tls(shop_site: Site) -> None:
    async with HttpProxy(routes=routes(shop_site)) as proxy, Visit([proxy.url]) as visit:
        with pytest.raises(NetworkError) as caught:
            await visit.get("https://shop.example/")
        assert proxy.hits == ["CONNECT shop.example:443"]
        # The site does not, which is nothing that the proxy could help.
        assert type(caught.value) is NetworkError
        assert not visit.is_rested


async def test_each_hop_of_a_redirect_goes_through_the_proxy_of_its_own_url(
    shop_site: Site,
) -> None:
    shop_site.add_page("/", status=302, headers={"Location": "http://other.example/3"})
    async with (
        HttpProxy(routes=routes(shop_site)) as one,
        HttpProxy(routes={"other.example:80": shop_site.port}) as two,
        Visit({"http://shop.example/**": one.url, "**": two.url}) as visit,
    ):
        assert (await visit.get()).url == "http://other.example/3"
    assert one.hits == ["GET http://shop.example/"]
    assert two.hits == ["GET http://other.example/3"]


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        (HttpProxy, "403 Forbidden"),
        (HttpProxy, "407 Proxy Authentication Required"),
        (Socks5Proxy, "1"),
        (Socks5Proxy, "2"),
    ],
)
async def test_a_proxy_that_does_not_do_its_work_is_rested_and_another_one_does_it(
    shop_site: Site, kind: type[HttpProxy | Socks5Proxy], fault: str
) -> None:
    """Through a tunnel, where it is plain who said what."""
    async with (
        kind(auth=("me", "secret"), routes=routes(shop_site)) as bad,
        HttpProxy(routes=routes(shop_site)) as good,
        Visit([bad.url, good.url]) as visit,
    ):
        bad.fault = fault
        with pytest.raises(ProxyError) as caught:
            await visit.get("https://shop.example/")
        assert "secret" not in str(caught.value)
        assert "secret" not in caught.value.proxy
        assert visit.proxies.pick(SHOP, Session("y", visit.clock)) == good.url
        assert (await visit.get()).status == 200
        assert good.hits == ["GET http://shop.example/"]


async def test_a_proxy_that_is_not_there_or_wants_another_password_is_rested() -> None:
    async with HttpProxy(auth=("me", "right")) as proxy:
        for url in (
            DEAD,
            f"http://me:secret@127.0.0.1:{proxy.port}",
            "socks5://a:secret@127.0.0.1:1",
        ):
            async with Visit([url]) as visit:
                with pytest.raises(ProxyError) as caught:
                    await visit.get()
                assert visit.is_rested
                with pytest.raises(ProxyError, match="rests") as again:
                    await visit.get()
                assert not any("secret" in str(error.value) for error in (caught, again))


@pytest.mark.parametrize("kind", [HttpProxy, Socks5Proxy])
async def test_a_site_that_cannot_be_reached_is_not_the_proxys_fault(
    kind: type[HttpProxy | Socks5Proxy],
) -> None:
    async with kind(routes={"shop.example:443": 1}) as proxy, Visit([proxy.url]) as visit:
        with pytest.raises(NetworkError) as caught:
            await visit.get("https://shop.example/")
        assert type(caught.value) is NetworkError
        assert not visit.is_rested


@pytest.mark.parametrize("kind", [HttpProxy, Socks5Proxy])
async def test_a_proxy_that_is_silent_is_given_up_in_time(
    kind: type[HttpProxy | Socks5Proxy],
) -> None:
    limits = Limits(idle=0.3, total=1.0)
    async with kind() as proxy, Visit([proxy.url], limits=limits) as visit:
        proxy.fault = "silent"
        with pytest.raises((FetchTimeoutError, ProxyError)):
            await visit.get()


# -- whole crawls -----------------------------------------------------------------------------


class Shop(Crawler):
    start_urls = [SHOP]
    obey_robots = False

    def parse(self, page: Page) -> None:
        page.follow("a")


async def test_a_dead_proxy_costs_no_page_and_no_retry(shop_site: Site, tmp_path: Path) -> None:
    async with HttpProxy(routes=routes(shop_site)) as proxy:
        crawler = Shop(store=str(tmp_path / "run"), proxies=[DEAD, proxy.url], max_retries=0)
        statistics = await crawler.crawl()
    assert (statistics.requests_finished, statistics.requests_failed) == (11, 0)
    assert statistics.requests_retried == 0
    assert len(proxy.hits) == 11


async def test_while_all_proxies_rest_the_crawl_waits_and_then_goes_on(
    shop_site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crawlkit.http.proxies.FIRST_REST", 0.2)
    async with HttpProxy(routes=routes(shop_site)) as proxy:

        class Breaking(Shop):
            def parse(self, page: Page) -> None:
                super().parse(page)
                if page.request.depth == 0:
                    proxy.fault = "407 Proxy Authentication Required"

        crawler = Breaking(
            store=str(tmp_path / "run"),
            proxies=[proxy.url],
            max_retries=0,
            persist_interval=0.05,
        )

        def repair() -> None:
            if len(proxy.hits) > 2:  # some were refused
                proxy.fault = None

        crawler.on("persistState", repair)
        statistics = await crawler.crawl()
    assert (statistics.requests_finished, statistics.requests_failed) == (11, 0)
    assert statistics.requests_retried == 0
    assert len(proxy.hits) > 11

"""Pages that only exist after their scripts ran are fetched, and a page can do no harm."""

from __future__ import annotations

import asyncio
import fnmatch
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from warcio.archiveiterator import ArchiveIterator

from crawlkit import Crawler, open_run
from crawlkit.clock import Clock
from crawlkit.errors import (
    FetchError,
    FetchTimeoutError,
    LimitError,
    NetworkError,
    PrivateAddressError,
    RedirectError,
    RenderError,
    UsageError,
)
from crawlkit.http.limits import Limits
from crawlkit.page import Page
from crawlkit.rendering.fetcher import BrowserFetcher
from crawlkit.request import Request
from crawlkit.sessions import Session
from crawlkit.testing import Site

from .stopwatch import Stopwatch

pytest.importorskip("playwright", reason="needs Playwright: pip install 'crawlkit[browser]'")

# One browser for most of them, in one event loop: starting it takes seconds on a busy machine.
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.needs("chromium")]

PUBLIC, PRIVATE = "127.0.0.1", "127.0.0.2"
HTML = "<!doctype html><meta charset=utf-8><title>t</title><body>"


def is_public(address: str) -> bool:
    """In these tests one address of loopback plays the public internet."""
    return address == PUBLIC


NAMES = {"other.test": [PUBLIC], "inside.test": [PRIVATE], "site.test": [PUBLIC]}
"""Names and their addresses; where there are several, each look-up takes the next one away."""


async def resolve(name: str, port: int) -> list[str]:
    addresses = NAMES.get(name, [name])
    return [addresses.pop(0) if len(addresses) > 1 else addresses[0]]


@asynccontextmanager
async def browsing(**options: Any) -> AsyncIterator[BrowserFetcher]:
    fetcher = BrowserFetcher(**{"is_public": is_public, "resolve": resolve, **options})
    await fetcher.open()
    try:
        yield fetcher
    finally:
        await fetcher.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[BrowserFetcher]:
    async with browsing(wait="load", limits=Limits(idle=10, total=20)) as fetcher:
        yield fetcher


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def loading_browser() -> AsyncIterator[BrowserFetcher]:
    """One that loads images and all."""
    async with browsing(load_resources=True, limits=Limits(idle=10, total=30)) as fetcher:
        yield fetcher


@pytest.fixture(scope="module")
def inside() -> Iterator[Site]:
    """A site at an address that is private."""
    with Site(host=PRIVATE) as running:
        running.add_page("/", f"{HTML}secret", headers={"Access-Control-Allow-Origin": "*"})
        yield running


_sessions = iter(range(1000))


def visitor() -> Session:
    """A session that nobody had."""
    return Session(f"session-{next(_sessions)}", Clock())


def script(code: str) -> str:
    return f"{HTML}<div id=out></div><script>{code}</script>"


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


# -- what it is for ---------------------------------------------------------------------------


async def test_content_that_scripts_make_is_fetched(browser: BrowserFetcher, site: Site) -> None:
    site.add_page("/", script("fetch('/data').then(r => r.text()).then(t => out.innerHTML = t)"))
    site.add_page("/data", "<p class=price>caf\u00e9 12 \u20ac</p>")
    response = await browser.fetch(Request(site.url("/"), render="networkidle"), visitor())
    assert '<p class="price">café 12 €</p>' in response.text
    assert response.url == site.url("/")
    assert response.status == 200
    assert response.content_type == "text/html"
    assert response.encoding == "utf-8"
    assert response.redirects == ()
    assert 0 < response.elapsed < 60
    assert not response.is_private
    assert response.headers["Server"].startswith("Python")


async def test_a_page_is_waited_for_until_an_element_exists(
    browser: BrowserFetcher, site: Site
) -> None:
    site.add_page("/", script("setTimeout(() => out.innerHTML = '<b class=late>x</b>', 400)"))
    site.add_page("/never", script(""))
    site.add_page("/gone", script(""), status=404)
    request = Request(site.url("/"), render="#out > b.late")
    response = await browser.fetch(request, visitor())
    assert '<b class="late">' in response.text
    # An error page is not waited for.
    gone = await browser.fetch(request.replace(url=site.url("/gone")), visitor())
    assert gone.status == 404
    with pytest.raises(FetchTimeoutError):
        await browser.fetch(
            request.replace(url=site.url("/never")), visitor(), limits=Limits(total=1.5)
        )


async def test_a_selector_that_is_none_is_a_mistake_of_the_user(
    browser: BrowserFetcher, site: Site
) -> None:
    site.add_page("/", script(""))
    request = Request(site.url("/"), render="p[")
    with pytest.raises(UsageError, match="is no CSS selector"):
        await browser.fetch(request, visitor())


async def test_what_is_no_html_comes_as_it_was_sent(browser: BrowserFetcher, site: Site) -> None:
    latin, blob = "é".encode("latin-1") * 70_000, bytes(range(256)) * 500
    site.add_page("/json", b'{"a": 1}', headers={"Content-Type": "application/json"})
    site.add_page("/latin", latin, headers={"Content-Type": "text/plain; charset=iso-8859-1"})
    site.add_page(
        "/download",
        blob,
        headers={"Content-Type": "text/html", "Content-Disposition": "attachment; filename=x"},
    )
    site.add_page("/empty", b"", status=204)
    session = visitor()
    json = await browser.fetch(Request(site.url("/json")), session)
    assert json.json() == {"a": 1}
    text = await browser.fetch(Request(site.url("/latin")), session)
    assert text.body == latin
    assert text.text == "é" * 70_000
    assert (await browser.fetch(Request(site.url("/download")), session)).body == blob
    empty = await browser.fetch(Request(site.url("/empty")), session)
    assert (empty.status, empty.body) == (204, b"")


async def test_a_status_is_no_error(browser: BrowserFetcher, site: Site) -> None:
    site.add_page("/", script("out.textContent = 'no' + 'thing'"), status=503, retry_after=7)
    response = await browser.fetch(Request(site.url("/")), visitor())
    assert response.status == 503
    assert "nothing" in response.text


async def test_a_page_that_went_wrong_comes_with_a_screenshot(
    browser: BrowserFetcher, site: Site, session: Session
) -> None:
    site.add_page("/", f"{HTML}all is well")
    site.add_page("/gone", f"{HTML}gone", status=410)
    well = Request(site.url("/"), private=True)
    gone = Request(site.url("/gone"), private=True)
    for request, has_screenshot in (
        (well, False),
        (gone, True),
        (well.replace(retry_count=1), True),  # something was wrong with it when it was last tried
    ):
        response = await browser.fetch(request, session)
        picture = response.screenshot
        assert (picture is not None) == has_screenshot
        assert picture is None or picture.startswith(b"\xff\xd8\xff")  # JPEG


async def test_a_rendered_page_is_archived_as_it_was_made(tmp_path: Path, site: Site) -> None:
    site.add_page("/", script("out.innerHTML = '<i>made</i>'"))

    class Rendered(Crawler):
        render = True
        render_wait = "load"
        obey_robots = False

        async def parse(self, page: Page) -> None:
            assert "<i>made</i>" in page.text

    path = tmp_path / "shop"
    await Rendered(start_urls=[site.url("/")], store=tmp_path / "run", warc=path).crawl()
    (name,) = fnmatch.filter(os.listdir(tmp_path), "shop-*.warc.gz")
    data = (tmp_path / name).read_bytes()
    _, page = ArchiveIterator(BytesIO(data), check_digests="raise")
    assert (page.rec_type, page.rec_headers.get_header("WARC-Target-URI")) == (
        "resource",
        site.url("/"),
    )
    assert page.rec_headers.get_header("Content-Type") == "text/html; charset=utf-8"


async def test_the_specimen_of_an_error_in_a_handler_has_a_screenshot(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first try has none, as nothing was wrong yet when the page was there; the second has."""
    monkeypatch.setattr("crawlkit.crawling.endings.backoff", lambda retries: 0.0)
    site.add_page("/", script("out.innerHTML = '<i>made</i>'"))

    class Rendered(Crawler):
        render = True
        render_wait = "load"
        max_retries = 1

        async def parse(self, page: Page) -> None:
            raise ValueError(f"no price in {page.css('i::text').get()}")

    await Rendered(start_urls=[site.url("/")], store=tmp_path / "run").crawl()
    with open_run(tmp_path / "run") as run:
        (group,) = run.errors()
        specimen = run.specimen(group.id)
    assert specimen is not None
    assert specimen.screenshot is not None
    assert (group.count, specimen.screenshot[:3]) == (2, b"\xff\xd8\xff")
    assert "<i>made</i>" in specimen.text


async def test_a_form_is_sent(browser: BrowserFetcher, site: Site) -> None:
    async def form(request: web.BaseRequest) -> str:
        return f"{HTML}{request.method} {request.headers['Content-Type']} {await request.text()}"

    site.add_page("/", form)
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    request = Request(site.url("/"), method="POST", body=b"a=1&b=2", headers=kind)
    response = await browser.fetch(request, visitor())
    assert "POST application/x-www-form-urlencoded a=1&amp;b=2" in response.text


async def test_what_a_page_cannot_be_opened_with_is_refused(browser: BrowserFetcher) -> None:
    for request in (
        Request("http://site.test/", method="PUT"),
        Request("http://site.test/", headers={"cookie": "a=b"}),
    ):
        with pytest.raises(UsageError, match="cannot be rendered"):
            await browser.fetch(request, visitor())


async def test_images_fonts_and_icons_are_not_loaded_unless_asked_for(
    browser: BrowserFetcher, loading_browser: BrowserFetcher, site: Site
) -> None:
    site.add_page(
        "/",
        f"{HTML}<style>@font-face {{font-family: f; src: url(/font)}} p {{font-family: f}}</style>"
        "<p>x<img src=/image><video src=/video autoplay></video><script src=/script></script>",
    )
    await browser.fetch(Request(site.url("/"), render="networkidle"), visitor())
    assert {hit.path for hit in site.requests} == {"/", "/script"}
    await loading_browser.fetch(Request(site.url("/"), render="networkidle"), visitor())
    assert {hit.path for hit in site.requests} >= {"/image", "/font", "/video"}


# -- sessions ---------------------------------------------------------------------------------


async def test_cookies_go_both_ways(browser: BrowserFetcher, site: Site) -> None:
    site.add_page("/", script("document.cookie = 'script=2'"), headers={"Set-Cookie": "server=1"})
    site.add_page("/out", script("document.cookie = 'script=; max-age=0'"))
    session = visitor()
    session.cookies.set("own", "0", domain=PUBLIC)
    await browser.fetch(Request(site.url("/")), session)
    assert site.requests[-1].headers["Cookie"] == "own=0"
    assert session.cookie_header(site.url("/")) == "own=0; server=1; script=2"
    # What the crawl's other fetcher took in meanwhile is there, too.
    session.store_cookies(site.url("/"), ["server=; max-age=0", "plain=3"])
    await browser.fetch(Request(site.url("/out")), session)
    assert site.requests[-1].headers["Cookie"] == "own=0; script=2; plain=3"
    assert session.cookie_header(site.url("/")) == "own=0; plain=3"
    assert [cookie.is_host_only for cookie in session.cookies if cookie.name == "plain"] == [True]


async def test_sessions_do_not_share_anything(browser: BrowserFetcher, site: Site) -> None:
    site.add_page("/", script("document.cookie = 'a=b'; localStorage.seen = 'yes'"))
    site.add_page("/look", script("out.textContent = document.cookie + '|' + localStorage.seen"))
    first, second = visitor(), visitor()
    await browser.fetch(Request(site.url("/")), first)
    assert "a=b|yes" in (await browser.fetch(Request(site.url("/look")), first)).text
    assert "|undefined" in (await browser.fetch(Request(site.url("/look")), second)).text


async def test_headers_are_for_the_origin_of_the_request_only(
    browser: BrowserFetcher, site: Site
) -> None:
    """They may be secrets, and a page loads from anywhere."""
    other = f"http://other.test:{site.port}"
    site.add_page(
        "/",
        script(
            f"Promise.all([fetch('/own'), fetch('{other}/api'), fetch('/away')]"
            ".map(p => p.catch(e => e))).then(() => out.innerHTML = '<b></b>')"
        ),
    )
    anyone = {"Access-Control-Allow-Origin": "*"}
    site.add_page("/own", "")
    site.add_page("/api", "", headers=anyone)
    site.add_page("/away", "", status=302, headers={"Location": f"{other}/there", **anyone})
    site.add_page("/there", "", headers=anyone)
    site.add_page("/leave", "", status=302, headers={"Location": f"{other}/left"})
    site.add_page("/left", script(f"fetch('{site.url('/own2')}', {{mode: 'no-cors'}})"))
    site.add_page("/own2", "")
    headers = {"X-Secret": "s", "Authorization": "Basic eDp5", "User-Agent": "me/1"}
    session = visitor()
    session.headers["X-Session"] = "t"
    session.headers["Accept-Language"] = "cy"
    for path, wait in (("/", "b"), ("/leave", "networkidle")):
        request = Request(site.url(path), headers=headers, render=wait)
        await browser.fetch(request, session)
    secret = {
        hit.path: hit.headers.get("X-Secret", "") + hit.headers.get("X-Session", "")
        for hit in site.requests
    }
    assert secret == {
        "/": "st",
        "/own": "st",
        "/api": "",
        "/away": "st",
        "/there": "",
        "/leave": "st",
        "/left": "",
        "/own2": "",
    }
    own = site.requests[0].headers
    assert (own["User-Agent"], own["Authorization"], own["Accept-Language"]) == (
        "me/1",
        "Basic eDp5",
        "cy",
    )
    assert {hit.headers["Accept-Language"] for hit in site.requests} == {"cy"}


# -- where the window may go ------------------------------------------------------------------


async def test_every_step_of_the_window_is_asked_about(browser: BrowserFetcher, site: Site) -> None:
    site.add_page("/a", "", status=301, headers={"Location": "/b"})
    site.add_page("/b", script("location = '/c'"))
    site.add_page("/c", f"{HTML}<meta http-equiv=refresh content='0; url=/d'>")
    site.add_page("/d", script("history.pushState({}, '', '/e?f#g')"))
    asked: list[tuple[str, str]] = []

    async def may_follow(source: str, target: str, is_private: bool) -> str | None:
        asked.append((source, target))
        return None

    request = Request(site.url("/a"), render="networkidle")
    response = await browser.fetch(request, visitor(), may_follow=may_follow)
    a, b, c, d = (site.url(f"/{name}") for name in "abcd")
    assert asked == [(a, b), (b, c), (c, d)]
    assert response.redirects == (a, b, c)
    assert response.url == site.url("/e?f")  # what links on the page are relative to
    assert site.hits() == 4


@pytest.mark.parametrize(
    "content",
    [
        "",
        script("location = '/no'"),
        script(
            "document.body.innerHTML='<form action=/no method=post>'; document.forms[0].submit()"
        ),
    ],
    ids=["http", "script", "form"],
)
async def test_a_step_that_is_refused_is_not_made(
    browser: BrowserFetcher, site: Site, content: str
) -> None:
    if content:
        site.add_page("/", content)
    else:
        site.add_page("/", status=302, headers={"Location": "/no"})
    site.add_page("/no", script(""))

    async def may_follow(source: str, target: str, is_private: bool) -> str | None:
        return "not here"

    request = Request(site.url("/"), render="networkidle")
    with pytest.raises(RedirectError, match="/no, which is not followed: not here"):
        await browser.fetch(request, visitor(), may_follow=may_follow)
    assert site.hits("/no") == 0


async def test_redirects_end(browser: BrowserFetcher, site: Site) -> None:
    site.add_page("/http", "", status=302, headers={"Location": "/http?"})
    site.add_page("/http?", "", status=302, headers={"Location": "/http"})
    site.add_page("/loop", "", status=302, headers={"Location": "/pool"})
    site.add_page("/pool", "", status=302, headers={"Location": "/loop"})
    site.add_page("/script", script("location.reload()"))
    for path in ("/loop", "/script"):
        site.forget()
        request = Request(site.url(path), render="networkidle")
        with pytest.raises(RedirectError, match="more than 5 redirects"):
            await browser.fetch(request, visitor(), limits=Limits(redirects=5))
        assert site.hits() == 6


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "data:text/html,x", "chrome://version", "about:blank", "blob"]
)
async def test_the_window_goes_to_web_pages_only(
    browser: BrowserFetcher, site: Site, target: str
) -> None:
    """From http the browser itself refuses some of these, and the page stays what it was."""
    where = "URL.createObjectURL(new Blob(['x']))" if target == "blob" else f"'{target}'"
    site.add_page("/", script(f"out.textContent = 'here'; location = {where}"))
    site.add_page("/http", "", status=302, headers={"Location": target})
    request = Request(site.url("/"), render="networkidle")
    try:
        response = await browser.fetch(request, visitor())
    except RedirectError:
        pass
    else:
        assert response.url == site.url("/")
        assert "here" in response.text
    if target != "blob":
        with pytest.raises(FetchError):
            await browser.fetch(Request(site.url("/http")), visitor())


# -- private addresses ------------------------------------------------------------------------


ADD = "const add = (tag, more) => out.append(Object.assign(document.createElement(tag), more));"
REACHES = {
    "fetch": "fetch('{}').catch(e => 0)",
    "image": "new Image().src = '{}'",
    "frame": "add('iframe', {{src: '{}'}})",
    "script": "add('script', {{src: '{}'}})",
    "socket": "new WebSocket('{}'.replace('http', 'ws'))",
    "worker": "new Worker(URL.createObjectURL(new Blob([`fetch('{}')`])))",
    "beacon": "navigator.sendBeacon('{}')",
    "events": "new EventSource('{}')",
    "popup": "window.open('{}')",
    "style": "add('link', {{rel: 'stylesheet', href: '{}'}})",
}


async def test_nothing_of_a_public_page_reaches_a_private_address(
    loading_browser: BrowserFetcher, site: Site, inside: Site
) -> None:
    """Neither by address nor by name, nor by a redirect, whatever the page tries."""
    anyone = {"Access-Control-Allow-Origin": "*"}
    hops = [f"/{name}" for name in REACHES]
    for hop in hops:
        site.add_page(hop, "", status=307, headers={"Location": inside.url("/"), **anyone})
    named = f"http://inside.test:{inside.port}/"
    codes = [
        code.format(target)
        for hop, code in zip(hops, REACHES.values(), strict=True)
        for target in (inside.url("/"), named, site.url(hop))
    ]
    site.add_page("/", script(ADD + ";".join(f"try {{ {code} }} catch (e) {{}}" for code in codes)))
    inside.forget()
    await loading_browser.fetch(Request(site.url("/"), render="networkidle"), visitor())
    tried = {hop for hop in hops if site.hits(hop)}
    assert tried == {*hops} - {"/popup"}  # which is refused before anything is asked for
    assert inside.hits() == 0
    # That a start request may be private gives no rights to a page that is not.
    request = Request(site.url("/"), private=True, render="networkidle")
    await loading_browser.fetch(request, visitor())
    assert inside.hits() == 0


async def test_a_public_page_cannot_lead_to_a_private_one(
    browser: BrowserFetcher, site: Site, inside: Site
) -> None:
    inside.forget()
    site.add_page("/http", "", status=302, headers={"Location": inside.url("/")})
    site.add_page("/script", script(f"location = '{inside.url('/')}'"))
    for url in (
        inside.url("/"),
        f"http://inside.test:{inside.port}/",
        f"https://inside.test:{inside.port}/",
        site.url("/http"),
        site.url("/script"),
    ):
        request = Request(url, render="networkidle")
        with pytest.raises(PrivateAddressError, match="is private"):
            await browser.fetch(request, visitor())
    with pytest.raises(PrivateAddressError):
        await browser.fetch(Request(site.url("/http"), private=True), visitor())
    assert inside.hits() == 0


async def test_a_start_request_may_be_private(browser: BrowserFetcher, inside: Site) -> None:
    inside.forget()
    inside.add_page("/start", script("fetch('/').then(r => r.text()).then(t => out.innerHTML=t)"))
    request = Request(inside.url("/start"), private=True, render="networkidle")
    response = await browser.fetch(request, visitor())
    assert "secret" in response.text
    assert response.is_private


async def test_a_private_page_that_leads_to_a_public_one_takes_no_rights_along(
    browser: BrowserFetcher, site: Site, inside: Site
) -> None:
    inside.add_page("/away", "", status=302, headers={"Location": site.url("/")})
    code = f"fetch('{inside.url('/')}').then(r => out.innerHTML = 'in', e => out.innerHTML = '<b>'"
    site.add_page("/", script(f"{code})"))
    inside.forget()
    request = Request(inside.url("/away"), private=True, headers={"X-Secret": "s"}, render="b")
    response = await browser.fetch(request, visitor())
    assert response.url == site.url("/")
    assert response.redirects == (inside.url("/away"),)
    assert not response.is_private
    assert inside.hits("/") == 0
    assert "X-Secret" not in site.requests[0].headers


async def test_names_are_looked_up_by_us_and_again_for_each_connection(
    browser: BrowserFetcher, site: Site
) -> None:
    NAMES["rebind.test"] = [PUBLIC, PRIVATE, PRIVATE]
    site.add_page("/", script("fetch('/x').catch(e => out.innerHTML = '<b>no</b>')"))
    async with Site(host=PRIVATE, port=site.port) as hidden:
        url = f"http://rebind.test:{site.port}/"
        response = await browser.fetch(Request(url, render="b"), visitor())
        assert "<b>no</b>" in response.text
        assert hidden.hits() == 0


async def test_no_datagram_goes_around_the_guard(browser: BrowserFetcher, site: Site) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind((PRIVATE, 0))
        listener.setblocking(False)
        port = listener.getsockname()[1]
        site.add_page(
            "/",
            script(
                f"const servers = [{{urls: 'stun:{PRIVATE}:{port}'}}];"
                "const c = new RTCPeerConnection({iceServers: servers});"
                "c.createDataChannel('x'); c.onicecandidate = e => e.candidate &&"
                " (out.textContent += e.candidate.candidate);"
                "c.createOffer().then(o => c.setLocalDescription(o))"
                ".then(() => setTimeout(() => out.innerHTML += '<b></b>', 1000))"
            ),
        )
        request = Request(site.url("/"), render="b")
        response = await browser.fetch(request, visitor())
        assert "127.0.0" not in response.text.partition("<script>")[0]
        with pytest.raises(BlockingIOError):
            listener.recv(1000)


# -- failures ---------------------------------------------------------------------------------


async def test_what_is_not_there_is_a_typed_error(browser: BrowserFetcher) -> None:
    with socket.socket() as held:
        held.bind((PUBLIC, 0))
        port = held.getsockname()[1]
        for scheme in ("http", "https"):
            with pytest.raises(NetworkError, match=f"no connection to site.test:{port}: Conn"):
                await browser.fetch(Request(f"{scheme}://site.test:{port}/"), visitor())


async def test_a_silent_site_ends_with_a_timeout(browser: BrowserFetcher, site: Site) -> None:
    site.add_page("/", "x", delay=30)
    took = Stopwatch(lambda: family(os.getpid()))
    with pytest.raises(FetchTimeoutError):
        await browser.fetch(Request(site.url("/")), visitor(), limits=Limits(total=1))
    assert took.seconds < 3


HOSTILE = {
    "endless loop": "for (;;) {}",
    "endless alerts": "for (;;) alert(1)",
    "endless microtasks": "(function f() { Promise.resolve().then(f) })()",
    "endless synchronous requests": "for (;;) { const x = new XMLHttpRequest();"
    " x.open('GET', '/', false); x.send() }",
    "endless popups": "setInterval(() => window.open('/'), 1); setInterval(() => print(), 5);"
    "addEventListener('beforeunload', e => e.preventDefault()); for (;;) prompt()",
}


@pytest.mark.parametrize("code", HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_hostile_page_ends_in_time_and_the_browser_goes_on(
    browser: BrowserFetcher, site: Site, code: str
) -> None:
    site.add_page("/hostile", script(f"setTimeout(() => {{ {code} }}, 20)"))
    site.add_page("/", script("out.textContent = 'f' + 'ine'"))
    session = visitor()
    took = Stopwatch(lambda: family(os.getpid()))
    with pytest.raises(FetchTimeoutError, match=r"not done within 1.5 s"):
        request = Request(site.url("/hostile"), render="#never")
        await browser.fetch(request, session, limits=Limits(total=1.5))
    assert took.seconds < 1.5 * 1.2 + 0.5
    assert "fine" in (await browser.fetch(Request(site.url("/")), session)).text


async def test_a_page_that_is_too_long_is_a_typed_error(
    browser: BrowserFetcher, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a busy machine it can take very long to close one; and the browser is killed after 10 s.
    monkeypatch.setattr("crawlkit.rendering.fetcher.CLOSE_TIMEOUT", 100.0)

    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": request.query["type"]})
        await response.prepare(request)
        while True:
            await response.write(b"<p>more</p>" * 5000)

    site.add_page("/grown", script("out.textContent = 'x'.repeat(5e5)"))
    for kind in ("text/html", "text/plain"):
        site.add_page(f"/endless?type={kind}", endless)
    site.add_page("/loads", script("fetch('/endless?type=text/plain').then(r => r.text())"))
    limits = Limits(body=200_000, total=100)
    for path in ("/grown", "/endless?type=text/html", "/endless?type=text/plain", "/loads"):
        request = Request(site.url(path), render="networkidle")
        with pytest.raises(LimitError, match=r"longer than 200000|more than 1600000"):
            await browser.fetch(request, visitor(), limits=limits)
    cut = await browser.fetch(
        Request(site.url("/grown")), visitor(), limits=Limits(body=200_000, truncate=True)
    )
    assert len(cut.body) == 200_000


async def test_a_cancelled_fetch_leaves_no_page_behind(browser: BrowserFetcher, site: Site) -> None:
    site.add_page("/", script("setInterval(() => fetch('/tick'), 20)"))
    request = Request(site.url("/"), render="#never")
    task = asyncio.ensure_future(browser.fetch(request, visitor()))
    assert await asyncio.to_thread(wait_until, lambda: site.hits("/tick") > 0)
    task.cancel()
    started = time.perf_counter()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.perf_counter() - started < 5  # and not 60
    before = -1
    async with asyncio.timeout(20):
        while before < (ticks := site.hits("/tick")):
            before = ticks
            await asyncio.sleep(0.5)


# -- its processes ----------------------------------------------------------------------------


def family(root: int) -> set[int]:
    """A process and all that came from it."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(path.parent.name)] = int(fields[1])
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def is_running(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def renderers(pids: set[int]) -> set[int]:
    return {
        pid
        for pid in pids
        if is_running(pid) and b"--type=renderer" in Path(f"/proc/{pid}/cmdline").read_bytes()
    }


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A temporary directory in which Chromium's socket has a name that is short enough."""
    with tempfile.TemporaryDirectory(prefix="ck", ignore_cleanup_errors=True) as path:
        yield Path(path)


async def test_a_browser_that_dies_is_started_again_and_none_is_left(
    site: Site, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(short_path))
    site.add_page("/", script("out.textContent = 'fine'"))
    site.add_page("/stay", script("fetch('/tick')"))
    stay = Request(site.url("/stay"), render="#never")
    others = family(os.getpid())  # the browser of other tests
    async with browsing(wait="load", limits=Limits(total=20)) as fetcher:

        async def broken_off(number: signal.Signals, whom: Callable[[int], set[int]]) -> None:
            ticks = site.hits("/tick")
            task = asyncio.ensure_future(fetcher.fetch(stay, visitor()))
            assert await asyncio.to_thread(wait_until, lambda: site.hits("/tick") > ticks)
            assert fetcher._browser is not None
            seen.update(family(fetcher._browser.pid))
            for pid in whom(fetcher._browser.pid):
                os.kill(pid, number)
            with pytest.raises(RenderError):
                await task

        seen: set[int] = set()
        await broken_off(signal.SIGKILL, lambda pid: renderers(family(pid)))
        first = fetcher._browser
        assert "fine" in (await fetcher.fetch(Request(site.url("/")), visitor())).text
        assert fetcher._browser is first  # a page crashed, and not the browser
        await broken_off(signal.SIGKILL, lambda pid: {pid})
        assert "fine" in (await fetcher.fetch(Request(site.url("/")), visitor())).text
        assert fetcher._browser is not None
        seen |= family(fetcher._browser.pid) | (family(os.getpid()) - others)
        # A browser that hangs does not hang who closes it.
        os.kill(fetcher._browser.pid, signal.SIGSTOP)
        started = time.perf_counter()
    assert time.perf_counter() - started < 15
    shared = family(os.getpid())  # of the other tests' browser
    left = seen - shared
    # An empty directory of Playwright's driver may stay where that was cut off; no profile does.
    profile = "playwright_chromiumdev_profile"
    assert await asyncio.to_thread(
        wait_until, lambda: not any(name.startswith(profile) for name in os.listdir(short_path))
    )
    assert await asyncio.to_thread(wait_until, lambda: not any(map(is_running, left)))


async def test_no_browser_outlives_a_crawler_that_is_killed(tmp_path: Path, site: Site) -> None:
    site.add_page("/", script(""))
    program = tmp_path / "program.py"
    program.write_text(
        "import asyncio\n"
        "from crawlkit.rendering.fetcher import BrowserFetcher\n"
        "from crawlkit import Request\n"
        "from crawlkit.clock import Clock\n"
        "from crawlkit.sessions import Session\n"
        "async def main():\n"
        "    fetcher = BrowserFetcher(wait='load')\n"
        f"    request = Request({site.url('/')!r}, private=True)\n"
        "    await fetcher.fetch(request, Session('s', Clock()))\n"
        "    print('ready', flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, program, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    seen = family(process.pid)
    assert len(seen) > 3
    process.kill()
    await process.wait()
    assert await asyncio.to_thread(wait_until, lambda: not any(map(is_running, seen)))


# -- composition ------------------------------------------------------------------------------


async def test_playwright_is_not_even_imported_before_a_page_is_rendered(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys, crawlkit\n"
        "asyncio.run(crawlkit.Crawler(store=sys.argv[1]).crawl())\n"
        "sys.exit('playwright' in sys.modules or 'crawlkit.rendering.fetcher' in sys.modules)\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, tmp_path / "run")
    assert await process.wait() == 0


async def test_where_there_is_no_chromium_it_says_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path))
    monkeypatch.delenv("CRAWLKIT_CHROMIUM", raising=False)
    request = Request("http://site.test/")
    async with browsing() as fetcher:
        with pytest.raises(UsageError, match="playwright install chromium, or apt-get install"):
            await fetcher.fetch(request, visitor())
    monkeypatch.setenv("CRAWLKIT_CHROMIUM", str(tmp_path / "none"))
    async with browsing() as fetcher:
        with pytest.raises(UsageError, match=r"there is no Chromium at .*none"):
            await fetcher.fetch(request, visitor())
    async with browsing(executable="/bin/false") as fetcher:
        with pytest.raises(RenderError, match="/bin/false does not start"):
            await fetcher.fetch(request, visitor())


async def test_a_crawler_renders_what_it_is_told_to(tmp_path: Path, site: Site) -> None:
    site.add_page("/", script("out.innerHTML = '<a href=/next>n</a>'"))
    site.add_page("/next", script("out.innerHTML = '<a href=/last>n</a>'"))
    site.add_page("/last", script("out.innerHTML = '<i>made</i>'"))
    seen = []

    class Rendered(Crawler):
        render = True

        async def parse(self, page: Page) -> None:
            seen.append((page.url, page.css("i::text").get()))
            page.follow("a[href='/next']")
            page.follow("a[href='/last']", render=False)

    crawler = Rendered(start_urls=[site.url("/")], store=tmp_path / "run")
    await crawler.crawl()
    assert seen == [(site.url("/"), None), (site.url("/next"), None), (site.url("/last"), None)]


async def test_what_pages_load_from_their_host_keeps_to_its_slots_and_its_robots_txt(
    tmp_path: Path, site: Site
) -> None:
    busy, most = 0, 0

    async def data(request: web.BaseRequest) -> str:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await asyncio.sleep(0.05)
        busy -= 1
        return "x"

    code = "Promise.all([1, 2, 3, 4, 5].map(n => fetch('/data', {cache: 'no-store'}))).then(() => "
    code += "fetch('/private').catch(e => 0)).then(() => out.innerHTML = '<b class=done></b>')"
    for path in ("/", "/1", "/2", "/3"):
        site.add_page(path, f"{script(code)}<a href=/1></a><a href=/2></a><a href=/3></a>")
    site.add_page("/data", data)
    site.add_page("/private", "secret")
    site.add_page("/robots.txt", "User-agent: *\nDisallow: /private")
    done = []

    class Rendered(Crawler):
        render = True
        render_wait = ".done"
        concurrency_per_host = 2

        async def parse(self, page: Page) -> None:
            done.append(page.url)
            page.follow("a")

    await Rendered(start_urls=[site.url("/")], store=tmp_path / "run").crawl()
    assert sorted(done) == [site.url(path) for path in ("/", "/1", "/2", "/3")]
    assert site.hits("/data") == 20
    assert site.hits("/private") == 0
    assert most == 2

"""The live page shows what is there, lets its user steer, and nobody else."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import aiohttp
import pytest
from aiohttp import web
from click.testing import CliRunner

from crawlkit import Crawler, Page, Run
from crawlkit.cli import main
from crawlkit.dashboard import views
from crawlkit.dashboard.access import HEADERS, Access, Refused, parse_where
from crawlkit.dashboard.server import ASSETS, CrawlSource, Dashboard, RunSource
from crawlkit.dashboard.sources import Source
from crawlkit.errors import UsageError
from crawlkit.run import open_run
from crawlkit.testing import Site

from .test_run import SITE, address, live
from .test_steering import Pages, add_failing, crawling, mend, until

__all__ = ["address"]  # a fixture


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with Site() as site:
        yield site


class Client:
    """What a browser would send, and what it must not."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self.url = url.partition("?")[0].rstrip("/")
        self.csrf = ""

    async def get(self, path: str = "/", **headers: str) -> tuple[int, str, Any]:
        async with self._http.get(f"{self.url}{path}", headers=headers) as answer:
            return answer.status, await answer.text(), answer.headers

    async def json(self, path: str) -> Any:
        status, text, _ = await self.get(path)
        assert status == 200, text
        return json.loads(text)

    async def post(
        self, action: str, form: object = None, **headers: str | None
    ) -> tuple[int, str]:
        if not self.csrf:
            _, text, _ = await self.get()
            self.csrf = text.partition('name="csrf" content="')[2].partition('"')[0]
        sent = {"Origin": self.url, "X-CSRF-Token": self.csrf}
        sent |= {name.replace("_", "-"): value for name, value in headers.items() if value}
        for name in [name for name, value in headers.items() if value is None]:
            del sent[name.replace("_", "-")]
        async with self._http.post(
            f"{self.url}/api/do/{action}", data=json.dumps(form or {}), headers=sent
        ) as answer:
            return answer.status, await answer.text()

    async def news(self, view: str = "overview") -> AsyncIterator[tuple[str, Any]]:
        async with self._http.get(f"{self.url}/api/events?view={view}") as answer:
            assert answer.status == 200, await answer.text()
            name = ""
            async for line in answer.content:
                kind, _, value = line.decode().rstrip("\n").partition(": ")
                if kind == "event":
                    name = value
                elif kind == "data":
                    yield name, json.loads(value)


@asynccontextmanager
async def served(source: Source, where: str = "0") -> AsyncIterator[Client]:
    async with Dashboard(source, where) as page, aiohttp.ClientSession() as http:
        yield Client(http, page.url)


@asynccontextmanager
async def watched(crawler: Crawler) -> AsyncIterator[Client]:
    """A crawl that goes on, and its page."""
    source = CrawlSource(crawler)
    async with crawling(crawler), served(source) as client:
        await until(lambda: crawler.statistics.requests_finished)
        yield client
    source.close()


# -- what it shows --------------------------------------------------------------------------------


async def test_news_come_while_somebody_watches_and_say_where_the_crawl_stands(
    site: Site,
) -> None:
    slow = add_failing(site)
    crawler = Pages(start_urls=[site.url("/")], store="memory:", concurrency=4)
    async with watched(crawler) as client:
        await until(lambda: crawler.statistics.requests_failed == 6)
        news = client.news()
        name, pulse = await anext(news)
        assert name == "pulse"
        assert (pulse["state"], pulse["failed"], pulse["finished"]) == ("running", 6, 1)
        assert (pulse["in_flight"], pulse["total"], pulse["limit"]) == (1, 8, 4)
        assert pulse["statuses"] == [[200, 1], [404, 1], [500, 5]]
        assert [handler["name"] for handler in pulse["handlers"]] == ["parse"]
        slow.set()
        async for _, pulse in news:
            if pulse["finished"] == 2:
                break


async def test_a_second_is_looked_at_once_however_many_watch(site: Site, address: Path) -> None:
    looks = 0

    class Counted(RunSource):
        async def pulse(self, view: str, *, whole: bool) -> dict[str, Any]:
            nonlocal looks
            looks += 1
            return await super().pulse(view, whole=whole)

    async with served(Counted(str(address))) as client:
        began = time.monotonic()
        first = await asyncio.gather(*(anext(client.news()) for _ in range(10)))
        seconds = time.monotonic() - began
        assert len({json.dumps(pulse) for _, pulse in first}) == looks <= 2 + seconds
        assert looks
        seen = 0
        async with asyncio.timeout(20):  # nobody watches any more
            while seen < looks:
                seen = looks
                await asyncio.sleep(1.1)


async def test_a_viewer_that_does_not_read_holds_nobody_up_and_is_let_go(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crawlkit.dashboard.server.PATIENCE", 0.3)
    slow = add_failing(site)
    crawler = Pages(start_urls=[site.url("/")], store="memory:", concurrency=4)
    source = CrawlSource(crawler)
    source.rest = 0.01

    async def much(view: str, *, whole: bool) -> dict[str, Any]:
        return {"at": 0, "state": "running", "padding": "x" * 2**20}

    monkeypatch.setattr(source, "pulse", much)
    async with crawling(crawler) as crawl, Dashboard(source) as page:
        port = int(page.url.rstrip("/").rpartition(":")[2])
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**10)
        writer.write(f"GET /api/events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        await until(lambda: page._viewers)
        await until(lambda: not page._viewers)
        slow.set()
        await crawl
        writer.close()
    assert crawler.statistics.requests_finished == 2
    source.close()


async def test_requests_are_found_by_outcome_host_handler_and_text(address: Path) -> None:
    async with served(RunSource(str(address))) as client:

        async def urls(query: str) -> list[str]:
            found = await client.json(f"/api/requests?{query}")
            return [row["url"].removeprefix(SITE) for row in found["rows"]]

        assert await urls("outcome=handled") == ["/"]
        assert await urls("") == ["/broken"]
        assert await urls("outcome=skipped") == ["https://elsewhere.example/"]
        assert sorted(await urls("outcome=pending")) == ["/again", "/later", "/search"]
        assert await urls("outcome=pending&text=LATER") == ["/later"]
        assert await urls("handler=parse_item") == ["/broken"]
        assert await urls("handler=parse") == []
        assert await urls("text=no%20price") == ["/broken"]
        assert await urls("host=elsewhere.example") == []
        (failed,) = (await client.json("/api/requests?outcome=failed"))["rows"]
        assert failed["detail"] == "ValueError: no price"
        assert failed["retries"] == 3
        for wrong in ("outcome=lost", "outcome=handled&after=x", "outcome=pending&after=x"):
            status, text, _ = await client.get(f"/api/requests?{wrong}")
            assert (status, "\n" in text) == (409, False)


async def test_a_search_goes_on_where_it_has_stopped_and_misses_none(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [f"/{number}" for number in range(30)]
    site.add_page("/", links=paths)
    for path in paths:
        site.add_page(path)
    await Pages(start_urls=[site.url("/")], store=tmp_path / "run", max_pages=20).crawl()
    monkeypatch.setattr(views, "PAGE", 4)
    monkeypatch.setattr(views, "SCAN", 7)
    for outcome, number in (("handled", 20), ("pending", 11)):
        for text, expected in (("", number), ("/1", None)):
            rows, after, looked = [], None, 0
            with open_run(tmp_path / "run") as run:
                while True:
                    query = views.Query(outcome=outcome, text=text, after=after)
                    found = views.requests(run, query)
                    assert len(found["rows"]) <= 4
                    assert found["looked"] <= 7
                    rows += [row["url"] for row in found["rows"]]
                    looked += found["looked"]
                    if (after := found["next"]) is None:
                        break
            assert looked == number
            assert len(rows) == len(set(rows))
            assert expected in (None, len(rows))


async def test_items_come_in_pages_and_long_values_are_cut(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Long(Pages):
        async def parse(self, page: Page) -> None:
            for number in range(5):
                page.save(
                    {"n": number, "text": "x" * 10_000, "big": 2**60, "list": list(range(100))}
                )

    site.add_page("/")
    await Long(start_urls=[site.url("/")], store=tmp_path / "run").crawl()
    monkeypatch.setattr(views, "PAGE", 2)
    async with served(RunSource(str(tmp_path / "run"))) as client:
        rows: list[Any] = []
        after = 0
        while after is not None:
            found = await client.json(f"/api/items?after={after}&handler=parse")
            rows += found["rows"]
            after = found["next"]
        assert [row["data"]["n"] for row in rows] == list(range(5))
        assert rows[0]["data"]["text"] == "x" * 300 + "… (10,000 characters)"
        assert rows[0]["data"]["list"][-1] == "… 70 more"
        assert rows[0]["data"]["big"] == str(2**60)
        assert (await client.json("/api/items?handler=none"))["rows"] == []
        assert (await client.get("/api/items?after=-1"))[0] == 409


def test_what_is_nested_without_end_is_cut() -> None:
    deep: Any = 1
    for _ in range(50):
        deep = {"a": [deep]}
    assert views.shortened(deep) == {"a": [{"a": ["{…}"]}]}
    assert len(views.shortened(dict.fromkeys(map(str, range(1000)), 1))) == 31


async def test_hosts_sessions_and_what_is_held_back_are_shown(site: Site) -> None:
    site.add_page("/", links=["/busy"])
    site.add_page("/busy", status=429, headers={"Retry-After": "60"})
    crawler = Pages(start_urls=[site.url("/")], store="memory:")
    async with watched(crawler) as client:
        await until(lambda: crawler.throttle.held_back(1))
        await crawler.job.checkpoint()
        _, pulse = await anext(client.news("hosts"))
        (held,) = pulse["held_back"]
        assert held["host"] == f"127.0.0.1:{site.port}"
        assert 50 < held["pause"] <= 60
        assert held["strikes"] == 1
        (session,) = pulse["sessions"]
        assert session["blocked"] == 1
        assert "cookie" not in json.dumps(session).replace('"cookies": false', "")
        (host,) = (await client.json("/api/hosts"))["rows"]
        assert (host["name"], host["finished"]) == (f"127.0.0.1:{site.port}", 1)


async def test_hosts_are_read_again_only_when_that_is_cheap(address: Path) -> None:
    reads = 0

    class Slow(RunSource):
        def open(self) -> Run:
            nonlocal reads
            reads += 1
            return super().open()

    async with served(Slow(str(address))) as client:
        before = reads
        for _ in range(5):
            await client.json("/api/hosts")
        assert reads == before + 1


async def test_a_finished_run_is_shown_without_what_steers(address: Path) -> None:
    async with served(RunSource(str(address))) as client:
        start = await client.json("/api/start")
        assert start["actions"] == ["retry"]
        assert start["name"] == "shop"
        _, pulse = await anext(client.news())
        assert (pulse["state"], pulse["finished"], pulse["failed"]) == ("stopped", 1, 1)
        _, pulse = await anext(client.news("errors"))
        (error,) = pulse["errors"]
        assert (error["kind"], error["message"], error["place"]) == (
            "ValueError",
            "no price",
            "shop.py:7",
        )
        status, text = await client.post("pause")
        assert (status, text) == (409, "pause is nothing that can be done with this run")


async def test_prometheus_reads_the_numbers_there_too(address: Path) -> None:
    async with served(RunSource(str(address))) as client:
        status, text, headers = await client.get("/metrics")
        assert status == 200
        assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert 'crawlkit_requests_finished_total{crawler="shop"} 1\n' in text


async def test_a_run_that_another_process_writes_is_shown_live(address: Path) -> None:
    with live(address):
        async with served(RunSource(str(address))) as client:
            _, pulse = await anext(client.news())
            assert pulse["state"] == "running"
            assert pulse["in_flight"] == 1
            (row,) = (await client.json("/api/requests?outcome=in_flight"))["rows"]
            assert row["url"] == f"{SITE}/later"
            status, text = await client.post("retry", {"all": True})
            assert status == 503
            assert "being written by process" in text


async def test_a_store_in_trouble_is_said_and_the_page_goes_on(address: Path) -> None:
    source = RunSource(str(address))
    async with served(source) as client:
        (address / "run.sqlite3").rename(address / "gone")
        name, trouble = await anext(client.news())
        assert name == "trouble"
        assert "\n" not in trouble["said"]
        (address / "gone").rename(address / "run.sqlite3")
        assert (await client.json("/api/start"))["name"] == "shop"


# -- what can be done -----------------------------------------------------------------------------


async def test_a_crawl_is_paused_widened_saved_retried_and_stopped_from_its_page(
    site: Site,
) -> None:
    slow = add_failing(site)
    crawler = Pages(start_urls=[site.url("/")], store="memory:", concurrency=4)
    async with watched(crawler) as client:
        await until(lambda: crawler.statistics.requests_failed == 6)
        assert (await client.post("pause"))[0] == 200
        assert crawler.is_paused
        _, pulse = await anext(client.news("errors"))
        assert pulse["state"] == "paused"
        (group,) = [error["id"] for error in pulse["errors"] if "500" in error["message"]]
        status, text = await client.post("retry", {"group": group})
        assert (status, json.loads(text)["count"]) == (200, 5)
        assert json.loads(text)["said"] == "5 requests are back in the queue."
        mend(site)
        assert (await client.post("resume"))[0] == 200
        await until(lambda: crawler.statistics.requests_finished == 6)
        assert (await client.post("concurrency", {"value": 7}))[0] == 200
        assert crawler.concurrency == 7
        for wrong in (0, "7", 10**9, True, None):
            assert (await client.post("concurrency", {"value": wrong}))[0] == 409
        assert "is saved" in (await client.post("checkpoint"))[1]
        assert (await client.post("retry", {}))[0] == 409
        assert (await client.post("retry", {"group": "none"}))[0] == 409
        assert (await client.post("fly"))[0] == 409
        assert (await client.post("stop"))[0] == 200
        await until(lambda: crawler.job.is_stopping)
        slow.set()


async def test_failures_of_a_run_that_nobody_writes_are_put_back_from_its_page(
    address: Path,
) -> None:
    async with served(RunSource(str(address))) as client:
        _, pulse = await anext(client.news("errors"))
        status, text = await client.post("retry", {"group": pulse["errors"][0]["id"]})
        assert (status, json.loads(text)["said"]) == (
            200,
            "1 request is back in the queue, for the next run.",
        )
        status, text = await client.post("retry", {"all": True})
        assert json.loads(text)["count"] == 0
    with open_run(address) as run:
        assert list(run.requests("failed")) == []
        assert len(list(run.requests("pending"))) == 4


# -- specimens ------------------------------------------------------------------------------------


@dataclass
class Specimen:
    url: str = "https://evil.example/<script>"
    status: int = 500
    headers: list[tuple[str, str]] = field(default_factory=lambda: [("X-A", "b\r\nX-C: d")])
    text: str = "<script>alert(1)</script>"
    screenshot: bytes | None = None
    is_cut: bool = False


async def test_a_saved_response_is_text_or_a_page_that_can_do_nothing(
    address: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Specimen()
    monkeypatch.setattr(
        Run, "specimen", lambda self, key: kept if key == "abcd" else None, raising=False
    )
    (group,) = open_run(address).errors()
    monkeypatch.setattr(Run, "saved", lambda self, name, default=None: {group.id: True})
    async with served(RunSource(str(address))) as client:
        _, pulse = await anext(client.news("errors"))
        assert [(error["specimen"], error["picture"]) for error in pulse["errors"]] == [
            (True, True)
        ]
        status, text, headers = await client.get("/specimen/abcd")
        assert (status, headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
        assert text == (
            "500 https://evil.example/<script>\nX-A: b\\r\\nX-C: d\n\n<script>alert(1)</script>"
        )
        assert headers["Content-Security-Policy"].startswith("sandbox; default-src 'none'")
        status, text, headers = await client.get("/specimen/abcd?as=page")
        assert (status, text) == (200, kept.text)
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("sandbox; default-src 'none'")
        assert "allow-" not in policy
        assert "script-src" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert (await client.get("/specimen/abcd?as=picture"))[0] == 404
        kept.screenshot = b"picture"
        _, picture, headers = await client.get("/specimen/abcd?as=picture")
        assert (picture, headers["Content-Type"]) == ("picture", "image/jpeg")
        assert (await client.get("/specimen/none"))[0] == 404


# -- who may --------------------------------------------------------------------------------------


async def test_another_site_can_neither_look_nor_steer(site: Site) -> None:
    add_failing(site)
    crawler = Pages(start_urls=[site.url("/")], store="memory:", concurrency=4)
    async with watched(crawler) as client:
        port = client.url.rpartition(":")[2]
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1:1", f"x@127.0.0.1:{port}"):
            assert (await client.get("/api/start", Host=host))[0] == 403, host
        for host in (f"localhost:{port}", f"LOCALHOST:{port}", f"127.0.0.1:{port}"):
            assert (await client.get("/api/start", Host=host))[0] == 200, host
        refused: list[dict[str, str | None]] = [
            {"Origin": "https://evil.example"},
            {"Origin": f"http://localhost:{port}"},
            {"Origin": "null"},
            {"Origin": None},
            {"X_CSRF_Token": "x"},
            {"X_CSRF_Token": None},
            {"Sec_Fetch_Site": "cross-site"},
            {"Host": f"evil.example:{port}", "Origin": f"http://evil.example:{port}"},
        ]
        for headers in refused:
            status, text = await client.post("pause", **headers)
            assert (status, "\n" in text) == (403, False), headers
        assert not crawler.is_paused
        assert (await client.get("/api/do/pause"))[0] == 405
        assert (await client.post("pause", Sec_Fetch_Site="same-origin"))[0] == 200


async def test_other_machines_need_the_token_once_and_the_cookie_then(address: Path) -> None:
    async with (
        Dashboard(RunSource(str(address)), "0.0.0.0:0") as page,
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http,
    ):
        base, _, token = page.url.partition("?token=")
        assert len(token) > 30
        port = base.rstrip("/").rpartition(":")[2]
        client = Client(http, f"http://127.0.0.1:{port}/")
        for path in ("/", "/assets/app.js", "/api/start", "/api/events", "/?token=x", "/?token=ü"):
            status, text, _ = await client.get(path)
            assert (status, text) == (
                401,
                "open the URL that the crawl has printed: it has a token",
            )
        assert (await client.post("retry", {"all": True}))[0] == 401
        status, _, headers = await client.get(f"/?token={token}")
        assert status == 200
        cookie = headers["Set-Cookie"]
        assert cookie.startswith(f"crawlkit-{port}=")
        assert cookie.endswith("; Path=/; HttpOnly; SameSite=Strict")
        assert token not in cookie
        mine = cookie.partition(";")[0]
        assert (await client.get("/api/start", Cookie=mine))[0] == 200
        assert (await client.get("/api/start", Cookie=f"{mine}x"))[0] == 401
        assert (await client.get("/api/start", Cookie=mine, Host=f"evil.example:{port}"))[0] == 403


@pytest.mark.parametrize("path", ["/", "/assets/app.js", "/api/start", "/nothing", "/api/events"])
async def test_every_answer_tells_the_browser_what_the_page_may_do(
    address: Path, path: str
) -> None:
    async with (
        Dashboard(RunSource(str(address))) as page,
        aiohttp.ClientSession() as http,
        http.get(page.url.rstrip("/") + path) as answer,
    ):
        for name, value in HEADERS.items():
            if name != "Cache-Control":
                assert answer.headers[name] == value, name
    policy = HEADERS["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "require-trusted-types-for 'script'" in policy


@pytest.mark.parametrize(
    "path", ["../server.py", "..%2Fserver.py", "%2e%2e/access.py", "index.html"]
)
async def test_nothing_but_the_assets_is_served(address: Path, path: str) -> None:
    async with served(RunSource(str(address))) as client:
        status, text, _ = await client.get(f"/assets/{path}")
        assert status == 404
        assert "import" not in text


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("8080", ("127.0.0.1", 8080)),
        (":8080", ("127.0.0.1", 8080)),
        ("0.0.0.0:1", ("0.0.0.0", 1)),
        ("[::1]:9", ("::1", 9)),
        ("box.example:0", ("box.example", 0)),
    ],
)
def test_where_it_is_served_is_a_port_or_a_host_and_a_port(
    where: str, expected: tuple[str, int]
) -> None:
    assert parse_where(where) == expected


@pytest.mark.parametrize("where", ["", "x", "8080:", "65536", "-1", "1.5", "\u0661", "a:b"])
def test_what_is_no_place_is_refused(where: str) -> None:
    with pytest.raises(UsageError, match="give a port"):
        parse_where(where)


@pytest.mark.parametrize(
    ("host", "needs_token"),
    [("127.0.0.1", False), ("127.9.9.9", False), ("::1", False), ("localhost", False)]
    + [(host, True) for host in ("0.0.0.0", "::", "192.168.1.7", "box.example")],
)
def test_only_this_machine_needs_no_token(host: str, needs_token: bool) -> None:
    access = Access(host)
    access.at(8080)
    assert (access.token is not None) == needs_token
    assert ("?token=" in access.url) == needs_token


def test_a_host_with_odd_characters_is_refused_and_nothing_breaks() -> None:
    access = Access("127.0.0.1")
    access.at(8080)
    for host in ("", "[", "[::1", "127.0.0.1:8080:8080", "127.0.0.1:x", "\udcff:8080", "a b:8080"):
        with pytest.raises(Refused):
            access.check("GET", {"Host": host})
    access.check("GET", {"Host": "[::1]:8080"})


async def test_a_form_that_is_none_is_refused(address: Path) -> None:
    async with served(RunSource(str(address))) as client:
        assert (await client.post("retry", [1]))[0] == 409
        assert (await client.post("retry", "x" * 20_000))[0] == 413


# -- where it begins and ends ---------------------------------------------------------------------


async def test_a_port_that_is_taken_is_one_line(address: Path, site: Site) -> None:
    with pytest.raises(UsageError, match=r"cannot be served at .*; choose another port"):
        async with Dashboard(RunSource(str(address)), str(site.port)):
            pass


@contextmanager
def run_with_dashboard(directory: Path, site: Site) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``crawlkit run --dashboard 0`` in a process of its own, and the URL that it prints."""
    (directory / "shop.py").write_text(
        "from crawlkit import Crawler\n"
        "class Shop(Crawler):\n"
        "    async def parse(self, page): page.follow('a')\n"
    )
    command = [sys.executable, "-m", "crawlkit", "run", "shop.py", site.url("/")]
    command += ["--dashboard", "0", "--grace", "0.5", "--no-progress"]
    with subprocess.Popen(
        command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if "live page" in line)
        yield process, line.partition("live page:   ")[2].strip()


def test_the_page_closes_with_the_crawl_and_tells_how_it_ended(tmp_path: Path) -> None:
    is_watched = threading.Event()

    async def page(request: object) -> web.Response:
        await asyncio.to_thread(is_watched.wait, 60)
        return web.Response(status=404)

    with Site() as site:
        site.add_page("/", page)
        with run_with_dashboard(tmp_path, site) as (process, url):
            told: list[tuple[str, Any]] = []
            with urlopen(f"{url}api/events?view=hosts") as news:
                for line in news:
                    name, _, value = line.decode().strip().partition(": ")
                    if name == "event":
                        told.append((value, None))
                        is_watched.set()
                    elif name == "data":
                        told[-1] = (told[-1][0], json.loads(value))
            process.communicate()
            assert process.returncode == 0
    assert told[-1] == ("end", {})
    name, pulse = told[-2]
    assert (name, pulse["state"], pulse["failed"]) == ("pulse", "finished", 1)
    for known in ("handlers", "errors", "sessions"):
        assert known in pulse, "the last news are all that there is"
    with pytest.raises(URLError):
        urlopen(url)


def test_run_has_a_live_page_with_dashboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Site() as site:
        site.add_page("/")
        Path("shop.py").write_text(
            "from crawlkit import Crawler\n"
            "class Shop(Crawler):\n"
            "    async def parse(self, page):\n"
            "        page.save({'title': page.css('title::text').get()})\n"
        )
        result = CliRunner().invoke(main, ["run", "shop.py", site.url("/"), "--dashboard", "0"])
    assert result.exit_code == 0, result.output
    assert "live page:   http://127.0.0.1:" in result.stdout
    result = CliRunner().invoke(main, ["run", "shop.py", site.url("/"), "--dashboard", "x"])
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("crawlkit: no page can be served at 'x'")


def test_dashboard_serves_a_run_until_it_is_told_to_stop(address: Path) -> None:
    command = [sys.executable, "-m", "crawlkit", "dashboard", str(address)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
        assert url is not None
        with urlopen(f"{url[0]}api/start") as answer:
            assert json.load(answer)["name"] == "shop"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    result = CliRunner().invoke(main, ["dashboard", "runs/none"])
    assert (result.exit_code, result.stdout) == (1, "")


def test_a_crawl_that_is_told_to_go_does_not_wait_for_its_viewers(tmp_path: Path) -> None:
    with Site() as site:
        site.add_page("/", delay=60)
        with (
            run_with_dashboard(tmp_path, site) as (process, url),
            urlopen(f"{url}api/events?view=overview") as news,
        ):
            assert news.readline() == b"event: pulse\n"
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            # It reads nothing more: the process ends nevertheless, and in time.
            process.communicate()
            assert process.returncode == 75
            assert time.monotonic() - began < 5


def test_the_charts_are_those_that_uplot_has_published() -> None:
    """Version 1.6.32 of the npm package, to the byte, with its licence."""
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for path in (ASSETS / "vendor").iterdir()
    }
    assert found == {
        "LICENSE.uPlot": "8f989229699b4fe2",
        "uPlot.iife.min.js": "19c8d4c6ad88929a",
        "uPlot.min.css": "df630c6a8d6f8eea",
    }

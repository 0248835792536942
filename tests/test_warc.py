"""What was fetched is archived as it was on the wire, and two other libraries read it."""

from __future__ import annotations

import gzip
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from math import inf
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from fastwarc import ArchiveIterator as FastIterator
from fastwarc import WarcRecordType
from warcio.archiveiterator import ArchiveIterator

from crawlkit import Crawler, Page, Request, open_run
from crawlkit.checkpoint import Saved, Snapshot
from crawlkit.clock import Clock
from crawlkit.errors import OptionError, UsageError
from crawlkit.exporting.warc import WarcWriter, members_of
from crawlkit.http.recording import Exchange
from crawlkit.testing import Site

from .scripted import Server
from .turnstile import Turnstile


class Shop(Crawler):
    max_retries = 0
    persist_interval = 0.05

    async def parse(self, page: Page) -> None:
        page.follow("a")


def files(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}-*.warc.gz"))


def records(path: Path) -> Iterator[tuple[str, str, Any, bytes]]:
    """Kind, URL, HTTP headers and decoded body of each record, as warcio reads them."""
    for file in files(path):
        with open(file, "rb") as stream:
            for record in ArchiveIterator(stream, check_digests="raise"):
                url = record.rec_headers.get_header("WARC-Target-URI")
                body = record.content_stream().read()
                yield record.rec_type, url, record.http_headers, body


def responses(path: Path) -> dict[str, tuple[Any, bytes]]:
    return {url: (head, body) for kind, url, head, body in records(path) if kind == "response"}


def verified(path: Path) -> Counter[str]:
    """How many records there are of each kind, whose digests fastwarc finds right."""
    kinds: Counter[str] = Counter()
    for file in files(path):
        with open(file, "rb") as stream:
            for record in FastIterator(stream, parse_http=False):
                if record.record_type != WarcRecordType.warcinfo:
                    assert record.verify_block_digest()
                kinds[str(record.record_type).rpartition(".")[2]] += 1
    return kinds


async def chunked(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/html"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    for piece in (b"<p>", b"piece by ", b"piece"):
        await response.write(piece)
    await response.write_eof()
    return response


@pytest.fixture
def shop(site: Site) -> Site:
    site.add_page("/", links=["/gzip", "/chunked", "/moved", "/gone"])
    packed = gzip.compress(b"<p>packed")
    site.add_page("/gzip", packed, headers={"Content-Encoding": "gzip", "X-Odd": "ä"})
    site.add_page("/chunked", chunked)
    site.add_page("/moved", "it has moved", status=302, headers={"Location": "/here"})
    site.add_page("/here", "<p>here")
    site.add_page("/gone", "it is gone", status=410)
    return site


def test_all_that_is_fetched_is_in_it_and_other_libraries_read_it(
    shop: Site, tmp_path: Path
) -> None:
    path = tmp_path / "archive" / "shop"
    crawler = Shop(start_urls=[shop.url("/")], store=tmp_path / "run", warc=f"{path}.warc.gz")
    assert crawler.run() == 0
    found = responses(path)
    paths = ["/", "/chunked", "/gone", "/gzip", "/here", "/moved", "/robots.txt"]
    assert sorted(found) == sorted(shop.url(each) for each in paths)
    bodies = {each: found[shop.url(each)][1] for each in paths}
    assert bodies["/gzip"] == b"<p>packed"
    assert bodies["/chunked"] == b"<p>piece by piece"
    assert bodies["/gone"] == b"it is gone"
    head = found[shop.url("/moved")][0]
    assert (head.get_statuscode(), head.get_header("Location")) == ("302", "/here")
    assert found[shop.url("/gzip")][0].get_header("Content-Encoding") == "gzip"
    assert verified(path) == {"warcinfo": 1, "response": 7, "request": 7}


def test_each_request_is_the_one_that_was_sent(shop: Site, tmp_path: Path) -> None:
    path = tmp_path / "shop"
    own = {"X-Own": "1", "Authorization": "Bearer secret"}
    form = Request(shop.url("/gone"), method="POST", body=b"q=lamp", headers=own)

    class Form(Shop):
        def start_requests(self) -> list[Request]:
            return [form]

    Form(start_urls=[shop.url("/here?a=b%20c")], store=tmp_path / "run", warc=path).run()
    sent = [hit for hit in shop.requests if hit.path != "/robots.txt"]
    requests = [each for each in records(path) if each[0] == "request"]
    assert len(requests) == len(shop.requests)
    for hit in sent:
        (head, body) = next((h, b) for _, url, h, b in requests if url == shop.url(hit.path))
        assert (head.protocol, head.statusline) == (hit.method, f"{hit.path} HTTP/1.1")
        recorded = sorted((name.lower(), value) for name, value in head.headers)
        headers = [(name.lower(), value) for name, value in hit.headers.items()]
        assert recorded == sorted(each for each in headers if each[0] != "authorization")
        assert ("authorization", "Bearer secret") in headers or hit.method == "GET"
        assert body == (b"q=lamp" if hit.method == "POST" else b"")


async def test_header_fields_keep_their_bytes_order_and_case(
    server: Server, tmp_path: Path
) -> None:
    head = b"HTTP/1.1 200 Fine\r\nx-ODD: \xe4\xff\r\nContent-Length: 2\r\nX-Odd: again\r\n\r\n"
    server.answers["/"] = head + b"ok"
    path = tmp_path / "shop"
    options: dict[str, Any] = {"store": tmp_path / "run", "warc": path, "obey_robots": False}
    await Shop(start_urls=[server.url("/")], **options).crawl()
    (file,) = files(path)
    stream = BytesIO(file.read_bytes())
    members = [record.reader.read() for record in FastIterator(stream, parse_http=False)]
    assert members[1] == head + b"ok"


def test_files_are_rotated(shop: Site, tmp_path: Path) -> None:
    path = tmp_path / "shop"
    Shop(start_urls=[shop.url("/")], store=tmp_path / "run", warc=path, warc_size=1500).run()
    found = files(path)
    ends = [file.name.removesuffix(".warc.gz").rpartition("-")[2] for file in found]
    assert ends == [f"{number:05}" for number in range(len(found))]
    assert verified(path)["response"] == 7
    assert verified(path)["warcinfo"] == len(found) > 2


def test_a_run_goes_on_with_its_own_file_and_touches_no_other(shop: Site, tmp_path: Path) -> None:
    path = tmp_path / "shop"
    options = {"warc": path, "obey_robots": False}
    one, other = tmp_path / "one", tmp_path / "other"
    Shop(start_urls=[shop.url("/gone")], store=one, **options).run()
    (first,) = files(path)
    Shop(start_urls=[shop.url("/here")], store=other, **options).run()
    (second,) = set(files(path)) - {first}
    before = second.read_bytes()
    Shop(start_urls=[shop.url("/here")], store=one, **options).run()
    assert sorted(files(path)) == sorted([first, second])
    assert second.read_bytes() == before
    aside = first.rename(tmp_path / "aside")  # as on another machine
    Shop(start_urls=[shop.url("/gzip")], store=one, **options).run()
    assert len(files(path)) == 2
    assert verified(path)["response"] == 2
    aside.rename(first)  # and back again
    Shop(start_urls=[shop.url("/chunked")], store=one, **options).run()
    assert len(files(path)) == 3
    assert verified(path)["response"] == 5


def test_two_crawls_with_one_path_have_files_of_their_own(shop: Site, tmp_path: Path) -> None:
    path = tmp_path / "shop"

    class Outer(Shop):
        async def parse(self, page: Page) -> None:
            inner = Shop(start_urls=[shop.url("/here")], store=tmp_path / "inner", warc=path)
            await inner.crawl()

    Outer(start_urls=[shop.url("/here")], store=tmp_path / "outer", warc=path).run()
    assert len(files(path)) == 2
    assert verified(path) == {"warcinfo": 2, "response": 4, "request": 4}


async def test_no_more_than_so_much_waits_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever fetches waits for a checkpoint, rather than filling memory until one comes."""
    monkeypatch.setattr("crawlkit.exporting.warc.MAX_HELD", 100_000)
    async with Site() as site:
        names = [f"/{number}" for number in range(30)]
        site.add_page("/", links=names)
        for name in names:
            site.add_page(name, bytes(range(256)) * 100)
        options: dict[str, Any] = {"persist_interval": 3600, "warc": tmp_path / "shop"}
        crawler = Shop(start_urls=[site.url("/")], store=tmp_path / "run", **options)
        held: list[int] = []
        writer = crawler._parts.warc
        assert writer is not None
        crawler.on("requestHandled", lambda: held.append(writer._held))
        await crawler.crawl()
    assert max(held) < 100_000 + 17 * 26_000
    assert verified(tmp_path / "shop")["response"] == 32


def test_an_exchange_that_cannot_be_written_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def exchange(at: float) -> Exchange:
        return Exchange(
            "http://a.example/", at, "", b"GET / HTTP/1.1\r\n\r\n", b"", b"", b"", False
        )

    assert len(members_of([exchange(0.0), exchange(1e300)])) == 1
    assert "not archived" in caplog.text


def test_without_its_extra_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crawlkit.exporting.warc.find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"crawlkit\[warc\]"):
        Shop(store="memory:", warc=tmp_path / "shop")


def test_warcio_is_not_imported_by_a_crawl_that_keeps_no_archive() -> None:
    code = "import crawlkit.crawler, sys; sys.exit('warcio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- kill -9 ---------------------------------------------------------------------------------------

CRAWL = """
import sys
from crawlkit import Crawler

class Shop(Crawler):
    persist_interval = 0.05
    warc_size = 20_000

    async def parse(self, page):
        page.follow("a")

sys.exit(Shop(start_urls=[sys.argv[1]], store=sys.argv[2], warc=sys.argv[3]).run())
"""


def test_after_kill_9_each_page_that_is_handled_has_its_record_and_none_is_torn(
    site: Site, tmp_path: Path
) -> None:
    turnstile = Turnstile()
    names = [f"/{number}" for number in range(60)]
    site.add_page("/", links=names)
    for name in names:
        site.add_page(name, turnstile.page(f"<title>{name}</title>"), delay=0.01)
    store, path = tmp_path / "run", tmp_path / "shop"
    command = [sys.executable, "-c", CRAWL, site.url("/"), str(store), str(path)]
    for _ in range(2):
        hits, turnstile.left = site.hits(), 25
        process = subprocess.Popen(command)
        deadline = time.monotonic() + 30
        while site.hits() < hits + 20 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
        process.wait()
    # What the last one left; and as it would be if it had been killed while it wrote.
    with open(files(path)[-1], "ab") as file:
        file.write(b"\x1f\x8b\x08torn")
    turnstile.left = inf
    assert subprocess.run(command, check=False).returncode == 0
    with open_run(store) as run:
        handled = {outcome.url for outcome in run.requests("handled")}
    assert len(handled) == len(names) + 1
    recorded = Counter(url for kind, url, _, _ in records(path) if kind == "response")
    assert handled <= set(recorded)
    # Again were fetched the pages in flight at each kill, and those since the checkpoint before.
    assert recorded.total() < len(names) * 2
    assert verified(path)["response"] == recorded.total()
    for archive in files(path):
        assert gzip.decompress(archive.read_bytes())


def test_a_path_that_cannot_be_written_is_refused_in_one_line(tmp_path: Path) -> None:
    async def save() -> None:
        raise AssertionError

    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="choose another path"):
        writer = WarcWriter(tmp_path / "file" / "shop", save=save, clock=Clock())
        writer.restore(Saved("warc", Snapshot()))

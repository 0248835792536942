"""Sitemaps, end to end: where a site says that its pages are, a crawl finds and keeps its place."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crawlkit import Crawler, Page, Request, open_run
from crawlkit.discovery.sitemaps import Entry
from crawlkit.testing import Site

from .faults.common import ended
from .faults.results import COUNTERS

XMLNS = 'xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"'


class Titles(Crawler):
    """Saves every title."""

    store = "memory:"
    persist_interval = 0.05

    def parse(self, page: Page) -> None:
        page.save({"title": page.css("h1::text").get()})


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with Site() as site:
        yield site


def sitemap(urls: Iterable[str]) -> bytes:
    entries = "".join(f"<url><loc>{url}</loc></url>" for url in urls)
    return f'<?xml version="1.0"?><urlset {XMLNS}>{entries}</urlset>'.encode()


def index(urls: Iterable[str]) -> bytes:
    entries = "".join(f"<sitemap><loc>{url}</loc></sitemap>" for url in urls)
    return f"<sitemapindex {XMLNS}>{entries}</sitemapindex>".encode()


def add(site: Site, path: str, body: bytes, kind: str = "application/xml") -> None:
    site.add_page(path, body, headers={"Content-Type": kind})


def titles(crawler: Crawler) -> list[str]:
    reader = crawler.job.store.reader()
    return sorted(json.loads(item.data)["title"] for item in reader.items())


def paths(site: Site) -> list[str]:
    return sorted(hit.path for hit in site.requests if hit.path != "/robots.txt")


# -- where sitemaps are found ---------------------------------------------------------------------


async def test_the_pages_of_a_sitemap_are_where_a_crawl_begins(site: Site) -> None:
    add(site, "/sitemap.xml", sitemap(map(site.url, ("/a", "/b", "/a"))))
    site.add_page("/a", links=["/c"])
    site.add_page("/b")
    crawler = Titles(sitemaps=site.url("/sitemap.xml"))
    statistics = await crawler.crawl()
    assert titles(crawler) == ["/a", "/b"]
    assert (statistics.requests_finished, statistics.requests_total) == (3, 3)
    assert statistics.requests_duplicate == 1
    assert statistics.by_handler["parse_sitemap"].requests_finished == 1


@pytest.mark.parametrize("asks", [True, False])
async def test_sitemaps_that_robots_txt_names_are_taken_where_that_is_wished(
    site: Site, asks: bool, tmp_path: Path
) -> None:
    """And once only, also where the run goes on in another life."""
    text = b"Sitemap: /sitemap.xml\nUser-agent: *\nDisallow: /b\nSitemap: /more.txt\n"
    add(site, "/robots.txt", text, "text/plain")
    add(site, "/sitemap.xml", sitemap(map(site.url, ("/a", "/b"))))
    add(site, "/more.txt", site.url("/c").encode(), "text/plain")
    for path in ("/", "/a", "/b", "/c"):
        site.add_page(path)
    for max_pages in (1, 50):
        crawler = Titles(
            start_urls=[site.url("/")],
            sitemaps_from_robots=asks,
            store=tmp_path / "run",
            max_pages=max_pages,
        )
        statistics = await crawler.crawl()
    assert titles(crawler) == (["/", "/a", "/c"] if asks else ["/"])
    assert site.hits("/sitemap.xml") == site.hits("/more.txt") == (1 if asks else 0)
    assert statistics.requests_duplicate == 0
    assert statistics.skipped_by_reason == ({"robots": 1} if asks else {})


async def test_an_index_leads_to_sitemaps_of_every_kind_and_to_further_indexes(site: Site) -> None:
    rss = (
        "<rss><channel><link>http://nowhere.example/</link>"
        f"<item><link>{site.url('/rss')}</link></item></channel></rss>"
    )
    atom = (
        '<feed xmlns="http://www.w3.org/2005/Atom">'
        f'<entry><link href="{site.url("/atom")}"/></entry></feed>'
    )
    kinds = {
        "/plain.xml": sitemap([site.url("/xml")]),
        "/packed.xml.gz": gzip.compress(sitemap([site.url("/gzip")])),
        "/list.txt": f"{site.url('/text')}\nnonsense\n".encode(),
        "/feed.rss": rss.encode(),
        "/feed.atom": atom.encode(),
        "/inner.xml": index([site.url("/deep.xml")]),
        "/deep.xml": sitemap([site.url("/deep")]),
    }
    for path, body in kinds.items():
        # What it is called says little about what it is.
        add(site, path, body, "application/octet-stream")
    outer = [site.url(path) for path in kinds if path != "/deep.xml"]
    add(site, "/sitemap.xml", index([*outer, site.url("/sitemap.xml")]))
    found = ["/atom", "/deep", "/gzip", "/rss", "/text", "/xml"]
    for path in found:
        site.add_page(path)
    crawler = Titles(sitemaps=[site.url("/sitemap.xml")])
    statistics = await crawler.crawl()
    assert titles(crawler) == found
    assert paths(site) == sorted([*found, *kinds, "/sitemap.xml"])
    assert statistics.requests_failed == 0


async def test_a_crawler_chooses_what_becomes_of_what_a_sitemap_lists(site: Site) -> None:
    body = f"""<urlset {XMLNS}>
        <url><loc>{site.url("/new")}</loc><lastmod>2026-05-01</lastmod></url>
        <url><loc>{site.url("/old")}</loc><lastmod>2020-05-01</lastmod></url>
        <url><loc>{site.url("/text")}</loc></url>
    </urlset>"""
    add(site, "/sitemap.xml", body.encode())
    for path in ("/new", "/old", "/text"):
        site.add_page(path)

    class Choosing(Titles):
        def sitemap_request(self, entry: Entry) -> Request | str | None:
            if entry.lastmod.startswith("2020"):
                return None
            if entry.url.endswith("/text"):
                return Request(entry.url, handler="parse_text", user_data={"from": "sitemap"})
            return entry.url

        def parse_text(self, page: Page) -> None:
            page.save({"title": f"text from the {page.request.user_data['from']}"})

    crawler = Choosing(sitemaps=[site.url("/sitemap.xml")])
    await crawler.crawl()
    assert titles(crawler) == ["/new", "text from the sitemap"]
    assert site.hits("/old") == 0


async def test_scope_and_depth_hold_for_what_a_sitemap_lists(site: Site) -> None:
    urls = [site.url("/a"), "https://elsewhere.example/", site.url("/b.pdf")]
    add(site, "/sitemap.xml", sitemap(urls))
    add(site, "/index.xml", index([site.url("/sitemap.xml")]))
    site.add_page("/a")
    crawler = Titles(sitemaps=[site.url("/sitemap.xml")], exclude="**/*.pdf", max_depth=1)
    statistics = await crawler.crawl()
    assert titles(crawler) == ["/a"]
    assert statistics.skipped_by_reason == {"scope": 1, "exclude": 1}
    crawler = Titles(sitemaps=[site.url("/index.xml")], max_depth=1)
    statistics = await crawler.crawl()
    assert titles(crawler) == []
    assert statistics.skipped_by_reason == {"max_depth": 3}


async def test_indexes_without_end_end_at_ten_levels(site: Site) -> None:
    for level in range(30):
        add(site, f"/{level}.xml", index([site.url(f"/{level + 1}.xml")]))
    statistics = await Titles(sitemaps=[site.url("/0.xml")]).crawl()
    assert site.hits() == 11
    assert statistics.skipped_by_reason == {"max_depth": 1}


# -- what goes wrong ------------------------------------------------------------------------------


async def test_of_a_sitemap_that_breaks_off_all_that_could_be_read_is_crawled(site: Site) -> None:
    whole = sitemap(map(site.url, ("/a", "/b", "/c")))
    add(site, "/sitemap.xml", whole[: whole.index(site.url("/c").encode())])
    site.add_page("/a")
    site.add_page("/b")
    crawler = Titles(sitemaps=[site.url("/sitemap.xml")])
    statistics = await crawler.crawl()
    assert titles(crawler) == ["/a", "/b"]
    assert (statistics.requests_failed, statistics.pending) == (1, 0)
    assert [error.kind for error in statistics.errors] == ["PageTypeError"]
    assert (site.hits("/sitemap.xml"), statistics.requests_duplicate) == (1, 0)


async def test_a_sitemap_that_is_not_there_or_none_costs_nothing_but_itself(site: Site) -> None:
    site.add_page("/a")
    site.add_page("/page")
    given = map(site.url, ("/missing.xml", "/page", "/late.xml"))
    late = sitemap([site.url("/a")])
    site.add_page("/late.xml", late, headers={"Content-Type": "text/xml"}, fail_times=1)
    crawler = Titles(sitemaps=given)
    statistics = await crawler.crawl()
    assert titles(crawler) == ["/a"]
    assert (statistics.requests_failed, statistics.requests_finished) == (2, 2)
    assert sum(error.count for error in statistics.errors) == 3
    # One that failed is tried again; one that is no sitemap would be none again.
    assert (site.hits("/late.xml"), site.hits("/page")) == (2, 1)


# -- a kill in the middle -------------------------------------------------------------------------

LISTED = """
import os, signal
from urllib.parse import urlsplit
from crawlkit import Crawler

class Listed(Crawler):
    concurrency_per_host = 16

    def on_start(self):
        self.calls = open(os.environ["CALLS"], "a", buffering=1)
        self.calls.write("life\\n")

    def sitemap_request(self, entry):
        path = urlsplit(entry.url).path
        self.calls.write(path + "\\n")
        if path == os.environ["KILLED_AT"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return entry.url

    def parse(self, page):
        page.save({"path": urlsplit(page.url).path})
"""
ENTRIES = 1800
KILLS = (130, 731, 732, 1399, 1799)
"""Before the first checkpoint of the sitemap, in the middle, there again, and at the end."""


@pytest.fixture
def listed() -> Iterator[Site]:
    """Of most pages robots.txt says not to fetch them, so that it does not take long."""
    with Site() as site:
        add(site, "/robots.txt", b"User-agent: *\nDisallow: /no/\nSitemap: /index.xml")
        pages = [f"/{'page' if n % 9 == 0 else 'no'}/{n}" for n in range(ENTRIES)]
        pages[50::100] = ["/page/0"] * len(pages[50::100])  # listed again and again
        add(site, "/index.xml", index(map(site.url, ("/1.xml.gz", "/2.xml"))))
        add(site, "/1.xml.gz", gzip.compress(sitemap(map(site.url, pages))))
        add(site, "/2.xml", sitemap(map(site.url, ("/page/0", "/page/last"))))
        for path in (*pages, "/", "/page/last"):
            if not path.startswith("/no/"):
                site.add_page(path)
        yield site


def life(directory: Path, name: str, site: Site, killed_at: str = "") -> int:
    """A life of the crawl in a process of its own; its exit code."""
    file = directory / "listed.py"
    file.write_text(LISTED)
    command = [sys.executable, "-m", "crawlkit", "run", str(file), site.url("/"), "--no-progress"]
    command += ["--store", str(directory / name), "--set", "sitemaps_from_robots=true"]
    environment = {"CALLS": str(directory / f"{name}.calls"), "KILLED_AT": killed_at}
    with open(directory / f"{name}.log", "ab") as log:
        return ended(
            subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **environment})
        )


def held(directory: Path) -> dict[str, Any]:
    """What a finished run holds, but for times."""
    with open_run(directory) as run:
        statistics = run.statistics.to_dict()
        return {
            "counters": {name: statistics[name] for name in COUNTERS},
            "handlers": {
                handler: {name: n for name, n in row.items() if name != "duration_sum"}
                for handler, row in statistics["by_handler"].items()
            },
            "items": Counter(item["path"] for item in run.items()),
            "outcomes": Counter(
                (name, o.url, o.handler, o.status, o.retries, o.detail)
                for name in ("handled", "failed", "skipped", "pending")
                for o in run.requests(name)
            ),
        }


def test_a_crawl_that_is_killed_within_a_sitemap_loses_nothing_and_takes_nothing_twice(
    listed: Site, tmp_path: Path
) -> None:
    assert life(tmp_path, "undisturbed", listed) == 0
    whole = held(tmp_path / "undisturbed")
    assert whole["counters"]["requests_dropped"] > 1000
    assert set(whole["items"].values()) == {1}
    listed.forget()
    for place in KILLS:
        code = life(tmp_path, "killed", listed, f"/{'page' if place % 9 == 0 else 'no'}/{place}")
        assert code == -9, (tmp_path / "killed.log").read_text()
    assert life(tmp_path, "killed", listed) == 0
    assert held(tmp_path / "killed") == whole
    # It was fetched in each life, and read on from where the last checkpoint left off.
    assert listed.hits("/1.xml.gz") == len(KILLS) + 1
    calls = (tmp_path / "killed.calls").read_text().split("life\n")[1:]
    firsts = [int(call.partition("/no/")[2].partition("\n")[0]) for call in calls]
    assert firsts == [1, 1, 500, 500, 1000, 1500]

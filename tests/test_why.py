"""Every URL has an answer to what became of it, with the rule, the line and the page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from crawlkit import Crawler, Page, open_run
from crawlkit.cli import main
from crawlkit.testing import Site


class Shop(Crawler):
    max_retries = 0
    concurrency = 1

    async def parse(self, page: Page) -> None:
        page.follow("a")
        if page.url.endswith("/broken"):
            raise ValueError("no price")


@pytest.fixture
def store(site: Site, tmp_path: Path) -> Path:
    """A run in which something of everything has happened."""
    links = [
        "/1",
        "/broken",
        "/cart/1",
        "/item/1",
        "/item/2",
        "/secret/1",
        "/print?page=1",
        "https://elsewhere.example/",
    ]
    site.add_page("/robots.txt", "User-agent: *\nDisallow: /secret/\n")
    site.add_page("/", links=links)
    site.add_page("/1", links=["/2", *(f"/many/{n}" for n in range(10))])
    for path in ("/broken", "/item/1", "/item/2"):
        site.add_page(path)
    Shop(
        start_urls=[site.url("/")],
        store=tmp_path / "run",
        max_depth=1,
        max_links=9,
        exclude=["**/cart/**", re.compile("[?]page=")],
        budgets={"**/item/*": 1},
    ).run()
    return tmp_path / "run"


def why(store: Path, url: str) -> str:
    result = CliRunner().invoke(main, ["why", str(store), url])
    assert result.exit_code == 0, result.output
    return result.output.splitlines()[0]


@pytest.mark.parametrize(
    ("url", "answer"),
    [
        ("{site}/", r"{site}/: handled at \S+ by parse, HTTP status 200"),
        ("{site}/x/../1#top", r"{site}/x/../1#top is a duplicate of {site}/1: handled"),
        (
            "{site}/broken",
            r"failed at \S+ in parse: ValueError: no price, .* \(group [0-9a-f]{8}\)$",
        ),
        ("{site}/cart/1", r"skipped at \S+: exclude: \*\*/cart/\*\*, on {site}/$"),
        ("{site}/print?page=1", r"exclude: re:\[\?\]page=, on {site}/$"),
        ("https://elsewhere.example/", r"scope: same-host, on {site}/$"),
        ("{site}/2", r"max_depth: 1, on {site}/1$"),
        ("{site}/secret/1", r"robots: Disallow: /secret/ \(line 2\) of {site}/robots.txt$"),
        ("{site}/item/2", r"budget: 1 of \*\*/item/\*$"),
        ("{site}/many/9", r"never seen.*or it is one of the 2 links skipped by max_links"),
    ],
)
def test_every_url_has_an_answer(store: Path, site: Site, url: str, answer: str) -> None:
    base = site.url("")
    pattern = answer.replace("{site}", re.escape(base))
    assert re.search(pattern, why(store, url.replace("{site}", base)))


def test_a_link_that_no_pattern_includes_says_which_there_are(site: Site, tmp_path: Path) -> None:
    site.add_page("/", links=["/x"])
    patterns = [f"**/{name}" for name in "abcde"]
    Shop(start_urls=[site.url("/")], store=tmp_path / "run", include=patterns).run()
    told = why(tmp_path / "run", site.url("/x"))
    assert f"include: it matches none of **/a, **/b, **/c and 2 more, on {site.url('/')}" in told


async def test_what_is_pending_says_until_when_and_why(tmp_path: Path) -> None:
    async with Site() as site:
        site.add_page("/", links=["/1", "/2"])
        site.add_page("/1", status=503, headers={"Retry-After": "3000"})
        site.add_page("/2", status=503, headers={"Retry-After": "3000"})
        crawler = Shop(start_urls=[site.url("/")], store=tmp_path / "run", grace=0.1)

        def stop() -> None:
            if site.hits("/1") or site.hits("/2"):
                crawler.job.stop(0)

        crawler.on("persistState", stop)
        await crawler.crawl()
    for path in ("/1", "/2"):
        told = why(tmp_path / "run", site.url(path))
        assert "pending, for parse: 127.0.0.1:" in told
        assert re.search(r"has asked to be left alone for a while, not before \d{4}-", told)
    with open_run(tmp_path / "run") as run:
        due = run.why(site.url("/1")).due
        assert due is not None
        assert due - run.why(site.url("/")).at > 2900  # type: ignore[operator]

"""Real pages behind a real server: the documentation of Python 3.11, served by nginx."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pytest

from crawlkit import Crawler, Page, open_run

from .bench.nginx import nginx
from .conftest import PYTHON_DOCS, is_installed

PACKAGES = ("nginx", "python3.11-doc")


class Documentation(Crawler):
    async def parse(self, page: Page) -> None:
        if page.response.content_type == "text/html":
            page.save({"url": page.url, "title": page.css("title::text").get()})
            page.follow("a")


# -- the same by other means: the files, the standard library, and nothing of crawlkit -------------


@dataclass
class Found:
    """What can be reached from the index: titles of pages, other files, and links to nothing."""

    titles: dict[str, str] = field(default_factory=dict)
    others: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)


class PageParser(HTMLParser):
    """The first title and the links of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.title = ""
        self.links: list[str] = []
        self._titles = 0
        self._is_in_title = False

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.links += [value for name, value in attributes if name == "href" and value]
        elif tag == "title":
            self._titles += 1
            self._is_in_title = self._titles == 1

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._is_in_title = False

    def handle_data(self, data: str) -> None:
        if self._is_in_title:
            self.title += data


def search_breadth_first(root: Path, start: str) -> Found:
    site = "http://files.example"
    found = Found()
    queue = deque([start])
    seen = {start}
    while queue:
        path = queue.popleft()
        file = root / unquote(path).lstrip("/")
        if not file.is_file():
            found.broken.add(path)
        elif file.suffix != ".html":
            found.others.add(path)
        else:
            parser = PageParser()
            parser.feed(file.read_text(encoding="utf-8"))
            parser.close()
            found.titles[path] = parser.title
            for link in parser.links:
                parts = urlsplit(urljoin(site + path, link.strip()))
                target = parts.path + (f"?{parts.query}" if parts.query else "")
                if f"{parts.scheme}://{parts.netloc}" == site and target not in seen:
                    seen.add(target)
                    queue.append(target)
    return found


# -- the promise ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    missing = " ".join(name for name in PACKAGES if not is_installed(name))
    if missing and os.environ.get("CI") == "true":
        pytest.fail(f"needs {missing}: apt-get install {missing}", pytrace=False)
    if missing:
        pytest.skip(f"needs {missing}: apt-get install {missing}")
    with nginx(PYTHON_DOCS, tmp_path_factory.mktemp("nginx")) as url:
        yield url


def test_a_documentation_site_is_crawled_whole_and_each_page_once(
    site: str, tmp_path: Path
) -> None:
    """A crawl finds the pages, with titles, that a search over the files finds, and no others."""
    crawl = Documentation(start_urls=[f"{site}/index.html"], store=tmp_path / "run")
    assert crawl.run() == 0

    expected = search_breadth_first(PYTHON_DOCS, "/index.html")
    assert len(expected.titles) > 500
    with open_run(tmp_path / "run") as run:
        items = [(item["url"].removeprefix(site), item["title"]) for item in run.items()]
        handled = {outcome.url.removeprefix(site) for outcome in run.requests("handled")}
        failed = {outcome.url.removeprefix(site) for outcome in run.requests("failed")}
        statistics = run.statistics
    assert sorted(items) == sorted(expected.titles.items())
    assert handled == expected.titles.keys() | expected.others
    assert failed == expected.broken
    assert statistics.requests_finished == len(handled)
    assert statistics.items_saved == len(items)
    assert statistics.pending == 0

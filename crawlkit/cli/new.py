"""new: a first crawler."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

import click

from ..errors import CrawlkitError, UsageError
from ..urls import canonical
from .verbs import Verb, program

SITE = "https://quotes.toscrape.com/"
"""A site that was made for learning to crawl."""

_CRAWLER = '''\
"""Crawls {url}

Try it:           crawlkit run {module}.py --max-pages 5 --show
Run it:           crawlkit run {module}.py
Stop it:          Ctrl-C, and run it again to go on
See the items:    crawlkit items runs/{name}
See how it went:  crawlkit stats runs/{name}
"""

from crawlkit import Crawler, Page


class {cls}(Crawler):
    name = "{name}"
    start_urls = ["{url}"]
    max_pages = 50  # until it does what it should

    async def parse(self, page: Page) -> None:
        page.save({{"url": page.url, "title": page.css("title::text").get()}})
        page.follow("a")  # a CSS selector; what leads to other hosts is left out
'''

_TEST = """\
\"""Tests of {module}.py, without a network. Run them: python -m pytest test_{module}.py\"""

from pathlib import Path

from crawlkit import open_run
from crawlkit.testing import Site, handle

from {module} import {cls}

# A page to try handlers on. This saves one of the site: crawlkit shell URL -c page.text > page.html
PAGE = \"""\\
<!doctype html>
<title>A page</title>
<p><a href="/next">Next page</a> <a href="https://elsewhere.example/">Elsewhere</a></p>
\"""


def test_a_page_gives_its_title_and_leads_on() -> None:
    done = handle({cls}, "parse", PAGE, url="https://site.example/")
    assert done.items == [{{"url": "https://site.example/", "title": "A page"}}]
    assert [link.url for link in done.links] == ["https://site.example/next"]


def test_every_page_of_a_site_is_found_once(site: Site, tmp_path: Path) -> None:
    site.add_page("/", '<title>Front</title> <a href="/a">A</a>')
    site.add_page("/a", '<title>A</title> <a href="/">Front</a>')
    {cls}(start_urls=[site.url("/")], store=tmp_path).run()
    with open_run(tmp_path) as run:
        assert sorted(item["title"] for item in run.items()) == ["A", "Front"]
"""


@click.command(cls=Verb)
@click.argument("name")
@click.option("--url", metavar="URL", default=SITE, show_default=True, help="Where it starts.")
def new(name: str, url: str) -> None:
    """Write a first crawler, NAME.py, and a test of it. Nothing is ever overwritten."""
    module = name.removesuffix(".py").replace("-", "_").lower()
    if not module.isascii() or not module.isidentifier() or keyword.iskeyword(module):
        near = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_").lower()
        is_good = near.isidentifier() and not keyword.iskeyword(near)
        raise UsageError(
            f"{name!r} cannot name a Python module; use letters, such as "
            f"'{near if is_good else 'shop'}'"
        )
    values = {
        "module": module,
        "name": module.replace("_", "-"),
        "cls": "".join(part.capitalize() for part in module.split("_")),
        "url": canonical(url),
    }
    files = {
        Path(f"{module}.py"): _CRAWLER.format(**values),
        Path(f"test_{module}.py"): _TEST.format(**values),
    }
    for path in files:
        if path.exists():
            raise UsageError(f"{path} exists already; choose another name, or move it away")
    for path, text in files.items():
        try:
            with open(path, "x", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise CrawlkitError(
                f"{path} cannot be written: {error.strerror or error}; go to a directory of yours"
            ) from None
        click.echo(f"{path} written")
    click.echo(f"try it with:  {program()} run {module}.py --max-pages 5 --show")
    click.echo(f"test it with: python -m pytest test_{module}.py   (pip install pytest)")

"""At its end a run says what there is to say, and with --show what each page gave."""

from __future__ import annotations

import logging
import re
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from crawlkit.cli import main
from crawlkit.cli.logs import LineFormatter
from crawlkit.testing import Site

CRAWLER = """\
from dataclasses import dataclass
from crawlkit import Crawler

@dataclass
class Product:
    title: str
    price: float

class Shop(Crawler):
    max_retries = 1
    exclude = ["**/private"]
    cache_dir = "pages"

    async def parse(self, page):
        page.follow("a")
        page.follow("a.product", handler=self.parse_product)

    async def parse_product(self, page):
        page.save({"title": page.css("h1::text").get(), "price": 3})
        page.update_state(lambda state: state.update(seen=1))
        if page.css(".typed"):
            self.items_are_typed()

class Typed(Shop):
    item_type = Product

    async def parse_product(self, page):
        page.save({"title": "Lamp", "price": "dear"})
        page.save(Product("Lamp", 3))

class Failing(Shop):
    max_retries = 0

    async def parse(self, page):
        raise {1: KeyError, 2: ValueError, 3: TypeError, 4: OSError, 5: LookupError}[
            len(page.request.url) % 5 + 1
        ]("wrong")
"""


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("shop.py").write_text(CRAWLER)


@pytest.fixture
def shop(site: Site) -> Site:
    site.add_page(
        "/",
        "<a href=/lamp class=product>Lamp</a><a href=/private>P</a><a href=http://x.test/>X</a>"
        + "".join(f"<a href=/{n}>{n}</a>" for n in range(8)),
    )
    site.add_page("/lamp", "<h1>Lamp</h1>", headers={"Content-Type": "text/html"})
    for number in range(8):
        site.add_page(f"/{number}", links=[])
    return site


def run(*words: object) -> str:
    result = CliRunner().invoke(main, ["run", *map(str, words)])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_what_was_left_out_is_told_by_rule(shop: Site) -> None:
    text = run("shop.py:Shop", shop.url("/"))
    assert re.search(r"^skipped: +2 links \(1 exclude, 1 scope\)$", text, re.MULTILINE)


def test_pages_from_the_cache_are_told(shop: Site) -> None:
    run("shop.py:Shop", shop.url("/"), "--set", "cache=forever", "--store", "one")
    text = run("shop.py:Shop", shop.url("/"), "--set", "cache=forever", "--store", "two")
    assert re.search(r"^from cache: +10 of 10 pages$", text, re.MULTILINE)


def test_a_crawl_that_saved_nothing_says_how_to_save_something(shop: Site) -> None:
    text = run("shop.py:Shop", shop.url("/1"))
    assert "items:       none was saved; page.save(...) in a handler does that" in text
    assert "crawlkit items" not in text


def test_a_crawl_that_had_nothing_to_do_says_what_is_missing() -> None:
    assert "there was no URL to begin with; set start_urls, or name URLs" in run("shop.py:Shop")


def test_the_most_frequent_errors_are_told_with_an_example_and_the_others_counted(
    shop: Site,
) -> None:
    for number in range(12):
        shop.add_page("/" + "x" * number)
    urls = [shop.url("/" + "x" * number) for number in range(12)]
    text = run("shop.py:Failing", *urls)
    lines = text.partition("most errors:")[2].splitlines()
    assert re.fullmatch(r" 3 x \w+: '?wrong'? \(shop.py:\d+\), as at http://\S+", lines[0])
    assert lines[3].strip() == "and 2 kinds more"


def test_a_limit_of_pages_that_was_met_says_how_to_get_more(shop: Site) -> None:
    text = run("shop.py:Shop", shop.url("/"), "--max-pages", 2)
    more = re.search(r"^go on with: +\S+ run (shop.py:Shop .* --max-pages 20)$", text, re.MULTILINE)
    assert more
    assert "0 pending" in run(*more[1].split())


def test_requests_that_are_given_up_have_a_line_each_as_long_as_it_says_something(
    shop: Site, caplog: pytest.LogCaptureFixture
) -> None:
    urls = [shop.url(f"/none/{number}") for number in range(10)]
    with caplog.at_level(logging.WARNING):
        run("shop.py:Shop", *urls)
    told = [line for line in caplog.messages if line.startswith("gave up")]
    assert len(told) == 3
    assert "counted, see 'crawlkit failed runs/shop ls'" in told[2]


def test_a_log_in_json_ends_with_the_numbers_of_the_summary(
    shop: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        run("shop.py:Shop", shop.url("/"), shop.url("/none"), "--log-format", "json")
        run("shop.py:Shop", shop.url("/"), "--store", "other")
    (record,) = [record for record in caplog.records if record.name == "crawlkit.run"]
    told = vars(record)
    assert (record.getMessage(), told["exit_code"]) == ("finished shop", 0)
    assert (told["requests_finished"], told["requests_failed"], told["pending"]) == (10, 1, 0)
    assert told["errors"][0]["kind"] == "StatusError"


@pytest.mark.parametrize(
    ("is_terminal", "start"), [(True, "{0:%H:%M:%S} "), (False, "{0:%Y-%m-%d} ")]
)
def test_a_log_that_is_kept_has_the_day(is_terminal: bool, start: str) -> None:
    record = logging.makeLogRecord({"msg": "told", "levelname": "INFO", "name": "part"})
    line = LineFormatter(dated=not is_terminal).format(record)
    assert line.startswith(start.format(datetime.fromtimestamp(record.created)))
    assert line.endswith(" INFO part: told")


def test_every_request_has_a_line_in_a_debug_log(
    shop: Site, caplog: pytest.LogCaptureFixture
) -> None:
    shop.add_page("/shy", fail_times=1)
    with caplog.at_level(logging.DEBUG, "crawlkit.requests"):
        run("shop.py:Shop", shop.url("/"), shop.url("/shy"))
    records = [record for record in caplog.records if record.name == "crawlkit.requests"]
    text = "\n".join(record.getMessage() for record in records)
    assert f"200 {shop.url('/lamp')}, for parse in" in text
    assert re.search(rf"^again in [\d.]+ s: {shop.url('/shy')}: HTTP 500", text, re.MULTILINE)
    assert "skipped http://x.test/: scope" in text
    handled: Any = next(r for r in records if "status" in vars(r))
    assert (handled.status, handled.handler) == (200, "parse")


def test_a_host_that_asks_to_be_left_alone_is_named(
    shop: Site, caplog: pytest.LogCaptureFixture
) -> None:
    shop.add_page("/busy", fail_times=1, fail_status=503, retry_after=6)
    with caplog.at_level(logging.INFO, "crawlkit.politeness"):
        run("shop.py:Shop", shop.url("/busy"), *["--set", "max_retries=0", "--set", "max_pauses=0"])
    (line,) = [line for line in caplog.messages if "left alone" in line]
    assert re.search(r"is left alone for (6.00|5.\d+) s", line)
    assert "HTTP 503" in line


# -- run --show ---------------------------------------------------------------------------------


def test_each_page_is_shown_with_its_items_and_where_it_leads(shop: Site) -> None:
    text = run("shop.py:Shop", shop.url("/"), "--show", "--set", "max_depth=1")
    front, lamp = text.split("200 ")[1], text.split(f"200 {shop.url('/lamp')}")[1]
    assert "follow  9 links for parse\n" in front
    assert f"    {shop.url('/lamp')}\n" in front
    assert "    and 4 more\n" in front
    assert f"skip    1 link by duplicate\n    {shop.url('/lamp')}\n" in front
    assert f"skip    1 link by exclude\n    {shop.url('/private')}\n" in front
    assert "skip    1 link by scope\n    http://x.test/\n" in front
    assert "nothing: no item was saved and no link followed" in text
    assert "  follow  no link for parse: what was to be followed is not there\n" in lamp
    assert "parse" in lamp


def test_items_state_and_errors_of_a_page_are_shown(shop: Site) -> None:
    shop.add_page("/", "<a href=/lamp class=product>Lamp</a>")
    shop.add_page("/gone", status=404)
    run_of = ["--show", "--set", "max_depth=0"]
    shown = run("shop.py:Shop", shop.url("/gone"), *run_of)
    assert f"failed {shop.url('/gone')}  HTTP 404" in shown
    Path("shop.py").write_text(CRAWLER.replace('page.follow("a")', "pass"))
    shown = run("shop.py:Typed", shop.url("/"), "--show", "--store", "typed")
    assert '  item\n    title  "Lamp"\n    price  3.0\n' in shown
    assert "  error   " in shown
    shown = run("shop.py:Shop", shop.url("/"), "--show", "--store", "plain")
    assert '  item\n    title  "Lamp"\n    price  3\n' in shown
    assert "  state   1 change\n" in shown


def test_links_that_a_page_asks_not_to_follow_are_shown_as_such(shop: Site) -> None:
    shop.add_page("/", "<a href=/lamp>Lamp</a>", headers={"X-Robots-Tag": "nofollow"})
    shown = run("shop.py:Shop", shop.url("/"), "--show")
    assert f"skip    1 link by nofollow\n    {shop.url('/lamp')}\n" in shown

"""Every example does what its first lines say, as a process of its own; killed, it goes on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import crawlkit
from crawlkit.testing import Site
from crawlkit.testing.shop import ShopSite

EXAMPLES = Path(__file__).parent.parent / "examples"


class Example:
    """An example, run in a directory of its own."""

    def __init__(self, directory: Path, script: str, *arguments: str, crawler: bool = True) -> None:
        path = str(EXAMPLES / script)
        runner = ["-m", "crawlkit", "run"] if crawler else []
        self.command = [sys.executable, *runner, path, *arguments]
        self.directory = directory

    @contextmanager
    def started(self) -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(
            self.command,
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def run(self) -> str:
        """Run it to its end; what it printed."""
        with self.started() as process:
            output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        return output

    def interrupt(self, number: signal.Signals, *, when: Iterator[bool]) -> str:
        """Run it until `when` says so, and send the signal; what it printed."""
        with self.started() as process:
            while not next(when):
                assert process.poll() is None, process.communicate()[0]
                time.sleep(0.02)
            process.send_signal(number)
            output, _ = process.communicate(timeout=30)
        expected = -signal.SIGKILL if number == signal.SIGKILL else 75
        assert process.returncode == expected, output
        return output


def after(seconds: float) -> Iterator[bool]:
    until = time.monotonic() + seconds
    while True:
        yield time.monotonic() >= until


def when_hits(site: Site, count: int) -> Iterator[bool]:
    while True:
        yield site.hits() >= count


def items_of(run: Path) -> list[dict[str, Any]]:
    with crawlkit.open_run(run) as opened:
        return list(opened.items())


def expected_offers(shop: ShopSite) -> Counter[tuple[str, str, str]]:
    return Counter(
        (offer.product.title, offer.seller, offer.price) for offer in shop.offers_to_find
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_quickstart_can_be_stopped_and_finds_every_offer_once(
    tmp_path: Path, number: signal.Signals
) -> None:
    example = Example(tmp_path, "quickstart.py", "--set", "delay=0.005")
    example.interrupt(number, when=after(3.0))
    first = items_of(tmp_path / "runs/quickstart")
    output = example.run()
    items = items_of(tmp_path / "runs/quickstart")
    assert 0 < len(first) < len(items)
    assert "resuming quickstart" in output
    found = Counter((item["product"], item["seller"], item["price"]) for item in items)
    assert found == expected_offers(ShopSite())


def test_the_quickstart_says_what_to_do_when_its_port_was_taken_meanwhile(tmp_path: Path) -> None:
    example = Example(tmp_path, "quickstart.py")
    example.interrupt(signal.SIGINT, when=after(3.0))
    with crawlkit.open_run(tmp_path / "runs/quickstart") as run:
        port = run.value("port")
    with Site(port=port), example.started() as process:
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 2
    assert f"port {port} is taken; free it, or start anew with --fresh" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_plain_program_keeps_its_place(tmp_path: Path, number: signal.Signals) -> None:
    text = tmp_path / "text"
    text.write_text("one two three\n" * 70)
    example = Example(tmp_path, "keep_place.py", str(text), crawler=False)
    example.interrupt(number, when=after(2.5))
    with crawlkit.open_run(tmp_path / "runs/keep_place") as run:
        place = run.state["place"]
    assert 0 < place < 70
    output = example.run()
    assert f"from line {place + 1} of 70" in output
    assert "210 words in 70 lines" in output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_offers_are_counted_once_over_a_migration(
    tmp_path: Path, shop: ShopSite, number: signal.Signals
) -> None:
    example = Example(tmp_path, "offers_per_product.py", shop.url(), "--set", "delay=0.01")
    interrupted = example.interrupt(number, when=when_hits(shop, 250))
    if number == signal.SIGTERM:
        assert "the count goes on elsewhere" in interrupted
    output = example.run()
    expected = Counter(offer.product.path for offer in shop.offers_to_find)
    with crawlkit.open_run(tmp_path / "runs/offers") as run:
        counts = {
            name.removeprefix("offers-per-product/"): json.loads(document.data)
            for name, document in run.documents()
            if name.startswith("offers-per-product/")
        }
    assert counts == expected
    reports = re.findall(r"(\d+) offers of (\d+) products", output)
    assert 0 < int(reports[0][0]) < int(reports[-1][0])
    assert reports[-1] == (str(expected.total()), str(len(expected)))


def test_the_count_is_logged_every_ten_seconds(tmp_path: Path, shop: ShopSite) -> None:
    example = Example(tmp_path, "offers_per_product.py", shop.url(), "--set", "delay=0.1")
    output = example.interrupt(signal.SIGTERM, when=after(14))
    times = [line[:8] for line in output.splitlines() if " offers of " in line]
    assert len(times) == 3  # at the start, after ten seconds, and at the migration


def test_statistics_are_in_the_items_and_errors_are_kept_by_url(
    tmp_path: Path, shop: ShopSite
) -> None:
    example = Example(tmp_path, "statistics_in_items.py", shop.url(), "--set", "delay=0.01")
    example.interrupt(signal.SIGTERM, when=when_hits(shop, 300))
    example.run()
    items = items_of(tmp_path / "runs/offers")
    assert {item["offer"] for item in items} == {
        f"Offer {offer.number}" for offer in shop.offers_to_find
    }
    assert {"offer", "price", "handled_at", "retries", "pending"} == items[0].keys()
    assert {0, 1, 2} <= {item["retries"] for item in items}
    assert max(item["pending"] for item in items) > 10
    assert all(re.match(r"\d{4}-\d\d-\d\dT", item["handled_at"]) for item in items)
    with crawlkit.open_run(tmp_path / "runs/offers") as run:
        errors = run.value("errors")
    given_up = {url for url, texts in errors.items() if "given up" in texts[-1]}
    assert given_up == {shop.url(path) for path in shop.broken}
    assert any(len(texts) == 2 for texts in errors.values() if "500" in texts[0])


def test_a_documentation_site_is_crawled_with_its_titles(tmp_path: Path, site: Site) -> None:
    html = "<title> The {0} guide </title><h1>The <em>{0}</em></h1><h2>Use</h2><a href='{1}'>x</a>"
    site.add_page("/", html.format("first", "sub/second.html#top"))
    site.add_page("/sub/second.html", html.format("second", "../guide.pdf"))
    site.add_page("/guide.pdf", b"%PDF")
    example = Example(tmp_path, "documentation_site.py", site.url("/"), "--output", "docs.jsonl")
    example.run()
    lines = (tmp_path / "docs.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"url": site.url("/"), "title": "The first guide", "headings": ["The first", "Use"]},
        {
            "url": site.url("/sub/second.html"),
            "title": "The second guide",
            "headings": ["The second", "Use"],
        },
    ]
    assert site.hits("/guide.pdf") == 0

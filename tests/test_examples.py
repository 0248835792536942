"""Every example does what its first lines say, as a process of its own; killed, it goes on."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

import crawlkit
from crawlkit.testing import Site
from crawlkit.testing.shop import ShopSite

T = TypeVar("T")

EXAMPLES = Path(__file__).parent.parent / "examples"


class Example:
    """An example, run in a directory of its own."""

    def __init__(self, directory: Path, script: str, *arguments: str, crawler: bool = True) -> None:
        path = str(EXAMPLES / script)
        runner = ["-m", "crawlkit", "run"] if crawler else []
        self.command = [sys.executable, *runner, path, *arguments]
        self.directory = directory

    @contextmanager
    def started(self, *options: str) -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(
            [*self.command, *options],
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

    def run(self, *options: str) -> str:
        """Run it to its end; what it printed."""
        with self.started(*options) as process:
            output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        return output

    def interrupt(self, number: signal.Signals, *options: str, when: Callable[[], object]) -> str:
        """Run it until `when` says so, and send the signal; what it printed."""
        with self.started(*options) as process:
            while not when():
                assert process.poll() is None, process.communicate()[0]
                time.sleep(0.05)
            process.send_signal(number)
            output, _ = process.communicate(timeout=60)
        expected = -signal.SIGKILL if number == signal.SIGKILL else 75
        assert process.returncode == expected, output
        return output

    def read(self, name: str, look: Callable[[crawlkit.Run], T]) -> T | None:
        """What `look` sees in a run of the example; `None` as long as there is no such run."""
        try:
            with crawlkit.open_run(self.directory / "runs" / name) as run:
                return look(run)
        except crawlkit.CrawlkitError:
            return None

    def items(self, name: str) -> list[dict[str, Any]]:
        return self.read(name, lambda run: list(run.items())) or []


def expected_offers(shop: ShopSite) -> Counter[tuple[str, str, str]]:
    return Counter(
        (offer.product.title, offer.seller, offer.price) for offer in shop.offers_to_find
    )


# The shop is in the process and begins anew with it: an offer that is there at the third try may
# have been tried before the stop, too.
QUICKLY = ("--set", "delay=0", "--set", "max_retries=4")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_quickstart_can_be_stopped_and_finds_every_offer_once(
    tmp_path: Path, number: signal.Signals
) -> None:
    example = Example(tmp_path, "quickstart.py")
    example.interrupt(number, when=lambda: example.items("quickstart"))
    first = example.items("quickstart")
    output = example.run(*QUICKLY)
    assert "resuming quickstart" in output
    items = example.items("quickstart")
    assert 0 < len(first) < len(items)
    found = Counter((item["product"], item["seller"], item["price"]) for item in items)
    assert found == expected_offers(ShopSite())


def test_the_quickstart_says_what_to_do_when_its_port_was_taken_meanwhile(tmp_path: Path) -> None:
    example = Example(tmp_path, "quickstart.py")
    example.interrupt(signal.SIGKILL, when=lambda: example.items("quickstart"))
    port = example.read("quickstart", lambda run: run.value("port"))
    assert port
    with Site(port=port), example.started() as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert f"port {port} is taken; free it, or start anew with --fresh" in output
    assert "Traceback" not in output


def test_the_quickstart_says_what_several_workers_need(tmp_path: Path) -> None:
    example = Example(tmp_path, "quickstart.py")
    with example.started("--workers", "2") as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "serve one with 'python -m crawlkit.testing.shop --port 8000'" in output
    assert "Traceback" not in output


def test_the_quickstart_crawls_a_shop_that_is_served_elsewhere_with_several_workers(
    tmp_path: Path,
) -> None:
    example = Example(tmp_path, "quickstart.py")
    shop = [sys.executable, "-m", "crawlkit.testing.shop", "--calm"]
    with subprocess.Popen(shop, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            example.command.append(process.stdout.readline().strip())
            example.run("--workers", "2", *QUICKLY)
        finally:
            process.kill()
    found = Counter(
        (item["product"], item["seller"], item["price"]) for item in example.items("quickstart")
    )
    assert found == expected_offers(ShopSite(slow=False, faults=False))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_plain_program_keeps_its_place(tmp_path: Path, number: signal.Signals) -> None:
    text = tmp_path / "text"
    text.write_text("one two three\n" * 60)
    example = Example(tmp_path, "keep_place.py", str(text), crawler=False)

    def place() -> int:
        return example.read("keep_place", lambda run: run.state.get("place", 0)) or 0

    example.interrupt(number, when=place)
    assert 0 < (line := place()) < 60
    output = example.run()
    assert f"from line {line + 1} of 60" in output
    assert "180 words in 60 lines" in output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_offers_are_counted_once_over_a_migration(
    tmp_path: Path, shop: ShopSite, number: signal.Signals
) -> None:
    example = Example(tmp_path, "offers_per_product.py", shop.url())
    pace, seconds = ("delay=0.1", 11.5) if number == signal.SIGTERM else ("delay=0.02", 2.5)

    def is_time() -> bool:
        return bool(shop.requests) and time.monotonic() > shop.requests[0].at + seconds

    interrupted = example.interrupt(number, "--set", pace, when=is_time)
    if number == signal.SIGTERM:
        assert "the count goes on elsewhere" in interrupted
        # At the start, after ten seconds, and at the migration.
        assert len(re.findall(r"\d+ offers of", interrupted)) == 3
    output = example.run(*QUICKLY)
    expected = Counter(offer.product.path for offer in shop.offers_to_find)
    counts = example.read("offers-per-product", lambda run: dict(run.documents()))
    assert counts is not None
    assert expected == {
        name.removeprefix("offers-per-product/"): json.loads(document.data)
        for name, document in counts.items()
        if name.startswith("offers-per-product/")
    }
    reports = re.findall(r"(\d+) offers of (\d+) products", output)
    assert 0 < int(reports[0][0]) < int(reports[-1][0])
    assert reports[-1] == (str(expected.total()), str(len(expected)))


def test_statistics_are_in_the_items_and_errors_are_kept_by_url(
    tmp_path: Path, shop: ShopSite
) -> None:
    example = Example(tmp_path, "statistics_in_items.py", shop.url())
    example.interrupt(signal.SIGTERM, "--set", "delay=0.01", when=lambda: shop.hits() > 200)
    example.run(*QUICKLY)
    items = example.items("statistics-in-items")
    assert sorted(item["offer"] for item in items) == [
        f"Offer {offer.number}" for offer in shop.offers_to_find
    ]
    assert items[0].keys() == {"offer", "price", "handled_at", "retries", "pending"}
    assert {item["retries"] for item in items} == {0, 1, 2}
    assert max(item["pending"] for item in items) > 10
    assert all(re.match(r"\d{4}-\d\d-\d\dT", item["handled_at"]) for item in items)
    errors = example.read("statistics-in-items", lambda run: run.value("errors")) or {}
    given_up = {url for url, texts in errors.items() if "given up" in texts[-1]}
    assert given_up == {shop.url(path) for path in shop.broken}
    assert any(len(texts) == 2 and "500" in texts[0] for texts in errors.values())


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


@pytest.mark.needs("chromium")
def test_pages_that_scripts_make_are_crawled_in_a_browser(tmp_path: Path, site: Site) -> None:
    pytest.importorskip("playwright", reason="needs Playwright: pip install 'crawlkit[browser]'")
    quotes = {"/js/": ("One", "/js/2"), "/js/2": ("Two", "")}
    for path, (text, after) in quotes.items():
        link = f"<p class=next><a href={after}>next</a>" if after else ""
        html = f"<div class=quote><b class=text>{text}</b></div><p class=about><a href=/me>me</a>"
        site.add_page(
            path, f"<body><script>document.body.innerHTML = `{html}{link}`</script></body>"
        )
    site.add_page("/me", "<h1>Me</h1><script>document.body.innerHTML = ''</script>")
    example = Example(tmp_path, "rendered.py", site.url("/js/"), "--output", "quotes.jsonl")
    example.run("--set", "delay=0")
    lines = (tmp_path / "quotes.jsonl").read_text().splitlines()
    items = sorted(map(json.loads, lines), key=lambda item: item["page"])
    assert items == [
        {"text": "One", "page": site.url("/js/")},
        {"text": "Two", "page": site.url("/js/2")},
        {"author": "Me", "page": site.url("/me")},
    ]
    assert "Chrome" not in site.requests[0].headers["User-Agent"]

"""The first response of each group of errors is kept: bounded, with its group, and as text."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from math import inf
from pathlib import Path

import pytest
from click.testing import CliRunner

from crawlkit import Crawler, Page, open_run
from crawlkit.checkpoint import Checkpoint, Saved, Snapshot
from crawlkit.cli import main
from crawlkit.counting.errorgroups import group_id
from crawlkit.counting.specimens import (
    MAX_BODY,
    MAX_SCREENSHOT,
    SPECIMENS,
    Specimen,
    Specimens,
    read_specimen,
)
from crawlkit.errors import StoreDamagedError
from crawlkit.response import Response
from crawlkit.run import Run
from crawlkit.testing import Site

from .turnstile import Turnstile

HOSTILE = "<title>\x1b[31m</title><script>alert(1)</script>\ttab\r\n<p>second line"


class Shop(Crawler):
    max_retries = 0

    async def parse(self, page: Page) -> None:
        page.follow("a")
        if "broken" in page.url:
            raise ValueError("no price")


@pytest.fixture
def broken(site: Site) -> Site:
    site.add_page("/", links=["/broken/1", "/broken/2", "/gone", "/big"])
    site.add_page("/broken/1", HOSTILE, headers={"X-Odd": "a\tb", "Content-Type": "text/html"})
    site.add_page("/broken/2", "second")
    site.add_page("/gone", "it is gone", status=410)
    site.add_page("/big", "x" * (MAX_BODY + 10), status=404)
    return site


def crawled(site: Site, store: Path) -> Run:
    Shop(start_urls=[site.url("/")], store=store, concurrency=1).run()
    return open_run(store)


def specimens(run: Run) -> dict[str, Specimen | None]:
    return {group.message: run.specimen(group.id) for group in run.errors()}


def test_the_first_response_of_each_group_of_errors_is_kept(broken: Site, tmp_path: Path) -> None:
    with crawled(broken, tmp_path / "run") as run:
        found = specimens(run)
        assert set(found) == {
            "no price",
            "HTTP 410 Gone from <host>",
            "HTTP 404 Not Found from <host>",
        }
        priceless, gone = found["no price"], found["HTTP 410 Gone from <host>"]
        assert priceless is not None
        assert gone is not None
        assert (priceless.url, priceless.status) == (broken.url("/broken/1"), 200)
        assert (priceless.text, ("X-Odd", "a\tb") in priceless.headers) == (HOSTILE, True)
        assert (gone.status, gone.body, gone.is_cut) == (410, b"it is gone", False)
        assert (gone.screenshot, run.specimen("deadbeef")) == (None, None)
        (group,) = (group for group in run.errors() if group.message == "no price")
        assert run.specimen((group.kind, group.place, group.message)) == priceless


def test_what_is_kept_of_a_body_is_bounded(broken: Site, tmp_path: Path) -> None:
    with crawled(broken, tmp_path / "run") as run:
        big = specimens(run)["HTTP 404 Not Found from <host>"]
        assert big is not None
        assert (len(big.body), big.size, big.is_cut) == (MAX_BODY, MAX_BODY + 10, True)


def answer(number: int = 0, screenshot: bytes | None = None) -> Response:
    response = Response(url=f"https://a.example/{number}", status=500, body=b"%d" % number)
    response.screenshot = screenshot
    return response


def collected(part: Specimens) -> Checkpoint:
    checkpoint = Checkpoint()
    with checkpoint.of("specimens"):
        part.collect(checkpoint)
    return checkpoint


def restored(checkpoint: Checkpoint) -> Specimens:
    part = Specimens()
    index = {"specimens": checkpoint.documents["specimens"]}
    part.restore(Saved("specimens", Snapshot(index)))  # type: ignore[arg-type]
    return part


def test_a_run_keeps_a_bounded_number_of_them_over_all_its_lives() -> None:
    part = Specimens()
    for number in range(SPECIMENS - 1):
        part.keep(("E", "", str(number)), answer(number), 0.0)
    first = collected(part)
    assert len(first.documents) == SPECIMENS  # with the list of them
    part = restored(first)
    part.keep(("E", "", "7"), answer(), 0.0)
    assert not collected(part).documents
    part.keep(("E", "", "new"), answer(), 0.0)
    part.keep(("E", "", "one too many"), answer(), 0.0)
    assert set(collected(part).documents) == {
        "specimens",
        f"specimens/{group_id(('E', '', 'new'))}",
    }


def test_a_response_with_a_screenshot_takes_the_place_of_one_without() -> None:
    part, group = Specimens(), ("E", "", "m")
    name = group_id(group)
    for response in (answer(1), answer(2), answer(3, b"jpeg"), answer(4, b"other")):
        part.keep(group, response, 0.0)
    checkpoint = collected(part)
    specimen = read_specimen(checkpoint.documents.get, name)
    assert specimen is not None
    assert (specimen.body, specimen.screenshot) == (b"3", b"jpeg")
    part.keep(group, answer(5, b"x"), 0.0)
    assert not collected(part).documents


def test_what_several_workers_have_kept_comes_together() -> None:
    assert Specimens.merge({}, {"a": False, "b": True}, {"a": True, "c": False}) == {
        "a": True,
        "b": True,
        "c": False,
    }
    plain = {"body": "", "url": "first", "screenshot": None}
    later = {"body": "", "url": "later", "screenshot": None}
    shown = {"body": "", "url": "shown", "screenshot": "jpeg"}
    assert Specimens.merge(None, later, plain) == plain
    assert Specimens.merge(None, shown, plain) == shown
    assert Specimens.merge(None, plain, shown) == shown


def test_a_screenshot_that_is_too_large_is_not_kept() -> None:
    part, group = Specimens(), ("E", "", "m")
    part.keep(group, answer(1, b"x" * (MAX_SCREENSHOT + 1)), 0.0)
    specimen = read_specimen(collected(part).documents.get, group_id(group))
    assert specimen is not None
    assert specimen.screenshot is None


def test_one_that_was_tampered_with_is_refused_in_one_line() -> None:
    part, group = Specimens(), ("E", "", "m")
    part.keep(group, answer(), 0.0)
    documents = dict(collected(part).documents)
    name = f"specimens/{group_id(group)}"
    document = documents[name]
    assert document is not None
    kept = json.loads(document.data) | {"body": "AAAA"}
    documents[name] = document._replace(data=json.dumps(kept).encode())
    with pytest.raises(StoreDamagedError, match="is damaged"):
        read_specimen(documents.get, group_id(group))


# -- on the command line ---------------------------------------------------------------------------


def show(store: Path, *words: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["failed", str(store), "show", *words])
    assert result.exit_code == code, result.output
    return result.output


def test_it_is_shown_as_text_that_steers_no_terminal_and_runs_nowhere(
    broken: Site, tmp_path: Path
) -> None:
    store = tmp_path / "run"
    with crawled(broken, store) as run:
        (group,) = (group.id for group in run.errors() if group.message == "no price")
    text = show(store, group)
    assert "HTTP 200" in text
    assert "X-Odd: a\\tb" in text
    assert "<title>\\x1b[31m</title><script>alert(1)</script>\ttab\n<p>second line" in text
    assert "\x1b" not in text

    show(store, group, "-o", str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script" not in page
    assert "default-src 'none'" in page

    show(store, group, "-o", str(tmp_path / "body.bin"))
    assert (tmp_path / "body.bin").read_bytes() == HOSTILE.encode()

    found = json.loads(show(store, group, "--json"))
    assert (found["status"], found["text"], found["group"]["id"]) == (200, HOSTILE, group)
    assert "no screenshot" in show(store, group, "-o", str(tmp_path / "x.jpg"), code=1)


# -- kill -9 -------------------------------------------------------------------------------------

CRAWL = """
import sys
from crawlkit import Crawler

class Shop(Crawler):
    max_retries = 0
    persist_interval = 0.05

    async def parse(self, page):
        page.follow("a")
        if page.url.endswith("x"):
            raise RuntimeError("page " + page.css("title::text").get())

sys.exit(Shop(start_urls=[sys.argv[1]], store=sys.argv[2]).run())
"""


def test_after_kill_9_every_group_of_errors_has_its_specimen(site: Site, tmp_path: Path) -> None:
    # Each failure is a group of its own: its page's title, in letters, is in the message.
    turnstile = Turnstile()
    names = [f"{a}{b}" for a in "abcdefgh" for b in "abcdef"]
    site.add_page("/", links=[f"/{name}x" for name in names])
    for name in names:
        site.add_page(f"/{name}x", turnstile.page(f"<title>{name}</title>"), delay=0.01)
    store = tmp_path / "run"
    command = [sys.executable, "-c", CRAWL, site.url("/"), str(store)]
    kept: list[int] = []
    for _ in range(2):
        hits, turnstile.left = sum(site.hits(f"/{name}x") for name in names), 25
        process = subprocess.Popen(command, env=os.environ)
        deadline = time.monotonic() + 30
        while sum(site.hits(f"/{name}x") for name in names) < hits + 20:
            if process.poll() is not None or time.monotonic() > deadline:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        with open_run(store) as run:
            groups = run.errors()
            kept.append(len(groups))
            for group in groups:
                specimen = run.specimen(group.id)
                assert specimen is not None
                assert specimen.url == group.examples[0]
    turnstile.left = inf
    assert subprocess.run(command, check=False).returncode == 0
    with open_run(store) as run:
        messages = {group.message for group in run.errors()}
        assert messages == {f"page {name}" for name in names}
        assert all(run.specimen(group.id) for group in run.errors())
    assert kept[0] < len(names)

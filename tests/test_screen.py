"""What a user sees who watches a crawl, on a real pseudo-terminal; and that no page steers it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from crawlkit.testing import Site

from .pseudoterminal import Terminal, watch
from .test_terminal import EVIL, only_prints

CRAWLER = """\
from crawlkit import Crawler

class Shop(Crawler):
    max_retries = 0
    obey_robots = False
    delay = 0.02

    async def parse(self, page):
        print("handling a page")
        page.save({"title": page.css("title::text").get()})
        page.follow("a")
"""

HOSTILE = """\
import logging
import warnings
from crawlkit import Crawler

class Hostile(Crawler):
    max_retries = 0
    obey_robots = False
    scope = "all"

    async def parse(self, page):
        text = page.text
        page.save({text: text})
        logging.getLogger(text).warning("%s", text, extra={"title": text, text: [text, b"x"]})
        warnings.warn(text)
        try:
            raise ValueError(text)
        except ValueError:
            logging.getLogger("mine").exception(text)
        page.follow(["/fails", "/a%1b[31m\\u202e?q=\\x9b2J\\u2028", "http://elsewhere.example/\\u202e"])
        page.follow("/again", handler=self.again)

    async def again(self, page):
        self.text = page.text
        raise RuntimeError(page.text)

    def on_finish(self, statistics):
        if self.name == "raising":
            raise RuntimeError(self.text)
"""

PROGRESS = re.compile(r"\d+ done|pages/s|^starting$", re.MULTILINE)


@pytest.fixture(scope="module")
def screens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Terminal]]]:
    """The crawls, side by side, as each takes some seconds; and Ctrl-C on one of them."""
    with Site() as site, Site() as hostile, ThreadPoolExecutor() as pool:
        for number in range(120):
            site.add_page(f"/{number}", links=[f"/{number + 1}", f"/{number + 2}"])
        site.add_page("/120", status=404)
        for path in ("/", "/fails", "/again"):
            hostile.add_page(path, EVIL, status=404 if path == "/fails" else 200)

        def start(name: str, url: str, *options: str, **given: object) -> Future[Terminal]:
            directory = tmp_path_factory.mktemp(name)
            (directory / "shop.py").write_text(HOSTILE if "hostile" in name else CRAWLER)
            words = ["-m", "crawlkit", "run", "shop.py", url, *options]
            if given.pop("to_file", False):
                given["stdout"] = (directory / "stdout").open("w").fileno()
            return pool.submit(watch, words, cwd=directory, **given)  # type: ignore[arg-type]

        def is_going(terminal: Terminal) -> bool:
            return "in flight" in terminal.raw

        front = site.url("/0")
        yield {
            "wide": start("wide", front, columns=80),
            "narrow": start("narrow", front, columns=40),
            "plain": start("plain", front, env={"NO_COLOR": "1"}),
            "dumb": start("dumb", front, "--max-pages", "5", env={"TERM": "dumb"}),
            "stopped": start("stopped", front, interrupt=is_going),
            "hostile": start("hostile", hostile.url("/"), "--log-level", "debug", "--show"),
            "hostile-debug": start(
                "hostile-debug", hostile.url("/"), "--debug", "--set", "name=raising"
            ),
            "hostile-json": start(
                "hostile-json", hostile.url("/"), "--log-level", "debug", "--log-format", "json"
            ),
        }


Screens = dict[str, "Future[Terminal]"]


def ended(screens: Screens, name: str) -> Terminal:
    terminal = screens[name].result()
    expected = {"stopped": 75, "hostile-debug": 1}.get(name, 0)
    assert terminal.code == expected, terminal.raw
    return terminal


@pytest.mark.parametrize("name", ["wide", "narrow"])
def test_two_lines_tell_how_it_goes_and_are_gone_at_the_end(screens: Screens, name: str) -> None:
    terminal = ended(screens, name)
    shown = [frame for frame in terminal.frames if any("pages/s" in line for line in frame)]
    assert shown, terminal.raw
    for frame in shown:
        lines = [line for line in frame if line]
        assert re.match(r"[\d,]+ done, ", lines[-2]), lines
        assert re.match(r"[\d.]+ pages/s", lines[-1]), lines
    assert not PROGRESS.search("\n".join(terminal.lines))


@pytest.mark.parametrize("name", ["wide", "narrow"])
def test_what_handlers_print_stands_above_the_lines(screens: Screens, name: str) -> None:
    terminal = ended(screens, name)
    assert terminal.lines.count("handling a page") == 120


@pytest.mark.parametrize("name", ["wide", "narrow", "plain"])
def test_the_summary_says_what_happened_and_what_to_do(screens: Screens, name: str) -> None:
    text = " ".join(" ".join(ended(screens, name).lines).split())
    assert ": 120 pages, 120 items, 2 failed, 0 pending" in text
    assert "most errors: 2 x StatusError: HTTP 404" in text
    joined = "".join(ended(screens, name).lines)  # a command may be broken by the terminal's edge
    for verb in ("items runs/shop -o items.csv", "failed runs/shop ls", "stats runs/shop"):
        assert verb in joined


@pytest.mark.parametrize("name", ["wide", "narrow", "plain", "stopped"])
def test_the_cursor_is_never_hidden_as_a_killed_process_cannot_bring_it_back(
    screens: Screens, name: str
) -> None:
    assert "\x1b[?25l" not in ended(screens, name).sequences


def test_words_of_the_summary_are_whole_on_a_narrow_terminal(screens: Screens) -> None:
    lines = ended(screens, "narrow").lines
    place = next(n for n, line in enumerate(lines) if line.startswith("finished shop"))
    assert re.match(r"finished shop after [\d.]+ s:( 120)?( pages,)?$", lines[place])


def test_colours_can_be_turned_off(screens: Screens) -> None:
    assert any(re.match(r"\x1b\[3\dm", sequence) for sequence in ended(screens, "wide").sequences)
    plain = ended(screens, "plain").sequences
    assert not [sequence for sequence in plain if re.match(r"\x1b\[[\d;]*3\d", sequence)]


def test_a_dumb_terminal_gets_plain_lines(screens: Screens) -> None:
    terminal = ended(screens, "dumb")
    assert not terminal.sequences
    assert re.search(r"^go on with: .* run shop.py .* --max-pages 50\r$", terminal.text, re.M)


def test_ctrl_c_is_answered_and_the_summary_says_how_to_go_on(screens: Screens) -> None:
    terminal = ended(screens, "stopped")
    text = "\n".join(terminal.lines)
    assert "(Ctrl-C again stops at once)" in " ".join(text.split())
    assert "stopped shop after" in text
    assert "go on with:  " in text


def test_no_page_steers_the_terminal(screens: Screens) -> None:
    terminal = ended(screens, "hostile")
    ours = {"\x1b[2K", "\x1b[1A"}
    assert all(one in ours or re.match(r"\x1b\[[\d;]*m", one) for one in terminal.sequences)
    assert only_prints(terminal.text.replace("\r", ""))
    shown = [line for line in terminal.lines if "  parse, " in line or "  again" in line]
    assert all(line.startswith(("200 ", "failed ")) for line in shown), shown
    assert shown
    assert r"red\x1b[31m c1\x9b2J bidi\u202e" in terminal.text
    assert "HTTP 404" in terminal.text


def test_no_page_steers_the_terminal_by_a_traceback(screens: Screens) -> None:
    terminal = ended(screens, "hostile-debug")
    assert "Traceback (most recent call last):" in terminal.text
    assert r"RuntimeError: red\x1b[31m" in terminal.text
    assert terminal.sequences <= {"\x1b[2K", "\x1b[1A", "\x1b[0m", "\x1b[1m", "\x1b[31m"}
    assert only_prints(terminal.text.replace("\r", ""))


def test_no_page_writes_a_line_of_the_log(screens: Screens) -> None:
    told = ended(screens, "hostile").text.replace("\r", "").splitlines()
    assert not [line for line in told if line.startswith("line")], told


def test_a_log_in_json_is_an_object_a_line_whatever_pages_write(screens: Screens) -> None:
    terminal = ended(screens, "hostile-json")
    assert not terminal.sequences - {"\x1b[32m", "\x1b[31m", "\x1b[0m"}  # of the summary
    assert only_prints(terminal.text.replace("\r", ""))
    records = [json.loads(line) for line in terminal.text.splitlines() if line.startswith("{")]
    for record in records:
        assert list(record)[:4] == ["time", "level", "logger", "message"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record["time"])
    (mine,) = [record for record in records if "title" in record]
    assert mine["level"] == "warning"
    assert "ValueError" in next(r["traceback"] for r in records if r["logger"] == "mine")
    (gone,) = [r for r in records if r.get("error") == "StatusError" and "/fails" in r["url"]]
    assert gone["handler"] == "parse"


def test_what_handlers_print_stays_out_of_the_terminal_where_it_goes_to_a_file(
    tmp_path: Path, site: Site
) -> None:
    site.add_page("/")
    (tmp_path / "shop.py").write_text(CRAWLER)
    with (tmp_path / "out").open("w") as file:
        terminal = watch(
            ["-m", "crawlkit", "run", "shop.py", site.url("/")],
            cwd=tmp_path,
            stdout=file.fileno(),
        )
    assert "handling a page" not in terminal.text
    printed = (tmp_path / "out").read_text()
    assert "handling a page\nfinished shop after" in printed
    assert only_prints(printed)

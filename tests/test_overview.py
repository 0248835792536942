"""Statistics and runs show themselves, and what a page wrote stays text."""

from __future__ import annotations

from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from crawlkit import open_run
from crawlkit.run import Run
from crawlkit.statistics import Statistics

from .test_run import address as address
from .test_statistics import START, Books, busy

HOSTILE = "<script>alert(1)</script>[red]\x1b[31m\u202e"


@pytest.fixture
def statistics() -> Statistics:
    statistics = Statistics()
    statistics.begin_life(START)
    Books().enqueue(statistics, 20)
    busy(statistics)
    statistics.error(RuntimeError(HOSTILE), "https://a.example/", "shop.py:1")
    statistics.skipped(HOSTILE, 5)
    statistics.finished(HOSTILE, "a.example", 0.25, 0)
    return statistics


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def on_terminal(shown: Any) -> str:
    console = Console(file=StringIO(), width=200, force_terminal=True, color_system=None)
    console.print(shown)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_statistics_are_tables_in_a_notebook(statistics: Statistics) -> None:
    found = Tags(statistics._repr_html_())
    for text in ("3 finished", "parse_item", "1 x 404", "ValueError: no price for"):
        assert text in found.text


def test_statistics_are_tables_for_rich(statistics: Statistics) -> None:
    text = on_terminal(statistics)
    for part in ("3 finished", "parse_item", "p95", "ValueError: no price for"):
        assert part in text


def test_what_a_page_wrote_stays_text(statistics: Statistics) -> None:
    found = Tags(statistics._repr_html_())
    assert found.tags == {"div", "table", "tr", "th", "td"}
    assert "<script>alert" in found.text
    text = on_terminal(statistics)
    assert "[red]" in text
    for part in ("\x1b", "\u202e"):
        assert part not in text
        assert part not in found.text


def test_a_run_shows_where_it_stands(address: Path) -> None:
    with open_run(address) as run:
        assert repr(run) == f"<Run {address}>"
        html, text = Tags(run._repr_html_()).text, on_terminal(run)
        for part in (str(address), "1 finished, 1 failed", "ValueError: no price"):
            assert part in html
            assert part in text
    assert repr(run) == f"<Run {address} (closed)>"
    assert "(closed)" in Tags(run._repr_html_()).text
    assert isinstance(run, Run)


def test_statistics_tell_the_most_important_in_one_line(statistics: Statistics) -> None:
    assert repr(statistics) == "<Statistics: 3 finished, 1 failed, 13 pending, 3 items>"


def test_a_run_of_which_nothing_is_known_is_shown_too() -> None:
    assert "0 finished" in Tags(Statistics()._repr_html_()).text
    assert "none" in on_terminal(Statistics())

"""The report on a run is one file that tells all, runs nothing and loads nothing."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from crawlkit.cli import main
from crawlkit.counting.samples import Sample
from crawlkit.dashboard.charts import Line, chart, moment_of, nice_step, rates, times_of
from crawlkit.dashboard.markup import Markup, link, tag
from crawlkit.dashboard.report import report, write_report
from crawlkit.errors import CrawlkitError
from crawlkit.run import open_run
from crawlkit.statistics import Statistics
from crawlkit.stores.sqlite import SqliteStore

from .test_run import address, live

__all__ = ["address"]  # a fixture


class Parsed(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.style = ""
        self._is_style = False
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "path"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["style"]:
            self.style += data
        else:
            self.text += f"{data} "


@pytest.fixture
def html(address: Path) -> str:
    with open_run(address) as run:
        return report(run)


def test_it_tells_what_happened_where_and_why(html: str) -> None:
    text = Parsed(html).text
    for said in (
        "It handled 1 page and saved 2 items; 1 request failed.",
        "It was stopped with 3 requests to go.",
        "parse_item",
        "shop.example",
        "ValueError",
        "no price",
        "shop.py:7",
        "https://shop.example/broken",
        "Lamp",
        "Over time",
    ):
        assert said in text, said


def test_it_loads_nothing_and_runs_nothing(html: str) -> None:
    page = Parsed(html)
    assert page.open == []
    names = {name for name, _ in page.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "base", "form"}
    for name, attributes in page.tags:
        for attribute, value in attributes.items():
            assert not attribute.startswith("on"), name
            assert attribute != "style", "the policy would not let it"
            assert attribute not in ("src", "srcset"), name
            assert attribute != "href" or re.match("https?://", value or ""), value
    assert "url(" not in page.style
    assert "@import" not in page.style
    (policy,) = [
        attributes["content"]
        for _, attributes in page.tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def test_the_verb_writes_one_file_and_says_where(address: Path, tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    result = CliRunner().invoke(main, ["report", str(address), "-o", str(target), "--items", "1"])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{target}: ")
    text = Parsed(target.read_text(encoding="utf-8")).text
    assert "Lamp" in text
    assert list(tmp_path.glob(".*part")) == []


def test_a_file_that_cannot_be_written_is_one_line_and_leaves_the_old_one(
    address: Path, tmp_path: Path
) -> None:
    with open_run(address) as run, pytest.raises(CrawlkitError, match="choose another file"):
        write_report(run, tmp_path / "none" / "report.html")


def test_a_run_that_has_only_begun_has_a_report(tmp_path: Path) -> None:
    async def begin() -> None:
        store = SqliteStore(str(tmp_path / "run"))
        await store.open()
        await store.close()

    asyncio.run(begin())
    with open_run(tmp_path / "run") as run:
        text = Parsed(report(run)).text
    assert "It handled 0 pages and saved 0 items; no request failed." in text
    assert "Too short to draw." in text


def test_a_run_that_goes_on_says_so(address: Path) -> None:
    with live(address), open_run(address) as run:
        assert "It was still running when this was written." in Parsed(report(run)).text


def test_what_each_life_did_is_told_where_it_is_known(
    address: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = SimpleNamespace(
        number=12,
        lives=1,
        started_at="2026-01-02T03:04:05.000Z",
        ended_at=None,
        end="stopped",
        runtime_seconds=75.0,
        requests_finished=1234,
        requests_failed=5,
        items_saved=6,
    )
    monkeypatch.setattr(Statistics, "by_life", [life], raising=False)
    with open_run(address) as run:
        text = " ".join(Parsed(report(run)).text.split())
    assert "12 2026-01-02 03:04:05 - stopped 1 min 15 s 1,234 5 6" in text


# -- markup ---------------------------------------------------------------------------------------


def test_text_never_becomes_markup() -> None:
    evil = "</style></script><b onclick='x'>\"&\u202e"
    assert tag("p", evil, class_=evil) == (
        '<p class="&lt;/style&gt;&lt;/script&gt;&lt;b onclick=&#x27;x&#x27;&gt;&quot;&amp;\u202e">'
        "&lt;/style&gt;&lt;/script&gt;&lt;b onclick=&#x27;x&#x27;&gt;&quot;&amp;\\u202e</p>"
    )
    assert tag("p", [Markup("<b>"), None, ["<"], 1]) == "<p><b>&lt;1</p>"


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        " javascript:alert(1)",
        "JaVaScRiPt:alert(1)",
        "java\nscript:alert(1)",
        "data:text/html,x",
        "file:///etc/passwd",
        "//evil.example",
        "http://[",
        "http://a.example/\u202e",
    ],
)
def test_only_what_leads_to_a_page_is_a_link(url: str) -> None:
    assert "<a" not in link(url)
    assert "<a" in link("https://a.example/?a=1&b=2")


# -- charts ---------------------------------------------------------------------------------------


def sample(second: float, finished: int) -> Sample:
    at = f"2026-01-01T00:{int(second) // 60:02}:{second % 60:06.3f}Z"
    return Sample(at, finished, 0, 0, 0, 0, 0, 0)


def test_a_rate_is_what_came_a_second_and_a_pause_between_lives_is_a_gap() -> None:
    samples = [sample(0, 0), sample(1, 10), sample(2, 30), sample(602, 31), sample(603, 41)]
    times = times_of(samples)
    found = rates(times, [one.finished for one in samples])
    assert found[0] is None
    assert found[1:3] == [pytest.approx(10), pytest.approx(20)]
    assert found[3] is None
    assert found[4] == pytest.approx(10)
    drawn = chart("Queue", times, [Line("waiting", [1.0] * 5)], str)
    assert drawn.count('class="line one"') == 2, "no line leads over the gap"


def test_a_clock_that_was_set_back_does_not_turn_a_chart_around() -> None:
    times = times_of([sample(100, 0), sample(50, 1), sample(51, 2)])
    assert times == sorted(set(times))


def test_a_run_of_months_is_not_one_long_gap() -> None:
    times = [day * 86400.0 * 3 for day in range(30)]
    assert all(rate == pytest.approx(100 / 86400) for rate in rates(times, range(0, 9000, 300))[1:])


@pytest.mark.parametrize(
    ("least", "step"), [(0.9, 1), (1.1, 2), (3, 5), (7, 10), (0.0003, 0.0005), (2e9, 2e9)]
)
def test_scales_have_round_numbers(least: float, step: float) -> None:
    assert nice_step(least) == pytest.approx(step)


def places(markup: str) -> Iterator[int]:
    yield from (int(n) for n in re.findall(r'class="p(\d+)"', markup))


@pytest.mark.parametrize("period", [2, 30, 300, 3600, 86400, 30 * 86400, 3 * 365 * 86400])
def test_a_chart_of_any_length_has_a_few_times_below_it(period: float) -> None:
    times = [1_700_000_000 + period * i / 50 for i in range(51)]
    drawn = chart("Pages", times, [Line("pages", [float(i) for i in range(51)])], str)
    below = drawn.partition('class="x"')[2]
    assert 1 <= len(list(places(below))) <= 6
    assert all(0 <= place <= 100 for place in places(drawn))
    assert moment_of(0.0, period) in ("00:00:00", "00:00", "01-01")


def test_a_chart_of_nothing_says_so() -> None:
    assert "Too short to draw." in chart("Pages", [1.0, 2.0], [Line("pages", [None, None])], str)

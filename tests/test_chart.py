"""What docs/benchmarks.md shows is what was measured."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from .bench.chart import BEGIN, END, chart, dump, main, page_with, read, tables, trim
from .bench.measure import ROOT

DOCS = ROOT / "docs"
PUBLISHED = DOCS / "images" / "benchmarks.json"
SVG = "{http://www.w3.org/2000/svg}"
AGAIN = "run python -m tests.bench.chart docs/images/benchmarks.json --publish"


def measured(cpu: list[float], others: list[float]) -> dict[str, Any]:
    """The row of one peer in a report, beside another one."""
    ratios = [one / other for one, other in zip(cpu, others, strict=True)]
    return {
        "pages_per_second": 1234.5678,
        "cpu_ms_per_page": sorted(cpu)[1],
        "startup_cpu_seconds": 0.1,
        "peak_memory_mb": 60.123456,
        "cpu_ratio": sorted(ratios)[1],
        "cpu_ratio_range": [min(ratios), max(ratios)],
        "time_ratio": 1.0,
        "time_ratio_range": [1.0, 1.0],
        "memory_ratio": 1.25,
        "rounds": [{"cpu_seconds": each, "items": [1000, "00"]} for each in cpu],
    }


def report() -> dict[str, Any]:
    loop, ours, scrapy = [1.0, 1.1, 0.9], [0.5, 0.6, 0.45], [5.0, 6.6, 4.5]
    return {
        "at": "2026-11-23T09:26:25+00:00",
        "python": "3.11.7",
        "system": "Linux x86_64",
        "cores": 2,
        "packages": {"crawlkit": "1.0", "aiohttp": "3.14"},
        "references": {"small": "loop"},
        "workloads": {
            "small": {
                "loop": measured(loop, loop),
                "crawlkit": measured(ours, loop),
                "scrapy": measured(scrapy, loop),
            }
        },
    }


def write(path: Path, content: object) -> str:
    path.write_text(json.dumps(content))
    return str(path)


def test_the_chart_in_the_docs_is_what_the_published_numbers_give() -> None:
    assert (DOCS / "images" / "benchmarks.svg").read_text() == chart(read(PUBLISHED)), AGAIN


def test_the_tables_in_the_docs_are_what_the_published_numbers_give() -> None:
    text = (DOCS / "benchmarks.md").read_text()
    assert text == page_with(text, read(PUBLISHED)), AGAIN


def test_the_numbers_that_were_published_are_kept_as_they_are() -> None:
    assert PUBLISHED.read_text() == dump(read(PUBLISHED))


def test_a_table_has_medians_and_ratios_within_the_rounds() -> None:
    lines = tables([trim(report())]).splitlines()
    assert "| loop | 1.000 | 1.00 | 2.00 | 1,235 | 60 | 1.25 |" in lines
    assert "| crawlkit | 0.500 | 0.50 (0.50-0.55) | 1.00 | 1,235 | 60 | 1.25 |" in lines
    assert "| scrapy | 5.000 | 5.00 (5.00-6.00) | 10.00 | 1,235 | 60 | 1.25 |" in lines


def test_the_bars_of_a_workload_are_as_long_as_their_numbers() -> None:
    root = ET.fromstring(chart([trim(report())]))
    bars = [bar for bar in root.iter(f"{SVG}rect") if "bar" in bar.get("class", "")]
    lengths = [float(bar.get("width", "")) for bar in bars]
    assert [length / lengths[0] for length in lengths] == pytest.approx([1, 0.5, 5], abs=0.01)
    right = [float(bar.get("x", "")) + length for bar, length in zip(bars, lengths, strict=True)]
    assert max(right) < float(root.get("width", ""))


def test_who_cannot_see_the_chart_is_told_its_numbers() -> None:
    root = ET.fromstring(chart([trim(report())]))
    names = root.get("aria-labelledby", "").split()
    texts = [element.text for element in root if element.get("id") in names]
    assert len(texts) == len(names) == 2
    assert texts[1] is not None
    assert re.search(r"loop 1\.000, crawlkit 0\.500, scrapy 5\.000\.", texts[1])


def test_the_chart_of_several_reports_has_a_part_for_each(tmp_path: Path) -> None:
    files = [write(tmp_path / name, report()) for name in ("a.json", "b.json")]
    assert main([*files, "-o", str(tmp_path / "chart.svg")]) == 0
    text = (tmp_path / "chart.svg").read_text()
    assert text.count("1,000 pages, 10 KB each, with 20 links</tspan>") == 2


def test_published_numbers_are_read_like_a_report(tmp_path: Path) -> None:
    file = tmp_path / "published.json"
    file.write_text(dump([trim(report())]))
    assert chart(read(file)) == chart([trim(report())])


@pytest.mark.parametrize("content", [[], {}, {"peers": 1}])
def test_another_file_is_refused_in_one_line(
    content: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([write(tmp_path / "other.json", content)]) == 1
    said = capsys.readouterr().err
    assert said.endswith("other.json is no report of python -m tests.bench --json\n")
    assert said.count("\n") == 1


def test_a_page_without_a_place_for_the_numbers_is_left_alone() -> None:
    with pytest.raises(ValueError, match="there is no <!-- numbers"):
        page_with(f"text {END} {BEGIN}", [trim(report())])

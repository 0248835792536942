"""The numbers of docs/benchmarks.md: ``python -m tests.bench.chart FILE...``.

The files are those of ``python -m tests.bench --json``, or what was made of them here before. With
``--publish`` they become docs/images/benchmarks.json, which keeps what is shown, and from it the
chart beside it and the tables of the page; a test makes both again from that file and compares.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any
from xml.etree import ElementTree as ET

from .measure import ROOT
from .workloads import WORKLOADS

Run = Mapping[str, Any]
"""One run of the benchmark, trimmed to what is shown."""

BEGIN, END = "<!-- numbers: tests.bench.chart -->", "<!-- end of numbers -->"
"""What the generated part of the page stands between."""

CIRCUMSTANCES = ("at", "python", "system", "cores", "packages")
OURS = "crawlkit"


def read(path: Path) -> list[Run]:
    """The runs in a file.

    Raises:
        ValueError: It is no report.
    """
    report = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(report, dict) or not report.keys() & {"runs", "workloads"}:
        raise ValueError(f"{path} is no report of python -m tests.bench --json")
    runs: list[Run] = report["runs"] if "runs" in report else [trim(report)]
    return runs


def trim(report: Mapping[str, Any]) -> Run:
    """What is shown of a report: medians and ratios, rounded, without the rounds."""
    workloads = {}
    for name, rows in report["workloads"].items():
        first = next(iter(rows.values()))["rounds"]
        workloads[name] = {
            "pages": first[0]["items"][0],
            "rounds": len(first),
            "reference": report["references"][name],
            "rows": {peer: _trim_row(row, rows.get(OURS)) for peer, row in rows.items()},
        }
    return {**{name: report[name] for name in CIRCUMSTANCES}, "workloads": workloads}


def _trim_row(row: Mapping[str, Any], ours: Mapping[str, Any] | None) -> dict[str, Any]:
    trimmed = {
        "cpu_ms_per_page": _rounded(row["cpu_ms_per_page"]),
        "cpu_ratio": _rounded(row["cpu_ratio"]),
        "cpu_ratio_range": [_rounded(ratio) for ratio in row["cpu_ratio_range"]],
        "pages_per_second": _rounded(row["pages_per_second"]),
        "peak_memory_mb": _rounded(row["peak_memory_mb"]),
        "memory_ratio": _rounded(row["memory_ratio"]),
    }
    if ours is not None:
        pairs = zip(row["rounds"], ours["rounds"], strict=True)
        ratio = median(run["cpu_seconds"] / other["cpu_seconds"] for run, other in pairs)
        trimmed["cpu_ratio_to_crawlkit"] = _rounded(ratio)
    return trimmed


def _rounded(number: float) -> float:
    return float(f"{number:.6g}")


def about(name: str, workload: Mapping[str, Any]) -> str:
    """What was crawled, in a line."""
    kind = WORKLOADS[name]
    pages = f"{workload['pages']:,} pages"
    if kind.share is None:
        return f"{pages} of Python's documentation behind nginx"
    place = " behind nginx" if kind.is_on_disk else ""
    if kind.hosts > 1:
        place = f" on {kind.hosts} hosts"
    return f"{pages}{place}, {kind.size // 1000} KB each, with {kind.links} links"


def tables(runs: Sequence[Run]) -> str:
    """The numbers as Markdown."""
    return "\n\n".join(part for run in runs for part in _tables(run))


def _tables(run: Run) -> Iterator[str]:
    packages = ", ".join(f"{name} {version}" for name, version in run["packages"].items())
    cores = "1 core" if run["cores"] == 1 else f"{run['cores']} cores"
    yield (
        f"Measured on {run['at'][:10]}: {run['system']}, {cores}, Python {run['python']}, "
        f"{packages}."
    )
    for name, workload in run["workloads"].items():
        reference, rows = workload["reference"], workload["rows"]
        others = OURS in rows and reference != OURS
        number = workload["rounds"]
        rounds = "one round" if number == 1 else f"medians of {number} rounds"
        heads = ["", "CPU ms a page", f"CPU, {reference} = 1 (rounds)"]
        heads += [f"CPU, {OURS} = 1"] if others else []
        heads += ["pages/s", "peak MB", f"memory, {reference} = 1"]
        lines = [_line(heads), "|---" * len(heads) + "|"]
        for peer, row in rows.items():
            ratio = f"{row['cpu_ratio']:.2f}"
            if peer != reference and number > 1:
                ratio += " ({:.2f}-{:.2f})".format(*row["cpu_ratio_range"])
            cells = [peer, f"{row['cpu_ms_per_page']:.3f}", ratio]
            cells += [f"{row['cpu_ratio_to_crawlkit']:.2f}"] if others else []
            cells += [
                f"{row['pages_per_second']:,.0f}",
                f"{row['peak_memory_mb']:.0f}",
                f"{row['memory_ratio']:.2f}",
            ]
            lines.append(_line(cells))
        yield f"**{name}**: {about(name, workload)}; {rounds}"
        yield "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |" if cells[0] else "| | " + " | ".join(cells[1:]) + " |"


WIDTH, MARGIN = 760, 20
LABELS, VALUES = 130, 150
"""Room left of the bars for the names, and right of the longest for its number."""
HEAD, TITLE, ROW, BAR = 44, 34, 22, 14
STYLE = """
svg { color: #1f2328; font: 13px system-ui, sans-serif }
text { fill: currentColor }
.ground { fill: #ffffff }
.quiet { fill: #59636e }
.bold { font-weight: 600 }
.bar { fill: #a9b2bb }
.crawlkit { fill: #00796b }
@media (prefers-color-scheme: dark) {
  svg { color: #e6edf3 }
  .ground { fill: #1b1f27 }
  .quiet { fill: #9aa4ae }
  .bar { fill: #66707b }
  .crawlkit { fill: #4db6ac }
}
"""


def chart(runs: Sequence[Run]) -> str:
    """CPU a page of everyone in every workload, as bars: an SVG.

    It brings its own ground, so that it can be read on any page, and follows the reader's choice of
    light or dark. Each workload has its own scale, from zero. Whoever cannot see it, is told the
    numbers.
    """
    panels = [item for run in runs for item in run["workloads"].items()]
    rows = sum(len(workload["rows"]) for _, workload in panels)
    height = HEAD + TITLE * len(panels) + ROW * rows + MARGIN
    root = ET.Element(
        "svg",
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {height}",
        width=str(WIDTH),
        height=str(height),
        role="img",
    )
    root.set("aria-labelledby", "title description")
    title = "CPU milliseconds a page: less is better"
    ET.SubElement(root, "title", id="title").text = title
    ET.SubElement(root, "desc", id="description").text = " ".join(map(_said, panels))
    ET.SubElement(root, "style").text = STYLE
    ground = ET.SubElement(root, "rect", width="100%", height="100%", rx="8")
    ground.set("class", "ground")
    _text(root, MARGIN, 30, title, "bold")
    y = HEAD
    for name, workload in panels:
        label = _text(root, MARGIN, y + 22, name, "bold")
        part = ET.SubElement(label, "tspan", dx="8")
        part.set("class", "quiet")
        part.set("font-weight", "400")
        part.text = about(name, workload)
        y += TITLE
        _bars(root, y, workload)
        y += ROW * len(workload["rows"])
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


def _said(panel: tuple[str, Mapping[str, Any]]) -> str:
    name, workload = panel
    rows = (f"{peer} {row['cpu_ms_per_page']:.3f}" for peer, row in workload["rows"].items())
    return f"{name}, {about(name, workload)}: {', '.join(rows)}."


def _bars(root: ET.Element, top: int, workload: Mapping[str, Any]) -> None:
    rows, left = workload["rows"], MARGIN + LABELS
    most = max(row["cpu_ms_per_page"] for row in rows.values())
    for number, (peer, row) in enumerate(rows.items()):
        y = top + number * ROW
        length = row["cpu_ms_per_page"] / most * (WIDTH - MARGIN - VALUES - left)
        ours = peer == OURS or peer.startswith(f"{OURS}-")
        name = _text(root, left - 8, y + 12, peer, "bold" if ours else "")
        name.set("text-anchor", "end")
        bar = ET.SubElement(
            root, "rect", x=str(left), y=str(y), width=f"{length:.1f}", height=str(BAR), rx="2"
        )
        bar.set("class", f"bar {OURS}" if ours else "bar")
        value = _text(root, left + length + 8, y + 12, f"{row['cpu_ms_per_page']:.3f}", "")
        if peer != workload["reference"]:
            ratio = ET.SubElement(value, "tspan", dx="6")
            ratio.set("class", "quiet")
            ratio.text = f"{row['cpu_ratio']:.2f} times {workload['reference']}"


def _text(root: ET.Element, x: float, y: float, text: str, kind: str) -> ET.Element:
    element = ET.SubElement(root, "text", x=f"{x:.1f}", y=f"{y:.1f}")
    if kind:
        element.set("class", kind)
    element.text = text
    return element


def dump(runs: Sequence[Run]) -> str:
    """The runs as they are kept."""
    return json.dumps({"runs": runs}, indent=1) + "\n"


def page_with(text: str, runs: Sequence[Run]) -> str:
    """The text of the page with these numbers in it.

    Raises:
        ValueError: There is no place for them.
    """
    head, begin, rest = text.partition(BEGIN)
    _, end, foot = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"there is no {BEGIN} ... {END} for the numbers")
    return f"{head}{BEGIN}\n\n{tables(runs)}\n\n{END}{foot}"


def publish(runs: Sequence[Run], docs: Path) -> None:
    """Write the numbers, the chart and the page."""
    page = docs / "benchmarks.md"
    text = page_with(page.read_text(encoding="utf-8"), runs)
    images = docs / "images"
    images.mkdir(exist_ok=True)
    (images / "benchmarks.json").write_text(dump(runs), encoding="utf-8")
    (images / "benchmarks.svg").write_text(chart(runs), encoding="utf-8")
    page.write_text(text, encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Show what was measured; the exit code."""
    options = _parser().parse_args(arguments)
    try:
        runs = [run for path in options.files for run in read(path)]
        if options.output:
            options.output.write_text(chart(runs), encoding="utf-8")
        if options.tables:
            print(tables(runs))
        if options.publish:
            publish(runs, ROOT / "docs")
    except (OSError, ValueError, KeyError) as error:
        print(f"tests.bench.chart: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.chart", description="Show what python -m tests.bench measured."
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="its JSON")
    parser.add_argument("-o", "--output", type=Path, metavar="SVG", help="write a chart there")
    parser.add_argument("--tables", action="store_true", help="print the tables as Markdown")
    parser.add_argument(
        "--publish",
        action="store_true",
        help="put the numbers, the chart and the tables into docs/",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())

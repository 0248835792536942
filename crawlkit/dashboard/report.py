"""Report: one HTML file about a run, to keep or to send.

It needs nothing but a browser, and runs nothing there: it has no script, and a policy that allows
none. All that came from sites is text in it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from .. import __version__
from ..counting.durations import Durations
from ..counting.errorgroups import ErrorStatistics
from ..errors import CrawlkitError
from ..figures import plural, size, span
from ..run import Run
from ..statistics import Statistics
from ..stores.files import check_replaceable
from ..stores.postgres.address import masked
from . import views
from .charts import Line, chart, rates, times_of
from .markup import Child, Markup, join, link, tag

HOSTS = 25
"""Hosts in the report, the busiest first."""
GROUPS = 50
"""Groups of errors in the report, the most frequent first."""
COLUMNS = 12
"""Fields of an item that are shown."""

_STYLE = Path(__file__).parent / "assets" / "report.css"


def write_report(run: Run, path: str | os.PathLike[str], *, items: int = 20) -> int:
    """Write the report on a run to a file, whole or not at all; how many bytes it has.

    Args:
        run: The run, finished or not.
        path: The file.
        items: Items of each handler that are shown.

    Raises:
        CrawlkitError: The file cannot be written.
    """
    document = report(run, items=items).encode("utf-8", "replace")
    target = Path(path)
    part = target.parent / f".{target.name}.{os.getpid()}.part"
    try:
        check_replaceable(target)
        part.write_bytes(document)
        os.replace(part, target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise CrawlkitError(
            f"{target} cannot be written: {error.strerror or error}; choose another file"
        ) from None
    return len(document)


def report(run: Run, *, items: int = 20) -> str:
    """The report on a run, as HTML.

    Args:
        run: The run, finished or not.
        items: Items of each handler that are shown.
    """
    is_live = run.is_live
    statistics = run.statistics
    name = run.address.rstrip("/").rpartition("/")[2] or run.address
    style = _style()
    body = tag(
        "body",
        _header(run, name, statistics, is_live),
        tag(
            "main",
            _tiles(statistics),
            _over_time(statistics),
            _tables(run, statistics),
            _errors(statistics.errors),
            _items(run, statistics, items),
            _lives(statistics, is_live),
        ),
        tag(
            "footer",
            f"{masked(run.address)} · written {_moment(datetime.now(UTC).isoformat())} "
            f"by crawlkit {__version__}",
        ),
    )
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{name}: report"),
        tag("style", Markup(style)),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _style() -> str:
    # Places in charts and lengths of bars, as the policy allows no style of a single element.
    places = "".join(f".p{n}{{--p:{n}%}}" for n in range(101))
    return _STYLE.read_text(encoding="utf-8") + places


# -- parts ----------------------------------------------------------------------------------------


def _header(run: Run, name: str, s: Statistics, is_live: bool) -> Markup:
    if is_live:
        state, said = "running", "It was still running when this was written."
    elif s.finished_at and not s.pending:
        state, said = "finished", f"It was finished at {_moment(s.finished_at)}."
    else:
        state = "stopped"
        said = f"It was stopped with {plural(s.pending, 'request')} to go."
    skipped = (
        f" {plural(s.requests_skipped, 'link')} {'was' if s.requests_skipped == 1 else 'were'} "
        "left out by its rules."
        if s.requests_skipped
        else ""
    )
    failed = (
        f"{plural(s.requests_failed, 'request')} failed"
        if s.requests_failed
        else "no request failed"
    )
    return tag(
        "header",
        tag("div", tag("h1", name), tag("p", state, class_=f"state {state}"), class_="brand"),
        tag(
            "p",
            f"The crawl began at {_moment(s.started_at)} and ran for {span(s.runtime_seconds)}"
            + (f" in {s.lives} lives" if s.lives > 1 else "")
            + f". It handled {plural(s.requests_finished, 'page')} and saved "
            f"{plural(s.items_saved, 'item')}; {failed}.{skipped} {said}",
            class_="summary",
        ),
    )


def _tiles(s: Statistics) -> Markup:
    average = s.requests_finished / s.runtime_seconds if s.runtime_seconds else 0.0
    hits = s.cache_hits + s.cache_misses
    cached = f"{100 * s.cache_hits / hits:.0f} % from the page cache" if hits else ""
    median, late = s.duration_finished.p50, s.duration_finished.p95
    tiles: list[tuple[str, str, str]] = [
        ("Pages", f"{s.requests_finished:,}", f"{average:,.1f} a second on average"),
        ("Failed", f"{s.requests_failed:,}", f"{s.requests_retried:,} tries made again"),
        ("Pending", f"{s.pending + s.in_flight:,}", f"of {s.requests_total:,} known"),
        ("Items", f"{s.items_saved:,}", ""),
        ("Received", size(s.bytes_received), cached),
        (
            "Median time",
            "-" if median is None else span(median),
            "" if late is None else f"95 % within {span(late)}",
        ),
    ]
    return tag(
        "dl",
        (
            tag(
                "div",
                tag("dt", title),
                tag("dd", value, class_="value"),
                tag("dd", note, class_="note"),
                class_="tile bad" if title == "Failed" and s.requests_failed else "tile",
            )
            for title, value, note in tiles
        ),
        class_="tiles",
    )


def _over_time(s: Statistics) -> Markup:
    samples = s.samples
    times = times_of(samples)
    pages = rates(times, [sample.finished for sample in samples])
    failures = rates(times, [sample.failed for sample in samples])
    charts = [
        chart(
            "Throughput",
            times,
            [Line("pages/s", pages, is_filled=True), Line("failures/s", failures, "two")],
            _rate,
        ),
        chart(
            "Latency",
            times,
            [
                Line("half within", [sample.p50 for sample in samples]),
                Line("95 % within", [sample.p95 for sample in samples], "two"),
            ],
            lambda value: span(value) if value else "0 s",
            least=0.001,
        ),
        chart(
            "Queue",
            times,
            [
                Line("waiting", [sample.pending for sample in samples], is_filled=True),
                Line("in flight", [sample.in_flight for sample in samples], "two"),
            ],
            lambda value: f"{value:,.0f}",
            least=10,
        ),
        chart(
            "Memory",
            times,
            [Line("resident", [sample.memory for sample in samples], is_filled=True)],
            lambda value: size(round(value)),
            least=1e6,
        ),
    ]
    return tag(
        "section",
        tag("h2", "Over time"),
        tag("p", "Times are UTC.", class_="quiet"),
        tag("div", charts, class_="two"),
    )


def _tables(run: Run, s: Statistics) -> Markup:
    counts = ("finished", "failed", "retried")
    busiest = sorted(s.by_handler.items(), key=lambda entry: -entry[1].requests_finished)
    handlers = [views.handler(name, row) for name, row in busiest]
    hosts = [views.host(name, row) for name, row in run.hosts(HOSTS).items()]
    panels = [
        _panel(
            "By handler",
            _table(
                ("Handler", "Pages", "Failed", "Tried again", "Items", "Mean time"),
                (
                    [h["name"], *(f"{h[n]:,}" for n in (*counts, "items")), _span(h["mean"])]
                    for h in handlers
                ),
            ),
        ),
        _panel(
            f"By host, the busiest {HOSTS}" if len(hosts) == HOSTS else "By host",
            _table(
                ("Host", "Pages", "Failed", "Tried again", "Received", "Mean time"),
                (
                    [h["name"], *(f"{h[n]:,}" for n in counts), size(h["bytes"]), _span(h["mean"])]
                    for h in hosts
                ),
            ),
        ),
        _panel("How long requests took", _durations(s)),
        _panel("Responses by status", _bars(sorted(s.status_codes.items()), lambda n: n >= 400)),
        _panel(
            "Tried again before they ended",
            _bars([(_times(n), count) for n, count in sorted(s.retry_histogram.items())]),
        ),
        _panel(
            "Left out, and why",
            _bars(sorted(s.skipped_by_reason.items(), key=lambda entry: -entry[1])),
        ),
    ]
    return tag("section", tag("h2", "What it did"), tag("div", panels, class_="two"))


def _durations(s: Statistics) -> Markup:
    columns = ("min", "mean", "p50", "p95", "p99", "max")
    kinds: list[tuple[str, Durations]] = [
        ("finished", s.duration_finished),
        ("failed", s.duration_failed),
    ]
    return _table(
        ("Requests", *columns),
        (
            [name, *(_span(getattr(d, column)) for column in columns)]
            for name, d in kinds
            if d.count
        ),
    )


def _errors(groups: Sequence[ErrorStatistics]) -> Markup:
    found = views.errors(groups[:GROUPS], {})
    cards = [
        tag(
            "article",
            tag("p", f"{group['count']:,} x", class_="count"),
            tag(
                "div",
                tag("h3", group["kind"], class_="web"),
                tag("p", group["message"] or "without a message", class_="web"),
                tag(
                    "p",
                    tag("span", f"{group['place']} · ", class_="mono") if group["place"] else None,
                    f"{_moment(group['first_at'])} to {_moment(group['last_at'])}",
                    class_="quiet",
                ),
                tag("ul", (tag("li", link(url)) for url in group["examples"])),
            ),
            class_="panel group",
        )
        for group in found
    ]
    rest = len(groups) - len(found)
    return tag(
        "section",
        tag("h2", "Errors"),
        cards or tag("p", "There were none.", class_="quiet"),
        tag("p", f"and {plural(rest, 'group')} more", class_="quiet") if rest else None,
    )


def _items(run: Run, s: Statistics, most: int) -> Markup | None:
    names = [name for name, row in s.by_handler.items() if row.items_saved]
    if not most or not names:
        return None
    tables = [_panel(f"Saved by {views.shown(name)}", _sample(run, name, most)) for name in names]
    return tag("section", tag("h2", "Some of the items"), tables)


def _sample(run: Run, handler: str, most: int) -> Markup:
    rows = [views.item(stored) for stored in islice(run.stored_items(handler), most)]
    fields = list(dict.fromkeys(name for row in rows for name in row["data"]))[:COLUMNS]
    return _table(
        ("#", *fields, "from"),
        (
            [f"{row['number']:,}", *(_value(row["data"].get(f)) for f in fields), link(row["url"])]
            for row in rows
        ),
        class_="items",
    )


def _value(value: Any) -> Child:
    if value is None:
        return None
    if isinstance(value, str):
        is_url = value.startswith(("http://", "https://"))
        return link(value) if is_url else tag("span", value, class_="web")
    return tag("span", json.dumps(value, ensure_ascii=False), class_="web mono")


def _lives(s: Statistics, is_live: bool) -> Markup:
    rows = [
        ("Lives", f"{s.lives:,}"),
        ("First begun", _moment(s.started_at)),
        ("Last begun", _moment(s.last_started_at)),
        ("Finished", "not yet" if is_live or not s.finished_at else _moment(s.finished_at)),
        ("Ran, in all", span(s.runtime_seconds)),
    ]
    # What each life did is not known of every run.
    each = [
        [
            f"{life.number:,}" if life.lives == 1 else f"up to {life.number:,}",
            _moment(life.started_at),
            _moment(life.ended_at),
            life.end or "-",
            span(life.runtime_seconds),
            *(f"{n:,}" for n in (life.requests_finished, life.requests_failed, life.items_saved)),
        ]
        for life in s.by_life
    ]
    head = ("Life", "Begun", "Last heard of", "End", "Ran", "Pages", "Failed", "Items")
    return tag(
        "section",
        tag("h2", "Lives"),
        _panel("Starts and ends, in UTC", _table(("", ""), ([a, b] for a, b in rows))),
        _panel("What each life did", _table(head, each)) if each else None,
    )


# -- small things ---------------------------------------------------------------------------------


def _panel(title: str, *children: Child) -> Markup:
    return tag("div", tag("h3", title), children, class_="panel")


def _table(
    head: Iterable[str], rows: Iterable[Sequence[Child]], *, class_: str | None = None
) -> Markup:
    """A table; the first column is text, the others are numbers unless it is one of items."""
    body = [tag("tr", (tag("td", cell) for cell in row)) for row in rows]
    if not body:
        return tag("p", "Nothing yet.", class_="quiet")
    titles = list(head)
    heading = tag("tr", (tag("th", title, scope="col") for title in titles))
    return tag(
        "div",
        tag(
            "table",
            tag("thead", heading) if any(titles) else None,
            tag("tbody", body),
            class_=class_,
        ),
        class_="scroll",
        tabindex=0,
        role="region",
        aria_label="Table",
    )


def _bars(
    rows: Sequence[tuple[Any, int]], is_bad: Callable[[Any], bool] = lambda name: False
) -> Markup:
    rows = [(name, n) for name, n in rows if n]
    if not rows:
        return tag("p", "Nothing.", class_="quiet")
    most = max(n for _, n in rows)

    def bars() -> Iterator[Markup]:
        for name, n in rows:
            meter = f"meter p{max(1, round(100 * n / most))}" + (" bad" if is_bad(name) else "")
            track = tag("span", tag("span", class_=meter), class_="track", aria_hidden="true")
            yield join(tag("dt", str(name), class_="web"), tag("dd", track, tag("span", f"{n:,}")))

    return tag("dl", bars(), class_="bars")


def _span(seconds: float | None) -> str:
    return "-" if seconds is None else span(seconds)


def _times(count: int) -> str:
    return ("not once", "once")[count] if count < 2 else f"{count:,} times"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or not value else f"{value:.1f}"


def _moment(iso: str | None) -> str:
    return "-" if iso is None else iso[:19].replace("T", " ")

"""stats, items, why: the verbs that only look."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..clock import isoformat
from ..errors import printable
from ..items import export_items, item_line
from ..run import open_run
from ..stores.directory import RunDirectory
from ..stores.mirror.note import read_note
from .output import (
    number,
    plural,
    print_json,
    print_json_list,
    print_lines,
    size,
    span,
    table,
)
from .verbs import Verb, json_option, run_argument

if TYPE_CHECKING:
    from ..statistics import HandlerStatistics, HostStatistics, Statistics


# -- stats ------------------------------------------------------------------------------------


@click.command(cls=Verb)
@run_argument
@json_option
@click.option(
    "--diff", "other", metavar="OTHER", help="Compare with another run: what differs, and by what."
)
@click.option(
    "--hosts",
    type=click.IntRange(min=0),
    metavar="N",
    help="How many hosts to tell apart, the busiest first (default 10, with --json 100).",
)
def stats(address: str, as_json: bool, other: str | None, hosts: int | None) -> None:
    """The statistics of a run, exact over all its lives."""
    if other is not None:
        differing = _differences(_statistics(address, 0)[0], _statistics(other, 0)[0])
        if as_json:
            print_json(differing)
        else:
            _print_differences(address, other, differing)
        return
    limit = hosts if hosts is not None else 100 if as_json else 10
    statistics, is_live = _statistics(address, limit)
    if as_json:
        print_json(statistics.to_dict())
    else:
        click.echo("\n".join((*_report(address, statistics, is_live), *_mirror(address))))


def _statistics(address: str, hosts: int) -> tuple[Statistics, bool]:
    with open_run(address) as run:
        is_live = run.is_live
        statistics = run.statistics
        statistics.by_host = run.hosts(hosts) if hosts else {}
        return statistics, is_live


def _report(address: str, s: Statistics, is_live: bool) -> Iterator[str]:
    if is_live:
        state = "running"
    elif s.finished_at:
        state = f"finished at {s.finished_at}"
    else:
        state = "stopped"
    yield f"{address}: {state}; started at {s.started_at}, ran {span(s.runtime_seconds)} in " + (
        "one life" if s.lives == 1 else f"{s.lives} lives"
    )
    yield ""
    rows = [
        ("finished", s.requests_finished),
        ("failed", s.requests_failed),
        ("pending", s.pending),
        ("in flight", s.in_flight),
        ("dropped", s.requests_dropped),
    ]
    yield _line("requests", [(k, n) for k, n in rows if n or k in ("finished", "failed")])
    yield _line("retries", [("in all", s.requests_retried)]) + _retries(s.retry_histogram)
    yield _line("duplicates", [("links that were known", s.requests_duplicate)])
    if s.skipped_by_reason:
        yield _line("skipped", _largest(s.skipped_by_reason))
    yield _line("responses", [(f"x {code}", n) for code, n in _largest(s.status_codes)]) + (
        f"; {size(s.bytes_received)}"
    )
    yield _line("items", [("saved", s.items_saved)])
    if s.cache_hits or s.cache_misses:
        kinds = ("hits", "misses", "revalidated", "stored")
        yield _line("cache", [(kind, getattr(s, f"cache_{kind}")) for kind in kinds])
    yield from _durations(s)
    yield from _by("handler", s.by_handler, "items", [t.items_saved for t in s.by_handler.values()])
    yield from _by("host", s.by_host, "bytes", [t.bytes_received for t in s.by_host.values()])
    if s.errors:
        yield ""
        yield "errors"
        for error in s.errors[:10]:
            place = f" ({error.place})" if error.place else ""
            yield f"  {error.count:>7,} x {printable(f'{error.kind}: {error.message}')}{place}"
            yield from (f"            {printable(url)}" for url in error.examples[:2])
        if len(s.errors) > 10:
            yield f"  and {plural(len(s.errors) - 10, 'group')} more; see them with --json"


def _mirror(address: str) -> Iterator[str]:
    """How far the mirror of an embedded run is."""
    note, record = read_note(Path(address)), RunDirectory(address).noted()
    if note is not None and record is not None:
        behind = max(0, record.commits - note.commits)
        state = f"{plural(behind, 'checkpoint')} behind" if behind else "holds everything"
        yield ""
        yield f"mirror      {printable(note.address)}: {state}; shipped at {isoformat(note.at)}"


def _line(title: str, numbers: list[tuple[str, int]]) -> str:
    return f"{title:<11} " + (", ".join(f"{n:,} {name}" for name, n in numbers) or "none")


def _largest(counts: dict[Any, int]) -> list[tuple[Any, int]]:
    return sorted(counts.items(), key=lambda entry: -entry[1])


def _retries(histogram: dict[int, int]) -> str:
    more = sorted((retries, n) for retries, n in histogram.items() if retries and n)
    return "".join(f"; {n:,} needed {retries}" for retries, n in more)


def _durations(statistics: Statistics) -> Iterator[str]:
    columns = ("min", "mean", "p50", "p90", "p95", "p99", "max")
    rows = [
        [f"  {name}", *(span(getattr(durations, column)) for column in columns)]
        for name, durations in (
            ("finished", statistics.duration_finished),
            ("failed", statistics.duration_failed),
        )
        if durations.count
    ]
    if rows:
        yield ""
        yield table([["duration", *columns], *rows])


def _by(
    what: str,
    tallies: Mapping[str, HandlerStatistics | HostStatistics],
    last: str,
    lasts: list[int],
) -> Iterator[str]:
    if tallies:
        rows = [[f"by {what}", "finished", "failed", "retried", last]]
        for (name, tally), n in zip(tallies.items(), lasts, strict=True):
            counts = (tally.requests_finished, tally.requests_failed, tally.requests_retried, n)
            rows.append([f"  {printable(name)}", *map(number, counts)])
        yield ""
        yield table(rows)


def _differences(one: Statistics, other: Statistics) -> dict[str, dict[str, float]]:
    ours, theirs = dict(_numbers(one.to_dict())), dict(_numbers(other.to_dict()))
    return {
        name: {"this": ours.get(name, 0), "other": theirs.get(name, 0), "change": change}
        for name in dict.fromkeys([*ours, *theirs])
        if (change := ours.get(name, 0) - theirs.get(name, 0))
    }


def _numbers(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Every number in the statistics, by its path. Samples and errors have none to compare."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float):
            yield prefix + name, value


def _print_differences(address: str, other: str, differing: dict[str, dict[str, float]]) -> None:
    if not differing:
        click.echo(f"{address} and {other} have the same numbers")
        return
    rows = [("", address, other, "change")]
    for name, values in differing.items():
        change = number(values["change"])
        sign = "" if change.startswith("-") else "+"
        rows.append(
            (printable(name), number(values["this"]), number(values["other"]), sign + change)
        )
    click.echo(table(rows))


# -- items ------------------------------------------------------------------------------------


@click.command(cls=Verb)
@run_argument
@json_option
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="Write them to FILE in the form of its ending: .jsonl, .ndjson, .json or .csv.",
)
@click.option("--handler", metavar="NAME", help="Only those that this handler saved.")
@click.option("--meta", is_flag=True, help="Add _url, _handler and _time to each item.")
@click.option(
    "--raw-csv",
    is_flag=True,
    help="In .csv, leave text alone that a spreadsheet would take for a formula.",
)
def items(
    address: str, as_json: bool, output: str | None, handler: str | None, meta: bool, raw_csv: bool
) -> None:
    """The items of a run, as JSON lines; with --json as one array."""
    with open_run(address) as run:
        stored = run.stored_items(handler)
        if output is not None:
            count = export_items(stored, output, meta=meta, escape_formulas=not raw_csv)
            click.echo(f"{plural(count, 'item')} written to {output}", err=True)
        else:
            lines = (item_line(item, meta=meta) for item in stored)
            (print_json_list if as_json else print_lines)(lines)


# -- why --------------------------------------------------------------------------------------


@click.command(cls=Verb)
@run_argument
@click.argument("url")
@json_option
def why(address: str, url: str, as_json: bool) -> None:
    """What became of a URL.

    Handled when, failed how, skipped for what, a duplicate of what; or whether it is still to do.
    """
    with open_run(address) as run:
        explanation = run.why(url)
    if as_json:
        times = {"at": isoformat(explanation.at), "due": isoformat(explanation.due)}
        print_json({name: getattr(explanation, name) for name in explanation.__slots__} | times)
    else:
        click.echo(printable(str(explanation)))
        if explanation.outcome == "failed":
            click.echo(f"try it again with 'crawlkit failed {address} retry --url {url}'")

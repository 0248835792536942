"""stats, items, why: the verbs that only look."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from ..clock import isoformat
from ..errors import UsageError, printable
from ..exporting.export import export_items, passes_of, split_items
from ..items import item_line
from ..run import open_run
from ..stores.directory import RunDirectory
from ..stores.mirror.note import read_note
from ..stores.postgres.address import masked
from .absent import no_field, no_items_of, tell
from .lives import life_lines, life_of, lives_table
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
from .progress import export_progress
from .verbs import Verb, json_option, run_argument

if TYPE_CHECKING:
    from ..statistics import HandlerStatistics, HostStatistics, Statistics


# -- stats ------------------------------------------------------------------------------------


@click.command(cls=Verb)
@run_argument
@json_option
@click.option("--lives", "all_lives", is_flag=True, help="What each of its lives did.")
@click.option("--life", type=int, metavar="N", help="Only what its life N did.")
@click.option(
    "--diff",
    "other",
    metavar="OTHER",
    help="Compare with another run, or with --life N another life: what differs, and by what.",
)
@click.option(
    "--hosts",
    type=click.IntRange(min=0),
    metavar="N",
    help="How many hosts to tell apart, the busiest first (default 10, with --json 100).",
)
def stats(
    address: str,
    as_json: bool,
    all_lives: bool,
    life: int | None,
    other: str | None,
    hosts: int | None,
) -> None:
    """The statistics of a run, exact over all its lives."""
    if all_lives or life is not None:
        _print_lives(address, life, other, as_json)
        return
    if other is not None:
        ours, theirs = _statistics(address, 0)[0], _statistics(other, 0)[0]
        _print_differences(address, other, _differences(ours.to_dict(), theirs.to_dict()), as_json)
        return
    limit = hosts if hosts is not None else 100 if as_json else 10
    statistics, is_live = _statistics(address, limit)
    if as_json:
        mirror = _mirror(address)
        print_json(statistics.to_dict() | ({} if mirror is None else {"mirror": mirror}))
    else:
        lines = (*_report(address, statistics, is_live), *_mirror_lines(_mirror(address)))
        click.echo("\n".join(lines))


def _print_lives(address: str, life: int | None, other: str | None, as_json: bool) -> None:
    statistics, is_live = _statistics(address, 0)
    if life is None:
        if other is not None:
            raise UsageError("--lives --diff makes no sense; compare two lives with --life N")
        lives = statistics.by_life
        if as_json:
            print_json(lives)
        else:
            click.echo(lives_table(lives, is_live=is_live))
        return
    ours = life_of(address, statistics, life)
    if other is not None:
        if not other.isdecimal():
            raise UsageError(f"--life {life} --diff {other} makes no sense; name another life")
        theirs = life_of(address, statistics, int(other))
        differing = _differences(msgspec.to_builtins(ours), msgspec.to_builtins(theirs))
        names = (f"life {life}", f"life {other}")
        _print_differences(*names, {n: v for n, v in differing.items() if n != "number"}, as_json)
    elif as_json:
        print_json(ours)
    else:
        is_last = ours.number == statistics.by_life[-1].number
        click.echo("\n".join(life_lines(ours, is_live=is_live and is_last)))


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
    yield (
        f"{masked(address)}: {state}; started at {s.started_at}, ran {span(s.runtime_seconds)} in "
        + ("one life" if s.lives == 1 else f"{s.lives} lives")
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
        yield f"errors (see one with 'crawlkit failed {masked(address)} show ID')"
        for error in s.errors[:10]:
            place = f" ({error.place})" if error.place else ""
            told = printable(f"{error.kind}: {error.message}")
            yield f"  {error.id} {error.count:>7,} x {told}{place}"
            yield from (f"                     {printable(url)}" for url in error.examples[:2])
        if len(s.errors) > 10:
            yield f"  and {plural(len(s.errors) - 10, 'group')} more; see them with --json"


def _mirror(address: str) -> dict[str, Any] | None:
    """How far the mirror of an embedded run is; ``None`` where it has none."""
    note, record = read_note(Path(address)), RunDirectory(address).noted()
    if note is None or record is None:
        return None
    return {
        "address": note.address,
        "checkpoints_behind": max(0, record.commits - note.commits),
        "shipped_at": isoformat(note.at) if note.at else None,
    }


def _mirror_lines(mirror: dict[str, Any] | None) -> Iterator[str]:
    if mirror is not None:
        behind, at = mirror["checkpoints_behind"], mirror["shipped_at"]
        state = f"{plural(behind, 'checkpoint')} behind" if behind else "holds everything"
        shipped = "nothing was shipped yet" if at is None else f"shipped at {at}"
        yield ""
        yield f"mirror      {printable(mirror['address'])}: {state}; {shipped}"


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


def _differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, dict[str, float]]:
    ours, theirs = dict(_numbers(one)), dict(_numbers(other))
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


def _print_differences(
    address: str, other: str, differing: dict[str, dict[str, float]], as_json: bool
) -> None:
    if as_json:
        print_json(differing)
        return
    if not differing:
        click.echo(f"{masked(address)} and {masked(other)} have the same numbers")
        return
    rows = [("", masked(address), masked(other), "change")]
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
    help="Write them to FILE, a path or URL: .jsonl, .ndjson, .json, .csv or .parquet.",
)
@click.option(
    "--split",
    metavar="BY",
    help="With -o, a file for each 'handler', or for each value of the field BY, such as 'type'.",
)
@click.option("--handler", metavar="NAME", help="Only those that this handler saved.")
@click.option("--meta", is_flag=True, help="Add _url, _handler and _time to each item.")
@click.option(
    "--raw-csv",
    is_flag=True,
    help="In .csv, leave text alone that a spreadsheet would take for a formula.",
)
@click.option("--no-progress", is_flag=True, help="With -o, show no progress bar.")
def items(
    address: str,
    as_json: bool,
    output: str | None,
    split: str | None,
    handler: str | None,
    meta: bool,
    raw_csv: bool,
    no_progress: bool,
) -> None:
    """The items of a run, as JSON lines; with --json as one array."""
    if split is not None and output is None:
        raise UsageError(f"--split {split} needs files to split them into; add -o FILE")
    with open_run(address) as run:
        stored = run.stored_items(handler)
        if output is None:
            lines = (item_line(item, meta=meta) for item in stored)
            if not (print_json_list if as_json else print_lines)(lines) and handler is not None:
                tell(no_items_of(run, handler))
            return
        total = run.count_items(handler) * passes_of(output)
        with export_progress(total, is_shown=not no_progress) as on_progress:
            options: dict[str, Any] = {
                "meta": meta,
                "escape_formulas": not raw_csv,
                "on_progress": on_progress,
            }
            if split is None:
                written = {output: export_items(stored, output, **options)}
            else:
                written = split_items(stored, output, split, **options)
        absent = None
        if handler is not None and not any(written.values()):
            absent = no_items_of(run, handler)
        elif split not in (None, "handler") and len(written) == 1:
            absent = no_field(run, split, handler)
    for file, count in written.items():
        click.echo(printable(f"{plural(count, 'item')} written to {file}"), err=True)
    if absent is not None:
        tell(absent)
    elif not written:
        tell("there are no items, so no file was written")


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
            click.echo(f"try it again with 'crawlkit failed {masked(address)} retry --url {url}'")

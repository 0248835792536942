"""Overview: statistics as a few small tables, for notebooks and for rich.

Most of the text in them was written by sites or by errors that quote them. It stays text, in HTML
as well as on a terminal.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import printable
from ..figures import number, plural, size, span

if TYPE_CHECKING:
    from ..statistics import Statistics

ERRORS = 5
"""Groups of errors that are shown."""
ROWS = 10
"""Rows of other tables."""

_STYLE = "border-collapse:collapse;margin:.4em 0;font-variant-numeric:tabular-nums"
_CELL = "padding:.1em .8em .1em 0;text-align:{};border-bottom:1px solid #8884"


class Table(NamedTuple):
    """A table: the first column is text, the others are numbers unless `is_text`."""

    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    is_text: bool = False


def tables_of(s: Statistics) -> list[Table]:
    """The statistics as tables; those that would be empty are left out."""
    lives = "one life" if s.lives == 1 else plural(s.lives, "life").replace("lifes", "lives")
    state = f"finished at {s.finished_at}" if s.finished_at else "not finished"
    requests = (
        f"{number(s.requests_finished)} finished, {number(s.requests_failed)} failed, "
        f"{number(s.pending)} pending, {number(s.in_flight)} in flight"
    )
    tables = [
        Table(
            ("run", f"{state}; {span(s.runtime_seconds)} in {lives}"),
            [
                ("requests", requests),
                ("items", number(s.items_saved)),
                ("received", size(s.bytes_received)),
                ("retries", number(s.requests_retried)),
                ("skipped", _counts(s.skipped_by_reason)),
                ("responses", _counts(s.status_codes)),
            ],
            is_text=True,
        )
    ]
    durations: list[tuple[str, ...]] = [
        (name, *(span(getattr(found, column) or 0.0) for column in ("mean", "p50", "p95", "max")))
        for name, found in (("finished", s.duration_finished), ("failed", s.duration_failed))
        if found.count
    ]
    if durations:
        tables.append(Table(("duration", "mean", "p50", "p95", "max"), durations))
    handlers: list[tuple[str, ...]] = [
        (name, *map(number, (row.requests_finished, row.requests_failed, row.items_saved)))
        for name, row in list(s.by_handler.items())[:ROWS]
    ]
    if handlers:
        tables.append(Table(("handler", "finished", "failed", "items"), handlers))
    errors: list[tuple[str, ...]] = [
        (group.id, f"{number(group.count)} x {group.kind}: {group.message} {group.place}".strip())
        for group in s.errors[:ERRORS]
    ]
    if errors:
        tables.append(Table(("errors", ""), errors, is_text=True))
    return tables


def html_of(title: str, tables: Iterable[Table]) -> str:
    """Tables as HTML, for a notebook."""
    parts = [f"<strong>{_safe(title)}</strong>"] if title else []
    for table in tables:
        lines = [_html_row("th", table.head, is_text=table.is_text)]
        lines += (_html_row("td", row, is_text=table.is_text) for row in table.rows)
        parts.append(f'<table style="{_STYLE}">{"".join(lines)}</table>')
    return f"<div>{''.join(parts)}</div>"


def rich_of(title: str, tables: Iterable[Table]) -> Any:
    """Tables as rich shows them."""
    from rich.console import Group  # here, as only those who have it already come here
    from rich.table import Table as RichTable
    from rich.text import Text

    shown: list[Any] = [Text(printable(title), style="bold")] if title else []
    for table in tables:
        made = RichTable(box=None, pad_edge=False, header_style="dim")
        for place, name in enumerate(table.head):
            made.add_column(Text(name), justify="left" if table.is_text or not place else "right")
        for row in table.rows:
            made.add_row(*(Text(printable(cell)) for cell in row))
        shown.append(made)
    return Group(*shown)


def _counts(counts: dict[Any, int]) -> str:
    largest = sorted(counts.items(), key=lambda entry: -entry[1])
    more = ", ..." if len(largest) > ROWS else ""
    return ", ".join(f"{number(n)} x {name}" for name, n in largest[:ROWS]) + more or "none"


def _html_row(tag: str, cells: tuple[str, ...], *, is_text: bool) -> str:
    aligns = ("left" if is_text or not place else "right" for place in range(len(cells)))
    inside = (
        f'<{tag} style="{_CELL.format(align)}">{_safe(cell)}</{tag}>'
        for align, cell in zip(aligns, cells, strict=True)
    )
    return f"<tr>{''.join(inside)}</tr>"


def _safe(text: str) -> str:
    return escape(printable(text))

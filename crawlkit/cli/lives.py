"""The lives of a run, as a table, and one of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..counting.lives import LifeStatistics
from ..errors import UsageError
from ..statistics import Statistics
from ..stores.postgres.address import masked
from .output import number, size, span, table


def life_of(address: str, statistics: Statistics, wanted: int) -> LifeStatistics:
    """One life of a run by its number.

    Raises:
        UsageError: It is not told apart.
    """
    lives = statistics.by_life
    for life in lives:
        if life.number == wanted and life.lives == 1:
            return life
    alone = [life.number for life in lives if life.lives == 1]
    there = f"there are {alone[0]} to {alone[-1]}" if alone else "there is none"
    raise UsageError(f"life {wanted} of {masked(address)} is not known by itself; {there}")


def how_it_ended(life: LifeStatistics, *, is_live: bool) -> str:
    """What became of a life, in a word."""
    return life.end or ("running" if is_live else "killed")


def lives_table(lives: list[LifeStatistics], *, is_live: bool) -> str:
    """The lives, a line each."""
    if not lives:
        return "nothing is known of its lives; they are counted from the next start on"
    rows: list[tuple[str, ...]] = [
        ("life", "began", "ran", "finished", "failed", "items", "received", "end")
    ]
    for life in lives:
        name = str(life.number) if life.lives == 1 else f"1-{life.number}"
        is_last = life is lives[-1]
        rows.append(
            (
                name,
                (life.started_at or "")[:19],
                span(life.runtime_seconds),
                number(life.requests_finished),
                number(life.requests_failed),
                number(life.items_saved),
                size(life.bytes_received),
                how_it_ended(life, is_live=is_live and is_last),
            )
        )
    return table(rows)


def life_lines(life: LifeStatistics, *, is_live: bool) -> Iterator[str]:
    """One life, a number a line."""
    yield f"life {life.number}: {how_it_ended(life, is_live=is_live)}"
    yield f"began {life.started_at}, last checkpoint {life.ended_at}, crawlkit {life.version}"
    yield ""
    yield table(_rows(life))


def _rows(life: LifeStatistics) -> Iterable[tuple[str, str]]:
    for name in type(life).__struct_fields__[6:]:
        value = getattr(life, name)
        told = {"runtime_seconds": span, "bytes_received": size, "cache_bytes_saved": size}
        yield name, told.get(name, number)(value)

"""Charts as SVG, for a page without scripts.

The lines are stretched to the width that there is; what is written beside them is HTML, so that it
is as large on a phone as anywhere. Places are classes (``p0`` to ``p100``), since the policy of the
page allows no styles in attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from math import floor, log10
from typing import NamedTuple

from ..counting.samples import Sample
from .markup import Markup, tag

WIDTH, HEIGHT = 1000, 200

Values = Sequence[float | None]


class Line(NamedTuple):
    """One line of a chart."""

    name: str
    values: Values
    color: str = "one"
    is_filled: bool = False


def chart(
    title: str,
    times: Sequence[float],
    lines: Sequence[Line],
    write: Callable[[float], str],
    *,
    least: float = 1.0,
) -> Markup:
    """A chart over time.

    Args:
        title: What it is of.
        times: Unix times, ascending.
        lines: The lines; each has a value for each time, or ``None``.
        write: Writes a value.
        least: Up to where the scale reaches at least.
    """
    known = [value for line in lines for value in line.values if value is not None]
    legend = [
        tag(
            "span",
            tag("i", class_=line.color, aria_hidden="true"),
            f"{line.name}, at most ",
            tag("b", write(max(values))) if (values := _known(line)) else tag("b", "-"),
        )
        for line in lines
    ]
    heading = tag("div", tag("h3", title), tag("div", legend, class_="legend"), class_="heading")
    if len(times) < 2 or not known:
        body = tag("p", "Too short to draw.", class_="quiet")
    else:
        body = _frame(title, times, lines, write, max(least, *known))
    return tag("figure", heading, body, class_="panel")


def _known(line: Line) -> list[float]:
    return [value for value in line.values if value is not None]


def _frame(
    title: str,
    times: Sequence[float],
    lines: Sequence[Line],
    write: Callable[[float], str],
    most: float,
) -> Markup:
    step = nice_step(most / 4)
    top = step * (floor(most / step) + 1)
    marks = [step * i for i in range(round(top / step) + 1)]
    begin, end = times[0], times[-1]

    def across(at: float) -> float:
        return WIDTH * (at - begin) / (end - begin)

    def down(value: float) -> float:
        return HEIGHT * (1 - value / top)

    drawn = [tag("path", class_="grid", d="".join(f"M0 {down(m):.1f}H{WIDTH}" for m in marks))]
    for line in lines:
        for part in _parts(times, line.values):
            path = "L".join(f"{across(at):.1f} {down(value):.1f}" for at, value in part)
            if line.is_filled:
                first, last = across(part[0][0]), across(part[-1][0])
                area = f"M{first:.1f} {HEIGHT}L{path}L{last:.1f} {HEIGHT}Z"
                drawn.append(tag("path", class_=f"area {line.color}", d=area))
            drawn.append(tag("path", class_=f"line {line.color}", d=f"M{path}"))
    svg = tag(
        "svg",
        drawn,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        preserveAspectRatio="none",
        role="img",
        aria_label=f"{title} over time, at most {write(most)}",
    )
    heights = [tag("span", write(m), class_=f"p{round(100 * (1 - m / top))}") for m in marks]
    moments = [
        tag("span", moment_of(at, end - begin), class_=f"p{round(across(at) / WIDTH * 100)}")
        for at in _moments(begin, end)
    ]
    return tag(
        "div",
        tag("div", heights, class_="y", aria_hidden="true"),
        svg,
        tag("div", moments, class_="x", aria_hidden="true"),
        class_="frame",
    )


def _parts(times: Sequence[float], values: Values) -> list[list[tuple[float, float]]]:
    """The points that belong together: between gaps."""
    parts: list[list[tuple[float, float]]] = [[]]
    broken = gaps(times)
    for i, (at, value) in enumerate(zip(times, values, strict=True)):
        if parts[-1] and (value is None or i in broken):
            parts.append([])
        if value is not None:
            parts[-1].append((at, value))
    return [part for part in parts if len(part) > 1]


def gaps(times: Sequence[float]) -> set[int]:
    """The places before which nothing was running: after a pause between two lives."""
    steps = [after - before for before, after in pairwise(times)]
    usual = steps[:1] + steps  # what came before each
    return {
        i
        for i, (step, before) in enumerate(zip(steps, usual, strict=False), start=1)
        if step > 15 and step > 5 * before
    }


def nice_step(least: float) -> float:
    """1, 2 or 5 times a power of ten, `least` or a little more."""
    power: float = 10 ** floor(log10(least))
    return next(power * n for n in (1, 2, 5, 10) if power * n >= least * 0.999)


_STEPS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 21600, 43200)
_DAY = 86400.0


def _moments(begin: float, end: float) -> list[float]:
    """Three to five round times in between, none so near to the ends that it would stick out."""
    period = end - begin
    days = _DAY * nice_step(period / 5 / _DAY)
    step: float = next((s for s in _STEPS if period / s <= 5), days)
    first = (floor(begin / step) + 1) * step
    margin = 0.05 * (end - begin)
    times = [first + i * step for i in range(6)]
    return [at for at in times if begin + margin <= at <= end - margin]


def moment_of(at: float, period: float) -> str:
    """A time as it is written below a chart of so many seconds, in UTC."""
    moment = datetime.fromtimestamp(at, UTC)
    if period > 3 * _DAY:
        return f"{moment:%m-%d}"
    return f"{moment:%H:%M:%S}" if period < 600 else f"{moment:%H:%M}"


# -- from samples to values -----------------------------------------------------------------------


def times_of(samples: Sequence[Sample]) -> list[float]:
    """The times of samples, as Unix times; one that was set back counts on from the one before."""
    times: list[float] = []
    for sample in samples:
        at = datetime.fromisoformat(sample.time or "1970-01-01T00:00:00Z").timestamp()
        times.append(max(at, times[-1] + 0.001) if times else at)
    return times


def rates(times: Sequence[float], totals: Sequence[int]) -> list[float | None]:
    """What came a second since the sample before; `None` where nothing was running in between."""
    broken = gaps(times)
    found: list[float | None] = [None] if times else []
    for i, (before, after) in enumerate(pairwise(totals), start=1):
        passed = times[i] - times[i - 1]
        found.append(None if i in broken else max(0.0, (after - before) / passed))
    return found

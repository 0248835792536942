"""Figures for people: numbers, bytes, spans of time and how many of something."""

from __future__ import annotations


def number(value: float) -> str:
    """1234567 as 1,234,567; of what is small the first digits that say something: 0.0015."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.2f}" if value == 0 or abs(value) >= 0.1 else f"{value:.2g}"


def size(count: int) -> str:
    """Bytes, in the unit in which they have one to three digits before the point."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"


def span(seconds: float) -> str:
    """Seconds in two units at most: ``7.3 ms``, ``1.35 s``, ``4 min 05 s``, ``2 d 3 h``."""
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms" if seconds < 0.1 else f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"


def plural(count: int, noun: str) -> str:
    """``1 item``, ``1,200 items``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"

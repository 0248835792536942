"""Markup: HTML in which every text is escaped, unless it was made by `tag`."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TypeAlias
from urllib.parse import urlsplit

from ..errors import printable


class Markup(str):
    """Text that is markup: what `tag` and `join` make."""

    __slots__ = ()


Child: TypeAlias = "str | int | Markup | Iterable[Child] | None"

_VOID = ("meta", "path", "br")


def tag(name: str, /, *children: Child, **attributes: str | int | None) -> Markup:
    """An element.

    Args:
        name: Its name.
        children: Text, which is escaped, or markup; lists of these; `None` is nothing.
        attributes: Its attributes, escaped; ``None`` is none. A ``_`` stands for ``-`` and one at
            the end for nothing: ``class_``.
    """
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{said}>") if name != "path" else Markup(f"<{name}{said}/>")
    return Markup(f"<{name}{said}>{join(*children)}</{name}>")


def join(*children: Child) -> Markup:
    """One after the other: text is escaped, and what cannot be seen in it is shown as an escape."""
    parts: list[str] = []
    for child in children:
        if isinstance(child, Markup):
            parts.append(child)
        elif isinstance(child, str | int):
            parts.append(escape(printable(str(child))))
        elif child is not None:
            parts.append(join(*child))
    return Markup("".join(parts))


def link(url: str) -> Markup:
    """The URL of a page as a link; anything but http and https stays text."""
    try:
        is_link = urlsplit(url).scheme in ("http", "https") and url.isprintable()
    except ValueError:
        is_link = False
    if not is_link:
        return tag("span", url, class_="web")
    return tag("a", url, class_="web", href=url, rel="noopener noreferrer", target="_blank")

"""Specimens, shown: on a terminal, as JSON, and as a page that runs nothing of them."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from html import escape
from typing import Any

from ..counting.errorgroups import ErrorStatistics
from ..counting.specimens import Specimen
from ..errors import CrawlkitError, printable
from ..exporting.places import unwritable
from .output import number, size

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem}"
    "pre{white-space:pre-wrap;overflow-wrap:anywhere;border:1px solid #8888;padding:1rem}"
    "img{max-width:100%;border:1px solid #8888}:root{color-scheme:light dark}"
)
# Should a mark of the page ever get out of the text, the browser still runs and loads nothing.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def lines_of(group: ErrorStatistics, specimen: Specimen) -> Iterator[str]:
    """The specimen of a group as lines for a terminal."""
    yield from _head(group, specimen)
    if specimen.screenshot is not None:
        yield f"with a screenshot of {size(len(specimen.screenshot))}; see it with -o FILE.jpg"
    yield ""
    yield from _headers(specimen)
    yield ""
    yield from _body(specimen)


def as_dict(group: ErrorStatistics, specimen: Specimen) -> dict[str, Any]:
    """The same as JSON-like values."""
    return {
        "group": group,
        "url": specimen.url,
        "status": specimen.status,
        "at": specimen.time,
        "headers": specimen.headers,
        "text": specimen.text,
        "size": specimen.size,
        "is_cut": specimen.is_cut,
        "has_screenshot": specimen.screenshot is not None,
    }


def write_specimen(group: ErrorStatistics, specimen: Specimen, path: str) -> str:
    """Write it to a file by the file's ending; what was written.

    Raises:
        CrawlkitError: There is no screenshot, or the file cannot be written.
    """
    ending = path.lower().rpartition(".")[2]
    is_image = specimen.response.content_type.startswith("image/")
    if ending in ("html", "htm"):
        what, data = "a page that shows it", page_of(group, specimen).encode()
    elif ending in ("jpg", "jpeg") and not is_image:
        if specimen.screenshot is None:
            raise CrawlkitError(
                "there is no screenshot of it: only the browser takes one (see the option render)"
            )
        what, data = "the screenshot", specimen.screenshot
    else:
        cut = f"the first {size(len(specimen.body))} of the body"
        what, data = cut if specimen.is_cut else "the body", specimen.body
    try:
        with open(path, "wb") as file:
            file.write(data)
    except OSError as error:
        raise unwritable(path, error) from None
    return what


def page_of(group: ErrorStatistics, specimen: Specimen) -> str:
    """A self-contained HTML page in which all that the site sent is text."""
    picture = ""
    if specimen.screenshot is not None:
        data = b64encode(specimen.screenshot).decode()
        picture = f'<h2>Screenshot</h2><img alt="screenshot" src="data:image/jpeg;base64,{data}">'
    head, headers, body = (
        escape("\n".join(lines))
        for lines in (_head(group, specimen), _headers(specimen), _body(specimen))
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(group.id)}</title><style>{_STYLE}</style>"
        f"<h1>{escape(printable(group.kind))}</h1><pre>{head}</pre>{picture}"
        f"<h2>Headers</h2><pre>{headers}</pre><h2>Body</h2><pre>{body}</pre></html>\n"
    )


def _head(group: ErrorStatistics, specimen: Specimen) -> Iterator[str]:
    place = f" ({group.place})" if group.place else ""
    yield printable(f"{group.id}  {number(group.count)} x {group.kind}: {group.message}{place}")
    yield printable(f"{specimen.time}  HTTP {specimen.status}  {specimen.url}")


def _headers(specimen: Specimen) -> Iterator[str]:
    return (printable(f"{name}: {value}") for name, value in specimen.headers)


def _body(specimen: Specimen) -> Iterator[str]:
    # Lines stay lines; whatever else a terminal would obey is shown as an escape.
    for line in specimen.text.split("\n"):
        yield "\t".join(map(printable, line.removesuffix("\r").split("\t")))
    if specimen.is_cut:
        yield f"[cut: the first {size(len(specimen.body))} of {size(specimen.size)}]"

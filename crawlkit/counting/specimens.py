"""Specimens: the first response of each group of errors, kept to be looked at.

A group tells that something went wrong, how often and where; its specimen shows what the site had
answered. Both are in the same checkpoint. What is kept is bounded: so many groups of a run, and so
many bytes of each body.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import msgspec

from ..checkpoint import Checkpoint, Document, Saved, decode
from ..clock import isoformat
from ..errors import StoreDamagedError
from ..response import Response
from .errorgroups import GroupKey, group_id

if TYPE_CHECKING:
    from collections.abc import Callable

SPECIMENS = 100
"""Groups of errors of which a response is kept."""
MAX_BODY = 256 * 1024
"""Bytes that are kept of a body."""
MAX_HEADERS = 16 * 1024
"""Bytes that are kept of the header fields."""
MAX_SCREENSHOT = 512 * 1024
"""Bytes up to which a screenshot is kept."""

PREFIX = "specimens/"
"""Where the documents are, by `errorgroups.group_id`. They are read one by one."""


class Specimen(msgspec.Struct, frozen=True):
    """A response that was an error, or from which a handler made one.

    All of it comes from the web. Show it as text (`errors.printable`), and run nothing of it.

    Attributes:
        url: The URL that answered, after redirects.
        status: HTTP status.
        headers: Header fields in their order.
        body: The decoded body, at most 256 KiB of it.
        screenshot: What the browser showed, as JPEG; ``None`` where it was not asked.
        at: Unix time.
        size: Bytes that the whole body had.
    """

    url: str
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    screenshot: bytes | None
    at: float
    size: int = 0

    @property
    def is_cut(self) -> bool:
        """Whether the body had more than what is kept of it."""
        return self.size > len(self.body)

    @property
    def response(self) -> Response:
        """The same as a response: its `text`, its media type."""
        return Response(url=self.url, status=self.status, headers=self.headers, body=self.body)

    @property
    def text(self) -> str:
        """The body as text; never raises."""
        return self.response.text

    @property
    def time(self) -> str | None:
        """`at` as ISO 8601 in UTC."""
        return isoformat(self.at)


class _Kept(msgspec.Struct):
    """The document of one group: a specimen whose body is compressed."""

    url: str
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    at: float
    size: int
    screenshot: bytes | None = None


class Specimens:
    """A persisted part: gathers the first response of each group of errors.

    A later response takes the place of the first one where it has a screenshot and the first has
    none: the browser takes one of a page only when it is known that something is wrong with it.
    """

    def __init__(self) -> None:
        self._known: dict[str, bool] = {}  # whether there is a screenshot, by id
        self._fresh: dict[str, _Kept] = {}

    def keep(self, group: GroupKey, response: Response, now: float) -> None:
        """Keep a response where it is the first of its group.

        Args:
            group: The key of the group that the error was counted in.
            response: The response.
            now: Unix time.
        """
        name = group_id(group)
        has_screenshot = response.screenshot is not None
        known = self._known.get(name)
        if known is None:
            if len(self._known) >= SPECIMENS:
                return
        elif known or not has_screenshot:
            return
        self._known[name] = has_screenshot
        self._fresh[name] = _kept(response, now)

    @staticmethod
    def merge(base: Any, mine: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
        """Where several workers crawl: all that any has kept, and of one group the first."""
        if "body" not in mine:
            return theirs | {name: found or theirs.get(name, False) for name, found in mine.items()}
        return mine if mine["screenshot"] and not theirs["screenshot"] else theirs

    def restore(self, saved: Saved) -> None:
        """Take back of which groups there is one."""
        self._known = saved.load({}, type=dict[str, bool])
        self._fresh = {}

    def collect(self, checkpoint: Checkpoint) -> None:
        """Hand over those that are new."""
        if not self._fresh:
            return
        for name, kept in self._fresh.items():
            checkpoint.save(kept, key=name)
        checkpoint.save(self._known)
        self._fresh = {}


def read_specimen(read: Callable[[str], Document | None], group: str) -> Specimen | None:
    """The specimen of a group of errors, or ``None`` where there is none.

    Args:
        read: Reads a document by its name.
        group: The group's id.

    Raises:
        StoreDamagedError: It is not what was saved.
    """
    name = f"{PREFIX}{group}"
    document = read(name)
    if document is None:
        return None
    kept: _Kept = decode(document.data, name, _Kept)
    try:
        # No more than what was put in, whatever stands there now.
        body = zlib.decompressobj().decompress(kept.body, MAX_BODY)
    except zlib.error as error:
        raise StoreDamagedError(
            f"the saved state of {name!r} is damaged ({error}); see 'crawlkit check'"
        ) from None
    return Specimen(
        url=kept.url,
        status=kept.status,
        headers=kept.headers,
        body=body,
        screenshot=kept.screenshot,
        at=kept.at,
        size=kept.size,
    )


def _kept(response: Response, now: float) -> _Kept:
    headers = []
    room = MAX_HEADERS
    for name, value in response.headers.items():
        room -= len(name) + len(value)
        if room < 0:
            break
        # A header whose bytes are no UTF-8 comes as lone surrogates, which JSON cannot hold.
        headers.append((_text(name), _text(value)))
    screenshot = response.screenshot
    if screenshot is not None and len(screenshot) > MAX_SCREENSHOT:
        screenshot = None
    return _Kept(
        url=_text(response.url),
        status=response.status,
        headers=headers,
        # The quickest level: this happens between pages.
        body=zlib.compress(response.body[:MAX_BODY], 1),
        at=now,
        size=len(response.body),
        screenshot=screenshot,
    )


def _text(value: str) -> str:
    return value.encode("utf-8", "replace").decode()

"""StartRequests: where a crawl begins, and how far it has come with beginning."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import Any

import msgspec

from ..checkpoint import Checkpoint, Document, Saved, decode
from ..errors import UrlError, UsageError
from ..request import Request, checked, fingerprint
from ..urls import canonical, read_urls
from ..workers.merging import merge

Given = Request | str | UrlError
StartSource = Iterable[Given] | AsyncIterable[Given]


class _Place(msgspec.Struct):
    taken: list[int] = msgspec.field(default_factory=list)
    position: int = 0
    is_done: bool = False


class StartRequests:
    """A persisted part: the place in the sequence of start requests.

    The place is in the same checkpoint as the requests that lie before it, so that a generator of
    ten million is neither begun again nor cut short. Of the class's `start_urls` it is remembered
    which ones were taken: those that are added later, at any place of the list, are taken too.

    Of several workers one at a time sows, which is told the place by `resume`. But each may meet a
    robots.txt that names sitemaps, so what was taken is merged.
    """

    def __init__(self) -> None:
        self._place = _Place()
        self._is_changed = False

    @property
    def is_done(self) -> bool:
        """Whether the generator has come to its end, in this life or an earlier one."""
        return self._place.is_done

    def take_urls(self, urls: Iterable[str]) -> list[Request]:
        """The start URLs that were not taken before.

        Raises:
            UrlError: One of them is no URL.
        """
        taken = set(self._place.taken)
        requests = [Request(canonical(url), private=True) for url in urls]
        fresh = [request for request in requests if fingerprint(request) not in taken]
        if fresh:
            self._place.taken.extend(fingerprint(request) for request in fresh)
            self._is_changed = True
        return fresh

    async def take(self, source: StartSource) -> AsyncIterator[tuple[int, Request | UrlError]]:
        """What `source` gives from the last checkpoint's place on, each with its own place.

        Raises:
            UsageError: It gives something else than requests and URLs.
        """
        skip = self._place.position
        async for given in _iterate(source):
            if skip:
                skip -= 1
                continue
            request = given if isinstance(given, UrlError) else as_request(given)
            # The consumer gets it before anything else can run, a checkpoint included.
            self._place.position += 1
            self._is_changed = True
            yield self._place.position, request
        self._place.is_done = True
        self._is_changed = True

    @staticmethod
    def merge(base: Any, mine: Any, theirs: Any) -> Any:
        """All that was taken, and the furthest place: what lies before a place is enqueued."""
        merged: dict[str, Any] = merge(base, mine, theirs)
        taken = dict.fromkeys((*theirs["taken"], *mine["taken"]))
        return {
            **merged,
            "taken": list(taken),
            "position": max(mine["position"], theirs["position"]),
            "is_done": mine["is_done"] or theirs["is_done"],
        }

    def absorb(self, handed: Any, merged: Any, key: str) -> None:
        """Take over what others have taken."""
        known = set(self._place.taken)
        self._place.taken.extend(number for number in merged["taken"] if number not in known)

    def resume(self, document: Document | None) -> None:
        """Go on from the place that another worker has come to, which is what the store holds."""
        if document is not None:
            # What was taken here since the last checkpoint is kept: it may be a sitemap of a
            # robots.txt, which is no matter of turns.
            stored, own = decode(document.data, "start", _Place), self._place
            own.taken = list(dict.fromkeys((*stored.taken, *own.taken)))
            own.position = max(stored.position, own.position)
            own.is_done = stored.is_done or own.is_done

    def restore(self, saved: Saved) -> None:
        """Take back the place."""
        self._place = saved.load(_Place(), type=_Place)

    def collect(self, checkpoint: Checkpoint) -> None:
        """Hand over the place, if it has changed."""
        if self._is_changed:
            checkpoint.save(self._place)
            self._is_changed = False


def as_request(given: Any) -> Request:
    """A start request, from a request or a URL, with its URL in canonical form.

    Whoever starts the crawl may lead it to private addresses.

    Raises:
        UsageError: It is neither.
        UrlError: Its URL cannot be fetched.
    """
    if isinstance(given, Request):
        return checked(given.replace(url=canonical(given.url), private=True))
    if isinstance(given, str):
        return Request(canonical(given), private=True)
    raise UsageError(f"start requests are URLs or requests, not {type(given).__name__}")


async def start_source(file: str | None, requests: StartSource) -> AsyncIterator[Given]:
    """The URLs in `file`, with the errors of its bad lines, and then `requests`.

    Raises:
        UsageError: The file cannot be read.
    """
    if file is not None:
        for _, url in read_urls(file):
            yield url
    async for given in _iterate(requests):
        yield given


async def _iterate(source: StartSource) -> AsyncIterator[Given]:
    if isinstance(source, AsyncIterable):
        async for given in source:
            yield given
    elif isinstance(source, Iterable):
        for given in source:
            yield given
    else:
        raise UsageError(
            f"start_requests gives a list of URLs or requests, or yields them, and no "
            f"{type(source).__name__}"
        )

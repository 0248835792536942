"""Links: what a page leads to, most of it as URLs.

The links of a page differ in little but their URLs, and nearly all of them lead where other pages
have led before. So a request is made of a link when somebody looks at it, which for most is never.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec.structs import astuple

from .request import Request


class Links:
    """The requests that a page leads to, in their order."""

    __slots__ = ("_size", "groups")

    def __init__(self) -> None:
        self.groups: list[tuple[list[str], Request]] = []
        """URLs in canonical form, and a request that is like theirs but for its own URL."""
        self._size = 0

    def add(self, urls: list[str], like: Request) -> None:
        """Add requests that are like another one, but for their URLs."""
        self.groups.append((urls, like))
        self._size += len(urls)

    def append(self, request: Request) -> None:
        """Add a request."""
        self.add([request.url], request)

    def __iadd__(self, requests: Iterable[Request]) -> Links:
        for request in requests:
            self.append(request)
        return self

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Request]:
        for urls, like in self.groups:
            yield from alike(urls, like)

    def __eq__(self, other: object) -> bool:
        return list(self) == (list(other) if isinstance(other, Links) else other)

    __hash__ = None  # type: ignore[assignment]


def alike(urls: Iterable[str], like: Request) -> list[Request]:
    """Requests that are like another one, but for their URLs."""
    rest = astuple(like)[1:]
    return [Request(url, *rest) for url in urls]

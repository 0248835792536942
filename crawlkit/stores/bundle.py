"""Bundles: requests of one host that are written down together, and what is left of them.

In a bundle, requests are without their host, which is known: ``/path`` stands for a URL on https,
``:/path`` for one on http. The rest is half of what a URL takes, and there may be ten million of
them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import force_setattr, replace

from ..checkpoint import Ticket
from ..errors import StoreError
from ..request import Request
from .encoding import encode

_SCHEMES = (("https://", ""), ("http://", ":"))
_START = b'{"u":"'


def bundled(requests: Sequence[Request], host: str) -> bytes:
    """The JSON of a bundle of `host`."""
    text = encode(requests)
    if text.count(_START) != len(requests):
        # Something that the user wrote looks like the start of a request.
        return encode(without_host(requests, host))
    # No text holds a bare quotation mark, so these are the starts of the requests, and no others.
    # That is faster than to make a shorter copy of each.
    name = encode(host)[1:-1]
    for scheme, mark in _SCHEMES:
        start = b"%b%b%b/" % (_START, scheme.encode(), name)
        text = text.replace(start, b"%b%b/" % (_START, mark.encode()))
    return text


class Bundle(NamedTuple):
    """A claimed bundle: whose it is, how many requests it holds, and which of them have left."""

    host: int
    size: int
    gone: int


class Left(NamedTuple):
    """What requests that are done leave of the bundles that a worker has claimed.

    Attributes:
        partly: Bundles that still hold some.
        emptied: Those that hold none.
    """

    partly: dict[int, Bundle]
    emptied: list[int]

    def apply(self, claimed: dict[int, Bundle]) -> None:
        """Have what is known of the claimed bundles follow a commit."""
        claimed.update(self.partly)
        for bundle in self.emptied:
            del claimed[bundle]


def left_by(tickets: Iterable[Ticket], claimed: Mapping[int, Bundle]) -> Left:
    """What the requests of these tickets leave of the bundles.

    Raises:
        StoreError: The worker does not have them.
    """
    gone: dict[int, int] = {}
    for bundle, place in tickets:
        gone[bundle] = gone.get(bundle, 0) | 1 << place
    left = Left({}, [])
    for bundle, bits in gone.items():
        if bundle not in claimed:
            raise given_back()
        before = claimed[bundle]
        bits |= before.gone
        if bits == (1 << before.size) - 1:
            left.emptied.append(bundle)
        else:
            left.partly[bundle] = before._replace(gone=bits)
    return left


def given_back() -> StoreError:
    """The error for requests that the worker does not have."""
    return StoreError(
        "a request that was given back cannot be finished; claim it again before that"
    )


def count_of(claimed: Mapping[int, Bundle]) -> int:
    """How many requests are in bundles."""
    return sum(bundle.size - bundle.gone.bit_count() for bundle in claimed.values())


def without_host(requests: Sequence[Request], host: str) -> list[Request]:
    """Requests as they are stored in a bundle of `host`."""
    starts = [(f"{scheme}{host}/", mark, len(scheme) + len(host)) for scheme, mark in _SCHEMES]
    return [_without(request, starts) for request in requests]


def _without(request: Request, starts: list[tuple[str, str, int]]) -> Request:
    url = request.url
    for start, mark, length in starts:
        if url.startswith(start):
            return replace(request, url=mark + url[length:])
    return request


def with_host(requests: list[Request], host: str) -> list[Request]:
    """Requests as they were before `without_host`: the same objects, which nobody else may have."""
    for request in requests:
        for scheme, mark in _SCHEMES:
            if request.url.startswith(f"{mark}/"):
                force_setattr(request, "url", f"{scheme}{host}{request.url[len(mark) :]}")
                break
    return requests

"""How the requests of one host are written down together: without their host, which is known.

``/path`` stands for a URL on https, ``:/path`` for one on http. The rest is half of what a URL
takes, and there may be ten million of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import force_setattr, replace

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

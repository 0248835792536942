"""Parts: a range of bytes, cut out of a response that is kept whole (RFC 9110, section 14)."""

from __future__ import annotations

import re

from multidict import CIMultiDict

from ..response import Response
from .freshness import Fields

_RANGE = re.compile(r"\s*bytes\s*=\s*([0-9]{0,18})\s*-\s*([0-9]{0,18})\s*", re.IGNORECASE)


def part_of(whole: Response, asked: Fields) -> Response | None:
    """The part that a request asks for, or ``None`` where the site is to answer.

    Args:
        whole: A response that is kept, its body decoded.
        asked: The request's header fields, of which ``Range`` is one.
    """
    # Ranges count the bytes of the body as it was encoded, which is not kept.
    if whole.status != 200 or "Content-Encoding" in whole.headers:
        return None
    found = byte_range(",".join(asked.getall("Range")), len(whole.body))
    if found is None:
        return None
    start, end = found
    headers = CIMultiDict(whole.headers)
    headers["Content-Length"] = str(end - start)
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(whole.body)}"
    part = Response(
        url=whole.url,
        status=206,
        headers=headers,
        body=whole.body[start:end],
        is_private=whole.is_private,
    )
    part.cache = whole.cache
    return part


def byte_range(text: str, size: int) -> tuple[int, int] | None:
    """Where the one range of a ``Range`` field begins and ends (exclusive) in so many bytes.

    ``None`` for several ranges, other units, and what is not in there.
    """
    match = _RANGE.fullmatch(text)
    if match is None:
        return None
    first, last = match.groups()
    if first:
        start = int(first)
        end = min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    elif last:
        start, end = max(size - int(last), 0), size
    else:
        return None
    return (start, end) if start < end else None

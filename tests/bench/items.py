"""The items of a crawl in one line, so that crawls can be compared."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import NamedTuple


class Digest(NamedTuple):
    """How many items there are, and a checksum of all of them, whatever their order."""

    number: int
    checksum: str


def digest(items: Iterable[Mapping[str, object]]) -> Digest:
    """The digest of items. Each has its ``url``, so that equal items mean equal pages."""
    lines = sorted(json.dumps(item, sort_keys=True) for item in items)
    return Digest(len(lines), sha256("\n".join(lines).encode()).hexdigest())

"""Listening to a crawl for as long as a command runs it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..crawler import Crawler
    from ..events import Listener


@contextmanager
def listening(crawler: Crawler, listeners: Mapping[str, Listener]) -> Iterator[None]:
    """Call these listeners, by event, for as long as the block lasts."""
    for event, listener in listeners.items():
        crawler.on(event, listener)
    try:
        yield
    finally:
        for event, listener in listeners.items():
            crawler.off(event, listener)

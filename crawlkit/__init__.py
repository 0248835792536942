"""crawlkit: an asyncio crawler toolkit whose crawls cannot be lost."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoint import Checkpoint as Checkpoint
    from .checkpoint import Saved as Saved
    from .crawler import Crawler as Crawler
    from .errors import CrawlkitError as CrawlkitError
    from .events import EventBus as EventBus
    from .events import Persistent as Persistent
    from .fetching import Fetcher as Fetcher
    from .job import Job as Job
    from .page import Page as Page
    from .request import Request as Request
    from .response import Response as Response
    from .run import Run as Run
    from .run import load_statistics as load_statistics
    from .run import open_run as open_run
    from .sessions import Session as Session
    from .statistics import Statistics as Statistics

__version__ = "0.1.0"

# Each name comes with its module at its first use, so that `crawlkit --help` need not wait for
# aiohttp and lxml.
_HOMES = {
    "Checkpoint": "checkpoint",
    "Crawler": "crawler",
    "CrawlkitError": "errors",
    "EventBus": "events",
    "Fetcher": "fetching",
    "Job": "job",
    "Page": "page",
    "Persistent": "events",
    "Request": "request",
    "Response": "response",
    "Run": "run",
    "Saved": "checkpoint",
    "Session": "sessions",
    "Statistics": "statistics",
    "load_statistics": "run",
    "open_run": "run",
}

__all__ = [
    "Checkpoint",
    "Crawler",
    "CrawlkitError",
    "EventBus",
    "Fetcher",
    "Job",
    "Page",
    "Persistent",
    "Request",
    "Response",
    "Run",
    "Saved",
    "Session",
    "Statistics",
    "load_statistics",
    "open_run",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

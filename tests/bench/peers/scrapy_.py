"""Scrapy, in memory and with JOBDIR, which keeps its queue and its filter on disk.

Its defaults but for what would slow it down to no use here: no console, no log but errors, the
faster event loop, as many requests at once as the others, no look at robots.txt.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import scrapy
from scrapy.crawler import CrawlerProcess
from scrapy.http import HtmlResponse, Response

from . import Task


class Shop(scrapy.Spider):
    """A crawl."""

    name = "shop"

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.start_url = task.start_url
        self.allowed_domains = sorted({urlsplit(site).hostname or "" for site in task.sites})
        self.fields = task.fields

    async def start(self) -> AsyncIterator[Any]:
        """Begin with a request that is known to the filter, so that no link leads to it again."""
        yield scrapy.Request(self.start_url)

    def parse(self, response: Response) -> Iterator[Any]:
        """Take a page's fields and links."""
        if not isinstance(response, HtmlResponse):
            return
        item: dict[str, Any] = {"url": response.url}
        for name, query in self.fields.items():
            item[name] = response.css(query).get()
        yield item
        yield from response.follow_all(css="a")


def crawl(task: Task) -> None:
    """Crawl the site."""
    settings: dict[str, Any] = {
        "ASYNCIO_EVENT_LOOP": "uvloop.Loop",
        "CONCURRENT_REQUESTS": task.concurrency,
        "CONCURRENT_REQUESTS_PER_DOMAIN": task.concurrency,
        "FEEDS": {Path(task.directory, "items.jsonl"): {"format": "jsonlines"}},
        "LOG_LEVEL": "ERROR",
        "ROBOTSTXT_OBEY": False,
        "TELNETCONSOLE_ENABLED": False,
    }
    if task.options.get("jobdir"):
        settings["JOBDIR"] = str(Path(task.directory, "job"))
    process = CrawlerProcess(settings)
    process.crawl(Shop, task=task)
    process.start()


def items(task: Task) -> Iterator[dict[str, Any]]:
    """The items."""
    with open(Path(task.directory, "items.jsonl")) as file:
        yield from map(json.loads, file)

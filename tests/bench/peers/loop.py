"""The loop that a good engineer writes by hand: everything in memory, nothing survives it.

One shared client, a number of workers on a queue, a set of the URLs that were seen, three more
tries with growing pauses, and the items in a file of JSON lines at the end.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag, urljoin, urlsplit

import aiohttp
import uvloop
from parsel import Selector

from . import Task

log = logging.getLogger(__name__)

RETRIES = 3


class Loop:
    """A crawl."""

    def __init__(self, task: Task) -> None:
        self.fields = task.fields
        self.concurrency = task.concurrency
        self.hosts = {urlsplit(site).netloc for site in task.sites}
        self.items: list[dict[str, Any]] = []
        self.seen = {task.start_url}
        self.queue: asyncio.Queue[str] = asyncio.Queue()
        self.queue.put_nowait(task.start_url)

    async def run(self) -> None:
        """Crawl everything."""
        connector = aiohttp.TCPConnector(limit=self.concurrency)
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as client:
            workers = [asyncio.create_task(self.work(client)) for _ in range(self.concurrency)]
            await self.queue.join()
            for worker in workers:
                worker.cancel()

    async def work(self, client: aiohttp.ClientSession) -> None:
        """Take URLs from the queue, one after the other."""
        while True:
            url = await self.queue.get()
            try:
                await self.visit(client, url)
            except Exception as error:
                log.error("%s: %s", url, error)
            finally:
                self.queue.task_done()

    async def visit(self, client: aiohttp.ClientSession, url: str) -> None:
        """Fetch a page, take its fields and follow its links."""
        for attempt in range(RETRIES + 1):
            try:
                async with client.get(url) as response:
                    response.raise_for_status()
                    if response.content_type != "text/html":
                        return
                    body = await response.read()
                    break
            except (aiohttp.ClientError, TimeoutError) as error:
                status = getattr(error, "status", 500)
                if attempt == RETRIES or (status < 500 and status != 429):
                    raise
                await asyncio.sleep(0.5 * 2**attempt)
        self.parse(str(response.url), Selector(body=body, encoding=response.charset or "utf-8"))

    def parse(self, url: str, selector: Selector) -> None:
        """Take a page's fields and links."""
        item: dict[str, Any] = {"url": url}
        for name, query in self.fields.items():
            item[name] = selector.css(query).get()
        self.items.append(item)
        for href in selector.css("a::attr(href)").getall():
            link = urldefrag(urljoin(url, href)).url
            if link not in self.seen and urlsplit(link).netloc in self.hosts:
                self.seen.add(link)
                self.queue.put_nowait(link)


def crawl(task: Task) -> None:
    """Crawl the site."""
    loop = Loop(task)
    uvloop.run(loop.run())
    with open(Path(task.directory, "items.jsonl"), "w") as file:
        for item in loop.items:
            file.write(json.dumps(item) + "\n")


def items(task: Task) -> Iterator[dict[str, Any]]:
    """The items."""
    with open(Path(task.directory, "items.jsonl")) as file:
        yield from map(json.loads, file)

"""Crawlee for Python, in memory, on files and on SQLite.

Its `ParselCrawler` with its own HTTP client, on uvloop, as many requests at once as the others from
the start on, no console, no log but errors, no statistics every minute, and no pool of sessions.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import uvloop
from crawlee import ConcurrencySettings
from crawlee.configuration import Configuration
from crawlee.crawlers import ParselCrawler, ParselCrawlingContext
from crawlee.events import LocalEventManager
from crawlee.storage_clients import (
    FileSystemStorageClient,
    MemoryStorageClient,
    SqlStorageClient,
    StorageClient,
)

from . import Task


def crawl(task: Task) -> None:
    """Crawl the site."""
    logging.getLogger("crawlee").setLevel(logging.ERROR)
    found = uvloop.run(_crawl(task))
    with open(Path(task.directory, "items.jsonl"), "w") as file:
        for item in found:
            file.write(json.dumps(item) + "\n")


async def _crawl(task: Task) -> list[Any]:
    configuration = Configuration(
        storage_dir=str(Path(task.directory, "storage")),
        # It measures the whole machine, and would hold back for what others do there.
        max_used_cpu_ratio=1.0,
        available_memory_ratio=0.9,
    )
    crawler = ParselCrawler(
        configuration=configuration,
        event_manager=LocalEventManager.from_config(configuration),
        storage_client=_storage(task),
        concurrency_settings=ConcurrencySettings(
            min_concurrency=task.concurrency,
            desired_concurrency=task.concurrency,
            max_concurrency=task.concurrency,
        ),
        use_session_pool=False,
        respect_robots_txt_file=False,
        configure_logging=False,
        status_message_logging_interval=timedelta(hours=1),
    )

    @crawler.router.default_handler
    async def parse(context: ParselCrawlingContext) -> None:
        if not context.http_response.headers.get("content-type", "").startswith("text/html"):
            return
        item: dict[str, Any] = {"url": context.request.loaded_url or context.request.url}
        for name, query in task.fields.items():
            item[name] = context.selector.css(query).get()
        await context.push_data(item)
        await context.enqueue_links(
            selector="a", strategy="all" if len(task.sites) > 1 else "same-origin"
        )

    await crawler.run([task.start_url])
    return (await crawler.get_data(limit=10_000_000)).items


def _storage(task: Task) -> StorageClient:
    match task.options.get("storage"):
        case "files":
            return FileSystemStorageClient()
        case "sql":
            path = Path(task.directory, "crawlee.db")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it says that it is experimental
                return SqlStorageClient(connection_string=f"sqlite+aiosqlite:///{path}")
    return MemoryStorageClient()


def items(task: Task) -> Iterator[dict[str, Any]]:
    """The items."""
    with open(Path(task.directory, "items.jsonl")) as file:
        yield from map(json.loads, file)

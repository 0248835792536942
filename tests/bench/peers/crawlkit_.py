"""crawlkit as a user has it, with everything that is on by default.

Nothing is set but what the task says: where to begin, how many requests at once, and where to keep
the run and, for some tasks, a page cache. Several hosts need another scope than the default, which
keeps to the host of the page.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import crawlkit
from crawlkit import Crawler, Page

from . import Task


class Shop(Crawler):
    """A crawl."""

    fields: dict[str, str]

    async def parse(self, page: Page) -> None:
        """Take a page's fields and links."""
        if page.response.content_type != "text/html":
            return
        item: dict[str, Any] = {"url": page.url}
        for name, query in self.fields.items():
            item[name] = page.css(query).get()
        page.save(item)
        page.follow("a")


def crawl(task: Task) -> None:
    """Crawl the site.

    With a page cache (``cache_dir`` among the task's options), all pages are to come from it where
    it has been filled, and none where it is empty: anything else is not what was to be measured.
    """
    options: dict[str, Any] = {}
    is_filled = False
    if "cache_dir" in task.options:
        directory = Path(task.directory, task.options["cache_dir"])
        options = {"cache": "forever", "cache_dir": directory}
        is_filled = (directory / "cache.db").exists()
    shop = Shop(
        start_urls=[task.start_url],
        store=Path(task.directory, "run"),
        concurrency=task.concurrency,
        # One host may have all of them, as the others have no such limit.
        concurrency_per_host=task.concurrency,
        scope="same-host" if len(task.sites) == 1 else "all",
        **options,
    )
    shop.fields = task.fields
    code = shop.run()
    if code:
        raise SystemExit(code)
    if options:
        statistics = shop.statistics
        kind = "hits" if is_filled else "stored"
        count = statistics.cache_hits if is_filled else statistics.cache_stored
        # A page that is not there is kept, too.
        pages = statistics.requests_finished + statistics.requests_failed
        if count != pages:
            raise SystemExit(f"{kind}: {count} of {pages} pages")


def items(task: Task) -> Iterator[dict[str, Any]]:
    """The items."""
    with crawlkit.open_run(Path(task.directory, "run")) as run:
        yield from run.items()

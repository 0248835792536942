"""One crawl of the table, in a process of its own: a hostile host, and a healthy one beside it.

Gets a `Task` as JSON on its command line and prints a `Found` on standard output.
"""

from __future__ import annotations

import asyncio
import csv
import logging
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from crawlkit import Crawler, Page, Request, open_run
from crawlkit.events import RequestFailed, RequestHandled
from crawlkit.http import addresses
from crawlkit.items import export_items

TICK = 0.005


class Task(msgspec.Struct):
    """What to crawl.

    Attributes:
        url: The hostile URL; empty where the sitemaps lead to it.
        healthy: The start of the healthy pages.
        directory: Where everything that is written belongs.
        options: Options of the crawler.
        budget: Whether pages of a trap are limited to ten by pattern.
    """

    url: str
    healthy: str
    directory: str
    options: dict[str, Any] = {}
    budget: bool = False


class Found(msgspec.Struct):
    """What came of it.

    Attributes:
        outcome: ``handled``, ``failed``, ``skipped`` or what else became of the hostile URL.
        error: The kind of error that it failed with.
        detail: The error, or the reason why it was skipped.
        seconds: From its start to its end.
        all_seconds: What the crawl took.
        peak: Bytes of memory at most.
        stall: Seconds for which the event loop did not go round.
        healthy: Pages of the other host that were handled.
        healthy_seconds: From the start to the last of them.
        handled: Pages of the hostile host that were handled.
        skipped: Links left out, by reason.
        errors: Kinds of errors in the statistics, with their messages.
        failed: What else failed at the hostile host: kinds of errors.
        urls: URLs of the hostile host that were handled.
        items: What its pages were saved as.
        csv: First letters of the cells of the exported items.
        strays: Files that were written elsewhere.
        cookie_bytes: Length of the longest ``Cookie`` header.
    """

    outcome: str = "none"
    error: str = ""
    detail: str = ""
    seconds: float = 0.0
    all_seconds: float = 0.0
    peak: int = 0
    stall: float = 0.0
    healthy: int = 0
    healthy_seconds: float = 0.0
    handled: int = 0
    skipped: dict[str, int] = {}
    errors: dict[str, str] = {}
    failed: list[str] = []
    urls: list[str] = []
    items: list[dict[str, Any]] = []
    csv: list[str] = []
    strays: list[str] = []
    cookie_bytes: int = 0


class Sampler:
    """Finds out for how long the event loop stood still, for which the machine was not to blame.

    A task sleeps for 5 ms and notes how late it wakes. Off that goes the time for which its thread
    was ready and did not get a processor (``schedstat`` of Linux). And the process cannot have
    kept the loop for longer than it computed meanwhile, in any thread.
    """

    def __init__(self) -> None:
        self.stall = 0.0
        # Read at every tick, so it stays open.
        self._file = os.open("/proc/thread-self/schedstat", os.O_RDONLY)

    async def run(self) -> None:
        while True:
            before, cpu, waited = time.perf_counter(), time.process_time(), self._waited()
            await asyncio.sleep(TICK)
            late = time.perf_counter() - before - TICK - (self._waited() - waited)
            self.stall = max(self.stall, min(late, time.process_time() - cpu))

    def _waited(self) -> float:
        return int(os.pread(self._file, 64, 0).split()[1]) / 1e9


class HostileCrawl(Crawler):
    """Follows and saves all that it finds."""

    name = "hostile"
    scope = "all"
    concurrency = 8
    concurrency_per_host = 2
    max_retries = 0
    max_depth = 1000
    timeout = 3.0
    idle_timeout = 1.5

    async def on_start(self) -> None:
        self.found = Found()
        self.sampler = Sampler()
        self.sampling = asyncio.create_task(self.sampler.run())
        self.began = time.perf_counter()
        self.on("requestHandled", self.note)
        self.on("requestFailed", self.note)

    def note(self, event: RequestHandled | RequestFailed) -> None:
        now = time.perf_counter() - self.began
        if event.request.url.startswith(self.healthy):
            self.found.healthy_seconds = now
        elif isinstance(event, RequestFailed) and event.request.url != self.hostile:
            self.found.failed.append(type(event.error).__name__)
        if event.request.url == self.hostile:
            self.found.seconds = now

    async def parse(self, page: Page) -> None:
        page.follow("a")
        if page.url.startswith(self.healthy):
            return
        cells = page.css("li::text").getall()
        page.save({"title": page.css("h1::text").get(""), "text": len(page.text), "cells": ""})
        for cell in cells:
            page.save({"title": cell, "number": -1.5e-7})
            await self.set_value(cell, cell)
            page.follow(Request(page.url, unique_key=cell, handler="leaf"))

    async def leaf(self, page: Page) -> None:
        page.save({"title": f"leaf {page.request.unique_key!r}"})


def play(task: Task) -> Found:
    """The crawl, and a look at what it left behind."""
    directory = Path(task.directory)
    before = set(directory.parent.rglob("*"))
    store = directory / "run"
    options: dict[str, Any] = {
        "store": store,
        "start_urls": [url for url in (task.url, task.healthy) if url],
        **task.options,
    }
    if task.budget:
        options["budgets"] = {"*filter=*": 10}
    crawler = HostileCrawl(**options)
    crawler.hostile, crawler.healthy = task.url, task.healthy
    began = time.perf_counter()
    crawler.run()
    found = crawler.found
    found.all_seconds = time.perf_counter() - began
    found.stall = crawler.sampler.stall
    found.peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with open_run(store) as run:
        if task.url:
            explanation = run.why(task.url)
            found.outcome = explanation.outcome
            found.error = explanation.error or ""
            found.detail = explanation.detail or ""
        statistics = run.statistics
        found.skipped = dict(statistics.skipped_by_reason)
        found.errors = {error.kind: error.message for error in statistics.errors}
        handled = [outcome.url for outcome in run.requests("handled")]
        found.urls = [url for url in handled if not url.startswith(task.healthy)]
        found.handled = len(found.urls)
        found.healthy = len(handled) - found.handled
        found.items = list(run.items())
        export_items(run.stored_items(), directory / "items.csv")
    with open(directory / "items.csv", newline="") as file:
        found.csv = sorted({cell[0] for row in csv.reader(file) for cell in row if cell})
    after = set(directory.parent.rglob("*")) - before
    found.strays = [str(path) for path in after if not path.is_relative_to(directory)]
    titles = (str(item.get("title")) for item in found.items)
    found.cookie_bytes = max((int(title) for title in titles if title.isdecimal()), default=0)
    found.items = found.items[:50]
    return found


def make_public(address: str) -> None:
    """Let one loopback address count as one of the public internet.

    There is no public address to be had in a test, so this one is taken out of the table of special
    addresses. All code that asks is as it is.
    """
    networks = [n for n in addresses._SPECIAL_4 if str(n) != "127.0.0.0/8"]
    loopback = addresses.ip_network("127.0.0.0/8")
    rest = loopback.address_exclude(addresses.ip_network(f"{address}/32"))
    addresses._SPECIAL_4 = (*networks, *rest)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    make_public("127.0.0.2")
    result = play(msgspec.json.decode(sys.argv[1], type=Task))
    sys.stdout.buffer.write(msgspec.json.encode(result))

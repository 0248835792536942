"""One crawl of the table, in a process of its own: a hostile host, and a healthy one beside it.

`main` is what that process calls, with a `Task`; it leaves a `Found` and a log behind.
"""

from __future__ import annotations

import asyncio
import csv
import logging
import os
import resource
import socket
import threading
import time
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult
from click.testing import CliRunner

from crawlkit import Crawler, Page, Request, open_run
from crawlkit.cli import main as cli
from crawlkit.events import RequestFailed, RequestHandled
from crawlkit.exporting.export import export_items
from crawlkit.http import addresses
from crawlkit.machine import Starving

TICK = 0.005


class Task(msgspec.Struct):
    """What to crawl.

    Attributes:
        url: The hostile URL; empty where the sitemaps lead to it.
        healthy: The start of the healthy pages.
        directory: Where everything that is written belongs.
        around: A directory around that, in which nothing else is.
        options: Options of the crawler.
    """

    url: str
    healthy: str
    directory: str
    around: str
    options: dict[str, Any] = {}


class Found(msgspec.Struct):
    """What came of it.

    Attributes:
        outcome: ``handled``, ``failed``, ``skipped`` or what else became of the hostile URL.
        error: The kind of error that it failed with.
        detail: The error, or the reason why it was skipped.
        seconds: From its start to its end.
        all_seconds: What the crawl took.
        waited: Seconds for which the crawl was ready to run and got no processor.
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
        unprintable: Verbs of the command line that print what would steer a terminal.
    """

    outcome: str = "none"
    error: str = ""
    detail: str = ""
    seconds: float = 0.0
    all_seconds: float = 0.0
    waited: float = 0.0
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
    unprintable: list[str] = []


class Sampler:
    """Finds out for how long the event loop stood still, for which the machine was not to blame.

    A task sleeps for 5 ms and notes how late it wakes. Off that goes the time for which its thread
    was ready and did not get a processor (``schedstat``, where the kernel has it). And the process
    cannot have kept the loop for longer than it computed meanwhile, in any thread.
    """

    def __init__(self) -> None:
        self.stall = 0.0
        self._waited = Starving(threading.get_native_id()).seconds
        self._before = self._waited()

    @property
    def waited(self) -> float:
        """Seconds for which the thread was ready and did not get a processor."""
        return self._waited() - self._before

    async def run(self) -> None:
        while True:
            before, cpu, waited = time.perf_counter(), time.process_time(), self._waited()
            await asyncio.sleep(TICK)
            late = time.perf_counter() - before - TICK - (self._waited() - waited)
            self.stall = max(self.stall, min(late, time.process_time() - cpu))


class HostileCrawl(Crawler):
    """Follows and saves all that it finds, and is careless about it."""

    name = "hostile"
    scope = "all"
    concurrency = 8
    concurrency_per_host = 2
    session_pool_size = 1
    max_retries = 0
    max_depth = 1000
    timeout = 3.0
    idle_timeout = 1.5

    hostile = healthy = ""

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
        if page.url.endswith("/raises"):
            raise RuntimeError(page.css("h1::text").get())
        page.follow("a")
        if page.url.startswith(self.healthy):
            return
        cells = page.css("li::text").getall()
        page.save({"title": page.css("h1::text").get(""), "text": len(page.text), "cells": ""})
        for cell in cells:
            page.save({"title": cell, "number": -1.5e-7})
            await self.set_value(cell, cell)
            await self.cached(cell, partial(str, cell))
            page.follow(Request(page.url, unique_key=cell, handler="leaf"))

    def cache_key(self, request: Request) -> str:
        return f"../../../{request.unique_key or request.url}"

    async def leaf(self, page: Page) -> None:
        page.save({"title": f"leaf {page.request.unique_key!r}"})


def play(task: Task) -> Found:
    """The crawl, and a look at what it left behind."""
    directory = Path(task.directory)
    around = Path(task.around)
    store = directory / "run"
    options: dict[str, Any] = {
        "store": store,
        "start_urls": [url for url in (task.url, task.healthy) if url],
        "cache_dir": directory / "cache",
        **task.options,
    }
    crawler = HostileCrawl(**options)
    crawler.hostile, crawler.healthy = task.url, task.healthy
    began = time.perf_counter()
    crawler.run()
    found = crawler.found
    found.all_seconds = time.perf_counter() - began
    found.stall = crawler.sampler.stall
    found.waited = crawler.sampler.waited
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
    strays = [path for path in around.rglob("*evil*") if not path.is_relative_to(directory)]
    found.strays = [str(path) for path in (*strays, Path("/etc/evil")) if path.exists()]
    titles = (str(item.get("title")) for item in found.items)
    found.cookie_bytes = max((int(title) for title in titles if title.isdecimal()), default=0)
    found.items = found.items[:50]
    verbs = {
        "stats": ["stats", store],
        "stats --json": ["stats", store, "--json"],
        "failed": ["failed", store, "ls"],
        "failed --json": ["failed", store, "ls", "--json"],
        "why": ["why", store, task.url or task.healthy],
        "state": ["state", store, "ls"],
        "items": ["items", store],
    }
    for verb, arguments in verbs.items():
        output = CliRunner().invoke(cli, list(map(str, arguments))).output
        if any(not (letter.isprintable() or letter == "\n") for letter in output):
            found.unprintable.append(verb)
    return found


def make_public(address: str) -> None:
    """Let one loopback address count as one of the public internet.

    There is no public address to be had in a test, so this one is taken out of the table of special
    addresses. All code that asks is as it is.
    """
    networks = [n for n in addresses._SPECIAL_4 if str(n) != "127.0.0.0/8"]
    loopback = IPv4Network("127.0.0.0/8")
    rest = loopback.address_exclude(IPv4Network(f"{address}/32"))
    addresses._SPECIAL_4 = (*networks, *rest)


class HereResolver(AbstractResolver):
    """Finds every name on this machine, as there are no other hosts in a test.

    One has an address besides that counts as public.
    """

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        addresses = ["127.0.0.1"]
        if host == "both.test":
            addresses.insert(0, "127.0.0.2")
        return [
            ResolveResult(
                hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0
            )
            for address in addresses
        ]

    async def close(self) -> None:
        pass


def main(task: Task, result: Path, log: Path) -> None:
    """Crawl, in this process; leave what came of it in `result`, and what was logged in `log`."""
    written = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(written, 1)
    os.dup2(written, 2)
    logging.basicConfig(level=logging.INFO)
    make_public("127.0.0.2")
    aiohttp.DefaultResolver = HereResolver  # type: ignore[assignment]
    result.write_bytes(msgspec.json.encode(play(task)))

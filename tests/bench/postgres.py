"""What a run in PostgreSQL costs: ``python -m tests.bench.postgres``.

Pages are acknowledged in transactions of several sizes; then a run grows, and at each size pages
are claimed and committed as a crawl does. The server is one of its own, with fsync on, on the same
machine; processor time is that of the client's process and of all of the server's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from crawlkit.checkpoint import Checkpoint, Item, Lease, Outcome, Pending
from crawlkit.request import Request, fingerprint, host_of
from crawlkit.stores import open_store
from crawlkit.stores.base import Store

from ..postgres import Server
from .growing import Links
from .report import circumstances

PER_TRANSACTION = (50, 100, 200)
SIZES = (10_000, 100_000, 1_000_000)
HOSTS = 1000
CHECKPOINT = 15_000
"""Links between two checkpoints while a run grows."""
ROUNDS = 60
"""Claims and commits at each size."""
WINDOW = 82
"""Requests that a claim asks for: what a crawler does with its 16 requests in flight."""
NOW = 1_700_000_000.0
TEXT = "an item of some two hundred characters, " * 4
SETTINGS = """
fsync = on
full_page_writes = on
shared_buffers = 256MB
max_wal_size = 4GB
"""


@dataclass
class Cost:
    """What something took, per unit: microseconds."""

    wall: float
    client: float
    server: float

    def __str__(self) -> str:
        return f"{self.client:.0f} + {self.server:.0f} ({self.wall:,.0f})"


class Meter:
    """Measures one store and its server."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def measure(self, work: Callable[[], Awaitable[int]]) -> tuple[Cost, int]:
        """What `work` takes for each of the units that it says it has done."""
        wall, client, server = time.perf_counter(), time.process_time(), self._server.cpu()
        units = await work()
        return (
            Cost(
                (time.perf_counter() - wall) / units * 1e6,
                (time.process_time() - client) / units * 1e6,
                (self._server.cpu() - server) / units * 1e6,
            ),
            units,
        )


def pending(url: str) -> Pending:
    request = Request(url, "parse_product", depth=3)
    return Pending(request, fingerprint(request), host_of(url))


def acknowledged(leases: list[Lease], links: Links) -> Checkpoint:
    """What a crawl commits when the pages are handled: half a page's links are new."""
    checkpoint = Checkpoint(at=NOW)
    for lease in leases:
        url = lease.request.url
        checkpoint.outcomes.append(
            Outcome("handled", url, lease.fingerprint, lease.host, NOW, "parse", 200, 0.1)
        )
        checkpoint.left.append(lease.ticket)
        checkpoint.items.append(
            Item(json.dumps({"url": url, "text": TEXT}).encode(), url, "parse", NOW)
        )
        checkpoint.fresh += map(pending, links.page()[4:14])
    counters = ["requests_finished", "items_saved", "bytes_received", "status_codes/200"]
    counters += [f"handler/parse/{name}" for name in ("requests_finished", "items_saved")]
    counters += [f"host/{lease.host}/requests_finished" for lease in leases]
    checkpoint.add = dict.fromkeys(counters, 1)
    checkpoint.save([], key="in_flight")
    return checkpoint


async def grow(store: Store, links: Links, count: int) -> int:
    """Enqueue about so many URLs; how many were new."""
    new = 0
    while new < count:
        fresh: list[Pending] = []
        while len(fresh) < min(CHECKPOINT, count - new):
            fresh += map(pending, links.page()[4:])
        new += (await store.commit(Checkpoint(at=NOW, fresh=fresh))).enqueued
    return new


async def acknowledge(server: Server, size: int, seconds: float) -> Cost:
    """Acknowledge pages in transactions of `size`."""
    store = open_store(server.address())
    await store.open()
    links = Links(HOSTS, 0.8, f"acks-{size}")
    await grow(store, links, 20_000)
    leases: list[Lease] = []

    async def work() -> int:
        pages, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            while len(leases) < size:
                leases.extend((await store.claim(WINDOW, {}, NOW)).leases)
            checkpoint = acknowledged(leases[:size], links)
            del leases[:size]
            await store.commit(checkpoint)
            pages += size
        return pages

    cost, _ = await Meter(server).measure(work)
    await store.close()
    return cost


async def at_sizes(server: Server, sizes: list[int]) -> list[dict[str, Any]]:
    """Grow a run, and claim and commit at each size."""
    store = open_store(server.address("growing"))
    await store.open()
    links, meter, total = Links(HOSTS, 0.8, "growing"), Meter(server), 0
    found = []
    for size in sizes:
        enqueued, new = await meter.measure(partial(grow, store, links, size - total))
        total += new
        claimed: list[list[Lease]] = []

        async def claim(claimed: list[list[Lease]] = claimed) -> int:
            for _ in range(ROUNDS):
                claimed.append((await store.claim(WINDOW, {}, NOW)).leases)
            return sum(map(len, claimed))

        async def commit(claimed: list[list[Lease]] = claimed) -> int:
            for leases in claimed:
                await store.commit(acknowledged(leases[:100], links))
            return sum(len(leases[:100]) for leases in claimed)

        claims, _ = await meter.measure(claim)
        commits, _ = await meter.measure(commit)
        await store.release()
        began = time.perf_counter()
        again = open_store(store.address)
        await again.open()
        await again.load()
        await again.claim(WINDOW, {}, NOW)
        resume = time.perf_counter() - began
        await again.close()
        ((disk,),) = server.execute(
            "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c "
            "WHERE relnamespace = 'crawlkit_growing'::regnamespace "
            "AND relname IN ('seen', 'bundles', 'hosts')"
        )
        found.append(
            {
                "size": size,
                "enqueue": asdict(enqueued),
                "claim": asdict(claims),
                "page": asdict(commits),
                "resume": resume,
                "disk": float(disk) / total,
            }
        )
        print(
            f"| {size:,} | {enqueued} | {claims} | {commits} | {resume:.2f} s "
            f"| {float(disk) / total:.0f} B |",
            flush=True,
        )
    await store.close()
    return found


async def bench(sizes: list[int], seconds: float) -> dict[str, Any]:
    """All of it."""
    server = Server(settings=SETTINGS)
    try:
        print("µs of CPU, the client's + the server's, and in brackets of time\n")
        print("| pages a commit | a page | pages/s |\n|---|---|---|")
        acks = {}
        for size in PER_TRANSACTION:
            cost = await acknowledge(server, size, seconds)
            acks[str(size)] = asdict(cost)
            print(f"| {size} | {cost} | {1e6 / cost.wall:,.0f} |", flush=True)
        heads = (
            "pending",
            "a URL enqueued",
            "a request claimed",
            "a page committed",
            "go on from it",
        )
        print(f"\n| {' | '.join(heads)} | disk a URL |\n|{'---|' * 6}")
        return {"pages": acks, "sizes": await at_sizes(server, sizes), **circumstances()}
    finally:
        server.close()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.postgres")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    parser.add_argument("--seconds", type=float, default=10.0, help="for each size of commit")
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args()
    found = asyncio.run(bench([int(size) for size in given.sizes.split(",")], given.seconds))
    if given.json:
        with open(given.json, "w") as file:
            json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()

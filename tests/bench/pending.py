"""What a store costs as it grows: ``python -m tests.bench.pending``.

One worker enqueues requests of many hosts, 15,000 a commit, up to each size in turn. At each size
it then works as a crawl does: claims 100 requests, and commits them as handled, with an item and
ten links each, nine of which are known. This is done with a directory, and with a PostgreSQL server
that is started for it, with fsync on.

What it prints is the table of `docs/benchmarks.md`: microseconds of CPU, those of the server's
processes after a plus, and in brackets of time.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from crawlkit.checkpoint import Checkpoint, Item, Lease, Outcome, Pending
from crawlkit.request import Request, fingerprint
from crawlkit.stores import open_store
from crawlkit.stores.base import Store

from ..postgres import Server
from .postgres import SETTINGS

SIZES = (10_000, 100_000, 1_000_000)
STORES = ("SQLite", "PostgreSQL")
HOSTS = 2_000
AT_ONCE = 15_000
ROUNDS = 60
PAGES = 100
LINKS = 10


@dataclass
class Cost:
    """What something took, in seconds.

    Attributes:
        count: How many there were.
        cpu: Of this process.
        server: Of all of the server's processes; none where there is no server.
        seconds: By the clock.
    """

    count: int = 0
    cpu: float = 0.0
    server: float = 0.0
    seconds: float = 0.0

    def told(self, *, has_server: bool) -> str:
        """One of them, in microseconds: ``5.2 (35)``, ``9.1 + 17 (131)``."""
        cpu, server, took = (1e6 * n / self.count for n in (self.cpu, self.server, self.seconds))
        return _figure(cpu) + (f" + {_figure(server)}" if has_server else "") + f" ({took:,.0f})"


def _figure(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}"


class Meter:
    """Measures what is done with a store.

    Args:
        server: The server that the store is in; ``None`` for a directory.
    """

    def __init__(self, server: Server | None) -> None:
        self._server = server
        self._used: dict[str, int] = {}

    @contextmanager
    def adding(self, cost: Cost) -> Iterator[None]:
        """Add what is done within."""
        # What it takes to look at the server stays outside.
        server = self._of_server()
        cpu, seconds = time.process_time(), time.perf_counter()
        yield
        cost.cpu += time.process_time() - cpu
        cost.seconds += time.perf_counter() - seconds
        cost.server += self._of_server() - server

    def _of_server(self) -> float:
        """Seconds of CPU of its processes, those that have ended as of the last look."""
        if self._server is None:
            return 0.0
        parent = (self._server.data / "postmaster.pid").read_text().split()[0]
        with suppress(OSError):
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
            for process in (parent, *children):
                with suppress(OSError):
                    used = Path(f"/proc/{process}/schedstat").read_text().split()[0]
                    self._used[process] = int(used)
        return sum(self._used.values()) / 1e9


def pending(number: int) -> Pending:
    """A request; those with the same number are the same."""
    host = f"www.shop-{number * 7919 % HOSTS}.example"
    request = Request(f"https://{host}/catalogue/{number * 2654435761 % 2**32:08x}-{number}.html")
    return Pending(request, fingerprint(request), host)


async def grow(store: Store, meter: Meter, numbers: range, size: int) -> Cost:
    """Enqueue requests; what the last tenth of `size` took, or the last commit at least."""
    cost = Cost()
    for start in range(numbers.start, numbers.stop, AT_ONCE):
        stop = min(start + AT_ONCE, numbers.stop)
        fresh = [pending(n) for n in range(start, stop)]
        checkpoint = Checkpoint(at=time.time(), fresh=fresh)
        is_counted = stop >= numbers.stop - size // 10
        with meter.adding(cost) if is_counted else nullcontext():
            await store.commit(checkpoint)
        cost.count += len(fresh) if is_counted else 0
    return cost


async def work(store: Store, meter: Meter, size: int) -> tuple[Cost, Cost]:
    """Claim and commit; what the requests and the pages took."""
    rng = random.Random(size)
    claims, commits = Cost(), Cost()
    number = size + 10_000_000
    for _ in range(ROUNDS):
        with meter.adding(claims):
            leases = (await store.claim(PAGES, {}, time.time())).leases
        fresh = [pending(n) for n in range(number, number + len(leases))]
        number += len(leases)
        known = [pending(rng.randrange(size)) for _ in range(len(leases) * (LINKS - 1))]
        checkpoint = Checkpoint(
            at=time.time(),
            fresh=fresh + known,
            left=[lease.ticket for lease in leases],
            outcomes=list(map(handled, leases)),
            items=[Item(b'{"title":"A lamp"}', le.request.url, "parse", 1.0) for le in leases],
            add={"requests_finished": len(leases), "items_saved": len(leases)},
        )
        with meter.adding(commits):
            await store.commit(checkpoint)
        claims.count += len(leases)
        commits.count += len(leases)
    return claims, commits


def handled(lease: Lease) -> Outcome:
    """A page that went well."""
    url, host = lease.request.url, lease.host
    return Outcome("handled", url, lease.fingerprint, host, time.time(), "parse", 200, 0.1)


async def measure(name: str, address: str, server: Server | None, sizes: list[int]) -> None:
    """Each size in turn; a row of the table for each."""
    store, meter, before = open_store(address), Meter(server), 0
    await store.open()
    try:
        for size in sizes:
            enqueued = await grow(store, meter, range(before, size), size)
            costs = (enqueued, *await work(store, meter, size))
            cells = (cost.told(has_server=server is not None) for cost in costs)
            print(f"| {name} | {size:,} | {' | '.join(cells)} |", flush=True)
            before = size
    finally:
        await store.close()


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.pending", description=__doc__)
    parser.add_argument("--stores", default=",".join(STORES), help="which: %(default)s")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="default: %(default)s")
    given = parser.parse_args()
    sizes = [int(size) for size in given.sizes.split(",")]
    known = {name.lower(): name for name in STORES}
    stores = [known[name.strip().lower()] for name in given.stores.split(",")]
    print(
        f"Measured on {datetime.now(UTC):%Y-%m-%d}: {platform.system()} {platform.machine()}, "
        f"{os.cpu_count()} cores, Python {platform.python_version()}.\n"
    )
    print("| store | pending | a URL enqueued | a request claimed | a page committed |")
    print("|---|---|---|---|---|")
    for name in stores:
        with tempfile.TemporaryDirectory(prefix="crawlkit-bench-") as home:
            if name == "SQLite":
                asyncio.run(measure(name, str(Path(home, "run")), None, sizes))
                continue
            server = Server(settings=SETTINGS)
            try:
                asyncio.run(measure(name, server.address(), server, sizes))
            finally:
                server.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What a store costs as it grows: ``python -m tests.bench.pending --sizes 10000,100000,1000000``.

One worker enqueues requests of many hosts, 15,000 a commit, up to each size in turn. At each size
it then works as a crawl does: claims 100 requests, and commits them as handled, with an item and
ten links each, nine of which are known. CPU is that of this process, which is all of it for a
directory; for a store that is a server's (``--store postgresql://...``), the server's comes on top,
and the time tells.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from crawlkit.checkpoint import Checkpoint, Item, Lease, Outcome, Pending
from crawlkit.request import Request, fingerprint
from crawlkit.stores import open_store
from crawlkit.stores.base import Store

SIZES = (10_000, 100_000, 1_000_000)
HOSTS = 2_000
AT_ONCE = 15_000
ROUNDS = 30
PAGES = 100
LINKS = 10


@dataclass(frozen=True)
class Row:
    """What one size took, in microseconds; CPU and time.

    Attributes:
        enqueue: Of each of the last requests up to the size.
        claim: Of each request that was claimed.
        page: Of each page that was committed, links included.
    """

    enqueue: tuple[float, float]
    claim: tuple[float, float]
    page: tuple[float, float]


class Stopwatch:
    """CPU and time since it was made."""

    def __init__(self) -> None:
        self._began = (time.process_time(), time.perf_counter())

    def each(self, count: int) -> tuple[float, float]:
        """Microseconds of each of so many."""
        now = (time.process_time(), time.perf_counter())
        cpu, seconds = (end - begin for end, begin in zip(now, self._began, strict=True))
        return (1e6 * cpu / count, 1e6 * seconds / count)


def pending(number: int) -> Pending:
    """A request; those with the same number are the same."""
    host = f"www.shop-{number * 7919 % HOSTS}.example"
    request = Request(f"https://{host}/catalogue/{number * 2654435761 % 2**32:08x}-{number}.html")
    return Pending(request, fingerprint(request), host)


async def grow(store: Store, numbers: range) -> tuple[float, float]:
    """Enqueue requests; what each of the last ones took."""
    took = (0.0, 0.0)
    for start in range(numbers.start, numbers.stop, AT_ONCE):
        fresh = [pending(n) for n in range(start, min(start + AT_ONCE, numbers.stop))]
        watch = Stopwatch()
        await store.commit(Checkpoint(at=time.time(), fresh=fresh))
        took = watch.each(len(fresh))
    return took


async def work(store: Store, size: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """Claim and commit; what each request and each page took."""
    rng = random.Random(size)
    claims, commits = [0.0, 0.0], [0.0, 0.0]
    claimed = pages = 0
    number = size + 10_000_000
    for _ in range(ROUNDS):
        watch = Stopwatch()
        leases = (await store.claim(PAGES, {}, time.time())).leases
        for i, value in enumerate(watch.each(1)):
            claims[i] += value
        claimed += len(leases)
        fresh = [pending(n) for n in range(number, number + len(leases))]
        number += len(leases)
        known = [pending(rng.randrange(size)) for _ in range(len(leases) * (LINKS - 1))]
        watch = Stopwatch()
        await store.commit(
            Checkpoint(
                at=time.time(),
                fresh=fresh + known,
                left=[lease.ticket for lease in leases],
                outcomes=list(map(handled, leases)),
                items=[Item(b'{"title":"A lamp"}', le.request.url, "parse", 1.0) for le in leases],
                add={"requests_finished": len(leases), "items_saved": len(leases)},
            )
        )
        for i, value in enumerate(watch.each(1)):
            commits[i] += value
        pages += len(leases)
    each = [(total[0] / n, total[1] / n) for total, n in ((claims, claimed), (commits, pages))]
    return each[0], each[1]


def handled(lease: Lease) -> Outcome:
    """A page that went well."""
    url, host = lease.request.url, lease.host
    return Outcome("handled", url, lease.fingerprint, host, time.time(), "parse", 200, 0.1)


async def measure(address: str, sizes: list[int]) -> Iterator[tuple[int, Row]]:
    """Each size in turn."""
    store = open_store(address)
    await store.open()
    rows = []
    try:
        before = 0
        for size in sizes:
            enqueue = await grow(store, range(before, size))
            rows.append((size, Row(enqueue, *await work(store, size))))
            before = size
    finally:
        await store.close()
    return iter(rows)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.pending", description=__doc__)
    parser.add_argument("--store", help="a store's address in place of a directory")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    given = parser.parse_args()
    sizes = [int(size) for size in given.sizes.split(",")]
    with tempfile.TemporaryDirectory(prefix="crawlkit-bench-") as home:
        rows = asyncio.run(measure(given.store or str(Path(home, "run")), sizes))
    heads = ("pending", "enqueue CPU", "time", "claim CPU", "time", "page CPU", "time")
    print("".join(f"{head:>13}" for head in heads), "  µs")
    for size, row in rows:
        numbers = (*row.enqueue, *row.claim, *row.page)
        print(f"{size:>13,}" + "".join(f"{number:>13.1f}" for number in numbers))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A million items into files: how long it takes, in how much memory, and whether they are equal.

``python -m tests.bench.exporting`` fills a run with items, exports them with ``crawlkit items``
in a process of its own, and compares each file, item by item, with what the run's database holds.
The files are read by others: CSV by Python's own module, Parquet by polars, JSON by `json`, the
database by `sqlite3`.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from random import Random
from typing import Any

from crawlkit.checkpoint import Checkpoint, Item
from crawlkit.stores.sqlite import SqliteStore

LIMIT = 150 * 10**6
"""Bytes of resident memory that an export may take, whatever the number of items."""
BATCH = 10_000
FORMS = ("jsonl", "json", "csv", "parquet")

CHILD = """
import sys
from pathlib import Path
from crawlkit.cli import main
try:
    main(sys.argv[1:])
finally:
    status = Path("/proc/self/status").read_text()
    peak = status.partition("VmHWM:")[2].split()[0]
    print("peak", int(peak) * 1024, file=sys.stderr)
"""


@dataclass(frozen=True)
class Row:
    """What one export took.

    Attributes:
        form: The ending of the file.
        seconds: How long.
        memory: Bytes of resident memory at the peak.
        size: Bytes of the file.
        wrong: What is wrong with it; empty if nothing is.
    """

    form: str
    seconds: float
    memory: int
    size: int
    wrong: str


def item(number: int) -> dict[str, Any]:
    """An item like those of shops: text, numbers, gaps, a list, an object."""
    random = Random(number)
    found: dict[str, Any] = {
        "url": f"https://shop.example/lamp/{number}",
        "title": f"Lamp {number}, “{random.randrange(10**9)}”",
        "text": " ".join(str(random.random()) for _ in range(4)),
        "price": random.randrange(10**5) / 100 if number % 7 else random.randrange(100),
        "stock": None if number % 5 == 0 else random.randrange(10**12),
        "is_new": number % 3 == 0,
        "tags": [f"tag{n}" for n in range(number % 4)],
        "maker": {"name": f"maker {number % 100}", "since": 1900 + number % 100},
    }
    if number % 11 == 0:
        found["note"] = "=1+1\nsecond line"
    return found


async def fill(path: Path, count: int) -> None:
    """A run with so many items."""
    store = SqliteStore(str(path))
    await store.open()
    for start in range(0, count, BATCH):
        numbers = range(start, min(start + BATCH, count))
        items = [
            Item(json.dumps(item(n)).encode(), f"https://shop.example/{n}", "parse", 1.7e9 + n)
            for n in numbers
        ]
        await store.commit(Checkpoint(items=items, add={"items_saved": len(items)}))
    await store.close()


def export(run: Path, file: Path) -> tuple[float, int]:
    """Export to `file`; the seconds, and the bytes of memory at the peak."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", CHILD, "items", str(run), "-o", str(file), "--raw-csv"],
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(done.stderr)
    return seconds, int(done.stderr.rpartition("peak ")[2])


# -- others read it ----------------------------------------------------------------------------


def stored(run: Path) -> Iterator[dict[str, Any]]:
    database = sqlite3.connect(run / "run.sqlite3")
    for (data,) in database.execute("SELECT data FROM items ORDER BY number"):
        yield json.loads(data)
    database.close()


def read_jsonl(file: Path) -> Iterator[dict[str, Any]]:
    with open(file, encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def read_json(file: Path) -> Iterator[dict[str, Any]]:
    yield from json.loads(file.read_text(encoding="utf-8"))


def read_csv(file: Path) -> Iterator[dict[str, Any]]:
    with open(file, newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            yield {name: _value(name, cell) for name, cell in row.items() if cell}


def _value(name: str, cell: str) -> Any:
    return cell if name in ("url", "title", "text", "note") else json.loads(cell)


def read_parquet(file: Path) -> Iterator[dict[str, Any]]:
    import polars as pl

    frame = pl.scan_parquet(file)
    count = frame.select(pl.len()).collect().item()
    for start in range(0, count, BATCH):
        yield from frame.slice(start, BATCH).collect().to_dicts()


READERS = {"jsonl": read_jsonl, "json": read_json, "csv": read_csv, "parquet": read_parquet}


def difference(found: Iterable[dict[str, Any]], run: Path) -> str:
    """The first difference between what a file holds and what the run holds."""
    for number, (one, other) in enumerate(zip_longest(found, stored(run)), 1):
        # A column has a cell for every item, so a field that an item has not is null.
        if one is None or other is None or _without_null(one) != _without_null(other):
            return f"item {number}: {one} is not {other}"
    return ""


def _without_null(item: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if value is not None}


# -- the command -------------------------------------------------------------------------------


def measure(directory: Path, count: int, forms: Iterable[str] = FORMS) -> list[Row]:
    """Fill a run, and export it to each form."""
    run = directory / "run"
    asyncio.run(fill(run, count))
    rows = []
    for form in forms:
        file = directory / f"items.{form}"
        seconds, memory = export(run, file)
        wrong = difference(READERS[form](file), run)
        rows.append(Row(form, seconds, memory, file.stat().st_size, wrong))
        file.unlink()
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Measure; the exit code tells whether all is well."""
    parser = argparse.ArgumentParser("python -m tests.bench.exporting", description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--forms", default=",".join(FORMS))
    options = parser.parse_args(arguments)
    is_well = True
    print(f"{options.items:,} items\n{'form':<8}  seconds  items/s  memory MB  file MB  equal")
    with tempfile.TemporaryDirectory(prefix="crawlkit-export-") as home:
        for row in measure(Path(home), options.items, options.forms.split(",")):
            rate = options.items / row.seconds
            print(
                f"{row.form:<8}  {row.seconds:7.1f}  {rate:7,.0f}  {row.memory / 1e6:9.1f}  "
                f"{row.size / 1e6:7.1f}  {row.wrong or 'yes'}",
                flush=True,
            )
            is_well = is_well and not row.wrong and row.memory < LIMIT
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())

"""What a page costs in instructions, which no other work on the machine changes.

``python -m tests.bench.instructions`` has each peer crawl a few of the small pages and more of them
under valgrind, which counts every instruction that the process runs, in Python, in its libraries
and in all threads. The difference, divided by the pages between, is the cost of one more page:
start-up is in both and falls out. It says nothing of what the kernel does, nor of memory that has
to be waited for: for those there is ``python -m tests.bench``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .items import Digest
from .measure import ROOT, BenchError, Cores, serve
from .peers import PEERS, Task
from .report import circumstances
from .workloads import WORKLOADS

WORKLOAD = WORKLOADS["small"]
CONCURRENCY = 16
SHARE = 5
"""Of so many pages of the longer crawl, the shorter one has one."""

COUNT = ("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null")
COUNTED = re.compile(r"I\s+refs:\s+([\d,]+)")


@dataclass(frozen=True)
class Cost:
    """What a crawl of two lengths took.

    Attributes:
        few: Pages of the shorter one.
        many: Pages of the longer one.
        few_instructions: Instructions of the shorter one, start-up included.
        many_instructions: The same of the longer one.
    """

    few: int
    many: int
    few_instructions: int
    many_instructions: int

    @property
    def per_page(self) -> float:
        """Instructions for one more page."""
        return (self.many_instructions - self.few_instructions) / (self.many - self.few)

    @property
    def fixed(self) -> float:
        """Instructions for none: start, imports, and the end."""
        return self.few_instructions - self.few * self.per_page


def costs(peers: Sequence[str], pages: int) -> dict[str, Cost]:
    """Count the instructions of peers, as many crawls at once as there are cores.

    Args:
        peers: Their names.
        pages: Pages of the longer crawl.

    Raises:
        BenchError: valgrind is missing, a crawl failed, or it did not find all pages.
    """
    if shutil.which(COUNT[0]) is None:
        raise BenchError("valgrind is not installed: apt-get install valgrind")
    few = max(1, pages // SHARE)
    if few == pages:
        raise BenchError("give at least 2 pages, for one more than the first")
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        # Whatever is not compiled yet is compiled here, and not in one of the two that count.
        list(threads.map(lambda name: _crawl(name, 1, ()), peers))
        jobs = {
            (name, number): threads.submit(_crawl, name, number, COUNT)
            for name in peers
            for number in (pages, few)
        }
        counts = {job: _counted(*job, future.result()) for job, future in jobs.items()}
    return {name: Cost(few, pages, counts[name, few], counts[name, pages]) for name in peers}


def _crawl(name: str, pages: int, under: Sequence[str]) -> str:
    """One crawl of so many pages; what the process said.

    Args:
        name: The peer.
        pages: How many pages the site has.
        under: The command that runs it, if any.
    """
    environment = {key: value for key, value in os.environ.items() if key[:6] != "PYTHON"}
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"}
    with (
        serve(WORKLOAD, pages, Cores(None, None)) as site,
        tempfile.TemporaryDirectory(prefix="crawlkit-bench-") as directory,
    ):
        work = Path(directory, "work")
        work.mkdir()
        file = Path(directory, "task.json")
        task = Task(
            start_url=site.start_url,
            sites=site.sites,
            fields=WORKLOAD.fields,
            concurrency=CONCURRENCY,
            directory=str(work),
            core=None,
            options=PEERS[name].options,
        )
        task.write(file)

        def run(module: str, *words: str, under: Sequence[str] = ()) -> tuple[str, str]:
            command = [*under, sys.executable, "-m", module, name, str(file), *words]
            done = subprocess.run(
                command, cwd=work, env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise BenchError(f"{name} ended with {done.returncode}: {done.stderr.strip()}")
            return done.stdout, done.stderr

        _, said = run("tests.bench.slowed", under=under)
        found, _ = run("tests.bench.peers", "--items")
    items = Digest(*json.loads(found))
    if items != site.items:
        raise BenchError(
            f"{name} found {items.number} of {pages} items, or other ones; the count does not "
            f"count. {said.strip()}"
        )
    return said


def _counted(name: str, pages: int, said: str) -> int:
    """The number in what valgrind said."""
    match = COUNTED.search(said)
    if match is None:
        raise BenchError(f"valgrind gave no number for {name} and {pages} pages: {said.strip()}")
    return int(match[1].replace(",", ""))


def table(found: Mapping[str, Cost]) -> str:
    """The costs for people; ratios are to the first."""
    first_name, first = next(iter(found.items()))
    rows = [("", "million a page", f"/ {first_name}", "million besides")] + [
        (
            name,
            f"{cost.per_page / 1e6:.3f}",
            f"{cost.per_page / first.per_page:.3f}",
            f"{cost.fixed / 1e6:,.0f}",
        )
        for name, cost in found.items()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(w) if not i else cell.rjust(w) for i, (cell, w) in enumerate(cells))
        for cells in (zip(row, widths, strict=True) for row in rows)
    ]
    head = f"{WORKLOAD.name}: instructions, of one page more between {first.few} and {first.many}"
    return "\n".join([head, *lines])


def report(found: Mapping[str, Cost]) -> dict[str, Any]:
    """The costs as JSON."""
    reference = next(iter(found.values()))
    return {
        **circumstances(),
        "peers": {
            name: {
                **asdict(cost),
                "instructions_per_page": cost.per_page,
                "fixed_instructions": cost.fixed,
                "ratio": cost.per_page / reference.per_page,
            }
            for name, cost in found.items()
        },
    }


def main(arguments: list[str] | None = None) -> int:
    """Count; the exit code."""
    options = _parser().parse_args(arguments)
    names = list(dict.fromkeys(name.strip() for name in options.peers.split(",") if name.strip()))
    try:
        if not names:
            raise BenchError(f"no peer is named; there are {', '.join(PEERS)}")
        for name in names:
            if name not in PEERS:
                raise BenchError(f"there is no peer {name!r}; there are {', '.join(PEERS)}")
            if missing := PEERS[name].missing():
                raise BenchError(
                    f"{name} needs {' and '.join(missing)}: pip install {' '.join(missing)}"
                )
        found = costs(names, options.pages)
        print(table(found))
        if options.json:
            options.json.write_text(json.dumps(report(found), indent=2) + "\n")
    except (BenchError, OSError) as error:
        print(f"tests.bench.instructions: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.instructions",
        description="Count the instructions that a page costs, by valgrind.",
    )
    parser.add_argument("--pages", type=int, default=500, help="of the longer crawl; default: 500")
    parser.add_argument(
        "--peers",
        default="loop,crawlkit",
        help=f"of {', '.join(PEERS)}; ratios are to the first one; default: loop,crawlkit",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there, too")
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""The command line: ``python -m tests.bench``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from .measure import BenchError, Cores, Measured, measure, serve
from .peers import PEERS
from .report import circumstances, summary, table
from .workloads import WORKLOADS, Workload

DEFAULT_PEERS = "loop,crawlkit"


def main(arguments: list[str] | None = None) -> int:
    """Measure; the exit code."""
    options = _parser().parse_args(arguments)
    try:
        peers = _names("peer", options.peers, PEERS)
        workloads = _names("workload", options.workloads, WORKLOADS)
        for name in peers:
            if missing := PEERS[name].missing():
                raise BenchError(
                    f"{name} needs {' and '.join(missing)}: pip install {' '.join(missing)}"
                )
        results: dict[str, Any] = {}
        for name in workloads:
            results[name] = _run(WORKLOADS[name], peers, options)
            print(table(WORKLOADS[name], results[name], peers[0]), end="\n\n", flush=True)
        if options.json:
            report = {**circumstances(), "reference": peers[0], "workloads": results}
            options.json.write_text(json.dumps(report, indent=2) + "\n")
    except (BenchError, OSError) as error:
        print(f"tests.bench: {error}", file=sys.stderr)
        return 1
    return 0


def _run(workload: Workload, peers: list[str], options: argparse.Namespace) -> Any:
    """All rounds of one workload."""
    cores = Cores.pick()
    rounds: dict[str, list[Measured]] = {name: [] for name in peers}
    with serve(workload, options.pages, cores) as site:
        for number in range(options.rounds):
            # Each peer is first in turn, so that none always meets the machine in the same mood.
            first = number % len(peers)
            for name in peers[first:] + peers[:first]:
                run = measure(
                    name, workload, site, concurrency=options.concurrency, core=cores.crawler
                )
                rounds[name].append(run)
                print(
                    f"{workload.name} {number + 1}/{options.rounds} {name}: {run.pages:,} pages, "
                    f"{run.seconds:.1f} s, {run.cpu_seconds:.1f} s CPU",
                    file=sys.stderr,
                )
                _check(rounds, name)
    return summary(rounds, peers[0])


def _check(rounds: dict[str, list[Measured]], name: str) -> None:
    """See to it that all that was measured so far is the same crawl."""
    found = {run.items: other for other, runs in rounds.items() for run in runs}
    if len(found) > 1:
        counts = ", ".join(f"{other} {items.number}" for items, other in found.items())
        raise BenchError(f"the items of {name} are others: {counts}; what it took does not count")


def _names(kind: str, text: str, known: dict[str, Any]) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise BenchError(f"there is no {kind} {name!r}; there are {', '.join(known)}")
    if not names:
        raise BenchError(f"no {kind} is named; there are {', '.join(known)}")
    return list(dict.fromkeys(names))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Crawl the same pages with crawlkit and with others, and say what it takes.",
    )
    parser.add_argument("--pages", type=_positive, default=20_000, help="default: 20000")
    parser.add_argument("--rounds", type=_positive, default=3, help="of each; default: 3")
    parser.add_argument("--concurrency", type=_positive, default=16, help="default: 16")
    parser.add_argument(
        "--workloads", default="small", help=f"of {', '.join(WORKLOADS)}; default: small"
    )
    parser.add_argument(
        "--peers",
        default=DEFAULT_PEERS,
        help=f"of {', '.join(PEERS)}; ratios are to the first one; default: {DEFAULT_PEERS}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there, too")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("give a number from 1 on")
    return number


if __name__ == "__main__":
    sys.exit(main())

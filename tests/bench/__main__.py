"""The command line: ``python -m tests.bench``."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .measure import BenchError, Cores, Measured, measure, serve
from .peers import PEERS
from .report import circumstances, summary, table
from .workers import workers
from .workloads import WORKLOADS, Workload

DEFAULT_PEERS = "loop,crawlkit"


def main(arguments: list[str] | None = None) -> int:
    """Measure; the exit code."""
    options = _parser().parse_args(arguments)
    try:
        if options.workers:
            return workers(options)
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
            reference = _reference(WORKLOADS[name], results[name])
            print(table(WORKLOADS[name], results[name], reference), end="\n\n", flush=True)
        if options.json:
            references = {name: _reference(WORKLOADS[name], results[name]) for name in results}
            report = {**circumstances(), "references": references, "workloads": results}
            options.json.write_text(json.dumps(report, indent=2) + "\n")
    except (BenchError, OSError) as error:
        print(f"tests.bench: {error}", file=sys.stderr)
        return 1
    return 0


def _run(workload: Workload, peers: list[str], options: argparse.Namespace) -> Any:
    """All rounds of one workload."""
    cores = Cores.pick()
    ways = {way.name: way for way in workload.ways if way.peer in peers}
    names = [*peers, *ways]
    rounds: dict[str, list[Measured]] = {name: [] for name in names}

    with (
        serve(workload, options.pages, cores) as site,
        tempfile.TemporaryDirectory(prefix="crawlkit-bench-") as home,
    ):

        def run(name: str) -> Measured:
            way = ways.get(name)
            own: dict[str, Any] = {}
            if way is not None:
                # An empty cache is among what the crawl leaves, and goes away with it.
                own["cache_dir"] = str(Path(home, name)) if way.is_warm else "cache"
            return measure(
                name if way is None else way.peer,
                workload,
                site,
                concurrency=options.concurrency,
                core=cores.crawler,
                options=own,
            )

        for way in ways.values():
            if way.is_warm:
                run(way.name)
        for number in range(options.rounds):
            # Each is first in turn, so that none always meets the machine in the same mood.
            first = number % len(names)
            for name in names[first:] + names[:first]:
                measured = run(name)
                rounds[name].append(measured)
                print(
                    f"{workload.name} {number + 1}/{options.rounds} {name}: "
                    f"{measured.pages:,} pages, {measured.seconds:.1f} s, "
                    f"{measured.cpu_seconds:.1f} s CPU",
                    file=sys.stderr,
                )
                _check(rounds, name)
    return summary(rounds, _reference(workload, rounds))


def _reference(workload: Workload, rows: Mapping[str, Any]) -> str:
    """The row that the ratios of the others are to."""
    return workload.reference if workload.reference in rows else next(iter(rows))


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
        help=f"of {', '.join(PEERS)}; ratios are to the first one, those of the cached workloads "
        f"to crawlkit; default: {DEFAULT_PEERS}",
    )
    parser.add_argument(
        "--workers",
        type=lambda text: [_positive(number) for number in text.split(",")],
        metavar="1,2,4",
        help="measure crawlkit with so many worker processes instead, on all cores",
    )
    parser.add_argument(
        "--store",
        metavar="URL",
        help="with --workers: a store that workers share, in place of a directory; "
        '"postgresql" alone is a server that is started for it',
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

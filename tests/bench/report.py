"""What was measured, as a table and as JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import Any

from .measure import Measured, has_names
from .peers import PEERS
from .workloads import Workload

Rounds = Mapping[str, Sequence[Measured]]
"""What each peer took, round by round."""


def summary(rounds: Rounds, reference: str) -> dict[str, dict[str, Any]]:
    """Medians over the rounds, and the ratios to one of the peers.

    A ratio is the median of those of the rounds, in each of which the peers ran right after each
    other: what else the machine is doing then disturbs both alike.
    """
    result: dict[str, dict[str, Any]] = {}
    for name, runs in rounds.items():
        pairs = list(zip(runs, rounds[reference], strict=True))
        ratios = [run.cpu_seconds / other.cpu_seconds for run, other in pairs]
        times = [run.seconds / other.seconds for run, other in pairs]
        memory = [run.peak_memory / other.peak_memory for run, other in pairs]
        result[name] = {
            "pages_per_second": median(run.pages / run.seconds for run in runs),
            "cpu_ms_per_page": median(run.cpu_seconds / run.pages * 1000 for run in runs),
            "startup_cpu_seconds": median(run.startup_cpu_seconds for run in runs),
            "peak_memory_mb": median(run.peak_memory / 1e6 for run in runs),
            "cpu_ratio": median(ratios),
            "cpu_ratio_range": [min(ratios), max(ratios)],
            "time_ratio": median(times),
            "time_ratio_range": [min(times), max(times)],
            "memory_ratio": median(memory),
            "rounds": [asdict(run) for run in runs],
        }
    return result


def table(workload: Workload, result: Mapping[str, Mapping[str, Any]], reference: str) -> str:
    """The summary of one workload for people."""
    pages = next(iter(result.values()))["rounds"][0]["items"][0]
    about = f"{workload.size // 1000} KB, {workload.links} links"
    if workload.share is None:
        about = "the documentation of Python 3.11 behind nginx"
    elif workload.hosts > 1:
        about += f", {workload.hosts} hosts by {'name' if has_names() else 'address'}"
    elif workload.is_on_disk:
        about += ", behind nginx"
    ways = {way.name: way.about for way in workload.ways}
    heads = (
        "",
        "pages/s",
        f"time / {reference}",
        "(range)",
        "CPU ms/page",
        "CPU /",
        "(range)",
        "peak MB",
        "memory /",
    )
    rows = [heads] + [
        (
            f"{name} ({ways.get(name) or PEERS[name].about})",
            f"{row['pages_per_second']:,.0f}",
            f"{row['time_ratio']:.2f}",
            "{:.2f}-{:.2f}".format(*row["time_ratio_range"]),
            f"{row['cpu_ms_per_page']:.3f}",
            f"{row['cpu_ratio']:.2f}",
            "{:.2f}-{:.2f}".format(*row["cpu_ratio_range"]),
            f"{row['peak_memory_mb']:.0f}",
            f"{row['memory_ratio']:.2f}",
        )
        for name, row in result.items()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(w) if not i else cell.rjust(w) for i, (cell, w) in enumerate(cells))
        for cells in (zip(row, widths, strict=True) for row in rows)
    ]
    return "\n".join([f"{workload.name}: {pages:,} pages, {about}", *lines])


def circumstances() -> dict[str, Any]:
    """When and where it was measured."""
    packages = sorted({name for peer in PEERS.values() for name in peer.packages} | {"lxml"})
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "packages": {name: found for name in packages if (found := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

"""What starting takes: ``python -m tests.bench.startup``.

Each is a process of its own; they take turns, and the least CPU of many counts, as whatever else
the machine does can only add to it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

ROUNDS = 15
BASIS = "import aiohttp, parsel"
CRAWLER = "from crawlkit import Crawler"
HELP = "python -m crawlkit --help"
COMMANDS: Mapping[str, Sequence[str]] = {
    "python": ("-c", "pass"),
    "import crawlkit": ("-c", "import crawlkit"),
    CRAWLER: ("-c", CRAWLER),
    HELP: ("-m", "crawlkit", "--help"),
    BASIS: ("-c", BASIS),
}


def measured(rounds: int) -> dict[str, float]:
    """Seconds of CPU of each command, the least of so many."""
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, command in COMMANDS.items():
            taken[name].append(_once(command))
    return {name: min(seconds) for name, seconds in taken.items()}


def _once(command: Sequence[str]) -> float:
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return usage.ru_utime + usage.ru_stime


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.startup", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default: {ROUNDS}")
    seconds = measured(parser.parse_args().rounds)
    for name, cpu in seconds.items():
        print(f"{cpu * 1000:7.0f} ms CPU {cpu / seconds[BASIS]:6.2f}  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

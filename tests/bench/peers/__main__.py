"""One crawl of one peer: ``python -m tests.bench.peers NAME TASK [--items]``.

Writes ``measured.json`` into the task's directory; with ``--items`` it crawls nothing, and prints
the digest of the items that an earlier crawl has left there.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from time import perf_counter, process_time

from ..items import digest
from . import PEERS, Task


def main(name: str, path: str, *flags: str) -> None:
    """Crawl, or look at what was crawled."""
    task = Task.read(Path(path))
    if task.core is not None:
        os.sched_setaffinity(0, {task.core})
    peer = import_module(f"{__package__}.{PEERS[name].module}")
    if "--items" in flags:
        print(json.dumps(digest(peer.items(task))))
        return
    # Up to here it was Python's start and imports, which do not grow with the site.
    startup_cpu, started = process_time(), perf_counter()
    peer.crawl(task)
    measured = {
        "startup_cpu": startup_cpu,
        "crawl_cpu": process_time() - startup_cpu,
        "crawl_seconds": perf_counter() - started,
    }
    Path(task.directory, "measured.json").write_text(json.dumps(measured))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""One crawl of one peer where time is dear: ``python -m tests.bench.slowed NAME TASK``.

Under valgrind a page takes forty times as long, while a second is as long as ever. What crawlkit
does by the second, a checkpoint above all, it would do forty times as often for each page: that is
put off to the end. And no peer tries a request again, so that one that has timed out is a page that
is missing, and does not go unnoticed into a number.
"""

from __future__ import annotations

import sys

from .peers.__main__ import main

PATIENCE = 3600.0


def put_off(name: str) -> None:
    """Set up a peer for that, where it can be told."""
    if name == "crawlkit":
        from .peers.crawlkit_ import Shop

        Shop.timeout = Shop.idle_timeout = Shop.persist_interval = PATIENCE
        Shop.max_retries = 0
    elif name == "loop":
        from .peers import loop

        loop.RETRIES = 0


if __name__ == "__main__":
    put_off(sys.argv[1])
    main(*sys.argv[1:])

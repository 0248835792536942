"""The command line: ``crawlkit``, and ``python -m crawlkit``.

Each group of verbs is a file, and is loaded when one of its verbs is asked for. A verb imports what
it works with when it runs, so that ``--help`` takes no time.
"""

from __future__ import annotations

from .. import __version__
from .verbs import Verbs, version_option

main = Verbs(
    "crawlkit",
    help="Crawls that cannot be lost: run a crawler, and look at its runs.",
    epilog="RUN is a directory such as runs/shop, or postgresql://user@host/database#shop. "
    "'crawlkit VERB --help' has examples.",
    verbs={
        "run": "run",
        "stats": "read",
        "items": "read",
        "dashboard": "dashboard",
        "report": "report",
        "why": "read",
        "failed": "failed",
        "state": "state",
        "check": "state",
        "export": "move",
        "import": "move",
        "cache": "cache",
        "new": "new",
        "shell": "shell",
    },
    sections={
        "Crawl": ("new", "shell", "run"),
        "Look at a run, also while it goes on": (
            "stats",
            "items",
            "dashboard",
            "report",
            "why",
            "failed",
            "state",
        ),
        "Look after it": ("check", "export", "import", "cache"),
    },
    params=[version_option(__version__)],
)

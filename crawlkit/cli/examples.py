"""What the help says of each verb, so that it need not be loaded to be named; and examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

SUMMARIES: Mapping[str, str] = {
    "run": "Run a crawler; a run that was stopped goes on.",
    "stats": "The statistics of a run, exact over all its lives.",
    "items": "The items of a run, as JSON lines; with --json as one array.",
    "dashboard": "A page in the browser about a run, finished or going on, until Ctrl-C.",
    "report": "One HTML file about a run: what happened, with charts, errors and some items.",
    "why": "What became of a URL.",
    "failed": "The requests that were given up: list, show, retry or drop them.",
    "state": "What a run saved: list, print or set it.",
    "check": "Whether a run is intact; the exit code is 1 where it is not.",
    "export": "Write a whole run to a file, from which 'import' makes it again, in any store.",
    "import": "Make a run of a file that 'export' has written.",
    "cache": "The page cache in a directory: what it holds, or empty it.",
    "new": "Write a first crawler, NAME.py, and a test of it.",
    "shell": "Open a prompt on a page: try selectors, see the links.",
}
"""The first sentence of each verb's own help. A verb that is not in here is loaded to be asked."""

EXAMPLES: Mapping[str, Sequence[str]] = {
    "run": (
        "crawlkit run shop.py                     # start, or go on",
        "crawlkit run shop.py --max-pages 5 --show",
        "crawlkit run shop.py:Lamps --set delay=0.5 --output lamps.jsonl",
        "crawlkit run shop.py --workers 2 --dashboard 8000",
        "crawlkit run shop.py --fresh             # start anew",
    ),
    "stats": (
        "crawlkit stats runs/shop",
        "crawlkit stats runs/shop --json",
        "crawlkit stats runs/shop --diff runs/shop-last-week",
    ),
    "items": (
        "crawlkit items runs/shop | head",
        "crawlkit items runs/shop -o shop.csv",
        "crawlkit items runs/shop --handler parse_offer --meta -o offers.jsonl",
    ),
    "dashboard": ("crawlkit dashboard runs/shop --port 8000",),
    "report": ("crawlkit report runs/shop -o shop.html",),
    "why": ("crawlkit why runs/shop https://shop.example/lamp/7",),
    "failed": (
        "crawlkit failed runs/shop ls",
        "crawlkit failed runs/shop retry --error StatusError",
    ),
    "failed ls": ("crawlkit failed runs/shop ls --error StatusError",),
    "failed show": ("crawlkit failed runs/shop show 3f2a -o failed.html",),
    "failed retry": ("crawlkit failed runs/shop retry --host shop.example",),
    "failed drop": ("crawlkit failed runs/shop drop --handler parse_offer",),
    "state": (
        "crawlkit state runs/shop ls",
        "crawlkit state runs/shop set exchange_rate 1.07",
    ),
    "state ls": ("crawlkit state runs/shop ls",),
    "state get": ("crawlkit state runs/shop get state",),
    "state set": ("crawlkit state runs/shop set exchange_rate 1.07",),
    "export": ("crawlkit export runs/shop shop.run",),
    "import": ("crawlkit import shop.run runs/shop",),
    "check": ("crawlkit check runs/shop",),
    "cache": ("crawlkit cache runs/.cache stats",),
    "cache stats": ("crawlkit cache runs/.cache stats",),
    "cache clear": ("crawlkit cache runs/.cache clear",),
    "new": ("crawlkit new shop --url https://shop.example/",),
    "shell": (
        "crawlkit shell https://shop.example/",
        "crawlkit shell https://shop.example/ -c 'css(\"h1::text\").get()'",
        "crawlkit shell https://shop.example/ -c page.text > page.html",
        "crawlkit shell https://shop.example/ --crawler shop.py",
    ),
}

"""The contestants. Each is a file here with two functions:

- ``crawl(task)`` crawls the site in the way that its users would, and keeps its items in
  ``task.directory`` in whatever form it does;
- ``items(task)`` reads them back, afterwards and in another process.

A new one is a file, and a line in `PEERS`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Task:
    """What a peer is to crawl.

    Attributes:
        start_url: Where to begin.
        sites: ``http://host:port`` of all hosts; every link to one of them is to be followed.
        fields: The fields of an item and their CSS selectors. An item also has its ``url``. A page
            that is not HTML gives no item.
        concurrency: Requests in flight.
        directory: An empty directory for whatever the peer keeps.
        core: The core to run on, or `None`.
        options: The peer's own.
    """

    start_url: str
    sites: tuple[str, ...]
    fields: dict[str, str]
    concurrency: int
    directory: str
    core: int | None
    options: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write it to a file."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Task:
        """Read it from a file."""
        fields = json.loads(path.read_text())
        return cls(**{**fields, "sites": tuple(fields["sites"])})


@dataclass(frozen=True)
class Peer:
    """One contestant.

    Attributes:
        module: The file here.
        packages: What it imports, by the names that one installs.
        about: What it is, in a few words.
        options: What its task has in `Task.options`.
    """

    module: str
    packages: tuple[str, ...]
    about: str
    options: dict[str, Any] = field(default_factory=dict)

    def missing(self) -> list[str]:
        """Its packages that are not installed."""
        return [name for name in self.packages if find_spec(name.lower()) is None]


PEERS = {
    "loop": Peer("loop", ("aiohttp", "parsel", "uvloop"), "aiohttp, uvloop and parsel by hand"),
    "crawlkit": Peer("crawlkit_", ("crawlkit",), "durable, its defaults"),
    "scrapy": Peer("scrapy_", ("Scrapy", "uvloop"), "in memory, on uvloop"),
    "scrapy-jobdir": Peer("scrapy_", ("Scrapy", "uvloop"), "with JOBDIR", {"jobdir": True}),
    "crawlee": Peer("crawlee_", ("crawlee", "uvloop"), "in memory, on uvloop"),
    "crawlee-files": Peer("crawlee_", ("crawlee", "uvloop"), "on files", {"storage": "files"}),
    "crawlee-sql": Peer(
        "crawlee_", ("crawlee", "uvloop", "aiosqlite"), "on SQLite", {"storage": "sql"}
    ),
}

"""dashboard: the live page over a crawl that is being run, or over any run."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any

import click

from ..run import open_run
from ..stores.postgres.address import masked
from .output import say
from .verbs import Verb, run_argument

if TYPE_CHECKING:
    from ..crawler import Crawler
    from ..runner import Runnable


@click.command(cls=Verb)
@run_argument
@click.option(
    "--port",
    "where",
    metavar="[HOST:]PORT",
    default="0",
    help="Where to serve it (default: this machine only, at a free port).",
)
def dashboard(address: str, where: str) -> None:
    """A page in the browser about a run, finished or going on, until Ctrl-C."""
    # aiohttp takes longer to import than `--help` should.
    from ..dashboard.server import Dashboard, RunSource

    with open_run(address):
        pass  # whether there is one is said before a page is served

    async def serve() -> None:
        ended = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        async with Dashboard(RunSource(address), where) as page:
            click.echo(f"{masked(address)} is shown at {page.url} (Ctrl-C ends it)")
            await ended.wait()

    asyncio.run(serve())


def check_where(where: str) -> None:
    """Look at what ``--dashboard`` was given, before the crawl is begun.

    Raises:
        UsageError: It is no port, nor an address and a port.
    """
    from ..dashboard.access import parse_where

    parse_where(where)


class Watched:
    """A crawl with a live page: it is served in the same loop, and closes with it.

    Args:
        crawler: The crawler.
        runnable: What runs it: itself, or its workers, whose run is shown then.
        where: ``[HOST:]PORT``.
    """

    def __init__(self, crawler: Crawler, runnable: Runnable, where: str) -> None:
        self._crawler = crawler
        self._runnable = runnable
        self._where = where
        self.exit_code = 0

    async def crawl(self, *, fresh: bool = False, signals: bool = False) -> Any:
        """Run the crawl, and serve the page meanwhile."""
        from ..dashboard.server import CrawlSource, Dashboard, RunSource

        is_here = self._runnable is self._crawler
        source = (
            CrawlSource(self._crawler) if is_here else RunSource(self._crawler.job.store.address)
        )
        try:
            async with Dashboard(source, self._where) as page:
                say(f"live page:   {page.url}")
                try:
                    return await self._runnable.crawl(fresh=fresh, signals=signals)
                finally:
                    self.exit_code = self._runnable.exit_code
                    source.ended()
        finally:
            source.close()

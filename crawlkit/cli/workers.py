"""run --workers: a crawl in several processes, as one command."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from ..checkpoint import Loader
from ..crawling.parts import stored_items
from ..errors import StoreError, UsageError
from ..events import CrawlerStatus
from ..exporting.late import export_stored, make_room
from ..output import ItemWriter
from ..run import load_statistics
from ..statistics import Statistics
from ..stores.memory import MemoryStore
from ..stores.postgres.address import masked
from ..stores.sqlite import SqliteStore
from ..triggers.usual import usual_triggers
from ..triggers.watching import Watching
from ..workers.copying import Copier
from ..workers.hub import Hub
from ..workers.orders import STORE
from ..workers.remote import RemoteStore
from ..workers.serving import StoreServer
from ..workers.supervisor import SHARE, Supervisor

if TYPE_CHECKING:
    from ..crawler import Crawler


class Workers:
    """The workers of a crawl, to be run like a crawler.

    Args:
        crawler: The crawler, which is not run itself: it says what the run is, and its listeners
            of `crawlerStatus` are told where the crawl stands.
        count: How many workers.
        command: The command of each, but for its name and what it needs to find the store where
            others on other machines may find it, too.

    Raises:
        UsageError: There is no such run for several processes.
    """

    def __init__(self, crawler: Crawler, count: int, command: Sequence[str]) -> None:
        self.exit_code = 1
        self._crawler = crawler
        self._count = count
        self._is_migrating = False
        self._command = command
        store = crawler.job.store
        self._is_shared = store.is_shared
        if isinstance(store, MemoryStore) or not (
            isinstance(store, SqliteStore) or store.is_shared
        ):
            raise UsageError(
                f"several workers cannot share {masked(store.address)}; "
                "name a directory with --store"
            )
        self._watching = Watching([*usual_triggers(crawler.preemption), *crawler.triggers])
        self._late = crawler.late_output

    async def crawl(self, *, fresh: bool = False, signals: bool = False) -> None:
        """Run the workers until the crawl is finished or stopped.

        Raises:
            CrawlkitError: The crawl could not be begun, or could not go on.
        """
        store = self._crawler.job.store
        if self._late is not None:
            make_room(self._late)
        try:
            async with self._metrics_served():
                if isinstance(store, SqliteStore):
                    await self._crawl_here(store, fresh)
                else:
                    if fresh:
                        await store.open(fresh=True)
                        await store.close()
                    await self._supervise(None, _Stored(store.address))
        finally:
            self._watching.let_go()
        if self._late is not None and not self._is_migrating:
            await export_stored(store.reader, self._late)
            self._crawler.is_output_written = True
        self._crawler.statistics = load_statistics(store.address)

    @asynccontextmanager
    async def _metrics_served(self) -> AsyncIterator[None]:
        """Serve the numbers of all workers, as they are in the run, if that is wanted."""
        crawler, address = self._crawler, self._crawler.job.store.address
        if crawler.metrics is None:
            yield
            return
        # Imported here, since few crawls have them.
        from ..observing.metrics import metrics_text
        from ..observing.metricsserver import MetricsServer

        def text() -> str:
            try:
                statistics = load_statistics(address)
            except StoreError:
                statistics = Statistics()  # nothing is there yet
            return metrics_text(statistics, {"crawler": crawler.name})

        server = MetricsServer(crawler.metrics, lambda: asyncio.to_thread(text))
        await server.open()
        try:
            yield
        finally:
            await server.close()

    async def _crawl_here(self, store: SqliteStore, fresh: bool) -> None:
        """The run of a directory, which this process writes for all workers."""
        crawler = self._crawler
        live = None if self._late else crawler.output
        writer = ItemWriter(live, stored=stored_items(crawler.job))
        hub = Hub(store, lease=crawler.lease, amend=Copier(writer).amend)
        await hub.open(fresh=fresh)
        try:
            Loader(await store.load()).restore("items", writer)
            await self._supervise(hub, hub, store.ship)
        finally:
            await hub.close()

    async def _supervise(
        self,
        hub: Hub | None,
        status: Hub | _Stored,
        ship: Callable[[float | None], Awaitable[None]] | None = None,
    ) -> None:
        crawler = self._crawler
        server = None
        if hub is not None:
            server = StoreServer(
                hub,
                on_reaped=lambda name: supervisor.reaped(name),
                on_lost=lambda error: supervisor.lost(error),
            )
        supervisor = Supervisor(
            self._command_of,
            self._count,
            server=server,
            has_begun=status.has_begun,
            look=status.status,
            show=crawler.job.emit,
            tell=_tell,
            watching=self._watching,
            grace=crawler.grace,
            ship=ship,
            environment={STORE: crawler.job.store.address} if self._is_shared else {},
        )
        if server is not None:
            await server.open()
        try:
            self.exit_code = await supervisor.run()
        finally:
            self._is_migrating = supervisor.is_migrating
            if server is not None:
                await server.close()

    def _command_of(self, name: str, seat: socket.socket | None, joins: bool) -> list[str]:
        command = [*self._command, "--worker", self._name_of(name), "--supervised"]
        command += ["--grace", str(self._crawler.grace * SHARE)]
        if joins:
            command.append("--joins")
        if sys.stderr.isatty():
            command.append("--undated")  # as the lines are that this process logs
        if seat is not None:
            command += ["--seat", str(seat.fileno())]
        return command

    def _name_of(self, name: str) -> str:
        """The name of a worker: that of its supervisor before its own, where there are others."""
        return f"{self._crawler.job.store.worker}-{name}" if self._is_shared else name


class _Stored:
    """Where a crawl stands, from its store."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._lives_before = self._lives()

    async def has_begun(self) -> bool:
        return await asyncio.to_thread(self._lives) > self._lives_before

    def _lives(self) -> int:
        try:
            return load_statistics(self._address).lives
        except StoreError:
            return 0

    async def status(self) -> CrawlerStatus:
        return await asyncio.to_thread(self._status)

    def _status(self) -> CrawlerStatus:
        statistics = load_statistics(self._address)
        return CrawlerStatus(
            statistics.requests_finished,
            statistics.requests_failed,
            statistics.pending,
            statistics.in_flight,
            statistics.items_saved,
        )


def seat_options(address: str, worker: str, seat: int, lease: float) -> dict[str, Any]:
    """Options of a crawler that is a worker of a run which another process has opened."""
    connection = socket.socket(fileno=seat)
    connection.set_inheritable(False)  # or a browser would keep it when this process is gone
    return {"store": RemoteStore(address, worker, connection, lease=lease)}


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()

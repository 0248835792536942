"""Supervisor: keeps a number of workers at one run, from its start to its end.

Workers are processes of the same command line. One that dies is replaced; if the process dies over
and over and nothing gets done in between, that is the end, with what it said last. The triggers are
the supervisor's: what it is told (SIGTERM, Ctrl-C, a platform, a cloud), it tells its workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType

from ..errors import CrawlkitError, StoreError, UsageError, WorkersError
from ..events import CrawlerStatus, Event
from ..triggers.lastmoment import EXIT_UNFINISHED, last_moment_of
from ..triggers.watching import Watching
from .orders import migrate_within
from .process import WorkerProcess
from .serving import StoreServer

log = logging.getLogger("crawlkit.workers")

EXIT_FINISHED, EXIT_USAGE = 0, 2
FIRST = "1"
"""The worker who begins a life of the run; the others join."""
PATIENCE = 3
"""Deaths of each worker in a row after which it is over, if nothing gets done in between."""
FIRST_WAIT, LONGEST_WAIT = 0.1, 10.0
"""Seconds until a worker is replaced that died although nothing got done; doubled each time."""
LOOK = 1.0
"""Seconds between two looks at where the crawl stands."""
SHARE = 0.85
"""Share of the grace that workers have; the rest is for their end and the store's."""

Command = Callable[[str, socket.socket | None, bool], Sequence[str]]


class Supervisor:
    """Runs workers until the crawl is finished or stopped.

    Args:
        command: The command of a worker: by its name, the socket of its store if it has one, and
            whether it takes part in what another worker has begun.
        count: How many workers.
        server: Serves the store to them; ``None`` where they find it themselves.
        has_begun: Whether a worker has counted this life of the run; until then it is the first
            worker who does.
        look: Where the crawl stands.
        show: Shows it.
        tell: Takes each line that a worker logs.
        watching: The triggers, to be watched.
        grace: Seconds until everything is gone after it was told to stop.
        ship: Called when all workers have ended, to bring elsewhere what they have saved, with the
            seconds that are left for it; ``None`` where nobody waits.
        environment: What workers are to have in their environment beside what is there.

    Attributes:
        exit_code: 0 where the crawl is finished, 75 where it was stopped.
        is_migrating: Whether the machine is about to go: no time for what can be done later.
    """

    def __init__(
        self,
        command: Command,
        count: int,
        *,
        server: StoreServer | None,
        has_begun: Callable[[], Awaitable[bool]],
        look: Callable[[], Awaitable[CrawlerStatus]],
        show: Callable[[CrawlerStatus], Awaitable[None]],
        tell: Callable[[str], None],
        watching: Watching,
        grace: float,
        ship: Callable[[float | None], Awaitable[None]] | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.exit_code = 1
        self.is_migrating = False
        self._command = command
        self._count = count
        self._server = server
        self._ask_begun = has_begun
        self._look = look
        self._show = show
        self._tell = tell
        self._watching = watching
        self._grace = grace
        self._ship = ship
        self._environment = environment
        self._ends_at: float | None = None
        self._workers: dict[str, WorkerProcess] = {}
        self._is_stopping = asyncio.Event()
        self._failure: CrawlkitError | None = None
        self._deaths = 0
        self._done = -1

    async def run(self) -> int:
        """Run them; the exit code.

        Raises:
            WorkersError: They die, over and over.
            UsageError: What one of them was asked for makes no sense.
            StoreError: The run is lost to them all, see `lost`.
        """
        await self._watching.begin(self, grace=self._grace)
        showing = asyncio.create_task(self._keep_showing())
        try:
            async with asyncio.TaskGroup() as tasks:
                keepers = [
                    tasks.create_task(self._keep(str(number + 1))) for number in range(self._count)
                ]
                tasks.create_task(self._end_stragglers(keepers))
            # Before the triggers end: it may take long, and who is told to go then has to hear it.
            if self._ship is not None and self._failure is None:
                await self._ship(self._time_to_ship)
        finally:
            showing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await showing
            await self._watching.end(LOOK)
        if self._failure is not None:
            raise self._failure
        is_finished = all(keeper.result() for keeper in keepers)
        self.exit_code = EXIT_FINISHED if is_finished else EXIT_UNFINISHED
        return self.exit_code

    # -- a worker, over all its lives -----------------------------------------------------------

    async def _keep(self, name: str) -> bool:
        """See to it that there is such a worker; whether it has seen the end of the crawl."""
        while not self._is_stopping.is_set():
            worker = self._workers[name] = WorkerProcess(name, self._tell, self._environment)
            joins = name != FIRST or await self._has_begun()
            here, there = socket.socketpair() if self._server is not None else (None, None)
            if self._server is not None and here is not None:
                self._server.serve(here)
            code = await worker.run(self._command(name, there, joins), there)
            if code == EXIT_FINISHED:
                return True
            if not self._is_stopping.is_set():
                await self._replace(worker, code)
        return False

    async def _replace(self, worker: WorkerProcess, code: int) -> None:
        """A worker has ended that should not: decide what becomes of it."""
        how = _signal_of(-code) if code < 0 else f"ended with {code}"
        done = await self._done_so_far()
        self._deaths = self._deaths + 1 if done == self._done else 1
        self._done = done
        if code == EXIT_USAGE or self._deaths > PATIENCE * self._count:
            self._fail(worker, code, how)
            return
        wait = 0.0
        if self._deaths > 1:
            wait = min(FIRST_WAIT * 2 ** (self._deaths - 2), LONGEST_WAIT)
        log.warning("worker %s %s; another takes its place", worker.name, how)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._is_stopping.wait()

    async def _has_begun(self) -> bool:
        try:
            return await self._ask_begun()
        except StoreError:
            return True

    async def _done_so_far(self) -> int:
        try:
            status = await self._look()
        except StoreError:
            return self._done
        return status.finished + status.failed

    def _fail(self, worker: WorkerProcess, code: int, how: str) -> None:
        if self._failure is None:
            words = next((line for line in reversed(worker.last_words) if line.strip()), "")
            words = words.removeprefix("crawlkit: ")
            if code == EXIT_USAGE and words:
                self._failure = UsageError(f"worker {worker.name}: {words}")
            else:
                said = f": {words}" if words else ", without a word"
                self._failure = WorkersError(f"worker {worker.name} {how}{said}")
            self._stop(signal.SIGTERM)

    def lost(self, error: StoreError) -> None:
        """The run cannot be gone on with here, whoever tries: that is the end."""
        if self._failure is None:
            self._failure = error
            self._stop(signal.SIGTERM)

    def reaped(self, name: str) -> None:
        """A worker was not heard of, and lost what it had: it can do nothing more."""
        if (worker := self._workers.get(name)) is not None:
            worker.kill()

    # -- what triggers tell -------------------------------------------------------------------

    async def migrate(self, time_remaining: float | None = None) -> None:
        """The machine is about to go: have all workers finish what runs, and save."""
        self.is_migrating = True
        if time_remaining is not None and time_remaining < self._grace:
            self._grace = time_remaining
            for worker in self._workers.values():
                worker.order(migrate_within(time_remaining * SHARE))
        self._stop(signal.SIGTERM)

    async def abort(self) -> None:
        """A graceful stop was asked for: likewise."""
        self._stop(signal.SIGINT)

    async def try_checkpoint(self) -> None:
        """Nothing: each worker takes a checkpoint every second."""

    async def emit(self, event: Event) -> None:
        """Nothing: what measures one process says little of several."""

    # -- the end ------------------------------------------------------------------------------

    @property
    def _time_to_ship(self) -> float | None:
        if self._ends_at is None:
            return None
        # Until this process is ended, if it is still there; and a little there is always.
        left = self._ends_at - asyncio.get_running_loop().time()
        return max(self._grace * (1 - SHARE) / 2, left - last_moment_of(self._grace))

    def _stop(self, number: signal.Signals) -> None:
        ends_at = asyncio.get_running_loop().time() + self._grace
        self._ends_at = ends_at if self._ends_at is None else min(ends_at, self._ends_at)
        self._watching.end_within(self._grace)
        self._is_stopping.set()
        for worker in self._workers.values():
            worker.send(number)

    async def _end_stragglers(self, keepers: Sequence[asyncio.Task[bool]]) -> None:
        """End what has not ended in time after it was told to."""
        stopping = asyncio.create_task(self._is_stopping.wait())
        ending = asyncio.create_task(asyncio.wait(keepers))
        try:
            await asyncio.wait((stopping, ending), return_when=asyncio.FIRST_COMPLETED)
            if not ending.done():
                # Between their end and the last moment of this process.
                all_of_it = self._grace - last_moment_of(self._grace)
                await asyncio.wait((ending,), timeout=(self._grace * SHARE + all_of_it) / 2)
                for worker in self._workers.values():
                    worker.kill()
        finally:
            stopping.cancel()

    async def _keep_showing(self) -> None:
        while True:
            await asyncio.sleep(LOOK)
            try:
                status = await self._look()
            except StoreError:
                continue  # who writes meets it too, and says so
            await self._show(status)


def _signal_of(number: int) -> str:
    hint = ", as the system does where memory is short" if number == signal.SIGKILL else ""
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return f"was ended by {name}{hint}"

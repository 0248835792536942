"""PostgresStore: a run in PostgreSQL, written by one of many workers.

All work happens in one thread, beside the event loop, on one connection. The server works while
that thread waits without the interpreter's lock. Each call is one statement, or a few that may be
repeated; none leaves a transaction open in which this process could stop.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

from psycopg import Connection

from ...checkpoint import Checkpoint, Document, Snapshot
from ...errors import StoreError
from ..base import Allotment, Claim, Reader, Receipt, Store
from ..intake import Part
from ..records import RunRecord
from ..schema import unfinished
from ..thread import StoreThread
from .address import parse
from .intake import is_unfinished
from .link import Link
from .membership import Membership
from .reader import open_run, read_document, read_snapshot
from .schema import prepare
from .work import Work
from .workers import default_name

log = logging.getLogger("crawlkit.store")

P = ParamSpec("P")
T = TypeVar("T")

LEASE = 15.0
"""Seconds for which what a worker has stays its own without a sign of life from it."""


class PostgresStore(Store):
    """A run in PostgreSQL.

    Args:
        address: ``postgresql://user@host:port/database#RUN``.
        durability: ``normal`` leaves it to the server (``synchronous_commit``, which is on unless
            its owner has chosen otherwise); ``full`` has each commit wait for the server's disk.
        worker: This worker's name; one is made up where it is empty. Who opens the run under the
            name of another takes what that one had.
        lease: Seconds for which what the worker has stays its own without a sign of life from it.
    """

    is_shared = True

    def __init__(
        self,
        address: str,
        *,
        durability: Literal["normal", "full"] = "normal",
        worker: str = "",
        lease: float = LEASE,
    ) -> None:
        where = parse(address)
        self.address = str(where)
        self.worker = worker or default_name()
        self.lease = lease
        self._thread = StoreThread()
        self._link = Link(where, self.worker, durability)
        # Since it was opened: who it is, and what it has.
        self._joined: tuple[Membership, Work] | None = None

    # -- the contract -----------------------------------------------------------------------------

    async def open(self, *, fresh: bool = False) -> None:  # noqa: D102 - documented in Store
        await self._thread.begin(self._open, fresh)

    async def load(self) -> Snapshot:  # noqa: D102
        return await self._call(lambda db: read_snapshot(db))

    async def document(self, name: str) -> Document | None:  # noqa: D102
        return await self._call(read_document, name)

    async def claim(self, limit: int, window: Mapping[str, int], now: float) -> Claim:  # noqa: D102
        return await self._call(self._heard, self._work.claim, limit, dict(window), now)

    async def commit(self, checkpoint: Checkpoint) -> Receipt:  # noqa: D102
        return await self._call(self._heard, self._work.commit, checkpoint)

    async def extend(self) -> None:  # noqa: D102
        await self._call(self._heard, self._member.extend)

    async def try_lock(self, name: str) -> bool:  # noqa: D102
        return await self._call(self._member.try_lock, name)

    async def unlock(self, name: str) -> None:  # noqa: D102
        await self._call(self._member.unlock, name)

    async def finish(self) -> bool:  # noqa: D102
        return await self._call(self._member.finish)

    async def allot(  # noqa: D102
        self, counters: tuple[str, ...], most: int, wanted: int
    ) -> Allotment:
        member = self._member
        return await self._call(member.allot, member.new_call(), counters, most, wanted)

    async def news(self) -> None:  # noqa: D102
        await self._link.news()

    async def take_in(self, records: Sequence[RunRecord], *, is_last: bool) -> None:  # noqa: D102
        await self._call(self._work.take_in, Part(records, is_last=is_last))

    def reader(self) -> Reader:  # noqa: D102
        return open_run(self._link.where)

    async def release(self) -> None:  # noqa: D102
        await self._call(self._work.release)

    async def close(self) -> None:  # noqa: D102
        if self._thread.is_running:
            await self._thread.run(self._close)
            self._thread.end()

    # -- calls ------------------------------------------------------------------------------------

    @property
    def _member(self) -> Membership:
        return self._opened()[0]

    @property
    def _work(self) -> Work:
        return self._opened()[1]

    def _opened(self) -> tuple[Membership, Work]:
        if self._joined is None:
            raise StoreError(f"the run in {self._link.where.shown} is not open")
        return self._joined

    async def _call(
        self,
        work: Callable[Concatenate[Connection[Any], P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        self._opened()
        return await self._thread.run(self._attempt, lambda db: work(db, *args, **kwargs))

    def _attempt(self, work: Callable[[Connection[Any]], T]) -> T:
        member, _ = self._opened()  # it may have been closed while this waited for its turn

        def attempt(connection: Connection[Any]) -> T:
            member.take_over(connection, self._link.number)
            return work(connection)

        return self._link.call(attempt)

    def _heard(self, connection: Connection[Any], work: Callable[..., T], *args: Any) -> T:
        """Do something by which the others hear that this worker is alive."""
        began = time.monotonic()
        done = work(connection, *args)
        self.heard = began
        return done

    # -- opening and closing ----------------------------------------------------------------------

    def _open(self, fresh: bool) -> None:
        if self._joined is not None:
            return
        if self._link.where.run is None:
            self._link.where = self._link.where.named("job")
            self.address = str(self._link.where)
        # One for all attempts: one whose answer got lost is made again, and not beside it.
        member = Membership(self._link.where, self.worker, self.lease)
        self._joined = self._link.open(lambda db: self._begin(db, member, fresh))

    def _begin(
        self, connection: Connection[Any], member: Membership, fresh: bool
    ) -> tuple[Membership, Work]:
        where = self._link.where
        prepare(connection, where, fresh=fresh, me=member.epoch)
        if is_unfinished(connection):
            raise unfinished(where.shown)
        member.reap_dead(connection)
        self._heard(connection, member.join)
        member.take_over(connection, self._link.number)
        return member, Work(self._link, member)

    def _close(self) -> None:
        if self._joined is not None:
            try:
                self._link.close(self._joined[0].leave)
            except StoreError as error:
                log.warning("closing %s: %s", self._link.where.shown, error)
            self._joined = None

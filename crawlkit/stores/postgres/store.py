"""PostgresStore: a run in PostgreSQL, written by one of many workers.

All work happens in one thread, beside the event loop, on one connection. The server works while
that thread waits without the interpreter's lock. Each call is one statement, or a few that may be
repeated; none leaves a transaction open in which this process could stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import psycopg
from psycopg import Connection, sql

from ...checkpoint import Checkpoint, Document, Snapshot
from ...errors import StoreError, StoreFencedError, StoreWriteError
from ..base import Allotment, Claim, Reader, Receipt, Store
from ..records import RunRecord
from ..schema import unfinished
from ..transaction import stale
from .address import parse
from .claims import Bundle, Claimed, claim, reconcile
from .columns import Longs, Texts
from .commit import (
    Left,
    Stored,
    given_back,
    hosts_of,
    key_of,
    left_of,
    write,
)
from .connection import connect, is_lost, translated
from .intake import Part, is_unfinished, refuse_run
from .reader import open_run, read_document, read_snapshot
from .routine import CHANGED, GIVEN_BACK, STALE
from .schema import prepare
from .workers import (
    FENCED,
    LOST,
    Ask,
    Grants,
    Vigil,
    dead,
    default_name,
    new_epoch,
    own_process,
    silent,
)

log = logging.getLogger("crawlkit.store")

P = ParamSpec("P")
T = TypeVar("T")

LEASE = 15.0
"""Seconds for which what a worker has stays its own without a sign of life from it."""
POLL = 2.0
"""Seconds after which an idle worker looks again without having been told to."""
RETRIES = (0.0, 0.1, 0.4)
"""Seconds before each further attempt of a call that has lost its connection. What comes after
that is for the job, which has the user's patience."""
NEEDY = 8
"""Requests of a worker below which others are asked to share their hosts with it."""
KNOWN_HOSTS = 100_000
"""Hosts whose numbers are kept in memory, at most."""
IN_EACH_OTHERS_WAY = ("40P01", "40001", "55P03")
"""SQLSTATE: two transactions wait for each other, or one for too long; done again, it goes well."""
OPTIMISTIC = 3
"""How often a commit is tried before it keeps others from the documents that it merges."""


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
        self._where = parse(address)
        self.address = str(self._where)
        self.worker = worker or default_name()
        self.lease = lease
        self._durability = durability
        self._thread: ThreadPoolExecutor | None = None
        self._connection: Connection[Any] | None = None
        self._is_open = False
        self._epoch = 0
        self._commits = 0
        self._claimed: dict[int, Bundle] = {}
        self._host_ids: dict[str, int] = {}
        self._expired: list[int] = []
        # A commit of which it is not known whether it was applied, and by which of its attempts:
        # what each of them has merged, by its tag.
        self._uncertain: tuple[Checkpoint, dict[int, Mapping[str, Document]]] | None = None
        self._has_lost_claims = False
        self._calls = itertools.count(1)
        self._grants = Grants()
        self._vigil = Vigil(lease)
        self._is_told = False

    # -- the contract -----------------------------------------------------------------------------

    async def open(self, *, fresh: bool = False) -> None:  # noqa: D102 - documented in Store
        self._thread = self._thread or ThreadPoolExecutor(1, "crawlkit-store")
        try:
            await self._run(self._open, fresh)
        except BaseException:
            self._end_thread()
            raise

    async def load(self) -> Snapshot:  # noqa: D102
        return await self._call(lambda db: read_snapshot(db))

    async def document(self, name: str) -> Document | None:  # noqa: D102
        return await self._call(read_document, name)

    async def claim(self, limit: int, window: Mapping[str, int], now: float) -> Claim:  # noqa: D102
        return await self._call(self._claim, limit, dict(window), now)

    async def commit(self, checkpoint: Checkpoint) -> Receipt:  # noqa: D102
        return await self._call(self._commit, checkpoint)

    async def extend(self) -> None:  # noqa: D102
        await self._call(self._extend)

    async def try_lock(self, name: str) -> bool:  # noqa: D102
        return await self._call(self._value, "SELECT try_lock(%s, %s)", name)

    async def unlock(self, name: str) -> None:  # noqa: D102
        await self._call(self._value, "SELECT unlock(%s, %s)", name)

    async def finish(self) -> bool:  # noqa: D102
        return await self._call(self._value, "SELECT finish(%s, %s)", next(self._calls))

    async def allot(  # noqa: D102
        self, counters: tuple[str, ...], most: int, wanted: int
    ) -> Allotment:
        return await self._call(self._allot, next(self._calls), counters, most, wanted)

    async def news(self) -> None:  # noqa: D102
        connection = self._connection
        if self._is_told or connection is None:
            self._is_told = False
            await asyncio.sleep(0 if connection is not None else POLL / 10)
            return
        loop = asyncio.get_running_loop()
        has_come = asyncio.Event()
        try:
            # A descriptor of its own, which nobody else closes while the loop looks at it.
            ear = os.dup(connection.fileno())
        except (psycopg.Error, OSError):
            await asyncio.sleep(POLL / 10)  # the connection has just gone
            return
        try:
            loop.add_reader(ear, has_come.set)
            # Not `wait_for`: before Python 3.12 it may swallow a cancellation.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL):
                    await has_come.wait()
        finally:
            loop.remove_reader(ear)
            os.close(ear)

    async def take_in(self, records: Sequence[RunRecord], *, is_last: bool) -> None:  # noqa: D102
        await self._call(self._take_in, Part(records, is_last=is_last))

    def reader(self) -> Reader:  # noqa: D102
        return open_run(self._where)

    async def release(self) -> None:  # noqa: D102
        await self._call(self._release)

    async def close(self) -> None:  # noqa: D102
        if self._thread is not None:
            await self._run(self._close)
            self._end_thread()

    # -- calls ------------------------------------------------------------------------------------

    async def _call(
        self,
        work: Callable[Concatenate[Connection[Any], P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        return await self._run(self._attempt, lambda db: work(db, *args, **kwargs))

    async def _run(self, work: Callable[..., T], *args: Any) -> T:
        if self._thread is None:
            raise StoreError(f"the run in {self._where.shown} is not open")
        # Shielded: the thread cannot be stopped half-way, and what it did must not go unnoticed.
        future = asyncio.get_running_loop().run_in_executor(self._thread, work, *args)
        # And asyncio is not to print what went wrong where nobody waits for it any more.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(future)

    def _attempt(self, work: Callable[[Connection[Any]], T]) -> T:
        """Do something that may be done again where the connection is lost half-way."""
        if not self._is_open:
            raise StoreError(f"the run in {self._where.shown} is not open")
        rests = iter(RETRIES)
        while True:
            try:
                return work(self._connection or self._connect())
            except psycopg.Error as error:
                problem = self._problem(error)
                if self._connection is not None and error.sqlstate not in IN_EACH_OTHERS_WAY:
                    raise problem from None
            except StoreError as error:
                if self._connection is not None:
                    raise
                problem = error
            if (rest := next(rests, None)) is None:
                raise problem
            time.sleep(rest)

    def _problem(self, error: psycopg.Error) -> StoreError:
        """What an error means; a connection that is lost is forgotten."""
        if self._connection is not None and is_lost(self._connection, error):
            self._drop_connection()
            self._has_lost_claims = True
        if error.sqlstate == FENCED:
            return StoreFencedError(
                f"worker {self.worker} of {self._where.shown} was not heard of for too long, and "
                "others were given its work; nothing is lost, start it again"
            )
        if error.sqlstate == LOST:
            return StoreFencedError(
                f"the server of {self._where.shown} has lost the last commits of worker "
                f"{self.worker}, as after a crash; start it again, and it goes on from there"
            )
        if error.sqlstate == GIVEN_BACK:
            return given_back()
        if error.sqlstate == STALE:
            return stale()
        return translated(error, self._where, writing=True)

    def _connect(self) -> Connection[Any]:
        """Connect, once more."""
        connection = connect(self._where, application=f"crawlkit {self.worker}"[:63])
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _prepare(self, connection: Connection[Any]) -> None:
        settings = {
            # Plans are made while the tables are empty, and used when they are large.
            "enable_seqscan": "off",
            "enable_mergejoin": "off",
            # Statements that are long to run are none of ours; what is compiled for one is wasted.
            "jit": "off",
            # A process that stops between two statements of a transaction keeps nobody waiting.
            "idle_in_transaction_session_timeout": "5s",
        }
        if self._durability == "full":
            settings["synchronous_commit"] = "on"
        connection.execute(
            "SELECT set_config(name, value, false) FROM unnest(%s, %s) n (name, value)",
            (Texts(settings), Texts(settings.values())),
        )
        connection.add_notify_handler(self._on_notice)
        connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._where.schema)))

    def _drop_connection(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _on_notice(self, notice: psycopg.Notify) -> None:
        self._is_told = True

    def _end_thread(self) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=True)
            self._thread = None

    # -- opening and closing ----------------------------------------------------------------------

    def _open(self, fresh: bool) -> None:
        if self._where.run is None:
            self._where = self._where.named("job")
            self.address = str(self._where)
        rests = iter(RETRIES)
        while not self._is_open:
            try:
                self._begin(self._connect(), fresh)
                self._is_open = True
            except (psycopg.Error, StoreWriteError) as error:
                # All of it may be done again, where the server went away in the middle.
                rest = next(rests, None)
                is_gone = self._connection is None or is_lost(self._connection, error)
                self._drop_connection()
                if not is_gone or rest is None:
                    if isinstance(error, psycopg.Error):
                        raise translated(error, self._where, writing=True) from None
                    raise
                time.sleep(rest)
            except BaseException:
                self._drop_connection()
                raise

    def _begin(self, connection: Connection[Any], fresh: bool) -> None:
        prepare(connection, self._where, fresh=fresh)
        if is_unfinished(connection):
            raise unfinished(self._where.shown)
        self._forget()
        self._give_up_dead(connection)
        self._join(connection)

    def _forget(self) -> None:
        self._epoch = new_epoch()
        self._commits = 0
        self._claimed = {}
        self._host_ids = {}
        self._expired = []
        self._uncertain = None
        self._has_lost_claims = False
        self._grants = Grants()

    def _join(self, connection: Connection[Any]) -> None:
        self.heard = time.monotonic()
        own = own_process()
        note = key_of(f"queue/in_flight/{self.worker}")
        connection.execute(
            "SELECT join_run(%s, %s, %s, %s, %s, %s, %s)",
            (self._epoch, self.worker, own.machine, own.pid, own.started, self.lease, note),
        )

    def _give_up_dead(self, connection: Connection[Any]) -> bool:
        """Take what they had from workers of this machine whose process is gone."""
        machine = own_process().machine
        rows = connection.execute(
            "SELECT epoch, pid, started FROM workers WHERE machine = %s AND epoch <> %s",
            (machine, self._epoch),
        )
        epochs = dead(iter(rows)) if machine else []
        return self._reap(connection, epochs, is_dead=True)

    def _reap(self, connection: Connection[Any], epochs: list[int], *, is_dead: bool) -> bool:
        reaped = [
            epoch
            for epoch in epochs
            if self._one(connection, "SELECT reap(%s, %s)", epoch, is_dead)
        ]
        if reaped:
            log.info(
                "%d worker(s) of %s gone; others go on with what they had",
                len(reaped),
                self._where.shown,
            )
        return bool(reaped)

    def _close(self) -> None:
        if self._is_open and self._connection is not None:
            try:
                self._connection.execute("SELECT leave_run(%s, false)", (self._epoch,))
            except psycopg.Error as error:
                problem = translated(error, self._where, writing=True)
                log.warning("closing %s: %s", self._where.shown, problem)
        self._drop_connection()
        self._is_open = False
        self._claimed = {}

    # -- working ----------------------------------------------------------------------------------

    def _value(self, connection: Connection[Any], statement: str, argument: Any) -> Any:
        return self._one(connection, statement, self._epoch, argument)

    def _one(self, connection: Connection[Any], statement: str, *args: Any) -> Any:
        row = connection.execute(statement, args).fetchone()
        return None if row is None else row[0]

    def _claim(
        self, connection: Connection[Any], limit: int, window: dict[str, int], now: float
    ) -> Claim:
        if self._has_lost_claims:
            reconcile(connection, self._epoch, self._claimed)
            self._has_lost_claims = False
        # Those that the claim before this one has come upon, so that no host waits until somebody
        # is idle. Not after the claim: if that failed, what was claimed would be forgotten.
        self._reap(connection, self._expired, is_dead=False)
        found = self._claim_once(connection, limit, window, now)
        if not found.claim.leases and limit > 0:
            is_reaped = self._reap(connection, found.expired, is_dead=False)
            if self._give_up_dead(connection) or is_reaped:
                found = self._claim_once(connection, limit, window, now)
            if not (found.claim.leases or found.claim.is_exhausted):
                for line in self._vigil.lines(silent(connection, self._epoch, self._vigil.within)):
                    log.info("%s", line)
        return found.claim

    def _claim_once(
        self, connection: Connection[Any], limit: int, window: dict[str, int], now: float
    ) -> Claimed:
        began = time.monotonic()
        # What was said before this looks at the queue is no news afterwards.
        connection.pgconn.consume_input()
        while connection.pgconn.notifies() is not None:
            pass
        self._is_told = False
        left = sum(bundle.size - bundle.gone.bit_count() for bundle in self._claimed.values())
        found = claim(
            connection,
            self._epoch,
            self.lease,
            limit,
            window,
            now,
            is_needy=limit > 0 and left < NEEDY,
        )
        self._claimed |= found.bundles
        self._expired = found.expired
        self.heard = began
        return found

    def _commit(self, connection: Connection[Any], checkpoint: Checkpoint) -> Receipt:
        began = time.monotonic()
        if self._uncertain is not None and self._uncertain[0] is not checkpoint:
            self._settle(connection)
        left = left_of(checkpoint, self._claimed)
        self._name_hosts(connection, hosts_of(checkpoint))
        merged: Mapping[str, Document] = {}
        for attempt in itertools.count(1):
            try:
                receipt, merged = self._write(connection, checkpoint, left, attempt > OPTIMISTIC)
                break
            except psycopg.Error as error:
                if error.sqlstate != CHANGED:
                    raise
        # It is committed; only now may memory follow.
        self.heard = began
        self._uncertain = None
        self._commits += 1
        self._claimed.update(left.partly)
        for bundle in left.emptied:
            del self._claimed[bundle]
        return replace(receipt, merged=merged)

    def _write(
        self, connection: Connection[Any], checkpoint: Checkpoint, left: Left, locks: bool
    ) -> tuple[Receipt, Mapping[str, Document]]:
        # Only where others keep changing the same document is it kept from them over two
        # statements; a process that stops in between keeps it until the server ends its
        # connection.
        with connection.transaction() if locks else contextlib.nullcontext():
            documents, merged = self._documents(connection, checkpoint, locks)
            tag = next(self._calls)
            if self._uncertain is None:
                self._uncertain = (checkpoint, {})
            sent = self._uncertain[1]
            sent[tag] = merged
            try:
                receipt, applied = write(
                    connection,
                    self._epoch,
                    self._commits + 1,
                    tag,
                    self.lease,
                    checkpoint,
                    left,
                    self._host_ids,
                    documents,
                )
            except psycopg.Error as error:
                if not is_lost(connection, error):
                    del sent[tag]  # for certain, nothing was changed
                raise
        return receipt, sent[applied]

    def _documents(
        self, connection: Connection[Any], checkpoint: Checkpoint, locks: bool
    ) -> tuple[dict[str, Stored], dict[str, Document]]:
        """What to store of the documents; and those that were brought together with others'."""
        documents = {name: Stored(document) for name, document in checkpoint.documents.items()}
        merged: dict[str, Document] = {}
        if not checkpoint.merges:
            return documents, merged
        names = {key_of(name): name for name in checkpoint.merges}
        rows = connection.execute(
            "SELECT key, revision, version, data FROM documents WHERE key = ANY (%s) ORDER BY key"
            + (" FOR UPDATE" if locks else ""),
            (Longs(names),),
        )
        theirs = {names[key]: (revision, data) for key, revision, _, data in rows}
        for name, (base, combine) in checkpoint.merges.items():
            mine = checkpoint.documents.get(name)
            if mine is None:
                continue
            revision, text = theirs.get(name, (0, None))
            data = mine.data
            if text is not None and text.encode() != base:
                data = combine(base, mine.data, text.encode())
                merged[name] = Document(mine.version, data)
            documents[name] = Stored(Document(mine.version, data), revision)
        return documents, merged

    def _settle(self, connection: Connection[Any]) -> None:
        """Find out what became of a commit whose answer got lost, and which nobody repeats."""
        assert self._uncertain is not None
        commits = self._one(
            connection, "SELECT commits FROM workers WHERE epoch = %s FOR UPDATE", self._epoch
        )
        if commits == self._commits + 1:
            left = left_of(self._uncertain[0], self._claimed)
            self._commits += 1
            self._claimed.update(left.partly)
            for bundle in left.emptied:
                del self._claimed[bundle]
        self._uncertain = None

    def _name_hosts(self, connection: Connection[Any], names: set[str]) -> None:
        """Have the numbers of hosts in memory."""
        if len(self._host_ids) > KNOWN_HOSTS:
            self._host_ids.clear()
        unknown = sorted(names - self._host_ids.keys())
        if unknown:
            # In a transaction of its own, so that no other commit has to wait for this one's end.
            connection.execute(
                "INSERT INTO hosts (name) SELECT n.name FROM unnest(%s) n (name) "
                "WHERE NOT EXISTS (SELECT FROM hosts h WHERE h.name = n.name) "
                "ORDER BY n.name ON CONFLICT DO NOTHING",
                (Texts(unknown),),
            )
            rows = connection.execute(
                "SELECT name, id FROM hosts WHERE name = ANY (%s)", (Texts(unknown),)
            )
            self._host_ids.update(rows.fetchall())

    def _take_in(self, connection: Connection[Any], part: Part) -> None:
        refuse_run(connection, self._where)
        checkpoint = part.checkpoint
        self._name_hosts(connection, hosts_of(checkpoint))
        documents = {name: Stored(document) for name, document in checkpoint.documents.items()}
        with connection.transaction():
            part.enter(connection, self._host_ids)
            number, tag = self._commits + 1, next(self._calls)
            nothing = Left({}, [])
            write(
                connection, self._epoch, number, tag, self.lease, checkpoint, nothing,
                self._host_ids, documents,
            )  # fmt: skip
        self._commits += 1

    def _extend(self, connection: Connection[Any]) -> None:
        began = time.monotonic()
        connection.execute("SELECT extend(%s, %s)", (self._epoch, self.lease))
        self.heard = began

    def _allot(
        self,
        connection: Connection[Any],
        call: int,
        counters: tuple[str, ...],
        most: int,
        wanted: int,
    ) -> Allotment:
        return self._grants.ask(connection, self._epoch, counters, Ask(call, most, wanted))

    def _release(self, connection: Connection[Any]) -> None:
        reconcile(connection, self._epoch, {})
        self._claimed = {}
        self._has_lost_claims = False

"""SqliteStore: a run in a directory, on SQLite.

All work happens in one thread, beside the event loop. Python's sqlite3 gives up the GIL at every
row that it steps over, and waits to get it back from a busy loop; so rows travel as JSON, and every
table is written by one statement, whatever the number of rows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import msgspec

from ..checkpoint import READ_SINGLY, Checkpoint, Document, ErrorGroup, Number, Snapshot
from ..errors import StoreError
from .base import Claim, Reader, Receipt, Store
from .bundle import Bundle
from .claims import NOBODY, Others, claim, unclaimed_hosts
from .database import Database
from .directory import RunDirectory
from .intake import Part
from .reader import open_directory
from .records import RunRecord
from .schema import crc, is_unfinished
from .seen import SeenSet
from .thread import StoreThread
from .transaction import take_in, write

T = TypeVar("T")

_LOADED = " AND ".join(f"name NOT GLOB '{prefix}*'" for prefix in READ_SINGLY)
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class SqliteStore(Store):
    """A run in a directory: the embedded default.

    Args:
        path: The run's directory.
        durability: ``normal`` survives the death of the process; ``full`` also waits for the disk
            at each commit and so survives a loss of power without going back a few checkpoints.
    """

    def __init__(self, path: str, *, durability: Literal["normal", "full"] = "normal") -> None:
        self.address = str(path)
        self.directory = RunDirectory(path)
        self._thread = StoreThread()
        self._database = Database(self.address, self.directory, durability, self._on_merge)
        self._claimed: dict[int, Bundle] = {}
        self._seen = SeenSet()

    # -- the contract -----------------------------------------------------------------------------

    async def open(self, *, fresh: bool = False) -> None:  # noqa: D102 - documented in Store
        await self._thread.begin(self._open, fresh)

    async def load(self) -> Snapshot:  # noqa: D102
        return await self.do(self.load_now)

    async def document(self, name: str) -> Document | None:  # noqa: D102
        return await self.do(self.document_now, name)

    async def claim(self, limit: int, window: Mapping[str, int], now: float) -> Claim:  # noqa: D102
        return await self.do(self.claim_into, self._claimed, limit, dict(window), now)

    async def commit(self, checkpoint: Checkpoint) -> Receipt:  # noqa: D102
        return await self.do(self.commit_from, self._claimed, checkpoint)

    async def take_in(self, records: Sequence[RunRecord], *, is_last: bool) -> None:  # noqa: D102
        await self.do(self._take_in, Part(records, is_last=is_last))

    def reader(self) -> Reader:  # noqa: D102
        return open_directory(self.address, self.directory)

    async def release(self) -> None:  # noqa: D102
        await self.do(self._claimed.clear)

    async def close(self) -> None:  # noqa: D102
        if self._thread.is_running:
            await self.do(self._close)
            self._thread.end()

    async def do(self, work: Callable[..., T], *args: Any) -> T:
        """Have something done in the store's thread, where all that touches it is done in turn.

        Raises:
            StoreError: The store is not open.
        """
        if not self._thread.is_running:
            raise StoreError(f"the run in {self.address} is not open")
        return await self._thread.run(work, *args)

    # -- opening and closing ----------------------------------------------------------------------

    def _open(self, fresh: bool) -> None:
        directory = self.directory
        directory.acquire()
        try:
            if fresh:
                directory.clear()
            self._prepare(fresh)
            if not fresh:
                directory.refuse_if_set_aside()
            self._database.open()
        except BaseException as error:
            directory.release()
            if isinstance(error, sqlite3.Error | OSError):
                raise StoreError(
                    f"cannot open {directory.shown}: {error}; check the disk and its permissions"
                ) from None
            raise
        self._seen = SeenSet()

    def _prepare(self, fresh: bool) -> None:
        """What has to happen before the run is opened, and in nobody else's way."""

    def _close(self) -> None:
        self._database.close()
        self._claimed.clear()
        self.directory.release()

    def _on_merge(self, frames: int) -> None:
        """What has to happen before SQLite begins its log anew; see `Database`."""

    @property
    def _db(self) -> sqlite3.Connection:
        return self._database.connection

    # -- in the store's thread: reading back ------------------------------------------------------

    def load_now(self) -> Snapshot:
        """What the parts saved; see `load`."""
        with self._database.reading() as db:
            documents = {
                name: _verified(name, version, stored_crc, data)
                for name, version, stored_crc, data in db.execute(
                    f"SELECT name, version, crc, data FROM documents WHERE {_LOADED} ORDER BY name"
                )
            }
            counters = dict(
                db.execute("SELECT name, value FROM counters WHERE name NOT GLOB 'host/*'")
            )
            errors = tuple(
                ErrorGroup(kind, message, place, count, first_at, last_at, _decode(examples))
                for kind, place, message, count, first_at, last_at, examples in db.execute(
                    "SELECT kind, place, message, count, first_at, last_at, examples FROM errors"
                )
            )
            return Snapshot(documents, counters, errors)

    def document_now(self, name: str) -> Document | None:
        """One document; see `document`."""
        with self._database.reading() as db:
            row = db.execute(
                "SELECT name, version, crc, data FROM documents WHERE name = ?", (name,)
            ).fetchone()
            return None if row is None else _verified(*row)

    def document_names_now(self, start: str) -> list[str]:
        """The names of the documents that begin so."""
        with self._database.reading() as db:
            query = "SELECT name FROM documents WHERE substr(name, 1, length(?1)) = ?1"
            return [name for (name,) in db.execute(query, (start,))]

    def counters_now(self, names: Iterable[str] | None = None) -> dict[str, Number]:
        """Counters: those of these names, or all without a slash."""
        with self._database.reading() as db:
            if names is None:
                query = "SELECT name, value FROM counters WHERE name NOT GLOB '*/*'"
                return dict(db.execute(query))
            query = (
                "SELECT name, value FROM counters WHERE name IN (SELECT value FROM json_each(?))"
            )
            return dict(db.execute(query, (_encode(list(names)).decode(),)))

    def unclaimed_hosts(
        self, hosts: Collection[int], claimed: Collection[int], limit: int
    ) -> list[int]:
        """Of these hosts those with requests that nobody has claimed."""
        with self._database.reading() as db:
            return unclaimed_hosts(db, hosts, claimed, limit)

    # -- in the store's thread: the work of a worker ----------------------------------------------

    def claim_into(
        self,
        claimed: dict[int, Bundle],
        limit: int,
        window: Mapping[str, int],
        now: float,
        others: Others = NOBODY,
    ) -> Claim:
        """Claim for one of several workers, whose bundles are `claimed`; see `claims.claim`."""
        with self._database.reading() as db:
            return claim(db, claimed, limit, window, now, others)

    def commit_from(self, claimed: dict[int, Bundle], checkpoint: Checkpoint) -> Receipt:
        """Commit for one of several workers; see `commit`.

        Args:
            claimed: The bundles of the worker; those that are done are taken out.
            checkpoint: What it has done.
        """
        with self._database.writing() as db:
            if checkpoint.fresh:
                self._seen.open(db)
            db.execute("BEGIN IMMEDIATE")
            written = write(db, checkpoint, claimed, self._seen)
            db.execute("COMMIT")
        # It is committed; only now may memory follow.
        written.left.apply(claimed)
        self._database.committed(written.commits)
        return written.receipt

    def _take_in(self, part: Part) -> None:
        with self._database.writing() as db:
            if not is_unfinished(db) and self._database.record.commits:
                raise StoreError(
                    f"there is a run in {self.address} already; import into another one"
                )
            self._seen.open(db)
            db.execute("BEGIN IMMEDIATE")
            commits = take_in(db, part, self._seen)
            db.execute("COMMIT")
        self._database.committed(commits)


def _verified(name: str, version: int, stored_crc: int, data: str) -> Document:
    if crc(data) != stored_crc:
        raise sqlite3.DatabaseError(f"the document {name!r} is not what was saved")
    return Document(version, data.encode())

"""Work: what a worker of a run in PostgreSQL has claimed, and the checkpoints that it commits."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import psycopg
from psycopg import Connection

from ...checkpoint import Checkpoint, Document
from ..base import Claim, Receipt
from ..bundle import Bundle, Left, count_of, left_by
from ..intake import Part
from .claims import Claimed, claim, reconcile
from .columns import Longs, Texts
from .commit import Stored, hosts_of, key_of, write
from .connection import is_lost
from .intake import enter, refuse_run
from .link import Link
from .membership import Membership
from .routine import CHANGED
from .tables import ALONE

NEEDY = 8
"""Requests of a worker below which others are asked to share their hosts with it."""
KNOWN_HOSTS = 100_000
"""Hosts whose numbers are kept in memory, at most."""
UNKNOWN = -1
"""The number of no connection."""
OPTIMISTIC = 3
"""How often a commit is tried before it keeps others from the documents that it merges."""


class Work:
    """What one worker has of the queue, from when it opens a run. It is used in one thread.

    A call may be made again, where its answer got lost with the connection.

    Args:
        link: The worker's connection.
        member: The worker.
    """

    def __init__(self, link: Link, member: Membership) -> None:
        self._link = link
        self._member = member
        self._claimed: dict[int, Bundle] = {}
        # The connection since which memory knows of all that was claimed; of none, where a claim
        # has failed that may have been made all the same.
        self._known_since = link.number
        self._expired: list[int] = []
        self._commits = 0
        self._tags = itertools.count(1)
        # A commit of which it is not known whether it was applied, and by which of its attempts:
        # what each of them has merged, by its tag.
        self._uncertain: tuple[Checkpoint, dict[int, Mapping[str, Document]]] | None = None
        self._host_ids: dict[str, int] = {}
        self._hosts_since = link.number
        self._part: Part | None = None  # the last one that was found to be welcome

    # -- claiming ---------------------------------------------------------------------------------

    def claim(
        self, connection: Connection[Any], limit: int, window: dict[str, int], now: float
    ) -> Claim:
        """Claim requests; see `Store.claim`."""
        if self._known_since != self._link.number:
            self._reconcile(connection, self._claimed)
        # Those that the claim before this one has come upon, so that no host waits until somebody
        # is idle. Not after the claim: if that failed, what was claimed would be forgotten.
        self._member.reap(connection, self._expired, is_dead=False)
        found = self._claim_once(connection, limit, window, now)
        if not found.claim.leases and limit > 0:
            is_reaped = self._member.reap(connection, found.expired, is_dead=False)
            if self._member.reap_dead(connection) or is_reaped:
                found = self._claim_once(connection, limit, window, now)
            if not (found.claim.leases or found.claim.is_exhausted):
                self._member.tell_of_silent(connection)
        return found.claim

    def _claim_once(
        self, connection: Connection[Any], limit: int, window: dict[str, int], now: float
    ) -> Claimed:
        self._link.forget_news()
        self._known_since = UNKNOWN
        found = claim(
            connection,
            self._member.epoch,
            self._member.lease,
            limit,
            window,
            now,
            is_needy=limit > 0 and count_of(self._claimed) < NEEDY,
        )
        self._claimed |= found.bundles
        self._known_since = self._link.number
        self._expired = found.expired
        return found

    def release(self, connection: Connection[Any]) -> None:
        """Give back all that was claimed."""
        self._reconcile(connection, {})
        self._claimed = {}

    def _reconcile(self, connection: Connection[Any], kept: Mapping[int, Bundle]) -> None:
        """Give back what was claimed, but for what is kept, whatever got lost with a connection.

        Raises:
            StoreFencedError: The server has lost some of what is kept, as after a crash. It may
                give the numbers of these bundles to others.
        """
        missing = kept.keys() - reconcile(connection, self._member.epoch, kept)
        if missing and self._uncertain is not None and self._uncertain[1]:
            # It may have been applied, and what it has emptied is gone then.
            missing -= set(left_by(self._uncertain[0].left, self._claimed).emptied)
        if missing:
            raise self._link.lost()
        self._known_since = self._link.number

    # -- committing -------------------------------------------------------------------------------

    def commit(self, connection: Connection[Any], checkpoint: Checkpoint) -> Receipt:
        """Write a checkpoint; see `Store.commit`."""
        if self._uncertain is not None and self._uncertain[0] is not checkpoint:
            self._settle(connection)
        left = left_by(checkpoint.left, self._claimed)
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
        self._uncertain = None
        self._follow(left)
        return replace(receipt, merged=merged)

    def _write(
        self, connection: Connection[Any], checkpoint: Checkpoint, left: Left, locks: bool
    ) -> tuple[Receipt, Mapping[str, Document]]:
        # Only where others keep changing the same document is it kept from them over two
        # statements; a process that stops in between keeps it until the server ends its
        # connection.
        with connection.transaction() if locks else contextlib.nullcontext():
            documents, merged = self._documents(connection, checkpoint, locks)
            tag = next(self._tags)
            if self._uncertain is None:
                self._uncertain = (checkpoint, {})
            sent = self._uncertain[1]
            sent[tag] = merged
            try:
                receipt, applied = write(
                    connection,
                    self._member.epoch,
                    self._commits + 1,
                    tag,
                    self._member.lease,
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
        keys = Longs(sorted(names))
        if locks:
            connection.execute(
                f"SELECT {ALONE.format(key='n.key')} FROM unnest(%s) AS n (key)", (keys,)
            )
        rows = connection.execute(
            "SELECT key, revision, version, data FROM documents WHERE key = ANY (%s)", (keys,)
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
        row = connection.execute(
            "SELECT commits FROM workers WHERE epoch = %s FOR UPDATE", (self._member.epoch,)
        ).fetchone()
        if row is not None and row[0] == self._commits + 1:
            self._follow(left_by(self._uncertain[0].left, self._claimed))
        self._uncertain = None

    def _follow(self, left: Left) -> None:
        """Have memory follow a commit of which requests have left their bundles."""
        self._commits += 1
        left.apply(self._claimed)

    def _name_hosts(self, connection: Connection[Any], names: set[str]) -> None:
        """Have the numbers of hosts in memory."""
        if len(self._host_ids) > KNOWN_HOSTS or self._hosts_since != self._link.number:
            # A server that has crashed may have lost some, where commits do not wait for its disk.
            self._host_ids.clear()
            self._hosts_since = self._link.number
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

    def take_in(self, connection: Connection[Any], part: Part) -> None:
        """Take in a part of another run; see `Store.take_in`."""
        if part is not self._part:  # else it may be there already, as its answer got lost
            refuse_run(connection, self._link.where)
        self._part = part
        checkpoint = part.checkpoint
        self._name_hosts(connection, hosts_of(checkpoint))
        documents = {name: Stored(document) for name, document in checkpoint.documents.items()}
        with connection.transaction():
            enter(connection, part, self._host_ids)
            write(
                connection,
                self._member.epoch,
                self._commits + 1,
                next(self._tags),
                self._member.lease,
                checkpoint,
                Left({}, []),
                self._host_ids,
                documents,
            )
        self._commits += 1

"""Membership: a worker among those that write a run, and what it settles with the others."""

from __future__ import annotations

import itertools
import logging
from typing import Any

from psycopg import Connection

from ..base import Allotment
from .address import Address
from .commit import key_of
from .workers import Ask, Grants, Vigil, dead, new_epoch, own_process, silent

log = logging.getLogger("crawlkit.store")


class Membership:
    """One worker, from when it joins a run until it leaves. It is used in one thread.

    Args:
        where: The run.
        worker: The worker's name.
        lease: Seconds for which what the worker has stays its own without a sign of life from it.

    Attributes:
        epoch: The worker's epoch.
        lease: As given.
    """

    def __init__(self, where: Address, worker: str, lease: float) -> None:
        self.epoch = new_epoch()
        self.lease = lease
        self._where = where
        self._worker = worker
        self._calls = itertools.count(1)
        self._connection = 0  # the number of the one that has taken over
        self._finishing: int | None = None  # the call of `finish` that was not answered
        self._grants = Grants()
        self._vigil = Vigil(lease)

    def join(self, connection: Connection[Any]) -> None:
        """Become one of the workers; what one of this name had is this one's."""
        own = own_process()
        note = key_of(f"queue/in_flight/{self._worker}")
        connection.execute(
            "SELECT join_run(%s, %s, %s, %s, %s, %s, %s)",
            (self.epoch, self._worker, own.machine, own.pid, own.started, self.lease, note),
        )

    def take_over(self, connection: Connection[Any], number: int) -> None:
        """Have what comes late on connections before that `number` do nothing.

        The server may have had such a statement before it when the line broke. From here on it was
        done, or it never will be.
        """
        if self._connection != number:
            connection.execute(
                "UPDATE workers SET connection = %s WHERE epoch = %s AND connection < %s",
                (number, self.epoch, number),
            )
            self._connection = number

    def extend(self, connection: Connection[Any]) -> None:
        """Say that the worker is alive."""
        connection.execute("SELECT extend(%s, %s)", (self.epoch, self.lease))

    def leave(self, connection: Connection[Any]) -> None:
        """Give back what the worker has, and be none of them any more."""
        connection.execute("SELECT leave_run(%s, false)", (self.epoch,))

    # -- others -----------------------------------------------------------------------------------

    def reap_dead(self, connection: Connection[Any]) -> bool:
        """Take what they had from workers of this machine whose process is gone."""
        machine = own_process().machine
        rows = connection.execute(
            "SELECT epoch, pid, started FROM workers WHERE machine = %s AND epoch <> %s",
            (machine, self.epoch),
        )
        epochs = dead(iter(rows)) if machine else []
        return self.reap(connection, epochs, is_dead=True)

    def reap(self, connection: Connection[Any], epochs: list[int], *, is_dead: bool) -> bool:
        """Take what they had from workers; whether there was one of which it could be taken.

        Args:
            connection: The connection.
            epochs: Theirs.
            is_dead: Whether they are known to be dead, rather than silent for too long.
        """
        reaped = [epoch for epoch in epochs if _one(connection, "reap", epoch, is_dead)]
        if reaped:
            log.info(
                "%d worker(s) of %s gone; others go on with what they had",
                len(reaped),
                self._where.shown,
            )
        return bool(reaped)

    def tell_of_silent(self, connection: Connection[Any]) -> None:
        """Say in the log for whom this worker waits, as it has nothing else to do."""
        for line in self._vigil.lines(silent(connection, self.epoch, self._vigil.within)):
            log.info("%s", line)

    # -- what is settled with them ----------------------------------------------------------------

    def new_call(self) -> int:
        """The number of a call: the same one where it is made again, as its answer got lost."""
        return next(self._calls)

    def try_lock(self, connection: Connection[Any], name: str) -> bool:
        """Take a lock; see `Store.try_lock`."""
        return bool(_one(connection, "try_lock", self.epoch, name))

    def unlock(self, connection: Connection[Any], name: str) -> None:
        """Give a lock back."""
        _one(connection, "unlock", self.epoch, name)

    def finish(self, connection: Connection[Any]) -> bool:
        """Say that the crawl is finished; see `Store.finish`.

        A call has its number until it is answered, however often it fails before that: otherwise
        nobody would be the first where the answer to the first got lost.
        """
        if self._finishing is None:
            self._finishing = self.new_call()
        is_first = bool(_one(connection, "finish", self.epoch, self._finishing))
        self._finishing = None
        return is_first

    def allot(
        self,
        connection: Connection[Any],
        call: int,
        counters: tuple[str, ...],
        most: int,
        wanted: int,
    ) -> Allotment:
        """Take a part of what all may do together; see `Store.allot`."""
        return self._grants.ask(connection, self.epoch, counters, Ask(call, most, wanted))


def _one(connection: Connection[Any], function: str, who: int, argument: object) -> Any:
    row = connection.execute(f"SELECT {function}(%s, %s)", (who, argument)).fetchone()
    return None if row is None else row[0]

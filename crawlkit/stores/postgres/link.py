"""Link: the connection of a worker, made anew where it is lost, and what the server says on it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import psycopg
from psycopg import Connection, sql

from ...errors import StoreError, StoreFencedError, StoreWriteError
from ..base import stale
from .address import Address
from .connection import READ_ONLY, configure, connect, is_lost, translated
from .routine import STALE
from .workers import CONNECTION, FENCED, LOST

T = TypeVar("T")

POLL = 2.0
"""Seconds after which an idle worker looks again without having been told to."""
RETRIES = (0.0, 0.1, 0.4)
"""Seconds before each further attempt of a call that has lost its connection. What comes after
that is for the job, which has the user's patience."""
UNREAD = "10s"
"""For how long the server waits for a worker that takes nothing of an answer; then the connection
is given up. On one machine, by a Unix-domain socket, it waits for ever."""
IN_EACH_OTHERS_WAY = ("40P01", "40001", "55P03")
"""SQLSTATE: two transactions wait for each other, or one for too long; done again, it goes well."""


class Link:
    """One connection at a time. All but `news` is used in one thread.

    Args:
        where: The run. One that is not named yet is named before the link is opened.
        worker: The worker's name.
        durability: ``normal`` or ``full``, see `PostgresStore`.

    Attributes:
        where: The run.
        number: How many connections there were, with the one that there is.
    """

    def __init__(self, where: Address, worker: str, durability: Literal["normal", "full"]) -> None:
        self.where = where
        self.number = 0
        self._worker = worker
        self._durability = durability
        self._connection: Connection[Any] | None = None
        self._is_told = False

    # -- opening and closing ----------------------------------------------------------------------

    def open(self, begin: Callable[[Connection[Any]], T]) -> T:
        """Connect, and do what comes first; all of it again where the server went away."""
        rests = iter(RETRIES)
        while True:
            try:
                return begin(self._connect())
            except (psycopg.Error, StoreWriteError) as error:
                rest = next(rests, None)
                may_help = (
                    self._connection is None
                    or is_lost(self._connection, error)
                    or (isinstance(error, psycopg.Error) and error.sqlstate in IN_EACH_OTHERS_WAY)
                )
                self.drop()
                if not may_help or rest is None:
                    if isinstance(error, psycopg.Error):
                        raise translated(error, self.where, writing=True) from None
                    raise
                time.sleep(rest)
            except BaseException:
                self.drop()
                raise

    def close(self, end: Callable[[Connection[Any]], object]) -> None:
        """Do what comes last, where there is a connection, and give it up.

        Raises:
            StoreError: It could not be done.
        """
        try:
            if self._connection is not None:
                end(self._connection)
        except psycopg.Error as error:
            raise translated(error, self.where, writing=True) from None
        finally:
            self.drop()

    def drop(self) -> None:
        """Give up the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> Connection[Any]:
        connection = connect(self.where, application=f"crawlkit {self._worker}"[:63], writing=True)
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self.number += 1
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
            # Nor does one that stops while it is sent what it has claimed.
            "tcp_user_timeout": UNREAD,
            CONNECTION: str(self.number + 1),
        }
        if self._durability == "full":
            settings["synchronous_commit"] = "on"
        configure(connection, settings)
        connection.add_notify_handler(self._on_notice)
        connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self.where.schema)))

    # -- calls ------------------------------------------------------------------------------------

    def call(self, work: Callable[[Connection[Any]], T]) -> T:
        """Do something that may be done again where the connection is lost half-way.

        Raises:
            StoreError: It could not be done; the message is for the user.
        """
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
        # One that takes no writes any more is as good as lost: another server may be the primary.
        if self._connection is not None and (
            is_lost(self._connection, error) or error.sqlstate == READ_ONLY
        ):
            self.drop()
        if error.sqlstate == FENCED:
            return StoreFencedError(
                f"worker {self._worker} of {self.where.shown} was not heard of for too long, and "
                "others were given its work; nothing is lost, start it again"
            )
        if error.sqlstate == LOST:
            return self.lost()
        if error.sqlstate == STALE:
            return stale()
        return translated(error, self.where, writing=True)

    def lost(self) -> StoreFencedError:
        """The error for a server that has forgotten what it had said was done."""
        return StoreFencedError(
            f"the server of {self.where.shown} has lost the last commits of worker "
            f"{self._worker}, as after a crash; start it again, and it goes on from there"
        )

    # -- what the server says ---------------------------------------------------------------------

    def forget_news(self) -> None:
        """What was said before the queue is looked at is no news afterwards."""
        if self._connection is not None:
            self._connection.pgconn.consume_input()
            while self._connection.pgconn.notifies() is not None:
                pass
        self._is_told = False

    def _on_notice(self, notice: psycopg.Notify) -> None:
        self._is_told = True

    async def news(self) -> None:
        """Wait until the server has said something, or for a time."""
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
        except (OSError, RuntimeError):
            # It went between the two calls, and its number is that of something else by now.
            await asyncio.sleep(POLL / 10)
        finally:
            loop.remove_reader(ear)
            os.close(ear)

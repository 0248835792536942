"""Orders: what a supervisor tells its workers beside signals, and that it is still there."""

from __future__ import annotations

import asyncio
import logging
import os

from ..triggers.base import Watched

log = logging.getLogger("crawlkit.workers")

STDIN = 0

STORE = "CRAWLKIT_WORKER_STORE"
"""The environment variable with the address of the store, for a worker of a supervisor.

A password may stand in it, and every user of a machine can read the command lines of processes, but
their environment only who has started them."""


def taken_store() -> str | None:
    """The address of the store that the supervisor has given, and nobody after this process."""
    return os.environ.pop(STORE, None)


def migrate_within(seconds: float) -> bytes:
    """The order to be gone in so many seconds."""
    return b"migrate %.3f\n" % seconds


class Orders:
    """A trigger: the standard input of a worker, at whose other end is its supervisor.

    When that ends, the supervisor is gone, and the worker goes as well.
    """

    async def watch(self, job: Watched) -> None:
        """Listen until there is nothing more to hear."""
        stream = asyncio.StreamReader()
        pipe = os.fdopen(os.dup(STDIN), "rb", buffering=0)
        try:
            transport, _ = await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(stream), pipe
            )
        except BaseException:
            pipe.close()
            raise
        try:
            while line := await stream.readline():
                word, _, seconds = line.decode().partition(" ")
                if word == "migrate":
                    await job.migrate(float(seconds))
            log.warning("the supervisor is gone: finishing what runs, then saving")
            await job.migrate()
        finally:
            transport.close()

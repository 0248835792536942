"""StoreServer: a hub's run, served to workers that are processes of their own.

The event loop moves bytes and nothing else. A message is decoded, obeyed and answered in the
store's thread, one after the other. A worker is its connection: when that ends, however it ends,
what it had is free.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from ..checkpoint import Checkpoint
from ..errors import (
    MirrorTakenError,
    StoreDamagedError,
    StoreError,
    StoreVersionError,
    one_line,
)
from ..stores.base import Receipt
from ..streams import send
from . import wire
from .hub import Hub, Member

log = logging.getLogger("crawlkit.workers")

LOST = (MirrorTakenError, StoreDamagedError, StoreVersionError)
"""What another worker would meet as well."""


class StoreServer:
    """Serves the store of a run over sockets.

    Args:
        hub: The run, opened.
        on_reaped: Called with the name of each worker that was not heard of for too long.
        on_lost: Called with the reason when nobody can go on with the run from here.
    """

    def __init__(
        self,
        hub: Hub,
        *,
        on_reaped: Callable[[str], None] = lambda name: None,
        on_lost: Callable[[StoreError], None] = lambda error: None,
    ) -> None:
        self._hub = hub
        self._on_reaped = on_reaped
        self._on_lost = on_lost
        self._connections: set[asyncio.Task[None]] = set()
        self._reaping: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begin to look after workers that fall silent."""
        self._reaping = asyncio.create_task(self._reap())

    async def close(self) -> None:
        """Hang up on all workers."""
        tasks = [*self._connections, *([self._reaping] if self._reaping else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def serve(self, connection: socket.socket) -> asyncio.Task[None]:
        """Serve the worker at the other end, as long as it is there."""
        task = asyncio.create_task(self._serve(connection))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        return task

    async def _serve(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection)
        loop = asyncio.get_running_loop()

        def notify() -> None:
            loop.call_soon_threadsafe(send, writer, wire.frame(0, wire.News()))

        desk = _Desk(self._hub, notify)
        store = self._hub.store
        try:
            while (message := await wire.read_frame(reader)) is not None:
                send(writer, await store.do(desk.obey, message))
                if desk.lost is not None:
                    self._on_lost(desk.lost)
                await writer.drain()
        except (StoreError, ConnectionError) as error:
            log.warning("a worker is hung up on: %s", one_line(error))
        finally:
            writer.close()
            await asyncio.shield(store.do(desk.leave))
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _reap(self) -> None:
        loop, pause = asyncio.get_running_loop(), self._hub.lease / 4
        while True:
            due = loop.time() + pause
            await asyncio.sleep(pause)
            late = max(0.0, loop.time() - due)
            try:
                for name in await self._hub.store.do(self._hub.reap, late):
                    log.warning(
                        "worker %s was not heard of for %g s: others go on with what it had",
                        name,
                        self._hub.lease,
                    )
                    self._on_reaped(name)
            except StoreError as error:
                log.warning("looking after silent workers: %s", one_line(error))


def _done(work: Callable[..., None], *args: Any) -> wire.Done:
    work(*args)
    return wire.Done()


class _Desk:
    """What one worker asks for. In the store's thread.

    Args:
        hub: The run.
        notify: Tells the worker that there may be something to do.

    Attributes:
        lost: Why nobody can go on with the run from here, once it is so.
    """

    def __init__(self, hub: Hub, notify: Callable[[], None]) -> None:
        self.lost: StoreError | None = None
        self._hub = hub
        self._notify = notify
        self._member: Member | None = None
        self._pending: Checkpoint | None = None
        self._answers: dict[type[Any], Callable[[Any], wire.Answer]] = {
            wire.Join: self._join,
            wire.Load: lambda call: wire.done(hub.store.load_now()),
            wire.Read: lambda call: wire.done(hub.store.document_now(call.name)),
            wire.Wants: lambda call: wire.done(
                hub.claim(self._me, call.limit, call.window, call.now)
            ),
            wire.Commit: self._commit,
            wire.Again: self._commit_again,
            wire.Extend: lambda call: _done(hub.extend, self._me),
            wire.TryLock: lambda call: wire.done(hub.try_lock(self._me, call.name)),
            wire.Unlock: lambda call: _done(hub.unlock, self._me, call.name),
            wire.Allot: lambda call: wire.done(
                hub.allot(self._me, call.counters, call.most, call.wanted)
            ),
            wire.Finish: lambda call: wire.done(hub.finish(self._me)),
            wire.Release: lambda call: _done(hub.release, self._me),
            wire.Leave: lambda call: _done(partial(hub.leave, died=False), self._me),
        }

    def obey(self, message: bytes) -> bytes:
        """Do what a message asks for; the answer, to be sent.

        Raises:
            StoreError: It is no message, or its worker has not said who it is.
        """
        number, call = wire.call_in(message)
        if self._member is None and not isinstance(call, wire.Join):
            raise StoreError("it has not said who it is")
        try:
            answer = self._answers[type(call)](call)
        except Exception as error:
            if not isinstance(error, StoreError):
                log.exception("a call of a worker failed")
            elif isinstance(error, LOST):
                self.lost = error
            answer = wire.failure(error)
        return wire.frame(number, answer)

    def leave(self) -> None:
        """The worker is gone."""
        if self._member is not None:
            self._hub.leave(self._member)

    def _join(self, call: wire.Join) -> wire.Answer:
        self._member = self._hub.join(call.name, self._notify)
        return wire.Done()

    def _commit(self, call: wire.Commit) -> wire.Answer:
        return self._commit_if_known(call.checkpoint(), call.bases)

    def _commit_again(self, call: wire.Again) -> wire.Answer:
        checkpoint = self._pending
        if checkpoint is None:
            raise StoreError("there is nothing to commit again")
        checkpoint.documents.update(call.documents)
        return self._commit_if_known(checkpoint, call.bases)

    def _commit_if_known(self, checkpoint: Checkpoint, bases: wire.Bases) -> wire.Answer:
        self._pending = None
        if bases and (stored := self._hub.conflicts(self._me, bases)):
            self._pending = checkpoint
            return wire.Conflict(stored)
        receipt: Receipt = self._hub.commit(self._me, checkpoint)
        return wire.done(receipt)

    @property
    def _me(self) -> Member:
        assert self._member is not None  # or `obey` has refused
        return self._member

"""RemoteStore: the run of a hub in another process, over a socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..checkpoint import Checkpoint, Document, Snapshot
from ..errors import StoreError, StoreFencedError
from ..stores.base import Allotment, Claim, Reader, Receipt, Store
from ..stores.reader import open_directory
from ..streams import send
from . import wire


class RemoteStore(Store):
    """The run that another process has opened, for this worker of it.

    When the connection ends, the other process is gone, and so is all that this worker had: every
    call fails with `StoreFencedError` from then on, and `news`, which a worker always waits for.

    Args:
        address: The run's directory.
        worker: The name of this worker.
        connection: The socket to the process that serves the run.
        lease: Seconds without a word after which what this worker has is given to others.
    """

    is_shared = True

    def __init__(
        self, address: str, worker: str, connection: socket.socket, *, lease: float
    ) -> None:
        self.address = address
        self.worker = worker
        self.lease = lease
        self._connection = connection
        self._writer: asyncio.StreamWriter | None = None
        self._listening: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[wire.Answer]] = {}
        self._number = 0
        self._news = asyncio.Event()
        self._is_lost = False

    async def open(self, *, fresh: bool = False) -> None:
        """Begin as a worker. A run is begun anew by the process that serves it, not from here."""
        if fresh:
            raise StoreError("a run is begun anew by the process that serves it")
        reader, self._writer = await asyncio.open_connection(sock=self._connection)
        self._listening = asyncio.create_task(self._listen(reader))
        await self._ask(wire.Join(self.worker))

    async def load(self) -> Snapshot:  # noqa: D102 - documented in Store
        return await self._give(wire.Load())  # type: ignore[no-any-return]

    async def document(self, name: str) -> Document | None:  # noqa: D102
        return await self._give(wire.Read(name))  # type: ignore[no-any-return]

    async def claim(self, limit: int, window: Mapping[str, int], now: float) -> Claim:  # noqa: D102
        return await self._give(wire.Wants(limit, dict(window), now))  # type: ignore[no-any-return]

    async def commit(self, checkpoint: Checkpoint) -> Receipt:  # noqa: D102
        answer = await self._ask(wire.Commit.of(checkpoint))
        merged: dict[str, Document] = {}
        bases = {name: merge.base for name, merge in checkpoint.merges.items()}
        while isinstance(answer, wire.Conflict):
            for name, theirs in answer.stored.items():
                mine, (base, combine) = checkpoint.documents[name], checkpoint.merges[name]
                assert mine is not None  # what is removed is not merged
                data = combine(base, mine.data, theirs.data)
                merged[name] = Document(mine.version, data)
                # Known is now what was stored a moment ago. Others may be quicker once more.
                bases[name] = theirs.data
            answer = await self._ask(wire.Again(bases, merged))
        receipt: Receipt = wire.RESULTS[wire.Commit].decode(answer.value)
        return replace(receipt, merged=merged)

    async def extend(self) -> None:  # noqa: D102
        await self._ask(wire.Extend())

    async def try_lock(self, name: str) -> bool:  # noqa: D102
        return await self._give(wire.TryLock(name))  # type: ignore[no-any-return]

    async def unlock(self, name: str) -> None:  # noqa: D102
        await self._ask(wire.Unlock(name))

    async def news(self) -> None:  # noqa: D102
        await self._news.wait()
        if self._is_lost:
            raise self._lost()
        self._news.clear()

    async def allot(self, counters: tuple[str, ...], most: int, wanted: int) -> Allotment:  # noqa: D102
        return await self._give(wire.Allot(counters, most, wanted))  # type: ignore[no-any-return]

    async def finish(self) -> bool:  # noqa: D102
        return await self._give(wire.Finish())  # type: ignore[no-any-return]

    def reader(self) -> Reader:  # noqa: D102
        return open_directory(self.address)

    async def release(self) -> None:  # noqa: D102
        await self._ask(wire.Release())

    async def close(self) -> None:  # noqa: D102
        if self._writer is None:
            return
        with contextlib.suppress(StoreError):
            await self._ask(wire.Leave())
        assert self._listening is not None  # it is, since `open`
        self._listening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._listening
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
        self._writer = None

    # -- the connection -----------------------------------------------------------------------

    async def _give(self, call: wire.Call) -> Any:
        answer = await self._ask(call)
        assert isinstance(answer, wire.Done)  # only a commit is answered otherwise
        return wire.RESULTS[type(call)].decode(answer.value)

    async def _ask(self, call: wire.Call) -> wire.Done | wire.Conflict:
        if self._writer is None:
            raise StoreError(f"the run in {self.address} is not open")
        if self._is_lost:
            raise self._lost()
        self._number += 1
        number = self._number
        data = wire.frame(number, call)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            send(self._writer, data)
            await self._writer.drain()
            answer = await future
        except ConnectionError:
            raise self._lost() from None
        finally:
            self._waiting.pop(number, None)
        if isinstance(answer, wire.Failure):
            raise wire.error_of(answer)
        assert isinstance(answer, wire.Done | wire.Conflict)  # news has no number
        return answer

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            while (data := await wire.read_frame(reader)) is not None:
                number, answer = wire.answer_in(data)
                if not number:
                    self._news.set()
                elif (future := self._waiting.get(number)) is not None and not future.done():
                    future.set_result(answer)
        finally:
            self._is_lost = True
            self._news.set()
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(self._lost())

    def _lost(self) -> StoreFencedError:
        return StoreFencedError(
            f"the process that serves the run in {self.address} is gone; start it again"
        )

"""The process that serves a run to workers: whom it gives up, and whom it does not."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from crawlkit.errors import StoreFencedError
from crawlkit.runner import loop_factory
from crawlkit.stores.sqlite import SqliteStore
from crawlkit.workers import wire
from crawlkit.workers.hub import Hub
from crawlkit.workers.serving import StoreServer

from .fleets import Served

LEASE = 0.4


@pytest.mark.parametrize("stands_still", [True, False])
async def test_a_worker_is_given_up_for_its_own_silence_only(
    tmp_path: Path, stands_still: bool
) -> None:
    """And not where all of them stood still, as in a container that was paused."""
    hub = Hub(SqliteStore(str(tmp_path / "run")), lease=LEASE)
    await hub.open()
    fleet = Served(hub)
    await fleet.server.open()
    worker = await fleet.worker("one")
    if stands_still:
        time.sleep(3 * LEASE)  # noqa: ASYNC251 - that is the point
        await asyncio.sleep(LEASE / 20)
        await worker.extend()
    else:
        async with asyncio.timeout(10):
            while hub._members:  # noqa: ASYNC110 - time is all that it takes
                await asyncio.sleep(LEASE / 20)
        with pytest.raises(StoreFencedError):
            await worker.extend()
    await worker.close()
    await fleet.server.close()
    await hub.close()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, loop_factory()])
def test_a_worker_that_is_gone_while_it_is_answered_is_no_error(tmp_path: Path, loop: Any) -> None:
    async def serve() -> None:
        store = SqliteStore(str(tmp_path / "run"))
        hub = Hub(store, lease=LEASE)
        await hub.open()
        do = store.do

        async def do_and_be_told(work: Any, *args: Any) -> Any:
            answer = await do(work, *args)
            if there.fileno() < 0 and hub._members:
                hub._members["one"].notify()  # which is when it is seen that it is gone
                await asyncio.sleep(0.05)
            return answer

        store.do = do_and_be_told  # type: ignore[method-assign]
        here, there = socket.socketpair()
        there.sendall(wire.frame(1, wire.Join("one")) + wire.frame(2, wire.Load()))
        there.close()
        await StoreServer(hub).serve(here)
        assert not hub._members
        await hub.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(serve())

"""The process that serves a run to workers: whom it gives up, and whom it does not."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from crawlkit.errors import StoreFencedError
from crawlkit.stores.sqlite import SqliteStore
from crawlkit.workers.hub import Hub

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

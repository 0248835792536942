"""The feeder sees the end of a crawl, and nothing else for it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from crawlkit.clock import Clock
from crawlkit.crawling.feeder import Feeder
from crawlkit.stores.base import Claim


async def test_a_commit_after_the_last_claim_does_not_end_a_crawl_with_a_limit_of_pages() -> None:
    """Its links are in the store then, and the claim has not seen them."""
    queue = SimpleNamespace(
        is_starving=False,
        is_idle=True,
        is_settled=False,
        changes=0,
        wants=lambda: (1, {}),
        fill=lambda claim: None,
    )

    async def refill() -> None:
        pass

    async def give_back() -> None:
        queue.is_settled = True  # the commit was quicker

    async def claim(*_: Any) -> Claim:
        return Claim([], None, True, {}, {})

    store = SimpleNamespace(is_shared=True, claim=claim)
    job: Any = SimpleNamespace(can_save=True, store=store)
    allowance: Any = SimpleNamespace(refill=refill, give_back=give_back, is_spent=False)
    feeder = Feeder(Clock(), job, queue, allowance, lambda host: None)  # type: ignore[arg-type]
    feeder.is_seeded = True
    await feeder._feed_once()
    assert not feeder.is_finished


async def test_nothing_is_hurried_any_more_once_the_crawl_has_ended() -> None:
    """It would find a closed store, and its `persistState` would come after `exit`."""

    async def checkpoint() -> None:
        raise AssertionError("a checkpoint after the end")

    def close() -> None:
        queue.is_closed = True

    queue: Any = SimpleNamespace(is_closed=False, close=close)
    job: Any = SimpleNamespace(
        can_save=True,
        is_stopping=True,
        store=SimpleNamespace(is_shared=False),
        try_checkpoint=checkpoint,
    )
    allowance: Any = SimpleNamespace()
    feeder = Feeder(Clock(), job, queue, allowance, lambda host: None)
    feeder.hasten()
    await feeder.feed()
    feeder.hasten()  # at the last commit
    assert asyncio.all_tasks() == {asyncio.current_task()}

"""Measuring: what this process takes of its machine, and how late its event loop is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from ..events import SystemInfo
from ..machine import Machine

INTERVAL = 1.0
"""Seconds between two measurements."""
PROBE = 0.1
"""Seconds between two looks at whether the event loop is late. The worst of an interval counts."""


class Pulse:
    """When the event loop was last seen to go on, for other threads to look at.

    Attributes:
        at: When that was, by the monotonic clock.
    """

    def __init__(self) -> None:
        self.at = time.monotonic()

    def beat(self) -> None:
        """It goes on now. Called in the event loop."""
        self.at = time.monotonic()


async def measure(tell: Callable[[SystemInfo], Awaitable[None]], pulse: Pulse) -> None:
    """Tell what was measured, again and again, for as long as this is let run.

    Args:
        tell: Takes what was measured, each second.
        pulse: Beats ten times a second, but while `tell` is awaited.
    """
    loop = asyncio.get_running_loop()
    machine = Machine()
    used, at = time.process_time(), loop.time()
    while True:
        now, delay = at, 0.0
        while now < at + INTERVAL:
            due = now + PROBE
            await asyncio.sleep(PROBE)
            now = loop.time()
            pulse.beat()
            delay = max(delay, now - due)
        used_before, used = used, time.process_time()
        share = (used - used_before) / (now - at)
        at = now
        memory = machine.memory()
        await tell(
            SystemInfo(
                share,
                machine.resident(),
                delay,
                machine.cores(),
                None if memory is None else memory.limit,
                None if memory is None else memory.used,
            )
        )

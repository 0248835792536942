"""Platform: the events of the Apify platform, and of those that speak its protocol.

A process that the platform starts finds an address in ``ACTOR_EVENTS_WEBSOCKET_URL``. The websocket
there sends JSON objects ``{"name", "createdAt", "data"}``:

- ``migrating``, with the seconds that are left in ``data.timeRemainingSecs``,
- ``aborting``,
- ``persistState``, a wish to save now,
- ``cpuInfo`` with ``data.isCpuOverloaded``, in newer versions ``systemInfo`` with more.

Everything else is passed over. Nothing that comes from there, and nothing that does not come, harms
the crawl: messages are bounded in size and number, and a connection that is gone is made anew.

See https://docs.apify.com/platform/actors/development/programming-interface/system-events.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from math import isfinite
from typing import Any

import aiohttp
import msgspec

from ..errors import one_line, printable
from ..events import CpuInfo
from .base import Watched

log = logging.getLogger("crawlkit.triggers")

MAX_MESSAGE = 2**20
"""Bytes of a message; theirs have some hundred."""
MAX_RATE = 200
"""Messages in a second from which on a server is left alone for a while."""
CONNECT_TIMEOUT = 10.0
HEARTBEAT = 20.0
"""Seconds between two signs of life that the server is asked for."""
FIRST_REST, MOST_REST = 0.5, 60.0
"""Seconds before the connection is made anew; doubled each time."""
STEADY = 30.0
"""Seconds that a connection has to last for the next rest to be the first one again."""
SAVING_REST = 1.0
"""Seconds between two checkpoints that the platform asks for, at least."""

_decode = msgspec.json.Decoder().decode


class Platform:
    """Listens to the platform.

    Args:
        url: The websocket's address.
        rest: Seconds before a connection that was lost is made anew, the first time.
        heartbeat: Seconds between two signs of life that the server is asked for.
    """

    def __init__(self, url: str, *, rest: float = FIRST_REST, heartbeat: float = HEARTBEAT) -> None:
        self._url = url
        self._rest = rest
        self._heartbeat = heartbeat
        self._saved_at = -SAVING_REST

    async def watch(self, job: Watched) -> None:
        """Tell `job` of each event; come back to a server that was gone."""
        loop = asyncio.get_running_loop()
        rest, is_reported = self._rest, False
        async with aiohttp.ClientSession() as client:
            while True:
                began = loop.time()
                try:
                    reason = await self._listen(client, job)
                except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                    reason = one_line(error)
                if loop.time() - began >= STEADY:
                    rest, is_reported = self._rest, False
                if not is_reported:
                    log.warning(
                        "no events from the platform at %s: %s; the crawl goes on, and the "
                        "connection is tried again",
                        printable(self._url),
                        reason,
                    )
                    is_reported = True
                await asyncio.sleep(rest)
                rest = min(2 * rest, MOST_REST)

    async def _listen(self, client: aiohttp.ClientSession, job: Watched) -> str:
        """Pass on what comes, until the connection ends; why it did."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_TIMEOUT):
            socket = await client.ws_connect(
                self._url,
                max_msg_size=MAX_MESSAGE,
                heartbeat=self._heartbeat,
                timeout=aiohttp.ClientWSTimeout(ws_close=1.0),
            )
        async with socket:
            second, count = 0, 0
            async for message in socket:
                if int(loop.time()) != second:
                    second, count = int(loop.time()), 0
                count += 1
                if count > MAX_RATE:
                    return f"more than {MAX_RATE} messages in a second"
                if message.type == aiohttp.WSMsgType.TEXT:
                    await self._hear(message.data, job)
                elif message.type == aiohttp.WSMsgType.ERROR:
                    break
            error = socket.exception()
            return one_line(error) if error else "the connection was closed"

    async def _hear(self, text: str, job: Watched) -> None:
        try:
            message = _decode(text)
        except (msgspec.DecodeError, RecursionError, UnicodeError):
            message = None
        if not isinstance(message, dict):
            log.debug("no event: %s", printable(text[:200]))
            return
        data = message.get("data")
        data = data if isinstance(data, dict) else {}
        match message.get("name"):
            case "migrating":
                seconds = _number(data.get("timeRemainingSecs"))
                left = "" if seconds is None else f", in {seconds:g} s"
                log.info("the platform moves this crawl%s: finishing what runs, then saving", left)
                await job.migrate(seconds)
            case "aborting":
                log.info("the platform stops this crawl: finishing what runs, then saving")
                await job.abort()
            case "persistState":
                now = asyncio.get_running_loop().time()
                if now - self._saved_at >= SAVING_REST:
                    self._saved_at = now
                    await job.try_checkpoint()
            case "cpuInfo" | "systemInfo":
                await job.emit(cpu_info(data))
            case _:
                pass


def cpu_info(data: Mapping[str, Any]) -> CpuInfo:
    """What ``cpuInfo`` or ``systemInfo`` says of the processor; its usage comes in percent."""
    overloaded = data.get("isCpuOverloaded")
    usage = _number(data.get("cpuCurrentUsage"))
    return CpuInfo(
        is_overloaded=overloaded if isinstance(overloaded, bool) else None,
        cpu=None if usage is None else usage / 100,
    )


def _number(value: Any) -> float | None:
    """A number that is not negative, or `None` for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value) if abs(value) < 2**53 else float("inf")
        return number if isfinite(number) and number >= 0 else None
    return None

"""MetricsServer: answers Prometheus, inside the crawl."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from ..errors import OptionError, UsageError
from ..listening import listen
from .metrics import CONTENT_TYPE

log = logging.getLogger("crawlkit.metrics")

LOOPBACK = "127.0.0.1"
PATIENCE = 2.0
"""Seconds until an address that is taken is tried again."""


class MetricsServer:
    """Serves one text under ``/metrics``.

    There is no access control: whoever reaches the address may read the numbers.

    Args:
        address: ``[HOST:]PORT``; on loopback where there is no host.
        text: Makes the text, each time that it is asked for; plain or async.

    Raises:
        OptionError: It is no such address.
    """

    def __init__(self, address: str, text: Callable[[], str | Awaitable[str]]) -> None:
        self.host, self.port = parse_address(address)
        self._text = text
        self._runner: web.ServerRunner | None = None
        self._trying: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Listen. With port 0 it takes a free one, which `port` then names.

        Where the address is taken, it is tried again: of several workers of one run one serves the
        numbers of all, and the next one when that is gone.

        Raises:
            UsageError: The address is not ours.
        """
        try:
            await self._listen()
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise UsageError(
                    f"metrics cannot be served on {self.host}:{self.port}: {error.strerror}; "
                    "choose another address"
                ) from None
            log.warning(
                "the address %s:%s is taken; metrics are served there as soon as it is free",
                self.host,
                self.port,
            )
            self._trying = asyncio.create_task(self._try_again())

    async def _listen(self) -> None:
        runner = web.ServerRunner(web.Server(self._answer, access_log=None))
        self.port = await listen(runner, self.host, self.port)
        self._runner = runner

    async def _try_again(self) -> None:
        while self._runner is None:
            await asyncio.sleep(PATIENCE)
            with contextlib.suppress(OSError):
                await self._listen()

    async def close(self) -> None:
        """Listen no more."""
        if self._trying is not None:
            self._trying.cancel()
            await asyncio.gather(self._trying, return_exceptions=True)
            self._trying = None
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path != "/metrics":
            return web.Response(status=404, text="the metrics are at /metrics\n")
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, headers={"Allow": "GET, HEAD"})
        text = self._text()
        if not isinstance(text, str):
            text = await text
        return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})


def parse_address(address: str) -> tuple[str, int]:
    """Host and port of ``[HOST:]PORT``.

    Raises:
        OptionError: It is no such address.
    """
    host, _, port = str(address).rpartition(":")
    if not port.isdecimal() or int(port) > 65535 or (":" in host and host[:1] != "["):
        raise OptionError(
            f"{address!r} is no address to serve on; give a port, as in 9464, or HOST:PORT"
        )
    return host.strip("[]") or LOOPBACK, int(port)

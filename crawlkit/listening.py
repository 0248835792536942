"""Listening: a server of aiohttp at an address."""

from __future__ import annotations

from aiohttp import web


async def listen(runner: web.BaseRunner, host: str, port: int) -> int:
    """Have a server answer at an address, until its runner is cleaned up.

    Args:
        runner: The server.
        host: The address.
        port: The port; with 0 it takes a free one.

    Returns:
        The port.

    Raises:
        OSError: The address is taken, or not ours. There is nothing to clean up then.
        OverflowError: There is no such port. Likewise.
    """
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except BaseException:
        await runner.cleanup()
        raise
    return int(runner.addresses[0][1])

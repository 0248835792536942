"""Streams of asyncio, whichever event loop they are in."""

from __future__ import annotations

import asyncio


def send(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send, where the other side is still there; who reads or drains hears that it is not.

    So it is with asyncio's own event loop. With uvloop's, writing to what has been closed since is
    a `RuntimeError`.
    """
    if not writer.is_closing():
        writer.write(data)

"""Flights: requests that are under way, so that another one for the same page need not be sent."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Flights:
    """What is being asked for, by the rows that the answers will be kept in."""

    def __init__(self) -> None:
        self._under_way: dict[bytes, asyncio.Future[None]] = {}

    async def landed(self, row: bytes) -> bool:
        """Wait for a request that is under way; whether there was one.

        What it has brought may be kept now, and may be good for others, or not. Who looks and finds
        nothing asks without waiting again: pages that are never kept would else come one by one.
        """
        flight = self._under_way.get(row)
        if flight is None:
            return False
        await asyncio.shield(flight)
        return True

    @contextmanager
    def flying(self, row: bytes) -> Iterator[None]:
        """Ask, while others may wait for what comes."""
        if row in self._under_way:
            yield  # of several who did not wait, the first stands for all
            return
        flight = asyncio.get_running_loop().create_future()
        self._under_way[row] = flight
        try:
            yield
        finally:
            del self._under_way[row]
            flight.set_result(None)

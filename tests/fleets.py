"""Stores that several workers write at the same time, for the suite of their contract.

A store joins by an entry in `FLEETS`.
"""

from __future__ import annotations

import asyncio
import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from crawlkit.stores import open_store
from crawlkit.stores.base import Store
from crawlkit.stores.memory import MemoryStore
from crawlkit.stores.sqlite import SqliteStore
from crawlkit.workers.hub import Hub
from crawlkit.workers.remote import RemoteStore
from crawlkit.workers.seat import Seat
from crawlkit.workers.serving import StoreServer

from . import postgres


class Fleet(ABC):
    """A run that workers join and leave."""

    @abstractmethod
    def store(self, name: str) -> Store:
        """The run, for one more worker who has yet to open it."""

    async def worker(self, name: str) -> Store:
        """The run, opened for one more worker."""
        store = self.store(name)
        await store.open()
        return store

    @abstractmethod
    async def die(self, store: Store) -> None:
        """The worker's process is killed; nothing of it is heard any more."""

    @abstractmethod
    async def silence(self, store: Store) -> None:
        """The worker is not heard of for longer than its lease, and that is noticed."""


class Seats(Fleet):
    """A hub's run, in the hub's process."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub

    def store(self, name: str) -> Store:
        return Seat(self.hub, name)

    async def die(self, store: Store) -> None:
        assert isinstance(store, Seat)
        await self.hub.store.do(self.hub.leave, store._me)

    async def silence(self, store: Store) -> None:
        assert isinstance(store, Seat)
        await _reap(self.hub, store.worker)


class Served(Fleet):
    """A hub's run, over sockets."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.server = StoreServer(hub)
        self.stores: list[RemoteStore] = []

    def store(self, name: str) -> Store:
        here, there = socket.socketpair()
        self.server.serve(here)
        store = RemoteStore(self.hub.store.address, name, there, lease=self.hub.lease)
        self.stores.append(store)
        return store

    async def die(self, store: Store) -> None:
        assert isinstance(store, RemoteStore)
        assert store._writer is not None
        name = store.worker
        store._writer.transport.abort()
        while name in self.hub._members:  # noqa: ASYNC110 - the server sees it in a moment
            await asyncio.sleep(0.001)

    async def silence(self, store: Store) -> None:
        await _reap(self.hub, store.worker)


async def _reap(hub: Hub, name: str) -> None:
    def work() -> list[str]:  # in the store's thread, so that nothing is heard in between
        hub._members[name].heard -= hub.lease + 1
        return hub.reap()

    assert await hub.store.do(work) == [name]


@asynccontextmanager
async def seats(directory: Path) -> AsyncIterator[Fleet]:
    hub = Hub(MemoryStore())
    await hub.open()
    try:
        yield Seats(hub)
    finally:
        await hub.close()


@asynccontextmanager
async def served(directory: Path) -> AsyncIterator[Fleet]:
    hub = Hub(SqliteStore(str(directory / "run")))
    await hub.open()
    fleet = Served(hub)
    try:
        yield fleet
    finally:
        for store in fleet.stores:
            await store.close()
        await fleet.server.close()
        await hub.close()


class Postgres(Fleet):
    """A run in PostgreSQL."""

    def __init__(self) -> None:
        self.stores: list[Store] = []
        self.address = postgres.server().address()

    def store(self, name: str) -> Store:
        store = open_store(self.address, worker=name)
        self.stores.append(store)
        return store

    async def die(self, store: Store) -> None:
        assert self._reap(store, "true") == [(True,)]

    async def silence(self, store: Store) -> None:
        late = f"UPDATE workers SET until = now() - interval '1s' WHERE name = '{store.worker}'"
        for _ in range(100):
            postgres.server().execute(late, self.address)
            if self._reap(store, "false") != [(False,)]:
                return  # or another worker was quicker; where it is not, it has just committed
        raise AssertionError(f"{store.worker} is heard all the time")

    def _reap(self, store: Store, is_dead: str) -> list[Any]:
        reap = f"SELECT reap(epoch, {is_dead}) FROM workers WHERE name = '{store.worker}'"
        return postgres.server().execute(reap, self.address)


@asynccontextmanager
async def in_postgres(directory: Path) -> AsyncIterator[Fleet]:
    fleet = Postgres()
    yield fleet
    for store in fleet.stores:
        await store.close()


FLEETS: dict[str, Callable[[Path], AbstractAsyncContextManager[Fleet]]] = {
    "seats": seats,
    "served": served,
    "postgres": in_postgres,
}


def fleets() -> list[Any]:
    """Their names, for a test with parameters."""
    needs = {"postgres": [pytest.mark.needs("postgresql")]}
    return [pytest.param(name, marks=needs.get(name, [])) for name in FLEETS]

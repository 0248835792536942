"""The stores that the suite of their contract runs against, and what its tests share.

A store joins by an entry in `BACKENDS`.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from crawlkit.checkpoint import Checkpoint, Item, Lease, Outcome, Pending
from crawlkit.request import Request
from crawlkit.stores import open_store
from crawlkit.stores.base import Claim, Reader, Receipt, Store
from crawlkit.stores.sqlite import SqliteStore
from crawlkit.workers.hub import Hub
from crawlkit.workers.remote import RemoteStore
from crawlkit.workers.serving import StoreServer

from . import postgres

NOW = 1_700_000_000.0
A, B, C = "https://a.example", "https://b.example", "https://c.example"


@dataclass(frozen=True)
class Backend:
    """A kind of store, for the suite.

    Attributes:
        make: Makes a store, not yet opened, for a run of its own in the directory.
        again: Makes another store for the run of the first, as a process that comes after it.
        is_durable: Whether the run outlives the process.
    """

    make: Callable[[Path], Store]
    again: Callable[[Store], Store]
    is_durable: bool


class ServedStore(RemoteStore):
    """A run that another process would serve, with what serves it in this one."""

    def __init__(self, directory: str) -> None:
        self.served = SqliteStore(directory)
        self._hub = Hub(self.served)
        self._server = StoreServer(self._hub)
        super().__init__(directory, "one", None, lease=60.0)  # type: ignore[arg-type]

    async def open(self, *, fresh: bool = False) -> None:
        await self._hub.open(fresh=fresh)
        here, self._connection = socket.socketpair()
        self._is_lost = False
        self._server.serve(here)
        await super().open()

    async def close(self) -> None:
        await super().close()
        await self._server.close()
        await self._hub.close()


BACKENDS = {
    "sqlite": Backend(
        make=lambda directory: open_store(str(directory / "run")),
        again=lambda store: open_store(store.address),
        is_durable=True,
    ),
    "served": Backend(
        make=lambda directory: ServedStore(str(directory / "run")),
        again=lambda store: ServedStore(store.address),
        is_durable=True,
    ),
    "memory": Backend(
        make=lambda directory: open_store("memory:"),
        again=lambda store: store,
        is_durable=False,
    ),
    "postgres": Backend(
        make=lambda directory: open_store(postgres.server().address()),
        again=lambda store: open_store(store.address),
        is_durable=True,
    ),
}
_NEEDS = {"postgres": "postgresql"}


def names(*, durable: bool = False) -> list[Any]:
    """The stores by name, for a test with parameters."""
    return [
        pytest.param(name, marks=[pytest.mark.needs(_NEEDS[name])] if name in _NEEDS else [])
        for name, backend in BACKENDS.items()
        if backend.is_durable or not durable
    ]


def pending(url: str, *, due: float = 0.0, **fields: Any) -> Pending:
    request = Request(url, **fields)
    return Pending(request, request.fingerprint, request.host, due)


def pages(site: str, count: int, *, first: int = 0, **fields: Any) -> list[Pending]:
    return [pending(f"{site}/{number}", **fields) for number in range(first, first + count)]


def outcome(lease: Lease, name: str = "handled", **fields: Any) -> Outcome:
    return Outcome(
        outcome=name,
        url=lease.request.url,
        fingerprint=lease.fingerprint,
        host=lease.host,
        at=NOW,
        handler=lease.request.handler,
        **fields,
    )


def skipped(url: str, detail: str) -> Outcome:
    request = Request(url)
    return Outcome("skipped", url, request.fingerprint, request.host, NOW, "parse", detail=detail)


def item(number: int, handler: str = "parse") -> Item:
    return Item(b'{"number":%d}' % number, f"{A}/{number}", handler, NOW + number)


def done(leases: Iterable[Lease], **fields: Any) -> Checkpoint:
    leases = list(leases)
    return Checkpoint(
        outcomes=[outcome(lease) for lease in leases],
        left=[lease.ticket for lease in leases],
        **fields,
    )


def urls(leases: Iterable[Lease]) -> list[str]:
    return [lease.request.url for lease in leases]


async def claim(store: Store, limit: int = 1000, window: Any = None, now: float = NOW) -> Claim:
    return await store.claim(limit, window or {}, now)


async def claim_all(store: Store, now: float = NOW) -> list[Lease]:
    leases: list[Lease] = []
    while found := (await claim(store, now=now)).leases:
        leases += found
    return leases


async def commit(store: Store, **fields: Any) -> Receipt:
    return await store.commit(Checkpoint(at=NOW, **fields))


def everything(reader: Reader) -> dict[str, Any]:
    """All that a run holds, so that two states of it can be compared."""
    return {
        "documents": dict(reader.documents()),
        "counters": reader.counters(),
        "errors": sorted(map(repr, reader.errors())),
        "items": list(reader.items()),
        "outcomes": sorted(
            repr(found)
            for name in ("handled", "failed", "skipped")
            for found in reader.outcomes(name)
        ),
        "pending": Counter(map(repr, reader.pending())),
    }


def content(store: Store) -> dict[str, Any]:
    reader = store.reader()
    try:
        return everything(reader)
    finally:
        reader.close()


def findings(store: Store) -> list[str]:
    reader = store.reader()
    try:
        return list(reader.check())
    finally:
        reader.close()

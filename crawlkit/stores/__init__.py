"""Where checkpoints go: the contract in `base`, a directory in `sqlite`, a test's `memory`."""

from __future__ import annotations

import os
from typing import Literal

from ..errors import UsageError
from .base import Reader, Store
from .memory import MemoryStore
from .reader import open_directory
from .sqlite import SqliteStore


def open_store(
    address: str,
    *,
    durability: Literal["normal", "full"] = "normal",
    mirror: str | None = None,
    mirror_interval: float = 5.0,
) -> Store:
    """The store behind an address: a directory, or ``memory:``. It is opened by the job.

    Args:
        address: The directory.
        durability: See `SqliteStore`.
        mirror: Where a copy of the run is kept up to date: a directory, or ``s3://bucket/path``.
        mirror_interval: Seconds between two shipments to the mirror.

    Raises:
        UsageError: No store, or no mirror, has such an address.
    """
    if mirror is not None and (address == "memory:" or "://" in address):
        raise UsageError(f"a run in {address} has no mirror; leave --mirror out")
    if address == "memory:":
        return MemoryStore()
    _refuse_scheme(address)
    if mirror is not None:
        # Imported here, since few runs have one.
        from .mirror.store import MirroredStore

        return MirroredStore(
            address, mirror=os.fspath(mirror), interval=mirror_interval, durability=durability
        )
    return SqliteStore(address, durability=durability)


def open_reader(address: str) -> Reader:
    """The run behind an address, opened for reading.

    Raises:
        StoreError: There is no run, or it cannot be read.
        UsageError: No store has such an address.
    """
    _refuse_scheme(address)
    return open_directory(address)


def _refuse_scheme(address: str) -> None:
    if "://" in address:
        raise UsageError(
            f"no store has the address {address!r}; name a directory such as runs/shop"
        )

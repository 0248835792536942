"""Where checkpoints go: the contract in `base`, a directory in `sqlite`, a test's `memory`."""

from __future__ import annotations

from typing import Literal

from ..errors import UsageError
from .base import Reader, Store
from .memory import MemoryStore
from .reader import open_directory
from .sqlite import SqliteStore


def open_store(address: str, *, durability: Literal["normal", "full"] = "normal") -> Store:
    """The store behind an address: a directory, or ``memory:``. It is opened by the job.

    Raises:
        UsageError: No store has such an address.
    """
    if address == "memory:":
        return MemoryStore()
    _refuse_scheme(address)
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

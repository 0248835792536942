"""Where checkpoints go.

The contract is in `base`; a directory in `sqlite`, a test's `memory`, many machines' `postgres`.
"""

from __future__ import annotations

import os
from typing import Literal, get_args

from ..errors import OptionError, StoreError, UsageError
from .base import Reader, Store
from .memory import MemoryStore
from .postgres.address import is_postgres, parse
from .reader import open_directory
from .sqlite import SqliteStore

Durability = Literal["normal", "full"]


def open_store(
    address: str,
    *,
    durability: Durability = "normal",
    worker: str = "",
    lease: float | None = None,
    mirror: str | None = None,
    mirror_interval: float = 5.0,
) -> Store:
    """The store behind an address: a directory, ``memory:`` or ``postgresql://``.

    It is opened by the job.

    Args:
        address: The address.
        durability: See `SqliteStore` and `PostgresStore`.
        worker: The worker's name, where there may be several.
        lease: Seconds for which what a worker has stays its own without a sign of life from it.
        mirror: Where a copy of the run is kept up to date: a directory, or ``s3://bucket/path``.
        mirror_interval: Seconds between two shipments to the mirror.

    Raises:
        UsageError: No store, or no mirror, has such an address.
        OptionError: There is no such durability.
    """
    if durability not in get_args(Durability):
        raise OptionError(f"durability cannot be {durability!r}; give normal or full")
    if mirror is not None and (address == "memory:" or "://" in address):
        raise UsageError(f"a run in {address} has no mirror; leave --mirror out")
    if address == "memory:":
        return MemoryStore()
    if is_postgres(address):
        return _postgres_store(address, durability, worker, lease)
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
    if is_postgres(address):
        return _postgres_reader(address)
    _refuse_scheme(address)
    return open_directory(address)


# Imported in here, as it brings psycopg along, which few have and fewer need.


def _postgres_store(
    address: str, durability: Durability, worker: str, lease: float | None
) -> Store:
    try:
        from .postgres.store import LEASE, PostgresStore
    except ImportError as error:
        raise _missing(error) from None
    return PostgresStore(
        address, durability=durability, worker=worker, lease=LEASE if lease is None else lease
    )


def _postgres_reader(address: str) -> Reader:
    try:
        from .postgres.reader import open_run
    except ImportError as error:
        raise _missing(error) from None
    return open_run(parse(address))


def _missing(error: ImportError) -> StoreError:
    return StoreError(
        f"PostgreSQL cannot be used ({error.msg.partition(chr(10))[0]}); "
        "install it with: pip install 'crawlkit[postgres]'"
    )


def _refuse_scheme(address: str) -> None:
    if "://" in address or not address:
        raise UsageError(
            f"no store has the address {address!r}; name a directory such as runs/shop, or "
            "postgresql://user@host/database"
        )

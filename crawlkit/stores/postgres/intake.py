"""Intake: a run that comes from another store, taken in part by part.

A part is a commit that enters what was enqueued by itself, since it counts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psycopg import Connection

from ...errors import StoreError
from ..intake import Part
from ..schema import IMPORT
from .address import Address
from .columns import Ints, Longs, columns
from .commit import key_of

_IS_EMPTY = """
SELECT NOT (
    EXISTS (SELECT FROM documents) OR EXISTS (SELECT FROM counters) OR EXISTS (SELECT FROM errors)
    OR EXISTS (SELECT FROM seen) OR EXISTS (SELECT FROM outcomes) OR EXISTS (SELECT FROM items)
)
"""


def enter(connection: Connection[Any], part: Part, hosts: Mapping[str, int]) -> None:
    """Enter what was enqueued of a part, in the transaction that is open."""
    rows = sorted((hosts[host], number) for host, number in part.enqueued)
    connection.execute(
        "INSERT INTO seen SELECT * FROM unnest(%s, %s) ON CONFLICT DO NOTHING",
        columns((Ints, Longs), rows),
    )


def is_unfinished(connection: Connection[Any]) -> bool:
    """Whether the run was being taken in, and that was not finished."""
    query = "SELECT 1 FROM documents WHERE key = %s"
    return connection.execute(query, (key_of(IMPORT),)).fetchone() is not None


def refuse_run(connection: Connection[Any], address: Address) -> None:
    """Raise where there is a run already.

    Raises:
        StoreError: There is.
    """
    (is_empty,) = connection.execute(_IS_EMPTY).fetchone() or (True,)
    if not is_empty and not is_unfinished(connection):
        raise StoreError(f"there is a run in {address.shown} already; import into another one")

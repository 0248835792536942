"""Intake: a run that comes from another store, taken in part by part.

A part is a commit that enters what was enqueued by itself, since it counts nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg import Connection

from ...checkpoint import Checkpoint, Document
from ...errors import StoreError
from ..records import (
    CounterRecord,
    DocumentRecord,
    ErrorRecord,
    ItemRecord,
    OutcomeRecord,
    PendingRecord,
    RunRecord,
)
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


class Part:
    """Some records, as a commit takes them.

    Attributes:
        checkpoint: What a commit can write of them. The counters are those of an empty run.
        enqueued: What was ever enqueued of them, as ``(host, fingerprint)``.
    """

    def __init__(self, records: Sequence[RunRecord], *, is_last: bool) -> None:
        self.checkpoint = checkpoint = Checkpoint()
        self.enqueued: set[tuple[str, int]] = set()
        for record in records:
            match record:
                case DocumentRecord():
                    checkpoint.documents[record.name] = record.document
                case CounterRecord():
                    checkpoint.add[record.name] = record.value
                case ErrorRecord():
                    checkpoint.errors.append(record.group)
                case ItemRecord():
                    checkpoint.items.append(record.item)
                case OutcomeRecord(outcome, is_enqueued):
                    checkpoint.outcomes.append(outcome)
                    if is_enqueued:
                        self.enqueued.add((outcome.host, outcome.fingerprint))
                case PendingRecord():
                    pending = record.pending
                    checkpoint.again.append(pending)
                    self.enqueued.add((pending.host, pending.fingerprint))
        checkpoint.documents[IMPORT] = None if is_last else Document(1, b"true")

    def enter(self, connection: Connection[Any], hosts: dict[str, int]) -> None:
        """Enter what was enqueued, in the transaction that is open."""
        rows = sorted((hosts[host], number) for host, number in self.enqueued)
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

"""Intake: records of another run, as a store writes them."""

from __future__ import annotations

from collections.abc import Sequence

from ..checkpoint import Checkpoint, Document
from .records import (
    CounterRecord,
    DocumentRecord,
    ErrorRecord,
    ItemRecord,
    OutcomeRecord,
    PendingRecord,
    RunRecord,
)
from .schema import IMPORT


class Part:
    """Some records, as a commit takes them.

    Args:
        records: The records.
        is_last: Whether the run is complete with them.

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

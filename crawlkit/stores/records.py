"""Records: all that a run consists of, in plain typed pieces that mean the same to every store.

What only one kind of store knows (bundles, the numbers of hosts, sweeps) is not among them. They
are read through a `Reader`, and taken in by `Store.take_in`.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from ..checkpoint import Document, ErrorGroup, Item, Number, Outcome, Pending
from ..request import Request, fingerprint
from .base import Reader


class DocumentRecord(msgspec.Struct, frozen=True, array_like=True, tag="document", gc=False):
    """What a part, or the user, saved under a name. The data is JSON, to the letter."""

    name: str
    version: int
    data: str

    @property
    def document(self) -> Document:
        """As a store takes it."""
        return Document(self.version, self.data.encode())


class CounterRecord(msgspec.Struct, frozen=True, array_like=True, tag="counter", gc=False):
    """A counter."""

    name: str
    value: Number


class ErrorRecord(msgspec.Struct, frozen=True, array_like=True, tag="error", gc=False):
    """A group of errors."""

    group: ErrorGroup


class ItemRecord(msgspec.Struct, frozen=True, array_like=True, tag="item", gc=False):
    """An item, in the order in which they were saved. The data is JSON, to the letter."""

    data: str
    url: str
    handler: str
    at: float

    @property
    def item(self) -> Item:
        """As a store takes it."""
        return Item(self.data.encode(), self.url, self.handler, self.at)


class OutcomeRecord(msgspec.Struct, frozen=True, array_like=True, tag="outcome", gc=False):
    """What became of a request, or of a link that was skipped.

    Attributes:
        outcome: What became of it; a failed one has its request.
        is_enqueued: Whether it is in the set of all that was ever enqueued. Of those that were
            handled or failed all are; a link may have been skipped in one place and followed in
            another.
    """

    outcome: Outcome
    is_enqueued: bool


class PendingRecord(msgspec.Struct, frozen=True, array_like=True, tag="pending", gc=False):
    """A request that is still to do.

    Attributes:
        request: The request.
        due: The Unix time before which it waits, or 0.
    """

    request: Request
    due: float

    @property
    def pending(self) -> Pending:
        """As a store takes it."""
        return Pending(self.request, fingerprint(self.request), self.request.host, self.due)


RunRecord = (
    DocumentRecord | CounterRecord | ErrorRecord | ItemRecord | OutcomeRecord | PendingRecord
)


def records_of(reader: Reader) -> Iterator[RunRecord]:
    """All of a run as of one checkpoint, streamed."""
    with reader.instant():
        for name, document in reader.documents():
            yield DocumentRecord(name, document.version, document.data.decode())
        for name, value in reader.each_counter():
            yield CounterRecord(name, value)
        for group in reader.errors():
            yield ErrorRecord(group)
        for item in reader.items():
            yield ItemRecord(item.data.decode(), item.url, item.handler, item.at)
        for outcome in ("handled", "failed"):
            for found in reader.outcomes(outcome):
                yield OutcomeRecord(found, True)
        for found, is_enqueued in reader.skipped():
            yield OutcomeRecord(found, is_enqueued)
        for request, due in reader.pending():
            yield PendingRecord(request, due)

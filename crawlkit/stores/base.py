"""Store: the contract that a laptop and a fleet share.

A store keeps a run: its queue, its dedup set, its items, outcomes and counters, and the documents
of its parts. Two views of it exist. A `Store` is what a running job writes through; its methods are
async, as they may wait for a disk or a server. A `Reader` looks at a run that is finished or
still going on, plainly, from any process.

The conformance suite in ``tests/test_stores.py`` is this contract in executable form.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ..checkpoint import (
    READ_SINGLY,
    Checkpoint,
    Document,
    ErrorGroup,
    Lease,
    Number,
    Outcome,
    Snapshot,
)
from ..request import Request

BUNDLE = 50
"""Requests of one host and priority are stored together, this many at most."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a claim brought.

    Attributes:
        leases: Requests that now belong to this process, best priority first.
        next_due: Unix time at which the next waiting request may be claimed, if one waits.
        is_exhausted: The store holds no request but those that this process has claimed.
    """

    leases: list[Lease] = field(default_factory=list)
    next_due: float | None = None
    is_exhausted: bool = True


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a commit did.

    Attributes:
        enqueued: How many of the fresh requests were new.
        duplicates: How many were not, with those that the checkpoint knew of.
    """

    enqueued: int = 0
    duplicates: int = 0


@dataclass(frozen=True, slots=True)
class StoredItem:
    """An item as it is read back: JSON, and where it came from."""

    number: int
    data: bytes
    url: str
    handler: str
    at: float


class Store(ABC):
    """A run, opened for writing by one process.

    ``address`` is what a user would pass to ``--store`` to come back to it.
    """

    address: str

    @abstractmethod
    async def open(self, *, fresh: bool = False) -> None:
        """Open the run, make it where there is none; `fresh` throws away what it held.

        Raises:
            StoreLockedError: Another process is writing it.
            StoreDamagedError: It does not hold what was written.
            StoreVersionError: It was written by a newer crawlkit.
        """

    @abstractmethod
    async def load(self) -> Snapshot:
        """What the registered parts saved; its cost does not depend on the size of the queue."""

    @abstractmethod
    async def document(self, name: str) -> Document | None:
        """One document, also one that `load` leaves out."""

    @abstractmethod
    async def claim(self, limit: int, window: Mapping[str, int], now: float) -> Claim:
        """Claim requests, best priority first, none before its time.

        Whole bundles are claimed, at most `limit` of them: of many hosts a bundle each, so that
        all of them can be asked side by side. A claim is undone when the process dies; nothing is
        written.

        Args:
            limit: How many requests are wanted.
            window: The hosts that this process is working on, with how many more requests of each
                it can use. Hosts that are not in it are wanted too.
            now: Unix time.
        """

    @abstractmethod
    async def commit(self, checkpoint: Checkpoint) -> Receipt:
        """Write the checkpoint, whole or not at all.

        The store adds to the counters ``requests_total`` and ``requests_duplicate`` what only it
        can know: how many of the fresh requests were new and how many were not.

        Raises:
            StoreWriteError: It could not be written; nothing was changed and it can be tried again.
            StoreDamagedError: It can never be written.
            StoreError: It finishes requests that were given back; nothing was changed.
        """

    @abstractmethod
    def reader(self) -> Reader:
        """The run, opened for reading."""

    @abstractmethod
    async def release(self) -> None:
        """Give back what was claimed and is not done, without waiting for anything."""

    @abstractmethod
    async def close(self) -> None:
        """Close the run. Nothing depends on it: a process that dies has closed well enough."""


class Reader(ABC):
    """A run, opened for reading. Every method sees the last checkpoint at the time of its call."""

    address: str

    @abstractmethod
    def documents(self, prefix: str = "") -> Iterator[tuple[str, Document]]:
        """Documents whose name begins with `prefix`, by name."""

    @abstractmethod
    def counters(self, prefix: str = "") -> dict[str, Number]:
        """Counters whose name begins with `prefix`."""

    def busiest_hosts(self, limit: int) -> dict[str, Number]:
        """Counters under ``host/`` of the hosts that answered most often, at most `limit` of them.

        After those come hosts that have only failed. A store that can do it without going through
        all of them in memory, of which there may be millions, does so.
        """
        counters = self.counters("host/")

        def place(prefix: str) -> tuple[Number, Number]:
            answers = counters.get(f"{prefix}/responses_received", 0)
            return answers, counters.get(f"{prefix}/requests_failed", 0)

        prefixes = {name.rpartition("/")[0] for name in counters}
        kept = set(sorted(prefixes, key=place, reverse=True)[:limit])
        return {name: value for name, value in counters.items() if name.rpartition("/")[0] in kept}

    @abstractmethod
    def errors(self) -> list[ErrorGroup]:
        """Groups of errors, the most frequent first."""

    @abstractmethod
    def items(self, *, after: int = 0, handler: str | None = None) -> Iterator[StoredItem]:
        """Items in the order in which they were saved, from number `after` + 1 on, streamed."""

    @abstractmethod
    def outcomes(self, outcome: str, *, host: str | None = None) -> Iterator[Outcome]:
        """Requests that were ``handled``, ``failed`` or ``skipped``, streamed."""

    def outcomes_after(
        self, outcome: str, after: tuple[str, int] | None = None, *, host: str | None = None
    ) -> Iterator[Outcome]:
        """What `outcomes` gives, page by page: in an order that holds, from a place in it on.

        This one passes over what comes before, which holds as far as `outcomes` has an order. A
        store that can find the place does so.

        Args:
            outcome: ``handled``, ``failed`` or ``skipped``.
            after: ``(host, fingerprint)`` of the last one that is known; ``None`` begins.
            host: Only those of this ``host[:port]``.
        """
        found = self.outcomes(outcome, host=host)
        if after is not None:
            for passed in found:
                if (passed.host, passed.fingerprint) == after:
                    break
        yield from found

    @abstractmethod
    def pending(self, *, host: str | None = None) -> Iterator[tuple[Request, float]]:
        """Requests that are still to do, each with the Unix time before which it waits, or 0."""

    @abstractmethod
    def outcome(self, host: str, fingerprint: int) -> Outcome | None:
        """What became of one request, or of one link that was skipped."""

    @abstractmethod
    def seen(self, host: str, fingerprint: int) -> bool:
        """Whether the request was ever enqueued."""

    def snapshot(self) -> Snapshot:
        """What `Store.load` returns.

        A store whose runs are read while they go on gives it as of one checkpoint, so that what is
        counted here and there adds up.
        """
        return Snapshot(
            documents={
                name: document
                for name, document in self.documents()
                if not name.startswith(READ_SINGLY)
            },
            counters={
                name: number
                for name, number in self.counters().items()
                if not name.startswith("host/")
            },
            errors=tuple(self.errors()),
        )

    def holder(self) -> int | None:
        """The process that is writing the run, if one is and the store can tell."""
        return None

    @abstractmethod
    def check(self) -> Iterator[str]:
        """Everything that is wrong with what is stored, a line each; nothing if all is well."""

    @abstractmethod
    def close(self) -> None:
        """Close the run."""

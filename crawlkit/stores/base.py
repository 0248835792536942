"""Store: the contract that a laptop and a fleet share.

A store keeps a run: its queue, its dedup set, its items, outcomes and counters, and the documents
of its parts. Two views of it exist. A `Store` is what a running job writes through; its methods are
async, as they may wait for a disk or a server. A `Reader` looks at a run that is finished or
still going on, plainly, from any process.

The conformance suite in ``tests/test_stores.py`` is this contract in executable form.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

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
from ..errors import StoreError, StoreStaleError
from ..request import Request

if TYPE_CHECKING:
    from .records import RunRecord

BUNDLE = 50
"""Requests of one host and priority are stored together, this many at most."""
WHOLE = 16
"""Shares of a host. A worker that has all of them is the only one that asks it."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a claim brought.

    Attributes:
        leases: Requests that now belong to this worker, best priority first.
        next_due: Unix time at which the next waiting request may be claimed, if one waits.
        is_exhausted: The store holds no request but those that this worker has claimed.
        shares: Of each host among the leases, how much of its limits this worker has: `WHOLE`
            sixteenths, or fewer where other workers have the rest. A host that is missing here is
            this worker's alone.
        rests: Hosts among the leases that rest, as ``(next start, delay)``; see `Checkpoint.rests`.
    """

    leases: list[Lease] = field(default_factory=list)
    next_due: float | None = None
    is_exhausted: bool = True
    shares: Mapping[str, int] = field(default_factory=dict)
    rests: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a commit did.

    Attributes:
        enqueued: How many of the fresh requests were new.
        duplicates: How many were not, with those that the checkpoint knew of.
        merged: Documents that another worker had changed meanwhile, as they were merged.
        totals: The run's counters whose names have no slash, all workers together; empty where one
            process writes the run, which knows them.
        wanted: Hosts of which another worker, which is idle, would take a share.
        rests: What others who have shares of this worker's hosts have said of them since its last
            commit, as in `Checkpoint.rests`.
    """

    enqueued: int = 0
    duplicates: int = 0
    merged: Mapping[str, Document] = field(default_factory=dict)
    totals: Mapping[str, Number] = field(default_factory=dict)
    wanted: tuple[str, ...] = ()
    rests: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Allotment:
    """A part of what all workers of a run may do together.

    Attributes:
        granted: How much this worker may do of it; what was given back is negative.
        is_spent: All of it is done, so that nothing will ever be granted again.
    """

    granted: int
    is_spent: bool


def stale() -> StoreStaleError:
    """The error for a failure that is not there."""
    return StoreStaleError(
        "a failed request was put back or dropped by another process meanwhile; nothing was "
        "changed, look again"
    )


@dataclass(frozen=True, slots=True)
class StoredItem:
    """An item as it is read back: JSON, and where it came from."""

    number: int
    data: bytes
    url: str
    handler: str
    at: float


class Store(ABC):
    """A run, opened for writing by one worker: one process, which may be one of many.

    Where several workers write a run, each has a name and an epoch. What it claims, and the locks
    that it holds, are its own until it closes the store, dies, or is not heard of for the time of a
    lease; then another may take them, and its epoch is over: whatever it still tries to commit is
    refused whole, so that nothing is applied twice. A worker that comes back under its name begins
    a new epoch, and takes what it had at once.

    A host is claimed by one worker at a time, all `WHOLE` shares of it; a worker that gives shares
    away in a checkpoint makes room for another.

    Attributes:
        address: What a user would pass to ``--store`` to come back to it.
        is_shared: Whether other workers may write the run at the same time.
        worker: The name of this worker; empty where it is the only one.
        lease: Seconds for which what this worker has stays its own without a sign of life from it.
        heard: The monotonic time of its last sign of life that was taken.
    """

    address: str
    is_shared: bool = False
    worker: str = ""
    lease: float = inf
    heard: float = inf

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
        all of them can be asked side by side. A claim is undone when the worker dies.

        Args:
            limit: How many requests are wanted.
            window: The hosts that this worker is working on, with how many more requests of each
                it can use. Hosts that are not in it are wanted too.
            now: Unix time.

        Raises:
            StoreFencedError: What this worker had was given to others.
        """

    @abstractmethod
    async def commit(self, checkpoint: Checkpoint) -> Receipt:
        """Write the checkpoint, whole or not at all.

        The store adds to the counters ``requests_total`` and ``requests_duplicate`` what only it
        can know: how many of the fresh requests were new and how many were not.

        Raises:
            StoreWriteError: It could not be written; nothing was changed and it can be tried again.
            StoreDamagedError: It can never be written.
            StoreFencedError: What this worker had was given to others; nothing was changed.
            StoreStaleError: It forgets failures that are not there; nothing was changed.
            StoreError: It finishes requests that were given back; nothing was changed.
        """

    async def extend(self) -> None:  # noqa: B027 - nobody else waits for a lease to run out
        """Say that this worker is alive, as every commit does.

        Raises:
            StoreFencedError: What this worker had was given to others.
        """

    async def try_lock(self, name: str) -> bool:
        """Take the lock of the run that is called `name`; `False` while another worker has it."""
        return True

    async def unlock(self, name: str) -> None:  # noqa: B027 - nobody else waits for it
        """Give a lock back."""

    async def news(self) -> None:
        """Wait until a claim that brought nothing may bring something: work, or the end.

        It may come back without a reason, as after a time.

        Raises:
            StoreFencedError: What this worker had was given to others.
        """
        await asyncio.Event().wait()  # nobody else brings anything

    async def allot(self, counters: tuple[str, ...], most: int, wanted: int) -> Allotment:
        """Take a part of what all workers of a run may do together, or give it back.

        What is done is the sum of some counters. It and what all workers were granted and have not
        done yet are never more than `most`: a commit that raises the counters lowers the grant of
        its worker by as much, and a worker that is gone has no grant.

        Args:
            counters: Their names, which are also the name of the grant.
            most: How much may be done over all lives of the run.
            wanted: How much more this worker would do; negative to give so much back.

        A call that failed may have been made all the same. Then the next one with the same counters
        tells what that one was granted, or gave back, together with its own; so nothing is lost.

        Returns:
            What was granted of it, which may be nothing while others have it.
        """
        raise NotImplementedError  # who is alone knows what is left

    async def finish(self) -> bool:
        """Say that the crawl is finished; `True` for one worker of a run, the first to say so.

        A run to which requests are added later, or of which pages are done later, as under a higher
        ``max_pages``, can be finished again.
        """
        return True

    @abstractmethod
    def reader(self) -> Reader:
        """The run, opened for reading."""

    @abstractmethod
    async def release(self) -> None:
        """Give back what was claimed and is not done, without waiting for anything."""

    async def take_in(self, records: Sequence[RunRecord], *, is_last: bool) -> None:
        """Take in a part of another run, in a transaction of its own: whole, or not at all.

        The first part goes into a run that was opened and has no checkpoint. From then until the
        part with `is_last` is committed, the run is unfinished: `open` without `fresh`, and reading
        it, raise `StoreUnfinishedError`, also after this process was killed. Nothing else is done
        with the store meanwhile. After that, it is the run that was exported: its items in their
        order, its outcomes, counters (set, not added up), documents and groups of errors, what is
        pending, and the set of all that was ever enqueued, which are those that are pending and the
        outcomes with `is_enqueued`; a request may be both, a skipped link and pending.

        Args:
            records: Records of any kinds, in the order in which `records_of` gives them; none is
                in two parts, and there may be none.
            is_last: Whether the run is complete with them.

        Raises:
            StoreWriteError: It could not be written; nothing was changed.
            StoreError: The run is not empty, or this store takes in no runs.
        """
        raise StoreError(f"{self.address} takes in no runs; import into a directory")

    async def ship(self, within: float | None = None) -> None:  # noqa: B027 - most have nowhere
        """Bring what was committed to wherever else it belongs, as after the last checkpoint.

        A store that has only one place for a run does nothing.

        Args:
            within: Seconds that are left for it; ``None`` where nobody waits for the process.

        Raises:
            StoreError: The run is another machine's by now.
        """

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
        """Requests that are still to do, each with the Unix time before which it waits, or 0.

        They are streamed, those of one host and priority in the order in which they are done.
        """

    def skipped(self) -> Iterator[tuple[Outcome, bool]]:
        """The links that were skipped, streamed, each with whether it was enqueued all the same."""
        for outcome in self.outcomes("skipped"):
            yield outcome, self.seen(outcome.host, outcome.fingerprint)

    def each_counter(self) -> Iterator[tuple[str, Number]]:
        """All counters, streamed where there may be very many."""
        yield from self.counters().items()

    def instant(self) -> AbstractContextManager[None]:
        """While it is open, every method sees the run as of one and the same checkpoint.

        A store whose runs are not read while they go on need not do anything.
        """
        return nullcontext()

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

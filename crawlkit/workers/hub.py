"""Hub: one embedded run, written by several workers, and which of them has what.

SQLite has one writer, and here it stays one: the process that holds the run's lock. It writes for
its workers, one after the other, in the store's thread. What they have (leases, shares of hosts,
locks, grants) is in its memory alone: if it dies, all of them end, and everything is free.

All methods but those that say so run in the store's thread, so nothing in here needs a lock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from ..checkpoint import Checkpoint, Document, Number, decode
from ..errors import StoreError, StoreFencedError
from ..events import CrawlerStatus
from ..stores.base import WHOLE, Allotment, Claim, Receipt
from ..stores.bundle import Bundle, count_of
from ..stores.claims import Others
from ..stores.sqlite import SqliteStore

LEASE = 15.0
"""Seconds without a word after which what a worker has is given to others."""
MAX_RESTS = 10_000
"""Hosts whose rests are kept, about; those that are over long since are dropped then."""
KEEP_REST = 60.0
"""Seconds for which it is remembered how far the starts at a host have to lie apart."""
FEW = 8
"""Requests with which a worker that finds no more is idle."""
NOTES = "queue/in_flight"
"""What each worker notes of its requests in flight, for those who look at the run."""


@dataclass(eq=False)
class Member:
    """A worker, from when it joins until it leaves: one epoch of it.

    Attributes:
        name: Its name.
        notify: Called, in the store's thread, when there may be something for it to do.
        claimed: The bundles that it has.
        grants: What it may do of what all may do together, by the counters that count it.
        news: What others have said of hosts that it has shares of, since its last commit.
        heard: When it was heard of last, monotonic.
        found_nothing: Its last claim brought nothing.
        is_idle: And it has next to nothing left.
        is_gone: Its epoch is over.
    """

    name: str
    notify: Callable[[], None]
    claimed: dict[int, Bundle] = field(default_factory=dict)
    grants: dict[tuple[str, ...], int] = field(default_factory=dict)
    news: dict[str, tuple[float, float]] = field(default_factory=dict)
    heard: float = 0.0
    found_nothing: bool = False
    is_idle: bool = False
    is_gone: bool = False


@dataclass(eq=False)
class _Host:
    """A host that workers have shares of."""

    number: int
    name: str
    shares: dict[Member, int] = field(default_factory=dict)

    @property
    def free(self) -> int:
        return WHOLE - sum(self.shares.values())


class Hub:
    """The embedded run of several workers.

    Args:
        store: The run.
        lease: Seconds without a word after which what a worker has is given to others.
        amend: Called with each checkpoint before it is committed, to add to it; it returns what
            undoes that, for one that could not be committed.
        wall: Unix time.
        monotonic: Steady time.
    """

    def __init__(
        self,
        store: SqliteStore,
        *,
        lease: float = LEASE,
        amend: Callable[[Checkpoint], Callable[[], None]] | None = None,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self.lease = lease
        self._amend = amend
        self._wall = wall
        self._monotonic = monotonic
        self._members: dict[str, Member] = {}
        self._hosts: dict[int, _Host] = {}
        self._by_name: dict[str, _Host] = {}
        self._rests: dict[str, tuple[float, float]] = {}
        self._locks: dict[str, Member] = {}
        self._counters: dict[str, Number] = {}
        self._documents: dict[str, Document | None] = {}  # those that are merged
        self._lives_before: Number = 0
        self._in_flight: dict[str, int] = {}  # by the name of the worker's note
        self._is_finished = False

    async def open(self, *, fresh: bool = False) -> None:
        """Open the run. Called in the event loop.

        Raises:
            StoreError: As `Store.open`.
        """
        await self.store.open(fresh=fresh)
        await self.store.do(self._begin)

    async def close(self) -> None:
        """Close the run. Called in the event loop."""
        await self.store.close()

    async def has_begun(self) -> bool:
        """Whether this life of the run is counted. Called in the event loop."""
        return self._counters.get("lives", 0) > self._lives_before

    async def status(self) -> CrawlerStatus:
        """Where the crawl stands, all workers together. Called in the event loop."""
        n = self._counters
        finished, failed = (int(n.get(f"requests_{what}", 0)) for what in ("finished", "failed"))
        left = n.get("requests_total", 0) - finished - failed - n.get("requests_dropped", 0)
        in_flight = sum(self._in_flight.values())
        return CrawlerStatus(
            finished, failed, int(left) - in_flight, in_flight, int(n.get("items_saved", 0))
        )

    def _begin(self) -> None:
        self._counters = self.store.counters_now()
        self._lives_before = self._counters.get("lives", 0)
        # What a life before this one has left in flight is pending.
        stale = self.store.document_names_now(NOTES)
        if stale:
            self.store.commit_from({}, Checkpoint(documents=dict.fromkeys(stale)))

    # -- coming and going ---------------------------------------------------------------------

    def join(self, name: str, notify: Callable[[], None]) -> Member:
        """A worker begins; one of the same name, if there is one still, is over."""
        if (before := self._members.get(name)) is not None:
            self.leave(before)
        member = self._members[name] = Member(name, notify, heard=self._monotonic())
        return member

    def leave(self, member: Member, *, died: bool = True) -> None:
        """A worker is gone, and what it had is free.

        Args:
            member: The worker.
            died: Whether it may have asked hosts of which it did not tell.
        """
        if member.is_gone:
            return
        member.is_gone = True
        if self._members.get(member.name) is member:
            del self._members[member.name]
        self._let_go(member, died=died)
        for name in [name for name, holder in self._locks.items() if holder is member]:
            del self._locks[name]
        try:
            note = f"{NOTES}/{member.name}"
            self._in_flight.pop(note, None)
            if died and self.store.document_now(note) is not None:
                self.store.commit_from({}, Checkpoint(documents={note: None}))
        except StoreError:
            pass  # it is but a note, and who writes next will meet the trouble
        self._tell()

    def reap(self, late: float = 0.0) -> list[str]:
        """Take from workers that were not heard of for too long what they have; their names.

        Args:
            late: For how many seconds this process itself could hear nobody, as it was stopped, or
                the machine was too busy. They are not held against the workers.
        """
        now = self._monotonic()
        for member in self._members.values():
            member.heard = min(now, member.heard + late)
        silent = [m for m in self._members.values() if now - m.heard > self.lease]
        for member in silent:
            self.leave(member)
        return [member.name for member in silent]

    def _let_go(self, member: Member, *, died: bool) -> None:
        member.claimed.clear()
        now = self._wall()
        for host in [host for host in self._hosts.values() if member in host.shares]:
            self._leave_host(member, host)
            if died:
                # Nobody knows when it has asked last; so that was now.
                start, delay = self._rests.get(host.name, (0.0, 0.0))
                self._rests[host.name] = (max(start, now + delay), delay)

    def _leave_host(self, member: Member, host: _Host) -> None:
        del host.shares[member]
        member.news.pop(host.name, None)
        if not host.shares:
            del self._hosts[host.number]
            del self._by_name[host.name]

    def _heard(self, member: Member) -> None:
        if member.is_gone:
            raise StoreFencedError(
                f"worker {member.name} was not heard of for {self.lease:g} s, and others go on "
                "with what it had; start it again"
            )
        member.heard = self._monotonic()

    def extend(self, member: Member) -> None:
        """The worker is alive.

        Raises:
            StoreFencedError: It is over.
        """
        self._heard(member)

    def _tell(self) -> None:
        """Something has changed that those who found nothing may have waited for."""
        for member in self._members.values():
            if member.found_nothing:
                member.notify()

    # -- claims -------------------------------------------------------------------------------

    def claim(self, member: Member, limit: int, window: Mapping[str, int], now: float) -> Claim:
        """As `Store.claim`."""
        self._heard(member)
        claim = self.store.claim_into(
            member.claimed,
            limit,
            window,
            now,
            Others(
                list(self._bundles_but(member)),
                [
                    host.number
                    for host in self._hosts.values()
                    if member not in host.shares and not host.free
                ],
                len(self._members) - 1,
            ),
        )
        shares: dict[str, int] = {}
        rests: dict[str, tuple[float, float]] = {}
        for lease in claim.leases:
            if lease.host not in shares:
                shares[lease.host] = self._take(member, lease.host, lease.ticket.bundle)
                if (rest := self._rests.get(lease.host)) is not None:
                    rests[lease.host] = rest
        member.found_nothing = not claim.leases
        member.is_idle = member.found_nothing and count_of(member.claimed) < FEW
        return replace(
            claim, shares={host: n for host, n in shares.items() if n < WHOLE}, rests=rests
        )

    def _take(self, member: Member, name: str, bundle: int) -> int:
        """How many shares of a host a worker has that has claimed some of its requests."""
        number = member.claimed[bundle].host
        host = self._hosts.get(number)
        if host is None:
            host = self._hosts[number] = self._by_name[name] = _Host(number, name)
        host.shares[member] = host.shares.get(member, 0) + host.free
        return host.shares[member]

    def _bundles_but(self, member: Member) -> Iterable[int]:
        return (
            bundle
            for other in self._members.values()
            if other is not member
            for bundle in other.claimed
        )

    def release(self, member: Member) -> None:
        """As `Store.release`."""
        self._heard(member)
        self._let_go(member, died=False)
        self._tell()

    # -- commits ------------------------------------------------------------------------------

    def conflicts(self, member: Member, bases: Mapping[str, bytes | None]) -> dict[str, Document]:
        """Of documents that are to be merged those that are stored in another form than known.

        Args:
            member: The worker.
            bases: What it knows of each.
        """
        self._heard(member)
        found = {}
        for name, base in bases.items():
            if name not in self._documents:
                self._documents[name] = self.store.document_now(name)
            stored = self._documents[name]
            if stored is not None and stored.data != base:
                found[name] = stored
        return found

    def commit(self, member: Member, checkpoint: Checkpoint) -> Receipt:
        """As `Store.commit`, but for documents: they are merged by now, see `conflicts`."""
        self._heard(member)
        touched = {
            member.claimed[ticket.bundle].host
            for ticket in checkpoint.left
            if ticket.bundle in member.claimed
        }
        undo = self._amend(checkpoint) if self._amend is not None else None
        try:
            receipt = self.store.commit_from(member.claimed, checkpoint)
        except BaseException:
            if undo is not None:
                undo()
            raise
        for name, document in checkpoint.documents.items():
            if name in self._documents:
                self._documents[name] = document
            if document is not None and name.startswith(NOTES):
                self._in_flight[name] = len(decode(document.data, name))
        self._count(member, checkpoint, receipt)
        self._settle_hosts(member, checkpoint, touched)
        has_pages = any(outcome.outcome != "skipped" for outcome in checkpoint.outcomes)
        if receipt.enqueued or checkpoint.again or has_pages:
            self._is_finished = False
        wanted = self._wanted(member)
        self._tell()
        news, member.news = member.news, {}
        totals = {name: n for name, n in self._counters.items() if "/" not in name}
        return replace(receipt, totals=totals, wanted=wanted, rests=news)

    def _count(self, member: Member, checkpoint: Checkpoint, receipt: Receipt) -> None:
        counters = self._counters
        for name, number in checkpoint.add.items():
            if "/" not in name or name in counters:
                counters[name] = counters.get(name, 0) + number
        for name, number in (
            ("requests_total", receipt.enqueued),
            ("requests_duplicate", receipt.duplicates),
        ):
            counters[name] = counters.get(name, 0) + number
        for names, granted in member.grants.items():
            done = sum(checkpoint.add.get(name, 0) for name in names)
            # A failure that is put back is for whoever tries it again.
            member.grants[names] = max(0, granted - max(0, int(done)))

    def _settle_hosts(self, member: Member, checkpoint: Checkpoint, touched: set[int]) -> None:
        for name, rest in checkpoint.rests.items():
            self._rests[name] = rest
            if (host := self._by_name.get(name)) is not None:
                for other in host.shares:
                    if other is not member:
                        other.news[name] = rest
        if len(self._rests) > MAX_RESTS:
            over = self._wall()
            self._rests = {
                name: (start, delay)
                for name, (start, delay) in self._rests.items()
                if start + max(delay, KEEP_REST) > over
            }
        for name, shares in checkpoint.shares.items():
            host = self._by_name.get(name)
            if host is not None and member in host.shares:
                host.shares[member] = min(shares, host.shares[member])
        for number in touched - {bundle.host for bundle in member.claimed.values()}:
            if (host := self._hosts.get(number)) is not None and member in host.shares:
                self._leave_host(member, host)

    def _wanted(self, member: Member) -> tuple[str, ...]:
        """Hosts of this worker that others, who have nothing to do, would take a share of."""
        idle = sum(other.is_idle for other in self._members.values() if other is not member)
        if not idle:
            return ()
        mine = [
            number
            for number, host in self._hosts.items()
            if host.shares.get(member, 0) > 1 and not host.free
        ]
        if not mine:
            return ()
        claimed = [*member.claimed, *self._bundles_but(member)]
        return tuple(
            self._hosts[number].name for number in self.store.unclaimed_hosts(mine, claimed, idle)
        )

    # -- what all workers have together ---------------------------------------------------------

    def try_lock(self, member: Member, name: str) -> bool:
        """As `Store.try_lock`."""
        self._heard(member)
        return self._locks.setdefault(name, member) is member

    def unlock(self, member: Member, name: str) -> None:
        """As `Store.unlock`."""
        self._heard(member)
        if self._locks.get(name) is member:
            del self._locks[name]
            self._tell()

    def allot(self, member: Member, counters: tuple[str, ...], most: int, wanted: int) -> Allotment:
        """As `Store.allot`."""
        self._heard(member)
        unknown = [name for name in counters if name not in self._counters]
        if unknown:
            self._counters |= {**dict.fromkeys(unknown, 0), **self.store.counters_now(unknown)}
        done = int(sum(self._counters[name] for name in counters))
        has = member.grants.get(counters, 0)
        if wanted < 0:
            granted = -min(has, -wanted)
            self._tell()
        else:
            out = sum(other.grants.get(counters, 0) for other in self._members.values())
            granted = max(0, min(wanted, most - done - out))
        member.grants[counters] = has + granted
        return Allotment(granted, done >= most)

    def finish(self, member: Member) -> bool:
        """As `Store.finish`."""
        self._heard(member)
        is_first, self._is_finished = not self._is_finished, True
        return is_first

"""RequestQueue: what is still to do.

The store holds the whole queue. In memory there is a window on it: the requests that this process
has claimed, in a lane for each host. A request that a page adds goes to the store with the next
checkpoint and can be claimed from then on. So there is one truth about what is pending, and the
same window serves ten URLs and ten million.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque

from .checkpoint import Checkpoint, Lease, Outcome, Pending, Saved, Ticket
from .clock import Clock
from .dedup import DedupSet
from .lanes import LOOK_AGAIN, Lanes
from .links import alike
from .politeness.throttle import Throttle
from .request import Request, fingerprint, host_of, identity
from .stores.base import BUNDLE, WHOLE, Claim, Receipt

LANE_ROOM = 2 * BUNDLE
"""Requests of one host that the window holds, about, as long as that is enough."""

MAX_STRETCH = 8
"""How many times that the window holds where the crawl is so fast that it runs empty meanwhile."""

MAX_LANES = 2000
"""Hosts in the window at most, however many of them have to rest."""

MANY_HOSTS = 64
"""Hosts of what a checkpoint would bring, from which on one of them is taken to be free."""


class RequestQueue:
    """Pending, in flight, waiting for a retry.

    Workers `get` requests and give each one back through `finish`, `retry`, `put_back` or
    `release`. The crawler's feeder fills the window from the store whenever the queue is `hungry`.

    Args:
        clock: The run's clock.
        throttle: Says when a host may be asked again.
        concurrency: How many requests are in flight at most; it sizes the window.
        worker: The name of this process, where it is one of several that write the run.

    Attributes:
        limit: How many requests are in flight at most, right now: `concurrency`, or less where the
            machine can bear no more. It may be changed at any time.
        hungry: Set when the feeder should look for more work.
        is_paused: Whether nothing is given out for now.
        in_flight: What workers are busy with.
        budget: How many more requests may be started; infinite unless there is a limit.
        changes: Grows with everything that is enqueued, so that one can tell whether anything was.
    """

    def __init__(
        self, clock: Clock, throttle: Throttle, *, concurrency: int = 16, worker: str = ""
    ) -> None:
        self._clock = clock
        self._throttle = throttle
        self._is_shared = bool(worker)
        self._gifts = 0  # as it was when the last claim was asked for
        self._note = f"in_flight/{worker}" if worker else "in_flight"
        self._stretch = 1
        self.resize(concurrency)
        self._limit = concurrency
        self._enqueued = DedupSet()
        self._skips = DedupSet(bits=14, most=14)

        self._lanes = Lanes(throttle)
        self._is_dry = False
        self._is_exhausted = False
        self._is_closed = False
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._due_timer: asyncio.TimerHandle | None = None

        self.hungry = asyncio.Event()
        self.in_flight: dict[Ticket, Lease] = {}
        self.is_paused = False
        self.budget = math.inf
        self.changes = 0

        # What the next checkpoint takes along, and how much of it is on its way.
        self._fresh: list[Pending] = []
        self._fresh_hosts: set[str] = set()  # of these, and of those to be tried again
        self._duplicates = 0
        self._again: list[Pending] = []
        self._forget: list[tuple[str, int, float]] = []
        self._left: list[Ticket] = []
        self._outcomes: list[Outcome] = []
        self._skipped: list[Outcome] = []
        self._unsettled = 0
        self._known_in_flight: set[Ticket] = set()
        self._reviving: set[tuple[str, int, float]] = set()

    # -- enqueue ----------------------------------------------------------------------------------

    def add(self, request: Request) -> bool:
        """Enqueue a request with the next checkpoint; `False` if it is known to be a duplicate.

        Where it is not known, the store decides in the commit.
        """
        if not self._enqueued.add(identity(request)):
            self._duplicates += 1
            return False
        host = host_of(request.url)
        self._fresh.append(Pending(request, fingerprint(request), host))
        self._fresh_hosts.add(host)
        self.changes += 1
        return True

    def add_all(self, urls: list[str], like: Request) -> None:
        """Enqueue requests that are like another one, but for their URLs; see `add`."""
        if identity(like) is not like.url:
            for request in alike(urls, like):
                self.add(request)
            return
        unknown = self._enqueued.add_all(urls)
        self._duplicates += len(urls) - len(unknown)
        if unknown:
            fresh = [
                Pending(request, fingerprint(request), host_of(request.url))
                for request in alike(unknown, like)
            ]
            self._fresh += fresh
            self._fresh_hosts.update([pending.host for pending in fresh])
            self.changes += len(unknown)

    def skip(self, outcome: Outcome) -> None:
        """Keep why a link was not enqueued, for those who ask."""
        if self._skips.add(outcome.url):
            self._skipped.append(outcome)

    def revive(self, failed: Pending, at: float) -> bool:
        """Enqueue a request that failed at that time, in the checkpoint that forgets its outcome.

        `False` where the same was asked for already and is not committed yet. Where other workers
        write the run, it goes by a checkpoint of its own: see `expect`.
        """
        key = (failed.host, failed.fingerprint, at)
        if key in self._reviving:
            return False
        self._reviving.add(key)
        self._forget.append(key)
        self._again.append(failed)
        self.changes += 1
        self.budget += 1
        return True

    def expect(self, count: int) -> None:
        """So many requests are enqueued by a checkpoint that the queue has not collected.

        It is told of its end, by `settle`, as of all others.
        """
        self._unsettled += count
        self.changes += 1

    # -- the worker's side ------------------------------------------------------------------------

    async def get(self) -> Lease | None:
        """The best request that may start now; waits for one. `None` once the queue is closed."""
        while not self._is_closed:
            lease = self._next()
            if lease is not None:
                return lease
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            # More work is of no use to a worker that has to wait for the limit.
            if len(self.in_flight) < self._limit and (
                not self._is_dry or self._may_be_done or self.is_starving
            ):
                self.hungry.set()
            await waiter
        return None

    def finish(self, lease: Lease, outcome: Outcome) -> None:
        """The request has its outcome."""
        self._outcomes.append(outcome)
        self._left.append(lease.ticket)
        self._end(lease)

    def drop(self, lease: Lease, outcome: Outcome) -> None:
        """The request is not fetched after all; it uses up none of the budget."""
        self.budget += 1
        self.finish(lease, outcome)

    def retry(self, lease: Lease, request: Request, due: float) -> None:
        """Try the request again, as `request` and not before the Unix time `due`."""
        self._again.append(Pending(request, lease.fingerprint, lease.host, due))
        self._fresh_hosts.add(lease.host)
        self._left.append(lease.ticket)
        self.changes += 1
        self.budget += 1
        self._end(lease)

    def put_back(self, lease: Lease) -> None:
        """The request goes back into the window as it was, as after a pause of its host."""
        self.budget += 1
        self._lanes.push(lease)
        self._end(lease)

    def release(self, lease: Lease) -> None:
        """The request was not finished and stays pending: the process is about to end."""
        self._end(lease)

    def close(self) -> None:
        """Give out nothing more. What waits stays in the store, what is in flight may finish."""
        self._is_closed = True
        for timer in (self._timer, self._due_timer):
            if timer is not None:
                timer.cancel()
        self._wake(len(self._waiters))
        self.hungry.set()

    @property
    def is_closed(self) -> bool:
        """Whether nothing more is given out."""
        return self._is_closed

    def pause(self) -> None:
        """Give out nothing until `resume`. What is in flight ends as usual."""
        self.is_paused = True

    def resume(self) -> None:
        """Go on after `pause`."""
        self.is_paused = False
        self._wake(1)  # each that starts wakes the next
        self.hungry.set()

    def resize(self, concurrency: int) -> None:
        """Size the window for so many requests in flight."""
        self._concurrency = concurrency
        self._low = self._stretch * (2 * concurrency + BUNDLE)
        self._room = self._stretch * LANE_ROOM

    @property
    def limit(self) -> int:
        """How many requests are in flight at most. More than that, once lowered, end as usual."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        is_raised = limit > self._limit
        self._limit = limit
        if is_raised:
            # Each that starts wakes the next.
            self._wake(1)

    def rouse(self, host: str) -> None:
        """`host` may be asked earlier than the throttle said before: look at it again."""
        if self._lanes.rouse(host):
            self._wake(1)
        elif self.is_starving:
            self.hungry.set()

    def _next(self) -> Lease | None:
        if self.is_paused or self.budget <= 0 or len(self.in_flight) >= self._limit:
            return None
        now = self._clock.now()
        lane = self._lanes.next(now)
        if lane is None:
            self._set_timer(now)
            return None
        lease = self._lanes.start(lane)
        self.budget -= 1
        self.in_flight[lease.ticket] = lease
        if len(lane.waiting) < self._room // 2 and not self._is_exhausted:
            self._is_dry = False
        if self._lanes.waiting < self._low and not self._is_dry:
            self.hungry.set()
        if self._lanes.is_any_ready:
            # One wakes the next: a lane may give more, and one that has to rest needs somebody to
            # find that out and set the timer.
            self._wake(1)
        return lease

    def _end(self, lease: Lease) -> None:
        del self.in_flight[lease.ticket]
        self._lanes.end(lease)

    # -- the window -------------------------------------------------------------------------------

    @property
    def is_starving(self) -> bool:
        """A worker is idle although a checkpoint would bring requests that it could work on.

        Not so where all of these would wait for the pace of their hosts, as the worker does.
        """
        return (
            bool(self._waiters)
            and not self._lanes.is_any_ready
            and len(self.in_flight) < self._limit
            and not self.is_paused
            and self.budget > 0
            and self._comes_at() <= self._clock.now()
        )

    def _comes_at(self) -> float:
        """Unix time from which a checkpoint would bring requests that may start; 0.0 is now."""
        if len(self._fresh_hosts) > MANY_HOSTS:
            return 0.0
        return min(map(self._throttle.ready_at, self._fresh_hosts), default=math.inf)

    @property
    def is_settled(self) -> bool:
        """Nothing is in flight, nothing waits in memory, and the store knows of everything."""
        return not (
            self.in_flight or self._lanes.waiting or self._fresh or self._again or self._unsettled
        )

    @property
    def _may_be_done(self) -> bool:
        """There is nothing that could be worked on, as far as memory knows."""
        return not self.in_flight and (not self._lanes.waiting or self.budget <= 0)

    @property
    def is_spent(self) -> bool:
        """The budget is used up, and everything that was started has ended."""
        return self.budget <= 0 and not self.in_flight

    def wants(self) -> tuple[int, dict[str, int]]:
        """How many requests to claim, and how many more of each host there is room for."""
        self._gifts = self._throttle.shares.gifts
        limit = self._low if len(self._lanes) < MAX_LANES else 0
        return limit, self._lanes.room(self._room)

    def fill(self, claim: Claim) -> None:
        """Take claimed requests into the window."""
        if self._waiters and not self._lanes.waiting and len(claim.leases) >= self._low:
            # Workers had to wait for what the store had in plenty. It has one thing to do at a
            # time, and a commit of many pages lasts longer than the window did.
            self._stretch = min(2 * self._stretch, MAX_STRETCH)
            self.resize(self._concurrency)
        self._is_dry = not claim.leases
        self._is_exhausted = claim.is_exhausted
        if self._is_shared:
            for host in {lease.host for lease in claim.leases}:
                self._throttle.share(host, claim.shares.get(host, WHOLE), self._gifts)
        for host, (start, delay) in claim.rests.items():
            if host not in self._lanes:  # or it is better known here
                self._throttle.rest(host, start, delay)
        for lease in claim.leases:
            self._lanes.push(lease)
        self._wake(len(claim.leases))
        if self._due_timer is not None:
            self._due_timer.cancel()
        if claim.next_due is not None:
            delay = max(0.0, claim.next_due - self._clock.now())
            loop = asyncio.get_running_loop()
            self._due_timer = loop.call_later(delay, self.hungry.set)

    def settle(self, checkpoint: Checkpoint, receipt: Receipt) -> None:
        """The checkpoint was committed: what it enqueued can be claimed."""
        self._unsettled -= len(checkpoint.fresh) + len(checkpoint.again)
        self._reviving.difference_update(checkpoint.forget)
        if receipt.enqueued or checkpoint.again:
            self._is_dry = self._is_exhausted = False
        if checkpoint.shares:
            self._throttle.shares.given()
        for host in receipt.wanted:
            self._throttle.split(host)
        for host, (start, delay) in receipt.rests.items():
            self._throttle.rest(host, start, delay)
        self.hungry.set()

    def look_again(self) -> None:
        """Another worker may have brought work, or have done the last of it."""
        self._is_dry = self._is_exhausted = False
        self.hungry.set()

    def allow(self, count: int) -> None:
        """So many more requests may be started."""
        self.budget += count
        if count > 0:
            self._wake(1)  # each that starts wakes the next

    def has(self, host: str) -> bool:
        """Whether requests of `host` are in the window, or in flight."""
        return host in self._lanes

    @property
    def is_idle(self) -> bool:
        """Nothing is in flight, and nothing waits in memory for its turn."""
        return not (self.in_flight or self._lanes.waiting)

    def _set_timer(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._is_closed:
            return
        at = self._lanes.next_at
        if (coming := self._comes_at()) > now:  # else the feeder is at it, and may bring nothing
            at = min(at, coming)
        if at == math.inf and self._fresh_hosts and not self.in_flight:
            at = now + LOOK_AGAIN  # as in `Lanes.next`
        if now < at < math.inf:
            self._timer = asyncio.get_running_loop().call_later(at - now, self._on_time)

    def _on_time(self) -> None:
        now = self._clock.now()
        self._wake(self._lanes.wake(now))
        if self.is_starving:
            self.hungry.set()
        self._set_timer(now)

    def _wake(self, count: int) -> None:
        while count > 0 and self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                count -= 1

    # -- persistence ------------------------------------------------------------------------------

    def restore(self, saved: Saved) -> None:
        """Nothing to take back: the store holds the queue, and it is claimed bit by bit."""

    def collect(self, checkpoint: Checkpoint) -> None:
        """Hand over everything that was enqueued or finished since the last call."""
        self._unsettled += len(self._fresh) + len(self._again)
        self._fresh_hosts.clear()
        checkpoint.fresh, self._fresh = self._fresh, []
        checkpoint.duplicates, self._duplicates = self._duplicates, 0
        checkpoint.again, self._again = self._again, []
        checkpoint.forget, self._forget = self._forget, []
        checkpoint.left, self._left = self._left, []
        checkpoint.outcomes, self._outcomes = self._outcomes, []
        checkpoint.skipped, self._skipped = self._skipped, []
        if self.in_flight.keys() != self._known_in_flight:
            # For those who look at the run from outside; a restart has no use for it.
            self._known_in_flight = set(self.in_flight)
            busy = [(lease.host, lease.fingerprint) for lease in self.in_flight.values()]
            checkpoint.save(busy, key=self._note)

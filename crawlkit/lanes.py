"""Lanes: the requests that this process has claimed, by host, and whose turn it is.

A lane is in one of four states: nothing waits in it; it is ready, and its turn comes; it rests, as
the throttle says that its host may not be asked before some time; or it is at its host's limit, and
the first of its requests to end gets it ready again.
"""

from __future__ import annotations

import math
from heapq import heappop, heappush

from .checkpoint import Lease
from .politeness.throttle import Throttle

LOOK_AGAIN = 0.1
"""Seconds until a host is looked at again that somebody else keeps at its limit."""


class Lane:
    """The claimed requests of one host, best first."""

    __slots__ = ("active", "host", "is_lined_up", "rests_until", "waiting")

    def __init__(self, host: str) -> None:
        self.host = host
        self.waiting: list[tuple[int, int, Lease]] = []
        self.active = 0
        self.is_lined_up = False  # among the ready lanes or the resting ones
        self.rests_until = 0.0  # among the resting ones, with this time


class Lanes:
    """The lanes of all hosts of which something waits or is in flight.

    Args:
        throttle: Says when a host may be asked again.

    Attributes:
        waiting: How many requests wait, in all lanes together.
    """

    __slots__ = ("_lanes", "_ready", "_resting", "_throttle", "_turn", "waiting")

    def __init__(self, throttle: Throttle) -> None:
        self.waiting = 0
        self._throttle = throttle
        self._lanes: dict[str, Lane] = {}
        self._ready: list[tuple[int, int, Lane]] = []
        self._resting: list[tuple[float, int, Lane]] = []
        self._turn = 0

    def __contains__(self, host: str) -> bool:
        return host in self._lanes

    def __len__(self) -> int:
        return len(self._lanes)

    @property
    def is_any_ready(self) -> bool:
        """Whether the turn of a lane may have come."""
        return bool(self._ready)

    @property
    def next_at(self) -> float:
        """Unix time until which the first of the resting lanes rests; infinite where none does."""
        return self._resting[0][0] if self._resting else math.inf

    def room(self, most: int) -> dict[str, int]:
        """How many more requests there is room for in each lane, where `most` may wait in one."""
        return {host: most - len(lane.waiting) for host, lane in self._lanes.items()}

    def push(self, lease: Lease) -> None:
        """Have a request wait for its turn, after those of its host that are as good."""
        lane = self._lanes.get(lease.host)
        if lane is None:
            lane = self._lanes[lease.host] = Lane(lease.host)
        self._turn += 1
        heappush(lane.waiting, (-lease.request.priority, self._turn, lease))
        self.waiting += 1
        self._line_up(lane)

    def next(self, now: float) -> Lane | None:
        """The lane whose turn it is, if there is one: `start` has to be called for it."""
        if self._resting:
            self.wake(now)
        while self._ready:
            lane = heappop(self._ready)[2]
            lane.is_lined_up = False
            start_at = self._throttle.ready_at(lane.host)
            if start_at <= now:
                return lane
            if start_at == math.inf:
                if lane.active:
                    # The host is at its limit, and the first of its pages to end lines it up.
                    continue
                # None of its pages is in flight: a redirect or the like keeps the host busy.
                start_at = now + LOOK_AGAIN
            self._turn += 1
            heappush(self._resting, (start_at, self._turn, lane))
            lane.rests_until = start_at
            lane.is_lined_up = True
        return None

    def start(self, lane: Lane) -> Lease:
        """Start the best request of a lane."""
        lease = heappop(lane.waiting)[2]
        self.waiting -= 1
        lane.active += 1
        self._throttle.started(lane.host)
        self._line_up(lane)
        return lease

    def end(self, lease: Lease) -> None:
        """A request that was started is over, however it ended."""
        self._throttle.finished(lease.host)
        lane = self._lanes[lease.host]
        lane.active -= 1
        if lane.rests_until and self._throttle.ready_at(lane.host) < lane.rests_until:
            # What the page cache answered has not asked the host, and it need not rest.
            self._end_rest(lane)
        else:
            self._line_up(lane)
        if not (lane.waiting or lane.active or lane.is_lined_up):
            del self._lanes[lease.host]

    def rouse(self, host: str) -> bool:
        """Look at a host again that may be asked earlier than the throttle said before.

        Returns:
            Whether something waits for it.
        """
        lane = self._lanes.get(host)
        if lane is None or not lane.waiting:
            return False
        if lane.rests_until:
            self._end_rest(lane)
        else:
            self._line_up(lane)
        return True

    def wake(self, now: float) -> int:
        """Get the lanes ready that have rested for long enough; how many there were."""
        count = 0
        while self._resting and self._resting[0][0] <= now:
            until, _, lane = heappop(self._resting)
            if lane.rests_until == until:  # else it was roused before its time
                self._end_rest(lane)
                count += 1
        return count

    def _end_rest(self, lane: Lane) -> None:
        lane.rests_until = 0.0
        lane.is_lined_up = False
        self._line_up(lane)

    def _line_up(self, lane: Lane) -> None:
        # Lanes of one priority take turns, so that a large host does not keep the others waiting.
        if lane.waiting and not lane.is_lined_up:
            self._turn += 1
            heappush(self._ready, (lane.waiting[0][0], self._turn, lane))
            lane.is_lined_up = True

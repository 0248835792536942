"""Throttle: how fast each host is asked, and when it is left alone for a while."""

from __future__ import annotations

import random
from collections.abc import Callable
from heapq import heappop, heappush
from math import inf

from .checkpoint import MAX_DELAY, Checkpoint, Saved
from .clock import Clock

MAX_PAUSE = 3600.0
"""Seconds that a host is left alone at most, whatever it asks for."""
FIRST_PAUSE = 2.0
"""Seconds of the first pause, where the host does not say how long; the next is twice as long."""
MAX_OWN_PAUSE = 300.0
"""Seconds of the longest pause, where the host does not say how long."""
STRIKE_MEMORY = 600.0
"""Seconds after a pause for which a host that was not asked again keeps its strikes."""


class _Host:
    """What is known of a host for as long as it matters."""

    __slots__ = ("in_flight", "is_watched", "next_start", "paused_at", "paused_until", "strikes")

    def __init__(self) -> None:
        self.in_flight = 0
        self.next_start = 0.0
        self.paused_at = 0.0
        self.paused_until = 0.0
        self.strikes = 0
        self.is_watched = False  # whether it stands in the heap of hosts to be forgotten


class Throttle:
    """How fast each host is asked. A persisted part: pauses outlive the process.

    A request for a host may start when fewer than `concurrency_per_host` are in flight there, when
    the last one started at least `delay` ago, and when no pause is in force. The caller asks
    `ready_at`, and tells of each request `started` and `finished`.

    A host that nothing is in flight for, and whose delay and pause are over, takes no memory.

    Args:
        clock: What delays and pauses are measured by.
        concurrency_per_host: Requests in flight at one host, at most.
        delay: Seconds between the starts of two requests to one host, at least.
    """

    def __init__(self, clock: Clock, *, concurrency_per_host: int = 8, delay: float = 0.0) -> None:
        self._clock = clock
        self._concurrency = concurrency_per_host
        self._delay = delay
        self._hosts: dict[str, _Host] = {}
        self._idle: list[tuple[float, str]] = []  # heap: when to forget which host
        self._paused: set[str] = set()  # hosts with strikes: what is saved
        self._is_changed = False

    def __len__(self) -> int:
        """Hosts that take memory."""
        return len(self._hosts)

    def ready_at(self, host: str) -> float:
        """Unix time from which one more request to `host` may start.

        0.0 is now, and so is any time that has passed. ``math.inf`` is when one of those in flight
        is finished.
        """
        known = self._hosts.get(host)
        if known is None:
            return 0.0
        if known.in_flight >= self._concurrency:
            return inf
        return max(known.next_start, known.paused_until)

    def started(self, host: str) -> None:
        """A request to `host` starts."""
        known = self._hosts.get(host)
        if known is None:
            if self._idle:
                self._forget_idle()
            known = self._hosts[host] = _Host()
        known.in_flight += 1
        if self._delay:
            known.next_start = self._clock.now() + self._delay

    def finished(self, host: str) -> None:
        """A request to `host` is over, however it ended. Once for each `started`."""
        known = self._hosts[host]
        known.in_flight -= 1
        if not known.in_flight:
            if known.next_start or known.strikes:
                self._watch(host, known)
            elif not known.is_watched:
                del self._hosts[host]

    # -- pauses -------------------------------------------------------------------------------

    def pause(
        self, host: str, seconds: float | None = None, *, started_at: float | None = None
    ) -> float:
        """Leave `host` alone for a while: it answered 429 or 503.

        However many requests in flight are answered so, it counts as one pause. The first that
        comes after a pause counts as the next strike.

        Args:
            host: ``host[:port]``.
            seconds: How long, where the host says it (``Retry-After``), an hour at most. ``None``
                is 2 s, and twice as long at each strike without a success in between, up to 5 min.
            started_at: Unix time at which the request started that was so answered. With it, an
                answer that was slower than the pause still counts to the pause.

        Returns:
            Unix time until which the host is left alone.
        """
        now = self._clock.now()
        known = self._hosts.get(host)
        if known is None:
            known = self._hosts[host] = _Host()
        is_same = now < known.paused_until or (
            started_at is not None and known.strikes > 0 and started_at <= known.paused_at
        )
        if not is_same:
            known.strikes += 1
            known.paused_at = now
            self._paused.add(host)
            if seconds is None:
                # Beyond 2 ** 20 it is the maximum anyway, and a float would overflow at last.
                growth = 2.0 ** min(known.strikes - 1, 20)
                seconds = min(FIRST_PAUSE * growth, MAX_OWN_PAUSE)
        if seconds is not None:
            until = now + min(max(seconds, 0.0), MAX_PAUSE)
            # Of several answers the one that asks for more is right, for it will be obeyed.
            if until > known.paused_until or not is_same:
                known.paused_until = until
                self._is_changed = True
        if not known.in_flight:
            self._watch(host, known)
        return known.paused_until

    def succeeded(self, host: str, *, started_at: float | None = None) -> None:
        """A request to `host` was answered well: its strikes are forgotten.

        Not so while a pause is in force, or where the request started before it (`started_at`):
        it shows nothing about how the host is after the pause.
        """
        known = self._hosts.get(host)
        if known is None or not known.strikes or self._clock.now() < known.paused_until:
            return
        if started_at is not None and started_at <= known.paused_at:
            return
        known.strikes = 0
        known.paused_until = 0.0
        self._paused.discard(host)
        self._is_changed = True

    def strikes(self, host: str) -> int:
        """Consecutive pauses of `host` without a success in between."""
        known = self._hosts.get(host)
        return known.strikes if known is not None else 0

    # -- memory -------------------------------------------------------------------------------

    def _watch(self, host: str, known: _Host) -> None:
        """See to it that an idle host is forgotten when its time is over."""
        if not known.is_watched:
            known.is_watched = True
            heappush(self._idle, (_end(known), host))

    def _forget_idle(self) -> None:
        """Forget up to two hosts whose time is over: more than can come at one call."""
        now = self._clock.now()
        for _ in range(2):
            if not self._idle or self._idle[0][0] > now:
                return
            _, host = heappop(self._idle)
            known = self._hosts[host]
            known.is_watched = False
            if known.in_flight:
                continue
            if _end(known) > now:
                self._watch(host, known)
                continue
            del self._hosts[host]
            if host in self._paused:
                self._paused.discard(host)
                self._is_changed = True

    # -- a persisted part ---------------------------------------------------------------------

    def restore(self, saved: Saved) -> None:
        """Take back the pauses of the last life."""
        now = self._clock.now()
        pauses = saved.load({}, type=dict[str, tuple[float, int, float]])
        for host, (until, strikes, seconds) in pauses.items():
            known = self._hosts[host] = _Host()
            # The clock may have been set back in between; a pause gets no longer by that.
            known.paused_until = min(until, now + seconds)
            known.paused_at = now
            known.strikes = strikes
            self._paused.add(host)
            self._watch(host, known)

    def collect(self, checkpoint: Checkpoint) -> None:
        """Add the pauses, where they changed, as ``{host: [until, strikes, seconds]}``."""
        if self._is_changed:
            self._is_changed = False
            checkpoint.save(
                {
                    host: (known.paused_until, known.strikes, known.paused_until - known.paused_at)
                    for host in sorted(self._paused)
                    if (known := self._hosts[host])
                }
            )


def _end(known: _Host) -> float:
    """Unix time at which an idle host may be forgotten."""
    return max(known.next_start, known.paused_until + STRIKE_MEMORY if known.strikes else 0.0)


def backoff(
    retry_count: int,
    *,
    base: float = 0.5,
    factor: float = 2.0,
    maximum: float = MAX_DELAY,
    rng: Callable[[], float] = random.random,
) -> float:
    """Seconds to wait before a request is tried again.

    Exponential with "equal jitter": half of the time is certain, the other half is random, so that
    requests that failed together do not come back together (M. Brooker, "Exponential Backoff And
    Jitter", AWS Architecture Blog, 2015).

    Args:
        retry_count: How many times it was tried again before; 0 for the first time.
        base: Seconds, before the jitter, for the first time.
        factor: By how much each wait is longer than the one before.
        maximum: Seconds at most.
        rng: Gives numbers from 0 to 1.
    """
    try:
        wait = min(maximum, base * factor**retry_count)
    except OverflowError:
        wait = maximum
    return wait * (0.5 + 0.5 * rng())

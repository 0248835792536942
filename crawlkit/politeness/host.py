"""Host: what is known of one host, and what follows from it for how fast that host is asked."""

from __future__ import annotations

from math import ceil, inf
from typing import NamedTuple

import msgspec

from ..stores.base import WHOLE
from .tempo import Tempo

MAX_PAUSE = 3600.0
"""Seconds that a host is left alone at most, whatever it asks for."""
FIRST_PAUSE = 2.0
"""Seconds of the first pause, where the host does not say how long; the next is twice as long."""
MAX_OWN_PAUSE = 300.0
"""Seconds of the longest pause, where the host does not say how long."""
STRIKE_MEMORY = 600.0
"""Seconds after a pause for which a host that was not asked again keeps its strikes."""

FIRST_PENALTY = 0.25
"""Seconds between two starts after the first pause of a host; doubled by each further one."""
PENALTY_DECAY = 1 / 32
"""Share of the penalty that each success takes off: 22 of them halve it."""
LEAST_PENALTY = 0.01
"""Seconds below which a penalty is over."""

TEMPO_MEMORY = 60.0
"""Seconds for which an idle host that was asked much keeps what is known of its answers."""

UNKNOWN = -1.0
"""What a host asks for in its robots.txt, before that was read."""


class Pause(msgspec.Struct, array_like=True, frozen=True):
    """A pause as it is saved, or the penalty alone that a host came with from another worker.

    Attributes:
        until: When it ends, as Unix time; 0 where there is none.
        strikes: Consecutive pauses without a success in between.
        seconds: How long it is. Earlier versions saved ``None`` where there is none.
        penalty: Seconds of delay that follow.
    """

    until: float
    strikes: int
    seconds: float | None
    penalty: float


class HeldBack(NamedTuple):
    """A host that is asked more slowly than it might be.

    Attributes:
        host: ``host[:port]``.
        in_flight: Requests to it that are under way.
        limit: How many there may be.
        delay: Seconds between the starts of two.
        pause: Seconds for which it is left alone altogether.
        strikes: Consecutive pauses without a success in between.
    """

    host: str
    in_flight: int
    limit: int
    delay: float
    pause: float
    strikes: int


class Host:
    """What is known of a host for as long as it matters. All times are Unix times.

    The `Throttle` reads and counts here directly what changes with each request. What changes more
    rarely, and is decided by what this one host is like, has methods.

    Args:
        limit: Requests that may be in flight.
        pace: Seconds between the starts of two.
        asked: What its robots.txt asks for, as far as that is known.

    Attributes:
        in_flight: Requests that are under way.
        limit: How many there may be.
        pace: Seconds between the starts of two.
        shares: How many of the `WHOLE` shares of it are this worker's.
        asked: Seconds of delay that its robots.txt asks for, as it says it; `UNKNOWN` before that
            was read.
        crawl_delay: The same as it is obeyed.
        last_start: When the last request started; known only where there is a pace.
        next_start: When the next one may start, but for pauses.
        next_before: `next_start` as it was before the last start.
        paused_at: When the last pause began.
        paused_until: When it ends.
        strikes: Consecutive pauses without a success in between.
        penalty: Seconds of delay that follow from them, and shrink with each success.
        saved_penalty: The same when it was last worth saving; half of that is worth it again.
        tempo: How quickly it answers, where it was asked for more than one thing at a time.
        keep_until: Until when it is remembered although it is idle.
        is_watched: Whether it stands in the heap of hosts to be forgotten.
    """

    __slots__ = (
        "asked",
        "crawl_delay",
        "in_flight",
        "is_watched",
        "keep_until",
        "last_start",
        "limit",
        "next_before",
        "next_start",
        "pace",
        "paused_at",
        "paused_until",
        "penalty",
        "saved_penalty",
        "shares",
        "strikes",
        "tempo",
    )

    def __init__(self, limit: int, pace: float, asked: float | None) -> None:
        self.in_flight = 0
        self.limit = limit
        self.pace = pace
        self.shares = WHOLE
        self.asked = asked
        self.crawl_delay = 0.0
        self.last_start = 0.0
        self.next_start = 0.0
        self.next_before = 0.0
        self.paused_at = -inf
        self.paused_until = 0.0
        self.strikes = 0
        self.penalty = 0.0
        self.saved_penalty = 0.0
        self.tempo: Tempo | None = None
        self.keep_until = 0.0
        self.is_watched = False

    @property
    def ready_at(self) -> float:
        """When a request may start, but for how many are in flight."""
        return max(self.next_start, self.paused_until)

    @property
    def matters_until(self) -> float:
        """When it may be forgotten, if it is idle."""
        memory = self.paused_until + STRIKE_MEMORY if self.is_in_trouble else 0.0
        return max(self.next_start, self.keep_until, memory)

    @property
    def is_in_trouble(self) -> bool:
        """Whether it has had a pause that it has not recovered from."""
        return bool(self.strikes or self.penalty)

    # -- how fast -----------------------------------------------------------------------------

    def set_limit(self, concurrency: int) -> None:
        """Decide how many requests may be in flight: `concurrency` at most."""
        if self.asked == UNKNOWN:
            self.limit = 1
            return
        limit = concurrency
        if self.shares < WHOLE:
            limit = max(1, limit * self.shares // WHOLE)
        if self.tempo is not None:
            limit = min(limit, ceil(self.tempo.window))
        self.limit = limit

    def set_pace(self, delay: float, now: float) -> bool:
        """Take the largest of the delays, `delay` at least.

        Returns:
            Whether it is a longer one than before, which then holds from now on.
        """
        before = self.pace
        adapted = self.tempo.delay if self.tempo is not None else 0.0
        self.pace = max(delay, self.crawl_delay, self.penalty, adapted)
        self.pace *= WHOLE / self.shares
        if self.pace <= before:
            return False
        self.next_start = max(self.next_start, now + self.pace)
        return True

    def may_be_split(self, concurrency: int, now: float) -> bool:
        """Whether another worker may have half of this one's shares, as far as the host says.

        It is where it asks for no delay, is not paused, and may have requests enough in flight for
        both. One that answers slowly may do so as this process is busy, so only where it is very
        slow another worker would not help.
        """
        return not (
            self.asked == UNKNOWN
            or self.crawl_delay
            or self.penalty
            or self.paused_until > now
            or concurrency * (self.shares // 2) < WHOLE
            or (self.tempo is not None and self.tempo.window < concurrency / 4)
        )

    def rest(self, start: float, delay: float, max_delay: float) -> None:
        """Another worker asked it last: see `Throttle.rest`."""
        # The last start was at `start - delay`; what holds here may be longer.
        start = max(start, start - delay + self.pace)
        self.next_start = self.next_before = max(self.next_start, start)
        if delay > self.pace:
            self.penalty = self.saved_penalty = min(delay, max_delay)
            self.pace = max(self.pace, self.penalty)

    # -- pauses -------------------------------------------------------------------------------

    def is_of_the_last_pause(self, now: float, started_at: float | None) -> bool:
        """Whether an answer says nothing of the time after the last pause.

        Args:
            now: When it came.
            started_at: When its request started, if that is known.
        """
        return now < self.paused_until or (started_at is not None and started_at <= self.paused_at)

    def strike(self, now: float, max_delay: float) -> None:
        """It has to be paused once more, and is asked more slowly after that."""
        self.strikes += 1
        self.paused_at = now
        penalty = max(FIRST_PENALTY, 2 * self.penalty)
        self.penalty = self.saved_penalty = min(penalty, max_delay)

    def own_pause(self) -> float:
        """Seconds of a pause, where it does not say how long."""
        # Beyond 2 ** 20 it is the maximum anyway, and a float would overflow at last.
        return min(FIRST_PAUSE * 2.0 ** min(self.strikes - 1, 20), MAX_OWN_PAUSE)

    def recover(self) -> bool:
        """It answered well after its pause: its strikes are forgotten, its penalty shrinks.

        Returns:
            Whether that is worth saving.
        """
        is_news = self.strikes > 0
        if is_news:
            self.strikes = 0
            self.paused_until = 0.0
        self.penalty -= self.penalty * PENALTY_DECAY
        if self.penalty < LEAST_PENALTY:
            self.penalty = 0.0
        if self.penalty <= self.saved_penalty / 2:
            self.saved_penalty = self.penalty
            is_news = True
        return is_news

    def pause(self) -> Pause:
        """Its last pause, to be saved."""
        # A host that was never paused here has no beginning of a pause, either.
        seconds = max(0.0, self.paused_until - self.paused_at) if self.paused_until else 0.0
        return Pause(self.paused_until, self.strikes, seconds, self.penalty)

    def resume(self, pause: Pause, now: float, max_delay: float) -> None:
        """Go on with a pause of an earlier life; it gets no longer where the clock was set back."""
        self.paused_until = min(pause.until, now + (pause.seconds or 0.0))
        self.paused_at = now
        self.strikes = pause.strikes
        self.penalty = self.saved_penalty = min(pause.penalty, max_delay)
        self.pace = max(self.pace, self.penalty)

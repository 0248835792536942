"""Tempo: how quickly a host answers, and the delay that follows from it."""

from __future__ import annotations

from math import inf

from ..clock import Clock

SLOW = 3.0
"""A host is slow when its answers take this many times what they take at its best."""
SLACK = 0.1
"""Seconds that an answer may take longer, besides: what is this quick needs no protection."""
ROUND = 1.0
"""Seconds after which it is judged anew how quickly a host answers, at least."""
ROUND_ANSWERS = 8
"""Answers of a round, at least: fewer say little (N_RTT_SAMPLE of RFC 9406)."""
PACED_ANSWERS = 3
"""The same for a host that is being asked slowly, and so gives few of them."""
LEAST_WINDOW = 0.5
"""The slowest: the host rests as long as it takes to answer."""
BEST_MEMORY = 300.0
"""Seconds for which the best of a host counts, at least; twice as many at most."""
LOOP_TURNS = 4.0
"""Turns of the event loop in an answer: each takes longer by what the loop is late."""


class Tempo:
    """How quickly a host answers, and the delay that follows from it.

    A host is slow when the quickest answer of a round (a second and eight answers, at least) takes
    over 3 times its best and 0.1 s more, in two rounds in a row. Then the *window*, the requests
    that it may have in flight, is halved in each slow round, down to 0.5, and grows by 1 in each
    other round. The delay between two starts is the time of an answer divided by the window, which
    spreads the requests evenly. With a window of 1 there is one request at a time; with one of 0.5
    the host rests as long as it works. A host that is not slow has its whole window and no delay.

    One that is slow from the start, or has been for some ten minutes, is not overloaded by us. Its
    best is what it does, and its window is what bounds it.

    What counts is the quickest answer of a round, not the average: a page that takes long to make
    is no sign of a host that is overloaded, and one that is makes all of them wait. Errors do not
    count, for errors are quick.

    The law is that of TCP: additive increase and multiplicative decrease (Chiu and Jain, 1989),
    with delay as the sign of congestion and the best round-trip time as its measure (TCP Vegas,
    Brakmo and Peterson, 1995), taken as the minimum of at least eight samples (HyStart++, RFC
    9406). That the delay is the latency divided by the wanted concurrency, and that errors do not
    shorten it, is Scrapy's AutoThrottle, which slows down for every host, also for quick ones.

    An answer also takes long when this very process is busy, and a crawl is not to slow down for
    its own slowness, over and over. So an answer may take longer by 4 times the event loop's delay.

    Args:
        clock: The run's clock.
        most: Requests that may be in flight at the host, at most.
        max_delay: Seconds of the delay, at most.

    Attributes:
        delay: Seconds between the starts of two requests.
        window: Requests that may be in flight; less than 1 is one, and a rest after it.
    """

    __slots__ = (
        "_aged",
        "_best",
        "_clock",
        "_ends",
        "_expires",
        "_left",
        "_max_delay",
        "_most",
        "_quickest",
        "_was_slow",
        "delay",
        "window",
    )

    def __init__(self, clock: Clock, most: int, max_delay: float) -> None:
        self._clock = clock
        self._most = most
        self._max_delay = max_delay
        self._best = inf
        self._aged = inf  # the best of the time before
        self._expires = 0.0  # when `_best` becomes `_aged`
        self._ends = 0.0  # when the round may end
        self._left = ROUND_ANSWERS  # answers until then
        self._quickest = inf
        self._was_slow = False
        self.delay = 0.0
        self.window: float = most

    @property
    def is_known(self) -> bool:
        """Whether there were answers enough to say anything."""
        return self._ends > 0.0

    def answered(self, seconds: float, local_delay: float) -> bool:
        """An answer took so many seconds; `True` when the delay is another one now.

        Args:
            seconds: From the start of the request to its response.
            local_delay: Seconds by which the event loop is late.
        """
        if seconds < self._quickest:
            self._quickest = seconds
        self._left -= 1
        if self._left > 0:
            return False
        now = self._clock.now()
        if not self._ends:
            self._ends, self._expires = now + ROUND, now + BEST_MEMORY
        # A host that is asked slowly gives few answers; between them the clock is looked at more.
        self._left = PACED_ANSWERS if self.delay else ROUND_ANSWERS
        if now < self._ends:
            return False
        quickest, self._quickest = max(self._quickest, 1e-6), inf
        self._ends = now + ROUND
        return self._judge(now, quickest, SLACK + LOOP_TURNS * local_delay)

    def _judge(self, now: float, quickest: float, slack: float) -> bool:
        if now >= self._expires:
            # What a host was like long ago says little: it may have moved, or this is another part
            # of the site.
            self._aged, self._best, self._expires = self._best, inf, now + BEST_MEMORY
        is_slow = quickest > SLOW * min(self._best, self._aged) + slack
        self._best = min(self._best, quickest)
        if not is_slow:
            self._was_slow = False
            if self.window >= self._most:
                return False
            self.window = min(self.window + 1.0, self._most)
        elif not self._was_slow:
            # One round may be slow by chance, or because this process itself was held up.
            self._was_slow = True
            return False
        else:
            self.window = max(self.window / 2, LEAST_WINDOW)
        delay = quickest / self.window if self.window < self._most else 0.0
        self.delay = min(delay, self._max_delay)
        return True

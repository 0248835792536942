"""Backoff: how long a request waits before it is tried again."""

from __future__ import annotations

import random
from collections.abc import Callable

from ..checkpoint import MAX_DELAY


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

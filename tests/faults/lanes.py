"""Lanes: disturbed runs, some of them side by side, until all that is to befall them has."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

F = TypeVar("F")
R = TypeVar("R")


def in_lanes(
    faults: Iterable[F],
    disturb: Callable[[int, list[F]], R],
    done: Callable[[int, R], int],
    *,
    each: int,
    lanes: int,
) -> None:
    """Disturb one run after the other. What one ends too early for is left for another.

    Args:
        faults: All that is to befall them.
        disturb: Does the run of a number with its part of the faults, beside others.
        done: Called with the number of a run and what became of it, while no other run ends; it
            says how many of the faults came about.
        each: How many of them a run is given, at most.
        lanes: How many runs go on at once.
    """
    left = list(faults)
    numbers = itertools.count()
    lock = threading.Lock()

    def take() -> tuple[int, list[F]] | None:
        with lock:
            taken = left[:each]
            del left[:each]
            return (next(numbers), taken) if taken else None

    def lane() -> None:
        while taken := take():
            number, part = taken
            became = disturb(number, part)
            with lock:
                left.extend(part[done(number, became) :])

    with ThreadPoolExecutor(lanes) as pool:
        for ended in as_completed([pool.submit(lane) for _ in range(lanes)]):
            ended.result()

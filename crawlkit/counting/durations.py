"""Durations: minimum, mean, maximum and quantiles, from counters that can be added up.

The quantiles are those of a DDSketch (Masson, Rim and Lee, "DDSketch: a fast and fully-mergeable
quantile sketch with relative-error guarantees", PVLDB 12(12), 2019): a duration is counted in a
bucket whose width is a fixed share of its value. Such counts are the same however the durations
were divided among workers and lives, and the memory does not depend on how many there were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, log

import msgspec

from ..checkpoint import Number

ACCURACY = 0.02
"""A quantile is off by at most this share of its value."""

_GAMMA = (1 + ACCURACY) / (1 - ACCURACY)
_PER_BUCKET = 1 / log(_GAMMA)
# Shorter than any clock can tell; the logarithm of nought does not exist.
_SHORTEST = 1e-6


class Durations(msgspec.Struct, frozen=True):
    """How long requests took, in seconds. All but `count` are ``None`` where there were none.

    Attributes:
        count: How many there were.
        min: The shortest, exactly.
        mean: The mean, exactly.
        max: The longest, exactly.
        p50: The median; as the other quantiles off by at most 2 % of its value (`ACCURACY`).
        p90: Nine in ten were at most this long.
        p95: 95 in 100 were at most this long.
        p99: 99 in 100 were at most this long.
    """

    count: int = 0
    min: float | None = None
    mean: float | None = None
    max: float | None = None
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None


class Sketch:
    """Durations, counted: what `Durations` are read from."""

    __slots__ = ("_buckets", "_least", "_most", "_sum")

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self._sum = 0.0
        self._least = float("inf")
        self._most = 0.0

    def record(self, seconds: float) -> None:
        """Count one duration."""
        bucket = _bucket_of(seconds)
        buckets = self._buckets
        buckets[bucket] = buckets.get(bucket, 0) + 1
        self._sum += seconds
        if seconds < self._least:
            self._least = seconds
        if seconds > self._most:
            self._most = seconds

    def histogram(self, bounds: Sequence[float]) -> tuple[list[int], int, float]:
        """How many took at most each of the `bounds`, how many there are, and their sum.

        A duration that is within 2 % of a bound may be counted on its other side.
        """
        counts = [0] * len(bounds)
        total = 0
        for bucket, n in self._buckets.items():
            total += n
            middle = _middle(bucket)
            for place, bound in enumerate(bounds):
                if middle <= bound:
                    counts[place] += n
        return counts, total, self._sum

    def quantile(self, share: float) -> float | None:
        """The duration that `share` of them take at most; ``None`` where there are none."""
        buckets = sorted((bucket, n) for bucket, n in self._buckets.items() if n > 0)
        return self._quantile(share, buckets, sum(n for _, n in buckets)) if buckets else None

    def take_back(self, seconds: float) -> None:
        """Uncount one duration. The shortest and the longest stay what they were."""
        bucket = _bucket_of(seconds)
        self._buckets[bucket] = self._buckets.get(bucket, 0) - 1
        self._sum -= seconds

    def summary(self) -> Durations:
        """What was counted so far."""
        # A bucket may be back at nought: failed requests that were put back are taken out again.
        buckets = sorted((bucket, n) for bucket, n in self._buckets.items() if n > 0)
        total = sum(n for _, n in buckets)
        if not total:
            return Durations()

        def quantile(share: float) -> float:
            return self._quantile(share, buckets, total)

        return Durations(
            count=total,
            min=self._least,
            mean=self._sum / total,
            max=self._most,
            p50=quantile(0.5),
            p90=quantile(0.9),
            p95=quantile(0.95),
            p99=quantile(0.99),
        )

    def buckets(self) -> dict[int, int]:
        """How many there are in each bucket, to be given to `since` later."""
        return self._buckets.copy()

    def since(self, buckets: Mapping[int, int]) -> Sketch:
        """What was counted since the `buckets` were these, as exact as quantiles are."""
        later = Sketch()
        for bucket, n in self._buckets.items():
            if (more := n - buckets.get(bucket, 0)) > 0:
                seconds = _middle(bucket)
                later._buckets[bucket] = more
                later._sum += more * seconds
                later._least = min(later._least, seconds)
                later._most = max(later._most, seconds)
        return later

    def _quantile(self, share: float, buckets: list[tuple[int, int]], total: int) -> float:
        rank = share * (total - 1)
        reached = 0
        for bucket, n in buckets:
            reached += n
            if reached > rank:
                return min(max(_middle(bucket), self._least), self._most)
        return self._most

    # -- as counters ----------------------------------------------------------------------------

    def counts(self) -> dict[str, Number]:
        """The counters that can be added up, by name."""
        counts: dict[str, Number] = {f"bucket/{bucket}": n for bucket, n in self._buckets.items()}
        if self._buckets:
            counts["sum"] = self._sum
        return counts

    def least(self) -> dict[str, Number]:
        """The counter that keeps the smallest value."""
        return {"min": self._least} if self._buckets else {}

    def most(self) -> dict[str, Number]:
        """The counter that keeps the largest value."""
        return {"max": self._most} if self._buckets else {}

    def restore(self, name: str, value: Number) -> None:
        """Take back one counter: one of `counts`, `least` or `most`."""
        if name == "sum":
            self._sum = value
        elif name == "min":
            self._least = value
        elif name == "max":
            self._most = value
        else:
            self._buckets[int(name.removeprefix("bucket/"))] = int(value)


def _middle(bucket: int) -> float:
    """The point of the bucket from which both its ends are equally far, relatively."""
    return 2 * _GAMMA**bucket / (_GAMMA + 1)


def _bucket_of(seconds: float) -> int:
    return ceil(log(seconds if seconds > _SHORTEST else _SHORTEST) * _PER_BUCKET)

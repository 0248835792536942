"""Lives: what each life of a run did, in a bounded number of them.

A life is what one start of the run did until its end, be that its own or that of a killed process.
What is kept of it is where the run's totals stood at its beginning. The difference to the beginning
of the next life, or to now, is what it did: no number is counted twice, the lives add up to the
run, also after kill -9 and where several workers count, and the document changes twice a life.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import msgspec

from .. import __version__
from ..checkpoint import Checkpoint, Number, Saved
from ..clock import isoformat

LIVES = 100
"""Lives that are told apart. Those before them are summed."""

End: TypeAlias = Literal["finished", "stopped"]


class LifeStatistics(msgspec.Struct, frozen=True):
    """What one life of a run did, or several of the earliest together.

    Attributes:
        number: Which it was, from 1; the last one, of several.
        lives: How many they are: 1, but for the earliest of a run with very many.
        version: The crawlkit that it ran with; the last one, of several.
        started_at: When it began; the first one, of several.
        ended_at: When its last checkpoint was; the last one, of several.
        end: ``finished``, ``stopped``, or ``None`` where it still goes on or was killed.
        runtime_seconds: Seconds that it ran.
        requests_finished: Requests that were handled.
        requests_failed: Requests that were given up, less those that were put back or dropped.
        requests_retried: Tries that failed and were made again.
        requests_skipped: Links and requests that were not fetched.
        requests_dropped: Requests that were enqueued and then left unfetched.
        requests_total: Requests that were enqueued.
        requests_duplicate: Links and requests that had been enqueued already.
        items_saved: Items.
        bytes_received: Bytes of bodies of responses.
        cache_hits: Pages that came from the page cache.
        cache_misses: Pages that were not in it.
        cache_revalidated: Pages that the site confirmed to be unchanged.
        cache_stored: Pages that were put into it.
        cache_bytes_saved: Bytes of bodies that the page cache spared the sites.
    """

    number: int
    lives: int
    version: str | None
    started_at: str | None
    ended_at: str | None
    end: End | None
    runtime_seconds: float = 0.0
    requests_finished: int = 0
    requests_failed: int = 0
    requests_retried: int = 0
    requests_skipped: int = 0
    requests_dropped: int = 0
    requests_total: int = 0
    requests_duplicate: int = 0
    items_saved: int = 0
    bytes_received: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    cache_revalidated: int = 0
    cache_stored: int = 0
    cache_bytes_saved: int = 0


TOTALS = LifeStatistics.__struct_fields__[6:]
"""The numbers of a life that add up to those of the run."""
_SHRINKING = ("requests_failed",)
"""Those of which a later life may have less, as failures are put back."""


class _Life(msgspec.Struct):
    """How a life began, and how it ended."""

    number: int
    started_at: float
    before: dict[str, Number]  # the totals at its beginning; those that are nought are left out
    version: str | None = None
    end: End | None = None


class _Kept(msgspec.Struct):
    lives: list[_Life] = msgspec.field(default_factory=list)
    # Of those that are summed, the last.
    earlier: _Life | None = None


class Lives:
    """The lives of a run."""

    def __init__(self) -> None:
        self._kept = _Kept()
        self._is_ours = False  # the last of them was begun here
        self._is_changed = False

    def begin(self, number: int, now: float, totals: Mapping[str, Number]) -> None:
        """A life begins.

        Args:
            number: Which it is.
            now: Unix time.
            totals: What the run has done so far, by the names in `TOTALS`.
        """
        kept = self._kept
        before = {name: value for name, value in totals.items() if value}
        if number == 1:
            before = {}  # what other workers were quicker to do is of this life as well
        kept.lives.append(_Life(number, now, before, __version__))
        if len(kept.lives) > LIVES:
            kept.earlier = kept.lives.pop(0)
        self._is_ours = self._is_changed = True

    def end(self, finished: bool) -> None:
        """The life ends in good order; where it is that of several workers, the first one says so.

        Others may not even know of it, if they have joined it before it was saved.
        """
        if self._is_ours:
            self._kept.lives[-1].end = "finished" if finished else "stopped"
            self._is_changed = True

    def all(
        self, totals: Mapping[str, Number], started_at: float | None, is_finished: bool
    ) -> list[LifeStatistics]:
        """The lives, the earliest first.

        Args:
            totals: What the run has done so far.
            started_at: When the run began.
            is_finished: Whether the crawl is: then so is the last life, whoever has ended it.
        """
        lives = _in_order(self._kept.lives)
        if not lives:
            return []
        told = []
        first = lives[0]
        if first.number > 1:
            # Those that are summed, and those of runs that are older than this file.
            last = self._kept.earlier
            number = first.number - 1
            life = _Life(number, started_at or 0.0, {})
            ended_at = None
            if last is not None:
                life.version, life.end = last.version, last.end
                ran = first.before.get("runtime_seconds", 0.0)
                ended_at = last.started_at + ran - last.before.get("runtime_seconds", 0.0)
            told.append(_told(life, first.before, number, ended_at))
        afters = [life.before for life in lives[1:]] + [totals]
        for life, after in zip(lives, afters, strict=True):
            ran = after.get("runtime_seconds", 0.0) - life.before.get("runtime_seconds", 0.0)
            told.append(_told(life, after, 1, life.started_at + ran))
        if is_finished:
            told[-1] = msgspec.structs.replace(told[-1], end="finished")
        return told

    @staticmethod
    def merge(base: Any, mine: Any, theirs: Any) -> Any:
        """The lives that each worker has begun or ended, in the order in which they began."""
        known = base["lives"] if base is not None else []
        lives = {life["started_at"]: life for life in theirs["lives"]}
        lives |= {life["started_at"]: life for life in mine["lives"] if life not in known}
        return {**theirs, "lives": sorted(lives.values(), key=_start)[-LIVES:]}

    def restore(self, saved: Saved) -> None:
        """Take back those that there were."""
        self._kept = saved.load(_Kept(), key="lives", type=_Kept)
        self._is_changed = False

    def collect(self, checkpoint: Checkpoint) -> None:
        """Save them, if one began or ended."""
        if self._is_changed:
            checkpoint.save(self._kept, key="lives")
            self._is_changed = False


def _start(life: Mapping[str, float]) -> float:
    return life["started_at"]


def _told(
    life: _Life, after: Mapping[str, Number], lives: int, ended_at: float | None
) -> LifeStatistics:
    numbers = {name: after.get(name, 0) - life.before.get(name, 0) for name in TOTALS}
    return LifeStatistics(
        life.number,
        lives,
        life.version,
        isoformat(life.started_at),
        isoformat(ended_at),
        life.end,
        **numbers,  # type: ignore[arg-type]  # seconds are the one that is no whole number
    )


def _in_order(lives: list[_Life]) -> list[_Life]:
    """Lives of which each begins with no less than the one before it.

    Of processes that are started at the same time on one run, the later one may have read what was
    a moment earlier.
    """
    ordered: list[_Life] = []
    for life in lives:
        if ordered:
            least = {
                name: value
                for name, value in ordered[-1].before.items()
                if name not in _SHRINKING and value > life.before.get(name, 0)
            }
            if least:
                life = msgspec.structs.replace(life, before=life.before | least)
        ordered.append(life)
    return ordered

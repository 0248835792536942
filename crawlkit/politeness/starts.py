"""Starts: when hosts may be asked next, as far as that outlives the process."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping

from ..checkpoint import Checkpoint, Saved
from .host import Host

LONG = 1.0
"""Seconds of a delay that outlives the process."""


class Starts:
    """The next starts of hosts with a long delay, as they are saved.

    Each checkpoint takes those that changed along, in one document, a *slice*: ``{host: [next
    start, seconds until then]}``. It is removed once they are all over. So each start is written
    once, however many hosts rest at the same time.

    Args:
        worker: The name of this process, where it is one of several that write the run.

    Attributes:
        moved: Hosts whose next start is another one since the last checkpoint.
    """

    def __init__(self, worker: str) -> None:
        self.moved: set[str] = set()
        self._worker = worker
        self._number = 0  # of the last slice
        self._slices: deque[tuple[float, str]] = deque()  # until when it matters, its name

    def restore(self, saved: Saved, now: float) -> Iterator[tuple[str, float]]:
        """The hosts that are to wait yet, each with its next start.

        The clock may have been set back in between; no wait gets longer by that.
        """
        for key in sorted(key for key in tuple(saved.keys()) if key.startswith("starts/")):
            starts: dict[str, tuple[float, float]] = saved.load(
                key=key, type=dict[str, tuple[float, float]]
            )
            last = now
            for host, (start, seconds) in starts.items():
                start = min(start, now + seconds)
                last = max(last, start)
                if start > now:
                    yield host, start
            name = key.removeprefix("starts/")
            self._slices.append((last, name))
            self._number = max(self._number, int(name.rpartition("-")[2]))

    def collect(self, checkpoint: Checkpoint, hosts: Mapping[str, Host], now: float) -> None:
        """Add a slice of what changed since the last, and remove those that are over."""
        while self._slices and self._slices[0][0] <= now:
            checkpoint.drop(f"starts/{self._slices.popleft()[1]}")
        starts = {
            name: (host.next_start, host.next_start - now)
            for name in self.moved
            if (host := hosts.get(name)) and host.next_start > now + LONG
        }
        self.moved.clear()
        if starts:
            self._number += 1
            name = f"{self._worker}-{self._number}" if self._worker else str(self._number)
            checkpoint.save(starts, key=f"starts/{name}")
            self._slices.append((max(start for start, _ in starts.values()), name))

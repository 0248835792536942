"""Stopwatch: seconds that a run ran, over all its lives."""

from __future__ import annotations

from ..clock import Clock


class Stopwatch:
    """Counts seconds while it is started.

    Args:
        clock: Steady time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._counted = 0.0
        self._since: float | None = None

    @property
    def is_running(self) -> bool:
        """Whether it was started, and not stopped since."""
        return self._since is not None

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        since = self._since
        return self._counted if since is None else self._counted + self._clock.now() - since

    def start(self) -> None:
        """Count from now on."""
        self._since = self._clock.now()

    def stop(self) -> None:
        """Count no more."""
        self._counted = self.seconds
        self._since = None

    def discard(self) -> None:
        """Count no more, and not what came since it was started."""
        self._since = None

    def set(self, seconds: float) -> None:
        """So many were counted, but for those since it was started."""
        self._counted = seconds

"""Blocking: which line of a crawler keeps the event loop from going on, and for how long.

A thread looks at the event loop from outside. At rest it wakes up twice a second, to see that the
loop has gone on. Where it has not, it looks ten times a second at which line the loop is.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections import Counter, defaultdict
from typing import NamedTuple, Self

from ..counting.errorgroups import Line, line_below_crawlkit
from ..machine import Starving
from .measuring import PROBE, Pulse

log = logging.getLogger("crawlkit.blocking")

REST = 0.5
"""Seconds for which the event loop may not have gone on before it is looked at more closely."""
LOOK = 0.1
"""Seconds between two looks, then."""
LEAST = 0.4
"""Seconds of these looks for which one function has to have blocked it, to be told of."""
LONG = 10.0
"""Seconds of blocking after which its end is not waited for."""
PATIENCE = 0.5
"""Seconds for which the end of a crawl waits for what is being told, at most."""

SLACK = 0.1
"""Seconds by which a look may be late. If it is later, the process was stopped, or was computing
and held Python's lock."""
COMPUTING = 0.8
"""Share of the time, waiting for a processor left out, that it has computed in the second case."""

_PROMPTS = frozenset({"bdb", "code", "pdb", "pydevd"})
"""Modules of debuggers and consoles: whoever stops a crawl in one knows why it stands still."""


class Look(NamedTuple):
    """When the thread looked.

    Attributes:
        at: Seconds, by the monotonic clock.
        wanted: Seconds after the look before it for which it was meant.
        computed: Seconds that the process has computed, up to then.
        starved: Seconds for which the loop's thread was ready and got no processor, up to then; 0
            where the system does not tell.
    """

    at: float
    wanted: float
    computed: float
    starved: float


class Block:
    """One time that the event loop does not go on.

    Whether the crawler is to blame shows in how the looks themselves come. In a process that was
    stopped, or a machine that slept or was busy, they are late as well, and such time counts for
    nothing.

    Args:
        since: When the loop was last seen to go on.
    """

    def __init__(self, since: float) -> None:
        self.since = since
        self.seconds = 0.0
        self._looks = 0
        self._looked = 0.0
        self._blamed: defaultdict[tuple[str, str], float] = defaultdict(float)
        self._lines: Counter[Line] = Counter()

    def add(self, before: Look, look: Look, line: Line | None) -> None:
        """It was looked at.

        Args:
            before: The look before this one.
            look: This one.
            line: The line of the user's code that the loop was at, if it was at one.
        """
        gap = look.at - before.at
        is_late = gap > look.wanted + SLACK
        ran = gap - (look.starved - before.starved)
        counts = not is_late or look.computed - before.computed >= COMPUTING * ran
        is_first = self._looks == 0
        self._looks += 1
        # What it was at before that, nobody has seen, unless it held Python's lock all the time.
        blocked = look.at - self.since - PROBE - (gap - ran) if is_first else ran
        seconds = max(0.0, blocked) if counts else 0.0
        seen = 0.0 if is_first and not is_late else seconds
        self.seconds += seconds
        self._looked += seen
        if line is not None:
            self._blamed[line.file, line.function] += seen
            self._lines[line] += 1

    def over(self, last: Look, at: float) -> None:
        """The loop goes on, at this time; the last look was before that."""
        self.seconds += min(max(0.0, at - last.at), LOOK)

    @property
    def culprit(self) -> Line | None:
        """The function that has blocked it, at the line where it was seen most often."""
        if not self._blamed:
            return None
        key = max(self._blamed, key=self._blamed.__getitem__)
        seen = self._blamed[key]
        if seen < LEAST or seen < self._looked / 2:
            return None
        return next(line for line, _ in self._lines.most_common() if line[::2] == key)


class Watch:
    """Tells of what blocks the running event loop, for as long as the ``with`` lasts.

    Args:
        pulse: When the loop was last seen to go on.
        module: The module that the user's crawler is in.
    """

    def __init__(self, pulse: Pulse, module: str) -> None:
        self._pulse = pulse
        self._home = module.partition(".")[0]
        self._told: set[tuple[str, str]] = set()
        self._end = threading.Lock()  # whoever can take it has seen the end

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._starving = Starving(threading.get_native_id())
        self._pulse.beat()
        self._end.acquire()
        self._watching = threading.Thread(target=self._watch, name="crawlkit-blocking", daemon=True)
        self._watching.start()
        return self

    def __exit__(self, *error: object) -> None:
        # What has blocked it last is told, too; but not for ever, to a pipe that nobody reads.
        self._end.release()
        self._watching.join(PATIENCE)

    def _watch(self) -> None:
        try:
            self._look_again_and_again()
        finally:
            self._starving.close()

    def _look_again_and_again(self) -> None:
        block: Block | None = None
        is_over = False
        look = self._look(0.0)
        wait = REST
        while not is_over:
            is_over = self._end.acquire(timeout=wait)
            before, look = look, self._look(wait)
            since = self._pulse.at
            if block is not None and block.since != since:
                block.over(before, since)
                self._tell(block, "was blocked for %.1f s, and nothing else could go on meanwhile")
                block = None
            if look.at - since < REST:
                wait = max(LOOK, since + REST - look.at)
                continue
            wait = LOOK
            if block is None:
                # The pulse may have stopped for other reasons. If the loop goes on, it says so.
                try:
                    self._loop.call_soon_threadsafe(self._pulse.beat)
                except RuntimeError:
                    return  # it is closed
                block = Block(since)
            block.add(before, look, self._line())
            if block.seconds >= LONG:
                self._tell(block, "has been blocked for %.0f s, and nothing else can go on")

    def _look(self, wanted: float) -> Look:
        return Look(time.monotonic(), wanted, time.process_time(), self._starving.seconds())

    def _line(self) -> Line | None:
        """The line of the user's code that the loop is at."""
        frame = sys._current_frames().get(self._thread)
        return None if frame is None else line_below_crawlkit(frame, self._home, prompts=_PROMPTS)

    def _tell(self, block: Block, what: str) -> None:
        line = block.culprit
        if line is None or (line.file, line.function) in self._told:
            return
        self._told.add((line.file, line.function))
        log.warning(
            f"%s:%d in %s: the event loop {what}; run what takes so long in a thread, with 'await "
            "asyncio.to_thread(...)', or use an async client",
            line.file,
            line.number,
            line.function,
            block.seconds,
        )

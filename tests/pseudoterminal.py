"""A pseudo-terminal: a program believes it is watched, and the test sees what a user would."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyte

# What a terminal obeys beyond printing: sequences of ESC, and control characters.
_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[()][0-9A-B]|[@-Z\\-_])")


@dataclass
class Terminal:
    """A program on a pseudo-terminal.

    Attributes:
        raw: Every character that it wrote.
        frames: What the screen showed, each time that it changed.
        code: Its exit code.
    """

    columns: int
    rows: int
    raw: str = ""
    frames: list[list[str]] = field(default_factory=list)
    code: int | None = None

    def __post_init__(self) -> None:
        self.screen = pyte.HistoryScreen(self.columns, self.rows, history=1000)
        self._stream = pyte.Stream(self.screen)

    def feed(self, text: str) -> None:
        self.raw += text
        self._stream.feed(text)
        self.frames.append([line.rstrip() for line in self.screen.display])

    @property
    def lines(self) -> list[str]:
        """All that is left on it, and what has scrolled off, without empty lines."""
        above = [
            "".join(line[column].data for column in range(self.columns))
            for line in self.screen.history.top
        ]
        return [text for line in (*above, *self.screen.display) if (text := line.rstrip())]

    @property
    def text(self) -> str:
        """What was written, without what a terminal obeys."""
        return _SEQUENCE.sub("", self.raw)

    @property
    def sequences(self) -> set[str]:
        return set(_SEQUENCE.findall(self.raw))


def watch(
    words: Sequence[object],
    *,
    program: Path | str = sys.executable,
    columns: int = 80,
    rows: int = 24,
    cwd: Path,
    env: dict[str, str] | None = None,
    stdout: int | None = None,
    interrupt: Callable[[Terminal], bool] | None = None,
    type_in: bytes = b"",
    timeout: float = 60.0,
) -> Terminal:
    """Run a Python program on a pseudo-terminal until it ends.

    Args:
        words: What follows after the interpreter.
        program: The interpreter.
        columns: Width of the terminal.
        rows: Its height.
        cwd: Where it runs.
        env: Variables besides the usual ones.
        stdout: Where its standard output goes, if not to the terminal.
        interrupt: Ctrl-C is pressed once, when this says so.
        type_in: What is typed.
        timeout: Seconds until it is killed.
    """
    terminal = Terminal(columns, rows)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    usual = {
        name: value
        for name, value in os.environ.items()
        if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "CI", "TTY_COMPATIBLE")
    }
    process = subprocess.Popen(
        [str(program), *map(str, words)],
        stdin=theirs,
        stdout=theirs if stdout is None else stdout,
        stderr=theirs,
        cwd=cwd,
        env=usual | {"TERM": "xterm-256color", "PYTHONUNBUFFERED": "1"} | (env or {}),
        start_new_session=True,
    )
    os.close(theirs)
    if type_in:
        os.write(ours, type_in)
    deadline = time.monotonic() + timeout
    try:
        while time.monotonic() < deadline:
            ready, _, _ = select.select([ours], [], [], 0.05)
            if ready:
                try:
                    data = os.read(ours, 65536)
                except OSError:  # the other end is closed: Linux says so with EIO
                    break
                if not data:
                    break
                terminal.feed(data.decode("utf-8", "replace"))
            if interrupt is not None and interrupt(terminal):
                interrupt = None
                process.send_signal(signal.SIGINT)
        terminal.code = process.wait(timeout=max(deadline - time.monotonic(), 1.0))
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return terminal

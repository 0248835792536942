"""WorkerProcess: one worker of a supervisor, a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from ..triggers.usual import PLATFORM

LAST_WORDS = 20
"""Lines of its log that are kept of a worker, to be shown where it will not live."""
CHUNK = 2**16
JSON = '{"time":'
"""How a line begins that ``--log-format json`` has made."""


class WorkerProcess:
    """A worker's process, from its start to its end.

    Args:
        name: The worker's name.
        tell: Takes each line that it logs.
        environment: What it is to have in its environment beside what is there.
    """

    def __init__(
        self,
        name: str,
        tell: Callable[[str], None],
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.name = name
        self.last_words: deque[str] = deque(maxlen=LAST_WORDS)
        self._tell = tell
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None
        self._sent: signal.Signals | None = None

    async def run(self, command: Sequence[str], seat: socket.socket | None) -> int:
        """Start it and wait for its end; its exit code, negative where a signal has ended it.

        Args:
            command: What to run.
            seat: What connects it to the store; the process has it from then on, and nobody else.
        """
        try:
            # In a session of its own: Ctrl-C is for the supervisor, which passes it on. Likewise
            # what the platform says.
            self._process = process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=() if seat is None else (seat.fileno(),),
                start_new_session=True,
                env={
                    **{name: value for name, value in os.environ.items() if name != PLATFORM},
                    **self._environment,
                },
            )
        finally:
            if seat is not None:
                seat.close()
        if self._sent is not None:
            self.send(self._sent)  # it came while the process was being made
        try:
            assert process.stderr is not None
            await self._listen(process.stderr)
            code = await process.wait()
            assert process.stdin is not None
            process.stdin.close()
            return code
        except asyncio.CancelledError:
            self.kill()
            await process.wait()
            raise

    async def _listen(self, stream: asyncio.StreamReader) -> None:
        rest = b""
        while chunk := await stream.read(CHUNK):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._say(line)
            if len(rest) > CHUNK:  # no line is that long
                self._say(rest)
                rest = b""
        if rest:
            self._say(rest)

    def _say(self, line: bytes) -> None:
        text = line.decode(errors="replace")
        self.last_words.append(text)
        self._tell(_signed(text, self.name))

    def order(self, line: bytes) -> None:
        """Tell it something; see `Orders`."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(line)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, at the latest when it is there."""
        self._sent = number
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def kill(self) -> None:
        """End it on the spot."""
        self.send(signal.SIGKILL)


def _signed(line: str, name: str) -> str:
    """A line of a worker with its name: in front, or as a field where it is a JSON object."""
    if line.startswith(JSON):
        return f'{{"worker":{json.dumps(name)},{line[1:]}'
    return f"[{name}] {line}"

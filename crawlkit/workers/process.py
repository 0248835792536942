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
LAST_LINES = 1.0
"""Seconds that what a process has said last has to arrive once it has ended."""
STDIN, STDERR = 0, 2
JSON = '{"time":'
"""How a line begins that ``--log-format json`` has made."""


class _Ears(asyncio.SubprocessProtocol):
    """Hears what a process says, line by line, and that it has ended.

    Args:
        say: Takes each line.
    """

    def __init__(self, say: Callable[[bytes], None]) -> None:
        self.has_ended = asyncio.Event()
        self._is_silent = asyncio.Event()
        self._say = say
        self._rest = b""

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Something was said."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._say(line)
        if len(self._rest) > CHUNK:  # no line is that long
            self._say_the_rest()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        """Nobody can say anything any more."""
        if fd == STDERR:
            self._is_silent.set()

    def process_exited(self) -> None:
        """It has ended."""
        self.has_ended.set()

    async def end(self) -> None:
        """Hear the last of it, once it has ended.

        Its standard error may be that of a process that it has started, too, and stay open for as
        long as that one likes.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_LINES):
                await self._is_silent.wait()
        self._say_the_rest()

    def _say_the_rest(self) -> None:
        rest, self._rest = self._rest, b""
        if rest:
            self._say(rest)


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
        self._transport: asyncio.SubprocessTransport | None = None
        self._sent: signal.Signals | None = None

    async def run(self, command: Sequence[str], seat: socket.socket | None) -> int:
        """Start it and wait for its end; its exit code, negative where a signal has ended it.

        Args:
            command: What to run.
            seat: What connects it to the store; the process has it from then on, and nobody else.
        """
        ears = _Ears(self._say)
        try:
            # In a session of its own: Ctrl-C is for the supervisor, which passes it on. Likewise
            # what the platform says.
            transport, _ = await asyncio.get_running_loop().subprocess_exec(
                lambda: ears,
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=None,
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
        self._transport = transport
        try:
            if self._sent is not None:
                self.send(self._sent)  # it came while the process was being made
            await ears.has_ended.wait()
            await ears.end()
        except asyncio.CancelledError:
            self.kill()
            await ears.has_ended.wait()
            raise
        finally:
            transport.close()
        code = transport.get_returncode()
        assert code is not None  # it has ended
        return code

    def _say(self, line: bytes) -> None:
        text = line.decode(errors="replace")
        self.last_words.append(text)
        self._tell(_signed(text, self.name))

    def order(self, line: bytes) -> None:
        """Tell it something; see `Orders`."""
        if self._transport is not None and self._transport.get_returncode() is None:
            stdin = self._transport.get_pipe_transport(STDIN)
            assert isinstance(stdin, asyncio.WriteTransport)
            stdin.write(line)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, at the latest when it is there."""
        self._sent = number
        if self._transport is not None and self._transport.get_returncode() is None:
            with contextlib.suppress(ProcessLookupError):
                self._transport.send_signal(number)

    def kill(self) -> None:
        """End it on the spot."""
        self.send(signal.SIGKILL)


def _signed(line: str, name: str) -> str:
    """A line of a worker with its name: in front, or as a field where it is a JSON object."""
    if line.startswith(JSON):
        return f'{{"worker":{json.dumps(name)},{line[1:]}'
    return f"[{name}] {line}"

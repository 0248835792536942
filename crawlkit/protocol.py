"""Protocol: a connection of aiohttp's that a server cannot flood.

aiohttp bounds each message, but not how many of them there are. Of interim responses (1xx), or of
responses that nobody asked for, a server can send a hundred thousand within one turn of the event
loop, and each is parsed and kept.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError

MAX_MESSAGES = 64
"""Messages of a server for one request: interim responses, and the response."""
FLOOD = f"more than {MAX_MESSAGES} responses to one request"
"""The message of the error that a flood ends with."""

_PIECE = 16 * 1024  # read on from here only if there was no flood yet


class Protocol(ResponseHandler):
    """aiohttp's protocol, which hangs up at a flood of messages."""

    _messages = 0

    def start_timeout(self) -> None:
        """A request was sent, and the server's time begins."""
        self._messages = 0
        super().start_timeout()

    def data_received(self, data: bytes) -> None:
        """Bytes have come in."""
        if len(data) <= _PIECE:
            super().data_received(data)
            return
        for start in range(0, len(data), _PIECE):
            if self._messages > MAX_MESSAGES:
                return
            super().data_received(data[start : start + _PIECE])

    def feed_data(self, data: Any, size: int = 0) -> None:
        """The head of a message has come in."""
        self._messages += 1
        if self._messages <= MAX_MESSAGES:
            super().feed_data(data, size)
        elif self._messages == MAX_MESSAGES + 1:
            self.set_exception(HttpProcessingError(code=400, message=FLOOD))
            if self.transport is not None:
                self.transport.abort()


class Connector(aiohttp.TCPConnector):
    """A connector whose connections speak `Protocol`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # aiohttp has no other place to say this; a test notices when that changes.
        kind: type[ResponseHandler] = Protocol
        self._factory = partial(kind, loop=self._loop)

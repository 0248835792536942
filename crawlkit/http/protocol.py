"""Protocol: a connection of aiohttp's that a server cannot flood.

aiohttp bounds each message, but not how many of them there are. Of interim responses (1xx), or of
responses that nobody asked for, a server can send a hundred thousand within one turn of the event
loop, and each is parsed and kept. Nor does it bound what stands around the chunks of a body: an
extension without end is parsed as fast as it comes, and no reader is there to slow it down.
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

MAX_FRAMING = 1024 * 1024
"""Bytes around a body, at most: headers, sizes of chunks and their extensions."""
_FRAMING_RATIO = 8  # for each byte of the body; in chunks of one byte each there are six
CHAFF = f"more than {MAX_FRAMING} bytes that belong to no body"
"""The message of the error that ends a response of little else than framing."""

_PIECE = 16 * 1024  # read on from here only if there was no flood yet


class Protocol(ResponseHandler):
    """aiohttp's protocol, which hangs up at a flood of messages."""

    _messages = 0
    _received = 0
    _heard_at = 0.0
    _is_waiting = False

    def start_timeout(self) -> None:
        """A request was sent, and the server's time begins."""
        self._messages = self._received = 0
        super().start_timeout()

    def data_received(self, data: bytes) -> None:
        """Bytes have come in."""
        self._received += len(data)
        if len(data) <= _PIECE:
            super().data_received(data)
        else:
            self._receive(data)
        if self._received > MAX_FRAMING:
            self._weigh()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Go on reading, where reading was paused.

        aiohttp asks for this twice with each response, and has an empty piece parsed each time.
        """
        if self._reading_paused:
            super().resume_reading(resume_parser)

    # aiohttp makes a new timer for each piece that comes in, and one for each response. Here there
    # is one for the connection: when it runs out, it looks how long ago the last piece was.

    def _reschedule_timeout(self) -> None:
        self._heard_at = self._loop.time()
        self._is_waiting = True
        if self._read_timeout_handle is None and self._read_timeout:
            self._set_timer(self._read_timeout)

    def _drop_timeout(self) -> None:
        self._is_waiting = False

    def _end_timer(self) -> None:
        super()._drop_timeout()

    def close(self) -> None:
        """Close the connection."""
        self._end_timer()
        super().close()

    def abort(self) -> None:
        """Close the connection at once."""
        self._end_timer()
        super().abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection is gone."""
        self._end_timer()
        super().connection_lost(exc)

    def _set_timer(self, seconds: float) -> None:
        self._read_timeout_handle = self._loop.call_later(seconds, self._on_timer)

    def _on_timer(self) -> None:
        if not self._is_waiting:
            self._read_timeout_handle = None
            return
        left = self._heard_at + (self._read_timeout or 0.0) - self._loop.time()
        if left > 0.0:
            self._set_timer(left)
        else:
            self._read_timeout_handle = None
            self._on_read_timeout()

    def _receive(self, data: bytes) -> None:
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

    def _weigh(self) -> None:
        """Hang up where hardly anything of what came in belongs to a body."""
        payload = self._payload
        body = 0 if payload is None else payload.total_bytes
        if self._received <= MAX_FRAMING + _FRAMING_RATIO * body:
            return
        self.set_exception(HttpProcessingError(code=400, message=CHAFF))
        if payload is not None:
            payload.set_exception(aiohttp.ClientPayloadError(CHAFF))
            self._payload = None  # the loss of the connection is not to be what is told
        if self.transport is not None:
            self.transport.abort()


class Connector(aiohttp.TCPConnector):
    """A connector whose connections speak `Protocol`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # aiohttp has no other place to say this; a test notices when that changes.
        kind: type[ResponseHandler] = Protocol
        self._factory = partial(kind, loop=self._loop)

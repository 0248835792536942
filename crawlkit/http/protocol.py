"""Protocol: a connection of aiohttp's that a server cannot flood, nor put out of step.

aiohttp bounds each message, but not how many of them there are. Of interim responses (1xx), or of
responses that nobody asked for, a server can send a hundred thousand within one turn of the event
loop, and each is parsed and kept. Nor does it bound what stands around the chunks of a body: an
extension without end is parsed as fast as it comes, and no reader is there to slow it down.

And it takes what comes after a response, while nobody asks, for the answer to the next request: the
wrong page under that URL. Here such a connection is closed (RFC 9112, section 6.3). A response that
is longer than its ``Content-Length`` is no error, but ends there, as browsers have it.
"""

from __future__ import annotations

import asyncio
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
    """aiohttp's protocol, which hangs up at a flood of messages.

    Attributes:
        tunnel: What made the connection, where that closes it when it is forgotten.
    """

    tunnel: object = None
    _messages = 0
    _received = 0
    _heard_at = 0.0
    _is_waiting = False
    _is_answered = True  # nobody has asked for anything yet
    _is_first = False
    _unanswered = b""
    _params: dict[str, Any]

    def set_response_params(self, **params: Any) -> None:
        """A request is about to be sent."""
        self._params = params
        self._is_answered = False
        self._is_first = True
        super().set_response_params(**params)

    def start_timeout(self) -> None:
        """A request was sent, and the server's time begins."""
        self._messages = self._received = 0
        super().start_timeout()

    def data_received(self, data: bytes) -> None:
        """Bytes have come in."""
        if self._is_answered and data and (self._payload is None or self._payload.is_eof()):
            self._hang_up()  # nobody has asked for these
            return
        self._received += len(data)
        if len(data) <= _PIECE:
            self._parse(data)
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
            self._parse(data[start : start + _PIECE])

    def _parse(self, data: bytes) -> None:
        if self._is_first and data:
            self._is_first = False
            self._unanswered = data
            super().data_received(data)
            self._unanswered = b""
        else:
            super().data_received(data)

    def feed_data(self, data: Any, size: int = 0) -> None:
        """The head of a message has come in."""
        if self._is_answered:
            self._hang_up()  # nobody has asked for this one
            return
        status = data[0].code
        self._is_answered = status >= 200 or status == 101
        self._messages += 1
        if self._messages <= MAX_MESSAGES:
            super().feed_data(data, size)
        elif self._messages == MAX_MESSAGES + 1:
            self.set_exception(HttpProcessingError(code=400, message=FLOOD))
            if self.transport is not None:
                self.transport.abort()

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        """There will be no answer, or none but what has come of it."""
        data, self._unanswered = self._unanswered, b""
        if data and isinstance(exc, HttpProcessingError) and self._read_again(data):
            return
        if exc_cause is None:
            super().set_exception(exc)
        else:
            super().set_exception(exc, exc_cause)

    def _read_again(self, data: bytes) -> bool:
        """Read what is no HTTP as a whole in two steps: its head, and what follows.

        aiohttp's parser forgets a response where what has come with it, behind its end, is none.

        Returns:
            Whether there was a head. What is wrong with the body is told to whoever reads it.
        """
        super().set_response_params(**self._params)
        while not self._is_answered:
            head, mark, data = data.partition(b"\r\n\r\n")
            if not mark or self._exception is not None:
                return False
            super().data_received(head + mark)
        if data:
            self.data_received(data)
        if self._payload is not None and not self._payload.is_eof():
            self._payload.set_exception(aiohttp.ClientPayloadError("malformed chunks"))
        return True

    def _hang_up(self) -> None:
        """Close the connection, for what comes next is the answer to nobody knows what."""
        self._should_close = True
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


def guarded(connector: Any) -> Any:
    """A connector of aiohttp-socks whose connections speak `Protocol` once they are made."""
    connect = connector._connect_via_proxy

    async def connect_via_proxy(**options: Any) -> tuple[asyncio.Transport, Protocol]:
        transport, theirs = await connect(**options)
        protocol = Protocol(connector._loop)
        protocol.tunnel = theirs
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        return transport, protocol

    connector._connect_via_proxy = connect_via_proxy
    return connector

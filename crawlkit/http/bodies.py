"""Bodies: reading the body of a response, decoded and within its limits."""

from __future__ import annotations

import asyncio
from functools import partial
from time import perf_counter

import aiohttp

from ..errors import LimitError
from .decoding import Decoding, codings_of
from .lean import Answer
from .limits import Limits

_PAUSE = 0.002
"""Seconds of decoding after which others go first."""


async def read_body(
    answer: Answer | aiohttp.ClientResponse,
    host: str,
    limits: Limits,
    raw: list[bytes] | None = None,
) -> bytes:
    """The decoded body of a response.

    Args:
        answer: The response, its body not read yet, and not decoded by aiohttp.
        host: Where it is from, for messages.
        limits: Those of its body are kept.
        raw: Gets the pieces of the body as they come, not decoded.

    Raises:
        LimitError: It is longer than the limit, and is not to be cut.
        NetworkError: It is not what its ``Content-Encoding`` says, or its end is missing.
        aiohttp.ClientError: The connection broke.
    """
    content, headers = answer.content, answer.headers
    if not content.is_eof() and "Transfer-Encoding" in headers:
        _tell_when_lost(answer)
    codings: tuple[str, ...] = ()
    if "Content-Encoding" in headers:
        codings = codings_of(headers.getall("Content-Encoding"), host)
    block = await content.readany()
    if raw is not None:
        raw.append(block)
    if not codings and content.at_eof() and len(block) <= limits.body:
        return block  # as most bodies come: as they are, and in one piece
    gathered = _Gathered(host, limits)
    decoding = Decoding(codings, host, limits.body) if codings else None
    since = perf_counter()
    while block:
        for piece in (block,) if decoding is None else decoding.decode(block):
            if gathered.add(piece):
                return gathered.body
            if perf_counter() - since > _PAUSE:
                await asyncio.sleep(0)
                since = perf_counter()
        block = await content.readany()
        if raw is not None:
            raw.append(block)
    if decoding is not None:
        decoding.finish()
    return gathered.body


class _Gathered:
    """The pieces of a body, as many as the limit allows."""

    def __init__(self, host: str, limits: Limits) -> None:
        self._host = host
        self._limits = limits
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, piece: bytes) -> bool:
        """Whether that is all that there is room for."""
        limit = self._limits.body
        self._size += len(piece)
        self._pieces.append(piece)
        if self._size > limit and not self._limits.truncate:
            raise LimitError(f"the body from {self._host} is longer than {limit} bytes")
        return self._size > limit

    @property
    def body(self) -> bytes:
        return b"".join(self._pieces)[: self._limits.body]


def _tell_when_lost(answer: Answer | aiohttp.ClientResponse) -> None:
    """End the reading of a body when its connection is lost.

    Where a chunk is malformed, aiohttp 3.14 closes the connection and leaves the reader waiting.
    """
    connection = answer.connection
    protocol = None if connection is None else connection.protocol
    lost = None if protocol is None else protocol.closed
    if lost is None:
        return
    # A connection that was used before has the last of these from then.
    lost.remove_done_callback(_retrieve)
    lost.add_done_callback(_retrieve)
    tell = partial(_tell, answer.content)
    lost.add_done_callback(tell)

    def forget() -> None:
        lost.remove_done_callback(tell)

    answer.content.on_eof(forget)


def _retrieve(lost: asyncio.Future[None]) -> None:
    """Look at the error, which asyncio would log otherwise: whoever reads has been told."""
    if not lost.cancelled():
        lost.exception()


def _tell(content: aiohttp.StreamReader, lost: asyncio.Future[None]) -> None:
    if not content.is_eof() and content.exception() is None:
        content.set_exception(aiohttp.ClientPayloadError("malformed chunks"))

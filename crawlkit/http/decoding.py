"""Decoding: content encodings undone piece by piece, so that a bomb stays small.

A response says that its body is compressed, and how (``Content-Encoding``; RFC 9110, section 8.4).
A few hundred bytes can stand for gigabytes, so nothing here makes more output at once than about
`BLOCK` bytes, however small the input, and whoever reads may stop, or let others go first, after
each.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Protocol

import brotli

from ..errors import LimitError, NetworkError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BLOCK = 64 * 1024
"""Bytes that one step of decoding makes at most; Brotli may make twice as many."""
MAX_CODINGS = 3
"""Codings of one body. Servers that compress twice by mistake exist; more is an attack, and each
coding may need 8 to 16 MB of memory."""
MAX_MEMBERS = 4096
"""Members of a gzip body, or frames of a zstd one: compressed files that were joined to one."""

_PIECE = 16 * 1024  # of input: what is left of it is copied at every step
_ZSTD_WINDOW = 23  # 8 MB, all that a browser has to have (RFC 9659)

# What servers write there that names no coding. Browsers take the body as it is.
_NO_CODINGS = frozenset({"", "identity", "none", "utf-8", "binary", "8bit", "aws-chunked"})


def codings_of(headers: Iterable[str], host: str) -> tuple[str, ...]:
    """The codings that ``Content-Encoding`` headers name, in the order in which they were applied.

    Args:
        headers: Their values.
        host: Where they are from, for messages.

    Raises:
        NetworkError: One of them is unknown. It would be so again, so it is not tried again.
        LimitError: They are more than `MAX_CODINGS`.
    """
    codings = _named(",".join(headers))
    for name in codings:
        if name not in _DECODERS:
            error = NetworkError(f"the body from {host} is encoded as {name[:40]!r}: not known")
            error.retryable = False
            raise error
    if len(codings) > MAX_CODINGS:
        raise LimitError(f"the body from {host} is encoded more than {MAX_CODINGS} times")
    return codings


@lru_cache(maxsize=64)
def _named(header: str) -> tuple[str, ...]:
    names = (name.strip().lower() for name in header.split(","))
    return tuple(name for name in names if name not in _NO_CODINGS)


class Decoding:
    """The decoding of one body.

    Args:
        codings: In the order in which they were applied (see `codings_of`).
        host: Where the body is from, for messages.
        limit: Bytes that the decoded body may have; whoever reads it counts them. What is between
            two codings, and what comes in, may be twice that.
    """

    def __init__(self, codings: Iterable[str], host: str, limit: int) -> None:
        steps = reversed(tuple(codings))
        self._steps = [_Step(coding, f"the body from {host}", limit) for coding in steps]

    def decode(self, data: bytes) -> Iterator[bytes]:
        """What `data`, the next bytes of the body, stands for, in small pieces.

        Each takes a fraction of a millisecond to make. Some may be empty.

        Raises:
            NetworkError: It is not what it is said to be.
            LimitError: A limit was met.
        """
        return self._decode(data, 0)

    def finish(self) -> None:
        """The body is at its end.

        Raises:
            NetworkError: It broke off.
        """
        for step in self._steps:
            step.finish()

    def _decode(self, data: bytes, index: int) -> Iterator[bytes]:
        pieces = self._steps[index].decode(data)
        return pieces if index + 1 == len(self._steps) else self._each(pieces, index + 1)

    def _each(self, pieces: Iterator[bytes], index: int) -> Iterator[bytes]:
        for piece in pieces:
            if piece:
                yield from self._decode(piece, index)
            else:
                yield b""


class _Step:
    """One coding of a body: counts what comes in, and says in our words what goes wrong."""

    def __init__(self, coding: str, body: str, limit: int) -> None:
        self._coding = coding
        self._body = body
        self._decoder: _Decoder = _DECODERS[coding]()
        self._limit = 2 * limit + _PIECE  # it is counted by pieces
        self._size = 0

    def decode(self, data: bytes) -> Iterator[bytes]:
        decoder = self._decoder
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE]
            self._size += len(piece)
            if self._size > self._limit:
                raise LimitError(
                    f"{self._body} is longer than {self._limit} bytes before it is decoded"
                )
            while True:
                try:
                    out = decoder.decode(piece)
                except _ERRORS as error:
                    message = f"{self._body} is not {self._coding}, as it says: {error}"
                    raise NetworkError(message) from error
                yield out
                if decoder.wants_input:
                    break
                piece = b""

    def finish(self) -> None:
        # A body of no bytes at all is what servers send with an empty page.
        if self._size and not self._decoder.is_whole:
            raise NetworkError(f"{self._body} broke off: the {self._coding} data has no end")


class _Decoder(Protocol):
    """Undoes one coding.

    Attributes:
        wants_input: Whether all that went in has come out. If not, `decode` is called with nothing.
        is_whole: Whether the body may end here.
    """

    wants_input: bool
    is_whole: bool

    def decode(self, data: bytes) -> bytes: ...


class _Members:
    """What gzip and zstd have in common: members that follow one another, then perhaps garbage.

    Garbage behind the last member is padding, as tapes and some servers add it; it is ignored.
    """

    magic: tuple[bytes, ...]

    def __init__(self) -> None:
        self.wants_input = True
        self.is_whole = False
        self._is_between = False
        self._is_over = False
        self._rest = b""
        self._members = 1
        self._begin()

    def decode(self, data: bytes) -> bytes:
        if self._rest:
            data, self._rest = self._rest + data, b""
        if self._is_between and not self._is_next(data):
            self.wants_input = True
            return b""
        out, is_end = self._step(data)
        self.is_whole = self._is_between = is_end
        if is_end:
            self.wants_input = not self._rest
        return out

    def _is_next(self, data: bytes) -> bool:
        """Whether another member begins; remembers what is not enough to tell."""
        if self._is_over or not data:
            return False
        start = data[: len(self.magic[0])]
        if len(start) < len(self.magic[0]):
            self._rest = data
            return False
        if start not in self.magic:
            self._is_over = True
            return False
        self._members += 1
        if self._members > MAX_MEMBERS:
            raise LimitError(f"more than {MAX_MEMBERS} compressed files in one body")
        self._begin()
        return True

    def _begin(self) -> None:
        raise NotImplementedError

    def _step(self, data: bytes) -> tuple[bytes, bool]:
        """The next output, and whether the member is at its end; sets `wants_input` and rest."""
        raise NotImplementedError


class _Gzip(_Members):
    """RFC 1952."""

    magic = (b"\x1f\x8b",)

    def _begin(self) -> None:
        self._stream = zlib.decompressobj(31)

    def _step(self, data: bytes) -> tuple[bytes, bool]:
        stream = self._stream
        out = stream.decompress(data, BLOCK)
        self._rest = stream.unused_data if stream.eof else stream.unconsumed_tail
        self.wants_input = not self._rest and len(out) < BLOCK
        return out, stream.eof


class _Zstd(_Members):
    """RFC 8878, with the window of RFC 9659."""

    # A frame, or one of sixteen kinds of frames to be skipped.
    magic = (b"\x28\xb5\x2f\xfd", *(bytes((low, 0x2A, 0x4D, 0x18)) for low in range(0x50, 0x60)))

    def _begin(self) -> None:
        self._stream = zstd.ZstdDecompressor(
            options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW}
        )

    def _step(self, data: bytes) -> tuple[bytes, bool]:
        stream = self._stream
        out = stream.decompress(data, BLOCK)
        self._rest = stream.unused_data if stream.eof else b""
        self.wants_input = stream.needs_input
        return out, stream.eof


class _Deflate:
    """The zlib format (RFC 1950), or the raw one (RFC 1951) that some servers send instead."""

    def __init__(self) -> None:
        self.wants_input = True
        self.is_whole = False
        self._stream: zlib._Decompress | None = None
        self._rest = b""

    def decode(self, data: bytes) -> bytes:
        if self.is_whole:
            return b""  # garbage behind the end
        data = self._rest + data if self._rest else data
        if self._stream is None:
            if len(data) < 2:
                self._rest = data
                return b""
            is_zlib = data[0] & 15 == 8 and (data[0] << 8 | data[1]) % 31 == 0
            self._stream = zlib.decompressobj(15 if is_zlib else -15)
        out = self._stream.decompress(data, BLOCK)
        self._rest = self._stream.unconsumed_tail
        self.is_whole = self._stream.eof
        self.wants_input = self.is_whole or (not self._rest and len(out) < BLOCK)
        return out


class _Brotli:
    """RFC 7932."""

    def __init__(self) -> None:
        self.wants_input = True
        self.is_whole = False
        self._stream = brotli.Decompressor()

    def decode(self, data: bytes) -> bytes:
        # Garbage behind the end is an error of the library, in this call or in the next one.
        out: bytes = self._stream.process(data, output_buffer_limit=BLOCK)
        self.is_whole = self._stream.is_finished()
        # It takes more data, too, when there is only output left that had no room.
        self.wants_input = self.is_whole or (
            len(out) < BLOCK and self._stream.can_accept_more_data()
        )
        return out


_DECODERS: dict[str, Callable[[], _Decoder]] = {
    "gzip": _Gzip,
    "x-gzip": _Gzip,  # RFC 9110, section 8.4.1.3
    "deflate": _Deflate,
    "br": _Brotli,
    "zstd": _Zstd,
}
_ERRORS = (zlib.error, brotli.error, zstd.ZstdError, EOFError)

"""CacheEntry: one response, as bytes that tell when they are damaged.

    version  1 byte
    CRC-32   4 bytes, of the key and of all that follows
    length   4 bytes, of the head
    head     msgpack
    body     zstd, with a checksum of its own

What is not what was written, was written for another key, or by another version, is not there.
"""

from __future__ import annotations

import struct
import sys
from itertools import chain
from zlib import crc32

import msgspec
from multidict import CIMultiDict, CIMultiDictProxy

from .freshness import Terms

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

VERSION = 1
MAX_BODY = 64 * 2**20
"""Bytes of a body above which it is not kept."""

_FRAME = struct.Struct("!BII")
_LEVEL = {
    int(zstd.CompressionParameter.compression_level): 1,
    int(zstd.CompressionParameter.checksum_flag): 1,
}


class CacheEntry(msgspec.Struct, array_like=True, gc=False):
    """All of a stored response but its body.

    Attributes:
        url: The URL that answered.
        status: HTTP status.
        fields: The header fields that are kept, each name and value on a line.
        size: Bytes of the body.
        requested: Unix time at which it was asked for.
        received: Unix time at which it had arrived, or was confirmed.
        terms: On what terms it may be used.
        tries: The retry count of the request that brought it.
        is_private: Whether it came from a private address.
        vary: The request fields that chose it: name, value, and the value of the request's own
            header, without those of the session and the crawl.
        redirects: The URLs that led to a page of the browser; a plain one has none, as each
            redirect is a response of its own.
    """

    url: str
    status: int
    fields: bytes
    size: int
    requested: float
    received: float
    terms: Terms
    tries: int = 0
    is_private: bool = False
    vary: tuple[tuple[str, str | None, str | None], ...] = ()
    redirects: tuple[str, ...] = ()

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        """The header fields."""
        lines = iter(self.fields.decode("utf-8", "surrogateescape").split("\n"))
        return CIMultiDictProxy(CIMultiDict(list(zip(lines, lines, strict=False))))


def fields_of(headers: list[tuple[str, str]]) -> bytes:
    """Header fields for `CacheEntry.fields`. HTTP allows no line break in them."""
    return "\n".join(chain.from_iterable(headers)).encode("utf-8", "surrogateescape")


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(CacheEntry).decode


class Packer:
    """Makes entries into bytes. Of one thread: what compresses is kept from body to body."""

    def __init__(self) -> None:
        self._compressor = zstd.ZstdCompressor(options=_LEVEL)

    def compress(self, body: bytes) -> bytes:
        """A body, compressed."""
        if not body:
            return b""
        self._compressor.set_pledged_input_size(len(body))
        return self._compressor.compress(body, self._compressor.FLUSH_FRAME)


def pack(key: bytes, entry: CacheEntry, packed: bytes) -> bytes:
    """The bytes of an entry.

    Args:
        key: What it is stored under, in full.
        entry: All but its body.
        packed: Its body, compressed.
    """
    head = _encode(entry)
    crc = crc32(packed, crc32(head, crc32(key)))
    return b"".join((_FRAME.pack(VERSION, crc, len(head)), head, packed))


def unpack(key: bytes, data: bytes) -> tuple[CacheEntry, bytes] | None:
    """An entry and its compressed body, or ``None`` where they are not what was written."""
    try:
        version, crc, length = _FRAME.unpack_from(data)
        if version != VERSION or crc != crc32(memoryview(data)[_FRAME.size :], crc32(key)):
            return None
        end = _FRAME.size + length
        return _decode(memoryview(data)[_FRAME.size : end]), data[end:]
    except (struct.error, msgspec.MsgspecError, ValueError):
        return None


def decompress(packed: bytes, size: int) -> bytes | None:
    """A body of so many bytes, or ``None`` where it is another; never more than `MAX_BODY`."""
    if not packed:
        return None if size else b""
    if size > MAX_BODY:
        return None
    decompressor = zstd.ZstdDecompressor()
    try:
        body = decompressor.decompress(packed, size + 1)
    except zstd.ZstdError:
        return None
    if len(body) != size or not decompressor.eof or decompressor.unused_data:
        return None
    return body

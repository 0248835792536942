"""Wire: what a worker and the process that serves the store say to each other.

A frame is its length in four bytes and a message in MessagePack, a pair: which call it is, and what
is asked or answered. A call has a number, and its answer has the same; what the server says of its
own accord has the number 0. Both ends are one crawlkit on one machine: the form has no version.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any, TypeAlias

import msgspec

from ..checkpoint import (
    Checkpoint,
    Document,
    ErrorGroup,
    Item,
    Number,
    Outcome,
    Pending,
    Snapshot,
    Ticket,
)
from ..errors import (
    CrawlkitError,
    StoreDamagedError,
    StoreError,
    StoreFencedError,
    StoreStaleError,
    StoreVersionError,
    StoreWriteError,
)
from ..stores.base import Allotment, Claim, Receipt
from ..stores.encoding import without_surrogates

MAX_FRAME = 2**30
"""Bytes of a message, at most: a checkpoint of ten million links. Longer ones are a mistake."""

_LENGTH = struct.Struct(">I")

Bases: TypeAlias = dict[str, bytes | None]


class Join(msgspec.Struct, tag=True, array_like=True):
    """A worker begins, under its name."""

    name: str


class Load(msgspec.Struct, tag=True, array_like=True):
    """`Store.load`."""


class Read(msgspec.Struct, tag=True, array_like=True):
    """`Store.document`."""

    name: str


class Wants(msgspec.Struct, tag=True, array_like=True):
    """`Store.claim`."""

    limit: int
    window: dict[str, int]
    now: float


class Commit(msgspec.Struct, tag=True, array_like=True, gc=False):
    """`Store.commit`: a `Checkpoint`, field by field, and what is known of its documents."""

    bases: Bases
    at: float
    is_migrating: bool
    documents: dict[str, Document | None]
    fresh: list[Pending]
    duplicates: int
    again: list[Pending]
    left: list[Ticket]
    outcomes: list[Outcome]
    forget: list[tuple[str, int, float]]
    skipped: list[Outcome]
    items: list[Item]
    errors: list[ErrorGroup]
    add: dict[str, Number]
    least: dict[str, Number]
    most: dict[str, Number]
    rests: dict[str, tuple[float, float]]
    shares: dict[str, int]

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Commit:
        """A checkpoint, to be sent."""
        bases = {name: merge.base for name, merge in checkpoint.merges.items()}
        return cls(bases, *(getattr(checkpoint, name) for name in _FIELDS))

    def checkpoint(self) -> Checkpoint:
        """The checkpoint that was sent."""
        return Checkpoint(**{name: getattr(self, name) for name in _FIELDS})


_FIELDS = Commit.__struct_fields__[1:]


class Again(msgspec.Struct, tag=True, array_like=True):
    """The last commit once more, with documents that are merged with those in `Conflict`."""

    bases: Bases
    documents: dict[str, Document]


class Extend(msgspec.Struct, tag=True, array_like=True):
    """`Store.extend`."""


class TryLock(msgspec.Struct, tag=True, array_like=True):
    """`Store.try_lock`."""

    name: str


class Unlock(msgspec.Struct, tag=True, array_like=True):
    """`Store.unlock`."""

    name: str


class Allot(msgspec.Struct, tag=True, array_like=True):
    """`Store.allot`."""

    counters: tuple[str, ...]
    most: int
    wanted: int


class Finish(msgspec.Struct, tag=True, array_like=True):
    """`Store.finish`."""


class Release(msgspec.Struct, tag=True, array_like=True):
    """`Store.release`."""


class Leave(msgspec.Struct, tag=True, array_like=True):
    """`Store.close`."""


Call: TypeAlias = (
    Join
    | Load
    | Read
    | Wants
    | Commit
    | Again
    | Extend
    | TryLock
    | Unlock
    | Allot
    | Finish
    | Release
    | Leave
)


class Conflict(msgspec.Struct, tag=True, array_like=True):
    """Nothing was committed: these documents are not what the worker knows of them."""

    stored: dict[str, Document]


class Done(msgspec.Struct, tag=True, array_like=True):
    """It is done, with what the call gives."""

    value: msgspec.Raw = msgspec.Raw(b"\xc0")


class Failure(msgspec.Struct, tag=True, array_like=True):
    """It was not done."""

    kind: str
    message: str


class News(msgspec.Struct, tag=True, array_like=True):
    """There may be something to do."""


Answer: TypeAlias = Done | Conflict | Failure | News

_ERRORS: dict[str, type[CrawlkitError]] = {
    kind.__name__: kind
    for kind in (
        StoreError,
        StoreDamagedError,
        StoreFencedError,
        StoreStaleError,
        StoreVersionError,
        StoreWriteError,
    )
}

_encode = msgspec.msgpack.Encoder().encode
_calls = msgspec.msgpack.Decoder(tuple[int, Call])
_answers = msgspec.msgpack.Decoder(tuple[int, Answer])

RESULTS: dict[type[Any], msgspec.msgpack.Decoder[Any]] = {
    call: msgspec.msgpack.Decoder(result)
    for call, result in (
        (Load, Snapshot),
        (Read, Document | None),
        (Wants, Claim),
        (Commit, Receipt),
        (Again, Receipt),
        (TryLock, bool),
        (Allot, Allotment),
        (Finish, bool),
    )
}


def frame(number: int, message: Call | Answer) -> bytes:
    """A message as it is sent.

    Raises:
        StoreError: It is too long.
    """
    try:
        data = _encode((number, message))
    except UnicodeEncodeError:  # half a surrogate pair, as in an error's message
        values = msgspec.to_builtins((number, message), builtin_types=(bytes,))
        data = _encode(without_surrogates(values))
    if len(data) > MAX_FRAME:
        raise StoreError(
            f"a checkpoint of {len(data) >> 20} MB is too much for one message; "
            "set a shorter persist_interval"
        )
    return _LENGTH.pack(len(data)) + data


async def read_frame(stream: asyncio.StreamReader) -> bytes | None:
    """The next message, not decoded; ``None`` where the other side is gone.

    Raises:
        StoreError: It is too long.
    """
    try:
        (length,) = _LENGTH.unpack(await stream.readexactly(_LENGTH.size))
        if length > MAX_FRAME:
            raise StoreError(f"a message of {length} bytes is too long")
        return await stream.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def call_in(data: bytes) -> tuple[int, Call]:
    """A call that was received.

    Raises:
        StoreError: It is none.
    """
    try:
        return _calls.decode(data)
    except msgspec.DecodeError as error:
        raise StoreError(f"a message of a worker is malformed: {error}") from None


def answer_in(data: bytes) -> tuple[int, Answer]:
    """An answer that was received.

    Raises:
        StoreError: It is none.
    """
    try:
        return _answers.decode(data)
    except msgspec.DecodeError as error:
        raise StoreError(f"an answer of the supervisor is malformed: {error}") from None


def done(value: Any) -> Done:
    """The answer that gives a value."""
    return Done(msgspec.Raw(_encode(value)))


def failure(error: Exception) -> Failure:
    """The answer that says what went wrong."""
    kind = type(error).__name__
    return Failure(kind if kind in _ERRORS else StoreError.__name__, str(error))


def error_of(answer: Failure) -> Exception:
    """What went wrong, to be raised."""
    return _ERRORS.get(answer.kind, StoreError)(answer.message)

"""Checkpoint: everything that changed since the last one. Loader: the way back.

A part meets only two things of this file: the `Checkpoint` that its `collect` adds to, and the
`Saved` that its `restore` reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from .errors import StoreDamagedError, StoreVersionError, UsageError
from .finite import refuse_infinite
from .request import Request

if TYPE_CHECKING:
    from .events import Persistent

Number = int | float

MAX_DELAY = 60.0
"""Seconds that a request waits at most before it is tried again. A store takes a longer wait for
none: the clock was set back since, between two lives of the run."""

READ_SINGLY = ("values/", "robots/", "budgets/", "specimens/")
"""Documents of which there may be many. They are not loaded at the start, but when asked for."""

_encode = msgspec.json.Encoder(order=None).encode
_decode = msgspec.json.Decoder().decode


class Ticket(NamedTuple):
    """Where the store keeps a claimed request: a bundle and the place in it. Opaque elsewhere."""

    bundle: int
    place: int


class Lease(NamedTuple):
    """A request that this process has claimed, with what the store needs to take it back."""

    request: Request
    fingerprint: int
    host: str
    ticket: Ticket


class Pending(msgspec.Struct, frozen=True, gc=False):
    """A request on its way into the queue; `due` is the Unix time before which it must wait."""

    request: Request
    fingerprint: int
    host: str
    due: float = 0.0


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """What became of a request.

    Attributes:
        outcome: ``handled``, ``failed`` or ``skipped``.
        url: Its URL as it was enqueued.
        fingerprint: Its identity, within `host`.
        host: ``host[:port]``.
        handler: The handler's name.
        status: HTTP status, where there was a response.
        at: Unix time.
        duration: Seconds, from the start of the last try.
        retries: How many times it was tried again.
        error: The error's kind, for a failed one.
        detail: The error in one line, or the rule by which it was skipped.
        request: A failed request as it was, so that it can be tried again later.
    """

    outcome: str
    url: str
    fingerprint: int
    host: str
    at: float
    handler: str | None = None
    status: int | None = None
    duration: float | None = None
    retries: int = 0
    error: str | None = None
    detail: str | None = None
    request: Request | None = None


class Item(NamedTuple):
    """An item as it is stored: JSON, and the page that it came from."""

    data: bytes
    url: str
    handler: str
    at: float


class ErrorGroup(msgspec.Struct):
    """Errors that are alike: one kind, one place, one message but for its varying parts.

    Attributes:
        kind: The error's type.
        message: Its message, varying parts masked.
        place: ``file:line`` or the handler where it arose.
        count: How often, retries included.
        first_at: Unix time of the first.
        last_at: Unix time of the last.
        examples: A few URLs, at most five.
    """

    kind: str
    message: str
    place: str
    count: int = 0
    first_at: float = 0.0
    last_at: float = 0.0
    examples: list[str] = msgspec.field(default_factory=list)

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes two errors alike."""
        return (self.kind, self.place, self.message)


class Document(NamedTuple):
    """A named value as it is stored: the version of its form, and JSON."""

    version: int
    data: bytes


class Append(NamedTuple):
    """Bytes that belong at `offset` of a file beside the store. Writing them twice is harmless."""

    path: str
    offset: int
    data: bytes


class Merge(NamedTuple):
    """How a document is brought together with what another worker saved of it meanwhile.

    Attributes:
        base: The document as this worker last knew it in the store; ``None`` where it was not
            there.
        combine: Takes base, mine and theirs, and gives what to store. Plain and quick: it runs
            inside the commit, and again where that is tried again.
    """

    base: bytes | None
    combine: Callable[[bytes | None, bytes, bytes], bytes]


@dataclass(slots=True)
class Checkpoint:
    """One instant of a run, committed whole or not at all.

    Attributes:
        at: Unix time of the instant.
        is_migrating: Whether the machine is about to go.
        documents: Documents by name; ``None`` removes one.
        fresh: Requests to enqueue where their fingerprint is new.
        duplicates: How many more links led to requests that were known to be enqueued.
        again: Requests to enqueue once more: retried, or given back.
        left: Tickets of requests that are done or were moved.
        outcomes: What became of requests.
        forget: ``(host, fingerprint, at)`` of failed outcomes that no longer hold, as a request is
            put back or dropped. Where one of them is not in the store, as another process was
            quicker, the checkpoint is refused whole.
        skipped: Links that were not enqueued, with the rule.
        items: Items to keep.
        errors: Groups of errors, with what was added to each.
        add: Counters, by how much they grew.
        least: Counters that keep the smallest value.
        most: Counters that keep the largest value.
        appends: Bytes for files beside the store.
        merges: Documents that several workers change, with how; of all others the last one counts.
        rests: Hosts that rest between requests or are paused, as Unix time of the next start and
            seconds from one start to the next: whoever claims the host next goes on from there.
        shares: Hosts of which this worker keeps only so many shares from now on; see `Store`.
    """

    at: float = 0.0
    is_migrating: bool = False
    documents: dict[str, Document | None] = field(default_factory=dict)
    fresh: list[Pending] = field(default_factory=list)
    duplicates: int = 0
    again: list[Pending] = field(default_factory=list)
    left: list[Ticket] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    forget: list[tuple[str, int, float]] = field(default_factory=list)
    skipped: list[Outcome] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    errors: list[ErrorGroup] = field(default_factory=list)
    add: dict[str, Number] = field(default_factory=dict)
    least: dict[str, Number] = field(default_factory=dict)
    most: dict[str, Number] = field(default_factory=dict)
    appends: list[Append] = field(default_factory=list)
    merges: dict[str, Merge] = field(default_factory=dict)
    rests: dict[str, tuple[float, float]] = field(default_factory=dict)
    shares: dict[str, int] = field(default_factory=dict)
    _part: str = ""

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """While it is open, `save` and `drop` speak of the documents of `part`."""
        self._part = part
        try:
            yield
        finally:
            self._part = ""

    def save(self, value: Any, *, key: str = "", version: int = 1) -> None:
        """Save `value` as the document of the part that is being collected.

        Args:
            value: JSON-like values, dataclasses, attrs and msgspec objects.
            key: A part with much to save keeps one document for each thing that changes by
                itself, and adds only those that did change.
            version: The version of the value's form. Raise it when the form changes.

        Raises:
            UsageError: The value is nothing that JSON can hold.
        """
        self.documents[self._name(key)] = Document(version, encode(value, self._name(key)))

    def drop(self, key: str = "") -> None:
        """Remove a document of the part that is being collected."""
        self.documents[self._name(key)] = None

    def _name(self, key: str) -> str:
        return f"{self._part}/{key}" if key else self._part

    def __bool__(self) -> bool:
        """Whether there is anything to commit."""
        return any(
            (
                self.documents,
                self.fresh,
                self.duplicates,
                self.again,
                self.left,
                self.outcomes,
                self.forget,
                self.skipped,
                self.items,
                self.errors,
                self.add,
                self.least,
                self.most,
                self.appends,
                self.rests,
                self.shares,
            )
        )


def encode(value: Any, what: str) -> bytes:
    """`value` as JSON.

    Raises:
        UsageError: It is nothing that JSON can hold; `what` names it in the message.
    """
    try:
        data = _encode(value)
        refuse_infinite(data, value)
        return data
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{what} cannot be saved: {error}; save JSON-like values, dataclasses or attrs objects"
        ) from None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a store holds of the registered parts: what the `Loader` reads at start-up.

    Attributes:
        documents: Documents by name, without those that are read one by one (`READ_SINGLY`).
        counters: Counters by name, without those under ``host/``, of which there may be many.
        errors: Groups of errors.
    """

    documents: Mapping[str, Document] = field(default_factory=dict)
    counters: Mapping[str, Number] = field(default_factory=dict)
    errors: tuple[ErrorGroup, ...] = ()


@dataclass(frozen=True, slots=True)
class Saved:
    """What the last life of the run saved of one part.

    Attributes:
        part: The part's name.
        snapshot: All that was saved, for parts that keep counters.
    """

    part: str
    snapshot: Snapshot

    def load(self, default: Any = None, *, key: str = "", version: int = 1, type: Any = Any) -> Any:
        """The document that the part saved, or `default` where it saved none.

        Args:
            default: What a fresh run starts with.
            key: The key that was given to `Checkpoint.save`.
            version: The version of the value's form that this code reads.
            type: Decode to this type (a dataclass, say) rather than to plain JSON values.

        Raises:
            StoreVersionError: It was saved in another version of its form.
            StoreDamagedError: It is not what was saved.
        """
        name = f"{self.part}/{key}" if key else self.part
        document = self.snapshot.documents.get(name)
        if document is None:
            return default
        if document.version != version:
            raise StoreVersionError(
                f"the saved state of {name!r} has version {document.version} and this code reads "
                f"version {version}; run it with the code that saved it, or start anew with --fresh"
            )
        return decode(document.data, name, type)

    def keys(self) -> Iterator[str]:
        """The keys under which the part saved documents of their own."""
        prefix = f"{self.part}/"
        return (name[len(prefix) :] for name in self.snapshot.documents if name.startswith(prefix))


def decode(data: bytes, name: str, type: Any = Any) -> Any:
    """A saved document as a value.

    Raises:
        StoreDamagedError: It is not what was saved.
    """
    try:
        return _decode(data) if type is Any else msgspec.json.decode(data, type=type)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreDamagedError(
            f"the saved state of {name!r} is damaged ({error}); see it with "
            f"'crawlkit state RUN get {name}', or start anew with --fresh"
        ) from None


class Loader:
    """Restores parts from what a store holds, before the first request."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot

    def restore(self, name: str, part: Persistent) -> None:
        """Give `part` back what it saved under `name`."""
        part.restore(Saved(name, self.snapshot))

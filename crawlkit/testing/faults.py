"""FaultyStore: a store that fails when it is told to, for tests of what a crawl does then."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from ..checkpoint import Checkpoint, Document, Snapshot
from ..errors import StoreWriteError
from ..stores.base import Claim, Reader, Receipt, Store
from ..stores.records import RunRecord


class FaultyStore(Store):
    """Any store, with one call that fails.

    A call that fails has done nothing, as the contract of `Store` says::

        store = FaultyStore(MemoryStore(), "commit", at=3)      # the third commit fails, once
        store = FaultyStore(MemoryStore(), "commit", at=3, lasting=True)  # and all after it

    Args:
        store: The store that does the work.
        method: The name of the method that fails.
        at: Which of its calls is the first to fail, counted from 1.
        lasting: Whether the later calls fail as well, until `heal`.
        error: What is raised; a `StoreWriteError` ("no space left on device") by default.

    Raises:
        ValueError: A store has no such method.

    Attributes:
        calls: How often each method was called.
        failures: How many calls were made to fail.
    """

    def __init__(
        self,
        store: Store,
        method: str = "commit",
        *,
        at: int = 1,
        lasting: bool = False,
        error: Exception | None = None,
    ) -> None:
        self.store = store
        self.address = store.address
        self.calls: Counter[str] = Counter()
        self.failures = 0
        self._method = _checked(method)
        self._at = at
        self._lasting = lasting
        self._error = error or StoreWriteError(
            f"{store.address}: no space left on device; make room and run it again"
        )

    def fail_next(self, method: str = "commit", *, after: int = 0, lasting: bool = False) -> None:
        """Fail once more: at the next call of `method`, or after so many that succeed.

        Raises:
            ValueError: A store has no such method.
        """
        self._method = _checked(method)
        self._at = self.calls[method] + after + 1
        self._lasting = lasting

    def heal(self) -> None:
        """Fail no more."""
        self._method = ""

    async def open(self, *, fresh: bool = False) -> None:
        """Open the store."""
        self._count("open")
        await self.store.open(fresh=fresh)

    async def load(self) -> Snapshot:
        """What the registered parts saved."""
        self._count("load")
        return await self.store.load()

    async def document(self, name: str) -> Document | None:
        """One document."""
        self._count("document")
        return await self.store.document(name)

    async def claim(self, limit: int, window: Mapping[str, int], now: float) -> Claim:
        """Claim requests."""
        self._count("claim")
        return await self.store.claim(limit, window, now)

    async def commit(self, checkpoint: Checkpoint) -> Receipt:
        """Write a checkpoint."""
        self._count("commit")
        return await self.store.commit(checkpoint)

    def reader(self) -> Reader:
        """The run, opened for reading."""
        self._count("reader")
        return self.store.reader()

    async def take_in(self, records: Sequence[RunRecord], *, is_last: bool) -> None:
        """Take in a part of another run."""
        self._count("take_in")
        await self.store.take_in(records, is_last=is_last)

    async def ship(self, within: float | None = None) -> None:
        """Bring what was committed to wherever else it belongs."""
        self._count("ship")
        await self.store.ship(within)

    async def release(self) -> None:
        """Give back what was claimed."""
        self._count("release")
        await self.store.release()

    async def close(self) -> None:
        """Close the store."""
        self._count("close")
        await self.store.close()

    def _count(self, method: str) -> None:
        self.calls[method] += 1
        if method != self._method:
            return
        number = self.calls[method]
        if number == self._at or (self._lasting and number > self._at):
            self.failures += 1
            raise self._error


def _checked(method: str) -> str:
    counted = Store.__abstractmethods__ | {"take_in"}
    if method not in counted:
        known = ", ".join(sorted(counted))
        raise ValueError(f"a store has no method {method!r}; it has: {known}")
    return method

"""Failures: requests that were given up, which of them are meant, and their way back or out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import msgspec

from .checkpoint import Checkpoint, Outcome, Pending, Saved
from .clock import Clock
from .counting.errorgroups import ErrorStatistics, without_group
from .errors import StoreStaleError, UsageError
from .job import Job
from .queue import RequestQueue
from .request import Request
from .statistics import Statistics
from .stores import open_store
from .stores.base import Reader, Store
from .workers.merging import Merges

BATCH = 2000
"""Requests that are decided about in one transaction."""


class Which(msgspec.Struct, frozen=True, kw_only=True):
    """Which failed requests are meant: those that fit all that is said.

    Attributes:
        url: The request's URL, in canonical form.
        host: ``host[:port]``.
        handler: The handler's name.
        error: The error's kind.
        group: The id of its error group.
        status: HTTP status.
    """

    url: str | None = None
    host: str | None = None
    handler: str | None = None
    error: str | None = None
    group: str | None = None
    status: int | None = None

    def fits(self, failure: Outcome) -> bool:
        """Whether a failed request is meant."""
        return (
            self.error in (None, failure.error)
            and self.handler in (None, failure.handler)
            and self.url in (None, failure.url)
            and self.host in (None, failure.host)
            and self.status in (None, failure.status)
            and self.group in (None, without_group(failure.detail)[1])
        )

    def of_group(self, id: str, groups: Iterable[ErrorStatistics]) -> Which:
        """Those of them that are of one group of errors.

        Args:
            id: The group's id.
            groups: The groups that there are.

        Raises:
            UsageError: It is none of them.
        """
        for group in groups:
            if group.id == id:
                return msgspec.structs.replace(self, group=id)
        raise UsageError(f"there is no group of errors {id!r}; see 'crawlkit stats RUN --json'")

    def find(self, reader: Reader, after: tuple[str, int] | None = None) -> Iterator[Outcome]:
        """Those of a run, streamed, in the order of the store."""
        return filter(self.fits, reader.outcomes_after("failed", after, host=self.host))


EVERY = Which()

Decide = Callable[[Outcome, Checkpoint, Statistics], None]


def pending_again(failure: Outcome) -> Pending:
    """The failed request as it is enqueued once more, with all its retries before it."""
    request = failure.request or Request(failure.url, failure.handler or "parse")
    return Pending(request.replace(retry_count=0), failure.fingerprint, failure.host)


# -- a run of others ------------------------------------------------------------------------------


def put_back(failure: Outcome, checkpoint: Checkpoint, statistics: Statistics) -> None:
    """Have a failed request tried again."""
    checkpoint.forget.append((failure.host, failure.fingerprint, failure.at))
    checkpoint.again.append(pending_again(failure))
    statistics.put_back(failure)


def drop(failure: Outcome, checkpoint: Checkpoint, statistics: Statistics) -> None:
    """Call a failed request skipped."""
    checkpoint.forget.append((failure.host, failure.fingerprint, failure.at))
    checkpoint.outcomes.append(
        Outcome(
            outcome="skipped",
            url=failure.url,
            fingerprint=failure.fingerprint,
            host=failure.host,
            at=checkpoint.at,
            handler=failure.handler,
            detail="dropped",
        )
    )
    statistics.drop(failure)


async def resolve(address: str, which: Which, decide: Decide) -> int:
    """Decide about failed requests of a run, of which nobody else decides meanwhile; how many.

    Where another process does, each request is decided about once, by one of them.

    Args:
        address: The run.
        which: Those that are meant.
        decide: `put_back` or `drop`.

    Raises:
        StoreLockedError: A crawl is writing the run, and that has one writer.
        StoreError: It cannot be read or written.
    """
    store = open_store(address)
    await store.open()  # refused while a crawl is writing
    try:
        count, after = 0, None
        while batch := read_batch(store, which, after):
            try:
                await store.commit(await decided(store, batch, decide))
            except StoreStaleError:
                continue  # some of them are another one's: those that are left, then
            after = (batch[-1].host, batch[-1].fingerprint)
            count += len(batch)
        return count
    finally:
        await store.close()


def read_batch(store: Store, which: Which, after: tuple[str, int] | None) -> list[Outcome]:
    """Some of the failed requests that come after a place in the order of the store."""
    reader = store.reader()
    try:
        return list(islice(which.find(reader, after), BATCH))
    finally:
        reader.close()


async def decided(store: Store, batch: Iterable[Outcome], decide: Decide) -> Checkpoint:
    """A checkpoint with what is decided about failed requests, and nothing else.

    It is refused whole, where one of them is not what it was.
    """
    snapshot = await store.load()
    statistics = Statistics(is_shared=store.is_shared)
    statistics.restore(Saved("statistics", snapshot))
    statistics.in_flight = 0
    merges = Merges(lambda: {"statistics": statistics})
    merges.restore("statistics", snapshot)
    checkpoint = Checkpoint(at=Clock().now())
    for failure in batch:
        decide(failure, checkpoint, statistics)
    with checkpoint.of("statistics"):
        statistics.collect(checkpoint)
    if store.is_shared:
        merges.prepare(checkpoint)
    return checkpoint


# -- a run that goes on ---------------------------------------------------------------------------


class FailureRetry:
    """Puts failed requests of a crawl that goes on back into its queue.

    A request is enqueued, its outcome forgotten and its failure uncounted in the same checkpoint:
    if the process dies before it, nothing was asked for, and after it the request is pending. Where
    several workers write the run, that is a checkpoint of its own, which is refused where another
    one was quicker with some of them.

    Args:
        job: The life of the run.
        queue: What is still to do.
        statistics: What was done.
    """

    def __init__(self, job: Job, queue: RequestQueue, statistics: Statistics) -> None:
        self._job = job
        self._queue = queue
        self._statistics = statistics
        self._turn = asyncio.Lock()

    async def retry(self, which: Which) -> int:
        """Try those again that have failed by now; how many there were. All of it is durable then.

        Raises:
            UsageError: The crawl is over, or about to stop.
            StoreError: It could not be written down. What was asked for comes with the next
                checkpoint that can be.
        """
        # One after the other, and from what is in the store: so none is put back twice.
        async with self._turn:
            await self._job.checkpoint()
            now, count, after = self._job.clock.now(), 0, None
            store = self._job.store
            while batch := await asyncio.to_thread(read_batch, store, which, after):
                # One of a time that is yet to come is of an earlier life: the clock was set back.
                later = self._job.clock.now()
                meant = [failure for failure in batch if not now < failure.at <= later]
                if store.is_shared:
                    try:
                        count += await self._put_back_apart(meant)
                    except StoreStaleError:
                        continue  # some of them are another worker's: those that are left, then
                else:
                    count += self._put_back(meant)
                    await self._job.checkpoint()
                after = (batch[-1].host, batch[-1].fingerprint)
            return count

    async def _put_back_apart(self, failures: list[Outcome]) -> int:
        checkpoint = await decided(self._job.store, failures, put_back)
        self._refuse_if_over()
        if failures:
            self._queue.expect(len(failures))
            await self._job.commit_apart(checkpoint)
        return len(failures)

    def _refuse_if_over(self) -> None:
        if self._queue.is_closed:
            raise UsageError("the crawl is over; run it again, and retry before or meanwhile")

    def _put_back(self, failures: list[Outcome]) -> int:
        self._refuse_if_over()
        count = 0
        for failure in failures:
            if self._queue.revive(pending_again(failure), failure.at):
                self._statistics.put_back(failure)
                count += 1
        return count

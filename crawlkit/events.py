"""Events and the bus: the one place where parts and users meet.

Names and payloads of the first five are those of the Apify platform, whose users know them.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from .errors import UsageError, one_line

if TYPE_CHECKING:
    from .checkpoint import Checkpoint, Saved
    from .page import Page
    from .request import Request

log = logging.getLogger("crawlkit.events")


@dataclass(frozen=True, slots=True)
class Event:
    """What happened. The payloads are frozen: a listener reads them, it does not steer by them."""

    name: ClassVar[str]


@dataclass(frozen=True, slots=True)
class PersistState(Event):
    """Now is the moment to save: right after the listeners, every part is collected.

    Attributes:
        is_migrating: The machine is about to go; this checkpoint may be the last one here.
    """

    name: ClassVar[str] = "persistState"
    is_migrating: bool = False


@dataclass(frozen=True, slots=True)
class Migrating(Event):
    """A trigger says that this machine is about to go.

    Attributes:
        time_remaining: Seconds that are left, or ``None`` where the trigger does not say.
    """

    name: ClassVar[str] = "migrating"
    time_remaining: float | None = None


@dataclass(frozen=True, slots=True)
class Aborting(Event):
    """A graceful stop was asked for: the first Ctrl-C, or the platform."""

    name: ClassVar[str] = "aborting"


@dataclass(frozen=True, slots=True)
class SystemInfo(Event):
    """How the process is doing, once a second.

    Attributes:
        cpu: Share of one core that this process used, 1.0 is a whole core.
        memory_bytes: Resident memory of this process.
        loop_delay: Seconds by which the event loop was late, at worst.
        cpu_limit: Cores that this process may use.
        memory_limit_bytes: Memory that there may be, of the group of processes or the machine that
            is nearest to its limit; ``None`` where the system does not tell.
        memory_used_bytes: How much of that is in use, by this process and by others.
    """

    name: ClassVar[str] = "systemInfo"
    cpu: float
    memory_bytes: int
    loop_delay: float
    cpu_limit: float = 1.0
    memory_limit_bytes: int | None = None
    memory_used_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class CpuInfo(Event):
    """What the platform says of the processor, where there is a platform.

    Attributes:
        is_overloaded: Whether it has more to do than it can, where the platform says so.
        cpu: Share of the processor time that this crawl may use and does, where the platform says.
    """

    name: ClassVar[str] = "cpuInfo"
    is_overloaded: bool | None = None
    cpu: float | None = None


@dataclass(frozen=True, slots=True)
class RequestHandled(Event):
    """A handler has succeeded and the page's effects were applied.

    Attributes:
        request: The request.
        status: HTTP status.
        duration: Seconds from its start to its effects.
        page: The page, with the items and links that its handler gave.
    """

    name: ClassVar[str] = "requestHandled"
    request: Request
    status: int
    duration: float
    page: Page | None = None


@dataclass(frozen=True, slots=True)
class RequestRetried(Event):
    """A request failed and will be tried again.

    Attributes:
        request: The request as it was tried.
        error: Why it failed.
        delay: Seconds until it is tried again.
    """

    name: ClassVar[str] = "requestRetried"
    request: Request
    error: Exception
    delay: float


@dataclass(frozen=True, slots=True)
class RequestFailed(Event):
    """A request was given up.

    Attributes:
        request: The request.
        error: Why it failed the last time.
    """

    name: ClassVar[str] = "requestFailed"
    request: Request
    error: Exception


@dataclass(frozen=True, slots=True)
class RequestSkipped(Event):
    """A link or request is not fetched.

    Attributes:
        url: Its URL.
        reason: The rule, such as ``scope``, ``exclude`` or ``max_depth``.
    """

    name: ClassVar[str] = "requestSkipped"
    url: str
    reason: str


@dataclass(frozen=True, slots=True)
class SessionRetired(Event):
    """A session is not used any more.

    Attributes:
        session_id: Its id.
        reason: ``blocked``, ``errors``, ``age``, ``usage``, ``unused``, ``proxy``, ``handler``, or
            what `Session.retire` was given.
    """

    name: ClassVar[str] = "sessionRetired"
    session_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class CrawlerStatus(Event):
    """Where the crawl stands, once a second: what a progress display shows.

    Attributes:
        finished: Requests handled, over all lives.
        failed: Requests given up, over all lives.
        pending: Requests that wait.
        in_flight: Requests being fetched or handled.
        items: Items saved, over all lives.
        cache_hits: Pages that came from the page cache, over all lives.
    """

    name: ClassVar[str] = "crawlerStatus"
    finished: int
    failed: int
    pending: int
    in_flight: int
    items: int
    cache_hits: int = 0


@dataclass(frozen=True, slots=True)
class Exit(Event):
    """The job is over and everything is committed.

    Attributes:
        code: The exit code that the process is about to return.
    """

    name: ClassVar[str] = "exit"
    code: int


EVENTS: dict[str, type[Event]] = {
    event.name: event
    for event in (
        PersistState,
        Migrating,
        Aborting,
        SystemInfo,
        CpuInfo,
        RequestHandled,
        RequestRetried,
        RequestFailed,
        RequestSkipped,
        SessionRetired,
        CrawlerStatus,
        Exit,
    )
}

Listener = Callable[..., object]
"""A function, plain or async, that takes the event or nothing."""


class Persistent(Protocol):
    """A part whose state outlives the process. Your own parts and the built-in ones are alike."""

    def restore(self, saved: Saved) -> None:
        """Take back what was saved, before the first request. Called once, also on a fresh run."""

    def collect(self, checkpoint: Checkpoint) -> None:
        """Add what changed since the last call to the checkpoint. Synchronous.

        What is handed over belongs to the checkpoint, which is retried until it is committed.
        """


class EventBus:
    """Brings events to listeners and gathers the registered parts into a checkpoint.

    Args:
        deadline: Seconds that each async listener has; then it is cancelled and reported.
    """

    def __init__(self, *, deadline: float = 5.0) -> None:
        self.deadline = deadline
        self._listeners: dict[str, list[tuple[Listener, bool]]] = {name: [] for name in EVENTS}
        self._parts: dict[str, Persistent] = {}
        self._patience: set[asyncio.Timeout] = set()

    # -- listeners ----------------------------------------------------------------------------

    def on(self, event: str, listener: Listener) -> None:
        """Call `listener` at every `event`; see `EVENTS` for the names.

        Raises:
            UsageError: There is no such event.
        """
        self._of(event).append((listener, _takes_event(listener)))

    def off(self, event: str, listener: Listener | None = None) -> None:
        """Stop calling `listener`, or every listener of the event where none is named."""
        listeners = self._of(event)
        listeners[:] = [entry for entry in listeners if listener not in (None, entry[0])]

    def listens(self, event: str) -> bool:
        """Whether anyone listens, so that the hot path need not make payloads for nobody."""
        return bool(self._listeners[event])

    async def emit(self, event: Event, *, deadline: float | None = None) -> None:
        """Bring `event` to its listeners, in their order; return when all had their turn.

        Async listeners run side by side. One that raises, or is not done within `deadline`
        seconds (default: the bus's), is reported in the log and keeps nobody else from its turn.
        """
        running: dict[asyncio.Future[None], Listener] = {}
        for listener, takes_event in tuple(self._listeners[event.name]):
            try:
                result = listener(event) if takes_event else listener()
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:
                # Also a CancelledError, as from the result of a task: there is nobody to cancel.
                _report(listener, event, error)
            else:
                if inspect.isawaitable(result):
                    running[asyncio.ensure_future(result)] = listener
        if not running:
            return
        is_late = False
        try:
            async with asyncio.timeout(self.deadline if deadline is None else deadline) as patience:
                self._patience.add(patience)
                await asyncio.wait(running)
        except TimeoutError:
            is_late = True
        finally:
            self._patience.discard(patience)
            for task, listener in running.items():
                if not task.done():
                    # Not awaited: one that swallows its cancellation must not hold the crawl up.
                    task.cancel()
                    task.add_done_callback(_retrieve)
                    if is_late:  # or the one who tells of it ends, as at the end of a job
                        log.error(
                            "listener %s of %s was cut off: too slow", _name(listener), event.name
                        )
                elif not task.cancelled() and (failure := task.exception()) is not None:
                    _report(listener, event, failure)

    def hurry(self, deadline: float) -> None:
        """From now on no listener has more than `deadline` seconds, also of those under way."""
        self.deadline = min(self.deadline, deadline)
        end = asyncio.get_running_loop().time() + deadline
        for patience in self._patience:
            if not patience.expired() and (patience.when() or end) > end:
                patience.reschedule(end)

    def _of(self, event: str) -> list[tuple[Listener, bool]]:
        try:
            return self._listeners[event]
        except KeyError:
            known = ", ".join(EVENTS)
            raise UsageError(f"no event is called {event!r}; there are: {known}") from None

    # -- parts --------------------------------------------------------------------------------

    def register(self, name: str, part: Persistent) -> None:
        """Save `part` at every `persistState` and `migrating`, under a name that never changes.

        Raises:
            UsageError: The name is taken, or not usable.
        """
        if not name or "/" in name:
            raise UsageError(f"a part cannot be called {name!r}; give it a name without a slash")
        if name in self._parts:
            raise UsageError(f"a part called {name!r} is registered already; choose another name")
        self._parts[name] = part

    @property
    def parts(self) -> dict[str, Persistent]:
        """The registered parts by name, in the order of their registration."""
        return dict(self._parts)

    def collect(self, checkpoint: Checkpoint) -> Exception | None:
        """Gather every part into `checkpoint`. There is no await in here: it is one instant.

        Returns:
            Why a part could not be collected. The checkpoint is then no instant of the run, and
            must not be committed.
        """
        for name, part in self._parts.items():
            try:
                with checkpoint.of(name):
                    part.collect(checkpoint)
            except BaseException as error:
                # Whatever it is: parts before this one have handed over what they had.
                log.error("the part %r cannot be saved: %s", name, one_line(error))
                return error if isinstance(error, Exception) else RuntimeError(one_line(error))
        return None


def _report(listener: Listener, event: Event, error: BaseException) -> None:
    log.error("listener %s of %s failed: %s", _name(listener), event.name, one_line(error))


def _retrieve(task: asyncio.Future[Any]) -> None:
    if not task.cancelled():
        task.exception()


def _takes_event(listener: Listener) -> bool:
    try:
        parameters = inspect.signature(listener).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD) for p in parameters)


def _name(listener: Listener) -> str:
    return getattr(listener, "__qualname__", None) or repr(listener)

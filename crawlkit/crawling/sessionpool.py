"""SessionPool: a limited number of sessions, and which host gets which.

A session is what a site takes for one visitor: cookies, headers and a proxy. The pool gives each
host the same one as long as that goes well, and replaces those that were blocked, failed too often
or are old. The numbers are those of Crawlee, whose users know them.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from math import inf
from typing import Any

from ..checkpoint import Checkpoint, Document, Saved, decode
from ..clock import Clock
from ..http.cookies import hostname, self_and_parents
from ..http.proxies import ProxyPool
from ..sessions import Session, SessionLimits
from .savedsession import SavedSession, changes_of

MAX_STICKY = 10_000
"""Hosts whose session is remembered. The one that was silent for longest is forgotten."""
MAX_NAMED = 1_000
"""Sessions that were asked for by id. The one that was unused for longest is retired."""

LOOK_AGAIN = 1.0
"""Seconds between two looks at whether another worker has got a session cookies."""

_LIMITS = SessionLimits()


class SessionPool:
    """A limited number of sessions, and which host gets which.

    Sticky: a host keeps its session until that is retired, is blocked there, or its proxy rests
    while others do not. Hosts that are new get the sessions in turn. A session that a request asks
    for by its id is made when it is first asked for. It stands beside the others from then on: only
    requests that ask for it get it, and neither age nor usage ends it, only blocks, errors and
    `Session.retire`.

    At a checkpoint those sessions are saved that a site could tell from fresh ones, where they
    changed: with cookies, a proxy or headers of their own, errors or blocks, or asked for by id.
    The others are made anew after a restart and nobody notices. Which hosts a session was for is
    known again from its cookies. A session comes back with the proxies that it had. Where one of
    them is not there any more it does not, as its cookies belong to that address; one that is
    asked for by id does, with another proxy.

    Args:
        clock: What ages are measured by.
        size: How many sessions there are, but for those asked for by id; at least one for each
            proxy of a group. With 20, a block costs a twentieth of the cookies, and every session
            can be saved every second for next to nothing.
        max_age: Seconds after which a session is replaced.
        max_error_score: Error score at which a session is replaced.
        error_score_decrement: By how much a success lowers the score.
        max_usage: Requests after which a session is replaced.
        proxies: Which proxies sessions go through.
        headers: Headers that every new session starts with.
        persist: Whether sessions are kept over restarts.
        read: Reads a document from the store by its name, where other workers write the run, too.
        on_retired: Called with id and reason when a session is retired: ``blocked``, ``errors``,
            ``age``, ``usage``, ``unused`` (too many were asked for by id), ``handler``, or what
            `Session.retire` was given; ``proxy`` where every session that could go on has a proxy
            that rests.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        size: int = 20,
        max_age: float = _LIMITS.max_age,
        max_error_score: float = _LIMITS.max_error_score,
        error_score_decrement: float = _LIMITS.error_score_decrement,
        max_usage: int = _LIMITS.max_usage,
        proxies: ProxyPool | None = None,
        headers: Mapping[str, str] | None = None,
        persist: bool = True,
        read: Callable[[str], Awaitable[Document | None]] | None = None,
        on_retired: Callable[[str, str], None] | None = None,
    ) -> None:
        self._clock = clock
        self._read = read
        self._looked: dict[str, float] = {}
        self._seen: dict[str, bytes] = {}
        self._limits = SessionLimits(max_age, max_error_score, error_score_decrement, max_usage)
        self._proxies = proxies or ProxyPool(clock)
        self._size = max(1, size, self._proxies.largest)
        self._headers = dict(headers or {})
        self._persist = persist
        self._on_retired = on_retired
        self._sessions: dict[str, Session] = {}  # all of them, by id
        self._ring: list[Session] = []  # those that are given out in turn
        self._turn = -1
        # Host to id. Ordered, as a dict slows down when it is emptied from its front.
        self._sticky: OrderedDict[str, str] = OrderedDict()
        self._homes: dict[str, str] = {}  # domain of a restored cookie to id
        self._saved: dict[str, tuple[object, ...]] = {}
        self._dropped: set[str] = set()

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(tuple(self._sessions.values()))

    def pick(self, host: str, session_id: str | None = None, url: str | None = None) -> Session:
        """The session for one more request to `host`; counts as a use of it.

        Args:
            host: The request's ``host[:port]``.
            session_id: Id of the session that it must be. One that was retired, or that `host`
                blocks, is made anew.
            url: The request's URL. With it, a session whose proxy for that rests is passed over.
        """
        if session_id is not None:
            session = self._named(session_id, host)
        else:
            now = self._clock.now()
            known = self._sessions.get(self._sticky.get(host, ""))
            if known is not None and self._suits(known, host, url, now):
                session = known
            else:
                if known is not None:
                    self._retire_if_old(known, now)
                session = self._next(host, url, now)
                self._sticky[host] = session.id
                if len(self._sticky) > MAX_STICKY:
                    self._sticky.popitem(last=False)
            self._sticky.move_to_end(host)
        session.usage_count += 1
        return session

    async def refresh(self, session_id: str) -> None:
        """Take over the cookies that another worker was given for a session asked for by its id.

        To be called before `pick`. It looks at most once a second, which is how often they save.
        """
        if self._read is None:
            return
        now = self._clock.now()
        if now - self._looked.get(session_id, -inf) < LOOK_AGAIN:
            return
        self._looked[session_id] = now
        document = await self._read(f"sessions/{session_id}")
        session = self._sessions.get(session_id)
        if document is None or document.data == self._seen.get(session_id):
            return
        self._seen[session_id] = document.data
        saved = decode(document.data, f"sessions/{session_id}", SavedSession)
        if session is None:
            session = self._make(session_id)
            saved.restore(session)
            session.is_named = True
            self._ring.remove(session)
        else:
            session.cookies.load(saved.cookies)
        self._saved[session_id] = changes_of(session)

    @staticmethod
    def merge(base: Any, mine: Any, theirs: Any) -> Any:
        """A session as all workers have used it."""
        return SavedSession.merge(base, mine, theirs)

    def _next(self, host: str, url: str | None, now: float) -> Session:
        """A session for a host that has none."""
        for domain in self_and_parents(hostname(host)) if self._homes else ():
            known = self._sessions.get(self._homes.get(domain, ""))
            if known is not None and self._suits(known, host, url, now):
                return known
        if len(self._ring) < self._size:
            return self._make(_new_id())
        for _ in range(len(self._ring)):
            self._turn = (self._turn + 1) % len(self._ring)
            session = self._ring[self._turn]
            if self._suits(session, host, url, now):
                return session
            self._retire_if_old(session, now)
            if session.retired is not None:
                break
        else:
            # None may go there now. One has to go, so that the host is met by a new face.
            session = self._ring[self._turn]
            session.retire("blocked" if host in session.blocked else "proxy")
        return self._make(_new_id())

    def _suits(self, session: Session, host: str, url: str | None, now: float) -> bool:
        """Whether one of those that are given out in turn may make one more request."""
        return (
            not session.is_named
            and session.is_usable(host, now)
            and (url is None or self._proxies.suits(url, session))
        )

    def _named(self, id: str, host: str) -> Session:
        """The session that a request asks for by its id."""
        session = self._sessions.get(id)
        if session is not None and host in session.blocked:
            session.retire("blocked")
            session = None
        if session is None:
            session = self._make(id)
        # Taken out and put back: the first is the one that was unused for longest.
        self._sessions[id] = self._sessions.pop(id)
        if not session.is_named:
            session.is_named = True
            self._ring.remove(session)
            if len(self._sessions) - len(self._ring) > MAX_NAMED:
                next(old for old in self._sessions.values() if old.is_named).retire("unused")
        return session

    def _make(self, id: str) -> Session:
        session = Session(
            id,
            self._clock,
            headers=self._headers,
            limits=self._limits,
            on_retired=self._forget,
        )
        self._sessions[id] = session
        self._ring.append(session)
        return session

    def _retire_if_old(self, session: Session, now: float) -> None:
        if session.is_named:
            return
        if session.usage_count >= self._limits.max_usage:
            session.retire("usage")
        elif now - session.created_at >= self._limits.max_age:
            session.retire("age")

    def _forget(self, session: Session, reason: str) -> None:
        if self._sessions.get(session.id) is not session:
            return
        del self._sessions[session.id]
        if not session.is_named:
            self._ring.remove(session)
        if self._saved.pop(session.id, None) is not None:
            self._dropped.add(session.id)
        if self._on_retired is not None:
            self._on_retired(session.id, reason)

    # -- a persisted part ---------------------------------------------------------------------

    def restore(self, saved: Saved) -> None:
        """Take back the sessions of the last life, but for those that have served their time."""
        # What is not taken back is dropped, so that it does not come back in a later life.
        self._dropped.update(saved.keys())
        if not self._persist:
            return
        now = self._clock.now()
        documents = {id: saved.load(key=id, type=SavedSession) for id in tuple(self._dropped)}
        for id, document in sorted(documents.items(), key=lambda entry: entry[1].created_at):
            if not document.is_named and len(self._ring) >= self._size:
                continue
            session = self._make(id)
            document.restore(session)
            if session.is_named:
                self._ring.remove(session)
            if not self._proxies.keeps(session):
                session.proxies.clear()
                if not session.is_named:
                    session.retire("proxy")
            self._retire_if_old(session, now)
            if session.retired is None:
                self._dropped.discard(id)
                self._saved[id] = changes_of(session)
                if not session.is_named:
                    self._homes.update(dict.fromkeys(session.cookies.domains, id))
        if self._read is not None:
            self._dropped.clear()  # another worker may have them

    def collect(self, checkpoint: Checkpoint) -> None:
        """Add the sessions that changed, each as a document of its own."""
        for id in self._dropped:
            checkpoint.drop(id)
        self._dropped.clear()
        if not self._persist:
            return
        for id, session in self._sessions.items():
            mark = changes_of(session)
            if mark != self._saved.get(id) and self._is_worth_saving(session):
                checkpoint.save(SavedSession.of(session), key=id)
                self._saved[id] = mark

    def _is_worth_saving(self, session: Session) -> bool:
        """Whether anyone would notice if it were made anew."""
        return bool(
            session.id in self._saved
            or session.is_named
            or session.has_cookies
            or session.error_score
            or session.blocked
            or session.proxy is not None
            or session.headers != self._headers
        )


def _new_id() -> str:
    return os.urandom(6).hex()

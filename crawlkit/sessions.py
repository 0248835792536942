"""Session and SessionPool: the identities under which a crawl meets its sites.

A session is what a site takes for one visitor: cookies, headers and a proxy. The pool keeps a
limited number of them, gives each host the same one as long as that goes well, and replaces those
that were blocked, failed too often or are old. The numbers are those of Crawlee, whose users know
them.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

import msgspec

from .checkpoint import Checkpoint, Document, Saved, decode
from .clock import Clock
from .http.cookies import Cookie, CookieJar, hostname, self_and_parents
from .http.proxies import ProxyPool
from .workers.merging import merge

MAX_BLOCKED = 32
"""Hosts that may block a session; one more and it is retired for all."""
MAX_STICKY = 10_000
"""Hosts whose session is remembered. The one that was silent for longest is forgotten."""
MAX_NAMED = 1_000
"""Sessions that were asked for by id. The one that was unused for longest is retired."""

LOOK_AGAIN = 1.0
"""Seconds between two looks at whether another worker has got a session cookies."""


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """When a session has served its time.

    Attributes:
        max_age: Seconds.
        max_error_score: Score at which it is retired; a failure counts 1.
        error_score_decrement: By how much a success lowers the score.
        max_usage: Requests.
    """

    max_age: float = 3000.0
    max_error_score: float = 3.0
    error_score_decrement: float = 0.5
    max_usage: int = 50


_LIMITS = SessionLimits()


class Session:
    """One visitor, as a site sees it. Handlers find theirs at ``page.session``.

    Args:
        id: Its name, also after a restart.
        clock: What its age is measured by.
        headers: Headers of every request that it makes.
        proxy: URL of a proxy for all that it does, in place of those of the crawler.
        limits: When it has served its time.
        on_retired: Called once with the session and the reason when it is retired.

    Attributes:
        headers: Headers of every request that it makes, over those of the crawler. May be changed.
        proxy: URL of a proxy for all that it does, or ``None`` for those that the crawler's
            `proxies` name. May be changed.
        proxies: The proxies that it was given of those, by pattern, without their passwords.
        created_at: Unix time.
        usage_count: Requests that it was picked for.
        error_score: Grows by 1 at a failure, shrinks by the decrement at a success.
        blocked: Hosts that refuse it.
        is_named: Whether requests ask for it by its id; neither age nor usage ends it then.
        retired: Why it is not used any more, or ``None`` while it is.
    """

    __slots__ = (
        "_clock",
        "_cookies",
        "_limits",
        "_on_retired",
        "blocked",
        "created_at",
        "error_score",
        "headers",
        "id",
        "is_named",
        "proxies",
        "proxy",
        "retired",
        "usage_count",
    )

    def __init__(
        self,
        id: str,
        clock: Clock,
        *,
        headers: Mapping[str, str] | None = None,
        proxy: str | None = None,
        limits: SessionLimits = _LIMITS,
        on_retired: Callable[[Session, str], None] | None = None,
    ) -> None:
        self.id = id
        self.headers = dict(headers) if headers else {}
        self.proxy = proxy
        self.proxies: dict[str, str] = {}
        self.created_at = clock.now()
        self.usage_count = 0
        self.error_score = 0.0
        self.blocked: set[str] = set()
        self.is_named = False
        self.retired: str | None = None
        self._clock = clock
        self._limits = limits
        self._on_retired = on_retired
        self._cookies: CookieJar | None = None

    def __repr__(self) -> str:
        return f"<Session {self.id}{f' retired: {self.retired}' if self.retired else ''}>"

    # -- cookies: made when the first one arrives, as most sessions never see any ---------------

    @property
    def cookies(self) -> CookieJar:
        """Its cookies. They are kept over restarts."""
        if self._cookies is None:
            self._cookies = CookieJar(self._clock)
        return self._cookies

    @property
    def has_cookies(self) -> bool:
        """Whether it has any; asking for `cookies` would make the jar."""
        return bool(self._cookies)

    def cookie_header(self, url: str) -> str:
        """The ``Cookie`` header for a request to `url`, or ``""``."""
        return self._cookies.header(url) if self._cookies else ""

    def store_cookies(self, url: str, set_cookie: Iterable[str]) -> None:
        """Take in the ``Set-Cookie`` headers of a response from `url`."""
        self.cookies.store(url, set_cookie)

    # -- health -------------------------------------------------------------------------------

    def mark_good(self) -> None:
        """A page was fetched and handled: lowers the error score."""
        if self.error_score:
            self.error_score = max(0.0, self.error_score - self._limits.error_score_decrement)

    def mark_bad(self) -> None:
        """A request failed and the session may be why: raises the error score by 1."""
        self.error_score += 1.0
        if self.error_score >= self._limits.max_error_score:
            self.retire("errors")

    def mark_blocked(self, host: str) -> None:
        """`host` refuses this session (401, 403, 429): it is not used there any more."""
        self.blocked.add(host)
        if len(self.blocked) > MAX_BLOCKED:
            self.retire("blocked")

    def retire(self, reason: str = "handler") -> None:
        """Use it for no further request. Those that are under way are finished with it."""
        if self.retired is None:
            self.retired = reason
            if self._on_retired is not None:
                self._on_retired(self, reason)

    def is_usable(self, host: str, now: float) -> bool:
        """Whether it may make one more request to `host` at the Unix time `now`."""
        return (
            self.retired is None
            and host not in self.blocked
            and (
                self.is_named
                or (
                    self.usage_count < self._limits.max_usage
                    and now - self.created_at < self._limits.max_age
                )
            )
        )


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
        saved = decode(document.data, f"sessions/{session_id}", _SavedSession)
        if session is None:
            session = self._make(session_id)
            _restore(session, saved)
            session.is_named = True
            self._ring.remove(session)
        else:
            session.cookies.load(saved.cookies)
        self._saved[session_id] = _mark(session)

    @staticmethod
    def merge(base: Any, mine: Any, theirs: Any) -> Any:
        """A session as all workers have used it: cookies by their names."""
        merged = merge(*(_by_name(session) for session in (base, mine, theirs)))
        created_at = min(mine["created_at"], theirs["created_at"])
        return {**merged, "cookies": list(merged["cookies"].values()), "created_at": created_at}

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
        documents = {id: saved.load(key=id, type=_SavedSession) for id in tuple(self._dropped)}
        for id, document in sorted(documents.items(), key=lambda entry: entry[1].created_at):
            if not document.is_named and len(self._ring) >= self._size:
                continue
            session = self._make(id)
            _restore(session, document)
            if session.is_named:
                self._ring.remove(session)
            if not self._proxies.keeps(session):
                session.proxies.clear()
                if not session.is_named:
                    session.retire("proxy")
            self._retire_if_old(session, now)
            if session.retired is None:
                self._dropped.discard(id)
                self._saved[id] = _mark(session)
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
            mark = _mark(session)
            if mark != self._saved.get(id) and self._is_worth_saving(session):
                checkpoint.save(_saved(session), key=id)
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


class _SavedSession(msgspec.Struct, omit_defaults=True):
    """A session as it is saved."""

    created_at: float
    usage_count: int = 0
    error_score: float = 0.0
    headers: dict[str, str] = {}
    proxy: str | None = None
    proxies: dict[str, str] = {}
    blocked: list[str] = []
    cookies: list[Cookie] = []
    is_named: bool = False


def _by_name(session: Any) -> Any:
    """A saved session with its cookies as a dict."""
    if session is None:
        return None
    # Name, value, domain, path: a `Cookie` is an array.
    cookies = {"\0".join((c[0], c[2], c[3])): c for c in session.get("cookies", ())}
    return {**session, "cookies": cookies}


def _saved(session: Session) -> _SavedSession:
    return _SavedSession(
        created_at=session.created_at,
        usage_count=session.usage_count,
        error_score=session.error_score,
        headers=session.headers,
        proxy=session.proxy,
        proxies=session.proxies,
        blocked=sorted(session.blocked),
        cookies=session.cookies.saved() if session.has_cookies else [],
        is_named=session.is_named,
    )


def _restore(session: Session, saved: _SavedSession) -> None:
    # A clock that was set back between two lives must not make it younger than it is.
    session.created_at = min(saved.created_at, session.created_at)
    session.usage_count = saved.usage_count
    session.error_score = saved.error_score
    session.headers = dict(saved.headers)
    session.proxy = saved.proxy
    session.proxies = dict(saved.proxies)
    session.blocked = set(saved.blocked)
    session.is_named = saved.is_named
    if saved.cookies:
        session.cookies.load(saved.cookies)


def _mark(session: Session) -> tuple[object, ...]:
    """What differs when there is something new to save."""
    return (
        session.usage_count,
        session.error_score,
        len(session.blocked),
        session.cookies.changes if session.has_cookies else 0,
        session.proxy,
        tuple(session.proxies.items()),
        tuple(session.headers.items()),
    )


def _new_id() -> str:
    return os.urandom(6).hex()

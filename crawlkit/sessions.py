"""Session: one visitor, as a site sees it. Which host gets which is in `crawling.sessionpool`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from .clock import Clock
from .http.cookies import CookieJar

MAX_BLOCKED = 32
"""Hosts that may block a session; one more and it is retired for all."""


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

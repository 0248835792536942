"""SavedSession: a session as it is saved."""

from __future__ import annotations

from typing import Any

import msgspec

from ..http.cookies import Cookie
from ..sessions import Session
from ..workers.merging import merge


class SavedSession(msgspec.Struct, omit_defaults=True):
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

    @classmethod
    def of(cls, session: Session) -> SavedSession:
        """A session as it is now."""
        return cls(
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

    def restore(self, session: Session) -> None:
        """Make a new session what this one was."""
        # A clock that was set back between two lives must not make it younger than it is.
        session.created_at = min(self.created_at, session.created_at)
        session.usage_count = self.usage_count
        session.error_score = self.error_score
        session.headers = dict(self.headers)
        session.proxy = self.proxy
        session.proxies = dict(self.proxies)
        session.blocked = set(self.blocked)
        session.is_named = self.is_named
        if self.cookies:
            session.cookies.load(self.cookies)

    @staticmethod
    def merge(base: Any, mine: Any, theirs: Any) -> Any:
        """A session as all workers have used it: cookies by their names."""
        merged = merge(*(_by_name(session) for session in (base, mine, theirs)))
        created_at = min(mine["created_at"], theirs["created_at"])
        return {**merged, "cookies": list(merged["cookies"].values()), "created_at": created_at}


def _by_name(session: Any) -> Any:
    """A saved session with its cookies as a dict."""
    if session is None:
        return None
    # Name, value, domain, path: a `Cookie` is an array.
    cookies = {"\0".join((c[0], c[2], c[3])): c for c in session.get("cookies", ())}
    return {**session, "cookies": cookies}


def changes_of(session: Session) -> tuple[object, ...]:
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

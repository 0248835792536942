"""Visitor: a session in the browser, and its cookies on the way there and back.

What a session's jar does not know is lost where a visitor is made anew: that a cookie is not for
scripts (``HttpOnly``) or may be sent from other sites (``SameSite``). Partitioned cookies stay in
the browser.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from ..http.cookies import Cookie
from ..sessions import Session
from ..urls import knows_suffixes, read_suffixes
from .browser import Browser
from .guard import Access

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext
    from playwright.async_api import Cookie as BrowserCookie

Key: TypeAlias = tuple[str, str, str]
"""What makes two cookies the same: name, domain as browsers write it, path."""


class Visitor:
    """A session in the browser.

    Args:
        browser: The browser.
        context: Its part of it: cookies, cache and storage.
        access: What it may do, and its credentials for the guard.
        session: Whose visitor it is.

    Attributes:
        users: Visits that are under way.
    """

    def __init__(
        self, browser: Browser, context: BrowserContext, access: Access, session: Session
    ) -> None:
        self.browser = browser
        self.context = context
        self.access = access
        self.session = session
        self.users = 0
        self._ours: dict[Key, Cookie] = {}  # what the session had when last looked at
        self._theirs: dict[Key, Cookie] = {}  # what the browser had
        self._mark = -1

    async def take_cookies(self) -> None:
        """Bring what changed in the session's cookies into the browser."""
        session = self.session
        if not (session.has_cookies or self._ours) or session.cookies.changes == self._mark:
            return
        before = self._ours
        self._ours, self._mark = _by_key(session.cookies), session.cookies.changes
        for name, domain, path in before.keys() - self._ours.keys():
            await self.context.clear_cookies(name=name, domain=domain, path=path)
        changed: list[Any] = [
            _for_browser(cookie) for key, cookie in self._ours.items() if before.get(key) != cookie
        ]
        if changed:
            await self.context.add_cookies(changed)
        # The browser may have refused some, or have taken them for something else.
        self._theirs = await self._look()

    async def give_cookies(self) -> None:
        """Bring what changed in the browser's cookies into the session."""
        if not knows_suffixes():
            await asyncio.to_thread(read_suffixes)
        theirs = await self._look()
        # From here on nothing is waited for: other visits of this session do the same.
        before, self._theirs = self._theirs, theirs
        if theirs == before:
            return
        jar = self.session.cookies
        was_in_step = jar.changes == self._mark
        jar.load(cookie for key, cookie in theirs.items() if before.get(key) != cookie)
        for key in before.keys() - theirs.keys():
            cookie = before[key]
            scheme = "https" if cookie.is_secure else "http"
            host = f"[{cookie.domain}]" if ":" in cookie.domain else cookie.domain
            jar.store(f"{scheme}://{host}/", [_removal(cookie)])
        if was_in_step:
            self._ours, self._mark = _by_key(jar), jar.changes

    async def _look(self) -> dict[Key, Cookie]:
        """The browser's cookies."""
        found = await self.context.cookies()
        return _by_key(_from_browser(cookie) for cookie in found if "partitionKey" not in cookie)


def _by_key(cookies: Iterable[Cookie]) -> dict[Key, Cookie]:
    return {_key(cookie): cookie for cookie in cookies}


def _key(cookie: Cookie) -> Key:
    return (cookie.name, f"{'' if cookie.is_host_only else '.'}{cookie.domain}", cookie.path)


def _for_browser(cookie: Cookie) -> dict[str, Any]:
    name, domain, path = _key(cookie)
    return {
        "name": name,
        "value": cookie.value,
        "domain": domain,
        "path": path,
        "expires": -1 if cookie.expires is None else cookie.expires,
        "secure": cookie.is_secure,
    }


def _from_browser(found: BrowserCookie) -> Cookie:
    domain, expires = found["domain"], found["expires"]
    return Cookie(
        found["name"],
        found["value"],
        domain.removeprefix("."),
        found["path"],
        None if expires < 0 else float(expires),
        not domain.startswith("."),
        found["secure"],
    )


def _removal(cookie: Cookie) -> str:
    """A ``Set-Cookie`` header that removes a cookie."""
    domain = "" if cookie.is_host_only else f"; Domain={cookie.domain}"
    secure = "; Secure" if cookie.is_secure else ""
    return f"{cookie.name}=; Max-Age=0; Path={cookie.path}{domain}{secure}"

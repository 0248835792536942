"""Window: the document that stands in the window of a page, and when it is done."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .loading import Loading
from .scripts import AWAIT

if TYPE_CHECKING:
    from playwright.async_api import CDPSession

SETTLE = 5.0
"""Seconds after its load event for which a page is waited for that never gets idle."""
MOST_WAIT = 5.0
"""Seconds more for one that could not load at once what it wants, as its host had no slot free."""
SCREENSHOT_TIMEOUT = 5.0
"""Seconds that a picture of a page may take."""

_WORLD = "crawlkit"


class Window:
    """The document in the window of a page. Scripts, redirects and we put another one in its place.

    Args:
        cdp: The page's DevTools session.

    Attributes:
        frame: The browser's name of the window.
        loader: The browser's name of the document that is there, or comes.
        is_navigating: Another document was asked for, and has not come yet.
        is_committed: There is a document that we asked for.
    """

    def __init__(self, cdp: CDPSession) -> None:
        self._cdp = cdp
        self.frame = ""
        self.loader = ""
        self.is_navigating = True
        self.is_committed = False
        self._events: set[str] = set()  # of the document: load, networkIdle
        self._changed = asyncio.Event()

    def watch(self) -> None:
        """Listen to what the browser says of it, once it is told to."""
        self._cdp.on("Page.lifecycleEvent", self._on_lifecycle)
        self._cdp.on("Page.frameNavigated", self._on_navigated)

    def opened(self, frame: dict[str, Any]) -> None:
        """The browser has said which it is."""
        self.frame, self.loader = frame["id"], frame["loaderId"]

    def _on_lifecycle(self, event: dict[str, Any]) -> None:
        if event["frameId"] != self.frame:
            return
        if event["name"] == "init":
            self.loader = event["loaderId"]
            self._events.clear()
        elif event["loaderId"] == self.loader:
            self._events.add(event["name"])
        self._changed.set()

    def _on_navigated(self, event: dict[str, Any]) -> None:
        if event["frame"]["id"] == self.frame:
            self.is_navigating = False
            self.is_committed = True
            self._changed.set()

    async def settle(self, wait: str, loading: Loading | None) -> None:
        """Until the document is done, as `wait` says: ``load``, ``networkidle`` or a CSS selector.

        Args:
            wait: Likewise.
            loading: What it loads from its own host; ``None`` where nobody minds.

        Raises:
            UsageError: It is none of these.
        """
        loop = asyncio.get_running_loop()
        loaded_at: float | None = None
        ends_at = 0.0
        loader = ""
        while True:
            if loader != self.loader:
                loader, loaded_at = self.loader, None
            now = loop.time()
            if "load" in self._events and loaded_at is None:
                loaded_at, ends_at = now, now + SETTLE
            if loaded_at is not None and loading is not None and loading.is_waiting:
                # It waits for us: that is not on its time, within reason.
                ends_at = max(ends_at, min(now, loaded_at + MOST_WAIT) + SETTLE)
            if not self.is_navigating:
                if wait not in ("load", "networkidle"):
                    # Its document may go away meanwhile; then there is a next one to look at.
                    if await self._find(wait) and not self.is_navigating:
                        return
                elif loaded_at is not None and (
                    wait == "load" or "networkIdle" in self._events or now >= ends_at
                ):
                    return
            self._changed.clear()
            timeout = None if loaded_at is None else max(0.05, ends_at - loop.time())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._changed.wait()

    async def _find(self, selector: str) -> bool:
        """Wait for an element; false where the document went away before there was one."""
        text = base64.b64encode(selector.encode()).decode()  # of ASCII, whatever it holds
        decoded = f'new TextDecoder().decode(Uint8Array.from(atob("{text}"), c => c.charCodeAt()))'
        answer = await self.evaluate(AWAIT % decoded)
        if answer is None:
            return False
        if "exceptionDetails" in answer:
            raise UsageError(
                f"{selector!r} is no CSS selector to wait for; give load, networkidle or a selector"
            )
        return True

    async def evaluate(self, expression: str) -> dict[str, Any] | None:
        """Run a script beside those of the page; `None` where its document went away."""
        from playwright.async_api import Error  # loaded already, as there is a page

        try:
            world = await self._cdp.send(
                "Page.createIsolatedWorld", {"frameId": self.frame, "worldName": _WORLD}
            )
            answer: dict[str, Any] = await self._cdp.send(
                "Runtime.evaluate",
                {
                    "expression": expression,
                    "contextId": world["executionContextId"],
                    "returnByValue": True,
                    "awaitPromise": True,
                },
            )
        except Error as error:
            if "context" in error.message or "navigated" in error.message:
                return None
            raise
        return answer

    async def screenshot(self) -> bytes | None:
        """What it shows, as JPEG; `None` where the browser cannot say."""
        from playwright.async_api import Error  # loaded already, as there is a page

        try:
            async with asyncio.timeout(SCREENSHOT_TIMEOUT):
                answer = await self._cdp.send(
                    "Page.captureScreenshot", {"format": "jpeg", "quality": 60}
                )
        except (Error, TimeoutError):
            return None  # the page itself has come, and that is what counts
        return base64.b64decode(answer["data"])

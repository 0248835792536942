"""Browser: one process of Chromium, started and ended through Playwright.

It gets no way to the network but a proxy that it is told. Flags are in one place here, each with
its reason.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import MissingError, RenderError, one_line
from ..importing import load

if TYPE_CHECKING:
    from playwright.async_api import Browser as PlaywrightBrowser
    from playwright.async_api import BrowserContext, Playwright, ProxySettings

T = TypeVar("T")

VARIABLE = "CRAWLKIT_CHROMIUM"
"""Environment variable with the path of the Chromium to use."""
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
"""Programs that are looked for on the PATH."""
CLOSE_TIMEOUT = 5.0
"""Seconds that the browser has to close in good order, before it is killed."""
PROFILE_TRIES, PROFILE_REST = 20, 0.1
"""How often, and how many seconds apart, it is tried to remove what a browser has left behind."""

# Playwright makes it in the temporary directory, under a name that begins so.
_PROFILE = re.compile(r"--user-data-dir=(\S*playwright_chromiumdev_profile-\w+)")
_FLAGS = (
    # Nothing is looked up or connected to but through the proxy, not even by mistake.
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    "--dns-prefetch-disable",
    # UDP would go around it: HTTP/3, and what WebRTC finds out about the network.
    "--disable-quic",
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--webrtc-ip-handling-policy=disable_non_proxied_udp",
    # A page that eats memory loses its process, and not the machine.
    "--js-flags=--max-old-space-size=512",
    "--disk-cache-size=67108864",
    "--disable-gpu",
    "--disable-crash-reporter",
)
# The first four are Playwright's own; the last of several such flags is the one that counts.
_NO_IMAGES = (
    "--blink-settings=primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4,"
    "availablePointerTypes=4,imagesEnabled=false",
    "--disable-remote-fonts",
)
# Windows that no user asked for are not to open.
_UNWANTED_FLAGS = ["--disable-popup-blocking"]

log = logging.getLogger("crawlkit.rendering.browser")


class Browser:
    """One process of Chromium; use `start` to make it."""

    def __init__(
        self, playwright: Playwright, browser: PlaywrightBrowser, pid: int, profile: Path | None
    ) -> None:
        self._playwright = playwright
        self._browser = browser
        self._profile = profile
        self.pid = pid
        """The browser's process."""
        self._gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        browser.on("disconnected", self._on_gone)

    @classmethod
    async def start(
        cls, *, proxy: str, load_resources: bool, executable: str | None, sandbox: bool | None
    ) -> Browser:
        """Start Chromium.

        Args:
            proxy: URL of the only way to the network, for contexts that are given none.
            load_resources: Whether images and fonts are loaded.
            executable: Path of the program; by default see `find_chromium`.
            sandbox: Whether pages run in Chromium's sandbox, which root cannot have; ``None`` for
                everyone but root.

        Raises:
            MissingError: Playwright or Chromium is not installed.
            RenderError: Chromium does not start.
        """
        try:
            await load("playwright.async_api")  # which comes with the extra
            from playwright.async_api import Error, async_playwright
        except ImportError:
            raise MissingError(
                "rendering needs Playwright; install it with: pip install 'crawlkit[browser]'"
            ) from None
        driver = await async_playwright().start()
        try:
            path = find_chromium(executable, Path(driver.chromium.executable_path))
            try:
                browser = await driver.chromium.launch(
                    executable_path=path,
                    args=[*_FLAGS, *(() if load_resources else _NO_IMAGES)],
                    ignore_default_args=_UNWANTED_FLAGS,
                    chromium_sandbox=not _is_root() if sandbox is None else sandbox,
                    proxy={"server": proxy},
                    # A signal to the crawler is not one to the browser, whose pages are to be
                    # finished while the grace lasts.
                    handle_sigint=False,
                    handle_sigterm=False,
                    handle_sighup=False,
                )
            except Error as error:
                reason = error.message.strip().partition("\n")[0]
                raise RenderError(
                    f"{path} does not start: {reason}; try it by hand with --headless"
                ) from error
            session = await browser.new_browser_cdp_session()
            found = await session.send("SystemInfo.getProcessInfo")
            system = await session.send("SystemInfo.getInfo")
            await session.detach()
            pid = next(one["id"] for one in found["processInfo"] if one["type"] == "browser")
            log.debug("started %s %s, pid %d", path, browser.version, pid)
            profile = _PROFILE.search(system["commandLine"])
            return cls(driver, browser, pid, Path(profile[1]) if profile else None)
        except BaseException:
            await driver.stop()
            raise

    @property
    def is_alive(self) -> bool:
        """Whether it runs, and is connected."""
        return self._browser.is_connected()

    async def while_alive(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which waits for this browser.

        Not everything that is waited for fails by itself when the browser dies.

        Raises:
            RenderError: It died.
        """
        task = asyncio.get_running_loop().create_task(work)
        try:
            await asyncio.wait((task, self._gone), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise RenderError("the browser died; it is started again for the next page")
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait((task,))

    async def may_be_gone(self, seconds: float) -> None:
        """Wait so long, or until it is known that it died."""
        await asyncio.wait((self._gone,), timeout=seconds)

    def _on_gone(self, browser: PlaywrightBrowser) -> None:
        if not self._gone.done():
            self._gone.set_result(None)

    async def new_context(
        self, *, proxy: str, user_agent: str | None, language: str | None, checks_tls: bool
    ) -> BrowserContext:
        """A visitor: cookies, cache and storage that no other has.

        Args:
            proxy: URL of its way to the network.
            user_agent: Its ``User-Agent``; ``None`` for Chromium's own.
            language: Its ``Accept-Language``.
            checks_tls: Whether certificates are checked.
        """
        way: ProxySettings = {"server": proxy, "bypass": "<-loopback>"}
        options: dict[str, Any] = {}
        if user_agent is not None:
            options["user_agent"] = user_agent
        if language is not None:
            options["extra_http_headers"] = {"Accept-Language": language}
        return await self._browser.new_context(
            proxy=way,
            accept_downloads=False,
            service_workers="block",
            ignore_https_errors=not checks_tls,
            **options,
        )

    async def close(self) -> None:
        """End it, and all its processes; one that does not answer is killed."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._browser.close()
        except Exception as error:
            log.debug("the browser did not close: %s", one_line(error))
            # Where it is gone already, its number may be that of another process by now.
            if self.is_alive:
                self.kill()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._playwright.stop()
        except Exception as error:
            log.debug("Playwright's driver did not stop: %s", one_line(error))
        # Playwright removes the profile when the browser is gone, but the browser's other processes
        # may outlive it for a moment, and write there once more.
        for _ in range(PROFILE_TRIES):
            if self._profile is None or not self._profile.exists():
                break
            await asyncio.to_thread(shutil.rmtree, self._profile, ignore_errors=True)
            await asyncio.sleep(PROFILE_REST)

    def kill(self) -> None:
        """End it at once. Its other processes go when they notice."""
        try:
            os.kill(self.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        except ProcessLookupError:
            pass


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def find_chromium(executable: str | None, own: Path) -> str:
    """The path of the Chromium to use.

    The one that is asked for, else the one that the environment variable `VARIABLE` names, else
    Playwright's own, else the first on the PATH (`NAMES`).

    Args:
        executable: The one that is asked for, a path or the name of a program.
        own: Where Playwright's own would be. It is looked for here, as Playwright leaves its
            temporary directories behind where it fails to start.

    Raises:
        MissingError: There is none.
    """
    wanted = executable or os.environ.get(VARIABLE)
    if wanted:
        path = wanted if Path(wanted).is_file() else shutil.which(wanted)
        if path is None:
            raise MissingError(f"there is no Chromium at {wanted}; give the path of its program")
        return path
    if own.is_file():
        return str(own)
    # As `playwright install --only-shell` leaves it: chromium-N/.../chrome is not there, but
    # chromium_headless_shell-N/.../chrome-headless-shell is.
    shells = own.parents[2].glob("chromium_headless_shell-*/*/*headless*shell*")
    found = [*map(str, sorted(shells, reverse=True)), *filter(None, map(shutil.which, NAMES))]
    if not found:
        raise MissingError(
            "there is no Chromium; install one with: playwright install chromium, or apt-get "
            f"install chromium, or set {VARIABLE} to the path of yours"
        )
    return found[0]

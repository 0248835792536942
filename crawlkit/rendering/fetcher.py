"""BrowserFetcher: the fetcher for pages that only exist after their scripts ran.

A real Chromium without a window opens each page, waits until it is done and hands back the document
as it is then. Each session has a visitor of its own in the browser, with its cookies, headers and
proxy. The only way of the browser to the network is the `Guard`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

from multidict import CIMultiDict

from ..errors import FetchTimeoutError, ProxyError, RenderError, UsageError, one_line
from ..fetching import Fetcher, MayFollow
from ..http.addresses import is_public
from ..http.hops import may_travel
from ..http.limits import Limits
from ..request import Request, host_of
from ..response import Response
from ..sessions import Session
from .browser import Browser
from .errand import Elsewhere, Errand, with_port
from .guard import Access, Guard, Resolve
from .loading import Loading, Manners
from .visit import Visit
from .visitor import Visitor

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext, Page

    from ..http.proxies import ProxyPool

T = TypeVar("T", "Page", "BrowserContext")

CLOSE_TIMEOUT = 10.0
"""Seconds that a page has to close; where it does not, the browser is of no use any more."""
VERDICT = 0.5
"""Seconds after the crash of a page in which it shows whether the browser crashed with it."""

SCREENSHOTS = 100
"""Pictures of pages that went wrong, of each status, in the life of a fetcher."""

_LIMITS = Limits()
# What a page is sent with is the browser's own affair.
_NOT_OURS = frozenset(
    {"accept-encoding", "connection", "content-length", "cookie", "host", "transfer-encoding"}
)

log = logging.getLogger("crawlkit.rendering.fetcher")


class BrowserFetcher(Fetcher):
    """The fetcher that renders pages, in a headless Chromium through Playwright.

    Its response is that of any fetcher, but that the body of an HTML page is the document as
    scripts have left it, in UTF-8. What is no HTML (JSON, images, downloads) comes as it was sent.
    Shadow roots and frames are not in the document.

    The window follows redirects, scripts and ``meta`` tags; each step is a redirect, counted and
    asked about. Whatever a page loads, public pages reach public addresses only. Windows that a
    page opens, downloads, dialogs, permissions and service workers are refused. Cookies go both
    ways between the session and the browser.

    The browser is started for the first request, and again for the next one after it has died.

    Args:
        limits: What a server may cost us. `Limits.body` bounds the rendered document, too, and all
            that a page loads may be 8 times as much.
        user_agent: The ``User-Agent`` header; ``None`` for Chromium's own.
        headers: Headers of every request, sent to its own origin; those of the session and of the
            request go over them. ``User-Agent`` and ``Accept-Language`` go everywhere.
        pages: Pages open at once, at most. Further requests wait, which is not on their time.
        visitors: Sessions whose visitor in the browser is kept while it is idle, at most.
        wait: When a page is done. ``load``: after its load event. ``networkidle``: when there was
            no network traffic for half a second after that, or 5 s after it at the latest. Anything
            else is a CSS selector: as soon as such an element exists. A request's ``render`` may
            hold another one.
        load_resources: Whether images, fonts, media and the like are loaded.
        tls: ``False`` checks no certificate.
        allow_private: Whether every page may reach private addresses.
        proxies: What picks the proxy of a page. Without it, that is the session's own.
        executable: Path of the Chromium to use; see `crawlkit.rendering.browser.find_chromium`.
        sandbox: Whether pages run in Chromium's sandbox; ``None`` for everyone but root, who cannot
            have it.
        manners: What a host asks of the pages that load from it; ``None`` where nobody minds.
        resolve: How names are looked up; by default as the system does it.
        is_public: Whether an address is public.
    """

    def __init__(
        self,
        *,
        limits: Limits = _LIMITS,
        user_agent: str | None = "crawlkit",
        headers: Mapping[str, str] | None = None,
        pages: int = 4,
        visitors: int = 32,
        wait: str = "networkidle",
        load_resources: bool = False,
        tls: bool = True,
        allow_private: bool = False,
        proxies: ProxyPool | None = None,
        executable: str | None = None,
        sandbox: bool | None = None,
        manners: Manners | None = None,
        resolve: Resolve | None = None,
        is_public: Callable[[str], bool] = is_public,
    ) -> None:
        self._limits = limits
        self._headers: CIMultiDict[str] = CIMultiDict(headers or {})
        if user_agent is not None and "User-Agent" not in self._headers:
            self._headers["User-Agent"] = user_agent
        self._max_visitors = visitors
        self._wait = wait
        self._load_resources = load_resources
        self._tls = tls
        self._allow_private = allow_private
        self._proxies = proxies
        self._executable = executable
        self._sandbox = sandbox
        self._manners = manners
        self._guard = Guard(
            resolve=resolve,
            is_public=is_public,
            connect_timeout=limits.idle,
            idle_timeout=limits.idle,
        )
        self._pages = asyncio.Semaphore(pages)
        self._starting = asyncio.Lock()
        self._browser: Browser | None = None
        self._launching: asyncio.Task[Browser] | None = None
        self._visitors: OrderedDict[tuple[object, ...], Visitor] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()
        self._screenshots: Counter[int] = Counter()

    async def open(self) -> None:
        """Nothing yet: the browser is started for the first request."""

    async def close(self) -> None:
        """Close the browser, and leave no process behind."""
        if self._launching is not None:
            await asyncio.wait((self._launching,))
        await self._end_browser()
        if self._closing:  # which ends at once now
            await asyncio.wait(tuple(self._closing))

    async def fetch(
        self,
        request: Request,
        session: Session,
        *,
        limits: Limits | None = None,
        may_follow: MayFollow | None = None,
    ) -> Response:
        """Fetch one request and render it.

        Raises:
            NetworkError: No connection, no such host, bad TLS or malformed HTTP.
            ProxyError: The proxy is why there is no response.
            FetchTimeoutError: A limit of time was met.
            LimitError: A limit of size was met.
            PrivateAddressError: It leads to a private address, and may not.
            RedirectError: Too many redirects, or one that may not be followed.
            RenderError: The page or the browser crashed.
            MissingError: Playwright or Chromium is not installed.
            UsageError: A method or header that a page cannot be opened with.
        """
        limits = limits or self._limits
        headers = self._merge(request, session)
        # Waiting for a page to be free is not the server's fault.
        async with self._pages:
            await self._started()  # neither is this
            started = perf_counter()
            try:
                async with asyncio.timeout(limits.total) as deadline:
                    response = await self._render(request, session, headers, limits, may_follow)
            except TimeoutError as error:
                if not deadline.expired():
                    raise
                raise FetchTimeoutError(
                    f"the page from {host_of(request.url)} was not done within {limits.total:g} s"
                ) from error
        response.elapsed = perf_counter() - started
        return response

    # -- one page -----------------------------------------------------------------------------

    async def _render(
        self,
        request: Request,
        session: Session,
        headers: CIMultiDict[str],
        limits: Limits,
        may_follow: MayFollow | None,
    ) -> Response:
        errand = Errand(
            url=request.url,
            method=request.method.upper(),
            body=request.body,
            headers=headers,
            secrets={name: value for name, value in headers.items() if not may_travel(name)},
            redirects=[],
            wait=request.render if isinstance(request.render, str) else self._wait,
            load_resources=self._load_resources,
            limits=limits,
            may_follow=may_follow,
            wants_screenshot=partial(self._wants_screenshot, request),
            is_private=None,
        )
        may_be_private = request.private
        while True:
            browser = await self._started()
            proxy = self._proxy(errand.url, session)
            # Only what is private itself gets the rights of it: a public page that a start request
            # may lead to must not reach a private one.
            is_private = self._allow_private or (
                may_be_private and await self._guard.is_private(with_port(errand.url), proxy)
            )
            if is_private and not self._allow_private:
                errand = errand.inside(partial(self._guard.is_private, proxy=proxy))
            try:
                return await browser.while_alive(
                    self._visit(browser, session, is_private, proxy, errand)
                )
            except Elsewhere as way:
                errand, may_be_private = errand.outside(way.url, way.redirects), False

    async def _visit(
        self,
        browser: Browser,
        session: Session,
        is_private: bool,
        proxy: str | None,
        errand: Errand,
    ) -> Response:
        from playwright.async_api import Error  # loaded already, as there is a browser

        visitor = await self._visitor(browser, session, is_private=is_private, proxy=proxy)
        page: Page | None = None
        visitor.users += 1
        try:
            await visitor.take_cookies()
            page = await self._made(visitor.context.new_page(), browser)
            page.on("popup", lambda popup: self._later(_close(popup, browser)))
            cdp = await visitor.context.new_cdp_session(page)
            loading = None if self._manners is None else Loading(self._manners)
            visit = Visit(cdp, visitor.access, self._guard.url, errand, loading)
            page.on("crash", lambda _: visit.crashed())
            page.on("close", lambda _: visit.crashed())
            response = await visit.run()
            await visitor.give_cookies()
        except Error as error:
            what = "the page was not rendered" if browser.is_alive else "the browser died"
            reason = error.message.partition("\n")[0]
            raise RenderError(f"{what} ({host_of(errand.url)}): {reason}") from error
        except RenderError:
            await browser.may_be_gone(VERDICT)
            raise
        except ProxyError:
            if proxy is not None and self._proxies is not None:
                self._proxies.failed(proxy)
            raise
        finally:
            visitor.users -= 1
            if page is not None:
                self._later(_close(page, browser))
        if proxy is not None and self._proxies is not None:
            self._proxies.worked(proxy, host_of(errand.url))
        return response

    def _wants_screenshot(self, request: Request, status: int) -> bool:
        """Whether a picture is taken: where something is wrong, or was when it was last tried."""
        if status < 400 and not request.retry_count:
            return False
        self._screenshots[status] += 1
        return self._screenshots[status] <= SCREENSHOTS

    def _proxy(self, url: str, session: Session) -> str | None:
        return session.proxy if self._proxies is None else self._proxies.pick(url, session)

    def _merge(self, request: Request, session: Session) -> CIMultiDict[str]:
        """The headers of the document.

        Raises:
            UsageError: It cannot be asked for like that.
        """
        if request.method.upper() not in ("GET", "POST"):
            raise UsageError(
                f"{request.method} {request.url} cannot be rendered; a page is opened with GET or "
                "POST"
            )
        headers = CIMultiDict(self._headers)
        headers.update(session.headers)
        headers.update(request.headers)
        for name in [name for name in headers if name.lower() in _NOT_OURS]:
            if name.lower() == "cookie":
                raise UsageError(
                    f"{request.url} cannot be rendered with a Cookie header; use "
                    "page.session.cookies.set"
                )
            headers.popall(name, None)
        if request.body is not None and "Content-Type" not in headers:
            headers["Content-Type"] = "application/octet-stream"
        return headers

    # -- the browser and its visitors ---------------------------------------------------------

    async def _started(self) -> Browser:
        """The browser, which is started where it does not run."""
        async with self._starting:
            if self._browser is not None and self._browser.is_alive:
                return self._browser
            # A task of its own: a fetch that is cancelled must not leave half a browser behind.
            if self._launching is None:
                self._launching = asyncio.get_running_loop().create_task(self._launch())
            try:
                return await asyncio.shield(self._launching)
            finally:
                if self._launching.done():
                    self._launching = None

    async def _launch(self) -> Browser:
        if self._browser is not None:
            log.warning("the browser has died; it is started again")
            await self._end_browser()
        await self._guard.open()
        try:
            self._browser = await Browser.start(
                proxy=self._guard.url,
                load_resources=self._load_resources,
                executable=self._executable,
                sandbox=self._sandbox,
            )
        except BaseException:
            await self._guard.close()
            raise
        return self._browser

    async def _end_browser(self) -> None:
        browser, self._browser = self._browser, None
        self._visitors.clear()
        if browser is not None:
            await browser.close()
            await self._guard.close()

    async def _visitor(
        self, browser: Browser, session: Session, *, is_private: bool, proxy: str | None
    ) -> Visitor:
        """The session's visitor in the browser, one for private pages and one for the others."""
        common = CIMultiDict(self._headers)
        common.update(session.headers)
        user_agent, language = common.get("User-Agent"), common.get("Accept-Language")
        key = (session.id, is_private, proxy, user_agent, language)
        async with self._starting:
            visitor = self._visitors.get(key)
            # A session that was retired may have a successor of the same name, without cookies.
            if visitor is None or visitor.session is not session or visitor.browser is not browser:
                access = Access(may_be_private=is_private, proxy=proxy)
                context = await self._made(
                    browser.new_context(
                        proxy=self._guard.url,
                        user_agent=user_agent,
                        language=language,
                        checks_tls=self._tls,
                    ),
                    browser,
                )
                self._guard.grant(access)
                if visitor is not None:
                    self._later(self._dismiss(visitor))
                visitor = Visitor(browser, context, access, session)
                self._visitors[key] = visitor
        self._visitors.move_to_end(key)
        if len(self._visitors) > self._max_visitors:
            for old, other in self._visitors.items():
                if not other.users and other is not visitor:
                    del self._visitors[old]
                    self._later(self._dismiss(other))
                    break
        return visitor

    async def _dismiss(self, visitor: Visitor) -> None:
        self._guard.revoke(visitor.access)
        await _close(visitor.context, visitor.browser)

    async def _made(self, work: Coroutine[Any, Any, T], browser: Browser) -> T:
        """A page or a visitor; where the fetch is cancelled meanwhile, it is closed again."""
        task = asyncio.get_running_loop().create_task(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._later(_undo(task, browser))
            raise

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        """Tidy up without holding anybody up, also where the fetch was cancelled."""
        task = asyncio.get_running_loop().create_task(work)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _undo(making: asyncio.Task[T], browser: Browser) -> None:
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT):
            made = await making
    except Exception as error:
        log.debug("not made: %s", one_line(error))  # and so there is nothing to close
    else:
        await _close(made, browser)


async def _close(what: Page | BrowserContext, browser: Browser) -> None:
    """Close a page or a visitor. A browser that cannot is of no use any more."""
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT):
            await what.close()
    except TimeoutError:
        log.warning("the browser does not close a page; it is killed")
        browser.kill()
    except Exception as error:
        log.debug("not closed: %s", one_line(error))  # it is gone already

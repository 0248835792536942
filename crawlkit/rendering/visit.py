"""Visit: one page of a browser, from a request to what stands on it in the end.

The browser does what browsers do, but every document of its window passes through our hands twice
(the Fetch domain of the DevTools protocol): as a request, for each has to be asked about, whether
an HTTP redirect, a script or a ``meta`` tag leads there; and as a response, for redirects are
counted, and what is no HTML is taken as it is.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from multidict import CIMultiDict

from ..errors import (
    LimitError,
    ProxyError,
    RedirectError,
    RenderError,
    UrlError,
)
from ..http.failures import too_many_headers
from ..http.hops import origin_of
from ..http.proxies import place_of
from ..request import host_of
from ..response import Response
from ..urls import Base, canonical
from .errand import Elsewhere, Errand, failure_of, merged, own_url, with_port
from .guard import Access
from .loading import Loading
from .scripts import READ
from .window import Window

if TYPE_CHECKING:
    from playwright.async_api import CDPSession

PAGES_OF_BYTES = 8
"""All that a page loads may be so many times the limit of a body."""

_HTML = ("text/html", "application/xhtml+xml")
_NO_CONTENT = frozenset({204, 205, 304})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BLOCK = 256 * 1024
# Not of use to who reads the DOM. `Other` is the icon of the site. Images and fonts are turned off
# by the browser's flags, which costs nothing and leaves the DOM as it is.
_UNWANTED = ("Media", "Ping", "Other")
# Of a header that we rewrite: what no longer describes the body.
_OF_THE_BODY = frozenset(
    {"content-encoding", "content-length", "content-type", "transfer-encoding", "content-range"}
)

log = logging.getLogger("crawlkit.rendering.visit")


class Visit:
    """One visit of one page.

    Args:
        cdp: The page's DevTools session.
        access: What it is known by at the guard.
        guard_url: The URL of the guard.
        errand: What it is to do.
        loading: What it loads from its own host; ``None`` where nobody minds.
    """

    def __init__(
        self,
        cdp: CDPSession,
        access: Access,
        guard_url: str,
        errand: Errand,
        loading: Loading | None = None,
    ) -> None:
        self._cdp = cdp
        self._loading = loading
        self._access = access
        self._guard_url = guard_url
        self._errand = errand
        self._redirects = list(errand.redirects)
        self._url = errand.url
        self._origin = origin_of(errand.url)
        self._is_home = True  # the window has not left the origin of the request
        self._is_first = True
        self._status = 0
        self._headers: list[tuple[str, str]] = []
        self._window = Window(cdp)
        self._bytes = 0
        self._document_bytes = 0
        self._tasks: set[asyncio.Task[object]] = set()
        self._end: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

    async def run(self) -> Response:
        """Go there, wait until the page is done, and read it.

        Raises:
            FetchError: There is no page.
            Elsewhere: It is to be visited again, as a public page.
            playwright.async_api.Error: The browser is gone, or this page of it.
        """
        main = asyncio.get_running_loop().create_task(self._main())
        try:
            await asyncio.wait((main, self._end), return_when=asyncio.FIRST_COMPLETED)
            # An end is the reason of what happened to the rest.
            return self._end.result() if self._end.done() else main.result()
        finally:
            for task in (main, *self._tasks):
                task.cancel()
            await asyncio.gather(main, *self._tasks, return_exceptions=True)
            if self._loading is not None:
                self._loading.close()
            # What happens to the page from now on is of no interest.
            if not self._end.cancel() and not self._end.cancelled():
                self._end.exception()

    def crashed(self) -> None:
        """The page is gone."""
        host = host_of(self._url)
        self._stop(RenderError(f"the page from {host} crashed, ate its memory or closed itself"))

    async def _main(self) -> Response:
        await self._prepare()
        url = self._url
        answer = await self._cdp.send("Page.navigate", {"url": url})
        if problem := answer.get("errorText"):
            raise self._failure(problem)
        wait = self._errand.wait
        while True:
            # What is no success need not have what a page is waited for.
            await self._window.settle("load" if self._status >= 400 else wait, self._loading)
            response = await self._read()
            if response is not None and not self._window.is_navigating:
                if self._errand.wants_screenshot(self._status):
                    response.screenshot = await self._window.screenshot()
                return response

    async def _prepare(self) -> None:
        cdp, errand = self._cdp, self._errand
        cdp.on("Fetch.requestPaused", self._on_paused)
        cdp.on("Fetch.authRequired", self._on_auth_required)
        cdp.on("Network.dataReceived", self._on_data)
        self._window.watch()
        patterns = [
            {"urlPattern": "*", "resourceType": "Document", "requestStage": "Request"},
            {"urlPattern": "*", "resourceType": "Document", "requestStage": "Response"},
        ]
        if not errand.load_resources:
            patterns += ({"urlPattern": "*", "resourceType": kind} for kind in _UNWANTED)
        if self._loading is not None:
            cdp.on("Network.responseReceived", self._on_response)
            cdp.on("Network.loadingFinished", self._on_loaded)
            cdp.on("Network.loadingFailed", self._on_loaded)
            # The window may go on to another host, whose turn it is then.
            patterns.append({"urlPattern": "*", "requestStage": "Request"})
        elif errand.secrets:
            patterns.append({"urlPattern": f"{self._origin}/*", "requestStage": "Request"})
        # One after the other in the browser, but without waiting in between.
        answers = await asyncio.gather(
            cdp.send("Page.getFrameTree"),
            cdp.send("Page.enable"),
            cdp.send("Page.setLifecycleEventsEnabled", {"enabled": True}),
            cdp.send("Network.enable", {"maxTotalBufferSize": 0, "maxResourceBufferSize": 0}),
            cdp.send("Fetch.enable", {"patterns": patterns, "handleAuthRequests": True}),
        )
        self._window.opened(answers[0]["frameTree"]["frame"])

    # -- what it comes to ---------------------------------------------------------------------

    async def _read(self) -> Response | None:
        """The page as it is now; `None` where it went away meanwhile."""
        limits = self._errand.limits
        answer = await self._window.evaluate(
            READ % ("true" if limits.truncate else "false", limits.body)
        )
        if answer is None:
            return None
        if "exceptionDetails" in answer:  # the longest string that there is was not long enough
            raise self._too_long()
        found = answer["result"]["value"]
        if "html" not in found:
            raise self._too_long()
        body = found["html"].encode("utf-8", "replace")
        if len(body) > limits.body:
            if not limits.truncate:
                raise self._too_long()
            body = body[: limits.body]
        headers = [pair for pair in self._headers if pair[0].lower() not in _OF_THE_BODY]
        headers.append(("Content-Type", "text/html; charset=utf-8"))
        return self._response(self._address(found["url"]), headers, body)

    def _address(self, url: str) -> str:
        """The URL of the document, which a script may have changed within its origin."""
        if not url.startswith(("http:", "https:")):
            raise RedirectError(f"{host_of(self._url)} led to {url[:200]}, which cannot be crawled")
        try:
            found = canonical(url)
        except UrlError:
            return self._url
        return found if origin_of(found) == origin_of(self._url) else self._url

    def _response(self, url: str, headers: list[tuple[str, str]], body: bytes) -> Response:
        return Response(
            url=url,
            status=self._status,
            headers=headers,
            body=body,
            redirects=tuple(self._redirects),
            is_private=self._access.may_be_private,
        )

    # -- events of the browser ----------------------------------------------------------------

    def _on_data(self, event: dict[str, Any]) -> None:
        size = event["dataLength"]
        self._bytes += size
        if event["requestId"] == self._window.loader:
            self._document_bytes += size
        limits = self._errand.limits
        if self._document_bytes > limits.body and not limits.truncate:
            self._stop(self._too_long())
        elif self._bytes > PAGES_OF_BYTES * limits.body:
            self._stop(
                LimitError(
                    f"the page from {host_of(self._url)} loads more than "
                    f"{PAGES_OF_BYTES * limits.body} bytes"
                )
            )

    def _on_response(self, event: dict[str, Any]) -> None:
        if self._loading is not None:
            answer = event["response"]
            headers = CIMultiDict(answer["headers"])
            self._loading.answered(event["requestId"], answer["status"], headers)

    def _on_loaded(self, event: dict[str, Any]) -> None:
        if self._loading is not None:
            self._loading.ended(event["requestId"])

    def _on_auth_required(self, event: dict[str, Any]) -> None:
        challenge = event["authChallenge"]
        answer: dict[str, str] = {"response": "CancelAuth"}
        if challenge.get("source") == "Proxy" and challenge["origin"] == self._guard_url:
            answer = {
                "response": "ProvideCredentials",
                "username": self._access.username,
                "password": self._access.password,
            }
        self._begin(
            self._cdp.send(
                "Fetch.continueWithAuth",
                {"requestId": event["requestId"], "authChallengeResponse": answer},
            )
        )

    def _on_paused(self, event: dict[str, Any]) -> None:
        is_response = "responseStatusCode" in event or "responseErrorReason" in event
        is_window = event["frameId"] == self._window.frame and event["resourceType"] == "Document"
        if is_window and is_response:
            self._begin(self._document_came(event))
        elif is_window:
            self._window.is_navigating = True
            self._begin(self._document_asked_for(event))
        elif is_response:
            self._begin(self._pass(event))
        elif not self._errand.load_resources and event["resourceType"] in _UNWANTED:
            self._begin(self._refuse(event))
        else:
            self._begin(self._resource_asked_for(event))

    # -- what passes through our hands --------------------------------------------------------

    async def _document_asked_for(self, event: dict[str, Any]) -> None:
        """The window is about to ask for a document."""
        errand, url = self._errand, event["request"]["url"]
        override: dict[str, Any] = {}
        if self._is_first:
            self._is_first = False
            if errand.method != "GET":
                override["method"] = errand.method
                override["postData"] = base64.b64encode(errand.body or b"").decode()
        elif not await self._may_go(url):
            await self._refuse(event)
            return
        if self._is_home and errand.headers:
            override["headers"] = merged(event["request"]["headers"], errand.headers)
        await self._pass(event, override)

    async def _may_go(self, target: str) -> bool:
        """Whether the window may go on to `target`; if so, that is where it is."""
        errand, origin = self._errand, self._url
        url = Base(origin).join(target)
        short = target[:200]
        if url is None:
            self._stop(RedirectError(f"redirected to {short!r}, which cannot be crawled"))
            return False
        self._redirects.append(origin)
        if len(self._redirects) > errand.limits.redirects:
            many = errand.limits.redirects
            self._stop(RedirectError(f"more than {many} redirects, the last to {short}"))
            return False
        if url != origin:
            is_private = self._access.may_be_private
            if errand.may_follow and (reason := await errand.may_follow(origin, url, is_private)):
                self._stop(RedirectError(f"redirected to {short}, which is not followed: {reason}"))
                return False
            if errand.is_private and not await errand.is_private(with_port(url)):
                self._stop(Elsewhere(url, self._redirects))
                return False
        self._url = url
        self._is_home = self._is_home and origin_of(url) == self._origin
        return True

    async def _resource_asked_for(self, event: dict[str, Any]) -> None:
        """The page loads something from its own origin, or a frame loads a document."""
        override = {}
        url = event["request"]["url"]
        if self._loading is not None and (found := own_url(url, host_of(self._url))):
            name = event.get("networkId") or event["requestId"]
            if line := await self._loading.begin(name, host_of(found), found):
                log.info("%s is not loaded: robots %s", found, line)
                await self._refuse(event)
                return
        if (
            self._is_home
            and self._errand.secrets
            and event["frameId"] == self._window.frame
            and url.startswith(f"{self._origin}/")
        ):
            override["headers"] = merged(event["request"]["headers"], self._errand.secrets)
        await self._pass(event, override)

    async def _document_came(self, event: dict[str, Any]) -> None:
        """The window is about to get a document."""
        if "responseErrorReason" in event:
            if not self._window.is_committed:
                await self._pass(event)  # `Page.navigate` tells more
            else:
                self._stop(self._failure(event["responseErrorReason"]))
            return
        self._status = event["responseStatusCode"]
        pairs = [(field["name"], field["value"]) for field in event.get("responseHeaders") or ()]
        self._headers = pairs
        limits = self._errand.limits
        if sum(len(name) + len(value) for name, value in pairs) > limits.headers:
            self._stop(too_many_headers(self._url, limits))
            return
        headers = {name.lower(): value for name, value in pairs}
        if self._status in _REDIRECTS and "location" in headers:
            await self._pass(event)  # where it leads is asked for next
        elif self._status == 407:
            place = place_of(self._access.proxy)
            message = f"the proxy {place} refuses: 407, it wants a password"
            self._stop(ProxyError(message, proxy=place))
        elif self._status in _NO_CONTENT:
            self._finish(self._response(self._url, pairs, b""))
        elif headers.get("content-type", "text/html").partition(";")[
            0
        ].strip().lower() in _HTML and not headers.get(
            "content-disposition", ""
        ).lower().startswith("attachment"):
            self._bytes = self._document_bytes = 0
            await self._pass(event)
        else:
            kept = [pair for pair in pairs if pair[0].lower() not in _OF_THE_BODY]
            kept += (("Content-Type", value) for value in (headers.get("content-type"),) if value)
            self._finish(self._response(self._url, kept, await self._body(event)))

    async def _body(self, event: dict[str, Any]) -> bytes:
        """The body of a document that the window is not shown."""
        limits = self._errand.limits
        taken = await self._cdp.send(
            "Fetch.takeResponseBodyAsStream", {"requestId": event["requestId"]}
        )
        blocks: list[bytes] = []
        size = 0
        while True:
            block = await self._cdp.send("IO.read", {"handle": taken["stream"], "size": _BLOCK})
            data = block["data"]
            blocks.append(base64.b64decode(data) if block.get("base64Encoded") else data.encode())
            size += len(blocks[-1])
            if size > limits.body and not limits.truncate:
                raise self._too_long()
            if block["eof"] or size > limits.body:
                return b"".join(blocks)[: limits.body]

    async def _pass(self, event: dict[str, Any], override: Mapping[str, Any] = {}) -> None:
        await self._cdp.send("Fetch.continueRequest", {"requestId": event["requestId"], **override})

    async def _refuse(self, event: dict[str, Any]) -> None:
        await self._cdp.send(
            "Fetch.failRequest", {"requestId": event["requestId"], "errorReason": "Aborted"}
        )

    def _begin(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[object]) -> None:
        from playwright.async_api import Error  # loaded already, as there is a page

        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        # Playwright's own: the request is gone, as the page went on; or the page is, which `_main`
        # notices.
        if isinstance(error, Exception) and not isinstance(error, Error):
            self._stop(error)

    # -- how it ends --------------------------------------------------------------------------

    def _finish(self, response: Response) -> None:
        if not self._end.done():
            self._end.set_result(response)

    def _stop(self, error: Exception) -> None:
        if not self._end.done():
            self._end.set_exception(error)

    def _failure(self, problem: str) -> Exception:
        return failure_of(problem, self._url, self._access, self._errand.limits)

    def _too_long(self) -> LimitError:
        limit = self._errand.limits.body
        return LimitError(f"the page from {host_of(self._url)} is longer than {limit} bytes")

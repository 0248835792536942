"""Every error that crawlkit raises, in one hierarchy.

    CrawlkitError
    ├── UsageError               what was asked for makes no sense; exit code 2
    │   ├── TargetError          no such file, module or class; not a Crawler
    │   ├── OptionError          unknown option, or a value of the wrong type
    │   ├── MissingError         a package or program that is needed is not installed
    │   ├── UrlError             not an http(s) URL that can be fetched
    │   └── HandlerError         a handler that could not be found again after a restart
    ├── StoreError               the run cannot be opened, read or written
    │   ├── StoreLockedError     another process is writing this run
    │   ├── StoreDamagedError    a file of the run does not hold what was written
    │   ├── StoreVersionError    saved by another version of crawlkit or of a part
    │   ├── StoreFencedError     another worker was given what this one had; exit code 75
    │   ├── StoreStaleError      a request that was to be tried again has not failed any more
    │   ├── StoreUnfinishedError the run was being imported, and that was not finished
    │   ├── MirrorTakenError     another machine goes on with this run, from its mirror
    │   └── StoreWriteError      a checkpoint could not be committed; nothing was lost
    ├── WorkersError             the workers of a run die, over and over
    ├── FetchError               a request got no usable response; it is tried again
    │   ├── NetworkError         no connection, no such host, reset, bad TLS, bad HTTP
    │   │   └── ProxyError       the proxy is why; it is rested, and the request keeps its retries
    │   ├── FetchTimeoutError    too slow
    │   ├── StatusError          an HTTP status that counts as a failure
    │   ├── BlockedError         the site refuses this session (401, 403, 429)
    │   ├── RedirectError        too many redirects, or one to where we may not go
    │   ├── LimitError           a limit was met: body, headers, elements
    │   ├── PrivateAddressError  a public page led to a private address
    │   ├── RobotsError          the host's robots.txt cannot be had now
    │   ├── OfflineError         not in the page cache, and nothing may be fetched
    │   └── RenderError          the browser could not make the page
    ├── ItemError                an item is not of the crawler's ``item_type``
    └── PageTypeError            the page is not what it was taken for (JSON, HTML, a sitemap)

A message is one line: what, where, what to do next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .response import Response


class CrawlkitError(Exception):
    """The base of every error that crawlkit raises.

    ``exit_code`` is what a process ends with when the error ends it; ``retryable`` tells whether
    a request that failed with it is tried again.
    """

    exit_code = 1
    retryable = False

    @property
    def kind(self) -> str:
        """The name under which the statistics group this error."""
        return type(self).__name__


class UsageError(CrawlkitError):
    """What was asked for makes no sense; nothing was changed."""

    exit_code = 2


class TargetError(UsageError):
    """The target of ``run`` is not a crawler: no such file, module or class."""


class OptionError(UsageError):
    """An option that does not exist, or a value that does not fit it."""


class MissingError(UsageError):
    """A package or program that a fetch needs is not installed.

    That is the fault of no request: a crawl that meets it ends, with the request still to do.
    """


class UrlError(UsageError):
    """Not an absolute http or https URL that can be fetched."""


class HandlerError(UsageError):
    """A handler that could not be found again by its name after a restart."""


class StoreError(CrawlkitError):
    """The run cannot be opened, read or written."""


class StoreLockedError(StoreError):
    """Another process is writing this run; ``pid`` is its process, where it is known."""

    def __init__(self, message: str, pid: int | None = None) -> None:
        super().__init__(message)
        self.pid = pid


class StoreDamagedError(StoreError):
    """A file of the run does not hold what was written."""


class StoreVersionError(StoreError):
    """Saved by a version of crawlkit, or of a part, that this code cannot read."""


class StoreFencedError(StoreError):
    """This worker was not heard of for too long, and another was given what it had.

    Nothing is lost and nothing was applied twice: started again, it takes part again.
    """

    exit_code = 75


class StoreStaleError(StoreError):
    """A request that was to be put back or dropped is not the failed one that was read.

    Another process was quicker. Nothing was changed: read what has failed by now, and decide anew.
    """


class StoreUnfinishedError(StoreError):
    """The run was being imported, and that was not finished; it cannot be used as it is."""


class MirrorTakenError(StoreError):
    """Another machine goes on with this run, from its mirror; this one has to stop."""


class StoreWriteError(StoreError):
    """A checkpoint could not be committed. Its changes are still in memory."""


class WorkersError(CrawlkitError):
    """The workers of a run die, over and over, and nothing gets done in between."""


class FetchError(CrawlkitError):
    """A request got no usable response; it is tried again while retries last.

    ``response`` is what came instead, where the status of a response is the failure.
    """

    retryable = True
    response: Response | None = None


class NetworkError(FetchError):
    """No connection, no such host, a reset, bad TLS or malformed HTTP."""


class ProxyError(NetworkError):
    """The proxy cannot be reached, or refuses; ``proxy`` is its address without credentials.

    The proxy is rested, and the request is tried through another one without using up a retry;
    ``retry_after`` is in how many seconds there is one.
    """

    def __init__(self, message: str, proxy: str = "", retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.proxy = proxy
        self.retry_after = retry_after


class FetchTimeoutError(FetchError):
    """The server was silent or too slow."""


class StatusError(FetchError):
    """An HTTP status that counts as a failure; ``status`` is the number.

    Server errors (5xx) and 408 are tried again, other client errors (4xx) are not.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
        self.retryable = status >= 500 or status == 408


class BlockedError(FetchError):
    """The site refuses this session; the session is retired and the request tried with another."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class RedirectError(FetchError):
    """Too many redirects, or one that leads where the crawl may not go."""

    retryable = False


class LimitError(FetchError):
    """A limit was met (body, headers, elements); so it would be again, and there is no retry."""

    retryable = False


class PrivateAddressError(FetchError):
    """A public page led to a private address (loopback, a local network, a cloud's metadata)."""

    retryable = False


class RobotsError(FetchError):
    """The host's robots.txt cannot be had: its server is in trouble, so the host is left alone.

    ``retry_after`` is for how many seconds it asks to be, where it says so.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class OfflineError(FetchError):
    """The page is not in the page cache, and the crawl is told not to fetch."""

    retryable = False


class RenderError(FetchError):
    """The browser crashed, or could not make the page."""


class ItemError(CrawlkitError):
    """An item is not of the crawler's ``item_type``."""


class PageTypeError(CrawlkitError):
    """The page is not what the handler took it for: no JSON, no HTML, no sitemap."""


def printable(text: str) -> str:
    r"""Text that a server wrote, fit for a terminal and a log.

    What is not printable (line breaks, the escape sequences of a terminal, marks that turn the
    direction of text, lone surrogates) becomes an escape that can be seen, as in ``\x1b[31m``.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def one_line(error: BaseException) -> str:
    """The error as one line, `printable`: its message, or its type where it has none."""
    try:
        message = str(error)
    except Exception:
        message = ""  # a broken __str__ of the user's own must not hide the error
    text = printable(" ".join(message.split()))
    if isinstance(error, CrawlkitError):
        return text or type(error).__name__
    return f"{type(error).__name__}: {text}" if text else type(error).__name__

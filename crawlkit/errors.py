"""Every error that crawlkit raises, in one hierarchy.

    CrawlkitError
    ├── UsageError               what was asked for makes no sense; exit code 2
    │   ├── TargetError          no such file, module or class; not a Crawler
    │   ├── OptionError          unknown option, or a value of the wrong type
    │   ├── UrlError             not an http(s) URL that can be fetched
    │   └── HandlerError         a handler that could not be found again after a restart
    ├── StoreError               the run cannot be opened, read or written
    │   ├── StoreLockedError     another process is writing this run
    │   ├── StoreDamagedError    a file of the run does not hold what was written
    │   ├── StoreVersionError    saved by another version of crawlkit or of a part
    │   └── StoreWriteError      a checkpoint could not be committed; nothing was lost
    ├── FetchError               a request got no usable response; it is tried again
    │   ├── NetworkError         no connection, no such host, reset, bad TLS, bad HTTP
    │   ├── FetchTimeoutError    too slow
    │   ├── StatusError          an HTTP status that counts as a failure
    │   ├── BlockedError         the site refuses this session (401, 403, 429)
    │   ├── RedirectError        too many redirects, or one to where we may not go
    │   └── LimitError           a limit was met: body, headers, links
    ├── ItemError                an item is not of the crawler's ``item_type``
    └── PageTypeError            the page is not what the handler took it for (JSON, HTML)

A message is one line: what, where, what to do next.
"""

from __future__ import annotations


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


class StoreWriteError(StoreError):
    """A checkpoint could not be committed. Its changes are still in memory."""


class FetchError(CrawlkitError):
    """A request got no usable response; it is tried again while retries last."""

    retryable = True


class NetworkError(FetchError):
    """No connection, no such host, a reset, bad TLS or malformed HTTP."""


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
    """A limit was met (body, headers); it would be met again, so there is no retry."""

    retryable = False


class ItemError(CrawlkitError):
    """An item is not of the crawler's ``item_type``."""


class PageTypeError(CrawlkitError):
    """The page is not what the handler took it for: no JSON, no text."""


def one_line(error: BaseException) -> str:
    """The error as one line: its message, or its type where it has none."""
    text = " ".join(str(error).split())
    if isinstance(error, CrawlkitError):
        return text or type(error).__name__
    return f"{type(error).__name__}: {text}" if text else type(error).__name__

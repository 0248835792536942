"""The rows of the table: what is played, and what has to come of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .crawl import Found
from .site import BEHAVIOURS, HEALTHY_PAGES

DEADLINE = 3.0
"""Seconds for a request, by option; in them, 1.5 without a byte."""
SLACK = 1.2
MEMORY = 64 * 2**20
STALL = 0.1

Check = Callable[[Found], str | None]
"""Says what is wrong with what came of a row, if anything."""


@dataclass(frozen=True)
class Row:
    """One behaviour, and what has to come of it.

    Attributes:
        name: What is played.
        check: Looks at what came of it.
        behaviour: Whose port is crawled; by default that of the name.
        path: The hostile URL's path; empty where only a sitemap leads to the host.
        options: Options of the crawler. ``{origin}`` in text is the hostile site's.
        host: Name of the hostile host; by default it has an address only.
        scheme: ``http``, or ``https``, which none of the servers speaks.
        is_public: Whether the hostile site is to count as one of the public internet.
        deadline: Seconds within which the hostile URL has its outcome, or the crawl its end.
    """

    name: str
    check: Check
    behaviour: str = ""
    path: str = "/"
    options: dict[str, Any] = field(default_factory=dict)
    host: str = ""
    scheme: str = "http"
    is_public: bool = False
    deadline: float = DEADLINE


def fails(*kinds: str) -> Check:
    """The hostile URL fails with one of these errors."""

    def check(found: Found) -> str | None:
        if found.outcome == "failed" and found.error in kinds:
            return None
        return f"expected to fail with {' or '.join(kinds)}"

    return check


def is_handled(found: Found) -> str | None:
    """The hostile URL is handled."""
    return None if found.outcome == "handled" else "expected to be handled"


def is_read(found: Found) -> str | None:
    """It is handled, and what follows the odd bytes is there."""
    has_heading = any("good" in str(item["title"]) for item in found.items)
    has_link = any(url.endswith("/good") for url in found.urls)
    return is_handled(found) or (None if has_heading and has_link else "a part of the page is lost")


def is_any(*checks: Check) -> Check:
    """One of the checks holds."""

    def check(found: Found) -> str | None:
        wrong = [check(found) for check in checks]
        return None if None in wrong else "; ".join(filter(None, wrong))

    return check


def _all(*checks: Check) -> Check:
    def check(found: Found) -> str | None:
        return next((wrong for check in checks if (wrong := check(found))), None)

    return check


def _counts(kind: str, text: str) -> Check:
    def check(found: Found) -> str | None:
        return None if text in found.errors.get(kind, "") else f"no {kind} says {text!r}"

    return check


def _skips(reason: str, least: int) -> Check:
    def check(found: Found) -> str | None:
        count = sum(n for name, n in found.skipped.items() if reason in name)
        return None if count >= least else f"{count} links skipped for {reason}, not {least}"

    return check


def _handles_at_most(count: int) -> Check:
    def check(found: Found) -> str | None:
        return None if 0 < found.handled <= count else f"{found.handled} pages, not 1 to {count}"

    return check


def _link_refused(found: Found) -> str | None:
    return None if found.failed == ["PrivateAddressError"] else f"the link: {found.failed}"


def _has_error(found: Found) -> str | None:
    return None if found.errors else "no error is counted"


def _no_evil(found: Found) -> str | None:
    """What nobody asked for is on no page."""
    return "the wrong page" if any("evil" in str(item["title"]) for item in found.items) else None


def _few_cookies(found: Found) -> str | None:
    size = found.cookie_bytes
    return None if 0 < size <= 16_384 else f"{size} bytes of cookies were sent"


def _own_cookies(found: Found) -> str | None:
    expected = {"www.a.co.uk: own", "a.co.uk: ", "b.co.uk: ", "a.github.io: ", "b.github.io: "}
    titles = {str(item["title"]) for item in found.items}
    return None if titles == expected else f"cookies where they are not for: {titles ^ expected}"


def _neat_links(found: Found) -> str | None:
    expected = {"/", "/good?x=1", "/esc%1B%5B31m", "/bidi%E2%80%AE%E2%80%A8"}
    expected |= {"/crlf%0D%0ASet-Cookie:x=1"}
    paths = {"/" + url.split("/", 3)[3] for url in found.urls}
    return None if paths == expected else f"{paths ^ expected} are wrong"


def _harmless_cells(found: Found) -> str | None:
    bad = set(found.csv) & set("=+@\t\r\n\uff1d")
    return None if "'" in found.csv and not bad else f"cells begin with {found.csv}"


def _no_strays(found: Found) -> str | None:
    return f"{found.strays} were written" if found.strays else None


_obeyed = _all(
    is_handled,
    _skips("robots", 1),
    lambda found: None if found.handled == 2 else f"{found.handled} pages, not 2",
)
TOO_MUCH = fails("LimitError")
TOO_SLOW = fails("FetchTimeoutError")
BROKEN = fails("NetworkError")
REDIRECT = fails("RedirectError")
PRIVATE = fails("PrivateAddressError")


def _rows(check: Check, *names: str, **more: Any) -> list[Row]:
    return [Row(name, check, **more) for name in names]


def _sitemap(name: str, check: Check, *, is_public: bool = False, **options: Any) -> Row:
    options = {"sitemaps": ["{origin}/sitemap.xml"], **options}
    return Row(name, check, path="", options=options, is_public=is_public)


ROWS = [
    *_rows(TOO_MUCH, *(name for name in BEHAVIOURS if name.startswith("bomb "))),
    *_rows(fails("LimitError", "NetworkError"), "encodings x 100"),
    *_rows(fails("LimitError", "NetworkError"), "50 encodings, all of them true"),
    *_rows(BROKEN, "encoding that lies", "gzip that is cut short"),
    *_rows(is_read, "gzip with garbage behind it"),
    *_rows(fails("LimitError", "NetworkError"), "zstd with a window of 128 MB"),
    *_rows(TOO_MUCH, "endless body", "chunk without end", "chunk extension without end"),
    *_rows(TOO_SLOW, "body, a byte a second", "headers, a byte a second"),
    *_rows(TOO_SLOW, "trailers, a byte a second"),
    *_rows(TOO_SLOW, "silence before headers", "silence after headers"),
    *_rows(TOO_SLOW, "silence in the TLS handshake", "TLS, a byte a second", scheme="https"),
    *_rows(TOO_MUCH, "endless 1xx", "100,000 headers", "one huge header"),
    *_rows(_all(is_handled, _few_cookies), "a Set-Cookie of 60 KB"),
    *_rows(is_read, "a Vary of 8,000 names", options={"cache": "http"}),
    *_rows(
        is_any(is_read, fails("LimitError")),
        "Cache-Control of 20,000 directives",
        options={"cache": "http"},
    ),
    *_rows(is_read, "a Content-Type of 60 KB"),
    *_rows(fails("StatusError", "NetworkError"), "escape sequences in the status line"),
    *_rows(fails("RedirectError", "NetworkError"), "escape sequences in Location"),
    Row("escape sequences in an error", fails("RuntimeError"), path="/raises"),
    *_rows(REDIRECT, "redirect loop", "redirect to itself", "redirects without end"),
    *_rows(REDIRECT, "redirect to file:", "redirect to port 99999", "redirect to port 25"),
    *_rows(REDIRECT, "redirect of 60 KB", "redirect to a scoped address"),
    Row(
        "100,000 redirects",
        _all(is_handled, _handles_at_most(HEALTHY_PAGES), _skips("max_pages_per_host", 900)),
        options={"max_pages_per_host": HEALTHY_PAGES},
    ),
    *_rows(
        PRIVATE,
        "redirect to a private address",
        "redirect to localhost",
        "redirect to a name of a private address",
        "redirect to an octal address",
        "redirect to IPv6-mapped",
        "redirect to cloud metadata",
        "redirect to a decimal address",
        "redirect to an address of two parts",
        "redirect to an address in wide digits",
        "redirect to 0.0.0.0",
        "redirect to IPv6 loopback",
        "redirect to IPv6 translated",
        "redirect to a link-local address",
        is_public=True,
    ),
    # The public one of its addresses is tried, and nobody is there.
    *_rows(BROKEN, "redirect to a name of both kinds", is_public=True),
    Row("link to a private address", _all(is_handled, _link_refused), is_public=True),
    *_rows(fails("NetworkError", "LimitError"), "trailers without end"),
    *_rows(
        BROKEN, "malformed chunks", "short body", "reset", "two Content-Lengths", "no HTTP at all"
    ),
    *_rows(
        BROKEN,
        "Content-Length with a sign",
        "Content-Length in hexadecimal",
        "Content-Length twice in one field",
        "Content-Length beyond all numbers",
        "a bare CR in a header",
        "a NUL in a header",
        "HTTP/0.9",
    ),
    *_rows(fails("NetworkError", "LimitError"), "a chunk's size without end"),
    *_rows(
        is_any(BROKEN, fails("StatusError"), is_handled),
        "Content-Length with Transfer-Encoding",
        "a space before the colon",
        "a folded Transfer-Encoding",
        "an unknown Transfer-Encoding",
        "chunked, and then something",
        "chunked twice",
        "HTTP/7.3",
        "status 1000",
        "another protocol",
    ),
    *_rows(
        _all(is_read, _no_evil),
        "more than its Content-Length",
        "a second answer with the first",
        "an answer that nobody asked for",
    ),
    *_rows(
        is_read,
        "bogus charset",
        "charset that is no text",
        "charset with a line break",
        "invalid UTF-8",
        "bytes that windows-1252 lacks",
        "NUL bytes",
    ),
    Row("100,000 nested tags", _all(is_read, _counts("LimitError", "nested"))),
    *_rows(
        TOO_MUCH,
        "100,000 attributes on a tag",
        "100,000 attributes, quoted >",
        "2,000,000 attributes on a tag",
        "5,000,000 elements",
        "half a million links",
    ),
    Row(
        "60,000 links",
        _all(is_handled, _skips("max_links", 50_000)),
        options={"max_pages_per_host": 30},
    ),
    Row("odd links", _all(is_handled, _neat_links)),
    _sitemap("sitemap: entity bomb", _has_error),
    _sitemap("sitemap: external entities", is_any(_has_error, _handles_at_most(2))),
    _sitemap("sitemap: gzip bomb", _has_error),
    _sitemap(
        "sitemap: index of itself",
        _skips("max_pages_per_host", 1),
        max_pages_per_host=HEALTHY_PAGES,
    ),
    _sitemap(
        "sitemap: private addresses",
        lambda found: None if found.failed == ["PrivateAddressError"] * 3 else f"{found.failed}",
        is_public=True,
    ),
    Row("robots.txt on another host", _obeyed, "robots-elsewhere"),
    Row("robots.txt at a private address", PRIVATE, "robots-private", is_public=True),
    Row("robots.txt, redirected to itself", is_handled, "robots-loop"),
    Row(
        "robots.txt that names a private sitemap",
        is_handled,
        "robots-sitemap",
        is_public=True,
        options={"sitemaps_from_robots": True},
    ),
    Row("robots.txt of 200,000 rules", _obeyed, "robots-rules"),
    Row("robots.txt, crawl-delay of a year", _obeyed, "robots-delay", options={"max_delay": 1.0}),
    Row("robots.txt without end", _obeyed, "robots-endless"),
    Row(
        "robots.txt that never comes",
        fails("RobotsError", "FetchTimeoutError"),
        "robots-silent",
        deadline=2 * DEADLINE,
    ),
    Row(
        "calendar",
        _all(is_handled, _handles_at_most(HEALTHY_PAGES), _skips("", 1)),
        options={"max_pages_per_host": HEALTHY_PAGES},
    ),
    Row(
        "endless query parameters",
        _all(is_handled, _handles_at_most(11), _skips("budget", 1)),
        options={"budgets": {"**filter=**": 10}},
    ),
    Row("cookies", _all(is_handled, _few_cookies)),
    Row("cookies for public suffixes", _all(is_handled, _own_cookies), host="a.co.uk"),
    Row(
        "names that lead out of a directory",
        _all(is_handled, _no_strays),
        options={"cache": "forever"},
    ),
    Row("formulas for a spreadsheet", _all(is_handled, _harmless_cells)),
]
BASELINE = Row("nothing hostile", is_handled, "plain")
QUICK = (
    "bomb gzip",
    "one huge header",
    "redirect to a private address",
    "malformed chunks",
    "100,000 nested tags",
    "100,000 attributes on a tag",
    "odd links",
)
"""Rows that the tests play: a few of each kind."""


@dataclass(frozen=True)
class Wrong:
    """Why a row does not hold.

    Attributes:
        text: What is wrong.
        may_be_load: Whether it can come of a machine that has too much else to do.
    """

    text: str
    may_be_load: bool = False


def judge(row: Row, found: Found, baseline: Found, complaints: list[str]) -> list[Wrong]:
    """Why a row does not hold, if it does not.

    Time for which the crawl got no processor is not held against it.
    """
    # Where something was silent for longer than it is made to be, it was the other process that
    # got no processor.
    is_starved = "FetchTimeoutError" in found.errors or found.outcome == "hung"
    wrong = [Wrong(text) for text in complaints]
    seconds = (found.seconds if row.path else found.all_seconds) - found.waited
    healthy_seconds = found.healthy_seconds - found.waited
    if reason := row.check(found):
        wrong.append(Wrong(reason, is_starved))
    if seconds > row.deadline * SLACK:
        wrong.append(Wrong(f"it took {seconds:.1f} s, more than {row.deadline * SLACK:.1f}", True))
    if found.peak - baseline.peak > MEMORY:
        wrong.append(Wrong(f"{(found.peak - baseline.peak) / 2**20:.0f} MB more memory"))
    if found.stall > STALL:
        text = f"the event loop stood still for {found.stall * 1000:.0f} ms"
        wrong.append(Wrong(text, True))
    if found.healthy != HEALTHY_PAGES:
        text = f"{found.healthy} of {HEALTHY_PAGES} healthy pages"
        wrong.append(Wrong(text, is_starved))
    if healthy_seconds > max(2 * baseline.healthy_seconds, DEADLINE * SLACK):
        wrong.append(Wrong(f"the healthy pages took {healthy_seconds:.1f} s", True))
    if found.unprintable:
        wrong.append(Wrong(f"control characters in the output of {', '.join(found.unprintable)}"))
    return wrong

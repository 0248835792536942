"""Options: what can be set on a crawler, as class attributes, keywords or ``--set name=value``."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from .discovery.scope import UrlPattern
from .errors import OptionError
from .request import CacheMode
from .stores.postgres.address import with_run
from .triggers.base import Preemption, Trigger

DEFAULT_USER_AGENT = "crawlkit"


class Options:
    """The options of a crawler. Each is a class attribute, and can be given as a keyword.

    Identity:
        name: Name of the run; default: the class's name, as in ``book-shop`` for ``BookShop``.
        start_urls: Where the crawl begins.
        start_file: A file with more such URLs, one a line.
        sitemaps: URLs of sitemaps whose pages the crawl begins with, too.
        sitemaps_from_robots: Whether to begin also with the sitemaps that the robots.txt files of
            the start URLs' hosts name.
        store: Where the run is kept: a directory, by default ``runs/NAME``, or
            ``postgresql://user@host/database#RUN``, where the run is called NAME by default.

    Pace:
        concurrency: Requests in flight at most. There are fewer while the machine is short of
            memory or processor time.
        min_concurrency: Requests in flight that there may always be.
        concurrency_per_host: Requests in flight at one host, at most.
        delay: Seconds between the starts of two requests to one host, at least.
        max_delay: Seconds to which this delay grows at most, where a host gets slow, refuses
            (429, 503), or asks for more in its robots.txt.
        obey_robots: Whether robots.txt, and what pages say of their links, is obeyed.

    Limits:
        max_pages: Pages to handle, over all lives; then the crawl is finished, and what is pending
            stays pending for a run with a higher limit.
        max_pages_per_host: Pages to fetch from one host, over all lives.
        budgets: How many pages to fetch of the URLs that match a pattern, by pattern.
        max_depth: How many links a page may be away from the start.
        max_retries: How often a request that failed is tried again.
        max_pauses: Consecutive pauses (429, 503) of a host that cost no retry; and pauses because
            of one request, where others are answered well in between.
        max_links: Links of one page that are followed.
        max_body: Bytes of a decoded body.
        max_elements: Elements of an HTML page; a larger one is a failure.
        timeout: Seconds for a whole request.
        idle_timeout: Seconds without a byte.

    Scope:
        scope: ``same-host``, ``same-domain``, ``same-origin`` or ``all``; relative to the page.
        include: Patterns of URLs, one of which a link must match.
        exclude: Patterns of URLs that are not followed.

    HTTP:
        user_agent: How the crawler introduces itself; say where you can be reached.
        headers: Headers of every request.
        proxies: URLs of proxies (``http``, ``https``, ``socks5``, ``socks5h``), which the sessions
            take in turn; or, by pattern of URL, one, several or ``None``.
        auth: User and password by origin, as in ``{"https://intranet.example": ("me", "secret")}``.
        allow_private: Whether public pages may lead to private addresses.
        accept_status: Statuses from 400 on that go to the handler and are no failures.

    Rendering:
        render: Whether pages are made by a browser, scripts and all, where a request does not say.
        render_wait: When a page is done: ``load``, ``networkidle``, or a CSS selector that must be
            there.
        render_pages: Pages open in the browser at once.
        render_resources: Whether images, fonts and media are loaded.
        chromium: Path of the browser to use.

    Page cache:
        cache: How responses are kept, see `CacheMode`: ``off``, ``http``, seconds, ``forever``, or
            ``offline``.
        cache_rules: The same by pattern of URL; the first that matches counts.
        cache_dir: Where they are kept. Crawlers may share it.
        cache_size: Bytes that it may take; what was unused for longest goes first.

    Sessions:
        session_pool_size: How many there are.
        session_max_age: Seconds that one is used.
        session_max_usage: Requests that one makes.
        session_max_error_score: Score at which one is retired; a failure counts 1.
        session_error_decrement: How much a success takes off the score.
        persist_sessions: Whether they outlive the process, cookies included.

    Items:
        item_type: What every item must be: a dataclass, a TypedDict, or a msgspec, attrs or
            pydantic class.
        output: A file that items are also written to: ``.jsonl`` as they come; ``.json``, ``.csv``
            and ``.parquet``, a URL for fsspec, or any of a run in PostgreSQL, when the crawl has
            ended or was stopped, but for a stop by SIGTERM or because the machine is about to go.
        warc: A path under which all that is fetched is kept as WARC: that of the files, but for
            the end of their names.
        warc_size: Bytes after which its next file is begun.

    Watching:
        metrics: Where the statistics are served for Prometheus while the crawl runs,
            ``[HOST:]PORT``; on loopback where there is no host.
        traces: Whether each request is a span of OpenTelemetry.

    Durability:
        persist_interval: Seconds between checkpoints.
        grace: Seconds until the process is gone when the crawl is told to stop. Pages in flight
            have it but for a reserve for saving: a quarter, at least 0.75 s, at most half.
        worker: Name of this process among the workers of a run; default: made up.
        lease: Seconds without a sign of life after which what a worker has is given to others.
        durability: ``normal``, or ``full`` to wait for the disk at each checkpoint.
        store_patience: Seconds for which a checkpoint that cannot be written is tried again.

    Migration:
        preemption: The cloud whose notices of preemption end the crawl in good order: ``aws``,
            ``aws-rebalance`` (already when it recommends to go), ``gcp`` or ``azure``.
        mirror: Where a copy of the run is kept up to date, from which another machine can go on: a
            directory, or ``s3://bucket/path`` (extra ``[s3]``).
        mirror_interval: Seconds between two shipments to the mirror.
        triggers: Further sources of events from outside, see `crawlkit.triggers.base.Trigger`.

    Raises:
        OptionError: There is no such option, or a number is too small.
    """

    name: str = ""
    start_urls: Iterable[str] = ()
    start_file: str | None = None
    sitemaps: Iterable[str] = ()
    sitemaps_from_robots: bool = False
    store: Any = None

    concurrency: int = 16
    min_concurrency: int = 1
    concurrency_per_host: int = 8
    delay: float = 0.0
    max_delay: float = 60.0
    obey_robots: bool = True

    max_pages: int | None = None
    max_pages_per_host: int | None = None
    budgets: Mapping[UrlPattern, int] = {}
    max_depth: int = 100
    max_retries: int = 3
    max_pauses: int = 10
    max_links: int = 10_000
    max_body: int = 16 * 2**20
    max_elements: int = 200_000
    timeout: float = 60.0
    idle_timeout: float = 30.0

    scope: Literal["same-host", "same-domain", "same-origin", "all"] = "same-host"
    include: UrlPattern | Iterable[UrlPattern] = ()
    exclude: UrlPattern | Iterable[UrlPattern] = ()

    user_agent: str = DEFAULT_USER_AGENT
    headers: Mapping[str, str] = {}
    proxies: Sequence[str] | Mapping[UrlPattern, str | Iterable[str] | None] = ()
    auth: Mapping[str, tuple[str, str]] = {}
    allow_private: bool = False
    accept_status: Iterable[int] = ()

    render: bool = False
    render_wait: str = "networkidle"
    render_pages: int = 4
    render_resources: bool = False
    chromium: str | None = None

    cache: CacheMode = "off"
    cache_rules: Mapping[UrlPattern, CacheMode] = {}
    cache_dir: str = "runs/.cache"
    cache_size: int = 2**30

    session_pool_size: int = 20
    session_max_age: float = 3000.0
    session_max_usage: int = 50
    session_max_error_score: float = 3.0
    session_error_decrement: float = 0.5
    persist_sessions: bool = True

    item_type: Any = None
    output: str | None = None
    warc: str | None = None
    warc_size: int = 10**9

    metrics: str | None = None
    traces: bool = False

    persist_interval: float = 1.0
    grace: float = 10.0
    worker: str = ""
    lease: float = 15.0
    durability: Literal["normal", "full"] = "normal"
    store_patience: float = 30.0

    preemption: Preemption | None = None
    mirror: str | None = None
    mirror_interval: float = 5.0
    triggers: Iterable[Trigger] = ()

    _AT_LEAST: ClassVar[dict[str, float]] = {
        "concurrency": 1,
        "min_concurrency": 1,
        "concurrency_per_host": 1,
        "delay": 0,
        "max_delay": 0,
        "max_pages": 1,
        "max_pages_per_host": 1,
        "max_depth": 0,
        "max_retries": 0,
        "max_pauses": 0,
        "max_links": 0,
        "max_body": 1,
        "max_elements": 1,
        "cache_size": 1,
        "render_pages": 1,
        "warc_size": 1,
        "timeout": 0.001,
        "idle_timeout": 0.001,
        "persist_interval": 0.01,
        "grace": 0,
        "lease": 0.5,
        "store_patience": 0,
        "mirror_interval": 0.1,
        "session_pool_size": 1,
        "session_max_age": 0,
        "session_max_usage": 1,
        "session_max_error_score": 0,
        "session_error_decrement": 0,
    }

    def __init__(self, **options: Any) -> None:
        for name, value in options.items():
            if name not in option_types():
                raise unknown_option(name)
            setattr(self, name, os.fspath(value) if isinstance(value, Path) else value)
        if not self.name:
            self.name = _kebab(type(self).__name__)
        if self.store is None:
            self.store = f"runs/{self.name}"
        elif isinstance(self.store, str):
            self.store = with_run(self.store, self.name)
        for name, least in self._AT_LEAST.items():
            value = getattr(self, name)
            if not (_is_none(value, name) or (isinstance(value, int | float) and value >= least)):
                raise OptionError(f"{name} cannot be {value!r}; give a number from {least} on")
        for name in ("start_urls", "sitemaps"):
            if isinstance(given := getattr(self, name), str):
                setattr(self, name, [given])
        self._check_kinds()

    def _check_kinds(self) -> None:
        """Refuse what is of another kind than the option, and would be met with much later.

        Raises:
            OptionError: An option is.
        """
        for names, kind, words in _KINDS:
            for name in names:
                value = getattr(self, name)
                if not (_is_none(value, name) or isinstance(value, kind)):
                    # Not the value: it may have a password.
                    raise OptionError(f"{name} cannot be of type {type(value).__name__}; {words}")
        for names, kind, words in _ELEMENTS:
            for name in names:
                # What is no list, such as a generator, must not be used up.
                given = getattr(self, name)
                for one in given if isinstance(given, Collection) else ():
                    if not isinstance(one, kind):
                        raise OptionError(f"{name} cannot have a {type(one).__name__}; {words}")

    @classmethod
    def traceless(cls) -> dict[str, Any]:
        """Options with which a crawler neither writes nor serves nor watches anything.

        For tests and prompts, where a class is used whose own options say where its items go.
        """
        known = option_types()
        return {name: value for name, value in _TRACELESS.items() if name in known}

    @classmethod
    def misspelt(cls) -> dict[str, str]:
        """Attributes of the class that look like an option written wrongly, each with that option.

        Nobody reads ``start_url`` or ``max_page``; and yet they are what somebody meant.
        """
        known = option_types()
        own = {
            name: value
            for base in cls.__mro__
            if not base.__module__.startswith("crawlkit.")
            for name, value in vars(base).items()
        }
        found = {}
        for name, value in own.items():
            is_plain = isinstance(value, bool | int | float | str | list | tuple | dict | set)
            if name not in known and not name.startswith("_") and is_plain:
                near = get_close_matches(name.lower(), known, 1, cutoff=0.8)
                if near and near[0] not in own:
                    found[name] = near[0]
        return found

    @classmethod
    def parse_option(cls, name: str, text: str) -> Any:
        """The value of an option that was given as text, as by ``--set name=value``.

        Lists are given with commas, ``none`` is no limit.

        Raises:
            OptionError: There is no such option, or the text does not fit it.
        """
        types = option_types()
        if name not in types:
            raise unknown_option(name)
        kind = types[name]
        value: Any = None if text.lower() == "none" else text
        if name in _NO_TEXT:
            raise OptionError(f"{name} cannot be given as text; set it in the crawler's class")
        if name in _LISTS:
            kind = list[int] if name == "accept_status" else list[str]
            value = [part.strip() for part in text.split(",") if part.strip()]
        try:
            return msgspec.convert(value, kind, strict=False)
        except msgspec.ValidationError:
            raise OptionError(f"{name} cannot be {text!r}; give {_in_words(kind)}") from None


_TRACELESS: dict[str, Any] = {
    "store": "memory:",
    "output": None,
    "warc": None,
    "mirror": None,
    "metrics": None,
    "traces": False,
    "preemption": None,
    "triggers": (),
}
_KINDS: tuple[tuple[tuple[str, ...], type | tuple[type, ...], str], ...] = (
    (("start_urls", "sitemaps"), Iterable, "give a list of URLs"),
    (("accept_status",), Iterable, "give a list of numbers, such as [404]"),
    (("triggers",), Iterable, "give a list of triggers"),
    (("headers", "auth", "budgets", "cache_rules"), Mapping, "give a dict"),
    (("user_agent", "worker"), str, "give text"),
    (
        ("start_file", "cache_dir", "chromium", "output", "warc", "mirror"),
        (str, os.PathLike),
        "give a path",
    ),
    (
        (
            "sitemaps_from_robots",
            "obey_robots",
            "allow_private",
            "render",
            "render_resources",
            "persist_sessions",
            "traces",
        ),
        int,
        "give True or False",
    ),
)
"""Options with the type that they must have, and what to give."""
_ELEMENTS: tuple[tuple[tuple[str, ...], type, str], ...] = (
    (("start_urls", "sitemaps"), str, "give URLs as text (requests: from start_requests)"),
    (("accept_status",), int, "give numbers, such as 404"),
)
"""Options that are lists, with the type of what is in them."""
_LISTS = ("start_urls", "sitemaps", "include", "exclude", "proxies", "accept_status")
_NO_TEXT = ("headers", "item_type", "store", "auth", "budgets", "cache_rules", "triggers")


def _is_none(value: object, name: str) -> bool:
    """Whether it is `None`, and the option may be none."""
    return value is None and getattr(Options, name) is None


def _in_words(kind: Any) -> str:
    """What a value of this type is written as."""
    words: list[str] = []
    for one in get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,):
        if get_origin(one) is Literal:
            words += map(str, get_args(one))
        else:
            words.append(_WORDS.get(one, "text"))
    *others, last = dict.fromkeys(words)
    return f"{', '.join(others)} or {last}" if others else last


_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list[int]: "whole numbers, with commas between them",
    type(None): "none",
}


def option_types() -> dict[str, Any]:
    """The options by name, with their types."""
    hints = get_type_hints(Options)
    return {name: kind for name, kind in hints.items() if not name.startswith("_")}


def unknown_option(name: str) -> OptionError:
    """The error for an option that does not exist, with the nearest that does."""
    near = get_close_matches(name.replace("-", "_"), option_types(), 1)
    remedy = f"did you mean {near[0]}?" if near else f"there are {', '.join(option_types())}"
    return OptionError(f"there is no option {name!r}; {remedy}")


def _kebab(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).lower()

"""run: start a crawl, or go on with it."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NoReturn

import click

from ..errors import OptionError, StoreError, UsageError
from ..run import open_run
from ..stores.postgres.address import masked
from ..triggers.lastmoment import EXIT_UNFINISHED
from ..urls import canonical
from .output import plural, say
from .verbs import Verb, complete_target, program

if TYPE_CHECKING:
    from ..crawler import Crawler
    from ..runner import Runnable
    from ..statistics import Statistics


log = logging.getLogger("crawlkit.options")


def _go(*_: object) -> NoReturn:
    # Not by an exception: it could come while the target is being imported, which it would stop.
    sys.stdout.flush()
    os._exit(EXIT_UNFINISHED)


@contextmanager
def _ready_to_go() -> Iterator[None]:
    """Exit with 75 also at a SIGTERM that comes before the crawl listens to it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _go)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _complete_option(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[str]:
    """The names of options, for the completion of a shell."""
    from ..options import option_types

    return [f"{name}=" for name in option_types() if name.startswith(incomplete)]


@click.command(cls=Verb)
@click.argument("target", shell_complete=complete_target)
@click.argument("urls", nargs=-1, metavar="[URL]...")
@click.option(
    "--store",
    metavar="DIR",
    help="Where the run is kept (default runs/NAME), or postgresql://user@host/database#RUN.",
)
@click.option("--fresh", is_flag=True, help="Throw away what the run holds, and start anew.")
@click.option("--yes", is_flag=True, help="With --fresh: do not ask before items are thrown away.")
@click.option(
    "--concurrency", type=click.IntRange(min=1), metavar="N", help="Requests in flight at most."
)
@click.option(
    "--max-pages", type=click.IntRange(min=1), metavar="N", help="Pages to handle, over all lives."
)
@click.option(
    "--output",
    metavar="FILE",
    help="Also write the items to FILE: .jsonl as they come, .json, .csv, .parquet at the end.",
)
@click.option("--warc", metavar="PATH", help="Keep all that is fetched as WARC, in PATH-*.warc.gz.")
@click.option(
    "--metrics",
    metavar="[HOST:]PORT",
    help="Serve the statistics for Prometheus while the crawl runs; on loopback by default.",
)
@click.option("--traces", is_flag=True, default=None, help="Trace requests with OpenTelemetry.")
@click.option(
    "--set",
    "settings",
    metavar="NAME=VALUE",
    multiple=True,
    shell_complete=_complete_option,
    help="Set any option of the crawler; may be given more than once.",
)
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Seconds until the process is gone when the crawl is stopped (default 10).",
)
@click.option(
    "--mirror",
    metavar="ADDRESS",
    help="Keep a copy of the run in a directory or s3://bucket/path, and go on from there.",
)
@click.option(
    "--preemption",
    type=click.Choice(["aws", "aws-rebalance", "gcp", "azure"]),
    help="Listen to the preemption notices of this cloud.",
)
@click.option(
    "--offline", is_flag=True, help="Fetch nothing: what is not in the page cache is a failure."
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    help="Crawl in so many processes; each has --concurrency requests in flight.",
)
@click.option("--worker", metavar="NAME", help="Name of this process among those of a run.")
@click.option("--seat", type=int, hidden=True)
@click.option("--joins", is_flag=True, hidden=True)
@click.option("--supervised", is_flag=True, hidden=True)
@click.option("--undated", is_flag=True, hidden=True)
@click.option(
    "--dashboard",
    metavar="[HOST:]PORT",
    help="Serve a live page meanwhile, for this machine unless a host is named; 0 is a free port.",
)
@click.option("--no-progress", is_flag=True, help="Do not show where the crawl stands.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="What to log, on standard error.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How to log: lines for people, or a JSON object a line.",
)
@click.option("--show", is_flag=True, help="Print the items and links of each page.")
@_ready_to_go()
def run(
    target: str,
    urls: tuple[str, ...],
    store: str | None,
    fresh: bool,
    yes: bool,
    settings: tuple[str, ...],
    offline: bool,
    workers: int | None,
    worker: str | None,
    seat: int | None,
    joins: bool,
    supervised: bool,
    undated: bool,
    dashboard: str | None,
    no_progress: bool,
    log_level: str,
    log_format: str,
    show: bool,
    **given: Any,
) -> int:
    """Run a crawler; a run that was stopped goes on.

    TARGET is file.py, package.module, or either with :Class where there are several crawlers. URLs
    are crawled in place of the crawler's start_urls.
    """
    # Imported here, as the crawler brings aiohttp and lxml along.
    from ..runner import run as run_crawler
    from .closing import closing, log_closing
    from .dashboard import Watched, check_where
    from .progress import progress_of
    from .target import load_target, made

    if dashboard is not None:
        check_where(dashboard)
    if supervised:
        from ..workers.orders import Orders, taken_store

        store = taken_store() or store
    kind = load_target(target)
    options = dict(_parsed(kind, settings))
    options |= {name: value for name, value in given.items() if value is not None}
    if offline:
        options["cache"] = "offline"
    if urls:
        options["start_urls"] = [canonical(url) for url in urls]
    if store is not None:
        options["store"] = store
    if worker is not None:
        options["worker"] = worker
    if seat is not None:
        options |= _seat(seat, options, kind)
    if supervised:
        # What is left out is the supervisor's.
        options |= {"triggers": (Orders(),), "preemption": None, "output": None, "metrics": None}
    crawler = made(kind, options)
    crawler.joins = joins
    address = crawler.job.store.address
    if supervised:
        # That it stops is said once, by the supervisor, of whom Ctrl-C is heard.
        logging.getLogger("crawlkit.triggers").setLevel(logging.WARNING)
        with _told(crawler, log_level, log_format, show=show, dated=False if undated else None):
            return run_crawler(crawler)
    earlier = _earlier(address)
    if fresh and not yes:
        _confirm(address, earlier)
        _confirm_mirror(crawler.mirror)
    with_workers = f" with {workers} workers" if workers is not None and workers > 1 else ""
    named = f"{crawler.name}{with_workers}"
    say(_opening(named, address, None if fresh else earlier, crawler.mirror))
    same = {**given, "store": store, "set": settings, "offline": offline}
    runnable: Runnable = crawler
    if workers is not None and workers > 1:
        # Imported here, as few crawls need it.
        from .workers import Workers

        # A store that is elsewhere is told in another way, as its address may have a password.
        each: dict[str, Any] = {"store": None if crawler.job.store.is_shared else address}
        each |= {"output": None, "metrics": None, "grace": None, "no_progress": True, "show": show}
        each |= {"log_level": log_level, "log_format": log_format}
        python = f"{shlex.quote(sys.executable)} -m crawlkit"
        runnable = Workers(crawler, workers, _command(python, target, *urls, **same | each))
    is_live = log_format == "text"
    with (
        nullcontext() if no_progress else progress_of(crawler, live=is_live),
        # Inside, so that the log goes around the lines that show the progress.
        _told(crawler, log_level, log_format, show=show),
    ):
        for attribute, option in kind.misspelt().items():
            log.warning("%s.%s is no option; is it %s?", kind.__name__, attribute, option)
        if dashboard is not None:
            runnable = Watched(crawler, runnable, dashboard)
        code = run_crawler(runnable, fresh=fresh)
    same |= {"store": store and masked(store), "workers": workers, "worker": worker}
    same |= {"dashboard": dashboard}
    again, more = (
        shlex.join(_command(program(), target, *urls, **same | {"max_pages": most}))
        for most in (given["max_pages"], 10 * (crawler.max_pages or 1))
    )
    if log_format == "json":
        log_closing(crawler, address, code)
    say(closing(crawler, address, code, again, more))
    if code != 0:
        _leave_threads_behind(code)
    return code


@contextmanager
def _told(
    crawler: Crawler, log_level: str, log_format: str, *, show: bool, dated: bool | None = None
) -> Iterator[None]:
    """Log what happens, and print each page if that is wanted."""
    from .logs import requests_logged, set_up

    set_up(log_level, log_format, dated=dated)
    with ExitStack() as stack:
        stack.enter_context(requests_logged(crawler, crawler.job.store.address))
        if show:
            from .show import pages_shown  # here, as it takes rich along

            stack.enter_context(pages_shown(crawler))
        yield


def _leave_threads_behind(code: int) -> None:
    """End the process here, where Python would wait for threads that handlers have started.

    A process that was told to go has saved everything, and cannot make a thread stop.
    """
    others = set(threading.enumerate()) - {threading.current_thread()}
    if any(not thread.daemon for thread in others):
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code)


def _seat(seat: int, options: dict[str, Any], kind: type[Crawler]) -> dict[str, Any]:
    # Imported here, as only workers need it.
    from .workers import seat_options

    lease = options.get("lease", kind.lease)
    return seat_options(options["store"], options["worker"], seat, lease)


# -- before -----------------------------------------------------------------------------------


def _parsed(kind: type[Crawler], settings: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise OptionError(f"--set {setting} has no value; write --set {name}=VALUE")
        name = name.strip().replace("-", "_")
        if name == "store":
            raise OptionError(f"--set {setting} is none of the settings; write --store {text}")
        yield name, kind.parse_option(name, text)


def _command(start: str, *arguments: str, **options: Any) -> list[str]:
    """The command that goes on with this crawl."""
    words = [*shlex.split(start), "run", *arguments]
    for name, value in options.items():
        for one in value if isinstance(value, tuple) else (value,):
            option = f"--{name.replace('_', '-')}"
            if one is True:
                words.append(option)
            elif one not in (None, False):
                words += [option, str(one)]
    return words


def _earlier(address: str) -> Statistics | None:
    """What the run holds already; opening it for writing will say what is wrong with it."""
    try:
        with open_run(address) as run:
            return run.statistics
    except (StoreError, UsageError):
        return None


def _confirm(address: str, earlier: Statistics | None) -> None:
    """Ask before items are thrown away.

    Raises:
        UsageError: There is nobody to ask, or the answer is no.
    """
    if earlier is None or not earlier.items_saved:
        return
    items = plural(earlier.items_saved, "item")
    keep = f"keep them with 'crawlkit items {masked(address)} -o FILE'"
    if not _is_anybody_there():
        raise UsageError(
            f"--fresh would throw away {items} of {masked(address)}; add --yes, or {keep}"
        )
    if not click.confirm(f"{masked(address)} holds {items}. Throw them away?", err=True):
        raise UsageError(f"nothing was changed; {keep}")


def _confirm_mirror(mirror: str | None) -> None:
    """Ask before a mirror, which may be of another machine's run, is begun anew.

    Raises:
        UsageError: There is nobody to ask, or the answer is no.
    """
    if mirror is None:
        return
    # Imported here, since few runs have one.
    from ..stores.mirror.restoring import holds_run

    try:
        has_run = holds_run(mirror)
    except (OSError, StoreError):
        return  # opening it will say what is wrong with it
    if not has_run:
        return
    keep = f"keep it by giving another --mirror than {mirror}"
    if not _is_anybody_there():
        raise UsageError(f"--fresh would throw away the run in {mirror}; add --yes, or {keep}")
    if not click.confirm(f"{mirror} holds a run. Throw it away?", err=True):
        raise UsageError(f"nothing was changed; {keep}")


def _is_anybody_there() -> bool:
    return sys.stdin.isatty()


def _opening(name: str, address: str, earlier: Statistics | None, mirror: str | None = None) -> str:
    if earlier is None or not earlier.lives:
        # What is in the mirror is known when it is restored, and the log says so.
        there = f", or going on from {mirror}" if mirror else ""
        return f"starting {name} in {masked(address)}{there}"
    failed = f", {earlier.requests_failed:,} failed" if earlier.requests_failed else ""
    text = (
        f"resuming {name}: {earlier.requests_finished:,} done{failed}, {earlier.pending:,} pending"
    )
    if earlier.finished_at and not earlier.pending:
        text += f"; it was finished at {earlier.finished_at}, --fresh starts anew"
        if earlier.requests_failed:
            text += f", and '{program()} failed {masked(address)} retry' tries what failed again"
    return text

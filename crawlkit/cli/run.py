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
from typing import TYPE_CHECKING, Any

import click

from ..errors import OptionError, StoreError, UsageError
from ..run import open_run
from ..triggers.signals import EXIT_UNFINISHED
from ..urls import canonical
from .output import plural, say
from .verbs import Verb, complete_target, program

if TYPE_CHECKING:
    from ..crawler import Crawler
    from ..statistics import Statistics


log = logging.getLogger("crawlkit.options")


@contextmanager
def _ready_to_go() -> Iterator[None]:
    """Exit with 75 also at a SIGTERM that comes before the crawl listens to it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_UNFINISHED))
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
@click.option("--store", metavar="DIR", help="Where the run is kept (default runs/NAME).")
@click.option("--fresh", is_flag=True, help="Throw away what the run holds, and start anew.")
@click.option("--yes", is_flag=True, help="With --fresh: do not ask before items are thrown away.")
@click.option(
    "--concurrency", type=click.IntRange(min=1), metavar="N", help="Requests in flight at most."
)
@click.option(
    "--max-pages", type=click.IntRange(min=1), metavar="N", help="Pages to handle, over all lives."
)
@click.option(
    "--output", metavar="FILE", help="Also write the items to this .jsonl file, as they come."
)
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
    help="How long pages in flight have to finish when the crawl is stopped (default 10).",
)
@click.option(
    "--offline", is_flag=True, help="Fetch nothing: what is not in the page cache is a failure."
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
    from .logs import requests_logged, set_up
    from .progress import progress_of
    from .target import load_target

    kind = load_target(target)
    options = dict(_parsed(kind, settings))
    options |= {name: value for name, value in given.items() if value is not None}
    if offline:
        options["cache"] = "offline"
    if urls:
        options["start_urls"] = [canonical(url) for url in urls]
    if store is not None:
        options["store"] = store
    crawler = kind(**options)
    address = crawler.job.store.address
    earlier = _earlier(address)
    if fresh and not yes:
        _confirm(address, earlier)
    say(_opening(crawler.name, address, None if fresh else earlier))
    is_live = log_format == "text"
    with nullcontext() if no_progress else progress_of(crawler, live=is_live), ExitStack() as shown:
        # Inside, so that the log goes around the lines that show the progress.
        set_up(log_level, log_format)
        for attribute, option in kind.misspelt().items():
            log.warning("%s.%s is no option; is it %s?", kind.__name__, attribute, option)
        shown.enter_context(requests_logged(crawler, address))
        if show:
            from .show import pages_shown  # here, as it takes rich along

            shown.enter_context(pages_shown(crawler))
        code = run_crawler(crawler, fresh=fresh)
    again = _command(target, *urls, **given, store=store, set=settings, offline=offline)
    more = _command(
        target,
        *urls,
        **given | {"max_pages": 10 * (crawler.max_pages or 1)},
        store=store,
        set=settings,
        offline=offline,
    )
    if log_format == "json":
        log_closing(crawler, address, code)
    say(closing(crawler, address, code, again, more))
    if code != 0:
        _leave_threads_behind(code)
    return code


def _leave_threads_behind(code: int) -> None:
    """End the process here, where Python would wait for threads that handlers have started.

    A process that was told to go has saved everything, and cannot make a thread stop.
    """
    others = set(threading.enumerate()) - {threading.current_thread()}
    if any(not thread.daemon for thread in others):
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code)


# -- before -----------------------------------------------------------------------------------


def _parsed(kind: type[Crawler], settings: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise OptionError(f"--set {setting} has no value; write --set {name}=VALUE")
        name = name.strip().replace("-", "_")
        yield name, kind.parse_option(name, text)


def _command(*arguments: str, **options: Any) -> str:
    """The command that goes on with this crawl."""
    words = [*program().split(), "run", *arguments]
    for name, value in options.items():
        for one in value if isinstance(value, tuple) else (value,):
            option = f"--{name.replace('_', '-')}"
            if one is True:
                words.append(option)
            elif one not in (None, False):
                words += [option, str(one)]
    return shlex.join(words)


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
    keep = f"keep them with 'crawlkit items {address} -o FILE'"
    if not _is_anybody_there():
        raise UsageError(f"--fresh would throw away {items} of {address}; add --yes, or {keep}")
    if not click.confirm(f"{address} holds {items}. Throw them away?", err=True):
        raise UsageError(f"nothing was changed; {keep}")


def _is_anybody_there() -> bool:
    return sys.stdin.isatty()


def _opening(name: str, address: str, earlier: Statistics | None) -> str:
    if earlier is None or not earlier.lives:
        return f"starting {name} in {address}"
    failed = f", {earlier.requests_failed:,} failed" if earlier.requests_failed else ""
    text = (
        f"resuming {name}: {earlier.requests_finished:,} done{failed}, {earlier.pending:,} pending"
    )
    if earlier.finished_at and not earlier.pending:
        text += f"; it was finished at {earlier.finished_at}, --fresh starts anew"
        if earlier.requests_failed:
            text += f", and '{program()} failed {address} retry' tries what failed again"
    return text

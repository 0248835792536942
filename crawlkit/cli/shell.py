"""shell: a prompt on one page."""

from __future__ import annotations

import code
import inspect
import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any

import click

from ..errors import CrawlkitError, UsageError, one_line, printable
from ..hooks import no_handler
from ..urls import canonical
from .output import harmless, plural, size, span
from .verbs import Verb, complete_target

if TYPE_CHECKING:
    from ..crawler import Crawler
    from ..loopthread import LoopThread
    from ..page import Page
    from ..request import Request

HELP = """\
page, request, response    the page, what was asked, what was answered
css("h1::text").get()      what a CSS selector finds; xpath("//h1/text()") likewise
follow("a")                the links that page.follow would enqueue
fetch("/other")            go to another page
"""

WITH_CRAWLER = 'handle("parse")            what this handler of the crawler does with the page\n'


@click.command(cls=Verb)
@click.argument("url")
@click.option("-c", "--code", "source", metavar="CODE", help="Run CODE, print its value, and end.")
@click.option(
    "--crawler",
    "target",
    metavar="TARGET",
    shell_complete=complete_target,
    help="Ask as this crawler does, with its options; its handlers can be tried with handle().",
)
@click.option("--render", is_flag=True, help="Have the page made by a browser, scripts and all.")
@click.option("--fresh", is_flag=True, help="Fetch it, also where the page cache has it.")
def shell(url: str, source: str | None, target: str | None, render: bool, fresh: bool) -> None:
    """Open a prompt on a page: try selectors, see the links.

    The page comes from the page cache in runs/.cache where that has it. Code that comes through a
    pipe is run as with -c.
    """
    # Imported here, as the crawler brings aiohttp and lxml along.
    from ..crawler import Crawler
    from ..loopthread import LoopThread
    from .target import load_target, made

    start = canonical(url)
    kind = Crawler if target is None else load_target(target)
    crawler = made(kind, kind.traceless())
    if source is None and not sys.stdin.isatty():
        source = sys.stdin.read()
    loop = LoopThread("crawlkit-shell")
    prompt = Prompt(crawler, loop, render=render, fresh=fresh)
    try:
        loop.run(prompt.open(with_hooks=target is not None))
        began = time.monotonic()
        page = prompt.fetch(start)
        if source is not None:
            _run(source, prompt.names)
        else:
            click.echo(_told(page, time.monotonic() - began))
            _interact(prompt.names, HELP + (WITH_CRAWLER if target else ""))
    finally:
        loop.run(prompt.close())
        loop.close()


class Prompt:
    """One page at a time, and the names under which a prompt has it.

    Args:
        crawler: As whom to ask.
        loop: Where it is asked.
        render: Whether a browser makes the pages.
        fresh: Whether the page cache is left out.

    Attributes:
        names: What the prompt has.
    """

    def __init__(
        self,
        crawler: Crawler,
        loop: LoopThread,
        *,
        render: bool = False,
        fresh: bool = False,
    ) -> None:
        self._crawler = crawler
        self._loop = loop
        self._render = render
        self._fresh = fresh
        self.names: dict[str, Any] = {
            "crawler": crawler,
            "fetch": self.fetch,
            "follow": self.follow,
            "handle": self.handle,
        }

    async def open(self, *, with_hooks: bool) -> None:
        """Get ready to fetch; with hooks, as the crawler does at its start."""
        crawler = self._crawler
        await crawler.job.open(signals=False)
        await crawler.fetcher.open()
        if with_hooks:
            await _done(crawler.on_start())

    async def close(self) -> None:
        """Give everything back."""
        crawler = self._crawler
        await crawler.fetcher.close()
        await crawler.page_cache.close()
        await crawler.job.close(finished=False)

    def fetch(self, target: str | Request, **fields: Any) -> Page:
        """Go to another page: `page`, `request`, `response`, `css` and `xpath` are then of that.

        Args:
            target: A URL, which may be relative to this page, or a request.
            fields: Fields of the request, such as ``method`` or ``headers``.
        """
        from ..request import Request

        here: Page | None = self.names.get("page")
        request = Request(target) if isinstance(target, str) else target
        request = request.replace(**fields)
        url = here.absolute(request.url) if here is not None else request.url
        if url is None:
            raise UsageError(f"{request.url!r} leads nowhere; give an http or https URL")
        if request.cache is None:
            request = request.replace(cache=self._cache_mode())
        if request.render is None and self._render:
            request = request.replace(render=True)
        page = self._loop.run(self._fetch(request.replace(url=url, private=True)))
        self.names |= {
            "page": page,
            "request": page.request,
            "response": page.response,
            "css": page.css,
            "xpath": page.xpath,
        }
        return page

    async def _fetch(self, request: Request) -> Page:
        crawler = self._crawler
        session = crawler.sessions.pick(request.host, request.session, request.url)
        response = await crawler.fetcher.fetch(request, session)
        return crawler.page_of(request, response, session)

    def _cache_mode(self) -> Any:
        if self._fresh:
            return "off"
        if self._crawler.cache != "off":
            return None  # the crawler's own rules
        return "forever" if Path(self._crawler.cache_dir).is_dir() else "off"

    def follow(self, target: Any, **given: Any) -> list[Request]:
        """The requests that `page.follow` would enqueue, those out of scope included."""
        page = self._anew()
        page.follow(target, **given)
        return list(page.links)

    def handle(self, handler: str | Callable[..., Any] = "parse") -> None:
        """Print what a handler of the crawler does with this page."""
        from .show import page_lines

        name = handler if isinstance(handler, str) else handler.__name__
        method = getattr(self._crawler, name, None)
        if not callable(method):
            raise no_handler(type(self._crawler), name)
        page = self._anew()
        self._loop.run(_done(method(page)))
        click.echo("\n".join(page_lines(self._crawler, page, name)))

    def _anew(self) -> Page:
        page: Page = self.names["page"]
        return self._crawler.page_of(page.request, page.response, page.session)


async def _done(result: Any) -> None:
    if inspect.isawaitable(result):
        await result


def _told(page: Page, seconds: float) -> str:
    response = page.response
    kind = response.content_type or "no content type"
    where = ", from the page cache" if response.cache in ("hit", "stale") else ""
    hops = f", after {plural(len(response.redirects), 'redirect')}" if response.redirects else ""
    text = f"{page.status} {page.url}  {kind}, {size(len(page.body))}, {span(seconds)}{where}{hops}"
    return printable(text)


# -- code -------------------------------------------------------------------------------------


def _run(source: str, names: dict[str, Any]) -> None:
    """Run code; the value of an expression is printed: text as it is, data as JSON."""
    try:
        compiled, is_expression = _compile(source.strip("\n"))
        value = eval(compiled, names)
    except CrawlkitError:
        raise
    except Exception as error:
        raise CrawlkitError(f"the code fails: {one_line(error)}") from error
    if is_expression and value is not None:
        click.echo(_shown(value))


def _compile(source: str) -> tuple[CodeType, bool]:
    try:
        return compile(source, "<code>", "eval"), True
    except SyntaxError:
        return compile(source, "<code>", "exec"), False


def _shown(value: Any) -> str:
    """Whatever a page wrote steers no terminal; into a file or a pipe text goes as it is."""
    if isinstance(value, str):
        if not sys.stdout.isatty():
            return value
        return "\n".join(printable(line) for line in value.split("\n"))
    try:
        return harmless(json.dumps(value, ensure_ascii=False).encode()).decode()
    except (TypeError, ValueError):
        return printable(repr(value))


def _interact(names: dict[str, Any], banner: str) -> None:
    try:
        from IPython import start_ipython
        from traitlets.config import Config
    except ImportError:
        _Console(names).interact(banner=banner.rstrip(), exitmsg="")
        return
    click.echo(banner.rstrip())
    config = Config()
    config.TerminalIPythonApp.display_banner = False
    start_ipython(argv=[], user_ns=names, config=config)


class _Console(code.InteractiveConsole):
    """Python's own prompt; an error that is ours is one line, and no error steers the terminal."""

    def __init__(self, names: dict[str, Any]) -> None:
        super().__init__(names)
        try:
            import readline
            import rlcompleter
        except ImportError:  # not everywhere
            return
        readline.set_completer(rlcompleter.Completer(names).complete)
        readline.parse_and_bind("tab: complete")

    def showtraceback(self) -> None:
        """Print the error that has just been raised."""
        error = sys.exc_info()[1]
        if isinstance(error, CrawlkitError):
            self.write(f"{one_line(error)}\n")
            return
        for line in traceback.format_exc().splitlines():
            self.write(f"{printable(line)}\n")

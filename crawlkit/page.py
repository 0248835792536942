"""Page: a response with its selector, and the effects that its handler wants.

A handler changes nothing while it runs. What it asks for is kept on the page, and the crawler
applies all of it in one step once the handler has succeeded.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from lxml import etree
from parsel import Selector, SelectorList
from yarl import URL

from .errors import HandlerError, LimitError, PageTypeError, UsageError
from .items import ItemType, encode_item
from .links import Links
from .parsing import MAX_ELEMENTS, Parsed, is_heavy, parse
from .politeness.directives import nofollow
from .request import CacheMode, Request, checked
from .response import Response
from .selecting import Untouched, select, texts, xpath_of
from .sessions import Session
from .urls import Base

MAX_LINKS = 10_000
"""Links of a page that are followed, by default."""

_NOTHING = (None,) * 9
_URL_STARTS = ("http://", "https://", "/", "./", "../", "?")


class Page:
    """What a handler gets: the response, ways to look into it, and ways to act on it.

    Args:
        request: The request.
        response: What the server answered.
        session: The session that asked.
        item_type: What every item must be, if anything.
        state: The crawler's state, for `update_state`.
        resolve: Turns a handler into the name that it is saved by, and refuses what has none.
        max_links: How many links may be followed; those over it are only counted.
        max_elements: How many elements the page may have.

    Attributes:
        links: Requests that the handler wants to be followed.
        links_over: How many more it wanted, beyond `max_links`.
        items: Items that it saved, as JSON.
        rejected: Errors that do not fail the page: why items that it saved are none, and that its
            tree is truncated.
        updates: Functions to call with the page's other effects.
    """

    __slots__ = (
        "_base",
        "_is_truncated",
        "_item_type",
        "_max_elements",
        "_max_links",
        "_resolve",
        "_selector",
        "_state",
        "_untouched",
        "items",
        "links",
        "links_over",
        "rejected",
        "request",
        "response",
        "session",
        "updates",
    )

    def __init__(
        self,
        request: Request,
        response: Response,
        session: Session,
        *,
        item_type: ItemType | None = None,
        state: dict[str, Any] | None = None,
        resolve: Callable[[Any], str] | None = None,
        max_links: int = MAX_LINKS,
        max_elements: int = MAX_ELEMENTS,
    ) -> None:
        self.request = request
        self.response = response
        self.session = session
        self.links = Links()
        self.links_over = 0
        self.items: list[bytes] = []
        self.rejected: list[Exception] = []
        self.updates: list[Callable[[], object]] = []
        self._item_type = item_type
        self._state = state
        self._resolve = resolve or handler_name
        self._max_links = max_links
        self._max_elements = max_elements
        self._selector: Selector | None = None
        self._untouched: Untouched | None = None
        self._is_truncated = False
        self._base: Base | None = None

    def __repr__(self) -> str:
        return f"<Page {self.response.status} {self.url}>"

    # -- to look at -------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The URL that answered, after redirects."""
        return self.response.url

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.response.status

    @property
    def headers(self) -> Any:
        """The response's header fields, by name in any case."""
        return self.response.headers

    @property
    def body(self) -> bytes:
        """The body's bytes."""
        return self.response.body

    @property
    def text(self) -> str:
        """The body as text; never raises."""
        return self.response.text

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            PageTypeError: It is not JSON.
        """
        return self.response.json()

    @property
    def selector(self) -> Selector:
        """The parsed page, as a parsel `Selector`. Parsed at its first use.

        Raises:
            LimitError: It has too many elements or attributes to be parsed.
        """
        selector = self._parsed()
        self._untouched = None  # whoever has it may change the tree
        return selector

    @property
    def is_truncated(self) -> bool:
        """Whether `selector` lacks a part of the page.

        That is what is nested deeper than 2,048 levels, and all that follows it: libxml2 reads no
        further. `body` and `text` have all of it.
        """
        return self._parsed() is not None and self._is_truncated

    @property
    def needs_preparing(self) -> bool:
        """Whether parsing could hold the event loop up; see `prepare`."""
        return self._selector is None and is_heavy(self.response)

    async def prepare(self) -> None:
        """Parse the page in a thread, so that `selector` is there when the handler asks for it.

        For pages of which `needs_preparing` says so; the crawler awaits it before the handler.

        Raises:
            LimitError: It has too many elements or attributes to be parsed.
        """
        self._take(
            await asyncio.to_thread(
                parse, self.response, max_elements=self._max_elements, in_thread=True
            )
        )

    def css(self, query: str) -> SelectorList[Selector]:
        """What a CSS selector finds, with parsel's ``::text`` and ``::attr(name)``.

        Raises:
            LimitError: The page has too many elements or attributes to be parsed.
            cssselect.SelectorError: The selector is malformed.
        """
        selector = self._parsed()
        if self._untouched is not None:
            if (quick := self._untouched.texts(query)) is not None:
                return texts(quick, query)
            found = select(selector, query)
            if any(type(one.root) is not str for one in found):
                self._untouched = None
            return found
        return select(selector, query)

    def xpath(self, query: str, **variables: Any) -> SelectorList[Selector]:
        """What an XPath expression finds.

        Raises:
            LimitError: The page has too many elements or attributes to be parsed.
            ValueError: The expression is malformed.
        """
        return self.selector.xpath(query, **variables)

    def absolute(self, href: str) -> str | None:
        """A link of this page as a canonical URL; `None` where it leads nowhere to crawl."""
        return self._its_base().join(href)

    # -- to act on --------------------------------------------------------------------------------

    def follow(
        self,
        target: str | URL | Request | Iterable[str | URL | Request],
        *,
        handler: Any = None,
        priority: int | None = None,
        user_data: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        method: str | None = None,
        body: bytes | None = None,
        unique_key: str | None = None,
        session: str | None = None,
        render: bool | str | None = None,
        cache: CacheMode | None = None,
    ) -> int:
        """Enqueue links, once the handler has succeeded.

        Args:
            target: A CSS selector, and the ``href`` of what it finds is followed; or a URL or
                request, or several. Text is a URL if it begins with ``http://``, ``https://``,
                ``/``, ``./``, ``../`` or ``?``; inside a list it always is. URLs may be relative.
                Requests are followed with what else is given here in place of what they have.
            handler: The method that handles the pages; default `parse`.
            priority: Higher is fetched earlier; default 0.
            user_data: JSON-like values for the handler.
            headers: Extra headers.
            method: HTTP method, in capitals; default ``GET``.
            body: Body to send.
            unique_key: Identity in place of method, URL and body.
            session: Id of the session to use.
            render: Whether a browser makes the page, or when it is done (see `render_wait`);
                default as the crawler's options say.
            cache: How the page cache is used (see `CacheMode`); default as the options say.

        Returns:
            How many links were found. Those out of scope, enqueued before or beyond ``max_links``
            are left out later.

        Raises:
            HandlerError: The handler has no name by which it could be found after a restart.
            UsageError: The selector is malformed; or a request cannot be saved, or its URL is not
                one that can be fetched.
            PageTypeError: The page is not HTML.
            LimitError: It has too many elements or attributes to be parsed.
        """
        before = self.links_over
        is_text = isinstance(target, str)
        targets = self._targets(target)
        found = len(targets) + self.links_over - before
        name = "parse" if handler is None else self._resolve(handler)
        like = Request(
            "",
            name,
            priority or 0,
            self.request.depth + 1,
            method or "GET",
            headers or {},
            body,
            user_data or {},
            unique_key,
            0,
            session,
            self.response.is_private,
            render,
            cache,
        )
        others = (priority, method, headers, body, user_data, unique_key, session, render, cache)
        if others != _NOTHING:
            like = checked(like)
        if is_text or set(map(type, targets)) <= {str}:
            self.links.add(targets, like)
            return found
        given: dict[str, Any] = {
            "handler": None if handler is None else name,
            "priority": priority,
            "method": method,
            "headers": headers,
            "body": body,
            "user_data": user_data,
            "unique_key": unique_key,
            "session": session,
            "render": render,
            "cache": cache,
        }
        given = {key: value for key, value in given.items() if value is not None}
        for one in targets:
            if isinstance(one, Request):
                self.links.append(self._request(one, given))
            else:
                self.links.add([one], like)
        return found

    def save(self, item: object) -> None:
        """Keep an item, once the handler has succeeded.

        Args:
            item: A dict, or an object of a dataclass or a msgspec, attrs or pydantic class. It is
                taken as it is now; later changes to it do not count.

        An item that is none of these, or not of the crawler's `item_type`, is counted among the
        errors with this page; the page's other effects are not lost.
        """
        try:
            encode = encode_item if self._item_type is None else self._item_type.encode
            self.items.append(encode(item))
        except UsageError:
            raise
        except Exception as error:
            self.rejected.append(error)

    def update_state(self, change: Callable[[dict[str, Any]], object]) -> None:
        """Call `change` with the crawler's state, together with the page's other effects.

        If it fails, so does the page, and the state is as before.
        """
        state = {} if self._state is None else self._state
        self.updates.append(lambda: change(state))

    def update(self, change: Callable[[], object]) -> None:
        """Call `change` together with the page's other effects: for parts of your own.

        It must not fail: it is part of a step that cannot be undone.
        """
        self.updates.append(change)

    # -- for the crawler ------------------------------------------------------------------------

    def says_nofollow(self, token: str) -> bool:
        """Whether it asks crawlers, or the one called `token`, to follow none of its links."""
        return nofollow(self.response, self._root, token)

    # -- inside -----------------------------------------------------------------------------------

    def _parsed(self) -> Selector:
        """`selector`, for those who change nothing and give no element away."""
        if self._selector is None:
            self._take(parse(self.response, max_elements=self._max_elements))
        return self._selector  # type: ignore[return-value]

    def _take(self, parsed: Parsed) -> None:
        self._selector = parsed.selector
        if parsed.selector.type == "html":
            self._untouched = Untouched(parsed.selector.root)
        self._is_truncated = parsed.is_truncated
        if parsed.is_truncated:
            self.rejected.append(
                LimitError(
                    f"{self.url} is nested too deeply: what is below 2,048 levels, and all that "
                    "follows, is missing from page.selector; page.text has it"
                )
            )

    def _targets(self, target: Any) -> list[Any]:
        """What is to be followed: canonical URLs, and requests as they were given."""
        room = self._max_links - len(self.links)
        if isinstance(target, str) and not target.startswith(_URL_STARTS):
            hrefs = self._hrefs(target, room)
            return self._its_base().join_all(hrefs)
        given = (target,) if isinstance(target, str | URL | Request) else target
        found: list[Any] = []
        for one in given:
            if len(found) >= room:
                self.links_over += 1  # not joined to be left out
                continue
            known = one if isinstance(one, Request) else self.absolute(str(one))
            if known is not None:
                found.append(known)
        return found

    def _hrefs(self, query: str, room: int) -> Any:
        """The links that a selector finds; of more than there is room for only the first."""
        root = self._parsed().root
        if not isinstance(root, etree._Element):
            kind = self.response.content_type or "no content type"
            raise PageTypeError(f"{self.url} has no links to select: it is not HTML ({kind})")
        hrefs = _links(query)(root)
        self.links_over += max(len(hrefs) - room, 0)
        return hrefs[:room]

    def _root(self) -> etree._Element | None:
        root = self._parsed().root
        return root if isinstance(root, etree._Element) else None

    def _its_base(self) -> Base:
        if self._base is None:
            self._base = self._find_base()
        return self._base

    def _request(self, request: Request, given: dict[str, Any]) -> Request:
        """A request that the handler made, with what else it gave to `follow`."""
        url = self.absolute(request.url)
        if url is None:
            raise UsageError(f"{request.url!r} cannot be followed; give an http or https URL")
        is_private = request.private or self.response.is_private
        return checked(
            request.replace(url=url, depth=self.request.depth + 1, private=is_private, **given)
        )

    def _find_base(self) -> Base:
        base = Base(self.url)
        # Looking into the bytes first spares JSON, and pages that nothing is selected on, a parser.
        if self._selector is not None or b"<base" in self.body.lower():
            root = self._parsed().root
            declared = _BASE(root) if isinstance(root, etree._Element) else []
            if declared and (url := base.join(declared[0])) is not None:
                return Base(url)
        return base


def handler_name(handler: Any) -> str:
    """The name by which a handler is saved.

    Raises:
        HandlerError: It is a lambda or a local function, which no later process can find.
    """
    if isinstance(handler, str):
        return handler
    name = getattr(handler, "__name__", "")
    if not (inspect.ismethod(handler) and name.isidentifier()):
        what = getattr(handler, "__qualname__", "") or repr(handler)
        raise HandlerError(
            f"{what} cannot be a handler: it could not be found again after a restart; "
            "pass a method of the crawler, such as self.parse_product"
        )
    return name


_BASE = etree.XPath("/html/head/base/@href", smart_strings=False)


@lru_cache(maxsize=1000)
def _links(query: str) -> etree.XPath:
    """The compiled search for the ``href`` of what a CSS selector finds."""
    try:
        xpath = xpath_of(query)
        return etree.XPath(f"({xpath})/@href", smart_strings=False)
    except Exception as error:
        raise UsageError(f"{query!r} is not a CSS selector: {error}") from None

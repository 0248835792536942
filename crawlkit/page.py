"""Page: a response with its selector, and the effects that its handler wants.

A handler changes nothing while it runs. What it asks for is kept on the page, and the crawler
applies all of it in one step once the handler has succeeded.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from lxml import etree
from parsel import Selector, SelectorList
from parsel.csstranslator import HTMLTranslator
from yarl import URL

from .errors import HandlerError, PageTypeError, UsageError
from .items import ItemType, encode_item
from .request import Request, checked
from .response import Response
from .sessions import Session
from .urls import Base

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

    Attributes:
        links: Requests that the handler wants to be followed.
        items: Items that it saved, as JSON.
        rejected: Why items that it saved are none.
        updates: Functions to call with the page's other effects.
    """

    __slots__ = (
        "_base",
        "_item_type",
        "_resolve",
        "_selector",
        "_state",
        "items",
        "links",
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
    ) -> None:
        self.request = request
        self.response = response
        self.session = session
        self.links: list[Request] = []
        self.items: list[bytes] = []
        self.rejected: list[Exception] = []
        self.updates: list[Callable[[], object]] = []
        self._item_type = item_type
        self._state = state
        self._resolve = resolve or handler_name
        self._selector: Selector | None = None
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
        """The parsed page, as a parsel `Selector`. Parsed at its first use."""
        if self._selector is None:
            self._selector = _parse(self.response)
        return self._selector

    def css(self, query: str) -> SelectorList[Selector]:
        """What a CSS selector finds, with parsel's ``::text`` and ``::attr(name)``."""
        return self.selector.css(query)

    def xpath(self, query: str, **variables: Any) -> SelectorList[Selector]:
        """What an XPath expression finds."""
        return self.selector.xpath(query, **variables)

    def absolute(self, href: str) -> str | None:
        """A link of this page as a canonical URL; `None` where it leads nowhere to crawl."""
        return self._join()(href)

    # -- to act on --------------------------------------------------------------------------------

    def follow(
        self,
        target: str | URL | Request | Iterable[str | URL | Request],
        *,
        handler: Any = None,
        priority: int | None = None,
        user_data: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        method: str = "GET",
        body: bytes | None = None,
        unique_key: str | None = None,
        session: str | None = None,
    ) -> int:
        """Enqueue links, once the handler has succeeded.

        Args:
            target: A CSS selector, and the ``href`` of what it finds is followed; or a URL or
                request, or several. Text is a URL if it begins with ``http://``, ``https://``,
                ``/``, ``./``, ``../`` or ``?``; inside a list it always is. URLs may be relative.
            handler: The method that handles the pages; default `parse`.
            priority: Higher is fetched earlier; default 0.
            user_data: JSON-like values for the handler.
            headers: Extra headers.
            method: HTTP method, in capitals.
            body: Body to send.
            unique_key: Identity in place of method, URL and body.
            session: Id of the session to use.

        Returns:
            How many links were found. Those out of scope or enqueued before are left out later.

        Raises:
            HandlerError: The handler has no name by which it could be found after a restart.
            UsageError: The selector is malformed.
            PageTypeError: The page is not HTML.
        """
        targets = self._targets(target)
        name = "parse" if handler is None else self._resolve(handler)
        rest = (
            name,
            priority or 0,
            self.request.depth + 1,
            method,
            headers or {},
            body,
            user_data or {},
            unique_key,
            0,
            session,
        )
        checked(Request("", *rest))
        for one in targets:
            if type(one) is str:
                self.links.append(Request(one, *rest))
            else:
                self._follow_request(one, handler, priority)
        return len(targets)

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

    # -- inside -----------------------------------------------------------------------------------

    def _targets(self, target: Any) -> list[Any]:
        """What is to be followed: canonical URLs, and requests as they were given."""
        if isinstance(target, str) and not target.startswith(_URL_STARTS):
            hrefs = self._hrefs(target)
            join = self._join()
            return [url for href in hrefs if (url := join(href)) is not None]
        given = (target,) if isinstance(target, str | URL | Request) else target
        found = (one if isinstance(one, Request) else self.absolute(str(one)) for one in given)
        return [one for one in found if one is not None]

    def _hrefs(self, query: str) -> Any:
        root = self.selector.root
        if not isinstance(root, etree._Element):
            kind = self.response.content_type or "no content type"
            raise PageTypeError(f"{self.url} has no links to select: it is not HTML ({kind})")
        return _links(query)(root)

    def _join(self) -> Callable[[str], str | None]:
        if self._base is None:
            self._base = self._find_base()
        return self._base.join

    def _follow_request(self, request: Request, handler: Any, priority: int | None) -> None:
        url = self.absolute(request.url)
        if url is None:
            raise UsageError(f"{request.url!r} cannot be followed; give an http or https URL")
        changes: dict[str, Any] = {"url": url, "depth": self.request.depth + 1}
        if handler is not None:
            changes["handler"] = self._resolve(handler)
        if priority is not None:
            changes["priority"] = priority
        self.links.append(checked(request.replace(**changes)))

    def _find_base(self) -> Base:
        base = Base(self.url)
        # Looking into the bytes first spares JSON, and pages that nothing is selected on, a parser.
        if self._selector is not None or b"<base" in self.body.lower():
            root = self.selector.root
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
        raise HandlerError(
            f"{handler!r} cannot be a handler: it could not be found again after a restart; "
            "pass a method of the crawler, such as self.parse_product"
        )
    return name


_BASE = etree.XPath("/html/head/base/@href", smart_strings=False)


@lru_cache(maxsize=1000)
def _links(query: str) -> etree.XPath:
    """The compiled search for the ``href`` of what a CSS selector finds."""
    try:
        xpath = HTMLTranslator().css_to_xpath(query)
        return etree.XPath(f"({xpath})/@href", smart_strings=False)
    except Exception as error:
        raise UsageError(f"{query!r} is not a CSS selector: {error}") from None


def _parse(response: Response) -> Selector:
    kind = response.content_type
    if kind in ("application/json", "text/json") or kind.endswith("+json"):
        return Selector(text=response.text, type="json")
    form = "xml" if kind in ("text/xml", "application/xml") or kind.endswith("+xml") else "html"
    if kind == "application/xhtml+xml":
        form = "html"
    if response.encoding not in ("utf-8", "cp1252"):
        # libxml2 knows fewer encodings than Python.
        return Selector(text=response.text, type=form)
    if form == "html":
        return Selector(root=_html(response.body, response.encoding), type="html")
    return Selector(body=response.body or b" ", encoding=response.encoding, type=form)


@lru_cache(maxsize=8)
def _parser(encoding: str) -> etree.HTMLParser:
    return etree.HTMLParser(recover=True, encoding=encoding, huge_tree=True)


def _html(body: bytes, encoding: str) -> etree._Element:
    """The root of a page, as parsel makes it, without a parser of its own for each page."""
    body = body.strip()
    if b"\0" in body:
        body = body.replace(b"\0", b"")
    root = etree.fromstring(body or b"<html/>", _parser(encoding))
    return etree.fromstring(b"<html/>", _parser(encoding)) if root is None else root

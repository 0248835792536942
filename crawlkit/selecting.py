"""Selecting: a CSS selector as XPath, as parsel has it, and a little faster.

The translation of a class, ``.price``, looks at every element for its ``class``, and that of an id
likewise. Going through the attributes that there are, and from the right one up to its element,
finds the same in a half to a third of the time. And text that was found is known to be text: parsel
tries to write it as an element first, each time that it is asked for.

Most selectors of a crawler ask for the text or an attribute of a tag or a class. `Untouched`
answers these without XPath, as long as nobody can have changed the tree.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

from lxml import etree
from parsel import Selector, SelectorList
from parsel.csstranslator import HTMLTranslator

# Only whole steps of a path: followed by the next one, or by nothing.
_BY_CLASS = re.compile(
    r"::\*\[@class and contains\(@class, '([^']+)'\) and "
    r"contains\(concat\(' ', normalize-space\(@class\), ' '\), ' \1 '\)\](?=/|\Z)"
)
_BY_ATTRIBUTE = (
    r"::*/@class[contains(., '\1') and "
    r"contains(concat(' ', normalize-space(.), ' '), ' \1 ')]/.."
)
_BY_ID = re.compile(r"::\*\[@id = ('[^']+')\](?=/|\Z)")
_BY_ID_ATTRIBUTE = r"::*/@id[. = \1]/.."


class _Selector(Selector):
    """A selector that gives text as it is, where it holds text."""

    __slots__ = ()

    @classmethod
    def of_text(cls, text: str, expression: str) -> _Selector:
        """The selector of a text or of an attribute's value, as `__init__` would make it."""
        made = cls.__new__(cls)
        made.root = text
        made.type = "html"
        made.namespaces = dict(cls._default_namespaces)
        made._expr = expression
        made._huge_tree = True
        made._text = None
        return made

    def get(self) -> Any:
        """What it holds: text, or the element as HTML."""
        root = self.root
        return root if type(root) is str else super().get()

    extract = get


_Selector.__name__ = Selector.__name__  # as it is shown to people

MAX_CLASSED = 5_000
"""Elements with a class that a page remembers; where there are more, each search looks anew."""

_SIMPLE = re.compile(
    r"(?P<tag>[a-z][a-z0-9]*)?(?:\.(?P<name>[A-Za-z][A-Za-z0-9_\-]*))?"
    r"::(?:text|attr\((?P<attribute>[a-z][a-z\-]*)\))"
).fullmatch
_BLANKS = re.compile("[ \t\r\n]+")  # those of XPath's normalize-space
_CLASSED: Callable[[etree._Element], Any] = etree.XPath("descendant-or-self::*/@class/..")


class _Simple(NamedTuple):
    """A tag, a class or both, and the attribute that is wanted of it; ``None`` is for its text."""

    tag: str | None
    name: str | None
    attribute: str | None


@lru_cache(maxsize=1000)
def _simple(query: str) -> _Simple | None:
    match = _SIMPLE(query)
    if match is None or not (match["tag"] or match["name"]):
        return None
    return _Simple(match["tag"], match["name"], match["attribute"])


class Untouched:
    """The tree of a page of HTML that is as it was parsed.

    It remembers which elements have a class, so it has to be thrown away as soon as somebody gets
    hold of an element, who could then change the tree.

    Args:
        root: The root of the tree.
    """

    __slots__ = ("_by_class", "_elements", "_root")

    def __init__(self, root: etree._Element) -> None:
        self._root = root
        self._elements: list[etree._Element] | None = None  # those that have a class
        self._by_class: dict[str, list[int]] = {}  # their places there, by the whole attribute

    def texts(self, query: str) -> list[str] | None:
        """What a simple selector finds, in document order; ``None`` where XPath has to be asked.

        Args:
            query: A CSS selector with ``::text`` or ``::attr(name)`` at its end.
        """
        simple = _simple(query)
        if simple is None:
            return None
        tag, name, attribute = simple
        elements: Iterable[etree._Element] | None
        if tag is None:
            elements = self._classed(name or "")
        else:
            elements = self._root.iter(tag)
            if name is not None:
                elements = [one for one in elements if _has_class(one.get("class", ""), name)]
        if elements is None:
            return None
        if attribute is not None:
            return [value for one in elements if (value := one.get(attribute)) is not None]
        found = []
        for one in elements:
            if len(one):
                return None  # its text may be in several pieces, with that of others in between
            if (text := one.text) is not None:
                found.append(text)
        return found

    def _classed(self, name: str) -> list[etree._Element] | None:
        """The elements that have a class; ``None`` where there are too many to remember."""
        if self._elements is None:
            self._elements = _CLASSED(self._root)[: MAX_CLASSED + 1]
            if len(self._elements) <= MAX_CLASSED:
                by_class = self._by_class
                for place, one in enumerate(self._elements):
                    by_class.setdefault(one.get("class", ""), []).append(place)
        if len(self._elements) > MAX_CLASSED:
            return None
        lists = [places for value, places in self._by_class.items() if _has_class(value, name)]
        places = lists[0] if len(lists) == 1 else sorted(chain.from_iterable(lists))
        return [self._elements[place] for place in places]


def _has_class(value: str, name: str) -> bool:
    return value == name or (name in value and name in _BLANKS.split(value))


def texts(found: list[str], query: str) -> SelectorList[Selector]:
    """Texts that a CSS selector has found, as `select` gives them."""
    expression = xpath_of(query)
    return SelectorList([_Selector.of_text(text, expression) for text in found])


@lru_cache(maxsize=1000)
def xpath_of(query: str) -> str:
    """The XPath expression that finds in HTML what a CSS selector finds, in document order.

    Raises:
        cssselect.SelectorError: The selector is malformed.
    """
    expression = HTMLTranslator().css_to_xpath(query)
    return _BY_ID.sub(_BY_ID_ATTRIBUTE, _BY_CLASS.sub(_BY_ATTRIBUTE, expression))


def select(selector: Selector, query: str) -> SelectorList[Selector]:
    """What ``selector.css(query)`` finds.

    Raises:
        cssselect.SelectorError: The selector is malformed.
        ValueError: It uses a namespace that is not registered.
    """
    if selector.type != "html":
        return selector.css(query)
    expression, search = _search(query)
    root = selector.root
    if search is None or not isinstance(root, etree._Element):
        return selector.xpath(expression)
    return SelectorList(
        [
            _Selector.of_text(found, expression)
            if type(found) is str
            else Selector(root=found, type="html", _expr=expression)
            for found in search(root)
        ]
    )


@lru_cache(maxsize=1000)
def _search(query: str) -> tuple[str, etree.XPath | None]:
    """The XPath expression, and compiled where it needs no namespaces."""
    expression = xpath_of(query)
    if "|" in query:
        return expression, None
    return expression, etree.XPath(expression, smart_strings=False)

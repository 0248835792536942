"""CSS selectors find what parsel finds, however they are translated."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parsel import Selector

from crawlkit.selecting import xpath_of

CLASSES = ["a", "b", "ab", "a b", " a ", "b\ta", "a-b", "b a b", ""]
TAGS = ["div", "p", "span", "li"]
SIMPLE = [".a", ".b", "p.a", ".a.b", "p", "*", "#x", ".a:first-child", ".b:not(.a)", "[class]"]


@st.composite
def pages(draw: st.DrawFn) -> str:
    def element(depth: int) -> str:
        tag = draw(st.sampled_from(TAGS))
        name = draw(st.none() | st.sampled_from(CLASSES))
        inner = "".join(
            element(depth + 1) if depth < 4 and draw(st.booleans()) else "t"
            for _ in range(draw(st.integers(0, 3)))
        )
        return f"<{tag}{'' if name is None else f' class={name!r}'} id=x>{inner}</{tag}>"

    return "<html><body class='b'>" + "".join(element(0) for _ in range(3)) + "</body></html>"


@st.composite
def selectors(draw: st.DrawFn) -> str:
    text = draw(st.sampled_from(SIMPLE))
    for _ in range(draw(st.integers(0, 2))):
        text += draw(st.sampled_from([" ", " > ", " + ", " ~ ", ", "]))
        text += draw(st.sampled_from(SIMPLE))
    return text + draw(st.sampled_from(["", "::text", "::attr(class)", ":has(.a)"]))


@given(pages(), selectors())
def test_a_selector_finds_what_parsel_finds_in_the_same_order(page: str, query: str) -> None:
    selector = Selector(page)
    assert selector.xpath(xpath_of(query)).getall() == selector.css(query).getall()


@pytest.mark.parametrize("query", [".price::text", "ul .item a", ".a .b .c::attr(href)"])
def test_a_class_is_looked_up_among_the_attributes_that_there_are(query: str) -> None:
    assert "::*/@class[" in xpath_of(query)
    assert "normalize-space(@class)" not in xpath_of(query)

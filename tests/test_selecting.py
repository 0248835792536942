"""CSS selectors find what parsel finds, however they are translated."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parsel import Selector

from crawlkit.selecting import MAX_CLASSED, Untouched, select, xpath_of

CLASSES = ["a", "b", "ab", "a b", " a ", "b\ta", "a-b", "b a b", ""]
TAGS = ["div", "p", "span", "li"]
SIMPLE = [".a", ".b", "p.a", ".a.b", "p", "*", "#x", ".a:first-child", ".b:not(.a)", "[class]"]


@st.composite
def pages(draw: st.DrawFn) -> str:
    def element(depth: int) -> str:
        tag = draw(st.sampled_from(TAGS))
        name = draw(st.none() | st.sampled_from(CLASSES))
        id = draw(st.sampled_from(["x", "y"]))
        inner = "".join(
            element(depth + 1) if depth < 4 and draw(st.booleans()) else "t"
            for _ in range(draw(st.integers(0, 3)))
        )
        return f"<{tag}{'' if name is None else f' class={name!r}'} id={id}>{inner}</{tag}>"

    return "<html><body class='b'>" + "".join(element(0) for _ in range(3)) + "</body></html>"


@st.composite
def selectors(draw: st.DrawFn) -> str:
    text = draw(st.sampled_from(SIMPLE))
    for _ in range(draw(st.integers(0, 2))):
        text += draw(st.sampled_from([" ", " > ", " + ", " ~ ", ", "]))
        text += draw(st.sampled_from(SIMPLE))
    return text + draw(st.sampled_from(["", "::text", "::attr(class)", ":has(.a)"]))


simple = st.builds(
    "{}{}".format,
    st.sampled_from(
        [".a", ".b", ".a-b", "p", "li", "p.a", "div.b", "html", "body.b", "script", "h1"]
    ),
    st.sampled_from(["::text", "::attr(class)", "::attr(id)", "::attr(data-x)"]),
)
ODD = (
    "<!doctype html><!-- c --><title>a &amp; b</title><p class=a>1<!-- 2 -->3<p class='a\x0cb'>4"
    "<p class='\xa0a'>5<p class='a\n'>6&#105;<script class=a>if (a < b) '<p class=b>'</script>"
    "<p class>7<p class=''>8<p CLASS=A>9<textarea class=b>\n<i>0</i></textarea><p class=a></p>"
    "<svg:li class=a>10</svg:li><svg><li class=b>11</svg><p id=1 class=b>12<br>13<p class=b id>"
)


@given(pages() | st.just(ODD), st.lists(simple, min_size=1, max_size=4))
def test_what_is_found_without_xpath_is_what_parsel_finds(page: str, queries: list[str]) -> None:
    selector = Selector(page)
    untouched = Untouched(selector.root)
    for query in queries:
        found = untouched.texts(query)
        assert found is None or found == selector.css(query).getall()
        if "attr" in query:
            assert found is not None


@pytest.mark.parametrize("query", ["h1::text", ".price::text", "p.price::text", "a::attr(href)"])
def test_what_crawlers_ask_for_most_needs_no_xpath(query: str) -> None:
    page = Selector("<h1>x</h1><ul><li>1</ul><p class='big price'>2</p><a href=/y>3</a>")
    assert Untouched(page.root).texts(query) == page.css(query).getall() != []


def test_what_is_found_by_its_class_comes_in_the_order_of_the_page() -> None:
    page = Selector("<p class=a>1</p><p class='a b'>2</p><p class=a>3</p><p class='b a'>4</p>")
    assert Untouched(page.root).texts(".a::text") == ["1", "2", "3", "4"]


@pytest.mark.parametrize("query", ["p", "p b::text", ".a.b::text", "#x::text", "::text", "P::text"])
def test_all_other_selectors_are_for_xpath(query: str) -> None:
    assert Untouched(Selector("<p id=x class='a b'>1</p>").root).texts(query) is None


def test_a_page_of_very_many_classes_is_not_remembered() -> None:
    page = Selector("<p class=a>1</p>" * (MAX_CLASSED + 1))
    untouched = Untouched(page.root)
    assert untouched.texts(".a::text") is None
    assert len(untouched.texts("p.a::text") or ()) == MAX_CLASSED + 1


@given(pages(), selectors())
def test_a_selector_finds_what_parsel_finds_in_the_same_order(page: str, query: str) -> None:
    selector = Selector(page)
    expected = selector.css(query)
    assert selector.xpath(xpath_of(query)).getall() == expected.getall()
    found = select(selector, query)
    assert found.getall() == expected.getall()
    assert [one.root for one in found] == [one.root for one in expected]
    for ours, theirs in zip(found, expected, strict=True):
        for name in ("type", "namespaces", "_huge_tree", "_text"):
            assert getattr(ours, name) == getattr(theirs, name)
        assert (ours.get(), ours.getall(), str(ours), bool(ours)) == (
            theirs.get(),
            theirs.getall(),
            str(theirs),
            bool(theirs),
        )
        assert repr(ours).partition(" query=")[0] == repr(theirs).partition(" query=")[0]


@pytest.mark.parametrize("query", [".price::text", "ul .item a", ".a .b .c::attr(href)"])
def test_a_class_is_looked_up_among_the_attributes_that_there_are(query: str) -> None:
    assert "::*/@class[" in xpath_of(query)
    assert "normalize-space(@class)" not in xpath_of(query)


@pytest.mark.parametrize("query", ["#main::text", "#a #b", "p #a > a"])
def test_an_id_is_looked_up_among_the_ids_that_there_are(query: str) -> None:
    assert "::*/@id[. = " in xpath_of(query)
    assert "*[@id" not in xpath_of(query)


def test_what_was_selected_can_be_selected_from() -> None:
    page = Selector("<ul><li class=a><b>1</b></li><li class=b><b>2</b></li></ul>")
    assert select(page, "li").css(".b b::text").getall() == ["2"]
    assert select(page, "li").xpath("b/text()").getall() == ["1", "2"]
    assert select(page, "b::text").re(r"\d") == ["1", "2"]


def test_a_namespace_that_was_registered_is_known() -> None:
    page = Selector("<svg:g xmlns:svg='http://www.w3.org/2000/svg'>x</svg:g>", type="xml")
    page.register_namespace("s", "http://www.w3.org/2000/svg")
    assert select(page, "s|g::text").getall() == ["x"]


@pytest.mark.parametrize("query", ["nobody|p", "p:nothing", "p::nothing", "p["])
def test_a_malformed_selector_is_refused_as_parsel_refuses_it(query: str) -> None:
    page = Selector("<p>x</p>")
    with pytest.raises(Exception) as expected:  # noqa: PT011
        page.css(query)
    with pytest.raises(type(expected.value)) as caught:
        select(page, query)
    assert str(caught.value) == str(expected.value)


def test_json_in_a_script_can_be_searched() -> None:
    page = Selector('<script>{"a": {"b": [1, 2]}, "c": "<p>x</p>"}</script>')
    found: Any
    for found in (select(page, "script::text"), page.css("script::text")):
        assert found.jmespath("a.b").getall() == [1, 2]
        assert found.jmespath("a").get() == {"b": [1, 2]}
        assert found.jmespath("c").css("p::text").get() == "x"
        assert found.jmespath("c").css("p").get() == "<p>x</p>"


def test_text_holds_nothing_to_select() -> None:
    (text,) = select(Selector("<p>x</p>"), "p::text")
    assert not select(text, "p")

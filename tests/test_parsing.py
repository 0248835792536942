"""Parsing takes neither the time nor the memory that a server would like it to take."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawlkit import Response
from crawlkit.errors import LimitError
from crawlkit.http import charset
from crawlkit.parsing import LARGE, MAX_ATTRIBUTES, SMALL, is_heavy, parse

HTML = "text/html; charset=utf-8"


def response(body: bytes, kind: str = HTML) -> Response:
    return Response(url="https://shop.example/", body=body, headers={"Content-Type": kind})


def attributes(form: bytes, count: int) -> bytes:
    return b" ".join(form % n for n in range(count))


GIANTS = {
    "plain": b"<p " + attributes(b"a%d=1", 50_000) + b">",
    "without values": b"<p " + attributes(b"a%d", 50_000) + b">",
    "with > in double quotes": b"<p " + attributes(b'a%d=">"', 50_000) + b">",
    "with > in single quotes": b"<p " + attributes(b"a%d = \n'>'", 50_000) + b">",
    "with no blanks between": b"<p " + b"".join(b'a%d=">"' % n for n in range(50_000)) + b">",
    "after an odd quote": b"<p q\" a='\">' " + attributes(b'a%d=">"', 50_000) + b">",
    "after a quote in a comment": b'<!-- <p a=" --><p ' + attributes(b"a%d=1", 50_000) + b">",
    "after what looks like a script": b'<p title="<script>"><p ' + attributes(b"a%d", 50_000),
    "after a real script": b"<script>'</script><p " + attributes(b"a%d=1", 50_000) + b">",
    "of several MB": b"<p " + attributes(b"a%d=1", 500_000) + b">",
    "behind much text": b"text " * 100_000 + b"<p " + attributes(b"a%d=1", 50_000) + b">",
}


@pytest.mark.parametrize("giant", GIANTS)
def test_a_tag_with_too_many_attributes_is_refused_at_once(giant: str) -> None:
    page = response(b"<h1>x</h1>" + GIANTS[giant] + b"<p>y</p>")
    assert is_heavy(page)
    started = time.process_time()
    if giant == "after what looks like a script":
        page = response(page.body + b">")
    with pytest.raises(LimitError, match=f"more than {MAX_ATTRIBUTES} attributes"):
        parse(page)
    assert time.process_time() - started < 2  # libxml2 would take three to three hundred


def test_as_many_attributes_as_may_be_are_read() -> None:
    page = response(b"<p " + attributes(b"attribute%d=1", MAX_ATTRIBUTES) + b">")
    (element,) = parse(page).selector.css("p")
    assert len(element.attrib) == MAX_ATTRIBUTES


HARMLESS: dict[str, Callable[[], bytes]] = {
    "numbers in a script": lambda: b"<script>for(i=0;i<n;)x=[" + b"1, " * 100_000 + b"]</script>",
    "JSON in a script": lambda: b'<script type="x">' + b'{"a": "<b c=d"} ' * 20_000 + b"</script>",
    "JSON in an attribute": lambda: b"<div data-json='" + b'{"a": [1, 2, 3]} ' * 20_000 + b"'>",
    "an image in an attribute": lambda: b'<img src="data:x;base64,' + b"ab/+" * 200_000 + b'">',
    "text": lambda: b"some words / and 'more' of them\n" * 50_000,
    "a quote that is not closed": lambda: b'<p a="' + b"x " * 500_000,
    "tags that are not closed": lambda: b"<a" * 500_000,
    "many quotes": lambda: b'=">' * 300_000,
    "a comment": lambda: b"<!-- <p " + b"a b c " * 50_000 + b"-->",
}


@pytest.mark.parametrize("harmless", HARMLESS)
def test_what_only_looks_like_attributes_is_no_reason_to_refuse_a_page(harmless: str) -> None:
    body = b"<h1>title</h1>" + HARMLESS[harmless]()
    assert parse(response(body)).selector.css("h1::text").get() == "title"


@given(
    st.lists(
        st.sampled_from([b'"', b"'", b"=", b">", b" ", b"<", b"/", b"a", b"<!--", b"-->", b"="]),
        max_size=20,
    )
)
def test_no_beginning_hides_a_tag_with_too_many_attributes(pieces: list[bytes]) -> None:
    """Whatever stands before it: there is no tree with such a tag."""
    body = b"".join(pieces) + b"<p " + attributes(b"a%d='>'", 6_000) + b">" + b" " * SMALL
    try:
        tree = parse(response(body)).selector
    except LimitError:
        return
    assert all(len(element.attrib) <= MAX_ATTRIBUTES for element in tree.xpath("//*"))


def test_a_page_with_too_many_elements_is_refused_with_the_option_that_allows_it() -> None:
    page = response(b"<a href=x>x</a>" * 30_000)
    assert len(parse(page, max_elements=30_010).selector.css("a")) == 30_000
    with pytest.raises(LimitError, match="raise max_elements"):
        parse(page, max_elements=20_000)
    with pytest.raises(LimitError, match="attributes"):
        parse(response(b"<b a b c d e f g h i>" * 30_000), max_elements=40_000)


@pytest.mark.parametrize("kind", [HTML, "application/xml"])
def test_a_page_nested_too_deeply_is_told_from_one_that_is_whole(kind: str) -> None:
    def nested(levels: int) -> bytes:
        return b"<r>" + b"<div>" * levels + b"<a/>" + b"</div>" * levels + b"<b/></r>"

    whole, cut = parse(response(nested(2_000), kind)), parse(response(nested(2_100), kind))
    assert not whole.is_truncated
    assert whole.selector.xpath("count(//a) + count(//b)").get() == "2.0"
    assert cut.is_truncated


def test_the_next_page_is_not_taken_for_truncated() -> None:
    assert parse(response(b"<div>" * 3_000)).is_truncated
    assert not parse(response(b"<p>short</p>")).is_truncated
    assert not parse(response(b"")).is_truncated


def test_bytes_that_windows_1252_lacks_do_not_end_the_page() -> None:
    page = response(b"<p>\x81\x8d</p><a href=x>x</a>", "text/html; charset=windows-1252")
    assert parse(page).selector.css("a::attr(href)").get() == "x"


def test_entities_of_xml_are_not_resolved() -> None:
    entities = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
    bomb = f'<!DOCTYPE l [<!ENTITY a0 "ha">{entities}]><l>&a9;</l>'.encode()
    outside = b'<!DOCTYPE l [<!ENTITY f SYSTEM "file:///etc/hostname">]><l>&f;</l>'
    for body in (bomb, outside):
        assert not parse(response(body, "application/xml")).selector.xpath("//l/text()").getall()


def test_only_what_may_take_long_is_for_a_thread() -> None:
    paragraph = b"<p class='x'>text</p>"
    assert not is_heavy(response(b"<p " + attributes(b"a%d", 4_000) + b">"))
    assert not is_heavy(response(paragraph * 10_000))
    assert is_heavy(response(paragraph * (LARGE // len(paragraph) + 1)))
    assert not is_heavy(response(b"[" + b"1," * LARGE + b"1]", "application/json"))


def test_the_first_page_whose_encoding_is_a_guess_is_for_a_thread_and_later_ones_are_not() -> None:
    """The detector is slow to begin, and everybody would wait for it."""
    charset._detector.cache_clear()
    russian = "<p>Привет, это страница про лампы</p>".encode("cp1251")
    for declared in ("text/html; charset=windows-1251", "text/html; charset=utf-8"):
        assert not is_heavy(response(russian, declared))
    assert not is_heavy(response(russian.decode("cp1251").encode(), "text/html"))
    page = response(russian, "text/html")
    assert is_heavy(page)
    assert (
        parse(page, in_thread=True).selector.css("p::text").get()
        == "Привет, это страница про лампы"
    )
    assert not is_heavy(response(russian, "text/html"))

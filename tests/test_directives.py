"""Whether a page asks that its links be left alone."""

from __future__ import annotations

from collections.abc import Callable
from time import thread_time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree, html

from crawlkit.politeness.directives import nofollow
from crawlkit.response import Response

TOKEN = "crawlkit"


def asks(
    head: str | bytes = "",
    *tags: str,
    body: str = "<body>x</body>",
    content_type: str = "text/html",
) -> bool:
    data = head if isinstance(head, bytes) else f"<html><head>{head}</head>{body}</html>".encode()
    headers = [("Content-Type", content_type), *(("x-robots-TAG", tag) for tag in tags)]
    response = Response(url="https://shop.example/", headers=headers, body=data)
    return nofollow(response, parsed(response), TOKEN)


def parsed(response: Response) -> Callable[[], etree._Element | None]:
    def root() -> etree._Element | None:
        if "html" not in response.content_type:
            return None
        tree: etree._Element = html.document_fromstring(response.body)
        return tree

    return root


@pytest.mark.parametrize(
    "tag",
    [
        '<meta name="robots" content="nofollow">',
        "<META NAME='ROBOTS' CONTENT='NOINDEX,NOFOLLOW'>",
        '<meta content="noindex, nofollow" name="robots"/>',
        "<meta name=robots content=none>",
        '<meta\n  name = " robots "\n  content = " noarchive , NoFollow "\n>',
        '<meta name="crawlkit" content="nofollow">',
        '<meta name="CrawlKit" content="none">',
        '<meta name="robots" content="noindex nofollow">',
        "<meta name='robots'content='nofollow'/>",
        '<meta name="robots" content="all"><meta name="robots" content="nofollow">',
        '<meta name="robots" content="nofollow"><meta name="crawlkit" content="all">',
    ],
)
def test_a_meta_tag_asks_in_every_spelling(tag: str) -> None:
    assert asks(tag)


@pytest.mark.parametrize(
    "head",
    [
        "",
        '<meta name="robots" content="index, follow">',
        '<meta name="robots" content="noindex">',
        '<meta name="robots" content="max-image-preview:large">',
        '<meta name="robots" content="nofollows, nonesuch">',
        '<meta name="robots">',
        '<meta content="nofollow">',
        '<meta name="googlebot" content="nofollow">',
        '<meta name="description" content="robots, none of them nofollow">',
        '<!-- <meta name="robots" content="nofollow"> -->',
        """<script>const tag = '<meta name="robots" content="nofollow">';</script>""",
        '<title>robots <meta name="robots" content="nofollow"></title>',
        '<link rel="nofollow" href="/robots.txt">',
    ],
)
def test_what_only_looks_like_it_does_not_ask(head: str) -> None:
    assert not asks(head)


@pytest.mark.parametrize(
    "tags",
    [
        ("nofollow",),
        ("NOINDEX, NoFollow",),
        ("none",),
        ("crawlkit: nofollow",),
        ("CrawlKit: noindex, nofollow",),
        ("otherbot: noindex", "nofollow"),
        ("otherbot: noindex, crawlkit: nofollow",),
        ("unavailable_after: 25 Jun 2030 15:00:00 PST, nofollow",),
        ("unavailable_after: Wednesday, 25-Jun-30 15:00:00 PST, nofollow",),
        ("max-snippet: 20, max-image-preview: large, nofollow",),
        ("*: none",),
    ],
)
def test_a_header_asks_in_every_form(tags: tuple[str, ...]) -> None:
    assert asks("", *tags)


@pytest.mark.parametrize(
    "tags",
    [
        ("noindex",),
        ("otherbot: nofollow",),
        ("otherbot: noindex, nofollow",),
        ("unavailable_after: 25 Jun 2010 15:00:00 PST",),
        ("max-snippet: none",),
        ("",),
        (",,:,::",),
    ],
)
def test_other_headers_do_not_ask(tags: tuple[str, ...]) -> None:
    assert not asks("", *tags)


def test_a_header_counts_also_where_the_page_is_no_html() -> None:
    assert asks(b'{"a": 1}', "nofollow", content_type="application/json")
    assert not asks(b'{"meta robots": "nofollow"}', content_type="application/json")


def test_a_page_without_a_body_tag_is_searched_too() -> None:
    assert asks('<meta name="robots" content="nofollow"><p>text', body="")
    assert asks(b'<meta name="robots" content="nofollow"><p>text')


def test_a_page_in_utf_16_is_searched_too() -> None:
    page = '<html><head><meta name="robots" content="nofollow"></head><body>x</body></html>'
    assert asks(page.encode("utf-16"))
    assert not asks(page.replace("nofollow", "follow").encode("utf-16"))


def test_the_parser_is_not_asked_where_the_words_do_not_occur() -> None:
    def root() -> None:
        raise AssertionError("parsed")

    page = b"<html><head><title>A lamp</title></head><body><a rel=nofollow>robots</a></body>"
    assert not nofollow(Response(url="https://shop.example/", body=page), root, TOKEN)


def test_a_page_that_says_nothing_costs_microseconds() -> None:
    head = '<meta name="description" content="A lamp of no known maker, from Robot Street">' * 15
    page = f"<html><head>{head}</head><body>{'<a href=/lamp>A lamp</a>' * 400}</body>".encode()
    response = Response(url="https://shop.example/", body=page)
    start = thread_time()
    for _ in range(2000):
        nofollow(response, lambda: None, TOKEN)
    assert (thread_time() - start) / 2000 < 100e-6


@pytest.mark.parametrize(
    "text", ["<", "<meta ", "nofollow robots ", "<meta name=robots ", ",", "crawlkit:", "a" * 10]
)
def test_the_worst_page_costs_no_more_than_its_size(text: str) -> None:
    response = Response(
        url="https://shop.example/",
        headers={"X-Robots-Tag": text * (60_000 // len(text))},
        body=text.encode() * (16 * 1024 * 1024 // len(text)),
    )
    start = thread_time()
    nofollow(response, lambda: None, TOKEN)
    assert thread_time() - start < 0.5


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_header_and_no_tag_raises(header: str, content: str) -> None:
    tree = etree.Element("html")
    etree.SubElement(tree, "meta", name="robots")
    try:
        tree[0].set("content", content)
    except ValueError:
        pass  # nothing that a parser could have found
    response = Response(
        url="https://shop.example/",
        headers={"X-Robots-Tag": header},
        body=b"<meta name=robots content=nofollow>",
    )
    assert nofollow(response, lambda: tree, TOKEN) in (True, False)

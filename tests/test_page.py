"""What a handler can see on a page, and what it can ask for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from lxml import etree
from parsel import Selector
from yarl import URL

from crawlkit import Crawler, Page, Request, Response
from crawlkit.clock import Clock
from crawlkit.crawling.sessionpool import SessionPool
from crawlkit.errors import HandlerError, LimitError, PageTypeError, UsageError

URL_ = "https://shop.example/books/index.html"


def page(body: str = "", *, kind: str = "text/html; charset=utf-8", url: str = URL_) -> Page:
    response = Response(url=url, body=body.encode(), headers={"Content-Type": kind})
    session = SessionPool(Clock()).pick("shop.example")
    return Page(Request(url, depth=2), response, session)


def followed(page: Page) -> list[str]:
    return [request.url for request in page.links]


class Handlers(Crawler):
    async def detail(self, page: Page) -> None:
        pass


def test_a_css_selector_follows_the_links_it_finds() -> None:
    p = page('<nav><a href="a">A</a><a>no link</a><a href="/b?x=1#y">B</a></nav><a href="c">C</a>')
    assert p.follow("nav a") == 2
    assert followed(p) == ["https://shop.example/books/a", "https://shop.example/b?x=1"]


@pytest.mark.parametrize("way", ["selector", "css", "xpath"])
def test_a_change_that_a_handler_makes_to_the_tree_is_seen_by_what_it_selects_next(
    way: str,
) -> None:
    p = page("<p class=a>1</p><p class=b>2</p><a href=/x>3</a>")
    assert p.css(".a::text").getall() == ["1"]
    assert p.css(".b::text").getall() == ["2"]
    found = {
        "selector": lambda: p.selector.css(".b"),
        "css": lambda: p.css(".b"),
        "xpath": lambda: p.xpath("//p[2]"),
    }[way]()
    found[0].root.set("class", "a")
    assert p.css(".a::text").getall() == ["1", "2"]
    assert p.css(".b::text").getall() == []
    for link in p.css("a"):
        link.root.set("class", "a")
    assert p.follow(".a") == 1
    assert p.css("p::text").getall() == ["1", "2"]


def test_links_that_lead_nowhere_are_left_out() -> None:
    p = page('<a href="mailto:x@y.example"></a><a href="javascript:x()"></a><a href="#top"></a>')
    assert p.follow("a") == 0


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("https://other.example/x", "https://other.example/x"),
        ("/x", "https://shop.example/x"),
        ("./x", "https://shop.example/books/x"),
        ("../x", "https://shop.example/x"),
        ("?page=2", "https://shop.example/books/index.html?page=2"),
        (URL("https://other.example/y"), "https://other.example/y"),
        (["x.html"], "https://shop.example/books/x.html"),
        (Request("x.html"), "https://shop.example/books/x.html"),
    ],
)
def test_follow_takes_urls_and_requests_relative_to_the_page(target: Any, expected: str) -> None:
    p = page()
    assert p.follow(target) == 1
    assert followed(p) == [expected]


def test_the_base_element_changes_what_links_are_relative_to() -> None:
    p = page('<head><base href="/other/"></head><a href="x">x</a>')
    p.follow("a")
    assert followed(p) == ["https://shop.example/other/x"]
    assert page('<base href="/other/"><a href="x">').absolute("x") == (
        "https://shop.example/other/x"
    )


def test_what_follow_is_given_travels_with_the_request() -> None:
    p = page()
    p.follow(
        ["x"],
        handler=Handlers(store="memory:").detail,
        priority=3,
        user_data={"n": 1},
        headers={"X": "y"},
        method="POST",
        body=b"z",
        unique_key="k",
        session="s",
    )
    assert p.links == [
        Request(
            "https://shop.example/books/x",
            handler="detail",
            priority=3,
            depth=3,
            method="POST",
            headers={"X": "y"},
            body=b"z",
            user_data={"n": 1},
            unique_key="k",
            session="s",
        )
    ]


def test_a_request_keeps_what_follow_does_not_say() -> None:
    p = page()
    p.follow(Request("x", handler="detail", priority=7, user_data={"n": 1}))
    (request,) = p.links
    assert (request.handler, request.priority, request.user_data) == ("detail", 7, {"n": 1})
    assert request.depth == 3


def test_what_follow_is_given_goes_over_what_a_request_has() -> None:
    p = page()
    p.follow(
        Request("x", handler="parse", priority=7, user_data={"n": 1}, headers={"A": "b"}),
        handler="detail",
        priority=0,
        user_data={"n": 2},
        headers={"C": "d"},
        method="PUT",
        body=b"z",
        unique_key="k",
        session="s",
        render=True,
        cache=60.0,
    )
    assert p.links == [
        Request(
            "https://shop.example/books/x",
            handler="detail",
            priority=0,
            depth=3,
            method="PUT",
            headers={"C": "d"},
            body=b"z",
            user_data={"n": 2},
            unique_key="k",
            session="s",
            render=True,
            cache=60.0,
        )
    ]


def test_how_a_page_is_made_and_cached_can_be_said_for_each_link() -> None:
    p = page("<a href=x>x</a>")
    p.follow("a", render=True, cache="off")
    p.follow("a", render=False, cache=3600.0)
    assert [(r.render, r.cache) for r in p.links] == [(True, "off"), (False, 3600.0)]


def test_links_of_a_private_page_may_be_private_and_those_of_a_public_one_may_not() -> None:
    p = page("<a href=x>x</a>")
    p.follow("a")
    p.follow(Request("y"))
    p.response.is_private = True
    p.follow("a")
    p.follow(Request("y"))
    assert [request.private for request in p.links] == [False, False, True, True]


def test_links_beyond_the_limit_are_counted_and_not_kept() -> None:
    p = page('<a href="mailto:x@y.example"></a>' + "<a href=x></a>" * 9)
    p = Page(p.request, p.response, p.session, max_links=4)
    assert p.follow("a") == 3 + 6  # of the first four, one leads nowhere
    assert p.follow(["1", "2", "3"]) == 3
    assert p.follow("a") == 10
    assert (len(p.links), p.links_over) == (4, 6 + 2 + 10)


def test_a_page_that_is_nested_too_deeply_says_so_and_is_counted_as_an_error() -> None:
    p = page("<h1>x</h1>" + "<div>" * 3000 + "<a href=lost>x</a>")
    assert p.is_truncated
    assert p.css("h1::text").get() == "x"
    assert p.follow("a") == 0
    (error,) = p.rejected
    assert "nested too deeply" in str(error)
    assert not page("<h1>x</h1>").is_truncated


async def test_a_heavy_page_is_parsed_before_its_handler_without_holding_the_loop_up() -> None:
    light, heavy = page("<p>x</p>"), page("<p>x</p>" * 50_000)
    assert not light.needs_preparing
    assert heavy.needs_preparing
    await heavy.prepare()
    assert not heavy.needs_preparing
    assert len(heavy.css("p")) == 50_000


async def test_a_page_that_cannot_be_parsed_fails_before_its_handler() -> None:
    p = page("<p " + " ".join(f"a{n}" for n in range(10_000)) + ">")
    assert p.needs_preparing
    with pytest.raises(LimitError):
        await p.prepare()
    with pytest.raises(LimitError):
        p.follow("a")


def local() -> None:
    pass


@pytest.mark.parametrize("handler", [lambda page: None, local, print, 7])
def test_a_handler_without_a_name_to_be_found_by_is_refused(handler: Any) -> None:
    with pytest.raises(HandlerError, match="restart"):
        page().follow(["x"], handler=handler)


@pytest.mark.parametrize("target", [["x"], Request("x", user_data={"bad": object()})])
def test_a_request_that_cannot_be_saved_is_refused_when_it_is_followed(target: Any) -> None:
    p = page()
    with pytest.raises(
        UsageError, match=r"(what is to be followed|the request for .+/x.) cannot be saved"
    ):
        p.follow(target, user_data=None if isinstance(target, Request) else {"bad": object()})
    assert not p.links


def test_a_selector_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="is not a CSS selector"):
        page("<a>").follow("a[")


def test_links_cannot_be_selected_on_what_is_not_html() -> None:
    with pytest.raises(PageTypeError, match="application/json"):
        page('{"a": 1}', kind="application/json").follow("a")


def test_json_css_and_xpath_look_into_the_page() -> None:
    assert page('{"a": [1]}', kind="application/json").json() == {"a": [1]}
    p = page("<h1>Caf\u00e9</h1><p class=x>1</p>")
    assert p.css("h1::text").get() == "Caf\u00e9"
    assert p.xpath("//p[@class=$c]/text()", c="x").get() == "1"
    assert (p.status, p.url) == (200, URL_)


def test_xml_is_parsed_as_xml() -> None:
    p = page("<feed><Link>x</Link></feed>", kind="application/xml")
    assert p.xpath("//Link/text()").get() == "x"


@pytest.mark.parametrize("body", ["", "   ", "\x00", "plain", "<", "<!-- -->"])
def test_a_page_that_is_hardly_one_has_no_links_and_does_not_fail(body: str) -> None:
    assert page(body).follow("a") == 0
    assert page(body).css("h1::text").get() is None


def test_an_item_is_kept_as_it_was_when_it_was_saved() -> None:
    p = page()
    item = {"n": 1}
    p.save(item)
    item["n"] = 2
    assert p.items == [b'{"n":1}']


def test_an_item_that_is_none_is_rejected_and_the_handler_goes_on() -> None:
    p = page()
    p.save(object())
    p.save({"fine": True})
    assert p.items == [b'{"fine":true}']
    assert [type(error).__name__ for error in p.rejected] == ["ItemError"]


PIECES = [
    "<p>", "</p>", "<a href=x>", "\x00", "\u00e9", "<html>", "<head>", "<base href='/x'>", "<body>",
    "text", "<!--", "-->", "<", "&amp;", "&#x41;", "<table><tr>", "<script>", "</script>", " ",
    "<h1>T</h1>", "<!doctype html>", "<?xml version='1.0'?>",
]  # fmt: skip


@example(["<p>", " ", "\x00"], "utf-8")
@given(st.lists(st.sampled_from(PIECES), max_size=12), st.sampled_from(["utf-8", "windows-1252"]))
def test_html_is_parsed_exactly_as_parsel_parses_it(pieces: list[str], charset: str) -> None:
    body = "".join(pieces).encode()
    response = Response(
        url=URL_, body=body, headers={"Content-Type": f"text/html; charset={charset}"}
    )
    ours = Page(Request(URL_), response, SessionPool(Clock()).pick("shop.example")).selector.root
    theirs = Selector(body=body or b" ", encoding=response.encoding, type="html").root
    assert etree.tostring(ours) == etree.tostring(theirs)

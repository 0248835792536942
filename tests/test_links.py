"""The links of a page are kept as URLs, and nobody can tell."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from crawlkit import Request
from crawlkit.clock import Clock
from crawlkit.dedup import DedupSet
from crawlkit.discovery.scope import Scope
from crawlkit.links import Links, alike
from crawlkit.politeness.throttle import Throttle
from crawlkit.queue import RequestQueue

PAGE = "http://a.example/x"
URLS = st.lists(
    st.sampled_from(
        [
            "http://a.example/",
            "http://a.example/1",
            "http://a.example/2?q",
            "https://a.example/1",
            "http://b.example/1",
            "http://a.example.evil.example/1",
            "http://www.a.example/1",
        ]
    ),
    max_size=12,
)
LIKE = st.builds(
    Request,
    st.just(""),
    handler=st.sampled_from(["parse", "other"]),
    priority=st.integers(-1, 1),
    method=st.sampled_from(["GET", "POST"]),
    body=st.sampled_from([None, b"", b"x"]),
    unique_key=st.sampled_from([None, "key"]),
    user_data=st.sampled_from([{}, {"a": 1}]),
)


def queue() -> RequestQueue:
    clock = Clock()
    return RequestQueue(clock, Throttle(clock))


@given(URLS, LIKE)
def test_links_are_requests_that_differ_in_their_url(urls: list[str], like: Request) -> None:
    links = Links()
    links.add(urls, like)
    links.append(like.replace(url=PAGE))
    expected = [like.replace(url=url) for url in [*urls, PAGE]]
    assert list(links) == expected
    assert links == expected
    assert len(links) == len(expected)


def test_requests_can_be_added_to_the_links_of_a_page() -> None:
    links = Links()
    assert not links
    links += [Request(PAGE, depth=2), Request("http://a.example/1")]
    assert links == [Request(PAGE, depth=2), Request("http://a.example/1")]


@given(st.lists(st.tuples(URLS, LIKE), max_size=4))
def test_enqueuing_many_links_is_enqueuing_each(groups: list[tuple[list[str], Request]]) -> None:
    together, singly = queue(), queue()
    for urls, like in groups:
        together.add_all(urls, like)
        for request in alike(urls, like):
            singly.add(request)
    assert together.changes == singly.changes
    assert together._fresh == singly._fresh
    assert together._duplicates == singly._duplicates


@given(URLS)
def test_a_filter_takes_many_texts_as_it_takes_each(texts: list[str]) -> None:
    together, singly = DedupSet(bits=2, most=2), DedupSet(bits=2, most=2)
    assert together.add_all(texts) == [text for text in texts if singly.add(text)]


@given(
    URLS,
    st.sampled_from([PAGE, "http://a.example/", "https://a.example/1", "http://a.example"]),
    st.sampled_from(["same-host", "same-origin", "same-domain", "all"]),
    st.sampled_from([(), "**/1"]),
    st.sampled_from([(), "**?q"]),
)
def test_links_are_sorted_by_what_the_scope_says_of_each(
    urls: list[str], page_url: str, kind: str, include: str, exclude: str
) -> None:
    scope = Scope(kind, include=include, exclude=exclude)
    reasons = [(url, scope.reason(url, page_url)) for url in urls]
    assert scope.sort(urls, page_url) == (
        [url for url, reason in reasons if reason is None],
        [(url, reason) for url, reason in reasons if reason is not None],
    )

"""Requests that are written down together come back as they were, whatever the user put in them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawlkit.request import Request
from crawlkit.stores.bundle import bundled, with_host, without_host
from crawlkit.stores.encoding import encode

HOST = "shop.example"
OTHERS = ["shop.example:8080", "www.shop.example", "shop.exampl", 'a"b', "bücher.example"]
URLS = [
    f"{scheme}://{host}{path}"
    for scheme in ("https", "http")
    for host in [HOST, *OTHERS]
    for path in ("", "/", "/a?b=https://shop.example/", '/{"u":"https://shop.example/', "/\u2028é")
]
DATA: list[dict[str, Any]] = [
    {},
    {"u": "https://shop.example/x"},
    {"a": [{"u": "http://shop.example/"}, {"u": "/x"}]},
    {"text": '[{"u":"https://shop.example/x"}]'},
]


def read(text: bytes, host: str) -> list[Request]:
    return with_host(msgspec.json.decode(text, type=list[Request]), host)


@given(
    st.lists(
        st.builds(
            Request,
            st.sampled_from(URLS),
            depth=st.integers(0, 2),
            headers=st.sampled_from([{}, {"u": "https://shop.example/"}]),
            user_data=st.sampled_from(DATA),
        ),
        max_size=6,
    ),
    st.sampled_from([HOST, *OTHERS]),
)
def test_requests_come_back_as_they_were(requests: list[Request], host: str) -> None:
    text = bundled(requests, host)
    assert read(text, host) == requests
    assert text == encode(without_host(requests, host))


@pytest.mark.parametrize("data", DATA)
def test_the_host_is_not_written_down(data: dict[str, Any]) -> None:
    text = bundled([Request(f"https://{HOST}/{n}", user_data=data) for n in range(3)], HOST)
    assert text.count(f'{{"u":"https://{HOST}'.encode()) == text.count(b'{"u":"https')
    assert [one["u"] for one in msgspec.json.decode(text)] == ["/0", "/1", "/2"]

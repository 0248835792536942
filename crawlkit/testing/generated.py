"""A site of any size whose pages are computed from their paths, and what a crawl of it must find.

Nothing of it is kept in memory, so that it serves millions of pages; and as every page follows from
its number, the result of an undisturbed crawl is known without one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from aiohttp import web

from .site import Site, html_response, simple_page

_TEXT = (
    "harbour lantern meadow copper violet timber orchard granite saffron willow ember cobalt "
    "juniper marble thistle amber cedar linen slate heron"
)
_WORDS = _TEXT.split()
_FILLER = " ".join(_WORDS[(i * i + i // 7) % len(_WORDS)] for i in range(400))


def generated_site(
    pages: int,
    *,
    links: int = 20,
    size: int = 10_000,
    seed: int = 0,
    delay: float = 0.0,
    port: int = 0,
    log: bool = True,
) -> Site:
    """A site of `pages` pages, all of which are reachable from ``/``.

    Page 0 is ``/``, page 17 is ``/page/17``. A page has a title (``h1``), a price (``.price``), a
    number (``.sku``) and links; half of the links lead down a tree, so that a crawl soon has much
    to do, and half anywhere.

    Args:
        pages: How many.
        links: Links on each page, two at least.
        size: Bytes of a page's HTML, about; it is never less than the links need.
        seed: Sites with different seeds have different links and prices.
        delay: Seconds until each answer.
        port: Port to listen on; 0 takes a free one.
        log: Whether the site's `requests` keeps every request.
    """
    return _GeneratedSite(pages, links=links, size=size, seed=seed, delay=delay, port=port, log=log)


def expected_items(pages: int, *, seed: int = 0) -> Iterator[dict[str, str]]:
    """The items of an undisturbed crawl, by page number: the title, price and sku of each page."""
    return (_fields(number, seed) for number in range(pages))


class _GeneratedSite(Site):
    def __init__(
        self, pages: int, *, links: int, size: int, seed: int, delay: float, port: int, log: bool
    ) -> None:
        super().__init__(port=port, log=log)
        if pages < 1 or links < 2:
            raise ValueError("a generated site has at least one page and two links on each")
        self._count = pages
        self._links = links
        self._size = size
        self._seed = seed
        self._delay = delay

    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        if self._delay:
            await asyncio.sleep(self._delay)
        number = self._number(request.raw_path)
        if number is None:
            return html_response(simple_page("Not found", ()), 404)
        return html_response(self._html(number))

    def _number(self, path: str) -> int | None:
        if path == "/":
            return 0
        text = path.removeprefix("/page/")
        # Only the one spelling that the site itself links to is a page: "007" is not.
        if not text.isascii() or not text.isdigit() or str(int(text)) != text:
            return None
        number = int(text)
        return number if 0 < number < self._count else None

    def _targets(self, number: int) -> Iterator[int]:
        branches = self._links // 2
        first = number * branches + 1
        down = range(first, min(first + branches, self._count))
        yield from down
        mixed = (number + 1) * 2654435761 + self._seed * 40503
        for i in range(self._links - len(down)):
            mixed = (mixed * 6364136223846793005 + i + 1442695040888963407) % 2**64
            yield (mixed >> 20) % self._count

    def _html(self, number: int) -> str:
        fields = _fields(number, self._seed)
        links = "\n".join(
            f'<li><a href="{_path(target)}">{_title(target)}</a></li>'
            for target in self._targets(number)
        )
        page = (
            f'<!doctype html>\n<html lang="en">\n<head><title>{fields["title"]}</title></head>\n'
            f'<body>\n<h1>{fields["title"]}</h1>\n<p class="price">{fields["price"]}</p>\n'
            f'<p class="sku">{fields["sku"]}</p>\n<ul class="links">\n{links}\n</ul>\n'
        )
        return f"{page}{_filler(self._size - len(page))}</body>\n</html>\n"


def _path(number: int) -> str:
    return f"/page/{number}" if number else "/"


def _title(number: int) -> str:
    return f"{_WORDS[number % len(_WORDS)].title()} {number}"


def _fields(number: int, seed: int) -> dict[str, str]:
    cents = (number * 7919 + seed * 104729) % 99_000 + 99
    return {
        "title": _title(number),
        "price": f"{cents // 100}.{cents % 100:02}",
        "sku": f"SKU-{number:08}",
    }


def _filler(size: int) -> str:
    paragraphs = []
    while size > 40:
        text = _FILLER[: min(size - 23, 900)]
        paragraphs.append(f'<p class="text">{text}</p>\n')
        size -= len(text) + 23
    return "".join(paragraphs)

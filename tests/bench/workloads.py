"""What is crawled: the workloads, and the site that is made up for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

PRODUCT_FIELDS = {"title": "h1::text", "price": ".price::text", "sku": ".sku::text"}
DOCUMENT_FIELDS = {
    "title": "title::text",
    "heading": "h1::text",
    "next": "link[rel=next]::attr(href)",
}


@dataclass(frozen=True)
class Way:
    """One more way in which a peer takes part in a workload, as a row of its own.

    Attributes:
        name: What the row is called.
        peer: Who it is.
        about: How it does it, in a few words.
        is_warm: Whether it has a cache that an unmeasured crawl has filled; else it has an empty
            one each time.
    """

    name: str
    peer: str
    about: str
    is_warm: bool


@dataclass(frozen=True)
class Workload:
    """One kind of site.

    Attributes:
        name: What ``--workloads`` calls it.
        share: Pages of it, as a share of ``--pages``; `None` where the site is what it is: the
            documentation of Python.
        size: Bytes of a page's HTML.
        links: Links on a page.
        hosts: Hosts that the pages are spread over.
        fields: The fields of an item and the CSS selectors that find them.
        is_on_disk: Whether nginx serves its pages from files; else they come from memory.
        ways: What the peers do besides.
        reference: The row that the ratios of the others are to, where it is there; else the first.
    """

    name: str
    share: float | None = 1.0
    size: int = 10_000
    links: int = 20
    hosts: int = 1
    fields: dict[str, str] = field(default_factory=lambda: dict(PRODUCT_FIELDS))
    is_on_disk: bool = False
    ways: tuple[Way, ...] = ()
    reference: str = ""

    def pages(self, wanted: int) -> int:
        """How many pages it has where ``--pages`` says `wanted`."""
        return max(1, round(wanted * (self.share or 0.0)))


CACHED = (
    Way("crawlkit-filling", "crawlkit", "into an empty page cache", is_warm=False),
    Way("crawlkit-filled", "crawlkit", "from a full page cache", is_warm=True),
)

WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("small"),
        # A tenth of the pages: as many bytes and links, in a similar time.
        Workload("large", share=0.1, size=100_000, links=200),
        Workload("hosts", hosts=200),
        Workload("docs", share=None, is_on_disk=True, fields=DOCUMENT_FIELDS),
        Workload("cached", is_on_disk=True, ways=CACHED, reference="crawlkit"),
        Workload(
            "cached-docs",
            share=None,
            is_on_disk=True,
            fields=DOCUMENT_FIELDS,
            ways=CACHED,
            reference="crawlkit",
        ),
    )
}

_VOCABULARY = (
    "harbour lantern meadow copper violet timber orchard granite saffron willow ember cobalt "
    "juniper marble thistle amber cedar linen slate heron"
)
_WORDS = _VOCABULARY.split()
_TEXT = " ".join(_WORDS[(i * i + i // 7) % len(_WORDS)] for i in range(2000))


@dataclass(frozen=True)
class Shop:
    """A made-up shop whose pages follow from their numbers; page 0 is the start.

    Half of a page's links lead down a tree, so that all pages are reached and there is soon much to
    do; the other half lead anywhere on the same host. As in found HTML some links are absolute,
    some are relative to the page, most begin with a slash, and a few have a fragment.

    Attributes:
        pages: How many.
        size: Bytes of a page's HTML, about.
        links: Links on each.
        sites: ``http://host:port`` of each host; page ``n`` is on host ``n % len(sites)``.
    """

    pages: int
    size: int
    links: int
    sites: tuple[str, ...]

    def items(self) -> Iterator[dict[str, str]]:
        """What a crawl must find."""
        for number in range(self.pages):
            yield {"url": self.url(number), **self._fields(number)}

    def url(self, number: int) -> str:
        """The URL of a page."""
        return f"{self.sites[number % len(self.sites)]}{self.path(number)}"

    def path(self, number: int) -> str:
        """The path of a page."""
        return f"/products/{self._file(number)}" if number else "/"

    def html(self, number: int) -> str:
        """A page."""
        fields = self._fields(number)
        links = "".join(
            f'<li class="related-item"><a href="{self._href(number, target, place)}">'
            f"{self._title(target)}</a></li>\n"
            for place, target in enumerate(self._targets(number))
        )
        head = (
            f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f"<title>{fields['title']} | The Shop</title>\n"
            '<link rel="stylesheet" href="/static/shop.css">\n</head>\n<body class="product">\n'
            f'<main id="content">\n<h1>{fields["title"]}</h1>\n'
            f'<p class="price">{fields["price"]}</p>\n'
            f'<p>Order number: <span class="sku">{fields["sku"]}</span></p>\n'
            f'<ul class="related">\n{links}</ul>\n<section id="reviews">\n'
        )
        foot = "</section>\n</main>\n</body>\n</html>\n"
        return head + self._reviews(self.size - len(head) - len(foot)) + foot

    @cached_property
    def _all_reviews(self) -> list[str]:
        reviews = []
        for number in range(-(-self.size // 350)):
            text = _TEXT[number * 37 % 1000 :]
            reviews.append(
                f'<article class="review" data-stars="{number % 5 + 1}"><h3>{text[:24]}</h3>\n'
                f"<p>{text[100:250]} <em>{text[300:320]}</em> {text[400:480]}</p></article>\n"
            )
        return reviews

    def _reviews(self, room: int) -> str:
        text = "".join(self._all_reviews)
        return text[: text.rfind("<article", 0, max(0, room))]

    def _targets(self, number: int) -> Iterator[int]:
        branches = self.links // 2
        first = number * branches + 1
        down = range(first, min(first + branches, self.pages))
        yield from down
        hosts = len(self.sites)
        mixed = (number + 1) * 2654435761
        for i in range(self.links - len(down)):
            mixed = (mixed * 6364136223846793005 + i + 1442695040888963407) % 2**64
            anywhere = (mixed >> 20) % self.pages
            same_host = anywhere - anywhere % hosts + number % hosts
            yield same_host if same_host < self.pages else number % hosts

    def _href(self, number: int, target: int, place: int) -> str:
        hosts = len(self.sites)
        kind = (number + place) % 8
        if number % hosts != target % hosts or kind == 0:
            return self.url(target)
        fragment = "#reviews" if kind == 1 else ""
        if kind in (2, 3) and number and target:
            return self._file(target) if kind == 2 else f"../products/{self._file(target)}"
        return self.path(target) + fragment

    def _file(self, number: int) -> str:
        return f"{_WORDS[number % 20]}-{_WORDS[number // 20 % 20]}-{number}.html"

    def _title(self, number: int) -> str:
        return f"{_WORDS[number % 20].title()} {_WORDS[number // 20 % 20]} {number}"

    def _fields(self, number: int) -> dict[str, str]:
        cents = number * 7919 % 99_000 + 99
        return {
            "title": self._title(number),
            "price": f"{cents // 100}.{cents % 100:02}",
            "sku": f"SKU-{number:08}",
        }

"""State of your own: counts the offers of each product, and never loses count.

    python -m crawlkit.testing.shop --port 8000 &
    python -m crawlkit run examples/offers_per_product.py

`OffersPerProduct` is saved in the same transaction as the queue and the items. So after Ctrl-C, a
migration to another machine or kill -9 every offer is counted exactly once.
"""

import logging

from crawlkit import Checkpoint, Crawler, Page, Saved, Statistics
from crawlkit.events import Migrating

log = logging.getLogger("offers")


class OffersPerProduct:
    """A persisted part: it is asked what changed at every checkpoint, and restored at the start."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self._changed: set[str] = set()

    def count(self, product: str) -> None:
        self.counts[product] = self.counts.get(product, 0) + 1
        self._changed.add(product)

    def restore(self, saved: Saved) -> None:
        self.counts = {product: saved.load(key=product) for product in saved.keys()}

    def collect(self, checkpoint: Checkpoint) -> None:
        # Only what changed: with ten million products a checkpoint still costs next to nothing.
        for product in self._changed:
            checkpoint.save(self.counts[product], key=product)
        self._changed.clear()


class Offers(Crawler):
    name = "offers-per-product"
    start_urls = ["http://127.0.0.1:8000/"]

    async def on_start(self) -> None:
        self.offers = self.persist("offers-per-product", OffersPerProduct())
        self.on("crawlerStatus", self.report_now_and_then)
        self.on("migrating", self.note_migration)
        self.report()

    async def parse(self, page: Page) -> None:
        page.follow("nav a, article h3 a, li.next a")
        page.follow(".offers a", handler=self.parse_offer, priority=1)

    async def parse_offer(self, page: Page) -> None:
        product = page.css("a.product::attr(href)").get(default="unknown")
        # With the page's other effects: if this handler fails further down, nothing was counted.
        page.update(lambda: self.offers.count(product))

    def report_now_and_then(self) -> None:  # at every `crawlerStatus`, which is once a second
        if self.clock.now() - self.reported_at >= 10:
            self.report()

    def report(self) -> None:
        self.reported_at = self.clock.now()
        counts = self.offers.counts
        log.info("%d offers of %d products", sum(counts.values()), len(counts))

    def note_migration(self, event: Migrating) -> None:
        log.info("this machine goes away; the count goes on elsewhere")
        self.report()

    async def on_finish(self, statistics: Statistics) -> None:
        self.report()

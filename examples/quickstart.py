"""A first crawl: the categories of a small shop, its products, and what sellers ask for them.

    python -m crawlkit run examples/quickstart.py

Press Ctrl-C while it runs, or kill it as hard as you like, and run it again.
"""

import logging

from crawlkit import Crawler, Page
from crawlkit.errors import UsageError
from crawlkit.testing.shop import ShopSite

log = logging.getLogger("quickstart")


class Quickstart(Crawler):
    concurrency = 8
    delay = 0.03  # seconds between two requests, so that there is time to press Ctrl-C

    async def on_start(self) -> None:
        if self.start_urls:
            return  # a shop that is served elsewhere
        if self.worker:
            raise UsageError(
                "each worker would have a shop of its own; serve one with 'python -m "
                "crawlkit.testing.shop --port 8000', and add http://127.0.0.1:8000/ to the command"
            )
        # The shop lives in this process. Its port is saved with the crawl, so that after a restart
        # the URLs that wait in the queue lead to the same shop again.
        shop = ShopSite(port=await self.get_value("port", 0))
        try:
            await shop.start()
        except OSError:
            problem = f"port {shop.port} is taken; free it, or start anew with --fresh"
            raise UsageError(problem) from None
        await self.set_value("port", shop.port)
        self.on("exit", shop.stop)
        self.start_urls = [shop.url("/")]
        log.info("crawling %s (press Ctrl-C, then run it again)", shop.url("/"))

    async def parse(self, page: Page) -> None:
        page.follow("nav a", handler=self.parse_category)

    async def parse_category(self, page: Page) -> None:
        page.follow("article h3 a", handler=self.parse_product, priority=1)
        page.follow("li.next a", handler=self.parse_category)

    async def parse_product(self, page: Page) -> None:
        # What the offers share travels with the requests for them.
        product = {"product": page.css("h1::text").get(), "sku": page.css(".sku::text").get()}
        page.follow(".offers a", handler=self.parse_offer, priority=2, user_data=product)

    async def parse_offer(self, page: Page) -> None:
        page.save(
            {
                **page.request.user_data,
                "seller": page.css(".seller::text").get(),
                "condition": page.css(".condition::text").get(),
                "price": page.css(".price::text").re_first(r"[\d.]+"),
                "retries": page.request.retry_count,
            }
        )

"""Crawls a site whose pages are made by scripts, in a real browser without a window.

    pip install 'crawlkit[browser]' && playwright install chromium
    python -m crawlkit run examples/rendered.py https://quotes.example/js/

The rest of the site needs no browser and is fetched without, for a hundredth of the CPU time.
"""

from crawlkit import Crawler, Page


class Rendered(Crawler):
    render = True
    render_wait = ".quote"  # a page is done as soon as it has one
    delay = 0.1

    async def parse(self, page: Page) -> None:
        page.follow(".next a")
        for quote in page.css(".quote"):
            page.save({"text": quote.css(".text::text").get(), "page": page.url})
        page.follow(".about a", handler=self.parse_author, render=False)

    async def parse_author(self, page: Page) -> None:
        page.save({"author": page.css("h1::text").get(), "page": page.url})

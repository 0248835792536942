"""Crawls the documentation at a URL: the title and the headings of every page.

python -m crawlkit run examples/documentation_site.py https://docs.example/ --output docs.jsonl
"""

from crawlkit import Crawler, Page


class Documentation(Crawler):
    exclude = ["**/_sources/**", "**/*.{zip,pdf,epub,png,svg,txt}"]  # and other sites by default
    concurrency_per_host = 4
    delay = 0.1  # seconds between two requests: be kind to whoever serves it

    async def parse(self, page: Page) -> None:
        if page.response.content_type != "text/html":
            return
        page.follow("a")
        page.save(
            {
                "url": page.url,
                "title": page.xpath("normalize-space(//title)").get(),
                "headings": [
                    heading.xpath("normalize-space()").get() for heading in page.css("h1, h2")
                ],
            }
        )

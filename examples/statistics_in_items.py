"""Statistics where you need them: some in every item, and the errors of each URL under a key.

python -m crawlkit.testing.shop --port 8000 &
python -m crawlkit run examples/statistics_in_items.py
python -m crawlkit items runs/statistics-in-items -o offers.csv
python -m crawlkit state runs/statistics-in-items get errors
"""

from datetime import UTC, datetime

from crawlkit import Crawler, Page, Request


class StatisticsInItems(Crawler):
    start_urls = ["http://127.0.0.1:8000/"]

    async def on_start(self) -> None:
        self.errors: dict[str, list[str]] = await self.get_value("errors", {})

    async def parse(self, page: Page) -> None:
        page.follow("nav a, article h3 a, li.next a")
        page.follow(".offers a", handler=self.parse_offer, priority=1)

    async def parse_offer(self, page: Page) -> None:
        page.save(
            {
                "offer": page.css("h1::text").get(),
                "price": page.css(".price::text").re_first(r"[\d.]+"),
                "handled_at": datetime.now(UTC),
                "retries": page.request.retry_count,
                "pending": self.statistics.pending,
            }
        )

    # Called at every failure, also at those that are tried again ...
    async def on_error(self, request: Request, error: Exception) -> None:
        await self.note(request, str(error))

    # ... and this when a request is given up.
    async def on_failed(self, request: Request, error: Exception) -> None:
        await self.note(request, f"given up after {request.retry_count} retries")

    async def note(self, request: Request, text: str) -> None:
        self.errors.setdefault(request.url, []).append(text)
        await self.set_value("errors", self.errors)  # durable with the next checkpoint

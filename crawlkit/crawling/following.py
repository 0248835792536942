"""Following: what becomes of the links of a page."""

from __future__ import annotations

from ..discovery.scope import Scope
from ..events import RequestSkipped
from ..job import Job
from ..page import Page
from ..politeness.robots import Robots
from ..queue import RequestQueue
from ..request import Request
from ..statistics import Statistics
from . import outcomes


class Following:
    """Enqueues where pages lead to, or keeps why a link is left out.

    Args:
        job: The life of the run.
        queue: Where requests go.
        statistics: Where those that are left out are counted.
        scope: How far links may lead.
        robots: What knows the crawler's name, where pages are asked whether they are to be
            followed; ``None`` where they are not.
        max_depth: How many links a page may be away from where the crawl began.
    """

    def __init__(
        self,
        job: Job,
        queue: RequestQueue,
        statistics: Statistics,
        scope: Scope,
        robots: Robots | None,
        *,
        max_depth: int,
    ) -> None:
        self._job = job
        self._queue = queue
        self._statistics = statistics
        self._scope = scope
        self._robots = robots
        self._max_depth = max_depth

    def is_refused(self, page: Page) -> bool:
        """Whether the page asks crawlers to follow none of its links.

        Raises:
            LimitError: It has too many elements or attributes to be parsed.
        """
        return self._robots is not None and page.says_nofollow(self._robots.token)

    def follow(self, page: Page) -> None:
        """Enqueue the links of a page."""
        for urls, like in page.links.groups:
            self.enqueue(urls, like, page)
        if page.links_over:
            self._statistics.skipped("max_links", page.links_over)

    def refuse(self, page: Page) -> None:
        """Enqueue none of them, as the page asks."""
        for link in page.links:
            self._skip(link, "nofollow", page)

    def enqueue(self, urls: list[str], like: Request, page: Page) -> None:
        """Enqueue requests that a page leads to, or keep why they are left out.

        They are like one request, but for their URLs.
        """
        if like.depth > self._max_depth:
            others = [(url, "max_depth") for url in urls]
        else:
            followed, others = self._scope.sort(urls, page.url)
            self._queue.add_all(followed, like)
        for url, reason in others:
            self._skip(like.replace(url=url), reason, page)

    def _skip(self, request: Request, reason: str, page: Page) -> None:
        self._statistics.skipped(reason)
        rule = str(self._max_depth) if reason == "max_depth" else ""
        rule = rule or self._scope.told(reason, request.url)
        now = self._job.clock.now()
        self._queue.skip(outcomes.skipped(request, reason, page.url, now, rule))
        self._job.tell(RequestSkipped(request.url, reason))

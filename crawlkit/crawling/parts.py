"""Parts: what a crawler is composed of, made from its options and registered with its job.

Which part knows which is all in here. Their names are those under which they are saved.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from ..cache import PageCache
from ..clock import Clock
from ..counting.specimens import Specimens
from ..discovery.scope import Scope
from ..discovery.seeds import Seeds
from ..discovery.sitemapplaces import SitemapPlaces
from ..discovery.sitemaps import MAX_SIZE, PIECE
from ..discovery.start import StartRequests
from ..events import SessionRetired
from ..failures import FailureRetry
from ..fetching import AiohttpFetcher, Fetcher, Limits
from ..hooks import Hooks
from ..http.credentials import Credentials
from ..http.proxies import ProxyPool
from ..job import Job
from ..options import Options
from ..output import ItemWriter, is_live
from ..politeness.budgets import Budgets
from ..politeness.robots import Robots
from ..politeness.robotstext import MAX_BODY
from ..politeness.throttle import Throttle
from ..queue import RequestQueue
from ..rendering.picking import RenderingFetcher
from ..request import Request
from ..response import Response
from ..statistics import Statistics
from .allowance import Allowance
from .capacity import Capacity
from .endings import Endings
from .feeder import Feeder
from .following import Following
from .gate import Gate
from .judge import Judge
from .owner import Owner
from .resources import Resources
from .sessionpool import SessionPool
from .timekeeping import Timekeeper

if TYPE_CHECKING:
    from ..exporting.warc import WarcWriter
    from ..observing.metricsserver import MetricsServer


class Parts:
    """What a crawler is composed of.

    Args:
        options: What was set.
        hooks: What the user's own class says.
        job: The life of the run.
        fetch_robots: Fetches a robots.txt for a request that waits for it.
    """

    def __init__(
        self,
        options: Options,
        hooks: Hooks,
        job: Job,
        *,
        fetch_robots: Callable[[Request, str], Awaitable[Response]],
    ) -> None:
        clock, store = job.clock, job.store
        self._read = store.reader
        # What several workers of one run have to ask the store for, and one alone knows.
        read = store.document if store.is_shared else None
        # A crawl that fetches nothing has nobody to ask.
        asks_robots = options.obey_robots and options.cache != "offline"
        self.owner = job.persist("crawler", Owner(type(hooks).__name__))
        self.statistics = job.persist("statistics", Statistics(clock, is_shared=store.is_shared))
        self.timekeeper = Timekeeper(store, self.statistics)
        self.throttle = job.persist(
            "throttle",
            Throttle(
                clock,
                concurrency_per_host=options.concurrency_per_host,
                delay=options.delay,
                max_delay=options.max_delay,
                is_shy=asks_robots,
                worker=store.worker,
                # A host with a limit of its own is counted by one worker.
                may_split=options.max_pages_per_host is None,
            ),
        )
        self.queue = job.persist(
            "queue",
            RequestQueue(
                clock, self.throttle, concurrency=options.concurrency, worker=store.worker
            ),
        )
        self.capacity = Capacity(options.concurrency, options.min_concurrency)
        self.queue.limit = self.capacity.limit
        proxies = ProxyPool(clock, options.proxies)
        self.sessions = job.persist(
            "sessions",
            SessionPool(
                clock,
                size=options.session_pool_size,
                max_age=options.session_max_age,
                max_usage=options.session_max_usage,
                max_error_score=options.session_max_error_score,
                error_score_decrement=options.session_error_decrement,
                proxies=proxies,
                persist=options.persist_sessions,
                read=read,
                on_retired=lambda id, reason: job.tell(SessionRetired(id, reason)),
            ),
        )
        self.page_cache = PageCache(
            options.cache_dir,
            mode=options.cache,
            rules=options.cache_rules,
            size_limit=options.cache_size,
            key=hooks.cache_key,
            headers={"User-Agent": options.user_agent, **options.headers},
            clock=clock,
        )
        self.warc = None if options.warc is None else self._archive(options.warc, options, job)
        limits = Limits(idle=options.idle_timeout, total=options.timeout, body=options.max_body)
        self.sitemap_limits = replace(limits, body=MAX_SIZE + PIECE, truncate=True)
        self.robots_limits = replace(limits, body=MAX_BODY, truncate=True)
        self.fetcher = self._fetcher(options, limits, proxies, clock)
        self.metrics = None if options.metrics is None else self._metrics(options.metrics, options)
        self.scope = Scope(options.scope, include=options.include, exclude=options.exclude)
        self.robots = job.persist(
            "robots", Robots(clock, user_agent=options.user_agent, read=store.document)
        )
        obeyed = self.robots if asks_robots else None
        budgets = job.persist(
            "budgets",
            Budgets(
                store.document,
                allot=store.allot if store.is_shared else None,
                max_pages_per_host=options.max_pages_per_host,
                budgets=options.budgets,
            ),
        )
        job.on_commit(lambda checkpoint, receipt: budgets.settle())
        self.gate = Gate(
            clock=clock,
            scope=self.scope,
            throttle=self.throttle,
            queue=self.queue,
            budgets=budgets,
            robots=obeyed,
            fetch_robots=fetch_robots,
            max_pauses=options.max_pauses,
        )
        self.resources = Resources(clock, self.throttle, self.queue, obeyed)
        self.judge = Judge(clock, self.statistics, self.throttle, self.gate, options.accept_status)
        specimens = job.persist("specimens", Specimens())
        # Where others write the run, too, nobody here sees all items as they come.
        may_grow = options.output is not None and is_live(options.output) and not store.is_shared
        live = options.output if may_grow else None
        self.late_output: str | None = None
        if options.output is not None and live is None:
            # Imported here, since few crawls need it.
            from ..exporting.export import check_address

            check_address(options.output)
            self.late_output = _stays(options.output)
        self.items = job.persist("items", ItemWriter(live, stored=stored_items(job)))
        self.seeds = Seeds(
            job.persist("start", StartRequests()),
            job.persist("sitemaps", SitemapPlaces(read)),
            self.queue,
            self.statistics,
            job.settle,
            store,
            patiently=job.patiently,
        )
        self.following = Following(
            job, self.queue, self.statistics, self.scope, obeyed, max_depth=options.max_depth
        )
        self.endings = Endings(
            job,
            hooks,
            self.queue,
            self.throttle,
            self.statistics,
            specimens,
            self.gate,
            self.seeds,
            max_retries=options.max_retries,
            max_proxies=options.max_pauses,
        )
        self.allowance = Allowance(
            store, self.queue, self.statistics, options.max_pages, 2 * options.concurrency
        )
        self.retrying = FailureRetry(job, self.queue, self.statistics)
        self.feeder = Feeder(clock, job, self.queue, self.allowance, budgets.forget)

    # -- making what few crawls need, whose files are imported here for that reason ---------------

    def _archive(self, path: str | os.PathLike[str], options: Options, job: Job) -> WarcWriter:
        from ..exporting.warc import WarcWriter

        archive = WarcWriter(
            path, save=job.try_checkpoint, clock=job.clock, max_size=options.warc_size
        )
        job.on("persistState", archive.settle)
        return job.persist("warc", archive)

    def _metrics(self, address: str, options: Options) -> MetricsServer:
        from ..observing.metrics import metrics_text
        from ..observing.metricsserver import MetricsServer

        return MetricsServer(
            address, partial(metrics_text, self.statistics, {"crawler": options.name})
        )

    def _fetcher(
        self, options: Options, limits: Limits, proxies: ProxyPool, clock: Clock
    ) -> Fetcher:
        plain = AiohttpFetcher(
            limits=limits,
            user_agent=options.user_agent,
            headers=options.headers,
            allow_private=options.allow_private,
            proxies=proxies,
            credentials=Credentials(options.auth) if options.auth else None,
            cache=self.page_cache,
            recorder=self.warc,
            clock=clock,
        )
        fetcher = RenderingFetcher(
            plain,
            lambda: self._browser(options, limits, proxies),
            render=options.render,
            wait=options.render_wait,
            allow_private=options.allow_private,
            cache=self.page_cache,
        )
        if self.warc is not None:
            fetcher.record(self.warc, clock)
        if not options.traces:
            return fetcher
        from ..observing.tracing import TracingFetcher

        return TracingFetcher(fetcher, options.name)

    def _browser(self, options: Options, limits: Limits, proxies: ProxyPool) -> Fetcher:
        from ..rendering.fetcher import BrowserFetcher

        return BrowserFetcher(
            limits=limits,
            user_agent=options.user_agent,
            headers=options.headers,
            pages=options.render_pages,
            wait=options.render_wait,
            load_resources=options.render_resources,
            allow_private=options.allow_private,
            proxies=proxies,
            executable=options.chromium,
            manners=self.resources,
        )

    # -- beside the crawl, and after it -----------------------------------------------------------

    async def write_output(self, address: str) -> None:
        """Write all items to a file that cannot be written as they come."""
        # Imported here, since few crawls need it.
        from ..exporting.late import export_stored

        await export_stored(self._read, address)

    async def open(self) -> None:
        """Begin what goes on beside the crawl.

        Raises:
            CrawlkitError: The file for the items could not be written at the end.
        """
        if self.late_output is not None:
            # Imported here, since few crawls need it.
            from ..exporting.late import make_room

            make_room(self.late_output)
        await self.scope.open()
        if self.metrics is not None:
            await self.metrics.open()

    async def close(self) -> None:
        """Give back what was needed up to the last checkpoint."""
        if self.warc is not None:
            self.warc.close()
        if self.metrics is not None:
            await self.metrics.close()


def _stays(address: str) -> str:
    """A URL, or a file of the directory that the process is in now."""
    return address if "://" in address else os.path.abspath(address)


def job_of(options: Options, clock: Clock) -> Job:
    """The job in which a crawler runs."""
    return Job(
        options.store,
        persist_interval=options.persist_interval,
        grace=options.grace,
        store_patience=options.store_patience,
        durability=options.durability,
        clock=clock,
        triggers=options.triggers,
        preemption=options.preemption,
        mirror=options.mirror,
        mirror_interval=options.mirror_interval,
        worker=options.worker,
        lease=options.lease,
    )


def stored_items(job: Job) -> Callable[[], Iterator[bytes]]:
    """What the run has saved of items already."""

    def stored() -> Iterator[bytes]:
        reader = job.store.reader()
        try:
            yield from (item.data for item in reader.items())
        finally:
            reader.close()

    return stored

"""Gate: whether a request may be fetched now, and where it may be redirected to.

Scope, robots.txt, budgets and the pace of hosts each have a file of their own; here they are asked
in turn, for a request that was claimed and for every hop on its way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from ..checkpoint import Lease
from ..clock import Clock
from ..discovery.scope import Scope
from ..errors import FetchError, RobotsError, StoreError, one_line
from ..figures import span
from ..http.hops import origin_of
from ..politeness.budgets import Budgets
from ..politeness.robots import Robots
from ..politeness.throttle import Throttle
from ..queue import RequestQueue
from ..request import Request, host_of
from ..response import Response

log = logging.getLogger("crawlkit.politeness")

LONG = 5.0
"""Seconds of a pause that somebody who watches would wonder about."""
LATE = 0.005
"""Seconds by which a request starts late enough to count as another start."""


class HostPaused(Exception):
    """The host is to be left alone; the request goes back and it costs no retry.

    Attributes:
        failure: What the host answered, where that is the reason.
    """

    def __init__(self, failure: FetchError | None) -> None:
        super().__init__()
        self.failure = failure


class Gate:
    """Whether a request may be fetched now, and where it may be redirected to.

    Args:
        clock: The run's clock.
        scope: How far a redirect may lead.
        throttle: The pace of hosts.
        queue: What waits for hosts.
        budgets: How much of the crawl one host, or one kind of URL, may take.
        robots: What each host asks crawlers to leave alone; ``None`` where nobody is asked.
        fetch_robots: Fetches a robots.txt for a request that waits for it.
        max_pauses: Consecutive pauses of a host that cost no retry; and pauses of a host that
            answers others well, by one request.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        scope: Scope,
        throttle: Throttle,
        queue: RequestQueue,
        budgets: Budgets,
        robots: Robots | None,
        fetch_robots: Callable[[Request, str], Awaitable[Response]],
        max_pauses: int,
    ) -> None:
        self._clock = clock
        self._scope = scope
        self._throttle = throttle
        self._queue = queue
        self._budgets = budgets
        self._robots = robots
        self._fetch_robots = fetch_robots
        self._max_pauses = max_pauses
        # By request, for those that a host refuses by themselves. Not saved: what it has cost of
        # their retries is.
        self._refusals: dict[tuple[str, int], int] = {}

    async def refusal(self, lease: Lease) -> tuple[str, str] | None:
        """Why a request is not fetched at all: the rule, and what it says; ``None`` if it may be.

        Raises:
            HostPaused: Its host is in trouble; the request is to be put back.
            FetchError: Its host's robots.txt cannot be had.
            StoreError: The store cannot be read; the request was not let through.
        """
        request, budgets = lease.request, self._budgets
        began = self._clock.now()
        if budgets.is_limited and (limit := await budgets.take(lease.host, request.url)):
            return limit, budgets.told(limit, lease.host, request.url)
        # From here on it is held against its budgets, until `ended` says how it went.
        if self._robots is None:
            return None
        try:
            line = await self._robots_line(request, request.url)
        except StoreError:
            self.ended(lease, has_outcome=False)  # it was not let through
            raise
        if line:
            self.ended(lease, has_outcome=False)
            return "robots", f"{line} of {origin_of(request.url)}/robots.txt"
        if self._clock.now() - began > LATE:
            # It has waited for the store, and others may have started meanwhile.
            await self._turn(lease.host)
        return None

    def ended(self, lease: Lease, *, has_outcome: bool) -> None:
        """A request that was let through has its outcome, or goes back into the queue."""
        if has_outcome and self._refusals:
            self._refusals.pop((lease.host, lease.fingerprint), None)
        if self._budgets.is_limited:
            settle = self._budgets.spend if has_outcome else self._budgets.give_back
            settle(lease.host, lease.request.url)

    async def why_not_redirected(
        self, request: Request, from_url: str, to_url: str, is_private: bool = False
    ) -> str | None:
        """Why a redirect is not followed, or ``None``. Waits until the other host may be asked.

        Where a start request is redirected to is where the crawl begins: it has no scope yet.

        Args:
            request: What was redirected.
            from_url: From where.
            to_url: To where.
            is_private: Whether that may be at a private address, and its robots.txt with it.

        Raises:
            FetchError: The other host's robots.txt cannot be had.
        """
        if request.depth and (reason := self._scope.reason(to_url, from_url)):
            return reason
        if request.private != is_private:
            request = request.replace(private=is_private)
        if self._robots is not None and (line := await self._robots_line(request, to_url)):
            return f"robots: {line}"
        host = host_of(to_url)
        if host != host_of(from_url):
            # Not until a connection is free: two hosts whose pages redirect to each other would
            # both wait for the other one. It counts for the connections of the first one.
            await self._turn(host)
        return None

    async def _turn(self, host: str) -> None:
        """Wait until one more request to `host` may start, and count it for the pace there."""
        # In a loop: another who waits may have been quicker.
        while (wait := self._throttle.next_start(host) - self._clock.now()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(wait)
        self._throttle.started(host)
        self._throttle.finished(host)

    def pause(
        self,
        host: str,
        failure: FetchError,
        seconds: float | None,
        started_at: float,
        asked: int | None = None,
    ) -> None:
        """Leave a host alone for a while.

        Args:
            host: ``host[:port]``.
            failure: What it answered.
            seconds: For how long, where it said so.
            started_at: Unix time at which the request began that was so answered.
            asked: The fingerprint of the request; ``None`` for a robots.txt.

        Raises:
            HostPaused: It costs the request no retry, as the host has not asked for too many
                pauses, and not for too many because of this request.
        """
        before = self._throttle.strikes(host)
        until = self._throttle.pause(host, seconds, started_at=started_at)
        strikes, left = self._throttle.strikes(host), until - self._clock.now()
        if left >= LONG and strikes > before:
            log.info("%s is left alone for %s: %s", host, span(left), one_line(failure))
        refusals = 0
        if asked is not None:
            refusals = self._refusals.get((host, asked), 0)
            if strikes > before == 0:
                # The host has answered others well since its last pause: as far as one can tell, it
                # is this request that it refuses.
                refusals += 1
                self._refusals[host, asked] = refusals
        if strikes <= self._max_pauses and refusals <= self._max_pauses:
            raise HostPaused(failure)

    async def _robots_line(self, request: Request, url: str) -> str | None:
        """The line of a robots.txt that forbids the URL, if one does."""
        robots, host = self._robots, host_of(url)
        assert robots is not None
        rules, is_fetched = robots.peek(url), False
        if rules is None:
            started_at = self._clock.now()

            async def fetch(robots_url: str) -> Response:
                nonlocal is_fetched
                is_fetched = True
                return await self._fetch_robots(request, robots_url)

            try:
                rules = await robots.rules(url, fetch)
            except RobotsError as error:
                if host == request.host:
                    self.pause(host, error, error.retry_after, started_at)
                raise
        if self._throttle.meet(host, rules.crawl_delay):
            self._queue.rouse(host)
        line = rules.reason(url)
        if is_fetched and not line and self._throttle.next_start(host) > self._clock.now():
            # The robots.txt was a request as well; the pace of the host is that of both.
            raise HostPaused(None)
        return line

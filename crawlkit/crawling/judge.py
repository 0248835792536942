"""Judge: what an answer, or none, says about the session that asked and the host that was asked."""

from __future__ import annotations

from collections.abc import Iterable

from ..checkpoint import Lease
from ..clock import Clock
from ..errors import BlockedError, FetchError, FetchTimeoutError, OfflineError, ProxyError
from ..http.answers import failure_of, retry_after
from ..politeness.throttle import Throttle
from ..response import Response
from ..sessions import Session
from ..statistics import Statistics
from .gate import Gate

PAUSING = (429, 503)
"""Statuses with which a host asks to be left alone for a while."""


class Judge:
    """Counts each answer, and draws the conclusions.

    Args:
        clock: The run's clock.
        statistics: Where answers are counted.
        throttle: The pace of hosts.
        gate: What lets no request through to a host that is to be left alone.
        accept_status: Statuses from 400 on that are no failures.
    """

    def __init__(
        self,
        clock: Clock,
        statistics: Statistics,
        throttle: Throttle,
        gate: Gate,
        accept_status: Iterable[int] = (),
    ) -> None:
        self._clock = clock
        self._statistics = statistics
        self._throttle = throttle
        self._gate = gate
        self._accepted = frozenset(accept_status)

    def hear(self, response: Response, lease: Lease, session: Session, started_at: float) -> None:
        """An answer has come, from the site or from the page cache.

        Args:
            response: The answer.
            lease: The request.
            session: Who asked.
            started_at: Unix time at which the request started.

        Raises:
            HostPaused: The host asks to be left alone for a while.
            FetchError: The answer is a failure.
        """
        failure = None if response.status in self._accepted else failure_of(response)
        if failure is not None:
            failure.response = response
        if response.cache:
            size, is_stored = len(response.body), response.is_stored
            self._statistics.cached(lease.request.handler, response.cache, size, is_stored)
        if response.cache in ("hit", "stale"):
            self._throttle.refund(lease.host, started_at=started_at)
        else:
            self._conclude(response, failure, lease, session, started_at)
        if failure is not None:
            raise failure

    def miss(self, error: FetchError, lease: Lease, session: Session, started_at: float) -> None:
        """No answer has come."""
        if isinstance(error, FetchTimeoutError):
            self._throttle.measured(lease.host, self._clock.now() - started_at)
        if not isinstance(error, ProxyError | OfflineError):
            session.mark_bad()

    def _conclude(
        self,
        response: Response,
        failure: FetchError | None,
        lease: Lease,
        session: Session,
        started_at: float,
    ) -> None:
        host = lease.host
        if response.cache == "revalidated":
            self._statistics.received(host, 304, 0)
        else:
            self._statistics.received(host, response.status, len(response.body))
        if failure is None:
            session.mark_good()
            # After redirects it is not the latency of this host alone.
            latency = None if response.redirects else response.elapsed
            self._throttle.succeeded(host, started_at=started_at, latency=latency)
            return
        if isinstance(failure, BlockedError):
            session.mark_blocked(host)
        elif failure.retryable:
            session.mark_bad()
        if response.status in PAUSING:
            seconds = retry_after(response.headers, self._clock.now())
            self._gate.pause(host, failure, seconds, started_at, lease.fingerprint)

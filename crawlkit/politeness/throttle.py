"""Throttle: how fast each host is asked, and when it is left alone for a while."""

from __future__ import annotations

from heapq import heappop, heappush, nlargest
from math import inf

from ..checkpoint import Checkpoint, Saved
from ..clock import Clock
from ..stores.base import WHOLE
from .host import MAX_PAUSE, TEMPO_MEMORY, UNKNOWN, HeldBack, Host, Pause
from .shares import Shares
from .starts import LONG, Starts
from .tempo import Tempo


class Throttle:
    """How fast each host is asked. A persisted part: pauses and long delays outlive the process.

    A request for a host may start when fewer than `concurrency_per_host` are in flight there, when
    the last one started long enough ago, and when no pause is in force. The caller asks `ready_at`,
    and tells of each request `started` and `finished`, and of each answer `succeeded` or `pause`.

    How long ago the last one must have started is the largest of four delays:

    - `delay`, the same for each host.
    - What its robots.txt asks for with ``Crawl-delay`` (`meet`), `max_delay` at most. It is no part
      of RFC 9309; it is taken, as most do, as the seconds between the starts of two requests.
    - A *penalty* for 429 and 503: 0.25 s after the first pause, doubled by each further one. Each
      success takes 1/32 off. So a host with a limit that it does not tell is soon asked about as
      fast as it allows, with one refusal in ten to thirty answers, not with one in two.
    - What follows from how quickly it answers: nothing at all, for a host that answers quickly.
      One that answers much more slowly than at its best is overloaded; see `Tempo` for the law.

    A host that nothing is in flight for, and whose delay and pause are over, takes no memory; one
    that was asked much is remembered for a minute.

    Where several workers write the run, a host is one worker's, whole, or it is divided into
    shares: then each has its part of what may be in flight there, and waits so much longer between
    two starts (`share`, `split`). A host that goes from one worker to another takes its pace along,
    as `Checkpoint.rests` and `rest`.

    Args:
        clock: What delays and pauses are measured by.
        concurrency_per_host: Requests in flight at one host, at most.
        delay: Seconds between the starts of two requests to one host, at least.
        max_delay: Seconds that a host makes us wait between two starts, at most, whatever it asks
            for and however slow it is. A longer `delay` holds.
        is_shy: A host gets one request at a time until `meet` was called for it, which then has to
            be called for each: so no request starts before the first has read robots.txt.
        worker: The name of this process, where it is one of several that write the run.
        may_split: Whether hosts may be divided among workers.

    Attributes:
        local_delay: Seconds by which the event loop is late: the caller writes it, once a second.
        shares: Which part of each host is this worker's.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        concurrency_per_host: int = 8,
        delay: float = 0.0,
        max_delay: float = 60.0,
        is_shy: bool = False,
        worker: str = "",
        may_split: bool = True,
    ) -> None:
        self._clock = clock
        self._worker = worker
        self._may_split = may_split
        self._concurrency = concurrency_per_host
        self._delay = delay
        self._max_delay = max_delay
        self._first_limit = 1 if is_shy else concurrency_per_host
        self._first_asked = UNKNOWN if is_shy else None
        self.local_delay = 0.0
        self._hosts: dict[str, Host] = {}
        self._idle: list[tuple[float, str]] = []  # heap: when to forget which host
        self._starts = Starts(worker)
        self.shares = Shares()
        # What the next checkpoint takes along: hosts with another next start, the same for other
        # workers, and hosts with another pause.
        self._moved = self._starts.moved
        self._resting = self.shares.resting
        self._judged: set[str] = set()

    def __len__(self) -> int:
        """Hosts that take memory."""
        return len(self._hosts)

    def ready_at(self, host: str) -> float:
        """Unix time from which one more request to `host` may start.

        0.0 is now, and so is any time that has passed. ``math.inf`` is when one of those in flight
        is finished.
        """
        known = self._hosts.get(host)
        if known is None:
            return 0.0
        if known.in_flight >= known.limit:
            return inf
        start, pause = known.next_start, known.paused_until
        return start if start > pause else pause

    def next_start(self, host: str) -> float:
        """Unix time from which a request may start, but for how many are in flight; 0.0 is now."""
        known = self._hosts.get(host)
        return 0.0 if known is None else known.ready_at

    def paused_until(self, host: str) -> float:
        """Unix time until which `host` is left alone; one that has passed where it is not."""
        known = self._hosts.get(host)
        return 0.0 if known is None else known.paused_until

    def lend(self, host: str) -> bool:
        """Count something that a page loads as one more in flight; false where there is no room.

        `finished` gives it back. Delays are between pages, and nothing is said about them.
        """
        known = self._hosts.get(host) or self._add(host)
        if known.in_flight >= known.limit:
            return False
        known.in_flight += 1
        return True

    def started(self, host: str) -> None:
        """A request to `host` starts."""
        known = self._hosts.get(host)
        if known is None:
            if self._idle:
                self._forget_idle()
            known = self._add(host)
        known.in_flight += 1
        if known.pace:
            now = self._clock.now()
            known.next_before = known.next_start
            known.last_start = now
            known.next_start = now + known.pace
            if known.pace > LONG:
                self._moved.add(host)
            if self._worker:
                self._resting.add(host)

    def finished(self, host: str) -> None:
        """A request to `host` is over, however it ended. Once for each `started`."""
        known = self._hosts[host]
        known.in_flight -= 1
        if not known.in_flight:
            tempo = known.tempo
            if tempo is not None and tempo.is_known:
                known.keep_until = self._clock.now() + TEMPO_MEMORY
                self._watch(host, known)
            elif known.next_start or known.strikes or known.penalty:
                self._watch(host, known)
            elif not known.is_watched:
                del self._hosts[host]

    def refund(self, host: str, *, started_at: float | None = None) -> None:
        """The request that started did not reach `host`: it was refused, or answered by the cache.

        The next one may start as if it had not been. To be called before `finished`.

        Args:
            host: ``host[:port]``.
            started_at: Unix time at which it started, or a little later. With it, nothing is given
                back where another request has started since; without it, it was the last.
        """
        known = self._hosts.get(host)
        if known is not None and (started_at is None or started_at >= known.last_start):
            known.next_start = known.next_before

    def hold(self, host: str, seconds: float) -> None:
        """Start nothing more for `host` for a while, through no fault of its own.

        To be called while a request to it is in flight.
        """
        known = self._hosts.get(host)
        if known is not None:
            known.next_start = max(known.next_start, self._clock.now() + seconds)

    # -- how fast -----------------------------------------------------------------------------

    def meet(self, host: str, delay: float | None) -> bool:
        """It is known what the robots.txt of `host` asks for.

        To be called for each request before it reaches the host, as the host may have been
        forgotten in between. Where nothing is new it costs next to nothing.

        Args:
            host: ``host[:port]``.
            delay: Its ``Crawl-delay`` in seconds, or ``None``. What is no sensible time is none.

        Returns:
            Whether that was new, so that more requests may start now than `ready_at` said before.
        """
        known = self._hosts.get(host)
        if known is not None and known.asked == delay:
            return False
        wait = min(delay, self._max_delay) if delay and delay > 0.0 else 0.0
        if known is None:
            if wait:
                # A redirect is about to lead there: its start is the one that the delay follows.
                known = self._add(host)
                known.asked, known.crawl_delay = delay, wait
                known.pace = max(known.pace, wait)
                known.set_limit(self._concurrency)
                self._watch(host, known)
            return False
        known.asked, known.crawl_delay = delay, wait
        known.set_limit(self._concurrency)
        self._set_pace(host, known)
        if not known.crawl_delay:
            known.next_start = min(known.next_start, known.last_start + known.pace)
        return True

    def measured(self, host: str, seconds: float) -> None:
        """An answer of `host` took so many seconds. `succeeded` says it, too.

        By itself it is for a request that timed out: it has taken that long at least.
        """
        known = self._hosts.get(host)
        if known is None:
            return
        tempo = known.tempo
        if tempo is None:
            if known.in_flight < 2:
                return  # whoever is asked for one thing after the other sets the pace already
            tempo = known.tempo = Tempo(self._clock, self._concurrency, self._max_delay)
        if tempo.answered(seconds, self.local_delay):
            known.set_limit(self._concurrency)
            self._set_pace(host, known)

    def _set_pace(self, host: str, known: Host) -> None:
        """Decide it anew. A longer one is of interest after a restart, and to other workers."""
        if known.set_pace(self._delay, self._clock.now()):
            if known.pace > LONG:
                self._moved.add(host)
            if self._worker:
                self._resting.add(host)

    # -- several workers ----------------------------------------------------------------------

    def share(self, host: str, shares: int, gifts: int) -> None:
        """This worker has so many shares of `host`, as a claim says; see `Shares.take`."""
        shares = self.shares.take(host, shares, gifts)
        known = self._hosts.get(host)
        if known is not None and known.shares != shares:
            known.shares = shares
            known.set_limit(self._concurrency)
            self._set_pace(host, known)

    def split(self, host: str) -> None:
        """Another worker would take a share of `host`: give it half of this one's, if that is fine.

        It is where there is no delay and `Host.may_be_split` says so. The next checkpoint says it,
        once no more are in flight here than may be from then on.
        """
        known = self._hosts.get(host)
        if known is None or self._delay or not (self._may_split and self.shares.may_offer(host)):
            return
        if known.may_be_split(self._concurrency, self._clock.now()):
            known.shares = self.shares.offer(host)
            known.set_limit(self._concurrency)

    def rest(self, host: str, start: float, delay: float) -> None:
        """Another worker has asked `host`: no request starts before the Unix time `start`.

        Args:
            host: ``host[:port]``.
            start: When one may start.
            delay: Seconds from one start to the next, as it was there. As far as it is not what
                holds here anyway, it is taken for a penalty.
        """
        now = self._clock.now()
        start = min(start, now + MAX_PAUSE)
        known = self._hosts.get(host)
        if known is None:
            if start <= now and delay <= self._delay and start - delay + self._delay <= now:
                return
            known = self._add(host)
        known.rest(start, delay, self._max_delay)
        known.keep_until = now + TEMPO_MEMORY
        if not known.in_flight:
            self._watch(host, known)

    # -- pauses -------------------------------------------------------------------------------

    def pause(
        self, host: str, seconds: float | None = None, *, started_at: float | None = None
    ) -> float:
        """Leave `host` alone for a while: it answered 429 or 503.

        However many requests in flight are answered so, it counts as one pause. The first that
        comes after a pause counts as the next strike. After the pause the host is asked more
        slowly than before, see `Throttle`.

        Args:
            host: ``host[:port]``.
            seconds: How long, where the host says it (``Retry-After``), an hour at most. ``None``
                is 2 s, and twice as long at each strike without a success in between, up to 5 min.
            started_at: Unix time at which the request started that was so answered. With it, an
                answer that was slower than the pause still counts to the pause.

        Returns:
            Unix time until which the host is left alone.
        """
        now = self._clock.now()
        known = self._hosts.get(host) or self._add(host)
        is_new = not known.is_of_the_last_pause(now, started_at)
        if is_new:
            known.strike(now, self._max_delay)
            self._set_pace(host, known)
            if seconds is None:
                seconds = known.own_pause()
        if seconds is not None:
            until = now + min(max(seconds, 0.0), MAX_PAUSE)
            # Of several answers the one that asks for more is right, for it will be obeyed.
            if is_new or until > known.paused_until:
                known.paused_until = until
                self._judged.add(host)
                if self._worker:
                    self._resting.add(host)
        if not known.in_flight:
            self._watch(host, known)
        return known.paused_until

    def succeeded(
        self, host: str, *, started_at: float | None = None, latency: float | None = None
    ) -> None:
        """A request to `host` was answered well: its strikes are forgotten, its penalty shrinks.

        Not so while a pause is in force, or where the request started before it (`started_at`):
        it shows nothing about how the host is after the pause.

        Args:
            host: ``host[:port]``.
            started_at: Unix time at which the request started.
            latency: Seconds that the host took to answer.
        """
        if latency is not None:
            self.measured(host, latency)
        known = self._hosts.get(host)
        if known is None or not (known.strikes or known.penalty):
            return
        if not known.is_of_the_last_pause(self._clock.now(), started_at):
            if known.recover():
                self._judged.add(host)
            self._set_pace(host, known)

    def strikes(self, host: str) -> int:
        """Consecutive pauses of `host` without a success in between."""
        known = self._hosts.get(host)
        return known.strikes if known is not None else 0

    def held_back(self, most: int) -> list[HeldBack]:
        """Hosts that are asked more slowly than they might be, those that rest longest first.

        Args:
            most: How many of them.
        """
        now = self._clock.now()
        hosts = (
            HeldBack(host, known.in_flight, known.limit, known.pace, pause, known.strikes)
            for host, known in self._hosts.items()
            if (pause := max(0.0, known.paused_until - now))
            or known.pace > self._delay
            or known.strikes
        )
        return nlargest(most, hosts, key=lambda host: (host.pause, host.delay))

    # -- memory -------------------------------------------------------------------------------

    def _add(self, host: str) -> Host:
        known = self._hosts[host] = Host(self._first_limit, self._delay, self._first_asked)
        if self.shares:
            known.shares = self.shares.of(host)
            known.set_limit(self._concurrency)
            known.pace *= WHOLE / known.shares
        return known

    def _watch(self, host: str, known: Host) -> None:
        """See to it that an idle host is forgotten when its time is over."""
        if not known.is_watched:
            known.is_watched = True
            heappush(self._idle, (known.matters_until, host))

    def _forget_idle(self) -> None:
        """Forget up to two hosts whose time is over: more than can come at one call."""
        now = self._clock.now()
        for _ in range(2):
            if not self._idle or self._idle[0][0] > now:
                return
            _, host = heappop(self._idle)
            known = self._hosts[host]
            known.is_watched = False
            if known.in_flight:
                continue
            if known.matters_until > now:
                self._watch(host, known)
                continue
            del self._hosts[host]
            if known.is_in_trouble:
                self._judged.add(host)

    # -- a persisted part ---------------------------------------------------------------------

    def restore(self, saved: Saved) -> None:
        """Take back the pauses and the long delays of the last life.

        The clock may have been set back in between; neither gets any longer by that.
        """
        now = self._clock.now()
        for key in tuple(saved.keys()):
            kind, _, host = key.partition("/")
            if kind == "pauses":
                known = self._add(host)
                known.resume(saved.load(key=key, type=Pause), now, self._max_delay)
                self._watch(host, known)
        for host, start in self._starts.restore(saved, now):
            known = self._hosts.get(host) or self._add(host)
            known.next_start = known.next_before = max(known.next_start, start)
            self._watch(host, known)

    def collect(self, checkpoint: Checkpoint) -> None:
        """Add what changed: a document for each pause, and one for all the next starts."""
        if self._worker:
            self.shares.collect(checkpoint, self._hosts)
        for host in self._judged:
            known = self._hosts.get(host)
            if known is None or not known.is_in_trouble:
                checkpoint.drop(f"pauses/{host}")
            else:
                checkpoint.save(known.pause(), key=f"pauses/{host}")
        self._judged.clear()
        self._starts.collect(checkpoint, self._hosts, self._clock.now())

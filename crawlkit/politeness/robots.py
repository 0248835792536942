"""Robots: the robots.txt of each origin, fetched once and kept (RFC 9309).

What a robots.txt says is in `robotstext`, what it forbids in `rules`. Here is when it is asked for,
and what the answer means:

- 2xx: the rules that it has. 4xx but 429, and redirects without end: there are none, everything is
  allowed (section 2.3.1.3).
- 5xx and 429: the origin is in trouble and nothing is fetched from it for now (2.3.1.4), unless an
  older copy is known, which then goes on to hold, for up to 30 days.
- No answer at all: likewise, but that the error is the one of the fetch.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from ..checkpoint import Checkpoint, Document, Saved
from ..clock import Clock
from ..errors import FetchError, RedirectError, RobotsError
from ..http.answers import retry_after
from ..request import host_of
from ..response import Response
from .robotstext import RobotsText, parse, product_token
from .rules import Rules

MAX_AGE = 24 * 3600.0
"""Seconds after which a robots.txt is asked for again (section 2.4)."""
MIN_AGE = 3600.0
"""Seconds for which it is not asked for again, whatever its Cache-Control says: a site that forbids
caching everywhere does not mean to be asked before each page."""
MAX_STALE = 30 * 24 * 3600.0
"""Seconds for which an older copy holds while the origin is in trouble (section 2.3.1.4)."""
TROUBLE = 60.0
"""Seconds until an origin in trouble is asked again, where it does not say how long."""
PARSE_DEADLINE = 5.0
"""Seconds that a robots.txt may take to be read. It takes a quarter of one at worst, so this is for
machines on which nothing moves. The origin then counts as one in trouble."""
MAX_ORIGINS = 1000
MAX_RULES = 200_000
"""What is kept in memory of those used last; the store has the rest."""

_LARGE = 16 * 1024  # bytes that would keep the event loop for longer than 2 ms
_MAX_AGE = re.compile(r"(?:^|[\s,])max-age\s*+=\s*+\"?([0-9]{1,9})", re.IGNORECASE)
_NO_CACHE = re.compile(r"(?:^|[\s,])no-(?:cache|store)\b", re.IGNORECASE)

Fetch = Callable[[str], Awaitable[Response]]
"""Fetches a robots.txt by its URL: follows at least five redirects, also to other hosts, and may
cut the body at `MAX_BODY`."""


class _Copy(msgspec.Struct, omit_defaults=True):
    """A robots.txt as it is saved.

    Attributes:
        token: The crawler that it was read for; to another one it says something else.
        at: Unix time at which it was fetched.
        until: Unix time until which it is not asked for again.
        text: What it says.
    """

    token: str
    at: float
    until: float
    text: RobotsText = RobotsText()


class _Known:
    """A robots.txt in memory."""

    __slots__ = ("at", "rules", "until")

    def __init__(self, rules: Rules, at: float, until: float) -> None:
        self.rules = rules
        self.at = at
        self.until = until


class _Loading:
    """A robots.txt on its way, and how many wait for it."""

    __slots__ = ("task", "waiting")

    def __init__(self, task: asyncio.Task[Rules]) -> None:
        self.task = task
        self.waiting = 0


class Robots:
    """The rules of every origin. A persisted part: what was fetched is there after a restart.

    Args:
        clock: What ages are measured by.
        user_agent: The crawler's ``User-Agent`` header; its name in it (`product_token`) says
            which rules are for it.
        read: Reads a document from the store by its name.

    Attributes:
        token: The crawler's name.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        user_agent: str,
        read: Callable[[str], Awaitable[Document | None]],
    ) -> None:
        self.token = product_token(user_agent)
        self._clock = clock
        self._read = read
        # By origin. Ordered, the one used last at the end.
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._rule_count = 0
        self._trouble: OrderedDict[str, tuple[float, str]] = OrderedDict()
        self._loading: dict[str, _Loading] = {}
        self._changed: dict[str, bytes] = {}
        # Handed over but perhaps not yet committed: the store may still say what was before.
        self._handed: dict[str, bytes] = {}

    # -- asking -------------------------------------------------------------------------------

    def peek(self, url: str) -> Rules | None:
        """The rules of the URL's origin where they are at hand, in about half a microsecond.

        Args:
            url: In canonical form.
        """
        origin = url[: url.find("/", 8)]
        known = self._known.get(origin)
        if known is None or known.until <= self._clock.now():
            return None
        self._known.move_to_end(origin)
        return known.rules

    async def rules(self, url: str, fetch: Fetch) -> Rules:
        """The rules of the URL's origin: from memory, from the store, or fetched.

        However many ask at once, it is fetched once, and a caller that is cancelled takes nothing
        from the others.

        Args:
            url: In canonical form.
            fetch: Fetches the robots.txt, if it has to be.

        Raises:
            RobotsError: The origin is in trouble; ``retry_after`` says when to try again. Until
                then it is not asked again.
            FetchError: What `fetch` raised, but for redirects without end.
        """
        rules = self.peek(url)
        if rules is not None:
            return rules
        origin = url[: url.find("/", 8)]
        self._raise_if_in_trouble(origin)
        loading = self._loading.get(origin)
        if loading is None:
            task = asyncio.create_task(self._load(origin, fetch))
            loading = self._loading[origin] = _Loading(task)
            task.add_done_callback(lambda task: self._loaded(origin, task))
        loading.waiting += 1
        try:
            return await asyncio.shield(loading.task)
        finally:
            loading.waiting -= 1
            if not loading.waiting and not loading.task.done():
                # Nobody is left who would want it. Whoever comes next begins anew.
                del self._loading[origin]
                loading.task.cancel()

    def _loaded(self, origin: str, task: asyncio.Task[Rules]) -> None:
        loading = self._loading.get(origin)
        if loading is not None and loading.task is task:
            del self._loading[origin]
        if not task.cancelled():
            task.exception()  # the callers have it; if all of them left, nobody misses it

    # -- finding ------------------------------------------------------------------------------

    async def _load(self, origin: str, fetch: Fetch) -> Rules:
        """The rules of an origin that are not at hand, or not any more."""
        old = self._known.get(origin) or await self._saved(origin)
        if old is not None and old.until > self._clock.now():
            return self._keep(origin, old)
        url = f"{origin}/robots.txt"
        try:
            response = await fetch(url)
        except RedirectError:
            return await self._take(origin, b"", url, {})
        except FetchError:
            if (rules := self._stale(origin, old)) is not None:
                return rules
            raise
        status = response.status
        if status >= 500 or status == 429:
            if (rules := self._stale(origin, old)) is not None:
                return rules
            wait = retry_after(response.headers, self._clock.now())
            wait = TROUBLE if wait is None else wait
            raise self._trouble_with(origin, f"answers with HTTP {status}", wait)
        body = response.body if 200 <= status < 300 else b""
        return await self._take(origin, body, response.url, response.headers)

    async def _saved(self, origin: str) -> _Known | None:
        """The copy that the store has, or is about to have."""
        data = self._changed.get(origin) or self._handed.get(origin)
        if data is None:
            document = await self._read(f"robots/{origin}")
            if document is None or document.version != 1:
                return None
            data = document.data
        try:
            if len(data) > _LARGE:
                copy, rules = await asyncio.to_thread(_restored, data)
            else:
                copy, rules = _restored(data)
        except msgspec.DecodeError:
            return None  # it can be had again
        if copy.token != self.token:
            return None
        # A clock that was set back since must not make it hold for longer.
        at = min(copy.at, self._clock.now())
        return _Known(rules, at, min(copy.until, at + MAX_AGE))

    async def _take(self, origin: str, body: bytes, url: str, headers: Mapping[str, str]) -> Rules:
        """What was served, from now on."""
        now = self._clock.now()
        copy = _Copy(self.token, now, now + _lifetime(headers))
        if len(body) <= _LARGE:
            data, rules = _read(copy, body, url)
        else:
            try:
                async with asyncio.timeout(PARSE_DEADLINE):
                    data, rules = await asyncio.to_thread(_read, copy, body, url)
            except TimeoutError:
                what = f"took longer than {PARSE_DEADLINE:g} s to read"
                raise self._trouble_with(origin, what, MIN_AGE) from None
        self._changed[origin] = data
        return self._keep(origin, _Known(rules, copy.at, copy.until))

    def _keep(self, origin: str, known: _Known) -> Rules:
        """Have it at hand, and forget what was not used for longest where there is too much."""
        self._forget(origin)
        self._known[origin] = known
        self._rule_count += len(known.rules)
        while len(self._known) > 1 and (
            len(self._known) > MAX_ORIGINS or self._rule_count > MAX_RULES
        ):
            self._forget(next(iter(self._known)))
        return known.rules

    def _forget(self, origin: str) -> None:
        known = self._known.pop(origin, None)
        if known is not None:
            self._rule_count -= len(known.rules)

    # -- trouble ------------------------------------------------------------------------------

    def _stale(self, origin: str, old: _Known | None) -> Rules | None:
        """The rules of an older copy, which go on to hold for a while, if there is one."""
        now = self._clock.now()
        if old is None or now - old.at > MAX_STALE:
            return None
        return self._keep(origin, _Known(old.rules, old.at, now + MIN_AGE))

    def _trouble_with(self, origin: str, what: str, seconds: float) -> RobotsError:
        """Leave the origin alone for so many seconds; the error that says so."""
        self._trouble[origin] = (self._clock.now() + seconds, what)
        self._trouble.move_to_end(origin)
        if len(self._trouble) > MAX_ORIGINS:
            self._trouble.popitem(last=False)
        return _in_trouble(origin, what, seconds)

    def _raise_if_in_trouble(self, origin: str) -> None:
        if origin in self._trouble:
            until, what = self._trouble[origin]
            seconds = until - self._clock.now()
            if seconds > 0:
                raise _in_trouble(origin, what, seconds)
            del self._trouble[origin]

    # -- a persisted part ---------------------------------------------------------------------

    def restore(self, saved: Saved) -> None:
        """Nothing to take back: copies are read when they are asked for."""

    def collect(self, checkpoint: Checkpoint) -> None:
        """Hand over what was fetched since the last call, a document for each origin."""
        self._handed, self._changed = self._changed, {}
        for origin, data in self._handed.items():
            checkpoint.documents[f"robots/{origin}"] = Document(1, data)


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Copy).decode


def _read(copy: _Copy, body: bytes, url: str) -> tuple[bytes, Rules]:
    """What is saved of a robots.txt that was served, and its rules. Runs in a thread, if large."""
    copy.text = parse(body, copy.token, url)
    return _encode(copy), Rules(copy.text)


def _restored(data: bytes) -> tuple[_Copy, Rules]:
    """A copy that was saved, and its rules. Runs in a thread, if large."""
    copy = _decode(data)
    return copy, Rules(copy.text)


def _in_trouble(origin: str, what: str, seconds: float) -> RobotsError:
    return RobotsError(
        f"the robots.txt of {host_of(origin)} {what}, so nothing may be fetched there; it is "
        f"asked again in {seconds:.0f} s",
        seconds,
    )


def _lifetime(headers: Mapping[str, str]) -> float:
    """Seconds for which a robots.txt is not asked for again."""
    control = headers.get("Cache-Control", "")
    if _NO_CACHE.search(control):
        return MIN_AGE
    match = _MAX_AGE.search(control)
    return MAX_AGE if match is None else min(max(float(match[1]), MIN_AGE), MAX_AGE)

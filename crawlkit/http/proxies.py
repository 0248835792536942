"""ProxyPool: which proxy a request goes through, and which one is rested.

One visitor has one address. A session is given a proxy when it first needs one and keeps it, for a
site that meets one cookie from two addresses has met a crawler. So where a proxy fails, its
sessions do not move: they rest with it, and others, which go through other proxies, take over
(`ProxyPool.suits`, which the session pool asks). Only a session that nothing can stand in for moves
to another proxy with its cookies: one that a request asks for by its id, or one in the middle of a
redirect.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

from ..clock import Clock, isoformat
from ..discovery.scope import UrlPattern, matcher
from ..errors import OptionError, ProxyError
from ..request import host_of

if TYPE_CHECKING:
    from ..sessions import Session

FIRST_REST = 10.0
"""Seconds for which a proxy that failed is rested; twice as long at each failure after a rest."""
MAX_REST = 600.0
"""Seconds for which a proxy is rested at most."""
BREAKS = 2
"""Connections through a proxy that broke one after the other before it is suspected."""
HOSTS = 3
"""Hosts to which they broke; so many are not all to blame."""
EVIDENCE = 60.0
"""Seconds for which an answer of a host through another proxy shows that the host is well."""
MAX_OTHERS = 1000
"""Proxies outside of the option, as sessions were given them by hand, whose rest is remembered."""

SCHEMES = ("http", "https", "socks5", "socks5h")

Proxies: TypeAlias = Sequence[str] | Mapping[UrlPattern, str | Iterable[str] | None]
"""URLs of proxies, or by patterns of URLs a proxy, several, or ``None`` for a direct connection."""

log = logging.getLogger("crawlkit.http.proxies")


class ProxyPool:
    """Which proxy a request goes through.

    The proxies of one pattern are a group; those of a plain list are one, for every URL. The first
    pattern that matches a URL decides; where none does, the connection is direct. Within a group
    each session that is new there takes the next proxy that does not rest, and keeps it.

    A proxy that fails is rested: 10 s, then twice as long at each failure after a rest, up to 10
    minutes. A success ends that. Failures during a rest count to the failure that began it.

    A connection that was made and then breaks may be the fault of the proxy or of the site, and
    nothing on it says whose. So the first one is taken for the site's, but other proxies go first
    for a minute. Where another follows without a success of that proxy in between, it is the
    proxy's if the site has answered through another one within a minute, or if connections to three
    hosts broke in a row.

    Args:
        clock: What rests are measured by.
        proxies: URLs of proxies (``http``, ``https``, ``socks5``, and ``socks5h``, where the proxy
            looks names up; each with ``user:password@`` or without), or a mapping of URL patterns,
            as in ``include``, to one, several or ``None`` for a direct connection.

    Raises:
        OptionError: A proxy or a pattern that cannot be used. Credentials are not shown.
    """

    def __init__(self, clock: Clock, proxies: Proxies = ()) -> None:
        self._clock = clock
        self._rests: dict[str, _Rest] = {}
        self._breaks: dict[str, _Breaks] = {}
        self._answered: dict[str, tuple[str, float]] = {}  # by host: through which proxy, and when
        self._groups: dict[str, _Group] = {}
        if isinstance(proxies, Mapping):
            for pattern, given in proxies.items():
                key = pattern if isinstance(pattern, str) else f"re:{pattern.pattern}"
                urls = () if given is None else _urls(given)
                if given is not None and not urls:
                    raise OptionError(
                        f"proxies has none for {key!r}; give one, or None for a direct connection"
                    )
                self._groups[key] = _Group(key, matcher("proxies", pattern), urls)
        elif urls := _urls(proxies):
            self._groups["**"] = _Group("**", None, urls)
        self._known = {url for group in self._groups.values() for url in group.urls}

    def __repr__(self) -> str:
        return f"<ProxyPool of {len(self._known)}, {len(self._rests)} rested>"

    @property
    def largest(self) -> int:
        """Proxies of the largest group: so many sessions use them all."""
        return max((len(group.urls) for group in self._groups.values()), default=0)

    # -- which one ----------------------------------------------------------------------------

    def pick(self, url: str, session: Session) -> str | None:
        """The proxy for a request of `session` to `url`; ``None`` is a direct connection.

        ``session.proxy``, which users set, goes before everything.

        Args:
            url: Where the request goes, in canonical form.
            session: Who makes it. It keeps the proxy that it is given.

        Raises:
            ProxyError: All that could be used rest. The message says until when, and so does the
                error's ``retry_after``, in seconds.
            OptionError: ``session.proxy`` is no URL of a proxy.
        """
        if session.proxy is not None:
            own = checked(session.proxy)
            if self._rests and self._is_resting(own):
                raise self._all_rest(url, (own,))
            return own
        group = self._group(url)
        if group is None:
            return None
        kept = group.by_name.get(session.proxies.get(group.key, ""))
        if kept is not None and not (self._rests and self._is_resting(kept)):
            return kept
        proxy = group.next(self._is_shunned) or group.next(self._is_resting)
        if proxy is None:
            raise self._all_rest(url, group.urls)
        session.proxies[group.key] = group.urls[proxy]
        return proxy

    def suits(self, url: str, session: Session) -> bool:
        """Whether `session` is the one for `url`, as far as proxies go.

        Not so while its proxy rests, or has just broken something off, and another would do, which
        is that of another session.
        """
        if not (self._rests or self._breaks) or session.proxy is not None:
            return True
        group = self._group(url)
        if group is None:
            return True
        kept = group.by_name.get(session.proxies.get(group.key, ""))
        return kept is None or not self._is_shunned(kept) or all(map(self._is_shunned, group.urls))

    def keeps(self, session: Session) -> bool:
        """Whether a session of an earlier life can go on as the visitor that it was.

        That is, whether the proxies that it had are still there, and whether what it has cookies of
        was not met without a proxy that is now in between.
        """
        groups = self._groups
        if any(
            key not in groups or name not in groups[key].by_name
            for key, name in session.proxies.items()
        ):
            return False
        if session.proxy is None and session.has_cookies:
            for domain in session.cookies.domains:
                found = {self._group(f"{scheme}://{domain}/") for scheme in ("http", "https")}
                keys = {group.key for group in found if group is not None}
                if keys and not keys & session.proxies.keys():
                    return False
        return True

    def ready_in(self, url: str, session: Session) -> float:
        """Seconds until there is a proxy for a request of `session` to `url`; 0.0 is now."""
        if session.proxy is not None:
            return self._ready_in((session.proxy,))
        group = self._group(url)
        return 0.0 if group is None else self._ready_in(group.urls)

    def strikes(self, url: str, session: Session) -> int:
        """How often in a row the best proxy for a request of `session` to `url` has failed."""
        group = None if session.proxy is not None else self._group(url)
        urls = (session.proxy or "",) if group is None else group.urls
        return min(rest.strikes if (rest := self._rests.get(url)) else 0 for url in urls)

    def _group(self, url: str) -> _Group | None:
        for group in self._groups.values():
            if group.matches is None or group.matches(url):
                return group if group.urls else None
        return None

    # -- how they are -------------------------------------------------------------------------

    def failed(self, proxy: str, *, started_at: float | None = None) -> None:
        """`proxy` could not be reached, or would not do its work: rest it.

        Args:
            proxy: As `pick` gave it.
            started_at: Unix time at which the request started that met it so. With it, a failure
                that took longer than the rest still counts to the failure that began the rest.
        """
        now = self._clock.now()
        rest = self._rests.pop(proxy, None)
        if rest is None:
            rest = _Rest()
        # Put back at the end: the first is the one that has not failed for longest.
        self._rests[proxy] = rest
        if now < rest.until or (started_at is not None and started_at <= rest.since):
            return
        rest.strikes += 1
        # Beyond 2 ** 20 it is the maximum anyway, and a float would overflow at last.
        seconds = min(FIRST_REST * 2.0 ** min(rest.strikes - 1, 20), MAX_REST)
        rest.since, rest.until = now, now + seconds
        log.warning(
            "proxy %s failed, %d in a row; it is rested for %g s",
            shown(proxy),
            rest.strikes,
            seconds,
        )
        _bound(self._rests, len(self._known) + MAX_OTHERS)

    def broke(self, proxy: str, host: str) -> bool:
        """A connection through `proxy` to a host was made, and broke; whether that is its fault."""
        breaks = self._breaks.get(proxy)
        if breaks is None:
            breaks = self._breaks[proxy] = _Breaks()
            _bound(self._breaks, len(self._known) + MAX_OTHERS)
        breaks.count += 1
        breaks.at = self._clock.now()
        if len(breaks.hosts) < HOSTS:
            breaks.hosts.add(host)
        if breaks.count < BREAKS:
            return False
        other, at = self._answered.get(host, (proxy, 0.0))
        is_well = other != proxy and self._clock.now() - at < EVIDENCE
        return is_well or len(breaks.hosts) >= HOSTS

    def worked(self, proxy: str, host: str) -> None:
        """`proxy` did its work for a host: whatever it failed at before is forgotten."""
        if self._rests:
            self._rests.pop(proxy, None)
        if self._breaks:
            self._breaks.pop(proxy, None)
        self._answered[host] = proxy, self._clock.now()
        _bound(self._answered, MAX_OTHERS)

    def _is_resting(self, proxy: str) -> bool:
        rest = self._rests.get(proxy)
        return rest is not None and self._clock.now() < rest.until

    def _is_shunned(self, proxy: str) -> bool:
        """Whether another one goes first: it rests, or broke and did not do its work since."""
        if self._is_resting(proxy):
            return True
        breaks = self._breaks.get(proxy)
        return breaks is not None and self._clock.now() - breaks.at < EVIDENCE

    def _ready_in(self, urls: Iterable[str]) -> float:
        now = self._clock.now()
        return min(
            max(rest.until - now, 0.0) if (rest := self._rests.get(url)) else 0.0 for url in urls
        )

    def _all_rest(self, url: str, proxies: Iterable[str]) -> ProxyError:
        first = min(proxies, key=lambda proxy: self._rests[proxy].until)
        until = self._rests[first].until
        return ProxyError(
            f"every proxy for {host_of(url)} has failed and rests, {shown(first)} until "
            f"{isoformat(until)}; see that they run, or give others",
            shown(first),
            max(until - self._clock.now(), 0.0),
        )


class _Rest:
    """That a proxy failed, and until when it is left alone."""

    __slots__ = ("since", "strikes", "until")

    def __init__(self) -> None:
        self.strikes = 0
        self.since = 0.0
        self.until = 0.0


class _Breaks:
    """Connections through a proxy that broke, one after the other."""

    __slots__ = ("at", "count", "hosts")

    def __init__(self) -> None:
        self.at = 0.0
        self.count = 0
        self.hosts: set[str] = set()


class _Group:
    """The proxies of one pattern. None of them is a direct connection.

    Attributes:
        key: The pattern, which sessions remember their proxy of this group by.
        matches: Whether a URL belongs here; ``None`` where every one does.
        urls: The proxies' URLs, each with its name.
        by_name: The other way round.
    """

    __slots__ = ("_turn", "by_name", "key", "matches", "urls")

    def __init__(
        self, key: str, matches: Callable[[str], object] | None, urls: tuple[str, ...]
    ) -> None:
        self.key = key
        self.matches = matches
        self.by_name: dict[str, str] = {}
        for url in dict.fromkeys(urls):
            name, number = _nameless(url), 1
            while name in self.by_name:
                # Gateways may choose the address that they go out by from the password.
                number += 1
                name = f"{_nameless(url)}#{number}"
            self.by_name[name] = url
        self.urls = {url: name for name, url in self.by_name.items()}
        self._turn = deque(self.urls)

    def next(self, is_resting: Callable[[str], bool]) -> str | None:
        """The next one that does not rest, if any."""
        for _ in range(len(self._turn)):
            proxy = self._turn[0]
            self._turn.rotate(-1)
            if not is_resting(proxy):
                return proxy
        return None


def _bound(remembered: dict[str, Any], size: int) -> None:
    """Forget the oldest where there are too many."""
    if len(remembered) > size:
        del remembered[next(iter(remembered))]


def _urls(given: str | Iterable[str]) -> tuple[str, ...]:
    """One proxy or several, each of which can be used."""
    try:
        return tuple(map(checked, (given,) if isinstance(given, str) else given))
    except TypeError:
        raise OptionError("proxies are neither URLs nor a mapping of patterns to URLs") from None


def checked(proxy: str) -> str:
    """The URL of a proxy, which can be used.

    Raises:
        OptionError: It cannot.
    """
    try:
        parts = urlsplit(proxy)
        is_usable = (
            parts.scheme in SCHEMES
            and bool(parts.hostname)
            and parts.port != 0
            and (parts.port is not None or parts.scheme in ("http", "https"))
            and parts.path in ("", "/")
            and not (parts.query or parts.fragment)
            and proxy.isprintable()
            and " " not in proxy
        )
    except (ValueError, AttributeError, TypeError):
        is_usable = False
    if not is_usable:
        # The URL is not shown, for it may hold a password.
        raise OptionError(
            "a proxy cannot be used; give each as http://[user:password@]host:port, or with "
            "https, socks5 or socks5h"
        )
    return proxy


def place_of(proxy: str | None) -> str:
    """A proxy's ``host[:port]``, without its credentials, whatever stands in them."""
    return (proxy or "").rpartition("://")[2].rpartition("@")[2].partition("/")[0]


def shown(proxy: str | None) -> str:
    """A proxy's address without its credentials, for people."""
    scheme, separator, _ = (proxy or "").partition("://")
    return f"{scheme}://{place_of(proxy)}" if separator else place_of(proxy)


def _nameless(proxy: str) -> str:
    """A proxy without its password, as sessions remember it; the user's name may stand for it."""
    credentials, at, _ = proxy.partition("://")[2].rpartition("@")
    user = credentials.partition(":")[0]
    scheme, _, place = shown(proxy).partition("://")
    return f"{scheme}://{user}{at if user else ''}{place}"

"""Freshness: what a private cache may keep and use, by the rules of HTTP.

The rules are those of RFC 9111 (HTTP Caching), with ``stale-if-error`` of RFC 5861. ``immutable``
of RFC 8246 asks for nothing here: a fresh response is never asked for again.
``stale-while-revalidate`` of RFC 5861 is not taken up: the site would be asked all the same, but
beside the pace of its host, and the crawl would get the older page. Pure decisions: nothing here
waits, reads a clock or keeps anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TypeAlias

import msgspec
from multidict import CIMultiDict, MultiMapping

from ..response import http_date as read_date

Fields: TypeAlias = MultiMapping[str]
"""Header fields, by name in any case."""

MAX_HEURISTIC = 7 * 86400.0
"""Seconds for which a response without a lifetime of its own is fresh at most: a week."""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})

_FOREVER = 2.0**31
"""What a lifetime that is too large to be counted stands for (RFC 9111, section 1.2.2)."""
_HEURISTIC = frozenset({200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501})
"""Statuses that are good for a while where nothing is said (RFC 9110, section 15.1)."""
_UNDERSTOOD = _HEURISTIC | {201, 202, 302, 303, 307, 400, 401, 403, 406, 500, 502, 503, 504}
"""Statuses whose rules for caches are followed here, as ``must-understand`` asks."""
_NEVER = frozenset({304, 428, 429, 431, 511})
"""Statuses that are not kept: no response of its own, and those of RFC 6585."""

_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authentication-info"}
    | {"proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
)
_OF_THE_BODY = frozenset({"content-encoding", "content-length", "content-md5", "content-range"})
"""Fields that describe the body that is kept, so that a 304 has nothing to say about them."""

_VALIDATORS = frozenset({"etag", "last-modified"})

_MEMBER = re.compile(r'(?:[^,"]++|"(?:[^"\\]++|\\.)*+"?)++')
_QUOTED_PAIR = re.compile(r"\\(.)")
_DIGITS = re.compile(r"[0-9]+")
_ETAG = re.compile(r'(?:W/)?"[^"]*"')


# Pages that arrive in the same second have the same Date.
http_date = lru_cache(maxsize=1024)(read_date)


# -- Cache-Control ------------------------------------------------------------------------------


def directives(fields: Iterable[str]) -> Mapping[str, str | None]:
    """The directives of ``Cache-Control`` fields by their names in lower case.

    Of two directives with one name the first holds (RFC 9111, section 4.2.1).
    """
    return _directives(",".join(fields))


@lru_cache(maxsize=1024)
def _directives(text: str) -> Mapping[str, str | None]:
    """Few texts are seen in a crawl, so that parsing one again is rare."""
    found: dict[str, str | None] = {}
    for member in _MEMBER.findall(text):
        # There is no space around the "=" of a directive: "max-age =1" is another one.
        name, mark, value = member.strip().partition("=")
        if len(value) > 1 and value[0] == value[-1] == '"':
            value = _QUOTED_PAIR.sub(r"\1", value[1:-1])
        found.setdefault(name.lower(), value if mark else None)
    return found


def _seconds(control: Mapping[str, str | None], name: str) -> float | None:
    """The seconds of a directive, ``None`` where it is not there.

    What is no number is 0, which makes a response stale (RFC 9111, section 4.2.1).
    """
    if name not in control:
        return None
    return _delta(control[name] or "") or 0.0


def _delta(text: str) -> float | None:
    """``delta-seconds`` (RFC 9111, section 1.2.2)."""
    if _DIGITS.fullmatch(text) is None:
        return None
    return min(float(text[:20]), _FOREVER)


# -- what is kept -------------------------------------------------------------------------------


def is_storable(method: str, asked: Fields | None, status: int, headers: Fields) -> bool:
    """Whether a private cache may keep a response (RFC 9111, section 3).

    Args:
        method: The request's method.
        asked: The request's header fields.
        status: The response's status.
        headers: The response's header fields.
    """
    if method not in ("GET", "HEAD") or status < 200 or status in _NEVER:
        return False
    if asked is not None and "no-store" in directives(asked.getall("Cache-Control", ())):
        return False
    if status == 206 and not (is_for_part(asked) and "Content-Range" in headers):
        return False  # a part that nobody asked for, or that does not say which one it is
    if "Vary" in headers and "*" in vary_names(headers):
        return False  # it would match no request, ever
    control = directives(headers.getall("Cache-Control", ()))
    if "must-understand" in control:
        if status not in _UNDERSTOOD:
            return False
    elif "no-store" in control:
        return False
    return (
        status in _HEURISTIC
        or "max-age" in control
        or "public" in control
        or "private" in control
        or "Expires" in headers
    )


def storable_headers(headers: Fields) -> list[tuple[str, str]]:
    """The fields of a response that are kept: not those of one connection (section 3.1)."""
    dropped = _HOP_BY_HOP
    for value in headers.getall("Connection", ()):
        dropped = dropped | _names(value)
    listed = directives(headers.getall("Cache-Control", ())).get("no-cache")
    if listed:
        # These may not be used without asking, and so they are not kept (section 5.2.2.4).
        dropped = dropped | _names(listed)
    return [(name, value) for name, value in headers.items() if name.lower() not in dropped]


@lru_cache(maxsize=1024)
def _names(value: str) -> frozenset[str]:
    return frozenset(name.strip().lower() for name in value.split(",")) - {""}


# -- how long it is good ------------------------------------------------------------------------


class Terms(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """On what terms a response may be used again, worked out when it arrives.

    Attributes:
        lifetime: Seconds of age up to which it is fresh.
        age: Its age in seconds when it arrived.
        no_cache: Whether the site must be asked before each use.
        must_revalidate: Whether it may never be used stale.
        stale_if_error: Seconds past its lifetime for which it may stand in for an error; -1 for
            never.
    """

    lifetime: float = 0.0
    age: float = 0.0
    no_cache: bool = False
    must_revalidate: bool = False
    stale_if_error: float = -1.0

    def age_at(self, received: float, now: float) -> float:
        """Its age in seconds (RFC 9111, section 4.2.3); both times are Unix times."""
        return self.age + max(0.0, now - received)


def terms_of(status: int, headers: Fields, requested: float, received: float) -> Terms:
    """The terms of a response, from its status and fields and from the Unix times of both ends."""
    control = directives(headers.getall("Cache-Control", ()))
    date = http_date(headers.get("Date", ""))
    return Terms(
        lifetime=_lifetime(status, headers, control, received if date is None else date),
        age=_initial_age(headers, date, requested, received),
        no_cache="no-cache" in control and not control["no-cache"],
        must_revalidate="must-revalidate" in control,
        stale_if_error=-1.0 if (s := _seconds(control, "stale-if-error")) is None else s,
    )


def _lifetime(
    status: int, headers: Fields, control: Mapping[str, str | None], date: float
) -> float:
    """RFC 9111, section 4.2.1, and 4.2.2 where nothing explicit is said."""
    seconds = _seconds(control, "max-age")
    if seconds is not None:
        return seconds
    if "Expires" in headers:
        expires = http_date(headers["Expires"])
        return 0.0 if expires is None else max(0.0, expires - date)
    if status in _HEURISTIC or "public" in control:
        modified = http_date(headers.get("Last-Modified", ""))
        if modified is not None:
            return min(max(0.0, (date - modified) * 0.1), MAX_HEURISTIC)
    return 0.0


def _initial_age(headers: Fields, date: float | None, requested: float, received: float) -> float:
    """``corrected_initial_age`` of RFC 9111, section 4.2.3.

    What is no number is taken for very old, where section 5.1 would have it ignored: some cache on
    the way does not know how old the response is, and to ask costs little.
    """
    value = headers.get("Age", "").partition(",")[0].strip()
    said = _delta(value) if value else 0.0
    corrected = (_FOREVER if said is None else said) + max(0.0, received - requested)
    apparent = 0.0 if date is None else max(0.0, received - date)
    return max(apparent, corrected)


# -- whether it is used -------------------------------------------------------------------------


class Wishes(msgspec.Struct, frozen=True, gc=False):
    """What a request asks of caches (RFC 9111, section 5.2.1); absent is ``None`` or ``False``."""

    no_cache: bool = False
    only_if_cached: bool = False
    max_age: float | None = None
    min_fresh: float = 0.0
    max_stale: float | None = None
    stale_if_error: float = -1.0


NO_WISHES = Wishes()


def wishes_of(asked: Fields | None) -> Wishes:
    """The wishes that a request's fields express. ``Pragma`` is read where Cache-Control is not."""
    if asked is None:
        return NO_WISHES
    if "Cache-Control" not in asked:
        pragma = directives(asked.getall("Pragma", ())) if "Pragma" in asked else ()
        return Wishes(no_cache=True) if "no-cache" in pragma else NO_WISHES
    control = directives(asked.getall("Cache-Control"))
    max_stale = _seconds(control, "max-stale")
    if max_stale is not None and control["max-stale"] is None:
        max_stale = _FOREVER
    return Wishes(
        no_cache="no-cache" in control,
        only_if_cached="only-if-cached" in control,
        max_age=_seconds(control, "max-age"),
        min_fresh=_seconds(control, "min-fresh") or 0.0,
        max_stale=max_stale,
        stale_if_error=-1.0 if (s := _seconds(control, "stale-if-error")) is None else s,
    )


def may_use(terms: Terms, age: float, wishes: Wishes = NO_WISHES) -> bool:
    """Whether a response of this age is used without asking the site (RFC 9111, section 4.2)."""
    if terms.no_cache or wishes.no_cache:
        return False
    if wishes.max_age is not None and age >= wishes.max_age:
        return False
    left = terms.lifetime - age
    if left > 0:
        return left >= wishes.min_fresh
    return wishes.max_stale is not None and not terms.must_revalidate and -left <= wishes.max_stale


def may_use_on_error(terms: Terms, age: float, wishes: Wishes = NO_WISHES) -> bool:
    """Whether it stands in where the site fails (RFC 5861, section 4; RFC 9111, section 4.2.4)."""
    if terms.no_cache or terms.must_revalidate or wishes.no_cache:
        return False
    return age - terms.lifetime <= max(terms.stale_if_error, wishes.stale_if_error)


# -- Vary -----------------------------------------------------------------------------------------


def vary_names(headers: Fields) -> tuple[str, ...]:
    """The request fields that chose this response, in lower case and in order."""
    return tuple(sorted(_names(",".join(headers.getall("Vary", ())))))


def selecting_value(asked: Fields | None, name: str) -> str | None:
    """The value of a request field as ``Vary`` compares it (RFC 9111, section 4.1)."""
    if asked is None or name not in asked:
        return None
    parts = ",".join(asked.getall(name)).split(",")
    return ",".join(part.strip() for part in parts)


# -- asking the site ------------------------------------------------------------------------------


def is_conditional(asked: Fields | None) -> bool:
    """Whether a request states a condition that is for the site alone to judge."""
    return asked is not None and any(
        name in asked for name in ("If-Match", "If-Unmodified-Since", "If-Range")
    )


def is_for_part(asked: Fields | None) -> bool:
    """Whether a request wants a part of the body only."""
    return asked is not None and "Range" in asked


def validators(headers: Fields) -> list[tuple[str, str]]:
    """The conditions under which the site need not send the body again (section 4.3.1)."""
    found = []
    if "ETag" in headers:
        found.append(("If-None-Match", headers["ETag"]))
    if "Last-Modified" in headers:
        found.append(("If-Modified-Since", headers["Last-Modified"]))
    return found


def confirms(stored: Fields, answer: Fields) -> bool:
    """Whether a 304 speaks of the response that is stored (RFC 9111, section 4.3.4)."""
    tag = answer.get("ETag")
    if tag is not None and not tag.startswith("W/"):
        return stored.get("ETag", "").removeprefix("W/") == tag
    modified = answer.get("Last-Modified")
    if tag is None and modified is not None and "Last-Modified" in stored:
        return stored["Last-Modified"] == modified
    return tag is None or tag.removeprefix("W/") == stored.get("ETag", "").removeprefix("W/")


def agrees(stored: Fields, head: Fields) -> bool:
    """Whether a 200 to a HEAD speaks of the response that is stored (RFC 9111, section 4.3.5)."""
    return all(
        name not in head or head[name] == stored.get(name)
        for name in ("ETag", "Last-Modified", "Content-Length")
    )


def freshened(stored: Fields, answer: Fields) -> CIMultiDict[str]:
    """The fields of a stored response after a 304 confirmed it (RFC 9111, section 3.2).

    One that speaks of another version than we have asked about says two things at once. Section
    4.3.4 would have nothing taken from it; browsers take it for the confirmation that its status
    is, and so do we. But the validators stay those of what is stored, so that the next condition
    is about that.
    """
    kept = _OF_THE_BODY if confirms(stored, answer) else _OF_THE_BODY | _VALIDATORS
    new = [(name, value) for name, value in storable_headers(answer) if name.lower() not in kept]
    headers = CIMultiDict(stored)
    headers.popall("Age", None)  # it was that of the old answer
    for name in {name.lower() for name, _ in new}:
        headers.popall(name, None)
    headers.extend(new)
    return headers


def is_not_modified(asked: Fields, stored: Fields) -> bool | None:
    """Whether a request's own condition makes a 304 of a stored response (section 4.3.2).

    ``None`` where it states no such condition.
    """
    if "If-None-Match" in asked:
        tags = ",".join(asked.getall("If-None-Match"))
        own = stored.get("ETag", "").removeprefix("W/")
        if tags.strip() == "*":
            return True
        return bool(own) and own in {tag.removeprefix("W/") for tag in _ETAG.findall(tags)}
    if "If-Modified-Since" in asked:
        since = http_date(asked["If-Modified-Since"])
        modified = http_date(stored.get("Last-Modified", "") or stored.get("Date", ""))
        return since is not None and modified is not None and modified <= since
    return None

"""Credentials: users and passwords of sites that ask for them over HTTP (Basic and Digest).

Each pair belongs to one origin and is never sent to another, nor is it written down anywhere.
aiohttp's own Digest middleware is not used: it asks for one pair, for whatever origin is fetched.
"""

from __future__ import annotations

import hashlib
import os
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import quote

from ..errors import OptionError, UrlError
from ..urls import canonical

MAX_CHALLENGES = 16
"""Challenges of one response that are looked at."""

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
# What may follow the commas between challenges and between their parameters (RFC 9110, 11.6.1).
_PARAMETER = re.compile(rf'[\s,]*+({_TOKEN})\s*+=\s*+(?:"((?:[^"\\]|\\.)*+)"|({_TOKEN}))')
_SCHEME = re.compile(rf"[\s,]*+({_TOKEN})(?:\s++[A-Za-z0-9\-._~+/]++=*+\s*+(?=,|\Z)|(?=[\s,]|\Z))")
_ESCAPED = re.compile(r"\\(.)")
_TO_ESCAPE = re.compile(r'(["\\])')

# Strongest first. MD5 is what most servers still ask for.
_ALGORITHMS = {"sha-512-256": "sha512_256", "sha-256": "sha256", "md5": "md5"}


class Challenge(NamedTuple):
    """What a server asks for: a scheme and its parameters, both with names in lower case."""

    scheme: str
    parameters: dict[str, str]


class Credentials:
    """Users and passwords by origin, and what to send of them.

    A request goes out with what `authorize` says; where it is answered 401, `answer` says what to
    try it with once more, if anything. The origin's answer is remembered, so that the next request
    needs no refusal first.

    Args:
        auth: Users and passwords, by origin: ``{"https://intranet.example": ("user", "secret")}``.
        nonce: Makes the client's part of a digest, at random.

    Raises:
        OptionError: A key is no origin, or a value is no pair that can be sent. No password is
            shown.
    """

    def __init__(
        self,
        auth: Mapping[str, tuple[str, str]],
        *,
        nonce: Callable[[], str] = lambda: os.urandom(16).hex(),
    ) -> None:
        self._nonce = nonce
        if not isinstance(auth, Mapping):
            raise OptionError("auth is a mapping of origins to pairs of user and password")
        self._accounts = {_origin(key): _Account(*_pair(key, pair)) for key, pair in auth.items()}

    def __repr__(self) -> str:
        return f"<Credentials for {', '.join(self._accounts) or 'nobody'}>"

    def authorize(self, method: str, url: str) -> str | None:
        """The ``Authorization`` header that a request can be sent with at once, or ``None``.

        That is where the origin has asked for it before: Basic as it was then (RFC 7617, section
        2.2), Digest with the origin's nonce, counted up (RFC 7616, section 3.6).

        Args:
            method: HTTP method, in capitals.
            url: Where the request goes, in canonical form.
        """
        account = self._account(url)
        if account is None:
            return None
        if account.is_basic:
            return account.basic()
        if account.digest is None or account.digest.qop == "auth-int":
            return None
        return account.digest.header(account.user, account.password, method, url, b"")

    def answer(
        self,
        method: str,
        url: str,
        body: bytes | None,
        challenges: Iterable[str],
        *,
        sent: str | None = None,
    ) -> str | None:
        """The ``Authorization`` header to send a request with that was answered 401.

        Args:
            method: HTTP method, in capitals.
            url: Where the request goes, in canonical form.
            body: What it sends.
            challenges: The values of the response's ``WWW-Authenticate`` headers.
            sent: The header that was refused, if there was one.

        Returns:
            The header, for the strongest scheme that both sides know: Digest with SHA-512-256,
            SHA-256 or MD5, then Basic. ``None`` where the origin is none of ours, asks for nothing
            that we know, or has just refused what it would get: the user or password is wrong.
        """
        account = self._account(url)
        if account is None:
            return None
        asked = [
            each for each in parse_challenges(challenges) if each.scheme in ("digest", "basic")
        ]
        digests = [digest for each in asked if (digest := self._digest(each)) is not None]
        if digests:
            digest = min(digests, key=lambda digest: digest.rank)
            if sent is not None and f'nonce="{_escaped(digest.nonce)}"' in sent:
                return None
            known = account.digest
            if known is None or (known.nonce, known.realm) != (digest.nonce, digest.realm):
                account.digest = known = digest
            account.is_basic = False
            return known.header(account.user, account.password, method, url, body or b"")
        if any(each.scheme == "basic" for each in asked):
            account.is_basic = True
            header = account.basic()
            return header if header != sent else None
        return None

    def _account(self, url: str) -> _Account | None:
        return self._accounts.get(url[: url.find("/", 8)])

    def _digest(self, challenge: Challenge) -> _Digest | None:
        """A Digest challenge that we can answer."""
        given = challenge.parameters
        if challenge.scheme != "digest" or "nonce" not in given or "realm" not in given:
            return None
        algorithm = given.get("algorithm", "MD5")
        name = algorithm.lower().removesuffix("-sess")
        if _ALGORITHMS.get(name) not in hashlib.algorithms_available:
            return None
        offered = {each.strip().lower() for each in given.get("qop", "").split(",")} - {""}
        qop = next((each for each in ("auth", "auth-int") if each in offered), "")
        if offered and not qop:
            return None
        return _Digest(
            realm=given["realm"],
            nonce=given["nonce"],
            opaque=given.get("opaque"),
            algorithm=algorithm if "algorithm" in given else None,
            rank=list(_ALGORITHMS).index(name),
            hash=_ALGORITHMS[name],
            is_session=algorithm.lower().endswith("-sess"),
            qop=qop,
            is_user_hashed=given.get("userhash", "").lower() == "true",
            # One for all requests with this nonce: whether a server takes the "-sess" key from the
            # first of them, as it should, or from each, it is the same.
            cnonce=self._nonce(),
        )


@dataclass(slots=True)
class _Account:
    """A user of one origin, and what the origin has asked for last."""

    user: str = field(repr=False)
    password: str = field(repr=False)
    is_basic: bool = False
    digest: _Digest | None = None

    def basic(self) -> str:
        """The header of RFC 7617, in UTF-8."""
        return f"Basic {b64encode(f'{self.user}:{self.password}'.encode()).decode()}"


@dataclass(slots=True)
class _Digest:
    """A challenge of RFC 7616, and how often it was answered."""

    realm: str
    nonce: str
    opaque: str | None
    algorithm: str | None
    rank: int
    hash: str
    is_session: bool
    qop: str
    is_user_hashed: bool
    cnonce: str
    count: int = 0

    def header(self, user: str, password: str, method: str, url: str, body: bytes) -> str:
        """The header for one more request (RFC 7616, section 3.4)."""
        self.count += 1
        count = f"{self.count:08x}"
        uri = url[url.find("/", 8) :]
        secret = self._hash(f"{user}:{self.realm}:{password}")
        if self.is_session:
            secret = self._hash(f"{secret}:{self.nonce}:{self.cnonce}")
        asked = f"{method}:{uri}"
        if self.qop == "auth-int":
            asked += f":{self._hash(body)}"
        between = f"{count}:{self.cnonce}:{self.qop}:" if self.qop else ""
        response = self._hash(f"{secret}:{self.nonce}:{between}{self._hash(asked)}")
        fields = [
            self._user(user),
            f'realm="{_escaped(self.realm)}"',
            f'nonce="{_escaped(self.nonce)}"',
            f'uri="{uri}"',
            f'response="{response}"',
        ]
        if self.algorithm is not None:
            fields.append(f"algorithm={self.algorithm}")
        if self.opaque is not None:
            fields.append(f'opaque="{_escaped(self.opaque)}"')
        if self.qop:
            fields += [f"qop={self.qop}", f"nc={count}"]
        if self.qop or self.is_session:
            fields.append(f'cnonce="{self.cnonce}"')
        if self.is_user_hashed:
            fields.append("userhash=true")
        return f"Digest {', '.join(fields)}"

    def _user(self, user: str) -> str:
        if self.is_user_hashed:
            return f'username="{self._hash(f"{user}:{self.realm}")}"'
        if user.isascii():
            return f'username="{_escaped(user)}"'
        return f"username*=UTF-8''{quote(user, safe='')}"

    def _hash(self, data: str | bytes) -> str:
        data = data.encode() if isinstance(data, str) else data
        return hashlib.new(self.hash, data, usedforsecurity=False).hexdigest()


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """The challenges of ``WWW-Authenticate`` headers (RFC 9110, section 11.6.1), in their order.

    A header may hold several of them, separated by the comma that also separates parameters. What
    follows something malformed is left out, and so is a challenge with characters that no header
    can hold.
    """
    found: list[Challenge] = []
    for header in headers:
        place = 0
        current: Challenge | None = None
        while len(found) < MAX_CHALLENGES:
            if current is not None and (match := _PARAMETER.match(header, place)):
                name, quoted, token = match.groups()
                value = token if quoted is None else _ESCAPED.sub(r"\1", quoted)
                current.parameters.setdefault(name.lower(), value)
            elif match := _SCHEME.match(header, place):
                current = Challenge(match[1].lower(), {})
                found.append(current)
            else:
                break
            place = match.end()
    return [each for each in found if all(map(str.isprintable, each.parameters.values()))]


def _escaped(text: str) -> str:
    return _TO_ESCAPE.sub(r"\\\1", text)


def _origin(key: str) -> str:
    try:
        url = canonical(key)
    except (UrlError, TypeError):
        # The key is not shown, for it may hold a password.
        raise OptionError(
            "auth has a key that is no origin; write each as https://host[:port]"
        ) from None
    origin, path = url[: url.find("/", 8)], url[url.find("/", 8) :]
    if path != "/":
        raise OptionError(f"auth goes by origin; write {origin!r} in place of {key!r}")
    return origin


def _pair(key: str, pair: object) -> tuple[str, str]:
    match pair:
        case (str() as user, str() as password):
            pass
        case _:
            raise OptionError(f"auth has no user and password for {key!r}; give (user, password)")
    if ":" in user or not (user + password).isprintable():
        raise OptionError(
            f"auth for {key!r} cannot be sent: a user has no colon, and neither user nor password "
            "has control characters"
        )
    return user, password

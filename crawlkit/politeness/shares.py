"""Shares: which part of each host is this worker's, where several write one run."""

from __future__ import annotations

from collections.abc import Mapping

from ..checkpoint import Checkpoint
from ..stores.base import WHOLE
from .host import Host


class Shares:
    """Which part of each host is this worker's: all of it, but for those that were divided.

    A claim and a checkpoint may be under way at the same time, and the store may see them in
    either order. So a claim that does not know yet of a share that is given away takes none back.

    Attributes:
        gifts: Grows with every share that is given away, once when a checkpoint says so and once
            when that is committed.
        resting: Hosts with another next start since the last checkpoint, of which it tells whoever
            asks them next.
    """

    def __init__(self) -> None:
        self.gifts = 0
        self.resting: set[str] = set()
        self._parts: dict[str, int] = {}  # of hosts that are divided, also while they are idle
        self._offered: dict[str, int] = {}
        self._is_giving = False

    def __bool__(self) -> bool:
        """Whether any host is divided."""
        return bool(self._parts)

    def of(self, host: str) -> int:
        """How many of the `WHOLE` shares of `host` are this worker's."""
        return self._parts.get(host, WHOLE)

    def take(self, host: str, shares: int, gifts: int) -> int:
        """A claim says that so many are this worker's; how many are.

        Args:
            host: ``host[:port]``.
            shares: What the claim says.
            gifts: What `gifts` was when the claim was asked for.
        """
        is_offered = host in self._offered
        if self._is_giving or is_offered or gifts != self.gifts:
            shares = min(shares, self.of(host))
        if is_offered and shares < self._offered[host]:
            del self._offered[host]  # there is less to give than was thought
        if shares < WHOLE:
            self._parts[host] = shares
        else:
            self._parts.pop(host, None)
        return shares

    def may_offer(self, host: str) -> bool:
        """Whether half of this worker's part may be offered: not while that is going on."""
        return host not in self._offered and self.of(host) > 1

    def offer(self, host: str) -> int:
        """Offer half of this worker's part to another one; what is left."""
        self._parts[host] = self._offered[host] = self.of(host) // 2
        return self._parts[host]

    def collect(self, checkpoint: Checkpoint, hosts: Mapping[str, Host]) -> None:
        """Say when hosts may be asked next, and what is given away, as far as it is free by now."""
        for name in self.resting:
            if (host := hosts.get(name)) is not None:
                checkpoint.rests[name] = (host.ready_at, host.pace * host.shares / WHOLE)
        self.resting.clear()
        for name, shares in tuple(self._offered.items()):
            host = hosts.get(name)
            if host is None or host.in_flight <= host.limit:
                checkpoint.shares[name] = shares
                del self._offered[name]
                self._is_giving = True
                self.gifts += 1

    def given(self) -> None:
        """The checkpoint is committed: what it gave away is somebody else's."""
        self._is_giving = False
        self.gifts += 1

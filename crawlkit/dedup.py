"""DedupSet: what was ever enqueued.

The exact set is in the store, where it may grow to billions. In front of it stands a filter of
bounded size, as most links of a page lead where many pages have led before: what the filter knows
is a duplicate for certain, what it does not know the store decides in the next commit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from .hugepages import zeros

Identity: TypeAlias = str | tuple[str, ...] | tuple[str, str, bytes | None]
"""Text, or texts; not numbers, whose hash is no more than themselves."""


class DedupSet:
    """A bounded memory of identities that forgets, but never errs.

    Each identity has one slot; a newer one with the same slot takes its place. All 64 bits of its
    hash are compared, so that "known" can be relied on. Lookups cost the same at any size of the
    crawl. There are ``2 ** bits`` slots of 8 bytes at first, and twice as many whenever half as
    many were taken, up to ``2 ** most``.

    Args:
        bits: The default is 2 MB.
        most: The default is 32 MB.
    """

    __slots__ = ("_least", "_mask", "_most", "_room", "_slots")

    def __init__(self, bits: int = 18, most: int = 22) -> None:
        self._least = 1 << bits
        self._most = 1 << most
        self.clear()

    def add(self, identity: Identity) -> bool:
        """Remember an identity; `False` if it is known to be there already."""
        # Python's own hash (keyed SipHash of 64 bits) is as good as a fingerprint within a process,
        # and ten times as fast. Most links end here.
        number = hash(identity)
        slot = number & self._mask
        if self._slots[slot] == number:
            return False
        self._slots[slot] = number
        self._take(1)
        return True

    def add_all(self, texts: Iterable[str]) -> list[str]:
        """`add` for texts, one after the other; those that were not known."""
        slots, mask = self._slots, self._mask
        unknown = []
        for text in texts:
            number = hash(text)
            slot = number & mask
            if slots[slot] != number:
                slots[slot] = number
                unknown.append(text)
        self._take(len(unknown))
        return unknown

    def clear(self) -> None:
        """Forget everything; the store still knows."""
        # All that there may ever be, of which only the first ones are used as yet.
        self._slots = zeros(8 * self._most).cast("q")
        # An empty slot holds 0, which is a hash too: that of slot 0, which therefore starts with a
        # number that belongs to another slot.
        self._slots[0] = 1
        self._use(self._least)

    def _use(self, slots: int) -> None:
        self._mask = slots - 1
        self._room = slots // 2

    def _take(self, slots: int) -> None:
        self._room -= slots
        if self._room < 0 and (used := self._mask + 1) < self._most:
            # What was in a slot belongs into the same one or into that of the other half. It is in
            # both now: where it does not belong nothing is equal to it.
            self._slots[used : 2 * used] = self._slots[:used]
            self._use(2 * used)

"""DedupSet: what was ever enqueued.

The exact set is in the store, where it may grow to billions. In front of it stands a filter of
fixed size, as most links of a page lead where many pages have led before: what the filter knows is
a duplicate for certain, what it does not know the store decides in the next commit.
"""

from __future__ import annotations

from array import array


class DedupSet:
    """A bounded memory of fingerprints that forgets, but never errs.

    Each fingerprint has one slot; a newer one with the same slot takes its place. The whole of it
    is compared, so that "known" is exact. Lookups cost the same at any size of the crawl.

    Args:
        bits: The filter has ``2 ** bits`` slots of 8 bytes; the default is 2 MB.
    """

    __slots__ = ("_mask", "_slots")

    def __init__(self, bits: int = 18) -> None:
        self._mask = (1 << bits) - 1
        self._slots = array("q")
        self.clear()

    def add(self, host: str, fingerprint: int) -> bool:
        """Remember a fingerprint; `False` if it is known to be enqueued already."""
        mixed = fingerprint ^ hash(host)
        slot = mixed & self._mask
        if self._slots[slot] == mixed:
            return False
        self._slots[slot] = mixed
        return True

    def clear(self) -> None:
        """Forget everything; the store still knows."""
        self._slots = array("q", bytes(8 * (self._mask + 1)))
        # An empty slot holds 0, which is a fingerprint too: that of slot 0, which therefore starts
        # with a number that belongs to another slot.
        self._slots[0] = 1

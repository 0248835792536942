"""Merging: what several workers of one run saved of the same document, brought together.

Each worker knows what it had of a document (the base), and what it has made of it. Where another
worker has saved it meanwhile, what this one has changed is done to what the other has saved. A part
says how with a method `merge`; `merge` in here is the rule for JSON-like values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from ..checkpoint import Checkpoint, Merge, Snapshot, decode, encode
from ..stores.base import Receipt

Rule = Callable[[Any, Any, Any], Any]

_MISSING: Any = object()


def merge(base: Any, mine: Any, theirs: Any) -> Any:
    """What I have made of `base`, done to what others have made of it.

    Numbers add what they grew by, dicts are merged by key. Of anything else mine counts where I
    have changed it, and theirs where I have not.

    Args:
        base: A JSON-like value, or ``None`` where there was none.
        mine: What I have made of it.
        theirs: What others have made of it.
    """
    return _merged(_MISSING if base is None else base, mine, theirs)


def _merged(base: Any, mine: Any, theirs: Any) -> Any:
    if _is_same(mine, base):
        return theirs
    if _is_same(theirs, base):
        return mine
    if isinstance(mine, dict) and isinstance(theirs, dict):
        before = base if isinstance(base, dict) else {}
        keys = dict.fromkeys((*theirs, *mine))
        merged = {
            key: _merged(
                before.get(key, _MISSING), mine.get(key, _MISSING), theirs.get(key, _MISSING)
            )
            for key in keys
        }
        return {key: value for key, value in merged.items() if value is not _MISSING}
    if _is_number(mine) and _is_number(theirs) and (base is _MISSING or _is_number(base)):
        return theirs + mine - (0 if base is _MISSING else base)
    return mine


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_same(one: Any, other: Any) -> bool:
    # For Python True is 1; for whoever counts, it is not.
    return one is other or (type(one) is type(other) and bool(one == other))


class Merges:
    """The documents that several workers change: how, and what this worker knows of them.

    A part takes part in it by a method ``merge(base, mine, theirs)`` on JSON-like values. It may
    have a method ``absorb(handed, merged, key)``, which is told what became of a document that it
    handed over; without it, the part goes on with what it has itself, and only what it adds counts.

    Args:
        parts: The registered parts by name.
    """

    def __init__(self, parts: Callable[[], Mapping[str, Any]]) -> None:
        self._parts = parts
        self._bases: dict[str, bytes] = {}

    def restore(self, part: str, snapshot: Snapshot) -> None:
        """What the part of that name begins with."""
        for name, _, _ in self._merging(snapshot.documents):
            if name.partition("/")[0] == part:
                self._bases[name] = snapshot.documents[name].data

    def prepare(self, checkpoint: Checkpoint) -> None:
        """Say in a checkpoint how its documents are merged."""
        for name, part, _ in self._merging(checkpoint.documents):
            if checkpoint.documents[name] is not None:
                combine = partial(_combine, part.merge, name)
                checkpoint.merges[name] = Merge(self._bases.get(name), combine)

    def settle(self, checkpoint: Checkpoint, receipt: Receipt) -> None:
        """The checkpoint was committed: let parts take over what others have changed."""
        for name, part, key in self._merging(checkpoint.merges):
            document = checkpoint.documents[name]
            assert document is not None  # or it would not be merged
            self._bases[name] = document.data
            merged = receipt.merged.get(name)
            if merged is not None and (absorb := getattr(part, "absorb", None)) is not None:
                absorb(decode(document.data, name), decode(merged.data, name), key)
                self._bases[name] = merged.data

    def _merging(self, names: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
        """Of these documents those that are merged, with their parts and their keys there."""
        parts = {name: part for name, part in self._parts().items() if hasattr(part, "merge")}
        for name in names:
            owner, _, key = name.partition("/")
            if (part := parts.get(owner)) is not None:
                yield name, part, key


def _combine(rule: Rule, name: str, base: bytes | None, mine: bytes, theirs: bytes) -> bytes:
    values = (None if data is None else decode(data, name) for data in (base, mine, theirs))
    return encode(rule(*values), name)

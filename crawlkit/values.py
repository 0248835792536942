"""Values: what a user keeps under keys of their own, and the one dict that needs no keys."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from .checkpoint import Checkpoint, Document, Saved, decode, encode
from .errors import UsageError
from .workers.merging import merge


class Values:
    """A persisted part: values by key, each a document of its own that is read when asked for.

    Args:
        read: Reads a document from the store by its name.
    """

    def __init__(self, read: Callable[[str], Awaitable[Document | None]]) -> None:
        self._read = read
        self._changed: dict[str, bytes | None] = {}
        # Handed over and not known to be committed: the store may still say what was before.
        self._handed: dict[str, bytes | None] = {}

    async def get(self, key: str, default: Any = None) -> Any:
        """The value under `key`, or `default`. A copy: changing it changes nothing."""
        for known in (self._changed, self._handed):
            if key in known:
                data = known[key]
                return default if data is None else decode(data, key)
        document = await self._read(f"values/{key}")
        return default if document is None else decode(document.data, key)

    def set(self, key: str, value: Any) -> None:
        """Keep `value` under `key` from the next checkpoint on; `None` removes it.

        Raises:
            UsageError: The value is nothing that JSON can hold, or the key is empty.
        """
        if not key or "\0" in key:
            raise UsageError("a value needs a key to be kept under, without NUL characters")
        self._changed[key] = None if value is None else encode(value, f"the value of {key!r}")

    def restore(self, saved: Saved) -> None:
        """Nothing to take back: values are read when they are asked for."""

    def collect(self, checkpoint: Checkpoint) -> None:
        """Hand over the values that were set since the last call."""
        self._handed, self._changed = self._changed, {}
        for key, data in self._handed.items():
            name = f"values/{key}"
            checkpoint.documents[name] = None if data is None else Document(1, data)

    def settle(self) -> None:
        """What was handed over is committed. From here on another worker may change it."""
        self._handed = {}


class State(dict[str, Any]):
    """A persisted part that is a dict of JSON-like values. Meant to be small: all of it is saved.

    What is large, or changes in small places, is better a part of its own, or values under keys.

    Where several workers write the run, it is merged: numbers add what each worker has added, other
    values are those of the last who has changed them. Each worker sees what the others did after
    its next checkpoint.
    """

    merge = staticmethod(merge)

    def __init__(self) -> None:
        super().__init__()
        self._saved = b"{}"

    def absorb(self, handed: Any, merged: Any, key: str) -> None:
        """Take over what other workers have changed: what was handed over became `merged`."""
        now = decode(self.snapshot(), "state")
        new = merge(handed, now, merged)
        # In place, as a handler may hold on to a value in here, and only what is another one now.
        _turn(self, now, new)
        if self != new:
            self.clear()  # its keys were no text, say: now they are what a restart makes of them
            self.update(new)
        self._saved = self.snapshot() if new == merged else encode(merged, "the state")

    def snapshot(self) -> bytes:
        """What the state is now, for `roll_back`."""
        return encode(dict(self), "the state")

    def roll_back(self, snapshot: bytes) -> None:
        """Make the state what it was."""
        self.clear()
        self.update(decode(snapshot, "state"))

    def restore(self, saved: Saved) -> None:
        """Take back what was saved."""
        self.clear()
        self.update(saved.load({}))
        self._saved = self.snapshot()

    def collect(self, checkpoint: Checkpoint) -> None:
        """Hand over the state, if it is not what was saved last."""
        data = self.snapshot()
        if data != self._saved:
            self._saved = data
            checkpoint.documents["state"] = Document(1, data)


def _turn(values: dict[str, Any], now: dict[str, Any], new: dict[str, Any]) -> None:
    """Make `values`, which is `now` as JSON, into `new`."""
    for key in now.keys() - new.keys():
        values.pop(key, None)
    for key, value in new.items():
        before = now.get(key)
        if key in now and before == value and type(before) is type(value):
            continue
        inner = values.get(key)
        if isinstance(inner, dict) and isinstance(before, dict) and isinstance(value, dict):
            _turn(inner, before, value)
        else:
            values[key] = value

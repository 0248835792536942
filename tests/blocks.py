"""Helpers that are to be closed, whatever happens in the block that has opened them."""

from __future__ import annotations

from typing import Self


class Closes:
    """Something that `close` ends, as the end of its `with` block does."""

    def close(self) -> None:
        """End it."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

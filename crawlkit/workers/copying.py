"""Copying: the items of several workers, in one file of JSON lines, as they come."""

from __future__ import annotations

from collections.abc import Callable

from ..checkpoint import Checkpoint
from ..output import ItemWriter, append


class Copier:
    """Adds to each checkpoint of a worker what keeps the file of items in step with the run.

    Args:
        writer: The file; it is restored.
    """

    def __init__(self, writer: ItemWriter) -> None:
        self._writer = writer

    def amend(self, checkpoint: Checkpoint) -> Callable[[], None]:
        """Append the items of a checkpoint that is about to be committed; returns what undoes that.

        Raises:
            StoreWriteError: The file cannot be written.
        """
        writer = self._writer
        mark = writer.mark()

        def undo() -> None:
            writer.rewind(mark)

        if checkpoint.items:
            items, checkpoint.items = checkpoint.items, []
            for item in items:
                writer.add(*item)
            with checkpoint.of("items"):
                writer.collect(checkpoint)
            try:
                append(checkpoint.appends)
            except BaseException:
                undo()
                raise
        return undo

"""Owner: which crawler a run is of."""

from __future__ import annotations

import logging

from ..checkpoint import Checkpoint, Saved
from ..stores.postgres.address import masked

log = logging.getLogger("crawlkit.crawler")


class Owner:
    """A persisted part: the class of the crawler, so that another one is noticed on its run.

    Handlers are saved by name, so one with handlers of the same names would go on with what is
    pending for the other, and nobody would see it. A class may also have been renamed, so that is
    no reason to refuse it.

    Args:
        name: The name of the class.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._saved: object = None
        self._is_taken = False

    def restore(self, saved: Saved) -> None:
        """Take back whose the run was."""
        self._saved = saved.load()

    def take(self, address: str) -> None:
        """A life of the run begins with this crawler: warn where the last one was another's.

        A worker that joins a life does not do it: it might save the name before the first one has
        read it.

        Args:
            address: The run.
        """
        self._is_taken = True
        if isinstance(self._saved, str) and self._saved != self._name:
            log.warning(
                "%s is a run of %s, and %s goes on with what is pending there; unless that is its "
                "new name, stop it and give it a --store of its own, or --fresh",
                masked(address),
                self._saved,
                self._name,
            )

    def collect(self, checkpoint: Checkpoint) -> None:
        """Hand over whose it is, if it was not."""
        if self._is_taken and self._saved != self._name:
            checkpoint.save(self._name)
            self._saved = self._name

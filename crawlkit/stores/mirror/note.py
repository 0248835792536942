"""MirrorNote: what a run's directory knows of its mirror, in ``mirror.json``."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from ..directory import MIRROR_NOTE
from ..files import sync_names


class MirrorNote(msgspec.Struct):
    """How a run and its mirror stand to each other.

    Attributes:
        address: The mirror.
        lineage: The run's identity.
        writers: The lives of processes of which each has written this directory, and no other
            machine after it; the last one may not have begun.
        commits: Checkpoints that the mirror holds.
        at: Unix time at which it held all that there was to ship.
        is_restoring: Whether the run in the directory, if there is one, is about to be replaced.
        ended: How the run stood when a process ended in good order that had shipped all of it.
    """

    address: str
    lineage: str
    writers: list[str]
    commits: int = 0
    at: float = 0.0
    is_restoring: bool = False
    ended: str = ""

    def write(self, directory: Path, *, sync: bool = False) -> None:
        """Write it, in place of the one before.

        Raises:
            OSError: It cannot be written.
        """
        path = directory / MIRROR_NOTE
        draft = path.with_suffix(".new")
        with open(draft, "wb") as file:
            file.write(msgspec.json.encode(self))
            if sync:
                file.flush()
                os.fsync(file.fileno())
        draft.replace(path)
        if sync:
            sync_names(directory)


def read_note(directory: Path) -> MirrorNote | None:
    """The note in a run's directory, if there is one."""
    try:
        return msgspec.json.decode((directory / MIRROR_NOTE).read_bytes(), type=MirrorNote)
    except (OSError, msgspec.DecodeError):
        return None

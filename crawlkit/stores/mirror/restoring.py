"""Restoring: an embedded run from its mirror, whole or not at all."""

from __future__ import annotations

import os
import sqlite3
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ...errors import StoreDamagedError
from ..directory import Record, RunDirectory
from ..files import sync_names
from ..pages import PAGE, scan
from .places import Place, place_of
from .records import Header, decode, name_of, pages_of
from .shipping import Shipping

AHEAD = 8
"""Records that are fetched at once."""


def restore(place: Place, last: Header, directory: RunDirectory) -> bool:
    """Make the run in `directory` what the mirror holds after the record `last`.

    What the directory held before is replaced at the very end: a restore that is killed has to
    begin anew, and can.

    Returns:
        Whether the mirror holds anything: before its first snapshot is complete, it does not.

    Raises:
        OSError: The mirror cannot be reached, or the directory not be written.
        StoreDamagedError: A record is not what was put there, or is missing.
    """
    if not last.snapshot:
        return False
    draft = Path(f"{directory.database}.new")
    commits = _build(place, last, draft)
    _confirm(place, draft, commits)
    directory.clear(for_mirror=True)
    directory.checksums.write(scan(draft))
    directory.note(Record(commits=commits, merged=commits, log="restored"), sync=True)
    os.replace(draft, directory.database)
    sync_names(directory.path)
    return True


def holds_run(address: str) -> bool:
    """Whether there is a run in a mirror.

    Raises:
        OSError: It cannot be reached.
        StoreError: What is there is no mirror.
    """
    last = Shipping(place_of(address)).survey()
    return last is not None and last.snapshot > 0


def _build(place: Place, last: Header, draft: Path) -> int:
    """Write the database; how many checkpoints it has."""
    snapshot, _ = _read(place, name_of(last.snapshot))
    size, commits = snapshot.size, snapshot.since
    with open(draft, "wb") as file:
        parts = [f"{snapshot.prefix}{part:06d}" for part in range(snapshot.parts)]
        for name, header, payload in _records(place, parts):
            _write(file.fileno(), header, payload, f"{place.address}/{name}")
        later = [name_of(number) for number in range(snapshot.base + 1, last.number + 1)]
        for name, header, payload in _records(place, later):
            if header.kind == "segment":
                if header.since > commits:
                    raise StoreDamagedError(
                        f"{place.address} lacks checkpoints {commits + 1} to {header.since}; put "
                        "back a copy of it, or go on from a local run with another --mirror"
                    )
                _write(file.fileno(), header, payload, f"{place.address}/{name}")
                size, commits = header.size, max(commits, header.commits)
        file.truncate(size * PAGE)
        os.fsync(file.fileno())
    return commits


def _read(place: Place, name: str) -> tuple[Header, bytes]:
    where = f"{place.address}/{name}"
    try:
        return decode(place.get(name), where)
    except FileNotFoundError:
        raise StoreDamagedError(
            f"{where} is missing; put back a copy of it, or go on from a local run with another "
            "--mirror"
        ) from None


def _records(place: Place, names: list[str]) -> Iterator[tuple[str, Header, bytes]]:
    """Records in their order; some are fetched ahead, as an object store takes its time."""
    with ThreadPoolExecutor(AHEAD, "crawlkit-restore") as pool:
        coming = deque(pool.submit(_read, place, name) for name in names[:AHEAD])
        for place_in_line, name in enumerate(names):
            header, payload = coming.popleft().result()
            if place_in_line + AHEAD < len(names):
                coming.append(pool.submit(_read, place, names[place_in_line + AHEAD]))
            yield name, header, payload


def _write(file: int, header: Header, payload: bytes, where: str) -> None:
    for number, page in pages_of(header, payload, where):
        os.pwrite(file, page, (number - 1) * PAGE)


def _confirm(place: Place, draft: Path, commits: int) -> None:
    """The database has to say of itself what the mirror says of it."""
    uri = f"{draft.absolute().as_uri()}?mode=ro&immutable=1"
    connection = sqlite3.connect(uri, uri=True)
    try:
        ((found,),) = connection.execute("SELECT commits FROM progress")
    except sqlite3.Error as error:
        found = str(error)
    finally:
        connection.close()
    if found != commits:
        raise StoreDamagedError(
            f"{place.address} does not hold the run that it should ({found} instead of {commits} "
            "checkpoints); put back a copy of it, or go on from a local run with another --mirror"
        )

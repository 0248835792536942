"""Runs in a directory as killed processes leave them, and what tests do with them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from crawlkit.checkpoint import Document
from crawlkit.errors import StoreDamagedError
from crawlkit.stores.sqlite import SqliteStore

from .backends import NOW, A, content, done, findings, item, pages


async def filled(path: Path, checkpoints: int = 12) -> list[dict[str, Any]]:
    """A run with some checkpoints, left as a killed process leaves it; its states, one for each."""
    store = SqliteStore(str(path.with_name("original")))
    await store.open()
    states = [content(store)]
    for number in range(checkpoints):
        leases = (await store.claim(20, {}, NOW)).leases[:20]
        await store.commit(
            done(
                leases,
                fresh=pages(A, 60, first=60 * number),
                items=[item(number)] * 20,
                documents={"part": Document(1, b"%d" % number)},
                add={"items_saved": 20, "requests_finished": len(leases)},
            )
        )
        states.append(content(store))
    copied(store, path)
    await store.close()
    return states


def copied(store: SqliteStore, to: Path) -> None:
    """What the store's process would leave behind if it was killed now."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(store.directory.path, to, ignore=shutil.ignore_patterns("*-shm"))


async def opened(path: Path) -> dict[str, Any]:
    """What a run holds when it is opened; it can be written, and nothing is wrong with it."""
    store = SqliteStore(str(path))
    await store.open()
    try:
        found = content(store)
        assert findings(store) == []
        return found
    finally:
        await store.close()


async def refused(path: Path, match: str) -> None:
    """The run is refused and put aside, and refused again until it is put back."""
    for reason in (match, "put aside as run.sqlite3.damaged-"):
        with pytest.raises(StoreDamagedError, match=reason) as caught:
            await SqliteStore(str(path)).open()
        assert "\n" not in str(caught.value)
        assert "--fresh" in str(caught.value)
        assert not (path / "run.sqlite3").exists()


def names(path: Path) -> set[str]:
    return {found.name for found in path.iterdir()}


def asides(path: Path) -> list[Path]:
    return sorted(path.glob("*.damaged-*"))


def put_back(path: Path) -> None:
    """What the user does with what was put aside."""
    for aside in asides(path):
        _, _, suffix = aside.name.partition(".damaged-")
        aside.rename(path / f"run.sqlite3{suffix[15:]}")


def only_to_be_read(path: Path) -> None:
    for found in path.iterdir():
        found.chmod(0o444)
    path.chmod(0o555)


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)

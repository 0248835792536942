"""A run that is mirrored goes on from the mirror alone, whatever happened to its machine."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner

from crawlkit import Crawler, Page, open_run
from crawlkit.checkpoint import Checkpoint, Document
from crawlkit.cli import main
from crawlkit.clock import isoformat
from crawlkit.errors import MirrorTakenError, StoreDamagedError, StoreError, UsageError
from crawlkit.stores import database, open_store
from crawlkit.stores.base import Store
from crawlkit.stores.mirror import backlog as backlog_module
from crawlkit.stores.mirror import shipping
from crawlkit.stores.mirror import store as mirrored_module
from crawlkit.stores.mirror.note import read_note
from crawlkit.stores.mirror.places import Directory, Place, place_of
from crawlkit.stores.mirror.records import FENCE, LOG, SNAPSHOTS
from crawlkit.stores.mirror.store import MirroredStore
from crawlkit.stores.sqlite import SqliteStore
from crawlkit.testing import Site
from crawlkit.testing.shop import ShopSite

from .backends import NOW, A, claim_all, content, done, findings, item, pages
from .killed import copied
from .s3 import BUCKET, S3Server

ROOT = Path(__file__).parent.parent

NEVER = 3600.0
"""An interval in which nothing is shipped by itself."""


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with S3Server() as server:
        server.make_bucket()
        yield server


@pytest.fixture(params=["directory", "s3"])
def address(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A mirror of each kind."""
    if request.param == "directory":
        return str(tmp_path / "mirror")
    server: S3Server = request.getfixturevalue("s3")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{tmp_path.name}"


class Machine:
    """A machine with a mirrored run."""

    def __init__(self, path: Path, mirror: str, place: Place | None = None) -> None:
        self.path = path
        self.store = MirroredStore(str(path), mirror=mirror, interval=NEVER)
        if place is not None:
            self.store._shipping.place = place
        self.number = 0

    async def __aenter__(self) -> Machine:
        await self.store.open()
        await asyncio.sleep(0)
        async with self.store._turn:  # the first shipment, which begins by itself, is over
            self.number = self.commits * 1000
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.store.close()

    async def work(self, times: int = 1) -> None:
        """Some checkpoints."""
        for _ in range(times):
            self.number += 1
            leases = (await self.store.claim(20, {}, NOW)).leases[:20]
            await self.store.commit(
                done(
                    leases,
                    fresh=pages(A, 60, first=60 * self.number),
                    items=[item(self.number)] * 20,
                    documents={"part": Document(1, b"%d" % self.number)},
                    add={"items_saved": 20, "requests_finished": len(leases)},
                )
            )

    async def ship(self) -> None:
        """Ship, as the background task does it; what was not shipped is for the next time."""
        await self.store._ship()

    @property
    def content(self) -> dict[str, Any]:
        return content(self.store)

    @property
    def commits(self) -> int:
        return commits_of(self.store)


def commits_of(store: SqliteStore) -> int:
    ((commits,),) = store._db.execute("SELECT commits FROM progress")
    return int(commits)


async def restored(path: Path, mirror: str) -> tuple[int, dict[str, Any]]:
    """What a fresh machine finds in the mirror: how many checkpoints, and the run."""
    async with Machine(path, mirror) as machine:
        assert findings(machine.store) == []
        return machine.commits, machine.content


class Trouble(Directory):
    """A directory that fails at a chosen step.

    Args:
        path: The directory.
        at: The step that fails.
        happens: Called with the step's number, before and after each.
    """

    def __init__(self, path: Path, *, happens: Callable[[int, str, bool], None]) -> None:
        super().__init__(str(path), str(path))
        self.steps = 0
        self._happens = happens

    def _step(self, what: str, work: Callable[..., Any], *args: Any) -> Any:
        self.steps += 1
        step = self.steps
        self._happens(step, what, False)
        result = work(*args)
        self._happens(step, what, True)
        return result

    def names(self, prefix: str) -> list[str]:
        return self._step("names", super().names, prefix)

    def get(self, name: str) -> bytes:
        return self._step("get", super().get, name)

    def create(self, name: str, data: bytes) -> bool:
        return self._step("create", super().create, name, data)

    def delete(self, names: Iterable[str]) -> None:
        self._step("delete", super().delete, list(names))


# -- going on elsewhere ---------------------------------------------------------------------------


async def test_a_fresh_machine_goes_on_from_the_mirror_alone(tmp_path: Path, address: str) -> None:
    async with Machine(tmp_path / "first", address) as first:
        await first.work(5)
        await first.ship()
        await first.work(5)
        await first.ship()
        left = first.content
    shutil.rmtree(tmp_path / "first")
    async with Machine(tmp_path / "second", address) as second:
        assert second.content == left
        assert findings(second.store) == []
        await second.work(3)
        await second.ship()
        left = second.content
    assert (await restored(tmp_path / "third", address))[1] == left


async def test_the_last_checkpoint_is_shipped_at_the_end(tmp_path: Path, address: str) -> None:
    async with Machine(tmp_path / "first", address) as first:
        await first.work(3)
        await first.store.ship(5.0)
        left = first.content
    assert (await restored(tmp_path / "second", address))[1] == left


async def test_what_was_not_shipped_is_lost_with_the_machine_and_no_more(
    tmp_path: Path, address: str
) -> None:
    async with Machine(tmp_path / "first", address) as first:
        await first.work(3)
        await first.ship()
        left = first.content
        await first.work(3)
    assert await restored(tmp_path / "second", address) == (3, left)


async def test_a_restart_on_the_same_machine_goes_on_from_the_local_run(
    tmp_path: Path, address: str
) -> None:
    async with Machine(tmp_path / "run", address) as machine:
        await machine.work(3)
        await machine.ship()
        await machine.work(3)
        left = machine.content
        copied(machine.store, tmp_path / "killed")
    async with Machine(tmp_path / "killed", address) as machine:
        assert (machine.commits, machine.content) == (6, left)
        await machine.work()
        await machine.ship()
        left = machine.content
    assert (await restored(tmp_path / "other", address))[1] == left


async def test_a_restart_in_good_order_ships_no_snapshot_again(tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    async with Machine(tmp_path / "run", str(mirror)) as machine:
        await machine.work(3)
        await machine.store.ship()
    async with Machine(tmp_path / "run", str(mirror)) as machine:
        await machine.work(3)
        await machine.store.ship()
        left = machine.content
    assert len(Directory("", str(mirror)).names(SNAPSHOTS)) == 1
    assert (await restored(tmp_path / "other", str(mirror)))[1] == left


async def test_what_was_committed_without_the_mirror_is_in_it_after_the_next_shipment(
    tmp_path: Path,
) -> None:
    mirror = str(tmp_path / "mirror")
    async with Machine(tmp_path / "run", mirror) as machine:
        await machine.work(3)
        await machine.store.ship()
    alone = SqliteStore(str(tmp_path / "run"))
    await alone.open()
    await alone.commit(done([], fresh=pages(A, 5, first=10**6)))
    await alone.close()
    async with Machine(tmp_path / "run", mirror) as machine:
        await machine.ship()
        left = machine.content
    assert await restored(tmp_path / "other", mirror) == (4, left)


async def test_a_local_run_that_another_machine_has_gone_on_with_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mirror = str(tmp_path / "mirror")
    async with Machine(tmp_path / "first", mirror) as first:
        await first.work(3)
        await first.ship()
        await first.work(4)  # which nobody else has seen
    async with Machine(tmp_path / "second", mirror) as second:
        await second.work(1)
        await second.ship()
        left = second.content
    with caplog.at_level(logging.INFO, "crawlkit.mirror"):
        async with Machine(tmp_path / "first", mirror) as first:
            assert first.content == left
            assert findings(first.store) == []
    assert "which was superseded, from the mirror" in caplog.text


async def test_a_local_run_that_has_lost_checkpoints_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mirror = str(tmp_path / "mirror")
    async with Machine(tmp_path / "run", mirror) as machine:
        await machine.work(3)
        copied(machine.store, tmp_path / "copy")
        await machine.work(3)
        await machine.store.ship()
        left = machine.content
        note = (tmp_path / "run" / "mirror.json").read_bytes()
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "copy").rename(tmp_path / "run")
    (tmp_path / "run" / "mirror.json").write_bytes(note)
    caplog.set_level(logging.INFO, "crawlkit.mirror")
    async with Machine(tmp_path / "run", mirror) as machine:
        assert machine.content == left
        await machine.work()
        await machine.ship()
        left = machine.content
    assert "which has lost checkpoints, from the mirror" in caplog.text
    assert (await restored(tmp_path / "other", mirror))[1] == left


async def test_a_run_that_is_not_the_mirrors_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    mirror = str(tmp_path / "mirror")
    async with Machine(tmp_path / "first", mirror) as first:
        await first.work(3)
        await first.ship()
    for number, name in enumerate(("unmirrored", "mirrored elsewhere")):
        path = tmp_path / name
        other: Store = (
            SqliteStore(str(path)) if number == 0 else Machine(path, str(tmp_path / "m2")).store
        )
        await other.open()
        await other.commit(done([], fresh=pages(A, 1)))
        before = content(other)
        await other.close()
        with pytest.raises(StoreError, match="is not the one in the mirror") as caught:
            await Machine(path, mirror).store.open()
        assert "\n" not in str(caught.value)
        plain = SqliteStore(str(path))
        await plain.open()
        assert content(plain) == before
        await plain.close()


async def test_fresh_begins_the_mirror_anew_too(tmp_path: Path) -> None:
    mirror = str(tmp_path / "mirror")
    async with Machine(tmp_path / "run", mirror) as machine:
        await machine.work(3)
        await machine.ship()
    machine = Machine(tmp_path / "run", mirror)
    await machine.store.open(fresh=True)
    assert machine.commits == 0
    await machine.store.close()
    # It has not shipped anything yet: there is no run, rather than the one before.
    assert (await restored(tmp_path / "other", mirror))[0] == 0


# -- two machines ---------------------------------------------------------------------------------


async def test_a_machine_that_was_taken_over_stops_and_adds_nothing(
    tmp_path: Path, address: str
) -> None:
    async with Machine(tmp_path / "first", address) as first:
        await first.work(3)
        await first.ship()
        async with Machine(tmp_path / "second", address) as second:
            await second.work(2)
            await first.work(2)
            with pytest.raises(MirrorTakenError, match="is no longer this machine's") as caught:
                await first.ship()
            assert "\n" not in str(caught.value)
            await second.ship()
            left = second.content
    assert (await restored(tmp_path / "third", address))[1] == left


async def test_a_machine_that_was_frozen_for_very_long_is_fenced_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "SNAPSHOT_AT", 1)
    mirror = str(tmp_path / "mirror")
    async with Machine(tmp_path / "first", mirror) as first:
        await first.work(3)
        await first.ship()
        for number in range(3):
            async with Machine(tmp_path / f"later-{number}", mirror) as later:
                for _ in range(4):
                    await later.work()
                    await later.ship()
                left = later.content
        await first.work()
        with pytest.raises(MirrorTakenError):
            await first.ship()
    assert (await restored(tmp_path / "last", mirror))[1] == left


async def test_of_machines_that_take_over_at_once_one_goes_on(tmp_path: Path) -> None:
    mirror = str(tmp_path / "mirror")
    async with Machine(tmp_path / "first", mirror) as first:
        await first.work(3)
        await first.ship()
    others = [Machine(tmp_path / f"other-{number}", mirror) for number in range(3)]
    await asyncio.gather(*(other.store.open() for other in others))
    survivors = []
    for other in others:
        await other.work()
        try:
            await other.ship()
        except MirrorTakenError:
            continue
        survivors.append(other.content)
    for other in others:
        await other.store.close()
    assert len(survivors) == 1
    assert (await restored(tmp_path / "last", mirror))[1] == survivors[0]


async def test_a_crawl_that_was_taken_over_ends_with_one_clear_error(
    tmp_path: Path, shop: ShopSite
) -> None:
    mirror = str(tmp_path / "mirror")

    class Endless(Crawler):
        delay = 0.05

        async def parse(self, page: Page) -> None:
            page.follow("a")

    def crawler(name: str) -> Endless:
        return Endless(
            start_urls=[shop.url("/")],
            store=str(tmp_path / name),
            mirror=mirror,
            mirror_interval=0.1,
        )

    first = asyncio.create_task(crawler("first").crawl())
    while (note := read_note(tmp_path / "first")) is None or note.commits < 3:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    async with Machine(tmp_path / "second", mirror):
        with pytest.raises(MirrorTakenError):
            await asyncio.wait_for(first, 20)


FROZEN = """
from crawlkit import Crawler

class Shop(Crawler):
    delay = 0.05
    mirror_interval = 0.2

    async def parse(self, page):
        page.save({"url": page.url})
        page.follow("a")
"""


def test_a_process_that_was_frozen_meanwhile_ends_in_one_line_and_adds_nothing(
    tmp_path: Path, site: Site
) -> None:
    paths = ["/", *(f"/{number}" for number in range(60))]
    for path in paths:
        site.add_page(path, links=paths)
    (tmp_path / "shop.py").write_text(FROZEN)

    def start(name: str, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "crawlkit", "run", str(tmp_path / "shop.py")]
        command += [site.url("/"), "--store", str(tmp_path / name), "--no-progress"]
        command += ["--mirror", str(tmp_path / "mirror"), *options]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    first = start("first")
    try:
        deadline = time.monotonic() + 30
        while site.hits() < 10 and time.monotonic() < deadline:
            time.sleep(0.02)
        first.send_signal(signal.SIGSTOP)
        second = start("second", "--set", "delay=0")
        assert second.wait(60) == 0, second.stderr and second.stderr.read()
        first.send_signal(signal.SIGCONT)
        _, said = first.communicate(timeout=60)
    finally:
        first.kill()
    assert first.returncode == 1
    assert said.splitlines()[-1].startswith("crawlkit: the run is no longer this machine's: ")
    assert "Traceback" not in said
    assert second.stderr is not None
    second.stderr.close()
    with open_run(tmp_path / "second") as run:
        assert sorted(item["url"] for item in run.items()) == sorted(map(site.url, paths))
        assert list(run.check()) == []


# -- when something goes wrong --------------------------------------------------------------------


async def test_a_machine_that_dies_at_any_step_of_shipping_leaves_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the machine itself goes on, where only the process has died."""
    monkeypatch.setattr(shipping, "SNAPSHOT_AT", 300_000)
    monkeypatch.setattr(shipping, "PART", 8)
    monkeypatch.setattr(database, "MERGE_LOG_AT", 200_000)
    mirror, deaths = tmp_path / "mirror", tmp_path / "deaths"
    machine: Machine

    def happens(step: int, what: str, is_over: bool) -> None:
        if what in ("create", "delete") and step > 3:
            name = f"{step:03d}-{'after' if is_over else 'before'}"
            shutil.copytree(mirror, deaths / name / "mirror")
            copied(machine.store, deaths / name / "local")

    machine = Machine(tmp_path / "run", str(mirror), Trouble(mirror, happens=happens))
    states = {}
    async with machine:
        states[machine.commits] = machine.content
        for _ in range(8):
            await machine.work()
            states[machine.commits] = machine.content
            await machine.ship()
    moments = sorted(deaths.iterdir())
    assert len(moments) > 20
    snapshots = set()
    for moment in moments:
        there = str(moment / "mirror")
        commits, found = await restored(moment / "elsewhere", there)
        assert found == states[commits]
        snapshots.add(len(Directory("", there).names(SNAPSHOTS)))
        async with Machine(moment / "local", there) as again:
            # It was superseded by the machine above, which has not gone on; or it is ahead.
            assert again.content == states[again.commits]
            await again.work()
            await again.ship()
            left = again.content
        assert (await restored(moment / "third", there))[1] == left
    assert len(snapshots) > 2, "there were moments with a part of a snapshot"


async def test_a_machine_that_dies_before_the_mirror_holds_anything_ships_it_whole_later(
    tmp_path: Path,
) -> None:
    mirror = tmp_path / "mirror"

    def happens(step: int, what: str, is_over: bool) -> None:
        if step > 4:
            raise OSError("the network is unreachable")

    trouble = Trouble(mirror, happens=happens)
    for commits in (0, 2):
        path = tmp_path / f"killed-{commits}"
        async with Machine(tmp_path / f"run-{commits}", str(mirror), trouble) as machine:
            await machine.work(commits)
            await machine.ship()
            copied(machine.store, path)
        async with Machine(path, str(mirror)) as machine:
            await machine.work()
            await machine.ship()
            left = machine.content
        assert (await restored(tmp_path / f"other-{commits}", str(mirror)))[1] == left
        shutil.rmtree(mirror)
        trouble.steps = 0


@pytest.mark.parametrize("is_done", [False, True], ids=["fails", "is done and its answer lost"])
@pytest.mark.parametrize("seed", range(4))
async def test_whatever_fails_is_shipped_later_and_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    is_done: bool,
    seed: int,
) -> None:
    monkeypatch.setattr(shipping, "SNAPSHOT_AT", 300_000)
    mirror, rng = tmp_path / "mirror", random.Random(seed)
    is_in_trouble = False

    def happens(step: int, what: str, is_over: bool) -> None:
        if is_in_trouble and is_over == is_done and rng.random() < 0.5:
            raise OSError("the network is unreachable")

    async with Machine(tmp_path / "run", str(mirror), Trouble(mirror, happens=happens)) as machine:
        for number in range(12):
            is_in_trouble = 2 <= number < 10
            await machine.work()
            await machine.ship()
        left = machine.content
    assert await restored(tmp_path / "other", str(mirror)) == (12, left)
    warnings = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert warnings
    assert all("the crawl goes on, and the mirror catches up later" in w.message for w in warnings)
    assert len(warnings) <= 5, "once for each time that it was reached in between"


async def test_a_mirror_that_is_away_for_long_costs_a_bounded_amount_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog_module, "MOST_BACKLOG", 50)
    mirror = tmp_path / "mirror"
    is_away = False

    def happens(step: int, what: str, is_over: bool) -> None:
        if is_away:
            raise OSError("the network is unreachable")

    async with Machine(tmp_path / "run", str(mirror), Trouble(mirror, happens=happens)) as machine:
        await machine.work()
        await machine.ship()
        is_away = True
        for _ in range(20):
            await machine.work()
            await machine.ship()
            backlog = machine.store._backlog
            assert backlog is None or len(backlog.pages) <= 50
        is_away = False
        await machine.ship()
        left = machine.content
    assert await restored(tmp_path / "other", str(mirror)) == (21, left)


async def test_a_mirror_that_hangs_slows_no_checkpoint_down(tmp_path: Path) -> None:
    mirror, go_on = tmp_path / "mirror", threading.Event()
    does_hang = False

    def happens(step: int, what: str, is_over: bool) -> None:
        if does_hang:
            go_on.wait(20)

    async with Machine(tmp_path / "run", str(mirror), Trouble(mirror, happens=happens)) as machine:
        await machine.work()
        await machine.ship()
        does_hang = True
        await machine.work()
        hanging = asyncio.create_task(machine.ship())
        await asyncio.sleep(0.1)
        began = time.monotonic()
        await machine.work(5)
        assert time.monotonic() - began < 10  # and not 20
        assert not hanging.done()
        began = time.monotonic()
        await machine.store.ship(0.3)
        assert time.monotonic() - began < 10  # and not 20
        go_on.set()
        await hanging


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "missing"])
async def test_a_damaged_record_is_refused_in_one_line_and_never_misread(
    tmp_path: Path, damage: str
) -> None:
    mirror = tmp_path / "mirror"
    async with Machine(tmp_path / "run", str(mirror)) as machine:
        for _ in range(4):
            await machine.work()
            await machine.ship()
    names = [name for name in Directory("", str(mirror)).names("") if name != FENCE]
    assert len(names) >= 6
    for number, name in enumerate(names):
        copy = tmp_path / f"copy-{number}"
        shutil.copytree(mirror, copy)
        victim, data = copy / name, bytearray((copy / name).read_bytes())
        if damage == "missing":
            victim.unlink()
        else:
            data[len(data) // 2] ^= 0x10
            cuts: dict[str, bytes | bytearray] = {
                "cut": data[: len(data) // 2],
                "empty": b"",
                "flipped": data,
            }
            victim.write_bytes(cuts[damage])
        path = tmp_path / f"other-{number}"
        if name == names[0] and damage == "missing":
            continue  # the first takeover, without which the rest is whole
        if name == max(n for n in names if n.startswith(LOG)) and damage == "missing":
            continue  # the mirror ends before it
        with pytest.raises(StoreError) as caught:
            await Machine(path, str(copy)).store.open()
        assert "\n" not in str(caught.value)
        assert not (path / "run.sqlite3").exists()


async def test_a_restore_that_is_killed_begins_anew(tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    async with Machine(tmp_path / "run", str(mirror)) as machine:
        for _ in range(4):
            await machine.work()
            await machine.ship()
        left = machine.content

    class Killed(BaseException):
        pass

    for last in range(1, 50):
        copy = tmp_path / f"mirror-{last}"
        shutil.copytree(mirror, copy)

        def happens(step: int, what: str, is_over: bool, last: int = last) -> None:
            if step >= last:
                raise Killed

        torn = Machine(tmp_path / f"torn-{last}", str(copy), Trouble(copy, happens=happens))
        try:
            await torn.store.open()
        except Killed:
            assert not (torn.path / "run.sqlite3").exists()
        else:
            await torn.store.close()
            break
        async with Machine(torn.path, str(copy)) as machine:
            assert machine.content == left
    assert last > 8


async def test_a_restore_that_is_killed_while_it_replaces_a_run_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = str(tmp_path / "mirror")
    async with Machine(tmp_path / "first", mirror) as machine:
        await machine.work(2)
        await machine.ship()
    async with Machine(tmp_path / "second", mirror) as machine:
        await machine.work(2)
        await machine.ship()
        left = machine.content

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    for name in ("scan", "sync_names"):
        with monkeypatch.context() as patch:
            patch.setattr(f"crawlkit.stores.mirror.restoring.{name}", die)
            with pytest.raises(KeyboardInterrupt):
                await Machine(tmp_path / "first", mirror).store.open()
    async with Machine(tmp_path / "first", mirror) as machine:
        assert machine.content == left


async def test_a_superseded_run_is_replaced_also_where_that_was_killed_before_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = str(tmp_path / "mirror")
    async with Machine(tmp_path / "first", mirror) as first:
        await first.work(2)
        await first.ship()
        await first.work(9)  # further than the other one, and to no avail
    async with Machine(tmp_path / "second", mirror) as second:
        await second.work(2)
        await second.ship()
        left = second.content

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mirrored_module, "restore", die)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                await Machine(tmp_path / "first", mirror).store.open()
    async with Machine(tmp_path / "first", mirror) as first:
        assert first.content == left


async def test_a_run_that_was_begun_anew_without_its_mirror_is_not_replaced(tmp_path: Path) -> None:
    mirror = str(tmp_path / "mirror")
    async with Machine(tmp_path / "run", mirror) as machine:
        await machine.work(9)
        await machine.ship()
    alone = SqliteStore(str(tmp_path / "run"))
    await alone.open(fresh=True)
    await alone.commit(done([], fresh=pages(A, 5)))
    await alone.close()
    with pytest.raises(StoreError, match="is not the one in the mirror"):
        await Machine(tmp_path / "run", mirror).store.open()


async def test_a_mirror_from_which_nothing_may_be_removed_goes_on_growing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shipping, "SNAPSHOT_AT", 2**19)
    mirror = tmp_path / "mirror"

    def happens(step: int, what: str, is_over: bool) -> None:
        if what == "delete":
            raise OSError("access denied")

    async with Machine(tmp_path / "run", str(mirror), Trouble(mirror, happens=happens)) as machine:
        for _ in range(12):
            await machine.work()
            await machine.ship()
        left = machine.content
    assert "old records of the mirror" in caplog.text
    assert await restored(tmp_path / "other", str(mirror)) == (12, left)


@pytest.mark.parametrize("seed", range(6))
async def test_however_the_log_is_merged_and_begun_anew_the_mirror_has_it_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(database, "MERGE_LOG_AT", rng.choice([1, 50_000, 400_000]))
    monkeypatch.setattr(shipping, "SNAPSHOT_AT", rng.choice([1, 10**6, 10**9]))
    mirror = str(tmp_path / "mirror")
    async with Machine(tmp_path / "run", mirror) as machine:
        readers = []
        for _ in range(40):
            match rng.randrange(8):
                case 0 | 1:
                    await machine.ship()
                case 2:
                    # A checkpoint that is refused, half-way.
                    leases = await claim_all(machine.store)
                    await machine.store.release()
                    if leases:
                        with pytest.raises(StoreError):
                            await machine.store.commit(
                                done(leases[:1], fresh=pages(A, 3000, first=rng.randrange(10**9)))
                            )
                case 3:
                    # Somebody looks at an older state, so that the log cannot be begun anew.
                    reader = machine.store.reader()
                    reader._db.execute("BEGIN")  # type: ignore[attr-defined]
                    reader.counters()
                    readers.append(reader)
                case 4 if readers:
                    readers.pop().close()
                case _:
                    await machine.work()
        await machine.ship()
        left = machine.commits, machine.content
        for reader in readers:
            reader.close()
    assert await restored(tmp_path / "other", mirror) == left


async def test_old_segments_are_removed_after_a_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setattr(shipping, "SNAPSHOT_AT", 2**19)
    async with Machine(tmp_path / "run", address) as machine:
        for _ in range(20):
            await machine.work()
            await machine.ship()
        left = machine.content
        place = place_of(address)
        assert len(place.names(LOG)) < 12
        assert place.names(LOG)[0] == f"{LOG}000000000001", "a takeover stays"
        assert len({name.rpartition("/")[0] for name in place.names(SNAPSHOTS)}) == 1
    assert (await restored(tmp_path / "other", address))[1] == left


# -- what the user gets to know -------------------------------------------------------------------


async def test_how_far_the_mirror_is_behind_can_be_seen(tmp_path: Path) -> None:
    async with Machine(tmp_path / "run", str(tmp_path / "mirror")) as machine:
        await machine.work(3)
        await machine.ship()
        await machine.work(2)
        note = read_note(tmp_path / "run")
        assert note is not None
        assert (note.commits, note.address) == (3, str(tmp_path / "mirror"))
        assert abs(note.at - time.time()) < 10
        shown = CliRunner().invoke(main, ["stats", str(tmp_path / "run")]).output
        assert f"mirror      {tmp_path}/mirror: 2 checkpoints behind; shipped at 20" in shown
        told = stats_of(tmp_path / "run")["mirror"]
        assert (told["address"], told["checkpoints_behind"]) == (str(tmp_path / "mirror"), 2)
        assert told["shipped_at"] == isoformat(note.at)
        await machine.ship()
        assert stats_of(tmp_path / "run")["mirror"]["checkpoints_behind"] == 0
        shown = CliRunner().invoke(main, ["stats", str(tmp_path / "run")]).output
        assert f"mirror      {tmp_path}/mirror: holds everything; shipped at 20" in shown


async def test_a_run_without_a_mirror_says_nothing_of_one(tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "run"))
    await store.open()
    await store.commit(Checkpoint(add={"lives": 1}))
    await store.close()
    assert "mirror" not in stats_of(tmp_path / "run")


def stats_of(path: Path) -> dict[str, Any]:
    """What ``stats --json`` prints, which is as its schema says."""
    shown = CliRunner().invoke(main, ["stats", str(path), "--json"])
    found: dict[str, Any] = json.loads(shown.output)
    schema = json.loads((ROOT / "docs" / "statistics.schema.json").read_text())
    jsonschema.validate(found, schema)
    return found


async def test_a_mirror_that_cannot_be_reached_at_the_start_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrored_module, "ATTEMPTS", 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot be reached: .*; mend that, or start without"):
        await Machine(tmp_path / "run", str(tmp_path / "file" / "mirror")).store.open()


def test_a_bucket_without_keys_is_told_from_one_that_cannot_be_reached() -> None:
    exceptions = pytest.importorskip("obstore.exceptions", reason="needs obstore")
    told = "Error performing PUT http://169.254.169.254/latest/api/token: 403\nDebug { ... }"
    bucket: Any = place_of("s3://bucket/run")
    keyless = "^there are no keys for it in the environment, such as AWS_ACCESS_KEY_ID"
    with pytest.raises(OSError, match=keyless), bucket._translated():
        raise exceptions.GenericError(told)
    with pytest.raises(OSError, match=r"^no route$"), bucket._translated():
        raise exceptions.GenericError("no route\nDebug")


def test_what_a_killed_machine_has_not_finished_is_never_seen_and_removed_in_time(
    tmp_path: Path,
) -> None:
    place = place_of(str(tmp_path))
    place.create("log/000000000001", b"x")
    for name, age in (("old", 2 * 24 * 3600), ("recent", 60)):
        draft = tmp_path / "log" / f"000000000002.{name}.new"
        draft.write_bytes(b"half of")
        os.utime(draft, (time.time() - age,) * 2)
    assert place.names("log/") == ["log/000000000001"]
    assert place.create("log/000000000002", b"y")
    place.delete([])
    assert [path.name for path in tmp_path.rglob("*.new")] == ["000000000002.recent.new"]


async def test_a_place_that_replaces_what_is_there_is_refused(tmp_path: Path) -> None:
    class Careless(Directory):
        def create(self, name: str, data: bytes) -> bool:
            (tmp_path / "mirror" / name).unlink(missing_ok=True)
            return super().create(name, data)

    place = Careless("careless", str(tmp_path / "mirror"))
    with pytest.raises(StoreError, match="careless does not know conditional puts"):
        await Machine(tmp_path / "run", str(tmp_path / "mirror"), place).store.open()


async def test_fresh_asks_before_it_throws_away_what_only_the_mirror_holds(tmp_path: Path) -> None:
    mirror = str(tmp_path / "mirror")
    async with Machine(tmp_path / "first", mirror) as first:
        await first.work(2)
        await first.ship()
        left = first.content
    (tmp_path / "shop.py").write_text(FROZEN)
    command = ["run", str(tmp_path / "shop.py"), "--store", str(tmp_path / "second")]
    done = await asyncio.to_thread(
        CliRunner().invoke, main, [*command, "--mirror", mirror, "--fresh", "--no-progress"]
    )
    assert isinstance(done.exception, UsageError) or done.exit_code == 2
    assert f"--fresh would throw away the run in {mirror}; add --yes" in (
        str(done.exception) + done.output
    )
    assert (await restored(tmp_path / "third", mirror))[1] == left


@pytest.mark.parametrize(
    ("store", "mirror", "match"),
    [
        ("memory:", "mirror", "a run in memory: has no mirror"),
        ("run", "ftp://host/run", "no mirror can be at 'ftp://host/run'"),
        ("run", "s3://", "no mirror can be at 's3://'"),
    ],
)
def test_a_mirror_that_makes_no_sense_is_refused(store: str, mirror: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        open_store(store, mirror=mirror)


def test_an_address_with_file_is_a_directory(tmp_path: Path) -> None:
    place = place_of(f"file://{tmp_path}/a%20mirror")
    assert place.create("log/000000000001", b"x")
    assert not place.create("log/000000000001", b"y")
    assert (tmp_path / "a mirror" / "log" / "000000000001").read_bytes() == b"x"


def test_a_damaged_error_is_told_from_others() -> None:
    assert issubclass(StoreDamagedError, StoreError)
    assert not issubclass(MirrorTakenError, StoreDamagedError)

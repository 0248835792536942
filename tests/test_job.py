"""A job: checkpoints, state, events and exit codes, with no crawler in it."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from crawlkit import Checkpoint, Job, Request, Saved
from crawlkit.checkpoint import encode
from crawlkit.errors import (
    ItemError,
    StoreLockedError,
    StoreVersionError,
    StoreWriteError,
    UsageError,
)
from crawlkit.events import Migrating, PersistState
from crawlkit.items import encode_item
from crawlkit.request import checked
from crawlkit.stores.memory import MemoryStore
from crawlkit.testing import FaultyStore

from .stopwatch import Stopwatch


class Counted:
    """A part of the user's own."""

    def __init__(self, version: int = 1) -> None:
        self.counts = Counter[str]()
        self.version = version

    def restore(self, saved: Saved) -> None:
        self.counts.update(saved.load({}, version=self.version))

    def collect(self, checkpoint: Checkpoint) -> None:
        checkpoint.save(self.counts, version=self.version)


async def test_state_values_and_parts_are_there_in_the_next_life(tmp_path: Path) -> None:
    async with Job(tmp_path / "run") as job:
        counted = job.persist("counted", Counted())
        counted.counts["a"] += 3
        job.state["place"] = 7
        await job.set_value("key", [1, 2])
    async with Job(tmp_path / "run") as job:
        assert job.persist("counted", Counted()).counts == {"a": 3}
        assert job.state == {"place": 7}
        assert await job.get_value("key") == [1, 2]
        assert await job.get_value("other", "default") == "default"


async def test_a_value_can_be_read_before_and_after_its_checkpoint_and_be_removed() -> None:
    async with Job("memory:") as job:
        await job.set_value("key", {"n": 1})
        assert await job.get_value("key") == {"n": 1}
        await job.checkpoint()
        assert await job.get_value("key") == {"n": 1}
        await job.checkpoint()
        await job.set_value("key", None)
        assert await job.get_value("key", "gone") == "gone"
        await job.checkpoint()
        assert await job.get_value("key", "gone") == "gone"


async def test_a_value_that_was_read_is_a_copy() -> None:
    async with Job("memory:") as job:
        await job.set_value("key", [1])
        (await job.get_value("key")).append(2)
        assert await job.get_value("key") == [1]


async def test_what_is_not_json_is_refused_when_it_is_set() -> None:
    async with Job("memory:") as job:
        with pytest.raises(UsageError, match="value of 'key'"):
            await job.set_value("key", object())


async def test_state_of_another_version_is_refused_with_the_remedy(tmp_path: Path) -> None:
    async with Job(tmp_path / "run") as job:
        job.persist("counted", Counted(version=2)).counts["a"] += 1
    async with Job(tmp_path / "run") as job:
        with pytest.raises(StoreVersionError, match="version 2 and this code reads version 1"):
            job.persist("counted", Counted())


async def test_a_part_is_restored_before_the_work_begins(tmp_path: Path) -> None:
    async with Job(tmp_path / "run") as job:
        job.persist("counted", Counted()).counts["a"] += 1
    job = Job(tmp_path / "run")
    counted = job.persist("counted", Counted())
    async with job:
        assert counted.counts == {"a": 1}


async def test_two_parts_cannot_have_one_name() -> None:
    job = Job("memory:")
    job.persist("counted", Counted())
    with pytest.raises(UsageError, match="'counted' is registered already"):
        job.persist("counted", Counted())


async def test_a_checkpoint_is_taken_every_persist_interval() -> None:
    heard: list[bool] = []
    job = Job("memory:", persist_interval=0.02)
    job.on("persistState", lambda event: heard.append(event.is_migrating))
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with job, asyncio.timeout(10):
        while len(heard) < 8:  # noqa: ASYNC110 - as many as it takes
            await asyncio.sleep(0.01)
    assert len(heard) <= (loop.time() - began) / 0.02 + 1
    assert not any(heard)


async def test_what_a_listener_of_persist_state_sets_is_in_that_checkpoint() -> None:
    store = MemoryStore()
    job = Job(store)

    async def remember() -> None:
        await job.set_value("written", "in time")

    job.on("persistState", remember)
    async with job:
        await job.checkpoint()
        names = [name for name, _ in store.reader().documents("values/")]
        assert names == ["values/written"]


async def test_a_listener_that_raises_or_hangs_keeps_nobody_from_saving(
    caplog: pytest.LogCaptureFixture,
) -> None:
    job = Job("memory:")
    job.bus.deadline = 0.05

    async def hang() -> None:
        while True:
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                await asyncio.sleep(0.01)
                raise

    def fail() -> None:
        raise ValueError("listener")

    job.on("persistState", hang)
    job.on("persistState", fail)
    async with job:
        await job.set_value("key", 1)
        await job.checkpoint()
        assert job.store.reader().counters() == {}
        assert [name for name, _ in job.store.reader().documents("values/")] == ["values/key"]
    assert "cut off" in caplog.text
    assert "ValueError: listener" in caplog.text


async def test_a_checkpoint_that_cannot_be_written_is_kept_and_written_later() -> None:
    store = FaultyStore(MemoryStore(), at=1)
    async with Job(store) as job:
        await job.set_value("first", 1)
        with pytest.raises(StoreWriteError):
            await job.checkpoint()
        await job.set_value("second", 2)
        await job.checkpoint()
        names = [name for name, _ in store.reader().documents("values/")]
        assert names == ["values/first", "values/second"]


async def test_a_store_that_never_works_again_ends_the_job_with_its_error() -> None:
    store = FaultyStore(MemoryStore(), at=1, lasting=True)
    began = asyncio.get_running_loop().time()
    with pytest.raises(StoreWriteError):
        async with Job(store, persist_interval=0.02, store_patience=0.2) as job:
            job.state["a"] = 1
            await asyncio.sleep(30)
    assert asyncio.get_running_loop().time() - began < 5


async def test_a_job_that_was_told_to_stop_ends_with_75_and_has_saved(tmp_path: Path) -> None:
    heard: list[Any] = []
    with pytest.raises(SystemExit) as end:
        async with Job(tmp_path / "run", grace=0.2) as job:
            job.on("migrating", heard.append)
            job.on("persistState", heard.append)
            job.state["place"] = 1
            asyncio.get_running_loop().call_later(0.02, signal.raise_signal, signal.SIGTERM)
            await asyncio.sleep(30)
    assert end.value.code == 75
    assert heard[0] == Migrating(None)
    assert PersistState(is_migrating=True) in heard
    async with Job(tmp_path / "run") as job:
        assert job.state == {"place": 1}


async def test_a_block_that_stops_by_itself_when_told_ends_with_75_as_well() -> None:
    with pytest.raises(SystemExit) as end:
        async with Job("memory:") as job:
            asyncio.get_running_loop().call_later(0.02, signal.raise_signal, signal.SIGINT)
            await job.stopping()
            assert job.is_stopping
    assert end.value.code == 75


async def test_a_trigger_that_says_how_long_shortens_the_grace() -> None:
    took = Stopwatch()
    with pytest.raises(SystemExit):
        async with Job("memory:", grace=30) as job:
            await job.migrate(time_remaining=0.2)
            await asyncio.sleep(30)
    assert took.seconds < 1


async def test_an_error_in_the_block_comes_through_and_the_state_is_saved(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with Job(tmp_path / "run") as job:
            job.state["place"] = 1
            raise ZeroDivisionError
    async with Job(tmp_path / "run") as job:
        assert job.state == {"place": 1}


async def test_cancelling_the_program_is_not_mistaken_for_a_stop() -> None:
    async def program() -> None:
        async with Job("memory:"):
            await asyncio.sleep(30)

    task = asyncio.create_task(program())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_second_job_on_the_same_run_is_refused_with_the_holders_pid(
    tmp_path: Path,
) -> None:
    import os

    async with Job(tmp_path / "run"):
        with pytest.raises(StoreLockedError, match="is being written by process") as refusal:
            async with Job(tmp_path / "run"):
                pass
    assert refusal.value.pid == os.getpid()


async def test_an_event_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(UsageError, match="persistState"):
        Job("memory:").on("persist_state", print)


async def test_where_one_part_cannot_be_saved_none_is_so_that_they_agree(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the state cannot be saved"):
        async with Job(tmp_path / "run", persist_interval=30) as job:
            counted = job.persist("counted", Counted())
            counted.counts["a"] = 1
            await job.checkpoint()
            counted.counts["a"] = 2
            job.state["bad"] = object()
    async with Job(tmp_path / "run") as job:
        assert job.persist("counted", Counted()).counts == {"a": 1}
        assert job.state == {}


async def test_a_store_that_answers_no_question_ends_the_patience_though_it_saves(
    tmp_path: Path,
) -> None:
    async def ask() -> str:
        raise StoreWriteError("cannot read; see that the server runs")

    with pytest.raises(StoreWriteError, match="see that the server runs"):
        async with (
            asyncio.timeout(5),
            Job(tmp_path / "run", signals=False, persist_interval=0.02, store_patience=0.2) as job,
        ):
            await job.patiently(ask)


async def test_a_job_with_nothing_to_save_gives_up_a_store_that_stays_away() -> None:
    store = FaultyStore(MemoryStore(), at=1, lasting=True)
    with pytest.raises(StoreWriteError):
        async with (
            asyncio.timeout(5),
            Job(store, signals=False, persist_interval=0.02, store_patience=0.2) as job,
        ):
            job.trouble(StoreWriteError("cannot connect; see that the server runs"))
            await asyncio.sleep(30)


async def test_a_store_that_works_again_is_seen_to_though_there_is_nothing_to_save() -> None:
    store = FaultyStore(MemoryStore(), at=1)
    async with Job(store, signals=False, persist_interval=0.02) as job:
        job.trouble(StoreWriteError("cannot connect; see that the server runs"))
        async with asyncio.timeout(5):
            await job.settle()
        assert job.can_save
    assert store.failures == 1


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
async def test_a_number_that_json_has_no_word_for_is_refused_where_it_is_given(
    number: float,
) -> None:
    """It would come back as ``None``, in the next life."""
    reason = rf"a\.b\[1\] is {number}, and JSON has no word for that"
    value = {"n": None, "a": {"b": (1.0, number)}}
    async with Job("memory:") as job:
        with pytest.raises(UsageError, match=f"the value of 'key' cannot be saved: {reason}"):
            await job.set_value("key", value)
        job.state["of"] = value
        with pytest.raises(UsageError, match=rf"the state cannot be saved: of\.{reason}"):
            job.state.snapshot()
        job.state.clear()
    checkpoint = Checkpoint()
    with checkpoint.of("part"), pytest.raises(UsageError, match=f"part cannot be saved: {reason}"):
        checkpoint.save(value)
    with pytest.raises(UsageError, match=rf"cannot be saved: user_data\.{reason}"):
        checked(Request("https://a.example/", user_data=value))
    with pytest.raises(ItemError, match=f"an item cannot be saved: {reason}"):
        encode_item(value)
    with pytest.raises(UsageError, match=f"it is {number}"):
        encode(number, "a number")


@pytest.mark.parametrize(
    "name", [field.name for field in dataclasses.fields(Checkpoint) if field.name[0] != "_"]
)
def test_a_checkpoint_with_anything_in_it_is_committed(name: str) -> None:
    """Also where all there is to say is when a host may be asked next."""
    checkpoint = Checkpoint()
    assert not checkpoint
    setattr(checkpoint, name, ["something"])
    # When it is, and how documents are merged that are not there, is nothing to commit.
    assert bool(checkpoint) is (name not in ("at", "is_migrating", "merges"))


async def test_a_store_that_is_away_for_a_moment_is_asked_again(tmp_path: Path) -> None:
    job = Job(tmp_path / "run", signals=False)
    asked = 0

    async def ask() -> str:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise StoreWriteError("cannot connect; see that the server runs")
        return "here"

    async with job:
        assert await job.patiently(ask) == "here"
    assert asked == 3


async def test_a_store_that_stays_away_ends_the_patience(tmp_path: Path) -> None:
    job = Job(tmp_path / "run", signals=False, store_patience=0.0)

    async def ask() -> str:
        raise StoreWriteError("cannot connect; see that the server runs")

    with pytest.raises(StoreWriteError, match="see that the server runs"):
        async with job:
            await job.patiently(ask)


async def test_the_patience_ends_also_where_there_is_nothing_to_save() -> None:
    job = Job(
        FaultyStore(MemoryStore(), at=1, lasting=True),
        signals=False,
        persist_interval=0.02,
        store_patience=0.2,
    )

    async def ask() -> str:
        raise StoreWriteError("cannot connect; see that the server runs")

    with pytest.raises(StoreWriteError):
        async with asyncio.timeout(10), job:
            await job.patiently(ask)

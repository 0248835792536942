"""The bus: who is called, in which order, and what one listener can do to the others."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from crawlkit.checkpoint import Checkpoint, Saved
from crawlkit.errors import UsageError
from crawlkit.events import EVENTS, Aborting, EventBus, Migrating, PersistState

from .stopwatch import Stopwatch


async def test_listeners_may_be_plain_or_async_with_the_event_or_without() -> None:
    bus, heard = EventBus(), list[Any]()

    async def with_event(event: Migrating) -> None:
        heard.append(event)

    async def without() -> None:
        heard.append("async")

    bus.on("migrating", heard.append)
    bus.on("migrating", lambda: heard.append("plain"))
    bus.on("migrating", with_event)
    bus.on("migrating", without)
    await bus.emit(Migrating(5.0))
    assert heard == [Migrating(5.0), "plain", Migrating(5.0), "async"]


async def test_a_method_is_called_with_the_event_only_if_it_takes_one() -> None:
    class Listens:
        def __init__(self) -> None:
            self.heard: list[Any] = []

        def plain(self) -> None:
            self.heard.append(None)

        def taking(self, event: Aborting) -> None:
            self.heard.append(event)

    bus, listens = EventBus(), Listens()
    bus.on("aborting", listens.plain)
    bus.on("aborting", listens.taking)
    await bus.emit(Aborting())
    assert listens.heard == [None, Aborting()]


async def test_a_listener_that_is_taken_off_is_not_called_any_more() -> None:
    bus, heard = EventBus(), list[Any]()
    bus.on("aborting", heard.append)
    bus.off("aborting", heard.append)
    assert not bus.listens("aborting")
    bus.on("aborting", heard.append)
    bus.on("aborting", lambda: heard.append("other"))
    bus.off("aborting")
    await bus.emit(Aborting())
    assert heard == []


async def test_slow_listeners_share_one_deadline(caplog: pytest.LogCaptureFixture) -> None:
    bus = EventBus(deadline=0.1)

    async def slow() -> None:
        await asyncio.sleep(10)

    for _ in range(5):
        bus.on("aborting", slow)
    took = Stopwatch()
    await bus.emit(Aborting())
    assert took.seconds < 0.4
    assert caplog.text.count("cut off") == 5


async def test_a_listener_is_not_called_slow_where_the_one_who_tells_it_is_cancelled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As at the end of a job, in the middle of what it told a moment ago."""
    bus, begun, ended = EventBus(), asyncio.Event(), asyncio.Event()

    async def listener() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    bus.on("aborting", listener)
    telling = asyncio.create_task(bus.emit(Aborting()))
    await begun.wait()
    telling.cancel()
    await ended.wait()
    assert caplog.text == ""


async def test_emit_returns_when_the_last_listener_is_done() -> None:
    bus, heard = EventBus(), list[str]()

    async def slow() -> None:
        await asyncio.sleep(0.05)
        heard.append("done")

    bus.on("aborting", slow)
    await bus.emit(Aborting())
    assert heard == ["done"]


async def test_listeners_under_way_can_be_hurried() -> None:
    bus = EventBus(deadline=30)
    bus.on("aborting", lambda: asyncio.sleep(30))
    asyncio.get_running_loop().call_later(0.02, bus.hurry, 0.05)
    took = Stopwatch()
    await bus.emit(Aborting())
    assert took.seconds < 1


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS.keys())
def test_payloads_are_frozen_and_documented(event: type) -> None:
    assert event.__doc__
    fields = dataclasses.fields(event)
    for field in fields:
        assert f"{field.name}:" in event.__doc__, "a field that nobody can read about"
    values = event(*(None for _ in fields))
    with pytest.raises((dataclasses.FrozenInstanceError, TypeError)):
        values.other = 1


def test_the_first_five_have_the_names_of_the_apify_platform() -> None:
    assert list(EVENTS)[:4] == ["persistState", "migrating", "aborting", "systemInfo"]
    assert PersistState() == PersistState(is_migrating=False)


class Part:
    def __init__(self, value: Any) -> None:
        self.value = value

    def restore(self, saved: Saved) -> None:
        self.value = saved.load()

    def collect(self, checkpoint: Checkpoint) -> None:
        checkpoint.save(self.value)


def test_every_registered_part_is_collected_under_its_name() -> None:
    bus = EventBus()
    bus.register("one", Part(1))
    bus.register("two", Part([2]))
    checkpoint = Checkpoint()
    bus.collect(checkpoint)
    assert {name: doc.data for name, doc in checkpoint.documents.items() if doc} == {
        "one": b"1",
        "two": b"[2]",
    }


@pytest.mark.parametrize("name", ["", "a/b"])
def test_a_name_that_could_be_mistaken_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be called"):
        EventBus().register(name, Part(1))


def test_a_part_that_cannot_be_saved_is_named(caplog: pytest.LogCaptureFixture) -> None:
    bus = EventBus()
    bus.register("prices", Part(object()))
    failure = bus.collect(Checkpoint())
    assert isinstance(failure, UsageError)
    assert "prices cannot be saved" in str(failure)
    assert "'prices'" in caplog.text


class Panic(BaseException):
    """What a library in Rust raises."""


@pytest.mark.parametrize("error", [asyncio.CancelledError(), Panic("index out of bounds")])
async def test_a_listener_may_raise_whatever_it_wants(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """The result of a task that was cancelled, say. Who emits took it for the end of his own."""
    bus = EventBus()
    heard = []

    def failing() -> None:
        raise error

    bus.on("persistState", failing)
    bus.on("persistState", lambda: heard.append(True))
    await bus.emit(PersistState())
    assert heard == [True]
    assert type(error).__name__ in caplog.text


@pytest.mark.parametrize("error", [asyncio.CancelledError(), Panic("index"), SystemExit(0)])
def test_a_part_that_raises_whatever_leaves_nothing_that_could_be_committed(
    error: BaseException,
) -> None:
    class Broken:
        def restore(self, saved: Saved) -> None: ...

        def collect(self, checkpoint: Checkpoint) -> None:
            raise error

    bus = EventBus()
    bus.register("broken", Broken())
    uncollected = bus.collect(Checkpoint())
    assert isinstance(uncollected, RuntimeError)
    assert type(error).__name__ in str(uncollected)

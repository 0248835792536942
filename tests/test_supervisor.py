"""The supervisor of workers: what it does when they end, and what it tells them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from crawlkit.errors import MirrorTakenError, UsageError, WorkersError
from crawlkit.events import CrawlerStatus
from crawlkit.triggers.base import Watched
from crawlkit.triggers.watching import Watching
from crawlkit.workers.orders import Orders, migrate_within
from crawlkit.workers.supervisor import PATIENCE, Supervisor

NOTHING = CrawlerStatus(0, 0, 0, 0, 0)


class Workers:
    """A supervisor of processes that do as they are told, by the code that they run."""

    def __init__(
        self, code: str, *, count: int = 2, done: Sequence[int] = (), **options: Any
    ) -> None:
        self.code = code
        self.said: list[str] = []
        self.joins: list[bool] = []
        self.done = list(done)
        self._watching = options.pop("watching", Watching(()))
        self.supervisor = Supervisor(
            self.command,
            count,
            server=None,
            has_begun=self.has_begun,
            look=self.look,
            show=self.show,
            tell=self.said.append,
            **{"watching": self._watching, "grace": 5.0, **options},
        )

    async def run(self) -> int:
        try:
            return await self.supervisor.run()
        finally:
            self._watching.let_go()

    def command(self, name: str, seat: object, joins: bool) -> list[str]:
        self.joins.append(joins)
        return [sys.executable, "-S", "-c", self.code, name]

    async def has_begun(self) -> bool:
        return len(self.joins) > 3

    async def look(self) -> CrawlerStatus:
        return CrawlerStatus(self.done.pop(0) if self.done else 0, 0, 0, 0, 0)

    async def show(self, status: CrawlerStatus) -> None:
        pass


async def test_workers_that_are_finished_are_not_replaced() -> None:
    workers = Workers("pass")
    assert await workers.run() == 0
    assert len(workers.joins) == 2


async def test_the_first_worker_begins_the_life_of_the_run_until_one_has() -> None:
    workers = Workers("import sys; sys.exit(sys.argv[1] == '1')", done=range(1, 9), count=2)
    with pytest.raises(WorkersError):
        await workers.run()
    first = [workers.joins[0], *workers.joins[2:]]
    assert first[:2] == [False, False]
    assert all(first[4:])


async def test_workers_that_die_are_replaced_as_long_as_something_gets_done() -> None:
    workers = Workers("import os; os.kill(os.getpid(), 9)", count=1, done=[1, 2, 3, 4, 5, 6])
    with pytest.raises(
        WorkersError, match=r"worker 1 was ended by SIGKILL, as .* short, without a word"
    ):
        await workers.run()
    assert len(workers.joins) == 6 + PATIENCE + 1


async def test_a_worker_that_is_called_in_a_wrong_way_is_the_end_at_once() -> None:
    workers = Workers("import sys; sys.stderr.write('no such option\\n'); sys.exit(2)", count=1)
    with pytest.raises(UsageError, match=r"^worker 1: no such option$"):
        await workers.run()
    assert workers.said == ["[1] no such option"]
    assert len(workers.joins) == 1


PARENT = """
import subprocess, sys
sys.stderr.write(f"{subprocess.Popen(['sleep', '60']).pid}\\nand no more")
"""


async def test_a_worker_has_ended_although_what_it_has_started_goes_on() -> None:
    """Such as a browser, or a program that a handler runs: it may keep the worker's stderr open."""
    workers = Workers(PARENT, count=1)
    try:
        async with asyncio.timeout(20):
            assert await workers.run() == 0
        assert workers.said[1:] == ["[1] and no more"]
    finally:
        os.kill(int(workers.said[0].removeprefix("[1] ")), signal.SIGKILL)


SLOW = """
import signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sys.stderr.write("ready\\n")
sys.stderr.write(sys.stdin.readline())
sys.exit(75)
"""


async def test_workers_are_told_how_much_time_is_left() -> None:
    workers = Workers(SLOW)
    running = asyncio.create_task(workers.run())
    async with asyncio.timeout(20):
        while len(workers.said) < 2:  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(0.01)
        await workers.supervisor.migrate(2.0)
        assert await running == 75
    assert sorted(workers.said) == [
        "[1] migrate 1.700",
        "[1] ready",
        "[2] migrate 1.700",
        "[2] ready",
    ]


STUBBORN = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sys.stderr.write("ready\\n")
time.sleep(60)
"""


async def test_workers_that_do_not_go_are_ended_within_the_grace() -> None:
    workers = Workers(STUBBORN, grace=0.5)
    running = asyncio.create_task(workers.run())
    async with asyncio.timeout(20):
        while len(workers.said) < 2:  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(0.01)
        await workers.supervisor.abort()
        assert await running == 75


async def test_what_is_shipped_at_the_end_has_all_the_time_where_nobody_waits() -> None:
    given: list[float | None] = []

    async def ship(within: float | None) -> None:
        given.append(within)

    assert await Workers("pass", ship=ship).run() == 0
    assert given == [None]


async def test_what_is_shipped_at_the_end_has_what_is_left_of_the_grace() -> None:
    given: list[float | None] = []

    async def ship(within: float | None) -> None:
        given.append(within)

    workers = Workers(SLOW, ship=ship, grace=10.0)
    running = asyncio.create_task(workers.run())
    async with asyncio.timeout(20):
        while len(workers.said) < 2:  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(0.01)
        await workers.supervisor.migrate(6.0)
        assert await running == 75
    (within,) = given
    assert within is not None
    assert 3.0 < within < 6.0


class Rung:
    """A trigger that says that the machine goes, when it is time."""

    def __init__(self, rings: asyncio.Event, has_rung: asyncio.Event) -> None:
        self._rings = rings
        self._has_rung = has_rung

    async def watch(self, job: Watched) -> None:
        await self._rings.wait()
        await job.migrate(60.0)
        self._has_rung.set()


async def test_who_is_told_to_go_while_the_last_of_it_is_shipped_hears_that() -> None:
    is_shipping, may_end = asyncio.Event(), asyncio.Event()

    async def ship(within: float | None) -> None:
        is_shipping.set()
        await may_end.wait()

    workers = Workers("pass", ship=ship, watching=Watching([Rung(is_shipping, may_end)]))
    async with asyncio.timeout(20):
        assert await workers.run() == 0


async def test_a_run_that_is_lost_to_all_workers_is_the_end_at_once() -> None:
    workers = Workers(STUBBORN, grace=0.5)
    running = asyncio.create_task(workers.run())
    async with asyncio.timeout(20):
        while len(workers.said) < 2:  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(0.01)
        workers.supervisor.lost(MirrorTakenError("it is another machine's"))
        with pytest.raises(MirrorTakenError):
            await running
    assert len(workers.joins) == 2


class Told:
    """What a job is told."""

    def __init__(self) -> None:
        self.calls: list[float | None] = []

    async def migrate(self, time_remaining: float | None = None) -> None:
        self.calls.append(time_remaining)


async def test_a_worker_hears_its_supervisor_and_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    end, start = os.pipe()
    monkeypatch.setattr("crawlkit.workers.orders.STDIN", end)
    told = Told()
    os.write(start, migrate_within(3.5))
    os.close(start)
    async with asyncio.timeout(30):
        await Orders().watch(told)  # type: ignore[arg-type]
    os.close(end)
    assert told.calls == [3.5, None]

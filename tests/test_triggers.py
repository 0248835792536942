"""A machine that is about to go says so in one of several ways; the crawl ends in good order."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from aiohttp import web

from crawlkit import Crawler, Job, Page, open_run
from crawlkit.errors import OptionError, StoreError
from crawlkit.events import CpuInfo, Event
from crawlkit.stores.memory import MemoryStore
from crawlkit.testing import Site
from crawlkit.triggers.base import Trigger, Watched
from crawlkit.triggers.cloud import Aws, Azure, Cloud, Gcp
from crawlkit.triggers.platform import SAVING_REST, Platform
from crawlkit.triggers.usual import METADATA, PLATFORM

from .notices import Notices, event, scheduled
from .stopwatch import Stopwatch


class Told:
    """A job that writes down what it is told."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.something = asyncio.Event()

    def _hear(self, what: Any) -> None:
        self.heard.append(what)
        self.something.set()

    async def migrate(self, time_remaining: float | None = None) -> None:
        self._hear(("migrate", time_remaining))

    async def abort(self) -> None:
        self._hear("abort")

    async def try_checkpoint(self) -> None:
        self._hear("save")

    async def emit(self, event: Event) -> None:
        self._hear(event)

    async def wait(self, count: int = 1) -> list[Any]:
        async with asyncio.timeout(30):
            while len(self.heard) < count:
                self.something.clear()
                await self.something.wait()
        return self.heard


@pytest.fixture
async def notices() -> AsyncIterator[Notices]:
    async with Notices() as running:
        yield running


@pytest.fixture
async def watch() -> AsyncIterator[Callable[[Trigger], Told]]:
    """Runs a trigger until the end of the test; it must not have failed by then."""
    tasks = []

    def begin(trigger: Trigger) -> Told:
        told = Told()
        tasks.append(asyncio.create_task(trigger.watch(told)))
        return told

    yield begin
    for task in tasks:
        if not task.done():
            task.cancel()
        await asyncio.wait({task})
        assert task.cancelled() or task.exception() is None


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - whatever it looks at sets no event
            await asyncio.sleep(0.01)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.levelname for record in caplog.records if record.levelno >= logging.WARNING]


Watch = Callable[[Trigger], Told]


def platform(notices: Notices, **options: Any) -> Platform:
    url = notices.url("/events").replace("http:", "ws:")
    return Platform(url, **({"rest": 0.02} | options))


# -- the platform ---------------------------------------------------------------------------------


async def test_the_platform_says_in_how_many_seconds_the_machine_goes(
    notices: Notices, watch: Watch
) -> None:
    notices.messages = [event("migrating", timeRemainingSecs=118.5)]
    assert await watch(platform(notices)).wait() == [("migrate", 118.5)]


@pytest.mark.parametrize("left", [None, "soon", -1, True, {}, 10**400])
async def test_a_migration_without_a_sensible_time_is_still_one(
    notices: Notices, watch: Watch, left: Any
) -> None:
    notices.messages = [event("migrating", timeRemainingSecs=left)]
    assert await watch(platform(notices)).wait() == [("migrate", None)]


async def test_the_platform_can_stop_a_crawl_and_ask_it_to_save(
    notices: Notices, watch: Watch
) -> None:
    notices.messages = [event("persistState", isMigrating=False), event("aborting")]
    assert await watch(platform(notices)).wait(2) == ["save", "abort"]


async def test_what_the_platform_says_of_the_processor_is_an_event(
    notices: Notices, watch: Watch
) -> None:
    notices.messages = [
        event("cpuInfo", isCpuOverloaded=True),
        event("systemInfo", cpuCurrentUsage=25.0, isCpuOverloaded=False, memCurrentBytes=1),
    ]
    assert await watch(platform(notices)).wait(2) == [
        CpuInfo(is_overloaded=True, cpu=None),
        CpuInfo(is_overloaded=False, cpu=0.25),
    ]


GARBAGE = [
    "",
    "no JSON",
    "[]",
    "null",
    '{"name": 5}',
    '{"name": "migrating"',
    '{"name": "somethingElse", "data": {}}',
    '{"data": {"timeRemainingSecs": 1}}',
    "[" * 100_000,
]


async def test_garbage_from_the_platform_is_passed_over(notices: Notices, watch: Watch) -> None:
    notices.messages = [*GARBAGE, event("aborting"), '{"name": "migrating", "data": "x"}']
    assert await watch(platform(notices)).wait(2) == ["abort", ("migrate", None)]
    assert notices.connections == 1


async def huge(socket: web.WebSocketResponse) -> None:
    await socket.send_str("x" * 3 * 2**20)
    await asyncio.sleep(0.2)


async def flood(socket: web.WebSocketResponse) -> None:
    for _ in range(5000):
        await socket.send_str(event("persistState"))


async def reset(socket: web.WebSocketResponse) -> None:
    assert socket._req is not None
    assert socket._req.transport is not None
    socket._req.transport.abort()


async def silent(socket: web.WebSocketResponse) -> None:
    await asyncio.sleep(3600)  # nobody reads, so that no ping is answered


@pytest.mark.parametrize("mishap", [huge, flood, reset, silent])
async def test_a_platform_that_misbehaves_is_left_and_come_back_to(
    notices: Notices, watch: Watch, mishap: Any, caplog: pytest.LogCaptureFixture
) -> None:
    notices.mishap = mishap
    notices.messages = [event("aborting")]
    began = time.monotonic()
    told = watch(platform(notices, heartbeat=0.1 if mishap is silent else 30))
    await until(lambda: notices.connections >= 2)
    notices.mishap = None
    await until(lambda: "abort" in told.heard)
    assert told.heard.count("save") <= 1 + (time.monotonic() - began) / SAVING_REST
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1, "it is said once"
    assert "the crawl goes on" in warnings[0].getMessage()


@pytest.mark.parametrize("url", ["ws://127.0.0.1:9/", "http://[", "nonsense", "ws://127.0.0.1:0/"])
async def test_a_platform_that_is_not_there_costs_one_warning(
    watch: Watch, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    told = watch(Platform(url, rest=0.01))
    await until(lambda: bool(warnings(caplog)))
    await asyncio.sleep(0.1)
    assert told.heard == []
    assert warnings(caplog) == ["WARNING"]


# -- clouds ---------------------------------------------------------------------------------------

CLOUDS: list[type[Cloud]] = [Aws, Gcp, Azure]


@pytest.mark.parametrize("kind", CLOUDS)
async def test_a_cloud_says_when_the_machine_goes(
    notices: Notices, watch: Watch, kind: type[Cloud]
) -> None:
    told = watch(kind(notices.url(""), interval=0.01))
    await asyncio.sleep(0.1)
    assert told.heard == []
    notices.announce(30.0)
    ((what, left),) = await told.wait()
    assert what == "migrate"
    assert left is not None
    assert 27.0 < left <= 30.0


@pytest.mark.parametrize("kind", CLOUDS)
async def test_a_metadata_service_that_is_gone_for_a_while_is_asked_again(
    notices: Notices, watch: Watch, kind: type[Cloud], caplog: pytest.LogCaptureFixture
) -> None:
    await notices.stop()
    told = watch(kind(notices.url(""), interval=0.01))
    await until(lambda: bool(warnings(caplog)))
    await asyncio.sleep(0.1)
    notices.announce(30.0)
    await notices.start()
    assert (await told.wait())[0][0] == "migrate"
    assert warnings(caplog) == ["WARNING"]


@pytest.mark.parametrize("kind", CLOUDS)
@pytest.mark.parametrize(
    "answer",
    [
        web.Response(status=500),
        web.Response(status=302, headers={"Location": "http://192.0.2.1/"}),
        web.Response(text="x" * 2**20),
        web.Response(text='{"action": "terminate", "time": "no time"}'),
        web.Response(text='{"Events": [{"EventType": "Preempt", "NotBefore": "yesterday"}]}'),
        web.Response(text="["),
        web.Response(body=b"\xff\xff"),
    ],
)
async def test_nonsense_from_a_metadata_service_ends_no_crawl(
    watch: Watch, kind: type[Cloud], answer: web.Response
) -> None:
    async def respond(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=answer.status, body=answer.body, headers=answer.headers)

    async with Site() as site:
        site.respond = respond  # type: ignore[method-assign]
        told = watch(kind(site.url(""), interval=0.01))
        await asyncio.sleep(0.1)
        assert told.heard == []


async def test_a_token_of_aws_that_is_over_is_renewed(notices: Notices, watch: Watch) -> None:
    told = watch(Aws(notices.url(""), interval=0.01))
    await until(lambda: notices.tokens == 1)
    notices.token = "another"
    await asyncio.sleep(0.1)
    notices.announce()
    await told.wait()
    assert notices.tokens == 2


@pytest.mark.parametrize("is_heeded", [True, False])
async def test_a_recommendation_of_aws_is_heeded_only_if_asked_for(
    notices: Notices, watch: Watch, is_heeded: bool
) -> None:
    notices.rebalance = True
    told = watch(Aws(notices.url(""), rebalance=is_heeded, interval=0.01))
    if is_heeded:
        await told.wait()
    else:
        await asyncio.sleep(0.15)
    assert told.heard == ([("migrate", None)] if is_heeded else [])


@pytest.mark.parametrize(
    ("value", "ends"), [("TERMINATE_ON_HOST_MAINTENANCE", 1), ("MIGRATE_ON_HOST_MAINTENANCE", 0)]
)
async def test_a_live_migration_of_google_is_no_reason_to_stop(
    notices: Notices, watch: Watch, value: str, ends: int
) -> None:
    told = watch(Gcp(notices.url(""), interval=0.01))
    await asyncio.sleep(0.05)
    notices.maintenance = value
    if ends:
        await told.wait()
    else:
        await asyncio.sleep(0.15)
    assert told.heard == [("migrate", None)] * ends


async def test_what_azure_does_to_other_machines_or_does_shortly_ends_no_crawl(
    notices: Notices, watch: Watch
) -> None:
    now = time.time()
    notices.events = [scheduled("Preempt", now, "crawler-8"), scheduled("Freeze", now)]
    told = watch(Azure(notices.url(""), interval=0.01))
    await asyncio.sleep(0.1)
    assert told.heard == []
    notices.events = [scheduled("Redeploy", None, "crawler-6", "crawler-7")]
    assert await told.wait() == [("migrate", None)]


async def test_a_machine_that_goes_in_a_quarter_of_an_hour_works_on_until_it_is_near(
    notices: Notices, watch: Watch
) -> None:
    notices.events = [scheduled("Reboot", time.time() + 900)]
    told = watch(Azure(notices.url(""), interval=0.01))
    await asyncio.sleep(0.1)
    assert told.heard == []
    near = watch(Azure(notices.url(""), interval=0.01, lead=899))
    ((_, left),) = await near.wait()
    assert left is not None
    assert 890 < left < 900


def test_a_cloud_that_does_not_exist_is_refused() -> None:
    with pytest.raises(OptionError, match="'gpc'; it is one of aws, aws-rebalance, gcp, azure"):
        Crawler(preemption="gpc")


# -- a trigger of one's own -----------------------------------------------------------------------


class Maintenance:
    async def watch(self, job: Watched) -> None:
        await job.migrate(time_remaining=30)


class Broken:
    async def watch(self, job: Watched) -> None:
        raise RuntimeError("no such device")


class Stubborn:
    async def watch(self, job: Watched) -> None:
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                await asyncio.sleep(0.3)
                return


async def test_a_trigger_of_ones_own_ends_a_crawl_with_75(shop: Any, tmp_path: Path) -> None:
    class Shop(Crawler):
        async def parse(self, page: Page) -> None:
            page.follow("a")

    crawler = Shop(
        start_urls=[shop.url("/")], triggers=[Maintenance(), Broken()], store=tmp_path / "run"
    )
    heard = []
    crawler.on("migrating", lambda event: heard.append(event.time_remaining))
    await crawler.crawl()
    assert (crawler.exit_code, heard) == (75, [30])


async def test_a_trigger_that_fails_or_hangs_does_not_harm_the_job(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Job("memory:", signals=False, triggers=[Broken(), Stubborn()]) as job:
        job.bus.deadline = 0.1
        await asyncio.sleep(0.05)
        took = Stopwatch()
    assert took.seconds < 1.0
    assert "the trigger Broken failed: RuntimeError: no such device" in caplog.text


async def test_a_job_that_is_told_to_go_while_it_opens_its_run_goes(tmp_path: Path) -> None:
    class Slow(MemoryStore):
        async def open(self, *, fresh: bool = False) -> None:
            await asyncio.sleep(0.1)
            await super().open(fresh=fresh)

    job = Job(Slow(), signals=False, triggers=[Maintenance()], grace=0.5)
    with pytest.raises(SystemExit) as ended:
        async with job:
            assert job.is_stopping
            await asyncio.sleep(3600)
    assert ended.value.code == 75


async def test_a_job_that_cannot_be_opened_leaves_no_trigger_behind(tmp_path: Path) -> None:
    class Ended:
        is_over = False

        async def watch(self, job: Watched) -> None:
            try:
                await asyncio.sleep(3600)
            finally:
                self.is_over = True

    (tmp_path / "file").write_text("")
    trigger = Ended()
    with pytest.raises(StoreError):
        await Job(tmp_path / "file", signals=False, triggers=[trigger]).open()
    assert trigger.is_over


# -- a crawl in a process of its own --------------------------------------------------------------

CRAWL = """
from crawlkit import Crawler

class Slow(Crawler):
    delay = 0.1

    async def parse(self, page):
        page.follow("a")
        page.save({"url": page.url})
"""


@pytest.fixture
def machine() -> Iterator[Notices]:
    with Notices() as running:
        yield running


@pytest.mark.parametrize("trigger", ["platform", "aws", "gcp", "azure"])
def test_a_crawl_that_is_given_notice_ends_with_75_and_is_resumed_to_the_same_items(
    tmp_path: Path, site: Site, machine: Notices, trigger: str
) -> None:
    pages = [f"/{number}" for number in range(60)]
    for path in ("/", *pages):
        site.add_page(path, links=pages)
    (tmp_path / "slow.py").write_text(CRAWL)
    command = [sys.executable, "-m", "crawlkit", "run", str(tmp_path / "slow.py"), site.url("/")]
    command += ["--store", str(tmp_path / "run"), "--no-progress", "--grace", "5"]
    environment = dict(os.environ)
    if trigger == "platform":
        environment[PLATFORM] = machine.url("/events").replace("http:", "ws:")
    else:
        command += ["--preemption", trigger]
        environment[METADATA] = machine.url("")
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 30
        while site.hits() < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        urlopen(machine.url("/-/announce?left=20")).close()
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 75, err
    assert "go on with:" in out
    assert ("--preemption" in out) == (trigger != "platform")
    with open_run(tmp_path / "run") as run:
        assert run.statistics.pending > 0
    site.forget()
    environment.pop(PLATFORM, None)
    environment.pop(METADATA, None)
    done = subprocess.run(
        [*command[:11], "--set", "delay=0"], env=environment, timeout=60, check=False
    )
    assert done.returncode == 0
    with open_run(tmp_path / "run") as run:
        found = sorted(item["url"] for item in run.items())
        assert run.statistics.lives == 2
    assert found == sorted(site.url(path) for path in ("/", *pages))

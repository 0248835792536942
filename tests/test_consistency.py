"""The consistent cut: after any history, all parts of a run stand at its last checkpoint.

Random work goes through every part of a crawl, among checkpoints that succeed, fail, or take a
while; processes that are killed; and such that stop in order. Beside them goes a model of plain
dicts and counters. A copy of it is taken where a checkpoint is one instant of the run, and it
counts from the moment when that checkpoint is committed. After a restart the run has to be what
the copy says, in all of its parts, and can be brought to its end from there.
"""

from __future__ import annotations

import asyncio
import copy
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from crawlkit.checkpoint import Checkpoint, Lease, Outcome
from crawlkit.crawling.sessionpool import SessionPool
from crawlkit.discovery.scope import matcher
from crawlkit.discovery.sitemapplaces import SitemapPlaces
from crawlkit.discovery.start import StartRequests
from crawlkit.errors import StoreWriteError
from crawlkit.job import Job
from crawlkit.output import ItemWriter
from crawlkit.politeness.budgets import Budgets
from crawlkit.politeness.robots import Robots
from crawlkit.politeness.throttle import Throttle
from crawlkit.queue import RequestQueue
from crawlkit.request import Request
from crawlkit.response import Response
from crawlkit.statistics import Statistics
from crawlkit.stores import database, open_store
from crawlkit.stores.base import Claim, Receipt, Store
from crawlkit.testing import FaultyStore, ManualClock

T = TypeVar("T")

HOSTS = ("a.example", "b.example", "c.example:8080")
STARTS = [f"https://start.example/{number}" for number in range(12)]
LISTED = [f"https://start.example/listed/{number}" for number in range(12)]
SITEMAP = Response(url="https://start.example/list.txt", body="\n".join(LISTED).encode())
HOST_BUDGET = 6
BUDGETS: dict[Any, int] = {"**/{0,1,2}": 5, "https://b.example/**": 4}
ERRORS = (ValueError("no price"), KeyError("title"))
MAX_SCORE = 3.0

hosts = st.sampled_from(HOSTS)
names = st.sampled_from(["guest", "member"])
requests = st.builds(
    Request,
    url=st.builds("https://{}/{}".format, hosts, st.integers(0, 9)),
    handler=st.sampled_from(["parse", "parse_product"]),
    priority=st.integers(-1, 1),
    depth=st.integers(0, 3),
)
values = st.none() | st.integers(0, 9) | st.lists(st.text("aé\u2028", max_size=2), max_size=2)


# -- the model ------------------------------------------------------------------------------------


@dataclass
class Visitor:
    """A session."""

    uses: int = 0
    score: float = 0.0
    blocked: set[str] = field(default_factory=set)
    cookies: dict[tuple[str, str], str] = field(default_factory=dict)


@dataclass
class Model:
    """What a run holds, in plain terms. Requests go by their URL.

    Attributes:
        enqueued: What was ever enqueued.
        to_do: What is pending or in flight: the request and the time before which it waits.
        outcomes: What became of the rest.
        skipped: Links that were not enqueued.
        items: The items, in their order.
        count: The counters, under the names that the store has for them.
        errors: Errors by kind.
        state: The user's dict.
        values: The user's values by key.
        visitors: The sessions by id.
        pauses: Until when which host is left alone.
        started: How many start requests were taken.
        listed: How many entries of the sitemap were taken.
        spent: Pages by host and by pattern of a budget.
        robots: What the robots.txt of a host forbids.
    """

    enqueued: set[str] = field(default_factory=set)
    to_do: dict[str, tuple[Request, float]] = field(default_factory=dict)
    outcomes: dict[str, str] = field(default_factory=dict)
    skipped: set[str] = field(default_factory=set)
    items: list[bytes] = field(default_factory=list)
    count: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    state: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    visitors: dict[str, Visitor] = field(default_factory=dict)
    pauses: dict[str, float] = field(default_factory=dict)
    started: int = 0
    listed: int = 0
    spent: Counter[str] = field(default_factory=Counter)
    robots: dict[str, str] = field(default_factory=dict)

    def enqueue(self, request: Request) -> None:
        if request.url in self.enqueued:
            self.count["requests_duplicate"] += 1
        else:
            self.count["requests_total"] += 1
            self.enqueued.add(request.url)
            self.to_do[request.url] = (request, 0.0)

    def end(self, lease: Lease, outcome: str, duration: float) -> None:
        self.close(lease, outcome)
        self.spent.update(budgets_of(lease))
        kind = "requests_finished" if outcome == "handled" else "requests_failed"
        self.tally(lease, **{kind: 1, "duration_sum": duration})
        self.count[kind] += 1
        self.count[f"retry_histogram/{lease.request.retry_count}"] += 1

    def drop(self, lease: Lease, reason: str) -> None:
        self.close(lease, "skipped")
        self.count[f"skipped_by_reason/{reason}"] += 1
        self.count["requests_dropped"] += 1

    def close(self, lease: Lease, outcome: str) -> None:
        del self.to_do[lease.request.url]
        assert lease.request.url not in self.outcomes, "handled twice"
        self.outcomes[lease.request.url] = outcome

    def tally(self, lease: Lease, **growth: float) -> None:
        for name, number in growth.items():
            self.count[f"handler/{lease.request.handler}/{name}"] += number  # type: ignore[assignment]
            self.count[f"host/{lease.host}/{name}"] += number  # type: ignore[assignment]

    def visit(self, id: str, host: str) -> Visitor:
        visitor = self.visitors.get(id)
        if visitor is None or host in visitor.blocked:
            visitor = self.visitors[id] = Visitor()
        visitor.uses += 1
        return visitor


def budgets_of(lease: Lease) -> list[str]:
    """What a page counts for."""
    patterns = [name for name in BUDGETS if matcher("budgets", name)(lease.request.url)]
    return [lease.host, *patterns]


# -- the run --------------------------------------------------------------------------------------


class SlowStore(FaultyStore):
    """A store whose commits take as long as the test wants: work goes on meanwhile."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.heal()
        self.gate: asyncio.Event | None = None
        self.reached = asyncio.Event()

    async def commit(self, checkpoint: Checkpoint) -> Receipt:
        self.reached.set()
        if self.gate is not None:
            await self.gate.wait()
        return await super().commit(checkpoint)


class Life:
    """The parts of a crawl in one process, put together as a crawler does it."""

    def __init__(self, store: Store, output: Path, clock: ManualClock) -> None:
        self.store = SlowStore(store)
        self.job = Job(self.store, persist_interval=1e6, clock=clock)
        self.statistics = self.job.persist("statistics", Statistics(clock))
        self.throttle = self.job.persist("throttle", Throttle(clock, concurrency_per_host=3))
        self.queue = self.job.persist("queue", RequestQueue(clock, self.throttle, concurrency=2))
        self.sessions = self.job.persist(
            "sessions", SessionPool(clock, max_error_score=MAX_SCORE, error_score_decrement=0.5)
        )
        self.items = self.job.persist("items", ItemWriter(output, stored=self.stored))
        self.start = self.job.persist("start", StartRequests())
        self.places = self.job.persist("sitemaps", SitemapPlaces())
        self.budgets = self.job.persist(
            "budgets",
            Budgets(self.store.document, max_pages_per_host=HOST_BUDGET, budgets=BUDGETS),
        )
        self.robots = self.job.persist(
            "robots", Robots(clock, user_agent="crawlkit", read=self.store.document)
        )
        self.job.on_commit(lambda checkpoint, receipt: self.statistics.enqueued(receipt))
        self.job.on_commit(self.queue.settle)
        self.leases: list[Lease] = []
        self.claimed: set[str] = set()  # and not yet back in the store
        self.saving: asyncio.Task[None] | None = None

    def stored(self) -> Iterator[bytes]:
        reader = self.store.reader()
        try:
            yield from [item.data for item in reader.items()]
        finally:
            reader.close()


class Crawl(RuleBasedStateMachine):
    """One run, through many lives.

    `now` is what the run holds in memory. `saved` is what it holds on disk. `kept` is a checkpoint
    that is on its way or could not be written: an instant between the two.
    """

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = ManualClock()
        self.directory = Path(tempfile.mkdtemp(prefix="crawlkit-cut-"))
        self.output = self.directory / "items.jsonl"
        self.lives = 0
        self.now = Model()
        self.saved = Model()
        self.kept: Model | None = None

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    @initialize(
        data=st.data(), found=st.lists(requests, min_size=8, max_size=16, unique_by=lambda r: r.url)
    )
    def first_life(self, data: st.DataObject, found: list[Request]) -> None:
        """There is work from the start, or most histories would never come to finish any.

        And a checkpoint after another one, with a kill that follows: the shortest history in which
        what was saved once may be saved once more, or not at all.
        """
        self.begin(str(self.directory / "run"))
        self.enqueue(found)
        self.checkpoint()
        self.die_within_a_checkpoint(data, [], "slow")

    def begin(self, address: str) -> None:
        """A process starts: all of it is at the last checkpoint."""

        async def begin() -> None:
            self.life = Life(open_store(address), self.output, self.clock)
            self.life.job.on("persistState", self.keep_a_note)
            await self.life.job.open(signals=False)

        # A file that holds what it should is cut back, not written anew: it may be large.
        before = self.output.stat().st_ino if self.saved.items else None
        self.do(begin())
        assert before is None or self.output.stat().st_ino == before
        self.now, self.kept = copy.deepcopy(self.saved), None
        self.compare_store()
        self.compare_parts()
        self.compare_claims()
        self.life.statistics.begin_life(self.clock.now())
        self.now.count["lives"] += 1

    async def keep_a_note(self) -> None:
        """A user's listener; what it sets belongs to the checkpoint that it was told of."""
        notes = await self.life.job.get_value("notes", 0) + 1
        await self.life.job.set_value("notes", notes)
        self.now.values["notes"] = notes

    # -- work -------------------------------------------------------------------------------------

    @rule(found=st.lists(requests, min_size=1, max_size=10))
    def enqueue(self, found: list[Request]) -> None:
        for request in found:
            self.life.queue.add(request)
            self.now.enqueue(request)

    @rule(count=st.integers(1, 5))
    def begin_with(self, count: int) -> None:
        """Start requests are taken from where the last checkpoint left off."""

        async def take() -> None:
            given: Any = self.life.start.take(STARTS)
            async with aclosing(given):
                async for place, request in given:
                    assert isinstance(request, Request)
                    assert request.url == STARTS[self.now.started]
                    self.now.started += 1
                    self.life.queue.add(request)
                    self.now.enqueue(request)
                    if place % count == 0:
                        return

        if self.now.started < len(STARTS):
            self.do(take())

    @rule(count=st.integers(1, 5))
    def read_sitemap(self, count: int) -> None:
        """A sitemap is read on from where the last checkpoint left off."""

        async def take() -> None:
            given: Any = self.life.places.entries(SITEMAP.url, SITEMAP, at_once=count)
            async with aclosing(given):
                async for entries in given:
                    for entry in entries:
                        assert entry.url == LISTED[self.now.listed]
                        self.now.listed += 1
                        self.life.queue.add(Request(entry.url))
                        self.now.enqueue(Request(entry.url))
                    self.life.places.advance(SITEMAP.url, entries)
                    return

        if self.now.listed < len(LISTED):
            self.do(take())

    @rule(host=hosts)
    def ask_robots(self, host: str) -> None:
        """A robots.txt is fetched unless a checkpoint had it, and says what it said then."""
        fetched = f"/{len(self.now.robots)}-{self.clock.now():.1f}-{self.lives}"

        async def fetch(url: str) -> Response:
            assert host not in self.now.robots
            self.now.robots[host] = fetched
            return Response(url=url, body=f"User-agent: *\nDisallow: {fetched}".encode())

        url = f"https://{host}{self.now.robots.get(host, fetched)}"
        rules = self.do(self.life.robots.rules(url, fetch))
        assert rules.reason(url) is not None

    @rule(request=requests, reason=st.sampled_from(["scope", "max_depth"]))
    def skip(self, request: Request, reason: str) -> None:
        self.life.statistics.skipped(reason)
        self.life.queue.skip(
            Outcome("skipped", request.url, request.fingerprint, request.host, self.clock.now())
        )
        self.now.count[f"skipped_by_reason/{reason}"] += 1
        self.now.skipped.add(request.url)

    @rule(limit=st.sampled_from([1, 3, 1000]))
    def claim(self, limit: int) -> None:
        """Only what is committed, due, and with nobody else can be claimed."""

        async def look() -> Claim:
            wanted, window = self.life.queue.wants()
            claim = await self.life.store.claim(min(limit, wanted), window, self.clock.now())
            self.life.queue.fill(claim)
            return claim

        claim = self.do(look())
        for lease in claim.leases:
            request, due = self.saved.to_do[lease.request.url]
            assert lease.request == request
            assert due <= self.clock.now()
            assert request.url not in self.life.claimed
            self.life.claimed.add(request.url)
        rest = {url: due for url, (_, due) in self.saved.to_do.items()}
        for url in self.life.claimed:
            rest.pop(url, None)
        assert claim.is_exhausted == (not rest)
        later = [due for due in rest.values() if due > self.clock.now()]
        assert claim.next_due == min(later, default=None)

    @rule(count=st.integers(1, 5))
    def start(self, count: int) -> None:
        """Workers get requests as they were enqueued or retried, none while its host rests."""
        self.claim(1000)

        async def get() -> Lease | None:
            getting = asyncio.create_task(self.life.queue.get())
            await asyncio.sleep(0)
            if getting.done():
                return getting.result()
            getting.cancel()
            await asyncio.wait([getting])
            return None

        for _ in range(count):
            if (lease := self.do(get())) is None:
                return
            assert lease.request == self.now.to_do[lease.request.url][0]
            assert self.now.pauses.get(lease.host, 0.0) <= self.clock.now()
            self.try_budget(lease)

    def try_budget(self, lease: Lease) -> None:
        """A page within its budgets is fetched; another one is left out, whatever came before."""
        life, now = self.life, self.now
        spent = now.spent + Counter(name for held in life.leases for name in budgets_of(held))
        expected = None
        if spent[lease.host] >= HOST_BUDGET:
            expected = "max_pages_per_host"
        elif any(spent[name] >= BUDGETS[name] for name in budgets_of(lease)[1:]):
            expected = "budget"
        reason = self.do(life.budgets.take(lease.host, lease.request.url))
        assert reason == expected
        if reason is None:
            life.leases.append(lease)
            return
        life.queue.drop(lease, self.outcome("skipped", lease))
        life.statistics.skipped(reason)
        life.statistics.dropped()
        now.drop(lease, reason)

    @precondition(lambda self: self.life.leases)
    @rule(data=st.data(), links=st.lists(requests, max_size=6), items=st.integers(0, 3))
    def handle(self, data: st.DataObject, links: list[Request], items: int) -> None:
        """A page's effects, in one step."""
        lease = self.take(data)
        life, now, url = self.life, self.now, lease.request.url
        life.statistics.received(lease.host, 200, 100)
        life.job.state["pages"] = life.job.state.get("pages", 0) + 1
        for number in range(items):
            item = f'{{"url":"{url}","number":{number}}}'.encode()
            life.items.add(item, url, lease.request.handler, self.clock.now())
            now.items.append(item)
        if items:
            life.statistics.saved(lease.request.handler, items)
            now.count["items_saved"] += items
            now.count[f"handler/{lease.request.handler}/items_saved"] += items
        for link in links:
            life.queue.add(link)
            now.enqueue(link)
        life.queue.finish(lease, self.outcome("handled", lease))
        life.budgets.spend(lease.host, url)
        life.statistics.finished(lease.request.handler, lease.host, 0.25, lease.request.retry_count)
        now.state["pages"] = now.state.get("pages", 0) + 1
        now.count["status_codes/200"] += 1
        now.count["bytes_received"] += 100
        now.count[f"host/{lease.host}/responses_received"] += 1
        now.count[f"host/{lease.host}/bytes_received"] += 100
        now.end(lease, "handled", 0.25)

    @precondition(lambda self: self.life.leases)
    @rule(data=st.data(), error=st.sampled_from(ERRORS))
    def fail(self, data: st.DataObject, error: Exception) -> None:
        lease = self.take(data)
        self.count_error(error, lease.request.url)
        self.life.queue.finish(lease, self.outcome("failed", lease))
        self.life.budgets.spend(lease.host, lease.request.url)
        self.life.statistics.failed(
            lease.request.handler, lease.host, 0.5, lease.request.retry_count
        )
        self.now.end(lease, "failed", 0.5)

    @precondition(lambda self: self.life.leases)
    @rule(
        data=st.data(), error=st.sampled_from(ERRORS), delay=st.sampled_from([0.0, 1.0, 5.0, 30.0])
    )
    def retry(self, data: st.DataObject, error: Exception, delay: float) -> None:
        lease = self.take(data)
        self.count_error(error, lease.request.url)
        again = lease.request.replace(retry_count=lease.request.retry_count + 1)
        due = self.clock.now() + delay
        self.life.queue.retry(lease, again, due)
        self.life.budgets.give_back(lease.host, lease.request.url)
        self.life.statistics.retried(lease.request.handler, lease.host)
        self.now.to_do[again.url] = (again, due)
        self.now.tally(lease, requests_retried=1)
        self.now.count["requests_retried"] += 1

    @precondition(lambda self: self.life.leases)
    @rule(data=st.data(), seconds=st.none() | st.sampled_from([1.0, 5.0]))
    def put_back(self, data: st.DataObject, seconds: float | None) -> None:
        """A request goes back as it was, mostly as its host wants to rest."""
        lease = self.take(data)
        if seconds is not None:
            now, known = self.clock.now(), self.now.pauses.get(lease.host, 0.0)
            self.life.throttle.pause(lease.host, seconds)
            self.now.pauses[lease.host] = max(now + seconds, known)
        self.life.queue.put_back(lease)
        self.life.budgets.give_back(lease.host, lease.request.url)

    # -- what belongs to the user, and the sessions -----------------------------------------------

    @rule(key=st.sampled_from(["x", "y/z"]), value=values, is_state=st.booleans())
    def keep(self, key: str, value: Any, is_state: bool) -> None:
        if is_state:
            self.life.job.state[key] = value
            self.now.state[key] = value
        else:
            self.do(self.life.job.set_value(key, value))
            self.now.values[key] = value
        self.read_values()

    def read_values(self) -> None:
        """What was set is read back at once, wherever it is on its way to the store."""
        for key in ("x", "y/z", "notes"):
            assert self.do(self.life.job.get_value(key)) == self.now.values.get(key)

    @rule(
        id=names,
        host=hosts,
        cookie=st.sampled_from(["", "id=1", "id=2", "cart=3"]),
        mark=st.sampled_from(["", "good", "bad", "worst", "blocked"]),
    )
    def visit(self, id: str, host: str, cookie: str, mark: str) -> None:
        """A session gets cookies and marks; three bad ones, or a block here, and it is new."""
        session, visitor = self.life.sessions.pick(host, id), self.now.visit(id, host)
        if cookie:
            session.store_cookies(f"https://{host}/", [cookie])
            name, _, value = cookie.partition("=")
            visitor.cookies[host.partition(":")[0], name] = value
        if mark == "good":
            session.mark_good()
            visitor.score = max(0.0, visitor.score - 0.5)
        elif mark == "bad":
            session.mark_bad()
            visitor.score += 1.0
            if visitor.score >= MAX_SCORE:
                del self.now.visitors[id]
        elif mark == "worst":
            while visitor.score < MAX_SCORE:
                session.mark_bad()
                visitor.score += 1.0
            del self.now.visitors[id]
        elif mark == "blocked":
            session.mark_blocked(host)
            visitor.blocked.add(host)

    @rule(seconds=st.sampled_from([0.5, 2.0, 10.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.now.count["runtime_seconds"] += seconds  # type: ignore[assignment]

    # -- checkpoints ------------------------------------------------------------------------------

    @rule(fault=st.sampled_from(["none", "next", "second", "lasting"]))
    def change_disk(self, fault: str) -> None:
        """A commit will fail: the next, the one after it, or all until the disk is mended."""
        self.life.store.heal()
        if fault != "none":
            self.life.store.fail_next("commit", after=fault == "second", lasting=fault == "lasting")

    @precondition(lambda self: self.life.saving is None)
    @rule()
    def checkpoint(self) -> None:
        store = self.life.store
        written = store.calls["commit"] - store.failures
        try:
            self.do(self.life.job.checkpoint())
        except StoreWriteError:
            # One that could not be written before goes first, and as it was.
            if store.calls["commit"] - store.failures > written:
                assert self.kept is not None
                self.commits(self.kept)
            self.kept = self.kept or copy.deepcopy(self.now)
        else:
            if self.kept is not None:
                self.commits(self.kept)
            self.commits(copy.deepcopy(self.now))
            statistics, count = self.life.statistics, self.now.count
            assert statistics.requests_total == count["requests_total"]
            assert statistics.requests_duplicate == count["requests_duplicate"]
            lines = b"".join(item + b"\n" for item in self.now.items)
            assert self.output.read_bytes() == lines
        self.compare_store()

    @precondition(lambda self: self.life.saving is None and self.kept is None)
    @rule()
    def begin_checkpoint(self) -> None:
        """A commit takes a while. What happens from here on is for the next one."""

        async def begin() -> None:
            life = self.life
            life.store.gate = asyncio.Event()
            life.store.reached.clear()
            life.saving = asyncio.create_task(life.job.checkpoint())
            await life.store.reached.wait()

        self.do(begin())
        self.kept = copy.deepcopy(self.now)
        self.compare_store()

    @precondition(lambda self: self.life.saving is not None)
    @rule()
    def end_checkpoint(self) -> None:
        async def end() -> None:
            life = self.life
            assert life.saving is not None
            assert life.store.gate is not None
            life.store.gate.set()
            saving, life.saving, life.store.gate = life.saving, None, None
            await saving

        assert self.kept is not None
        try:
            self.do(end())
        except StoreWriteError:
            pass
        else:
            self.commits(self.kept)
        self.compare_store()

    def commits(self, model: Model) -> None:
        for url, found in self.saved.to_do.items():
            if model.to_do.get(url) != found:
                self.life.claimed.discard(url)
        self.saved, self.kept = model, None

    # -- the end of a life ------------------------------------------------------------------------

    @rule(is_orderly=st.booleans())
    def restart(self, is_orderly: bool) -> None:
        if is_orderly:
            self.stop()
        else:
            self.kill()

    @precondition(lambda self: self.life.saving is None and self.kept is None)
    @rule(
        data=st.data(), links=st.lists(requests, max_size=3), way=st.sampled_from(["slow", "bad"])
    )
    def die_within_a_checkpoint(self, data: st.DataObject, links: list[Request], way: str) -> None:
        """The worst moment: lines are in the output file, and their commit does not come.

        By itself chance rarely brings all that together: pages with items, before them another
        checkpoint, and the end of the process between two writes.
        """
        self.life.store.heal()
        for _ in range(2):
            self.work(data, links)
            self.checkpoint()
        self.work(data, links)
        if way == "slow":
            self.begin_checkpoint()
            self.work(data, links)
        else:
            self.change_disk("next")
            self.checkpoint()
        self.kill()

    def work(self, data: st.DataObject, links: list[Request]) -> None:
        """A bit of everything that a checkpoint holds."""
        self.start(2)
        while self.life.leases:
            self.handle(data, links, 2)
        self.begin_with(2)
        self.read_sitemap(2)
        self.visit("guest", HOSTS[0], "id=1", data.draw(st.sampled_from(["", "worst"])))
        self.ask_robots(data.draw(hosts))
        self.start(2)
        if self.life.leases:
            self.put_back(data, 5.0)
        # What is in flight at a checkpoint is neither done nor lost.

    def kill(self) -> None:
        """The files as they are at this moment go on in a process that knows nothing else."""

        async def end() -> None:
            # None of this reaches the copy.
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.life.queue.close()
            await self.life.store.close()

        self.lives += 1
        here, there = self.life.store.address, self.directory / f"run{self.lives}"
        # SQLite makes its index of the log anew, as after the death of a process.
        shutil.copytree(here, there, ignore=shutil.ignore_patterns("*-shm"))
        self.do(end())
        shutil.rmtree(here)
        self.begin(str(there))

    def stop(self) -> None:
        """An orderly stop saves everything; what is in flight stays pending."""
        life = self.life
        if life.saving is not None:
            self.end_checkpoint()
        life.store.heal()
        for lease in life.leases:
            life.queue.release(lease)
        life.queue.close()
        life.statistics.end_life(self.clock.now(), finished=False)
        self.do(life.job.close(finished=False))
        self.saved = copy.deepcopy(self.now)
        self.begin(life.store.address)

    def teardown(self) -> None:
        try:
            if hasattr(self, "life") and sys.exc_info()[0] is None:
                # In this life: what went back to the queue has to come out of it again.
                if self.life.saving is not None:
                    self.end_checkpoint()
                self.life.store.heal()
                self.work_to_the_end()
                self.stop()
        finally:
            self.clean_up()

    def work_to_the_end(self) -> None:
        """Nothing was lost: with some patience, each request comes to its one outcome."""
        for _ in range(200):
            if not self.now.to_do:
                break
            self.start(5)
            while self.life.leases:
                lease = self.life.leases.pop()
                self.life.queue.finish(lease, self.outcome("handled", lease))
                self.life.budgets.spend(lease.host, lease.request.url)
                self.life.statistics.finished(
                    lease.request.handler, lease.host, 0.25, lease.request.retry_count
                )
                self.now.end(lease, "handled", 0.25)
            self.checkpoint()
            self.wait(10.0)
        assert self.now.outcomes.keys() == self.now.enqueued

    def clean_up(self) -> None:
        async def close() -> None:
            self.life.queue.close()
            await self.life.store.close()

        if hasattr(self, "life"):
            self.do(close())
        self.runner.close()
        shutil.rmtree(self.directory)

    # -- comparing --------------------------------------------------------------------------------

    def compare_store(self) -> None:
        """What is stored is the last checkpoint, the whole of it and nothing else."""
        model, reader = self.saved, self.life.store.reader()
        try:
            assert list(reader.check()) == []
            pending = list(reader.pending())
            assert len(pending) == len(model.to_do)
            assert {request.url: (request, due) for request, due in pending} == model.to_do
            for name in ("handled", "failed"):
                found = sorted(outcome.url for outcome in reader.outcomes(name))
                assert found == sorted(u for u, o in model.outcomes.items() if o == name)
            assert [item.data for item in reader.items()] == model.items
            counters = {
                name: number
                for name, number in reader.counters().items()
                if number and not name.startswith(("duration_finished/", "duration_failed/"))
            }
            budgets = {name: counters.pop(f"budget/{name}", 0) for name in BUDGETS}
            assert budgets == {name: model.spent[name] for name in BUDGETS}
            assert counters == {name: number for name, number in model.count.items() if number}
            assert Counter({e.kind: e.count for e in reader.errors()}) == model.errors
            for url in model.enqueued | model.skipped:
                request = Request(url)
                outcome = reader.outcome(request.host, request.fingerprint)
                is_seen = reader.seen(request.host, request.fingerprint)
                assert is_seen == (url in model.enqueued)
                if url in model.outcomes:
                    assert outcome is not None
                    assert outcome.outcome == model.outcomes[url]
                elif not is_seen:
                    assert outcome is not None
                    assert outcome.outcome == "skipped"
        finally:
            reader.close()

    def compare_parts(self) -> None:
        """Every part was restored as it was at the last checkpoint."""
        life, model = self.life, self.now
        count = {name: number for name, number in model.count.items() if number}
        statistics = life.statistics
        for name in (
            "requests_finished",
            "requests_failed",
            "requests_retried",
            "requests_total",
            "requests_duplicate",
            "items_saved",
            "bytes_received",
            "lives",
            "runtime_seconds",
        ):
            assert getattr(statistics, name) == count.get(name, 0), name
        keyed = {
            f"{group}/{key}": number
            for group in ("retry_histogram", "skipped_by_reason", "status_codes")
            for key, number in getattr(statistics, group).items()
        }
        keyed |= {
            f"handler/{handler}/{name}": getattr(row, name)
            for handler, row in statistics.by_handler.items()
            for name in row.__struct_fields__
            if getattr(row, name)
        }
        groups = ("retry_histogram/", "skipped_by_reason/", "status_codes/", "handler/")
        assert keyed == {name: n for name, n in count.items() if name.startswith(groups)}
        assert statistics.duration_finished.count == count.get("requests_finished", 0)
        assert statistics.duration_failed.count == count.get("requests_failed", 0)
        assert statistics.pending == len(model.to_do)
        assert dict(life.job.state) == model.state
        self.read_values()
        assert {
            session.id: Visitor(
                session.usage_count,
                session.error_score,
                session.blocked,
                {(cookie.domain, cookie.name): cookie.value for cookie in session.cookies},
            )
            for session in life.sessions
        } == model.visitors
        anywhere, on_b = BUDGETS
        rooms = {f"https://{host}/x": HOST_BUDGET - model.spent[host] for host in HOSTS}
        b = "https://b.example/x"
        rooms[b] = min(rooms[b], BUDGETS[on_b] - model.spent[on_b])
        rooms["https://probe.example/1"] = BUDGETS[anywhere] - model.spent[anywhere]
        for url, room in rooms.items():
            assert self.do(self.room(url)) == room, url
        for host in HOSTS:
            until = max(life.throttle.ready_at(host), self.clock.now())
            assert until == max(model.pauses.get(host, 0.0), self.clock.now())
        assert self.output.read_bytes() == b"".join(item + b"\n" for item in model.items)

    async def room(self, url: str) -> int:
        """How many pages like this one the budgets leave."""
        host, taken = Request(url).host, 0
        while await self.life.budgets.take(host, url) is None:
            taken += 1
        for _ in range(taken):
            self.life.budgets.give_back(host, url)
        return taken

    def compare_claims(self) -> None:
        """Exactly what is pending and due can be claimed, each once."""

        async def claim_all() -> list[str]:
            found = []
            while leases := (await self.life.store.claim(20, {}, self.clock.now())).leases:
                found += [lease.request.url for lease in leases]
            await self.life.store.release()
            return found

        due = [url for url, (_, at) in self.saved.to_do.items() if at <= self.clock.now()]
        assert sorted(self.do(claim_all())) == sorted(due)

    @invariant()
    def nothing_is_lost(self) -> None:
        """Everything enqueued is to do or has its outcome, and nothing is both."""
        for model in (self.now, self.saved):
            assert model.outcomes.keys().isdisjoint(model.to_do)
            assert model.outcomes.keys() | model.to_do.keys() == model.enqueued

    # -- small things -----------------------------------------------------------------------------

    def take(self, data: st.DataObject) -> Lease:
        return self.life.leases.pop(data.draw(st.integers(0, len(self.life.leases) - 1)))

    def count_error(self, error: Exception, url: str) -> None:
        self.life.statistics.error(error, url, "shop.py:1")
        self.now.errors[type(error).__name__] += 1

    def outcome(self, name: str, lease: Lease) -> Outcome:
        return Outcome(
            name,
            lease.request.url,
            lease.fingerprint,
            lease.host,
            self.clock.now(),
            lease.request.handler,
            duration=0.25 if name == "handled" else 0.5,
            retries=lease.request.retry_count,
            request=lease.request if name == "failed" else None,
        )


def test_after_any_history_all_of_a_run_is_at_its_last_checkpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A few checkpoints fill the log, so that histories have merges in them.
    monkeypatch.setattr(database, "MERGE_LOG_AT", 200_000)
    run_state_machine_as_test(
        Crawl,
        settings=settings(
            max_examples=24,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )

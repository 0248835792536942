"""How much of a crawl one host, or one kind of URL, may take."""

from __future__ import annotations

import asyncio
import random
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from crawlkit.checkpoint import Checkpoint, Document, Loader, Snapshot
from crawlkit.errors import OptionError
from crawlkit.job import Job
from crawlkit.politeness.budgets import Budgets

HOST = "shop.example"
URL = f"https://{HOST}/lamp"


class Disk:
    """What a store would hold, and how often it was asked."""

    def __init__(self) -> None:
        self.documents: dict[str, Document] = {}
        self.counters = Counter[str]()
        self.reads: list[str] = []
        self.commits: list[list[str]] = []

    async def read(self, name: str) -> Document | None:
        self.reads.append(name)
        await asyncio.sleep(0)
        return self.documents.get(name)

    def begin(self, **options: Any) -> Budgets:
        """The next life."""
        budgets = Budgets(self.read, **options)
        Loader(Snapshot(dict(self.documents), dict(self.counters))).restore("budgets", budgets)
        return budgets

    def commit(self, budgets: Budgets) -> None:
        checkpoint = Checkpoint()
        with checkpoint.of("budgets"):
            budgets.collect(checkpoint)
        self.commits.append([*checkpoint.documents, *checkpoint.add])
        self.counters.update(checkpoint.add)
        self.documents |= {name: doc for name, doc in checkpoint.documents.items() if doc}
        budgets.settle()


@pytest.fixture
def disk() -> Disk:
    return Disk()


async def spent(budgets: Budgets, tries: int, host: str = HOST, url: str = URL) -> int:
    """How many of so many pages may be fetched and handled."""
    count = 0
    for _ in range(tries):
        if await budgets.take(host, url) is None:
            budgets.spend(host, url)
            count += 1
    return count


async def test_a_host_gives_no_more_pages_than_its_limit(disk: Disk) -> None:
    budgets = disk.begin(max_pages_per_host=3)
    assert await spent(budgets, 10) == 3
    assert await budgets.take(HOST, URL) == "max_pages_per_host"
    assert await spent(budgets, 10, "other.example", "https://other.example/") == 3


async def test_a_pattern_gives_no_more_pages_than_its_budget(disk: Disk) -> None:
    budgets = disk.begin(budgets={"**/calendar/**": 2, "re:[?&]sort=": 3})
    calendar = f"https://{HOST}/calendar/2030/01"
    assert await spent(budgets, 10, url=calendar) == 2
    assert await budgets.take(HOST, calendar) == "budget"
    assert await spent(budgets, 10, url=f"{URL}?sort=price") == 3
    assert await spent(budgets, 10) == 10


async def test_a_url_counts_for_every_pattern_that_it_matches(disk: Disk) -> None:
    budgets = disk.begin(budgets={"**/a/**": 2, re.compile("b"): 3}, max_pages_per_host=4)
    both = f"https://{HOST}/a/b"
    assert await spent(budgets, 10, url=both) == 2
    assert await spent(budgets, 10, url=f"https://{HOST}/b") == 1
    assert await spent(budgets, 10) == 1


async def test_requests_in_flight_are_held_against_the_limit(disk: Disk) -> None:
    budgets = disk.begin(max_pages_per_host=5, budgets={"**": 7})
    answers = await asyncio.gather(*(budgets.take(HOST, URL) for _ in range(50)))
    assert answers.count(None) == 5
    others = await asyncio.gather(*(budgets.take("b.example", URL) for _ in range(50)))
    assert others.count(None) == 2


async def test_what_is_given_back_can_be_taken_again(disk: Disk) -> None:
    budgets = disk.begin(max_pages_per_host=1, budgets={"**/lamp": 1})
    for _ in range(3):
        assert await budgets.take(HOST, URL) is None
        assert await budgets.take(HOST, URL) is not None
        budgets.give_back(HOST, URL)
    assert await spent(budgets, 5) == 1


async def test_a_refused_request_takes_nothing(disk: Disk) -> None:
    budgets = disk.begin(max_pages_per_host=5, budgets={"**/lamp": 0})
    assert await budgets.take(HOST, URL) == "budget"
    assert await spent(budgets, 9, url=f"https://{HOST}/chair") == 5


async def test_without_limits_there_is_nothing_to_do(disk: Disk) -> None:
    budgets = disk.begin()
    assert not budgets.is_limited
    assert await budgets.take(HOST, URL) is None
    budgets.spend(HOST, URL)
    disk.commit(budgets)
    assert disk.commits == [[]]
    assert disk.reads == []
    assert disk.begin(max_pages_per_host=1).is_limited
    assert disk.begin(budgets={"**": 1}).is_limited


@pytest.mark.parametrize("limit", [-1, 1.5, "3", True])
def test_a_limit_that_is_no_number_of_pages_is_refused(disk: Disk, limit: Any) -> None:
    with pytest.raises(OptionError, match="max_pages_per_host"):
        disk.begin(max_pages_per_host=limit)
    with pytest.raises(OptionError, match="calendar"):
        disk.begin(budgets={"**/calendar/**": limit})


def test_a_pattern_that_can_match_nothing_is_refused(disk: Disk) -> None:
    with pytest.raises(OptionError, match="budgets"):
        disk.begin(budgets={"/calendar/**": 1})


# -- restarts ---------------------------------------------------------------------------------


async def test_counts_are_exact_over_restarts_and_what_was_in_flight_does_not_count(
    disk: Disk,
) -> None:
    options: dict[str, Any] = {"max_pages_per_host": 10, "budgets": {"**/lamp": 4}}
    budgets = disk.begin(**options)
    assert await spent(budgets, 3) == 3
    disk.commit(budgets)
    assert await budgets.take(HOST, URL) is None  # killed while this one is in flight
    budgets = disk.begin(**options)
    assert await spent(budgets, 9) == 1
    assert await spent(budgets, 9, url=f"https://{HOST}/chair") == 6


async def test_a_limit_can_be_raised_between_two_lives(disk: Disk) -> None:
    budgets = disk.begin(max_pages_per_host=2, budgets={"**/lamp": 9, "**/chair": 9})
    await spent(budgets, 5)
    disk.commit(budgets)
    budgets = disk.begin(max_pages_per_host=3, budgets={"**/lamp": 9})
    assert await spent(budgets, 5) == 1


async def test_a_checkpoint_has_only_what_changed(disk: Disk) -> None:
    budgets = disk.begin(max_pages_per_host=9, budgets={"**": 99})
    for host in ("a.example", "b.example"):
        await spent(budgets, 1, host)
    disk.commit(budgets)
    disk.commit(budgets)
    await spent(budgets, 1, "a.example")
    disk.commit(budgets)
    assert [sorted(names) for names in disk.commits] == [
        ["budget/**", "budgets/a.example", "budgets/b.example"],
        [],
        ["budget/**", "budgets/a.example"],
    ]


async def test_patterns_with_the_same_text_and_other_flags_are_counted_apart(disk: Disk) -> None:
    def options() -> dict[str, Any]:
        return {"budgets": {re.compile("LAMP", re.IGNORECASE): 9, re.compile("LAMP"): 9}}

    budgets = disk.begin(**options())
    await spent(budgets, 4)
    disk.commit(budgets)
    budgets = disk.begin(**options())
    assert await spent(budgets, 99) == 5
    assert await spent(budgets, 99, url=f"https://{HOST}/CLAMP") == 0


async def test_after_a_kill_the_counts_are_those_of_the_last_checkpoint(tmp_path: Path) -> None:
    """The run is copied while the first process is at work: what kill -9 leaves behind."""

    def begin(job: Job) -> Budgets:
        return job.persist("budgets", Budgets(job.store.document, max_pages_per_host=10))

    async with Job(tmp_path / "run", persist_interval=3600, signals=False) as job:
        budgets = begin(job)
        assert await spent(budgets, 6) == 6
        await job.checkpoint()
        assert await spent(budgets, 3) == 3
        shutil.copytree(tmp_path / "run", tmp_path / "killed")
    async with Job(tmp_path / "killed", persist_interval=3600, signals=False) as job:
        assert await spent(begin(job), 99) == 4
    async with Job(tmp_path / "run", persist_interval=3600, signals=False) as job:
        assert await spent(begin(job), 99) == 1


@pytest.mark.parametrize("seed", range(5))
async def test_no_order_of_events_and_no_crash_makes_a_count_wrong(disk: Disk, seed: int) -> None:
    """Against a plain model: what was spent up to the last checkpoint is what the next life has."""
    rng = random.Random(seed)
    limit, hosts = 6, [f"{letter}.example" for letter in "abc"]
    budgets = disk.begin(max_pages_per_host=limit)
    saved, now = dict.fromkeys(hosts, 0), dict.fromkeys(hosts, 0)
    in_flight: list[str] = []
    for _ in range(400):
        match rng.choice(["take", "take", "spend", "give back", "commit", "crash"]):
            case "take":
                host = rng.choice(hosts)
                refused = await budgets.take(host, URL)
                assert (refused is None) == (now[host] + in_flight.count(host) < limit)
                in_flight += [] if refused else [host]
            case "spend" if in_flight:
                host = in_flight.pop(rng.randrange(len(in_flight)))
                budgets.spend(host, URL)
                now[host] += 1
            case "give back" if in_flight:
                budgets.give_back(in_flight.pop(rng.randrange(len(in_flight))), URL)
            case "commit":
                disk.commit(budgets)
                saved = dict(now)
            case "crash":
                budgets = disk.begin(max_pages_per_host=limit)
                in_flight, now = [], dict(saved)
        if rng.random() < 0.02:  # a new site, so that the limits are not all met for good
            hosts.append(f"{len(hosts)}.example")
            saved[hosts[-1]] = now[hosts[-1]] = 0


async def test_what_another_worker_has_spent_meanwhile_counts_as_soon_as_the_host_comes_back(
    disk: Disk,
) -> None:
    """Also where no checkpoint was taken here in between."""
    one, other = (disk.begin(max_pages_per_host=5) for _ in range(2))
    assert await spent(one, 2) == 2
    disk.commit(one)
    other.forget(HOST)
    assert await spent(other, 2) == 2
    disk.commit(other)
    one.forget(HOST)
    assert await spent(one, 9) == 1


# -- memory -----------------------------------------------------------------------------------


async def test_hosts_that_are_idle_are_read_again_when_they_are_needed(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crawlkit.politeness.budgets.MAX_HOSTS", 10)
    budgets = disk.begin(max_pages_per_host=3)
    assert await budgets.take("busy.example", URL) is None
    for number in range(200):
        assert await spent(budgets, 2, f"{number}.example") == 2
        if number % 7 == 0:
            disk.commit(budgets)
    assert len(budgets._hosts) < 40
    for number in range(200):
        assert await spent(budgets, 5, f"{number}.example") == 1
        if number % 7 == 0:
            disk.commit(budgets)
    budgets.spend("busy.example", URL)
    assert await spent(budgets, 9, "busy.example") == 2


async def test_a_host_in_memory_is_not_read_again(disk: Disk) -> None:
    budgets = disk.begin(max_pages_per_host=100)
    await asyncio.gather(*(spent(budgets, 10) for _ in range(5)))
    assert disk.reads == [f"budgets/{HOST}"]

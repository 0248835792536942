"""What each life of a run did adds up to what the run did; --json is as it is documented."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from click.testing import CliRunner

from crawlkit import Crawler, Page, load_statistics, open_run
from crawlkit.cli import main
from crawlkit.counting.lives import LIVES, TOTALS, Lives
from crawlkit.counting.samples import SAMPLES
from crawlkit.statistics import Statistics
from crawlkit.testing import ManualClock, Site

from .test_statistics import START, Books, busy

ROOT = Path(__file__).parent.parent
SCHEMA = json.loads((ROOT / "docs" / "statistics.schema.json").read_text())


def lived(books: Books, clock: ManualClock, *, seconds: float, killed: bool = False) -> Statistics:
    """One life of the run in `books`."""
    statistics = books.load(clock)
    statistics.begin_life(clock.now())
    books.enqueue(statistics, 3, 1)
    busy(statistics)
    clock.advance(seconds)
    if not killed:
        statistics.end_life(clock.now(), finished=False)
    books.commit(statistics)
    if killed:
        busy(statistics)  # and never committed
    return statistics


def test_each_life_has_what_it_did_also_after_kill_9() -> None:
    clock, books = ManualClock(START), Books()
    lived(books, clock, seconds=10)
    clock.advance(1000)
    lived(books, clock, seconds=20, killed=True)
    lived(books, clock, seconds=30)
    first, killed, last = books.load(clock).by_life
    assert [life.number for life in (first, killed, last)] == [1, 2, 3]
    assert [life.end for life in (first, killed, last)] == ["stopped", None, "stopped"]
    assert [life.runtime_seconds for life in (first, killed, last)] == [10, 20, 30]
    assert first.requests_finished == killed.requests_finished == last.requests_finished == 2
    assert (first.requests_total, last.items_saved, killed.requests_duplicate) == (3, 3, 1)
    assert first.started_at == "2023-11-14T22:13:20.000Z"
    assert first.ended_at == "2023-11-14T22:13:30.000Z"
    assert killed.started_at == "2023-11-14T22:30:10.000Z"


def test_the_lives_are_bounded_and_add_up_to_the_run() -> None:
    clock, books = ManualClock(START), Books()
    count = LIVES + 5
    for _ in range(count):
        lived(books, clock, seconds=1)
    statistics = books.load(clock)
    lives = statistics.by_life
    assert len(lives) == LIVES + 1
    assert (lives[0].lives, lives[0].number, lives[0].end) == (5, 5, "stopped")
    assert (lives[0].started_at, lives[0].ended_at) == (
        "2023-11-14T22:13:20.000Z",
        "2023-11-14T22:13:25.000Z",
    )
    assert sum(life.lives for life in lives) == statistics.lives == count
    for name in TOTALS:
        assert sum(getattr(life, name) for life in lives) == getattr(statistics, name), name


def test_a_run_that_is_older_than_its_lives_has_them_from_now_on() -> None:
    clock, books = ManualClock(START), Books()
    lived(books, clock, seconds=5)
    lived(books, clock, seconds=5)
    del books.documents["statistics/lives"]
    lived(books, clock, seconds=7)
    before, last = books.load(clock).by_life
    assert (before.number, before.lives, before.runtime_seconds, before.version) == (2, 2, 10, None)
    assert (last.number, last.runtime_seconds) == (3, 7)


def test_a_worker_that_joins_does_not_speak_for_the_life() -> None:
    clock, books = ManualClock(START), Books()
    first, joined = books.load(clock), books.load(clock)
    first.begin_life(clock.now())
    books.commit(first)
    joined.end_life(clock.now(), finished=True)
    assert "statistics/lives" not in books.commit(joined).documents
    (life,) = books.load(clock).by_life
    assert (life.number, life.end) == (1, "finished")


def test_a_life_takes_two_changes_of_its_document() -> None:
    clock, books = ManualClock(START), Books()
    statistics = books.load(clock)
    statistics.begin_life(clock.now())
    assert "statistics/lives" in books.commit(statistics).documents
    busy(statistics)
    assert "statistics/lives" not in books.commit(statistics).documents


# -- samples ---------------------------------------------------------------------------------------


def test_samples_tell_how_long_the_requests_took_that_were_handled_since_the_one_before() -> None:
    books, statistics = Books(), Statistics()
    statistics.sample(START, 1)
    for _ in range(90):
        statistics.finished("parse", "a.example", 0.1, 0)
    for _ in range(10):
        statistics.finished("parse", "a.example", 2.0, 0)
    statistics.sample(START + 1, 1)
    books.commit(statistics)
    restored = books.load()
    restored.finished("parse", "a.example", 0.5, 0)
    restored.sample(START + 2, 1)
    restored.sample(START + 3, 1)
    nothing, slow, later, idle = restored.samples
    assert (nothing.p50, idle.p95) == (None, None)
    assert (slow.p50, slow.p95) == (pytest.approx(0.1, rel=0.02), pytest.approx(2.0, rel=0.02))
    assert later.p50 == later.p95 == pytest.approx(0.5, rel=0.02)


def test_samples_of_a_run_that_knew_no_quantiles_are_read() -> None:
    books, statistics = Books(), Statistics()
    statistics.sample(START, 1)
    books.commit(statistics)
    kept = json.loads(books.documents["statistics/samples"].data)
    kept["rows"] = [row[:8] for row in kept["rows"]]
    document = books.documents["statistics/samples"]
    books.documents["statistics/samples"] = document._replace(data=json.dumps(kept).encode())
    (sample,) = books.load().samples
    assert (sample.memory, sample.p50) == (1, None)


# -- on the command line ---------------------------------------------------------------------------


class Shop(Crawler):
    max_retries = 0

    async def parse(self, page: Page) -> None:
        page.follow("a")
        page.save({"url": page.url})
        if page.url.endswith("broken"):
            raise ValueError("no price")


def shown(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["stats", *words])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def address(site: Site, tmp_path: Path) -> str:
    """A run of two lives, the first of which was stopped."""
    site.add_page("/", links=["/1", "/broken", "/gone"])
    site.add_page("/1")
    site.add_page("/broken")
    store = str(tmp_path / "run")
    assert Shop(start_urls=[site.url("/")], store=store, max_pages=1).run() == 0
    assert Shop(start_urls=[site.url("/")], store=store).run() == 0
    return store


def test_lives_are_listed_and_compared(address: str) -> None:
    text = shown(address, "--lives")
    assert re.search(r"^1 .* 1 +0 +1 .* finished$", text, re.MULTILINE)
    assert re.search(r"^2 .* 1 +2 +1 .* finished$", text, re.MULTILINE)
    first, second = json.loads(shown(address, "--lives", "--json"))
    assert (first["requests_finished"], second["requests_failed"]) == (1, 2)
    assert json.loads(shown(address, "--life", "2", "--json")) == second
    assert re.search(r"^requests_failed +2$", shown(address, "--life", "2"), re.MULTILINE)
    found = json.loads(shown(address, "--life", "2", "--diff", "1", "--json"))
    assert found["requests_failed"] == {"this": 2, "other": 0, "change": 2}
    assert "life 2  life 1" in shown(address, "--life", "2", "--diff", "1")
    assert "there are 1 to 2" in shown(address, "--life", "3", code=2)
    assert "name another life" in shown(address, "--life", "2", "--diff", "runs/x", code=2)
    assert "--life N" in shown(address, "--lives", "--diff", "1", code=2)


def test_the_json_of_statistics_is_what_its_schema_says(address: str) -> None:
    printed = json.loads(shown(address, "--json"))
    jsonschema.validate(printed, SCHEMA)
    for name in ("by_handler", "by_host", "errors", "by_life", "status_codes"):
        assert printed[name], "an empty one would prove nothing"
    sampled = Statistics()
    sampled.sample(START, 1)
    for statistics in (sampled, Statistics()):
        jsonschema.validate(msgspec.json.decode(msgspec.json.encode(statistics.to_dict())), SCHEMA)
    for broken in ({**printed, "requests": 1}, {k: v for k, v in printed.items() if k != "lives"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, SCHEMA)


def names_of(schema: dict[str, Any]) -> set[str]:
    nested = (each["properties"] for each in schema["$defs"].values())
    return {name for properties in (schema["properties"], *nested) for name in properties}


def test_every_name_of_the_schema_is_documented() -> None:
    page = (ROOT / "docs" / "statistics.md").read_text()
    assert [name for name in sorted(names_of(SCHEMA)) if f"`{name}`" not in page] == []


def test_what_is_read_while_a_crawl_runs_has_the_life_that_still_goes_on(
    site: Site, tmp_path: Path
) -> None:
    site.add_page("/")
    found: list[str | None] = []

    class Looking(Crawler):
        async def parse(self, page: Page) -> None:
            await self.job.checkpoint()
            found.append(load_statistics(tmp_path / "run").by_life[-1].end)
            found.append(shown(str(tmp_path / "run"), "--lives").rpartition(" ")[2].strip())

    Looking(start_urls=[site.url("/")], store=tmp_path / "run").run()
    with open_run(tmp_path / "run") as run:
        found.append(run.statistics.by_life[-1].end)
    assert found == [None, "running", "finished"]
    assert len(load_statistics(tmp_path / "run").samples) <= SAMPLES


def test_of_two_lives_that_begin_at_once_none_has_done_less_than_nothing() -> None:
    """As on two machines: the second one has read what was a moment before the first."""
    lives = Lives()
    lives.begin(1, 0.0, {})
    lives.begin(2, 10.0, {"requests_total": 50, "items_saved": 7, "requests_failed": 4})
    lives.begin(3, 10.1, {"requests_total": 49, "items_saved": 7, "requests_failed": 3})
    totals = dict.fromkeys(TOTALS, 0) | {
        "requests_total": 60,
        "items_saved": 9,
        "requests_failed": 5,
    }
    told = lives.all(totals, 0.0, False)
    assert [life.requests_total for life in told] == [50, 0, 10]
    assert [life.requests_failed for life in told] == [4, -1, 2], "one was put back"
    assert [life.items_saved for life in told] == [7, 0, 2]

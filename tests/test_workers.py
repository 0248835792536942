"""``run --workers``: one command, several processes; see also `tests.faults.workers`."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from crawlkit import open_run
from crawlkit.testing import Site

from .faults.common import ended, happens
from .faults.workers import check, workers_of

CRAWL = """
import os, sys
from crawlkit import Crawler, Page

class Shop(Crawler):
    persist_interval = 0.1
    scope = "all"

    def on_start(self):
        {on_start}

    async def parse(self, page: Page) -> None:
        page.save({{"url": page.url, "pid": os.getpid()}})
        page.update_state(lambda state: state.update(pages=state.get("pages", 0) + 1))
        page.follow("a")
"""


def written(directory: Path, on_start: str = "pass") -> Path:
    file = directory / "shop.py"
    file.write_text(CRAWL.format(on_start=on_start))
    return file


def command(directory: Path, url: str, *options: str) -> list[str]:
    return [
        *(sys.executable, "-m", "crawlkit", "run", str(directory / "shop.py"), url),
        *("--store", str(directory / "run"), "--no-progress", *options),
    ]


def run(directory: Path, url: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(directory, url, *options), capture_output=True, text=True, timeout=90, check=False
    )


@pytest.fixture
def pages(site: Site) -> str:
    """A page with 60 more; the URL of it."""
    site.add_page("/", links=[f"/{number}" for number in range(60)])
    for number in range(60):
        site.add_page(f"/{number}", delay=0.05)
    return site.url("/")


def test_two_workers_crawl_one_run_with_one_summary_and_one_file(
    tmp_path: Path, pages: str
) -> None:
    written(tmp_path, "import logging; logging.getLogger('shop').warning('here I am')")
    output = tmp_path / "items.jsonl"
    done = run(tmp_path, pages, "--workers", "2", "--output", str(output))
    assert done.returncode == 0, done.stderr
    with open_run(tmp_path / "run") as found:
        items = list(found.items())
        assert found.statistics.requests_finished == 61
        assert found.statistics.lives == 1
        assert found.statistics.finished_at is not None
        assert found.state == {"pages": 61}
        assert list(found.check()) == []
    assert [json.loads(line) for line in output.read_text().splitlines()] == items
    assert len({item["url"] for item in items}) == 61
    assert done.stdout.count("finished shop") == 1
    assert "61 pages, 61 items, 0 failed, 0 pending" in done.stdout
    for name in "12":
        assert f"[{name}] " in done.stderr
    assert done.stderr.count("here I am") == 2


def test_workers_that_die_over_and_over_are_the_end_with_what_they_said_last(
    tmp_path: Path, pages: str
) -> None:
    written(tmp_path, "raise RuntimeError('the key of the shop is missing')")
    done = run(tmp_path, pages, "--workers", "2")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("crawlkit: worker ")
    assert "ended with 1" in last
    assert "the key of the shop is missing" in last
    assert "Traceback" not in done.stderr


def test_told_to_go_the_workers_go_in_order_and_the_command_says_75(
    tmp_path: Path, pages: str, site: Site
) -> None:
    written(tmp_path)
    process = subprocess.Popen(
        command(tmp_path, pages, "--workers", "2", "--set", "concurrency_per_host=2"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert happens(process, lambda: site.hits() > 10)
    workers = workers_of(process.pid)
    process.send_signal(signal.SIGTERM)
    assert ended(process) == 75  # type: ignore[arg-type]
    assert process.stdout is not None
    with process.stdout as stream:
        said = stream.read()
    assert "go on with:" in said
    assert "--workers 2" in said
    assert len(workers) == 2
    with open_run(tmp_path / "run") as found:
        assert found.statistics.finished_at is None
        assert list(found.check()) == []
    assert run(tmp_path, pages, "--workers", "3").returncode == 0
    with open_run(tmp_path / "run") as found:
        assert found.statistics.requests_finished == 61
        assert found.statistics.lives == 2
        assert len(list(found.items())) == 61


def test_a_run_in_memory_cannot_be_shared(tmp_path: Path) -> None:
    written(tmp_path)
    done = run(tmp_path, "http://127.0.0.1:9/", "--store", "memory:", "--workers", "2")
    assert done.returncode == 2
    assert "several workers cannot share memory:" in done.stderr


def test_faults_of_workers_and_their_supervisor_change_nothing(tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    reports = check(6, 3, seed, tmp_path, pages=600)
    assert [line for report in reports for line in report.wrong] == [], f"seed {seed}"

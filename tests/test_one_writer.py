"""A run has one writer. Nobody else gets in, and nobody waits for one that is dead."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crawlkit import Crawler, Job, open_run
from crawlkit.errors import StoreLockedError
from crawlkit.testing import Site

from .faults.common import gone, happens, kill
from .stopwatch import Stopwatch

SLOW_PAGE = 20.0
"""Seconds for which the holder is kept busy, longer than any of the tests."""

CRAWL = """
from crawlkit import Crawler

class Slow(Crawler):
    async def parse(self, page):
        page.save({"url": page.url})
        page.follow("a")
"""


class Writer:
    """A crawl in a process of its own that holds its run for a while.

    Args:
        directory: Where its run is.
        site: The site, whose second page is slow.
    """

    def __init__(self, directory: Path, site: Site) -> None:
        file = directory / "crawl.py"
        file.write_text(CRAWL)
        self.store = directory / "run"
        self.command = [sys.executable, "-m", "crawlkit", "run", str(file), site.url("/")]
        self.command += ["--store", str(self.store), "--no-progress"]
        self.log = directory / "log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        assert happens(self.process, lambda: site.hits("/slow") > 0), self.log.read_text()


@pytest.fixture
def writer(tmp_path: Path, site: Site) -> Iterator[Writer]:
    site.add_page("/", links=["/slow"])
    site.add_page("/slow", delay=SLOW_PAGE)
    writer = Writer(tmp_path, site)
    yield writer
    with contextlib.suppress(ProcessLookupError):
        kill(writer.process)


async def refused(store: Path) -> tuple[StoreLockedError, float]:
    """The error of a second writer, and the seconds until it comes."""
    took = Stopwatch()
    with pytest.raises(StoreLockedError) as caught:
        async with Job(store, signals=False):
            raise AssertionError("there are two writers")
    return caught.value, took.seconds


def test_a_second_process_is_refused_within_a_second_with_the_holders_pid(writer: Writer) -> None:
    began = time.monotonic()
    second = subprocess.Popen(writer.command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    end = gone(second)
    assert second.stderr is not None
    with second.stderr as stream:
        (line,) = stream.read().decode().splitlines()
    assert end.code == 1
    assert f"is being written by process {writer.process.pid};" in line
    assert end.there - began - end.starved < 1
    assert writer.process.poll() is None


async def test_a_program_that_opens_the_run_is_refused_with_the_holders_pid(
    writer: Writer,
) -> None:
    error, seconds = await refused(writer.store)
    assert error.pid == writer.process.pid
    assert str(writer.process.pid) in str(error)
    assert seconds < 1


def test_a_crawler_that_is_run_from_python_is_refused_too(writer: Writer) -> None:
    with pytest.raises(StoreLockedError) as caught:
        Crawler(store=writer.store).run()
    assert caught.value.pid == writer.process.pid


def test_not_even_fresh_touches_a_run_that_is_being_written(writer: Writer) -> None:
    fresh = [*writer.command, "--fresh", "--yes"]
    done = subprocess.run(fresh, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert str(writer.process.pid) in done.stderr
    with open_run(writer.store) as run:
        assert run.statistics.requests_finished == 1
        assert list(run.check()) == []


def test_looking_at_the_run_is_not_refused_and_disturbs_nobody(writer: Writer) -> None:
    for _ in range(20):
        with open_run(writer.store) as run:
            assert run.holder == writer.process.pid
            assert run.statistics.requests_finished == 1
    assert writer.process.poll() is None


async def test_the_lock_of_a_killed_process_is_taken_over_at_once(writer: Writer) -> None:
    kill(writer.process)
    with open_run(writer.store) as run:
        assert run.holder is None
    took = Stopwatch()
    async with Job(writer.store, signals=False):
        assert took.seconds < 1


def test_the_crawl_of_a_killed_process_is_finished_by_the_next(writer: Writer, site: Site) -> None:
    kill(writer.process)
    site.add_page("/slow")
    done = subprocess.run(writer.command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    with open_run(writer.store) as run:
        assert [item["url"] for item in run.items()] == [site.url("/"), site.url("/slow")]


async def test_a_writer_in_the_same_process_is_refused_as_well(tmp_path: Path) -> None:
    async with Job(tmp_path / "run", signals=False):
        await refused(tmp_path / "run")


async def test_a_run_is_free_again_when_its_job_has_ended(tmp_path: Path) -> None:
    for _ in range(2):
        async with Job(tmp_path / "run", signals=False) as job:
            job.state["times"] = job.state.get("times", 0) + 1
    with open_run(tmp_path / "run") as run:
        assert (run.holder, run.state) == (None, {"times": 2})

"""``run --workers`` with ``--mirror``: the supervisor owns the store, and its mirror with it."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from .faults.common import ended, happens, kill
from .faults.results import Result, differences, result_of
from .faults.workers import (
    HostsProcess,
    HostsRun,
    is_there,
    manners,
    normal,
    undisturbed,
    workers_of,
)
from .s3 import BUCKET, S3Server

PAGES = 400
WORKERS = 2
INTERVAL = 0.3
"""Seconds between two shipments."""


@pytest.fixture(params=["directory", "s3"])
def mirror(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A mirror of each kind."""
    if request.param == "directory":
        yield str(tmp_path / "mirror")
        return
    with S3Server() as server:
        server.make_bucket()
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield f"s3://{BUCKET}/{tmp_path.name}"


@pytest.fixture(scope="module")
def site() -> Iterator[HostsProcess]:
    with HostsProcess("--pages", str(PAGES)) as process:
        yield process


@pytest.fixture(scope="module")
def whole(site: HostsProcess, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """What one process ends with that nobody disturbs, and that has no mirror."""
    return undisturbed(site, tmp_path_factory.mktemp("whole") / "undisturbed")


def crawl_on(site: HostsProcess, directory: Path, name: str, mirror: str) -> HostsRun:
    """The crawl on a machine that has not seen it before."""
    return HostsRun(
        site,
        directory,
        name,
        *("--workers", str(WORKERS), "--mirror", mirror),
        *("--set", f"mirror_interval={INTERVAL}", "--set", "persist_interval=0.2"),
    )


def begun(site: HostsProcess, crawl: HostsRun, share: float) -> subprocess.Popen[bytes]:
    """Start it, and come back when it has its workers, and that share of all requests was made."""
    process = crawl.start()
    wanted = share * site.seen("undisturbed")["requests"]

    def is_far_enough() -> bool:
        # A life before this one may have come as far already.
        return site.seen(crawl.name)["requests"] >= wanted and (
            len(workers_of(process.pid)) == WORKERS
        )

    assert happens(process, is_far_enough, every=0.02), crawl.log.read_text()
    return process


def finished_elsewhere(
    site: HostsProcess, directory: Path, name: str, mirror: str, whole: Result, lives: int
) -> int:
    """Finish it on another machine; how often the site was asked, by all of them."""
    with crawl_on(site, directory, name, mirror) as crawl:
        crawl.lives = lives
        assert crawl.finish() == 0, crawl.log.read_text()
        assert differences(whole, normal(result_of(crawl))) + crawl.check() == []
        assert "from the mirror" in crawl.log.read_text()
        seen = site.seen(name)
        assert manners(seen).wrong == []
        requests: int = seen["requests"]
        return requests


@pytest.mark.timeout(180)
def test_a_machine_that_is_lost_with_all_workers_costs_nothing(
    tmp_path: Path, site: HostsProcess, whole: Result, mirror: str
) -> None:
    """Killed with kill -9, twice, each time with its disk: nothing is missing."""
    seed = random.randrange(10**6)
    rng = Random(seed)
    name = f"lost-{tmp_path.name}"
    for number, share in enumerate((rng.uniform(0.1, 0.4), rng.uniform(0.4, 0.7))):
        directory = tmp_path / f"machine-{number}"
        with crawl_on(site, directory, name, mirror) as crawl:
            process = begun(site, crawl, share)
            workers = workers_of(process.pid)
            # At once, or the workers would notice that they are orphans, and save something.
            for pid in workers:
                os.kill(pid, signal.SIGSTOP)
            kill(process)
            for pid in workers:
                os.kill(pid, signal.SIGKILL)
            deadline = time.monotonic() + 10
            while any(map(is_there, workers)) and time.monotonic() < deadline:
                time.sleep(0.01)
            assert "Traceback" not in crawl.log.read_text()
        shutil.rmtree(directory)
    requests = finished_elsewhere(site, tmp_path / "last", name, mirror, whole, 2)
    assert requests >= site.seen("undisturbed")["requests"], f"seed {seed}"


@pytest.mark.timeout(180)
def test_a_machine_that_is_told_to_go_has_shipped_everything(
    tmp_path: Path, site: HostsProcess, whole: Result, mirror: str
) -> None:
    """What was in flight was finished, so the next machine asks for nothing again."""
    name = f"told-{tmp_path.name}"
    directory = tmp_path / "machine"
    with crawl_on(site, directory, name, mirror) as crawl:
        process = begun(site, crawl, random.uniform(0.2, 0.6))
        process.send_signal(signal.SIGTERM)
        assert ended(process) == 75
        log = crawl.log.read_text()
        assert "checkpoints behind" not in log
        assert "Traceback" not in log
    shutil.rmtree(directory)
    requests = finished_elsewhere(site, tmp_path / "last", name, mirror, whole, 1)
    assert requests == site.seen("undisturbed")["requests"]


@pytest.mark.timeout(120)
def test_a_machine_that_was_frozen_and_superseded_ends_with_one_clear_error(
    tmp_path: Path, site: HostsProcess, whole: Result
) -> None:
    name, mirror = f"frozen-{tmp_path.name}", str(tmp_path / "mirror")
    with crawl_on(site, tmp_path / "first", name, mirror) as first:
        process = begun(site, first, 0.2)
        pids = [process.pid, *workers_of(process.pid)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            with crawl_on(site, tmp_path / "second", name, mirror) as second:
                second.lives = 1
                assert second.finish() == 0, second.log.read_text()
        finally:
            for pid in reversed(pids):
                os.kill(pid, signal.SIGCONT)
        assert ended(process) == 1
        said = first.log.read_text()
        assert said.splitlines()[-1].startswith("crawlkit: the run is no longer this machine's: ")
        assert "Traceback" not in said
        assert "another takes its place" not in said
        assert not any(map(is_there, pids[1:]))
        assert differences(whole, normal(result_of(second))) == []

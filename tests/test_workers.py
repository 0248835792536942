"""``run --workers``: one command, several processes; see also `tests.faults.workers`."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from crawlkit import open_run
from crawlkit.testing import Site

from . import postgres
from .faults.common import ended, happens, kill
from .faults.workers import check, workers_of
from .pseudoterminal import Terminal, watch

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


def test_what_makes_no_sense_in_a_worker_is_a_usage_error_of_the_command(
    tmp_path: Path, pages: str
) -> None:
    written(tmp_path, "self.state['price'] = float('inf')")
    done = run(tmp_path, pages, "--workers", "2")
    assert done.returncode == 2
    assert re.fullmatch(
        r"crawlkit: worker [12]: the state cannot be saved: price is inf, and JSON .*",
        done.stderr.splitlines()[-1],
    )
    assert "another takes its place" not in done.stderr


def test_the_metrics_of_all_workers_are_served_in_one_place(tmp_path: Path, pages: str) -> None:
    written(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        command(tmp_path, pages, "--workers", "2", "--metrics", str(port)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    numbers: list[tuple[str, str]] = []

    def are_served() -> bool:
        url = f"http://127.0.0.1:{port}/metrics"
        with contextlib.suppress(OSError), urllib.request.urlopen(url) as answer:
            text = answer.read().decode()
            by_handler = re.findall(r"handler_requests_finished_total\{.*\} (\d+)", text)
            in_all = re.findall(r"_requests_finished_total\{crawler=\"shop\"\} (\d+)", text)
            numbers.extend(zip(by_handler, in_all, strict=False))
        return len(numbers) > 3

    assert happens(process, are_served)
    _, said = process.communicate(timeout=90)
    assert process.returncode == 0
    assert "is taken" not in said
    assert all(by_handler == in_all for by_handler, in_all in numbers)


def test_a_file_of_items_that_cannot_be_made_is_told_before_anything_is_fetched(
    tmp_path: Path, pages: str
) -> None:
    written(tmp_path)
    (tmp_path / "file").touch()
    done = run(tmp_path, pages, "--workers", "2", "--output", str(tmp_path / "file" / "items.csv"))
    assert done.returncode == 1
    assert "items.csv" in done.stderr.splitlines()[-1]
    assert "[1]" not in done.stderr
    assert not (tmp_path / "run").exists()


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

    def is_under_way() -> bool:
        # The first worker counts the life. On a busy machine the second one may have done ten pages
        # before that; a command that is told to go by then is no life of the run.
        if site.hits() <= 10:
            return False
        with open_run(tmp_path / "run") as found:
            return found.statistics.lives == 1

    assert happens(process, is_under_way)
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


# -- the file of items ----------------------------------------------------------------------------


def urls_in(file: Path) -> list[str]:
    """The URL of each item in a file of items, in their order; what is no item is an error."""
    text = file.read_text()
    if file.suffix == ".jsonl":
        assert not text or text.endswith("\n"), "a torn line"
        return [json.loads(line)["url"] for line in text.splitlines()]
    head, *rows = csv.reader(text.splitlines())
    assert head == ["url", "pid"]
    assert all(len(row) == 2 and row[1].isdigit() for row in rows)
    return [row[0] for row in rows]


def check_items(directory: Path, file: Path, count: int = 61) -> None:
    """The file has each item of the run, once and in their order, and they are so many."""
    with open_run(directory / "run") as found:
        stored = [item["url"] for item in found.items()]
        assert list(found.check()) == []
    assert urls_in(file) == stored
    assert len(set(stored)) == len(stored) == count
    litter = {path.name for path in directory.iterdir()} - {"shop.py", "run", "__pycache__"}
    assert litter == {file.name}


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """kill -9 of a supervisor and its workers, before any of them can react to that."""
    workers = workers_of(process.pid)
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    kill(process)
    for pid in workers:
        os.kill(pid, signal.SIGKILL)


files = pytest.mark.parametrize("name", ["items.jsonl", "items.csv"])


@files
def test_the_file_has_each_item_once_also_where_a_worker_was_killed(
    tmp_path: Path, pages: str, site: Site, name: str
) -> None:
    written(tmp_path)
    options = ("--workers", "2", "--output", str(tmp_path / name))
    process = subprocess.Popen(
        command(tmp_path, pages, *options, "--set", "concurrency_per_host=2"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    for share in (10, 30):
        assert happens(process, lambda share=share: site.hits() > share)  # type: ignore[misc]
        workers = workers_of(process.pid)
        assert workers
        os.kill(random.choice(workers), signal.SIGKILL)
    _, said = process.communicate(timeout=90)
    assert process.returncode == 0
    assert said.decode().count("another takes its place") == 2
    check_items(tmp_path, tmp_path / name)


@files
def test_the_file_has_each_item_once_also_where_all_of_it_was_killed(
    tmp_path: Path, pages: str, site: Site, name: str
) -> None:
    written(tmp_path)
    options = ("--workers", "2", "--output", str(tmp_path / name))
    for share in (15, 40):
        process = subprocess.Popen(
            command(tmp_path, pages, *options, "--set", "concurrency_per_host=2"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        assert happens(process, lambda share=share: site.hits() > share)  # type: ignore[misc]
        kill_all(process)
    done = run(tmp_path, pages, *options)
    assert done.returncode == 0, done.stderr
    assert f"(and in {tmp_path / name})" in done.stdout
    check_items(tmp_path, tmp_path / name)


@files
def test_a_run_that_goes_on_has_its_items_in_the_file_beside_the_earlier_ones(
    tmp_path: Path, pages: str, name: str
) -> None:
    written(tmp_path)
    options = ("--workers", "2", "--output", str(tmp_path / name))
    assert run(tmp_path, pages, *options, "--max-pages", "20").returncode == 0
    check_items(tmp_path, tmp_path / name, 20)
    assert run(tmp_path, pages, *options).returncode == 0
    check_items(tmp_path, tmp_path / name)
    # As if it had been killed when all was crawled and the file was not made yet.
    (tmp_path / name).unlink()
    assert run(tmp_path, pages, *options).returncode == 0
    check_items(tmp_path, tmp_path / name)


@pytest.mark.parametrize(("number", "is_made"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_a_file_that_is_made_at_the_end_is_made_where_there_is_time_for_it(
    tmp_path: Path, pages: str, site: Site, number: signal.Signals, is_made: bool
) -> None:
    """As with one process: after Ctrl-C there is, and after SIGTERM there is not."""
    written(tmp_path)
    file = tmp_path / "items.csv"
    options = ("--workers", "2", "--output", str(file), "--set", "concurrency_per_host=2")
    process = subprocess.Popen(
        command(tmp_path, pages, *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert happens(process, lambda: site.hits() > 10)
    process.send_signal(number)
    said, _ = process.communicate(timeout=90)
    assert process.returncode == 75
    assert file.exists() == is_made
    assert (f"(and in {file})" in said.decode()) == is_made
    if is_made:
        with open_run(tmp_path / "run") as found:
            check_items(tmp_path, file, found.statistics.items_saved)


# -- what is seen of it ---------------------------------------------------------------------------


def test_on_a_terminal_it_looks_as_with_one_process(tmp_path: Path, pages: str, site: Site) -> None:
    """How many workers there are is said; and once that it stops, not by each of them."""
    written(tmp_path, "import logging; logging.getLogger('shop').warning('here I am')")
    _, *words = command(tmp_path, pages, "--workers", "2", "--set", "delay=0.3")
    words.remove("--no-progress")

    def is_shown(terminal: Terminal) -> bool:
        # Also of the worker that is there last.
        return site.hits() > 3 and " in flight" in terminal.text and terminal.text.count("here") > 1

    terminal = watch(words, cwd=tmp_path, columns=160, interrupt=is_shown)
    assert terminal.code == 75
    shown = terminal.lines
    assert shown[0] == f"starting shop with 2 workers in {tmp_path / 'run'}"[:160]
    assert len([line for line in shown if "stopping: finishing what runs" in line]) == 1
    hello = [line for line in shown if "here I am" in line]
    assert len(hello) == 2
    for line in hello:
        assert re.match(r"\[[12]\] \d\d:\d\d:\d\d WARNING shop: here I am$", line), line


def test_a_log_for_machines_has_an_object_a_line_with_the_name_of_the_worker(
    tmp_path: Path, pages: str
) -> None:
    written(tmp_path, "import logging; logging.getLogger('shop').warning('here I am')")
    done = run(tmp_path, pages, "--workers", "2", "--log-format", "json")
    assert done.returncode == 0
    records = [json.loads(line) for line in done.stderr.splitlines()]
    assert sorted(r["worker"] for r in records if r["message"] == "here I am") == ["1", "2"]
    (last,) = [r for r in records if r["message"] == "finished shop"]
    assert "worker" not in last


# -- a password -----------------------------------------------------------------------------------

HIDES = """import os
        if any("hush" in value for value in os.environ.values()):
            raise RuntimeError("whatever a handler starts would get to know it")"""


@pytest.mark.needs("postgresql")
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_password_in_the_address_of_the_store_is_seen_by_nobody(
    tmp_path: Path, pages: str, site: Site, log_format: str
) -> None:
    """Not in the process list, where every user of the machine could read it, nor in any output."""
    server = postgres.server()
    if not server.execute("SELECT 1 FROM pg_roles WHERE rolname = 'quiet'"):
        server.execute("CREATE ROLE quiet LOGIN PASSWORD 'hush'")
        server.execute("CREATE DATABASE quiets OWNER quiet")
    address = server.address(user="quiet:hush", database="quiets")
    written(tmp_path, HIDES).write_text(
        # Not even the command line of the user has it.
        f"{(tmp_path / 'shop.py').read_text()}    store = {address!r}\n"
    )
    command = [sys.executable, "-m", "crawlkit", "run", str(tmp_path / "shop.py"), pages]
    command += ["--workers", "2", "--log-level", "debug", "--log-format", log_format]
    process = subprocess.Popen(
        [*command, "--no-progress", "--set", "concurrency_per_host=2"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    seen = []
    for share in (5, 20):
        assert happens(process, lambda share=share: site.hits() > share)  # type: ignore[misc]
        workers = workers_of(process.pid)
        seen += [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in workers]
        # One that takes the place of another is told in the same way.
        os.kill(workers[0], signal.SIGKILL)
    said, _ = process.communicate(timeout=90)
    assert process.returncode == 0, said.decode()
    # One that takes a place at this moment may not be there yet, or be gone and have no words left.
    assert sum(b"--supervised" in words for words in seen) >= 3
    assert not any(b"hush" in words for words in seen)
    assert b"hush" not in said
    assert b"quiet:***@" in said
    with open_run(address) as found:
        assert found.statistics.requests_finished == 61


@pytest.mark.needs("postgresql")
def test_a_password_that_is_wrong_is_told_without_it(tmp_path: Path, pages: str) -> None:
    written(tmp_path)
    server = postgres.server()
    if not server.execute("SELECT 1 FROM pg_roles WHERE rolname = 'quiet'"):
        server.execute("CREATE ROLE quiet LOGIN PASSWORD 'hush'")
    address = server.address(user="quiet:wrongword", database="quiets")
    done = run(tmp_path, pages, "--workers", "2", "--store", address)
    assert done.returncode == 1
    assert "refuses the password" in done.stderr
    assert "wrongword" not in done.stderr + done.stdout


# -- what cannot be, and what goes wrong ----------------------------------------------------------


def test_a_run_in_memory_cannot_be_shared(tmp_path: Path) -> None:
    written(tmp_path)
    done = run(tmp_path, "http://127.0.0.1:9/", "--store", "memory:", "--workers", "2")
    assert done.returncode == 2
    assert "several workers cannot share memory:" in done.stderr


def test_faults_of_workers_and_their_supervisor_change_nothing(tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    reports = check(6, 3, seed, tmp_path, pages=600)
    assert [line for report in reports for line in report.wrong] == [], f"seed {seed}"

"""Damage the files of runs, start them again, and see that nobody is told anything wrong.

``python -m tests.faults.damage --times 500`` takes runs that were killed in the middle, such that
were killed while their log was merged, and one that was finished; cuts their files short, flips
bits in them or blanks a sector; and starts them again. Then either the crawl goes on and ends with
exactly the items of an undisturbed one, or the start says in one line which file is damaged and
what to do, has put it aside, and says so again at the next start. Nothing else will do: no
traceback, no wrong item, no silent start from zero. Half of the runs are also read before they are
started, which may be refused in one line and does no harm.

The crawls run in this process, but for some that go through the command line, as a user's do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import crawlkit.stores.database
from crawlkit import Crawler, CrawlkitError, Page, Request, Response, Session, open_run
from crawlkit.errors import StoreDamagedError
from crawlkit.fetching import Fetcher
from crawlkit.run import OutcomeName, Run
from crawlkit.stores.pages import Contents, PageChecksums, WriteAheadLog

ROOT = Path(__file__).parents[2]
TARGET = "tests.faults.damage:Made"
OUTCOMES: tuple[OutcomeName, ...] = ("handled", "failed", "skipped", "pending", "in_flight")
PAGES = 400
LINKS = 6
COMMAND_LINE_EVERY = 25
"""One in so many damaged runs is started through the command line."""


class MadeUp(Fetcher):
    """Pages that follow from their numbers, without a network.

    Args:
        delay: Seconds that each takes.
    """

    def __init__(self, delay: float) -> None:
        self._delay = delay

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def fetch(self, request: Request, session: Session, **how: Any) -> Response:
        if self._delay:
            await asyncio.sleep(self._delay)
        number = int(request.url.rpartition("/")[2] or 0)
        links = "".join(
            f'<a href="/{(number * LINKS + link) % PAGES}">{link}</a>'
            for link in range(1, LINKS + 1)
        )
        body = f"<h1>Page {number}</h1><p>{'word ' * 20}</p>{links}"
        return Response(url=request.url, body=body.encode(), headers={"Content-Type": "text/html"})


class Made(Crawler):
    """The crawl whose files are damaged."""

    start_urls = ["https://made.example/0"]
    concurrency = 8
    concurrency_per_host = 8
    persist_interval = 0.05
    timeout = 60.0
    obey_robots = False

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        # The lives that are going to be killed have to last until then.
        self.fetcher = MadeUp(0.03 if self.timeout < 60 else 0.0)

    async def parse(self, page: Page) -> None:
        number = int(page.url.rpartition("/")[2])
        page.save({"number": number, "title": page.css("h1::text").get()})
        page.follow("a")
        page.update_state(lambda state: state.update(pages=state.get("pages", 0) + 1))
        await self.set_value(f"page {number % 5}", {"last": number})


EXPECTED = sorted((number, f"Page {number}") for number in range(PAGES))


# -- runs to damage -------------------------------------------------------------------------------


def command(run: Path, *options: str) -> list[str]:
    """What starts the crawl through the command line."""
    output = ("--output", str(run / "items.jsonl"))
    words = [sys.executable, "-m", "crawlkit", "run", TARGET, "--store", str(run), *output]
    return [*words, "--no-progress", *options]


def make_runs(directory: Path, chance: Random) -> list[Path]:
    """Some runs that were killed in the middle of it, and one that was finished."""
    runs = killed_in_a_merge(directory)
    for number, seconds in enumerate((0.25, 0.6, 1.0)):
        run = directory / f"killed-{number}"
        crawl = subprocess.Popen(
            command(run, "--set", "timeout=59"), cwd=ROOT, stdout=subprocess.DEVNULL
        )
        output = run / "items.jsonl"
        while not (output.exists() and output.stat().st_size):
            time.sleep(0.005)
        time.sleep(seconds * chance.uniform(0.7, 1.0))
        crawl.send_signal(signal.SIGKILL)
        crawl.wait()
        runs.append(run)
    finished = directory / "finished"
    subprocess.run(command(finished), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return [*runs, finished]


def killed_in_a_merge(directory: Path) -> list[Path]:
    """Runs as they are when their process is killed in a merge of the log.

    The files are copied when all pages are merged and their checksums are not yet noted; in a
    second copy, half of the pages are not merged either.
    """
    crawl = directory / "merging"
    merges: list[tuple[Path, bytes]] = []
    database = crawl / "run.sqlite3"
    before = b""
    read, update = WriteAheadLog.read, PageChecksums.update

    def remember(self: WriteAheadLog, size: int) -> Contents:
        nonlocal before
        before = database.read_bytes()
        return read(self, size)

    def copy(self: PageChecksums, sums: Mapping[int, int]) -> None:
        if merges or database.stat().st_size > 80_000:
            run = directory / f"merge-{len(merges)}"
            shutil.copytree(crawl, run, ignore=shutil.ignore_patterns("*-shm"))
            merges.append((run, before))
        update(self, sums)

    with (
        mock.patch.object(WriteAheadLog, "read", remember),
        mock.patch.object(PageChecksums, "update", copy),
        mock.patch.object(crawlkit.stores.database, "MERGE_LOG_AT", 150_000),
    ):
        Made(store=crawl, output=crawl / "items.jsonl", persist_interval=0.01).run()
    (whole, _), (half, old) = merges[:2]
    new = (half / "run.sqlite3").read_bytes()
    middle = len(new) // 8192 * 4096
    (half / "run.sqlite3").write_bytes(new[:middle] + old[middle:])
    for run in (whole, half):
        items = (run / "items.jsonl").read_bytes()
        (run / "items.jsonl").write_bytes(items + b'{"torn')
    return [whole, half]


# -- damage ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Damage:
    """What is done to one file of a run."""

    run: str
    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.run}: {self.file} {self.what}"


def damage(run: Path, chance: Random) -> Damage:
    """Cut one of the run's files short, or flip some of its bits."""
    files = sorted(path for path in run.iterdir() if path.stat().st_size)
    # The database and its log hold the run; the others are few bytes.
    weights = [8 if path.name in ("run.sqlite3", "run.sqlite3-wal") else 2 for path in files]
    (file,) = chance.choices(files, weights)
    data = bytearray(file.read_bytes())
    if chance.random() < 0.35:
        size = chance.choice((0, chance.randrange(len(data)), len(data) // 4096 * 2048))
        file.write_bytes(data[:size])
        return Damage(run.name, file.name, f"cut from {len(data)} to {size} bytes")
    if chance.random() < 0.1:
        start = chance.randrange(len(data)) // 512 * 512
        data[start : start + 512] = bytes(len(data[start : start + 512]))
        file.write_bytes(data)
        return Damage(run.name, file.name, f"is blank from {start} on")
    places = [chance.randrange(len(data)) for _ in range(chance.choice((1, 1, 2, 16)))]
    if chance.random() < 0.3:
        places = [place % min(len(data), 128) for place in places]  # headers
    for place in places:
        data[place] ^= 1 << chance.randrange(8)
    file.write_bytes(data)
    return Damage(run.name, file.name, f"has flipped bits at {sorted(places)[:4]}")


# -- starting again -------------------------------------------------------------------------------


def outcome(run: Path, *, through_command_line: bool) -> tuple[str, list[str]]:
    """What came of starting a damaged run: in a word, and everything that is wrong with that."""
    start = start_by_command if through_command_line else start_here
    refusal = start(run)
    if refusal is None:
        return "resumed", wrong_items(run)
    wrong = wrong_refusal(run, refusal)
    again = start(run)
    if again is None:
        wrong += wrong_items(run) and ["the next start went on as if nothing had been"]
    else:
        wrong += wrong_refusal(run, again)
    return "refused", wrong


def wrong_reading(run: Path) -> list[str]:
    """What is wrong with how reading a damaged run goes, whatever it brings."""
    readings: dict[str, Callable[[Run], object]] = {
        "statistics": lambda opened: opened.statistics.to_dict(),
        "items": lambda opened: list(opened.items()),
        "state": lambda opened: (opened.state, opened.values()),
        "errors": lambda opened: opened.errors(),
        "requests": lambda opened: [list(opened.requests(name)) for name in OUTCOMES],
        "check": lambda opened: list(opened.check()),
    }
    wrong = []
    for what, read in readings.items():
        try:
            with open_run(run) as opened:
                read(opened)
        except CrawlkitError as error:
            if "\n" in str(error):
                wrong.append(f"reading its {what}: more than a line: {error}")
        except Exception as error:
            wrong.append(f"reading its {what}: {type(error).__name__}: {error}")
    return wrong


def start_here(run: Path) -> str | None:
    """The line that the crawl ends with, or None where it finished."""
    try:
        Made(store=run, output=run / "items.jsonl", store_patience=0.2).run()
    except StoreDamagedError as error:
        return str(error)
    except CrawlkitError as error:
        return f"{type(error).__name__}: {error}"
    return None


def start_by_command(run: Path) -> str | None:
    """The same through the command line."""
    done = subprocess.run(
        command(run, "--log-level", "error"), cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode == 0:
        return None
    lines = [line for line in done.stderr.splitlines() if line.startswith("crawlkit: ")]
    if len(lines) != 1 or "Traceback" in done.stderr:
        return f"not one line but: {done.stderr}"
    return lines[0].removeprefix("crawlkit: ")


def wrong_items(run: Path) -> list[str]:
    """How what a finished run holds differs from what it should."""
    wrong = []
    with open_run(run) as opened:
        found = sorted((item["number"], item["title"]) for item in opened.items())
        if found != EXPECTED:
            wrong.append(f"{len(found)} items in place of {len(EXPECTED)}, or others")
        if opened.statistics.requests_finished != PAGES or opened.state != {"pages": PAGES}:
            wrong.append(f"{opened.statistics.requests_finished} finished, state {opened.state}")
        wrong += opened.check()
    lines = [json.loads(line) for line in (run / "items.jsonl").read_bytes().splitlines()]
    if sorted((item["number"], item["title"]) for item in lines) != EXPECTED:
        wrong.append(f"{len(lines)} items in the output file, or others")
    return wrong


def wrong_refusal(run: Path, line: str) -> list[str]:
    """What is missing from the line that refuses a damaged run."""
    wrong = []
    if "\n" in line:
        wrong.append(f"more than a line: {line}")
    if "run.sqlite3" not in line or not ("--fresh" in line or "start again" in line):
        wrong.append(f"it does not say which file, or what to do: {line}")
    is_aside = any(".damaged-" in path.name for path in run.iterdir())
    if not (is_aside or "start again" in line):
        wrong.append(f"nothing was put aside: {line}")
    return wrong


# -- the whole ------------------------------------------------------------------------------------


def check(times: int, seed: int, directory: Path) -> int:
    """Damage so many runs; how many came to a wrong end."""
    chance = Random(seed)
    runs = make_runs(directory / "runs", chance)
    counts: Counter[tuple[str, str]] = Counter()
    failures = 0
    for number in range(times):
        template = chance.choice(runs)
        run = directory / "damaged" / template.name
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(template, run)
        done = damage(run, chance)
        unreadable = wrong_reading(run) if number % 2 else []
        try:
            word, wrong = outcome(
                run, through_command_line=number % COMMAND_LINE_EVERY == COMMAND_LINE_EVERY - 1
            )
        except Exception as error:
            logging.getLogger(__name__).debug("traceback", exc_info=True)
            word, wrong = "crashed", [f"{type(error).__name__}: {error}"]
        wrong += unreadable
        counts[done.file, word] += 1
        if wrong:
            failures += 1
            print(f"{number}: {done}: {word}, but {'; '.join(wrong)}", flush=True)
    for (file, word), count in sorted(counts.items()):
        print(f"{file:20} {word:8} {count:4}")
    print(f"{times} damaged runs, {failures} wrong")
    return failures


def main(arguments: Sequence[str] | None = None) -> int:
    """Check so often; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.damage", description=__doc__)
    parser.add_argument("--times", type=int, default=500)
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args(arguments)
    seed = given.seed if given.seed is not None else int(time.time()) % 100_000
    # What is lost and told in the log is told; here only the outcome counts.
    logging.disable(logging.CRITICAL)
    print(f"seed {seed}")
    with tempfile.TemporaryDirectory(prefix="crawlkit-damage-") as directory:
        return int(check(given.times, seed, Path(directory)) > 0)


if __name__ == "__main__":
    sys.exit(main())

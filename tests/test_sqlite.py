"""A run in a directory: merging its log, and places that cannot be written.

What every store promises is in `test_stores.py`; here is what SQLite's files make necessary.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from crawlkit.errors import StoreError, StoreVersionError, StoreWriteError
from crawlkit.stores import database, open_reader, schema
from crawlkit.stores.directory import RunDirectory
from crawlkit.stores.pages import PAGE, PageChecksums
from crawlkit.stores.sqlite import SqliteStore

from .backends import A, claim, commit, content, item, pending
from .killed import copied, filled, flip, names, only_to_be_read, opened, refused

FRAME = 24 + PAGE


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


# -- merging the log ------------------------------------------------------------------------------


async def test_a_run_that_was_closed_consists_of_the_database_alone(run: Path) -> None:
    states = await filled(run)
    await opened(run)
    assert names(run) == {"run.sqlite3", "run.sqlite3-sums", "run.lock"}
    assert await opened(run) == states[-1]


async def test_the_log_is_merged_when_it_is_long_and_then_begun_anew(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "MERGE_LOG_AT", 300_000)
    store = SqliteStore(str(run))
    await store.open()
    sizes = []
    for _ in range(60):
        await commit(store, items=[item(n) for n in range(200)], add={"items_saved": 200})
        sizes.append(store.directory.log.size())
    assert max(sizes) < 400_000
    assert sum(later < earlier for earlier, later in pairwise(sizes)) > 2
    assert store.directory.database.stat().st_size > 300_000
    await store.close()
    assert len((await opened(run))["items"]) == 60 * 200


async def test_a_reader_that_takes_its_time_holds_up_neither_commits_nor_merges(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "MERGE_LOG_AT", 100_000)
    store = SqliteStore(str(run))
    await store.open()
    await commit(store, items=[item(n) for n in range(300)], add={"items_saved": 300})
    reader = open_reader(str(run))
    stream = reader.items()
    next(stream)
    for _ in range(20):
        await commit(store, items=[item(n) for n in range(300)], add={"items_saved": 300})
    assert len(list(stream)) == 299
    copied(store, run.with_name("killed"))
    assert len((await opened(run.with_name("killed")))["items"]) == 21 * 300
    reader.close()
    for _ in range(6):
        await commit(store, items=[item(n) for n in range(300)], add={"items_saved": 300})
    assert store.directory.log.size() < 300_000
    await store.close()
    assert len((await opened(run))["items"]) == 27 * 300


async def test_a_log_that_another_program_has_merged_is_no_damage(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    states = await filled(run)
    shell = sqlite3.connect(run / "run.sqlite3")
    assert shell.execute("SELECT count(*) FROM items").fetchone() == (12 * 20,)
    shell.close()
    assert not (run / "run.sqlite3-wal").exists()
    assert await opened(run) == states[-1]
    assert await opened(run) == states[-1]
    assert not caplog.records


async def merging(run: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Any], bytes, bytes]:
    """A run whose process died in a merge: its states, the database before and after the merge."""
    states = await filled(run)
    before = (run / "run.sqlite3").read_bytes()
    update = PageChecksums.update

    def die(*_: object) -> None:
        copied(store, run.with_name("killed"))
        raise OSError("dead")

    monkeypatch.setattr(PageChecksums, "update", die)
    store = SqliteStore(str(run))
    await store.open()
    await store.close()
    monkeypatch.setattr(PageChecksums, "update", update)
    shutil.rmtree(run)
    run.with_name("killed").rename(run)
    return states, before, (run / "run.sqlite3").read_bytes()


def halves(before: bytes, after: bytes) -> Iterator[bytes]:
    """The database at moments of its merge, which goes from page to page."""
    for place in range(0, len(after) + 1, 5 * PAGE):
        yield after[:place] + before[place:]


async def test_a_process_may_be_killed_anywhere_in_a_merge(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states, before, after = await merging(run, monkeypatch)
    for half in halves(before, after):
        again = run.with_name("again")
        shutil.copytree(run, again)
        (again / "run.sqlite3").write_bytes(half)
        assert await opened(again) == states[-1]
        shutil.rmtree(again)


async def test_half_a_merge_without_its_log_is_never_taken_for_a_run(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite would go on with pages of different checkpoints, and say nothing."""
    _, before, after = await merging(run, monkeypatch)
    size = (run / "run.sqlite3-wal").stat().st_size
    damages: list[Callable[[Path], None]] = [
        lambda path: path.unlink(),
        *(lambda path, n=n: os.truncate(path, n) for n in (0, 31, 32, size // 2, size - 1)),
        *(lambda path, n=n: flip(path, n) for n in (0, 18, 40, 32 + 3 * FRAME, size - 9)),
    ]
    for number, half in enumerate(halves(before, after)):
        again = run.with_name("again")
        shutil.copytree(run, again)
        (again / "run.sqlite3").write_bytes(half)
        damages[number % len(damages)](again / "run.sqlite3-wal")
        await refused(again, "is damaged .*run.sqlite3-wal is not what was being merged")
        shutil.rmtree(again)


async def test_a_merge_that_fails_is_finished_before_anything_else_is_written(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(database, "MERGE_LOG_AT", 50_000)
    store = SqliteStore(str(run))
    await store.open()
    with monkeypatch.context() as broken:

        def fail(*_: object) -> None:
            raise OSError(5, "Input/output error")

        broken.setattr(PageChecksums, "update", fail)
        while not caplog.records:
            await commit(store, items=[item(1)] * 100, add={"items_saved": 100})
        assert "nothing is lost" in caplog.text
        before = content(store)
        with pytest.raises(StoreWriteError, match="Input/output error; free or mend the disk"):
            await commit(store, items=[item(2)])
        assert content(store) == before
        copied(store, run.with_name("killed"))
    await commit(store, items=[item(2)], add={"items_saved": 1})
    await store.close()
    assert len((await opened(run))["items"]) == len(before["items"]) + 1
    assert await opened(run.with_name("killed")) == before


# -- places and versions --------------------------------------------------------------------------


async def test_a_run_is_for_its_owner_only(run: Path) -> None:
    await opened(run)
    assert stat.S_IMODE(os.stat(run).st_mode) == 0o700


async def test_a_file_where_the_directory_should_be_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("precious")
    for path in (tmp_path / "run", tmp_path / "run" / "inside"):
        with pytest.raises(StoreError, match="it is a file, not a directory; choose another"):
            await SqliteStore(str(path)).open()
    assert (tmp_path / "run").read_text() == "precious"


async def test_a_run_of_a_newer_version_is_refused_and_left_as_it_is(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(schema, "VERSION", schema.VERSION + 1)
        await opened(run)
    before = (run / "run.sqlite3").read_bytes()
    for _ in range(2):
        with pytest.raises(StoreVersionError, match=r"newer crawlkit .*; upgrade crawlkit, or"):
            await SqliteStore(str(run)).open()
    assert (run / "run.sqlite3").read_bytes() == before


async def test_a_run_that_is_moved_away_under_its_crawl_is_not_written_into_nothing(
    run: Path,
) -> None:
    store = SqliteStore(str(run))
    await store.open()
    await commit(store, items=[item(1)], add={"items_saved": 1})
    os.rename(run, run.with_name("moved"))
    with pytest.raises(StoreWriteError, match="it was moved or removed"):
        await commit(store, items=[item(2)])
    run.with_name("moved").rename(run)
    await commit(store, items=[item(2)], add={"items_saved": 1})
    await store.close()
    assert len((await opened(run))["items"]) == 2


async def test_a_run_whose_process_goes_to_another_directory_stays_where_it_is_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    store = SqliteStore("run")
    await store.open()
    await commit(store, items=[item(1)], add={"items_saved": 1})
    monkeypatch.chdir("elsewhere")
    await commit(store, items=[item(2)], add={"items_saved": 1})
    with closing(store.reader()) as reader:
        assert len(list(reader.items())) == 2
    await store.close()
    assert len((await opened(tmp_path / "run"))["items"]) == 2
    assert names(tmp_path / "elsewhere") == set()


async def test_a_run_that_is_closed_where_it_no_longer_is_does_not_claim_that_its_log_is_merged(
    run: Path,
) -> None:
    store = SqliteStore(str(run))
    await store.open()
    await commit(store, items=[item(1)], add={"items_saved": 1})
    os.rename(run, moved := run.with_name("moved"))
    await store.close()
    record = RunDirectory(moved).noted()
    assert record is not None
    assert (record.commits, record.merged) == (1, 0)
    assert len((await opened(moved))["items"]) == 1


def crawlkit(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command line; as root without the right to ignore permissions."""
    held_back = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    return subprocess.run(
        [*(held_back if os.geteuid() == 0 else []), sys.executable, "-m", "crawlkit", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


TARGET = """
from crawlkit import Crawler

class Shop(Crawler):
    start_urls = ["http://127.0.0.1:9/"]
    max_retries = 0
"""


@pytest.mark.needs("setpriv")
@pytest.mark.parametrize(
    ("mode", "verb", "says"),
    [
        (0o000, "run", r"cannot write the run in run: Permission denied; see who may write it, or"),
        (0o555, "run", r"cannot write the run in run: Permission denied; see who may write it, or"),
        (0o000, "stats", r"cannot read the run in run: Permission denied; see who"),
    ],
)
def test_a_directory_that_may_not_be_used_gets_one_line(
    tmp_path: Path, mode: int, verb: str, says: str
) -> None:
    (tmp_path / "shop.py").write_text(TARGET)
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(mode)
    words = ["shop.py", "--store", "run", "--no-progress"] if verb == "run" else ["run"]
    ended = crawlkit(verb, *words, cwd=tmp_path)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert re.match(f"crawlkit: .*{says}", line), line


@pytest.mark.needs("setpriv")
def test_a_run_in_a_place_that_can_only_be_read_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(TARGET)
    run = tmp_path / "run"
    ended = crawlkit("run", "shop.py", "--store", "run", "--no-progress", cwd=tmp_path)
    assert ended.returncode == 0, ended
    for path in run.iterdir():
        path.chmod(0o444)
    run.chmod(0o555)
    for verb in ("check", "stats"):
        ended = crawlkit(verb, "run", cwd=tmp_path)
        assert (ended.returncode, ended.stderr) == (0, "")
    run.chmod(0o755)


@pytest.mark.needs("setpriv")
def test_a_run_that_may_not_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(TARGET)
    crawlkit("run", "shop.py", "--store", "run", "--no-progress", cwd=tmp_path)
    (tmp_path / "run" / "run.sqlite3").chmod(0)
    ended = crawlkit("stats", "run", cwd=tmp_path)
    told = (
        "crawlkit: cannot read the run in run: Permission denied; see who may read it, or copy it"
    )
    assert (ended.returncode, ended.stderr) == (1, f"{told}\n")
    ended = crawlkit("run", "shop.py", "--store", "run", "--no-progress", cwd=tmp_path)
    assert ended.returncode == 1
    assert "Permission denied" in ended.stderr
    assert not list((tmp_path / "run").glob("*damaged*"))


@pytest.mark.needs("setpriv")
async def test_a_killed_run_in_a_place_that_can_only_be_read_says_what_to_do(
    run: Path, tmp_path: Path
) -> None:
    await filled(run)
    only_to_be_read(run)
    ended = crawlkit("stats", "run", cwd=tmp_path)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert "its log can be read only where something can be written; copy it" in line


# -- claims ---------------------------------------------------------------------------------------


async def test_a_claim_that_fails_half_way_has_taken_nothing(run: Path) -> None:
    store = SqliteStore(str(run))
    await store.open()
    await commit(store, fresh=[pending(f"{A}/1"), pending(f"{A}/2", due=1.0)])
    await store.do(store._db.execute, "ALTER TABLE recent_queued RENAME TO elsewhere")
    with pytest.raises(StoreError):
        await claim(store)  # what has waited is found, and then nothing more can be read
    await store.do(store._db.execute, "ALTER TABLE elsewhere RENAME TO recent_queued")
    assert len((await claim(store)).leases) == 2
    await store.close()

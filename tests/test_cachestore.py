"""The page cache on disk: bytes only, never a wrong one, and nothing that ends a crawl."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from crawlkit.caching import disk as cachedisk
from crawlkit.caching.disk import BytesCache, BytesDisk, Row
from crawlkit.caching.folder import clear, measure, open_cache
from crawlkit.caching.known import LOOK_EVERY
from crawlkit.caching.store import CacheStore
from crawlkit.clock import Clock
from crawlkit.errors import StoreError

LIMIT = 2**30
KEY = b"p" + bytes(15)


class Bomb:
    """What unpickles it makes a file."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> Any:
        return (Path.touch, (self.flag,))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def cache(directory: Path) -> Iterator[BytesCache]:
    opened, told = open_cache(directory, LIMIT)
    assert told == ""
    yield opened
    opened.close()


def edit(directory: Path, *statements: tuple[str, tuple[Any, ...]]) -> None:
    """Change the database as somebody who can write the directory would."""
    connection = sqlite3.connect(directory / "cache.db")
    for statement, values in statements:
        connection.execute(statement, values)
    connection.commit()
    connection.close()


def value_of(cache: BytesCache, key: bytes) -> bytes | None:
    found = cache.look_up(cache.connection(), key)
    return found and (found.value or cache.read_whole(key))


async def opened(directory: Path, **options: Any) -> CacheStore:
    store = CacheStore(directory, **{"size_limit": LIMIT, "clock": Clock(), **options})
    await store.open()
    return store


async def stored(store: CacheStore, key: bytes) -> bytes | None:
    found = store.look_up(key)
    return found and (found.value or await store.read_whole(key))


# -- nothing that is found is executed or opened ------------------------------------------------


@pytest.fixture(params=["pickle", "pickle in a file", "text", "text file", "binary file", "number"])
def tampered(request: pytest.FixtureRequest, tmp_path: Path, directory: Path) -> Path:
    """A cache with a row that was changed; returns the flag that is not to appear."""
    made, _ = open_cache(directory, LIMIT)
    made.write([Row(KEY, b"value")], 1.0)
    made.close()
    flag, outside = tmp_path / "executed", tmp_path / "outside"
    bomb = pickle.dumps(Bomb(flag))
    outside.write_bytes(bomb)
    (directory / "inside.val").write_bytes(bomb)
    columns = {
        "pickle": (4, None, bomb),
        "pickle in a file": (4, "inside.val", None),
        "text": (1, None, "value"),
        "text file": (3, "../outside", None),
        "binary file": (2, str(outside), None),
        "number": (1, None, 7),
    }[request.param]
    edit(directory, ("UPDATE Cache SET mode = ?, filename = ?, value = ?", columns))
    return flag


def test_a_row_that_was_changed_is_not_there_and_is_not_executed(
    tampered: Path, directory: Path
) -> None:
    cache, _ = open_cache(directory, LIMIT)
    assert value_of(cache, KEY) is None
    assert cache.read_whole(KEY) is None
    # What diskcache itself would do with it:
    assert cache.get(KEY) is None
    assert list(cache) == [KEY]
    assert list(cache.iterkeys()) == [KEY]
    assert cache.pop(KEY) is None
    cache.close()
    assert not tampered.exists()


@pytest.mark.parametrize("how", ["evict", "cull", "expire", "check", "clear", "delete", "replace"])
def test_no_file_is_removed_because_a_row_names_it(
    tampered: Path, directory: Path, tmp_path: Path, how: str
) -> None:
    edit(directory, ("UPDATE Cache SET expire_time = 1", ()))
    cache, _ = open_cache(directory, LIMIT)
    if how == "evict":
        cache.evict(0)
    elif how == "cull":
        cache.reset("size_limit", 0)
        cache.cull()
    elif how == "expire":
        cache.expire()
    elif how == "check":
        with pytest.raises(TypeError):
            cache.check(fix=True)
    elif how == "clear":
        cache.clear()
    elif how == "delete":
        cache.delete_prefix(b"p")
    else:
        cache.write([Row(KEY, b"new")], 2.0)
        assert value_of(cache, KEY) == b"new"
    cache.close()
    assert (tmp_path / "outside").exists()
    assert (directory / "inside.val").exists()
    assert not tampered.exists()


def test_a_key_that_is_pickled_is_not_executed(directory: Path, tmp_path: Path) -> None:
    open_cache(directory, LIMIT)[0].close()
    bomb = pickle.dumps(Bomb(tmp_path / "executed"))
    edit(
        directory,
        ("INSERT INTO Cache (key, raw, mode, value) VALUES (?, 0, 1, ?)", (bomb, b"x")),
        ("INSERT INTO Cache (key, raw, mode, value) VALUES ('text', 1, 1, ?)", (b"x",)),
        ("INSERT INTO Cache (key, raw, mode, value) VALUES (7, 1, 1, ?)", (b"x",)),
    )
    cache, _ = open_cache(directory, LIMIT)
    assert list(cache) == [b"", b"", b""]
    assert list(cache.iterkeys()) == [b"", b"", b""]
    assert cache.kinds() == {}
    assert cache.peekitem() == (b"", b"x")
    cache.close()
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("disk_directory", "/tmp"),
        ("disk__directory", "/tmp"),
        ("disk_pickle_protocol", "x"),
        ("_directory", "/tmp"),
        ("_disk", "x"),
        ("reset", "x"),
        ("volume", 1),
        ("eviction_policy", "x"),
        ("size_limit", 0),
        ("size", "a lot"),
        ("count", b"\x80\x04."),
        ("sqlite_temp_store_directory", "'/tmp'"),
        ("sqlite_journal_mode", "off; ATTACH '/tmp/x' AS x"),
        ("sqlite_writable_schema", 1),
        (7, 7),
    ],
)
def test_settings_in_the_database_are_not_believed(directory: Path, key: Any, value: Any) -> None:
    open_cache(directory, LIMIT)[0].close()
    edit(directory, ("INSERT OR REPLACE INTO Settings VALUES (?, ?)", (key, value)))
    cache, told = open_cache(directory, LIMIT)
    assert (told, cache.directory) == ("", str(directory))
    assert (cache.size_limit, cache.eviction_policy) == (LIMIT, "least-recently-used")
    cache.write([Row(KEY, b"value")], 1.0)
    assert value_of(cache, KEY) == b"value"
    assert (key, value) not in cache.execute("SELECT key, value FROM Settings").fetchall()
    cache.close()


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER evil AFTER INSERT ON Cache BEGIN UPDATE Cache SET value = x'00'; END",
        "CREATE VIEW evil AS SELECT 1",
        "CREATE TABLE evil (a)",
        "ALTER TABLE Cache ADD COLUMN evil",
        "CREATE INDEX evil ON Cache (size)",
        "DROP TRIGGER Settings_size_insert; CREATE TRIGGER Settings_size_insert AFTER INSERT ON"
        " Cache BEGIN DELETE FROM Settings; END",
    ],
)
def test_a_database_whose_tables_were_changed_is_put_aside(directory: Path, statement: str) -> None:
    made, _ = open_cache(directory, LIMIT)
    made.write([Row(KEY, b"value")], 1.0)
    made.close()
    connection = sqlite3.connect(directory / "cache.db")
    connection.executescript(statement)
    connection.close()
    with pytest.raises(StoreError, match="changed"):
        measure(directory)
    cache, told = open_cache(directory, LIMIT)
    assert "changed" in told
    assert value_of(cache, KEY) is None
    cache.close()
    assert (directory / "cache.db.damaged").exists()


@pytest.mark.parametrize("name", ["cache.db", "cache.db-wal", "cache.db-shm", "cache.lock"])
def test_a_link_that_leads_out_of_the_directory_is_not_followed(
    directory: Path, tmp_path: Path, name: str
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"")
    directory.mkdir()
    (directory / name).symlink_to(outside)
    with pytest.raises(StoreError):
        open_cache(directory, LIMIT)
    assert outside.read_bytes() == b""


def test_only_bytes_are_taken() -> None:
    disk = BytesDisk("/nonexistent")
    for key in ("text", 1, ("a",), None):
        with pytest.raises(TypeError):
            disk.put(key)
    for value in ("text", 1, {"a": 1}, None):
        with pytest.raises(TypeError):
            disk.store(value, read=False)
    with pytest.raises(TypeError):
        disk.filename()


def test_the_database_of_another_program_is_refused_and_left_alone(directory: Path) -> None:
    directory.mkdir()
    edit(directory, ("CREATE TABLE mine (a)", ()), ("INSERT INTO mine VALUES (1)", ()))
    before = (directory / "cache.db").read_bytes()
    for action in (measure, clear, lambda path: open_cache(path, LIMIT)):
        with pytest.raises(StoreError, match="another program"):
            action(directory)
    assert (directory / "cache.db").read_bytes() == before


def test_the_directory_and_the_database_are_for_their_owner_only(directory: Path) -> None:
    before = os.umask(0)
    try:
        open_cache(directory, LIMIT)[0].close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "cache.db").stat().st_mode) == 0o600


# -- damage -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
async def test_a_damaged_database_gives_no_wrong_value_and_works_again(
    directory: Path, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    store = await opened(directory)
    values = {b"p%015d" % n: os.urandom(3000) for n in range(50)}
    for key, value in values.items():
        await store.write(key, partial(bytes, value), None)
    await store.close()
    chance = random.Random(seed)
    database = directory / "cache.db"
    data = bytearray(database.read_bytes())
    if seed % 3 == 0:
        del data[chance.randrange(len(data)) :]
    else:
        for _ in range(40):
            at = chance.randrange(len(data))
            data[at : at + 16] = chance.randbytes(16)
    database.write_bytes(bytes(data))
    store = await opened(directory)
    for key, value in values.items():
        found = await stored(store, key)
        # Below the entries' own checksums a value may be damaged, but it has its length.
        assert found is None or len(found) == len(value)
    for number in range(3):
        await store.write(b"p-new%d" % number, lambda: b"new", None)
    kept = await store.write(b"p-last", lambda: b"last", None)
    assert not store.is_writable or not kept or await stored(store, b"p-last") == b"last"
    await store.close()


async def test_damage_that_is_met_in_a_crawl_is_put_aside_with_one_warning(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = await opened(directory)
    for number in range(200):
        await store.write(b"p%015d" % number, lambda: os.urandom(3000), None)
    await store.close()
    data = bytearray((directory / "cache.db").read_bytes())
    data[8192:] = bytes(len(data) - 8192)
    (directory / "cache.db").write_bytes(data)
    with caplog.at_level(logging.WARNING):
        store = await opened(directory)
        for number in range(200):
            store.look_up(b"p%015d" % number)
            await store.write(b"q%015d" % number, lambda: b"new", None)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "damaged" in caplog.text
    assert await store.write(KEY, lambda: b"value", None)
    assert await stored(store, KEY) == b"value"
    await store.close()


# -- what is surely not there -----------------------------------------------------------------


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The keys that were looked for in a database."""
    made: list[bytes] = []

    def look_up(connection: sqlite3.Connection, key: bytes) -> Any:
        made.append(key)
        return known(connection, key)

    known = BytesCache.look_up
    monkeypatch.setattr(BytesCache, "look_up", staticmethod(look_up))
    return made


async def all_known(store: CacheStore) -> None:
    async with asyncio.timeout(30):
        while store._known.is_wanting:  # noqa: ASYNC110 - nobody waits for it but tests
            await asyncio.sleep(0.001)


async def test_what_was_never_stored_is_not_looked_for(directory: Path, looks: list[bytes]) -> None:
    keys = [b"p%015d" % number for number in range(5000)]
    store = await opened(directory)
    await all_known(store)
    assert store.look_up(KEY) is None
    assert looks == []
    await asyncio.gather(*(store.write(key, lambda: b"value", None) for key in keys))
    assert all([await stored(store, key) == b"value" for key in keys])
    await store.close()
    store = await opened(directory)
    await all_known(store)
    assert all([await stored(store, key) == b"value" for key in keys]), "of an earlier life"
    looks.clear()
    others = [b"q%015d" % number for number in range(1000)]
    assert [store.look_up(key) for key in others] == [None] * len(others)
    assert len(looks) < 50, "some share a slot with one that is there"
    await store.close()


async def test_what_another_process_stores_is_found(directory: Path, looks: list[bytes]) -> None:
    first = await opened(directory)
    await all_known(first)
    second = await opened(directory)
    assert await second.write(KEY, lambda: b"value", None)
    await asyncio.sleep(2 * LOOK_EVERY)
    assert await stored(first, KEY) == b"value"
    other = b"p" + bytes(14) + b"x"
    assert await first.write(other, lambda: b"other", None)
    assert await stored(second, other) == b"other"
    await first.close()
    third = b"p" + bytes(14) + b"y"
    assert second.look_up(third) is None
    assert third in looks, "the first was there when the second came, and wrote who knows what"
    await second.close()


async def test_until_all_keys_are_known_each_is_looked_for(
    directory: Path, looks: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened(directory)
    await store.write(KEY, lambda: b"value", None)
    await store.close()
    monkeypatch.setattr(BytesCache, "keys_after", lambda *_: [KEY])
    store = await opened(directory)
    assert store.look_up(b"p-none") is None
    assert looks == [b"p-none"]
    monkeypatch.undo()
    await store.close()


async def test_a_lock_that_cannot_be_had_costs_nothing_but_the_looking(
    directory: Path, looks: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    (directory / "cache.users").mkdir(parents=True)
    store = await opened(directory)
    assert store.look_up(KEY) is None
    assert looks == [KEY]
    assert await store.write(KEY, lambda: b"value", None)
    assert await stored(store, KEY) == b"value"
    await store.close()


# -- writing ----------------------------------------------------------------------------------


async def test_what_was_written_is_on_disk_when_write_returns(directory: Path) -> None:
    store = await opened(directory)
    assert await store.write(KEY, lambda: b"value", None)
    other, _ = open_cache(directory, LIMIT)
    assert value_of(other, KEY) == b"value"
    other.close()
    await store.close()


async def test_what_is_closed_is_whole_without_the_log_that_a_power_cut_may_take(
    directory: Path, tmp_path: Path
) -> None:
    """Also while another process has it open, where SQLite would leave the log as it is."""
    other, _ = open_cache(directory, LIMIT)
    store = await opened(directory)
    keys = [KEY + bytes([number]) for number in range(100)]
    assert all(await asyncio.gather(*(store.write(key, lambda: b"x" * 3000, None) for key in keys)))
    await store.close()
    (tmp_path / "after").mkdir()
    shutil.copy(directory / "cache.db", tmp_path / "after")
    other.close()
    found, told = open_cache(tmp_path / "after", LIMIT)
    assert told == ""
    assert [value_of(found, key) for key in keys] == [b"x" * 3000] * 100
    found.close()


def test_closing_waits_for_the_disk_however_much_of_the_log_was_merged(
    cache: BytesCache, directory: Path
) -> None:
    cache.write([Row(KEY, b"value")], 1.0)
    cache.execute("PRAGMA wal_checkpoint(PASSIVE)")
    before = (directory / "cache.db-wal").read_bytes()
    cache.settle()
    assert (directory / "cache.db-wal").read_bytes() != before
    assert cache.execute("PRAGMA synchronous").fetchone()[0] == 2


async def test_many_writes_share_a_transaction_and_the_last_of_a_key_holds(
    directory: Path,
) -> None:
    store = await opened(directory)
    kept = await asyncio.gather(
        *(
            store.write(b"p%015d" % (n % 200), lambda n=n: b"%d" % n, None)  # type: ignore[misc]
            for n in range(400)
        )
    )
    assert all(kept)
    for number in range(200):
        assert await stored(store, b"p%015d" % number) == b"%d" % (number + 200)
    assert await store.measure() == {b"p": (200, 600)}
    await store.close()
    cache, _ = open_cache(directory, LIMIT)
    assert len(cache) == 200
    assert cache.size == sum(size for _, size in cache.kinds().values())
    cache.close()


async def test_large_values_are_read_whole_without_the_event_loop(directory: Path) -> None:
    store = await opened(directory)
    value = os.urandom(3 * 2**20)
    assert await store.write(KEY, lambda: value, None)
    found = store.look_up(KEY)
    assert found is not None
    assert found.value is None
    assert await store.read_whole(KEY) == value
    await store.close()


async def test_a_value_that_cannot_be_made_is_not_kept_and_the_others_are(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> bytes:
        raise ValueError("no")

    store = await opened(directory)
    writes = [store.write(b"p1", lambda: b"1", None), store.write(b"p2", fail, None)]
    assert await asyncio.gather(*writes) == [True, False]
    assert await stored(store, b"p1") == b"1"
    await store.close()


async def test_the_directory_stays_within_its_limit_and_what_was_used_stays(
    directory: Path,
) -> None:
    time = [1_000_000.0]
    clock = Clock(lambda: time[0], lambda: time[0])
    limit = 2 * 2**20
    store = await opened(directory, size_limit=limit, clock=clock)
    await store.write(KEY, lambda: b"often used", None)
    for number in range(600):
        time[0] += 60
        await store.write(b"p%015d" % number, lambda: os.urandom(8000), None)
        store._evicted_at = 0.0  # the look at the size that is due once a second
        assert store.look_up(KEY) is not None
        store._flush_touched()
    await store.write(b"p-last", lambda: b"", None)
    assert await stored(store, KEY) == b"often used"
    assert store.look_up(b"p%015d" % 0) is None
    assert store.look_up(b"p%015d" % 599) is not None
    await store.close()
    assert (directory / "cache.db").stat().st_size < 1.2 * limit


async def test_several_processes_share_a_directory(directory: Path) -> None:
    first, second = await opened(directory), await opened(directory)
    for number in range(20):
        writer, reader = (first, second) if number % 2 else (second, first)
        assert await writer.write(b"p%d" % number, lambda: b"value", None)
        assert await stored(reader, b"p%d" % number) == b"value"
    await first.clear()
    assert await stored(second, b"p1") is None
    await first.close()
    await second.close()


# -- a disk that fails ------------------------------------------------------------------------


async def test_a_full_disk_turns_writing_off_with_one_warning_and_nobody_waits(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = await opened(directory)
    large = os.urandom(2**20)
    await store.write(KEY, lambda: b"before", None)
    await store.write(b"p-large", lambda: large, None)
    await store._do(lambda cache: cache.execute("PRAGMA max_page_count = 20"))
    with caplog.at_level(logging.WARNING):
        kept = await asyncio.wait_for(
            asyncio.gather(
                *(store.write(b"p%d" % n, lambda: os.urandom(9000), None) for n in range(100))
            ),
            10,
        )
        assert not kept[-1]
        assert not await store.write(b"p-late", lambda: b"", None)
    assert len(caplog.records) == 1
    assert "full" in caplog.text
    assert await stored(store, KEY) == b"before"
    assert await stored(store, b"p-large") == large
    await store.close()


@pytest.mark.parametrize("place", range(6))
async def test_a_write_that_fails_at_any_statement_leaves_nobody_waiting(
    directory: Path, place: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = await opened(directory)
    await store.write(KEY, lambda: b"before", None)
    left = [place]
    execute = BytesCache.execute

    def fail(self: BytesCache, statement: str, values: Any = ()) -> Any:
        if left[0] == 0:
            raise sqlite3.OperationalError("disk I/O error")
        left[0] -= 1
        return execute(self, statement, values)

    monkeypatch.setattr(BytesCache, "execute", fail)
    store._touched = [1]
    with caplog.at_level(logging.WARNING):
        for number in range(10):
            store._flush_touched()
            await asyncio.wait_for(store.write(b"p%d" % number, lambda: b"value", None), 10)
            await asyncio.wait_for(store.delete_prefix(b"x"), 10)
    assert len(caplog.records) == 1
    assert await stored(store, KEY) == b"before"
    await asyncio.wait_for(store.close(), 10)


@pytest.mark.parametrize("prefix", [b"pp", b"p\xff", b"p\xff\xff"])
async def test_what_begins_with_a_prefix_is_removed_and_nothing_else_whatever_its_last_byte(
    directory: Path, prefix: bytes
) -> None:
    store = await opened(directory)
    keys = [prefix, prefix + b"\xff", b"p", b"po\xff", b"q"]
    for key in keys:
        await store.write(key, lambda: b"value", None)
    assert await store.delete_prefix(prefix)
    assert [key for key in keys if await stored(store, key)] == [b"p", b"po\xff", b"q"]
    await store.close()


@pytest.mark.parametrize("obstacle", ["file", "below a file", "read-only"])
async def test_a_directory_that_cannot_be_had_turns_the_cache_off_with_one_warning(
    tmp_path: Path, obstacle: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "cache"
    if obstacle == "file":
        directory.write_text("a file")
    elif obstacle == "below a file":
        directory.write_text("a file")
        directory = directory / "below"
    else:
        directory.mkdir()
        real = os.open

        def refuse(path: Any, flags: int, *more: Any, **others: Any) -> int:
            if str(path).startswith(str(directory)):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path, flags, *more, **others)

        monkeypatch.setattr(os, "open", refuse)
    with caplog.at_level(logging.WARNING):
        store = await opened(directory)
        assert not await store.write(KEY, lambda: b"value", None)
        assert store.look_up(KEY) is None
        await store.close()
    assert len(caplog.records) == 1
    assert "goes on without it" in caplog.text


async def test_a_busy_database_misses_a_page_and_stays_on(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "crawlkit.caching.store.open_cache",
        lambda path, limit: (BytesCache(str(path), limit, 0.05), ""),
    )
    open_cache(directory, LIMIT)[0].close()
    store = await opened(directory)
    other = sqlite3.connect(directory / "cache.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert not await store.write(KEY, lambda: b"value", None)
    other.execute("ROLLBACK")
    other.close()
    assert await store.write(KEY, lambda: b"value", None)
    await store.close()


WRITER = """
import asyncio, os, sys
from crawlkit.caching.store import CacheStore
from crawlkit.clock import Clock

async def main():
    store = CacheStore(sys.argv[1], size_limit=2**30, clock=Clock())
    await store.open()
    async def write(part):
        for n in range(part, 10**6, 16):
            await store.write(b"p%015d" % n, lambda: b"%d " % n * 500, None)
            os.write(1, b"%d\\n" % n)
    await asyncio.gather(*map(write, range(16)))

asyncio.run(main())
"""


@pytest.mark.parametrize("after", [30, 300])
def test_what_was_confirmed_before_kill_9_is_there_and_right(directory: Path, after: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(directory)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    confirmed = [int(process.stdout.readline()) for _ in range(after)]
    process.send_signal(signal.SIGKILL)
    confirmed += map(int, process.stdout.read().decode().split("\n")[:-1])
    process.wait()
    process.stdout.close()
    cache, told = open_cache(directory, LIMIT)
    assert told == ""
    for number in confirmed:
        assert value_of(cache, b"p%015d" % number) == b"%d " % number * 500
    cache.close()


def test_the_schema_is_that_of_the_installed_diskcache() -> None:
    names = {name for _, name, *_ in cachedisk.schema()}
    assert {"Cache", "Settings", "Cache_key_raw", "Cache_access_time"} <= names

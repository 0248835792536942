"""What PostgreSQL adds to the promises of every store: a network between, and other people."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner

from crawlkit import Crawler, Page, open_run
from crawlkit.checkpoint import Checkpoint, Document, Item, Merge
from crawlkit.cli import main
from crawlkit.crawling.allowance import PAGES
from crawlkit.errors import (
    CrawlkitError,
    StoreDamagedError,
    StoreError,
    StoreFencedError,
    StoreLockedError,
    StoreVersionError,
    StoreWriteError,
    UsageError,
)
from crawlkit.portable import import_run
from crawlkit.stores import open_reader, open_store
from crawlkit.stores.base import Allotment, Store
from crawlkit.stores.postgres import link
from crawlkit.stores.postgres.address import masked, parse, with_run
from crawlkit.stores.postgres.connection import SETTINGS, connect
from crawlkit.stores.postgres.store import PostgresStore
from crawlkit.stores.records import CounterRecord, ItemRecord
from crawlkit.testing import Site

from . import postgres
from .backends import (
    NOW,
    A,
    B,
    C,
    claim,
    claim_all,
    commit,
    content,
    done,
    findings,
    item,
    pages,
    pending,
    urls,
)
from .test_portable import exported, fill, whole
from .test_stores_durability import a_bit_of_everything, prepared

pytestmark = pytest.mark.needs("postgresql")

PLAIN = "?sslmode=disable&gssencmode=disable"


@pytest.fixture
def server() -> postgres.Server:
    return postgres.server()


@pytest.fixture
async def run(server: postgres.Server) -> AsyncIterator[Store]:
    store = open_store(server.address(), worker="one")
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def line(server: postgres.Server) -> Iterator[postgres.Line]:
    line = postgres.Line(server.port)
    yield line
    line.close()


async def another(store: Store, name: str = "other", **options: Any) -> Store:
    made = open_store(store.address, worker=name, **options)
    await made.open()
    return made


@contextlib.contextmanager
def under_way(store: Store) -> Iterator[Callable[[str], list[Any]]]:
    """A transaction on the store's run that is open for as long as the block lasts."""
    import psycopg  # it may not be there, and only tests that need a server come here

    server, _, run = store.address.partition("#")
    with psycopg.connect(server) as connection:
        connection.execute(f'SET search_path TO "crawlkit_{run}"')

        def execute(statement: str) -> list[Any]:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

        yield execute


async def somebody_waits(server: postgres.Server, worker: str) -> None:
    """Wait until a worker of that name waits for another transaction."""
    query = (
        "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
        f"AND application_name = 'crawlkit {worker}'"
    )
    async with asyncio.timeout(5):
        while not server.execute(query):  # noqa: ASYNC110 - it is another program that waits
            await asyncio.sleep(0.01)


async def refusal(address: str, **options: Any) -> CrawlkitError:
    """The error of a run that cannot be opened: one line, and no password in it."""
    store = open_store(address)
    with pytest.raises(CrawlkitError) as caught:
        await store.open(**options)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    return caught.value


# -- addresses ------------------------------------------------------------------------------------


def test_a_password_is_never_shown() -> None:
    for address in (
        "postgresql://me:se%23cret@host:5432/db#run",
        "postgresql://me@host/db?password=secret&x=1#run",
        "postgres://me:secret@/db?host=/run",
    ):
        assert "cret" not in masked(address)
        assert masked(address).endswith(address[-3:])
    for address in ("runs/a:b@c", "postgresql://me@host/db", "postgresql:///db"):
        assert masked(address) == address


def test_a_run_is_called_like_its_crawler_unless_the_address_says_otherwise() -> None:
    assert with_run("postgresql://h/db", "book-shop") == "postgresql://h/db#book-shop"
    assert with_run("postgresql://h/db#mine", "book-shop") == "postgresql://h/db#mine"
    assert with_run("runs/shop", "book-shop") == "runs/shop"
    with pytest.raises(UsageError, match="of 1 to 54 bytes"):
        with_run("postgresql://h/db", "x" * 55)


@pytest.mark.parametrize("name", ["ÄÖ ü", 'qu"ote', "a.b/c", "x" * 54, "UPPER"])
async def test_a_run_may_have_any_name(server: postgres.Server, name: str) -> None:
    store = open_store(with_run(server.address("").rstrip("#"), name))
    await store.open()
    await commit(store, items=[item(1)])
    assert findings(store) == ["the counter items_saved says 0, the run holds 1"]
    await store.close()


def test_who_does_not_use_it_pays_nothing_for_it() -> None:
    code = "import sys, crawlkit, crawlkit.cli; sys.exit('psycopg' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_where_psycopg_is_missing_the_error_says_how_to_install_it() -> None:
    code = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from crawlkit.stores import open_store\nopen_store('postgresql://h/d')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'crawlkit[postgres]'" in done.stderr.splitlines()[-1]


# -- what cannot be opened ------------------------------------------------------------------------


async def test_a_server_that_is_not_there(server: postgres.Server) -> None:
    error = await refusal(server.address(port=1))
    assert "cannot connect to postgresql://crawl@127.0.0.1:1/postgres#" in str(error)
    assert "refused" in str(error)
    assert "see that the server runs" in str(error)


async def test_a_wrong_password(server: postgres.Server) -> None:
    if not server.execute("SELECT 1 FROM pg_roles WHERE rolname = 'locked'"):
        server.execute("CREATE ROLE locked LOGIN PASSWORD 'right'")
    error = await refusal(server.address(user="locked:secret"))
    assert "locked:***@127.0.0.1" in str(error)
    assert "refuses the password; put the right one into PGPASSWORD" in str(error)


async def test_no_such_database(server: postgres.Server) -> None:
    error = await refusal(server.address(database="nowhere"))
    assert "there is no such database" in str(error)
    assert "createdb" in str(error)


async def test_no_right_to_create_a_schema(server: postgres.Server) -> None:
    if not server.execute("SELECT 1 FROM pg_roles WHERE rolname = 'limited'"):
        server.execute("CREATE ROLE limited LOGIN")
    error = await refusal(server.address(user="limited"))
    assert "permission denied for database postgres" in str(error)
    assert 'GRANT CREATE ON DATABASE "postgres" TO "limited"' in str(error)


async def test_a_schema_that_was_made_for_the_user_will_do(server: postgres.Server) -> None:
    if not server.execute("SELECT 1 FROM pg_roles WHERE rolname = 'limited'"):
        server.execute("CREATE ROLE limited LOGIN")
    server.execute('CREATE SCHEMA "crawlkit_given" AUTHORIZATION limited')
    store = open_store(server.address("given", user="limited"))
    await store.open()
    await commit(store, fresh=pages(A, 1))
    await store.close()


async def test_a_run_of_somebody_else(run: Store, server: postgres.Server) -> None:
    if not server.execute("SELECT 1 FROM pg_roles WHERE rolname = 'limited'"):
        server.execute("CREATE ROLE limited LOGIN")
    address = run.address.replace("crawl@", "limited@")
    assert "permission denied" in str(await refusal(address))
    with pytest.raises(StoreError, match="permission denied"):
        open_reader(address)


@pytest.mark.parametrize(("version", "remedy"), [(99, "upgrade crawlkit"), (0, "older crawlkit")])
async def test_a_run_of_another_version(server: postgres.Server, version: int, remedy: str) -> None:
    address = server.address()
    store = open_store(address)
    await store.open()
    await store.close()
    server.execute(f"UPDATE run SET format = {version}", address)
    error = await refusal(address)
    assert isinstance(error, StoreVersionError)
    assert remedy in str(error)
    with pytest.raises(StoreVersionError, match=remedy):
        open_reader(address)
    store = open_store(address)
    await store.open(fresh=True)
    await store.close()


@pytest.mark.parametrize("table", ["CREATE TABLE {}.mine ()", "CREATE TABLE {}.run (id int)"])
async def test_a_schema_that_is_not_crawlkits_is_left_alone(
    server: postgres.Server, table: str
) -> None:
    address = server.address()
    schema = f'"crawlkit_{address.partition("#")[2]}"'
    server.execute(f"CREATE SCHEMA {schema}")
    server.execute(table.format(schema))
    for fresh in (False, True):
        error = await refusal(address, fresh=fresh)
        assert "holds something that is not a run of crawlkit; choose another name" in str(error)
    assert server.execute(f"SELECT 1 FROM pg_tables WHERE schemaname = '{schema[1:-1]}'")


async def test_a_server_that_is_too_old(
    server: postgres.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crawlkit.stores.postgres.connection.OLDEST", 99)
    error = await refusal(server.address())
    assert "crawlkit needs PostgreSQL 99 or later" in str(error)


async def test_a_database_that_is_not_in_unicode(server: postgres.Server) -> None:
    server.execute(
        "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    )
    error = await refusal(server.address(database="latin"))
    assert "has the encoding LATIN1; make one with CREATE DATABASE" in str(error)


async def test_an_address_that_is_none() -> None:
    error = await refusal("postgresql://user:secret@host/db?bogus=1#x")
    assert "write postgresql://user@host:port/database#RUN" in str(error)


async def test_a_call_that_waits_while_the_run_is_closed_connects_no_more(run: Store) -> None:
    assert isinstance(run, PostgresStore)
    go_on = threading.Event()
    busy = asyncio.create_task(run._thread.run(go_on.wait))
    await asyncio.sleep(0)
    waiting = [asyncio.create_task(run.close()), asyncio.create_task(run.extend())]
    await asyncio.sleep(0)
    go_on.set()
    _, refused = await asyncio.gather(*waiting, return_exceptions=True)
    assert await busy
    assert "is not open" in str(refused)


async def test_a_fresh_start_is_refused_while_others_write(run: Store) -> None:
    await commit(run, items=[item(1)])
    error = await refusal(run.address, fresh=True)
    assert isinstance(error, StoreLockedError)
    assert "is being written by one; stop them" in str(error)
    assert len(content(run)["items"]) == 1


# -- reading --------------------------------------------------------------------------------------


async def test_the_only_run_of_a_database_need_not_be_named(server: postgres.Server) -> None:
    server.execute("CREATE DATABASE single")
    bare = server.address("", database="single").rstrip("#")
    with pytest.raises(StoreError, match="there is no run in"):
        open_reader(bare)
    for name in ("first", "second"):
        store = open_store(with_run(bare, name))
        await store.open()
        await commit(store, items=[item(1)])
        await store.close()
        if name == "first":
            with open_run(bare) as run:
                assert run.address == f"{bare}#first"
                assert len(list(run.items())) == 1
    with pytest.raises(StoreError, match=r"several runs in .* \(first, second\); say which"):
        open_reader(bare)
    with pytest.raises(StoreError, match=r"there is no run third in .*; there is first, second"):
        open_reader(f"{bare}#third")


async def test_streams_side_by_side_each_keep_to_their_state(run: Store) -> None:
    await commit(run, items=[item(n) for n in range(1200)])
    reader = run.reader()
    first = reader.items()
    next(first)
    await commit(run, items=[item(n) for n in range(100)])
    second = reader.items()
    assert len(list(second)) == 1300
    assert len(list(first)) == 1199
    assert len(list(reader.items(after=1200))) == 100
    reader.close()


async def test_what_is_not_what_was_written_is_found_out(
    run: Store, server: postgres.Server
) -> None:
    await commit(
        run,
        fresh=[*pages(A, 60), pending(f"{B}/later", due=NOW + 5)],
        items=[item(1)],
        documents={"part": Document(1, b"[1]")},
        add={"items_saved": 1},
    )
    await claim(run, 1)
    assert findings(run) == []
    for damage, finding in (
        ("UPDATE items SET data = replace(data, '1', '3')", "item 1 is not what was saved"),
        ("UPDATE documents SET data = '[2]'", "document part is not what was saved"),
        ("UPDATE bundles SET requests = replace(requests, '/7', '/8')", "bundle 1 is not what was"),
        ("UPDATE hosts SET best = NULL", "host a.example has work of priority 0, but the queue"),
        ("UPDATE hosts SET due = NULL", "host b.example has work that waits until"),
        ("DELETE FROM workers", "has claimed something, and is not there"),
        ("UPDATE shares SET shares = 15", "has 15 shares of 16"),
        ("DELETE FROM shares", "by a worker that has no share"),
        ("DELETE FROM seen", "is pending although it was never enqueued"),
        ("DELETE FROM bundles", "is claimed, but it is not there"),
    ):
        server.execute(damage, run.address)
        assert any(finding in line for line in findings(run)), (damage, findings(run))
    reader = run.reader()
    with pytest.raises(StoreDamagedError, match=r"item 1 of .* is not what was saved"):
        list(reader.items())
    with pytest.raises(StoreDamagedError, match="'part' is not what was saved"):
        list(reader.documents())
    reader.close()


async def test_a_run_comes_from_sqlite_and_goes_back_and_is_the_same(
    run: Store, tmp_path: Path
) -> None:
    source = open_store(str(tmp_path / "source"))
    await source.open()
    await fill(source)
    before = whole(source)
    exported(source, tmp_path / "there")
    await source.close()
    await run.close()
    counts = await import_run(tmp_path / "there", run)
    await run.open()
    assert whole(run) == before
    assert findings(run) == []
    exported(run, tmp_path / "back")
    target = open_store(str(tmp_path / "target"))
    assert await import_run(tmp_path / "back", target) == counts
    await target.open()
    assert whole(target) == before
    assert findings(target) == []
    # What is to do is done in the same order as it would have been.
    assert urls(await claim_all(target)) == urls(await claim_all(run))
    await target.close()


def test_every_verb_takes_the_address_and_none_shows_the_password(
    server: postgres.Server, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not server.execute("SELECT 1 FROM pg_roles WHERE rolname = 'owner'"):
        server.execute("CREATE ROLE owner LOGIN PASSWORD 'secret'")
        server.execute("CREATE DATABASE owned OWNER owner")
    bare = server.address("", user="owner:secret", database="owned").rstrip("#")
    monkeypatch.chdir(tmp_path)
    Path("small.py").write_text(
        "from crawlkit import Crawler, Page\n"
        "class Small(Crawler):\n"
        "    obey_robots = False\n"
        "    max_retries = 0\n"
        "    async def parse(self, page: Page) -> None:\n"
        "        page.save({'url': page.url})\n"
        "        page.follow('a')\n"
    )

    def cli(*words: str, code: int = 0) -> str:
        shown = CliRunner().invoke(main, words)
        assert shown.exit_code == code, (words, shown.output, shown.exception)
        assert "secret" not in shown.output, words
        return shown.output

    site.add_page("/", links=[f"/{n}" for n in range(5)])
    for n in range(5):
        site.add_page(f"/{n}", links=["/"])
    url, gone = site.url("/"), site.url("/nothing-here")
    said = cli("run", "small.py", url, gone, "--store", bare, "--no-progress")
    assert f"starting small in {masked(bare)}#small" in said
    address = f"{bare}#small"
    pages = json.loads(cli("stats", address, "--json"))["requests_finished"]
    assert pages == 6
    assert len(cli("items", bare).splitlines()) == pages
    cli("items", bare, "-o", "items.csv")
    assert "all is well" in cli("check", bare)
    assert "1 failed request" in cli("failed", bare, "ls")
    assert "handled at" in cli("why", bare, url)
    assert "failed at" in cli("why", bare, gone)
    assert "statistics" in cli("state", bare, "ls")
    cli("state", bare, "set", "key", "[1]")
    assert "1" in cli("state", bare, "get", "key")
    assert "1 request put back" in cli("failed", bare, "retry")
    assert "resuming small" in cli("run", "small.py", url, "--store", bare, "--no-progress")
    assert "1 request of" in cli("failed", bare, "drop", "--all")
    assert "all is well" in cli("check", bare)
    cli("report", bare, "-o", "report.html")
    assert "secret" not in Path("report.html").read_text()
    cli("export", bare, "run.crawl")
    cli("import", "run.crawl", f"{bare}#second")
    assert "have the same numbers" in cli("stats", address, "--diff", f"{bare}#second")
    fresh = ("run", "small.py", url, "--store", address, "--fresh", "--no-progress")
    shown = CliRunner().invoke(main, fresh, standalone_mode=False)
    assert "--fresh would throw away" in str(shown.exception)
    assert "secret" not in str(shown.exception)
    assert "starting small" in cli(*fresh, "--yes", "--max-pages", "2")
    with open_run(address) as run:
        assert run.statistics.requests_finished == 2


# -- the network ----------------------------------------------------------------------------------


async def test_a_commit_is_applied_once_wherever_the_line_breaks(
    server: postgres.Server, line: postgres.Line
) -> None:
    """The connection is cut at each message of the protocol, in each direction."""
    store = open_store(server.address(port=line.port, options=PLAIN))
    await store.open()
    await commit(store, fresh=pages(A, 1000))
    leases = await claim_all(store)
    number = 0
    for direction in ("up", "down"):
        for after in range(40):
            cuts, number = line.cuts, number + 1
            line.cut(direction, after)
            fresh = pages(B, 3, first=3 * number)
            receipt = await store.commit(
                done(
                    leases[number : number + 1],
                    fresh=[*fresh, fresh[0]],
                    items=[item(number)],
                    add={"items_saved": 1, "requests_finished": 1},
                )
            )
            line.mend()
            assert (receipt.enqueued, receipt.duplicates) == (3, 1)
            if line.cuts == cuts:
                break  # there are no more messages
        assert after >= 4, direction
    assert findings(store) == []
    found = [stored.data for stored in store.reader().items()]
    assert found == [item(n).data for n in range(1, number + 1)]
    await store.close()


async def test_a_run_is_opened_and_made_once_wherever_the_line_breaks(
    server: postgres.Server, line: postgres.Line
) -> None:
    address = server.address(port=line.port, options=PLAIN)
    for after in (2, 4, 8, 12, 16, 20, 25, 30, 40):
        store = open_store(address, worker="one")
        line.cut("down", after)
        await store.open()
        line.mend()
        await commit(store, add={"n": 1})
        await store.close()
    assert line.cuts > 3
    with open_run(address) as run:
        assert run.check() is not None
        assert run._reader.counters() == {"n": 9}
    assert server.execute("SELECT count(*) FROM workers", address) == [(0,)]


async def test_nothing_that_was_claimed_is_lost_wherever_the_line_breaks(
    server: postgres.Server, line: postgres.Line
) -> None:
    store = open_store(server.address(port=line.port, options=PLAIN))
    await store.open()
    sites = [f"https://h{n}.example" for n in range(60)]
    await commit(store, fresh=[given for site in sites for given in pages(site, 2)])
    found: list[str] = []
    for direction in ("up", "down"):
        for after in range(60):
            cuts = line.cuts
            line.cut(direction, after)
            leases = (await claim(store, 1)).leases
            line.mend()
            found += urls(leases)
            await store.commit(done(leases, add={"requests_finished": len(leases)}))
            if line.cuts == cuts:
                break
        assert after >= 4, direction
    while leases := (await claim(store)).leases:
        found += urls(leases)
        await store.commit(done(leases, add={"requests_finished": len(leases)}))
    assert Counter(found) == Counter(f"{site}/{n}" for site in sites for n in (0, 1))
    assert findings(store) == []
    await store.close()


@contextlib.contextmanager
def frozen(server: postgres.Server, worker: str) -> Iterator[None]:
    """Have what serves a worker stand still, with what it was sent unread; then wait for its end.

    As on a server that is short of processor time, or where a proxy is slow to pass on.
    """
    query = f"SELECT pid FROM pg_stat_activity WHERE application_name = 'crawlkit {worker}'"
    ((pid,),) = server.execute(query)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
        postgres.wait_until(lambda: (pid,) not in server.execute(query))


async def test_a_claim_that_comes_late_on_a_connection_that_was_lost_takes_nothing(
    server: postgres.Server, line: postgres.Line
) -> None:
    """Its worker has looked by then what it has, and would never know of it: nor would anybody."""
    store = open_store(server.address(port=line.port, options=PLAIN), worker="late")
    await store.open()
    assert (await claim(store)).is_exhausted  # from now on, a claim is one message to the server
    with frozen(server, "late"):
        line.cut("asked", 0)
        assert (await claim(store)).is_exhausted  # on another connection
        assert line.cuts == 1
        await commit(store, fresh=pages(A, 3))
    leases = (await claim(store)).leases
    assert len(leases) == 3
    await store.commit(done(leases, add={"requests_finished": 3}))
    assert findings(store) == []
    await store.close()


async def test_what_else_comes_late_on_a_connection_that_was_lost_changes_nothing(
    server: postgres.Server, line: postgres.Line
) -> None:
    """A lock that was given back since then, a grant that was answered, an end that was none."""
    store = open_store(server.address(port=line.port, options=PLAIN), worker="slow")
    await store.open()
    other = await another(store)
    with frozen(server, "slow"):
        line.cut("asked", 0)
        assert await store.try_lock("seeds")
        await store.unlock("seeds")
    assert await other.try_lock("seeds")
    with frozen(server, "slow"):
        line.cut("asked", 0)
        assert (await store.allot(("pages",), 100, 3)).granted == 3
        assert (await store.allot(("pages",), 100, 2)).granted == 2
    assert server.execute("SELECT amount FROM allotments", store.address) == [(5,)]
    with frozen(server, "slow"):
        line.cut("asked", 0)
        assert await store.finish()
        await commit(other, fresh=pages(A, 3))  # so it is not finished after all
    assert await other.finish()
    with frozen(server, "slow"):
        line.cut("asked", 0)
        await commit(store, items=[item(1)])
        await commit(store, items=[item(2)])
    with frozen(server, "slow"):
        line.cut("asked", 0)
        line.is_down = True  # for those who connect once more
        with pytest.raises(StoreWriteError):
            await commit(store, items=[item(3)])
        line.is_down = False
        await store.extend()
    await commit(store, items=[item(4)])
    assert [stored.data for stored in store.reader().items()] == [
        item(number).data for number in (1, 2, 4)
    ]
    assert line.cuts == 5
    await other.close()
    await store.close()


async def test_a_worker_that_joins_once_more_as_the_answer_got_lost_keeps_what_it_has(
    run: Store, server: postgres.Server
) -> None:
    await commit(run, fresh=pages(A, 3))
    leases = (await claim(run)).leases
    server.execute(
        "SELECT join_run(epoch, name, machine, pid, started, 15, note) FROM workers", run.address
    )
    await run.commit(done(leases, add={"requests_finished": 3}))
    assert findings(run) == []


async def test_a_run_is_begun_anew_also_where_it_is_not_told_that_it_has(
    server: postgres.Server, line: postgres.Line
) -> None:
    address = server.address(port=line.port, options=PLAIN)

    async def begin() -> None:
        store = open_store(address, worker="one")
        await store.open(fresh=True)
        line.mend()
        assert not content(store)["items"]
        await commit(store, items=[item(1)])
        await store.close()

    await begin()
    before = line.statements
    store = open_store(address, worker="one")
    await store.open(fresh=True)
    statements = line.statements - before
    await store.close()
    for last in range(1, 6):
        line.cut("asked", statements - last)
        await begin()
    assert line.cuts == 5


async def test_a_run_that_was_made_before_connections_had_numbers_is_gone_on_with(
    run: Store, server: postgres.Server
) -> None:
    """One who writes it meanwhile knows nothing of them, and goes on, too."""
    await commit(run, fresh=pages(A, 3))
    leases = (await claim(run)).leases
    server.execute("ALTER TABLE workers DROP COLUMN connection", run.address)
    server.execute("UPDATE run SET routines = 'of old'", run.address)
    other = await another(run)
    assert (await claim(other)).leases == []
    await run.commit(done(leases, add={"requests_finished": 3}))
    assert (await claim(other)).is_exhausted
    await other.close()
    assert findings(run) == []


async def test_who_waits_for_a_worker_that_is_not_heard_of_says_so_once(
    run: Store, server: postgres.Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "crawlkit.store")
    await commit(run, fresh=pages(A, 3))
    assert (await claim(run)).leases
    other = await another(run)

    def leave(seconds: float) -> None:
        server.execute(
            f"UPDATE workers SET until = now() + interval '{seconds} s', machine = 'box 1 2' "
            "WHERE name = 'one'",
            run.address,
        )

    leave(12)  # it was heard of three seconds ago, as one that is well
    await claim(other)
    assert not caplog.messages
    leave(7.5)
    for _ in range(3):
        assert not (await claim(other)).leases
    (line,) = caplog.messages
    assert re.fullmatch(
        "waiting for worker one of machine box, not heard of for [78] s; its work is taken over in "
        "[78] s at the latest",
        line,
    )
    leave(-1)
    assert len((await claim(other)).leases) == 3
    await other.close()


async def test_no_grant_is_lost_wherever_the_line_breaks_and_however_long(
    server: postgres.Server, line: postgres.Line
) -> None:
    store = open_store(server.address(port=line.port, options=PLAIN))
    await store.open()
    told, wanted, failures = 0, 0, 0
    for direction in ("up", "down"):
        for after in range(20):
            cuts = line.cuts
            line.cut(direction, after)
            line.is_down = True  # for those who connect once more
            try:
                told += (await store.allot(("pages",), 1000, 3)).granted
            except StoreError:
                failures += 1
            line.mend()
            line.is_down = False
            told += (await store.allot(("pages",), 1000, -1)).granted
            wanted += 2
            if line.cuts == cuts:
                break
    assert failures >= 3
    ((granted,),) = server.execute("SELECT amount FROM allotments", store.address)
    assert told == granted == wanted
    await store.close()


async def test_a_page_that_is_committed_while_another_worker_asks_is_not_granted_once_more(
    server: postgres.Server, run: Store
) -> None:
    """There is one page to do. It is granted, and done as the other one asks how many are left."""
    assert (await run.allot(PAGES, 1, 1)).granted == 1
    other = await another(run)
    assert (await other.allot(PAGES, 1, 1)).granted == 0
    with under_way(run) as execute:
        execute("LOCK TABLE allotments")
        asking = asyncio.create_task(other.allot(PAGES, 1, 1))
        await somebody_waits(server, "other")
        # What a commit does with the page: it is done, and no longer one that may be.
        execute(
            "INSERT INTO counters SELECT epoch, 'requests_finished', 0, 1 FROM workers "
            "WHERE name = 'one'"
        )
        execute("UPDATE allotments SET amount = 0")
    assert (await asking).granted == 0
    assert await other.allot(PAGES, 1, 1) == Allotment(0, is_spent=True)
    await other.close()


async def test_the_end_is_told_to_one_worker_wherever_the_line_breaks_and_however_long(
    server: postgres.Server, line: postgres.Line
) -> None:
    store = open_store(server.address(port=line.port, options=PLAIN), worker="one")
    await store.open()
    other = await another(store, "two")
    failures = number = 0
    for direction in ("up", "down"):
        for after in range(10):
            cuts, number = line.cuts, number + 1
            await commit(other, fresh=pages(A, 1, first=number))  # so that it can be finished again
            line.cut(direction, after)
            line.is_down = True  # for those who connect once more
            try:
                told = await store.finish()
            except StoreError:
                failures += 1
                line.mend()
                line.is_down = False
                told = await store.finish()
            line.mend()
            line.is_down = False
            assert told, (direction, after)
            assert not await other.finish()
            assert not await store.finish()
            if line.cuts == cuts:
                break
    assert failures >= 3
    await other.close()
    await store.close()


async def test_what_a_claim_has_taken_is_not_forgotten_where_it_fails_after_that(
    run: Store, server: postgres.Server
) -> None:
    """As where the server ends a statement that has waited for too long."""
    await commit(run, fresh=pages(A, 3))
    other = await another(run)
    server.execute("ALTER FUNCTION outlook RENAME TO outlook_of_old", run.address)
    with pytest.raises(StoreError):
        await claim(run)
    server.execute("ALTER FUNCTION outlook_of_old RENAME TO outlook", run.address)
    leases = (await claim(run)).leases
    assert len(leases) == 3
    await run.commit(done(leases, add={"requests_finished": 3}))
    assert (await claim(other)).is_exhausted
    assert findings(run) == []
    await other.close()


async def test_a_host_that_the_server_has_lost_is_named_once_more(
    run: Store, server: postgres.Server
) -> None:
    """As with ``synchronous_commit = off`` and a crash between two statements."""
    await commit(run, rests={"b.example": (NOW, 1.0)})
    server.execute("DELETE FROM hosts WHERE name = 'b.example'", run.address)
    server.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'crawlkit one'"
    )
    await commit(run, fresh=pages(B, 2), add={"requests_finished": 0})
    assert len((await claim(run)).leases) == 2
    assert findings(run) == []


async def test_workers_that_begin_under_one_name_at_the_same_time_are_one_after_the_other(
    run: Store, server: postgres.Server
) -> None:
    first, second = (open_store(run.address, worker="two") for _ in range(2))
    with under_way(run) as execute:
        execute("SELECT join_run(1, 'two', 'box', 1, '', 60, 1)")
        opening = asyncio.gather(first.open(), second.open())
        await somebody_waits(server, "two")
    await opening
    workers = server.execute("SELECT name, epoch FROM workers WHERE name = 'two'", run.address)
    assert len(workers) == 1
    assert workers[0][1] != 1
    await first.close()
    await second.close()


async def test_a_worker_that_leaves_leaves_nothing_of_a_claim_that_is_still_under_way(
    run: Store, server: postgres.Server
) -> None:
    """As where its line broke, and the server has not noticed that yet."""
    await commit(run, fresh=pages(A, 2))
    other = await another(run)
    ((epoch,),) = server.execute("SELECT epoch FROM workers WHERE name = 'other'", run.address)
    with under_way(run) as execute:
        assert execute(f"SELECT * FROM claim({epoch}, 60, 10, '{{}}', {NOW}, false)")
        leaving = asyncio.create_task(other.close())
        await somebody_waits(server, "other")
    await leaving
    assert findings(run) == []
    assert len((await claim(run)).leases) == 2


async def test_a_run_is_taken_in_once_wherever_the_line_breaks(
    server: postgres.Server, line: postgres.Line
) -> None:
    records = [ItemRecord(f'{{"number": {n}}}', A, "parse", NOW) for n in range(3)]
    counter = CounterRecord("items_saved", 3)
    for after in range(40):
        store = open_store(server.address(port=line.port, options=PLAIN))
        await store.open()
        cuts = line.cuts
        line.cut("down", after)
        await store.take_in([*records, counter], is_last=True)
        line.mend()
        assert len(content(store)["items"]) == 3
        assert findings(store) == []
        await store.close()
        if line.cuts == cuts:
            break
    assert after >= 4


async def test_documents_are_merged_once_wherever_the_line_breaks(
    server: postgres.Server, line: postgres.Line
) -> None:
    store = open_store(server.address(port=line.port, options=PLAIN), worker="one")
    await store.open()
    other = await another(store, "two")

    def combine(base: bytes | None, mine: bytes, theirs: bytes) -> bytes:
        return b"%d" % (int(theirs) + int(mine) - int(base or b"0"))

    base, known, total = None, 0, 0
    for after in range(60):
        # The other one adds 10, this one 1.
        theirs = int((await other.document("n") or Document(1, b"0")).data)
        await commit(other, documents={"n": Document(1, b"%d" % (theirs + 10))})
        cuts, mine = line.cuts, b"%d" % (known + 1)
        line.cut("down", after)
        receipt = await store.commit(
            Checkpoint(documents={"n": Document(1, mine)}, merges={"n": Merge(base, combine)})
        )
        line.mend()
        total += 11
        assert receipt.merged["n"].data == b"%d" % total
        base, known = receipt.merged["n"].data, total
        if line.cuts == cuts:
            break
    assert after >= 4
    assert await other.document("n") == Document(1, b"%d" % total)
    await other.close()
    await store.close()


async def test_a_server_that_is_away_for_a_while(
    server: postgres.Server, line: postgres.Line
) -> None:
    store = open_store(server.address(port=line.port, options=PLAIN))
    await store.open()
    await commit(store, fresh=pages(A, 100))
    leases = (await claim(store)).leases
    line.is_down = True
    line.cut("up", 0)
    checkpoint = done(leases[:10], items=[item(1)])
    for work in (lambda: store.commit(checkpoint), lambda: claim(store), store.extend):
        with pytest.raises(StoreWriteError, match=r"cannot connect to .*see that the server runs"):
            await work()
    line.is_down = False
    await store.commit(checkpoint)
    assert len(content(store)["items"]) == 1
    assert sum(content(store)["pending"].values()) == 90
    await store.close()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_server_that_is_restarted_is_gone_on_with(
    run: Store, server: postgres.Server, mode: str
) -> None:
    await commit(run, fresh=pages(A, 200))
    leases = (await claim(run)).leases
    await run.commit(done(leases[:10], add={"requests_finished": 10}))
    server.restart(mode)
    await run.commit(done(leases[10:20], add={"requests_finished": 10}))
    more = await claim(run)
    assert not {lease.ticket for lease in leases} & {lease.ticket for lease in more.leases}
    server.restart(mode)
    assert await run.try_lock("seeds")
    assert findings(run) == []


async def test_a_server_that_has_lost_commits_has_its_workers_start_again(
    run: Store, server: postgres.Server
) -> None:
    """As with ``synchronous_commit = off`` and a crash."""
    await commit(run, items=[item(1)])
    server.execute("UPDATE workers SET commits = commits - 1", run.address)
    with pytest.raises(StoreFencedError, match="has lost the last commits of worker one"):
        await commit(run, items=[item(2)])
    assert len(content(run)["items"]) == 1


async def test_a_server_that_has_lost_claims_has_its_workers_start_again(
    run: Store, server: postgres.Server
) -> None:
    """Others may have claimed the same since then, or something else that has the same number."""
    await commit(run, fresh=[*pages(A, 3), *pages(B, 3)])
    leases = [lease for lease in await claim_all(run) if lease.host == "a.example"]
    server.execute(
        "DELETE FROM claims WHERE host = (SELECT id FROM hosts WHERE name = 'a.example')",
        run.address,
    )
    for number in (1, 3):
        with pytest.raises(StoreFencedError, match="has lost the last commits of worker one"):
            await run.commit(done(leases[:number], items=[item(1)]))
    server.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'crawlkit one'"
    )
    with pytest.raises(StoreFencedError, match="has lost the last commits of worker one"):
        await claim(run)
    assert not content(run)["items"]


async def test_a_commit_whose_answer_got_lost_has_not_lost_claims(
    server: postgres.Server, line: postgres.Line
) -> None:
    store = open_store(server.address(port=line.port, options=PLAIN))
    await store.open()
    await commit(store, fresh=[*pages(A, 3), *pages(B, 3)])
    leases = await claim_all(store)
    checkpoint = done([lease for lease in leases if lease.host == "a.example"], items=[item(1)])
    line.cut("down", 0)
    line.is_down = True  # for those who connect once more
    with pytest.raises(StoreWriteError):
        await store.commit(checkpoint)
    line.is_down = False
    assert len(content(store)["items"]) == 1
    assert (await claim(store)).leases == []
    await store.commit(checkpoint)
    await store.commit(done([lease for lease in leases if lease.host == "b.example"]))
    assert (await claim(store)).is_exhausted
    assert len(content(store)["items"]) == 1
    await store.close()


async def test_another_server_takes_over_without_what_was_last_done() -> None:
    """A standby that is behind is made the primary; the address names both."""
    old, new = postgres.Server(), postgres.Server()
    try:
        hosts = f"127.0.0.1:{new.port},127.0.0.1:{old.port}"
        new.stop()
        stores = [
            open_store(f"postgresql://crawl@{hosts}/postgres#both", worker=name)
            for name in ("commits", "claims", "waits")
        ]
        for store in stores:
            await store.open()
        await commit(stores[0], fresh=[*pages(A, 100), *pages(B, 100)])
        known = (await claim(stores[0], 50)).leases
        old.stop()
        new.become_standby_of(old)
        for server in (old, new):
            server.start()

        receipt = await stores[0].commit(done(known[:10], fresh=pages(C, 10), items=[item(1)]))
        assert receipt.enqueued == 10
        forgotten = (await claim(stores[1], 50)).leases
        assert forgotten
        await stores[2].extend()
        old.stop("immediate")
        for store in stores:
            with pytest.raises(StoreWriteError, match=r"takes no writes|refused"):
                await store.extend()

        new.promote()
        with pytest.raises(StoreFencedError, match="has lost the last commits of worker commits"):
            await stores[0].commit(done(known[10:]))
        with pytest.raises(StoreFencedError, match="has lost the last commits of worker claims"):
            await stores[1].commit(done(forgotten))
        await stores[0].close()
        await stores[1].close()
        assert len(await claim_all(stores[2])) == 200
        assert not content(stores[2])["items"]
        assert findings(stores[2]) == []
        await stores[2].close()
    finally:
        old.close()
        new.close()


async def test_a_full_disk_takes_the_checkpoint_once_there_is_room(
    server: postgres.Server, tmp_path: Path
) -> None:
    with postgres.small_disk(server, megabytes=12) as tablespace:
        store = open_store(
            server.address(options=f"?options=-c%20default_tablespace%3D{tablespace.name}")
        )
        await store.open()
        checkpoint = a_bit_of_everything(await prepared(store))
        checkpoint.items += [
            Item(b'"%s"' % random.Random(n).randbytes(5000).hex().encode(), A, "parse", NOW)
            for n in range(200)
        ]
        checkpoint.add["items_saved"] = len(checkpoint.items)
        before = content(store)
        tablespace.fill()
        for _ in range(2):
            with pytest.raises(StoreWriteError, match="make room on the server's disk"):
                await store.commit(checkpoint)
            assert content(store) == before
        tablespace.make_room()
        await store.commit(checkpoint)
        assert len(content(store)["items"]) == 202
        assert findings(store) == []
        await store.close()
        server.execute(f'DROP SCHEMA "crawlkit_{store.address.partition("#")[2]}" CASCADE')


# -- a server that is run by somebody else --------------------------------------------------------


def as_set(**settings: str) -> str:
    """For an address: settings of the session, which come as those of a role or a database do."""
    return "?options=" + "%20".join(f"-c%20{name}%3D{value}" for name, value in settings.items())


async def test_a_timeout_for_those_who_ask_too_much_is_not_for_a_crawl(
    server: postgres.Server,
) -> None:
    store = open_store(server.address(options=as_set(statement_timeout="10ms")))
    await store.open()
    await commit(store, fresh=pages(A, 3000))
    assert findings(store) == []
    await store.close()


async def test_who_has_waited_sees_what_is_there_then_whatever_the_isolation(
    server: postgres.Server,
) -> None:
    isolation = as_set(default_transaction_isolation="repeatable%5C%20read")
    store = open_store(server.address(options=isolation), worker="patient")
    await store.open()
    other = await another(store)
    await commit(store, fresh=pages(A, 3))
    with under_way(store) as execute:
        execute("SELECT epoch FROM workers WHERE name = 'patient' FOR UPDATE")
        claiming = asyncio.create_task(claim(store))
        await somebody_waits(server, "patient")
        await commit(other, fresh=pages(A, 3, first=3))
    leases = (await claiming).leases
    assert findings(store) == []
    assert len(leases) == 6
    await other.close()
    await store.close()


async def test_times_come_back_as_they_were_written_however_numbers_are_shown(
    server: postgres.Server,
) -> None:
    store = open_store(server.address(options=as_set(extra_float_digits="0")))
    await store.open()
    until = NOW + 1 / 3
    await commit(store, fresh=pages(A, 1), rests={"a.example": (until, 0.0)})
    assert (await claim(store)).rests == {"a.example": (until, 0.0)}
    await store.close()


async def test_a_pooler_that_gives_the_session_to_others_is_named(run: Store) -> None:
    """As PgBouncer does with ``pool_mode = transaction``."""
    await claim(run)
    connection = cast(PostgresStore, run)._link._connection
    assert connection is not None
    connection.pgconn.exec_(b"DISCARD ALL")
    with pytest.raises(StoreError, match=r"do not last .*with PgBouncer, pool_mode = session$"):
        await claim(run)


async def test_somebody_who_locks_the_tables_is_looked_for(
    run: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SETTINGS, "lock_timeout", "50")
    store = await another(run)
    with under_way(run) as execute:
        execute("SELECT epoch FROM workers FOR UPDATE")
        with pytest.raises(StoreWriteError, match=r"somebody locks .*pg_stat_activity says who"):
            await store.extend()
    await store.extend()
    await store.close()


async def test_no_room_for_one_more_connection(server: postgres.Server) -> None:
    if not server.execute("SELECT 1 FROM pg_roles WHERE rolname = 'limited'"):
        server.execute("CREATE ROLE limited LOGIN")
    server.execute("ALTER ROLE limited CONNECTION LIMIT 0")
    try:
        error = await refusal(server.address(user="limited"))
    finally:
        server.execute("ALTER ROLE limited CONNECTION LIMIT -1")
    assert isinstance(error, StoreWriteError)
    assert "takes no more connections" in str(error)
    assert "raise the server's max_connections or the role's limit, or start fewer" in str(error)


async def test_a_server_that_takes_no_writes_for_a_while(
    run: Store, server: postgres.Server
) -> None:
    """As a managed one does when its disk is nearly full."""
    await commit(run, fresh=pages(A, 3))
    leases = (await claim(run)).leases
    checkpoint = done(leases, items=[item(1)], add={"items_saved": 1, "requests_finished": 3})

    server.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    server.execute("SELECT pg_reload_conf()")
    try:
        postgres.wait_until(
            lambda: server.execute("SHOW default_transaction_read_only") == [("on",)]
        )
        for _ in range(2):
            with pytest.raises(StoreWriteError, match=r"takes no writes \(.*put the primary into"):
                await run.commit(checkpoint)
        assert "takes no writes" in str(await refusal(server.address()))
        assert sum(content(run)["pending"].values()) == 3  # it can be read
    finally:
        server.execute("ALTER SYSTEM RESET default_transaction_read_only")
        server.execute("SELECT pg_reload_conf()")
        postgres.wait_until(
            lambda: server.execute("SHOW default_transaction_read_only") == [("off",)]
        )
    await run.commit(checkpoint)
    assert len(content(run)["items"]) == 1
    assert findings(run) == []


async def test_who_begins_while_others_are_in_the_way_waits_and_begins(
    run: Store, server: postgres.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SETTINGS, "lock_timeout", "200")
    with under_way(run) as execute:
        execute("SELECT epoch FROM workers FOR UPDATE")
        coming = asyncio.create_task(another(run, "one"))
        await somebody_waits(server, "one")
        await asyncio.sleep(0.4)
        assert not coming.done()
    other = await coming
    await other.close()


# -- several workers ------------------------------------------------------------------------------


async def test_commits_side_by_side_never_wait_for_each_other_in_a_circle(run: Store) -> None:
    workers = [run, *[await another(run, f"w{n}") for n in range(3)]]
    rng = random.Random(7)

    async def work(store: Store) -> None:
        for number in range(25):
            sites = rng.sample([A, B, C, "https://d.example", "https://e.example"], 3)
            fresh = [page for site in sites for page in pages(site, 30, first=rng.randrange(300))]
            rng.shuffle(fresh)
            leases = (await claim(store, 20)).leases
            await store.commit(
                done(
                    leases,
                    fresh=fresh,
                    add={"requests_finished": len(leases), "items_saved": 1},
                    items=[item(number)],
                    documents={f"d{n}": Document(1, b"0") for n in rng.sample(range(9), 4)},
                )
            )

    await asyncio.gather(*map(work, workers))
    for store in workers[1:]:
        await store.close()
    assert findings(run) == []
    while leases := (await claim(run)).leases:
        await run.commit(done(leases, add={"requests_finished": len(leases)}))
    assert findings(run) == []


async def test_what_is_said_of_a_host_while_its_worker_is_told_of_it_is_not_lost(
    server: postgres.Server, run: Store
) -> None:
    """A host that was paused, and is paused for longer before the other worker has committed."""
    host, other = A.removeprefix("https://"), await another(run)
    await commit(run, fresh=pages(A, 200))
    await claim(run, 50)
    await commit(run, shares={host: 8})
    await claim(other, 50)
    await commit(other, rests={host: (NOW + 10, 1.0)})
    with under_way(run) as execute:
        # What another commit does that says more of it.
        execute("SELECT FROM hosts FOR NO KEY UPDATE")
        execute(f"UPDATE shares SET rest_at = {NOW + 60} WHERE rest_at IS NOT NULL")
        committing = asyncio.create_task(commit(run, add={"x": 1}))
        await somebody_waits(server, "one")
    told = await committing
    assert told.rests == {host: (NOW + 60, 1.0)}
    await other.close()


async def test_workers_that_share_hosts_tell_of_them_without_waiting_in_a_circle(
    server: postgres.Server, run: Store
) -> None:
    workers = [run, await another(run, "w1"), await another(run, "w2")]
    await commit(run, fresh=[*pages(A, 400), *pages(B, 400)])
    hosts = [site.removeprefix("https://") for site in (A, B)]
    for store, left in zip(workers, (11, 6, 0), strict=True):
        await claim(store, 100)
        await commit(store, add={"x": 1}, shares=dict.fromkeys(hosts, left) if left else {})
    rng = random.Random(7)

    async def work(store: Store) -> None:
        for number in range(300):
            rests = {rng.choice(hosts): (NOW + number, 1.0)}
            await commit(store, add={"x": 1}, rests=rests)

    before = len(server.log.read_text())
    await asyncio.gather(*map(work, workers))
    assert "deadlock" not in server.log.read_text()[before:]
    for store in workers[1:]:
        await store.close()


async def test_who_merges_alone_waits_in_no_circle_with_who_enqueues_the_same(
    server: postgres.Server, run: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One has the document to itself as it was changed over and over, and then commits a link."""
    monkeypatch.setattr("crawlkit.stores.postgres.work.OPTIMISTIC", 0)
    await commit(run, documents={"state": Document(1, b"7")})
    other, loop = await another(run), asyncio.get_running_loop()
    is_merging, may_go_on = asyncio.Event(), threading.Event()

    def add(base: bytes | None, mine: bytes, theirs: bytes) -> bytes:
        return str(int(theirs) + int(mine)).encode()

    def wait_and_add(base: bytes | None, mine: bytes, theirs: bytes) -> bytes:
        monkeypatch.setattr("crawlkit.stores.postgres.work.OPTIMISTIC", 3)
        loop.call_soon_threadsafe(is_merging.set)
        assert may_go_on.wait(10)
        return add(base, mine, theirs)

    def checkpoint(combine: Any) -> Checkpoint:
        return Checkpoint(
            fresh=pages(A, 3),
            documents={"state": Document(1, b"1")},
            merges={"state": Merge(b"0", combine)},
        )

    before = len(server.log.read_text())
    alone = asyncio.create_task(run.commit(checkpoint(wait_and_add)))
    await is_merging.wait()
    beside = asyncio.create_task(other.commit(checkpoint(add)))
    await somebody_waits(server, "other")
    may_go_on.set()
    receipts = await asyncio.gather(alone, beside)
    assert "deadlock" not in server.log.read_text()[before:]
    assert [receipt.enqueued for receipt in receipts] == [3, 0]
    document = await run.document("state")
    assert document is not None
    assert document.data == b"9"
    await other.close()


async def test_an_idle_worker_is_woken_by_work_and_by_the_end(run: Store) -> None:
    other = await another(run)
    assert (await claim(other)).leases == []

    async def woken_after(checkpoint: Checkpoint) -> float:
        waiting = asyncio.create_task(other.news())
        await asyncio.sleep(0.1)
        assert not waiting.done()
        began = time.monotonic()
        await run.commit(checkpoint)
        await waiting
        return time.monotonic() - began

    assert await woken_after(Checkpoint(fresh=pages(A, 1))) < 1
    leases = (await claim(run)).leases
    assert (await claim(other)).leases == []
    assert await woken_after(done(leases)) < 1
    assert (await claim(other)).is_exhausted
    await other.close()


async def test_a_worker_that_died_on_this_machine_is_not_waited_for(run: Store) -> None:
    await commit(run, fresh=pages(A, 100))
    code = (
        "import asyncio, sys\nfrom crawlkit.stores import open_store\n"
        "async def main():\n"
        "    store = open_store(sys.argv[1], worker='dead', lease=1000)\n"
        "    await store.open()\n"
        "    print(len((await store.claim(1000, {}, 0.0)).leases), flush=True)\n"
        "    await asyncio.sleep(100)\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, run.address, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"100\n"
    assert (await claim(run)).leases == []
    process.kill()
    await process.wait()
    assert len((await claim(run)).leases) == 100


async def test_a_worker_that_is_silent_but_still_alone_goes_on(run: Store) -> None:
    quiet = await another(run, "quiet", lease=0.05)
    await commit(quiet, fresh=pages(A, 10))
    leases = (await claim(quiet)).leases
    await asyncio.sleep(0.2)
    await quiet.commit(done(leases, add={"requests_finished": 10}))
    await quiet.close()
    assert findings(run) == []


async def test_what_a_silent_worker_had_does_not_wait_until_others_are_idle(run: Store) -> None:
    quiet = await another(run, "quiet", lease=0.05)
    await commit(run, fresh=pages(A, 10, priority=9))
    lost = urls((await claim(quiet)).leases)
    await commit(run, fresh=[p for n in range(50) for p in pages(f"https://{n}.example", 1)])
    await asyncio.sleep(0.1)
    found = [urls((await claim(run, 1)).leases) for _ in range(3)]
    assert all(found)
    assert sorted(lost) == sorted(url for part in found for url in part if url.startswith(A))
    await quiet.close()
    assert findings(run) == []


async def test_every_call_of_a_fenced_worker_is_refused_and_changes_nothing(run: Store) -> None:
    await commit(run, fresh=pages(A, 10))
    leases = (await claim(run)).leases
    usurper = await another(run, "one")
    before = content(run)
    for work in (
        lambda: run.commit(done(leases, items=[item(1)])),
        lambda: claim(run),
        run.extend,
        lambda: run.try_lock("seeds"),
        run.finish,
        run.release,
        lambda: run.allot(("requests_finished",), 10, 1),
    ):
        with pytest.raises(StoreFencedError, match=r"worker one of .* start it again"):
            await work()
    assert content(run) == before
    assert sorted(urls((await claim(usurper)).leases)) == sorted(urls(leases))
    await usurper.close()


async def test_a_worker_that_is_frozen_while_it_is_answered_keeps_nobody_waiting(
    server: postgres.Server, run: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its transaction is open until it has taken the answer."""
    monkeypatch.setattr(link, "UNREAD", "1s")
    where = parse(run.address)
    frozen = link.Link(where, "frozen", "normal")
    with connect(where) as looking:
        looks = "SELECT wait_event FROM pg_stat_activity WHERE application_name LIKE '%frozen%'"
        work = frozen.open(lambda db: db.pgconn)
        work.send_query(b"SELECT repeat('x', 1000000) FROM generate_series(1, 100)")
        work.flush()
        seen = set[Any]()
        async with asyncio.timeout(30):
            while (found := looking.execute(looks).fetchone()) is not None:
                seen.add(found[0])
                await asyncio.sleep(0.01)
        assert "ClientWrite" in seen
    frozen.drop()


async def test_items_of_workers_that_commit_side_by_side_are_followed_without_a_gap(
    run: Store,
) -> None:
    other = await another(run)
    is_over = asyncio.Event()

    async def work(store: Store, first: int) -> None:
        for number in range(first, first + 60):
            await commit(store, items=[item(number)] * 3, add={"items_saved": 3})

    async def follow() -> list[int]:
        reader: Any = run.reader()
        found: list[int] = []
        while True:
            is_last = is_over.is_set()
            settled = reader.settled()
            found += [
                stored.number
                for stored in reader.items(after=found[-1] if found else 0)
                if stored.number <= settled
            ]
            if is_last:
                reader.close()
                return found
            await asyncio.sleep(0.002)

    following = asyncio.create_task(follow())
    await asyncio.gather(work(run, 0), work(other, 1000))
    await run.extend()
    await other.extend()
    is_over.set()
    assert await following == list(range(1, 361))
    await other.close()


async def test_a_file_of_lines_has_the_items_of_all_who_write_the_run(
    site: Site, tmp_path: Path
) -> None:
    address = postgres.server().address()
    for path in ("/", "/other"):
        site.add_page(path)

    class Other(Crawler):
        async def parse(self, page: Page) -> None:
            page.save({"url": page.url})

    class First(Other):
        async def on_start(self) -> None:
            await Other(store=address, start_urls=[site.url("/other")]).crawl()

    crawler = First(store=address, start_urls=[site.url("/")], output=str(tmp_path / "items.jsonl"))
    await crawler.crawl()
    lines = (tmp_path / "items.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["url"] for line in lines) == [site.url("/"), site.url("/other")]

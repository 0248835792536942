"""Fixtures and options that every test may use.

`@pytest.mark.needs("nginx", "strace")` skips a test where those are not installed, and says how to
install them. With ``--no-skips``, as in CI, a skipped test is a failed one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from crawlkit.clock import Clock
from crawlkit.fetching import AiohttpFetcher
from crawlkit.sessions import Session
from crawlkit.stores.base import Store
from crawlkit.stores.sqlite import SqliteStore
from crawlkit.testing import Site
from crawlkit.testing.shop import ShopSite

from . import postgres
from .backends import BACKENDS, Backend, names
from .scripted import Server, opened, running

PYTHON_DOCS = Path("/usr/share/doc/python3.11/html")

# Two cores shared with a browser and a build make deadlines of milliseconds a matter of luck.
settings.register_profile("crawlkit", deadline=None)
settings.load_profile("crawlkit")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="a skipped test is a failed one")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*packages): system packages that a test cannot spare")


def pytest_runtest_setup(item: pytest.Item) -> None:
    wanted = {name for mark in item.iter_markers("needs") for name in mark.args}
    missing = " ".join(sorted(name for name in wanted if not is_installed(name)))
    if missing:
        pytest.skip(f"needs {missing}: apt-get install {missing}")


def is_installed(package: str) -> bool:
    """Whether a Debian package that tests need is there, also where it came in another way."""
    if package == "python3.11-doc":
        return (PYTHON_DOCS / "index.html").exists()
    if package == "postgresql":
        return postgres.binaries() is not None
    return shutil.which(package, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is not None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    forbid_skip(item.config, report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    forbid_skip(collector.config, report)
    return report


def forbid_skip(config: pytest.Config, report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure where the command line asks for it."""
    is_expected_failure = hasattr(report, "wasxfail")
    if report.skipped and not is_expected_failure and config.getoption("--no-skips"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{reason} (with --no-skips a skipped test is a failed one)"


@pytest.fixture
def site() -> Iterator[Site]:
    """An empty site that runs in a thread of its own."""
    with Site() as running:
        yield running


@pytest.fixture
def shop() -> Iterator[ShopSite]:
    """The shop without slow pages, in a thread of its own."""
    with ShopSite(slow=False) as running:
        yield running


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A server that answers with the bytes that it is told, right or wrong."""
    async with running() as made:
        yield made


@pytest.fixture
async def fetcher() -> AsyncIterator[AiohttpFetcher]:
    """A fetcher that is open."""
    async with opened() as made:
        yield made


@pytest.fixture
def session() -> Session:
    """A session that nobody has used."""
    return Session("s", Clock())


@pytest.fixture(params=names())
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each kind of store in turn."""
    return BACKENDS[request.param]


@pytest.fixture(params=["sqlite", "memory"])
async def embedded(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """An open store of each kind that is SQLite."""
    store = BACKENDS[request.param].make(tmp_path)
    assert isinstance(store, SqliteStore)
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def store(backend: Backend, tmp_path: Path) -> AsyncIterator[Store]:
    """An open store of each kind."""
    store = backend.make(tmp_path)
    await store.open()
    yield store
    await store.close()

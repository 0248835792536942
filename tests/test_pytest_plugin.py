"""The pytest plugin gives a site to those who ask for one, and costs the others nothing."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

# An installation that was made before the plugin was does not know of it.
IS_INSTALLED = bool(entry_points(group="pytest11", name="crawlkit"))
PLUGIN = [] if IS_INSTALLED else ["-p", "crawlkit.pytest_plugin"]


def pytest(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *PLUGIN, *options]
    return subprocess.run(
        [sys.executable, *words], cwd=directory, capture_output=True, text=True, check=False
    )


def test_a_test_that_names_the_site_gets_one(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "from urllib.request import urlopen\n"
        "def test_a_page(site):\n"
        "    site.add_page('/a', '<h1>A</h1>')\n"
        "    assert urlopen(site.url('/a')).read() == b'<h1>A</h1>'\n"
        "def test_each_test_has_a_site_of_its_own(site):\n"
        "    assert site.hits() == 0\n"
    )
    done = pytest(tmp_path)
    assert "2 passed" in done.stdout, done.stdout


def test_other_tests_load_nothing_of_it_and_may_have_a_site_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import sys, pytest\n"
        "@pytest.fixture\n"
        "def site(): return 'mine'\n"
        "def test_mine(site):\n"
        "    assert site == 'mine'\n"
        "    loaded = {name for name in sys.modules if name.startswith('crawlkit')}\n"
        "    assert loaded == {'crawlkit', 'crawlkit.pytest_plugin'}\n"
        "    assert not {'aiohttp', 'lxml', 'click', 'rich', 'asyncio'} & set(sys.modules)\n"
    )
    done = pytest(tmp_path, "-p", "no:asyncio", "-p", "no:anyio", "-p", "no:hypothesispytest")
    assert "1 passed" in done.stdout, done.stdout
    assert "warning" not in done.stdout.lower()

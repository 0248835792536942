"""What the README and the docs show works: every block of Python is run, every command is checked.

The blocks of one page run in one module, in their order, in a directory of their own; tests that
they define are run too. Where they name ``https://shop.example``, they get the shop of
`crawlkit.testing` and more (see `docs_site.py`), and ``http://proxy-1.example:8080`` is a proxy. A
block that cannot be run stands below a comment that says why::

    <!-- not run: needs a PostgreSQL server -->
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType

import click
import pytest

import crawlkit
from crawlkit.cli import main
from crawlkit.events import EVENTS
from crawlkit.loopthread import LoopThread
from crawlkit.observing.metrics import metrics_text
from crawlkit.options import _NO_TEXT, Options, option_types
from crawlkit.statistics import Statistics
from crawlkit.testing import Site

from .docs_site import DocsSite
from .proxy_servers import HttpProxy

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PLACEHOLDER = "https://shop.example"
PROXIES = ["http://proxy-1.example:8080", "http://proxy-2.example:8080"]

_FENCE = re.compile(
    r"(?:<!-- not run: (?P<reason>[^>]+) -->\n+)?"
    r"^(?P<indent> *)```(?P<language>\w+)[^\n]*\n(?P<code>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@pytest.fixture
def site() -> Iterator[DocsSite]:
    with DocsSite() as running:
        yield running


@pytest.fixture(scope="module")
def proxies() -> Iterator[list[HttpProxy]]:
    """Two proxies, which run in a thread of their own."""
    thread = LoopThread("proxies")
    made = [HttpProxy() for _ in PROXIES]
    for proxy in made:
        thread.run(proxy.__aenter__())
    yield made
    for proxy in made:
        thread.run(proxy.__aexit__(None, None, None))
    thread.close()


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    code: str
    not_run: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path, *languages: str) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    blocks = []
    for match in _FENCE.finditer(text):
        if match["language"] in languages:
            line = text.count("\n", 0, match.start("code")) + 1
            code = re.sub(f"^{match['indent']}", "", match["code"], flags=re.MULTILINE)
            blocks.append(Block(page, line, match["language"], code, match["reason"]))
    return blocks


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page, "python")], ids=name_of)
def test_the_python_of_a_page_runs_from_top_to_bottom(
    page: Path,
    tmp_path: Path,
    site: DocsSite,
    proxies: list[HttpProxy],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    module = ModuleType("docs_page")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for block in blocks_of(page, "python"):
        if block.not_run is None:
            urls = [proxy.url for proxy in proxies]
            places = dict(zip(PROXIES, urls, strict=True)) | {PLACEHOLDER: site.url("")}
            run(block, module, places)
    if page.name == "proxies.md":
        assert all(proxy.hits for proxy in proxies)
    for name, function in inspect.getmembers(module, inspect.isfunction):
        if name.startswith("test_"):
            with Site() as empty:
                fixtures = {"tmp_path": tmp_path / name, "site": empty}
                wanted = inspect.signature(function).parameters
                function(**{parameter: fixtures[parameter] for parameter in wanted})
    for directory in tmp_path.glob("runs/[!.]*"):
        with crawlkit.open_run(directory) as done:
            kinds = {error.kind for error in done.errors()}
            # The shop has pages that fail; a mistake in an example is any other kind of error.
            assert kinds <= {"StatusError"}, f"{page.name}: {directory.name} has {kinds}"


def run(block: Block, module: ModuleType, places: dict[str, str]) -> None:
    source = "\n" * (block.line - 1) + block.code
    for name, place in places.items():
        source = source.replace(name, place)
    code = compile(source, str(block.page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if code.co_flags & inspect.CO_COROUTINE:
        asyncio.run(eval(code, module.__dict__))
    else:
        exec(code, module.__dict__)


def commands() -> Iterator[tuple[str, list[str]]]:
    for page in PAGES:
        for block in blocks_of(page, "bash", "console", "sh"):
            code = block.code.replace("\\\n", " ")
            for line in re.split(r"\n|&&|\|", code):
                words = shlex.split(line.strip().removeprefix("$ "), comments=True)
                if words[:1] == ["crawlkit"]:
                    yield f"{block} {shlex.join(words)}", words[1:]
                elif words[1:3] == ["-m", "crawlkit"]:
                    yield f"{block} {shlex.join(words)}", words[3:]


@pytest.mark.parametrize("words", [pytest.param(words, id=name) for name, words in commands()])
def test_a_command_in_the_docs_is_one_that_crawlkit_has(words: list[str]) -> None:
    command: click.Command = main
    context = click.Context(command)
    while isinstance(command, click.Group):
        _, words, _ = command.make_parser(context).parse_args(words)
        if not words:
            return
        name, *words = words
        found = command.get_command(context, name)
        assert found is not None, f"there is no command {name!r}"
        command = found
        context = click.Context(command, context, name)
    command.make_parser(context).parse_args(words)  # raises NoSuchOption and the like


def test_the_page_of_options_has_every_option_with_its_default() -> None:
    text = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| `([^`]*)` \| \S", text, re.MULTILINE)
    documented = {name: ast.literal_eval(default) for name, default in rows}
    assert documented == {name: getattr(Options, name) for name in option_types()}


def test_the_page_of_options_says_which_are_no_text() -> None:
    text = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    (told,) = re.findall(r"is no limit; ([^.]*) are no text", text)
    assert {*re.findall(r"`(\w+)`", told), "store"} == set(_NO_TEXT)


_DEFAULT = re.compile(r"`(?P<name>\w+)` \((?P<value>[\d.,]+|one|`\w+`)(?: (?P<unit>[A-Za-z]+))?\)")
_NUMBERS = {"one": 1, "`True`": True, "`False`": False}
_UNITS = {"": 1, "s": 1, "second": 1, "seconds": 1, "MiB": 2**20, "GiB": 2**30, "GB": 10**9}


def test_a_default_that_stands_in_brackets_is_the_default() -> None:
    """As in ``render_pages`` (4), wherever that is written."""
    known, seen = option_types(), set()
    for page in PAGES:
        for name, value, unit in _DEFAULT.findall(page.read_text(encoding="utf-8")):
            if name in known:
                told = _NUMBERS.get(value) or float(value.replace(",", ""))
                default = getattr(Options, name)
                assert told * _UNITS[unit] == default, f"{name_of(page)}: {name} is {default}"
                seen.add(name)
    assert len(seen) > 10


_LIMIT = re.compile(r"^\| [^|]+ \| ([\d.,]+|none)(?: (\w+))?[^|]*\| `(\w+)` \|", re.MULTILINE)


def test_a_limit_with_an_option_is_the_default_of_that() -> None:
    text = (ROOT / "docs" / "limits.md").read_text(encoding="utf-8")
    rows = [row for row in _LIMIT.findall(text) if row[2] in option_types()]
    assert len(rows) > 20
    for value, unit, name in rows:
        told = None if value == "none" else float(value.rstrip(",").replace(",", ""))
        default = getattr(Options, name)
        if told is not None:
            told *= _UNITS.get(unit, 1)
        assert told == (default or None), f"{name}: {value} {unit} is not {default}"


def test_the_page_of_events_has_every_event_with_what_it_carries() -> None:
    text = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|([^|]*)\| [^|]+ \|$", text, re.MULTILINE)
    documented = {name: re.findall(r"`(\w+)`", carried) for name, carried in rows}
    assert documented == {name: [f.name for f in fields(kind)] for name, kind in EVENTS.items()}


def test_the_page_of_metrics_has_every_metric() -> None:
    text = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    documented: set[str] = set()
    for cell in re.findall(r"^\| (`crawlkit_[^|]*) \|", text, re.MULTILINE):
        first, *others = re.findall(r"`(\w+)`", cell)
        # As in `crawlkit_requests_finished_total`, `_failed_`.
        varying = "_requests_finished_" if "_handler_" in first else "_finished_"
        whole = [first.replace(varying, n) if n.startswith("_") else n for n in others]
        documented |= {first, *whole}
    for also in re.findall(r"with (`crawlkit_[^|]*) \|", text):
        documented |= set(re.findall(r"`(\w+)`", also))
    statistics = Statistics()
    statistics.begin_life(1.0)
    statistics.sample(1.0, 1)
    told = re.findall(r"^# TYPE (\w+)", metrics_text(statistics), re.MULTILINE)
    assert documented == set(told)


def test_the_list_of_extras_is_complete() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    table = text.partition("## Extras")[2].partition("\n## ")[0]
    names = re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE)
    documented = set(re.findall(r"`(\w+)`", " ".join(names)))
    assert documented == project["optional-dependencies"].keys() - {"bench", "docs", "test"}


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        prose = _FENCE.sub("", page.read_text(encoding="utf-8"))
        for target in re.findall(r"\]\(([^)#\s]+)", prose):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{name_of(page)} links to {target}"

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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import click
import pytest

import crawlkit
from crawlkit.cli import main
from crawlkit.loopthread import LoopThread
from crawlkit.options import Options, option_types
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


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        prose = _FENCE.sub("", page.read_text(encoding="utf-8"))
        for target in re.findall(r"\]\(([^)#\s]+)", prose):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{name_of(page)} links to {target}"

"""The house: a newcomer finds every file on one page, and nothing imports upwards."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "crawlkit"


def listed() -> list[str]:
    page = (ROOT / "docs" / "contributing.md").read_text()
    block = re.search(r"```text\n(.*?)```", page, re.DOTALL)
    assert block is not None
    return [line.split()[0] for line in block[1].splitlines()]


ORDER = {name: place for place, name in enumerate(listed())}


def layer(path: Path) -> int | None:
    """The place of a file in the list; packages that are listed whole stand for their files."""
    for name in (path, *path.parents):
        place = ORDER.get(name.relative_to(PACKAGE).as_posix())
        if place is not None:
            return place
        if name.parent == PACKAGE:
            break
    return None


BARE = (
    "caching",
    "counting",
    "crawlkit",
    "crawling",
    "discovery",
    "exporting",
    "http",
    "observing",
    "politeness",
    "rendering",
    "running",
    "triggers",
    "workers",
)
"""Packages of which the files are listed, not the whole."""

FILES = [
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name not in ("__main__.py",)
    and not (path.name == "__init__.py" and path.parent.name in BARE)
]


def parsed(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text())
    except SystemError:  # Python 3.11 counts the depth of all threads together (gh-106905)
        return ast.parse(path.read_text())


def imported(path: Path) -> Iterator[Path]:
    """The files of the package that `path` needs to be imported, or to run."""
    tree = parsed(path)
    only_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and id(node) not in only_types:
            home = path.parents[node.level - 1]
            target = home.joinpath(*(node.module or "").split("."))
            for name in node.names if not node.module else ():
                yield target / f"{name.name}.py"
            if target.with_suffix(".py").exists():
                yield target.with_suffix(".py")
            elif (target / "__init__.py").exists() and target != PACKAGE:
                yield target / "__init__.py"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_from_those_above_it_in_the_list(path: Path) -> None:
    own = layer(path)
    assert own is not None, "docs/contributing.md does not say what this file is for"
    for other in imported(path):
        below = layer(other)
        if below is not None:
            assert below <= own, f"it imports {other.relative_to(PACKAGE)}"


def test_every_file_in_the_list_exists() -> None:
    assert not [name for name in ORDER if not (PACKAGE / name).exists()]

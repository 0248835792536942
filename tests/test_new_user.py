"""A new user's path, from a wheel in a virtual environment of its own: no step needs the source.

Install, `new`, try it, test it, edit it, `run`, Ctrl-C, `run`, `items -o`, `stats`, `failed`.
The tutorial is that path: its crawler and its commands are what is run here.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from crawlkit.testing.shop import ShopSite

from .pseudoterminal import Terminal, watch
from .test_docs import blocks_of

ROOT = Path(__file__).parent.parent
TUTORIAL = ROOT / "docs" / "tutorial.md"


@dataclass
class User:
    """Somebody who has crawlkit installed, and a directory to work in."""

    bin: Path
    directory: Path

    @property
    def env(self) -> dict[str, str]:
        env = {name: os.environ[name] for name in ("LANG", "LC_ALL") if name in os.environ}
        return env | {"PATH": f"{self.bin}:/usr/bin:/bin", "HOME": str(self.directory)}

    def runs(self, command: str, *, code: int = 0) -> str:
        """What it prints, on both outputs."""
        done = subprocess.run(
            shlex.split(command),
            cwd=self.directory,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == code, f"$ {command}\n{done.stdout}"
        assert "Traceback" not in done.stdout
        return done.stdout


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> User:
    home = tmp_path_factory.mktemp("home")
    built = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*built, "--wheel-dir", home, ROOT], check=True, capture_output=True)
    (wheel,) = home.glob("crawlkit-*.whl")
    assert {Path(name).parts[0] for name in zipfile.ZipFile(wheel).namelist()} == {
        "crawlkit",
        wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info",
    }
    venv = home / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    python = venv / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", wheel],
        check=True,
        capture_output=True,
    )
    # What crawlkit needs is here already. What is named later is found later, so that crawlkit
    # itself is the one of the wheel.
    places = sysconfig.get_paths(vars={"base": str(venv), "platbase": str(venv)})
    (Path(places["purelib"]) / "needed.pth").write_text(sysconfig.get_path("purelib"))
    work = home / "work"
    work.mkdir()
    return User(venv / "bin", work)


@pytest.fixture(scope="module")
def shop() -> Iterator[ShopSite]:
    with ShopSite() as running:
        yield running


def tutorial(shop: ShopSite) -> str:
    """The crawler of the tutorial, for a shop on this machine."""
    first, *_ = blocks_of(TUTORIAL, "python")
    return first.code.replace("https://shop.example", shop.url(""))


def steps(shop: ShopSite) -> list[str]:
    """The commands of the tutorial, up to its second crawler."""
    return commands(shop, "# Tutorial", "## Data that travels with a request")


def commands(shop: ShopSite, start: str, end: str) -> list[str]:
    """The commands of the tutorial between two headings, for a shop on this machine."""
    text = TUTORIAL.read_text()
    first, last = (text.count("\n", 0, text.index(f"{heading}\n")) for heading in (start, end))
    lines = [
        line
        for block in blocks_of(TUTORIAL, "bash")
        if first < block.line < last
        for line in block.code.splitlines()
    ]
    return [line.replace("http://127.0.0.1:8000", shop.url("")) for line in lines]


def test_the_way_of_the_tutorial(user: User, shop: ShopSite) -> None:
    where = user.runs("python -c 'import crawlkit; print(crawlkit.__file__)'")
    assert str(user.bin.parent) in where, "this is not the crawlkit of the wheel"
    commands = [line for line in steps(shop) if line.startswith("crawlkit ")]
    said = {}
    for command in commands:
        if "--fresh" in command:
            (user.directory / "shop.py").write_text(tutorial(shop))
            refused = command.replace(" --yes", "")
            assert "add --yes" in user.runs(refused, code=2)  # items would be thrown away
            said["run"] = stop_and_go_on(user, command)
        else:
            said[" ".join(command.split()[:2])] = user.runs(command)
        if command.startswith("crawlkit new"):
            assert "2 passed" in user.runs("python -m pytest -q -p no:cacheprovider test_shop.py")
    assert f"200 {shop.url('/')}  parse" in said["crawlkit run"]
    assert "Lamps" in json.loads(said["crawlkit shell"])
    assert "2 lives" in said["crawlkit stats"]
    with (user.directory / "shop.csv").open(newline="") as file:
        assert len({row["sku"] for row in csv.DictReader(file)}) == 120

    # What the summary says is to be done works as it stands there.
    named = re.findall(
        r"^\w+: +(crawlkit \w+ runs/shop\b(?: ls| -o \S+)?)", said["run"], re.MULTILINE
    )
    assert [command.split()[1] for command in named] == ["items", "stats"]
    for command in named:
        user.runs(command)
    statistics = json.loads(user.runs("crawlkit stats runs/shop --json"))
    assert (statistics["items_saved"], statistics["pending"]) == (120, 0)


def stop_and_go_on(user: User, command: str) -> str:
    """Ctrl-C, and the command that is then named; what that says."""

    def has_items(terminal: Terminal) -> bool:
        return bool(re.search(r"[1-9]\d* items", terminal.text))

    program, *words = shlex.split(command)
    stopped = watch(
        [user.bin / program, *words],
        program=user.bin / "python",
        cwd=user.directory,
        env=user.env,
        interrupt=has_items,
    )
    assert stopped.code == 75, stopped.text
    again = re.search(r"^go on with: +(crawlkit run .*?)\r?$", stopped.text, re.MULTILINE)
    assert again, stopped.text
    assert "--fresh" not in again[1]
    told = user.runs(again[1].replace("delay=0.05", "delay=0"))
    assert re.match(r"resuming shop: [1-9]\d* done", told)
    assert "120 items" in told
    return told


def test_pages_that_fail(user: User) -> None:
    with ShopSite(slow=False) as shop:
        (offers,) = [b.code for b in blocks_of(TUTORIAL, "python") if "class Offers" in b.code]
        (user.directory / "shop.py").write_text(tutorial(shop) + offers)
        start, end = "## Data that travels with a request", "## Where it may go, and how fast"
        run, listed, why, retry = [
            user.runs(command) for command in commands(shop, start, end) if "crawlkit" in command
        ]
    assert "StatusError: HTTP 404 Not Found" in run
    assert re.search(r"^failures: +crawlkit failed runs/offers ls", run, re.MULTILINE)
    assert "4 failed requests" in listed
    assert ": failed at" in why
    assert "4 requests put back" in retry
    assert json.loads(user.runs("crawlkit stats runs/offers --json"))["pending"] == 4


@pytest.mark.parametrize(
    ("command", "remedy"),
    [
        ("crawlkit rum shop.py", "did you mean run?"),
        ("crawlkit run shpo.py", "did you mean shop.py?"),
        ("crawlkit run shop.py:Shpo", "did you mean Shop?"),
        ("crawlkit run shop.py --max-page 3", "did you mean --max-pages?"),
        ("crawlkit run shop.py --set max_page=3", "did you mean max_pages?"),
        ("crawlkit stats runs/shpo", "runs/shop"),
        ("crawlkit new shop", "choose another name"),
        ("crawlkit items runs/shop -o shop.xls", "use one of .jsonl"),
        ("crawlkit shell shop.example", "begin it with https:// or http://"),
    ],
)
def test_every_error_on_the_way_is_one_line_that_says_what_to_do(
    user: User, shop: ShopSite, command: str, remedy: str
) -> None:
    (user.directory / "shop.py").write_text(tutorial(shop))
    if not (user.directory / "runs" / "shop").exists():  # nobody has gone the way in this process
        user.runs("crawlkit run shop.py --max-pages 1")
    code = 1 if "stats" in command else 2
    (line,) = user.runs(command, code=code).splitlines()
    assert line.startswith("crawlkit: ")
    assert remedy in line

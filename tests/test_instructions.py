"""A page costs crawlkit no more instructions than it did, whatever else the machine is doing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .bench.instructions import Cost, main
from .bench.measure import ROOT

MOST = 0.58
"""Times the loop's instructions for a page: a fifth more than when this was written."""

LOOK = (
    "a page costs crawlkit {ours:.2f} million instructions, {ratio:.2f} of the loop's {loop:.2f}; "
    "it was to be at most {most:.2f}. What did it: compare `python -m tests.bench.instructions` "
    "with and without your change, and see the functions by `python -m cProfile -s tottime -m "
    "tests.bench.peers crawlkit TASK`. If a page is to cost more from now on, say so where "
    "tests/test_instructions.py has its bound."
)


@pytest.mark.needs("valgrind")
@pytest.mark.timeout(600)
def test_a_page_costs_crawlkit_fewer_instructions_than_the_loop_by_hand(tmp_path: Path) -> None:
    file = tmp_path / "instructions.json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.instructions", "--pages", "200", "--json", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "crawlkit" in done.stdout
    peers: dict[str, Any] = json.loads(file.read_text())["peers"]
    ours, loop = peers["crawlkit"], peers["loop"]
    assert loop["instructions_per_page"] > 1e6, "that is not what a page costs"
    assert ours["ratio"] <= MOST, LOOK.format(
        ours=ours["instructions_per_page"] / 1e6,
        loop=loop["instructions_per_page"] / 1e6,
        ratio=ours["ratio"],
        most=MOST,
    )


def test_start_up_is_no_part_of_what_a_page_costs() -> None:
    cost = Cost(few=50, many=250, few_instructions=1_100, many_instructions=1_500)
    assert cost.per_page == 2
    assert cost.fixed == 1_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--peers", "lopp"], "there is no peer 'lopp'; there are loop, crawlkit"),
        (["--peers", ","], "no peer is named; there are loop, crawlkit"),
        (["--pages", "1"], "give at least 2 pages"),
    ],
)
def test_what_cannot_be_counted_is_refused_in_one_line(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_without_valgrind_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert main([]) == 1
    assert "valgrind is not installed: apt-get install valgrind" in capsys.readouterr().err

"""Hostile and broken servers harm neither the crawl nor its other hosts.

A few rows of the table; ``python -m tests.faults.hostile`` plays all of it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.hostile.__main__ import complaints
from tests.faults.hostile.crawl import Found
from tests.faults.hostile.site import HEALTHY_PAGES
from tests.faults.hostile.table import QUICK, ROWS, TOO_MUCH, Row, judge

ROOT = Path(__file__).parent.parent


def play(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.faults.hostile", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def test_the_crawl_is_unharmed_by_a_few_of_each_kind() -> None:
    done = play("--quick")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(QUICK)} rows, 0 failed" in done.stdout


GOOD = Found(
    outcome="failed",
    error="LimitError",
    seconds=1,
    healthy=HEALTHY_PAGES,
    healthy_seconds=1,
    peak=100 * 2**20,
)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("outcome", "handled", "expected to fail"),
        ("outcome", "hung", "expected to fail"),
        ("error", "NetworkError", "expected to fail"),
        ("seconds", 3.7, "it took 3.7 s"),
        ("peak", 165 * 2**20, "65 MB more memory"),
        ("stall", 0.11, "stood still for 110 ms"),
        ("healthy", HEALTHY_PAGES - 1, "23 of 24 healthy pages"),
        ("healthy_seconds", 4.0, "the healthy pages took 4.0 s"),
    ],
)
def test_a_row_that_does_not_hold_says_why(name: str, value: object, reason: str) -> None:
    row = Row("bomb gzip", TOO_MUCH)
    assert judge(row, GOOD, GOOD, []) == []
    found = Found(**{field: getattr(GOOD, field) for field in GOOD.__struct_fields__})
    setattr(found, name, value)
    (wrong,) = judge(row, found, GOOD, [])
    assert reason in wrong


def test_a_log_that_steers_the_terminal_is_complained_of() -> None:
    assert complaints("WARNING: fine\n") == []
    assert complaints("red \x1b[31m\n") == ["control characters in the log"]
    assert complaints("Traceback (most recent call last):\n") == ["a traceback in the log"]


def test_the_quick_rows_are_rows_of_the_table() -> None:
    names = [row.name for row in ROWS]
    assert len(names) == len(set(names))
    assert set(QUICK) <= set(names)

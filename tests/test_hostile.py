"""Hostile and broken servers harm neither the crawl nor its other hosts.

The table is that of ``python -m tests.faults.hostile``, which plays some of its rows, too.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.hostile.__main__ import Table, complaints
from tests.faults.hostile.crawl import Found
from tests.faults.hostile.site import BEHAVIOURS, HEALTHY_PAGES
from tests.faults.hostile.table import QUICK, ROWS, TOO_MUCH, TOO_SLOW, Row, judge

ROOT = Path(__file__).parent.parent


@pytest.mark.timeout(420)  # it takes half a minute; a busy machine may need much longer
def test_a_crawl_is_unharmed_by_all_of_them() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.hostile"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ROWS)} rows, 0 failed" in done.stdout


GOOD = Found(
    outcome="failed",
    error="LimitError",
    seconds=1,
    healthy=HEALTHY_PAGES,
    healthy_seconds=1,
    peak=100 * 2**20,
)


def found(**changes: object) -> Found:
    values = {field: getattr(GOOD, field) for field in GOOD.__struct_fields__}
    return Found(**(values | changes))


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
        ("unprintable", ["stats"], "control characters in the output of stats"),
    ],
)
def test_a_row_that_does_not_hold_says_why(name: str, value: object, reason: str) -> None:
    row = Row("bomb gzip", TOO_MUCH)
    assert judge(row, GOOD, GOOD, []) == []
    (wrong,) = judge(row, found(**{name: value}), GOOD, [])
    assert reason in wrong.text


def test_a_crawl_is_not_blamed_for_time_in_which_it_got_no_processor() -> None:
    row = Row("bomb gzip", TOO_MUCH)
    assert judge(row, found(seconds=9.0, healthy_seconds=9.0, waited=8.0), GOOD, []) == []
    assert len(judge(row, found(seconds=9.0, healthy_seconds=9.0, waited=4.0), GOOD, [])) == 2


@pytest.mark.parametrize(
    ("changes", "is_played_again"),
    [
        ({"seconds": 3.7}, True),
        ({"stall": 0.11}, True),
        ({"healthy_seconds": 4.0}, True),
        ({"outcome": "hung"}, True),
        ({"error": "FetchTimeoutError", "errors": {"FetchTimeoutError": ""}}, True),
        ({"outcome": "handled", "error": ""}, False),
        ({"outcome": "handled", "error": "", "stall": 0.11}, False),
        ({"peak": 165 * 2**20}, False),
        ({"healthy": HEALTHY_PAGES - 1}, False),
        ({"unprintable": ["stats"]}, False),
    ],
)
@pytest.mark.parametrize("holds_alone", [True, False])
def test_only_what_a_busy_machine_explains_is_played_once_more(
    changes: dict[str, object],
    is_played_again: bool,
    holds_alone: bool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    results = [GOOD, found(**changes), GOOD if holds_alone else found(**changes)]
    monkeypatch.setattr("tests.faults.hostile.__main__.play", lambda *args: (results.pop(0), ""))
    table = Table({}, 0, tmp_path)
    table._baseline = GOOD
    failed = table.play_all([Row("bomb gzip", TOO_MUCH)], 1)
    assert failed == (not (is_played_again and holds_alone))
    assert len(results) == (not is_played_again)


def test_a_timeout_that_is_expected_excuses_nothing() -> None:
    late = found(error="FetchTimeoutError", errors={"FetchTimeoutError": ""}, peak=999 * 2**20)
    (wrong,) = judge(Row("endless body", TOO_SLOW), late, GOOD, [])
    assert not wrong.may_be_load


def test_a_log_that_steers_the_terminal_is_complained_of() -> None:
    assert complaints("WARNING: fine\n") == []
    assert complaints("red \x1b[31m\n") == ["control characters in the log"]
    assert complaints("Traceback (most recent call last):\n") == ["a traceback in the log"]


def test_the_quick_rows_are_rows_of_the_table() -> None:
    names = [row.name for row in ROWS]
    assert len(names) == len(set(names))
    assert set(QUICK) <= set(names)


def test_all_that_the_servers_do_is_in_the_table() -> None:
    assert {row.behaviour or row.name for row in ROWS} == set(BEHAVIOURS)

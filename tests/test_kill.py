"""kill -9 at any moment loses nothing and doubles nothing; see `tests.faults.kill`."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from .faults.kill import Check, table
from .faults.results import Result, differences


@pytest.mark.timeout(600)  # it takes a minute; a busy machine may need much longer
def test_twenty_kills_lose_nothing_double_nothing_and_change_no_counter(tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    reports = Check(20, seed).run(tmp_path)
    print(table(reports))
    assert [line for report in reports for line in report.wrong] == [], f"seed {seed}"
    assert sum(len(report.kills) for report in reports) == 20


# -- the check itself ------------------------------------------------------------------------------

WHOLE = Result(
    parts={
        "items": Counter({"lamp": 1, "rug": 1}),
        "outcomes": Counter({"/": 1, "/lamp": 1}),
        "counters": Counter({"requests_finished": 2, "retry_histogram.0": 2}),
    },
    statuses=Counter({200: 2}),
    bytes=100,
    wrong=[],
)


def changed(part: str, **counts: int) -> Result:
    return replace(WHOLE, parts={**WHOLE.parts, part: WHOLE.parts[part] + Counter(counts)})


def test_equal_results_have_no_difference() -> None:
    assert differences(WHOLE, replace(WHOLE)) == []


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (changed("items", lamp=1), "items too many: 1 x lamp"),
        (changed("items", lamp=-1), "items lost: 1 x lamp"),
        (changed("items", sofa=1), "items too many: 1 x sofa"),
        (changed("outcomes", **{"/": -1}), "outcomes lost: 1 x /"),
        (changed("counters", requests_finished=3), "counters too many: 3 x requests_finished"),
        (replace(WHOLE, wrong=["a torn line"]), "a torn line"),
    ],
)
def test_the_check_sees_what_is_lost_or_too_much(found: Result, line: str) -> None:
    assert differences(WHOLE, found) == [line]

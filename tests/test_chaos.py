"""Many workers on PostgreSQL, none of which is safe; `tests.faults.chaos` does it for longer."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from . import postgres
from .faults.chaos import check


@pytest.mark.needs("postgresql")
@pytest.mark.timeout(300)
def test_whatever_happens_to_workers_and_server_the_crawl_ends_as_if_nothing_had(
    tmp_path: Path,
) -> None:
    seed = random.randrange(10**6)
    report = check(
        postgres.server(),
        tmp_path,
        pages=600,
        hosts=12,
        workers=4,
        faults=8,
        pause=0.7,
        slow=(0.1, 0.3),
        pace=0.15,
        paced_pages=20,
        seed=seed,
    )
    assert report.wrong == [], f"seed {seed}: {report.history}"
    assert report.started > 4

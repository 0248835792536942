"""A crawl goes on where its host and the host's disk are gone; see `tests.faults.migration`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from .faults.migration import HOMES, TRIGGERS, Check


@pytest.mark.timeout(300)
def test_a_crawl_is_carried_to_a_host_that_never_saw_its_disk(tmp_path: Path) -> None:
    """By each trigger, and by none at all: nothing is lost, nothing is there twice."""
    seed = random.randrange(10**6)
    homes = list(HOMES)
    random.Random(seed).shuffle(homes)
    moves = [(homes[n % len(homes)], trigger) for n, trigger in enumerate(TRIGGERS)]
    done = Check(seed).run(tmp_path, moves, lanes=3)
    assert [finding for move in done for finding in move.wrong] == [], f"seed {seed}"

"""A run whose files were damaged goes on rightly, or says so; see `tests.faults.damage`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from .faults import damage


@pytest.fixture(autouse=True)
def _without_log() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_a_damaged_run_ends_with_the_right_items_or_says_which_file_is_damaged(
    tmp_path: Path,
) -> None:
    assert damage.check(60, 7, tmp_path) == 0


def test_the_check_would_find_a_run_that_lost_an_item(tmp_path: Path) -> None:
    run = tmp_path / "run"
    damage.Made(store=run, output=run / "items.jsonl", max_pages=damage.PAGES - 1).run()
    assert damage.wrong_items(run)

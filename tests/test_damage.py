"""A run whose files were damaged goes on rightly, or says so; see `tests.faults.damage`."""

from __future__ import annotations

import logging
import sys
import typing
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


CODE = {"exec", "compile", "marshal.load", "marshal.loads", "pickle.find_class", "code.__new__"}
"""What the interpreter tells its audit hooks whenever code is made or run from data."""


def test_no_code_comes_from_the_files_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(damage, "COMMAND_LINE_EVERY", 1_000_000)
    (tmp_path / "first").mkdir()
    assert damage.check(10, 5, tmp_path / "first") == 0  # whatever is imported late is imported
    heard: set[str] = set()
    is_listening = True

    def listen(event: str, _: object) -> None:
        # The types of options are read from their annotations, which are ours.
        if (
            is_listening
            and event in CODE
            and sys._getframe(1).f_code.co_filename != typing.__file__
        ):
            heard.add(event)

    sys.addaudithook(listen)  # for good; so it is told when to stop
    try:
        (tmp_path / "second").mkdir()
        assert damage.check(40, 6, tmp_path / "second") == 0
        assert heard == set()
        eval("0")
        assert heard == {"exec", "compile"}
    finally:
        is_listening = False

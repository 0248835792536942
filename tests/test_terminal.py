"""Whatever a server wrote, it steers no terminal: neither in lines nor in JSON nor in the log."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from crawlkit import Crawler, Page, open_run
from crawlkit.cli import main
from crawlkit.cli.output import harmless
from crawlkit.errors import one_line, printable
from crawlkit.testing import Site

EVIL = "red\x1b[31m c1\x9b2J bidi\u202e\u2028 del\x7f tag\U000e0001 \r\nline"

VERBS = [
    ("stats",),
    ("stats", "--json"),
    ("failed", "ls"),
    ("failed", "ls", "--json"),
    ("failed", "show", "GROUP"),
    ("failed", "show", "GROUP", "--json"),
    ("stats", "--lives"),
    ("items",),
    ("items", "--json"),
    ("items", "--meta"),
    ("state", "ls"),
    ("state", "ls", "--json"),
    ("state", "get", EVIL),
    ("state", "get", EVIL, "--json"),
    ("check",),
]


class Evil(Crawler):
    name = "evil"
    max_retries = 0
    obey_robots = False

    async def parse(self, page: Page) -> None:
        page.save({EVIL: page.text})
        await self.set_value(EVIL, EVIL)
        page.follow("/fails", handler=self.fail)

    async def fail(self, page: Page) -> None:
        raise RuntimeError(page.text)

    def on_failed(self, request: object, error: Exception) -> None:
        raise RuntimeError(f"cannot tell of {error}")


@pytest.fixture
def store(tmp_path: Path, site: Site, caplog: pytest.LogCaptureFixture) -> Path:
    site.add_page("/", EVIL)
    site.add_page("/fails", EVIL)
    store = tmp_path / "run"
    with caplog.at_level(logging.DEBUG):
        Evil(store=store, start_urls=[site.url("/")]).run()
    return store


def only_prints(text: str) -> bool:
    return all(letter.isprintable() or letter == "\n" for letter in text)


def test_nothing_that_a_verb_prints_steers_the_terminal(store: Path) -> None:
    with open_run(store) as run:
        (group,) = (error.id for error in run.errors())
    for verb, *words in VERBS:
        rest = [group if word == "GROUP" else word for word in words]
        result = CliRunner().invoke(main, [verb, str(store), *rest])
        assert result.exit_code == 0, result.output
        assert only_prints(result.output), (verb, rest, result.output)


def test_json_still_says_what_the_server_wrote(store: Path) -> None:
    lines = CliRunner().invoke(main, ["items", str(store)]).stdout.splitlines()
    assert [list(json.loads(line)) for line in lines] == [[EVIL]]
    value = CliRunner().invoke(main, ["state", str(store), "get", EVIL]).stdout
    assert json.loads(value) == EVIL


def test_nothing_in_the_log_steers_the_terminal(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = [record.getMessage() for record in caplog.get_records("setup")]
    assert any("cannot tell of" in message for message in told)
    assert all(map(str.isprintable, told))


@given(st.text())
def test_text_is_made_printable_and_told_on_one_line(text: str) -> None:
    assert printable(text).isprintable()
    assert (printable(text) == text) == text.isprintable()
    assert one_line(RuntimeError(text)).isprintable()


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_harmless_json_is_the_same_json(value: object) -> None:
    try:
        encoded = msgspec.json.encode(value)
    except UnicodeEncodeError:
        return  # lone surrogates are in no item
    assert json.loads(harmless(encoded)) == value
    assert harmless(encoded).decode().isprintable()

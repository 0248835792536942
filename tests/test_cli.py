"""The command line does what it says, and says in one line what it does not do."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

import crawlkit
from crawlkit import figures
from crawlkit.checkpoint import Checkpoint, Item, Outcome
from crawlkit.cli import main, read
from crawlkit.cli.examples import EXAMPLES, SUMMARIES
from crawlkit.cli.output import size, span
from crawlkit.counting.errorgroups import group_id
from crawlkit.run import load_statistics, open_run
from crawlkit.stores.sqlite import SqliteStore
from crawlkit.testing import Site

from .test_pytest_plugin import PLUGIN
from .test_run import SITE, live, write_run
from .test_sqlite import crawlkit as unprivileged

ROOT = Path(__file__).parent.parent

GROUP = group_id(("ValueError", "shop.py:7", "no price"))
"""The one group of errors of `write_run`."""

SHOP = """\
from crawlkit import Crawler

class Shop(Crawler):
    async def parse(self, page):
        page.save({"title": page.css("title::text").get()})
        page.follow("a")
"""


def invoke(*words: object, **options: Any) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], **options)


def ok(*words: object) -> str:
    result = invoke(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


def fails(code: int, *words: object) -> str:
    """The one line on standard error."""
    result = invoke(*words)
    assert result.exit_code == code, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("crawlkit: ")
    return line.removeprefix("crawlkit: ")


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def address() -> str:
    asyncio.run(write_run(Path("runs/shop")))
    return "runs/shop"


@pytest.fixture
def shop_file() -> Path:
    Path("shop.py").write_text(SHOP)
    return Path("shop.py")


# -- the whole ------------------------------------------------------------------------------------


def test_help_does_not_wait_for_what_it_does_not_need() -> None:
    code = (
        "import sys; from crawlkit.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "slow = {'aiohttp', 'parsel', 'lxml', 'rich', 'uvloop', 'publicsuffixlist', 'diskcache'}\n"
        "sys.exit(','.join(slow & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "run a crawler" in done.stdout.lower()


def test_python_m_crawlkit_is_crawlkit() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "crawlkit", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"crawlkit {crawlkit.__version__}\n"


def commands(
    command: click.Command = main, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from commands(found, (*path, name))


def shown(command: click.Command) -> list[click.Parameter]:
    """Those that are for users; what a supervisor tells its workers is not."""
    return [p for p in command.params if not getattr(p, "hidden", False)]


@pytest.mark.parametrize(
    ("path", "command"), [pytest.param(p, c, id=" ".join(p) or "crawlkit") for p, c in commands()]
)
def test_the_documentation_has_every_verb_and_every_option(
    path: tuple[str, ...], command: click.Command
) -> None:
    text = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    heading = " (?:RUN|DIR) ".join(path)
    found = re.search(rf"^##+ {heading}\b.*?(?=^##)", f"{text}\n## ", re.MULTILINE | re.DOTALL)
    section = found[0] if path and found else text
    assert found or not path, f"there is no section on {heading!r}"
    for parameter in shown(command):
        for name in (*parameter.opts, *parameter.secondary_opts):
            if name == "--debug":
                assert name in text
            elif name.startswith("-"):
                above = text if len(path) == 2 and path[0] == "failed" else section
                assert f"`{name}" in above or name in section, f"{heading} {name}"


@pytest.mark.parametrize(
    ("path", "command"), [pytest.param(p, c, id=" ".join(p)) for p, c in commands() if p]
)
def test_every_verb_says_what_it_does(path: tuple[str, ...], command: click.Command) -> None:
    assert command.help
    for parameter in shown(command):
        assert isinstance(parameter, click.Argument) or parameter.help


@pytest.mark.parametrize(
    ("path", "command"), [pytest.param(p, c, id=" ".join(p)) for p, c in commands() if p]
)
def test_the_help_of_every_verb_ends_with_an_example_that_works(
    path: tuple[str, ...], command: click.Command
) -> None:
    name = " ".join(path)
    lines = EXAMPLES[name]
    words = ["RUN", *path[1:]] if len(path) > 1 else []
    told = ok(path[0], *words, "--help") + "\n"
    assert all(f"\n  {line}\n" in told for line in lines)
    for line in lines:
        first, verb, *rest = shlex.split(re.split("[|>]", line)[0], comments=True)
        assert (first, verb) == ("crawlkit", path[0])
        found = main.get_command(click.Context(main), verb)
        assert found is not None
        if isinstance(found, click.Group):
            run_of, inner, *rest = rest
            assert not run_of.startswith("-")
            found = found.get_command(click.Context(found), inner)
            assert found is not None
        found.make_parser(click.Context(found)).parse_args(rest)  # raises where it makes no sense


@pytest.mark.parametrize("name", SUMMARIES)
def test_the_list_of_verbs_says_what_their_own_help_says(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.help is not None
    assert command.help.replace("\n", " ").startswith(SUMMARIES[name].removesuffix("."))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("crawlkit sh", "shell"),
        ("crawlkit stats runs/", "runs/shop"),
        ("crawlkit run shop.py --set dela", "delay="),
        ("crawlkit run shop.py --log-f", "--log-format"),
        ("crawlkit failed runs/shop re", "retry"),
    ],
)
def test_a_shell_completes_verbs_runs_and_options(
    address: str,
    words: str,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    monkeypatch.setenv("_CRAWLKIT_COMPLETE", "bash_complete")
    with pytest.raises(SystemExit):
        main(prog_name="crawlkit")
    assert capsys.readouterr().out == f"plain,{expected}\n"


def test_verbs_that_read_print_json(address: str) -> None:
    for words in (
        ["stats", address],
        ["stats", address, "--diff", address],
        ["items", address],
        ["why", address, f"{SITE}/"],
        ["failed", address, "ls"],
        ["state", address, "ls"],
        ["state", address, "get", "state"],
        ["check", address],
    ):
        json.loads(ok(*words, "--json"))


@pytest.mark.parametrize(
    "words",
    [
        ["stats"],
        ["items"],
        ["why", f"{SITE}/"],
        ["failed", "ls"],
        ["failed", "retry"],
        ["state", "ls"],
        ["state", "set", "a", "1"],
        ["check"],
    ],
)
def test_a_run_that_does_not_exist_is_one_line_and_is_not_made(words: list[str]) -> None:
    message = fails(1, words[0], "runs/none", *words[1:])
    assert message.startswith("there is no run in runs/none")
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["statss", "x"], "there is no verb 'statss'; did you mean stats"),
        (["frobnicate"], "there is no verb 'frobnicate'; see 'crawlkit --help'"),
        (["shop.py"], "did you mean 'crawlkit run shop.py'?"),
        (["crawlers/shop.py:Shop"], "did you mean 'crawlkit run crawlers/shop.py:Shop'?"),
        (["failed", "runs/x", "retri"], "there is no verb 'retri'; did you mean retry?"),
        (["failed", "ls", "runs/x"], "did you mean 'crawlkit failed runs/x ls'?"),
        (["failed", "runs/x"], "say what to do: ls, show, retry, drop; see"),
        (["stats"], "Missing argument 'RUN'; see 'crawlkit stats --help'"),
        (
            ["run", "shop.py", "--sett", "a=1"],
            "there is no option --sett; did you mean --set or --",
        ),
        (["stats", "runs/x", "--hots", "3"], "there is no option --hots; did you mean --hosts?"),
        (["run"], "Missing argument 'TARGET'; see 'crawlkit run --help'"),
        (["run", "shop.py", "--concurrency", "0"], "'--concurrency': 0 is not in the range"),
    ],
)
def test_a_command_that_makes_no_sense_is_one_line(words: list[str], message: str) -> None:
    assert message in fails(2, *words)


def test_whoever_asks_for_help_by_that_word_is_told_where_it_is() -> None:
    assert fails(2, "help") == "there is no verb 'help'; see 'crawlkit --help'"


def test_an_option_that_is_none_of_a_users_is_not_proposed() -> None:
    assert "--seat" not in fails(2, "run", "shop.py", "--sett", "a=1")


def test_debug_shows_the_traceback(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(address: str) -> None:
        raise RuntimeError("at\nfault")

    monkeypatch.setattr(read, "open_run", broken)
    assert "this is a bug of crawlkit" in fails(1, "stats", address)
    result = invoke("stats", address, "--debug")
    assert isinstance(result.exception, RuntimeError)
    assert result.exception.__traceback__ is not None


# -- streams --------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
@pytest.mark.parametrize(
    "words", ["items runs/shop", "failed runs/shop ls", "run shop.py", "run shop.py --dashboard 0"]
)
def test_a_stream_that_is_closed_changes_neither_the_exit_code_nor_anything_else(
    address: str, shop_file: Path, words: str, closed: str
) -> None:
    script = f"exec {shlex.quote(sys.executable)} -m crawlkit {words} {closed}"
    if words.startswith("run"):
        script += " --store runs/other"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "bug of crawlkit" not in done.stderr
    if words.startswith("run"):
        assert ok("check", "runs/other") == "runs/other: all is well\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_crawl_goes_on_where_what_it_says_cannot_be_written(shop_file: Path, site: Site) -> None:
    site.add_page("/")
    words = [sys.executable, "-m", "crawlkit", "run", "shop.py", site.url("/"), "--dashboard", "0"]
    with open("/dev/full", "w") as full:
        assert (
            subprocess.run(words, stdout=full, stderr=subprocess.PIPE, check=False).returncode == 0
        )
    assert len(ok("items", "runs/shop").splitlines()) == 1


def test_what_the_encoding_of_the_terminal_does_not_have_is_escaped(site: Site) -> None:
    site.add_page("/", "<title>10 \u20ac</title>")
    Path("shop.py").write_text(SHOP.replace("class Shop", "class Gr\u00fcn"), encoding="utf-8")
    words = [sys.executable, "-m", "crawlkit", "run", "shop.py", site.url("/")]
    done = subprocess.run(
        [*words, "--show", "--no-progress"],
        env=environment() | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "finished gr\\xfcn" in done.stdout
    assert "10 \\u20ac" in done.stdout


def test_ctrl_c_while_a_verb_reads_is_one_line(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(address: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(read, "open_run", interrupted)
    assert fails(130, "items", address) == "stopped"

    def interrupted_in_an_import(address: str) -> None:
        raise RuntimeError("Error calling __set_name__") from KeyboardInterrupt()

    monkeypatch.setattr(read, "open_run", interrupted_in_an_import)
    assert fails(130, "items", address) == "stopped"


def test_ctrl_c_before_anything_was_begun_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt")  # in the midst of the imports
    done = subprocess.run(
        [sys.executable, "-m", "crawlkit", "stats", "runs/shop"],
        env=environment() | {"PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (130, "crawlkit: stopped\n")


# -- stats, items, why --------------------------------------------------------------------------


def test_stats_prints_the_attributes_of_the_statistics(address: str) -> None:
    assert json.loads(ok("stats", address, "--json")) == load_statistics(address).to_dict()


def test_stats_tells_a_person_what_matters(address: str) -> None:
    text = ok("stats", address)
    assert text.startswith("runs/shop: stopped; started at 2023-11-14T22:13:20.000Z")
    assert "requests    1 finished, 1 failed, 3 pending\n" in text
    assert "skipped     1 scope\n" in text
    assert "1 x ValueError: no price (shop.py:7)" in text
    with live(Path(address)):
        assert ok("stats", address).startswith("runs/shop: running")


def test_stats_tells_as_many_hosts_apart_as_one_wants(address: str) -> None:
    assert "shop.example" in ok("stats", address).partition("by host")[2]
    assert "by host" not in ok("stats", address, "--hosts", 0)
    assert json.loads(ok("stats", address, "--hosts", 0, "--json"))["by_host"] == {}


def test_stats_compares_two_runs(address: str) -> None:
    asyncio.run(write_run(Path("runs/other")))
    assert "have the same numbers" in ok("stats", address, "--diff", "runs/other")
    ok("failed", "runs/other", "retry")
    differing = json.loads(ok("stats", address, "--diff", "runs/other", "--json"))
    assert differing["requests_failed"] == {"this": 1, "other": 0, "change": 1}
    assert differing["pending"]["change"] == -1
    text = ok("stats", address, "--diff", "runs/other")
    assert re.search(r"^requests_failed +1 +0 +\+1$", text, re.MULTILINE)


def test_items_are_json_lines_of_the_saved_fields_only(address: str) -> None:
    lines = ok("items", address).splitlines()
    assert [json.loads(line) for line in lines] == [{"title": "Lamp"}, {"title": "Rug"}]
    assert json.loads(ok("items", address, "--json")) == [{"title": "Lamp"}, {"title": "Rug"}]


def test_items_can_be_told_by_handler_and_where_they_came_from(address: str) -> None:
    (item,) = json.loads(ok("items", address, "--handler", "parse_item", "--meta", "--json"))
    assert (item["title"], item["_url"], item["_handler"]) == ("Rug", f"{SITE}/", "parse_item")


def test_items_go_to_a_file_in_the_form_of_its_ending(address: str) -> None:
    result = invoke("items", address, "-o", "items.csv")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "2 items written to items.csv\n"
    assert Path("items.csv").read_text().splitlines() == ["title", "Lamp", "Rug"]
    assert "use one of .jsonl" in fails(2, "items", address, "-o", "items.xls")


def test_a_reader_that_has_had_enough_ends_items_silently(tmp_path: Path) -> None:
    async def write() -> None:
        store = SqliteStore(str(tmp_path / "long"))
        await store.open()
        data = b'{"text":"%b"}' % (b"x" * 1000)
        await store.commit(Checkpoint(items=[Item(data, SITE, "parse", 0.0)] * 1000))
        await store.close()

    asyncio.run(write())
    script = f"{shlex.quote(sys.executable)} -m crawlkit items long | head -n 1 | wc -l; "
    script += "echo ${PIPESTATUS[0]}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout.split(), done.stderr) == (["1", "0"], "")


def test_why_explains_a_url(address: str) -> None:
    assert ok("why", address, f"{SITE}/later") == f"{SITE}/later: pending, for parse\n"
    assert f"crawlkit failed {address} retry --url" in ok("why", address, f"{SITE}/broken")
    assert json.loads(ok("why", address, f"{SITE}/again", "--json")) == {
        "url": f"{SITE}/again",
        "outcome": "pending",
        "canonical": f"{SITE}/again",
        "handler": "parse",
        "status": None,
        "at": None,
        "due": "2023-11-14T22:14:20.000Z",
        "duration": None,
        "retries": 1,
        "error": None,
        "detail": None,
        "group": None,
    }
    assert "no scheme" in fails(2, "why", address, "shop.example")


def test_what_a_page_sends_does_not_steer_the_terminal(address: str) -> None:
    assert "\x1b" not in ok("why", address, f"{SITE}/\x1b[31m")


# -- names that a run does not have -------------------------------------------------------------


@pytest.mark.parametrize("form", [[], ["--json"], ["-o", "items.csv", "--no-progress"]])
def test_a_handler_that_saved_no_items_is_told_with_those_that_did(
    address: str, form: list[str]
) -> None:
    result = invoke("items", address, "--handler", "parse_lamp", *form)
    assert (result.exit_code, result.stdout.split()) == (0, ["[]"] if form == ["--json"] else [])
    assert result.stderr.splitlines()[-1] == (
        "runs/shop has no items of the handler 'parse_lamp'; there is parse (2)"
    )
    assert invoke("items", address, "--handler", "parse").stderr == ""


def test_a_field_that_no_item_has_is_told_with_those_that_there_are(address: str) -> None:
    result = invoke("items", address, "-o", "items.csv", "--split", "titel")
    assert result.stderr.splitlines() == [
        "2 items written to items-none.csv",
        "no item of runs/shop has the field 'titel'; there is title (2)",
    ]
    result = invoke("items", address, "-o", "items.csv", "--split", "title")
    assert [line.partition(" to ")[2] for line in result.stderr.splitlines()] == [
        "items-Lamp.csv",
        "items-Rug.csv",
    ]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--error StatusError", "has the error 'StatusError'; there is ValueError (1)"),
        ("--handler parse", "is for the handler 'parse'; there is parse_item (1)"),
        ("--host example", "is to the host 'example'; there is shop.example (1)"),
        ("--status 404 --error ValueError", "has the status 404; there is 200 (1)"),
        (f"--url {SITE}/", f"has the URL {SITE}/; 'crawlkit why runs/shop {SITE}/' says"),
    ],
)
@pytest.mark.parametrize("verb", ["ls", "ls --json", "retry", "drop"])
def test_what_no_failed_request_fits_is_told_with_what_there_is(
    address: str, verb: str, words: str, told: str
) -> None:
    result = invoke("failed", address, *verb.split(), *words.split())
    assert result.exit_code == 0
    assert f"no failed request of runs/shop {told}" in result.stderr.splitlines()[-1]
    assert not set(result.stdout.splitlines()) & set(result.stderr.splitlines())
    if verb == "ls --json":
        assert json.loads(result.stdout) == []


def test_where_nothing_has_failed_no_names_are_missed(address: str) -> None:
    ok("failed", address, "retry")
    (line,) = invoke("failed", address, "ls").stderr.splitlines()
    assert line == "0 failed requests"
    told = invoke("failed", address, "ls", "--json", "--host", "example").stderr
    assert told == "no request of runs/shop has failed\n"


def test_filters_that_fit_one_by_one_and_not_together_are_told(tmp_path: Path) -> None:
    async def write() -> None:
        store = SqliteStore(str(tmp_path / "two"))
        await store.open()
        failures = [
            Outcome("failed", f"{SITE}/{n}", n, "shop.example", 0.0, handler, status)
            for n, (handler, status) in enumerate([("parse", 404), ("parse_item", 500)])
        ]
        await store.commit(Checkpoint(outcomes=failures))
        await store.close()

    asyncio.run(write())
    assert invoke("failed", "two", "ls", "--handler", "parse").stderr == "1 failed request\n"
    result = invoke("failed", "two", "ls", "--json", "--handler", "parse", "--status", "500")
    assert result.stderr == (
        "no failed request of two fits all of --handler, --status, though some fit each of them\n"
    )


# -- failed -------------------------------------------------------------------------------------


def test_failed_requests_are_listed_with_their_errors(address: str) -> None:
    line = f"{GROUP}  ValueError  parse_item  {SITE}/broken  ValueError: no price\n"
    assert ok("failed", address, "ls") == line
    (request,) = json.loads(ok("failed", address, "ls", "--json"))
    assert (request["url"], request["retries"]) == (f"{SITE}/broken", 3)
    assert (request["group"], request["detail"]) == (GROUP, "ValueError: no price")


@pytest.mark.parametrize(
    ("option", "right", "wrong"),
    [
        ("--error", "ValueError", "StatusError"),
        ("--handler", "parse_item", "parse"),
        ("--host", "shop.example", "example"),
        ("--status", "200", "404"),
        ("--url", "https://SHOP.example/broken#x", "https://shop.example/"),
    ],
)
def test_failed_requests_can_be_chosen(address: str, option: str, right: str, wrong: str) -> None:
    assert ok("failed", address, "ls", option, wrong) == ""
    assert "broken" in ok("failed", address, "ls", option, right)
    assert ok("failed", address, "retry", option, wrong).startswith("0 requests")
    assert ok("failed", address, "drop", option, right).startswith("1 request of")


def test_failed_requests_of_one_group_of_errors_can_be_chosen(address: str) -> None:
    assert "broken" in ok("failed", address, "ls", "--group", GROUP)
    assert f"there is {GROUP}" in fails(2, "failed", address, "retry", "--group", "zz")
    assert ok("failed", address, "retry", "--group", GROUP[:3]).startswith("1 request put back")


def test_a_failed_request_that_is_put_back_is_pending_with_all_its_retries(address: str) -> None:
    assert ok("failed", address, "retry").startswith("1 request put back")
    with open_run(address) as run:
        assert run.why(f"{SITE}/broken").outcome == "pending"
        assert run.why(f"{SITE}/broken").retries == 0
        assert (run.statistics.requests_failed, run.statistics.pending) == (0, 4)
        assert run.statistics.by_handler["parse_item"].requests_failed == 0
    assert ok("check", address) == f"{address}: all is well\n"


def test_a_failed_request_that_is_dropped_is_skipped(address: str) -> None:
    assert "--all" in fails(2, "failed", address, "drop")
    ok("failed", address, "drop", "--all")
    with open_run(address) as run:
        assert run.why(f"{SITE}/broken").outcome == "skipped"
        assert run.why(f"{SITE}/broken").detail == "dropped"
        assert (run.statistics.requests_failed, run.statistics.pending) == (0, 3)
        assert run.statistics.skipped_by_reason["dropped"] == 1
    assert ok("check", address) == f"{address}: all is well\n"


@pytest.mark.parametrize(
    "words", [["failed", "retry"], ["failed", "drop", "--all"], ["state", "set", "a", "1"]]
)
def test_a_run_that_is_being_written_is_not_changed_from_outside(
    address: str, words: list[str]
) -> None:
    before = load_statistics(address).to_dict()
    with live(Path(address)):
        message = fails(1, words[0], address, *words[1:])
    assert f"is being written by process {os.getpid()}" in message
    assert load_statistics(address).to_dict() == before


# -- state, check ---------------------------------------------------------------------------------


def test_what_is_saved_can_be_listed_and_printed(address: str) -> None:
    keys = [entry["key"] for entry in json.loads(ok("state", address, "ls", "--json"))]
    assert keys == [
        "queue/in_flight",
        "state",
        "statistics",
        "statistics/lives",
        "values/rates",
        "values/rates/old",
    ]
    assert re.search(r"^state +version 1 +10 B$", ok("state", address, "ls"), re.MULTILINE)
    assert json.loads(ok("state", address, "get", "state")) == {"page": 3}
    assert json.loads(ok("state", address, "get", "rates")) == {"EUR": 1.1}
    assert ok("state", address, "get", "values/rates", "--json") == '{"EUR":1.1}\n'
    assert "crawlkit state runs/shop ls" in fails(2, "state", address, "get", "rate")


def test_what_is_set_is_found_by_the_next_life(address: str) -> None:
    ok("state", address, "set", "rates", '{"EUR": 1.2}')
    ok("state", address, "set", "new", '"text"')
    ok("state", address, "set", "state", '{"page": 4}')
    with open_run(address) as run:
        assert run.value("rates") == {"EUR": 1.2}
        assert run.value("new") == "text"
        assert run.state == {"page": 4}


def test_what_cannot_be_set_is_refused_with_how_to_write_it(address: str) -> None:
    assert "double quotes" in fails(2, "state", address, "set", "new", "text")
    assert "it is an object" in fails(2, "state", address, "set", "state", "[1]")
    before = ok("state", address, "get", "statistics")
    assert (
        "keeps an object of a part under 'statistics', and would not go on with a number; write "
        "values/statistics for a value of your own"
    ) in fails(2, "state", address, "set", "statistics", "5")
    assert ok("state", address, "get", "statistics") == before
    ok("state", address, "set", "values/statistics", "5")
    ok("state", address, "set", "rates", "5")  # an object before, and a value of the crawler's own
    with open_run(address) as run:
        assert (run.value("new"), run.state) == (None, {"page": 3})


def test_check_finds_damage_and_exits_with_1(address: str) -> None:
    with sqlite3.connect(f"{address}/run.sqlite3") as database:
        database.execute("UPDATE items SET data = replace(data, 'Rug', 'Rag')")
    database.close()
    result = invoke("check", address)
    assert result.exit_code == 1
    assert "item 2 is not what was saved" in result.stdout.splitlines()
    told = json.loads(invoke("check", address, "--json").stdout)
    assert not told["ok"]
    assert "item 2 is not what was saved" in told["findings"]


def test_a_verb_without_a_run_names_those_that_there_are(address: str) -> None:
    assert fails(2, "stats") == "name a run; there is runs/shop"
    assert (
        fails(2, address)
        == f"there is no verb '{address}'; did you mean 'crawlkit stats {address}'?"
    )


def test_run_without_a_target_names_the_files_that_there_are(shop_file: Path) -> None:
    Path("test_shop.py").touch()
    assert fails(2, "run") == "name a crawler; there is shop.py"


# -- new ----------------------------------------------------------------------------------------


def test_a_new_crawler_runs_as_it_is_and_its_test_passes(site: Site) -> None:
    site.add_page("/", links=["/a"])
    site.add_page("/a")
    ok("new", "my-shop", "--url", site.url("/"))
    assert "2 pages, 2 items" in ok("run", "my_shop.py")
    titles = [json.loads(line)["title"] for line in ok("items", "runs/my-shop").splitlines()]
    assert titles == ["/", "/a"]
    options = ["-q", "-p", "no:cacheprovider", *PLUGIN, "test_my_shop.py"]
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", *options], check=True, capture_output=True, text=True
    )
    assert "2 passed" in tested.stdout


def test_new_never_overwrites_anything() -> None:
    Path("test_shop.py").write_text("mine")
    assert "test_shop.py exists already" in fails(2, "new", "shop")
    assert Path("test_shop.py").read_text() == "mine"
    assert not Path("shop.py").exists()


@pytest.mark.parametrize("name", ["", "7", "class", "../x/."])
def test_a_name_that_cannot_be_a_module_is_refused(name: str) -> None:
    before = list(Path().iterdir())
    assert "cannot name a Python module" in fails(2, "new", name)
    assert "such as 'my_shop'" in fails(2, "new", "my shop!")
    assert list(Path().iterdir()) == before


# -- files that cannot be written -----------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["export", "runs/shop", "there"],
        ["report", "runs/shop", "-o", "there"],
        ["items", "runs/shop", "-o", "there.csv"],
        ["run", "shop.py", "--store", "runs/other", "--output", "there.jsonl"],
    ],
)
def test_a_device_or_a_pipe_is_not_replaced_by_a_file(
    address: str, shop_file: Path, words: list[str]
) -> None:
    os.mkfifo(words[-1])
    told = invoke(*words).stderr.splitlines()[-1]
    assert f"{words[-1]} cannot be written: it is a device or a pipe; choose another" in told or (
        f"{words[-1]}: it is a device or a pipe; choose another --output" in told
    )
    assert Path(words[-1]).is_fifo()
    assert not list(Path().glob(".there*"))


@pytest.mark.parametrize("path", ["", ".", "/", "nowhere/file"])
def test_a_place_where_no_file_can_be_is_one_line(address: str, path: str) -> None:
    for words in (["export", address, path], ["report", address, "-o", path]):
        assert "cannot be written: " in fails(1, *words)


# -- run: what it refuses -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("shpo.py", "there is no file shpo.py; did you mean shop.py?"),
        ("shpo", "there is no module shpo; did you mean shop?"),
        (".", "'.' is neither a file nor a module"),
        ("./", ". is a directory; name a file in it"),
        ("broken.py", "broken.py:2: syntax error: '(' was never closed"),
        ("raises.py", "raises.py:2: the target cannot be imported: KeyError: 'price'"),
        ("exits.py", "exits.py:1: the target cannot be imported: SystemExit: 3"),
        ("imports.py", "imports.py:1: the target cannot be imported: ModuleNotFoundError"),
        ("none.py", "there is no crawler in none.py; write a class that inherits crawlkit.Crawler"),
        ("two.py", "there are several crawlers in two.py (One, Two); say which: two.py:One"),
        ("shop.py:Shpo", "there is no class Shpo in shop.py; did you mean Shop?"),
        ("none.py:helper", "helper in none.py is no crawler"),
        ("two.py:Request", "Request in two.py is no crawler"),
        ("bytes.py", "bytes.py: syntax error: source code string cannot contain null bytes"),
        ("https://shop.example/", "is a URL, and the first word is the crawler; put it before"),
    ],
)
def test_a_target_that_is_no_crawler_is_refused_in_one_line(
    shop_file: Path, target: str, message: str
) -> None:
    for name, text in {
        "broken": "x = 1\nrun(\n",
        "raises": "prices = {}\nprices['price']\n",
        "exits": "raise SystemExit(3)\n",
        "imports": "import does_not_exist\n",
        "none": "from crawlkit import Crawler\ndef helper(): pass\n",
        "bytes": "x = '\0'\n",
        "two": "from crawlkit import Crawler, Request\n"
        "class Base(Crawler): pass\nclass One(Base): pass\nclass Two(Base): pass\n",
    }.items():
        Path(f"{name}.py").write_text(text)
    assert message in fails(2, "run", target)
    assert not Path("runs").exists()


@pytest.mark.needs("setpriv")
def test_where_one_may_not_look_or_write_is_one_line(shop_file: Path) -> None:
    closed = Path("closed")
    closed.mkdir()
    shop_file.rename(closed / "shop.py")
    closed.chmod(0)
    done = unprivileged("run", "closed/shop.py", cwd=Path.cwd())
    assert (done.returncode, done.stderr) == (
        2,
        "crawlkit: closed/shop.py cannot be read: Permission denied; see who may read it, and its "
        "directory\n",
    )
    closed.chmod(0o555)
    done = unprivileged("new", "lamp", cwd=closed)
    assert (done.returncode, done.stderr) == (
        1,
        "crawlkit: lamp.py cannot be written: Permission denied; go to a directory of yours\n",
    )
    closed.chmod(0o755)


def test_a_target_may_be_a_module_or_a_file_of_a_package(site: Site) -> None:
    site.add_page("/")
    package = Path("clitarget/crawlers")
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "base.py").write_text("NAME = 'from-a-package'")
    text = SHOP.replace("class Shop(Crawler):", "class Shop(Crawler):\n    name = NAME")
    (package / "shop.py").write_text(f"from .base import NAME\n{text}")
    for target in (
        "clitarget.crawlers.shop",
        "clitarget/crawlers/shop.py",
        "clitarget.crawlers.shop:Shop",
    ):
        assert "from-a-package" in ok("run", target, site.url("/"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "dealy=1"], "there is no option 'dealy'; did you mean delay?"),
        (["--set", "delay"], "--set delay has no value; write --set delay=VALUE"),
        (["--set", "delay=slow"], "delay cannot be 'slow'; give a number"),
        (["--set", "max_pages=x"], "max_pages cannot be 'x'; give a whole number or none"),
        (
            ["--set", "store=runs/a"],
            "--set store=runs/a is none of the settings; write --store runs/a",
        ),
        (["--set", "auth=me"], "auth cannot be given as text; set it in the crawler's class"),
        (["--set", "scope=any"], "give same-host, same-domain, same-origin or all"),
        (["--set", "accept_status=x"], "give whole numbers, with commas between them"),
        (["--output", "items.txt"], "items.txt"),
        (["shop.example"], "it has no scheme; begin it with https:// or http://"),
        (["ftp://shop.example/"], "its scheme is 'ftp'"),
        (["--store", "mysql://x/y"], "no store has the address"),
        (["--store", ""], "no store has the address ''; name a directory such as runs/shop"),
        (["--set", "store=runs/x"], "--set store=runs/x is none of the settings; write --store"),
        (["--set"], "Option '--set' requires an argument; see 'crawlkit run --help'"),
        (["--dashboard", "99999"], "no page can be served at '99999'; give a port"),
        (["--mirror", "runs/shop"], "is the directory of the run itself; name another one"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_is_done(
    shop_file: Path, options: list[str], message: str
) -> None:
    assert message in fails(2, "run", shop_file, *options)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ("(self): self.seen = 0", "does not call that of Crawler; write: def __init__"),
        ("(self, seen): super().__init__()", "does not take the options of a crawler (missing a"),
    ],
)
def test_an_init_that_cannot_work_is_refused_with_what_to_write(init: str, message: str) -> None:
    Path("shop.py").write_text(
        f"from crawlkit import Crawler\nclass Shop(Crawler):\n    def __init__{init}\n"
    )
    assert message in fails(2, "run", "shop.py")
    shell = fails(2, "shell", "http://x.test/", "--crawler", "shop.py", "-c", "1")
    assert "write: def __init__(self, **options): super().__init__(**options)" in shell
    assert not Path("runs").exists()


def test_a_file_of_items_that_cannot_be_made_is_refused_before_anything_is_fetched(
    shop_file: Path, site: Site
) -> None:
    site.add_page("/")
    Path("taken").touch()
    for address in ("taken/items.csv", "taken/items.jsonl"):
        assert "items" in fails(
            2 if "jsonl" in address else 1, "run", shop_file, "--output", address
        )
    assert site.hits() == 0


def test_the_directory_of_a_file_of_items_is_made(shop_file: Path, site: Site) -> None:
    site.add_page("/")
    for ending in ("csv", "jsonl"):
        ok(
            "run",
            shop_file,
            site.url("/"),
            "--output",
            f"new/{ending}/items.{ending}",
            "--fresh",
            "--yes",
        )
        assert Path(f"new/{ending}/items.{ending}").exists()


# -- run: what it does ----------------------------------------------------------------------------


def test_a_run_says_that_it_starts_and_what_came_of_it(shop_file: Path, site: Site) -> None:
    site.add_page("/", links=["/a", "/broken"])
    site.add_page("/a")
    site.add_page("/broken", status=404)
    text = ok("run", shop_file, site.url("/"))
    assert text.startswith("starting shop in runs/shop\nfinished shop after ")
    assert ": 2 pages, 2 items, 1 failed, 0 pending\n" in text
    assert "most errors: 1 x StatusError: HTTP 404" in text
    assert "crawlkit items runs/shop" in text
    assert "crawlkit failed runs/shop ls" in text


def test_a_run_goes_on_where_it_was_and_says_so(shop_file: Path, site: Site) -> None:
    for number in range(10):
        site.add_page(f"/{number}", links=[f"/{number + 1}"])
    site.add_page("/10")
    ok("run", shop_file, site.url("/0"), "--max-pages", 4, "--concurrency", 1)
    text = ok("run", shop_file, site.url("/0"))
    assert text.startswith("resuming shop: 4 done, 1 pending\n")
    assert "in 2 lives: 11 pages, 11 items" in text
    assert site.hits() == 11
    assert "it was finished at" in ok("run", shop_file, site.url("/0"))
    assert site.hits() == 11


def test_fresh_throws_away_items_only_if_that_is_meant(shop_file: Path, site: Site) -> None:
    site.add_page("/")
    words = ["run", shop_file, site.url("/"), "--fresh"]
    ok(*words)  # there is nothing to lose yet
    message = fails(2, *words)
    assert message.startswith("--fresh would throw away 1 item of runs/shop; add --yes")
    assert site.hits() == 1
    assert ok(*words, "--yes").startswith("starting shop")
    assert load_statistics("runs/shop").lives == 1


def test_fresh_asks_where_there_is_somebody_to_ask(
    shop_file: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.add_page("/")
    words = ["run", "shop.py", site.url("/"), "--fresh"]
    ok(*words)

    monkeypatch.setattr("crawlkit.cli.run._is_anybody_there", lambda: True)
    no = invoke(*words, input="n\n")
    assert no.exit_code == 2
    assert "runs/shop holds 1 item. Throw them away? [y/N]" in no.stderr
    assert "nothing was changed" in no.stderr
    assert load_statistics("runs/shop").items_saved == 1
    assert invoke(*words, input="y\n").stdout.startswith("starting shop")


def test_a_mistake_in_the_crawler_is_told_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text(
        "from crawlkit import Crawler\n"
        "class Wrong(Crawler):\n"
        "    def on_start(self):\n"
        "        {}['key']\n"
    )
    assert fails(1, "run", "wrong.py").startswith("wrong.py:4: KeyError: 'key'; --debug")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "def parse(self, page): page.follow('a', handler='parse_lmp')",
            "did you mean parse_lamp?",
        ),
        ("def parse(self, page): page.follow('a', handler=self.parse_lmp)", "mean parse_lamp?"),
        ("def parse(self, page): page.follow('a', handler=lambda page: 1)", "pass a method of the"),
        ("def parse(self, page): yield {}", "Shop.parse has a yield, and would do nothing; call"),
        ("async def parse(self, page): yield {}", "in its place"),
        (
            "def parse(self, page): page.follow('a', handler=self.give)\n"
            "    def give(self, page): yield 1",
            "Shop.give has a yield",
        ),
        ("def prase(self, page): pass", "Shop has no handler 'parse'; did you mean prase?"),
        ("dealy = 3\n    def parse(self, page): pass", "Shop.dealy is no option; is it delay?"),
        ("start_url = '/'\n    def parse(self, page): pass", "is no option; is it start_urls?"),
    ],
)
def test_a_mistake_in_a_crawler_is_told_with_what_was_meant(
    body: str, message: str, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.add_page("/", links=["/lamp"])
    site.add_page("/lamp")
    Path("shop.py").write_text(
        f"from crawlkit import Crawler\nclass Shop(Crawler):\n    {body}\n"
        "    def parse_lamp(self, page): pass\n"
    )
    ok("run", "shop.py", site.url("/"), "--set", "max_retries=0")
    assert message in caplog.text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("start_urls = 5", "start_urls cannot be of type int; give a list of URLs"),
        ("start_urls = [None]", "start_urls cannot have a NoneType; give URLs as text"),
        ("sitemaps = None", "sitemaps cannot be of type NoneType; give a list of URLs"),
        ("accept_status = 404", "accept_status cannot be of type int; give a list of numbers, suc"),
        ("accept_status = ['404']", "accept_status cannot have a str; give numbers, such as 404"),
        ("auth = 'user:password'", "auth cannot be of type str; give a dict"),
        ("headers = ['a']", "headers cannot be of type list; give a dict"),
        ("user_agent = None", "user_agent cannot be of type NoneType; give text"),
        ("output = 5", "output cannot be of type int; give a path"),
        ("obey_robots = 'no'", "obey_robots cannot be of type str; give True or False"),
        ("timeout = None", "timeout cannot be None; give a number from 0.001 on"),
        (
            "def on_finish(self): pass",
            "many positional arguments); write: def on_finish(self, stat",
        ),
        ("def on_error(self, e): pass", "write: def on_error(self, request, error)"),
        ("def on_start(self, page): pass", "write: def on_start(self)"),
        ("on_start = 5", "Shop.on_start cannot be called as it has to be (5 is not a callable"),
        ("def parse(self): pass", "write: def parse(self, page)"),
    ],
)
def test_what_is_of_another_kind_is_refused_before_anything_is_fetched(
    site: Site, line: str, message: str
) -> None:
    Path("shop.py").write_text(f"from crawlkit import Crawler\nclass Shop(Crawler):\n    {line}\n")
    assert message in fails(2, "run", "shop.py")
    assert not Path("runs").exists()


def test_a_hook_is_asked_for_what_its_decorator_takes(site: Site) -> None:
    site.add_page("/")
    Path("shop.py").write_text(
        "from functools import wraps\nfrom crawlkit import Crawler\n"
        "def with_prices(function):\n"
        "    @wraps(function)\n"
        "    def wrapper(self, *given): return function(self, *given, {'lamp': 1})\n"
        "    return wrapper\n"
        "class Shop(Crawler):\n"
        "    max_pages = None\n"
        "    start_urls = (url for url in ['" + site.url("/") + "'])\n"
        "    @with_prices\n"
        "    def parse(self, page, prices): page.save(prices)\n"
    )
    ok("run", "shop.py")
    assert ok("items", "runs/shop") == '{"lamp":1}\n'


@pytest.mark.parametrize(
    ("start", "code", "message"),
    [
        ("start_requests(self): return 5", 2, "start_requests gives a list of URLs or requests, "),
        ("start_requests(self): pass", 2, "or yields them, and no NoneType"),
        ("on_start(self): raise asyncio.CancelledError", 1, "shop.py:4: RuntimeError: something t"),
        ("on_finish(self, s): raise asyncio.CancelledError", 1, "shop.py:4: RuntimeError: someth"),
    ],
)
def test_a_start_or_an_end_that_goes_wrong_is_one_line(
    site: Site, start: str, code: int, message: str
) -> None:
    sync = "" if start.startswith("start") else "async "
    Path("shop.py").write_text(
        "import asyncio\nfrom crawlkit import Crawler\nclass Shop(Crawler):\n"
        f"    {sync}def {start}\n    def parse(self, page): pass\n"
    )
    site.add_page("/")
    assert message in fails(code, "run", "shop.py", site.url("/"))


def test_a_handler_that_was_renamed_is_named_in_the_next_life(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.add_page("/", links=["/lamp"])
    site.add_page("/lamp")
    text = (
        "from crawlkit import Crawler\nclass Shop(Crawler):\n"
        "    def parse(self, page): page.follow('a', handler=self.parse_lamp)\n"
        "    def parse_lamp(self, page): pass\n"
    )
    Path("shop.py").write_text(text)
    ok("run", "shop.py", site.url("/"), "--max-pages", 1)
    Path("shop.py").write_text(text.replace("parse_lamp", "parse_lamps"))
    ok("run", "shop.py", site.url("/"))
    assert (
        "no handler 'parse_lamp', which a saved request asks for; rename parse_lamps" in caplog.text
    )
    assert "failed runs/shop retry' tries what failed again" in ok("run", "shop.py", site.url("/"))


def test_options_reach_the_crawler(shop_file: Path, site: Site) -> None:
    site.add_page("/", links=["/a"])
    site.add_page("/a", links=["/b"])
    store = Path("elsewhere")
    options = ["--store", store, "--output", "out.jsonl", "--set", "max_depth=1", "--no-progress"]
    text = ok("run", shop_file, site.url("/"), *options, "--grace", "1", "--log-level", "error")
    assert "2 pages" in text
    assert "(and in out.jsonl)" in text
    assert len(Path("out.jsonl").read_text().splitlines()) == 2
    assert load_statistics(store).skipped_by_reason == {"max_depth": 1}


def test_a_crawl_that_is_stopped_exits_with_75_and_says_how_to_go_on(
    shop_file: Path, site: Site
) -> None:
    for number in range(30):
        site.add_page(f"/{number}", links=[f"/{number + 1}"], delay=0.05)
    site.add_page("/30")
    words = ["run", str(shop_file), site.url("/0"), "--set", "persist_interval=0.1"]
    crawl = subprocess.Popen(
        [sys.executable, "-m", "crawlkit", *words],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    wait_until(lambda: site.hits() > 3)
    crawl.send_signal(signal.SIGINT)
    output, _ = crawl.communicate(timeout=60)
    assert crawl.returncode == 75
    command = re.search(r"^go on with: +python -m crawlkit (.*)$", output, re.MULTILINE)
    assert command is not None
    assert shlex.split(command[1]) == words
    assert ok(*words).startswith("resuming shop: ")
    assert len(ok("items", "runs/shop").splitlines()) == 31


def test_a_crawl_whose_output_nobody_reads_goes_on_and_ends_with_its_own_code(
    shop_file: Path, site: Site
) -> None:
    for number in range(30):
        site.add_page(f"/{number}", links=[f"/{number + 1}"], delay=0.05)
    site.add_page("/30")
    words = ["run", str(shop_file), site.url("/0"), "--set", "persist_interval=0.1", "--show"]

    def start() -> subprocess.Popen[str]:
        crawl = subprocess.Popen(
            [sys.executable, "-m", "crawlkit", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        assert crawl.stdout is not None
        crawl.stdout.close()
        return crawl

    with start() as crawl:
        wait_until(lambda: site.hits() > 3)
        crawl.send_signal(signal.SIGINT)
        assert crawl.stderr is not None
        assert "failed" not in crawl.stderr.read()
    assert crawl.returncode == 75
    with start() as crawl:
        pass
    assert crawl.returncode == 0
    assert load_statistics("runs/shop").items_saved == 31


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("COV")}


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# -- how it looks -------------------------------------------------------------------------------


def test_progress_without_a_terminal_goes_to_the_log(
    shop_file: Path, site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.add_page("/", delay=1.2)
    monkeypatch.setattr("crawlkit.cli.progress.LOG_INTERVAL", 0.0)
    with caplog.at_level(logging.INFO, "crawlkit.progress"):
        ok("run", shop_file, site.url("/"))
    assert any("in flight" in line for line in caplog.messages)
    caplog.clear()
    with caplog.at_level(logging.INFO, "crawlkit.progress"):
        ok("run", shop_file, site.url("/"), "--fresh", "--yes", "--no-progress")
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0021, "2.1 ms"),
        (0.35, "350 ms"),
        (1.35, "1.35 s"),
        (12.34, "12.3 s"),
        (245, "4 min 05 s"),
        (3599.9, "1 h 00 min"),
        (11_520, "3 h 12 min"),
        (200_000, "2 d 7 h"),
    ],
)
def test_durations_are_told_in_two_units_at_most(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (77_531, "77.5 kB"), (3 * 10**12, "3.0 TB")]
)
def test_sizes_are_told_in_the_unit_that_fits(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1_234_567, "1,234,567"),
        (0.0, "0.00"),
        (0.00153, "0.0015"),
        (-0.0042, "-0.0042"),
        (12.345, "12.35"),
    ],
)
def test_small_numbers_are_told_with_digits_that_say_something(value: float, text: str) -> None:
    assert figures.number(value) == text

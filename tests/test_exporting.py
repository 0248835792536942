"""Items leave a run streamed and whole, into every form, to any address, in one file or many."""

from __future__ import annotations

import builtins
import contextlib
import csv
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import msgspec
import pandas as pd
import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from crawlkit import Crawler, Page, open_run
from crawlkit.cli import main
from crawlkit.errors import CrawlkitError, OptionError, UsageError
from crawlkit.exporting.export import FILES, export_items, passes_of, split_items
from crawlkit.exporting.forms import STEP
from crawlkit.exporting.shapes import MAX_FIELDS, Table, as_text
from crawlkit.stores.base import StoredItem
from crawlkit.testing import Site

from .bench.exporting import LIMIT, measure


def stored(*items: dict[str, Any], handler: str = "parse") -> list[StoredItem]:
    return [
        StoredItem(number, msgspec.json.encode(item), "https://a.example/", handler, 1.7e9)
        for number, item in enumerate(items, 1)
    ]


def read_csv(path: Path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as lines:
        return list(csv.reader(lines))


# -- every form, in constant memory --------------------------------------------------------------


def test_an_export_takes_bounded_memory_and_equals_what_is_stored(tmp_path: Path) -> None:
    """`python -m tests.bench.exporting` is the same with a million items."""
    for row in measure(tmp_path, 10_000, ["csv", "parquet"]):
        assert (row.form, row.wrong) == (row.form, "")
        assert row.memory < LIMIT


# -- types of columns ----------------------------------------------------------------------------

ROWS: list[dict[str, Any]] = [
    {"n": 1, "x": 1, "t": "a", "b": True, "list": [1], "o": {"a": 1}, "mixed": 1, "big": 2**60},
    {"n": -5, "x": 0.5, "t": None, "b": None, "list": [], "o": {"b": "x"}, "mixed": "text"},
    {"n": None, "x": None, "none": None, "list": None, "mixed": [1, {"a": None}], "big": 0.25},
    {"o": None, "empty": {}, "deep": [[{"x": [1.5]}], []]},
]


def test_columns_have_the_types_that_fit_all_items(tmp_path: Path) -> None:
    file = tmp_path / "items.parquet"
    assert export_items(stored(*ROWS), file) == len(ROWS)
    frame = pl.read_parquet(file)
    assert dict(frame.schema) == {
        "n": pl.Int64,
        "x": pl.Float64,
        "t": pl.String,
        "b": pl.Boolean,
        "list": pl.List(pl.Int64),
        "o": pl.Struct({"a": pl.Int64, "b": pl.String}),
        "mixed": pl.String,
        # A float cannot hold every whole number of this size, so it is no column of floats.
        "big": pl.String,
        "none": pl.String,
        "empty": pl.String,
        "deep": pl.List(pl.List(pl.Struct({"x": pl.List(pl.Float64)}))),
    }
    assert frame["mixed"].to_list() == ["1", "text", '[1,{"a":null}]', None]
    assert frame["big"].to_list() == [str(2**60), None, "0.25", None]
    assert frame["o"].to_list() == [{"a": 1, "b": None}, {"a": None, "b": "x"}, None, None]
    assert frame["deep"].to_list() == [None, None, None, [[{"x": [1.5]}], []]]


def test_an_object_whose_names_are_data_is_text(tmp_path: Path) -> None:
    file = tmp_path / "items.parquet"
    prices = [{"prices": {f"day {n}": n for n in range(MAX_FIELDS + 1)}}, {"prices": {"day 0": 1}}]
    export_items(stored(*prices), file)
    assert list(map(json.loads, pl.read_parquet(file)["prices"])) == [p["prices"] for p in prices]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def matches(found: Any, value: Any) -> bool:
    """Whether a value of a typed column is what was saved."""
    if isinstance(found, str) and not isinstance(value, str):
        return bool(json.loads(found) == value)
    if isinstance(value, dict) and isinstance(found, dict):
        rest = (found[name] for name in found.keys() - value.keys())
        same = all(matches(found[name], value[name]) for name in value)
        return same and all(each is None for each in rest)
    if isinstance(value, list) and isinstance(found, list):
        return len(found) == len(value) and all(map(matches, found, value))
    return bool(found == value)


@given(st.lists(st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3), max_size=5))
def test_whatever_items_hold_is_in_the_parquet_file(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    rows = [json.loads(msgspec.json.encode(row)) for row in rows]
    rows = [row for row in rows if row]
    file = tmp_path_factory.mktemp("p") / "items.parquet"
    export_items(stored(*rows), file)
    # Its own reader, as polars knows no column without a value.
    import pyarrow.parquet as pq

    found = pq.read_table(file).to_pylist()
    assert len(found) == (len(rows) if rows else 0)
    for one, row in zip(found, rows, strict=True):
        assert matches({k: v for k, v in one.items() if v is not None or k in row}, row)


def test_types_do_not_depend_on_the_order_of_items() -> None:
    columns = []
    for rows in (ROWS, ROWS[::-1]):
        table = Table()
        for row in rows:
            table.see(row)
        columns.append(table.columns())
    assert columns[0] == columns[1]


# -- several files -------------------------------------------------------------------------------


def test_items_are_split_by_handler(tmp_path: Path) -> None:
    items = [*stored({"a": 1}), *stored({"b": 2}, {"b": 3}, handler="parse_item")]
    written = split_items(items, tmp_path / "items.csv", "handler")
    one, other = tmp_path / "items-parse.csv", tmp_path / "items-parse_item.csv"
    assert written == {str(one): 1, str(other): 2}
    assert (read_csv(one), read_csv(other)) == ([["a"], ["1"]], [["b"], ["2"], ["3"]])


def test_items_are_split_by_a_field_whose_values_lead_out_of_no_directory(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    names = ["lamp", "../../x", "a/b", "\x00\n", "x" * 500, "x" * 501, None, 7, "ä ö"]
    items = stored(*({"type": name} for name in names), {"other": 1})
    split_items(items, home / "items.jsonl", "type")
    assert list(tmp_path.iterdir()) == [home]
    files = {file.name for file in home.iterdir()}
    assert {"items-lamp.jsonl", "items-none.jsonl", "items-7.jsonl"} < files
    assert len(files) == len(names)
    assert all(len(name) < 120 for name in files)
    found = [json.loads(line) for file in home.iterdir() for line in file.read_text().splitlines()]
    assert len(found) == len(items)


def test_too_many_files_are_refused_and_none_is_left(tmp_path: Path) -> None:
    items = stored(*({"n": n} for n in range(FILES + 1)))
    with pytest.raises(OptionError, match=f"more than {FILES} values"):
        split_items(items, tmp_path / "items.csv", "n")
    assert list(tmp_path.iterdir()) == []


# -- other addresses -----------------------------------------------------------------------------


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet"])
def test_items_go_to_any_address_that_fsspec_knows(memory: Any, ending: str) -> None:
    address = f"memory://bucket/items.{ending}"
    assert export_items(stored({"a": 1}, {"a": 2}), address) == 2
    with fsspec.open(address) as file:
        data = file.read()
    assert data
    assert memory.ls("/bucket", detail=False) == [f"/bucket/items.{ending}"]


def test_what_fails_is_not_there_at_another_address_either(memory: Any) -> None:
    def broken() -> Iterator[StoredItem]:
        yield from stored({"a": 1})
        raise RuntimeError("the store is gone")

    with pytest.raises(RuntimeError):
        export_items(broken(), "memory://bucket/items.csv")
    assert memory.find("/") == []


def test_an_address_that_nobody_knows_is_refused_in_one_line() -> None:
    with pytest.raises(OptionError, match="cannot be written to: "):
        export_items([], "nothing://bucket/items.csv")


@pytest.mark.parametrize(
    ("module", "address", "extra"),
    [("fsspec", "memory://x/items.csv", "remote"), ("pyarrow", "items.parquet", "parquet")],
)
def test_what_is_not_installed_is_named_with_the_way_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, address: str, extra: str
) -> None:
    monkeypatch.chdir(tmp_path)
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == module:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, "crawlkit.exporting.parquet", raising=False)
    with pytest.raises(OptionError, match=rf"pip install 'crawlkit\[{extra}\]'"):
        export_items(stored({"a": 1}), address)
    assert list(tmp_path.iterdir()) == []


# -- whole or not at all -------------------------------------------------------------------------


def test_what_a_killed_export_has_left_is_written_over(tmp_path: Path) -> None:
    file = tmp_path / "items.csv"
    (tmp_path / ".items.csv.part").write_text("half of a file, and more than the next one has")
    export_items(stored({"a": 1}), file)
    assert [path.name for path in tmp_path.iterdir()] == ["items.csv"]
    assert read_csv(file) == [["a"], ["1"]]


def test_two_exports_to_one_file_do_not_mix(tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"

    def meanwhile() -> Iterator[StoredItem]:
        with pytest.raises(CrawlkitError, match="being written by another process"):
            export_items(stored({"b": 1}), file)
        yield from stored({"a": 1})

    export_items(meanwhile(), file)
    assert json.loads(file.read_text()) == {"a": 1}


# -- progress ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_progress_comes_to_all_items_in_each_pass(tmp_path: Path, ending: str) -> None:
    steps: list[int] = []
    items = stored(*({"n": n} for n in range(STEP * 2 + 7)))
    file = tmp_path / f"items.{ending}"
    export_items(items, file, on_progress=steps.append)
    assert sum(steps) == len(items) * passes_of(file)
    assert max(steps) <= STEP


# -- frames --------------------------------------------------------------------------------------


class Shop(Crawler):
    async def parse(self, page: Page) -> None:
        page.follow("a", handler=self.parse_item)

    async def parse_item(self, page: Page) -> None:
        number = int(page.url[-1])
        page.save({"n": number, "price": number / 2, "tags": ["x"] * number, "gap": None})


@pytest.fixture
def address(site: Site, tmp_path: Path) -> str:
    site.add_page("/", links=["/1", "/2", "/3"])
    for name in ("/1", "/2", "/3"):
        site.add_page(name)
    store = tmp_path / "run"
    Shop(start_urls=[site.url("/")], store=store, concurrency=1).run()
    return str(store)


def test_items_are_a_frame_of_polars(address: str) -> None:
    with open_run(address) as run:
        frame = run.items_frame(library="polars").sort("n")
        assert frame.to_dicts() == sorted(run.items(), key=lambda item: item["n"])
        assert frame.schema["price"] == pl.Float64
        assert "_handler" in run.items_frame(meta=True).columns
        assert len(run.items_frame(handler="parse")) == 0


def test_items_are_a_frame_of_pandas(address: str) -> None:
    with open_run(address) as run:
        frame = run.items_frame("pandas").sort_values("n")
        assert list(frame["n"]) == [1, 2, 3]
        assert list(frame["tags"]) == [["x"], ["x", "x"], ["x", "x", "x"]]
        assert (str(frame["n"].dtype), frame["gap"].isna().all()) == ("Int64", True)
        assert isinstance(run.items_frame("pandas", handler="none"), pd.DataFrame)


def test_a_frame_without_its_library_says_how_to_get_it(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_run(address) as run:
        with pytest.raises(UsageError, match="use polars or pandas"):
            run.items_frame("excel")  # type: ignore[arg-type]
        monkeypatch.setattr("crawlkit.exporting.frames.find_spec", lambda name: None)
        with pytest.raises(OptionError, match=r"crawlkit\[polars\]"):
            run.items_frame()
        with pytest.raises(OptionError, match=r"crawlkit\[pandas\]"):
            run.items_frame("pandas")


def test_text_of_a_mixed_column_is_json_but_for_text() -> None:
    assert [as_text(value) for value in (None, "a", 1, [True], {"a": "ä"})] == [
        None,
        "a",
        "1",
        "[true]",
        '{"a":"ä"}',
    ]


# -- on the command line -------------------------------------------------------------------------


def test_the_items_verb_writes_each_form_and_splits_them(address: str, tmp_path: Path) -> None:
    for words in (
        ["-o", str(tmp_path / "items.parquet")],
        ["-o", str(tmp_path / "items.jsonl"), "--split", "n", "--no-progress"],
    ):
        result = CliRunner().invoke(main, ["items", address, *words])
        assert result.exit_code == 0, result.output
    assert len(pl.read_parquet(tmp_path / "items.parquet")) == 3
    assert "1 item written to" in result.stderr
    assert json.loads((tmp_path / "items-2.jsonl").read_text())["n"] == 2
    result = CliRunner().invoke(main, ["items", address, "--split", "n"])
    assert (result.exit_code, "add -o FILE" in result.stderr) == (2, True)


@pytest.mark.parametrize("is_shown", [True, False])
def test_a_terminal_shows_how_far_it_has_come(address: str, tmp_path: Path, is_shown: bool) -> None:
    terminal, stderr = pty.openpty()
    command = [sys.executable, "-m", "crawlkit", "items", address]
    command += ["-o", str(tmp_path / "items.csv"), *([] if is_shown else ["--no-progress"])]
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80"}
    try:
        subprocess.run(command, stderr=stderr, env=env, check=True)
        os.close(stderr)
        shown = b""
        with contextlib.suppress(OSError):  # the end, on Linux
            while piece := os.read(terminal, 4096):
                shown += piece
    finally:
        os.close(terminal)
    assert b"3 items written to" in shown
    assert (b"6/6" in shown) == is_shown  # three items, gone through twice


def test_parquet_does_not_bring_pandas_along(address: str, tmp_path: Path) -> None:
    """It would take 50 MB of memory, and a second."""
    file = tmp_path / "items.parquet"
    code = (
        "import sys; from crawlkit.cli import main\n"
        f"try: main(['items', {address!r}, '-o', {str(file)!r}])\n"
        "except SystemExit: pass\n"
        "sys.exit(','.join({'pandas', 'polars'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# -- the file of a crawl -------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["csv", "parquet", "json"])
def test_a_file_that_needs_all_items_is_made_when_the_crawl_has_ended(
    site: Site, tmp_path: Path, ending: str
) -> None:
    site.add_page("/", links=["/1", "/2"])
    for name in ("/1", "/2"):
        site.add_page(name)
    file = tmp_path / f"items.{ending}"
    crawler = Shop(start_urls=[site.url("/")], store=tmp_path / "run", output=file)
    assert (crawler.run(), crawler.is_output_written) == (0, True)
    with open_run(tmp_path / "run") as run:
        export_items(run.stored_items(), tmp_path / f"other.{ending}")
    assert file.read_bytes() == (tmp_path / f"other.{ending}").read_bytes()


@pytest.mark.parametrize("how", ["abort", "migrate"])
async def test_a_crawl_that_is_stopped_makes_its_file_if_there_is_time(
    tmp_path: Path, how: str
) -> None:
    async with Site() as site:
        site.add_page("/", links=["/1", "/2"])
        site.add_page("/1")
        site.add_page("/2", delay=30)
        file = tmp_path / "items.csv"
        crawler = Shop(start_urls=[site.url("/")], store=tmp_path / "run", output=file, grace=0.1)

        async def stop(event: Any) -> None:
            if event.request.url.endswith("/1"):
                await getattr(crawler.job, how)()

        crawler.on("requestHandled", stop)
        await crawler.crawl()
    assert crawler.exit_code == 75
    assert (file.exists(), crawler.is_output_written) == (how == "abort", how == "abort")
    if how == "abort":
        assert read_csv(file)[1:] == [["1", "0.5", '["x"]', ""]]


def test_a_file_that_could_not_be_made_is_refused_before_the_crawl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OptionError, match="no ending that items can be written to"):
        Shop(store="memory:", output="items.xlsx")
    monkeypatch.setattr("crawlkit.exporting.export.find_spec", lambda name: None)
    for address in ("items.parquet", "s3://bucket/items.csv"):
        with pytest.raises(OptionError, match="pip install"):
            Shop(store="memory:", output=address)


def test_a_file_that_cannot_be_written_at_the_end_costs_no_item(site: Site, tmp_path: Path) -> None:
    site.add_page("/", links=["/1"])
    site.add_page("/1")
    store = tmp_path / "run"
    crawler = Shop(start_urls=[site.url("/")], store=store, output=tmp_path / "items.csv")
    (tmp_path / "items.csv").mkdir()
    with pytest.raises(CrawlkitError, match=r"cannot be written.*crawlkit items .* -o FILE"):
        crawler.run()
    with open_run(store) as run:
        assert (run.statistics.finished_at is not None, len(list(run.items()))) == (True, 1)

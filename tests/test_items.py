"""Items go in as JSON or not at all, and come out as they were, in a file that is whole."""

from __future__ import annotations

import csv
import dataclasses
import datetime
import decimal
import enum
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

import attrs
import msgspec
import pydantic
import pytest

from crawlkit.errors import CrawlkitError, ItemError, OptionError, UsageError
from crawlkit.exporting.export import export_items
from crawlkit.items import ItemType, decode_item, encode_item
from crawlkit.stores.base import StoredItem


@dataclasses.dataclass
class Data:
    title: str
    price: float = 0.0
    seen: datetime.datetime | None = None


class Model(pydantic.BaseModel):
    title: str
    price: float = 0.0
    seen: datetime.datetime | None = None


class Struct(msgspec.Struct):
    title: str
    price: float = 0.0
    seen: datetime.datetime | None = None


@attrs.define
class Attrs:
    title: str
    price: float = 0.0
    seen: datetime.datetime | None = None


class Typed(TypedDict, total=False):
    title: str
    price: float
    seen: datetime.datetime | None


TYPES = [Data, Model, Struct, Attrs, Typed]
MOMENT = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


# -- in -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("type", TYPES)
def test_every_kind_of_item_becomes_the_same_json(type: Any) -> None:
    item = type(title="Lamp", price=2.5, seen=MOMENT)
    assert json.loads(encode_item(item)) == {
        "title": "Lamp",
        "price": 2.5,
        "seen": "2026-01-02T03:04:05Z",
    }


def test_values_that_json_does_not_know_have_a_usual_form() -> None:
    class Color(enum.Enum):
        RED = "red"

    item = {
        "price": decimal.Decimal("2.50"),
        "id": uuid.UUID(int=7),
        "day": datetime.date(2026, 1, 2),
        "tags": {"one"},
        "color": Color.RED,
        "offers": [Data("a"), Model(title="b"), {"c": (1, None)}],
    }
    assert json.loads(encode_item(item)) == {
        "price": "2.50",
        "id": "00000000-0000-0000-0000-000000000007",
        "day": "2026-01-02",
        "tags": ["one"],
        "color": "red",
        "offers": [
            {"title": "a", "price": 0.0, "seen": None},
            {"title": "b", "price": 0.0, "seen": None},
            {"c": [1, None]},
        ],
    }


def circular() -> dict[str, Any]:
    item: dict[str, Any] = {}
    item["self"] = item
    return item


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("text", "not a str"),
        (["a", "list"], "not a list"),
        (None, "not a NoneType"),
        (7, "not an int"),
        (Data, "a type is nothing that JSON can hold"),
        ({"title": object()}, "field 'title': an object is nothing that JSON can hold"),
        ({"a": 1, "b": {"c": [lambda: 0]}}, "field 'b': a function"),
        ({"title": "\ud800"}, "field 'title': .*surrogates"),
        ({(1, 2): 3}, r"field \(1, 2\)"),
        (circular(), "field 'self'"),
    ],
)
def test_what_is_no_item_is_refused_in_one_line_that_names_the_field(
    item: Any, message: str
) -> None:
    with pytest.raises(ItemError, match=message) as caught:
        encode_item(item)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("type", TYPES)
def test_a_dict_that_fits_the_item_type_is_converted_to_it(type: Any) -> None:
    item = {"title": "Lamp", "seen": "2026-01-02T03:04:05Z", "price": 2}
    converted = json.loads(ItemType(type).encode(item))
    assert converted == {"title": "Lamp", "seen": "2026-01-02T03:04:05Z", "price": 2.0}


@pytest.mark.parametrize("type", [Data, Model, Struct, Attrs])
def test_what_an_item_leaves_out_has_the_default_of_its_type(type: Any) -> None:
    expected = {"title": "Lamp", "price": 0.0, "seen": None}
    assert json.loads(ItemType(type).encode({"title": "Lamp"})) == expected
    assert json.loads(ItemType(type).encode(type(title="Lamp"))) == expected


@pytest.mark.parametrize("type", TYPES)
def test_an_item_that_does_not_fit_is_refused_with_field_and_reason(type: Any) -> None:
    with pytest.raises(ItemError, match=rf"no {type.__name__}: field 'price': .*(float|number)"):
        ItemType(type).encode({"title": "Lamp", "price": "cheap"})


@pytest.mark.parametrize("type", [Data, Model, Struct, Attrs])
def test_a_field_that_is_missing_is_named(type: Any) -> None:
    with pytest.raises(ItemError, match="title"):
        ItemType(type).encode({"price": 1.0})


@pytest.mark.parametrize("type", [Data, Struct, Attrs, Typed])
def test_a_field_that_the_type_does_not_have_is_not_dropped_silently(type: Any) -> None:
    with pytest.raises(ItemError, match=f"no {type.__name__}: it has no field 'prise'"):
        ItemType(type).encode({"title": "Lamp", "prise": 2.5})


def test_a_pydantic_class_decides_by_itself_what_it_takes() -> None:
    assert json.loads(ItemType(Model).encode({"title": "Lamp", "prise": 1, "price": "2.5"})) == {
        "title": "Lamp",
        "price": 2.5,
        "seen": None,
    }


def test_an_object_is_checked_too_since_its_constructor_did_not() -> None:
    with pytest.raises(ItemError, match="field 'price'"):
        ItemType(Data).encode(Data("Lamp", price="cheap"))  # type: ignore[arg-type]


def test_an_object_of_another_class_fits_if_its_fields_do() -> None:
    assert json.loads(ItemType(Struct).encode(Data("Lamp"))) == json.loads(
        ItemType(Model).encode(Data("Lamp"))
    )


@pytest.mark.parametrize("type", [int, dict, object, "Data", list[Data]])
def test_what_cannot_be_an_item_type_is_refused_at_once(type: Any) -> None:
    with pytest.raises(UsageError, match="use a dataclass"):
        ItemType(type)


# -- out ----------------------------------------------------------------------------------------


def stored(*items: dict[str, Any]) -> Iterator[StoredItem]:
    """A stream that can be read once, as that of a store."""
    for number, item in enumerate(items, 1):
        url = f"https://a.example/{number}"
        yield StoredItem(number, json.dumps(item).encode(), url, "parse", 1_700_000_000.0)


LAMP = {"title": "Lamp, “blue”\nnew", "price": 2.5, "tags": ["a", "b"], "stock": None}
RUG = {"title": "Rug", "size": {"w": 1}, "sold": True}


@pytest.mark.parametrize("ending", [".jsonl", ".ndjson", ".JSONL"])
def test_json_lines_hold_one_item_a_line(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"items{ending}"
    assert export_items(stored(LAMP, RUG), file) == 2
    assert [json.loads(line) for line in file.read_text().splitlines()] == [LAMP, RUG]


@pytest.mark.parametrize("items", [(), (LAMP,), (LAMP, RUG)])
def test_json_is_one_array(tmp_path: Path, items: tuple[dict[str, Any], ...]) -> None:
    file = tmp_path / "items.json"
    assert export_items(stored(*items), str(file)) == len(items)
    assert json.loads(file.read_text()) == list(items)


def test_csv_has_a_column_for_every_field_of_any_item(tmp_path: Path) -> None:
    file = tmp_path / "items.csv"
    export_items(stored(LAMP, RUG), file)
    with open(file, newline="", encoding="utf-8") as lines:
        header, *rows = csv.reader(lines)
    assert header == ["title", "price", "tags", "stock", "size", "sold"]
    assert rows == [
        ["Lamp, “blue”\nnew", "2.5", '["a","b"]', "", "", ""],
        ["Rug", "", "", "", '{"w":1}', "true"],
    ]


def test_csv_without_items_is_an_empty_file(tmp_path: Path) -> None:
    file = tmp_path / "items.csv"
    assert export_items(stored(), file) == 0
    assert file.read_bytes() == b""


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+49 (0)30 1234", "'+49 (0)30 1234"),
        ("-x", "'-x"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\n=1", "'\n=1"),
        ("\uff1d1+1", "'\uff1d1+1"),
        ("-1+1|x", "'-1+1|x"),
        ("-1.5e-7", "-1.5e-7"),
        ("-12.50", "-12.50"),
        ("+1,234", "+1,234"),
        (-3, "-3"),
        ("a=b", "a=b"),
    ],
)
def test_text_in_csv_is_no_formula_unless_that_is_wanted(
    tmp_path: Path, text: Any, cell: str
) -> None:
    file = tmp_path / "items.csv"
    for escape, expected in ((True, cell), (False, str(text))):
        export_items(stored({"value": text}), file, escape_formulas=escape)
        with open(file, newline="", encoding="utf-8") as lines:
            assert list(csv.reader(lines)) == [["value"], [expected]]


def test_numbers_in_csv_stay_numbers(tmp_path: Path) -> None:
    file = tmp_path / "items.csv"
    export_items(stored({"a": -1.5e-07, "b": -1e300, "c": -2, "d": -0.5}), file)
    with open(file, newline="", encoding="utf-8") as lines:
        _, row = csv.reader(lines)
    assert [float(cell) for cell in row] == [-1.5e-07, -1e300, -2, -0.5]


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv"])
def test_meta_says_where_an_item_came_from(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"items{ending}"
    export_items(stored({"url": "its own"}), file, meta=True)
    text = file.read_text()
    for value in ("its own", "https://a.example/1", "parse", "2023-11-14T22:13:20.000Z"):
        assert value in text


def test_the_fields_alone_are_what_was_saved() -> None:
    (item,) = stored(LAMP)
    assert decode_item(item) == LAMP
    assert decode_item(item, meta=True)["_url"] == "https://a.example/1"


@pytest.mark.parametrize("name", ["items.xlsx", "items", "items.csv.gz"])
def test_an_ending_that_is_not_known_is_refused_with_those_that_are(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(OptionError, match=r"\.jsonl, \.ndjson, \.json, \.csv, \.parquet"):
        export_items(stored(LAMP), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_fails_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    def broken() -> Iterator[StoredItem]:
        yield from stored(LAMP)
        raise RuntimeError("the store is gone")

    file = tmp_path / "items.jsonl"
    file.write_text("before")
    with pytest.raises(RuntimeError):
        export_items(broken(), file)
    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]


def test_an_export_that_cannot_be_written_says_so_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CrawlkitError, match=r"items\.csv cannot be written: No such file"):
        export_items(stored(LAMP), tmp_path / "nowhere" / "items.csv")


def test_an_export_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    export_items(stored(LAMP), tmp_path / "items.jsonl")
    (tmp_path / "other").touch()
    assert os.stat(tmp_path / "items.jsonl").st_mode == os.stat(tmp_path / "other").st_mode


def test_a_link_stays_a_link_and_its_file_is_replaced(tmp_path: Path) -> None:
    target, link = tmp_path / "target.jsonl", tmp_path / "link.jsonl"
    target.touch()
    link.symlink_to(target)
    export_items(stored(RUG), link)
    assert link.is_symlink()
    assert json.loads(target.read_text()) == RUG

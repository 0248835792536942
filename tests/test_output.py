"""The file of JSON lines that `--output` writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from crawlkit.checkpoint import Append, Checkpoint, Document, Saved, Snapshot
from crawlkit.errors import UsageError
from crawlkit.output import ItemWriter, append, is_live


def collected(writer: ItemWriter, *lines: bytes) -> Checkpoint:
    for line in lines:
        writer.add(line, "https://a/", "parse", 0.0)
    checkpoint = Checkpoint()
    with checkpoint.of("items"):
        writer.collect(checkpoint)
    append(checkpoint.appends)
    return checkpoint


def saved(checkpoint: Checkpoint | None) -> Saved:
    documents: dict[str, Document] = {}
    if checkpoint is not None:
        documents = {name: doc for name, doc in checkpoint.documents.items() if doc is not None}
    return Saved("items", Snapshot(documents))


def test_what_was_written_after_the_last_checkpoint_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    writer = ItemWriter(path)
    writer.restore(saved(None))
    last = collected(writer, b'{"n":1}')
    collected(writer, b'{"n":2}', b'{"n":3}')
    with path.open("ab") as file:
        file.write(b'{"n":')
    again = ItemWriter(path)
    again.restore(saved(last))
    assert path.read_bytes() == b'{"n":1}\n'
    collected(again, b'{"n":4}')
    assert path.read_bytes() == b'{"n":1}\n{"n":4}\n'


@pytest.mark.parametrize("damaged", [b"{", b'{"n":1}\n{"n":3}\n'])
def test_a_file_that_is_not_what_was_written_is_written_anew_from_the_store(
    tmp_path: Path, damaged: bytes
) -> None:
    path = tmp_path / "items.jsonl"
    writer = ItemWriter(path)
    writer.restore(saved(None))
    last = collected(writer, b'{"n":1}', b'{"n":2}')
    path.write_bytes(damaged)
    again = ItemWriter(path, stored=lambda: iter([b'{"n":1}', b'{"n":2}']))
    again.restore(saved(last))
    assert path.read_bytes() == b'{"n":1}\n{"n":2}\n'


def test_another_file_than_before_begins_with_what_the_store_holds(tmp_path: Path) -> None:
    writer = ItemWriter(tmp_path / "old.jsonl")
    writer.restore(saved(None))
    last = collected(writer, b'{"n":1}')
    again = ItemWriter(tmp_path / "new.jsonl", stored=lambda: iter([b'{"n":1}']))
    again.restore(saved(last))
    assert (tmp_path / "new.jsonl").read_bytes() == b'{"n":1}\n'


def test_a_life_without_a_file_makes_the_file_outdated(tmp_path: Path) -> None:
    writer = ItemWriter(tmp_path / "items.jsonl")
    writer.restore(saved(None))
    last = collected(writer, b'{"n":1}')
    without = ItemWriter()
    without.restore(saved(last))
    assert collected(without, b'{"n":2}').documents == {"items": None}


def test_appending_twice_is_the_same_as_once(tmp_path: Path) -> None:
    path = tmp_path / "file"
    pieces = [Append(str(path), 0, b"one\n"), Append(str(path), 4, b"two\n")]
    append(pieces)
    append(pieces)
    assert path.read_bytes() == b"one\ntwo\n"


@pytest.mark.parametrize(
    ("address", "live"),
    [("a.jsonl", True), ("a.NDJSON", True), ("a.csv", False), ("s3://bucket/a.jsonl", False)],
)
def test_only_lines_on_this_machine_are_written_as_they_come(address: str, live: bool) -> None:
    assert is_live(address) == live


def test_a_file_that_cannot_be_written_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    writer = ItemWriter(tmp_path / "file" / "items.jsonl")
    with pytest.raises(UsageError, match="choose another --output"):
        writer.restore(saved(None))

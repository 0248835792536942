"""What several workers made of one document, brought together; see also docs/state.md."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawlkit.checkpoint import Checkpoint, Document, Saved, Snapshot
from crawlkit.stores.base import Receipt
from crawlkit.values import State
from crawlkit.workers.merging import Merges, merge

NUMBERS = st.integers(-1000, 1000)
COUNTS = st.recursive(NUMBERS, lambda inner: st.dictionaries(st.sampled_from("abc"), inner))


@pytest.mark.parametrize(
    ("base", "mine", "theirs", "merged"),
    [
        (None, {"n": 2}, {"n": 3}, {"n": 5}),
        ({"n": 10}, {"n": 12}, {"n": 13}, {"n": 15}),
        ({"n": 1.5}, {"n": 2.0}, {"n": 3.5}, {"n": 4.0}),
        ({"a": {"x": 1}}, {"a": {"x": 1, "y": 2}}, {"a": {"x": 4}}, {"a": {"x": 4, "y": 2}}),
        ({"a": 1, "b": 2}, {"b": 2}, {"a": 1, "b": 3}, {"b": 3}),
        ({"a": 1}, {"a": 2}, {}, {"a": 2}),
        ({"t": "old"}, {"t": "mine"}, {"t": "theirs"}, {"t": "mine"}),
        ({"t": "old"}, {"t": "old"}, {"t": "theirs"}, {"t": "theirs"}),
        ({"l": [1]}, {"l": [1, 2]}, {"l": [1, 3]}, {"l": [1, 2]}),
        ({"b": True}, {"b": False}, {"b": True}, {"b": False}),
        ({"x": 1}, {"x": "one"}, {"x": 2}, {"x": "one"}),
        ({"x": 1}, {"x": True}, {"x": 1}, {"x": True}),
        (None, {"a": None}, {"b": None}, {"b": None, "a": None}),
    ],
)
def test_what_i_changed_is_done_to_what_they_have(
    base: Any, mine: Any, theirs: Any, merged: Any
) -> None:
    assert merge(base, mine, theirs) == merged


@given(COUNTS, COUNTS)
def test_who_has_changed_nothing_takes_over_what_others_have(base: Any, theirs: Any) -> None:
    assert merge(base, base, theirs) == theirs
    assert merge(base, theirs, base) == theirs


@given(st.dictionaries(st.sampled_from("abc"), NUMBERS), st.data())
def test_counts_are_the_same_in_whatever_order_they_are_merged(
    base: dict[str, int], data: st.DataObject
) -> None:
    def grown() -> dict[str, int]:
        growth = data.draw(st.dictionaries(st.sampled_from("abcd"), NUMBERS))
        return {key: base.get(key, 0) + growth.get(key, 0) for key in base.keys() | growth.keys()}

    one, two = grown(), grown()
    assert merge(base, one, two) == merge(base, two, one)


# -- a worker's state -----------------------------------------------------------------------------


class Worker:
    """A process with a state, and a store in which others may write in between."""

    def __init__(self, stored: Document | None = None) -> None:
        self.state = State()
        self.merges = Merges(lambda: {"state": self.state})
        snapshot = Snapshot({"state": stored} if stored else {})
        self.state.restore(Saved("state", snapshot))
        self.merges.restore("state", snapshot)

    def collect(self) -> Checkpoint:
        checkpoint = Checkpoint()
        with checkpoint.of("state"):
            self.state.collect(checkpoint)
        self.merges.prepare(checkpoint)
        return checkpoint

    def commit(self, checkpoint: Checkpoint, stored: Document | None) -> Document | None:
        mine = checkpoint.documents.get("state")
        if mine is None:
            return stored
        base, combine = checkpoint.merges["state"]
        if stored is None or stored.data == base:
            self.merges.settle(checkpoint, Receipt())
            return mine
        merged = Document(1, combine(base, mine.data, stored.data))
        self.merges.settle(checkpoint, Receipt(merged={"state": merged}))
        return merged


def test_a_worker_sees_what_the_others_did_after_its_next_checkpoint() -> None:
    one, two = Worker(), Worker()
    one.state.update(pages=3, last="a")
    two.state.update(pages=4, first="b")
    stored = one.commit(one.collect(), None)
    stored = two.commit(two.collect(), stored)
    assert two.state == {"pages": 7, "last": "a", "first": "b"}
    one.state["pages"] += 1
    one.commit(one.collect(), stored)
    assert one.state == {"pages": 8, "last": "a", "first": "b"}


def test_what_changes_while_a_checkpoint_is_written_is_in_the_next_one() -> None:
    one, two = Worker(), Worker()
    one.state["pages"] = 3
    stored = one.commit(one.collect(), None)
    two.state["pages"] = 4
    on_its_way = two.collect()
    two.state["pages"] += 10
    stored = two.commit(on_its_way, stored)
    assert two.state == {"pages": 17}
    stored = two.commit(two.collect(), stored)
    assert stored is not None
    assert stored.data == b'{"pages":17}'


def test_a_dict_in_the_state_that_a_handler_holds_on_to_stays_in_the_state() -> None:
    one, two = Worker(), Worker()
    one.state["by"] = {"one": 1}
    stored = one.commit(one.collect(), None)
    held = two.state.setdefault("by", {})
    held["two"] = 2
    two.commit(two.collect(), stored)
    assert held == {"one": 1, "two": 2}
    held["two"] = 3
    assert two.state == {"by": {"one": 1, "two": 3}}


def test_keys_that_are_no_text_become_text_as_after_a_restart() -> None:
    one, two = Worker(), Worker()
    one.state["years"] = {2024: 1}
    stored = one.commit(one.collect(), None)
    two.state["years"] = {2024: 2}
    two.commit(two.collect(), stored)
    assert two.state == {"years": {"2024": 3}}


def test_a_state_that_nobody_has_changed_is_not_saved_again() -> None:
    one, two = Worker(), Worker()
    one.state["pages"] = 1
    stored = one.commit(one.collect(), None)
    two.state["pages"] = 1
    two.commit(two.collect(), stored)
    assert two.collect().documents == {}


def test_a_part_without_a_way_to_absorb_goes_on_with_its_own_and_all_of_it_counts() -> None:
    class Tally:
        merge = staticmethod(merge)

        def __init__(self) -> None:
            self.n = 0

        def collect(self, checkpoint: Checkpoint) -> None:
            checkpoint.save({"n": self.n})

    stored: Document | None = None
    tallies = [Tally(), Tally()]
    merges = [Merges(lambda tally=tally: {"tally": tally}) for tally in tallies]  # type: ignore[misc]
    for turn in range(1, 6):
        for tally, its in zip(tallies, merges, strict=True):
            tally.n += turn
            checkpoint = Checkpoint()
            with checkpoint.of("tally"):
                tally.collect(checkpoint)
            its.prepare(checkpoint)
            mine = checkpoint.documents["tally"]
            assert mine is not None
            base, combine = checkpoint.merges["tally"]
            receipt = Receipt()
            if stored is not None and stored.data != base:
                mine = Document(1, combine(base, mine.data, stored.data))
                receipt = Receipt(merged={"tally": mine})
            stored = mine
            its.settle(checkpoint, receipt)
    assert stored is not None
    assert stored.data == b'{"n":30}'

"""What the public suite of tests for HTTP caches says is told as it is."""

from __future__ import annotations

from typing import Any

from .cache_suite import Suite, table


def rule(name: str, *depends_on: str, **more: Any) -> dict[str, Any]:
    common = {"kind": "required", "is_for_browsers": True, "is_for_proxies": True}
    return {"id": name, "name": name, "depends_on": list(depends_on), **common, **more}


SUITE = Suite(
    [
        rule("kept"),
        rule("broken"),
        rule("upon broken", "broken"),
        rule("unprepared"),
        rule("nice", kind="optimal"),
        rule("shared", is_for_browsers=False),
    ]
)
OURS = {
    "kept": True,
    "broken": ["Assertion", "comes from cache"],
    "upon broken": True,
    "unprepared": ["Setup", "status is 502"],
    "nice": ["Assertion", "not cached"],
    "shared": ["Assertion", "stored"],
}
BROWSERS = {"Good 1": {"kept": True, "broken": True, "upon broken": True}, "Bad 2": {"kept": True}}


def test_a_rule_that_was_not_seen_to_be_kept_is_not_counted_as_kept() -> None:
    assert SUITE.missed(OURS) == ["broken", "upon broken", "unprepared"]
    assert SUITE.count(OURS, "required")["pass"] == 1
    assert SUITE.verdict(OURS, "unprepared") == "setup"
    assert SUITE.verdict({"broken": ["Setup", "retry"]}, "broken") == "retry"


def test_a_rule_that_a_browser_keeps_is_told_from_one_that_none_keeps() -> None:
    assert SUITE.kept_by(BROWSERS, "broken") == ["Good 1"]
    assert SUITE.kept_by(BROWSERS, "upon broken") == ["Good 1"]
    assert SUITE.kept_by(BROWSERS, "unprepared") == []


def test_the_table_has_each_cache_and_each_rule_that_was_missed() -> None:
    lines = list(table(SUITE, OURS, BROWSERS))
    assert lines[0].split() == ["crawlkit", "Good", "1", "Bad", "2"]
    assert lines[1].split() == ["rules", "1", "of", "4", "3", "of", "4", "1", "of", "4"]
    assert "  broken: comes from cache; kept by Good 1" in lines
    assert "  upon broken: builds upon broken; kept by Good 1" in lines

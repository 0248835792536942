"""What a crawl ends with, in a form that can be compared, and how two of them differ."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from crawlkit import open_run
from crawlkit.counting.lives import TOTALS
from crawlkit.run import Run

from .rough import busy_items, items_of

WITH_RESPONSE = ("StatusError", "BlockedError", "ItemError", "ValueError")
"""Errors of the crawl that come with a response, or after one."""

COUNTERS = (
    "requests_finished",
    "requests_failed",
    "requests_retried",
    "requests_skipped",
    "requests_dropped",
    "requests_total",
    "requests_duplicate",
    "pending",
    "in_flight",
    "items_saved",
    "skipped_by_reason",
    "retry_histogram",
)
"""Counters that are the same however often a crawl was interrupted.

Not so `status_codes` and `bytes_received`: a response that arrived before a checkpoint, and whose
handler ended after it, is received once more after a kill, and counted once more, as it should be;
they lie between those of an undisturbed run and what the site has sent. And not the times, `lives`
and `samples`."""

REFUSED = 429
REFUSAL = f"HTTP {REFUSED}"


@dataclass(frozen=True)
class Result:
    """What a finished crawl holds, in a form that can be compared.

    Attributes:
        parts: What has to be the same as that of an undisturbed run, by what it is. Each is a
            count of things.
        statuses: Responses by status.
        bytes: Bytes of their bodies.
        wrong: What is wrong with it in itself.
    """

    parts: dict[str, Counter[str]]
    statuses: Counter[int]
    bytes: int
    wrong: list[str]


class Finished(Protocol):
    """A crawl that has ended: where its run is, and the file of its items, if it has one."""

    @property
    def store(self) -> Path | str: ...
    @property
    def output(self) -> Path | None: ...
    @property
    def lives(self) -> int: ...


def result_of(crawl: Finished) -> Result:
    """What a finished crawl holds."""
    with open_run(crawl.store) as run:
        statistics = run.statistics.to_dict()
        stored = list(run.stored_items())
        parts = {
            "items": Counter(
                _alike(_text([json.loads(item.data), item.url, item.handler])) for item in stored
            ),
            "outcomes": Counter(map(_alike, _outcomes(run))),
            "counters": _counted({name: statistics[name] for name in COUNTERS}),
            "handlers": _counted(_without(statistics["by_handler"], "duration_sum")),
            "hosts": _counted(
                _without(
                    statistics["by_host"], "duration_sum", "bytes_received", "responses_received"
                )
            ),
            "durations": Counter(
                {
                    name: statistics[name]["count"]
                    for name in ("duration_finished", "duration_failed")
                }
            ),
            "errors": Counter(
                {
                    _text([error["kind"], error["message"], error["place"]]): error["count"]
                    for error in statistics["errors"]
                    # It costs no retry; so one that a kill undid need not come again.
                    if REFUSAL not in error["message"]
                }
            ),
            "state": _counted(run.state),
            "tally": _counted({k: v for k, v in run.saved("tally").items() if k != "at"}),
            "values": Counter(_text(entry) for entry in run.values().items()),
            "login": Counter(_text(c) for c in run.saved("sessions/member", {}).get("cookies", ())),
        }
        wrong = list(_wrong(statistics, crawl.lives))
        for group in run.errors():
            specimen, has_response = run.specimen(group.id), group.kind in WITH_RESPONSE
            if has_response != (specimen is not None):
                wrong.append(f"of {group.message!r} the first response is {specimen}")
    if crawl.output is not None:
        lines = crawl.output.read_bytes().split(b"\n")
        if lines.pop() != b"":
            wrong.append(f"{crawl.output.name} ends with a torn line")
        if lines != [item.data for item in stored]:
            wrong.append(f"{crawl.output.name} does not hold the items of the run, line by line")
    statuses = Counter({int(status): n for status, n in statistics["status_codes"].items()})
    del statuses[REFUSED]
    return Result(parts, statuses, statistics["bytes_received"], wrong)


def _outcomes(run: Run) -> Iterator[str]:
    for name in ("handled", "failed", "pending", "in_flight"):
        for o in run.requests(name):
            yield _text([name, o.url, o.handler, o.status, o.retries, o.error, o.detail])
    for o in run.requests("skipped"):
        # The page that is named has linked to it first, which is a matter of chance.
        yield _text(["skipped", o.url, (o.detail or "").partition(":")[0]])


def _wrong(statistics: Mapping[str, Any], lives: int) -> Iterator[str]:
    """What does not fit together, whatever the crawl."""
    for name in TOTALS:
        of_lives = sum(life[name] for life in statistics["by_life"])
        if abs(of_lives - statistics[name]) > 1e-6:
            yield f"its lives add up to {of_lives} {name}, but it has {statistics[name]}"
    times = [statistics[name] for name in ("started_at", "last_started_at", "finished_at")]
    if None in times or times != sorted(times):
        yield f"it was started, started again and finished at {times}"
    # One that is killed before its first checkpoint leaves no trace.
    if not 1 <= statistics["lives"] <= lives:
        yield f"{lives} processes were started, and it counted {statistics['lives']} lives"
    for path, number in numbers(statistics):
        if number < 0:
            yield f"{path} is {number}"
    moments = [sample["time"] for sample in statistics["samples"]]
    if moments != sorted(moments):
        yield "the samples are out of order"


def numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every number in JSON-like values, with its path."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from numbers(inner, f"{path}[{place}]")
    elif isinstance(value, int | float):
        yield path, value


def _counted(values: Mapping[str, Any]) -> Counter[str]:
    return Counter({path: int(number) for path, number in numbers(values) if number})


def _without(rows: Mapping[str, Mapping[str, Any]], *names: str) -> dict[str, Any]:
    return {
        key: {name: value for name, value in row.items() if name not in names}
        for key, row in rows.items()
    }


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _alike(text: str) -> str:
    """Which of the orders there is a budget for is a matter of chance."""
    return re.sub(r"/order/\d+", "/order/*", text)


# -- comparing ------------------------------------------------------------------------------------


def differences(expected: Result, found: Result) -> list[str]:
    """How a crawl differs from an undisturbed one, a line each."""
    lines = list(found.wrong)
    for what, counts in expected.parts.items():
        lost, gained = counts - found.parts[what], found.parts[what] - counts
        lines += _described(what, "lost", lost)
        lines += _described(what, "too many", gained)
    return lines


def missing_from_the_site(result: Result, pages: int, *, busy: bool = False) -> list[str]:
    """How an undisturbed crawl differs from what is known of the site, and of the busy one."""
    found = Counter[str]()
    for text, number in result.parts["items"].items():
        found[_text(json.loads(text)[0])] += number
    expected = Counter([*items_of(pages), *(busy_items() if busy else ())])
    return [
        *result.wrong,
        *_described("items", "lost", expected - found),
        *_described("items", "too many", found - expected),
    ]


def _described(what: str, how: str, counts: Counter[str]) -> list[str]:
    shown = [f"{what} {how}: {n} x {text}" for text, n in counts.most_common(5)]
    more = len(counts) - len(shown)
    return shown + [f"{what} {how}: and {more} more"] * (more > 0)

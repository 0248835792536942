"""Names that a run does not have: what is said of them, and of those that it has instead.

To choose nothing is an answer, and no error: the line goes to standard error, and the exit code
stays 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click
import msgspec

from ..counting.errorgroups import without_group
from ..errors import printable
from ..stores.postgres.address import masked

if TYPE_CHECKING:
    from ..checkpoint import Outcome
    from ..failures import Which
    from ..run import Run

SHOWN = 10
"""Names that are shown of those that there are."""

TOLD_APART = 1000
"""Names that are counted; of hosts there may be many more."""

_FITS = {
    "group": "is of the group {}",
    "error": "has the error {}",
    "handler": "is for the handler {}",
    "host": "is to the host {}",
    "status": "has the status {}",
}


def tell(message: str) -> None:
    """Say it on standard error."""
    click.echo(printable(message), err=True)


def no_items_of(run: Run, handler: str) -> str:
    """What is said where a handler has saved no items."""
    handlers = run.statistics.by_handler
    there = {name: tally.items_saved for name, tally in handlers.items() if tally.items_saved}
    return f"{masked(run.address)} has no items of the handler {handler!r}; {_there(there)}"


def no_field(run: Run, field: str, handler: str | None) -> str | None:
    """What is said where no item has a field; ``None`` where one has it."""
    fields: Counter[str] = Counter()
    for item in run.items(handler):
        if field in item:
            return None
        fields.update(name for name in item if name in fields or len(fields) < TOLD_APART)
    return f"no item of {masked(run.address)} has the field {field!r}; {_there(fields)}"


def no_failures(run: Run, which: Which) -> str | None:
    """What is said where no failed request is meant; ``None`` where nothing was asked for."""
    given = {
        name: value for name, value in msgspec.structs.asdict(which).items() if value is not None
    }
    if not given:
        return None
    address = masked(run.address)
    there: dict[str, Counter[Any]] = {name: Counter() for name in given}
    for failure in run.requests("failed"):
        for name, counts in there.items():
            value = _value(failure, name)
            if value in counts or len(counts) < TOLD_APART or value == given[name]:
                counts[value] += 1
    if not all(there.values()):
        return f"no request of {address} has failed"
    for name, value in given.items():
        if value in there[name]:
            continue
        if name == "url":
            why = f"'crawlkit why {address} {value}' says what became of it"
            return f"no failed request of {address} has the URL {value}; {why}"
        what = _FITS[name].format(repr(value))
        return f"no failed request of {address} {what}; {_there(there[name])}"
    options = ", ".join(f"--{name}" for name in given)
    return f"no failed request of {address} fits all of {options}, though some fit each of them"


def _value(failure: Outcome, name: str) -> Any:
    return without_group(failure.detail)[1] if name == "group" else getattr(failure, name)


def _there(counts: Mapping[Any, int]) -> str:
    """The names that there are, the most frequent first."""
    named = [(name, n) for name, n in counts.items() if name is not None]
    if not named:
        return "there is none"
    named.sort(key=lambda entry: (-entry[1], str(entry[0])))
    shown = ", ".join(f"{name} ({n:,})" for name, n in named[:SHOWN])
    more = f" and {len(named) - SHOWN:,} more" if len(named) > SHOWN else ""
    return f"there is {shown}{more}"

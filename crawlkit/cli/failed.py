"""failed: requests that were given up, and what to do about them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import click

from .. import failures
from ..checkpoint import Outcome
from ..clock import isoformat
from ..counting.errorgroups import ErrorStatistics, without_group
from ..errors import CrawlkitError, UsageError, printable
from ..failures import Which
from ..run import Run, open_run
from ..stores.postgres.address import masked
from ..urls import canonical
from .absent import no_failures, tell
from .output import plural, print_json, print_json_list
from .specimen import as_dict, lines_of, write_specimen
from .verbs import VerbGroup, json_option, run_argument

F = TypeVar("F", bound=Callable[..., Any])


def _filters(function: F) -> F:
    for option in (
        click.option("--status", type=int, metavar="N", help="Only those with this HTTP status."),
        click.option("--url", metavar="URL", help="Only the request of this URL."),
        click.option("--host", metavar="HOST", help="Only requests to this host[:port]."),
        click.option("--handler", metavar="NAME", help="Only requests for this handler."),
        click.option("--error", metavar="KIND", help="Only errors of this kind, as 'ls' names it."),
        click.option(
            "--group", metavar="ID", help="Only those of this group, as 'stats' names it."
        ),
    ):
        function = option(function)
    return function


@click.group(cls=VerbGroup)
@run_argument
@click.pass_context
def failed(context: click.Context, address: str) -> None:
    """The requests that were given up: list, show, retry or drop them."""
    context.meta["address"] = address


@failed.command()
@_filters
@json_option
@click.pass_context
def ls(context: click.Context, /, as_json: bool, **filters: Any) -> None:
    """List them, with their errors."""
    with open_run(context.meta["address"]) as run:
        which = _which(run, **filters)
        outcomes = filter(which.fits, run.requests("failed", host=which.host))
        if as_json:
            _tell_if_none(run, which, print_json_list(map(_as_dict, outcomes)))
            return
        count = 0
        for outcome in outcomes:
            count += 1
            detail, group = without_group(outcome.detail)
            told = (group or "-", outcome.error, outcome.handler, outcome.url, detail)
            click.echo(printable("  ".join(map(str, told))))
        click.echo(plural(count, "failed request"), err=True)
        _tell_if_none(run, which, count)


@failed.command()
@click.argument("group")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="Write it to FILE: .html shows it as text, .jpg is the screenshot, others the body.",
)
@json_option
@click.pass_context
def show(context: click.Context, /, group: str, output: str | None, as_json: bool) -> None:
    """The first response of a group of errors: status, headers and body, as text.

    GROUP is the id that 'stats' and 'failed RUN ls' show, or the beginning of it.
    """
    address = context.meta["address"]
    with open_run(address) as run:
        known = _group(run, group)
        specimen = run.specimen(known.id)
    if specimen is None:
        raise CrawlkitError(
            f"no response of group {known.id} was kept, as there was none or there were too many "
            f"groups; see its URLs with 'crawlkit failed {masked(address)} ls --group {known.id}'"
        )
    if output is not None:
        what = write_specimen(known, specimen, output)
        click.echo(f"{what} written to {output}", err=True)
    elif as_json:
        print_json(as_dict(known, specimen))
    else:
        click.echo("\n".join(lines_of(known, specimen)))


@failed.command()
@_filters
@click.pass_context
def retry(context: click.Context, /, **filters: Any) -> None:
    """Put them back into the queue, for the next 'crawlkit run', with all their retries."""
    address = context.meta["address"]
    count = _resolve(address, failures.put_back, filters)
    click.echo(f"{plural(count, 'request')} put back into the queue of {masked(address)}")


@failed.command()
@_filters
@click.option("--all", "is_all", is_flag=True, help="Drop them all.")
@click.pass_context
def drop(context: click.Context, /, is_all: bool, **filters: Any) -> None:
    """Call them skipped rather than failed, and forget how they failed."""
    if not is_all and all(value is None for value in filters.values()):
        raise UsageError(
            "it must be said which requests to drop: name --group, --error, --handler, --host, "
            "--status or --url, or use --all"
        )
    address = context.meta["address"]
    count = _resolve(address, failures.drop, filters)
    click.echo(f"{plural(count, 'request')} of {masked(address)} dropped")


def _resolve(address: str, decide: failures.Decide, filters: dict[str, Any]) -> int:
    with open_run(address) as run:  # where there is no run, none is made
        which = _which(run, **filters)
        count = asyncio.run(failures.resolve(run.address, which, decide))
        _tell_if_none(run, which, count)
        return count


def _tell_if_none(run: Run, which: Which, count: int) -> None:
    """Where none was meant, say what there is instead."""
    if not count and (absent := no_failures(run, which)) is not None:
        tell(absent)


def _which(
    run: Run,
    *,
    group: str | None,
    error: str | None,
    handler: str | None,
    host: str | None,
    status: int | None,
    url: str | None,
) -> Which:
    return Which(
        group=None if group is None else _group(run, group).id,
        error=error,
        handler=handler,
        host=host,
        status=status,
        url=None if url is None else canonical(url),
    )


def _group(run: Run, name: str) -> ErrorStatistics:
    """The group of errors that `name` begins the id of.

    Raises:
        UsageError: There is none, or several.
    """
    groups = run.errors()
    found = [group for group in groups if group.id.startswith(name)]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(group.id for group in found[:10])
        raise UsageError(f"several groups of errors begin with {name!r}: {ids}; write more of it")
    known = ", ".join(group.id for group in groups[:10]) or "none"
    raise UsageError(
        f"{masked(run.address)} has no group of errors {name!r}; there is {known} "
        "(see 'crawlkit stats')"
    )


def _as_dict(outcome: Outcome) -> dict[str, Any]:
    detail, group = without_group(outcome.detail)
    return {
        "url": outcome.url,
        "handler": outcome.handler,
        "error": outcome.error,
        "detail": detail,
        "group": group,
        "status": outcome.status,
        "at": isoformat(outcome.at),
        "duration": outcome.duration,
        "retries": outcome.retries,
    }

"""failed: requests that were given up, and what to do about them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import click

from .. import failures
from ..checkpoint import Outcome
from ..clock import isoformat
from ..errors import UsageError, printable
from ..failures import Which
from ..run import open_run
from ..urls import canonical
from .output import plural, print_json_list
from .verbs import VerbGroup, json_option, run_argument

F = TypeVar("F", bound=Callable[..., Any])


def _filters(function: F) -> F:
    for option in (
        click.option("--url", metavar="URL", help="Only the request of this URL."),
        click.option("--host", metavar="HOST", help="Only requests to this host[:port]."),
        click.option("--handler", metavar="NAME", help="Only requests for this handler."),
        click.option("--error", metavar="KIND", help="Only errors of this kind, as 'ls' names it."),
    ):
        function = option(function)
    return function


@click.group(cls=VerbGroup)
@run_argument
@click.pass_context
def failed(context: click.Context, address: str) -> None:
    """The requests that were given up: list, retry or drop them."""
    context.meta["address"] = address


@failed.command()
@_filters
@json_option
@click.pass_context
def ls(context: click.Context, /, as_json: bool, **filters: str | None) -> None:
    """List them, with their errors."""
    with open_run(context.meta["address"]) as run:
        which = _which(**filters)
        outcomes = filter(which.fits, run.requests("failed", host=which.host))
        if as_json:
            print_json_list(map(_as_dict, outcomes))
            return
        count = 0
        for outcome in outcomes:
            count += 1
            told = (outcome.error, outcome.handler, outcome.url, outcome.detail or "")
            click.echo(printable("  ".join(map(str, told))))
        click.echo(plural(count, "failed request"), err=True)


@failed.command()
@_filters
@click.pass_context
def retry(context: click.Context, /, **filters: str | None) -> None:
    """Put them back into the queue, for the next 'crawlkit run', with all their retries."""
    address = context.meta["address"]
    count = _resolve(address, failures.put_back, filters)
    click.echo(f"{plural(count, 'request')} put back into the queue of {address}")


@failed.command()
@_filters
@click.option("--all", "is_all", is_flag=True, help="Drop them all.")
@click.pass_context
def drop(context: click.Context, /, is_all: bool, **filters: str | None) -> None:
    """Call them skipped rather than failed, and forget how they failed."""
    if not is_all and not any(filters.values()):
        raise UsageError(
            "it must be said which requests to drop: name --error, --handler, --host or --url, "
            "or use --all"
        )
    address = context.meta["address"]
    count = _resolve(address, failures.drop, filters)
    click.echo(f"{plural(count, 'request')} of {address} dropped")


def _resolve(address: str, decide: failures.Decide, filters: dict[str, str | None]) -> int:
    with open_run(address):  # where there is no run, none is made
        return asyncio.run(failures.resolve(address, _which(**filters), decide))


def _which(*, error: str | None, handler: str | None, host: str | None, url: str | None) -> Which:
    wanted = None if url is None else canonical(url)
    return Which(error=error, handler=handler, host=host, url=wanted)


def _as_dict(outcome: Outcome) -> dict[str, Any]:
    return {
        "url": outcome.url,
        "handler": outcome.handler,
        "error": outcome.error,
        "detail": outcome.detail,
        "status": outcome.status,
        "at": isoformat(outcome.at),
        "duration": outcome.duration,
        "retries": outcome.retries,
    }

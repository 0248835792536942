"""failed: requests that were given up, and what to do about them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..checkpoint import Checkpoint, Outcome, Pending, Saved
from ..clock import Clock, isoformat
from ..errors import UsageError, printable
from ..request import Request
from ..run import Run, open_run
from ..statistics import Statistics
from ..stores import open_store
from ..urls import canonical
from .output import plural, print_json_list
from .verbs import VerbGroup, json_option, run_argument

if TYPE_CHECKING:
    from ..stores.base import Store

F = TypeVar("F", bound=Callable[..., Any])

BATCH = 2000
"""Requests that are put back or dropped in one transaction."""


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
        outcomes = _failed(run, **filters)
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
    count = asyncio.run(_resolve(address, _put_back, filters))
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
    count = asyncio.run(_resolve(address, _drop, filters))
    click.echo(f"{plural(count, 'request')} of {address} dropped")


# -- decisions --------------------------------------------------------------------------------


def _failed(
    run: Run, *, error: str | None, handler: str | None, host: str | None, url: str | None
) -> Iterator[Outcome]:
    wanted = None if url is None else canonical(url)
    for outcome in run.requests("failed", host=host):
        if (
            error in (None, outcome.error)
            and handler in (None, outcome.handler)
            and wanted in (None, outcome.url)
        ):
            yield outcome


def _put_back(outcome: Outcome, checkpoint: Checkpoint, statistics: Statistics) -> None:
    request = outcome.request or Request(outcome.url, outcome.handler or "parse")
    identity = (outcome.host, outcome.fingerprint)
    checkpoint.forget.append(identity)
    checkpoint.again.append(
        Pending(request.replace(retry_count=0), outcome.fingerprint, outcome.host)
    )
    statistics.put_back(outcome)


def _drop(outcome: Outcome, checkpoint: Checkpoint, statistics: Statistics) -> None:
    checkpoint.outcomes.append(
        Outcome(
            outcome="skipped",
            url=outcome.url,
            fingerprint=outcome.fingerprint,
            host=outcome.host,
            at=checkpoint.at,
            handler=outcome.handler,
            detail="dropped",
        )
    )
    statistics.drop(outcome)


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


# -- the store --------------------------------------------------------------------------------

Decide = Callable[[Outcome, Checkpoint, Statistics], None]


async def _resolve(address: str, decide: Decide, filters: dict[str, str | None]) -> int:
    """Decide about each failed request; how many there were."""
    with open_run(address) as run:
        store = open_store(address)
        await store.open()  # refused while a crawl is writing
        try:
            statistics = Statistics()
            statistics.restore(Saved("statistics", await store.load()))
            statistics.in_flight = 0
            count = 0
            outcomes = _failed(run, **filters)
            while batch := list(islice(outcomes, BATCH)):
                await _commit(store, batch, statistics, decide)
                count += len(batch)
            return count
        finally:
            await store.close()


async def _commit(
    store: Store, batch: list[Outcome], statistics: Statistics, decide: Decide
) -> None:
    checkpoint = Checkpoint(at=Clock().now())
    for outcome in batch:
        decide(outcome, checkpoint, statistics)
    with checkpoint.of("statistics"):
        statistics.collect(checkpoint)
    await store.commit(checkpoint)

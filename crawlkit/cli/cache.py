"""cache: what the page cache holds, and how to empty it."""

from __future__ import annotations

import click

from .output import number, print_json, size, table
from .verbs import VerbGroup, json_option


@click.group(cls=VerbGroup)
@click.argument("directory", metavar="DIR")
@click.pass_context
def cache(context: click.Context, directory: str) -> None:
    """The page cache in a directory: what it holds, or empty it."""
    context.meta["directory"] = directory


@cache.command()
@json_option
@click.pass_context
def stats(context: click.Context, as_json: bool) -> None:
    """How many entries there are, of which kind, and what they take."""
    # diskcache takes longer to import than `--help` should.
    from ..caching.folder import measure

    found = measure(context.meta["directory"])
    if as_json:
        print_json(found)
        return
    click.echo(
        table(
            [
                *(
                    [kind, _entries(found[kind]["entries"]), size(found[kind]["bytes"])]
                    for kind in ("pages", "derived")
                ),
                ["on disk", "", size(found["size"])],
            ]
        )
    )


@cache.command()
@click.pass_context
def clear(context: click.Context) -> None:
    """Remove everything, also while crawls use it."""
    from ..caching.folder import clear as clear_directory

    directory = context.meta["directory"]
    count, damage = clear_directory(directory)
    if damage:
        click.echo(f"{damage}; it was put aside as cache.db.damaged", err=True)
    click.echo(f"{_entries(count)} removed from {directory}")


def _entries(count: int) -> str:
    return f"{number(count)} {'entry' if count == 1 else 'entries'}"

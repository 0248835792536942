"""export, import: a whole run as one file."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from ..portable import export_run, import_run
from ..stores import open_reader, open_store
from ..stores.postgres.address import masked
from .output import plural, size
from .verbs import Verb, program, run_argument


@click.command(cls=Verb)
@run_argument
@click.argument("file")
def export(address: str, file: str) -> None:
    """Write a whole run to a file, from which 'import' makes it again, in any store."""
    reader = open_reader(address)
    try:
        with _shown() as tell:
            counts = export_run(reader, file, tell=tell)
    finally:
        reader.close()
    click.echo(
        f"{masked(address)} exported to {file}: {_what(counts)}, {size(Path(file).stat().st_size)}"
    )


@click.command(name="import", cls=Verb)
@click.argument("file")
@run_argument
def import_(file: str, address: str) -> None:
    """Make a run of a file that 'export' has written."""
    with _shown() as tell:
        counts = asyncio.run(import_run(file, open_store(address), tell=tell))
    click.echo(f"{masked(address)} imported from {file}: {_what(counts)}")
    if counts.get("pending"):
        click.echo(f"go on with:  {program()} run TARGET --store {masked(address)}")


def _what(counts: dict[str, int]) -> str:
    kinds = (("item", "item"), ("outcome", "outcome"), ("pending", "pending request"))
    return ", ".join(plural(counts.get(kind, 0), noun) for kind, noun in kinds)


@contextmanager
def _shown() -> Iterator[Callable[[int], None] | None]:
    """Shows how far it is, where somebody may be watching."""
    if not sys.stderr.isatty():
        yield None
        return

    def tell(count: int) -> None:
        click.echo(f"\r{count:,} records ", nl=False, err=True)

    try:
        yield tell
    finally:
        click.echo("\r\x1b[K", nl=False, err=True)

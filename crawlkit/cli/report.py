"""report: one file that tells all about a run, to keep or to send."""

from __future__ import annotations

import click

from ..run import open_run
from .output import size
from .verbs import Verb, run_argument


@click.command(cls=Verb)
@run_argument
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    default="report.html",
    show_default=True,
    help="The file to write.",
)
@click.option(
    "--items",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    metavar="N",
    help="How many items to show of each handler's.",
)
def report(address: str, output: str, items: int) -> None:
    """One HTML file about a run: what happened, with charts, errors and some items."""
    from ..dashboard.report import write_report

    with open_run(address) as run:
        written = write_report(run, output, items=items)
    click.echo(f"{output}: {size(written)}, needs nothing but a browser")

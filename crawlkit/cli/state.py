"""state, check: what a run saved, and whether it is intact."""

from __future__ import annotations

import asyncio

import click
import msgspec

from ..checkpoint import Checkpoint, Document, encode
from ..clock import Clock
from ..errors import UsageError, printable
from ..run import Run, open_run
from ..stores import open_store
from ..stores.postgres.address import masked
from .output import harmless, plural, print_json, size, table
from .verbs import Verb, VerbGroup, json_option, run_argument

STATE = "state"
"""The document of a crawler's ``self.state``."""

VALUES = "values/"
"""What the documents of a crawler's own values begin with."""


@click.group(cls=VerbGroup)
@run_argument
@click.pass_context
def state(context: click.Context, address: str) -> None:
    """What a run saved: list, print or set it.

    It is saved under keys: 'state' is the crawler's own, each part has its name, and what
    'set_value' keeps has its key.
    """
    context.meta["address"] = address


@state.command()
@json_option
@click.pass_context
def ls(context: click.Context, as_json: bool) -> None:
    """List what is saved, with the version of its form and its size."""
    with open_run(context.meta["address"]) as run:
        saved = [(name, document.version, len(document.data)) for name, document in run.documents()]
    if as_json:
        print_json([dict(zip(("key", "version", "size"), entry, strict=True)) for entry in saved])
    elif saved:
        click.echo(
            table([printable(name), f"version {version}", size(n)] for name, version, n in saved)
        )


@state.command()
@click.argument("key")
@json_option
@click.pass_context
def get(context: click.Context, key: str, as_json: bool) -> None:
    """Print what is saved under KEY, as JSON; with --json on one line."""
    with open_run(context.meta["address"]) as run:
        name, document = _find(run, key)
        if document is None:
            raise UsageError(
                f"{masked(run.address)} has nothing saved under {key!r}; "
                f"see 'crawlkit state {masked(run.address)} ls'"
            )
        value = run.saved(name)
    if as_json:
        click.echo(harmless(msgspec.json.encode(value)))
    else:
        print_json(value)


@state.command(name="set")
@click.argument("key")
@click.argument("value", metavar="JSON")
@click.pass_context
def set_(context: click.Context, key: str, value: str) -> None:
    """Save JSON under KEY, for the next 'crawlkit run' to find."""
    address = context.meta["address"]
    try:
        parsed = msgspec.json.decode(value)
    except msgspec.DecodeError as error:
        raise UsageError(
            f"{value!r} is no JSON ({error}); put text between double quotes: '\"text\"'"
        ) from None
    with open_run(address) as run:
        name, document = _find(run, key)
        address = run.address
        saved = run.saved(name)
    if name == STATE and not isinstance(parsed, dict):
        raise UsageError(f"{value!r} cannot be a crawler's state; it is an object: '{{...}}'")
    if document is not None and not name.startswith(VALUES) and _kind(parsed) != _kind(saved):
        raise UsageError(
            f"{masked(address)} keeps {_kind(saved)} of a part under {name!r}, and would not go on "
            f"with {_kind(parsed)}; write {VALUES}{key} for a value of your own"
        )
    version = document.version if document else 1
    asyncio.run(_save(address, name, Document(version, encode(parsed, name))))
    click.echo(f"{name} saved in {masked(address)}")


@click.command(cls=Verb)
@run_argument
@json_option
def check(address: str, as_json: bool) -> int:
    """Whether a run is intact; the exit code is 1 where it is not."""
    with open_run(address) as run:
        findings = list(run.check())
    if as_json:
        print_json({"ok": not findings, "findings": findings})
    elif findings:
        for finding in findings:
            click.echo(printable(finding))
        click.echo(f"{masked(address)}: {plural(len(findings), 'finding')}", err=True)
    else:
        click.echo(f"{masked(address)}: all is well")
    return 1 if findings else 0


def _find(run: Run, key: str) -> tuple[str, Document | None]:
    """The document that KEY means: the one of that name, else the crawler's value of that key."""
    document = run.document(key)
    if document is None and key != STATE and not key.startswith(VALUES):
        key = f"{VALUES}{key}"
        document = run.document(key)
    return key, document


def _kind(value: object) -> str:
    """What a JSON value is called."""
    if isinstance(value, bool) or value is None:
        return msgspec.json.encode(value).decode()
    kinds = {"dict": "an object", "list": "an array", "str": "text"}
    return kinds.get(type(value).__name__, "a number")


async def _save(address: str, name: str, document: Document) -> None:
    store = open_store(address)
    await store.open()  # refused while a crawl is writing
    try:
        await store.commit(Checkpoint(at=Clock().now(), documents={name: document}))
    finally:
        await store.close()

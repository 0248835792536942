"""What all verbs share: how they are found, their options, and what they do with errors."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from keyword import iskeyword
from typing import Any, NoReturn, TypeVar

import click
from click.exceptions import NoArgsIsHelpError

from ..errors import CrawlkitError, one_line

F = TypeVar("F", bound=Callable[..., Any])

INTERRUPTED = 130
"""The exit code of a process that Ctrl-C has ended, by the convention of shells."""


@dataclass
class Settings:
    """What holds for every verb."""

    debug: bool = False


def _debug_option() -> click.Option:
    def set_debug(context: click.Context, parameter: click.Parameter, value: bool) -> None:
        if value and context.obj is not None:
            context.obj.debug = True

    return click.Option(
        ["--debug"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=set_debug,
        help="Show the traceback of an error.",
    )


def version_option(version: str) -> click.Option:
    """``--version``."""

    def show(context: click.Context, parameter: click.Parameter, value: bool) -> None:
        if value and not context.resilient_parsing:
            click.echo(f"crawlkit {version}")
            context.exit()

    return click.Option(
        ["--version"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=show,
        help="Show the version and exit.",
    )


class Verb(click.Command):
    """A verb. It has ``--debug``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(_debug_option())


class VerbGroup(click.Group):
    """A verb with verbs of its own, such as ``failed RUN retry``."""

    command_class = Verb

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(_debug_option())

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs, in the order in which a user meets them, which is not that of the alphabet."""
        return list(self.commands)


class Verbs(VerbGroup):
    """All verbs.

    Args:
        verbs: The name of each verb's module in this package; the verb is what has its name there.
    """

    def __init__(self, *args: Any, verbs: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._verbs = verbs

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs, none of them loaded."""
        return list(self._verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a verb."""
        if cmd_name not in self._verbs:
            return None
        module = import_module(f".{self._verbs[cmd_name]}", __package__)
        # The verb's function, with an underscore where its name is a word of Python.
        name = f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name
        command: click.Command = getattr(module, name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb. A reader that has had enough, as in ``| head``, ends it silently."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # What is still buffered must not be flushed to the broken pipe at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        return result

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line and exit; an error is one line, unless there is ``--debug``."""
        settings = Settings()
        try:
            code = super().main(
                args, prog_name, complete_var, standalone_mode=False, obj=settings, **extra
            )
        except Exception as error:
            if settings.debug or not standalone_mode:
                raise
            _exit(error)
        if not standalone_mode:
            return code
        # Python looks through every object once more before it ends, which takes longer than the
        # last checkpoint did; a process that was told to go has no time for that.
        gc.freeze()
        sys.exit(code)


def _exit(error: Exception) -> NoReturn:
    if isinstance(error, NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        sys.exit(error.exit_code)
    if isinstance(error, click.Abort):
        click.echo("", err=True)
        _fail("stopped", INTERRUPTED)
    if isinstance(error, click.UsageError):
        message = " ".join(error.format_message().split()).rstrip(".")
        context = error.ctx
        hint = f"; see '{context.command_path} --help'" if context is not None else ""
        _fail(message + hint, error.exit_code)
    if isinstance(error, CrawlkitError):
        _fail(one_line(error), error.exit_code)
    if place := _place_in_crawler(error):
        _fail(f"{place}: {one_line(error)}; --debug shows the traceback", 1)
    if isinstance(error, OSError):
        _fail(f"{error.filename or 'output'}: {error.strerror or error}", 1)
    _fail(
        f"this is a bug of crawlkit, please report it with what --debug shows: {one_line(error)}", 1
    )


def _place_in_crawler(error: Exception) -> str:
    """``file:line`` in the user's crawler, where the error arose there."""
    # Imported here, as no other verb needs it.
    from ..errorgroups import place_of

    traceback = error.__traceback__
    while traceback is not None:
        # Below the runner, what is neither ours nor installed is the user's.
        if traceback.tb_frame.f_globals.get("__name__") == "crawlkit.runner":
            return place_of(error.with_traceback(traceback))
        traceback = traceback.tb_next
    return ""


def program() -> str:
    """What the user has typed to get here: ``crawlkit``, or ``python -m crawlkit``."""
    return click.get_current_context().find_root().info_name or "crawlkit"


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"crawlkit: {message}", err=True)
    sys.exit(code)


def run_argument(function: F) -> F:
    """The argument RUN, passed on as ``address``."""
    return click.argument("address", metavar="RUN")(function)


def json_option(function: F) -> F:
    """``--json``, passed on as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)

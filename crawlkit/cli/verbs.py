"""What all verbs share: how they are found, their options, and what they do with errors."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from io import TextIOWrapper
from keyword import iskeyword
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import click
from click.exceptions import NoArgsIsHelpError, NoSuchCommand, NoSuchOption
from click.shell_completion import CompletionItem

from ..errors import CrawlkitError, one_line, printable
from .examples import EXAMPLES, SUMMARIES

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


class _WithExamples(click.Command):
    """A command whose help ends with examples, and whose errors know which command it was."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the command's words apart."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, and then what else there is to say."""
        names: list[str] = []
        context: click.Context | None = ctx
        while context is not None and context.parent is not None:
            names.insert(0, context.command.name or "")
            context = context.parent
        lines = EXAMPLES.get(" ".join(names), ())
        if lines:
            with formatter.section("Examples"):
                for line in lines:
                    formatter.write(f"  {line}\n")
        super().format_epilog(ctx, formatter)


class Verb(_WithExamples):
    """A verb. It has ``--debug``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(_debug_option())


class VerbGroup(_WithExamples, click.Group):
    """A verb with verbs of its own, such as ``failed RUN retry``."""

    command_class = Verb

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(_debug_option())

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs, in the order in which a user meets them, which is not that of the alphabet."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a verb.

        Raises:
            UsageError: There is none of that name; it names one that is near.
        """
        try:
            return super().resolve_command(ctx, args)
        except NoSuchCommand as error:
            raise NoSuchCommand(
                error.command_name,
                f"there is no verb {error.command_name!r}",
                possibilities=self.list_commands(ctx),
                ctx=ctx,
            ) from None


class Verbs(VerbGroup):
    """All verbs.

    Args:
        verbs: The name of each verb's module in this package; the verb is what has its name there.
        sections: Which verbs stand together in the help, by title; the others come last.
    """

    def __init__(
        self,
        *args: Any,
        verbs: Mapping[str, str],
        sections: Mapping[str, Sequence[str]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._verbs = verbs
        self._sections = sections or {}

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

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs, section by section."""
        placed = {name for names in self._sections.values() for name in names}
        others = [name for name in self._verbs if name not in placed]
        width = max(map(len, self._verbs))
        for title, names in (*self._sections.items(), ("Further verbs", others)):
            rows = [(f"{name:<{width}}", self._summary(ctx, name)) for name in names]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def _summary(self, ctx: click.Context, name: str) -> str:
        if name in SUMMARIES:
            return SUMMARIES[name]
        command = self.get_command(ctx, name)
        return "" if command is None else command.get_short_help_str(limit=65)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb. A reader that has had enough, as in ``| head``, ends it silently."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except KeyboardInterrupt:
            raise click.Abort from None  # or click would print an empty line, also into a file
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
        _make_streams_usable()
        try:
            code = super().main(
                args, prog_name, complete_var, standalone_mode=False, obj=settings, **extra
            )
        except Exception as error:
            if settings.debug or not standalone_mode:
                sys.excepthook = _show_traceback
                raise
            _exit(error)
        if not standalone_mode:
            return code
        # Python looks through every object once more before it ends, which takes longer than the
        # last checkpoint did; a process that was told to go has no time for that.
        gc.freeze()
        sys.exit(code)


def _make_streams_usable() -> None:
    """Have streams that everything can be printed to.

    One that was closed, as by ``>&-``, is none for Python, and the next file that is opened would
    be in its place. And not every encoding has a way to write what a page or a path has.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - it stays open
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _show_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print a traceback; what a page wrote may be part of it."""
    # Imported here, as it is seldom needed.
    import traceback

    for line in "".join(traceback.format_exception(kind, error, trace)).splitlines():
        click.echo(printable(line), err=True)


def _exit(error: Exception) -> NoReturn:
    if isinstance(error, NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        sys.exit(error.exit_code)
    if isinstance(error, click.Abort) or _is_from_interrupt(error):
        if sys.stderr.isatty():
            click.echo("", err=True)  # behind the ^C
        _fail("stopped", INTERRUPTED)
    if isinstance(error, click.UsageError):
        _fail(_told(error), error.exit_code)
    if isinstance(error, CrawlkitError):
        _fail(one_line(error), error.exit_code)
    if place := _place_in_crawler(error):
        _fail(f"{place}: {one_line(error)}; --debug shows the traceback", 1)
    if isinstance(error, OSError):
        _fail(f"{error.filename or 'output'}: {error.strerror or error}", 1)
    _fail(
        f"this is a bug of crawlkit, please report it with what --debug shows: {one_line(error)}", 1
    )


def _is_from_interrupt(error: BaseException) -> bool:
    """Whether it is what Python makes of a Ctrl-C that comes while a class is being made."""
    cause = error.__cause__
    return cause is not None and (isinstance(cause, KeyboardInterrupt) or _is_from_interrupt(cause))


def _near(error: click.UsageError) -> list[str]:
    """The verbs or options that may have been meant; not those that are none of a user's."""
    if not isinstance(error, NoSuchCommand | NoSuchOption) or not error.possibilities:
        return []
    if isinstance(error, NoSuchCommand) and error.command_name == "help":
        return []  # which is nearest to shell
    parameters = error.ctx.command.params if error.ctx is not None else []
    hidden = {name for one in parameters if getattr(one, "hidden", False) for name in one.opts}
    return [name for name in error.possibilities if name not in hidden]


def _told(error: click.UsageError) -> str:
    """What is wrong with the command, and what to write instead."""
    command = error.ctx.command_path if error.ctx is not None else "crawlkit"
    if isinstance(error, NoSuchOption):
        message = f"there is no option {error.option_name}"
    else:
        message = " ".join(error.message.split()) if isinstance(error, NoSuchCommand) else ""
    if near := _near(error):
        return f"{message}; did you mean {' or '.join(near)}?"
    if isinstance(error, NoSuchCommand) and (meant := _meant(error)):
        return f"{message}; did you mean '{command} {meant}'?"
    if isinstance(error, click.MissingParameter) and error.param is not None:
        files = [str(file) for file in sorted(Path().glob("*.py")) if "test" not in file.stem]
        given = {"address": _runs(), "target": files}
        if there := given.get(error.param.name or ""):
            kind = "run" if error.param.name == "address" else "crawler"
            return f"name a {kind}; there is {', '.join(there[:10])}"
    if error.message == "Missing command." and isinstance(error.ctx, click.Context):
        group = error.ctx.command
        if isinstance(group, click.Group):
            verbs = ", ".join(group.list_commands(error.ctx))
            return f"say what to do: {verbs}; see '{command} --help'"
    message = message or " ".join(error.format_message().split()).rstrip(".")
    return printable(f"{message}; see '{command} --help'")


def _meant(error: NoSuchCommand) -> str:
    """What was meant, where a verb was left out, or stands behind what it is about."""
    word, context = error.command_name, error.ctx
    if context is not None and context.parent is not None:
        (first, *_) = context.params.values()
        known = context.command.list_commands(context)  # type: ignore[attr-defined]
        return f"{word} {first}" if first in known else ""
    if word.endswith(".py") or ".py:" in word:
        return f"run {word}"
    return f"stats {word}" if word in _runs() else ""


def _runs() -> list[str]:
    """The runs that there are in the usual place."""
    return sorted(str(file.parent) for file in Path("runs").glob("*/run.lock"))


def _place_in_crawler(error: Exception) -> str:
    """``file:line`` in the user's crawler, where the error arose there."""
    # Imported here, as they are seldom needed.
    from traceback import walk_tb

    from ..counting.errorgroups import place_below_runner

    return place_below_runner(walk_tb(error.__traceback__))


def program() -> str:
    """What the user has typed to get here: ``crawlkit``, or ``python -m crawlkit``."""
    return click.get_current_context().find_root().info_name or "crawlkit"


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"crawlkit: {message}", err=True)
    sys.exit(code)


def _complete_run(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The runs that there are, for the completion of a shell; else directories."""
    found = [CompletionItem(run) for run in _runs() if run.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="dir")]


def complete_target(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Files, for the completion of a shell."""
    return [CompletionItem(incomplete, type="file")]


def run_argument(function: F) -> F:
    """The argument RUN, passed on as ``address``."""
    return click.argument("address", metavar="RUN", shell_complete=_complete_run)(function)


def json_option(function: F) -> F:
    """``--json``, passed on as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)

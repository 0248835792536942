"""Error groups: a million errors told as the few things that went wrong."""

from __future__ import annotations

import os
import re
import sysconfig
from collections.abc import Container, Iterable
from hashlib import blake2b
from itertools import dropwhile
from pathlib import Path, PurePath
from traceback import walk_tb
from types import FrameType
from typing import NamedTuple, TypeAlias

import msgspec

from ..checkpoint import Checkpoint, ErrorGroup
from ..clock import isoformat
from ..errors import CrawlkitError, HandlerError
from ..request import host_of

GROUPS = 500
"""Groups that are kept apart; errors of further kinds are counted in one group more."""

EXAMPLES = 5
"""URLs that are kept with a group."""

_LONGEST = 400

GroupKey: TypeAlias = tuple[str, str, str]
"""What makes two errors alike: kind, place and masked message, as in `ErrorGroup.key`."""

_OTHER: GroupKey = ("other", "", f"errors that fit none of the first {GROUPS} groups")

_CRAWLKIT = str(Path(__file__).parents[1]) + os.sep
_STDLIB = tuple({sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")})
_LIBRARY = ("<", *_STDLIB)
_CYTHON = (".pyx", ".pxi", ".pxd")
"""Endings of files that compiled libraries name, by a path that says nothing of where they are."""


class ErrorStatistics(msgspec.Struct, frozen=True):
    """Errors that are alike.

    Attributes:
        id: What the group is called in commands: 8 characters, the same in every run.
        kind: The error's type.
        message: Its message, varying parts masked.
        place: ``file:line`` or the handler where it arose; may be empty.
        count: How often, retries included.
        first_at: Time of the first.
        last_at: Time of the last.
        examples: A few URLs, at most five.
    """

    id: str
    kind: str
    message: str
    place: str
    count: int
    first_at: str | None
    last_at: str | None
    examples: list[str]

    @classmethod
    def of(cls, group: ErrorGroup) -> ErrorStatistics:
        """What is stored, for reading."""
        return cls(
            id=group_id(group.key),
            kind=group.kind,
            message=group.message,
            place=group.place,
            count=group.count,
            first_at=isoformat(group.first_at),
            last_at=isoformat(group.last_at),
            examples=list(group.examples),
        )


class ErrorGroups:
    """The groups of a run, and what was added to them since the last checkpoint."""

    def __init__(self) -> None:
        self._groups: dict[GroupKey, ErrorGroup] = {}
        self._added: dict[GroupKey, ErrorGroup] = {}

    def restore(self, groups: Iterable[ErrorGroup]) -> None:
        """Take back the groups of earlier lives."""
        self._groups = {
            group.key: msgspec.structs.replace(group, examples=list(group.examples))
            for group in groups
        }

    def record(self, error: BaseException, url: str, place: str | None, now: float) -> GroupKey:
        """Count an error in its group, and say in which.

        Args:
            error: What was raised.
            url: The URL during whose handling it was.
            place: Where; found in the traceback where it is ``None``.
            now: Unix time.
        """
        kind = kind_of(error)
        key = (kind, place_of(error) if place is None else place, message_of(error, host_of(url)))
        group = self._groups.get(key)
        if group is None:
            # The other group is not one of the 500.
            if len(self._groups) - (_OTHER in self._groups) >= GROUPS:
                key = _OTHER
            group = self._groups.setdefault(key, _empty(key, now))
        added = self._added.get(key)
        if added is None:
            added = self._added[key] = _empty(key, now)
        if len(group.examples) < EXAMPLES and url not in group.examples:
            group.examples.append(url)
            added.examples.append(url)
        group.count += 1
        added.count += 1
        group.last_at = added.last_at = now
        return key

    def collect(self, checkpoint: Checkpoint) -> None:
        """Hand over what was added."""
        checkpoint.errors.extend(self._added.values())
        self._added = {}

    def all(self) -> list[ErrorStatistics]:
        """All groups, the most frequent first."""
        groups = sorted(self._groups.values(), key=lambda group: (-group.count, group.key))
        return [ErrorStatistics.of(group) for group in groups]


def group_id(key: GroupKey) -> str:
    """What a group of errors is called in commands."""
    return blake2b("\0".join(key).encode("utf-8", "replace"), digest_size=4).hexdigest()


_NAMED = re.compile(r" \[([0-9a-f]{8})\]$").search


def with_group(detail: str, group: str) -> str:
    """What is written down of a failed request: its error in one line, and the group's id."""
    return f"{detail} [{group}]"


def without_group(detail: str | None) -> tuple[str, str | None]:
    """The two that `with_group` has put together; without the second in runs that had none."""
    detail = detail or ""
    found = _NAMED(detail)
    return (detail, None) if found is None else (detail[: found.start()], found[1])


def kind_of(error: BaseException) -> str:
    """What an error is called in groups and outcomes."""
    return error.kind if isinstance(error, CrawlkitError) else type(error).__name__


def _empty(key: GroupKey, now: float) -> ErrorGroup:
    kind, place, message = key
    return ErrorGroup(kind=kind, message=message, place=place, first_at=now, last_at=now)


# -- what is alike in the messages ------------------------------------------------------------

_VARYING = re.compile(
    r"""
      (?P<text> "[^"]*" | (?<!\w)'[^']*'(?!\w) )
    | (?P<url>  [A-Za-z][A-Za-z0-9+.-]*://[^\s'"<>]+ )
    | (?P<uuid> \b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b )
    | (?P<path> (?<![\w/.<])/[^\s'",;:()]+ | \b[A-Za-z]:\\[^\s'",;:()]+ )
    | (?P<hex>  \b0[xX][0-9a-fA-F]+\b
              | \b(?=[0-9a-fA-F]*[0-9])(?=[0-9]*[a-fA-F])[0-9a-fA-F]{8,}\b )
    | (?P<n>    (?<![\w.])-?\d+(?:[.,:_]\d+)* )
    """,
    re.VERBOSE,
)

# Python itself quotes names of the program in these, not data: they are what the error is about.
_ABOUT_NAMES = (AttributeError, HandlerError, ImportError, KeyError, NameError, TypeError)
_IS_NAME = re.compile(r"'[A-Za-z_.]+'").fullmatch


def message_of(error: BaseException, host: str = "") -> str:
    """The error's message with its varying parts masked: numbers, URLs, paths, quoted text, `host`.

    What tells errors apart stays: an HTTP status, and the names that Python puts between quotes.
    """
    try:
        message = str(error)
    except Exception:
        message = ""  # a broken __str__ of the user's own must not hide the error
    message = " ".join(message[:_LONGEST].split())
    if host:
        message = re.sub(rf"(?<!//){re.escape(host)}", "<host>", message)
    names = isinstance(error, _ABOUT_NAMES)
    status = str(getattr(error, "status", ""))

    def masked(match: re.Match[str]) -> str:
        text = match.group()
        if text == status or (names and _IS_NAME(text)):
            return text
        return "'…'" if match.lastgroup == "text" else f"<{match.lastgroup}>"

    return _VARYING.sub(masked, message)


def place_of(error: BaseException) -> str:
    """``file:line`` of the innermost frame in the user's code; empty where there was none."""
    return place_in(walk_tb(error.__traceback__))


class Line(NamedTuple):
    """A line of the user's code.

    Attributes:
        file: The file, from its package on.
        number: The line's number.
        function: The function that it is in, as in ``Shop.parse``.
    """

    file: str
    number: int
    function: str


def place_below_runner(frames: Iterable[tuple[FrameType, int]]) -> str:
    """``file:line`` in the user's crawler; empty where none of it runs.

    Args:
        frames: Frames with their lines, the innermost one last. Below the runner, what is neither
            ours nor installed is the user's.
    """
    return place_in(dropwhile(lambda frame: not _is_runner(frame[0]), frames))


def line_below_crawlkit(
    innermost: FrameType, home: str, *, prompts: Container[str] = ()
) -> Line | None:
    """The innermost line of the user's code that crawlkit has called; ``None`` where it has not.

    Args:
        innermost: The frame that is running.
        home: The package that is the user's, where it is installed.
        prompts: Modules that wait for somebody to type: where one of them was called, there is no
            such line.
    """
    found: FrameType | None = None
    frame: FrameType | None = innermost
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(_CRAWLKIT):
            if frame.f_globals.get("__name__") in prompts:
                return None
            if found is None and (not _is_others(file) or _package_of(frame) == home):
                found = frame
        elif found is not None:
            return Line(_file_of(found), found.f_lineno, found.f_code.co_qualname)
        frame = frame.f_back
    return None


def _package_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _is_runner(frame: FrameType) -> bool:
    return frame.f_globals.get("__name__") == "crawlkit.runner"


def place_in(frames: Iterable[tuple[FrameType, int]]) -> str:
    """The innermost of these places that is in the user's code; empty where none of them is.

    The user's code is what crawlkit called, and what of the same package, or outside of installed
    packages, it called in turn.
    """
    place = ""
    home: str | None = None
    for frame, line in frames:
        file = frame.f_code.co_filename
        if file.startswith(("<", _CRAWLKIT)) or file.endswith(_CYTHON) or _is_stdlib(file):
            continue
        package = _package_of(frame)
        if home is None:
            home = package
        if package == home or not _is_installed(file):
            place = f"{_file_of(frame)}:{line}"
    return place


def _is_stdlib(file: str) -> bool:
    return file.startswith(_STDLIB) and not _is_installed(file)


def _is_others(file: str) -> bool:
    """Whether it is in Python's library, installed, or no file at all."""
    return file.startswith(_LIBRARY) or _is_installed(file)


def _is_installed(file: str) -> bool:
    return "site-packages" in file or "dist-packages" in file


def _file_of(frame: FrameType) -> str:
    """The file from its package on: the same on every machine and in every directory."""
    depth = str(frame.f_globals.get("__name__", "")).count(".") + 1
    path = PurePath(frame.f_code.co_filename)
    if path.name == "__init__.py":
        depth += 1
    return "/".join(path.parts[-depth:])

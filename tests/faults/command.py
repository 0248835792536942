"""What the commands of the checks have in common: how they begin, and how they end."""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path


class Command:
    """``python -m tests.faults.NAME``, from its arguments to its exit code.

    Its runs are in a directory, which is removed at the end unless something is wrong.

    Args:
        name: The name of the module.
        doc: Its docstring, of which the first line is shown.
        is_random: Whether it chooses moments, by a seed that can be given again.

    Attributes:
        parser: For further arguments.
        given: All arguments, once it was begun.
        seed: The seed.
        directory: Where the runs are.
    """

    def __init__(self, name: str, doc: str | None, *, is_random: bool = True) -> None:
        self.parser = argparse.ArgumentParser(
            prog=f"python -m tests.faults.{name}", description=(doc or "").partition("\n\n")[0]
        )
        if is_random:
            self.parser.add_argument("--seed", type=int, help="choose the same moments again")
        self._name = name
        self._is_random = is_random
        self._began = time.monotonic()
        self.given = argparse.Namespace()
        self.seed = 0
        self.directory = Path()

    def begin(self) -> None:
        """Read the arguments, and say which moments are chosen and where the runs are."""
        self.given = self.parser.parse_args()
        self.directory = Path(tempfile.mkdtemp(prefix=f"crawlkit-{self._name}-"))
        if self._is_random:
            self.seed = random.randrange(10**6) if self.given.seed is None else self.given.seed
            say(f"seed {self.seed}, in {self.directory}")
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long it has taken so far."""
        return time.monotonic() - self._began

    def end(self, *, is_wrong: bool) -> int:
        """The exit code: 1 where any run is not as it should be. Those that are not are kept."""
        if is_wrong:
            say(f"something is wrong; the runs where it is are in {self.directory}")
            return 1
        shutil.rmtree(self.directory)
        return 0


def say(line: str) -> None:
    """Print a line at once, for whoever looks on."""
    print(line, flush=True)


def rows(named: Iterable[tuple[str, str]]) -> str:
    """A table of two columns."""
    return "\n".join(f"{name:<14}{text}" for name, text in named)

"""Whatever call on the files of a run goes wrong, and however: nothing is lost or there twice.

``python -m tests.faults.steps`` does this for each call; here it is a choice of them.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .faults.common import ROOT
from .faults.steps import KINDS
from .faults.syscalls import CAN_FAIL, Fault, run

pytestmark = pytest.mark.skipif(not CAN_FAIL, reason="needs Linux on x86-64")


def check(*arguments: str) -> str:
    """Run the check as a user does; what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.steps", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_run_survives_that_any_step_of_it_goes_wrong() -> None:
    """While it is made, crawls, and merges its log: it goes on, or the next start finishes it."""
    printed = check("--first", "40", "--last", "310", "--every", "90")

    assert all(f"{number}  " in printed for number in (40, 130, 220, 310))
    assert all(kind in printed for kind in KINDS)
    assert "no such call" not in printed


def test_a_run_survives_that_going_on_with_it_goes_wrong() -> None:
    """The first life is killed while it merges its log, the second cannot open what is left."""
    printed = check(
        *("--earlier", "200", "--first", "15", "--last", "35", "--every", "10"),
        *("--kind", "once EIO", "--kind", "lasting ENOSPC"),
    )

    assert "no such call" not in printed


def _write_three(root: Path) -> None:
    (root / "errors").mkdir()
    for name in "abc":
        try:
            (root / name).write_bytes(bytes(1024))
        except OSError as error:
            (root / "errors" / f"{error.errno}").touch()


@pytest.mark.parametrize(
    ("fault", "sizes"),
    [
        (None, [1024, 1024, 1024]),
        (Fault(5, errno.ENOSPC), [1024, 0, 1024]),
        (Fault(5, errno.EIO, is_lasting=True), [1024, 0]),
        (Fault(5), [1024, 0]),
        (Fault(5, is_torn=True), [1024, 512]),
    ],
)
def test_the_call_that_was_meant_goes_wrong(
    tmp_path: Path, fault: Fault | None, sizes: list[int]
) -> None:
    """The check checks itself: calls are counted, and one fails, all after it too, or kills."""
    work = _stop_at_error if fault is not None and fault.is_lasting else _write_three

    trace = run(lambda: work(tmp_path), tmp_path, fault, longest=10)

    assert [path.stat().st_size for path in sorted(tmp_path.glob("[abc]"))] == sizes
    assert trace.calls[:5] == ["mkdir errors", "openat a", "write a", "openat b", "write b"]
    assert bool(trace.struck) == bool(fault)
    assert (trace.code == -9) == (fault is not None and not fault.error)


def _stop_at_error(root: Path) -> None:
    try:
        _write_three(root)
    except OSError:
        os._exit(0)

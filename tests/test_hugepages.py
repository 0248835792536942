"""A crawl of ten pages pays nothing for the tables that one of ten million has."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from crawlkit.hugepages import zeros


def test_they_are_zeros_that_can_be_written_over() -> None:
    numbers = zeros(8 * 1000).cast("q")
    assert numbers.tolist() == [0] * 1000
    numbers[999] = -(2**63)
    assert numbers.tolist() == [0] * 999 + [-(2**63)]


@pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell")
def test_what_is_not_used_takes_no_memory() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    before = resident()
    large = zeros(2**30)
    large[0] = large[-1] = 1
    assert resident() - before < 20e6

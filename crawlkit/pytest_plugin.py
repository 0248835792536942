"""The pytest plugin: a fixture that serves a site of strings. It does nothing until it is used.

pytest loads this file in every run of everybody who has crawlkit installed. So it imports nothing
but pytest, and adds nothing but a fixture that a test has to name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .testing import Site


@pytest.fixture
def site() -> Iterator[Site]:
    """An empty web site on loopback, in a thread of its own; ``site.add_page(path, html)``."""
    from .testing import Site

    with Site() as running:
        yield running

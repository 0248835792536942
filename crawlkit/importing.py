"""Importing: modules that few crawls need, and that take long to load."""

from __future__ import annotations

import asyncio
import sys
from importlib import import_module


async def load(name: str) -> None:
    """Import a module beside the event loop, so that ``import`` finds it there: it may take 0.3 s.

    Raises:
        ImportError: There is none.
    """
    if name not in sys.modules:
        await asyncio.to_thread(import_module, name)

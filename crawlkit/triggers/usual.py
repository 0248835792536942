"""The triggers that a job has without being given any."""

from __future__ import annotations

import os
from typing import get_args

from ..errors import OptionError
from .base import Preemption, Trigger

PLATFORM = "ACTOR_EVENTS_WEBSOCKET_URL"
"""The environment variable with the address of the platform's events."""
METADATA = "CRAWLKIT_METADATA_URL"
"""The environment variable with the address of a cloud's metadata service, if it is elsewhere."""


def usual_triggers(preemption: Preemption | None) -> list[Trigger]:
    """The platform's events where there is a platform, and the notices of a cloud if asked for.

    Raises:
        OptionError: No cloud is called so.
    """
    # Imported here, since they bring aiohttp along, and most jobs need neither.
    triggers: list[Trigger] = []
    if url := os.environ.get(PLATFORM):
        from .platform import Platform

        triggers.append(Platform(url))
    if preemption is not None:
        if preemption not in get_args(Preemption):
            clouds = ", ".join(get_args(Preemption))
            raise OptionError(f"preemption cannot be {preemption!r}; it is one of {clouds}")
        from .cloud import cloud

        triggers.append(cloud(preemption, os.environ.get(METADATA)))
    return triggers

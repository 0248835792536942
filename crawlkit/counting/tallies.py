"""Tallies: what was counted for one handler, and for one host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from ..checkpoint import Number


class HandlerStatistics(msgspec.Struct):
    """What one handler did.

    Attributes:
        requests_finished: Requests that it handled.
        requests_failed: Requests that were given up.
        requests_retried: Tries that failed and were made again.
        items_saved: Items.
        duration_sum: Seconds that its finished and failed requests took, fetching included.
        cache_hits: Its pages that came from the page cache.
        cache_misses: Its pages that were not in it.
        cache_revalidated: Its pages that the site confirmed to be unchanged.
        cache_stored: Its pages that were put into it.
    """

    requests_finished: int = 0
    requests_failed: int = 0
    requests_retried: int = 0
    items_saved: int = 0
    duration_sum: float = 0.0
    cache_hits: int = 0
    cache_misses: int = 0
    cache_revalidated: int = 0
    cache_stored: int = 0


class HostStatistics(msgspec.Struct):
    """What was fetched from one host.

    Attributes:
        requests_finished: Requests that were handled.
        requests_failed: Requests that were given up.
        requests_retried: Tries that failed and were made again.
        responses_received: Responses, also those that were tried again.
        bytes_received: Bytes of their bodies.
        duration_sum: Seconds that its finished and failed requests took.
    """

    requests_finished: int = 0
    requests_failed: int = 0
    requests_retried: int = 0
    responses_received: int = 0
    bytes_received: int = 0
    duration_sum: float = 0.0


def tallies(counters: Mapping[str, Number]) -> dict[str, HostStatistics]:
    """What the counters under ``host/`` say, by host, the busiest first."""
    hosts: dict[str, HostStatistics] = {}
    for name, value in counters.items():
        host, _, field = name.removeprefix("host/").rpartition("/")
        row = hosts.get(host)
        if row is None:
            row = hosts[host] = HostStatistics()
        set_field(row, field, value)
    return dict(sorted(hosts.items(), key=lambda entry: -entry[1].responses_received))


def named(prefix: str, row: msgspec.Struct) -> Iterator[tuple[str, Number]]:
    """A tally as counters: each field of the row by its name, under `prefix`."""
    return ((f"{prefix}/{field}", getattr(row, field)) for field in row.__struct_fields__)


def set_field(row: msgspec.Struct, field: str, value: Number) -> None:
    """Take back one field of a row.

    Raises:
        ValueError: The value is no number.
    """
    # A field that this version does not know was counted by another one, and stays as it is.
    if field in row.__struct_fields__:
        setattr(row, field, float(value) if field == "duration_sum" else int(value))

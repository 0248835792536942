"""Commit: a checkpoint, written by one statement.

One statement is one transaction, which no client holds open: a worker that is killed, stopped or
cut off at any moment has either sent all of it or changed nothing, and keeps no lock from others.
The server does all of it in one function. It first checks that the worker is still there, and that
this is its next commit: one whose answer got lost is sent again, and applied once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any, NamedTuple
from zlib import crc32

import msgspec
from psycopg import Connection

from ...checkpoint import READ_SINGLY, Checkpoint, Document, Outcome, Pending
from ..base import Receipt
from ..bundle import Left, without_host
from ..encoding import encode
from .columns import columns, utf8
from .routine import (
    ARRIVALS,
    COUNTERS,
    DOCUMENTS,
    EMPTIED,
    ERRORS,
    FORGET,
    ITEMS,
    OUTCOMES,
    PARTLY,
    RESTS,
    SHARES,
    TABLES,
    Table,
)

_CALL = "SELECT commit_checkpoint({})".format(
    ", ".join(["%s"] * (6 + sum(len(table.columns) for table in TABLES)))
)


class _Answer(msgspec.Struct):
    """What the function says."""

    tag: int
    enqueued: int
    duplicates: int
    wanted: list[str]
    rests: dict[str, tuple[float, float]] | None = None
    totals: dict[str, float] | None = None


_answer = msgspec.json.Decoder(_Answer)


def hosts_of(checkpoint: Checkpoint) -> set[str]:
    """Every host that a checkpoint names."""
    names = {pending.host for pending in checkpoint.fresh}
    names.update(pending.host for pending in checkpoint.again)
    names.update(outcome.host for outcome in checkpoint.outcomes)
    names.update(outcome.host for outcome in checkpoint.skipped)
    names.update(host for host, *_ in checkpoint.forget)
    names.update(checkpoint.rests)
    names.update(checkpoint.shares)
    return names


def key_of(*texts: str) -> int:
    """A signed 64-bit number for text that may be too long for an index."""
    data = b"\0".join(map(utf8, texts))
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big", signed=True)


class Stored(NamedTuple):
    """A document on its way: what to store, and the revision that it follows, if that matters."""

    document: Document | None
    revision: int | None = None


def write(
    connection: Connection[Any],
    epoch: int,
    number: int,
    tag: int,
    lease: float,
    checkpoint: Checkpoint,
    left: Left,
    hosts: Mapping[str, int],
    documents: Mapping[str, Stored],
) -> tuple[Receipt, int]:
    """Commit `checkpoint` as the worker's commit of that `number`.

    Returns:
        The receipt, and the tag of the attempt that has done it: an earlier one, if its answer got
        lost.
    """
    rows: list[tuple[Table, Iterator[tuple[Any, ...]]]] = [
        (ARRIVALS, _arrivals(checkpoint, hosts)),
        (PARTLY, ((bundle, state.gone) for bundle, state in left.partly.items())),
        (EMPTIED, ((bundle,) for bundle in left.emptied)),
        (FORGET, ((hosts[host], number, at) for host, number, at in checkpoint.forget)),
        (OUTCOMES, _outcomes(checkpoint, hosts)),
        (
            ITEMS,
            (
                (item.at, item.url, item.handler, crc32(item.data), item.data)
                for item in checkpoint.items
            ),
        ),
        (DOCUMENTS, _documents(documents)),
        (
            COUNTERS,
            (
                (name, kind, value)
                for kind, counters in enumerate((checkpoint.add, checkpoint.least, checkpoint.most))
                for name, value in counters.items()
            ),
        ),
        (ERRORS, _errors(checkpoint)),
        (RESTS, ((hosts[host], at, delay) for host, (at, delay) in checkpoint.rests.items())),
        (SHARES, ((hosts[host], shares) for host, shares in checkpoint.shares.items())),
    ]
    arguments: list[Any] = [epoch, number, tag, lease, checkpoint.at]
    arguments.append(len(checkpoint.fresh) + checkpoint.duplicates)
    for table, values in rows:
        arguments += columns(table.kinds, values)
    ((text,),) = connection.execute(_CALL, arguments, prepare=True)
    answer = _answer.decode(text)
    receipt = Receipt(
        answer.enqueued,
        answer.duplicates,
        totals={name: whole(value) for name, value in (answer.totals or {}).items()},
        wanted=tuple(answer.wanted),
        rests=answer.rests or {},
    )
    return receipt, answer.tag


def whole(value: float) -> int | float:
    """A counter as it was added up: whole where it is."""
    return int(value) if value == value // 1 else value


def _arrivals(checkpoint: Checkpoint, hosts: Mapping[str, int]) -> Iterator[tuple[Any, ...]]:
    fresh: dict[str, dict[int, Pending]] = {}
    for pending in checkpoint.fresh:
        fresh.setdefault(pending.host, {}).setdefault(pending.fingerprint, pending)
    groups = [(host, list(found.values()), False) for host, found in fresh.items()]
    again: dict[str, list[Pending]] = {}
    for pending in checkpoint.again:
        again.setdefault(pending.host, []).append(pending)
    groups += [(host, found, True) for host, found in again.items()]
    for host, pendings, is_known in groups:
        host_id = hosts[host]
        requests = without_host([pending.request for pending in pendings], host)
        for pending, request in zip(pendings, requests, strict=True):
            text = encode(request)
            yield (
                host_id,
                pending.fingerprint,
                is_known,
                pending.request.priority,
                pending.due,
                crc32(text),
                text,
            )


def _outcomes(checkpoint: Checkpoint, hosts: Mapping[str, int]) -> Iterator[tuple[Any, ...]]:
    found: dict[tuple[int, int], tuple[bool, Outcome]] = {}
    for outcome in checkpoint.skipped:
        found.setdefault((hosts[outcome.host], outcome.fingerprint), (True, outcome))
    for outcome in checkpoint.outcomes:
        found[hosts[outcome.host], outcome.fingerprint] = (False, outcome)
    for (host, fingerprint), (is_link, outcome) in found.items():
        yield (
            host,
            fingerprint,
            is_link,
            outcome.outcome,
            outcome.at,
            outcome.url,
            outcome.handler,
            outcome.status,
            outcome.duration,
            outcome.retries,
            outcome.error,
            outcome.detail,
            outcome.request and encode(outcome.request),
        )


def _documents(documents: Mapping[str, Stored]) -> Iterator[tuple[Any, ...]]:
    for name, (document, revision) in documents.items():
        is_single = name.startswith(READ_SINGLY)
        if document is None:
            yield (key_of(name), name, is_single, 0, 0, None, revision)
        else:
            data = document.data
            yield (key_of(name), name, is_single, document.version, crc32(data), data, revision)


def _errors(checkpoint: Checkpoint) -> Iterator[tuple[Any, ...]]:
    for group in checkpoint.errors:
        yield (
            key_of(*group.key),
            group.kind,
            group.place,
            group.message,
            group.count,
            group.first_at,
            group.last_at,
            encode([example.replace("\0", "\u2400") for example in group.examples]),
        )

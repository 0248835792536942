"""Limits: what a server may cost us."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server may cost us.

    Attributes:
        idle: Seconds without a byte, also while connecting.
        total: Seconds for a whole request, redirects included.
        body: Bytes of a decoded body.
        headers: Bytes of a response's header fields.
        redirects: Redirects that are followed for one request.
        truncate: Whether a longer body is cut at `body` bytes rather than being an error.
    """

    idle: float = 30.0
    total: float = 60.0
    body: int = 16 * 1024 * 1024
    headers: int = 64 * 1024
    redirects: int = 20
    truncate: bool = False

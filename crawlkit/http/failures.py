"""Failures: what went wrong on the wire, as an error of ours that says it in plain words."""

from __future__ import annotations

import ssl

import aiohttp
from aiohttp.http_exceptions import LineTooLong

from ..errors import (
    FetchError,
    FetchTimeoutError,
    LimitError,
    NetworkError,
    ProxyError,
    UsageError,
    one_line,
)
from ..request import host_of
from .limits import Limits
from .protocol import CHAFF, FLOOD
from .proxies import place_of

MAX_HEADERS = 256
"""Header fields of a response; `Limits.headers` bounds their bytes."""

# What a proxy says of a site that it cannot reach. The proxy is not to blame for that, and one
# dead site must not send all of them to rest.
_SITE_UNREACHABLE = frozenset({502, 503, 504})


def failure(error: Exception, url: str, proxy: str | None, limits: Limits) -> Exception:
    """What went wrong while fetching `url`, as an error of ours.

    Args:
        error: What aiohttp or the system raised. What is none of theirs is given back as it is.
        url: The URL of the hop.
        proxy: URL of the proxy that it went through.
        limits: The limits that were in force.
    """
    host, via = host_of(url), place_of(proxy)
    match error:
        case FetchError() | UsageError():
            return error
        case aiohttp.ConnectionTimeoutError():
            return FetchTimeoutError(f"no connection to {host} within {limits.idle:g} s")
        case aiohttp.SocketTimeoutError():
            return FetchTimeoutError(f"{host} sent nothing for {limits.idle:g} s")
        case aiohttp.ClientProxyConnectionError():
            return ProxyError(f"no connection to the proxy {via}: {reason(error)}", proxy=via)
        case aiohttp.ClientHttpProxyError(status=status, message=message):
            if status in _SITE_UNREACHABLE:
                return NetworkError(
                    f"no connection to {host}: the proxy {via} says {status} {message}"
                )
            return ProxyError(f"the proxy {via} refuses: {status} {message}", proxy=via)
        case aiohttp.ClientConnectorDNSError():
            if proxy is not None:
                return ProxyError(f"no address for the proxy {via}: {reason(error)}", proxy=via)
            return NetworkError(f"no address for {host}: {reason(error)}")
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return NetworkError(f"no TLS with {host}: {reason(error)}")
        case aiohttp.ClientConnectorError():
            return NetworkError(f"no connection to {host}: {reason(error)}")
        case aiohttp.ServerDisconnectedError():
            return NetworkError(f"{host} closed the connection without a response")
        case aiohttp.ClientPayloadError() if str(error) == CHAFF:
            return LimitError(f"{host} sent {CHAFF}")
        case aiohttp.ClientPayloadError():
            return NetworkError(f"the body from {host} broke off: {reason(error)}")
        case aiohttp.ClientResponseError():
            cause = error.__cause__ and error.__cause__.__cause__
            if isinstance(cause, LineTooLong) or error.message.startswith("Too many headers"):
                return too_many_headers(url, limits)
            if error.message in (CHAFF, FLOOD):
                return LimitError(f"{host} sent {error.message}")
            return NetworkError(f"{host} sent malformed HTTP: {reason(error)}")
        case OSError() | aiohttp.ClientError():
            return NetworkError(f"the connection to {host} failed: {reason(error)}")
    return error


def is_break(error: Exception) -> bool:
    """Whether a connection broke off after it had been made."""
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ClientSSLError):
        return False
    return isinstance(
        error, aiohttp.ClientOSError | aiohttp.ServerDisconnectedError | aiohttp.ClientPayloadError
    )


def too_many_headers(url: str, limits: Limits) -> LimitError:
    """The error of a response whose headers are too long or too many."""
    return LimitError(
        f"{host_of(url)} sent more than {limits.headers} bytes or {MAX_HEADERS} fields of headers"
    )


def reason(error: BaseException) -> str:
    """The first line of what the libraries below say."""
    cause = getattr(error, "os_error", None) or error.__cause__ or error
    text = getattr(cause, "strerror", None) or getattr(cause, "message", None) or one_line(cause)
    return str(text).strip().partition("\n")[0].rstrip(":.")[:200]

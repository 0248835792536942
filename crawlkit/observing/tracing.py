"""Tracing: a span of OpenTelemetry for each request.

Names and attributes are those of the semantic conventions for HTTP clients
(https://opentelemetry.io/docs/specs/semconv/http/http-spans/). Nothing of a trace is sent to the
sites: their servers are not part of it.
"""

from __future__ import annotations

import asyncio
import os
from importlib.metadata import entry_points
from typing import Any
from urllib.parse import urlsplit

from .. import __version__
from ..errors import OptionError
from ..fetching import Fetcher, MayFollow
from ..http.limits import Limits
from ..request import Request
from ..response import Response
from ..sessions import Session

_EXPORTER = "OTEL_TRACES_EXPORTER"
_OTLP = "OTEL_EXPORTER_OTLP"
_SERVICE = "OTEL_SERVICE_NAME"
_KNOWN = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"}
)


class TracingFetcher(Fetcher):
    """Any fetcher, with a span for each of its requests.

    Where the program has set up OpenTelemetry, as ``opentelemetry-instrument`` does, its provider
    is used. Otherwise one is made whose exporter the environment names
    (``OTEL_TRACES_EXPORTER``, default ``otlp``).

    Args:
        fetcher: What does the work.
        name: The name of the service, where the environment gives none.
        provider: A provider of OpenTelemetry to use in place of these.

    Raises:
        OptionError: OpenTelemetry or the exporter is not installed.
    """

    def __init__(self, fetcher: Fetcher, name: str = "crawlkit", provider: Any = None) -> None:
        try:
            from opentelemetry import trace  # here, as it is an extra
        except ImportError:
            raise OptionError(
                "traces need OpenTelemetry; install it with pip install 'crawlkit[otel]'"
            ) from None
        self._fetcher = fetcher
        self._trace = trace
        self._own: Any = None
        if provider is None:
            provider = trace.get_tracer_provider()
            if isinstance(provider, trace.ProxyTracerProvider):
                provider = self._own = _provider(name)
        self._tracer = provider.get_tracer("crawlkit", __version__)

    async def open(self) -> None:
        """Get ready."""
        await self._fetcher.open()

    async def close(self) -> None:
        """Give everything back, and send the spans that wait."""
        await self._fetcher.close()
        if self._own is not None:
            await asyncio.to_thread(self._own.force_flush, 5000)

    async def fetch(
        self,
        request: Request,
        session: Session,
        *,
        limits: Limits | None = None,
        may_follow: MayFollow | None = None,
    ) -> Response:
        """Fetch one request, within its span; see `Fetcher.fetch`."""
        method = request.method.upper()
        with self._tracer.start_as_current_span(
            method if method in _KNOWN else "HTTP",
            kind=self._trace.SpanKind.CLIENT,
            attributes=_asked(request, method),
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                response = await self._fetcher.fetch(
                    request, session, limits=limits, may_follow=may_follow
                )
            except Exception as error:
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(self._trace.StatusCode.ERROR, str(error))
                raise
            span.set_attributes(_answered(response))
            if response.status >= 400:
                span.set_status(self._trace.StatusCode.ERROR)
            return response


def _asked(request: Request, method: str) -> dict[str, str | int]:
    parts = urlsplit(request.url)
    attributes: dict[str, str | int] = {
        "http.request.method": method if method in _KNOWN else "_OTHER",
        "url.full": parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(),
        "server.address": parts.hostname or "",
        "server.port": parts.port or (443 if parts.scheme == "https" else 80),
        "crawlkit.handler": request.handler,
        "crawlkit.depth": request.depth,
    }
    if method not in _KNOWN:
        attributes["http.request.method_original"] = request.method
    if request.retry_count:
        attributes["http.request.resend_count"] = request.retry_count
    return attributes


def _answered(response: Response) -> dict[str, str | int]:
    attributes: dict[str, str | int] = {
        "http.response.status_code": response.status,
        "crawlkit.body_size": len(response.body),
    }
    if response.status >= 400:
        attributes["error.type"] = str(response.status)
    if response.cache:
        attributes["crawlkit.cache"] = response.cache
    if response.redirects:
        attributes["crawlkit.redirects"] = len(response.redirects)
    return attributes


def exporters(wanted: str) -> tuple[str, ...]:
    """The names under which packages may have the exporter that is wanted, the best one first."""
    if wanted != "otlp":
        return (wanted,)
    protocol = os.environ.get(f"{_OTLP}_TRACES_PROTOCOL") or os.environ.get(f"{_OTLP}_PROTOCOL")
    http, grpc = ("otlp_proto_http",), ("otlp_proto_grpc", "otlp")
    return grpc + http if protocol == "grpc" else http + grpc


def _provider(name: str) -> Any:
    """A provider that sends spans to where the environment says.

    Raises:
        OptionError: There is nothing that could.
    """
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise OptionError(
            "traces need the SDK of OpenTelemetry; install it with pip install 'crawlkit[otel]'"
        ) from None
    wanted = os.environ.get(_EXPORTER) or "otlp"
    known = {each.name: each for each in entry_points(group="opentelemetry_traces_exporter")}
    found = next((known[name] for name in exporters(wanted) if name in known), None)
    if found is None:
        raise OptionError(
            f"traces have no exporter {wanted!r} to go to; install it, as with pip install "
            f"opentelemetry-exporter-otlp-proto-http, or set {_EXPORTER}=console"
        )
    own = {} if os.environ.get(_SERVICE) else {"service.name": name}
    provider = TracerProvider(resource=Resource.create(own))
    provider.add_span_processor(BatchSpanProcessor(found.load()()))
    return provider

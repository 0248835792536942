"""The statistics as Prometheus reads them, and requests as spans of OpenTelemetry."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client.parser import text_string_to_metric_families

from crawlkit import Crawler, Page, Request
from crawlkit.errors import NetworkError, OptionError, UsageError
from crawlkit.observing.metrics import BOUNDS, metrics_text
from crawlkit.observing.metricsserver import MetricsServer, parse_address
from crawlkit.observing.tracing import TracingFetcher, exporters
from crawlkit.response import Response
from crawlkit.sessions import Session
from crawlkit.statistics import Statistics
from crawlkit.testing import FakeFetcher, Site

from .test_statistics import START, Books, busy

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: str) -> Samples:
    """All samples, as the client library of Prometheus reads them."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def one(samples: Samples, name: str, **labels: str) -> float:
    return samples[f"crawlkit_{name}", frozenset(labels.items())]


@pytest.fixture
def statistics() -> Statistics:
    statistics = Statistics()
    statistics.begin_life(START)
    Books().enqueue(statistics, 20, 5)
    busy(statistics)
    statistics.sample(START, 50_000_000)
    return statistics


def test_prometheus_reads_every_number(statistics: Statistics) -> None:
    samples = parsed(metrics_text(statistics))
    assert one(samples, "requests_finished_total") == statistics.requests_finished == 2
    assert one(samples, "requests_pending") == statistics.pending
    assert one(samples, "requests_skipped_total", reason="scope") == 1
    assert one(samples, "responses_total", status="503") == 1
    assert one(samples, "cache_requests_total", result="hit") == 1
    assert one(samples, "errors_total", kind="ValueError") == 1
    assert one(samples, "handler_items_saved_total", handler="parse_item") == 3
    assert one(samples, "memory_bytes") == 50_000_000
    assert one(samples, "start_time_seconds") == START
    assert one(samples, "finished") == 0


def test_durations_are_a_histogram(statistics: Statistics) -> None:
    samples = parsed(metrics_text(statistics))
    name, finished = "request_duration_seconds", {"outcome": "finished"}
    assert one(samples, f"{name}_count", **finished) == 2
    assert one(samples, f"{name}_sum", **finished) == pytest.approx(1.75)
    counts = [one(samples, f"{name}_bucket", le=f"{bound:g}", **finished) for bound in BOUNDS]
    assert counts == sorted(counts)
    assert one(samples, f"{name}_bucket", le="0.5", **finished) == 1
    assert one(samples, f"{name}_bucket", le="2.5", **finished) == 2
    assert one(samples, f"{name}_bucket", le="+Inf", outcome="failed") == 1


def test_what_a_label_holds_breaks_no_line() -> None:
    statistics = Statistics()
    odd = 'a"b\\c\nd\ud800'
    statistics.skipped(odd, 7)
    samples = parsed(metrics_text(statistics, {"crawler": "x"}))
    told = odd.replace("\ud800", "?")
    assert one(samples, "requests_skipped_total", crawler="x", reason=told) == 7


def test_a_run_of_which_nothing_is_known_has_metrics_too() -> None:
    assert one(parsed(metrics_text(Statistics())), "requests_enqueued_total") == 0


async def test_they_are_served_while_the_crawl_runs(tmp_path: Path) -> None:
    found: list[tuple[int, str]] = []

    class Shop(Crawler):
        async def parse(self, page: Page) -> None:
            page.follow("a")
            server = self._parts.metrics
            assert server is not None
            async with aiohttp.ClientSession() as client:
                for path in ("/metrics", "/else"):
                    async with client.get(f"http://127.0.0.1:{server.port}{path}") as answer:
                        found.append((answer.status, await answer.text()))

    async with Site() as site:
        site.add_page("/", links=["/1"])
        site.add_page("/1")
        crawler = Shop(start_urls=[site.url("/")], store=tmp_path / "run", metrics="0")
        await crawler.crawl()
    assert [status for status, _ in found] == [200, 404, 200, 404]
    assert one(parsed(found[2][1]), "requests_finished_total", crawler="shop") == 1
    port = crawler._parts.metrics and crawler._parts.metrics.port
    with pytest.raises(aiohttp.ClientConnectorError):
        async with aiohttp.ClientSession() as client:
            await client.get(f"http://127.0.0.1:{port}/metrics")


async def test_an_address_that_is_not_ours_is_told_in_one_line(site: Site, tmp_path: Path) -> None:
    options = {"store": tmp_path / "run", "metrics": "192.0.2.1:9464"}
    with pytest.raises(UsageError, match="choose another address"):
        await Crawler(start_urls=[site.url("/")], **options).crawl()


async def test_an_address_that_is_taken_is_served_by_the_next_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("crawlkit.observing.metricsserver.PATIENCE", 0.01)
    first = MetricsServer("0", lambda: "first")
    await first.open()
    second = MetricsServer(str(first.port), lambda: "second")
    await second.open()
    assert "as soon as it is free" in caplog.text
    async with aiohttp.ClientSession() as client:
        url = f"http://127.0.0.1:{first.port}/metrics"
        assert await (await client.get(url)).text() == "first"
        await first.close()
        for _ in range(500):
            with contextlib.suppress(aiohttp.ClientError):
                assert await (await client.get(url)).text() == "second"
                break
            await asyncio.sleep(0.01)
        else:
            raise AssertionError("nobody serves them")
    await second.close()


@pytest.mark.parametrize(
    ("address", "parsed"),
    [
        ("9464", ("127.0.0.1", 9464)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
        ("[::1]:9464", ("::1", 9464)),
        (":9464", ("127.0.0.1", 9464)),
    ],
)
def test_an_address_is_a_port_or_a_host_and_a_port(address: str, parsed: object) -> None:
    assert parse_address(address) == parsed


@pytest.mark.parametrize("address", ["", "host", "1:2:3", "host:http", "70000"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(OptionError, match="HOST:PORT"):
        Crawler(store="memory:", metrics=address)


# -- traces ----------------------------------------------------------------------------------------


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter: InMemorySpanExporter) -> Iterator[TracerProvider]:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider
    provider.shutdown()


async def test_each_request_is_a_span_with_the_usual_attributes(
    exporter: InMemorySpanExporter, provider: TracerProvider, session: Session
) -> None:
    gone_url = "https://a.example:8443/gone"
    gone_page = Response(url=gone_url, status=410)
    fake = FakeFetcher({"https://a.example/x?q=1": "<p>ok", gone_url: gone_page})
    fetcher = TracingFetcher(fake, provider=provider)
    await fetcher.open()
    await fetcher.fetch(Request("https://a.example/x?q=1", handler="parse_item"), session)
    again = Request(gone_url, method="post", retry_count=2)
    await fetcher.fetch(again, session)
    await fetcher.close()
    well, gone = exporter.get_finished_spans()
    assert (well.name, well.kind, well.status.status_code) == (
        "GET",
        SpanKind.CLIENT,
        StatusCode.UNSET,
    )
    told = dict(well.attributes or {})
    assert told["http.request.method"] == "GET"
    assert told["url.full"] == "https://a.example/x?q=1"
    assert (told["server.address"], told["server.port"]) == ("a.example", 443)
    assert (told["http.response.status_code"], told["crawlkit.handler"]) == (200, "parse_item")
    told = dict(gone.attributes or {})
    assert (gone.name, gone.status.status_code) == ("POST", StatusCode.ERROR)
    assert (told["error.type"], told["http.request.resend_count"]) == ("410", 2)
    assert told["server.port"] == 8443


async def test_a_request_without_a_response_is_a_span_that_failed(
    exporter: InMemorySpanExporter, provider: TracerProvider, session: Session
) -> None:
    class Broken(FakeFetcher):
        async def fetch(self, *args: Any, **options: Any) -> Any:
            raise NetworkError("no connection to a.example")

    with pytest.raises(NetworkError):
        await TracingFetcher(Broken({}), provider=provider).fetch(
            Request("https://user:secret@a.example/", method="BREW"), session
        )
    (span,) = exporter.get_finished_spans()
    told = dict(span.attributes or {})
    assert (span.name, span.status.status_code) == ("HTTP", StatusCode.ERROR)
    assert told["error.type"] == "NetworkError"
    assert told["http.request.method"] == "_OTHER"
    assert "secret" not in str(told)


CRAWL = """
import sys
from crawlkit import Crawler

class Shop(Crawler):
    async def parse(self, page):
        page.follow("a")

sys.exit(Shop(start_urls=[sys.argv[1]], store=sys.argv[2], traces=True).run())
"""


def test_spans_go_to_where_the_environment_says(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.add_page("/", links=["/1"])
    site.add_page("/1")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    command = [sys.executable, "-c", CRAWL, site.url("/"), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.count('"http.response.status_code": 200') == 2
    assert '"service.name": "shop"' in done.stdout
    assert all("traceparent" not in map(str.lower, hit.headers) for hit in site.requests)


def test_otlp_is_whichever_of_its_packages_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", raising=False)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_PROTOCOL", raising=False)
    assert exporters("otlp")[0] == "otlp_proto_http"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    assert exporters("otlp")[0] == "otlp_proto_grpc"
    assert exporters("console") == ("console",)


def test_an_exporter_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "nothing")
    with pytest.raises(OptionError, match="no exporter 'nothing'"):
        Crawler(store="memory:", traces=True)


def test_a_crawl_that_is_not_watched_imports_nothing_for_it() -> None:
    code = (
        "import sys; from crawlkit import Crawler; Crawler(store='memory:')\n"
        "slow = {'opentelemetry', 'aiohttp.web', 'warcio', 'importlib.metadata', 'pyarrow'}\n"
        "slow |= {f'crawlkit.{name}' for name in ('metrics', 'tracing', 'warc', 'exporting')}\n"
        "sys.exit(','.join(slow & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

"""The page of limits says what the limits are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from crawlkit import page, parsing, urls
from crawlkit.caching import entry
from crawlkit.counting import samples
from crawlkit.counting.errorgroups import GROUPS
from crawlkit.crawling import sessionpool
from crawlkit.crawling.resources import SHORT
from crawlkit.discovery import sitemaps
from crawlkit.http import cookies, decoding, failures, limits, protocol
from crawlkit.http.answers import MAX_RETRY_AFTER
from crawlkit.politeness import host, robots, robotstext, rules
from crawlkit.rendering import loading, visit, window

PAGE = (Path(__file__).parent.parent / "docs" / "limits.md").read_text()
FIRST, LONGEST = host.FIRST_PAUSE, host.MAX_OWN_PAUSE / 60
LIMITS = limits.Limits()

ROWS = {
    "without a byte, connecting included": f"{LIMITS.idle:g} s",
    "the whole request, redirects included": f"{LIMITS.total:g} s",
    "redirects": f"{LIMITS.redirects}",
    "a URL": f"{urls.MAX_URL_LENGTH:,} characters",
    "body, decoded": f"{LIMITS.body >> 20} MiB",
    "content codings one on another": f"{decoding.MAX_CODINGS}",
    "compressed files joined to one body": f"{decoding.MAX_MEMBERS:,}",
    "memory that zstd asks for": f"{2**decoding._ZSTD_WINDOW >> 20} MiB",
    "header fields": f"{LIMITS.headers >> 10} KiB, and {failures.MAX_HEADERS} of them",
    "responses to one request": f"{protocol.MAX_MESSAGES}",
    "bytes around a body": f"{protocol.MAX_FRAMING >> 20} MiB, and {protocol._FRAMING_RATIO}",
    "`Retry-After`": f"{MAX_RETRY_AFTER / 3600:g} h",
    "cookies": f"{cookies.MAX_SIZE:,} characters each, {cookies.MAX_PER_DOMAIN} a domain, "
    f"{cookies.MAX_COOKIES:,} a session, {cookies.MAX_HEADER:,} characters of header",
    "elements": f"{parsing.MAX_ELEMENTS:,}, and three times",
    "attributes of one tag": f"{parsing.MAX_ATTRIBUTES:,}",
    "links that are followed": f"{page.MAX_LINKS:,}",
    "a pause that the host does not time": f"{FIRST:g} s, doubling to {LONGEST:g} min",
    "a host whose robots.txt answers": f"{robots.TROUBLE:g} s",
    "robots.txt": f"{robotstext.MAX_BODY >> 10} KiB",
    "reading it": f"{robots.PARSE_DEADLINE:g} s",
    "`Crawl-delay`, `Request-rate`": f"{robotstext.MAX_CRAWL_DELAY:g} s",
    "rules with wildcards": f"{rules.MAX_TRIED:,}",
    "sitemaps that one names": f"{robotstext.MAX_SITEMAPS:,}",
    "sitemap, decompressed": f"{sitemaps.MAX_SIZE >> 20} MiB",
    "indexes in one another": f"{sitemaps.MAX_LEVELS} levels",
    "sitemaps that one index leads to": f"{sitemaps.MAX_SITEMAPS:,}",
    "a tag of one": f"{sitemaps._MAX_TOKEN >> 20} MiB",
    "its nesting": f"{sitemaps._MAX_DEPTH} levels",
    "gzip in gzip": f"{sitemaps._MAX_GZIP_LAYERS} times",
    "all that a page loads": f"{visit.PAGES_OF_BYTES} times",
    "a page that never gets idle": f"{window.SETTLE:g} s",
    "something of its own host": f"{loading.HELD:g} s",
    "a pause of its host": f"{SHORT:g} s",
    "body in it": f"{entry.MAX_BODY >> 20} MiB",
    "sessions by id": f"{sessionpool.MAX_NAMED:,}",
    "robots.txt files in memory": f"{robots.MAX_ORIGINS:,}, or {robots.MAX_RULES:,} rules",
    "groups of errors": f"{GROUPS}",
    "samples over time": f"{samples.SAMPLES}",
}


@pytest.mark.parametrize(("name", "value"), ROWS.items(), ids=ROWS)
def test_the_page_of_limits_says_what_the_limits_are(name: str, value: str) -> None:
    rows = re.findall(rf"^\| {re.escape(name)}[^|]*\| ([^|]*)\|", PAGE, re.MULTILINE)
    assert any(row.startswith(value) for row in rows), rows

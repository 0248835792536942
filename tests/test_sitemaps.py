"""Sitemaps of the wild web are read, whatever they are in, and hostile ones harm nobody."""

from __future__ import annotations

import asyncio
import gzip
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawlkit.checkpoint import Checkpoint, Loader, Pending
from crawlkit.discovery.sitemapplaces import SitemapPlaces
from crawlkit.discovery.sitemaps import MAX_SIZE, Entry, SitemapParser
from crawlkit.errors import CrawlkitError, LimitError, PageTypeError
from crawlkit.request import Request
from crawlkit.response import Response
from crawlkit.stores.base import Store
from crawlkit.urls import canonical

from .backends import NOW, content

SITE = "https://shop.example"
MAP = f"{SITE}/sitemap.xml"
NAMESPACE = "http://www.sitemaps.org/schemas/sitemap/0.9"


def read(body: bytes | str, content_type: str = "", url: str = MAP) -> list[Entry]:
    data = body if isinstance(body, bytes) else body.encode()
    return [entry for found in SitemapParser(url, content_type).parse(data) for entry in found]


def urls(body: bytes | str, content_type: str = "") -> list[str]:
    return [entry.url for entry in read(body, content_type)]


def until_error(body: bytes | str) -> tuple[list[str], CrawlkitError]:
    """What could be read, and the error that came then."""
    found: list[str] = []
    data = body if isinstance(body, bytes) else body.encode()
    with pytest.raises(CrawlkitError) as caught:
        for entries in SitemapParser(MAP).parse(data):
            found += (entry.url for entry in entries)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(MAP)
    return found, caught.value


def urlset(*locations: str, head: str = f'<urlset xmlns="{NAMESPACE}">') -> str:
    inside = "\n".join(f"<url><loc>{location}</loc></url>" for location in locations)
    return f"<?xml version='1.0' encoding='UTF-8'?>\n{head}\n{inside}\n</urlset>"


def many(count: int, first: int = 0) -> str:
    return urlset(*(f"{SITE}/p/{number}?a=1&amp;b=2" for number in range(first, first + count)))


# -- what sitemaps say -----------------------------------------------------------------------------


def test_a_sitemap_gives_all_that_it_says_of_a_page() -> None:
    [entry] = read(f"""<?xml version="1.0" encoding="UTF-8"?>
        <urlset xmlns="{NAMESPACE}" xmlns:xhtml="http://www.w3.org/1999/xhtml"
                xmlns:image="http://www.google.com/schemas/sitemap-image/1.1">
          <url>
            <xhtml:link rel="alternate" hreflang="de" href="{SITE}/de/lamp"/>
            <loc> {SITE}/lamp?a=1&amp;b=2 </loc>
            <lastmod>2024-05-01</lastmod><changefreq>daily</changefreq><priority>0.8</priority>
            <xhtml:link rel="alternate" hreflang="x-default" href="/lamp"/>
            <xhtml:link rel="stylesheet" hreflang="fr" href="/style.css"/>
            <image:image><image:loc>{SITE}/lamp.jpg</image:loc></image:image>
          </url>
        </urlset>""")
    assert entry == Entry(
        f"{SITE}/lamp?a=1&b=2",
        lastmod="2024-05-01",
        changefreq="daily",
        priority=0.8,
        alternates={"de": f"{SITE}/de/lamp", "x-default": f"{SITE}/lamp"},
    )


def test_an_index_gives_sitemaps() -> None:
    entries = read(
        f'<sitemapindex xmlns="{NAMESPACE}"><sitemap><loc>{SITE}/a.xml.gz</loc>'
        "<lastmod>2024</lastmod></sitemap><sitemap><loc>b.xml</loc></sitemap></sitemapindex>"
    )
    assert [(entry.kind, entry.url, entry.lastmod) for entry in entries] == [
        ("sitemap", f"{SITE}/a.xml.gz", "2024"),
        ("sitemap", f"{SITE}/b.xml", ""),
    ]


@pytest.mark.parametrize(
    "head",
    [
        "<urlset>",
        '<urlset xmlns="http://www.google.com/schemas/sitemap/0.84">',
        '<urlset xmlns="urn:x" xsi:schemaLocation="undeclared prefix">',
        '<URLSET xmlns="">',
    ],
)
def test_the_namespace_does_not_matter(head: str) -> None:
    body = urlset(f"{SITE}/1", head=head)
    if "URLSET" in head:
        body = body.replace("urlset>", "URLSET>").replace("loc>", "LOC>").replace("url>", "Url>")
    assert urls(body) == [f"{SITE}/1"]


def test_names_may_have_a_prefix() -> None:
    body = f'<s:urlset xmlns:s="{NAMESPACE}"><s:url><s:loc>/1</s:loc></s:url></s:urlset>'
    assert urls(body) == [f"{SITE}/1"]


def test_plain_text_gives_a_url_a_line() -> None:
    body = f"\ufeff{SITE}/1\r\n\r\n  {SITE}/2  \n# a comment\n/3\nHTTPS://SHOP.example/4\n{SITE}/5"
    parser = SitemapParser(f"{SITE}/sitemap.txt")
    found = [entry.url for entries in parser.parse(body.encode()) for entry in entries]
    assert found == [f"{SITE}/{number}" for number in (1, 2, 4, 5)]
    assert (parser.entries, parser.dropped) == (4, 2)


def test_lines_are_whole_wherever_the_pieces_end() -> None:
    lines = [f"{SITE}/{'é' * (number % 50)}/{number}" for number in range(5000)]
    assert urls("\n".join(lines)) == [canonical(line) for line in lines]


RSS = f"""<rss version="2.0" xmlns:atom="http://www.w3.org/2005/Atom"><channel>
  <link>{SITE}/</link><atom:link href="{SITE}/feed" rel="self"/>
  <item><title>a</title><link>{SITE}/1</link><pubDate>Wed, 01 May 2024 10:00:00 GMT</pubDate></item>
  <item><atom:link rel="self" href="{SITE}/no"/><link>/2</link><guid>17</guid></item>
  <item><guid>{SITE}/3</guid><source><link>{SITE}/no</link></source></item>
  <item><guid>17</guid></item></channel></rss>"""
RDF = f"""<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <channel><link>{SITE}/</link></channel>
  <item rdf:about="x"><link>{SITE}/1</link><dc:date>2024-05-01T10:00:00Z</dc:date></item>
  </rdf:RDF>"""
ATOM = f"""<feed xmlns="http://www.w3.org/2005/Atom"><link href="{SITE}/"/>
  <entry><link rel="self" href="{SITE}/no"/><link href="/1"/><link href="{SITE}/no"/>
  <published>2020-01-01</published><updated>2024-05-01T12:00:00+02:00</updated></entry></feed>"""


@pytest.mark.parametrize(("feed", "count"), [(RSS, 3), (RDF, 1), (ATOM, 1)])
def test_feeds_give_the_links_of_their_items(feed: str, count: int) -> None:
    entries = read(feed)
    assert [entry.url for entry in entries] == [f"{SITE}/{number + 1}" for number in range(count)]
    assert entries[0].modified_at == 1714557600.0


@pytest.mark.parametrize(
    ("lastmod", "expected"),
    [
        ("2024", 1704067200.0),
        ("2024-05", 1714521600.0),
        ("2024-05-01", 1714521600.0),
        ("2024-05-01T10:00+00:00", 1714557600.0),
        ("2024-05-01T10:00:00Z", 1714557600.0),
        ("2024-05-01T12:00:00.5+02:00", 1714557600.5),
        ("2024-05-01 10:00:00", 1714557600.0),
        ("Wed, 01 May 2024 10:00:00 GMT", 1714557600.0),
        *(("", None), ("yesterday", None), ("0000-00-00", None), ("9999-99", None), ("abcd", None)),
    ],
)
def test_the_date_can_be_compared(lastmod: str, expected: float | None) -> None:
    assert Entry("https://a.example/", lastmod=lastmod).modified_at == expected


def test_what_cannot_be_crawled_is_dropped_and_counted() -> None:
    parser = SitemapParser(MAP)
    body = urlset("mailto:a@b.example", "", "http://{{host}}/", "javascript:x", f"{SITE}/1", "#top")
    assert [e.url for found in parser.parse(body.encode()) for e in found] == [f"{SITE}/1"]
    assert (parser.entries, parser.dropped) == (1, 5)


def test_urls_are_canonical_and_nonsense_is_kept_out_of_the_other_fields() -> None:
    [entry] = read(
        urlset("HTTPS://Shop.Example:443/a/../b c").replace(
            "</url>", "<priority>high</priority><changefreq>x</changefreq></url>"
        )
    )
    assert (entry.url, entry.priority, entry.changefreq) == (f"{SITE}/b%20c", None, "x")


# -- what is forgiven ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("/?a=1&b=2&c", "/?a=1&b=2&c"),
        ("/?a=1&amp;amp;b=2", "/?a=1&b=2"),
        ("<![CDATA[/?a=1&b=2]]>", "/?a=1&b=2"),
        ("<![CDATA[/?a=1&amp;b=2]]>", "/?a=1&b=2"),
        ("/?a=1&#38;b=&#x32;", "/?a=1&b=2"),
        ("/caf&eacute;", "/caf&eacute;"),
        ("/a<!-- - -->b", "/ab"),
        ("/a\x00\x07b", "/ab"),
        ("/?q=&quot;&lt;", "/?q=%22%3C"),
    ],
)
def test_a_url_is_read_as_it_was_meant(written: str, meant: str) -> None:
    assert urls(urlset(written)) == [SITE + meant]


@pytest.mark.parametrize(
    "before",
    [
        *("\n\n  ", "\ufeff", "\ufeff\n", "\0\0"),
        "<br />\n<b>Warning</b>: foo() in /var/www on line 3<br />\n",
        "Notice: undefined index\n",
        "<?xml version='1.1' encoding='windows-31j' standalone='maybe'?>",
    ],
)
def test_what_stands_before_the_document_is_overlooked(before: str) -> None:
    body = urlset(f"{SITE}/1")
    if before.startswith("<?xml"):
        body = body.partition("\n")[2]
    assert urls(before + body) == [f"{SITE}/1"]


def test_a_document_that_is_escaped_as_a_whole_is_read() -> None:
    body = many(3000).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert urls(body) == urls(many(3000))


@pytest.mark.parametrize(
    ("encoding", "declared", "header"),
    [
        ("utf-8", "utf-8", ""),
        ("utf-8-sig", "iso-8859-1", "text/xml; charset=latin1"),
        ("iso-8859-1", "ISO-8859-1", ""),
        ("cp1251", "windows-1251", "text/plain"),
        ("utf-16", "utf-16", ""),
        ("utf-16-be", "utf-16", ""),
        ("utf-8", "bogus", ""),
        ("utf-8", "utf-16", ""),
        ("cp1251", "utf-8", "text/xml; charset=windows-1251"),
    ],
)
def test_encodings_are_found_as_in_pages(encoding: str, declared: str, header: str) -> None:
    path = "ж" if encoding == "cp1251" else "é"
    body = urlset(*[f"{SITE}/{path}"] * 3000).replace("UTF-8", declared)
    assert set(urls(body.encode(encoding), header)) == {canonical(f"{SITE}/{path}")}


def gz(body: str | bytes) -> bytes:
    return gzip.compress(body if isinstance(body, bytes) else body.encode(), mtime=0)


@pytest.mark.parametrize(
    "pack",
    [
        gz,
        lambda body: gz(gz(body)),
        lambda body: gz(body[:5000]) + gz(b"") + gz(body[5000:]),
        lambda body: gz(body) + b"\0" * 1000,
        lambda body: gz(body) + b"garbage",
        lambda body: gz(gz(body[:99])[:20] + gz(body[:99])[20:] + gz(body[99:])),
    ],
)
def test_gzip_is_known_by_itself(pack: Callable[[bytes], bytes]) -> None:
    body = many(2000)
    assert urls(pack(body.encode()), "text/html") == urls(body)
    text = "\n".join(f"{SITE}/{number}" for number in range(5000))
    assert urls(pack(text.encode())) == text.split()


# -- broken ones: what could be read is given, and the error is told -------------------------------


def test_of_a_document_that_was_cut_off_the_beginning_is_given() -> None:
    body = many(5000)
    found, error = until_error(body[: len(body) // 2])
    assert found == urls(body)[: len(found)]
    assert len(found) > 2400
    assert isinstance(error, PageTypeError)
    assert f"the {len(found)} entries before that were read" in str(error)


def test_of_broken_xml_the_beginning_is_given() -> None:
    found, error = until_error(f"{many(3)[:-9]}<url></loc>")
    assert (len(found), isinstance(error, PageTypeError)) == (3, True)
    assert "mismatched tag" in str(error)


@pytest.mark.parametrize("damage", [lambda data: data[:-2000], lambda data: data[:-9] + b"\0" * 9])
def test_of_broken_gzip_the_beginning_is_given(damage: Callable[[bytes], bytes]) -> None:
    body = "\n".join(f"{SITE}/{zlib.crc32(b'%d' % number)}" for number in range(20_000))
    found, error = until_error(damage(gz(body)))
    assert found[:5000] == body.split()[:5000]
    assert isinstance(error, PageTypeError)
    assert "gzip" in str(error)


@pytest.mark.parametrize(
    "body",
    [
        *("", "  \n ", "<!DOCTYPE html><html><body>404", "<html><p>&nbsp;</html>", "<br>oops"),
        *('{"urls": ["https://a.example/"]}', "User-agent: *\nSitemap: https://a.example/s.xml"),
        "<?xml version='1.0'?><!DOCTYPE html PUBLIC '-//W3C//DTD XHTML 1.0//EN' 'x'><html/>",
        "<?xml version='1.0'?><catalog><url><loc>https://a.example/</loc></url></catalog>",
        "<url><loc>https://a.example/</loc></url>",
        "%PDF-1.7\n" + "binary\n" * 500,
        "\x7fELF" + "\x01" * 100_000,
        "<" * 5000,
        "a" * 200_000,
    ],
)
def test_what_is_no_sitemap_is_said_to_be_none(body: str) -> None:
    for data in (body.encode(), gz(body)):
        found, error = until_error(data)
        assert (found, type(error)) == ([], PageTypeError)


def test_a_character_that_was_cut_off_at_the_end_is_seen() -> None:
    found = urls(f"{SITE}/1\n{SITE}/é".encode()[:-1], "text/plain; charset=utf-8")
    assert found == [f"{SITE}/1", f"{SITE}/%EF%BF%BD"]


def test_a_page_in_very_many_languages_keeps_the_first_500() -> None:
    [entry] = read(STRAIN["alternates"]())
    assert list(entry.alternates) == [str(number) for number in range(500)]


def test_an_empty_urlset_is_a_sitemap_without_entries() -> None:
    assert read("<urlset/>") == []


def test_encodings_that_browsers_refuse_are_refused() -> None:
    with pytest.raises(PageTypeError, match="encoding"):
        read("~{<urlset/>", "text/xml; charset=hz-gb-2312")


# -- hostile ones ----------------------------------------------------------------------------------


def laughs(reference: str = "&lol9;") -> str:
    entities = "".join(
        f'<!ENTITY lol{level} "{f"&lol{level - 1};" * 10}">' for level in range(1, 10)
    )
    return (
        f'<?xml version="1.0"?><!DOCTYPE urlset [<!ENTITY lol0 "lol">{entities}]>'
        f"<urlset><url><loc>{SITE}/{reference}</loc></url></urlset>"
    )


@pytest.mark.parametrize(
    "body",
    [
        laughs(),
        '<!DOCTYPE urlset [<!ENTITY x "y">]><urlset/>',
        '<!DOCTYPE urlset [<!ENTITY % x SYSTEM "http://127.0.0.1:1/x.dtd"> %x;]><urlset/>',
        f'<!DOCTYPE urlset [<!ATTLIST loc x CDATA "{"y" * 50_000}">]>' + many(100)[39:],
    ],
)
def test_what_declares_entities_is_refused(body: str) -> None:
    found, error = until_error(body)
    assert (found, type(error)) == ([], PageTypeError)
    assert "refused" in str(error)


@pytest.mark.parametrize("uri", ["file://{file}", "{file}", "http://127.0.0.1:1/secret"])
def test_external_entities_are_not_read(tmp_path: Path, uri: str) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("hidden-key")
    uri = uri.format(file=secret)
    found, error = until_error(
        f'<?xml version="1.0"?><!DOCTYPE urlset [<!ENTITY x SYSTEM "{uri}">]>'
        f"<urlset><url><loc>{SITE}/&x;</loc></url></urlset>"
    )
    assert (found, type(error)) == ([], PageTypeError)
    # A DTD elsewhere is not asked for, and a reference to what it may declare is only text.
    body = f'<!DOCTYPE urlset SYSTEM "{uri}"><urlset><url><loc>/&x;</loc></url></urlset>'
    assert urls(body) == [f"{SITE}/&x;"]


def test_deep_nesting_and_endless_tags_meet_a_limit() -> None:
    found, error = until_error(many(5)[:-9] + "<a>" * 100_000)
    assert (len(found), type(error)) == (5, LimitError)
    for endless in ("<url x='" + "y" * 3_000_000, "<!--" + "-y" * 1_500_000, "<" + "u" * 3_000_000):
        found, error = until_error(many(5)[:-9] + endless)
        assert (len(found), type(error)) == (5, LimitError)


@pytest.mark.parametrize("layers", [1, 3])
def test_a_bomb_stops_at_the_limit(layers: int) -> None:
    bomb = many(5).encode()[:-9] + b" " * (4 * MAX_SIZE)
    for _ in range(layers):
        bomb = gz(bomb)
    assert len(bomb) < MAX_SIZE / 100
    tracemalloc.start()
    try:
        found, error = until_error(bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(found), type(error)) == (5, LimitError)
    assert peak < 4 * 1024 * 1024


def test_gzip_without_end_or_content_is_refused() -> None:
    assert "nothing in it" in str(until_error(gz("") * 200_000)[1])
    assert isinstance(until_error(gz(gz(gz(gz("<urlset/>")))))[1], LimitError)


STRAIN: dict[str, Callable[[], bytes | str]] = {
    "50,000 URLs": lambda: many(50_000),
    "50,000 URLs in gzip": lambda: gz(many(50_000)),
    "tiny elements": lambda: "<urlset>" + "<a/>" * 300_000 + "</urlset>",
    "tiny entries": lambda: "<urlset>" + "<url/>" * 200_000 + "</urlset>",
    "attributes": lambda: "<urlset " + " ".join(f"a{n}=''" for n in range(70_000)) + "/>",
    "ampersands": lambda: urlset("&" * 1_000_000),
    "one long URL": lambda: urlset(f"{SITE}/" + "a" * 2_000_000),
    "one long line": lambda: f"{SITE}/1\n" + "https://" * 300_000,
    "alternates": lambda: urlset(f"{SITE}/").replace(
        "</url>", "".join(f"<link hreflang='{n}' href='/{n}'/>" for n in range(20_000)) + "</url>"
    ),
    "blanks": lambda: " " * 2_000_000 + "<urlset/>",
    "members": lambda: gz(f"{SITE}/1\n") * 20_000,
}


@pytest.mark.parametrize("name", STRAIN)
def test_no_step_of_reading_stalls_the_event_loop(name: str) -> None:
    body = STRAIN[name]()
    data = body if isinstance(body, bytes) else body.encode()
    pieces = SitemapParser(MAP).parse(data)
    worst = 0.0
    while True:
        started = time.thread_time()
        found = next(pieces, None)
        worst = max(worst, time.thread_time() - started)
        if found is None:
            break
    assert worst < 0.1


@pytest.mark.parametrize(
    "body",
    [
        gz(many(20_000)),
        gz(urlset(f"{SITE}/" + "a" * 20_000_000)),
        gz(f"{SITE}/1\n" + "https://" * 2_000_000),
    ],
    ids=["many URLs", "one long URL", "one long line"],
)
def test_memory_does_not_follow_the_length_of_a_sitemap(body: bytes) -> None:
    tracemalloc.start()
    try:
        for _ in SitemapParser(MAP).parse(body):
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * 1024 * 1024


ALPHABET = st.sampled_from(
    [
        *("<urlset>", "</urlset>", "<url>", "</url>", "<loc>", "</loc>", "<sitemapindex>", "<rss>"),
        *("<item>", "<link", " href='/x'", "/>", ">", "&amp;", "&", "&lt;", "<![CDATA[", "]]>"),
        *("<!--", "-->", "<!DOCTYPE x [", "<!ENTITY a 'b'>", "]>", "<?xml version='1.0'?>", "\0"),
        *(f"{SITE}/1", "\n", " ", "é", "\ufffe", "\x1f\x8b", "<?pi?>", "javascript:x"),
    ]
)


@given(
    st.one_of(st.binary(max_size=200), st.lists(ALPHABET, max_size=30).map("".join)), st.booleans()
)
def test_nothing_but_entries_and_typed_errors_comes_out(body: bytes | str, packed: bool) -> None:
    data = body if isinstance(body, bytes) else body.encode()
    try:
        for entry in read(gz(data) if packed else data):
            assert canonical(entry.url) == entry.url
    except (PageTypeError, LimitError):
        pass


# -- the place survives a restart ------------------------------------------------------------------


class Enqueued:
    """Requests on their way into the store, as the queue collects them."""

    def __init__(self) -> None:
        self.fresh: list[Pending] = []

    def add(self, url: str) -> None:
        request = Request(url)
        self.fresh.append(Pending(request, request.fingerprint, request.host))

    def collect(self, checkpoint: Checkpoint) -> None:
        checkpoint.fresh += self.fresh
        self.fresh = []


class Life:
    """A process: what it has not committed dies with it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.places = SitemapPlaces()
        self.queue = Enqueued()
        self.duplicates = 0
        self.taken = 0

    async def restore(self) -> Life:
        Loader(await self.store.load()).restore("sitemaps", self.places)
        return self

    async def checkpoint(self) -> None:
        checkpoint = Checkpoint(at=NOW)
        for name, part in (("sitemaps", self.places), ("queue", self.queue)):
            with checkpoint.of(name):
                part.collect(checkpoint)
        receipt = await self.store.commit(checkpoint)
        self.duplicates += receipt.duplicates

    async def read(self, body: str, *, die_after: int | None = None) -> None:
        """Read the sitemap; die in the middle of the list after `die_after` of them."""
        response = Response(url=MAP, body=body.encode())
        lists = 0
        async for entries in self.places.entries(MAP, response):
            assert 0 < len(entries) <= 500
            self.taken += len(entries)
            for entry in entries:
                self.queue.add(entry.url)
            self.places.advance(MAP, entries)
            if lists == die_after:
                return
            await self.checkpoint()
            lists += 1
        self.places.done(MAP)
        await self.checkpoint()


def places_in(store: Store) -> set[str]:
    return {name for name in content(store)["documents"] if name.startswith("sitemaps")}


def pending_in(store: Store) -> set[str]:
    reader = store.reader()
    try:
        found = [request.url for request, _ in reader.pending()]
    finally:
        reader.close()
    assert len(found) == len(set(found))
    return set(found)


BODY = many(5000)
ALL = set(urls(BODY))


@pytest.mark.parametrize("after", [0, 1, 4, 9])
async def test_a_kill_in_the_middle_of_a_sitemap_loses_and_doubles_nothing(
    store: Store, after: int
) -> None:
    await (await Life(store).restore()).read(BODY, die_after=after)
    assert len(pending_in(store)) == after * 500
    second = await Life(store).restore()
    await second.read(BODY)
    # What lay before the place was not even looked at again.
    assert (second.taken, second.duplicates) == (5000 - after * 500, 0)
    assert pending_in(store) == ALL
    assert places_in(store) == set()


async def test_of_a_sitemap_that_changed_meanwhile_all_is_taken(store: Store) -> None:
    await (await Life(store).restore()).read(BODY, die_after=3)
    changed = many(5000, first=10)
    second = await Life(store).restore()
    await second.read(changed, die_after=4)
    assert (second.taken, second.duplicates) == (2500, 1490)
    # The place is now one in what it has become.
    third = await Life(store).restore()
    await third.read(changed)
    assert (third.taken, third.duplicates) == (3000, 0)
    assert pending_in(store) == set(urls(many(1500))) | set(urls(changed))
    assert places_in(store) == set()


async def test_a_sitemap_that_became_shorter_is_taken_anew(store: Store) -> None:
    await (await Life(store).restore()).read(BODY, die_after=3)
    second = await Life(store).restore()
    await second.read(many(700))
    assert (second.taken, places_in(store)) == (700, set())


async def test_a_second_try_in_the_same_life_goes_on_too(store: Store) -> None:
    life = await Life(store).restore()
    await life.read(BODY, die_after=5)
    await life.read(BODY)
    assert (life.taken, life.duplicates) == (5000, 0)
    assert pending_in(store) == ALL


async def test_what_is_given_but_not_advanced_is_given_again() -> None:
    places = SitemapPlaces()
    response = Response(url=MAP, body=BODY.encode())
    seen = [[entry.url for entry in entries] async for entries in places.entries(MAP, response)]
    again = [[entry.url for entry in entries] async for entries in places.entries(MAP, response)]
    assert seen == again
    assert len(seen) == 10


async def test_of_a_broken_sitemap_all_that_could_be_read_is_given_before_the_error(
    store: Store,
) -> None:
    life = await Life(store).restore()
    with pytest.raises(PageTypeError, match="1234 entries"):
        await life.read(many(1234)[:-9])
    await life.checkpoint()
    assert pending_in(store) == set(urls(many(1234)))
    assert places_in(store) == set()


async def test_only_places_that_changed_are_saved() -> None:
    places = SitemapPlaces()
    for name in ("a", "b"):
        places.advance(f"{SITE}/{name}.xml", [Entry(f"{SITE}/{name}")])
    first, second = Checkpoint(), Checkpoint()
    with first.of("sitemaps"):
        places.collect(first)
    places.advance(f"{SITE}/b.xml", [Entry(f"{SITE}/b2")])
    with second.of("sitemaps"):
        places.collect(second)
    assert len(first.documents) == 2
    assert list(second.documents) == [f"sitemaps/{SITE}/b.xml"]


async def test_the_event_loop_runs_while_a_sitemap_is_read() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    response = Response(url=MAP, body=many(20_000).encode())
    async for _ in SitemapPlaces().entries(MAP, response, at_once=100_000):
        pass
    counting.cancel()
    assert turns > 10

"""What servers do to those who read pages: text, sitemaps, robots.txt, traps and data."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cache

from .exchange import BEHAVIOURS, GOOD, Behaviour, Exchange, behaviour, until_closed
from .wire import zeros

# -- redirects ------------------------------------------------------------------------------------


@behaviour("redirect loop")
async def redirect_loop(exchange: Exchange) -> None:
    await exchange.redirect("/b" if exchange.path == "/a" else "/a")


@behaviour("redirect to itself")
async def redirect_to_itself(exchange: Exchange) -> None:
    await exchange.redirect(exchange.path)


@behaviour("redirects without end")
async def endless_redirects(exchange: Exchange) -> None:
    await exchange.redirect(f"{exchange.path}x")


def _redirect(location: str) -> Behaviour:
    async def lead(exchange: Exchange) -> None:
        await exchange.redirect(location.format(**exchange.ports))

    return lead


BEHAVIOURS["redirect to file:"] = _redirect("file:///etc/hostname")
BEHAVIOURS["redirect to port 99999"] = _redirect("http://127.0.0.1:99999/")
BEHAVIOURS["redirect to port 25"] = _redirect("http://127.0.0.1:25/")
BEHAVIOURS["redirect to a private address"] = _redirect("http://127.0.0.1:{canary}/secret")
BEHAVIOURS["redirect to localhost"] = _redirect("http://localhost:{canary}/secret")
BEHAVIOURS["redirect to a name of a private address"] = _redirect("http://a.test:{canary}/secret")
BEHAVIOURS["redirect to an octal address"] = _redirect("http://0177.1:{canary}/secret")
BEHAVIOURS["redirect to IPv6-mapped"] = _redirect("http://[::ffff:127.0.0.1]:{canary}/secret")
BEHAVIOURS["redirect to a decimal address"] = _redirect("http://2130706433:{canary}/secret")
BEHAVIOURS["redirect to an address of two parts"] = _redirect("http://127.1:{canary}/secret")
BEHAVIOURS["redirect to an address in wide digits"] = _redirect(
    "http://\uff11\uff12\uff17\u3002\u2460.0.0:{canary}/secret"
)
BEHAVIOURS["redirect to 0.0.0.0"] = _redirect("http://0:{canary}/secret")
BEHAVIOURS["redirect to IPv6 loopback"] = _redirect("http://[::1]:{canary}/secret")
BEHAVIOURS["redirect to IPv6 translated"] = _redirect("http://[64:ff9b::7f00:1]:{canary}/secret")
BEHAVIOURS["redirect to a link-local address"] = _redirect("http://[fe80::1]:{canary}/secret")
BEHAVIOURS["redirect to a scoped address"] = _redirect("http://[fe80::1%25lo]:{canary}/secret")
BEHAVIOURS["redirect to a name of both kinds"] = _redirect("http://both.test:{canary}/secret")
BEHAVIOURS["redirect of 60 KB"] = _redirect("/" + "x" * 60_000)
BEHAVIOURS["redirect to cloud metadata"] = _redirect("http://169.254.169.254/latest/meta-data/")


@behaviour("link to a private address")
async def private_link(exchange: Exchange) -> None:
    port = exchange.ports["canary"]
    await exchange.page(f'<a href="http://127.0.0.1:{port}/secret">x</a>'.encode())


@behaviour("100,000 redirects")
async def many_redirects(exchange: Exchange) -> None:
    """Each page leads to a thousand others, most by redirects, and by refreshes to even more."""
    number = int(exchange.path.rpartition("/")[2] or 0)
    if number % 10:
        await exchange.redirect(f"/{10 * number}")
        return
    links = "".join(f'<a href="/{1000 * number + n}">x</a>' for n in range(1, 1000))
    refresh = f'<meta http-equiv="refresh" content="0; url=/{number + 7}">'
    fields = (f"Refresh: 0; url=/{number + 3}", f"Link: </{number + 9}>; rel=next")
    await exchange.page((refresh + links).encode(), *fields)


# -- text -----------------------------------------------------------------------------------------

BODIES: list[Callable[[], bytes]] = []
"""Bodies that are made before there is a server, so that it is never silent for that long."""


def _page(make: Callable[[], bytes], kind: str = "text/html; charset=utf-8") -> Behaviour:
    body = cache(make)
    BODIES.append(body)

    async def answer(exchange: Exchange) -> None:
        await exchange.page(body() if exchange.path == "/" else b"<h1>leaf</h1>", kind=kind)

    return answer


BEHAVIOURS["bogus charset"] = _page(lambda: GOOD, "text/html; charset=klingon-8859")
BEHAVIOURS["charset that is no text"] = _page(lambda: GOOD, "text/html; charset=zlib_codec")
BEHAVIOURS["charset with a line break"] = _page(lambda: GOOD, 'text/html; charset="utf\t8"; =;;')
BEHAVIOURS["invalid UTF-8"] = _page(lambda: b"<p>\xff\xfe\xc0\x80\xed\xa0\x80</p>" + GOOD)
BEHAVIOURS["bytes that windows-1252 lacks"] = _page(
    lambda: b"<p>\x81\x8d\x8f\x90\x9d</p>" + GOOD, "text/html; charset=windows-1252"
)
BEHAVIOURS["NUL bytes"] = _page(lambda: b"\0<p\0>\0" + GOOD.replace(b"good<", b"go\0od<") + b"\0")
BEHAVIOURS["100,000 nested tags"] = _page(
    lambda: GOOD + b"<div>" * 100_000 + b'<a href="/lost">lost</a>'
)
BEHAVIOURS["100,000 attributes on a tag"] = _page(
    lambda: b"<p " + b" ".join(b"a%d=1" % n for n in range(100_000)) + b">" + GOOD
)
BEHAVIOURS["100,000 attributes, quoted >"] = _page(
    lambda: b"<p " + b" ".join(b"a%d='>'" % n for n in range(100_000)) + b">" + GOOD
)
BEHAVIOURS["2,000,000 attributes on a tag"] = _page(
    lambda: b"<p " + b" ".join(b"%x" % n for n in range(2_000_000)) + b">" + GOOD
)
BEHAVIOURS["5,000,000 elements"] = _page(lambda: b"<b></b>" * 2_300_000)
BEHAVIOURS["half a million links"] = _page(lambda: _links(500_000))
BEHAVIOURS["60,000 links"] = _page(lambda: _links(60_000))


def _links(count: int) -> bytes:
    return b"".join(b'<a href="/p/%d">%d</a>' % (n, n) for n in range(count))


LINKS = [
    "javascript:alert(1)",
    "java\nscript:alert(1)",
    " \x01javascript:alert(1)",
    "data:text/html,x",
    "mailto:a@b.example",
    "file:///etc/passwd",
    "http://[::1",
    "http://user:secret@127.0.0.1/",
    "http://127.0.0.1:99999/",
    "/go\nod\r\n?x=\t1",
    "/esc\x1b[31m",
    "/bidi\u202e\u2028",
    "/crlf%0d%0aSet-Cookie:x=1",
    "//",
    "http://[fe80::1%25lo]/",
    "http://[::1",
    "http://[v1.x]/",
    "http://a b/",
    "x" * 20_000,
]


@behaviour("odd links")
async def odd_links(exchange: Exchange) -> None:
    links = "".join(f'<a href="{link}">x</a>' for link in LINKS)
    title = "<h1>\x1b[31m\u202e</h1>"
    await exchange.page((links + title).encode() if exchange.path == "/" else b"<h1>leaf</h1>")


# -- sitemaps and robots.txt ----------------------------------------------------------------------


def _sitemap(body: Callable[[dict[str, int]], bytes], kind: str = "application/xml") -> Behaviour:
    async def answer(exchange: Exchange) -> None:
        if exchange.path == "/sitemap.xml":
            await exchange.page(await asyncio.to_thread(body, exchange.ports), kind=kind)
        else:
            await exchange.page(b"<h1>leaf</h1>")

    return answer


def _entities(ports: dict[str, int]) -> bytes:
    entities = '<!ENTITY a0 "aaaaaaaaaa">' + "".join(
        f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12)
    )
    return (
        f"<?xml version='1.0'?><!DOCTYPE urlset [{entities}]>"
        "<urlset><url><loc>/&a11;</loc></url></urlset>"
    ).encode()


def _external(ports: dict[str, int]) -> bytes:
    return (
        (
            "<?xml version='1.0'?><!DOCTYPE urlset SYSTEM 'http://127.0.0.1:{canary}/dtd' ["
            "<!ENTITY f SYSTEM 'file:///etc/hostname'>"
            "<!ENTITY h SYSTEM 'http://127.0.0.1:{canary}/entity'>]>"
            "<urlset><url><loc>/&f;&h;</loc></url><url><loc>/leaf</loc></url></urlset>"
        )
        .format(**ports)
        .encode()
    )


BEHAVIOURS["sitemap: entity bomb"] = _sitemap(_entities)
BEHAVIOURS["sitemap: external entities"] = _sitemap(_external)
BEHAVIOURS["sitemap: gzip bomb"] = _sitemap(lambda ports: zeros("gzip"), "application/gzip")


BEHAVIOURS["sitemap: private addresses"] = _sitemap(
    lambda ports: (
        (
            "<urlset><url><loc>http://127.0.0.1:{canary}/secret</loc></url>"
            "<url><loc>http://localhost:{canary}/secret</loc></url>"
            "<url><loc>http://[::ffff:127.0.0.1]:{canary}/secret</loc></url></urlset>"
        )
        .format(**ports)
        .encode()
    )
)


@behaviour("sitemap: index of itself")
async def sitemap_loop(exchange: Exchange) -> None:
    if exchange.path.startswith("/sitemap"):
        entries = "".join(
            f"<sitemap><loc>http://127.0.0.1:{exchange.ports['sitemap: index of itself']}"
            f"{exchange.path}{n}</loc></sitemap>"
            for n in range(3)
        )
        body = f"<sitemapindex>{entries}<sitemap><loc>/sitemap.xml</loc></sitemap></sitemapindex>"
        await exchange.page(body.encode(), kind="application/xml")
    else:
        await exchange.page(b"<h1>leaf</h1>")


FORBIDDEN = "/7axbycz"


async def _leaf_or_links(exchange: Exchange) -> None:
    links = f'<a href="/fine">fine</a><a href="{FORBIDDEN}">forbidden</a>'
    await exchange.page(links.encode() if exchange.path == "/" else b"<h1>leaf</h1>")


def _robots(body: Callable[[], bytes]) -> Behaviour:
    async def answer(exchange: Exchange) -> None:
        if exchange.path == "/robots.txt":
            await exchange.page(body(), kind="text/plain")
        else:
            await _leaf_or_links(exchange)

    return answer


BEHAVIOURS["robots-rules"] = _robots(
    lambda: b"User-agent: *\n" + b"".join(b"Disallow: /%d*x*y*z$\n" % n for n in range(200_000))
)
BEHAVIOURS["robots-delay"] = _robots(
    lambda: f"User-agent: *\nCrawl-delay: 31536000\nDisallow: {FORBIDDEN}\n".encode()
)


@behaviour("robots-endless")
async def robots_endless(exchange: Exchange) -> None:
    if exchange.path == "/robots.txt":
        await exchange.head("Content-Type: text/plain")
        await exchange.send(f"User-agent: *\nDisallow: {FORBIDDEN}\n".encode())
        await until_closed(exchange, b"Disallow: /never\n" * 4096)
    else:
        await _leaf_or_links(exchange)


@behaviour("robots-silent")
async def robots_silent(exchange: Exchange) -> None:
    if exchange.path == "/robots.txt":
        await asyncio.sleep(60)
    await exchange.page(b"<h1>leaf</h1>")


async def _robots_elsewhere(exchange: Exchange, location: str) -> None:
    if exchange.path == "/robots.txt":
        await exchange.redirect(location.format(**exchange.ports))
    elif exchange.path == "/rules":
        await exchange.page(f"User-agent: *\nDisallow: {FORBIDDEN}\n".encode(), kind="text/plain")
    else:
        await _leaf_or_links(exchange)


@behaviour("robots-elsewhere")
async def robots_elsewhere(exchange: Exchange) -> None:
    await _robots_elsewhere(exchange, "http://other.test:{robots-elsewhere}/rules")


@behaviour("robots-private")
async def robots_private(exchange: Exchange) -> None:
    await _robots_elsewhere(exchange, "http://127.0.0.1:{canary}/robots.txt")


@behaviour("robots-loop")
async def robots_loop(exchange: Exchange) -> None:
    await _robots_elsewhere(exchange, "/robots.txt")


@behaviour("robots-sitemap")
async def robots_sitemap(exchange: Exchange) -> None:
    if exchange.path == "/robots.txt":
        line = f"Sitemap: http://127.0.0.1:{exchange.ports['canary']}/sitemap.xml\n"
        await exchange.page(line.encode() * 1000, kind="text/plain")
    else:
        await exchange.page(b"<h1>leaf</h1>")


# -- traps ----------------------------------------------------------------------------------------


@behaviour("calendar")
async def calendar(exchange: Exchange) -> None:
    place = exchange.path.rstrip("/").rpartition("/")[2] or "0"
    month = int(place) if place.isdecimal() else 0
    links = f'<a href="/calendar/{month + 1}">next</a><a href="/calendar/{month + 2}">later</a>'
    await exchange.page(f"<h1>{month}</h1>{links}".encode())


@behaviour("endless query parameters")
async def query_trap(exchange: Exchange) -> None:
    path, _, query = exchange.path.partition("?filter=")
    links = "".join(f'<a href="{path}?filter={query}{n}">x</a>' for n in range(5))
    await exchange.page(links.encode())


@behaviour("cookies")
async def cookies(exchange: Exchange) -> None:
    """Hundreds of cookies a page, for suffixes and for itself; says how many came back."""
    domains = ["", "; Domain=com", "; Domain=co.uk", "; Domain=1", "; Domain=localhost"]
    fields = [
        f"Set-Cookie: c{exchange.path.strip('/')}{n}={'v' * 50}{domains[n % len(domains)]}"
        for n in range(200)
    ]
    number = int(exchange.path.strip("/") or 0)
    link = f'<a href="/{number + 1}">next</a>' if number < 15 else ""
    size = len(exchange.cookies)
    await exchange.page(f"<h1>{size}</h1>{link}".encode(), *fields)


SUFFIX_LINKS = {
    "a.co.uk": ["b.co.uk", "www.a.co.uk", "a.github.io"],
    "a.github.io": ["b.github.io"],
}


@behaviour("cookies for public suffixes")
async def suffix_cookies(exchange: Exchange) -> None:
    """Cookies for all of a suffix, and for a stranger; says which ones came."""
    fields = []
    if exchange.host.startswith("a."):
        suffix = exchange.host.partition(".")[2]
        domains = {"suffix": suffix, "top": suffix.rpartition(".")[2], "other": f"b.{suffix}"}
        if exchange.host == "a.co.uk":
            domains["own"] = exchange.host
        fields = [f"Set-Cookie: {name}=1; Domain={domain}" for name, domain in domains.items()]
    port = exchange.ports["cookies for public suffixes"]
    hosts = SUFFIX_LINKS.get(exchange.host, [])
    links = "".join(f'<a href="http://{host}:{port}/">x</a>' for host in hosts)
    came = " ".join(sorted(c.split("=")[0].strip() for c in exchange.cookies.decode().split(";")))
    await exchange.page(f"<h1>{exchange.host}: {came}</h1>{links}".encode(), *fields)


# -- data -----------------------------------------------------------------------------------------

NAMES = ["../../../evil", "/etc/evil", "..\\..\\evil", "a/../../evil", "evil\0.txt", "." * 300]
FORMULAS = ["=cmd|'/c calc'!A0", "+1+1|x", "-2+3|x", "@SUM(1)", "\t=1", "\r=1", "\n=1", "\uff1d1+1"]


@behaviour("names that lead out of a directory")
async def evil_names(exchange: Exchange) -> None:
    body = "".join(f"<li>{name}</li>" for name in NAMES)
    await exchange.page(body.replace("\0", "&#0;").encode())


@behaviour("formulas for a spreadsheet")
async def formulas(exchange: Exchange) -> None:
    cells = "".join(
        f"<li>{text}</li>".replace("\r", "&#13;").replace("\t", "&#9;").replace("\n", "&#10;")
        for text in FORMULAS
    )
    await exchange.page(cells.encode())

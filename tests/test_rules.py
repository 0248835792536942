"""What a robots.txt says, and what it forbids: RFC 9309, against a slow reading of it."""

from __future__ import annotations

import re
from time import process_time

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from protego import Protego

from crawlkit.politeness.robotstext import (
    MAX_BODY,
    MAX_CRAWL_DELAY,
    MAX_SITEMAPS,
    RobotsText,
    Rule,
    parse,
    product_token,
)
from crawlkit.politeness.rules import Rules
from crawlkit.urls import canonical

SITE = "https://shop.example"


def text_of(body: str | bytes, token: str = "crawlkit") -> RobotsText:
    return parse(body.encode() if isinstance(body, str) else body, token, f"{SITE}/robots.txt")


def rules_of(body: str | bytes, token: str = "crawlkit") -> Rules:
    return Rules(text_of(body, token))


def is_allowed(body: str | bytes, path: str, token: str = "crawlkit") -> bool:
    return rules_of(body, token).reason(canonical(SITE + path)) is None


def group(*lines: str) -> str:
    return "\n".join(("User-agent: *", *lines)) + "\n"


# -- lines and groups -------------------------------------------------------------------------


def test_without_rules_everything_is_allowed() -> None:
    assert Rules().reason(f"{SITE}/any") is None
    assert is_allowed("", "/any")
    assert is_allowed("# nothing here\n\n", "/any")


def test_the_reason_names_the_rule_and_its_line() -> None:
    rules = rules_of("# shop\nUser-agent: *\n\nDisallow: /private # not for you\n")
    assert rules.reason(f"{SITE}/private/x") == "Disallow: /private (line 4)"


def test_a_reason_is_one_line_that_a_terminal_can_be_shown() -> None:
    rules = rules_of(group("Disallow: /a\x1b[31m", "Disallow: /" + "b" * 5000))
    for path in ("/a%1B[31mx", "/" + "b" * 5001):
        reason = rules.reason(canonical(SITE + path))
        assert reason is not None
        assert reason.isprintable()
        assert len(reason) < 300


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_line_ends_of_every_system_and_a_byte_order_mark_are_understood(
    end: str, start: bytes
) -> None:
    body = start + f"User-agent: crawlkit{end}{end}Disallow: /x{end}Allow: /x/y".encode()
    assert not is_allowed(body, "/x")
    assert is_allowed(body, "/x/y")
    assert text_of(body).rules[1].line == 4


def test_only_line_ends_end_a_line() -> None:
    """Python's splitlines() knows others, by which a rule would be cut and forbid too much."""
    assert is_allowed(group("Disallow: /a\x85b", "Disallow: /c\u2028d", "Disallow: /e\x0cf"), "/a")
    assert is_allowed(group("Disallow: /c\u2028d"), "/c")


def test_utf_16_with_its_mark_is_read() -> None:
    assert not is_allowed(group("Disallow: /x").encode("utf-16"), "/x")


def test_names_of_lines_and_crawlers_are_read_in_any_case_and_paths_are_not() -> None:
    body = "uSeR-aGeNt:CRAWLKIT\nDISALLOW:/Shop\n"
    assert not is_allowed(body, "/Shop")
    assert is_allowed(body, "/shop")


@pytest.mark.parametrize("name", ["crawlkit", "Crawlkit/2.0", "crawlkit (any)", "crawlkit*"])
def test_a_group_is_ours_whatever_follows_the_name(name: str) -> None:
    assert not is_allowed(f"User-agent: {name}\nDisallow: /\n", "/x")


@pytest.mark.parametrize("name", ["c", "crawl", "crawlkit-images", "mycrawlkit", "", "/"])
def test_a_group_for_a_name_that_is_only_similar_is_not_ours(name: str) -> None:
    assert is_allowed(f"User-agent: {name}\nDisallow: /\n", "/x")


def test_a_group_of_our_own_replaces_the_one_for_everyone() -> None:
    body = "User-agent: *\nDisallow: /a\nUser-agent: crawlkit\nDisallow: /b\n"
    assert is_allowed(body, "/a")
    assert not is_allowed(body, "/b")
    assert not is_allowed(body, "/a", token="other")


def test_a_group_of_our_own_without_rules_allows_everything() -> None:
    assert is_allowed("User-agent: crawlkit\nDisallow:\n\nUser-agent: *\nDisallow: /\n", "/x")


def test_groups_for_one_crawler_are_merged_and_a_group_may_have_several_crawlers() -> None:
    body = (
        "User-agent: other\nUser-agent: crawlkit\nDisallow: /a\n\n"
        "User-agent: *\nDisallow: /b\n\n"
        "User-agent: crawlkit\nDisallow: /c\n\n"
        "User-agent: *\nDisallow: /d\n"
    )
    assert [is_allowed(body, f"/{x}") for x in "abcd"] == [False, True, False, True]
    assert [is_allowed(body, f"/{x}", token="other") for x in "abcd"] == [False, True, True, True]
    assert [is_allowed(body, f"/{x}", token="third") for x in "abcd"] == [True, False, True, False]


def test_rules_before_the_first_crawler_are_for_nobody() -> None:
    assert is_allowed("Disallow: /\nUser-agent: *\nDisallow: /x\n", "/y")


@pytest.mark.parametrize(
    "between", ["", "Sitemap: /map.xml", "Crawl-delay: 3", "Request-rate: 1/5", "Host: x", "???"]
)
def test_other_lines_do_not_end_a_list_of_crawlers(between: str) -> None:
    """RFC 9309, section 2.2.4: they "MUST NOT interfere"."""
    body = f"User-agent: crawlkit\n{between}\nUser-agent: other\nDisallow: /x\n"
    assert not is_allowed(body, "/x")


@pytest.mark.parametrize(
    "line",
    ["Disallow /x", "disalow: /x", "Dissallow\t:\t/x", "  Disallow  :  /x  ", "Disallow:/x#y"],
)
def test_what_was_obviously_meant_is_understood(line: str) -> None:
    assert not is_allowed(group(line), "/x")
    assert is_allowed(group(line), "/y")


@pytest.mark.parametrize(
    "line", ["Disallow:", "Disallow", "Disallow: x", "Noindex: /x", ": /x", ":"]
)
def test_a_line_that_is_no_rule_forbids_nothing(line: str) -> None:
    assert is_allowed(group(line), "/x")


@pytest.mark.parametrize(
    "body",
    [
        b"<!DOCTYPE html>\n<pre>\nUser-agent: *\nDisallow: /\n</pre>",
        b"  \n<html>\nUser-agent: *\nDisallow: /\n",
        b"\x89PNG\0\0User-agent: *\nDisallow: /\n",
        bytes(range(256)) * 100,
    ],
    ids=["doctype", "html", "png", "bytes"],
)
def test_a_page_or_a_picture_in_its_place_forbids_nothing(body: bytes) -> None:
    assert text_of(body) == RobotsText()


def test_what_is_longer_than_500_kib_is_cut_at_a_line_end() -> None:
    lines = "".join(f"Disallow: /{number:06}/x\n" for number in range(30_000))
    rules = text_of(f"User-agent: *\n{lines}").rules
    assert len(rules) == (MAX_BODY - len("User-agent: *\n")) // len("Disallow: /000000/x\n")
    assert {len(rule.path) for rule in rules} == {9}
    assert text_of(b"User-agent: *\nDisallow: /" + b"x" * MAX_BODY).rules == []


@given(st.binary(max_size=300))
def test_any_bytes_are_read_without_an_error_and_can_be_saved(body: bytes) -> None:
    text = text_of(b"User-agent: *\nDisallow: /" + body)
    assert msgspec.json.decode(msgspec.json.encode(text), type=RobotsText) == text
    Rules(text).reason(f"{SITE}/")


# -- delays and sitemaps ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "seconds"),
    [
        ("Crawl-delay: 10", 10.0),
        ("Crawl-delay: 0.5", 0.5),
        ("crawl-delay: 2.5 seconds", 2.5),
        ("Crawl-delay: 31536000", MAX_CRAWL_DELAY),
        ("Crawl-delay: " + "9" * 5000, MAX_CRAWL_DELAY),
        ("Crawl-delay: 0", None),
        ("Crawl-delay: -3", None),
        ("Crawl-delay: nan", None),
        ("Crawl-delay: inf", None),
        ("Crawl-delay: soon", None),
        ("Request-rate: 1/5", 5.0),
        ("Request-rate: 30/1m 0600-0800", 2.0),
        ("Request-rate: 1/1d", MAX_CRAWL_DELAY),
        ("Request-rate: 0/5", None),
        ("Request-rate: 5", None),
    ],
)
def test_delays_are_seconds_between_requests_within_reason(
    line: str, seconds: float | None
) -> None:
    assert rules_of(group(line)).crawl_delay == seconds


def test_of_several_delays_the_longest_counts() -> None:
    assert rules_of(group("Crawl-delay: 3", "Request-rate: 1/7", "Crawl-delay: 5")).crawl_delay == 7


def test_a_delay_is_for_the_crawlers_right_above_it() -> None:
    body = (
        "User-agent: slow\nCrawl-delay: 9\nUser-agent: crawlkit\nUser-agent: other\n"
        "Crawl-delay: 3\nDisallow: /x\n\nUser-agent: *\nCrawl-delay: 5\n"
    )
    delays = {name: rules_of(body, name).crawl_delay for name in ("slow", "crawlkit", "third")}
    assert delays == {"slow": 9.0, "crawlkit": 3.0, "third": 5.0}


def test_sitemaps_are_found_anywhere_and_given_as_canonical_urls() -> None:
    body = (
        "Sitemap: https://shop.example/a.xml\nUser-agent: other\nSitemap: /b.xml\nDisallow: /\n"
        "sitemap:HTTPS://CDN.example:443/c.xml # the third\nSite-map: /b.xml\n"
        "Sitemap: ftp://shop.example/d.xml\nSitemap:\nSitemap https://shop.example/e.xml\n"
    )
    assert rules_of(body).sitemaps == (
        "https://shop.example/a.xml",
        "https://shop.example/b.xml",
        "https://cdn.example/c.xml",
        "https://shop.example/e.xml",
    )


def test_the_number_of_sitemaps_is_bounded() -> None:
    body = "".join(f"Sitemap: /{number}.xml\n" for number in range(20_000))
    assert len(rules_of(body).sitemaps) == MAX_SITEMAPS


# -- matching ---------------------------------------------------------------------------------


def test_the_longest_rule_decides_whatever_the_order() -> None:
    for lines in (("Disallow: /x", "Allow: /x/y"), ("Allow: /x/y", "Disallow: /x")):
        assert not is_allowed(group(*lines), "/x/z")
        assert is_allowed(group(*lines), "/x/y/z")
    assert not is_allowed(group("Allow: /page", "Disallow: /*.html"), "/page.html")
    assert is_allowed(group("Allow: /shop/page.", "Disallow: /*.html"), "/shop/page.html")


def test_of_rules_as_long_as_each_other_the_one_that_allows_decides() -> None:
    assert is_allowed(group("Disallow: /x", "Allow: /x"), "/x")
    assert is_allowed(group("Allow: /*x", "Disallow: /xx"), "/xx")
    assert is_allowed(group("Allow: /x$", "Disallow: /x*"), "/x")


def test_a_star_is_any_characters_and_a_dollar_the_end() -> None:
    body = group("Disallow: /*.php$", "Disallow: /a*b*c", "Disallow: /end$", "Disallow: /fish*")
    forbidden = ["/x.php", "/d/x.php", "/?q=.php", "/abc", "/a/b/c/d", "/end", "/fishes"]
    allowed = ["/x.php5", "/x.php?y", "/acb", "/end/", "/end?x", "/Fish", "/catfish"]
    assert [is_allowed(body, path) for path in forbidden] == [False] * len(forbidden)
    assert [is_allowed(body, path) for path in allowed] == [True] * len(allowed)


def test_pieces_of_a_pattern_do_not_overlap() -> None:
    assert is_allowed(group("Disallow: /a*b*b$"), "/ab")
    assert is_allowed(group("Disallow: /ab*ba$"), "/aba")
    assert not is_allowed(group("Disallow: /ab*ba$"), "/abba")


@pytest.mark.parametrize(
    ("rule", "path"),
    [
        ("/foo/bar?baz=quz", "/foo/bar?baz=quz"),
        ("/foo/bar?baz=https%3A%2F%2Ffoo.bar", "/foo/bar?baz=https://foo.bar"),
        ("/foo/bar?baz=https://foo.bar", "/foo/bar?baz=https%3A%2F%2Ffoo.bar"),
        ("/foo/bar/ツ", "/foo/bar/%E3%83%84"),
        ("/foo/bar/%E3%83%84", "/foo/bar/ツ"),
        ("/foo/bar/%62%61%7A", "/foo/bar/baz"),
        ("/foo/bar/baz", "/foo/bar/%62%61%7A"),
        ("/%e3%83%84", "/%E3%83%84"),
        ("/file-with-a-%2A.html", "/file-with-a-*.html"),
        ("/file-with-a-%2A.html", "/file-with-a-%2a.html"),
        ("/foo-%24$", "/foo-$"),
        ("/a$b", "/a$b"),
        ("/a b", "/a%20b"),
        ("/a[1]", "/a%5B1%5D"),
        ("/a,b;c=d", "/a%2Cb%3bc%3Dd"),
    ],
)
def test_spellings_of_one_path_are_equal(rule: str, path: str) -> None:
    """RFC 9309, sections 2.2.2 and 2.2.3."""
    assert not is_allowed(group(f"Disallow: {rule}"), path)


@pytest.mark.parametrize(
    ("rule", "path"),
    [
        ("/file-%2A.html", "/file-x.html"),
        ("/a%2Fb", "/a/b"),
        ("/a/b", "/a%2Fb"),
        ("/a%3Fb", "/a?b"),
        ("/foo-%24", "/foo-"),
    ],
)
def test_an_encoding_that_means_something_else_is_not_equal(rule: str, path: str) -> None:
    assert is_allowed(group(f"Disallow: {rule}"), path)


def test_paths_in_another_encoding_than_utf_8_are_compared_by_their_octets() -> None:
    body = b"User-agent: *\nDisallow: /caf\xe9\n"
    assert not is_allowed(body, "/caf%E9")
    assert is_allowed(body, "/caf%C3%A9")


def test_robots_txt_itself_is_always_allowed() -> None:
    assert is_allowed(group("Disallow: /"), "/robots.txt")
    assert not is_allowed(group("Disallow: /"), "/robots.txt.html")


# -- against the RFC, read slowly -------------------------------------------------------------

STAR, END = "any", "end"
PLAIN = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~:@!&'()+,;="


def units(path: str, *, is_rule: bool) -> list[str]:
    """The characters of a path as they are compared, with the special ones of a rule.

    They are compared in their encoded form, as the table in section 2.2.2 has it.
    """
    found: list[str] = []
    in_query = False
    for place, part in enumerate(parts := re.findall("%[0-9A-Fa-f]{2}|.", path, re.DOTALL)):
        if is_rule and part == "*":
            found.append(STAR)
        elif is_rule and part == "$" and place == len(parts) - 1:
            found.append(END)
        elif part in ("/", "?"):
            found.append(part)
            in_query = in_query or part == "?"
        else:
            octets = bytes([int(part[1:], 16)]) if len(part) == 3 else part.encode()
            for octet in octets:
                is_plain = chr(octet) in (PLAIN + "/?" if in_query else PLAIN)
                found += chr(octet) if is_plain else f"%{octet:02X}"
    return found


def matches(rule: list[str], path: list[str]) -> bool:
    """Whether the end of the rule is reached before there is a difference (section 2.2.2)."""
    places = {0}
    for unit in rule:
        if unit == STAR:
            places = set(range(min(places), len(path) + 1)) if places else set()
        elif unit == END:
            places &= {len(path)}
        else:
            places = {p + 1 for p in places if p < len(path) and path[p] == unit}
    return bool(places)


def allows(lines: list[tuple[bool, str]], url: str) -> bool:
    """The most octets win, and "allow" where there are as many."""
    path = units(url.removeprefix(SITE), is_rule=False)
    found = [
        (len(units(rule, is_rule=True)), is_allow)
        for is_allow, rule in lines
        if matches(units(rule, is_rule=True), path)
    ]
    return max(found)[1] if found else True


PIECES = st.sampled_from(
    [*"/abAé?=:[-$%", "aa", "ab", "%2F", "%2f", "%3F", "%41", "%61", "%C3%A9", "%2A"]
)
PATHS = st.lists(PIECES, max_size=8).map("".join)
RULES = st.lists(st.one_of(PIECES, st.just("*"), st.just("$")), max_size=7).map(
    lambda parts: f"/{''.join(parts)}".strip()
)


@settings(max_examples=400)
@given(st.lists(st.tuples(st.booleans(), RULES), max_size=6), st.lists(PATHS, max_size=5))
@example([(False, "/*%2F"), (True, "/*?")], ["a%2F", "?/"])
@example([(False, "/$"), (True, "/$a")], ["", "$a", "%24a"])
def test_every_url_is_allowed_or_not_as_the_rfc_says(
    lines: list[tuple[bool, str]], paths: list[str]
) -> None:
    rules = rules_of(
        group(*(f"{'Allow' if allow else 'Disallow'}: {path}" for allow, path in lines))
    )
    for path in paths:
        url = canonical(f"{SITE}/{path.lstrip('/')}")
        assert (rules.reason(url) is None) == allows(lines, url), url


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.booleans(), st.text("ab/*", max_size=6).map(lambda text: f"/{text}*a*")),
        min_size=33,
        max_size=60,
        unique_by=lambda line: line[1],
    ),
    st.lists(st.text("ab/", max_size=12), min_size=1, max_size=10),
)
def test_with_many_wildcards_too(lines: list[tuple[bool, str]], paths: list[str]) -> None:
    rules = Rules(RobotsText([Rule(1, allow, path) for allow, path in lines]))
    for path in paths:
        url = f"{SITE}/{path}"
        assert (rules.reason(url) is None) == allows(lines, url), url


NAMES = ["crawlkit", "other", "*"]
LINES = st.lists(
    st.one_of(
        st.tuples(st.just("User-agent"), st.sampled_from(NAMES)),
        st.tuples(st.sampled_from(["Allow", "Disallow"]), st.sampled_from(["/a", "/b", "/"])),
        st.tuples(st.sampled_from(["Sitemap", "Foo", "Crawl-delay"]), st.just("9")),
    ),
    max_size=12,
)


@given(LINES)
def test_every_rule_belongs_to_the_groups_that_the_rfc_puts_it_in(
    lines: list[tuple[str, str]],
) -> None:
    """group = startgroupline *(startgroupline / emptyline) *(rule / emptyline)."""
    groups: list[tuple[set[str], list[tuple[bool, str]]]] = []
    for field, value in lines:
        if field == "User-agent":
            if not groups or groups[-1][1]:
                groups.append((set(), []))
            groups[-1][0].add(value)
        elif field in ("Allow", "Disallow") and groups:
            groups[-1][1].append((field == "Allow", value))
    name = "crawlkit" if any("crawlkit" in names for names, _ in groups) else "*"
    expected = [rule for names, rules in groups if name in names for rule in rules]
    text = text_of("".join(f"{field}: {value}\n" for field, value in lines))
    assert [(rule.is_allowed, rule.path) for rule in text.rules] == expected


@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.booleans(), st.text("ab/*-", max_size=6)), max_size=6),
    st.lists(st.text("ab/-", max_size=8), max_size=5),
)
def test_the_parser_of_scrapy_comes_to_the_same(
    lines: list[tuple[bool, str]], paths: list[str]
) -> None:
    """On paths: of queries such as ``?=`` it drops what it takes for empty parameters."""
    body = group(*(f"{'Allow' if allow else 'Disallow'}: /{path}" for allow, path in lines))
    rules, other = rules_of(body), Protego.parse(body)
    for path in paths:
        if path.startswith("/"):
            continue  # read as a host there
        url = canonical(f"{SITE}/{path}")
        assert (rules.reason(url) is None) == other.can_fetch(url, "crawlkit"), url


# -- bounded, whatever a server sends ---------------------------------------------------------

HOSTILE = {
    "plain": "".join(f"Disallow: /p{number}\n" for number in range(30_000)),
    "nested": "".join(f"Disallow: /{'a' * number}\n" for number in range(1000)),
    "wildcards": "".join(f"Disallow: /*q{number}\n" for number in range(30_000)),
    "backtracking": "".join(f"Disallow: /*a*a*a*a*a*b{number}\n" for number in range(20_000)),
    "no three letters": "".join(
        f"Disallow: /*{a}{b}*{c}{d}\n" for a in "abcdefgh" for b in "abcdefgh" for c in "abcdefgh"
        for d in "abcdefghijklmnopqrstuvwxyz"
    ),
    "all alike": "".join(
        f"Disallow: /*{'a' * (50 + n % 50)}*{'aa*' * (n // 50)}\n" for n in range(3000)
    ),
    "stars": "Disallow: /" + "*a" * 200_000 + "b\n",
    "users": "User-agent: a\n" * 40_000,
    "colons": ":" * MAX_BODY,
    "spaces": "Disallow " * 60_000,
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_the_worst_file_is_read_and_a_url_compared_in_bounded_time(name: str) -> None:
    """Measured in CPU time; the bounds are ten times what a slow machine takes."""
    start = process_time()
    rules = rules_of(group(HOSTILE[name]))
    assert process_time() - start < 3.0
    for path in ("/shop/lamp?colour=red", "/" + "ab" * 30, "/" + "a" * 8000, "/" + "aaab" * 2000):
        start = process_time()
        rules.reason(SITE + path)
        assert process_time() - start < 0.1


@pytest.mark.parametrize(
    ("name", "path"), [("all alike", "a" * 8000), ("no three letters", "lamp")]
)
def test_a_url_that_thousands_of_wildcards_would_have_to_be_tried_on_is_not_allowed(
    name: str, path: str
) -> None:
    reason = rules_of(group(HOSTILE[name])).reason(f"{SITE}/{path}")
    assert reason is not None
    assert "too many" in reason


def test_a_url_costs_microseconds_where_the_file_is_an_ordinary_one() -> None:
    lines = [f"Disallow: /area-{number}/" for number in range(30)]
    rules = rules_of(group(*lines, "Disallow: /*?sort=", "Allow: /*.css$"))
    start = process_time()
    for _ in range(2000):
        rules.reason(f"{SITE}/shop/lamps/lamp-17.html?page=3")
    assert (process_time() - start) / 2000 < 100e-6


# -- the crawler's name -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user_agent", "token"),
    [
        ("crawlkit", "crawlkit"),
        ("crawlkit (+https://shop.example/bot)", "crawlkit"),
        ("Shop-Bot/2.1; contact@shop.example", "shop-bot"),
        ("Mozilla/5.0 (compatible; Shopbot/1.0; +https://shop.example)", "shopbot"),
        ("Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/140.0", "mozilla"),
        ("", ""),
    ],
)
def test_the_name_in_robots_txt_is_taken_from_the_user_agent(user_agent: str, token: str) -> None:
    assert product_token(user_agent) == token

"""Credentials: what a site is told that asks who is there, and what no other is told."""

from __future__ import annotations

import re
import time
from base64 import b64decode
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from crawlkit.errors import OptionError
from crawlkit.http.credentials import MAX_CHALLENGES, Challenge, Credentials, parse_challenges

ORIGIN = "https://intranet.example"
URL = "https://intranet.example/reports?year=2024"


def own(user: str = "ann", password: str = "secret", cnonce: str = "c0") -> Credentials:
    return Credentials({ORIGIN: (user, password)}, nonce=lambda: cnonce)


def fields(header: str | None) -> dict[str, str]:
    """The parameters of an ``Authorization: Digest`` header."""
    assert header is not None
    assert header.startswith("Digest ")
    found = re.findall(r'([a-z*]+)=(?:"((?:[^"\\]|\\.)*)"|([^,]*))', header)
    return {name: quoted or plain for name, quoted, plain in found}


# -- whom they are for ------------------------------------------------------------------------


def test_a_password_is_sent_to_its_own_origin_and_to_no_other() -> None:
    credentials = own()
    asked = ['Basic realm="x"']
    assert credentials.answer("GET", URL, None, asked) is not None
    assert credentials.authorize("GET", URL) is not None
    for other in (
        "http://intranet.example/reports",
        "https://intranet.example:8443/",
        "https://www.intranet.example/",
        "https://intranet.example.evil.test/",
        "https://evil.test/https://intranet.example/",
        "https://evil.test/?https://intranet.example/",
    ):
        assert credentials.authorize("GET", other) is None
        assert credentials.answer("GET", other, None, asked) is None


def test_an_origin_may_be_written_in_any_of_its_spellings() -> None:
    for key in ("https://Intranet.EXAMPLE", "https://intranet.example:443/"):
        credentials = Credentials({key: ("ann", "secret")})
        assert credentials.answer("GET", URL, None, ["Basic"]) is not None
    credentials = Credentials({"http://127.0.0.1:8080": ("a", "b")})
    assert credentials.answer("GET", "http://127.0.0.1:8080/x", None, ["Basic"]) is not None


@pytest.mark.parametrize(
    "auth",
    [
        {"intranet.example": ("ann", "secret")},
        {"ftp://intranet.example": ("ann", "secret")},
        {"https://ann:secret@intranet.example": ("ann", "secret")},
        {"https://intranet.example/reports": ("ann", "secret")},
        {"https://intranet.example/?x": ("ann", "secret")},
        {7: ("ann", "secret")},
        {ORIGIN: "ann:secret"},
        {ORIGIN: ("ann", "secret", "more")},
        {ORIGIN: ("ann", None)},
        {ORIGIN: None},
        {ORIGIN: ("ann:x", "secret")},
        {ORIGIN: ("ann", "secret\r\nX-Evil: 1")},
        [(ORIGIN, ("ann", "secret"))],
    ],
)
def test_what_is_no_origin_or_no_pair_is_refused_without_telling_the_password(auth: Any) -> None:
    with pytest.raises(OptionError, match=r"^auth ") as caught:
        Credentials(auth)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_password_can_be_read_where_the_object_is_shown() -> None:
    credentials = own()
    credentials.answer("GET", URL, None, ['Digest realm="r", nonce="n", qop="auth"'])
    assert repr(credentials) == str(credentials) == "<Credentials for https://intranet.example>"
    assert "secret" not in repr(vars(credentials))
    assert repr(Credentials({})) == "<Credentials for nobody>"


# -- Basic ------------------------------------------------------------------------------------


def test_basic_is_sent_in_utf_8_and_at_once_when_it_was_asked_for() -> None:
    credentials = own("test", "123£")
    assert credentials.authorize("GET", URL) is None
    # The example of RFC 7617, section 2.1.
    assert credentials.answer("GET", URL, None, ['Basic realm="foo", charset="UTF-8"']) == (
        "Basic dGVzdDoxMjPCow=="
    )
    assert credentials.authorize("GET", ORIGIN + "/other") == "Basic dGVzdDoxMjPCow=="


def test_a_wrong_password_is_not_sent_twice_for_one_request() -> None:
    credentials = own()
    first = credentials.answer("GET", URL, None, ["Basic"])
    assert credentials.answer("GET", URL, None, ["Basic"], sent=first) is None
    # A request that was under way without it when it was asked for gets it all the same.
    assert credentials.answer("GET", URL, None, ["Basic"]) == first

    asked = ['Digest realm="r", nonce="n1", qop="auth"']
    first = credentials.answer("GET", URL, None, asked)
    assert credentials.answer("GET", URL, None, asked, sent=first) is None


def test_a_password_with_colons_and_a_user_without_a_name_are_sent_as_they_are() -> None:
    header = own("", "a:b").answer("GET", URL, None, ["Basic"])
    assert header is not None
    assert b64decode(header.removeprefix("Basic ")) == b":a:b"


# -- Digest -----------------------------------------------------------------------------------

RFC_7616 = (
    'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={}, '
    'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", '
    'opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
)


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_the_examples_of_rfc_7616_come_out_as_they_stand_there(
    algorithm: str, response: str
) -> None:
    credentials = Credentials(
        {"http://www.example.org": ("Mufasa", "Circle of Life")},
        nonce=lambda: "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
    )
    url = "http://www.example.org/dir/index.html"
    header = credentials.answer("GET", url, None, [RFC_7616.format(algorithm)])
    assert fields(header) == {
        "username": "Mufasa",
        "realm": "http-auth@example.org",
        "uri": "/dir/index.html",
        "algorithm": algorithm,
        "nonce": "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
        "nc": "00000001",
        "cnonce": "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
        "qop": "auth",
        "response": response,
        "opaque": "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS",
    }


def test_a_user_can_be_hashed() -> None:
    """The example of RFC 7616, section 3.9.2, with the values of its erratum 4897."""
    asked = (
        'Digest realm="api@example.org", qop="auth", algorithm=SHA-512-256, '
        'nonce="5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK", '
        'opaque="HRPCssKJSGjCrkzDg8OhwpzCiGPChXYjwrI2QmXDnsOS", charset=UTF-8, userhash=true'
    )

    def answer(asked: str) -> str | None:
        credentials = Credentials(
            {"http://api.example.org": ("Jäsøn Doe", "Secret, or not?")},
            nonce=lambda: "NTg6RKcb9boFIAS3KrFK9BGeh+iDa/sm6jUMp2wds69v",
        )
        return credentials.answer("GET", "http://api.example.org/doe.json", None, [asked])

    given = fields(answer(asked))
    assert given["username"] == "793263caabb707a56211940d90411ea4a575adeccb7e360aeb624ed06ece9b0b"
    assert given["response"] == "3798d4131c277846293534c3edc11bd8a5e4cdcbff78b05db9d95eeb1cec68a5"
    assert given["userhash"] == "true"
    # And where the server does not hash it, it is encoded.
    assert "username*=UTF-8''J%C3%A4s%C3%B8n%20Doe, " in str(answer(asked.replace("true", "no")))


def test_a_server_from_before_qop_is_answered_as_it_was_then() -> None:
    """The example of RFC 2069, section 2.4, with the value of its erratum 749."""
    credentials = Credentials({"http://www.nowhere.org": ("Mufasa", "CircleOfLife")})
    given = fields(
        credentials.answer(
            "GET",
            "http://www.nowhere.org/dir/index.html",
            None,
            [
                'Digest realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", '
                'opaque="5ccc069c403ebaf9f0171e9517f40e41"'
            ],
        )
    )
    assert given["response"] == "1949323746fe6a43ef61f9606e7febea"
    assert given.keys() == {"username", "realm", "nonce", "uri", "response", "opaque"}


@pytest.mark.parametrize(
    ("algorithm", "qop"),
    [
        *((algorithm, "") for algorithm in ("", "MD5", "SHA-256")),
        *(
            (algorithm, qop)
            for algorithm in ("", "MD5", "MD5-SESS", "SHA-256", "SHA-256-sess")
            for qop in ("auth", "auth-int", "auth, auth-conf")
        ),
    ],
)
async def test_aiohttp_answers_the_same(algorithm: str, qop: str) -> None:
    """Its Digest middleware, by another author, is given the same challenge and random part."""
    asked = 'Digest realm="re\\"alm", nonce="n0nce"'
    asked += f', algorithm="{algorithm}"' * bool(algorithm) + f', qop="{qop}"' * bool(qop)
    seen: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        await request.read()
        seen.append(request.headers.get("Authorization", ""))
        return web.Response(status=200 if seen[-1] else 401, headers={"WWW-Authenticate": asked})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/a%20b?c=d&e"
    try:
        middleware = aiohttp.DigestAuthMiddleware("ann", "pass word")
        async with (
            aiohttp.ClientSession(middlewares=(middleware,)) as client,
            client.post(url, data=b"body") as response,
        ):
            assert response.status == 200
    finally:
        await runner.cleanup()
    theirs = fields(seen[1])
    credentials = Credentials(
        {url[: url.index("/", 8)]: ("ann", "pass word")}, nonce=lambda: theirs.get("cnonce", "")
    )
    ours = fields(credentials.answer("POST", url, b"body", [asked]))
    for name in ("username", "realm", "nonce", "uri", "response", "qop", "nc"):
        assert ours.get(name) == theirs.get(name), name


def test_the_next_requests_need_no_refusal_and_are_counted() -> None:
    credentials = own()
    credentials.answer("GET", URL, None, ['Digest realm="r", nonce="n1", qop="auth"'])
    given = [fields(credentials.authorize("GET", f"{ORIGIN}/{page}")) for page in range(12)]
    assert [each["nc"] for each in given] == [f"{count:08x}" for count in range(2, 14)]
    assert {each["nonce"] for each in given} == {"n1"}
    assert len({each["response"] for each in given}) == 12
    assert given[3]["uri"] == "/3"


def test_a_nonce_that_is_stale_is_replaced_and_counted_anew() -> None:
    credentials = own()
    credentials.answer("GET", URL, None, ['Digest realm="r", nonce="n1", qop="auth"'])
    sent = credentials.authorize("GET", URL)
    asked = ['Digest realm="r", nonce="n2", qop="auth", stale=true']
    again = fields(credentials.answer("GET", URL, None, asked, sent=sent))
    assert (again["nonce"], again["nc"]) == ("n2", "00000001")
    # Of many in flight each is told the same; the nonce is counted on.
    again = fields(credentials.answer("GET", URL, None, asked, sent=sent))
    assert (again["nonce"], again["nc"]) == ("n2", "00000002")
    assert fields(credentials.authorize("GET", URL))["nc"] == "00000003"


def test_where_the_body_has_to_be_vouched_for_nothing_is_sent_without_being_asked() -> None:
    credentials = own()
    asked = ['Digest realm="r", nonce="n", qop="auth-int"']
    one = fields(credentials.answer("POST", URL, b"one", asked))
    assert one["qop"] == "auth-int"
    assert credentials.authorize("POST", URL) is None
    other = own()
    assert fields(other.answer("POST", URL, b"two", asked))["response"] != one["response"]


def test_the_strongest_scheme_is_taken_wherever_it_stands() -> None:
    basic, md5 = 'Basic realm="r"', 'Digest realm="r", nonce="m", algorithm=MD5, qop="auth"'
    sha = 'Digest realm="r", nonce="s", algorithm=SHA-256, qop="auth"'
    for asked in ([basic, md5, sha], [sha, md5, basic], [f"{basic}, {sha}, {md5}"]):
        assert fields(own().answer("GET", URL, None, asked))["algorithm"] == "SHA-256"
    assert fields(own().answer("GET", URL, None, [f"{basic}, {md5}"]))["algorithm"] == "MD5"
    # After a Digest the password is not sent in the clear without being asked for.
    credentials = own()
    credentials.answer("GET", URL, None, [basic])
    credentials.answer("GET", URL, None, [md5])
    assert str(credentials.authorize("GET", URL)).startswith("Digest ")


@pytest.mark.parametrize(
    "asked",
    [
        [],
        [""],
        ["Negotiate", "NTLM abc=="],
        ['Digest realm="r"'],
        ['Digest nonce="n"'],
        ['Digest realm="r", nonce="n", algorithm=SHA3-1'],
        ['Digest realm="r", nonce="n", qop="auth-conf"'],
        ['Digest realm="r", nonce="\udcff"'],
        ['Digest realm="r\x00", nonce="n"'],
        ["=,=;"],
    ],
)
def test_what_we_do_not_know_is_not_answered(asked: list[str]) -> None:
    credentials = own()
    assert credentials.answer("GET", URL, None, asked) is None
    assert credentials.authorize("GET", URL) is None


def test_the_default_random_part_is_not_used_twice() -> None:
    asked = ['Digest realm="r", nonce="n", qop="auth"']
    one, other = (Credentials({ORIGIN: ("a", "b")}) for _ in range(2))
    assert (
        fields(one.answer("GET", URL, None, asked))["cnonce"]
        != fields(other.answer("GET", URL, None, asked))["cnonce"]
    )


# -- challenges -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "challenges"),
    [
        # The example of RFC 9110, section 11.6.1.
        (
            ['Basic realm="simple", Newauth realm="apps", type=1, title="Login to \\"apps\\""'],
            [
                ("basic", {"realm": "simple"}),
                ("newauth", {"realm": "apps", "type": "1", "title": 'Login to "apps"'}),
            ],
        ),
        (["Negotiate", "NTLM"], [("negotiate", {}), ("ntlm", {})]),
        (["Negotiate, Basic"], [("negotiate", {}), ("basic", {})]),
        (
            ["Negotiate YII+/w==, Basic realm=x"],
            [("negotiate", {}), ("basic", {"realm": "x"})],
        ),
        (
            [' , , Basic ,realm = "a, Digest nonce=b" ,'],
            [("basic", {"realm": "a, Digest nonce=b"})],
        ),
        (['BASIC REALM="a", realm="b"'], [("basic", {"realm": "a"})]),
        (['Basic realm="a" charset="UTF-8"'], [("basic", {"realm": "a", "charset": "UTF-8"})]),
        (['Basic realm="open'], [("basic", {})]),
        (["realm=a"], []),
        ([], []),
    ],
)
def test_challenges_are_read_however_they_are_written(
    headers: list[str], challenges: list[tuple[str, dict[str, str]]]
) -> None:
    assert parse_challenges(headers) == [Challenge(*each) for each in challenges]


@given(st.text(st.sampled_from('aB=", \\\t/.\n\udcff'), max_size=60))
def test_whatever_a_server_sends_it_is_read_without_an_error(header: str) -> None:
    own().answer("GET", URL, None, [header, f"Digest {header}"])


def test_an_endless_challenge_takes_no_time() -> None:
    started = time.thread_time()
    for part in (
        "Basic ",
        "Basic,",
        'Digest a="',
        "Digest a=b,",
        "a b=",
        ", ",
        "a" * 9,
        '\\"',
        "a =",
    ):
        found = parse_challenges([(part * 60_000)[:60_000]] * 20)
        assert len(found) <= MAX_CHALLENGES
    assert time.thread_time() - started < 2.0

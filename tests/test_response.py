"""What a handler can rely on in a response, whatever the server sent."""

from __future__ import annotations

import json

import pytest

from crawlkit.errors import PageTypeError
from crawlkit.response import Response, http_date


def response(body: bytes = b"", content_type: str | None = None, **more: object) -> Response:
    headers = {} if content_type is None else {"content-type": content_type}
    return Response(url="http://shop.example/", headers=headers, body=body, **more)  # type: ignore[arg-type]


def test_it_is_made_from_a_few_plain_values() -> None:
    made = Response(url="http://shop.example/", status=404, headers={"X-A": "1"}, body=b"gone")
    assert (made.url, made.status, made.body) == ("http://shop.example/", 404, b"gone")
    assert (made.redirects, made.elapsed, made.text) == ((), 0.0, "gone")
    assert repr(made) == "<Response 404 http://shop.example/ (4 bytes)>"


def test_headers_are_found_in_any_case_and_all_of_one_name() -> None:
    made = Response(url="http://a.example/", headers=[("Link", "a"), ("LINK", "b"), ("x-y", "z")])
    assert made.headers["X-Y"] == "z"
    assert made.headers.getall("link") == ["a", "b"]
    assert "missing" not in Response(url="http://a.example/").headers


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("text/html; charset=utf-8", "text/html"),
        (" Text/HTML ", "text/html"),
        ("application/json", "application/json"),
        ("", ""),
        (None, ""),
    ],
)
def test_the_content_type_comes_bare_and_in_lower_case(header: str | None, expected: str) -> None:
    assert response(content_type=header).content_type == expected


UMLAUT = "Grüße"


@pytest.mark.parametrize(
    ("body", "content_type", "encoding", "text"),
    [
        # The byte order mark is above the header, and is no part of the text.
        (b"\xef\xbb\xbf" + UMLAUT.encode(), "text/html; charset=iso-8859-1", "utf-8", UMLAUT),
        (b"\xff\xfe" + UMLAUT.encode("utf-16-le"), "text/html", "utf-16-le", UMLAUT),
        (b"\xfe\xff" + UMLAUT.encode("utf-16-be"), "text/html", "utf-16-be", UMLAUT),
        # The header is above the tag.
        (
            b'<meta charset="utf-8">' + UMLAUT.encode("cp1252"),
            "text/html; charset=ISO-8859-1",
            "cp1252",
            '<meta charset="utf-8">' + UMLAUT,
        ),
        (UMLAUT.encode("cp1252"), 'text/html; x="y"; charset="latin1"', "cp1252", UMLAUT),
        ("東京".encode("cp932"), "text/html; charset=Shift_JIS", "cp932", "東京"),
        # What browsers read as Shift_JIS has more signs than Python's codec of that name.
        ("①".encode("cp932"), "text/html; charset=shift_jis", "cp932", "①"),
        ("서울".encode("cp949"), "text/html; charset=euc-kr", "cp949", "서울"),
        ("北京".encode("gb18030"), "text/html; charset=gb2312", "gb18030", "北京"),
        (b"\x80", "text/html; charset=gbk", "gb18030", "€"),
        (UMLAUT.encode("utf-16-le"), "text/html; charset=utf-16", "utf-16-le", UMLAUT),
        # The tag, in its forms; a comment is no tag.
        (
            b'<meta http-equiv="Content-Type" content="text/html; charset=koi8-r">\xd6',
            "text/html",
            "koi8-r",
            '<meta http-equiv="Content-Type" content="text/html; charset=koi8-r">ж',
        ),
        (
            b"<!-- <meta charset=koi8-r> --><meta charset=cp1251>\xe6",
            None,
            "cp1251",
            "<!-- <meta charset=koi8-r> --><meta charset=cp1251>ж",
        ),
        (
            b"<?xml version='1.0' encoding='iso-8859-2'?><a>\xb1</a>",
            "application/xml",
            "iso8859-2",
            "<?xml version='1.0' encoding='iso-8859-2'?><a>ą</a>",
        ),
        # A tag that could be read is not in UTF-16.
        (b"<meta charset=utf-16le>", "text/html", "utf-8", "<meta charset=utf-16le>"),
        # No word about it.
        (UMLAUT.encode(), "text/html", "utf-8", UMLAUT),
        (UMLAUT.encode(), "text/plain", "utf-8", UMLAUT),
        (b"Gr\xfc\xdfe", "text/html", "cp1252", UMLAUT),
        (b"", None, "utf-8", ""),
        # A tag means nothing in what is no markup.
        (b"<meta charset=koi8-r>", "text/plain", "utf-8", "<meta charset=koi8-r>"),
    ],
)
def test_the_encoding_is_found_as_browsers_find_it(
    body: bytes, content_type: str | None, encoding: str, text: str
) -> None:
    made = response(body, content_type)
    assert made.encoding == encoding
    assert made.text == text


@pytest.mark.parametrize(
    "label",
    [
        *("bogus", "hex", "zlib", "rot13", "base64", "idna", "punycode", "unicode_escape", "utf-7"),
        *("raw_unicode_escape", "utf-32", "undefined", "mbcs", "cp037", "''", "\x00", "../../etc"),
    ],
)
def test_a_label_that_is_no_encoding_of_the_web_is_ignored(label: str) -> None:
    body = rf"+ADw-b+AD4- \x41 {UMLAUT}".encode()
    assert response(body, f"text/html; charset={label}").text == body.decode()
    body = f"<meta charset={label}>".encode() + body
    assert response(body, "text/html").text == body.decode()


@pytest.mark.parametrize("charset", ["utf-8", "shift_jis", "utf-16", "gbk", "iso-2022-jp", "big5"])
def test_text_never_raises(charset: str) -> None:
    body = bytes(range(256)) * 3 + b"\x1b$B\xff"
    assert isinstance(response(body, f"text/html; charset={charset}").text, str)
    assert "�" in response(b"caf\xe9", "text/html; charset=utf-8").text


def test_json_is_read_in_any_of_its_encodings() -> None:
    value = {"name": UMLAUT, "big": 2**70, "list": [1.5, None, True]}
    text = json.dumps(value, ensure_ascii=False)
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        assert response(text.encode(encoding), "application/json").json() == value


@pytest.mark.parametrize("body", [b"<html>", b"", b"[" * 200_000, b'{"a": 1} x'])
def test_what_is_no_json_is_said_in_one_line_with_its_place(body: bytes) -> None:
    with pytest.raises(PageTypeError) as caught:
        response(body, "text/html").json()
    message = str(caught.value)
    assert message.startswith("http://shop.example/ is not JSON (text/html")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", 784111777.0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 784111777.0),
        ("Sun Nov  6 08:49:37 1994", 784111777.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Wed, 12 Dec 2007 08:44:07 GMT-0500 (EST)", 1197449047.0),
        ("Sun, 06 Nov 99999 08:49:37 GMT", None),
        ("Sun, 99 Nov 1994 08:49:37 GMT", None),
        ("99999999999999999999", None),
        ("soon", None),
        ("0", None),
        ("", None),
    ],
)
def test_dates_of_headers_are_read_in_their_forms_and_nothing_else_is(
    value: str, expected: float | None
) -> None:
    assert http_date(value) == expected

"""A page's text is what a browser shows of it, whatever its server says and whatever it is in."""

# ruff: noqa: RUF001  (quotation marks and letters of many languages are what is tested here)

from __future__ import annotations

import subprocess
import sys
from time import thread_time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webencodings.labels import LABELS

from crawlkit.http.charset import decode, encoding_of, find_encoding, parse_content_type

HTML = "text/html"


def text(body: bytes, content_type: str = HTML) -> str:
    return decode(body, find_encoding(body, content_type))


# -- labels ----------------------------------------------------------------------------------------


def test_every_label_of_the_encoding_standard_is_known_and_can_be_decoded() -> None:
    for label in LABELS:
        encoding = encoding_of(f" {label.upper()}\n")
        assert encoding is not None, label
        assert isinstance(decode(bytes(range(256)), encoding), str)


@pytest.mark.parametrize(
    ("label", "encoding"),
    [
        *(("iso-8859-1", "cp1252"), ("ascii", "cp1252"), ("latin5", "cp1254"), ("L2", "iso8859-2")),
        *(("x-sjis", "cp932"), ("windows-949", "cp949"), ("x-gbk", "gb18030")),
        *(("iso_8859-1:1987", "cp1252"), ("iso-8859-8-i", "iso8859-8"), ("tis-620", "cp874")),
        *(("unicode", "utf-16-le"), ("utf-16", "utf-16-le"), ("koi8-ru", "koi8-u")),
        *(("x-user-defined", "x-user-defined"), ("hz-gb-2312", "replacement")),
        *(("utf-7", None), ("utf-32", None), ("hex", None), ("bogus", None), ("", None)),
        ("utf\u2011eight", None),
        ("\u212aOI8-r", None),  # the Kelvin sign is no K
    ],
)
def test_a_label_means_what_it_means_to_browsers(label: str, encoding: str | None) -> None:
    assert encoding_of(label) == encoding


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("text/html; charset=koi8-r", ("text/html", "koi8-r")),
        ("Text/HTML;Charset=KOI8-R", ("text/html", "koi8-r")),
        ('text/html; charset="koi8-r"', ("text/html", "koi8-r")),
        ('text/html; title="; charset=big5"; charset=koi8-r', ("text/html", "koi8-r")),
        ("text/html; charset=koi8-r; charset=big5", ("text/html", "koi8-r")),
        ("text/html; charset=koi8-r, text/html; charset=big5", ("text/html", "koi8-r")),
        ("text/html; charset=iso_8859-1:1987", ("text/html", "cp1252")),
        ("text/html; charset=bogus", ("text/html", None)),
        ("text/html; charset=", ("text/html", None)),
        ('text/html; charset="', ("text/html", None)),
        ("text/html", ("text/html", None)),
        ("", ("", None)),
    ],
)
def test_the_header_is_read_as_browsers_read_it(header: str, found: tuple[str, str | None]) -> None:
    assert parse_content_type(header) == found


# -- declarations in the document ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "encoding"),
    [
        (b"<META CHARSET=KOI8-R>", "koi8-r"),
        (b"<meta/charset='koi8-r'/>", "koi8-r"),
        (b"<meta charset = koi8-r >", "koi8-r"),
        (b"<meta name=x charset=koi8-r>", "koi8-r"),
        (b'<meta content="text/html; charset=koi8-r" http-equiv=Content-Type>', "koi8-r"),
        (b"<meta http-equiv=content-type content='charset = \"koi8-r\"'>", "koi8-r"),
        (b"<meta charset=bogus><meta charset=koi8-r>", "koi8-r"),
        (b'<meta content="a > b" charset=koi8-r>', "koi8-r"),
        (b"<!--> <meta charset=koi8-r>", "koi8-r"),
        (b"<?xml version='1.0' encoding='koi8-r'?><html>", "koi8-r"),
        # The tag is above the XML declaration.
        (b"<?xml version='1.0' encoding='big5'?><meta charset=koi8-r>", "koi8-r"),
        # What could be read as ASCII is no UTF-16, and x-user-defined is windows-1252 here.
        (b"<meta charset=utf-16be>", "utf-8"),
        (b"<?xml version='1.0' encoding='utf-16'?>", "utf-8"),
        (b"<meta charset=x-user-defined>", "cp1252"),
        # These say nothing.
        (b'<meta content="text/html; charset=koi8-r">', "utf-8"),
        (b'<meta http-equiv=refresh content="0; url=/?charset=koi8-r">', "utf-8"),
        (b"<metadata charset=koi8-r>", "utf-8"),
        (b"<!-- <meta charset=koi8-r>", "utf-8"),
        (b"<p>charset=koi8-r", "utf-8"),
        (b"<p><?xml version='1.0' encoding='koi8-r'?>", "utf-8"),
        (b"<meta charset=utf-7>", "utf-8"),
        (b"<meta charset", "utf-8"),
        (b"<meta charset='koi8-r", "koi8-r"),
    ],
)
def test_a_declaration_in_the_document_is_found_as_browsers_find_it(
    head: bytes, encoding: str
) -> None:
    assert find_encoding(head, HTML) == encoding


def test_in_xml_only_the_xml_declaration_counts() -> None:
    body = b"<?xml version='1.0' encoding='koi8-r'?><a><meta charset='big5'/></a>"
    assert find_encoding(body, "application/xml") == "koi8-r"
    assert find_encoding(b"<a><meta charset='big5'/></a>", "text/xml") == "utf-8"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_xml_in_utf_16_is_known_without_a_mark(encoding: str) -> None:
    body = '<?xml version="1.0"?><a>é</a>'.encode(encoding)
    assert find_encoding(body, "application/xml") == encoding
    assert text(body, "application/xml") == body.decode(encoding)


# -- text never becomes live markup ----------------------------------------------------------------


@pytest.mark.parametrize("label", ["hz-gb-2312", "iso-2022-kr", "iso-2022-cn", "replacement"])
def test_encodings_that_hide_markup_are_one_replacement_character(label: str) -> None:
    hidden = b"~{<!-- ~}<script>\x0e<b>\x0f"
    assert text(hidden, f"{HTML}; charset={label}") == "\ufffd"
    assert text(b"<meta charset=" + label.encode() + b">" + hidden) == "\ufffd"
    assert text(b"", f"{HTML}; charset={label}") == ""


def test_utf_7_is_not_decoded() -> None:
    body = b"<meta charset=utf-7>+ADw-script+AD4-"
    for header in (HTML, f"{HTML}; charset=utf-7", f"{HTML}; charset=unicode-1-1-utf-7"):
        assert text(body, header) == body.decode()


def test_a_broken_character_does_not_swallow_the_tag_behind_it() -> None:
    for label in ("shift_jis", "euc-jp", "euc-kr", "gbk", "big5", "utf-8"):
        assert text(b"\xe3<script>", f"{HTML}; charset={label}").endswith("<script>"), label


def test_bytes_without_meaning_stay_visible() -> None:
    assert text(b"a\0b\xff", f"{HTML}; charset=utf-8") == "a\0b\ufffd"
    # As in browsers, so that what was decoded wrongly can be put right later.
    assert text("\u201d".encode(), f"{HTML}; charset=iso-8859-1") == "\u00e2\u20ac\u009d"
    assert text(b"\xaa\x81", f"{HTML}; charset=windows-1253") == "\ufffd\x81"
    assert text(b"a\x80\xff", f"{HTML}; charset=x-user-defined") == "a\uf780\uf7ff"


def test_japanese_signs_of_nec_and_ibm_are_read_in_euc_jp_too() -> None:
    body = "①株式会社㈱".encode("cp932")
    assert text(body, f"{HTML}; charset=shift_jis") == "①株式会社㈱"
    euc = b"\xad\xa1" + "株式会社".encode("euc_jp") + b"\xad\xea"
    assert text(euc, f"{HTML}; charset=euc-jp") == "①株式会社㈱"
    assert text(b"\xad\xad\xa1<", f"{HTML}; charset=euc-jp").endswith("<")


# -- the detector ----------------------------------------------------------------------------------

PAGE = (
    '<!DOCTYPE html><html><head><title>{0}</title><script>var a = "b";</script></head><body '
    'class="home"><ul id="nav"><li><a href="/">Home</a></li></ul><p>{0}</p></body></html>'
)

# One sentence each, as on a short page.
SENTENCES = {
    "日本語のページです。今日は天気がいいですね。": ("cp932", "euc_jp"),
    "이 상품은 현재 재고가 없습니다. 다른 상품을 보세요.": ("cp949",),
    "本网站提供最新的新闻和产品信息，欢迎访问。": ("gb18030",),
    "本網站提供最新的新聞和產品資訊，歡迎光臨。": ("big5hkscs",),
    "Добро пожаловать в наш интернет-магазин. Доставка по всей стране.": (
        *("cp1251", "koi8-r", "iso8859-5", "cp866"),
    ),
    "Zażółć gęślą jaźń. Proszę wybrać płatność i sposób wysyłki książek.": (
        *("cp1250", "iso8859-2"),
    ),
    "Καλώς ήρθατε στο κατάστημά μας. Δείτε τις νέες προσφορές.": ("cp1253",),
    "Alışveriş sepetiniz boş. Lütfen ürün seçiniz ve ödemeye geçiniz.": ("cp1254",),
    "ברוכים הבאים לחנות שלנו. משלוח חינם לכל הארץ.": ("cp1255",),
    "مرحبا بكم في متجرنا. الشحن مجاني لجميع الطلبات.": ("cp1256",),
    "ยินดีต้อนรับสู่ร้านค้าของเรา จัดส่งฟรีทั่วประเทศ": ("cp874",),
    "Ihre Bestellung wurde geprüft. Die Größe ist nicht mehr verfügbar.": ("cp1252",),
    "Livraison gratuite dès 25 euros. Découvrez nos crèmes brûlées à emporter.": ("cp1252",),
    "Free shipping over £25. It’s our best seller – “great”, said Renée.": ("cp1252",),
}


@pytest.mark.parametrize(
    ("sentence", "encoding"),
    [(sentence, encoding) for sentence, all_ in SENTENCES.items() for encoding in all_],
)
def test_a_short_page_that_does_not_say_its_encoding_is_read_right(
    sentence: str, encoding: str
) -> None:
    page = PAGE.format(sentence)
    assert text(page.encode(encoding)) == page


@pytest.mark.parametrize("sign", ["£10", "© 2024 Example Ltd", "don’t", "café", "20°C", "®"])
def test_a_single_sign_in_an_english_page_does_not_make_it_another_language(sign: str) -> None:
    page = PAGE.format(f"This is our shop, and these are its prices. {sign}")
    assert text(page.encode("cp1252")) == page


def test_text_that_begins_late_in_a_long_page_is_detected() -> None:
    sentence = "Добро пожаловать в наш интернет-магазин. "
    page = "<div><p>menu</p></div>\n" * 50_000 + sentence * 10
    assert find_encoding(page.encode("cp1251"), HTML) == "cp1251"


def test_what_is_declared_or_valid_utf_8_does_not_load_the_detector() -> None:
    code = (
        "import sys; from crawlkit.response import Response\n"
        "for body, kind in ((b'\\xe9', 'text/html; charset=latin1'), (b'\\xc3\\xa9', 'text/html'),"
        " (b'<meta charset=latin1>\\xe9', 'text/html')):\n"
        "    assert Response(url='http://a.example/', headers={'content-type': kind},"
        " body=body).text.endswith('é')\n"
        "assert 'chardet' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_an_undeclared_page_is_read_alike_in_every_process() -> None:
    code = (
        "import random; from crawlkit.http.charset import find_encoding\n"
        "rng = random.Random(7)\n"
        "print([find_encoding(rng.randbytes(n) + b'\\xff', 'text/html') for n in range(1, 60)])"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            timeout=60,
            capture_output=True,
            env={"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1


@pytest.mark.parametrize(
    "body",
    [
        *(b"<meta " * 11_000, b"<meta charset='" * 4_000, b"<!--" * 16_000, b"<" * 65_536),
        *(b"<script " * 8_000, b"<meta a=\"'" * 6_500, b"\x81@" * 32_768, b"\xe9" * 65_536),
        *(b"<?xml " * 11_000, b"<?xml encoding=" * 4_000, bytes(range(128, 256)) * 512),
        b"<meta http-equiv=content-type content=" + b"charset=" * 8_000,
    ],
)
def test_nothing_that_a_page_says_makes_it_slow_to_read(body: bytes) -> None:
    find_encoding(b"\xe9", HTML)  # the detector is loaded
    started = thread_time()
    find_encoding(body + b"\xe9", HTML)
    assert thread_time() - started < 1.0


@given(
    st.binary(max_size=300),
    st.sampled_from([HTML, "text/xml", "text/plain", "", "image/png"]),
    st.sampled_from(["", *sorted(set(LABELS.values()))]),
)
def test_text_never_raises_whatever_the_bytes_are(body: bytes, kind: str, label: str) -> None:
    assert isinstance(text(body, f"{kind}; charset={label}" if label else kind), str)
    assert isinstance(text(b"<meta charset=" + label.encode() + b">" + body, kind), str)

"""What errors say can be shown anywhere."""

from __future__ import annotations

import pytest

from crawlkit.errors import NetworkError, one_line


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("\x1b[31mred\x1b]0;title\x07", r"\x1b[31mred\x1b]0;title\x07"),
        ("8-bit \x9b31m", r"8-bit \x9b31m"),
        ("one\r\ntwo\u2028three\x85four", "one two three four"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("zero\0", r"zero\x00"),
        ("lone \udc9b", r"lone \udc9b"),
        ("Caf\u00e9 \u65e5\u672c \U0001f600", "Caf\u00e9 \u65e5\u672c \U0001f600"),
        ("\U000e0001", r"\U000e0001"),
        ("", "NetworkError"),
    ],
)
def test_what_a_server_wrote_does_not_steer_a_terminal(message: str, line: str) -> None:
    shown = one_line(NetworkError(message))
    assert shown == line
    assert shown.isprintable()


def test_an_error_of_python_is_shown_with_its_type() -> None:
    assert one_line(ValueError("a\n b\x1b")) == r"ValueError: a b\x1b"
    assert one_line(ValueError()) == "ValueError"

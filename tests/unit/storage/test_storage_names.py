from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast_server.storage.names import escape, safe_file_name


def unescape(text: str) -> bytes:
    """The reading that the documentation gives a person."""

    def piece(match: re.Match[str]) -> str:
        if match[1]:
            code = int(match[1], 16)
            return chr(code if code < 0x80 else 0xDC00 + code)
        return chr(int(match[2], 16)) if match[2] else "\\"

    plain = re.sub(r"\\x([0-9a-f]{2})|\\u\{([0-9a-f]+)\}|\\\\", piece, text)
    return plain.encode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"Bank/coin.bin", "Bank/coin.bin"),
        ("Größe/日本".encode(), "Größe/日本"),
        (b"a\nb\x1b[31m", "a\\x0ab\\x1b[31m"),
        (b"caf\xe9", "caf\\xe9"),
        ("a\u202eb\u200bc\ufeff".encode(), "a\\u{202e}b\\u{200b}c\\u{feff}"),
        ("\x85\u2028\u3164".encode(), "\\u{85}\\u{2028}\\u{3164}"),
        (b"C:\\Program", "C:\\Program"),
        (b"\\x41", "\\\\x41"),
        (b"\\u{41}", "\\\\u{41}"),
        (b"\\\\", "\\\\\\"),
        (b"\\\n", "\\\\\\x0a"),
        (b"%s -rf", "%s -rf"),
        (b"", ""),
    ],
)
def test_escape(raw: bytes, shown: str) -> None:
    assert escape(raw) == shown


_tricky = st.lists(
    st.sampled_from([b"\\", b"x", b"u{", b"}", b"41", b"\n", b"\xff", b"\xc3", b"\xa9", "\u202e".encode(), b"/"]),
    max_size=8,
).map(b"".join)


@given(_tricky | st.binary(max_size=40) | st.text(max_size=20).map(lambda text: text.encode("utf-8", "ignore")))
@example(b"\\\\x41")
def test_escape_is_one_printable_line_and_can_be_read_back(raw: bytes) -> None:
    shown = escape(raw)
    assert shown.isprintable()
    assert unescape(shown) == raw


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Default", "Default"),
        ("My Wallet (old)", "My-Wallet-old"),
        ("../../etc/passwd", "etc-passwd"),
        ("..", "backup"),
        ("", "backup"),
        ("日本", "backup"),
        ("-rf", "rf"),
        (".hidden", "hidden"),
        ("a -- b", "a-b"),
        ("v1.2_x", "v1.2_x"),
        ("a\0b\nc", "a-b-c"),
        ("x" * 300, "x" * 100),
        ("x" * 99 + ".y", "x" * 99),
    ],
)
def test_safe_file_name(text: str, name: str) -> None:
    assert safe_file_name(text) == name


@given(st.text(max_size=300))
def test_safe_file_name_is_always_safe(text: str) -> None:
    name = safe_file_name(text)
    assert re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,98}[A-Za-z0-9_])?", name)
    assert safe_file_name(name) == name

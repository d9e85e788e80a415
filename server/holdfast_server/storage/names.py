"""Names for people and names for files.

File names are bytes everywhere in the service. `escape` is the one way in which they become text for messages, logs
and answers; `safe_file_name` is the one way in which free text becomes part of a file name.
"""

from __future__ import annotations

import re

__all__ = ["escape", "safe_file_name", "unescape"]

#: Letters and marks that draw nothing, though Unicode does not count them as format characters.
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")

_MAX_NAME = 100


def _shown(character: str) -> bool:
    return character.isprintable() and character not in _INVISIBLE


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # surrogateescape's image of a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{{{code:x}}}"


def escape(path: bytes) -> str:
    r"""The path as one line of harmless text: injective, so two different paths never look alike in a log.

    Printable UTF-8 stays as it is. Bytes that are no UTF-8 and ASCII controls become `\xNN`; other characters that draw
    nothing or steer the terminal (controls, bidirectional and zero-width formats, odd spaces, unassigned ones) become
    `\u{HEX}`. A backslash is doubled only where what follows it would make it read as the start of an escape.
    """
    text = path.decode("utf-8", "surrogateescape")
    if text.isprintable() and "\\" not in text and (text.isascii() or _INVISIBLE.isdisjoint(text)):
        return text
    parts: list[str] = []
    for position, character in enumerate(text):
        if character != "\\":
            parts.append(character if _shown(character) else _escaped(character))
            continue
        following = text[position + 1 : position + 2]
        # The next output character is a backslash exactly if the next character is one or is going to be escaped.
        ambiguous = following != "" and (following in "\\xu" or not _shown(following))
        parts.append("\\\\" if ambiguous else "\\")
    return "".join(parts)


def safe_file_name(text: str) -> str:
    """Free text reduced to `[A-Za-z0-9._-]`, to become part of an archive's name on any file system.

    Runs of other characters become one dash; dots and dashes at either end go, so the result is never hidden, never
    looks like an option and never ends in a dot. At most 100 bytes; `backup` if nothing is left.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text)
    name = re.sub(r"-{2,}", "-", name).strip(".-")
    return name[:_MAX_NAME].rstrip(".-") or "backup"


_ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|u\{([0-9a-f]{1,6})\}|(\\))")


def unescape(text: str) -> bytes:
    r"""The path that `escape` shows as `text`; a backslash that begins no escape stands for itself.

    Raises ValueError for a code point that does not exist.
    """
    parts: list[bytes] = []
    position = 0
    for match in _ESCAPE.finditer(text):
        parts.append(_encoded(text[position : match.start()]))
        byte, code, _ = match.groups()
        if byte is not None:
            parts.append(bytes([int(byte, 16)]))
        elif code is not None:
            parts.append(_encoded(_character(int(code, 16))))
        else:
            parts.append(b"\\")
        position = match.end()
    parts.append(_encoded(text[position:]))
    return b"".join(parts)


def _character(code: int) -> str:
    if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
        raise ValueError(f"\\u{{{code:x}}} is no character")
    return chr(code)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")

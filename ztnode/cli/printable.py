"""Text of others, made harmless for a terminal."""

from __future__ import annotations

from typing import TextIO


def printable(text: str) -> str:
    """Text of others, such as the name that a controller gave its network, for a terminal: on one line, and without
    characters that would command the terminal or hide others."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def shows(text: str, stream: TextIO) -> bool:
    """Whether what is printed to ``stream`` may have these characters, by its encoding."""
    try:
        text.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True

"""What an argument can be. All raise RulesError, at the word."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Final

from ztnode.rules_language.reader import Word
from ztnode.rules_language.vocabulary import CHARACTERISTICS

U32: Final = 0xFFFFFFFF
_NUMBER: Final = re.compile(r"0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20}", re.ASCII)
_FLOAT: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)
_HEX: Final = re.compile(r"[0-9a-fA-F]+")
_SEPARATORS: Final = str.maketrans("", "", ":-.")


def number(word: Word, limit: int, names: Mapping[str, int] | None = None) -> int:
    """A number in decimal or, after 0x, in hexadecimal digits, or a name for one."""
    if names is not None and word.text in names:
        return names[word.text]
    value = _value(word.text)
    if value is None:
        raise word.error(f"{quoted(word)} is no number" + ("" if names is None else " and no name for one"))
    if value > limit:
        raise word.error(f"{quoted(word)} is more than {limit}")
    return value


def _value(text: str) -> int | None:
    if not _NUMBER.fullmatch(text):
        return None
    return int(text, 16) if text[:2] in ("0x", "0X") else int(text)


def number_range(word: Word, limit: int) -> tuple[int, int]:
    """``FIRST-LAST``, both included, or one number."""
    first, dash, last = word.text.partition("-")
    start = number(Word(first, word.line, word.column), limit)
    end = number(Word(last, word.line, word.column), limit) if dash else start
    if end < start:
        raise word.error(f"{quoted(word)} is no range: the first number is the greater one")
    return start, end


def optional_byte(word: Word) -> int | None:
    """A number below 256; a negative one stands for any."""
    if word.text.startswith("-") and _value(word.text[1:]) is not None:
        return None
    return number(word, 0xFF)


def hexadecimal(word: Word, digits: int, what: str) -> str:
    """So many digits in small letters, whatever stands between them as in an address."""
    text = word.text.translate(_SEPARATORS)
    if len(text) != digits or not _HEX.fullmatch(text):
        raise word.error(f"{quoted(word)} is no {what}: {digits} hexadecimal digits")
    return text.lower()


def address(word: Word) -> str:
    """The 10 digits of a ZeroTier address, as they stand."""
    if len(word.text) != 10 or not _HEX.fullmatch(word.text):
        raise word.error(f"{quoted(word)} is no ZeroTier address: 10 hexadecimal digits")
    return word.text


def prefix(word: Word) -> int:
    """4 or 6: the version of an address with the number of its bits that count."""
    host, _, bits = word.text.partition("/")
    try:
        if "%" in host:
            raise ValueError
        version = ipaddress.ip_address(host).version
    except ValueError:
        raise word.error(f"{quoted(word)} is no network such as 10.0.0.0/8 or fd00::/8") from None
    if not bits:
        raise word.error(f"{quoted(word)} lacks the number of its bits, as in {host}/{32 if version == 4 else 128}")
    number(Word(bits, word.line, word.column), 32 if version == 4 else 128)
    return version


def probability(word: Word) -> float:
    """0 to 1; what is beyond is the nearer of the two."""
    if not _FLOAT.fullmatch(word.text):
        raise word.error(f"{quoted(word)} is no probability from 0 to 1")
    return min(max(float(word.text), 0.0), 1.0)


def mask(word: Word) -> int:
    """Names or numbers of bits with commas between them."""
    value = 0
    for text in filter(None, word.text.split(",")):
        value |= 1 << number(Word(text, word.line, word.column), 63, CHARACTERISTICS)
    if not value:
        raise word.error("no bit is named")
    return value


def quoted(word: Word) -> str:
    """The word as a message shows it."""
    return f'"{word.text[:64]}"'

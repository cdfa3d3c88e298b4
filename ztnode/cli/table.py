"""Tables for a terminal or a pipe."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

GAP = "  "
"""Between two columns."""
NARROWEST = 8
"""Places to which a column is folded at most, where the table is too wide."""


@dataclass(frozen=True, slots=True)
class Table:
    """Headings and rows as lines, and how many places the widest of them takes."""

    headings: tuple[str, ...]
    rows: tuple[str, ...]
    width: int


def lay_out(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> Table:
    """``width``: places of a line; longer cells are folded then, the widest columns first. None: each row is one line,
    however long, as programs that read it want it."""
    widths = [max(map(display_width, cells)) for cells in zip(columns, *rows, strict=True)]
    gaps = len(GAP) * (len(widths) - 1)
    if width is not None:
        _fit(widths, width - gaps)
    return Table(
        headings=tuple(_lines(columns, widths)),
        rows=tuple(line for row in rows for line in _lines(row, widths)),
        width=sum(widths) + gaps,
    )


def display_width(text: str) -> int:
    """How many places ``text`` takes on a terminal: two for each East Asian wide character, none for combining ones."""
    if text.isascii():
        return len(text)
    return sum(_places(character) for character in text)


def _places(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _fit(widths: list[int], room: int) -> None:
    """Take from the widest column, again and again, until all fit into ``room`` or none can give any more."""
    while sum(widths) > room:
        widest = max(range(len(widths)), key=widths.__getitem__)
        if widths[widest] <= NARROWEST:
            return
        widths[widest] -= 1


def _lines(cells: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    """One row as lines, each cell folded to its column's width."""
    folded = [_fold(cell, width) for cell, width in zip(cells, widths, strict=True)]
    for number in range(max(map(len, folded))):
        parts = [pieces[number] if number < len(pieces) else "" for pieces in folded]
        padded = (part + " " * (width - display_width(part)) for part, width in zip(parts, widths, strict=True))
        yield GAP.join(padded).rstrip()


def _fold(text: str, width: int) -> list[str]:
    """``text`` in pieces of at most ``width`` places, cut at a space where there is one."""
    pieces: list[str] = []
    while display_width(text) > width:
        end, places = 0, 0
        while places + _places(text[end]) <= width or end == 0:
            places += _places(text[end])
            end += 1
        space = end if text[end] == " " else text.rfind(" ", 1, end)
        if space > 0:
            end = space
        pieces.append(text[:end].rstrip())
        text = text[end:].lstrip()
    return [*pieces, text]

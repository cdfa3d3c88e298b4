"""From characters to a tree of words. What ends a word is a space; a semicolon at its end ends the block that is open.

A block begins after each word of ``OPENERS`` that does not end one itself, written in small letters. So a bare action
inside a block (``cap c id 1 accept;``) ends that block, and a bare action at the top takes the next block for its
matches. A comment begins where a word could.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from ztnode.rules_language.rules_error import RulesError
from ztnode.rules_language.vocabulary import OPENERS

MAX_SOURCE: Final = 1 << 18
"""Characters. A network has 1,024 rules at the most."""


@dataclass(frozen=True, slots=True)
class Word:
    """``line`` and ``column`` from 1."""

    text: str
    line: int
    column: int

    def error(self, message: str) -> RulesError:
        """At this word."""
        return RulesError(message, self.line, self.column)


@dataclass(slots=True)
class Block:
    """What stands behind ``opener`` up to the semicolon. The outermost has no opener."""

    opener: Word
    items: list[Node] = field(default_factory=list)


Node: TypeAlias = Word | Block


def read(source: str) -> list[Node]:
    """Raises RulesError for text that is too long, or that would be lost."""
    if len(source) > MAX_SOURCE:
        raise RulesError(f"longer than {MAX_SOURCE:,} characters", 1, 1)
    blocks = [Block(Word("", 1, 1))]
    for word, ends in _words(source):
        if word.text.endswith(";"):
            raise word.error('";;" ends one block alone: write "; ;" for two')
        if word.text:
            blocks[-1].items.append(word)
        if ends and len(blocks) > 1 and blocks[-1].items:
            block = blocks.pop()
            blocks[-1].items.append(block)
        elif word.text in OPENERS:
            blocks.append(Block(word))
    if not blocks[-1].items and len(blocks) > 2:
        # The reference loses without a word what stands in the blocks that are still open here.
        opener = blocks[-1].opener
        raise opener.error(f'"{opener.text}" opens a block that holds nothing, and a semicolon does not end such a one')
    while len(blocks) > 1:
        block = blocks.pop()
        if block.items:
            blocks[-1].items.append(block)
    return blocks[0].items


def _words(source: str) -> Iterator[tuple[Word, bool]]:
    """Each word without the semicolon that it ended in, and whether it did."""
    for number, line in enumerate(source.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        column = 0
        for part in line.replace("\t", " ").split(" "):
            if part.startswith("#"):
                break
            if part:
                text = part.removesuffix(";")
                yield Word(text, number, column + 1), text != part
            column += len(part) + 1

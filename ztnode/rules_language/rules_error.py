"""What is wrong with a text, and where."""

from __future__ import annotations


class RulesError(ValueError):
    """``line`` and ``column`` count from 1, the column in characters; ``message`` is one line without them."""

    def __init__(self, message: str, line: int, column: int) -> None:
        super().__init__(f"line {line}, column {column}: {message}")
        self.message = message
        self.line = line
        self.column = column

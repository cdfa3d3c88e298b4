"""What is waited for, said on stderr."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import sys
import threading
from collections.abc import Iterator
from types import TracebackType

import click

from ztnode.cli.printable import printable, shows
from ztnode.cli.table import display_width

FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
INTERVAL = 0.08
"""Seconds between two frames of the spinner."""

LONG = 2.0
"""Seconds after which somebody wonders what is going on."""


@contextlib.contextmanager
def shown_when_long(text: str) -> Iterator[None]:
    """Say what is waited for once that has taken long; what is done soon says nothing."""
    ended = threading.Event()

    def wait() -> None:
        if not ended.wait(LONG):
            with Progress(text):
                ended.wait()

    thread = threading.Thread(target=wait, name="patience", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class Progress:
    """Says on stderr what is waited for: a spinner on a terminal, else a line for each new text. A context manager."""

    def __init__(self, text: str) -> None:
        self._text = printable(text)
        self._spinning = sys.stderr.isatty()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._spin, name="spinner", daemon=True)

    def __enter__(self) -> Progress:
        if self._spinning:
            self._thread.start()
        else:
            click.echo(self._text, err=True)
        return self

    def update(self, text: str) -> None:
        """Say something else from now on."""
        text = printable(text)
        if text == self._text:
            return
        self._text = text
        if not self._spinning:
            click.echo(text, err=True)

    def note(self, text: str) -> None:
        """Say a line that stays."""
        before = "\r\x1b[2K" if self._spinning else ""
        click.echo(before + printable(text), err=True)

    def tick(self, text: str) -> None:
        """Show a count that goes on and on; on a terminal only."""
        if self._spinning:
            self.update(text)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._spinning:
            self._ended.set()
            self._thread.join()

    def _spin(self) -> None:
        """Write the line again and again, with the cursor hidden, and take it away in the end."""
        write = sys.stderr.write
        frames = itertools.cycle(FRAMES if shows(FRAMES, sys.stderr) else "|/-\\")
        write("\x1b[?25l")
        while not self._ended.wait(INTERVAL):
            write(f"\r\x1b[2K{next(frames)} {_cut(self._text, shutil.get_terminal_size().columns - 3)}")
            sys.stderr.flush()
        write("\r\x1b[2K\x1b[?25h")
        sys.stderr.flush()


def _cut(text: str, room: int) -> str:
    """The beginning of ``text`` that fits on one line: what a terminal wraps cannot be written over."""
    while display_width(text) > room and text:
        text = text[:-1]
    return text

"""Asks the person at the terminal to log in somewhere."""

from __future__ import annotations

import os
import sys
import webbrowser
from collections.abc import Callable


class LogIn:
    """Says each URL once. The first is opened in a browser, too, where there is a screen for one."""

    def __init__(self, *, browser: bool) -> None:
        """``browser``: it may be opened."""
        self._browser = browser and _has_screen()
        self._asked: set[str] = set()

    def ask(self, url: str, say: Callable[[str], None]) -> None:
        """``url``: as the network's controller has it, so not just anything is opened. ``say``: tells one line."""
        if url in self._asked or not url.startswith(("https://", "http://")):
            return
        say(f"log in at {url}")
        if self._browser and not self._asked:
            webbrowser.open(url)
        self._asked.add(url)


def _has_screen() -> bool:
    # Without one the webbrowser module takes what shows pages in the terminal, in the midst of our own lines.
    named = any(os.environ.get(name) for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"))
    return named or sys.platform in ("darwin", "win32")

"""A file of names in the form of hosts(5), read again when it has changed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from ztclient.forms import host_name, numeric_ip

MAX_BYTES: Final = 1 << 20
log = logging.getLogger(__name__)


class HostsFile:
    """Names and their addresses, in the order of the file. One that does not exist has none."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._names: dict[str, list[str]] = {}

    def get(self, name: str) -> list[str]:
        """The addresses of a name in its usual form (``host_name``); none where it is not in the file."""
        if self._path is not None:
            self._refresh(self._path)
        return self._names.get(name, [])

    def _refresh(self, path: Path) -> None:
        try:
            known = path.stat()
            seen = known.st_ino, known.st_mtime_ns, known.st_size
            if seen == self._seen:
                return
            self._seen = seen
            with path.open("rb") as file:
                text = file.read(MAX_BYTES).decode(errors="replace")
        except FileNotFoundError:
            self._seen, self._names = None, {}
            return
        except OSError as error:
            log.warning("cannot read %s: %s", path, error.strerror)
            return
        self._names = _parse(text, path)


def _parse(text: str, path: Path) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    bad = 0
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        try:
            if words:
                ip = numeric_ip(words[0])
                for each in map(host_name, words[1:]):
                    names.setdefault(each, []).append(ip)
        except ValueError:
            bad += 1
    if bad:
        log.warning("%s: %d lines are not of the form ADDRESS NAME..., and are left out", path, bad)
    return names

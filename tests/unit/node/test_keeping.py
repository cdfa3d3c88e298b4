"""State that the disk does not take."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from ztnode.node.home import Home
from ztnode.node.keeping import REMINDER, Complaints, Documents
from ztnode.plugins.stores import MemoryStore


class Disk(MemoryStore):
    """A store that may be full."""

    full = False

    def write(self, key: str, value: bytes) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().write(key, value)


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def home(disk: Disk) -> Iterator[Home]:
    home = Home(disk)
    yield home
    home.close()


def test_the_same_trouble_is_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    complaints = Complaints(lambda: now)
    error = OSError(errno.ENOSPC, "No space left on device")
    for _ in range(1000):
        complaints.tell("cannot keep a moon", error)
    complaints.tell("cannot keep the planet", error)
    assert len(caplog.records) == 2
    assert "cannot keep a moon: OSError: [Errno 28] No space left on device" in caplog.messages[0]
    now += REMINDER
    complaints.tell("cannot keep a moon", error)
    assert caplog.messages[2].endswith("(999 more times since)")
    for number in range(10_000):
        complaints.tell(f"cannot keep {number}", error)


def test_a_commit_is_refused_with_the_reason_and_replaces_what_waits(disk: Disk, home: Home) -> None:
    documents = Documents(home, Complaints())
    disk.full = True
    documents.keep([("a", b"1"), ("b", b"1")])
    with pytest.raises(OSError, match="this node's state cannot be written: No space left on device") as caught:
        documents.commit("a", b"2")
    assert caught.value.errno == errno.ENOSPC
    disk.full = False
    documents.commit("a", b"3")
    assert {key: disk.read(key) for key in list(disk.keys())} == {"a": b"3", "b": b"1"}


def test_what_was_refused_is_kept_as_soon_as_there_is_room(disk: Disk, home: Home) -> None:
    documents = Documents(home, Complaints())
    disk.full = True
    documents.keep([("a", b"1"), ("b", b"1")])
    documents.keep([("a", b"2")])
    assert not list(disk.keys())
    disk.full = False
    documents.keep([("c", b"1"), ("b", None)])
    assert {key: disk.read(key) for key in list(disk.keys())} == {"a": b"2", "c": b"1"}

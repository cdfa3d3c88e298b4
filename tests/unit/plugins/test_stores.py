"""The built-in state stores keep what they are given, atomically, and nobody else's."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ztnode.hookspecs import StateStore
from ztnode.plugins.stores import LOCK, MAX_VALUE_BYTES, FileStore, MemoryStore


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StateStore]:
    opened: StateStore = FileStore(tmp_path / "home") if request.param == "file" else MemoryStore()
    yield opened
    opened.close()


def test_write_read_delete(store: StateStore) -> None:
    assert store.read("planet") is None
    store.write("networks.d/9ad07d01093a69e3.conf", b"one")
    store.write("networks.d/9ad07d01093a69e3.conf", b"two")
    store.write("identity.secret", b"s")
    assert store.read("networks.d/9ad07d01093a69e3.conf") == b"two"
    assert list(store.keys()) == ["identity.secret", "networks.d/9ad07d01093a69e3.conf"]
    assert list(store.keys("networks.d/")) == ["networks.d/9ad07d01093a69e3.conf"]
    store.delete("networks.d/9ad07d01093a69e3.conf")
    store.delete("networks.d/9ad07d01093a69e3.conf")
    assert list(store.keys("networks.d/")) == []


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../x", "a/../../x", ".hidden"])
def test_a_key_cannot_leave_the_store(store: StateStore, key: str) -> None:
    with pytest.raises(ValueError, match="not a state key"):
        store.write(key, b"x")
    with pytest.raises(ValueError, match="not a state key"):
        store.read(key)


def test_secrets_are_the_owners_alone(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "home")
    store.write("identity.secret", b"s")
    store.write("identity.public", b"p")
    assert stat.S_IMODE((tmp_path / "home/identity.secret").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "home/identity.public").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700
    store.close()


def test_a_file_in_the_place_of_the_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / "home").write_bytes(b"")
    with pytest.raises(NotADirectoryError, match="is a file; state is kept in a directory"):
        FileStore(tmp_path / "home")


def test_one_node_at_a_time(tmp_path: Path) -> None:
    first = FileStore(tmp_path)
    with pytest.raises(OSError, match="in use by another node"):
        FileStore(tmp_path)
    first.close()
    FileStore(tmp_path).close()


def test_a_running_zerotier_one_keeps_its_home(tmp_path: Path) -> None:
    (tmp_path / "zerotier-one.pid").write_text(str(os.getpid()))
    FileStore(tmp_path).close()  # that process is no zerotier-one: a stale file
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import ctypes, sys; ctypes.CDLL(None).prctl(15, b'zerotier-one'); print(flush=True); sys.stdin.read()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (tmp_path / "zerotier-one.pid").write_text(str(process.pid))
        with pytest.raises(OSError, match="in use by zerotier-one"):
            FileStore(tmp_path)
        process.communicate(b"")


def test_power_fails_at_any_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever step of a write is the last one to happen, the old value is there whole."""
    store = FileStore(tmp_path)
    store.write("planet", b"old")
    for step in ("fsync", "fchmod"):
        with monkeypatch.context() as patch:

            def fail(*arguments: object) -> None:
                raise OSError("power")

            patch.setattr(os, step, fail)
            with pytest.raises(OSError, match="power"):
                store.write("planet", b"new")
        assert store.read("planet") == b"old"
    assert list(store.keys()) == ["planet"]
    store.close()


def test_a_damaged_huge_file_is_not_read(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    (tmp_path / "planet").write_bytes(bytes(MAX_VALUE_BYTES + 1))
    with pytest.raises(OSError, match="damaged"):
        store.read("planet")
    store.close()


def test_what_a_killed_writer_had_begun_is_removed(tmp_path: Path) -> None:
    (tmp_path / "networks.d").mkdir()
    for begun in (tmp_path / ".abc123.tmp", tmp_path / "networks.d/.def456.tmp"):
        begun.write_bytes(b"half")
    (tmp_path / "networks.d/9ad07d01093a69e3.conf").write_bytes(b"whole")
    FileStore(tmp_path).close()
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        ".ztnode.lock",
        "9ad07d01093a69e3.conf",
    ]


@pytest.mark.parametrize("where", ["planet", "networks.d/9ad07d01093a69e3.conf", "identity.secret"])
def test_links_are_not_followed(tmp_path: Path, where: str) -> None:
    """Neither to read what the node may read and others not, nor to write there; a link for a directory likewise."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"a secret of somebody else")
    root = tmp_path / "home"
    for link, target in ((root / where, outside / "file"), (root / where.partition("/")[0], outside)):
        if link.parent == root and "/" in where:
            (outside / where.partition("/")[2]).write_bytes(b"a secret of somebody else")
        root.mkdir(exist_ok=True)
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(target)
        store = FileStore(root)
        with pytest.raises(OSError, match="symbolic link"):
            store.read(where)
        with pytest.raises(OSError, match="symbolic link"):
            store.write(where, b"overwritten")
        with pytest.raises(OSError, match="symbolic link"):
            store.delete(where)
        assert where not in list(store.keys())
        store.close()
        link.unlink()
        if link.parent != root:
            link.parent.rmdir()
    assert (outside / "file").read_bytes() == b"a secret of somebody else"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a directory of another user")
def test_a_directory_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chown(tmp_path, 12345, 12345)
    with pytest.raises(PermissionError, match="belongs to another user"):
        FileStore(tmp_path)
    os.chown(tmp_path, 0, 0)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    FileStore(tmp_path).close()  # a volume that root mounted


def test_a_start_that_failed_leaves_nothing_behind(tmp_path: Path) -> None:
    FileStore(tmp_path / "home").close()
    assert not (tmp_path / "home").exists()
    there = tmp_path / "there"
    there.mkdir()
    FileStore(there).close()
    assert list(there.iterdir()) == []
    store = FileStore(there)
    store.write("planet", b"kept")
    store.close()
    assert (there / LOCK).exists() and (there / "planet").exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_directory_without_locks_is_one_nodes_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    def flock(_file: int, _operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    first = FileStore(tmp_path / "st")
    assert len(caplog.records) == 1 and "no locks" in caplog.text and str(tmp_path) in caplog.text
    if sys.platform == "linux":
        with pytest.raises(OSError, match="in use by another node"):
            FileStore(tmp_path / "st")
    first.write("kept", b"1")
    first.close()
    again = FileStore(tmp_path / "st")
    assert again.read("kept") == b"1"
    again.close()

"""Addresses, and the order in which a node is looked for."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ztclient import NodeUnavailableError, discovery
from ztclient.discovery import Address, find, parse_address, running_nodes, socket_path
from ztnode.node.registry import Registration


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:/run/x/ztnode.sock", Address("unix", "/run/x/ztnode.sock")),
        ("unix:///run/x/ztnode.sock", Address("unix", "/run/x/ztnode.sock")),
        ("/run/x/ztnode.sock", Address("unix", "/run/x/ztnode.sock")),
        ("127.0.0.1:7447", Address("tcp", "127.0.0.1:7447")),
        ("tcp://127.0.0.1:7447", Address("tcp", "127.0.0.1:7447")),
        ("tls://node.example:7447", Address("tls", "node.example:7447")),
        ("tls://[::1]:7447", Address("tls", "[::1]:7447")),
    ],
)
def test_forms_of_an_address(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text", ["", "unix:", "localhost", "tcp://x", "http://x:80", "x:0", "x:65536", "x:８0", "::1:80", "tls://:80"]
)
def test_malformed_addresses(text: str) -> None:
    with pytest.raises(ValueError, match=r"address of a node|no path"):
        parse_address(text)


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("ZTNODE_ADDRESS", raising=False)
    monkeypatch.delenv("ZTNODE_STATE", raising=False)
    return tmp_path / "ztnode"


def test_order(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NodeUnavailableError, match="ztnode serve --state DIR"):
        find()
    with Registration("unix:/registered.sock", Path("/tmp/a")):
        assert find().target == "/registered.sock"
        monkeypatch.setenv("ZTNODE_STATE", "/var/lib/state")
        assert find().target == "/var/lib/state/ztnode.sock"
        monkeypatch.setenv("ZTNODE_ADDRESS", "tls://there:1")
        assert find() == Address("tls", "there:1")
        assert find(state="/given").target == "/given/ztnode.sock"
        assert find("127.0.0.1:2") == Address("tcp", "127.0.0.1:2")
        with pytest.raises(ValueError, match="not both"):
            find("127.0.0.1:2", "/given")


def test_several_nodes_are_not_guessed_among(runtime: Path) -> None:
    with Registration("unix:/a.sock", Path("/tmp/a")), Registration("unix:/b.sock", Path("/tmp/b")):
        assert [node.state for node in running_nodes()] == ["/tmp/b", "/tmp/a"]
        with pytest.raises(NodeUnavailableError, match=r"2 nodes .*/tmp/b, /tmp/a.*ZTNODE_STATE"):
            find()
    assert running_nodes() == []
    assert list(runtime.iterdir()) == []


def test_the_entry_of_a_killed_node_is_passed_over_and_replaced(runtime: Path) -> None:
    code = (
        "import os, pathlib; from ztnode.node.registry import Registration;"
        "r = Registration('unix:/a.sock', pathlib.Path('/tmp/a')); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 9
    assert len(list(runtime.glob("*.json"))) == 1
    assert running_nodes() == []
    with Registration("unix:/a2.sock", Path("/tmp/a")):
        assert [node.address for node in running_nodes()] == ["unix:/a2.sock"]


def test_a_registration_does_not_remove_its_successor(runtime: Path) -> None:
    first = Registration("unix:/a.sock", Path("/tmp/a"))
    with Registration("unix:/a2.sock", Path("/tmp/a")):
        first.close()
        first.close()
        assert [node.address for node in running_nodes()] == ["unix:/a2.sock"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"address": "unix:/x"}', b"\xff\xfe", b"{}" + b" " * 100_000])
def test_unreadable_entries_are_passed_over(runtime: Path, content: bytes) -> None:
    with Registration("unix:/a.sock", Path("/tmp/a")), (runtime / "bad.json").open("wb") as bad:
        bad.write(content)
        bad.flush()
        fcntl.flock(bad, fcntl.LOCK_EX)
        assert [node.address for node in running_nodes()] == ["unix:/a.sock"]


def test_a_registry_that_others_may_write_is_not_trusted(runtime: Path) -> None:
    with Registration("unix:/a.sock", Path("/tmp/a")):
        runtime.chmod(0o777)
        assert running_nodes() == []
        with pytest.raises(PermissionError, match="0700"):
            Registration("unix:/b.sock", Path("/tmp/b"))
        runtime.chmod(0o700)


def test_a_registry_that_is_a_link_is_not_trusted(runtime: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    runtime.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError):
        Registration("unix:/b.sock", Path("/tmp/b"))


def test_a_long_state_directory_gets_a_short_socket(runtime: Path, tmp_path: Path) -> None:
    assert socket_path("/short") == Path("/short/ztnode.sock")
    long = tmp_path / ("x" * 120)
    path = socket_path(long)
    assert path.parent == runtime
    assert path == socket_path(str(long) + "/")
    assert path != socket_path(str(long) + "y")
    assert find(state=long).target == str(path)
    runtime.mkdir(mode=0o755)
    with pytest.raises(NodeUnavailableError, match="not trusted"):
        find(state=long)


def test_a_short_socket_that_is_too_long_as_well_is_told_what_helps(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / ("y" * 120)))
    assert socket_path("/short") == Path("/short/ztnode.sock")
    with pytest.raises(NodeUnavailableError, match="XDG_RUNTIME_DIR") as failure:
        find(state=tmp_path / ("x" * 120))
    assert failure.value.errno == errno.ENAMETOOLONG


def test_the_socket_is_found_through_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert socket_path(tmp_path / "link") == socket_path(tmp_path / "real")


def test_without_a_runtime_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert discovery.runtime_directory({}).name == f"ztnode-{os.getuid()}"
    assert discovery.runtime_directory({"XDG_RUNTIME_DIR": "relative"}).name == f"ztnode-{os.getuid()}"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a socket of another user")
def test_a_socket_of_another_user_is_not_trusted(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(tmp_path / "ztnode.sock"))
        assert find(state=tmp_path).target == str(tmp_path / "ztnode.sock")
        os.chown(tmp_path / "ztnode.sock", 12345, 12345)
        for arguments in ({"state": tmp_path}, {"address": f"unix:{tmp_path / 'ztnode.sock'}"}):
            with pytest.raises(NodeUnavailableError, match="belongs to another user"):
                find(**arguments)
        for name, value in (("ZTNODE_STATE", str(tmp_path)), ("ZTNODE_ADDRESS", f"unix:{tmp_path / 'ztnode.sock'}")):
            with pytest.raises(NodeUnavailableError, match="belongs to another user"):
                find(environ={name: value})

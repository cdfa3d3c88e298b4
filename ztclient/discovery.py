"""Where a node's control socket is: forms of an address, the places to look, and the list of this user's running nodes.

The order of look-up, first match wins:

1. the ``address`` or ``state`` argument;
2. the environment variable ``ZTNODE_ADDRESS`` (an address);
3. the environment variable ``ZTNODE_STATE`` (a state directory);
4. the one node that this user has running, from the registry below.

Forms of an address:

========================================  ===========================================================================
``unix:/path/ztnode.sock``, ``/path/…``   a Unix socket
``tcp://host:port``, ``host:port``        TCP in clear with a bearer token; for loopback
``tls://host:port``                       TCP with TLS
========================================  ===========================================================================

The registry is a directory of small JSON files, one for each running node, in ``$XDG_RUNTIME_DIR/ztnode`` or, where
there is no such variable, in ``<temporary directory>/ztnode-<uid>``. It belongs to the user and has mode 0700, or it is
not trusted. The node holds a lock on its file for as long as it lives, so that a file left behind by a crash is
told apart from a running node without guessing by process id. ``ztnode.node.registry`` writes it.

A system without Unix sockets, such as Windows, has neither the first form nor the registry: there a node elsewhere is
named by ``tls://host:port``.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ztclient.errors import NodeUnavailableError
from ztclient.forms import split_host_port

SOCKET_NAME = "ztnode.sock"
"""The control socket's name in the state directory."""

MAX_UNIX_PATH = 103
"""Bytes that every supported system's ``sockaddr_un`` takes (macOS: 104 with the final NUL; Linux: 108)."""


# Named tuples: what ztclient.run needs before it starts a node loads nothing that can be loaded beside it.


class RunningNode(NamedTuple):
    """One entry of the registry. ``started`` is Unix time in seconds."""

    address: str
    state: str
    pid: int
    started: float


class Address(NamedTuple):
    """A parsed address: ``scheme`` is ``unix``, ``tcp`` or ``tls``; ``target`` a path or ``host:port``."""

    scheme: str
    target: str

    def __str__(self) -> str:
        return f"unix:{self.target}" if self.scheme == "unix" else f"{self.scheme}://{self.target}"


def parse_address(text: str) -> Address:
    """Read one of the forms above. Raises ValueError with one line for a person."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if path.startswith("//"):
            path = path.removeprefix("//")
        if not path:
            raise ValueError(f"{text!r} has no path: write unix:/path/to/{SOCKET_NAME}")
        return Address("unix", str(Path(path).absolute()))
    if text.startswith(("/", "./", "../", "~")):
        return Address("unix", str(Path(text).expanduser().absolute()))
    scheme, separator, target = text.partition("://")
    if not separator:
        scheme, target = "tcp", text
    if scheme not in ("tcp", "tls"):
        raise ValueError(f"{text!r} is not an address of a node: write unix:/path, tcp://host:port or tls://host:port")
    try:
        host, port = split_host_port(target)
    except ValueError:
        host, port = "", 0
    if not host or not port:
        raise ValueError(f"{text!r} is not an address of a node: host:port is missing, as in {scheme}://127.0.0.1:7447")
    if ":" in host and not target.startswith("["):
        raise ValueError(f"{text!r} is not an address of a node: put the IPv6 address in brackets")
    return Address(scheme, target)


def runtime_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """This user's directory for sockets and registry entries; it need not exist."""
    return Path(_runtime_directory(environ))


def require_unix_sockets(wanted: str) -> None:
    """Raise NodeUnavailableError where the operating system has no Unix sockets."""
    if not hasattr(socket, "AF_UNIX") or not hasattr(os, "getuid"):
        raise NodeUnavailableError(
            errno.EAFNOSUPPORT,
            f"{wanted} needs a Unix socket, which this system does not have: name a node by ZTNODE_ADDRESS=tls://host:port",
        )


# What follows joins strings: objects of pathlib would be most of what making a client costs.


def _runtime_directory(environ: Mapping[str, str]) -> str:
    base = environ.get("XDG_RUNTIME_DIR")
    if base and base.startswith("/"):
        return f"{base.rstrip('/')}/ztnode"
    try:
        temporary = tempfile.gettempdir()
    except FileNotFoundError:  # there is none that can be written to; a node that is named is found without it
        temporary = "/tmp"
    return f"{temporary}/ztnode-{os.getuid()}"


def is_private(directory: Path) -> bool:
    """True for a real directory (no symbolic link) of this user that nobody else may enter. Raises OSError."""
    found = directory.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


def socket_path(state: str | os.PathLike[str], environ: Mapping[str, str] = os.environ) -> Path:
    """The control socket of the node that keeps its state in ``state``.

    ``<state>/ztnode.sock``; where that is too long for a Unix socket, a short name in the runtime directory that
    depends on the state directory alone, so that node and client find the same one. Raises NodeUnavailableError where
    that is too long as well.
    """
    return Path(_socket_path(state, environ))


def _socket_path(state: str | os.PathLike[str], environ: Mapping[str, str]) -> str:
    # realpath, so that "./st" and a symbolic link to it lead to the same name.
    directory = os.path.realpath(os.fspath(state))
    path = f"{directory}/{SOCKET_NAME}"
    if len(os.fsencode(path)) <= MAX_UNIX_PATH:
        return path
    other = _other_socket_path(directory, environ)
    if len(os.fsencode(other)) > MAX_UNIX_PATH:
        raise NodeUnavailableError(
            errno.ENAMETOOLONG,
            f"neither {path} nor {other} can be a Unix socket, whose path has {MAX_UNIX_PATH} bytes at the most: "
            "choose a shorter state directory, or set XDG_RUNTIME_DIR to a shorter one",
        )
    return other


def _other_socket_path(directory: str, environ: Mapping[str, str]) -> str:
    import hashlib

    digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    return f"{_runtime_directory(environ)}/{digest}.sock"


def other_socket_path(state: str | os.PathLike[str], environ: Mapping[str, str] = os.environ) -> Path:
    """Where that socket is if the state directory cannot hold it: in the runtime directory, by the same short name."""
    return Path(_other_socket_path(os.path.realpath(os.fspath(state)), environ))


def running_nodes(environ: Mapping[str, str] = os.environ) -> list[RunningNode]:
    """The nodes of this user that run now, the newest first. Unreadable and stale entries are passed over. Raises
    NodeUnavailableError on a system without Unix sockets."""
    require_unix_sockets("a node that is not named")
    directory = runtime_directory(environ)
    try:
        if not is_private(directory):
            return []
        entries = sorted(directory.glob("*.json"))
    except OSError:
        return []
    nodes = [node for entry in entries if (node := _read_entry(entry)) is not None]
    return sorted(nodes, key=lambda node: -node.started)


def _read_entry(path: Path) -> RunningNode | None:
    import fcntl  # Windows has none, and no registry either

    try:
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    return None
            else:
                return None  # nobody holds it: left behind by a node that is gone
            values = json.loads(file.read(65536))
        return RunningNode(
            address=str(values["address"]),
            state=str(values["state"]),
            pid=int(values["pid"]),
            started=float(values["started"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _in_state(state: str | os.PathLike[str], environ: Mapping[str, str]) -> Address:
    require_unix_sockets("a node's state directory")
    path = _socket_path(state, environ)
    if not os.path.lexists(path):
        other = _other_socket_path(os.path.realpath(os.fspath(state)), environ)
        path = other if os.path.lexists(other) else path
    parent = path.rpartition("/")[0]
    if parent == _runtime_directory(environ) and (directory := Path(parent)).exists() and not is_private(directory):
        raise NodeUnavailableError(
            errno.EACCES,
            f"{directory} is not a directory of this user with mode 0700; what listens there is not trusted",
        )
    return _reachable(Address("unix", path))


def _reachable(address: Address) -> Address:
    if address.scheme == "unix":
        require_unix_sockets(str(address))
        _refuse_other_owner(address.target)
    return address


def _refuse_other_owner(path: str) -> None:
    """A node of another user could show this program whatever it likes. Root's is as good as one's own: root can do
    that anyway."""
    try:
        owner = os.lstat(path).st_uid
    except OSError:
        return  # there is none, which connecting will say better
    if owner not in (os.getuid(), 0):
        raise NodeUnavailableError(
            errno.EACCES, f"{path} belongs to another user (id {owner}), whose node is not trusted: ask as that user"
        )


def find(
    address: str | None = None,
    state: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Address:
    """The address of the node to talk to, by the order above.

    Raises ValueError on a malformed address or when both arguments are given, NodeUnavailableError when no node or more
    than one is found.
    """
    if address is not None and state is not None:
        raise ValueError("give an address or a state directory, not both")
    if address is not None:
        return _reachable(parse_address(address))
    if state is not None:
        return _in_state(state, environ)
    if environ.get("ZTNODE_ADDRESS"):
        return _reachable(parse_address(environ["ZTNODE_ADDRESS"]))
    if environ.get("ZTNODE_STATE"):
        return _in_state(environ["ZTNODE_STATE"], environ)
    nodes = running_nodes(environ)
    if not nodes:
        raise NodeUnavailableError(
            errno.ENOENT,
            "no running node found: start one with `ztnode serve --state DIR`, "
            "or name one by ZTNODE_STATE (its state directory) or ZTNODE_ADDRESS",
        )
    if len(nodes) > 1:
        listed = ", ".join(node.state for node in nodes)
        raise NodeUnavailableError(
            errno.EINVAL, f"{len(nodes)} nodes of yours are running ({listed}): choose one by ZTNODE_STATE"
        )
    return parse_address(nodes[0].address)

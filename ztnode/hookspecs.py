"""Every hook of ztnode on one page, and the small interfaces that hook results must offer.

A plugin is a Python package with an entry point in the group ``ztnode`` that names a module (or object) whose
functions are decorated with ``hookimpl``. The built-ins under ``ztnode/plugins/`` use the same hooks and are
registered by name.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import pluggy

from ztnode.wire.endpoint import Endpoint

hookspec = pluggy.HookspecMarker("ztnode")
hookimpl = pluggy.HookimplMarker("ztnode")

__all__ = [
    "Counts",
    "Datagrams",
    "Endpoint",
    "LeaseLost",
    "LendsSockets",
    "MayBeDown",
    "ProxyFor",
    "SharedStore",
    "StateStore",
    "TellsChanges",
    "TellsPeersApart",
    "Transport",
    "UsesProxies",
    "hookimpl",
    "hookspec",
]

Datagrams: TypeAlias = Sequence[tuple[bytes, Endpoint]]
"""A batch of received datagrams, each with where it came from: an address and a port, or what a transport plugin uses
in their place."""

ProxyFor: TypeAlias = Callable[[str], str | None]
"""The URL of the proxy that leads from this host to the one named (empty: to the internet), as ``http://HOST:PORT`` or
``socks5://NAME:PASSWORD@HOST:PORT``; None: none is needed. Raises ValueError."""


class StateStore(Protocol):
    """A small key-value store. Keys are relative POSIX paths as in a ZeroTier One home directory, such as
    ``identity.secret``, ``planet`` or ``networks.d/9ad07d01093a69e3.conf``. Calls never overlap, but may come from
    different threads."""

    def read(self, key: str) -> bytes | None:
        """The value, or None where there is none. Raises OSError."""

    def write(self, key: str, value: bytes) -> None:
        """Replace the value atomically and durably. A key whose last part ends in ``.secret`` is readable by
        the owner alone. Raises OSError."""

    def delete(self, key: str) -> None:
        """Forget the key; no error where there is none. Raises OSError."""

    def keys(self, prefix: str = "") -> Iterable[str]:
        """All keys that begin with ``prefix``."""

    def close(self) -> None:
        """Release locks and handles."""


class LeaseLost(OSError):
    """What this node wanted to write comes too late: another one holds the store now. Nothing was written."""


@runtime_checkable
class SharedStore(Protocol):
    """A key-value store that several hosts reach, such as a database. The node adds what sharing needs: a lease, a
    memory for outages, encryption. Keys and values are those of a ``StateStore``.

    The node opens two objects and calls each from one thread at a time. A call ends within three seconds. What it
    raises says what to do: ConnectionError or TimeoutError where the store cannot be reached or does not answer (it is
    tried again; ConnectionRefusedError where it says itself that it serves nobody now), any other OSError where it
    answers and refuses, or answers what makes no sense; that one names the key.
    """

    def read(self, key: str) -> bytes | None:
        """The value, or None where there is none."""

    def items(self, prefix: str = "") -> Iterable[tuple[str, bytes]]:
        """All keys that begin with ``prefix`` and their values, in few round trips."""

    def write(self, key: str, value: bytes) -> None:
        """Replace the value atomically and durably. Raises LeaseLost, see ``fence``."""

    def delete(self, key: str) -> None:
        """Forget the key; no error where there is none. Raises LeaseLost, see ``fence``."""

    def swap(self, key: str, old: bytes | None, new: bytes | None) -> bool:
        """Give the key the value ``new`` (None: none) if it has the value ``old`` (None: none), in one step whatever
        others do meanwhile; False if it has not."""

    def fence(self, key: str, value: bytes) -> None:
        """From now on ``write`` and ``delete`` take effect only where ``key`` has this value at that moment, and raise
        LeaseLost where it has not. Asks nothing of the store."""

    def endpoints(self) -> Sequence[tuple[str, int] | str]:
        """Where the store listens: hosts and TCP ports, or paths of Unix sockets."""

    def close(self) -> None:
        """Close connections. Raises nothing."""


@runtime_checkable
class TellsChanges(Protocol):
    """What a ``SharedStore`` may offer besides, so that a standby need not read again what it knows."""

    def digests(self, prefix: str = "") -> Iterable[tuple[str, bytes]]:
        """All keys that begin with ``prefix``, and the SHA-256 (32 bytes) of each value as it is now, in few round
        trips."""

    def read_many(self, keys: Sequence[str]) -> Iterable[tuple[str, bytes]]:
        """Those of a thousand keys at the most that are there and their values, in few round trips."""


class Transport(Protocol):
    """Carries datagrams between this node and the physical network, in batches."""

    async def open(self, port: int, receive: Callable[[Datagrams], None]) -> None:
        """Bind (port 0: any) and call ``receive`` on the running event loop with each batch. Raises OSError."""

    def send(self, endpoint: Endpoint, datagrams: Sequence[bytes]) -> int:
        """Send a batch to one endpoint, best effort. Returns how many were dropped at once."""

    def local_endpoints(self) -> Sequence[Endpoint]:
        """What this transport is bound to, for status display."""

    async def close(self) -> None:
        """Close; no ``receive`` call comes after."""


@runtime_checkable
class TellsPeersApart(Protocol):
    """What a ``Transport`` may offer besides, so that a flood of strangers costs peers little."""

    def favor(self, endpoints: Sequence[Endpoint]) -> None:
        """What comes from these, in place of those named before, gets queues that strangers do not fill."""

    def let_others_wait(self, seconds: float) -> None:
        """For so long nobody else is read."""


@runtime_checkable
class LendsSockets(Protocol):
    """What a ``Transport`` of nothing but UDP sockets may offer besides, so that a stack worker can speak to a busy
    peer without the node in between."""

    def lend(self, endpoint: Endpoint) -> socket.socket | None:
        """A socket that is connected to ``endpoint``, does not block, has the port that peers know, and gets what comes
        from there from now on; None where there can be none. It is the caller's, who calls ``take_back`` after it is
        closed."""

    def leads_to(self, endpoint: Endpoint) -> bool:
        """Whether what is sent to ``endpoint`` would still leave as by the socket that was lent: the host may have got
        another address or route. Asked a few times a second."""

    def take_back(self, endpoint: Endpoint) -> None:
        """What comes from ``endpoint`` is the transport's own again."""


@runtime_checkable
class MayBeDown(Protocol):
    """What a ``Transport`` that depends on a connection offers besides, so that another one is taken at once."""

    @property
    def is_up(self) -> bool:
        """Whether what is sent now goes anywhere."""


@runtime_checkable
class UsesProxies(Protocol):
    """What a ``Transport`` that makes connections of its own offers besides."""

    def use_proxies(self, proxy_for: ProxyFor) -> None:
        """How hosts are reached; called once, before ``open``. Raises ValueError."""


@runtime_checkable
class Counts(Protocol):
    """What a ``Transport`` may offer besides."""

    @property
    def counters(self) -> Mapping[str, int]:
        """What went wrong so far, by names that begin with the transport's; shown by ``ztnode status``."""


@hookspec(firstresult=True)
def ztnode_planet(source: str | None) -> bytes | None:
    """The serialised planet (a World) for ``source``, what the user gave as --planet (None: nothing given).
    Return None to leave it to the next plugin; raise ValueError or OSError with one clear line."""


@hookspec(firstresult=True)
def ztnode_state_store(url: str) -> StateStore | SharedStore | None:
    """Open the state store named by ``url``: a path (the built-in file store), ``memory:``, or a scheme of the
    plugin's own. Return None to leave it to the next plugin."""


@hookspec(firstresult=True)
def ztnode_transport(name: str) -> Transport | None:
    """A transport by the name given as --transport (default ``udp``), which may be a URL with what it needs to know;
    not yet open. None: not ours. Where several are given the node opens one after another and uses the first that
    brings answers from the internet. Raise ValueError for a name that is ours and cannot be."""

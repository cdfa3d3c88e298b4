"""From the URL of a state store to state that is this node's alone, by the store's own lock or by lease."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import pluggy

from ztnode import plugins
from ztnode.hookspecs import SharedStore, StateStore
from ztnode.node.ahead import Ahead
from ztnode.node.lease import POLL_EVERY, Holder, Lease, LeaseHeld
from ztnode.node.sealed_store import CHECK, SealedStore, opener, refuse_wrong_key
from ztnode.node.shared_state import SharedState

log = logging.getLogger(__name__)

POOL: Final = "pool/"
OURS: Final = {
    **{name: name for name in ("sqlite", "postgresql", "redis", "etcd", "s3", "kubernetes")},
    "postgres": "postgresql",
    "rediss": "redis",
    "unix": "redis",
    "etcds": "etcd",
}
"""Which of our plugins, ztnode-store-NAME, offers the stores of a scheme."""
TOKEN: Final = secrets.token_hex(16)
"""By which this process knows its own lease again."""


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Which store, and how it is shared."""

    url: str
    key: bytes | None = None
    """Encrypts what is kept there, 32 bytes."""
    pool: int = 0
    """How many identities the store keeps of which nodes take one each; 0: it has one node's state."""
    standby: bool = True
    """Wait while another node holds the store."""


@dataclass(frozen=True, slots=True)
class Opened:
    """State that is ours. ``lease``: None where nothing can take it from us."""

    state: StateStore
    lease: Lease | None
    name: str
    """The store in words, without passwords."""


class Part:
    """The keys of a shared store that begin with ``prefix``, as a store of their own."""

    def __init__(self, store: SharedStore, prefix: str) -> None:
        self._store = store
        self._prefix = prefix
        self.endpoints = store.endpoints
        self.close = store.close

    def read(self, key: str) -> bytes | None:
        """See SharedStore."""
        return self._store.read(self._prefix + key)

    def items(self, prefix: str = "") -> Iterable[tuple[str, bytes]]:
        """See SharedStore."""
        start = len(self._prefix)
        return ((key[start:], value) for key, value in self._store.items(self._prefix + prefix))

    def write(self, key: str, value: bytes) -> None:
        """See SharedStore."""
        self._store.write(self._prefix + key, value)

    def delete(self, key: str) -> None:
        """See SharedStore."""
        self._store.delete(self._prefix + key)

    def swap(self, key: str, old: bytes | None, new: bytes | None) -> bool:
        """See SharedStore."""
        return self._store.swap(self._prefix + key, old, new)

    def fence(self, key: str, value: bytes) -> None:
        """See SharedStore."""
        self._store.fence(self._prefix + key, value)


async def open_state(
    options: StoreOptions,
    manager: pluggy.PluginManager,
    waiting: Callable[[str], None] = lambda _line: None,
    prepare: Callable[[str, bytes | None], None] = lambda _key, _value: None,
) -> Opened:
    """Open the store and wait until it is ours; ``waiting`` is told what for. ``prepare`` is called on another thread
    meanwhile with what is there by then, key by key, and with None for what is gone: it may be something else once the
    store is ours. Raises LeaseHeld where it should not wait, OSError, ValueError, PluginError."""
    name = store_name(options.url)
    with _naming(name):
        store = _call(options.url, manager)
    lease: Lease | None = None
    async with contextlib.AsyncExitStack() as undo:
        # Not on the event loop: a store that does not answer takes seconds for it.
        undo.push_async_callback(asyncio.to_thread, store.close)
        if isinstance(store, SharedStore):
            with _naming(name):  # now, and not when the standby is needed
                for prefix in _prefixes(options):
                    refuse_wrong_key(store.read(prefix + CHECK), options.key)
            ahead = Ahead(lambda: _call_shared(options.url, manager), name, _opened_for(prepare, options.key))
            undo.push_async_callback(asyncio.to_thread, ahead.stop)

            def begin_to_wait(line: str) -> None:
                if not options.pool:
                    ahead.start()
                waiting(line)

            lease, prefix = await _take_any(options, store, name, begin_to_wait)
            undo.push_async_callback(asyncio.to_thread, lease.release)
            known = await asyncio.to_thread(ahead.stop)
            state: StateStore = await asyncio.to_thread(_shared, options.url, manager, lease, prefix, name, known)
            undo.pop_all()
            # From here on closing the state gives the lease back; the connection that keeps it goes last.
            state = Together(state, store)
            undo.push_async_callback(asyncio.to_thread, state.close)
        else:
            if options.pool:
                raise ValueError(f"--pool needs a store that several hosts share, such as a database, not {name}")
            state = store
        with _naming(name):
            if options.key is None:
                refuse_wrong_key(state.read(CHECK), None)
            else:
                state = SealedStore(state, options.key)
        undo.pop_all()
    return Opened(state, lease, name)


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Say of which store an error speaks, unless it names a file: a command may have two stores, and libraries tell at
    best the host. Raises OSError, of the kind that it was."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        kind = next(kind for kind in (ConnectionError, TimeoutError, OSError) if isinstance(error, kind))
        raise kind(f"{name}: {error.strerror or error}") from error


class Together:
    """A state store whose end is that of another connection too."""

    def __init__(self, state: StateStore, connection: SharedStore) -> None:
        self._state = state
        self._connection = connection
        self.read, self.write, self.delete, self.keys = state.read, state.write, state.delete, state.keys

    def close(self) -> None:
        """See StateStore."""
        self._state.close()
        self._connection.close()


def _opened_for(prepare: Callable[[str, bytes | None], None], key: bytes | None) -> Callable[[str, bytes | None], None]:
    """``prepare`` for what is encrypted with ``key``, None: nothing is."""
    if key is None:
        return prepare
    open_value = opener(key)

    def prepare_opened(name: str, value: bytes | None) -> None:
        with contextlib.suppress(OSError):  # it is named when it is needed
            prepare(name, None if value is None else open_value(name, value))

    return prepare_opened


def _shared(
    url: str, manager: pluggy.PluginManager, lease: Lease, prefix: str, name: str, known: dict[str, bytes]
) -> SharedState:
    second = _call_shared(url, manager)
    store: SharedStore = Part(second, prefix) if prefix else second
    lease.fence(store)
    state = SharedState(store, lease, name)
    lease.keep(state.forgotten, state.out)  # before all is read, which may take longer than the lease
    try:
        state.load(known)
    except BaseException:
        state.close()
        raise
    return state


def _call_shared(url: str, manager: pluggy.PluginManager) -> SharedStore:
    store = _call(url, manager)
    assert isinstance(store, SharedStore)
    return store


async def _take_any(
    options: StoreOptions, store: SharedStore, name: str, waiting: Callable[[str], None]
) -> tuple[Lease, str]:
    """The lease of the store, or that of a free part of it, and where that part begins."""
    leases = [(Lease(Part(store, prefix) if prefix else store, token=TOKEN), prefix) for prefix in _prefixes(options)]
    told = ""
    while True:
        holders: Sequence[Holder] = ()
        try:
            taken, holders = await asyncio.to_thread(_first_free, leases)
            if taken is not None:
                if told:
                    log.info("%s is this node's now", name)
                return taken
            what = (
                f"in use by {holders[0]}" if not options.pool else f"out of identities: all {options.pool} are in use"
            )
            line = f"{name} is {what}"
        except (ConnectionError, TimeoutError) as error:
            if not told:
                raise
            line = f"{name} does not answer ({error})"
        if not options.standby and holders:
            raise LeaseHeld(line)
        if line != told:
            told = line
            log.info("%s: waiting", line)
            waiting(line)
        await asyncio.sleep(POLL_EVERY)


def _prefixes(options: StoreOptions) -> list[str]:
    """Where the parts of the store begin that this node may take."""
    return [f"{POOL}{number}/" for number in range(options.pool)] or [""]


def _first_free(leases: Sequence[tuple[Lease, str]]) -> tuple[tuple[Lease, str] | None, list[Holder]]:
    """The first lease that can be taken, or who holds them. Raises OSError; for a damaged one where all are."""
    holders, damaged = [], None
    for lease, prefix in leases:
        try:
            holder = lease.try_take()
        except (ConnectionError, TimeoutError):
            raise
        except OSError as error:
            damaged = OSError(f"{prefix}{error}")
            continue
        if holder is None:
            return (lease, prefix), []
        holders.append(holder)
    if damaged is not None and not holders:
        raise damaged
    return None, holders


def _call(url: str, manager: pluggy.PluginManager) -> StateStore | SharedStore:
    store: StateStore | SharedStore | None = plugins.call(manager, "ztnode_state_store", url=url)
    if store is None:
        name = OURS.get(url.partition(":")[0])
        if name is None or manager.has_plugin(f"store-{name}"):
            raise ValueError(unknown("state store", url))
        install = f"pip install ./plugins/ztnode-store-{name} in ztnode's source, with the pip beside this ztnode"
        raise ValueError(f"{store_name(url)}: the package ztnode-store-{name} is not installed ({install})")
    return store


def store_name(url: str) -> str:
    """A store's URL for people, without user, password and parameters."""
    parts = urlsplit(url)
    if not parts.netloc:
        return url.partition("?")[0]
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def unknown(what: str, url: str) -> str:
    """What to say where no plugin answers."""
    shown = store_name(url)
    path = "" if "://" in shown else f" (A file or directory of that name: ./{shown})"
    return f"no plugin offers the {what} {shown!r}; is its package installed?{path}"

"""A controller on a shared store without a network around it: what two of them do when one dies is seen at its pipe.

Runs in processes of multiprocessing's fork server, which has imported everything before: so dozens of them live and die
in seconds. The times of leases are made shorter; the code is the node's own.
"""

from __future__ import annotations

import asyncio
import logging
import logging.handlers
import os
import time
from collections.abc import Callable
from itertools import count
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any, cast

from tests.system.store_servers import open_shared
from ztnode import plugins
from ztnode.controller import Controller, ParsedDocuments
from ztnode.hookspecs import SharedStore, hookimpl
from ztnode.node import ahead, lease, opening, shared_state
from ztnode.node.home import Home
from ztnode.node.keeping import Complaints, Documents
from ztnode.node.lease import Process
from ztnode.node.opening import Opened, StoreOptions, open_state
from ztnode.vl1 import Vl1
from ztnode.wire import c25519
from ztnode.wire.config_request import ConfigRequest, RequestMetadata
from ztnode.wire.identity import Identity
from ztnode.wire.packet import VERB_NETWORK_CONFIG_REQUEST

SETTINGS = {
    "private": False,
    "v4AssignMode": {"zt": True},
    "ipAssignmentPools": [{"ipRangeStart": "10.0.0.1", "ipRangeEnd": "10.0.255.254"}],
    "routes": [{"target": "10.0.0.0/16", "via": None}],
}
FAST = 8.0
"""How many times shorter than in earnest the times of a lease are."""


def identity(address: int, seed: int = 1) -> Identity:
    """A working key pair for any address: the controller leaves the proof of work to VL1."""
    secret = bytes([seed]) * c25519.SECRET_LENGTH
    return Identity(address, c25519.derive_public(secret), secret)


CONTROLLER = identity(0x1122334455)
NWID = CONTROLLER.address << 24 | 1


class Plugin:
    """The plugins of the store, as if they were installed."""

    @hookimpl
    def ztnode_state_store(self, url: str) -> SharedStore | None:
        return open_shared(url)


class Answers:
    """A VL1 that has all peers and notes who is answered."""

    def __init__(self) -> None:
        self.answered: list[int] = []

    def reply_ok(self, peer: Any, *_arguments: object) -> None:
        self.answered.append(peer.address)

    def send(self, *_arguments: object, **_more: object) -> None:
        pass


def hurry(fast: float) -> None:
    for module in (ahead, lease, opening, shared_state):
        for name in ("LOOK_EVERY", "RENEW_EVERY", "HELD_FOR", "TAKEN_AFTER", "POLL_EVERY", "RETRY_EVERY"):
            if hasattr(module, name) and (module, name) != (lease, "RETRY_EVERY"):
                setattr(module, name, getattr(module, name) / fast)


class Active:
    """The controller, once the store is its own."""

    def __init__(self, opened: Opened, parsed: ParsedDocuments) -> None:
        self.opened = opened
        self._home = Home(opened.state)
        self._documents = Documents(self._home, Complaints())
        self._vl1 = Answers()
        self._times = count(1000)
        self._packet = count(1)
        self.controller = Controller(
            cast(Vl1, self._vl1),
            CONTROLLER,
            random=os.urandom,
            documents=self._home.controller_documents(),
            commit=self._documents.commit,
            strict=True,
            parsed=parsed,
        )
        if not self.controller.networks():
            self.controller.create_network(SETTINGS, next(self._times), self._wall(), nwid=NWID)

    def _wall(self) -> int:
        return time.time_ns() // 1_000_000

    def do(self, what: str, argument: Any) -> Any:
        """One command; the answer."""
        assert self.opened.lease is not None
        match what:
            case "ask":
                return self._ask(argument)
            case "authorize":
                member = self.controller.update_member(
                    NWID, argument, {"authorized": True, "name": "x"}, next(self._times), self._wall()
                )
                return member.authorized
            case "members":
                found = self.controller.members(NWID)
                return {each.address: [str(ip) for ip in each.ip_assignments] for each in found if each.authorized}
            case "name":
                return self.controller.member(NWID, argument).name
            case "write":
                self.opened.state.write(*argument)
                return True
            case "held":
                return self.opened.lease.is_held()
        raise ValueError(what)

    def _ask(self, address: int) -> list[str] | None:
        """The addresses that a member gets; None: it got no answer."""
        assert self.opened.lease is not None
        peer = SimpleNamespace(address=address, identity=identity(address).without_secret())
        request = ConfigRequest(NWID, RequestMetadata(version=(1, 14, 1)).build_dictionary()).build()
        message = (cast(Any, peer), VERB_NETWORK_CONFIG_REQUEST, next(self._packet), request)
        self._vl1.answered.clear()
        self.controller.receive([message], float(next(self._times)), self._wall())
        # As Node._flush does.
        if not self.opened.lease.is_held():
            return None
        self._documents.keep(self.controller.changed_documents())
        if address not in self._vl1.answered:
            return None
        return [str(ip) for ip in self.controller.member(NWID, address).ip_assignments]


def run(url: str, pipe: Connection, *, sees_processes: bool = True, fast: float = FAST) -> None:
    """Wait for the store, then answer commands until the pipe ends. What is logged goes to the pipe too."""
    hurry(fast)
    if not sees_processes:  # as from another host
        Process.is_gone = lambda self: False  # type: ignore[method-assign]

    class Log(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            pipe.send(("log", record.getMessage()))

    logging.getLogger("ztnode").addHandler(Log())
    logging.getLogger("ztnode").setLevel(logging.INFO)
    manager = plugins.load()
    manager.register(Plugin())
    parsed = ParsedDocuments()
    opened = asyncio.run(open_state(StoreOptions(url), manager, prepare=parsed.prepare))
    active = Active(opened, parsed)
    if opened.lease is not None:
        opened.lease.when_lost(lambda why: pipe.send(("lost", why)))
    pipe.send(("active", os.getpid()))
    try:
        while True:
            what, argument = pipe.recv()
            _answer(pipe, lambda what=what, argument=argument: active.do(what, argument))  # type: ignore[misc]
    except EOFError:
        opened.state.close()


def _answer(pipe: Connection, do: Callable[[], Any]) -> None:
    try:
        pipe.send(("done", do()))
    except OSError as error:
        pipe.send(("failed", str(error)))

"""A root and a network controller of ours in one process: what interop tests join when they need no node.

    python embedded_network.py --state DIR --endpoint IP:PORT

It makes (or finds) ``identity.secret`` and ``planet`` in the state directory, and prints
{"event": "ready", "address": ...} when it is bound.
Commands, one JSON object a line on standard input, each answered with one line:
    {"do": "create", "settings": {...}, "nwid": "..." or absent}          -> {"event": "created", "nwid": "..."}
    {"do": "update", "nwid": "...", "settings": {...}}                    -> {"event": "updated"}
    {"do": "member", "nwid": "...", "address": "...", "settings": {...}}  -> {"event": "member", "member": {...}}
    {"do": "members", "nwid": "..."}                                      -> {"event": "members", "members": [...]}
    {"do": "peers"}                                                       -> {"event": "peers", "peers": [...]}
    {"do": "counters"}                                                    -> {"event": "counters", ...}
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any, cast

from ztnode import worldtool
from ztnode.controller import Controller, ControllerError
from ztnode.controller.documents import build_member
from ztnode.vl1 import Vl1, Vl1Config
from ztnode.vl2 import Vl2
from ztnode.wire.identity import Identity
from ztnode.wire.world import Root, World


def wall() -> int:
    """Unix time in milliseconds."""
    return int(time.time() * 1000)


def load_state(state: Path, endpoint: tuple[str, int]) -> tuple[Identity, World]:
    """The identity and the planet in the state directory, made where missing."""
    state.mkdir(parents=True, exist_ok=True)
    secret = state / "identity.secret"
    if not secret.exists():
        secret.write_text(Identity.generate().build_text(include_secret=True))
    identity = Identity.parse_text(secret.read_text())
    planet = state / "planet"
    if not planet.exists():
        root = Root(identity.without_secret(), (endpoint,))
        planet.write_bytes(worldtool.create_world([root], worldtool.WorldSecret.generate(os.urandom), wall()))
    return identity, World.parse(planet.read_bytes())


class EmbeddedNetwork(asyncio.DatagramProtocol):
    """The driver: datagrams and timers in, datagrams out."""

    def __init__(self, state: Path, endpoint: tuple[str, int]) -> None:
        identity, planet = load_state(state, endpoint)
        self.identity, self.state = identity, state
        now = time.monotonic()
        config = Vl1Config(relay=True)
        self.vl1 = Vl1(identity, planet, random=os.urandom, now=now, wall=wall(), config=config)
        documents = {
            str(path.relative_to(state)): path.read_bytes() for path in (state / "controller.d").rglob("*.json")
        }
        self.controller = Controller(self.vl1, identity, random=os.urandom, documents=documents)
        # Joins nothing, but keeps the members' multicast subscriptions, as every root does.
        self.vl2 = Vl2(
            self.vl1, identity, random=os.urandom, now=now, wall=wall(), is_upstream=lambda: True, controller=True
        )
        self.transport: asyncio.DatagramTransport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Bound."""
        self.transport = cast(asyncio.DatagramTransport, transport)
        self.settle()

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        """One datagram."""
        now = time.monotonic()
        self.vl1.receive([(data, (addr[0], addr[1]))], now)
        messages = self.vl1.messages()
        if messages:
            self.controller.receive(messages, now, wall())
            self.vl2.receive(messages, now)
        self.settle()

    def settle(self) -> None:
        """Save and send what is due, then sleep until the next timer."""
        for key, value in self.controller.changed_documents():
            path = self.state / key
            if value is None:
                path.unlink(missing_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(value)
        self.controller.events()
        self.vl1.events()
        now = time.monotonic()
        if self.transport is not None:
            for endpoint, datagrams in self.vl1.to_send():
                for datagram in datagrams:
                    self.transport.sendto(datagram, endpoint)
        if self._timer is not None:
            self._timer.cancel()
        timers = (self.vl1.next_timer(), self.controller.next_timer(), self.vl2.next_timer())
        due = min(timer for timer in timers if timer is not None)
        self._timer = asyncio.get_running_loop().call_later(max(0.001, due - now), self._wake)

    def _wake(self) -> None:
        self._timer = None
        now = time.monotonic()
        self.vl1.handle_timer(now)
        self.controller.handle_timer(now, wall())
        self.vl2.handle_timer(now)
        self.settle()

    def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        """Carry out one command."""
        now, nwid = time.monotonic(), int(command.get("nwid", "0"), 16)
        match command["do"]:
            case "create":
                network = self.controller.create_network(command["settings"], now, wall(), nwid=nwid or None)
                return {"event": "created", "nwid": f"{network.nwid:016x}"}
            case "update":
                self.controller.update_network(nwid, command["settings"], now, wall())
                return {"event": "updated"}
            case "member":
                address = int(command["address"], 16)
                member = self.controller.update_member(nwid, address, command["settings"], now, wall())
                return {"event": "member", "member": build_member(member)}
            case "members":
                members = [build_member(member) for member in self.controller.members(nwid)]
                return {"event": "members", "members": members}
            case "peers":
                peers = [{"address": f"{p.address:010x}", "endpoint": p.endpoint} for p in self.vl1.peers()]
                return {"event": "peers", "peers": peers}
            case "counters":
                return {
                    "event": "counters",
                    "vl1": dict(self.vl1.counters),
                    "controller": dict(self.controller.counters),
                    "vl2": dict(self.vl2.counters),
                }
            case other:
                return {"event": "error", "reason": f"no such command: {other}"}


async def main() -> None:
    """Serve until the end of standard input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--endpoint", required=True)
    arguments = parser.parse_args()
    endpoint = worldtool.parse_endpoint(arguments.endpoint)
    loop = asyncio.get_running_loop()
    network = EmbeddedNetwork(arguments.state, endpoint)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    sock.bind(endpoint)
    sock.setblocking(False)
    transport, _ = await loop.create_datagram_endpoint(lambda: network, sock=sock)
    print(json.dumps({"event": "ready", "address": f"{network.identity.address:010x}"}), flush=True)
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        try:
            answer = network.obey(json.loads(line))
        except (ControllerError, KeyError) as error:
            answer = {"event": "error", "reason": str(error)}
        network.settle()
        print(json.dumps(answer), flush=True)
    transport.close()


if __name__ == "__main__":
    asyncio.run(main())

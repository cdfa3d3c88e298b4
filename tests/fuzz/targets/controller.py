"""The network controller: requests of members and strangers, and documents."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, cast

from tests.fuzz.pieces import join, split
from tests.unit.controller.test_controller import Bench
from ztnode.controller import ControllerError
from ztnode.controller.documents import parse_document
from ztnode.wire.config_request import ConfigRequest, RequestMetadata
from ztnode.wire.packet import VERB_NETWORK_CONFIG_REQUEST

MEMBERS = (0xAA00000001, 0xAA00000002, 0xAA00000003)


def fuzz(data: bytes) -> None:
    """Pieces: 0 is a request (with the network before it, or not), 1 a network's settings, 2 a member's, 3 another
    verb, 4 time."""
    bench = Bench()
    nwid = bench.network()
    bench.authorize(nwid, MEMBERS[0])
    for number, (selector, content) in zip(itertools.count(), split(data), strict=False):
        member = MEMBERS[number % 3]
        peer = cast(Any, bench.vl1.peer(member))
        bench.now += 1.0
        try:
            match selector & 7:
                case 0 | 5:
                    body = nwid.to_bytes(8, "big") + content if selector & 1 == 0 else content
                    message = (peer, VERB_NETWORK_CONFIG_REQUEST, number, body)
                    bench.controller.receive([message], bench.now, bench.wall)
                case 1:
                    settings = parse_document(content)
                    bench.controller.update_network(nwid, settings, bench.now, bench.wall)
                case 2:
                    settings = parse_document(content)
                    bench.controller.update_member(nwid, member, settings, bench.now, bench.wall)
                case 3:
                    bench.controller.receive([(peer, selector >> 3, number, content)], bench.now, bench.wall)
                case _:
                    bench.now += content[0] if content else 1
                    bench.controller.handle_timer(bench.now, bench.wall)
        except ControllerError:
            pass
        bench.save()
    bench.vl1.take()
    assert bench.controller.network(nwid).nwid == nwid
    # What was kept loads again.
    assert Bench(bench.store).controller.network(nwid).nwid == nwid


def seeds() -> Iterator[bytes]:
    """A request as zerotier-one makes it, and settings of each kind."""
    request = ConfigRequest(0, RequestMetadata(version=(1, 14, 1)).build_dictionary()).build()[8:]
    yield join((0, request), (0, request), (4, b"\x20"), (0, request))
    yield join((1, b'{"routes":[{"target":"10.0.0.0/8","via":null}],"mtu":1400,"tags":[{"id":1,"default":2}]}'))
    yield join((1, b'{"rules":[{"type":"MATCH_ETHERTYPE","etherType":2048},{"type":"ACTION_DROP"}]}'), (0, request))
    yield join((2, b'{"authorized":true,"ipAssignments":["10.121.15.7"],"tags":[[1,2]]}'), (0, request))

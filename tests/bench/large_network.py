"""A controller with one network of many members, by simulation: ``python -m tests.bench.large_network [MEMBERS]``.

What loading it costs, without and with a standby's work in advance, a page of its list, a request of a member that is
known and of one that is new, and a change by an administrator: processor time of this process, medians. The store is a
dictionary; a real one's time is its own (``pytest tests/system/test_fleet.py -k large --large-fleet 100000 -s``).
"""

from __future__ import annotations

import os
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable
from itertools import count
from types import SimpleNamespace
from typing import Any, cast

from ztnode.control.paging import ordered_page
from ztnode.controller import Controller, ParsedDocuments
from ztnode.controller.documents import (
    ControlledMember,
    build_document,
    build_member,
    member_key,
)
from ztnode.vl1 import Vl1
from ztnode.wire import c25519
from ztnode.wire.config_request import ConfigRequest, RequestMetadata
from ztnode.wire.identity import Identity
from ztnode.wire.packet import VERB_NETWORK_CONFIG_REQUEST

SETTINGS = {
    "private": False,
    "v4AssignMode": {"zt": True},
    "ipAssignmentPools": [{"ipRangeStart": "10.0.0.1", "ipRangeEnd": "10.3.255.254"}],
    "routes": [{"target": "10.0.0.0/14", "via": None}],
}
WALL = 1_700_000_000_000


class Sink:
    """A VL1 whose answers go nowhere."""

    answers = 0

    def reply_ok(self, *_arguments: object) -> None:
        self.answers += 1

    def send(self, *_arguments: object, **_more: object) -> None:
        pass


def main(members: int = 100_000) -> dict[str, float]:
    """Milliseconds by what was done, and mebibytes."""
    secret = bytes([7]) * c25519.SECRET_LENGTH
    public = c25519.derive_public(secret)
    own = Identity(0x1122334455, public, secret)
    documents: dict[str, bytes] = {}
    sink = Sink()
    times = count(1000)

    def commit(key: str, data: bytes | None) -> None:
        if data is None:
            documents.pop(key, None)
        else:
            documents[key] = data

    def controller(parsed: ParsedDocuments | None = None) -> Controller:
        vl1 = cast(Vl1, sink)
        return Controller(vl1, own, random=os.urandom, documents=documents, commit=commit, strict=True, parsed=parsed)

    nwid = controller().create_network(SETTINGS, next(times), WALL).nwid
    pool = iter(range(0x0A000001, 0x0A000001 + 2 * members))
    known = [0x2000000000 + 7919 * number for number in range(members)]
    for address in known:
        ip = next(pool)
        member = ControlledMember(
            nwid, address, identity=Identity(address, public).build_text(), authorized=True, revision=1
        )
        document = build_member(member) | {"ipAssignments": [".".join(map(str, ip.to_bytes(4, "big")))]}
        documents[member_key(nwid, address)] = build_document(document)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    loaded = controller()
    found = {"load, ms": 1000 * (time.process_time() - started)}
    found["memory of the loaded controller, MiB"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert loaded.count_members(nwid) == (members, members)

    def page_at(address: int) -> None:
        request = SimpleNamespace(page_size=1000, page_token="")
        entries = ((each.address.to_bytes(5, "big"), each) for each in loaded.members_after(nwid, address))
        ordered_page(request, "members", lambda _after: entries, lambda _member: cast(Any, _Sized()))

    def ask(address: int) -> None:
        peer = SimpleNamespace(address=address, identity=Identity(address, public))
        request = ConfigRequest(nwid, RequestMetadata(version=(1, 14, 1)).build_dictionary()).build()
        answers = sink.answers
        message = (cast(Any, peer), VERB_NETWORK_CONFIG_REQUEST, 1, request)
        loaded.receive([message], float(next(times)), WALL)
        assert sink.answers > answers
        loaded.changed_documents()

    chance = random.Random(0)
    parsed = ParsedDocuments()
    started = time.process_time()
    for each in documents.items():
        parsed.prepare(*each)
    found["parse in advance, ms"] = 1000 * (time.process_time() - started)
    found["load what was parsed in advance, ms"] = _cost(lambda: controller(parsed))
    found["first page of 1,000, ms"] = _cost(lambda: page_at(-1))
    found["a page of 1,000, ms"] = _median(50, lambda: page_at(chance.choice(known)))
    found["request of a known member, ms"] = _median(300, lambda: ask(chance.choice(known)))
    new = iter(range(0x7000000000, 0x7100000000))
    found["request of a new member, ms"] = _median(300, lambda: ask(next(new)))

    def rename() -> None:
        loaded.update_member(nwid, chance.choice(known), {"name": str(next(times))}, float(next(times)), WALL)

    found["a member renamed, ms"] = _median(100, rename)
    return found


class _Sized:
    def ByteSize(self) -> int:
        return 500


def _median(times: int, work: Callable[[], object]) -> float:
    return statistics.median(_cost(work) for _ in range(times))


def _cost(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return 1000 * (time.process_time() - started)


if __name__ == "__main__":
    for what, value in main(*map(int, sys.argv[1:2])).items():
        print(f"{what:45}{value:10.2f}")

"""Every frame reaches the worker that owns its port number; nobody is answered twice."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztnode.node.steering import EPHEMERAL, Steering

WORKERS = st.integers(1, 8)


def ipv4(protocol: int, transport: bytes, *, options: int = 0, fragment: int = 0) -> bytes:
    length = 20 + 4 * options
    head = struct.pack("!BBHHHBBH", 0x40 | length // 4, 0, length + len(transport), 1, fragment, 64, protocol, 0)
    return head + bytes(8 + 4 * options) + transport


def ipv6(next_header: int, transport: bytes) -> bytes:
    return struct.pack("!IHBB", 6 << 28, len(transport), next_header, 64) + bytes(32) + transport


def frame(ethertype: int, packet: bytes) -> tuple[int, tuple[bytes, bytes]]:
    return 0, (bytes(12) + ethertype.to_bytes(2, "big"), packet)


def owners(steering: Steering, record) -> list[int]:
    return [worker for worker, share in enumerate(steering.split([record])) if share]


@given(WORKERS, st.integers(0, 65535), st.sampled_from([6, 17]), st.integers(0, 10))
def test_port_number_names_one_worker(workers: int, port: int, protocol: int, options: int) -> None:
    steering = Steering(workers)
    transport = struct.pack("!HH", 80, port) + bytes(16)
    owner = steering.owner(port)
    assert 0 <= owner < workers
    assert owners(steering, frame(0x0800, ipv4(protocol, transport, options=options))) == [owner]
    assert owners(steering, frame(0x86DD, ipv6(protocol, transport))) == [owner]
    whole = b"".join(frame(0x0800, ipv4(protocol, transport))[1])
    assert owners(steering, (0, (whole,))) == [owner]


@given(WORKERS)
def test_ephemeral_ranges_are_owned_and_cover_everything(workers: int) -> None:
    steering = Steering(workers)
    ranges = [steering.ephemeral(worker) for worker in range(workers)]
    assert ranges[0][0] == EPHEMERAL[0]
    assert ranges[-1][1] == EPHEMERAL[1]
    for worker, (first, last) in enumerate(ranges):
        assert {steering.owner(port) for port in range(first, last + 1)} == {worker}
    assert all(one[1] + 1 == two[0] for one, two in itertools.pairwise(ranges))


def arp(operation: int) -> bytes:
    return struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + bytes(20)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        pytest.param(frame(0x0806, arp(1)), [0], id="ARP request: one answer"),
        pytest.param(frame(0x0806, arp(2)), [0, 1, 2], id="ARP reply: whoever asked"),
        pytest.param(frame(0x86DD, ipv6(58, b"\x87" + bytes(23))), [0], id="neighbour solicitation"),
        pytest.param(frame(0x86DD, ipv6(58, b"\x88" + bytes(23))), [0, 1, 2], id="neighbour advertisement"),
        pytest.param(frame(0x0800, ipv4(1, b"\x08" + bytes(7))), [0], id="echo request"),
        pytest.param(frame(0x0800, ipv4(1, b"\x00" + bytes(7))), [0, 1, 2], id="echo reply"),
        pytest.param(frame(0x0800, ipv4(1, b"\x03" + bytes(7))), [0, 1, 2], id="unreachable"),
        pytest.param(frame(0x86DD, ipv6(58, b"\x02" + bytes(7))), [0, 1, 2], id="packet too big"),
        pytest.param(frame(0x0800, ipv4(17, struct.pack("!HH", 1, 32769), fragment=0x2000)), [0], id="fragment"),
        pytest.param(frame(0x0800, ipv4(17, bytes(8), fragment=3)), [0], id="later fragment"),
        pytest.param(frame(0x88CC, b"lldp"), [0], id="something else"),
    ],
)
def test_what_has_no_port_number(record, expected: list[int]) -> None:
    assert owners(Steering(3), record) == expected


@given(WORKERS, st.lists(st.binary(max_size=80), max_size=20))
def test_any_bytes_find_a_worker_in_order(workers: int, frames: list[bytes]) -> None:
    steering = Steering(workers)
    records = [(n, (data[:14], data[14:])) for n, data in enumerate(frames)]
    shares = steering.split(records)
    assert {tag for share in shares for tag, _ in share} == set(range(len(frames)))
    assert all(share == sorted(share, key=lambda record: record[0]) for share in shares)

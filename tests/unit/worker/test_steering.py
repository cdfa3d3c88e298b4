"""Every frame reaches the worker that owns its port number; nobody is answered twice."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztnode.node.steering import EPHEMERAL, UNBOUND_LISTENERS, Steering
from ztnode.ring import Record

WORKERS = st.integers(1, 8)


def ipv4(protocol: int, transport: bytes, *, options: int = 0, fragment: int = 0) -> bytes:
    length = 20 + 4 * options
    head = struct.pack("!BBHHHBBH", 0x40 | length // 4, 0, length + len(transport), 1, fragment, 64, protocol, 0)
    return head + bytes(8 + 4 * options) + transport


def ipv6(next_header: int, transport: bytes) -> bytes:
    return struct.pack("!IHBB", 6 << 28, len(transport), next_header, 64) + bytes(32) + transport


def frame(ethertype: int, packet: bytes) -> tuple[int, tuple[bytes, bytes]]:
    return 0, (bytes(12) + ethertype.to_bytes(2, "big"), packet)


def owners(steering: Steering, record: Record) -> list[int]:
    return [worker for worker, share in enumerate(steering.split([record])) if share]


def tcp(source: int, destination: int) -> bytes:
    return struct.pack("!HH", source, destination) + bytes(16)


def way_in(steering: Steering, protocol: int, port: int) -> list[int]:
    return list(steering.listening(port)) if protocol == 6 else [steering.udp_owner(port)]


@given(WORKERS, st.integers(0, 65535), st.sampled_from([6, 17]), st.integers(0, 10))
def test_every_shape_of_a_packet_finds_the_same_worker(workers: int, port: int, protocol: int, options: int) -> None:
    steering = Steering(workers, {})
    [owner] = owners(steering, frame(0x0800, ipv4(protocol, tcp(80, port))))
    assert owner in way_in(steering, protocol, port)
    assert owners(steering, frame(0x0800, ipv4(protocol, tcp(80, port), options=options))) == [owner]
    whole = b"".join(frame(0x0800, ipv4(protocol, tcp(80, port)))[1])
    assert owners(steering, (0, (whole,))) == [owner]
    assert owners(steering, (0, (memoryview(whole)[:14], memoryview(whole)[14:]))) == [owner]


@given(WORKERS, st.integers(0, 65535), st.sampled_from([6, 17]), st.lists(st.sampled_from([0, 43, 60]), max_size=3))
def test_ipv6_extension_headers_do_not_hide_the_ports(
    workers: int, port: int, protocol: int, extensions: list[int]
) -> None:
    steering = Steering(workers, {})
    [owner] = owners(steering, frame(0x86DD, ipv6(protocol, tcp(80, port))))
    assert owner in way_in(steering, protocol, port)
    kinds = [*extensions, protocol]
    chain = b"".join(bytes([following, 1]) + bytes(14) for following in kinds[1:])
    assert owners(steering, frame(0x86DD, ipv6(kinds[0], chain + tcp(80, port)))) == [owner]
    atomic = bytes([protocol]) + bytes(7)  # RFC 6946: a fragment that is the whole
    assert owners(steering, frame(0x86DD, ipv6(44, atomic + tcp(80, port)))) == [owner]


def test_connections_to_a_listener_are_spread_evenly() -> None:
    steering = Steering(3, {})
    share = [0, 0, 0]
    for port in range(1024, 4024):
        [owner] = owners(steering, frame(0x0800, ipv4(6, tcp(port, 5380))))
        share[owner] += 1
    assert min(share) > 850


@given(WORKERS, st.integers(1, 65535), st.integers(1, 65535), st.sampled_from([6, 17]), st.booleans())
def test_error_report_goes_to_whom_the_connection_belongs(
    workers: int, local: int, remote: int, protocol: int, six: bool
) -> None:
    steering = Steering(workers, {})
    us, them = (bytes(15) + b"1", bytes(15) + b"2") if six else (b"\x0a001", b"\x0a002")

    def packet(source: bytes, destination: bytes, upper: int, body: bytes) -> bytes:
        raw = ipv6(upper, body) if six else ipv4(upper, body)
        start = 8 if six else 12
        return raw[:start] + source + destination + raw[start + 2 * len(source) :]

    ethertype = 0x86DD if six else 0x0800
    incoming = packet(them, us, protocol, tcp(remote, local))
    sent = packet(us, them, protocol, tcp(local, remote))
    report = packet(b"\x0b" + them[1:], us, 58 if six else 1, bytes([1 if six else 3]) + bytes(7) + sent)
    assert owners(steering, frame(ethertype, report)) == owners(steering, frame(ethertype, incoming))


@given(WORKERS)
def test_ephemeral_ranges_are_owned_and_cover_everything(workers: int) -> None:
    steering = Steering(workers, {})
    ranges = [steering.ephemeral(worker) for worker in range(workers)]
    assert ranges[0][0] == EPHEMERAL[0]
    assert ranges[-1][1] == EPHEMERAL[1]
    for worker, (first, last) in enumerate(ranges):
        assert {steering.udp_owner(port) for port in range(first, last + 1)} == {worker}
        assert {tuple(steering.listening(port)) for port in range(first, last + 1)} == {(worker,)}
    assert all(one[1] + 1 == two[0] for one, two in itertools.pairwise(ranges))
    assert all(len(steering.listening(port)) == workers for port in (1, EPHEMERAL[0] - 1, *UNBOUND_LISTENERS))


def arp(operation: int, sender: bytes = b"\x0a001", target: bytes = b"\x0a002") -> bytes:
    return struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + bytes(6) + sender + bytes(6) + target


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        pytest.param(frame(0x0806, arp(1)), [0], id="ARP request: one answer"),
        pytest.param(frame(0x0806, arp(2)), [0, 1, 2], id="ARP reply: whoever asked"),
        pytest.param(frame(0x0806, arp(1, target=b"\x0a001")), [0, 1, 2], id="gratuitous ARP"),
        pytest.param(frame(0x0806, arp(1, sender=bytes(4))), [0], id="ARP probe: one answer"),
        pytest.param(frame(0x86DD, ipv6(58, b"\x87" + bytes(23))), [0], id="neighbour solicitation"),
        pytest.param(frame(0x86DD, ipv6(58, b"\x88" + bytes(23))), [0, 1, 2], id="neighbour advertisement"),
        pytest.param(frame(0x0800, ipv4(1, b"\x08" + bytes(7))), [0], id="echo request"),
        pytest.param(frame(0x0800, ipv4(1, b"\x00" + bytes(7))), [0], id="echo reply: the first sends the requests"),
        pytest.param(frame(0x0800, ipv4(1, b"\x03" + bytes(7))), [0], id="error that quotes nothing"),
        pytest.param(frame(0x0800, ipv4(1, b"\x03" + bytes(7) + ipv4(1, b"\x08"))), [0], id="error about a ping"),
        pytest.param(frame(0x0800, ipv4(132, bytes(8))), [0], id="a protocol that nobody speaks"),
        pytest.param(frame(0x88CC, b"lldp"), [0], id="something else"),
    ],
)
def test_what_has_no_port_number(record: Record, expected: list[int]) -> None:
    assert owners(Steering(3, {}), record) == expected


@given(WORKERS, st.lists(st.binary(max_size=80), max_size=20))
def test_any_bytes_find_a_worker_in_order(workers: int, frames: list[bytes]) -> None:
    steering = Steering(workers, {})
    records = [(n, (data[:14], data[14:])) for n, data in enumerate(frames)]
    shares = steering.split(records)
    assert {tag for share in shares for tag, _ in share} == set(range(len(frames)))
    assert all(share == sorted(share, key=lambda record: record[0]) for share in shares)

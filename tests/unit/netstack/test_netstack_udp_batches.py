"""UDP by the batch: what comes of it is what comes of each datagram alone."""

from __future__ import annotations

import random
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ztnode.netstack.config import PortConfig, StackConfig
from ztnode.netstack.stack import Stack
from ztnode.netstack.udp import UdpSocket
from ztnode.wire import checksum, ethernet, ipv4, udp

MAC_A, MAC_B = 0x026600000001, 0x026600000002
A, B = "10.66.0.1", "10.66.0.2"
OPEN, CONNECTED, CLOSED = 5000, 5001, 5002


def packed(text: str) -> bytes:
    return ip_address(text).packed


def host(mac: int, address: str) -> Stack:
    made = Stack(random=random.Random(1).randbytes, now=0.0, config=StackConfig(announce=False))
    made.add_port(0, PortConfig(mac, 2800, (f"{address}/24",)), 0.0)
    for number, neighbour in enumerate((A, B), 1):
        made.ports[0].neighbours.heard(packed(neighbour), ethernet.mac_bytes(MAC_A - 1 + number), create=True)
    return made


def frame(
    payload: bytes, port: int, source: str = A, target: str = B, *, summed: bool = True, cut: int = 0, tail: bytes = b""
) -> bytes:
    """A datagram to ``port`` of B; ``cut``: as much is missing of what the UDP header promises."""
    header = bytearray(udp.build(7, port, payload, checksum.pseudo_sum(packed(source), packed(target), 17)))
    if not summed:
        header[6:8] = b"\0\0"
    body = (bytes(header) + payload)[: len(payload) + 8 - cut] + tail
    ip = ipv4.build(ipv4.Header(packed(source), packed(target), 17, len(body), 64, 0, 0))
    return ethernet.build(ethernet.mac_bytes(MAC_B), ethernet.mac_bytes(MAC_A), ethernet.TYPE_IPV4) + ip + body


def damaged(whole: bytes, position: int) -> bytes:
    return whole[:position] + bytes((whole[position] ^ 0x40,)) + whole[position + 1 :]


payloads = st.binary(max_size=2000)
frames = st.one_of(
    st.builds(frame, payloads, st.sampled_from((OPEN, OPEN, OPEN, CONNECTED, CLOSED))),
    st.builds(frame, payloads, st.just(OPEN), st.sampled_from((A, "10.66.0.9", "127.0.0.1", B, "224.0.0.1"))),
    st.builds(frame, payloads, st.just(OPEN), target=st.sampled_from((B, "10.66.0.255", "10.66.0.77", "224.0.0.1"))),
    st.builds(frame, payloads, st.just(OPEN), summed=st.just(False)),
    st.builds(frame, payloads, st.just(OPEN), tail=st.binary(max_size=20)),
    st.builds(frame, st.binary(min_size=30, max_size=60), st.just(OPEN), cut=st.integers(0, 30)),
    st.builds(damaged, st.builds(frame, payloads, st.just(OPEN)), st.integers(14, 41)),
)


def outcome(batches: list[list[bytes]]) -> tuple[list[list[tuple[bytes, bytes, int]]], dict[str, int], list[bytes]]:
    """What the sockets got, what was counted, what was answered."""
    two = host(MAC_B, B)
    sockets = [two.udp(B, OPEN), two.udp(None, CONNECTED)]
    sockets[1].connect((A, 7), 0.0)
    for batch in batches:
        two.receive(0, [memoryview(each) for each in batch], 0.0)
    answers = [b"".join(parts) for _, parts in two.to_send(0.0)]
    return [each.take(1 << 20) for each in sockets], two.counters, answers


@given(st.lists(frames, max_size=12))
@settings(max_examples=60, deadline=None)
def test_a_batch_is_what_its_datagrams_are_alone(batch: list[bytes]) -> None:
    got, counters, answers = outcome([batch])
    alone = outcome([[each] for each in batch])
    # Those without a checksum take the long way, behind the others.
    assert [sorted(each) for each in got] == [sorted(each) for each in alone[0]]
    assert counters == alone[1]
    assert sorted(answers) == sorted(alone[2])


def sent(sockets: UdpSocket, stack: Stack, batch: list[bytes], many: bool) -> list[bytes]:
    if many:
        assert sockets.send_many(batch, packed(B), OPEN, 0.0)
    else:
        for each in batch:
            sockets.sendto(each, (B, OPEN), 0.0)
    return [b"".join(parts) for _, parts in stack.to_send(0.0)]


@given(st.lists(st.binary(min_size=1, max_size=2772), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_many_are_sent_as_each_alone(batch: list[bytes]) -> None:
    one, two = host(MAC_A, A), host(MAC_B, B)
    socket, there = one.udp(A, 7), two.udp(B, OPEN)
    together = sent(socket, one, batch, many=True)
    assert together == sent(socket, one, batch, many=False)
    two.receive(0, [memoryview(each) for each in together], 0.0)
    assert there.take(100) == [(each, packed(A), 7) for each in batch]


@pytest.mark.parametrize(
    ("batch", "target"), [([b"x", b""], B), ([b"x" * 2773], B), ([b"x"], "10.66.0.255"), ([b"x"], "224.0.0.9")]
)
def test_what_has_to_go_one_by_one_is_left_to_the_caller(batch: list[bytes], target: str) -> None:
    one = host(MAC_A, A)
    assert not one.udp(A, 7).send_many(batch, packed(target), OPEN, 0.0)
    assert not one.to_send(0.0)


def test_whole_and_fragmented_datagrams_keep_their_order() -> None:
    one, two = host(MAC_A, A), host(MAC_B, B)
    socket, there = one.udp(A, 7), two.udp(B, OPEN)
    wanted = [b"a" * 100, b"b" * 5000, b"c" * 100, b"d" * 100, b"e" * 9000, b"f"]
    for payload in wanted:
        socket.sendto(payload, (B, OPEN), 0.0)
    two.receive(0, [memoryview(b"".join(parts)) for _, parts in one.to_send(0.0)], 0.0)
    assert [data for data, _, _ in there.take(4)] + [data for data, _, _ in there.take(4)] == wanted
    assert there.take(4) == []

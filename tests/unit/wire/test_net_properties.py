"""Properties of the IP codecs, and of the checksum against the definition in RFC 1071."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztnode.wire import arp, checksum, checksum_numpy, ethernet, icmp, icmpv6, ipv4, ipv6, pcapng, tcp, udp
from ztnode.wire.wire_error import WireError

U8, U16, U32 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 32))
MAC, IP4, IP6 = (st.binary(min_size=size, max_size=size) for size in (6, 4, 16))
DATA = st.binary(max_size=300)


@pytest.fixture(scope="module", params=[True, False], ids=["numpy", "plain"])
def summing(request: pytest.FixtureRequest) -> Iterator[None]:
    """Before a worker has its first client it sums without numpy."""
    before = checksum._numpy
    if request.param:
        checksum.use_numpy()
    else:
        checksum._numpy = None
    yield
    checksum._numpy = before


def slow_checksum(data: bytes) -> int:
    """RFC 1071 section 4.1, word by word."""
    total = 0
    for position in range(0, len(data) - 1, 2):
        total += data[position] << 8 | data[position + 1]
    if len(data) & 1:
        total += data[-1] << 8
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def agree(ours: int, theirs: int) -> bool:
    """Zero has two forms in one's complement."""
    return ours % 65535 == theirs % 65535


@given(DATA)
def test_checksum_is_rfc_1071(data: bytes) -> None:
    assert agree(checksum.checksum(data), slow_checksum(data))
    if any(data):
        assert checksum.checksum(data) == slow_checksum(data)


def test_checksum_of_the_example_in_rfc_1071() -> None:
    assert checksum.region_sum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2


@pytest.mark.usefixtures("summing")
@given(st.binary(min_size=1, max_size=60), st.integers(1000, 1092))
def test_checksum_of_long_regions(pattern: bytes, times: int) -> None:
    data = pattern * times
    assert agree(checksum.checksum(data), slow_checksum(data))


@pytest.mark.usefixtures("summing")
def test_checksum_of_all_ones_does_not_overflow() -> None:
    assert checksum.checksum(b"\xff" * 65535) == slow_checksum(b"\xff" * 65535)


@pytest.mark.usefixtures("summing")
@given(st.lists(DATA, max_size=6))
def test_gather_is_concatenation(parts: list[bytes]) -> None:
    assert checksum.gather_sum(parts) == checksum.region_sum(b"".join(parts))


@pytest.mark.usefixtures("summing")
@pytest.mark.parametrize("numpy", [None, checksum_numpy], ids=["before numpy is there", "numpy"])
@given(regions=st.lists(st.binary(min_size=1, max_size=50), max_size=8))
def test_batch_is_one_by_one(numpy: ModuleType | None, regions: list[bytes]) -> None:
    """An empty batch too: all that came may have been too short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checksum, "_numpy", numpy)
        _compare(regions)


def _compare(regions: list[bytes]) -> None:
    starts, words = [], b""
    for region in regions:
        starts.append(len(words) // 4)
        words += region + bytes(-len(region) & 3)
    sums = checksum.batch_sums(words, starts)
    assert [total * checksum.NATIVE_FACTOR % 65535 for total in sums] == list(map(checksum.region_sum, regions))


@given(st.binary(min_size=2, max_size=100), st.integers(0, 799))
def test_every_single_bit_error_is_found(data: bytes, bit: int) -> None:
    data += bytes(len(data) & 1)
    whole = data + checksum.checksum(data).to_bytes(2, "big")
    assert checksum.verify(whole)
    damaged = bytearray(whole)
    damaged[bit // 8 % len(damaged)] ^= 1 << bit % 8
    assert not checksum.verify(bytes(damaged))


@given(MAC, MAC, U16, DATA)
def test_ethernet(destination: bytes, source: bytes, ethertype: int, data: bytes) -> None:
    frame = ethernet.build(destination, source, ethertype) + data
    *header, payload = ethernet.parse(frame)
    assert header == [destination, source, ethertype]
    assert payload == data


@given(U16, MAC, IP4, MAC, IP4, DATA)
def test_arp(operation: int, sender_mac: bytes, sender: bytes, target_mac: bytes, target: bytes, pad: bytes) -> None:
    packet = arp.Arp(operation, sender_mac, sender, target_mac, target)
    assert arp.parse(arp.build(packet) + pad) == packet


@given(IP4, IP4, U8, U8, U16, U16, U8, st.integers(0, 10), DATA, DATA)
def test_ipv4(
    source: bytes,
    destination: bytes,
    protocol: int,
    ttl: int,
    identification: int,
    fragment: int,
    tos: int,
    option_words: int,
    data: bytes,
    padding: bytes,
) -> None:
    header = ipv4.Header(
        source, destination, protocol, len(data), ttl, identification, fragment, tos, b"\x01" * 4 * option_words
    )
    parsed, payload = ipv4.parse(ipv4.build(header) + data + padding)
    assert parsed == header
    assert payload == data


@given(IP6, IP6, U8, U8, U8, st.integers(0, 0xFFFFF), DATA, DATA)
def test_ipv6(
    source: bytes, destination: bytes, following: int, limit: int, traffic: int, label: int, data: bytes, pad: bytes
) -> None:
    header = ipv6.Header(source, destination, following, len(data), limit, traffic, label)
    parsed, payload = ipv6.parse(ipv6.build(header) + data + pad)
    assert parsed == header
    assert payload == data


EXTENSION = st.sampled_from([ipv6.NEXT_DESTINATION, ipv6.NEXT_ROUTING, ipv6.NEXT_FRAGMENT])


@given(st.lists(EXTENSION, max_size=ipv6.MAX_EXTENSION_HEADERS), st.booleans(), DATA)
def test_extension_headers_are_walked(kinds: list[int], hop_by_hop: bool, data: bytes) -> None:
    kinds = ([ipv6.NEXT_HOP_BY_HOP, *kinds] if hop_by_hop else kinds)[: ipv6.MAX_EXTENSION_HEADERS]
    chain, field = b"", 6
    for position, kind in enumerate(kinds):
        following = kinds[position + 1] if position + 1 < len(kinds) else ipv6.NEXT_UDP
        field = 40 + len(chain)
        if kind == ipv6.NEXT_FRAGMENT:
            chain += ipv6.build_fragment(ipv6.Fragment(following, 0, False, 7))
        elif kind == ipv6.NEXT_ROUTING:
            chain += struct.pack("!BBBBI", following, 0, 4, 0, 0)
        else:
            chain += struct.pack("!BBBB", following, 1, 1, 10) + bytes(12)  # PadN over the rest
    first = kinds[0] if kinds else ipv6.NEXT_UDP
    extensions = ipv6.parse_extensions(first, memoryview(chain + data))
    assert (extensions.protocol, extensions.protocol_field) == (ipv6.NEXT_UDP, field)
    assert extensions.payload == data
    assert extensions.fragment is None


@given(U8, st.integers(0, 0x1FFF).map(lambda unit: unit * 8), st.booleans(), U32, DATA)
def test_fragment_header(following: int, offset: int, more: bool, identification: int, data: bytes) -> None:
    fragment = ipv6.Fragment(following, offset, more, identification)
    if not offset and not more:
        return
    extensions = ipv6.parse_extensions(ipv6.NEXT_FRAGMENT, memoryview(ipv6.build_fragment(fragment) + data))
    assert extensions.fragment == fragment
    assert extensions.payload == data


@pytest.mark.parametrize(("kind", "report", "group"), [(0x45, False, False), (0x85, True, True), (0xC5, True, False)])
def test_options_that_demand_a_discard(kind: int, report: bool, group: bool) -> None:
    header = bytes((ipv6.NEXT_UDP, 0, 1, 0, kind, 1, 0, 0))
    with pytest.raises(ipv6.UnrecognisedOption) as caught:
        ipv6.parse_extensions(ipv6.NEXT_DESTINATION, memoryview(header))
    assert (caught.value.pointer, caught.value.report, caught.value.report_multicast) == (44, report, group)


def test_too_many_extension_headers_are_refused() -> None:
    chain = bytes((ipv6.NEXT_DESTINATION, 0, 1, 4, 0, 0, 0, 0)) * 50
    with pytest.raises(WireError, match="too long"):
        ipv6.parse_extensions(ipv6.NEXT_DESTINATION, memoryview(chain))


@given(U8, U8, U16, U16, DATA)
def test_icmp(kind: int, code: int, first: int, second: int, body: bytes) -> None:
    message = icmp.Icmp(kind, code, first, second, body)
    assert icmp.parse(icmp.build(message)) == message


@given(U8, U8, U32, DATA, st.integers(0, 65534))
def test_icmpv6(kind: int, code: int, word: int, body: bytes, pseudo: int) -> None:
    message = icmpv6.Icmpv6(kind, code, word, body)
    assert icmpv6.parse(icmpv6.build(message, pseudo), pseudo) == message


@given(IP6.filter(lambda a: a[0] != 0xFF), st.none() | MAC, st.integers(0, 7), st.booleans())
def test_neighbour_discovery(target: bytes, mac: bytes | None, flags: int, advertisement: bool) -> None:
    kind = icmpv6.NEIGHBOUR_ADVERTISEMENT if advertisement else icmpv6.NEIGHBOUR_SOLICITATION
    neighbour = icmpv6.Neighbour(kind, target, mac, flags << 29 if advertisement else 0)
    assert icmpv6.parse_neighbour(icmpv6.parse(icmpv6.build_neighbour(neighbour, 0), 0)) == neighbour


@given(U16, U16, DATA, st.integers(0, 65534), DATA)
def test_udp(source: int, destination: int, data: bytes, pseudo: int, pad: bytes) -> None:
    datagram = udp.build(source, destination, data, pseudo) + data
    assert datagram[6:8] != b"\0\0"
    *ports, payload = udp.parse(datagram + pad, pseudo, checksum_required=True)
    assert ports == [source, destination]
    assert payload == data


def test_udp_without_checksum() -> None:
    datagram = udp.HEADER.pack(1, 2, 9, 0) + b"x"
    *ports, payload = udp.parse(datagram, 0, checksum_required=False)
    assert ports == [1, 2]
    assert bytes(payload) == b"x"
    with pytest.raises(WireError):
        udp.parse(datagram, 0, checksum_required=True)


BLOCK = st.tuples(U32, U32)
OPTIONS = st.builds(
    tcp.Options,
    mss=st.none() | U16,
    window_scale=st.none() | st.integers(0, tcp.MAX_WINDOW_SCALE),
    sack_permitted=st.booleans(),
    sack=st.lists(BLOCK, max_size=2).map(tuple),
    timestamps=st.none() | BLOCK,
)


@given(U16, U16, U32, U32, U8, U16, U16, U16, OPTIONS, DATA)
def test_tcp(
    source: int,
    destination: int,
    sequence: int,
    acknowledgement: int,
    flags: int,
    window: int,
    field: int,
    urgent: int,
    options: tcp.Options,
    data: bytes,
) -> None:
    header = tcp.Header(source, destination, sequence, acknowledgement, flags, window, field, urgent, options)
    built = tcp.build(header)
    assert len(built) % 4 == 0
    parsed, payload = tcp.parse(built + data)
    assert parsed == header
    assert payload == data


def test_tcp_options_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="fit"):
        tcp.build_options(tcp.Options(timestamps=(1, 2), sack=((1, 2),) * 4))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("0204", None),  # length runs past the end
        ("0300", None),  # length below two would loop for ever
        ("02", None),
        ("fd04aaaa020405b4", tcp.Options(mss=1460)),  # unknown kinds are stepped over
        ("0203aa020405b4", tcp.Options(mss=1460)),  # a known kind with a wrong length is stepped over too
        ("03030f00", tcp.Options(window_scale=14)),  # RFC 7323 section 2.3
        ("00020405b4000000", tcp.NO_OPTIONS),  # nothing counts after the end
        ("0506000000010000", tcp.NO_OPTIONS),  # half a SACK block
        # As most SYNs have them, and all but so.
        ("020405b40402080a000000010000000201030307", tcp.Options(1460, 7, True, (), (1, 2))),
        ("020405b40402080a00000001000000020103030f", tcp.Options(1460, 14, True, (), (1, 2))),
        ("020405b40402080a000000010000000201030207", None),  # a window scale without room for it
        ("020305b40402080a000000010000000201030307", None),
        ("030405b40402080a000000010000000201030307", tcp.Options(None, 7, True, (), (1, 2))),
        ("020405b40101080a000000010000000201030307", tcp.Options(1460, 7, False, (), (1, 2))),
    ],
)
def test_tcp_options_from_strangers(options: str, expected: tcp.Options | None) -> None:
    if expected is None:
        with pytest.raises(WireError):
            tcp.parse_options(bytes.fromhex(options))
    else:
        assert tcp.parse_options(bytes.fromhex(options)) == expected


@given(st.binary(max_size=200), U8)
def test_no_parser_raises_anything_but_wire_errors(data: bytes, number: int) -> None:
    view = memoryview(data)
    for parse in (
        ethernet.parse,
        arp.parse,
        ipv4.parse,
        ipv6.parse,
        icmp.parse,
        tcp.parse,
        tcp.parse_options,
        lambda v: ipv6.parse_extensions(number, v),
        lambda v: icmpv6.parse(v, 0),
        lambda v: icmpv6.parse_neighbour(icmpv6.Icmpv6(135, 0, 0, v)),
        lambda v: list(icmpv6.parse_options(v)),
        lambda v: udp.parse(v, 0, checksum_required=False),
    ):
        try:
            parse(view)
        except WireError:
            continue


@given(st.lists(st.binary(max_size=60), max_size=3), st.integers(0, (1 << 63) - 1), st.sampled_from([0, 1, 2]))
def test_pcapng_blocks_are_framed(parts: list[bytes], stamp: int, direction: int) -> None:
    """Every block says its length at both ends and is a multiple of four bytes."""
    capture = pcapng.file_start("test", ["a", "bc"]) + pcapng.enhanced_packet(1, stamp, parts, direction=direction)
    kinds, position = [], 0
    while position < len(capture):
        kind, total = struct.unpack_from("<II", capture, position)
        assert total % 4 == 0
        assert struct.unpack_from("<I", capture, position + total - 4)[0] == total
        kinds.append(kind)
        body, position = capture[position + 8 : position + total - 4], position + total
    assert kinds == [0x0A0D0D0A, 1, 1, 6]
    interface, high, low, captured, original = struct.unpack_from("<IIIII", body)
    assert (interface, high << 32 | low) == (1, stamp)
    assert captured == original
    assert body[20 : 20 + captured] == b"".join(parts)

"""Sealing and opening: the ciphers against published key streams, forgery, flags, batches and bounds."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.wire import packet_views
from ztnode.wire import packet, salsa20, salsa20_many, salsa20_sodium
from ztnode.wire.aes_gmac_siv import AesGmacSiv
from ztnode.wire.keys import PeerKeys

SUITES = (packet.CIPHER_POLY1305_NONE, packet.CIPHER_POLY1305_SALSA2012, packet.CIPHER_AES_GMAC_SIV)
KEYS = PeerKeys(bytes(range(48)))
DESTINATION, SOURCE = 0x1122334455, 0x66778899AA

SALSA_KEY = bytes.fromhex("0f62b5085bae0154a7fa4da0f34699ec3f92e5388bde3184d72a7dd02376c91c")
SALSA_NONCE = bytes.fromhex("288ff65dc42b92f9")
SALSA_STREAMS = {  # the eSTREAM project's verified test vectors for 256-bit keys, set 6, vector 3, by rounds
    20: "5e5e71f90199340304abb22a37b6625bf883fb89ce3b21f54a10b81066ef87da"
    "30b77699aa7379da595c77dd59542da208e5954f89e40eb7aa80a84a6176663f",
    12: "99db33ad11ce0ccb3bfdbf8d0c18160452d014cde989b4c411a559ff7c20a169"
    "e6dc9909d816becedc4063ce07cea828f44bf9b6c9a0a0b200e1b52af41859c5",
}


@pytest.fixture(params=["libsodium", "no libsodium"], autouse=True)
def _library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything here with the host's libsodium, and as it is on a host that has none."""
    found = salsa20_sodium.find() if request.param == "libsodium" else None
    if found is None and request.param == "libsodium":
        pytest.skip("this host has no libsodium with Salsa20/12")
    monkeypatch.setattr(salsa20, "_sodium", lambda: found)


@pytest.mark.parametrize("rounds", SALSA_STREAMS)
def test_salsa20_streams(rounds: int) -> None:
    expected = SALSA_STREAMS[rounds]
    assert salsa20_many.key_stream(SALSA_KEY, SALSA_NONCE, 1, rounds).tobytes().hex() == expected
    assert salsa20.short_key_stream(SALSA_KEY, SALSA_NONCE, 64, rounds).hex() == expected
    many = salsa20.key_streams([bytes(32), SALSA_KEY], [bytes(8), SALSA_NONCE], [9, 1], rounds)
    assert many[1].hex() == expected


@settings(max_examples=20)
@given(st.lists(st.tuples(st.binary(min_size=32, max_size=32), st.binary(min_size=8, max_size=8), st.integers(1, 9))))
def test_salsa20_forms_agree(streams: list[tuple[bytes, bytes, int]]) -> None:
    keys, nonces = [key for key, _, _ in streams], [nonce for _, nonce, _ in streams]
    blocks = [count for _, _, count in streams]
    together = salsa20.key_streams(keys, nonces, blocks, 12)
    for key, nonce, count, stream in zip(keys, nonces, blocks, together, strict=True):
        assert stream == salsa20_many.key_stream(key, nonce, count, 12).tobytes()
        assert stream == salsa20.short_key_stream(key, nonce, 64 * count, 12)


def test_a_stream_from_a_later_block_on_and_keys_of_a_wrong_length() -> None:
    (whole,) = salsa20.key_streams([SALSA_KEY], [SALSA_NONCE], [7], 12)
    assert salsa20.key_streams([SALSA_KEY], [SALSA_NONCE], [5], 12, first=2) == [whole[128:]]
    for key, nonce in ((SALSA_KEY[:-1], SALSA_NONCE), (SALSA_KEY, SALSA_NONCE[:-1])):
        with pytest.raises((ValueError, struct.error)):
            salsa20.key_streams([key], [nonce], [1], 12)


def test_long_streams_are_made_in_chunks_alike() -> None:
    stream = salsa20_many.key_stream(SALSA_KEY, SALSA_NONCE, 2 * 8192 + 3, 12)
    state = salsa20.key_streams([SALSA_KEY], [SALSA_NONCE], [2 * 8192 + 3], 12)[0]
    assert stream.tobytes() == state
    assert len({bytes(block) for block in stream[::777]}) == len(stream[::777])


@pytest.mark.parametrize("cipher", SUITES)
@given(data=st.data())
def test_what_is_sealed_opens(cipher: int, data: st.DataObject) -> None:
    parts = data.draw(st.lists(st.binary(max_size=600), min_size=1, max_size=3).filter(any))
    packet_id = data.draw(st.integers(0, (1 << 64) - 1))
    mtu = data.draw(st.integers(300, 1432))
    sealed = KEYS.seal(packet_id, DESTINATION, SOURCE, [memoryview(part) for part in parts], cipher, mtu)
    assert KEYS.open(sealed) == KEYS.open(memoryview(sealed)) == b"".join(parts)
    assert packet.destination(sealed) == DESTINATION
    assert packet.source(sealed) == SOURCE
    assert packet_views.cipher_suite(sealed) == cipher
    assert packet.hops(sealed) == 0
    assert packet_views.is_fragmented(sealed) is (len(sealed) > mtu)
    if cipher != packet.CIPHER_AES_GMAC_SIV:
        assert packet.packet_id(sealed) == packet_id


@pytest.mark.parametrize("cipher", SUITES)
@given(bit=st.integers(0, 8 * 60 - 1))
def test_no_bit_but_the_hops_can_be_changed(cipher: int, bit: int) -> None:
    sealed = bytearray(KEYS.seal(12345, DESTINATION, SOURCE, (b"\x08" + bytes(32),), cipher))
    assert len(sealed) == 60
    sealed[bit // 8] ^= 1 << bit % 8
    is_hops = bit // 8 == packet.OFFSET_FLAGS and bit % 8 < 3
    assert (KEYS.open(bytes(sealed)) is not None) is is_hops


@pytest.mark.parametrize("cipher", SUITES)
def test_a_packet_cannot_be_shortened_or_lengthened(cipher: int) -> None:
    sealed = KEYS.seal(12345, DESTINATION, SOURCE, (b"\x08" + bytes(100),), cipher)
    assert all(KEYS.open(sealed[:length]) is None for length in range(len(sealed)))
    assert KEYS.open(sealed + b"\0") is None
    assert PeerKeys(bytes(48)).open(sealed) is None


@given(st.binary(max_size=200))
def test_arbitrary_packets_do_not_open(data: bytes) -> None:
    assert KEYS.open(data) is None


def test_a_trusted_path_is_not_trusted() -> None:
    sealed = bytearray(KEYS.seal(12345, DESTINATION, SOURCE, (b"\x08",)))
    sealed[packet.OFFSET_FLAGS] = packet.CIPHER_NO_CRYPTO_TRUSTED_PATH << 3
    assert KEYS.open(bytes(sealed)) is None
    with pytest.raises(ValueError, match="cipher suite"):
        KEYS.seal(1, DESTINATION, SOURCE, (b"\x08",), packet.CIPHER_NO_CRYPTO_TRUSTED_PATH)


def test_plaintexts_are_bounded() -> None:
    most = packet.MAX_PACKET_LENGTH - packet.OFFSET_VERB
    for cipher in SUITES:
        sealed = KEYS.seal(1, DESTINATION, SOURCE, (bytes(most),), cipher)
        assert KEYS.open(sealed) == bytes(most)
        assert KEYS.open(sealed + b"\0") is None
        for length in (0, most + 1):
            with pytest.raises(ValueError, match="does not fit"):
                KEYS.seal(1, DESTINATION, SOURCE, (bytes(length),), cipher)


def test_a_batch_of_all_suites_keeps_its_order() -> None:
    plaintexts = [bytes((number,)) * (1 + 97 * number) for number in range(1, 25)]
    sealed = [
        KEYS.seal(number, DESTINATION, SOURCE, (plaintext,), SUITES[number % 3])
        for number, plaintext in enumerate(plaintexts)
    ]
    sealed[4] = sealed[4][:-1] + b"?"
    expected: list[bytes | None] = [*plaintexts]
    expected[4] = None
    assert KEYS.open_many(sealed) == expected
    assert KEYS.open_many([]) == []


@pytest.mark.parametrize("cipher", SUITES)
def test_a_batch_is_sealed_as_its_packets_are(cipher: int) -> None:
    messages = [(b"\x06", bytes((number,)) * 700 * number) for number in range(5)]
    ids = b"".join(number.to_bytes(8, "big") for number in range(5))
    assert KEYS.seal_many(ids, DESTINATION, SOURCE, messages, cipher) == [
        KEYS.seal(number, DESTINATION, SOURCE, parts, cipher) for number, parts in enumerate(messages)
    ]


def test_aes_gmac_siv_hides_the_packet_id_and_repeats_nothing() -> None:
    one, same, other = (KEYS.seal(number, DESTINATION, SOURCE, (b"\x08same",)) for number in (1, 1, 2))
    assert one == same
    assert packet.packet_id(one) != 1
    assert not {one[:8], one[19:27], one[27:]} & {other[:8], other[19:27], other[27:]}


def test_the_counters_top_bit_starts_clear() -> None:
    """With the bit set in the tag, both sides must clear it alike: try tags until both cases have occurred."""
    cipher = AesGmacSiv(bytes(32), bytes(range(32)))
    seen = set()
    for number in range(64):
        sealed = cipher.seal(number.to_bytes(8, "big"), bytes(11), (b"\x08" + bytes(40),))
        seen.add(sealed[23] >> 7)
        assert cipher.open(sealed) == b"\x08" + bytes(40)
    assert seen == {0, 1}


def test_the_masked_field_unmasks_whatever_the_low_bits_of_the_id() -> None:
    field = bytes(range(100))
    masked = KEYS.mask_field(0x1234567890ABCDE8, field)
    assert masked != field
    assert KEYS.mask_field(0x1234567890ABCDEF, masked) == field
    assert KEYS.mask_field(0x1234567890ABCDF0, masked) != field


def test_an_agreement_has_48_bytes() -> None:
    with pytest.raises(ValueError, match="48"):
        PeerKeys(bytes(32))

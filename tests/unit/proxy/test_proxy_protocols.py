"""What the proxy makes of bytes: vectors of the documents, and whatever else a client might send."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztnode.proxy import Command, ProxyServer, Refusal, Request
from ztnode.proxy.http import AnotherTarget, BadRequest, RequestStream
from ztnode.proxy.proxy_protocol import build_version_1, build_version_2
from ztnode.proxy.proxy_server import MAX_BUFFERED
from ztnode.proxy.socks5 import build_datagram, parse_datagram


def spoken(*pieces: bytes, password: bool = False) -> tuple[ProxyServer, bytes]:
    server = ProxyServer((lambda name, word: (name, word) == ("u", "p")) if password else None)
    for piece in pieces:
        server.receive(piece)
    return server, server.to_send()


@pytest.mark.parametrize(
    ("data", "request_"),
    [
        (b"\5\1\0" + b"\5\1\0\1\x0a\1\2\3\0\x50", Request(Command.CONNECT, "10.1.2.3", 80)),
        (b"\5\2\0\2" + b"\5\1\0\4" + bytes(15) + b"\1\1\xbb", Request(Command.CONNECT, "::1", 443)),
        (b"\5\1\0" + b"\5\1\0\3\7a.b-c.d\0\x16", Request(Command.CONNECT, "a.b-c.d", 22)),
        (b"\5\1\0" + b"\5\3\0\1" + bytes(6), Request(Command.ASSOCIATE, "0.0.0.0", 0)),
        (b"\4\1\0\x50\x0a\1\2\3ann\0", Request(Command.CONNECT, "10.1.2.3", 80)),
        (b"\4\1\0\x50\0\0\0\1\0peer.zt\0", Request(Command.CONNECT, "peer.zt", 80)),
        (b"CONNECT [fd00::1]:22 HTTP/1.1\r\nHost: x\r\n\r\n", Request(Command.CONNECT, "fd00::1", 22)),
        (b"GET http://Peer.ZT/ HTTP/1.1\r\n\r\n", Request(Command.FETCH, "peer.zt", 80)),
        (b"GET http://peer.zt:/ HTTP/1.1\r\n\r\n", Request(Command.FETCH, "peer.zt", 80)),
        (b"HEAD http://[fd00::1]:8080?q HTTP/1.0\r\n\r\n", Request(Command.FETCH, "fd00::1", 8080)),
    ],
)
def test_requests_whole_and_byte_by_byte(data: bytes, request_: Request) -> None:
    assert spoken(data)[0].request == request_
    assert spoken(*(data[i : i + 1] for i in range(len(data))))[0].request == request_


def test_what_came_with_the_request_is_the_targets() -> None:
    server, _ = spoken(b"CONNECT a:1 HTTP/1.1\r\n\r\nSSH-2.0")
    assert server.rest == b"SSH-2.0"
    server, said = spoken(b"\5\1\0\5\1\0\1\x0a\1\2\3\0\x50hello")
    assert (said, server.rest) == (b"\5\0", b"hello")


def test_passwords() -> None:
    good = b"\5\2\0\2" + b"\1\1u\1p" + b"\5\1\0\1\x0a\1\2\3\0\x50"
    server, said = spoken(good, password=True)
    assert (said, server.request) == (b"\5\2\1\0", Request(Command.CONNECT, "10.1.2.3", 80))
    assert spoken(good.replace(b"\1p", b"\1q"), password=True)[1].startswith(b"\5\2\1\1")
    assert spoken(b"\5\1\0", password=True)[1] == b"\5\xff"
    assert spoken(b"\4\1\0\x50\x0a\1\2\3ann\0", password=True)[1] == b"\0\x5b" + bytes(6)
    server, said = spoken(b"GET http://a/ HTTP/1.1\r\n\r\n", password=True)
    assert said.startswith(b"HTTP/1.1 407 ") and b"\r\nProxy-Authenticate: Basic" in said and server.closed
    authorized = b"GET http://a/ HTTP/1.1\r\nProxy-Authorization: basic dTpw\r\n\r\n"
    assert spoken(authorized, password=True)[0].request == Request(Command.FETCH, "a", 80)


@pytest.mark.parametrize(
    "data",
    [
        b"\0", b"\6\1\0", b"hello", b"\x16\3\1\2\0", b"\5\1\0\6\1\0\1", b"\5\1\0\5\1\0\3\1\n\0\x50",
        b"\5\1\0\5\1\0\3\0\0\x50",
        b"GET / HTTP/1.1\r\n\r\n", b"GET http://a/ HTTP/2.0\r\n\r\n", b"CONNECT a HTTP/1.1\r\n\r\n",
        b"CONNECT a: HTTP/1.1\r\n\r\n",
        b"CONNECT a:0 HTTP/1.1\r\n\r\n", b"CONNECT a:70000 HTTP/1.1\r\n\r\n", b"CONNECT fe80::1%x:1 HTTP/1.1\r\n\r\n",
        b"GET http://a/ HTTP/1.1\r\n folded\r\n\r\n", b"GET http://a/ HTTP/1.1\r\nX : y\r\n\r\n",
        b"GET http://u@a/ HTTP/1.1\r\n\r\n", b"GET https://a/ HTTP/1.1\r\n\r\n", b"GET  http://a/ HTTP/1.1\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nContent-Length: 5\r\n\r\n", b"GET http://a/ HTTP/1.1\r\nA: b\nC: d\r\n\r\n",
    ],
)  # fmt: skip
def test_what_is_no_request(data: bytes) -> None:
    server, said = spoken(data)
    assert server.closed and server.request is None
    assert not said or said.startswith((b"\5\0", b"HTTP/1.1 4"))


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: 5\r\nContent-Length: 6", b"Content-Length: 5\r\nTransfer-Encoding: chunked",
        b"Content-Length: +5",
        b"Content-Length: 5, 5", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: chunked, chunked",
        b"Transfer-Encoding: xchunked", b"Content-Length: 0x5", b"Content-Length:",
    ],
)  # fmt: skip
def test_a_length_that_can_be_read_in_two_ways_is_refused(fields: bytes) -> None:
    with pytest.raises(BadRequest) as refused:
        list(RequestStream(None).receive(b"POST http://a/ HTTP/1.1\r\n" + fields + b"\r\n\r\nhello"))
    assert refused.value.answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 "))


@pytest.mark.parametrize(
    "body",
    [
        b"5\r\nhello\n10\r\n", b"5\r\nhelloXX0\r\n\r\n", b"5\r\nhello1\r\n",
        b"0\r\nX: a\n\nGET / HTTP/1.1\r\n", b"0\r\nno trailer\r\n",
    ],
)  # fmt: skip
def test_a_chunk_whose_end_two_readers_see_differently_is_refused(body: bytes) -> None:
    """One that takes a line feed alone for the end of a line would see another request in what is one body here."""
    head = b"POST http://a/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    for size in (1, len(body)):
        stream = RequestStream(None)
        list(stream.receive(head))
        with pytest.raises(BadRequest):
            for position in range(0, len(body), size):
                list(stream.receive(body[position : position + size]))


def test_a_chunk_without_a_size_is_refused() -> None:
    for chunk in (b"-1\r\n", b"\r\n", b"5 5\r\n", b"5\n", b"1" * 2000):
        with pytest.raises(BadRequest):
            head = b"POST http://a/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
            list(RequestStream(None).receive(head + chunk + b"\r\n" * 9))


def test_heads_are_made_ready_for_the_server() -> None:
    ((request, head),) = RequestStream(None).receive(
        b"GET http://Peer:81?q HTTP/1.1\r\nHost: other\r\nProxy-Connection: keep-alive\r\nX-Hop: 1\r\nAccept: a\r\n"
        b"Connection: x-hop, close\r\nProxy-Authorization: Basic dTpw\r\nContent-Length: 0\r\n\r\n"
    )
    assert request == Request(Command.FETCH, "peer", 81)
    assert head == (
        b"GET /?q HTTP/1.1\r\nHost: Peer:81\r\nAccept: a\r\nContent-Length: 0\r\n"
        b"Connection: close\r\nVia: 1.1 ztnode\r\n\r\n"
    )


def test_h2c_is_not_passed_on_and_the_next_request_is_looked_at() -> None:
    fields = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n"
    stream = RequestStream(None)
    pieces = list(stream.receive(b"GET http://a/ HTTP/1.1\r\n" + fields + b"\r\nGET http://b/ HTTP/1.1\r\n\r\n"))
    assert [request.host for request, _ in pieces if request is not None] == ["a", "b"]
    assert pieces[0][1] == b"GET / HTTP/1.1\r\nHost: a\r\nVia: 1.1 ztnode\r\n\r\n"


def test_after_an_upgrade_everything_passes() -> None:
    stream = RequestStream(None)
    pieces = list(
        stream.receive(b"GET http://a/ HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x05")
    )
    assert b"\r\nConnection: upgrade\r\n" in pieces[0][1] and pieces[1] == (None, b"\x81\x05")
    assert list(stream.receive(b"GET http://b/ HTTP/1.1\r\n\r\n")) == [(None, b"GET http://b/ HTTP/1.1\r\n\r\n")]


def passed_on(pieces: list[bytes], *, by_sight: bool) -> tuple[bytes, str]:
    """What a server gets of what a client sends, and how it ended."""
    stream = RequestStream(None)
    sent = bytearray()
    try:
        for piece in pieces:
            if by_sight and piece == stream.repeatable:
                sent += stream.repeated
            else:
                for _, part in stream.receive(piece, ("a", 80)):
                    sent += part
    except (AnotherTarget, BadRequest) as error:
        return bytes(sent), f"{type(error).__name__}, {stream.rest!r}"
    return bytes(sent), f"{stream.rest!r}"


_GET = b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n"
_CLIENT_SAYS = [
    _GET,
    _GET.replace(b"1.1", b"1.0"),
    _GET.replace(b"/a/", b"/b/"),
    _GET.replace(b"\r\n\r", b"\r\nContent-Length: %d\r\n\r" % len(_GET)),  # and what comes next is the body
    _GET.replace(b"\r\n\r", b"\r\nTransfer-Encoding: chunked\r\n\r"),
    b"%x\r\n" % len(_GET),
    b"\r\n0\r\n\r\n",
    _GET[:30],
    _GET[30:],
    _GET * 2,
    _GET.replace(b"\r\n\r", b"\r\nConnection: upgrade\r\nUpgrade: x\r\n\r"),
]


@given(st.lists(st.one_of(st.just(_GET), st.sampled_from(_CLIENT_SAYS)), max_size=12))
def test_a_request_that_is_the_last_one_again_is_passed_on_as_if_it_had_been_read(pieces: list[bytes]) -> None:
    assert passed_on(pieces, by_sight=True) == passed_on(pieces, by_sight=False)


def test_only_a_whole_request_without_a_body_may_be_passed_on_by_sight() -> None:
    with_a_body = _GET[:-2] + b"Content-Length: 5\r\n\r\n"
    upgrade = _GET[:-2] + b"Connection: upgrade\r\nUpgrade: x\r\n\r\n"
    stream = RequestStream(None)
    for piece, may in (
        (_GET, True), (with_a_body, False), (b"hello", False), (with_a_body + b"hello", False), (_GET, True),
        (_GET * 2, False), (_GET[:30], False), (_GET[30:], False), (_GET + _GET[:30], False), (_GET[30:], False),
        (_GET[:-2] + b"X: " + b"x" * 2000 + b"\r\n\r\n", False), (_GET, True), (upgrade, False), (_GET, False),
    ):  # fmt: skip
        list(stream.receive(piece))
        assert stream.repeatable == (piece if may else b"")


@given(
    st.lists(st.binary(max_size=40), max_size=20),
    st.sampled_from([b"", b"\5\1\0\5\1\0", b"\4\1", b"GET http://a", b"CONNECT "]),
)
def test_no_bytes_do_harm(pieces: list[bytes], start: bytes) -> None:
    for password in (False, True):
        server, _ = spoken(start, *pieces, password=password)
        assert len(server.rest) <= MAX_BUFFERED + 800


@given(st.lists(st.binary(min_size=1, max_size=60), max_size=20))
def test_no_bytes_do_harm_to_a_request_stream(pieces: list[bytes]) -> None:
    stream = RequestStream(None)
    head = b"POST http://a/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    try:
        for piece in (head, *pieces):
            list(stream.receive(piece))
    except BadRequest:
        pass


def test_a_client_that_never_ends_its_head() -> None:
    for start in (b"GET http://a/" + b"a" * 1000, b"\4\1\0\x50\x0a\1\2\3"):
        server = ProxyServer()
        sent = 0
        while not server.closed and sent < 10 * MAX_BUFFERED:
            server.receive(start if not sent else b"a" * 1000)
            sent += 1000
        assert server.closed and sent <= MAX_BUFFERED + 2000


def test_datagrams() -> None:
    assert parse_datagram(b"\0\0\0\1\x0a\1\2\3\0\x35hi") == ("10.1.2.3", 53, b"hi")
    assert build_datagram("fd00::1", 53, b"hi") == b"\0\0\0\4\xfd" + bytes(14) + b"\1\0\x35hi"
    with pytest.raises(Exception, match="fragment"):
        parse_datagram(b"\0\0\1\1\x0a\1\2\3\0\x35hi")


def test_failures_have_words_in_every_protocol() -> None:
    for failure in Refusal:
        for data, answer in (
            (b"\5\1\0\5\1\0\1\x0a\1\2\3\0\x50", b"\5"),
            (b"GET http://a/ HTTP/1.1\r\n\r\n", b"HTTP/1.1 5"),
        ):
            server, _ = spoken(data)
            server.failed(failure)
            said = server.to_send()
            assert said.startswith((answer, b"HTTP/1.1 403")) and server.closed


def test_the_proxy_protocols_own_examples() -> None:
    """Section 2.1 has the line; section 2.2 the layout."""
    assert (
        build_version_1(("192.168.0.1", 56324), ("192.168.0.11", 443))
        == b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"
    )
    assert build_version_2(("192.168.0.1", 56324), ("192.168.0.11", 443)) == (
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\xa8\0\1\xc0\xa8\0\x0b\xdc\4\1\xbb"
    )
    assert build_version_2(("fd00::1", 1), ("fd00::2", 2))[13:16] == b"\x21\0\x24"
    with pytest.raises(ValueError, match="family"):
        build_version_1(("192.168.0.1", 1), ("fd00::1", 1))

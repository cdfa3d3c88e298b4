"""How mappings are written."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztnode.forwarding import Expose, Forward, TcpAddress, UnixAddress, parse_expose, parse_forward


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8080:10.1.2.3:80", [Forward(TcpAddress("127.0.0.1", 8080), TcpAddress("10.1.2.3", 80))]),
        ("0:10.1.2.3:80", [Forward(TcpAddress("127.0.0.1", 0), TcpAddress("10.1.2.3", 80))]),
        ("0.0.0.0:8080:10.1.2.3:80", [Forward(TcpAddress("0.0.0.0", 8080), TcpAddress("10.1.2.3", 80))]),
        (":8080:10.1.2.3:80", [Forward(TcpAddress("", 8080), TcpAddress("10.1.2.3", 80))]),
        ("[::1]:8080:[fd00::0:1]:80", [Forward(TcpAddress("::1", 8080), TcpAddress("fd00::1", 80))]),
        (
            "8000-8002:10.1.2.3:9000-9002",
            [Forward(TcpAddress("127.0.0.1", 8000 + port), TcpAddress("10.1.2.3", 9000 + port)) for port in range(3)],
        ),
        ("udp:53:10.1.2.3:53", [Forward(TcpAddress("127.0.0.1", 53), TcpAddress("10.1.2.3", 53), udp=True)]),
        ("unix:/run/a b.sock:10.1.2.3:80", [Forward(UnixAddress("/run/a b.sock"), TcpAddress("10.1.2.3", 80))]),
    ],
)
def test_forwards(text: str, expected: list[Forward]) -> None:
    assert parse_forward(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80:127.0.0.1:8000", [Expose(TcpAddress("", 80), TcpAddress("127.0.0.1", 8000))]),
        ("*:80:localhost:8000", [Expose(TcpAddress("", 80), TcpAddress("localhost", 8000))]),
        ("10.1.2.3:80:web:8000", [Expose(TcpAddress("10.1.2.3", 80), TcpAddress("web", 8000))]),
        ("[fd00::1]:80:[::1]:8000", [Expose(TcpAddress("fd00::1", 80), TcpAddress("::1", 8000))]),
        ("udp:[fd00::1]:53:[::1]:53", [Expose(TcpAddress("fd00::1", 53), TcpAddress("::1", 53), udp=True)]),
        ("80:unix:/run/web.sock", [Expose(TcpAddress("", 80), UnixAddress("/run/web.sock"))]),
        ("10.1.2.3:80:unix:/odd:name", [Expose(TcpAddress("10.1.2.3", 80), UnixAddress("/odd:name"))]),
        (
            "80-81:127.0.0.1:8000-8001",
            [Expose(TcpAddress("", 80 + port), TcpAddress("127.0.0.1", 8000 + port)) for port in range(2)],
        ),
    ],
)
def test_exposes(text: str, expected: list[Expose]) -> None:
    assert parse_expose(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "80", "80:10.1.2.3", "x:10.1.2.3:80", "80:10.1.2.3:0", "80:10.1.2.3:65536", "80:10.1.2.3:80:90:1"),
        *("80-70:10.1.2.3:80-70", "80-81:10.1.2.3:80", "0-1:10.1.2.3:80-81", "1-65535:10.1.2.3:1-65535"),
        *("80:[fd00::1:80", "80:fd00::1:80", "80:[fd00::1]x:80", "unix:/a:10.1.2.3:80-81", "unix::10.1.2.3:80"),
        *("udp:", "udp:udp:53:10.1.2.3:53", "udp:unix:/a:10.1.2.3:53", "udp:53:unix:/a"),
        *("80-81:unix:/a", "80:unix:", "²:10.1.2.3:80", "80:10.1.2.3:80\n"),
    ],
)
def test_what_is_no_mapping_is_said_in_one_line(text: str) -> None:
    for parse in (parse_forward, parse_expose):
        if parse is parse_expose and text == "unix:/a:10.1.2.3:80-81":
            continue
        with pytest.raises(ValueError, match=r"\S") as caught:
            parse(text)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["80:-a.example.com:80", "80:1.2.3:80", "80::80"])
def test_what_is_no_host(text: str) -> None:
    with pytest.raises(ValueError, match="neither"):
        parse_forward(text)


@given(st.text(alphabet="0189:-[]./unixa*\0\n", max_size=40))
def test_any_text_is_a_mapping_or_a_value_error(text: str) -> None:
    for parse in (parse_forward, parse_expose):
        with contextlib.suppress(ValueError):
            assert parse(text)

"""Where answers end, wherever they are cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztnode.proxy.answers import AnswerStream

LIE = b"HTTP/1.1 200 A lie\r\n\r\n"


def measured(requests: list[bytes], data: bytes, step: int) -> tuple[int, int]:
    """How many bytes belong to the answers, and how many answers are owed then."""
    return measured_in(requests, [data[at : at + step] for at in range(0, len(data), step)])


def measured_in(requests: list[bytes], pieces: list[bytes]) -> tuple[int, int]:
    """The same, of what comes in such pieces."""
    answers = AnswerStream()
    for request in requests:
        answers.expect(request)
    taken = 0
    for piece in pieces:
        size = answers.measure(memoryview(piece))
        taken += size
        if size < len(piece):
            break
    return taken, answers.owed


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (b"GET / ", b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc"),
        (b"GET / ", b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n"),
        (b"GET / ", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx"),
        (b"GET / ", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\nab\r\n0\r\na: b\r\n\r\n"),
        (b"GET / ", b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"),
        (b"HEAD / ", b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\n"),
    ],
)
def test_what_follows_the_last_answer_is_none(request_: bytes, answer: bytes) -> None:
    for step in (1, 7, 10_000):
        assert measured([request_], answer + LIE, step) == (len(answer), 0)
        assert measured([request_] * 2, answer * 2 + LIE, step) == (2 * len(answer), 0)
        assert measured([request_], answer[:-1], step) == (len(answer) - 1, 1)
    assert measured([], LIE, 5) == (0, 0)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n\r\nbody",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 1\n\n",
        b"x" * 70_000,
    ],
)
def test_an_answer_that_the_end_ends_is_owed_to_the_end(answer: bytes) -> None:
    for step in (1000, 100_000):
        assert measured([b"GET / "], answer + LIE, step) == (len(answer + LIE), 1)


_GET, _HEAD = b"GET / ", b"HEAD / "
_FIVE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
_EXCHANGES = [
    (_GET, _FIVE + b"hello"),
    (_GET, _FIVE + b"HTTP/"),
    (_GET, _FIVE.replace(b"5", b"4") + b"four"),
    (_HEAD, _FIVE),
    (_GET, b"HTTP/1.1 100 Continue\r\n\r\n" + _FIVE + b"hello"),
    (_GET, b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"),
    (_GET, _FIVE.replace(b"5", b"0")),
    (_GET, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"),
]


@given(st.lists(st.sampled_from(_EXCHANGES), max_size=8), st.lists(st.integers(1, 60)), st.booleans())
def test_an_answer_like_the_last_one_ends_where_it_does_byte_by_byte(
    exchanges: list[tuple[bytes, bytes]], sizes: list[int], lie: bool
) -> None:
    """Heads that are known by sight are not taken apart; whatever the pieces are, it comes to the same."""
    requests = [request for request, _ in exchanges]
    data = b"".join(answer for _, answer in exchanges)
    if lie:
        data += _FIVE + b"a lie"
    whole = [answer for _, answer in exchanges] + [_FIVE + b"a lie"] * lie
    random = [data[sum(sizes[:i]) :][:size] for i, size in enumerate([*sizes, len(data)])]
    expected = measured(requests, data, 1)
    assert expected == (len(data) - lie * len(_FIVE + b"a lie"), 0)
    for pieces in (whole, random):
        assert measured_in(requests, [piece for piece in pieces if piece]) == expected

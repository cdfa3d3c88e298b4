"""The buffers of clients are the smaller the more there are."""

from __future__ import annotations

import socket

from ztnode.worker.tcp_pair import ALL_BUFFERS, BUFFER_BYTES, LEAST_BUFFER, PairStock, buffer_for


def test_few_clients_have_large_buffers_and_many_have_little_together() -> None:
    assert buffer_for(0) == buffer_for(50) == BUFFER_BYTES
    assert buffer_for(100_000) == LEAST_BUFFER
    assert sum(map(buffer_for, range(1000))) < 4 * ALL_BUFFERS


def test_a_pair_made_among_many_has_small_ones() -> None:
    stock = PairStock()
    few = stock.take(0.0)
    stock.clients = 5000
    stock.refill()
    many = stock.take(0.0)
    sizes = [pair[0].getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) for pair in (few, many)]
    assert sizes[0] > 4 * sizes[1]
    for end in (*few, *many):
        end.close()
    stock.close()

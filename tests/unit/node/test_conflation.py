"""Readers of news, slow and fast."""

from __future__ import annotations

import asyncio

from ztnode.node.conflation import Conflation


def test_a_slow_reader_gets_the_newest_of_each_and_ends_though_it_was_busy_at_the_end() -> None:
    async def read() -> list[tuple[str, int]]:
        news: Conflation[str, tuple[str, int]] = Conflation()
        reader = news.watch([("a", ("a", 0))])
        got = [await anext(reader)]
        for number in (1, 2):
            news.publish("a", ("a", number))
            news.publish("b", ("b", number))
        news.close()
        async for each in reader:
            got.append(each)
        return got

    assert asyncio.run(asyncio.wait_for(read(), 30)) == [("a", 0), ("a", 2), ("b", 2)]

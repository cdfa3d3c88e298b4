"""How many steps of the memory-hard hash are done at once: with the vectors of zerotier-idtool, all that decides."""

from __future__ import annotations

import random

import numpy as np
import pytest

from ztnode.wire.identity_hash import _PASS, _WORDS, _independent


def one_by_one(places: list[int], step: int) -> int:
    """The first step that reads or changes what one before it has changed."""
    changed: set[int] = set()
    for count, place in enumerate(places):
        read = {2 * (step + count), 2 * (step + count) + 1}
        if changed & (read | {place}):
            return count
        changed.add(place)
    return len(places)


@pytest.mark.parametrize("spread", [8, 64, 2048, _WORDS])
def test_no_pass_holds_steps_that_depend_on_each_other(spread: int) -> None:
    """A pass may be shorter than it need be, but makes progress."""
    rng = random.Random(spread)
    taken = np.array([rng.randrange(_PASS) for _ in range(_WORDS)], np.int32)  # as passes before have left it
    counts = []
    for step in (0, 1, 1000, _WORDS // 2 - 300):
        for _ in range(50):
            length = min(rng.choice((1, 2, 17, _PASS)), _WORDS // 2 - step)
            near = 2 * step + 2 * length - spread
            places = [min(max(0, near + rng.randrange(2 * spread)), _WORDS - 1) for _ in range(length)]
            count = _independent(np.array(places, np.intp), step, taken)
            assert 1 <= count <= one_by_one(places, step)
            counts.append(count)
    assert max(counts) > 1

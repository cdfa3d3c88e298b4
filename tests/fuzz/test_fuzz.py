"""What fuzzing found, played back; and that fuzzing itself works, where atheris is."""

from __future__ import annotations

import pytest

from tests.fuzz.__main__ import CORPUS, NAMES
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", NAMES)
def test_corpus(name: str) -> None:
    inputs = sorted((CORPUS / name).iterdir())
    assert inputs, "no corpus"
    for file in inputs:
        TARGETS[name](file.read_bytes())


def test_every_target_is_run() -> None:
    assert tuple(TARGETS) == NAMES

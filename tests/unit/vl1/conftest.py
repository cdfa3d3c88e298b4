"""What the tests of VL1 share."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest

from ztnode.wire.identity import Identity


@functools.cache
def _validate(identity: Identity) -> bool:
    return _validate_really(identity)


_validate_really = Identity.validate


@pytest.fixture(autouse=True)
def hash_each_identity_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Validating takes a tenth of a second, and these tests do it to the same few identities a hundred times."""
    monkeypatch.setattr(Identity, "validate", lambda self: _validate(self))
    yield

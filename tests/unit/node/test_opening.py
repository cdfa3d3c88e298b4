"""What is said where a state store cannot be opened."""

from __future__ import annotations

import asyncio

import pluggy
import pytest

from ztnode import hookspecs
from ztnode.hookspecs import hookimpl
from ztnode.node.opening import OURS, StoreOptions, open_state


class Store:
    """A plugin whose store fails."""

    def __init__(self, failure: OSError | None) -> None:
        self._failure = failure

    @hookimpl
    def ztnode_state_store(self, url: str) -> None:
        """See hookspecs."""
        if self._failure is not None:
            raise self._failure


def opened(url: str, failure: OSError | None = None, name: str | None = None) -> None:
    manager = pluggy.PluginManager("ztnode")
    manager.add_hookspecs(hookspecs)
    manager.register(Store(failure), name=name)
    asyncio.run(open_state(StoreOptions(url), manager))


@pytest.mark.parametrize("scheme", sorted(OURS))
def test_a_package_that_is_not_installed_is_named(scheme: str) -> None:
    url = f"{scheme}://joe:hunter2@db.example/x"
    with pytest.raises(ValueError, match=f"pip install ./plugins/ztnode-store-{OURS[scheme]} ") as failed:
        opened(url)
    assert "hunter2" not in str(failed.value)
    with pytest.raises(ValueError, match="no plugin offers the state store"):
        opened(url, name=f"store-{OURS[scheme]}")


@pytest.mark.parametrize(
    ("failure", "kind", "said"),
    [
        (ConnectionRefusedError("no answer"), ConnectionError, "redis://db.example/0: no answer"),
        (TimeoutError("late"), TimeoutError, "redis://db.example/0: late"),
        (PermissionError(13, "wrong password"), OSError, "redis://db.example/0: wrong password"),
        (FileNotFoundError(2, "No such file", "/x.db"), OSError, "[Errno 2] No such file: '/x.db'"),
    ],
)
def test_a_store_that_fails_is_named_without_its_password(failure: OSError, kind: type[OSError], said: str) -> None:
    with pytest.raises(kind) as failed:
        opened("redis://:hunter2@db.example/0", failure)
    assert str(failed.value) == said

"""What holds for every test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import settings

# The machine is shared and timings are no property of a codec; the limit on a whole test is pytest-timeout's.
settings.register_profile("ztnode", deadline=None, max_examples=40)
# By hand, for as long as one likes: --hypothesis-profile thorough.
settings.register_profile("thorough", deadline=None, max_examples=2000)
# For the other Pythons, of which deploy/tests.sh asks whether all still works and not whether it is right.
settings.register_profile("quick", deadline=None, max_examples=10)
settings.load_profile("ztnode")

LONGEST_FIRST: Final = (
    "system/test_state.py",
    "system/test_run.py",
    "system/test_client_docs.py",
    "system/test_fleet.py",
    "system/test_service.py",
    "integrations/test_programs.py",
    "system/test_page.py",
    "system/test_overlay.py",
    "system/test_plugins.py",
    "integrations/test_oldest.py",
    "netns/test_kernel_tcp.py",
    "system/test_sign_on.py",
    "system/test_upstreams.py",
    "netns/test_kernel_zero_window.py",
    "system/test_hostile.py",
    "system/test_docs.py",
    "integrations/test_cpython.py",
    "system/test_examples.py",
    "unit/worker/test_sharding.py",
    "unit/forwarding/test_forwarding.py",
    "unit/worker/test_workers.py",
    "unit/netstack/tcp/test_tcp_bbr.py",
    "unit/forwarding/test_proxy_service.py",
    "unit/cli/test_wrong_arguments.py",
    "unit/cli/test_commands.py",
)
"""Files that keep a core for half a minute or more begin first, or all would wait for them in the end."""


@pytest.fixture(scope="session", autouse=True)
def shared_directories_keep_their_modes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test changes the mode of a directory that others use too, even for a moment.

    Two tests that open and close it at once take it away from each other, and every session of pytest that begins
    closes its own again. ``tests.integrations.others.open_directory`` is for who needs an open one.
    """
    base, chmod = tmp_path_factory.getbasetemp(), os.chmod
    shared = {base, *base.parents}

    def checked(path: Any, mode: int, **options: Any) -> None:
        assert isinstance(path, int) or Path(os.fsdecode(path)).absolute() not in shared, f"{path} is not this test's"
        chmod(path, mode, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "chmod", checked)
        yield


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put ``LONGEST_FIRST`` first; the rest stays as it is."""
    rank = {path: number for number, path in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.nodeid.partition("::")[0].removeprefix("tests/"), len(rank)))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Longer runs of tests that are short in CI, by hand."""
    group = parser.getgroup("fleets of nodes (tests/system/test_fleet.py)")
    group.addoption("--kills", type=int, default=16, help="How often the active controller is killed.")
    group.addoption("--kills-seed", type=int, default=0, help="Of the moments at which it is.")
    group.addoption("--outage", type=float, default=0.0, help="Seconds for which a store is out; 0: a few.")
    group.addoption("--large-fleet", type=int, default=0, help="Members of the network that is taken over; 0: none is.")
    group.addoption("--freezes", type=int, default=0, help="How often a node is frozen for longer than its lease.")

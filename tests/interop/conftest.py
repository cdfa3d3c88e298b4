"""The site, libzt and the embedded network as fixtures."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.interop.libzt_wheel import LibztFiles, LibztMissing, obtain
from tests.interop.processes import REPOSITORY, Site, Talker, host_site, make_namespace, remove_namespace
from tests.system.harness import identities

ROOT_PORT = 29993


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """A network namespace where we may make one, else the machine itself."""
    name = f"ztnode-test-{os.getpid()}"
    found = make_namespace(name)
    if found is not None:
        yield found
        remove_namespace(name)
        return
    found = host_site()
    if found is None:
        pytest.skip(
            "no network namespace (needs root and iproute2) and no address but loopback, which ZeroTier refuses"
        )
    yield found


@pytest.fixture(scope="session")
def libzt_files() -> LibztFiles:
    """libzt from the registry. On x86-64 Linux it must be there: a test against a real core that silently skips would
    prove nothing."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        pytest.skip(f"libzt's wheel is for x86-64 Linux, and this is {platform.machine()} {sys.platform}")
    try:
        return obtain(REPOSITORY / "build")
    except LibztMissing as error:
        pytest.fail(f"libzt is missing: {error}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a module's processes keep state and logs."""
    return tmp_path_factory.mktemp("interop")


@pytest.fixture(scope="module")
def talkers() -> Iterator[list[Talker]]:
    """Processes that end with the module: it takes libzt six seconds to come online and as many to join."""
    started: list[Talker] = []
    yield started
    for talker in reversed(started):
        talker.close()


@pytest.fixture(scope="module")
def libzt(
    site: Site, libzt_files: LibztFiles, folder: Path, talkers: list[Talker]
) -> Callable[[str, Path, int], Talker]:
    """Start a libzt node: name, planet file, UDP port. It is online when this returns."""

    def start(name: str, planet: Path, port: int) -> Talker:
        files = ("--library", str(libzt_files.library), "--stubs", str(libzt_files.stubs))
        place = ("--planet", str(planet), "--state", str(folder / name), "--port", str(port))
        talker = site.talker(name, "libzt_driver.py", folder, *files, *place)
        talkers.append(talker)
        talker.expect("online", 60)
        return talker

    return start


@pytest.fixture(scope="module")
def embedded(site: Site, folder: Path, talkers: list[Talker]) -> tuple[Talker, Path]:
    """Our root and controller, and the planet file that leads to it."""
    state = folder / "embedded"
    state.mkdir()
    (state / "identity.secret").write_text(next(identities()).build_text(include_secret=True))
    endpoint = f"{site.address}:{ROOT_PORT}"
    talker = site.talker("embedded", "embedded_network.py", folder, "--state", str(state), "--endpoint", endpoint)
    talkers.append(talker)
    talker.expect("ready", 60)
    return talker, state / "planet"

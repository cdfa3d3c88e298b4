"""What imports what: no circle, for types alone neither, and the documented layers are those that are checked."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """For each module, what it imports, wherever the import statement stands. A module of a package that is imported
    from one of its siblings does not count as an import of the package's ``__init__``, unless a name of it is."""
    graph = grimp.build_graph("ztnode", "ztclient", include_external_packages=False, cache_dir=None)
    return {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}


def test_imports_are_no_circle(imports: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail("modules import one another: " + " <- ".join(error.args[1]))


def test_the_check_sees_typing_and_lazy_imports(imports: dict[str, set[str]]) -> None:
    """``ztclient.channel`` imports grpc's stubs in a TYPE_CHECKING block and again inside a function."""
    assert any("_pb2_grpc" in imported for imported in imports["ztclient.channel"])


def test_packages_are_no_circle(imports: dict[str, set[str]]) -> None:
    """Nor do packages need one another: what imports ``ztnode.vl1`` is not imported by it."""
    packages: dict[str, set[str]] = {}
    for module, imported in imports.items():
        package = module.rpartition(".")[0] or module
        packages.setdefault(package, set()).update(
            other for name in imported if (other := name.rpartition(".")[0] or name) != package
        )
    packages = {
        package: {
            other for other in others if not package.startswith(other + ".") and not other.startswith(package + ".")
        }
        for package, others in packages.items()
    }
    try:
        TopologicalSorter(packages).prepare()
    except CycleError as error:
        pytest.fail("packages import one another: " + " <- ".join(error.args[1]))


def test_the_table_of_the_architecture_is_the_contract() -> None:
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    contract = next(one for one in settings["tool"]["importlinter"]["contracts"] if one.get("containers") == ["ztnode"])
    table = (REPOSITORY / "docs" / "ARCHITECTURE.md").read_text().partition("| `ztnode.` |")[2].partition("\n\n")[0]
    lines = [re.findall(r"`(\w+)`", line.split("|")[1]) for line in table.splitlines() if line.startswith("| `")]
    assert lines == [[name.strip() for name in line.split("|")] for line in contract["layers"]]


LOADED_BY = {
    "a program that starts a node": ("ztclient.launch", {"grpc", "dataclasses", "logging", "hashlib", "http.client"}),
    "a node that starts its worker": (
        "ztnode.cli.serve_command, ztnode.worker.launch",
        {"grpc", "uvloop", "cryptography", "ztnode.node", "ztnode.vl1", "ztnode.netstack"},
    ),
    "first HELLO": (
        "ztnode.cli.serve_command, ztnode.cli.reconfiguration, ztnode.serve",
        {
            "grpc",
            "google.protobuf",
            "numpy",
            "dns",
            "ztnode.controller",
            "ztnode.rules_language",
            "ztnode.node.api",
            "ztnode.vl2",
            "ztnode.worker.protocol",
            "importlib.metadata",
        },
    ),
    "control plane": (
        "ztnode.serve, ztnode.control.control_server, ztnode.control.readiness, ztnode.names, ztnode.sign_on.members",
        {
            "numpy",
            "dns",
            "ztnode.controller",
            "grpc_reflection.v1alpha.reflection",
            "h11",
            "html",
            "requests",
            "ztclient.model",
        },
    ),
    "worker": ("ztnode.worker.__main__", {"numpy", "asyncio", "cryptography", "grpc", "logging", "tempfile"}),
    "identity helper": ("ztnode.identity_helper", {"asyncio", "ztnode.node", "grpc"}),
}


@pytest.mark.parametrize("who", LOADED_BY)
def test_what_a_leaf_does_not_need_it_does_not_load(who: str) -> None:
    """No controller, no name server to ask, no old peer, nobody who reflects; and gRPC after the first HELLO."""
    modules, unwanted = LOADED_BY[who]
    program = f"import sys, {modules}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert not unwanted & set(done.stdout.split())

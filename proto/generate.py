#!/usr/bin/env python3
"""Generate the Python stubs in ztclient/v1 from the .proto files, or check that the committed ones are current.

    python proto/generate.py            write ztclient/v1
    python proto/generate.py --check    exit 1 if ztclient/v1 differs from what would be written

The stubs are in the client's distribution, and the node takes them from there. The descriptors in them keep the names
of the .proto files (ztnode/v1/node.proto), so that a program with stubs of its own from the same files can load both.

The generators are pinned, because generated code refuses to run on a protobuf runtime older than the one it was made
for: grpcio-tools 1.76.0 makes code for protobuf 6.31.1, the oldest runtime that ztnode supports, and that code runs on
every later 6.x and on 7.x. Another version would also differ in text and make the check fail for no reason.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.resources
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PINNED = {"grpcio-tools": "1.76.0", "mypy-protobuf": "5.1.0"}
"""The same versions stand in the dev extra of pyproject.toml."""

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "proto"
PROTO_PACKAGE = Path("ztnode") / "v1"
PACKAGE = Path("ztclient") / "v1"
HAND_WRITTEN = {"__init__.py"}
MODULE = re.compile(r"""(^from |^import |, '|generated code in )ztnode([./])v1(?=[. /])""", re.MULTILINE)
"""Where the generators name a stub's module, which they derive from the directory of the .proto file."""


def wrong_versions() -> list[str]:
    """What is missing or of another version than pinned, as ``name==version`` to install."""
    wrong = []
    for name, version in PINNED.items():
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed = None
        if installed != version:
            wrong.append(f"{name}=={version}")
    return wrong


def generate(into: Path) -> None:
    """Write the stubs of every .proto file below ``into``. Raises subprocess.CalledProcessError when protoc fails."""
    protos = sorted(str(path.relative_to(SOURCES)) for path in (SOURCES / PROTO_PACKAGE).glob("*.proto"))
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    # The mypy plugin is a console script beside this interpreter, which need not be on PATH.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        f"-I{SOURCES}",
        f"-I{well_known}",
        f"--python_out={into}",
        f"--grpc_python_out={into}",
        f"--mypy_out={into}",
        f"--mypy_grpc_out={into}",
        *protos,
    ]
    subprocess.run(command, check=True, env={**os.environ, "PATH": path}, stdout=subprocess.DEVNULL)
    for stub in (into / PROTO_PACKAGE).iterdir():
        text = MODULE.sub(r"\1ztclient\2v1", stub.read_text(encoding="utf-8"))
        stub.write_text(text, encoding="utf-8")


def files(directory: Path) -> dict[str, bytes]:
    """Name and content of every generated file in a directory."""
    return {
        path.name: path.read_bytes()
        for path in sorted(directory.glob("*.py*"))
        if path.is_file() and path.name not in HAND_WRITTEN
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Generate ztclient/v1 from proto/, or check that it is current.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where the stubs are stale")
    check: bool = parser.parse_args().check

    wrong = wrong_versions()
    if wrong:
        print(f"generate.py: the generators are pinned: pip install {' '.join(wrong)}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as scratch:
        try:
            generate(Path(scratch))
        except subprocess.CalledProcessError:
            return 1  # protoc has said why
        fresh = files(Path(scratch) / PROTO_PACKAGE)
        committed = files(ROOT / PACKAGE)
        if check:
            stale = sorted(name for name in fresh.keys() | committed.keys() if fresh.get(name) != committed.get(name))
            if stale:
                print(f"stale in {PACKAGE}: {', '.join(stale)}; run: python proto/generate.py", file=sys.stderr)
            return 1 if stale else 0
        for name in committed.keys() - fresh.keys():
            (ROOT / PACKAGE / name).unlink()
        for name in fresh:
            shutil.copyfile(Path(scratch) / PROTO_PACKAGE / name, ROOT / PACKAGE / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())

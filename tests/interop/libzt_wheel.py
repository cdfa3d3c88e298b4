"""Gets libzt 1.8.4, a ZeroTier core that this project did not write, from the package registry.

Its licence allows use as a test peer, not as part of the product: it is fetched by whoever runs the tests, kept in a
folder that git ignores, and never shipped. The wheel is tagged for CPython 3.9, but its shared object loads by ctypes
from any CPython once three missing symbols are there (``stub_library``).
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tests.interop.stub_library import write_stub_library

VERSION = "1.8.4"
WHEEL = f"libzt-{VERSION}-cp39-cp39-manylinux2010_x86_64.whl"
WHEEL_SHA256 = "e66e1482940118ae172d7356d2c5d2d5c561831c94d595a850704f9923054756"
LIBRARY = "libzt/_libzt.cpython-39-x86_64-linux-gnu.so"
MISSING_SYMBOLS = (
    "_ZN8ZeroTier12LinuxNetLinkC1Ev",
    "_ZN8ZeroTier12LinuxNetLinkD1Ev",
    "_ZN8ZeroTier12LinuxNetLink8delRouteERKNS_11InetAddressES3_S3_PKc",
)


class LibztMissing(Exception):
    """libzt cannot be had; the text says why."""


@dataclass(frozen=True)
class LibztFiles:
    """The shared object and the stubs to load before it."""

    library: Path
    stubs: Path


def obtain(cache: Path) -> LibztFiles:
    """libzt in ``cache``, downloaded first where it is not there yet. Raises LibztMissing."""
    folder = cache / f"libzt-{VERSION}"
    wheel = folder / WHEEL
    if not wheel.exists():
        _download(folder)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        wheel.unlink()
        raise LibztMissing(f"{WHEEL} has the SHA-256 {digest}, not {WHEEL_SHA256}")
    library, stubs = folder / LIBRARY, folder / "stubs.so"
    if not library.exists():
        with zipfile.ZipFile(wheel) as archive:
            # Made under another name first: tests may run in several processes at once.
            partial = library.with_suffix(f".{os.getpid()}")
            partial.parent.mkdir(exist_ok=True)
            partial.write_bytes(archive.read(LIBRARY))
            partial.rename(library)
    if not stubs.exists():
        partial = stubs.with_suffix(f".{os.getpid()}")
        write_stub_library(partial, MISSING_SYMBOLS)
        partial.rename(stubs)
    return LibztFiles(library, stubs)


def _download(folder: Path) -> None:
    """pip's own download of the one wheel that exists for x86-64 Linux."""
    folder.mkdir(parents=True, exist_ok=True)
    options = [
        "--no-deps",
        "--only-binary=:all:",
        "--python-version",
        "3.9",
        "--platform",
        "manylinux2010_x86_64",
        "--quiet",
    ]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), f"libzt=={VERSION}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        raise LibztMissing("pip did not download libzt within 120 s") from None
    if done.returncode:
        raise LibztMissing(f"pip could not download libzt: {done.stderr.strip()[-500:]}")

"""The words of the reference for what we run on."""

from __future__ import annotations

import pytest

from ztnode.node.os_arch import os_arch


@pytest.mark.parametrize(
    ("system", "machine", "expected"),
    [
        ("linux", "x86_64", "linux/x86_64"),
        ("linux", "aarch64", "linux/arm64"),
        ("linux", "armv7l", "linux/arm"),
        ("win32", "AMD64", "windows/x86_64"),
        ("darwin", "arm64", "macos/arm64"),
        ("freebsd14", "i386", "bsd/x86"),
        ("plan9", "", "unknown/unknown"),
    ],
)
def test_os_and_architecture(system: str, machine: str, expected: str) -> None:
    assert os_arch(system, machine) == expected

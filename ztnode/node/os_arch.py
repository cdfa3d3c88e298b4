"""What controllers are told that a node runs on (``o`` in the metadata of a request; Constants.hpp, ZT_TARGET_NAME)."""

from __future__ import annotations

from typing import Final

_SYSTEMS: Final = {"linux": "linux", "win32": "windows", "darwin": "macos"}
_MACHINES: Final = (
    (("x86_64", "amd64"), "x86_64"),
    (("i386", "i486", "i586", "i686", "x86"), "x86"),
    (("aarch64", "arm64"), "arm64"),
    (("arm",), "arm"),
    (("loongarch",), "loongarch"),
    (("mips",), "mips"),
    (("riscv",), "riscv"),
    (("ppc", "powerpc"), "powerpc"),
    (("s390",), "s390"),
)


def os_arch(system: str, machine: str) -> str:
    """``system`` as ``sys.platform`` and ``machine`` as ``platform.machine`` have it, in the reference's words."""
    name = _SYSTEMS.get(system, "bsd" if "bsd" in system else "unknown")
    arch = next((arch for starts, arch in _MACHINES if machine.lower().startswith(starts)), "unknown")
    return f"{name}/{arch}"

"""Writes a tiny ELF shared object whose functions do nothing, byte by byte, so that no compiler is needed.

The published libzt 1.8.4 wheel needs three C++ symbols (LinuxNetLink) that its authors left out. They serve only to
watch the host's routes; a function that returns at once stands in for each. Source of the format: System V ABI,
"Object Files", and its AMD64 supplement.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

_PAGE = 0x1000
_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_SYM = struct.Struct("<IBBHQQ")
_DYN = struct.Struct("<QQ")

_ET_DYN, _EM_X86_64 = 3, 62
_PT_LOAD, _PT_DYNAMIC, _PT_GNU_STACK = 1, 2, 0x6474E551
_PF_X, _PF_W, _PF_R = 1, 2, 4
_DT_NULL, _DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_STRSZ, _DT_SYMENT = 0, 4, 5, 6, 10, 11
_STB_GLOBAL_FUNC = 1 << 4 | 2
_RETURN_ZERO = b"\x31\xc0\xc3"  # xor eax, eax; ret


def stub_library(symbols: Sequence[str]) -> bytes:
    """An x86-64 shared object that exports each name in ``symbols`` as a function that returns 0."""
    names = [name.encode() for name in symbols]
    strings, offsets = b"\0", []
    for name in names:
        offsets.append(len(strings))
        strings += name + b"\0"

    # With one bucket no name needs hashing: its chain links all symbols, from the last down to the null symbol.
    count = len(names) + 1
    chain = [0, *range(count - 1)]
    hash_table = struct.pack(f"<{3 + count}I", 1, count, count - 1, *chain)

    headers = _EHDR.size + 4 * _PHDR.size
    hash_at = headers
    symbols_at = (hash_at + len(hash_table) + 7) & ~7
    strings_at = symbols_at + count * _SYM.size
    code_at = (strings_at + len(strings) + 15) & ~15
    text_end = code_at + len(_RETURN_ZERO)
    assert text_end <= _PAGE, "the stub fits one page"

    table = b"".join(
        [_SYM.pack(0, 0, 0, 0, 0, 0)]
        # Section 1 does not exist, and the dynamic linker does not ask; it only must not be SHN_UNDEF.
        + [_SYM.pack(offset, _STB_GLOBAL_FUNC, 0, 1, code_at, len(_RETURN_ZERO)) for offset in offsets]
    )
    dynamic = b"".join(
        _DYN.pack(tag, value)
        for tag, value in (
            (_DT_HASH, hash_at),
            (_DT_STRTAB, strings_at),
            (_DT_SYMTAB, symbols_at),
            (_DT_STRSZ, len(strings)),
            (_DT_SYMENT, _SYM.size),
            (_DT_NULL, 0),
        )
    )
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = _EHDR.pack(ident, _ET_DYN, _EM_X86_64, 1, 0, _EHDR.size, 0, 0, _EHDR.size, _PHDR.size, 4, 0, 0, 0)
    # The dynamic section lies in a page of its own that may be written: older dynamic linkers relocate it in place.
    segments = b"".join(
        _PHDR.pack(kind, flags, at, at, at, size, size, align)
        for kind, flags, at, size, align in (
            (_PT_LOAD, _PF_R | _PF_X, 0, text_end, _PAGE),
            (_PT_LOAD, _PF_R | _PF_W, _PAGE, len(dynamic), _PAGE),
            (_PT_DYNAMIC, _PF_R | _PF_W, _PAGE, len(dynamic), 8),
            (_PT_GNU_STACK, _PF_R | _PF_W, 0, 0, 16),
        )
    )
    page = bytearray(_PAGE)
    for at, part in (
        (0, header),
        (_EHDR.size, segments),
        (hash_at, hash_table),
        (symbols_at, table),
        (strings_at, strings),
        (code_at, _RETURN_ZERO),
    ):
        page[at : at + len(part)] = part
    return bytes(page) + dynamic


def write_stub_library(path: Path, symbols: Sequence[str]) -> None:
    """Write the library to ``path``."""
    path.write_bytes(stub_library(symbols))

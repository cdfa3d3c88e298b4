"""A process beside the node that hashes for it; ``ztnode.node.identity_pool`` starts it as
``python -m ztnode.identity_helper``. It imports little: a new identity is found before the rest would be there.

    search    writes one new identity, its secret included
    check     says of each identity, line by line, whether it is one, at a low priority
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
from typing import Final

from ztnode.wire.c25519 import SECRET_LENGTH
from ztnode.wire.identity import Identity, try_candidate
from ztnode.wire.wire_error import WireError

SEARCH: Final = "search"
CHECK: Final = "check"
YES, NO = b"1\n", b"0\n"
_NICENESS: Final = 10
"""What strangers make us compute comes after everything else."""


def _search() -> None:
    identity: Identity | None = None
    while identity is None:
        if select.select([sys.stdin], [], [], 0)[0]:
            return
        identity = try_candidate(os.urandom(SECRET_LENGTH))
    sys.stdout.write(identity.build_text(include_secret=True) + "\n")
    sys.stdout.flush()


def _check() -> None:
    with contextlib.suppress(OSError):
        os.nice(_NICENESS)
    for line in sys.stdin.buffer:
        try:
            valid = Identity.parse_text(line.decode("ascii", "replace").strip()).validate()
        except WireError:
            valid = False
        sys.stdout.buffer.write(YES if valid else NO)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    {SEARCH: _search, CHECK: _check}[sys.argv[1]]()

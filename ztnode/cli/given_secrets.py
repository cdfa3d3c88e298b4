"""What a node is given by environment or file in place of state: its identity, its store's key, its networks.

The names of ZeroTier's own container image are read as well as ours. A secret is taken out of the environment as it is
read, so that the processes that the node starts do not have it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from ztnode.wire import c25519
from ztnode.wire.address import format_address
from ztnode.wire.identity import Identity
from ztnode.wire.wire_error import WireError

IDENTITY_VARIABLES: Final = ("ZTNODE_IDENTITY_SECRET", "ZEROTIER_IDENTITY_SECRET")
IDENTITY_FILE_VARIABLE: Final = "ZEROTIER_IDENTITY_SECRET_FILE"
STORE_KEY_VARIABLE: Final = "ZTNODE_STORE_KEY"
NETWORKS_VARIABLE: Final = "ZEROTIER_JOIN_NETWORKS"
VARIABLES: Final = (*IDENTITY_VARIABLES, IDENTITY_FILE_VARIABLE, STORE_KEY_VARIABLE, NETWORKS_VARIABLE)
MAX_FILE_BYTES: Final = 4096


def identity(file: Path | None) -> Identity | None:
    """The identity of ``--identity-secret``, else of the environment; None: neither. Raises OSError, ValueError."""
    where, text = _text("--identity-secret", file, IDENTITY_VARIABLES, IDENTITY_FILE_VARIABLE)
    if text is None:
        return None
    try:
        found = Identity.parse_text(text)
    except WireError as error:
        raise ValueError(f"{where} is no identity: {error}") from None
    if found.secret is None:
        raise ValueError(f"{where} is a public identity: the whole line of identity.secret is needed")
    if c25519.derive_public(found.secret) != found.public:
        raise ValueError(f"{where} is damaged: its secret does not belong to its public part")
    if not found.validate():
        # Peers would drop whatever such a node sends, and nothing here would say why.
        raise ValueError(f"{where} is damaged: {format_address(found.address)} is not the address of its key")
    return found


def store_key(file: Path | None) -> bytes | None:
    """The key of ``--store-key``, else of the environment; None: neither. Raises OSError, ValueError."""
    from ztnode.node.sealed_store import parse_store_key

    _, text = _text("--store-key", file, (STORE_KEY_VARIABLE,))
    return None if text is None else parse_store_key(text)


def networks() -> list[str]:
    """What ZeroTier's container image would join, not checked."""
    return os.environ.get(NETWORKS_VARIABLE, "").replace(",", " ").split()


def _text(
    option: str, file: Path | None, variables: tuple[str, ...], file_variable: str | None = None
) -> tuple[str, str | None]:
    """Where it was given, and what."""
    given = {name: text for name in variables if (text := os.environ.pop(name, "").strip())}
    where = option
    if file is None and not given and file_variable is not None and os.environ.get(file_variable):
        where, file = file_variable, Path(os.environ[file_variable])
    if file is None:
        if len(set(given.values())) > 1:
            raise ValueError(f"{' and '.join(given)} are different: unset one")
        return next(iter(given.items()), (option, None))
    with file.open("rb") as opened:
        data = opened.read(MAX_FILE_BYTES + 1)
    try:
        if len(data) > MAX_FILE_BYTES:
            raise ValueError
        return f"{where} {file}", data.decode("ascii").strip()
    except ValueError:
        raise ValueError(f"{where} {file} is no line of text") from None

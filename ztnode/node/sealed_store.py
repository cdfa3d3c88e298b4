"""Encryption at rest for any state store: AES-256-GCM (NIST SP 800-38D), the key's name as associated data, so that a
value can be neither read, changed nor put under another name by whoever has the store. Names are kept in the clear."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Callable, Iterable
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ztnode.hookspecs import StateStore

MARK: Final = b"\x89zts1\n"
"""Before each sealed value: no text, and nothing else of a ZeroTier home begins so."""
CHECK: Final = "sealed"
"""Holds a known text, by which the right key is told from a wrong one."""
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
"""Random ones: what a node writes in its life stays far below the 2^32 values for which that is safe."""
_KNOWN: Final = b"ztnode"


def parse_store_key(text: str) -> bytes:
    """A key in base64 or hexadecimal digits, as ``openssl rand -base64 32`` makes them. Raises ValueError."""
    word = text.strip()
    try:
        key = bytes.fromhex(word) if len(word) == 2 * KEY_BYTES else base64.b64decode(word, validate=True)
    except (ValueError, binascii.Error):
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError("the store's key must be 32 bytes in base64 or hexadecimal digits: openssl rand -base64 32")
    return key


class SealedStore:
    """See ``StateStore``. Raises OSError that names the key of a value that is not what was written there."""

    def __init__(self, store: StateStore, key: bytes, *, random: Callable[[int], bytes] = os.urandom) -> None:
        """``key``: 32 bytes. Raises OSError where the store was sealed with another key, or not at all."""
        self._store = store
        self._cipher = AESGCM(key)
        self._open = opener(key)
        self._random = random
        check = store.read(CHECK)
        refuse_wrong_key(check, key)
        if check is None:
            clear = next((name for name in store.keys("") if not name.startswith("lease/")), None)
            if clear is not None:
                raise OSError(
                    f"the store is not encrypted (it has {clear}): copy it to one that is, see ztnode store copy --help"
                )
            self.write(CHECK, _KNOWN)

    def read(self, key: str) -> bytes | None:
        """See StateStore."""
        value = self._store.read(key)
        return None if value is None else self._open(key, value)

    def write(self, key: str, value: bytes) -> None:
        """See StateStore."""
        nonce = self._random(NONCE_BYTES)
        self._store.write(key, MARK + nonce + self._cipher.encrypt(nonce, value, key.encode()))

    def delete(self, key: str) -> None:
        """See StateStore."""
        self._store.delete(key)

    def keys(self, prefix: str = "") -> Iterable[str]:
        """See StateStore."""
        return (key for key in self._store.keys(prefix) if key != CHECK)

    def close(self) -> None:
        """See StateStore."""
        self._store.close()


def opener(key: bytes) -> Callable[[str, bytes], bytes]:
    """What gives, for a name and what is sealed under it, the value. It raises OSError that names the key of what is
    something else."""
    cipher = AESGCM(key)

    def open_value(name: str, value: bytes) -> bytes:
        if not value.startswith(MARK):
            raise OSError(f"{name} in the store is not encrypted, while the rest of it is: remove it or restore it")
        found = _decrypted(cipher, name, value)
        if found is None:
            raise OSError(f"{name} in the store is damaged, or another value was put in its place: restore it")
        return found

    return open_value


def _decrypted(cipher: AESGCM, key: str, value: bytes) -> bytes | None:
    nonce, sealed = value[len(MARK) : len(MARK) + NONCE_BYTES], value[len(MARK) + NONCE_BYTES :]
    try:
        return cipher.decrypt(nonce, sealed, key.encode())
    except (InvalidTag, ValueError):
        return None


def refuse_wrong_key(check: bytes | None, key: bytes | None) -> None:
    """Raises OSError where a store that has ``check`` under CHECK cannot be read with this key (None: without one)."""
    if check is None or (key is None and not check.startswith(MARK)):
        return
    if key is None:
        raise OSError("the store is encrypted: give its key with --store-key FILE or ZTNODE_STORE_KEY")
    if _decrypted(AESGCM(key), CHECK, check) != _KNOWN:
        raise OSError("the store was encrypted with another key than the one given (--store-key)")

"""A state store for ztnode: ``ztnode serve --store redis://redis.example/0``, a hash of a Redis or Valkey server.

The URL is redis-py's (``rediss://`` is TLS, ``unix://`` a socket), but for one parameter of ours, ``hash`` (default
``ztnode``), the name of the hash. Redis answers before its disk has what was written unless it is told otherwise:
``appendonly yes`` and ``appendfsync always`` make an answer a promise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar, cast
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ztnode.hookspecs import LeaseLost, SharedStore, hookimpl

SCHEMES: Final = ("redis://", "rediss://", "unix://")
DEFAULT_HASH: Final = "ztnode"
TIMEOUT: Final = 1.5
"""Seconds to connect, and for an answer."""
PAGE: Final = 1000

T = TypeVar("T")

# One script is one step. ARGV: key, "1" and the old value or "0", "1" and the new value or "0".
_SWAP: Final = """
local now = redis.call('HGET', KEYS[1], ARGV[1])
if ARGV[2] == '1' then
    if now ~= ARGV[3] then return 0 end
elseif now then
    return 0
end
if ARGV[4] == '1' then redis.call('HSET', KEYS[1], ARGV[1], ARGV[5]) else redis.call('HDEL', KEYS[1], ARGV[1]) end
return 1
"""
# ARGV: the fence's key and value, the key, and the value where there is one.
_FENCED: Final = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
if ARGV[4] then redis.call('HSET', KEYS[1], ARGV[3], ARGV[4]) else redis.call('HDEL', KEYS[1], ARGV[3]) end
return 1
"""


class RedisStore:
    """See ``ztnode.hookspecs.SharedStore``."""

    def __init__(self, url: str) -> None:
        """Connect. Raises OSError, ValueError."""
        parts = urlsplit(url)
        parameters = dict(parse_qsl(parts.query))
        self._hash = parameters.pop("hash", DEFAULT_HASH)
        database = parts.path.strip("/")
        if parts.scheme != "unix" and database and not database.isdecimal():
            # redis-py would take database 0.
            raise ValueError(
                f"--store: databases of Redis have numbers, {database!r} is none: redis://HOST/0?hash=NAME"
            )
        try:
            self._redis = redis.Redis.from_url(
                urlunsplit(parts._replace(query=urlencode(parameters))),
                socket_timeout=TIMEOUT,
                socket_connect_timeout=TIMEOUT,
                retry=Retry(NoBackoff(), 0),  # whether to try again is the node's decision
                client_name="ztnode",
            )
            self._address: tuple[str, int] | str = (
                parts.path if parts.scheme == "unix" else (parts.hostname or "localhost", parts.port or 6379)
            )
        except ValueError as error:
            raise ValueError(f"--store: not a URL of Redis: {error}") from None
        self._fence: tuple[str, bytes] | None = None
        try:
            self._ask(self._hash, self._redis.ping)
        except TypeError as error:  # a parameter that redis-py does not have
            raise ValueError(f"--store: not a URL of Redis: {error}") from None

    def read(self, key: str) -> bytes | None:
        """See SharedStore."""
        return cast("bytes | None", self._ask(key, lambda: self._redis.hget(self._hash, key)))

    def items(self, prefix: str = "") -> Iterator[tuple[str, bytes]]:
        """See SharedStore."""
        # A scan may name a key twice.
        seen: dict[bytes, bytes] = {}
        cursor = 0
        while True:
            cursor, part = self._scanned(cursor)
            seen.update(part)
            if not cursor:
                break
        for key, value in seen.items():
            name = key.decode("utf-8", "backslashreplace")
            if name.startswith(prefix):
                yield name, value

    def _scanned(self, cursor: int) -> tuple[int, dict[bytes, bytes]]:
        answer: Any = self._ask(self._hash, lambda: self._redis.hscan(self._hash, cursor, count=PAGE))
        return int(answer[0]), answer[1]

    def write(self, key: str, value: bytes) -> None:
        """See SharedStore."""
        if self._fence is None:
            self._ask(key, lambda: self._redis.hset(self._hash, key, value))
        else:
            self._fenced(key, value)

    def delete(self, key: str) -> None:
        """See SharedStore."""
        if self._fence is None:
            self._ask(key, lambda: self._redis.hdel(self._hash, key))
        else:
            self._fenced(key)

    def swap(self, key: str, old: bytes | None, new: bytes | None) -> bool:
        """See SharedStore."""
        arguments: list[Any] = [key]
        for value in (old, new):
            arguments += [0, b""] if value is None else [1, value]
        return bool(self._ask(key, lambda: self._redis.eval(_SWAP, 1, self._hash, *arguments)) == 1)

    def fence(self, key: str, value: bytes) -> None:
        """See SharedStore."""
        self._fence = key, value

    def endpoints(self) -> Sequence[tuple[str, int] | str]:
        """See SharedStore."""
        return [self._address]

    def close(self) -> None:
        """See SharedStore."""
        self._redis.close()

    def _fenced(self, key: str, *value: bytes) -> None:
        assert self._fence is not None
        arguments: tuple[Any, ...] = (*self._fence, key, *value)
        if self._ask(key, lambda: self._redis.eval(_FENCED, 1, self._hash, *arguments)) != 1:
            raise LeaseLost(f"{key} was not written: another node holds the store")

    def _ask(self, key: str, question: Callable[[], T]) -> T:
        try:
            return question()
        except redis.exceptions.BusyLoadingError as error:
            raise ConnectionRefusedError(f"Redis: {error}") from None
        except redis.exceptions.TimeoutError:
            raise TimeoutError(f"Redis did not answer within {TIMEOUT:g} s") from None
        except redis.exceptions.AuthenticationError as error:
            raise OSError(f"Redis: {error}") from None
        except redis.exceptions.ConnectionError as error:
            raise ConnectionError(f"Redis: {error}") from None
        except redis.exceptions.RedisError as error:
            raise OSError(f"{key}: Redis: {error}") from None


@hookimpl
def ztnode_state_store(url: str) -> SharedStore | None:
    """A store for ``redis://...``, otherwise not ours."""
    return RedisStore(url) if url.startswith(SCHEMES) else None

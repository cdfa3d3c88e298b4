"""A state store for ztnode: ``ztnode serve --store s3://bucket/prefix``, objects of a bucket of any S3 server.

Credentials and region are boto3's (AWS_ACCESS_KEY_ID, ~/.aws, roles of instances and pods); ``?endpoint=https://...``
or AWS_ENDPOINT_URL names a server other than AWS. The server must know conditional writes (If-Match, If-None-Match), as
AWS, MinIO and Ceph do: one that ignores them would let two nodes hold one lease, so that is tried before anything else.

S3 changes one object at a time, so a write cannot ask in the same step whether the lease is still ours. The fence is
asked just before, and each object is replaced only if it still is what this node last saw there.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, urlsplit

import boto3
import botocore.exceptions
import botocore.parsers
from botocore.config import Config

from ztnode.hookspecs import LeaseLost, SharedStore, hookimpl

if logging.getLogger("botocore").level == logging.NOTSET:  # where it found credentials, each time anew
    logging.getLogger("botocore").setLevel(logging.WARNING)

TIMEOUT: Final = 1.4
"""Seconds for one question; a write asks two."""
NOTHING: Final = b"\0ztnode-nothing"
"""What stands for a value that was swapped for none: not every server deletes on a condition."""
READERS: Final = 16
"""Objects that are read at a time when everything is read."""
CHANGED: Final = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
MISSING: Final = ("NoSuchKey", "404")
UNAVAILABLE: Final = ("SlowDown", "ServiceUnavailable", "InternalError", "500", "502", "503")

T = TypeVar("T")


class S3Store:
    """See ``ztnode.hookspecs.SharedStore``."""

    def __init__(self, url: str) -> None:
        """Connect. Raises OSError, ValueError."""
        parts = urlsplit(url)
        parameters = dict(parse_qsl(parts.query))
        if not parts.netloc:
            raise ValueError("--store s3://BUCKET[/PREFIX]: there is no bucket")
        if unknown := sorted(parameters.keys() - {"endpoint", "region"}):
            raise ValueError(f"--store: s3:// has no parameter {unknown[0]!r}, but endpoint and region")
        self._bucket = parts.netloc
        self._prefix = f"{parts.path.strip('/')}/" if parts.path.strip("/") else ""
        config = Config(connect_timeout=TIMEOUT, read_timeout=TIMEOUT, retries={"total_max_attempts": 1})
        try:
            self._client: Any = boto3.client(
                "s3",
                endpoint_url=parameters.get("endpoint"),
                region_name=parameters.get("region"),
                config=config.merge(Config(max_pool_connections=READERS)),
            )
        except (botocore.exceptions.BotoCoreError, ValueError) as error:
            raise ValueError(f"--store: {error}") from None
        self._tags: dict[str, str] = {}
        """What this node last saw of each object, by key: its ETag."""
        self._fence: tuple[str, bytes] | None = None
        self._refuse_unconditional()

    def _refuse_unconditional(self) -> None:
        """Raise OSError where the server ignores conditions."""
        probe = f"lease/probe-{secrets.token_hex(8)}"
        try:
            if not self.swap(probe, None, b"1") or self.swap(probe, None, b"2") or self.swap(probe, b"0", b"2"):
                raise OSError(f"the S3 server of {self._bucket} knows no conditional writes: two nodes could be one")
        finally:
            with contextlib.suppress(OSError):
                self._ask(probe, lambda: self._client.delete_object(**self._at(probe)))

    def read(self, key: str) -> bytes | None:
        """See SharedStore."""
        found = self._get(key)
        if found is None:
            self._tags.pop(key, None)
            return None
        self._tags[key] = found[1]
        return None if found[0] == NOTHING else found[0]

    def items(self, prefix: str = "") -> Iterator[tuple[str, bytes]]:
        """See SharedStore."""
        keys: list[str] = []
        more: dict[str, str] = {}
        while True:
            page = self._page(self._prefix + prefix, more)
            keys += [entry["Key"][len(self._prefix) :] for entry in page.get("Contents", ())]
            if not page.get("IsTruncated"):
                break
            more = {"ContinuationToken": page["NextContinuationToken"]}
        with ThreadPoolExecutor(READERS) as readers:
            for key, found in zip(keys, readers.map(self._get, keys), strict=True):
                if found is not None:
                    self._tags[key] = found[1]
                    if found[0] != NOTHING:
                        yield key, found[0]

    def write(self, key: str, value: bytes) -> None:
        """See SharedStore."""
        self._ask_fence(key)
        tag = self._tags.get(key)
        condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        if self._fence is None:  # nobody else is there, or nobody's business
            condition = {}
        if not self._put(key, value, condition) and not self._settled(key, value):
            raise OSError(f"{key} was changed by somebody else: it is left as it is")

    def delete(self, key: str) -> None:
        """See SharedStore."""
        self._ask_fence(key)
        self._ask(key, lambda: self._client.delete_object(**self._at(key)))
        self._tags.pop(key, None)

    def swap(self, key: str, old: bytes | None, new: bytes | None) -> bool:
        """See SharedStore."""
        found = self._get(key)
        if (None if found is None or found[0] == NOTHING else found[0]) != old:
            return False
        condition = {"IfNoneMatch": "*"} if found is None else {"IfMatch": found[1]}
        return self._put(key, NOTHING if new is None else new, condition)

    def fence(self, key: str, value: bytes) -> None:
        """See SharedStore."""
        self._fence = key, value

    def endpoints(self) -> Sequence[tuple[str, int] | str]:
        """See SharedStore."""
        where = urlsplit(self._client.meta.endpoint_url)
        return [(where.hostname or "", where.port or (443 if where.scheme == "https" else 80))]

    def close(self) -> None:
        """See SharedStore."""
        self._client.close()

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    def _page(self, prefix: str, more: dict[str, str]) -> Any:
        return self._ask(prefix, lambda: self._client.list_objects_v2(Bucket=self._bucket, Prefix=prefix, **more))

    def _get(self, key: str) -> tuple[bytes, str] | None:
        """The object and its ETag."""

        def get() -> tuple[bytes, str]:
            answer = self._client.get_object(**self._at(key))
            return answer["Body"].read(), answer["ETag"]

        try:
            return self._ask(key, get)
        except FileNotFoundError:
            return None

    def _put(self, key: str, value: bytes, condition: dict[str, str]) -> bool:
        try:
            answer = self._ask(key, lambda: self._client.put_object(**self._at(key), Body=value, **condition))
        except FileExistsError:
            return False
        self._tags[key] = answer["ETag"]
        return True

    def _settled(self, key: str, value: bytes) -> bool:
        """After a refused write: whether the value is there already, from a write whose answer was lost; else the next
        one will know what is there now."""
        self._ask_fence(key)
        return self.read(key) == value

    def _ask_fence(self, key: str) -> None:
        if self._fence is not None:
            found = self._get(self._fence[0])
            if found is None or found[0] != self._fence[1]:
                raise LeaseLost(f"{key} was not written: another node holds the store")

    def _ask(self, key: str, question: Callable[[], T]) -> T:
        try:
            return question()
        except botocore.exceptions.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in MISSING:
                raise FileNotFoundError(key) from None
            if code in CHANGED:
                raise FileExistsError(key) from None
            if code in UNAVAILABLE:
                raise ConnectionError(f"S3: {error}") from None
            raise OSError(f"{key}: S3: {error}") from None
        except (botocore.exceptions.ReadTimeoutError, botocore.exceptions.ConnectTimeoutError):
            raise TimeoutError(f"S3 did not answer within {TIMEOUT:g} s") from None
        except (botocore.exceptions.ConnectionError, botocore.exceptions.HTTPClientError) as error:
            raise ConnectionError(f"S3: {error}") from None
        except (
            botocore.exceptions.BotoCoreError,
            botocore.parsers.ResponseParserError,
            KeyError,
            TypeError,
            ValueError,
        ) as error:
            raise OSError(f"{key}: S3: {error}") from None


@hookimpl
def ztnode_state_store(url: str) -> SharedStore | None:
    """A store for ``s3://...``, otherwise not ours."""
    return S3Store(url) if url.startswith("s3://") else None

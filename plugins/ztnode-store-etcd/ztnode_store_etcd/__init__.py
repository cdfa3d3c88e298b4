"""A state store for ztnode: ``ztnode serve --store etcd://a:2379,b:2379,c:2379/ztnode``, keys of an etcd cluster that
begin with the path.

By etcd's own JSON gateway (etcd's documentation, "grpc-gateway", version 3 of the API), so that no gRPC stubs of etcd
are needed. ``etcds://`` is TLS, with ``?ca=FILE&cert=FILE&key=FILE`` where needed; ``USER:PASSWORD@`` logs in. A write
and its fence are one transaction.
"""

from __future__ import annotations

import base64
import binascii
import logging
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import httpx

from ztnode.hookspecs import LeaseLost, SharedStore, hookimpl

if logging.getLogger("httpx").level == logging.NOTSET:  # it has a line for every request, and a lease asks for ever
    logging.getLogger("httpx").setLevel(logging.WARNING)

DEFAULT_PORT: Final = 2379
TIMEOUT: Final = 2.0
"""Seconds for one question, however many members of the cluster are asked it."""
PAGE: Final = 500
DEFAULT_PREFIX: Final = "ztnode"
TLS_FILES: Final = {"ca", "cert", "key"}


class EtcdStore:
    """See ``ztnode.hookspecs.SharedStore``."""

    def __init__(self, url: str) -> None:
        """Connect. Raises OSError, ValueError."""
        parts = urlsplit(url)
        user, _, hosts = parts.netloc.rpartition("@")
        self._endpoints = [_endpoint(host) for host in hosts.split(",")]
        self._prefix = (parts.path.strip("/") or DEFAULT_PREFIX) + "/"
        files = dict(parse_qsl(parts.query))
        scheme = "https" if parts.scheme == "etcds" else "http"
        self._bases = [f"{scheme}://{_bracketed(host)}:{port}" for host, port in self._endpoints]
        verify: ssl.SSLContext | bool = False  # nothing to verify without TLS, and CAs take long to load
        if unknown := sorted(files.keys() - TLS_FILES if scheme == "https" else files.keys()):
            raise ValueError(f"--store: {parts.scheme}: has no parameter {unknown[0]!r}; etcds: has ca, cert and key")
        if scheme == "https":
            verify = _context(files)
        # What the environment says of proxies is not meant for this.
        self._client = httpx.Client(timeout=TIMEOUT, verify=verify, trust_env=False)
        self._fence: tuple[str, bytes] | None = None
        self._user = user
        self._log_in()
        self.read("lease/holder")

    def _log_in(self) -> None:
        if self._user:
            name, _, password = self._user.partition(":")
            self._client.headers.pop("Authorization", None)
            asked = {"name": unquote(name), "password": unquote(password)}
            answer = self._send("auth/authenticate", asked)
            self._client.headers["Authorization"] = str(_content(answer, "user").get("token", ""))

    def read(self, key: str) -> bytes | None:
        """See SharedStore."""
        found = self._pairs(self._ask(key, "kv/range", {"key": self._name(key)}), key)
        return found[0][1] if found else None

    def items(self, prefix: str = "") -> Iterator[tuple[str, bytes]]:
        """See SharedStore."""
        begin, end = (self._prefix + prefix).encode(), _after((self._prefix + prefix).encode())
        while True:
            asked = {"key": _text(begin), "range_end": _text(end), "limit": PAGE, "sort_order": "ASCEND"}
            found = self._pairs(self._ask(prefix, "kv/range", asked), prefix)
            yield from ((key[len(self._prefix) :], value) for key, value in found)
            if len(found) < PAGE:
                return
            begin = found[-1][0].encode() + b"\0"

    def write(self, key: str, value: bytes) -> None:
        """See SharedStore."""
        self._change(key, self._put(key, value))

    def delete(self, key: str) -> None:
        """See SharedStore."""
        self._change(key, self._removal(key))

    def swap(self, key: str, old: bytes | None, new: bytes | None) -> bool:
        """See SharedStore."""
        return self._transact(key, self._has(key, old), self._removal(key) if new is None else self._put(key, new))

    def fence(self, key: str, value: bytes) -> None:
        """See SharedStore."""
        self._fence = key, value

    def endpoints(self) -> Sequence[tuple[str, int] | str]:
        """See SharedStore."""
        return self._endpoints

    def close(self) -> None:
        """See SharedStore."""
        self._client.close()

    # The words of the gateway

    def _name(self, key: str) -> str:
        return _text((self._prefix + key).encode())

    def _put(self, key: str, value: bytes) -> dict[str, Any]:
        return {"requestPut": {"key": self._name(key), "value": _text(value)}}

    def _removal(self, key: str) -> dict[str, Any]:
        return {"requestDeleteRange": {"key": self._name(key)}}

    def _has(self, key: str, value: bytes | None) -> dict[str, Any]:
        if value is None:
            return {"key": self._name(key), "target": "CREATE", "result": "EQUAL", "createRevision": "0"}
        return {"key": self._name(key), "target": "VALUE", "result": "EQUAL", "value": _text(value)}

    def _change(self, key: str, request: dict[str, Any]) -> None:
        if not self._transact(key, None if self._fence is None else self._has(*self._fence), request):
            raise LeaseLost(f"{key} was not written: another node holds the store")

    def _transact(self, key: str, condition: dict[str, Any] | None, request: dict[str, Any]) -> bool:
        asked = {"compare": [] if condition is None else [condition], "success": [request]}
        return self._ask(key, "kv/txn", asked).get("succeeded") is True

    def _pairs(self, answer: Mapping[str, Any], key: str) -> list[tuple[str, bytes]]:
        try:
            return [
                (
                    base64.b64decode(pair["key"], validate=True).decode("utf-8", "backslashreplace"),
                    base64.b64decode(pair.get("value", ""), validate=True),
                )
                for pair in answer.get("kvs", ())
            ]
        except (TypeError, KeyError, AttributeError, ValueError, binascii.Error):
            raise OSError(f"{key}: etcd's answer makes no sense") from None

    def _ask(self, key: str, what: str, question: Mapping[str, Any]) -> Mapping[str, Any]:
        answer = self._send(what, question)
        if answer.status_code == 401 and self._user:  # tokens end after five minutes
            self._log_in()
            answer = self._send(what, question)
        return _content(answer, key)

    def _send(self, what: str, question: Mapping[str, Any]) -> httpx.Response:
        """To the first member that answers; it is asked first from then on."""
        deadline = time.monotonic() + TIMEOUT
        failure: OSError = TimeoutError(f"etcd did not answer within {TIMEOUT:g} s")
        for base in list(self._bases):
            if (left := deadline - time.monotonic()) <= 0:
                break
            try:
                answer = self._client.post(f"{base}/v3/{what}", json=question, timeout=left)
            except httpx.TimeoutException:
                failure = TimeoutError(f"etcd did not answer within {TIMEOUT:g} s")
            except httpx.TransportError as error:
                failure = ConnectionError(f"etcd: {error}")
            else:
                self._bases.remove(base)
                self._bases.insert(0, base)
                return answer
        raise failure


def _content(answer: httpx.Response, key: str) -> Mapping[str, Any]:
    try:
        content = answer.json()
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise OSError(f"{key}: what answers is no etcd (HTTP {answer.status_code})")
    if answer.status_code == 200:
        return content
    said = str(content.get("error") or content.get("message"))[:200]
    # 14 is UNAVAILABLE in gRPC, 4 DEADLINE_EXCEEDED: no leader, or it is starting.
    if content.get("code") in (4, 14):
        raise ConnectionError(f"etcd: {said}")
    raise OSError(f"{key}: etcd: {said}")


def _endpoint(host: str) -> tuple[str, int]:
    parts = urlsplit(f"//{host}")
    if not parts.hostname:
        raise ValueError("--store etcd://HOST[:PORT][,HOST...][/PREFIX]: there is no host")
    return parts.hostname, parts.port or DEFAULT_PORT


def _context(files: Mapping[str, str]) -> ssl.SSLContext:
    for name, path in files.items():
        try:
            with Path(path).open("rb"):
                pass
        except OSError as error:
            raise ValueError(f"--store: {name}={path}: {error.strerror}") from None
    try:
        context = ssl.create_default_context(cafile=files.get("ca"))
        if "cert" in files:
            context.load_cert_chain(files["cert"], files.get("key"))
    except ssl.SSLError as error:
        shown = ", ".join(f"{name}={path}" for name, path in files.items())
        raise ValueError(f"--store: {shown}: not what TLS can use: {error}") from None
    return context


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _after(prefix: bytes) -> bytes:
    """The first key after all that begin with ``prefix``, which ends with neither of the two last bytes."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


@hookimpl
def ztnode_state_store(url: str) -> SharedStore | None:
    """A store for ``etcd://...``, otherwise not ours."""
    return EtcdStore(url) if url.startswith(("etcd://", "etcds://")) else None

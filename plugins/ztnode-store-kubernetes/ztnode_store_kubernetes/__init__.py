"""A state store for ztnode: ``ztnode serve --store kubernetes:///ztnode``, a Secret of the pod's namespace, or
``kubernetes://NAMESPACE/SECRET``.

By the API's own REST (Kubernetes API reference, "Secret"), as the pod's service account, which needs ``get``,
``update`` and ``create`` on secrets. Each change replaces the Secret as it was read, by its ``resourceVersion``: the
API server refuses one that somebody else has changed meanwhile, so a write and its fence are one step. A Secret holds
1 MiB: a node and its networks, or a controller of some hundred members; ``?api=http://127.0.0.1:8001`` is for
``kubectl proxy``.
"""

from __future__ import annotations

import base64
import binascii
import logging
import os
import re
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import httpx

from ztnode.hookspecs import LeaseLost, SharedStore, hookimpl

if logging.getLogger("httpx").level == logging.NOTSET:  # it has a line for every request, and a lease asks for ever
    logging.getLogger("httpx").setLevel(logging.WARNING)

ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIMEOUT: Final = 2.0
TRIALS: Final = 8
"""Of a change, while others change other keys of the Secret."""
MAX_BYTES: Final = 1 << 20
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")

Values = dict[str, bytes]


class KubernetesStore:
    """See ``ztnode.hookspecs.SharedStore``."""

    def __init__(self, url: str) -> None:
        """Find the API server and read the Secret. Raises OSError, ValueError."""
        parts = urlsplit(url)
        parameters = dict(parse_qsl(parts.query))
        self._namespace, self._secret = parts.netloc or _own_namespace(), parts.path.strip("/")
        for what, name in (("namespace", self._namespace), ("Secret", self._secret)):
            if not _NAME.fullmatch(name):
                raise ValueError(f"--store kubernetes://[NAMESPACE]/SECRET: {name!r} is no name of a {what}")
        if unknown := sorted(parameters.keys() - {"api", "ca"}):
            raise ValueError(f"--store: kubernetes:// has no parameter {unknown[0]!r}, but api and ca")
        self._token = ACCOUNT / "token"
        api = parameters.get("api") or _own_server()
        verify: ssl.SSLContext | bool = False  # nothing to verify without TLS, and CAs take long to load
        if api.startswith("https:"):
            ca = Path(parameters.get("ca") or ACCOUNT / "ca.crt")
            if "ca" in parameters and not ca.is_file():
                raise ValueError(f"--store: ca={ca}: there is no such file")
            verify = ssl.create_default_context(cafile=ca if ca.exists() else None)
        self._client = httpx.Client(base_url=api, timeout=TIMEOUT, verify=verify, trust_env=False)
        self._path = f"/api/v1/namespaces/{self._namespace}/secrets"
        self._fence: tuple[str, bytes] | None = None
        self._read()

    def read(self, key: str) -> bytes | None:
        """See SharedStore."""
        return self._read(key)[0].get(key)

    def items(self, prefix: str = "") -> Iterator[tuple[str, bytes]]:
        """See SharedStore."""
        yield from ((key, value) for key, value in self._read()[0].items() if key.startswith(prefix))

    def write(self, key: str, value: bytes) -> None:
        """See SharedStore."""
        self._change_fenced(key, lambda values: values.update({key: value}))

    def delete(self, key: str) -> None:
        """See SharedStore."""
        self._change_fenced(key, lambda values: values.pop(key, None))

    def swap(self, key: str, old: bytes | None, new: bytes | None) -> bool:
        """See SharedStore."""

        def change(values: Values) -> bool:
            if values.get(key) != old:
                return False
            if new is None:
                values.pop(key, None)
            else:
                values[key] = new
            return True

        return self._change(key, change)

    def fence(self, key: str, value: bytes) -> None:
        """See SharedStore."""
        self._fence = key, value

    def endpoints(self) -> Sequence[tuple[str, int] | str]:
        """See SharedStore."""
        url = self._client.base_url
        return [(url.host, url.port or (443 if url.scheme == "https" else 80))]

    def close(self) -> None:
        """See SharedStore."""
        self._client.close()

    def _change_fenced(self, key: str, change: Callable[[Values], object]) -> None:
        def fenced(values: Values) -> bool:
            if self._fence is not None and values.get(self._fence[0]) != self._fence[1]:
                return False
            change(values)
            return True

        if not self._change(key, fenced):
            raise LeaseLost(f"{key} was not written: another node holds the store")

    def _change(self, key: str, change: Callable[[Values], bool]) -> bool:
        """Read, change, write back if nobody else did meanwhile; ``change`` says False to leave it."""
        for _ in range(TRIALS):
            values, secret = self._read(key)
            before = dict(values)
            if not change(values):
                return False
            if values == before:
                return True
            secret["data"] = {_escaped(name): base64.b64encode(value).decode() for name, value in values.items()}
            if "resourceVersion" in secret["metadata"]:
                answer = self._ask(key, "PUT", f"{self._path}/{self._secret}", secret)
            else:
                answer = self._ask(key, "POST", self._path, secret)
            if answer.status_code != 409:  # 409 Conflict, AlreadyExists
                return True
        raise ConnectionError(f"{key}: the Secret changes all the time")

    def _read(self, key: str = "") -> tuple[Values, dict[str, Any]]:
        """The values and the whole Secret; a new one without a version where there is none."""
        answer = self._ask(key, "GET", f"{self._path}/{self._secret}")
        if answer.status_code == 404:
            names = {"name": self._secret, "namespace": self._namespace}
            return {}, {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": names}
        name = key
        values: Values = {}
        try:
            secret = answer.json()
            if secret["kind"] != "Secret" or not secret["metadata"]["resourceVersion"]:
                raise ValueError
            for escaped, text in (secret.get("data") or {}).items():
                name = _unescaped(escaped)
                values[name] = base64.b64decode(text, validate=True)
        except (ValueError, KeyError, TypeError, AttributeError, binascii.Error):
            raise OSError(f"{name}: what the API server answers is no Secret") from None
        return values, secret

    def _ask(self, key: str, verb: str, path: str, content: Mapping[str, Any] | None = None) -> httpx.Response:
        headers = {}
        if self._token.exists():  # it is renewed every hour
            headers["Authorization"] = f"Bearer {self._token.read_text().strip()}"
        try:
            answer = self._client.request(verb, path, json=content, headers=headers)
        except httpx.TimeoutException:
            raise TimeoutError(f"the API server did not answer within {TIMEOUT:g} s") from None
        except httpx.TransportError as error:
            raise ConnectionError(f"the API server: {error}") from None
        if answer.status_code in (200, 201, 404, 409) and not (answer.status_code == 404 and verb != "GET"):
            return answer
        said = " ".join(_message(answer).split())
        if answer.status_code in (429, 500, 502, 503, 504):
            raise ConnectionError(f"the API server: {said}")
        raise OSError(f"{key}: the API server: {said}")


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["message"])[:300]
    except (ValueError, KeyError, TypeError):
        return f"HTTP {answer.status_code}"


def _own_namespace() -> str:
    try:
        return (ACCOUNT / "namespace").read_text().strip()
    except OSError:
        raise ValueError("--store kubernetes://NAMESPACE/SECRET: outside a pod the namespace must be named") from None


def _own_server() -> str:
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise ValueError(
            "--store kubernetes: this is no pod; ?api=http://127.0.0.1:8001 is where kubectl proxy listens"
        )
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def _escaped(key: str) -> str:
    """A key as one of a Secret, of letters, digits, ``-``, ``_`` and ``.`` alone; ``_`` begins what else there is."""
    return re.sub(r"[^A-Za-z0-9.-]", lambda match: f"_{ord(match[0]):02x}", key)


def _unescaped(name: str) -> str:
    return re.sub(r"_([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), name)


@hookimpl
def ztnode_state_store(url: str) -> SharedStore | None:
    """A store for ``kubernetes://...``, otherwise not ours."""
    return KubernetesStore(url) if url.startswith("kubernetes://") else None

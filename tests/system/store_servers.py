"""The servers behind the shared state stores, unchanged from their packages, on loopback; and one that is not: a
stand-in for Kubernetes' API server, for which there is no package (the source of Debian's kubernetes-client has it);
$KUBE_APISERVER names a real one.

Each can be stopped and started again with what it had.
"""

from __future__ import annotations

import contextlib
import http.server
import importlib
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.integrations.others import POSTGRES, open_directory, postgres
from ztnode.embedded import free_port
from ztnode.hookspecs import SharedStore
from ztnode.node.opening import OURS


class Server:
    """A server program. ``url`` names the store it keeps; what tests put into it goes by the name that they append."""

    def __init__(self, command: Sequence[str], url: str, ready: Callable[[], bool], **options: Any) -> None:
        self._command = command
        self.url = url
        self._ready = ready
        self._options = options
        self.start()

    def start(self) -> None:
        """From when it serves."""
        self.process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **self._options
        )
        deadline = time.monotonic() + 60
        while not self._ready():
            assert self.process.poll() is None, f"{self._command} ended"
            assert time.monotonic() < deadline, f"{self._command} does not serve"
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Until it is gone."""
        self.process.send_signal(how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """It is there, and does not answer."""
        for pid in self._family():
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        for pid in self._family():
            os.kill(pid, signal.SIGCONT)

    def _family(self) -> list[int]:
        """PostgreSQL has a process for each client."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [self.process.pid, *map(int, children.split())]


def answers(url: str, open_store: Callable[[str], SharedStore]) -> Callable[[], bool]:
    def ready() -> bool:
        try:
            open_store(url).close()
            return True
        except OSError:
            return False

    return ready


def start_postgresql(directory: Path) -> Server:
    from ztnode_store_postgresql import PostgresqlStore

    if not POSTGRES:
        pytest.skip("not installed: postgresql")
    with postgres(directory) as port:  # makes the user and the database
        pass
    who = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
    command = [*who, str(POSTGRES[-1] / "postgres"), "-D", str(directory / "data"), "-c", f"port={port}"]
    command += ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", f"unix_socket_directories={directory}"]
    url = f"postgresql://app@127.0.0.1:{port}/app"
    # SIGINT is its fast shutdown; SIGTERM would wait for clients to leave.
    return Server(command, url, answers(url, PostgresqlStore), cwd=directory)


def start_redis(directory: Path) -> Server:
    from ztnode_store_redis import RedisStore

    if shutil.which("redis-server") is None:
        pytest.skip("not installed: redis-server")
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"]
    url = f"redis://127.0.0.1:{port}/0"
    return Server([*command, "--dir", str(directory)], url, answers(url, RedisStore))


def start_etcd(directory: Path) -> Server:
    from ztnode_store_etcd import EtcdStore

    if shutil.which("etcd") is None:
        pytest.skip("not installed: etcd-server")
    client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    command = ["etcd", "--data-dir", str(directory / "etcd"), "--listen-client-urls", client, "--unsafe-no-fsync"]
    command += [
        "--advertise-client-urls",
        client,
        "--listen-peer-urls",
        peer,
        "--logger",
        "zap",
        "--log-level",
        "error",
    ]
    command += ["--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"]
    url = f"etcd://{client.removeprefix('http://')}"
    return Server(command, url, answers(url, EtcdStore))


class ApiServer(http.server.ThreadingHTTPServer):
    """As much of Kubernetes' API server as Secrets need, written from the API's reference: names and values checked,
    each change counts ``resourceVersion`` up, and one that names another than the present one is a conflict."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Secrets)
        self.secrets: dict[str, dict[str, Any]] = {}
        self.lock = threading.Lock()
        self.version = 0


class _Secrets(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: ApiServer

    def do_GET(self) -> None:
        with self.server.lock:
            secret = self.server.secrets.get(self.path)
            self._answer(200, secret) if secret is not None else self._refuse(404, "NotFound")

    def do_POST(self) -> None:
        secret = self._content()
        path = f"{self.path}/{secret['metadata']['name']}"
        with self.server.lock:
            if path in self.server.secrets:
                self._refuse(409, "AlreadyExists")
            else:
                self._keep(path, secret, 201)

    def do_PUT(self) -> None:
        secret = self._content()
        with self.server.lock:
            present = self.server.secrets.get(self.path)
            if present is None:
                self._refuse(404, "NotFound")
            elif secret["metadata"].get("resourceVersion") not in (None, present["metadata"]["resourceVersion"]):
                self._refuse(409, "Conflict")
            else:
                self._keep(self.path, secret, 200)

    def _content(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        return content

    def _keep(self, path: str, secret: dict[str, Any], status: int) -> None:
        data = secret.get("data", {})
        if not all(re.fullmatch(r"[-._a-zA-Z0-9]{1,253}", name) for name in data):
            self._refuse(422, "Invalid")
        elif sum(map(len, data.values())) * 3 // 4 > 1 << 20:
            self._refuse(422, "Invalid: Too long: must have at most 1048576 bytes")
        else:
            self.server.version += 1
            secret["metadata"]["resourceVersion"] = str(self.server.version)
            self.server.secrets[path] = secret
            self._answer(status, secret)

    def _refuse(self, status: int, reason: str) -> None:
        self._answer(status, {"kind": "Status", "status": "Failure", "message": f"secrets: {reason}", "code": status})

    def _answer(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def kubernetes() -> Iterator[str]:
    """The stand-in; yields where it listens."""
    with ApiServer() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextlib.contextmanager
def kubernetes_itself(program: str) -> Iterator[str]:
    """A real API server (``kube-apiserver``) over an etcd of its own, asked as a service account that may do what the
    role of docs/STORES.md lets it; yields where it listens."""
    import httpx
    import yaml
    import ztnode_store_kubernetes

    with contextlib.ExitStack() as stack:
        at = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ztnode-kubernetes-")))
        etcd = start_etcd(at)
        stack.callback(etcd.stop)
        for command in (["genrsa", "-out", f"{at}/key"], ["rsa", "-in", f"{at}/key", "-pubout", "-out", f"{at}/pub"]):
            subprocess.run(["openssl", *command], check=True, capture_output=True)
        (at / "tokens").write_text("admin,admin,1,system:masters\n")
        port = free_port()
        command = [program, "--etcd-servers", etcd.url.replace("etcd://", "http://"), "--secure-port", str(port)]
        command += ["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", f"--cert-dir={at}/certs"]
        command += [f"--service-account-key-file={at}/pub", f"--service-account-signing-key-file={at}/key"]
        command += ["--service-account-issuer=https://fleet", "--service-cluster-ip-range=10.0.0.0/24"]
        command += ["--authorization-mode=RBAC", f"--token-auth-file={at}/tokens"]
        url, ca = f"https://127.0.0.1:{port}", at / "certs/apiserver.crt"

        def ask(verb: str, path: str, content: object = None) -> Any:
            headers = {"Authorization": "Bearer admin"}
            trusted = ssl.create_default_context(cafile=ca)
            answer = httpx.request(verb, f"{url}{path}", verify=trusted, headers=headers, json=content)
            return answer.raise_for_status().json() if path != "/readyz" else answer.status_code == 200

        def ready() -> bool:
            with contextlib.suppress(OSError, httpx.HTTPError):
                return bool(ca.exists() and ask("GET", "/readyz"))
            return False

        server = Server(command, url, ready)
        stack.callback(server.stop)
        ask("POST", "/api/v1/namespaces", {"metadata": {"name": "fleet"}})
        ask("POST", "/api/v1/namespaces/fleet/serviceaccounts", {"metadata": {"name": "ztnode"}})
        page = (Path(__file__).parents[2] / "docs/STORES.md").read_text()
        role = yaml.safe_load(re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1])  # type: ignore[index]
        role["rules"][0].pop("resourceNames")  # each test has a Secret of its own
        rights = "/apis/rbac.authorization.k8s.io/v1/namespaces/fleet"
        ask("POST", f"{rights}/roles", role)
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role["metadata"]["name"]}
        subject = {"kind": "ServiceAccount", "name": "ztnode", "namespace": "fleet"}
        binding = {"metadata": {"name": "ztnode"}, "roleRef": reference, "subjects": [subject]}
        ask("POST", f"{rights}/rolebindings", binding)
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        answer = ask("POST", "/api/v1/namespaces/fleet/serviceaccounts/ztnode/token", request)
        (at / "token").write_text(answer["status"]["token"])
        (at / "ca.crt").write_bytes(ca.read_bytes())
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(ztnode_store_kubernetes, "ACCOUNT", at)
        yield url


def _one_at_a_time(app: Any) -> Any:
    """moto answers each request in a thread of its own and guards nothing: one that replaces an object closes what
    another is reading, and of two conditional writes both may win."""
    lock = threading.Lock()

    def answer(environ: Any, start_response: Any) -> list[bytes]:
        with lock:
            return [*app(environ, start_response)]

    return answer


@contextlib.contextmanager
def s3(bucket: str) -> Iterator[str]:
    """moto's server with one bucket; yields where it listens."""
    import boto3
    from moto.server import ThreadedMotoServer

    os.environ.update(AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test", AWS_DEFAULT_REGION="us-east-1")
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    assert server._server is not None
    server._server.app = _one_at_a_time(server._server.app)
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=bucket)
        yield endpoint
    finally:
        server.stop()


STARTS = {"postgresql": start_postgresql, "redis": start_redis, "etcd": start_etcd}


class Servers:
    """All of them, each started when it is first asked for."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._started: dict[str, Server] = {}
        self._urls: dict[str, str] = {}
        self._names = 0

    def server(self, kind: str) -> Server:
        """One that can be stopped."""
        if kind not in self._started:
            directory = self._stack.enter_context(open_directory())
            server = self._started[kind] = STARTS[kind](directory)
            self._stack.callback(lambda: server.stop(signal.SIGINT))
        return self._started[kind]

    def url(self, kind: str) -> str:
        """The URL of an empty store."""
        self._names += 1
        name = f"test{self._names}"
        if kind == "s3":
            if kind not in self._urls:
                self._urls[kind] = self._stack.enter_context(s3("state"))
            return f"s3://state/{name}?endpoint={self._urls[kind]}"
        if kind == "kubernetes":
            if kind not in self._urls:
                program = os.environ.get("KUBE_APISERVER")
                itself = kubernetes() if program is None else kubernetes_itself(program)
                self._urls[kind] = self._stack.enter_context(itself)
            return f"kubernetes://fleet/{name}?api={self._urls[kind]}"
        url = self.server(kind).url
        return {
            "postgresql": f"{url}?table={name}",
            "redis": f"{url}?hash={name}",
            "etcd": f"{url}/{name}",
        }[kind]

    def close(self) -> None:
        self._stack.close()


def open_shared(url: str) -> SharedStore:
    """By the plugin whose URL it is."""
    plugin = importlib.import_module(f"ztnode_store_{OURS[urlsplit(url).scheme]}")
    store: SharedStore = plugin.ztnode_state_store(url)
    return store

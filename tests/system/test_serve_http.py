"""``ztnode serve-http`` and ``expose --forwarded-for`` over the real overlay."""

from __future__ import annotations

import contextlib
import http.server
import json
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import ztclient
from tests.system.harness import Overlay, ipv4
from tests.unit.tls_files import make


@contextlib.contextmanager
def running(overlay: Overlay, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A command of ztnode on alpha."""
    command = [sys.executable, "-m", "ztnode", *arguments, "--state", str(overlay.alpha.state)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 130
        finally:
            process.kill()


def get(overlay: Overlay, port: int, path: str, context: ssl.SSLContext | None = None, **headers: str) -> bytes:
    """What beta is answered."""
    node = overlay.beta.node
    connection = (
        ztclient.HTTPConnection(overlay.ip, port, node=node, timeout=30)
        if context is None
        else ztclient.HTTPSConnection(overlay.ip, port, node=node, timeout=30, context=context)
    )
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"X-Forwarded-For": "1.2.3.4", **headers})
        return connection.getresponse().read()


class Mirror(http.server.BaseHTTPRequestHandler):
    """Says who is said to ask."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write("|".join((*self.headers.get_all("X-Forwarded-For", []), self.path)).encode())


def test_a_folder_and_a_web_server(overlay: Overlay, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "page").write_bytes(bytes(range(256)) * 10_000)
    files = make(tmp_path, "alpha", overlay.ip)
    tls = ("--cert", str(files.certificate), "--key", str(files.key))
    with running(overlay, "serve-http", str(tmp_path / "site"), "--json", *tls) as https:
        assert https.stdout is not None
        assert f"https://{overlay.ip}/" in json.loads(https.stdout.readline())["urls"]
        context = ssl.create_default_context(cafile=files.certificate)
        assert get(overlay, 443, "/page", context, Range="bytes=255-257") == b"\xff\0\1"
        assert len(get(overlay, 443, "/page", context)) == 2_560_000
    peer = ipv4(overlay.beta, overlay.nwid)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        with running(overlay, "serve-http", f"{url}/app", "--listen", f"{overlay.ip}:8081") as process:
            assert process.stderr is not None
            assert f"http://{overlay.ip}:8081/" in process.stderr.readline()
            assert get(overlay, 8081, "/x") == f"{peer}|/app/x".encode()
        with running(overlay, "expose", "8082", url.removeprefix("http://"), "--forwarded-for") as process:
            assert process.stderr is not None and process.stderr.readline()
            assert get(overlay, 8082, "/x") == f"{peer}|/x".encode()
        server.shutdown()

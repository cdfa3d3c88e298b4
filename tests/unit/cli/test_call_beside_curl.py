"""``ztnode call`` and curl, side by side: what a server gets from each, and what each prints."""

from __future__ import annotations

import http.server
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.fake_node import RunningNode
from ztnode.cli.app import run

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="not installed: curl")

SITE = "http://10.121.15.99:5380"
CASES = {
    "a page": ["/"],
    "a query, no fragment": ["/x?y=1&z#part"],
    "a form": ["-d", "a=1", "/"],
    "a form of two parts": ["-d", "a=1", "-d", "b=2", "/"],
    "nothing as a body": ["-d", "", "/"],
    "a file as it is": ["--data-binary", "@body", "/"],
    "two of a file and text": ["--data-binary", "@body", "-d", "b=2", "/"],
    "another method": ["-X", "PUT", "-d", "x", "-H", "Content-Type: text/plain", "/"],
    "a method without a body": ["-X", "DELETE", "/"],
    "headers that repeat": ["-H", "X-A: 1", "-H", "X-A: 2", "/"],
    "a header of ours left out": ["-H", "Accept:", "/"],
    "a header of ours replaced": ["-H", "accept: text/html", "/"],
    "an empty header": ["-H", "X-Empty;", "/"],
    "another host": ["-H", "Host: shop.example", "/"],
    "a password": ["-u", "me:secret:word", "/"],
    "a name": ["-A", "me/1.0", "/"],
    "the head alone": ["-I", "/"],
    "head and body": ["-i", "/"],
    "an error is a page": ["/404/"],
    "an error with -f": ["-f", "/404/"],
    "quietly": ["-sS", "/"],
    "not redirected": ["/302/there"],
    "redirected": ["-L", "/301/there"],
    "redirected twice, with all heads": ["-L", "-i", "/302/307/there"],
    **{f"a form and {code}": ["-L", "-d", "a=1", f"/{code}/there"] for code in (301, 302, 303, 307, 308)},
    "a form, meant as POST, and 302": ["-L", "-X", "POST", "-d", "a=1", "/302/there"],
    "a head that is redirected": ["-I", "-L", "/302/there"],
}


@dataclass(frozen=True)
class Asked:
    line: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Recorder(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked: list[Asked]

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        # The program's own name is its own; order between different headers means nothing.
        headers = [
            (name.lower(), value) for name, value in self.headers.items() if not value.startswith(("curl/", "ztnode/"))
        ]
        self.asked.append(Asked(self.requestline, tuple(sorted(headers)), body))
        code, _, rest = self.path.lstrip("/").partition("/")
        status = int(code) if code.isdigit() else 200
        answer = b"page\n"
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", f"/{rest}")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    do_POST = do_PUT = do_DELETE = do_HEAD = do_GET

    def date_time_string(self, timestamp: float | None = None) -> str:
        return "the same each time"

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(running_node: RunningNode) -> Iterator[tuple[int, list[Asked]]]:
    asked: list[Asked] = []
    handler = type("OfThisTest", (Recorder,), {"asked": asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        threading.Thread(target=served.serve_forever, args=(0.01,), daemon=True).start()
        running_node.serve("10.121.15.99", 5380, ("127.0.0.1", served.server_port))
        yield served.server_port, asked
        served.shutdown()


def test_both_ask_and_print_the_same(
    server: tuple[int, list[Asked]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    port, asked = server
    monkeypatch.chdir(tmp_path)
    (tmp_path / "body").write_bytes(b"one\r\ntwo\n\0")
    differing: dict[str, object] = {}
    for case, arguments in CASES.items():
        *options, path = arguments
        curl = ["curl", "-s", "--noproxy", "*", "--connect-to", f"::127.0.0.1:{port}", *options, SITE + path]
        theirs = subprocess.run(curl, capture_output=True, timeout=30, check=False)
        expected = asked.copy()
        asked.clear()
        code = run(["call", *options, SITE + path])
        printed = capsysbinary.readouterr().out
        if code:
            printed = theirs.stdout  # curl leaves out the page of an error, which may say why
        if not expected or (asked, printed, bool(code)) != (expected, theirs.stdout, bool(theirs.returncode)):
            differing[case] = asked.copy(), printed, code, expected, theirs
        asked.clear()
    assert not differing

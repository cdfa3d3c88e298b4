"""ztclient.HTTPConnection does what http.client documents, against http.server behind a fake node."""

from __future__ import annotations

import http.client
import http.server
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator

import pytest

import ztclient
from tests.unit.fake_node import RunningNode
from tests.unit.tls_files import TlsFiles

HOST = "10.121.15.99"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        match self.path:
            case "/slow":
                time.sleep(1.0)
                self._answer(b"late")
            case "/reset":
                # Promises more than it sends, then resets.
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b"x" * 100)
                self.wfile.flush()
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                socket.close(self.connection.detach())
            case "/chunked":
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for part in (b"one", b"two", b"three"):
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
                self.wfile.write(b"0\r\n\r\n")
            case "/big":
                self._answer(bytes(range(256)) * 32768)
            case _:
                self._answer(f"{self.command} {self.path} {self.client_address[1]}".encode())

    def do_POST(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            self._answer(b"chunked:" + body)
        else:
            self._answer(b"whole:" + self.rfile.read(int(self.headers["Content-Length"])))

    def do_CONNECT(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.close_connection = False

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients of these tests hang up at will


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def port(running_node: RunningNode, server: Server) -> int:
    running_node.serve(HOST, 5380, ("127.0.0.1", server.server_port))
    return 5380


def get(connection: http.client.HTTPConnection, path: str = "/") -> bytes:
    connection.request("GET", path)
    return connection.getresponse().read()


def test_is_an_http_client_connection(port: int) -> None:
    connection = ztclient.HTTPConnection(HOST, port, timeout=5)
    assert isinstance(connection, http.client.HTTPConnection)
    assert (connection.host, connection.port, connection.timeout, connection.sock) == (HOST, 5380, 5, None)
    connection.request("GET", "/hello?x=1")
    response = connection.getresponse()
    assert (response.status, response.reason, response.version) == (200, "OK", 11)
    assert response.read().startswith(b"GET /hello?x=1")


def test_host_with_port_in_one_string(port: int) -> None:
    connection = ztclient.HTTPConnection(f"{HOST}:{port}")
    assert get(connection).startswith(b"GET /")


def test_ipv6(running_node: RunningNode, server: Server) -> None:
    running_node.serve("fd00::99", 80, ("127.0.0.1", server.server_port))
    connection = ztclient.HTTPConnection("[FD00:0::99]", timeout=5)
    assert get(connection).startswith(b"GET /")
    assert running_node.node.dials[-1][:2] == ("fd00::99", 80)


def test_keep_alive_uses_one_connection(running_node: RunningNode, port: int) -> None:
    connection = ztclient.HTTPConnection(HOST, port, timeout=5)
    assert get(connection) == get(connection) == get(connection)
    assert len(running_node.node.dials) == 1


def test_reconnects_after_close(running_node: RunningNode, port: int) -> None:
    connection = ztclient.HTTPConnection(HOST, port, timeout=5)
    first = get(connection)
    connection.close()
    assert connection.sock is None
    assert get(connection) != first  # another source port
    assert len(running_node.node.dials) == 2


def test_sock_is_a_real_connected_tcp_socket(port: int) -> None:
    connection = ztclient.HTTPConnection(HOST, port, timeout=5)
    connection.connect()
    assert isinstance(connection.sock, socket.socket)
    assert connection.sock.fileno() >= 0
    assert connection.sock.gettimeout() == 5
    assert connection.sock.getpeername()
    assert connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert not connection.sock.get_inheritable()
    connection.close()


def test_whole_and_chunked_uploads(port: int) -> None:
    connection = ztclient.HTTPConnection(HOST, port, timeout=5, blocksize=1000)
    connection.request("POST", "/", body=b"a" * 5000)
    assert connection.getresponse().read() == b"whole:" + b"a" * 5000
    connection.request("POST", "/", body=iter([b"one", b"two"]), encode_chunked=True)
    assert connection.getresponse().read() == b"chunked:onetwo"
    connection.putrequest("POST", "/")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders(b"3\r\nabc\r\n")
    connection.send(b"0\r\n\r\n")
    assert connection.getresponse().read() == b"chunked:abc"


def test_chunked_download(port: int) -> None:
    connection = ztclient.HTTPConnection(HOST, port, timeout=5)
    assert get(connection, "/chunked") == b"onetwothree"


def test_large_download_is_whole(port: int) -> None:
    connection = ztclient.HTTPConnection(HOST, port, timeout=10)
    assert get(connection, "/big") == bytes(range(256)) * 32768


def test_read_timeout(port: int) -> None:
    connection = ztclient.HTTPConnection(HOST, port, timeout=0.2)
    with pytest.raises(TimeoutError):
        get(connection, "/slow")


def test_default_timeout_of_the_socket_module(running_node: RunningNode, port: int) -> None:
    socket.setdefaulttimeout(7.0)
    try:
        connection = ztclient.HTTPConnection(HOST, port)
        connection.connect()
    finally:
        socket.setdefaulttimeout(None)
    assert connection.sock.gettimeout() == 7.0
    assert running_node.node.dials[-1][3] == 7.0


def test_no_timeout(port: int) -> None:
    connection = ztclient.HTTPConnection(HOST, port, timeout=None)
    connection.connect()
    assert connection.sock.gettimeout() is None


def test_debug_level(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    connection = ztclient.HTTPConnection(HOST, port, timeout=5)
    connection.set_debuglevel(1)
    get(connection)
    printed = capsys.readouterr().out
    assert "send: b'GET / HTTP/1.1" in printed
    assert "reply: 'HTTP/1.1 200 OK" in printed


def test_tunnel(running_node: RunningNode, port: int) -> None:
    connection = ztclient.HTTPConnection(HOST, port, timeout=5)
    connection.set_tunnel("inner.example", 80)
    assert get(connection, "/through").startswith(b"GET /through")
    assert running_node.node.dials[-1][:2] == (HOST, port)


def test_source_address_chooses_the_network(running_node: RunningNode, port: int) -> None:
    connection = ztclient.HTTPConnection(HOST, port, timeout=5, source_address=("10.121.15.1", 0))
    get(connection)
    assert running_node.node.dials[-1][2] == 0x9AD07D01093A69E3
    with pytest.raises(OSError, match="not a managed address"):
        ztclient.HTTPConnection(HOST, port, source_address=("10.121.15.77", 0)).connect()


def test_reset_is_an_error_and_not_an_end(port: int) -> None:
    connection = ztclient.HTTPConnection(HOST, port, timeout=5)
    connection.request("GET", "/reset")
    response = connection.getresponse()
    with pytest.raises(ConnectionResetError):
        response.read()


def test_refused(running_node: RunningNode) -> None:
    with pytest.raises(ConnectionRefusedError, match="refused"):
        ztclient.HTTPConnection(HOST, 1, timeout=5).request("GET", "/")


def test_finding_no_node_fails_at_connect_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = ztclient.HTTPConnection(HOST, 80, node="unix:/nonexistent/ztnode.sock")
    with pytest.raises(ztclient.NodeUnavailableError, match="no node answers at unix:/nonexistent"):
        connection.connect()


def test_https(running_node: RunningNode, server: Server, tls_files: TlsFiles) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls_files.certificate, tls_files.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    running_node.serve(HOST, 443, ("127.0.0.1", server.server_port))
    trusting = ssl.create_default_context(cafile=str(tls_files.certificate))
    connection = ztclient.HTTPSConnection(HOST, timeout=5, context=trusting)
    assert isinstance(connection, http.client.HTTPSConnection)
    assert get(connection, "/secret").startswith(b"GET /secret")
    assert isinstance(connection.sock, ssl.SSLSocket)
    assert connection.sock.version() == "TLSv1.3"
    assert get(connection, "/big") == bytes(range(256)) * 32768


def test_https_refuses_an_unknown_certificate(running_node: RunningNode, server: Server, tls_files: TlsFiles) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls_files.certificate, tls_files.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    running_node.serve(HOST, 443, ("127.0.0.1", server.server_port))
    with pytest.raises(ssl.SSLCertVerificationError):
        get(ztclient.HTTPSConnection(HOST, timeout=5))

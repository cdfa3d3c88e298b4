"""ztclient.integrations with the real libraries: whichever versions are installed, and see test_oldest."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import hashlib
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import httpx
import pytest
import redis
import requests
import urllib3
import websockets.asyncio.server
import websockets.exceptions

from tests.integrations.conftest import HOST, NAME
from tests.unit.fake_node import RunningNode
from tests.unit.tls_files import TlsFiles

ABSENT = "198.51.100.1"
"""Where the fake overlay has nobody who answers."""
BODY = bytes(range(256)) * 4096
PIECES = [BODY[at : at + 65536] for at in range(0, len(BODY), 65536)]


def requests_session() -> requests.Session:
    from ztclient.integrations.requests import session

    return session()


def test_requests(web: TlsFiles, running_node: RunningNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # leads to the host's networks: not for us
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with requests_session() as http:
        with http.post(f"http://{HOST}/echo", data=iter(PIECES), stream=True) as response:
            assert b"".join(response.iter_content(10_000)) == BODY
        for _ in range(5):
            assert http.get(f"https://{NAME}/version", verify=str(web.certificate)).text == "1.1"
        assert http.get(f"https://{NAME}/version", verify=False).ok
        with pytest.raises(requests.exceptions.SSLError):
            http.get(f"https://{NAME}/version")  # an authority that nobody trusts
        with pytest.raises(requests.exceptions.ConnectTimeout):
            http.get(f"http://{ABSENT}/", timeout=0.2)
        with pytest.raises(requests.exceptions.ReadTimeout):
            http.get(f"http://{HOST}/slow", timeout=0.3)
        for nowhere in (f"http://{HOST}:9/", "http://example.com/", "https://example.com/"):
            with pytest.raises(requests.exceptions.ConnectionError):
                http.get(nowhere)
    assert len(running_node.node.dials) <= 10


def test_requests_redirects_and_threads(web: TlsFiles) -> None:
    with requests_session() as http, concurrent.futures.ThreadPoolExecutor(8) as pool:
        body = b"a body"
        answers = list(pool.map(lambda _: http.post(f"http://{HOST}/away", data=body), range(30)))
        assert all(answer.content == body and answer.history for answer in answers)


def test_urllib3(web: TlsFiles, running_node: RunningNode) -> None:
    from ztclient.integrations.urllib3 import PoolManager

    with PoolManager(ca_certs=str(web.certificate), retries=False) as http:
        assert http.request("GET", f"http://{HOST}/version").data == b"1.1"
        for _ in range(3):
            assert http.request("GET", f"https://{NAME}/version").data == b"1.1"
        before = len(running_node.node.dials)
        http.request("GET", f"https://{NAME}/version")
        assert len(running_node.node.dials) == before  # from the pool
        answer = http.request("POST", f"http://{HOST}/echo", body=BODY, preload_content=False)
        assert b"".join(answer.stream(5000)) == BODY
        answer.release_conn()
        other = PoolManager(ca_certs=str(web.certificate), server_hostname="other.example", retries=False)
        with other, pytest.raises(urllib3.exceptions.SSLError):
            other.request("GET", f"https://{NAME}/version")
        with PoolManager(ca_certs=str(web.certificate), assert_hostname=NAME, retries=False) as other:
            assert other.request("GET", f"https://{HOST}/version").data == b"1.1"
        digest = ssl.PEM_cert_to_DER_cert(web.certificate.read_text())
        print_of = hashlib.sha256(digest).hexdigest()
        with PoolManager(cert_reqs="CERT_NONE", assert_fingerprint=print_of, retries=False) as other:
            assert other.request("GET", f"https://{HOST}/version").data == b"1.1"
        other = PoolManager(cert_reqs="CERT_NONE", assert_fingerprint="0" * 64, retries=False)
        with other, pytest.raises(urllib3.exceptions.SSLError):
            other.request("GET", f"https://{HOST}/version")
        with pytest.raises(urllib3.exceptions.ConnectTimeoutError):
            http.request("GET", f"http://{ABSENT}/", timeout=0.2)
        with pytest.raises(urllib3.exceptions.ReadTimeoutError):
            http.request("GET", f"http://{HOST}/slow", timeout=urllib3.Timeout(read=0.2))
        with pytest.raises(urllib3.exceptions.NewConnectionError):
            http.request("GET", f"http://{HOST}:9/")
        with pytest.raises(urllib3.exceptions.NameResolutionError):
            http.request("GET", "http://example.com/")


def httpx_context(web: TlsFiles) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(web.certificate))


@pytest.mark.parametrize(("http2", "version"), [(False, "HTTP/1.1"), (True, "HTTP/2")])
def test_httpx(web: TlsFiles, running_node: RunningNode, http2: bool, version: str) -> None:
    from ztclient.integrations.httpx import Transport

    transport = Transport(verify=httpx_context(web), http2=http2)
    with httpx.Client(transport=transport, follow_redirects=True) as http:
        for _ in range(3):
            answer = http.get(f"https://{NAME}/version")
            assert (answer.text, answer.http_version) == (version[5:], version)
        assert len(running_node.node.dials) == 1
        assert http.post(f"http://{HOST}/away", content=b"x").text == "x"
        with http.stream("POST", f"https://{HOST}/echo", content=iter(PIECES)) as streamed:
            assert b"".join(streamed.iter_bytes()) == BODY
        with pytest.raises(httpx.ConnectTimeout):
            http.get(f"http://{ABSENT}/", timeout=0.2)
        with pytest.raises(httpx.ReadTimeout):
            http.get(f"http://{HOST}/slow", timeout=0.3)
        for nowhere in (f"http://{HOST}:9/", "http://example.com/"):
            with pytest.raises(httpx.ConnectError):
                http.get(nowhere)
    with httpx.Client(transport=Transport()) as http, pytest.raises(httpx.ConnectError):
        http.get(f"https://{NAME}/version")


async def pieces() -> AsyncIterator[bytes]:
    for piece in PIECES:
        yield piece


@pytest.mark.parametrize(("http2", "version"), [(False, "HTTP/1.1"), (True, "HTTP/2")])
def test_httpx_on_asyncio(web: TlsFiles, running_node: RunningNode, http2: bool, version: str) -> None:
    from ztclient.integrations.httpx import AsyncTransport

    async def main() -> None:
        transport = AsyncTransport(verify=httpx_context(web), http2=http2)
        async with httpx.AsyncClient(transport=transport, follow_redirects=True) as http:
            for _ in range(3):
                answer = await http.get(f"https://{NAME}/version")
                assert (answer.text, answer.http_version) == (version[5:], version)
            assert len(running_node.node.dials) == 1
            answers = await asyncio.gather(*(http.post(f"https://{NAME}/away", content=BODY[:5000]) for _ in range(40)))
            assert {answer.content for answer in answers} == {BODY[:5000]}
            async with http.stream("POST", f"https://{HOST}/echo", content=pieces()) as streamed:
                assert b"".join([part async for part in streamed.aiter_bytes()]) == BODY
            with pytest.raises(httpx.ConnectTimeout):
                await http.get(f"http://{ABSENT}/", timeout=0.2)
            with pytest.raises(httpx.ReadTimeout):
                await http.get(f"http://{HOST}/slow", timeout=0.3)
            for nowhere in (f"http://{HOST}:9/", "http://example.com/"):
                with pytest.raises(httpx.ConnectError):
                    await http.get(nowhere)

    asyncio.run(main())


def test_httpx_200_at_once(web: TlsFiles) -> None:
    from ztclient.integrations.httpx import AsyncTransport

    async def main() -> None:
        transport = AsyncTransport(limits=httpx.Limits(max_connections=200))
        async with httpx.AsyncClient(transport=transport, timeout=60) as http:
            bodies = [bytes([number]) * 65536 for number in range(200)]
            answers = await asyncio.gather(*(http.post(f"http://{HOST}/echo", content=body) for body in bodies))
            assert [answer.content for answer in answers] == bodies

    asyncio.run(main())


@contextlib.contextmanager
def websocket_server(running: RunningNode, files: TlsFiles) -> Iterator[None]:
    loop, ready, end = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)

    async def echo(websocket: Any) -> None:
        async for message in websocket:
            await websocket.send(message)

    async def main() -> None:
        serve = websockets.asyncio.server.serve
        async with serve(echo, "127.0.0.1", 0) as plain, serve(echo, "127.0.0.1", 0, ssl=context) as secure:
            for port, server in ((80, plain), (443, secure)):
                running.serve(HOST, port, next(iter(server.sockets)).getsockname())
            ready.set()
            await end.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),), daemon=True)
    thread.start()
    ready.wait(10)
    yield
    loop.call_soon_threadsafe(end.set)
    thread.join(10)


def test_websockets(running_node: RunningNode, tls_files: TlsFiles) -> None:
    from ztclient.integrations.websockets import connect, sync_connect

    (running_node.state / "hosts").write_text(f"{HOST} {NAME}\n")
    trusting = ssl.create_default_context(cafile=str(tls_files.certificate))

    async def main() -> None:
        async with connect(f"ws://{HOST}/") as websocket:
            await websocket.send("hello")
            assert await websocket.recv() == "hello"
        websocket = await connect(f"wss://{NAME}/", ssl=trusting)
        await websocket.send(BODY[:100_000])
        assert await websocket.recv() == BODY[:100_000]
        await websocket.close()
        with pytest.raises(ssl.SSLCertVerificationError):
            await connect(f"wss://{NAME}/", ssl=trusting, server_hostname="other.example")
        with pytest.raises(TimeoutError):
            await connect(f"ws://{ABSENT}/", open_timeout=0.2)
        with pytest.raises(ConnectionRefusedError):
            await connect(f"ws://{HOST}:9/")
        with pytest.raises(socket.gaierror):
            await connect("ws://example.com/")

    with websocket_server(running_node, tls_files):
        asyncio.run(main())
        with sync_connect(f"wss://{NAME}/", ssl=trusting) as websocket:
            websocket.send("hello")
            assert websocket.recv() == "hello"


def test_redis(running_node: RunningNode) -> None:
    from ztclient.integrations.redis import async_client, client

    server = socket.create_server(("127.0.0.1", 0))
    running_node.serve(HOST, 6379, server.getsockname())

    def serve() -> None:
        """As much of Redis as a PING needs; the real one is in test_servers_of_others."""
        with contextlib.suppress(OSError):
            while True:
                connected, _ = server.accept()
                threading.Thread(target=answer, args=(connected,), daemon=True).start()

    def answer(connected: socket.socket) -> None:
        with connected, contextlib.suppress(OSError):
            while data := connected.recv(4096):
                for _ in range(data.count(b"PING")):
                    connected.sendall(b"+PONG\r\n")
                for _ in range(data.count(b"CLIENT") + data.count(b"HELLO")):
                    connected.sendall(b"+OK\r\n")

    threading.Thread(target=serve, daemon=True).start()
    with server, client(HOST, protocol=2) as plain:
        assert plain.ping() and plain.ping()

        async def main() -> None:
            async with async_client(HOST, protocol=2) as other:
                assert await other.ping()

        asyncio.run(main())
        with pytest.raises(redis.ConnectionError):
            client(HOST, 9).ping()
        with pytest.raises(ValueError, match="encrypts"):
            client(HOST, ssl=True)


def test_grpc(running_node: RunningNode, tls_files: TlsFiles) -> None:
    import grpc
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc

    from ztclient.integrations.grpc import async_channel, channel

    (running_node.state / "hosts").write_text(f"{HOST} {NAME}\n")
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    pair = (tls_files.key.read_bytes(), tls_files.certificate.read_bytes())
    running_node.serve(HOST, 50051, ("127.0.0.1", server.add_insecure_port("127.0.0.1:0")))
    running_node.serve(
        HOST, 443, ("127.0.0.1", server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair])))
    )
    server.start()
    trusting = grpc.ssl_channel_credentials(tls_files.certificate.read_bytes())
    ask, stub = health_pb2.HealthCheckRequest(), cast(Any, health_pb2_grpc.HealthStub)
    for made in (channel(HOST, 50051), channel(NAME, 443, trusting)):
        with made:
            assert stub(made).Check(ask, timeout=20).status == 1
    with channel(HOST, 9) as made, pytest.raises(grpc.RpcError) as caught:
        stub(made).Check(ask, timeout=20)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE

    async def main() -> None:
        async with async_channel(HOST, 50051) as made:
            assert (await stub(made).Check(ask, timeout=20)).status == 1

    asyncio.run(main())
    server.stop(0).wait(5)

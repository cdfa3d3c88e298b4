"""The control server's sockets, its health and reflection services, and how each call ends."""

from __future__ import annotations

import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
import uvloop
from cryptography.hazmat.primitives import serialization
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_status import rpc_status

import ztclient
from tests.unit.fake_node import NWID, RunningNode
from tests.unit.peers import LINGER_RESET, echo, peer
from tests.unit.tls_files import TlsFiles
from ztclient.discovery import socket_path
from ztclient.times import duration
from ztclient.v1 import node_pb2 as pb
from ztclient.v1 import node_pb2_grpc as rpc
from ztnode.control.certificates import Certificates
from ztnode.control.control_server import ControlServer
from ztnode.control.tcp_options import TcpOptions
from ztnode.control.token import load_or_create
from ztnode.web.options import WebOptions
from ztnode.web.web_server import Web

HOST = "10.121.15.99"
NETWORK = f"{NWID:016x}"


@pytest.fixture
def channel(running_node: RunningNode) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(running_node.addresses[0]) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> rpc.NodeServiceStub:
    return rpc.NodeServiceStub(channel)


def ending(error: grpc.RpcError) -> tuple[grpc.StatusCode, str, str | None]:
    assert isinstance(error, grpc.Call)
    metadata = {item[0]: item[1] for item in error.trailing_metadata() or ()}
    named = metadata.get("ztnode-errno")
    assert named is None or isinstance(named, str)
    return error.code(), error.details() or "", named


def error_info(error: grpc.RpcError) -> error_details_pb2.ErrorInfo:
    """The ErrorInfo of a failed call, found as other programs find it, in a status that agrees with the call."""
    assert isinstance(error, grpc.Call)
    status = rpc_status.from_call(error)
    assert status is not None
    assert (status.code, status.message) == (error.code().value[0], error.details())
    (detail,) = status.details
    info = error_details_pb2.ErrorInfo()
    assert detail.Unpack(info)
    return info


def test_the_socket_is_the_owners_alone(running_node: RunningNode) -> None:
    mode = (running_node.state / "ztnode.sock").stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


def test_the_socket_is_removed_at_the_end(tmp_path: Path) -> None:
    with RunningNode(tmp_path):
        assert (tmp_path / "ztnode.sock").exists()
    assert not (tmp_path / "ztnode.sock").exists()


def test_the_socket_of_a_crashed_node_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(tmp_path / "ztnode.sock"))
    with RunningNode(tmp_path) as running, grpc.insecure_channel(running.addresses[0]) as channel:
        assert rpc.NodeServiceStub(channel).Status(pb.StatusRequest()).online


def test_the_socket_of_a_living_node_is_not_taken(running_node: RunningNode) -> None:
    with pytest.raises(OSError, match="another node answers"):
        running_node.run(ControlServer([], state=running_node.state).start())
    with grpc.insecure_channel(running_node.addresses[0]) as channel:
        assert rpc.NodeServiceStub(channel).Status(pb.StatusRequest()).online


def test_a_file_in_the_way_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "ztnode.sock").write_text("precious")
    with pytest.raises(FileExistsError, match="in the way"), RunningNode(tmp_path):
        pass
    assert (tmp_path / "ztnode.sock").read_text() == "precious"


def test_a_very_long_state_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    state = tmp_path / ("x" * 100)
    state.mkdir()
    server = ControlServer([], state=state)

    async def once() -> list[str]:
        await server.start()
        try:
            return server.addresses
        finally:
            await server.stop(0)

    assert uvloop.run(once()) == [f"unix:{socket_path(state)}"]


@pytest.mark.parametrize("name", ["with space", "per%20cent", "hash#mark", "ümlaut", "question?mark"])
def test_odd_characters_in_the_path(tmp_path: Path, name: str) -> None:
    state = tmp_path / name
    state.mkdir()
    with RunningNode(state):
        assert (state / "ztnode.sock").exists()
        assert ztclient.Node(state=state).status().online


def test_health(channel: grpc.Channel) -> None:
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    for name in ("", "ztnode.v1.NodeService"):
        answer = check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection(channel: grpc.Channel) -> None:
    ask = channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    (answer,) = ask(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    names = {service.name for service in answer.list_services_response.service}
    assert {"ztnode.v1.NodeService", "grpc.health.v1.Health"} <= names


def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(OSError, match=f"cannot listen on 127.0.0.1 port {port}: Address already in use"),
            RunningNode(tmp_path, TcpOptions(f"127.0.0.1:{port}")),
        ):
            pass
    assert not (tmp_path / "ztnode.sock").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (TcpOptions("10.1.2.3:7447"), "not loopback"),
        (TcpOptions("0.0.0.0:7447"), "not loopback"),
        (TcpOptions("localhost:7447"), "IP:PORT"),
        (TcpOptions("127.0.0.1"), "IP:PORT"),
        (TcpOptions("127.0.0.1:99999"), "IP:PORT"),
        (TcpOptions("127.0.0.1:1", certificate=Path("x")), "both"),
        (TcpOptions("127.0.0.1:1", client_ca=Path("x")), "need TLS"),
    ],
)
def test_unsafe_or_senseless_options(tmp_path: Path, options: TcpOptions, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ControlServer([], state=tmp_path, tcp=options)


def test_beyond_loopback_in_clear_only_when_allowed(tmp_path: Path) -> None:
    with RunningNode(tmp_path, TcpOptions("0.0.0.0:0", insecure=True)) as running:
        assert running.addresses[1].startswith("tcp://0.0.0.0:")


def test_a_bad_certificate(tmp_path: Path, tls_files: TlsFiles) -> None:
    (tmp_path / "bad.pem").write_text("no certificate")
    with (
        pytest.raises(OSError, match=r"no certificate with its key in PEM form, without a pass phrase: .*bad\.pem"),
        RunningNode(tmp_path, TcpOptions("127.0.0.1:0", tmp_path / "bad.pem", tls_files.key)),
    ):
        pass


def test_nobody_is_asked_for_a_pass_phrase(
    tmp_path: Path, tls_files: TlsFiles, capfd: pytest.CaptureFixture[str]
) -> None:
    locked = tmp_path / "locked.key"
    key = serialization.load_pem_private_key(tls_files.key.read_bytes(), None)
    secret = serialization.BestAvailableEncryption(b"secret")
    locked.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret))
    with pytest.raises(OSError, match="without a pass phrase"):
        Certificates(tls_files.certificate, locked, None)
    with pytest.raises(ValueError, match="without a pass phrase"):
        Web(WebOptions("127.0.0.1:0", tls_files.certificate, locked))
    assert "pass phrase" not in capfd.readouterr().err


def test_the_token_file(tmp_path: Path) -> None:
    path = tmp_path / "control.token"
    token = load_or_create(path)
    assert len(token) >= 43
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_or_create(path) == token
    assert list(tmp_path.iterdir()) == [path]
    path.chmod(0o644)
    with pytest.raises(PermissionError, match="read by others"):
        load_or_create(path)
    path.chmod(0o600)
    for bad in ("", "short", "two words that are long", "é" * 20):
        path.write_text(bad)
        with pytest.raises(ValueError, match="no usable token"):
            load_or_create(path)


def test_malformed_arguments(stub: rpc.NodeServiceStub) -> None:
    calls: list[Callable[[], object]] = [
        lambda: stub.Join(pb.JoinRequest(network_id="x")),
        lambda: stub.Join(pb.JoinRequest(network_id="0" * 16)),
        lambda: stub.Dial(pb.DialRequest(ip="a..example", port=80)),
        lambda: stub.Dial(pb.DialRequest(ip="fe80::1%eth0", port=80)),
        lambda: stub.Dial(pb.DialRequest(ip=HOST)),
        lambda: stub.Dial(pb.DialRequest(ip=HOST, port=65536)),
        lambda: stub.Dial(pb.DialRequest(ip=HOST, port=80, timeout=Duration(seconds=-1))),
        lambda: stub.Dial(pb.DialRequest(ip=HOST, port=80, timeout=Duration(seconds=-(2**63), nanos=-1))),
        lambda: list(stub.Listen(pb.ListenRequest(ip="10.0.0", port=80))),
        lambda: list(stub.Capture(pb.CaptureRequest())),
    ]
    for call in calls:
        with pytest.raises(grpc.RpcError) as caught:
            call()
        code, text, _errno = ending(caught.value)
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert text
        info = error_info(caught.value)
        assert (info.domain, info.reason) == ("ztnode", "INVALID_ARGUMENT")


@pytest.mark.parametrize(
    ("host", "code", "number"),
    [
        (HOST, grpc.StatusCode.UNAVAILABLE, "ECONNREFUSED"),
        ("192.0.2.1", grpc.StatusCode.UNAVAILABLE, "EHOSTUNREACH"),
        ("8.8.8.8", grpc.StatusCode.FAILED_PRECONDITION, "ENETUNREACH"),
        ("198.51.100.1", grpc.StatusCode.DEADLINE_EXCEEDED, "ETIMEDOUT"),
    ],
)
def test_dial_failures(stub: rpc.NodeServiceStub, host: str, code: grpc.StatusCode, number: str) -> None:
    request = pb.DialRequest(ip=host, port=80, timeout=duration(0.2))
    with pytest.raises(grpc.RpcError) as caught:
        stub.Dial(request)
    assert ending(caught.value)[::2] == (code, number)
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.Stream(iter([pb.StreamRequest(dial=request)])))
    assert ending(caught.value)[::2] == (code, number)
    assert error_info(caught.value).reason == number


def test_unknown_things(stub: rpc.NodeServiceStub) -> None:
    unknown = "8056c2e21c000001"
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: stub.GetNetwork(pb.GetNetworkRequest(network_id=unknown)), "NETWORK_NOT_JOINED"),
        (lambda: stub.Leave(pb.LeaveRequest(network_id=unknown)), "NETWORK_NOT_JOINED"),
        (lambda: stub.ListAddresses(pb.ListAddressesRequest(network_id=unknown)), "NETWORK_NOT_JOINED"),
        (lambda: stub.Dial(pb.DialRequest(ip=HOST, port=80, network_id=unknown)), "NETWORK_NOT_JOINED"),
        (lambda: list(stub.Capture(pb.CaptureRequest(network_id=unknown))), "NETWORK_NOT_JOINED"),
        (lambda: stub.Accept(pb.AcceptRequest(listener_id=99)), "EBADF"),
        (lambda: list(stub.Stream(iter([pb.StreamRequest(token=bytes(16))]))), "TOKEN_NOT_FOUND"),
    ]
    for call, reason in calls:
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert ending(caught.value)[0] == grpc.StatusCode.NOT_FOUND
        assert error_info(caught.value).reason == reason


@pytest.mark.parametrize(
    "first", [pb.StreamRequest(data=b"x"), pb.StreamRequest(half_close=pb.HalfClose()), pb.StreamRequest(), None]
)
def test_a_stream_must_begin_properly(stub: rpc.NodeServiceStub, first: pb.StreamRequest | None) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.Stream(iter([] if first is None else [first])))
    assert ending(caught.value)[0] == grpc.StatusCode.INVALID_ARGUMENT


def test_a_stream_that_ends_without_half_close_is_a_reset(running_node: RunningNode, stub: rpc.NodeServiceStub) -> None:
    ended: list[str] = []
    done = threading.Event()

    def listen(connected: socket.socket) -> None:
        try:
            while connected.recv(100):
                pass
            ended.append("clean")
        except ConnectionResetError:
            ended.append("reset")
        done.set()

    with peer(listen) as real:
        running_node.serve(HOST, 7, real)
        requests = [pb.StreamRequest(dial=pb.DialRequest(ip=HOST, port=7)), pb.StreamRequest(data=b"half a")]
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.Stream(iter(requests)))
        assert ending(caught.value)[0] == grpc.StatusCode.ABORTED
        assert done.wait(30)
    assert ended == ["reset"]


def test_a_whole_stream(running_node: RunningNode, stub: rpc.NodeServiceStub) -> None:
    with peer(echo) as real:
        running_node.serve(HOST, 7, real)
        requests = [
            pb.StreamRequest(dial=pb.DialRequest(ip=HOST, port=7)),
            pb.StreamRequest(data=b"to and fro"),
            pb.StreamRequest(half_close=pb.HalfClose()),
        ]
        opened, *data, end = stub.Stream(iter(requests))
    assert opened.opened.remote == pb.Endpoint(ip=HOST, port=7)
    assert b"".join(response.data for response in data) == b"to and fro"
    assert end.WhichOneof("message") == "half_close"


def test_a_token_is_good_once(running_node: RunningNode, stub: rpc.NodeServiceStub) -> None:
    with peer(echo) as real:
        running_node.serve(HOST, 7, real)
        connection = stub.Dial(pb.DialRequest(ip=HOST, port=7)).connection
        assert connection.handoff_path == str(running_node.node.handoff_path)
        requests = [pb.StreamRequest(token=connection.token), pb.StreamRequest(half_close=pb.HalfClose())]
        assert len(list(stub.Stream(iter(requests)))) == 2
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.Stream(iter(requests)))
        assert ending(caught.value)[0] == grpc.StatusCode.NOT_FOUND


def test_whether_small_writes_may_wait_is_for_the_client_to_say(
    running_node: RunningNode, stub: rpc.NodeServiceStub
) -> None:
    with peer(echo) as real:
        running_node.serve(HOST, 7, real)
        for delay in (False, True):
            stub.Dial(pb.DialRequest(ip=HOST, port=7, delay=delay))
            lease = stub.Listen(pb.ListenRequest(delay=delay))
            next(lease)
            lease.cancel()
    assert [each.nodelay for each in running_node.node.options] == [True, True, False, False]


def test_a_claim_of_what_the_worker_lost_is_a_reset(running_node: RunningNode, stub: rpc.NodeServiceStub) -> None:
    with peer(echo) as real:
        running_node.serve(HOST, 7, real)
        connection = stub.Dial(pb.DialRequest(ip=HOST, port=7)).connection
        running_node.node.waiting.clear()
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.Stream(iter([pb.StreamRequest(token=connection.token)])))
    assert ending(caught.value)[::2] == (grpc.StatusCode.ABORTED, "ECONNRESET")


def test_too_large_a_message(running_node: RunningNode, stub: rpc.NodeServiceStub) -> None:
    with peer(echo) as real:
        running_node.serve(HOST, 7, real)
        requests = [pb.StreamRequest(dial=pb.DialRequest(ip=HOST, port=7)), pb.StreamRequest(data=bytes(2 << 20))]
        with pytest.raises(grpc.RpcError):
            list(stub.Stream(iter(requests)))


def test_a_cancelled_capture_ends_in_the_node(running_node: RunningNode, stub: rpc.NodeServiceStub) -> None:
    call = stub.Capture(pb.CaptureRequest(network_id=NETWORK))
    assert next(call).pcapng
    assert running_node.node.capturing == 1
    call.cancel()
    deadline = time.monotonic() + 30
    while running_node.node.capturing and time.monotonic() < deadline:
        time.sleep(0.01)
    assert running_node.node.capturing == 0


@pytest.mark.parametrize(
    "rest", [[], [pb.StreamRequest(half_close=pb.HalfClose())], [pb.StreamRequest(data=b"x")] * 50]
)
def test_a_reset_is_told_as_one_whatever_the_client_does_then(
    running_node: RunningNode, stub: rpc.NodeServiceStub, rest: list[pb.StreamRequest]
) -> None:
    was_reset = threading.Event()

    def reset(connected: socket.socket) -> None:
        connected.sendall(b"0123456789")
        connected.recv(1)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        connected.close()
        was_reset.set()

    def requests() -> Iterator[pb.StreamRequest]:
        yield pb.StreamRequest(dial=pb.DialRequest(ip=HOST, port=7))
        yield pb.StreamRequest(data=b"!")
        was_reset.wait(30)
        yield from rest
        # Held open: the end of the requests would be a reset of our own.
        ended.wait(30)

    ended = threading.Event()
    with peer(reset) as real:
        running_node.serve(HOST, 7, real)
        call = stub.Stream(requests())
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        ended.set()
    assert ending(caught.value)[::2] == (grpc.StatusCode.ABORTED, "ECONNRESET")


def test_a_request_that_is_no_message_is_not_told_in_the_log(
    channel: grpc.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("Join", "WatchNetworks"):
        with pytest.raises(grpc.RpcError):
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/ztnode.v1.NodeService/{name}")
            call(b"\xff" * 100, timeout=5)
    with pytest.raises(grpc.RpcError) as caught:
        stream: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream("/ztnode.v1.NodeService/Stream")
        list(stream(iter([b"\xff" * 100]), timeout=5))
    assert ending(caught.value)[0] is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.RpcError):
        stream = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        list(stream(iter([b"\xff" * 100]), timeout=5))
    assert not caplog.records


def test_a_client_that_goes_in_the_middle_of_an_answer_is_not_told_in_the_log(
    running_node: RunningNode, stub: rpc.NodeServiceStub, caplog: pytest.LogCaptureFixture
) -> None:
    ended = threading.Event()

    def endless(connected: socket.socket) -> None:
        try:
            while True:
                connected.sendall(bytes(100_000))
        except OSError:
            ended.set()

    def requests() -> Iterator[pb.StreamRequest]:
        yield pb.StreamRequest(dial=pb.DialRequest(ip=HOST, port=7))
        ended.wait(30)

    for _ in range(20):
        ended.clear()
        with peer(endless) as real:
            running_node.serve(HOST, 7, real)
            call = stub.Stream(requests())
            for _message in range(3):
                next(call)
            call.cancel()
            assert ended.wait(30), "the connection was not reset"
    assert not caplog.records

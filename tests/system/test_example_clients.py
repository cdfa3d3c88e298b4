"""The clients in ``examples/`` that are made from the proto alone: Node.js in CI, Go and Java where they are asked for
by ZTNODE_EXAMPLES=go,java, since each compiles for a minute or more, and their tools are installed.

Debian's packages for Go: golang-go golang-google-grpc-dev protoc-gen-go-grpc protoc-gen-go-1-3 protobuf-compiler; for
Java: default-jdk-headless libgrpc-java libprotobuf-java libperfmark-java libnetty-java protobuf-compiler
protobuf-compiler-grpc-java-plugin.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.system.harness import PORT, Overlay, ipv4

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
WANTED = os.environ.get("ZTNODE_EXAMPLES", "").split(",")
JARS = ("grpc-*", "protobuf*", "guava", "netty*", "perfmark*", "*annotation*", "failureaccess")


def need(*programs: str) -> None:
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def asked_for(example: str) -> None:
    if example not in WANTED:
        pytest.skip(f"compiles for long: ZTNODE_EXAMPLES={example}")


def done(command: Sequence[str | Path], seconds: float = 110, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        command, capture_output=True, text=True, timeout=seconds, check=False, **options
    )


def made(command: Sequence[str | Path], **options: object) -> None:
    result = done(command, 900, **options)
    assert result.returncode == 0, result.stdout + result.stderr


def check(command: Sequence[str | Path], overlay: Overlay, address: str) -> None:
    """What stands there comes back whole, and what does not is said in a line."""
    ipv4(overlay.beta, overlay.nwid)
    environment = {**os.environ, "ZTNODE_ADDRESS": address}
    result = done([*command, overlay.nwid, overlay.ip, str(PORT), "/1000000"], env=environment)
    assert (result.stdout, result.returncode) == ("200 1000000 bytes\n", 0), result.stderr
    result = done([*command, overlay.nwid, overlay.ip, "9"], env=environment)
    assert result.returncode == 1 and "refused the connection" in result.stderr.splitlines()[-1]


@contextlib.contextmanager
def by_tcp(overlay: Overlay) -> Iterator[str]:
    """The control socket of beta at a port of loopback, for a client that knows no Unix sockets."""
    target = overlay.beta.node.address.removeprefix("unix:")

    def copy(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(target)
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=copy, args=ends, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def test_node_js(overlay: Overlay, tmp_path: Path) -> None:
    need("node", "npm")
    for path in ("examples/node", "proto"):
        shutil.copytree(ROOT / path, tmp_path / path, ignore=shutil.ignore_patterns("node_modules"))
    here = tmp_path / "examples/node"
    made(["npm", "ci", "--silent", "--no-audit", "--no-fund"], cwd=here)
    check(["node", here / "get.js"], overlay, overlay.beta.node.address)


@pytest.mark.timeout(1000)
def test_go(overlay: Overlay, tmp_path: Path) -> None:
    asked_for("go")
    need("go", "protoc", "protoc-gen-go", "protoc-gen-go-grpc")
    source = tmp_path / "src/example.org/get"
    source.mkdir(parents=True)
    shutil.copy(EXAMPLES / "go/get.go", source)
    # Debian has the libraries as sources, and of protobuf those before 1.4, where the times are elsewhere.
    times = (
        f"Mgoogle/protobuf/{each}.proto=github.com/golang/protobuf/ptypes/{each}" for each in ("duration", "timestamp")
    )
    options = ",".join(("paths=source_relative", *times))
    package = "Mztnode/v1/node.proto=example.org/get/ztnode/v1;ztnode_v1"
    made(
        [
            *("protoc", "-I", ROOT / "proto", f"--go_out={options}:{source}", f"--go-grpc_out={source}"),
            *("--go-grpc_opt=paths=source_relative", f"--go-grpc_opt={package}", "ztnode/v1/node.proto"),
        ]
    )
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": f"{tmp_path}:/usr/share/gocode"}
    made(["go", "build", "-o", tmp_path / "get", "."], cwd=source, env=environment)
    check([tmp_path / "get"], overlay, overlay.beta.node.address)


@pytest.mark.timeout(1000)
def test_java(overlay: Overlay, tmp_path: Path) -> None:
    asked_for("java")
    need("java", "javac", "protoc", "grpc_java_plugin")
    jars = [str(jar) for name in JARS for jar in Path("/usr/share/java").glob(f"{name}.jar")]
    if not any("grpc-stub" in jar for jar in jars):
        pytest.skip("not installed: libgrpc-java")
    plugin = f"--plugin=protoc-gen-grpc-java={shutil.which('grpc_java_plugin')}"
    outputs = [f"--java_out={tmp_path}", f"--grpc-java_out={tmp_path}"]
    made(["protoc", "-I", ROOT / "proto", plugin, *outputs, "ztnode/v1/node.proto"])
    sources = [EXAMPLES / "java/Get.java", *tmp_path.glob("ztnode/v1/*.java")]
    made(["javac", "-nowarn", "-proc:none", "-cp", ":".join(jars), "-d", tmp_path / "out", *sources])
    with by_tcp(overlay) as address:
        check(["java", "-cp", ":".join([*jars, f"{tmp_path}/out"]), "Get"], overlay, address)

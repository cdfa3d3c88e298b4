"""The stubs that the client brings, beside those that a program made itself from the same .proto files."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ztclient.v1 import controller_pb2, node_pb2


def made_again(stub: ModuleType, name: str) -> ModuleType:
    """The generated module once more, under another name, as a program's own generator would have written it."""
    assert stub.__file__ is not None
    source = Path(stub.__file__).read_text(encoding="utf-8").replace(f"'{stub.__name__}'", f"'{name}'")
    module = ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
    return module


@pytest.mark.parametrize(
    ("stub", "file"),
    [(node_pb2, "ztnode/v1/node.proto"), (controller_pb2, "ztnode/v1/controller.proto")],
)
def test_the_descriptors_are_named_after_the_proto_files(stub: ModuleType, file: str) -> None:
    assert stub.DESCRIPTOR.name == file
    assert stub.DESCRIPTOR.package == "ztnode.v1"


def test_both_live_in_one_process() -> None:
    own = made_again(node_pb2, "own.node_pb2")
    sent = own.DialRequest(ip="10.121.15.99", port=80, timeout={"seconds": 3})
    assert sent.__class__.__module__ in ("own.node_pb2", "ztclient.v1.node_pb2")
    received = node_pb2.DialRequest.FromString(sent.SerializeToString())
    assert (received.ip, received.port, received.timeout.seconds) == ("10.121.15.99", 80, 3)


def test_no_stub_asks_for_the_node() -> None:
    for name in ("node_pb2", "node_pb2_grpc", "controller_pb2", "controller_pb2_grpc"):
        spec = importlib.util.find_spec(f"ztclient.v1.{name}")
        assert spec is not None and spec.origin is not None
        text = Path(spec.origin).read_text(encoding="utf-8")
        assert "from ztnode" not in text and "import ztnode" not in text
    assert sys.modules["ztclient.v1.node_pb2"] is node_pb2

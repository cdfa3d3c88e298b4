"""Captures: what tshark reads out of one, and what a slow reader costs."""

from __future__ import annotations

import asyncio
import shutil
import struct
import subprocess
from contextlib import aclosing
from pathlib import Path

import pytest

from ztnode.node import packet_capture as capture_module
from ztnode.node.packet_capture import PacketCapture
from ztnode.wire import pcapng

FRAME = bytes.fromhex("0200000000020200000000010800") + bytes.fromhex(
    "4500001c000100004011664d0a0000010a00000213881389000898cd"
)


async def collect(capture: PacketCapture) -> bytes:
    async with aclosing(capture.blocks()) as blocks:
        return b"".join([piece async for piece in blocks])


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_tshark_reads_it(tmp_path: Path) -> None:
    async def scenario() -> bytes:
        capture = PacketCapture("8056c2e21c000001", snaplen=40)
        capture.add([(FRAME[:14], memoryview(FRAME)[14:])], pcapng.INBOUND)
        capture.add([(FRAME,), (FRAME + bytes(100),)], pcapng.OUTBOUND)
        capture.end()
        return await collect(capture)

    file = tmp_path / "test.pcapng"
    file.write_bytes(asyncio.run(scenario()))
    fields = ["frame.len", "frame.cap_len", "frame.packet_flags_direction", "frame.interface_name", "udp.dstport"]
    command = ["tshark", "-r", str(file), "-T", "fields", *(arg for field in fields for arg in ("-e", field))]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = [line.split("\t") for line in output.splitlines()]
    assert [line[:2] for line in lines] == [["42", "40"], ["42", "40"], ["142", "40"]]
    assert [int(line[2], 0) for line in lines] == [1, 2, 2]
    assert {line[3] for line in lines} == {"8056c2e21c000001"}
    assert {line[4] for line in lines} == {"5001"}


def test_slow_reader_loses_frames_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture_module, "BUFFER_BYTES", 10_000)

    async def scenario() -> bytes:
        capture = PacketCapture("x", snaplen=65535)
        capture.add([(bytes(1000),)] * 50, pcapng.INBOUND)
        capture.end()
        return await collect(capture)

    data = asyncio.run(scenario())
    assert 9_000 < len(data) < 13_000
    assert struct.unpack("<Q", data[-16:-8])[0] == 50 - data.count(bytes(1000))


def test_every_piece_is_whole_blocks() -> None:
    async def scenario() -> list[bytes]:
        capture = PacketCapture("x", snaplen=65535)
        for size in range(60, 3000, 7):
            capture.add([(bytes(size),)] * 300, pcapng.OUTBOUND)
        capture.end()
        async with aclosing(capture.blocks()) as blocks:
            return [piece async for piece in blocks]

    for piece in asyncio.run(scenario()):
        offset = 0
        while offset < len(piece):
            length = struct.unpack_from("<I", piece, offset + 4)[0]
            assert struct.unpack_from("<I", piece, offset + length - 4)[0] == length
            offset += length
        assert offset == len(piece)
